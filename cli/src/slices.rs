//! Rows on their way into a store, cut into slices: of a load (S4) and of an append (S3).

use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::mpsc;

use crate::input::Digest;
use crate::store::loading::SliceSize;

/// What comes of an input: slices, and at its end what they were in all.
pub(crate) enum Part {
    /// The next slice.
    Slice(Slice),
    /// There are no more rows.
    End(Content),
}

/// Some rows that are to be stored together.
pub(crate) struct Slice {
    /// How many rows came before them.
    pub(crate) before: u64,
    /// The rows.
    pub(crate) inputs: Vec<Box<str>>,
}

impl Slice {
    /// How many rows there are with these.
    pub(crate) fn rows(&self) -> u64 {
        self.before + self.inputs.len() as u64
    }
}

/// All rows of an input.
pub(crate) struct Content {
    /// How many.
    pub(crate) rows: u64,
    /// Of their texts, their order and their count.
    pub(crate) digest: String,
}

/// Where slices come from.
pub(crate) trait Source<E> {
    /// The next part; nothing is asked for after the end, nor after an error.
    fn next(&mut self) -> impl Future<Output = Result<Part, E>> + Send;
}

/// Rows that are read when they are asked for: what a program has in memory.
pub(crate) struct InPlace<N> {
    cut: Cut,
    next: N,
}

impl<N> InPlace<N> {
    /// Rows that `next` gives one by one.
    pub(crate) fn new(size: SliceSize, next: N) -> Self {
        Self { cut: Cut::new(size), next }
    }
}

impl<E: Send, N: FnMut() -> Result<Option<Box<str>>, E> + Send> Source<E> for InPlace<N> {
    async fn next(&mut self) -> Result<Part, E> {
        self.cut.part(&mut self.next)
    }
}

/// Rows that a thread of their own reads, checks and sums up, a slice ahead: meanwhile the store takes the slice before, and an
/// input that stands still (a pipe) keeps no transaction open. Three slices are in memory at most, besides what the store makes of one.
pub(crate) struct Ahead<E> {
    parts: mpsc::Receiver<Result<Part, E>>,
    reader: Option<JoinHandle<()>>,
}

impl<E: Send + 'static> Ahead<E> {
    /// Begins to read rows that `next` gives one by one. The thread ends with the rows, with the first error, or with the first slice
    /// that nobody wants any more.
    pub(crate) fn start(
        size: SliceSize,
        mut next: impl FnMut() -> Result<Option<Box<str>>, E> + Send + 'static,
    ) -> Self {
        let (sender, parts) = mpsc::channel(1);
        let reader = thread::spawn(move || {
            let mut cut = Cut::new(size);
            loop {
                let part = cut.part(&mut next);
                let is_last = !matches!(part, Ok(Part::Slice(_)));
                if sender.blocking_send(part).is_err() || is_last {
                    return;
                }
            }
        });
        Self { parts, reader: Some(reader) }
    }
}

impl<E: Send + 'static> Source<E> for Ahead<E> {
    async fn next(&mut self) -> Result<Part, E> {
        if let Some(part) = self.parts.recv().await {
            return part;
        }
        // It is over without a word: `next` panicked, and that goes on here.
        match self.reader.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => unreachable!("nothing is asked for after the end"),
        }
    }
}

/// Cuts rows into slices, and computes their digest meanwhile.
struct Cut {
    size: SliceSize,
    digest: Digest,
}

impl Cut {
    fn new(size: SliceSize) -> Self {
        Self { size, digest: Digest::new() }
    }

    fn part<E>(&mut self, next: &mut impl FnMut() -> Result<Option<Box<str>>, E>) -> Result<Part, E> {
        let before = self.digest.rows();
        let (mut inputs, mut bytes, began) = (Vec::new(), 0, Instant::now());
        let size = self.size;
        while inputs.len() < size.rows && bytes < size.bytes && (inputs.is_empty() || began.elapsed() < size.reading) {
            let Some(row) = next()? else { break };
            self.digest.add(&row);
            bytes += row.len();
            inputs.push(row);
        }
        if inputs.is_empty() {
            let digest = std::mem::take(&mut self.digest).finish().to_string();
            return Ok(Part::End(Content { rows: before, digest }));
        }
        Ok(Part::Slice(Slice { before, inputs }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const ROWS: usize = 100;
    const SIZE: SliceSize = SliceSize { rows: ROWS, bytes: 1 << 20, reading: Duration::from_secs(60) };

    fn numbers(rows: usize) -> impl FnMut() -> Result<Option<Box<str>>, String> + Send + 'static {
        let mut numbers = 1..=rows;
        move || Ok(numbers.next().map(|number| number.to_string().into_boxed_str()))
    }

    async fn all(source: &mut impl Source<String>) -> Result<(Vec<(u64, Vec<Box<str>>)>, Content), String> {
        let mut slices = Vec::new();
        loop {
            match source.next().await? {
                Part::Slice(slice) => slices.push((slice.before, slice.inputs)),
                Part::End(content) => return Ok((slices, content)),
            }
        }
    }

    #[tokio::test]
    async fn both_sources_give_the_same_slices_and_content() {
        for rows in [0, 1, ROWS, ROWS + 1, 2 * ROWS] {
            let (slices, content) = all(&mut InPlace::new(SIZE, numbers(rows))).await.unwrap();
            let (ahead, ahead_content) = all(&mut Ahead::start(SIZE, numbers(rows))).await.unwrap();
            assert_eq!(slices, ahead);
            assert_eq!((content.rows, &content.digest), (ahead_content.rows, &ahead_content.digest));
            assert_eq!(content.rows, rows as u64);
            assert_eq!(slices.len(), rows.div_ceil(ROWS));
            let joined = slices.into_iter().flat_map(|(_, inputs)| inputs);
            assert!(joined.map(|input| input.to_string()).eq((1..=rows).map(|row| row.to_string())));
        }
    }

    #[tokio::test]
    async fn a_slice_ends_with_the_row_that_fills_it() {
        let size = SliceSize { bytes: 4, ..SIZE };
        let (slices, _) = all(&mut InPlace::new(size, numbers(12))).await.unwrap();
        let sizes: Vec<usize> = slices.iter().map(|(_, inputs)| inputs.len()).collect();
        assert_eq!(sizes, [4, 4, 3, 1], "1 to 4, 5 to 8, 9 to 11, 12");
    }

    #[tokio::test]
    async fn slow_rows_go_in_small_slices() {
        let size = SliceSize { reading: Duration::ZERO, ..SIZE };
        let (slices, content) = all(&mut InPlace::new(size, numbers(3))).await.unwrap();
        assert_eq!((slices.len(), content.rows), (3, 3));
    }

    #[tokio::test]
    async fn an_error_comes_after_the_slices_before_it() {
        let mut numbers = numbers(ROWS + 3);
        let mut source =
            Ahead::start(SIZE, move || numbers()?.map_or_else(|| Err("torn".to_owned()), |row| Ok(Some(row))));
        let first = source.next().await;
        assert!(matches!(first, Ok(Part::Slice(slice)) if slice.rows() == ROWS as u64));
        assert_eq!(source.next().await.err().as_deref(), Some("torn"));
    }

    #[tokio::test]
    async fn one_slice_is_read_while_another_waits_and_no_more() {
        let (told, tells) = mpsc::channel();
        let (mut numbers, mut read) = (numbers(10 * ROWS), 0);
        let mut source = Ahead::start(SIZE, move || {
            read += 1;
            if read == 2 * ROWS + 1 {
                told.send(()).unwrap();
            }
            numbers()
        });
        // The second slice waits until the first is asked for, and nothing is read of the third.
        tells.recv_timeout(Duration::from_millis(100)).unwrap_err();
        assert!(matches!(source.next().await, Ok(Part::Slice(slice)) if slice.before == 0));
        tells.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(source.next().await, Ok(Part::Slice(slice)) if slice.before == ROWS as u64));
    }

    #[tokio::test]
    #[should_panic(expected = "a program's own")]
    async fn a_panic_of_the_reader_is_the_askers() {
        let mut source = Ahead::<String>::start(SIZE, || panic!("a program's own"));
        let _ = source.next().await;
    }
}
