//! Rows on their way into a store, cut into slices: of a load (S4) and of an append (S3).

use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

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
/// input that stands still (a pipe) keeps no transaction open. Three slices are in memory at most.
pub(crate) struct Ahead<E> {
    parts: mpsc::Receiver<Result<Part, E>>,
    reader: Option<JoinHandle<()>>,
}

impl<E: Send + 'static> Ahead<E> {
    /// Begins to read rows that `next` gives one by one. The thread ends with the rows, with the first error, or when nobody
    /// asks any more.
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
        let (mut inputs, mut bytes) = (Vec::new(), 0);
        while inputs.len() < self.size.rows && bytes < self.size.bytes {
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    const ROWS: usize = 100;
    const SIZE: SliceSize = SliceSize { rows: ROWS, bytes: 1 << 20 };

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
        let size = SliceSize { rows: 100, bytes: 4 };
        let (slices, _) = all(&mut InPlace::new(size, numbers(12))).await.unwrap();
        let sizes: Vec<usize> = slices.iter().map(|(_, inputs)| inputs.len()).collect();
        assert_eq!(sizes, [4, 4, 3, 1], "1 to 4, 5 to 8, 9 to 11, 12");
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
        let read = Arc::new(AtomicUsize::new(0));
        let (told, tells) = mpsc::channel();
        let mut numbers = numbers(10 * ROWS);
        let reads = read.clone();
        let mut source = Ahead::start(SIZE, move || {
            if reads.fetch_add(1, Ordering::SeqCst) + 1 == 2 * ROWS {
                told.send(()).unwrap();
            }
            numbers()
        });
        // The second slice is read to its end though nobody has asked for the first.
        tells.recv().unwrap();
        assert_eq!(read.load(Ordering::SeqCst), 2 * ROWS);
        assert!(matches!(source.next().await, Ok(Part::Slice(slice)) if slice.before == 0));
    }

    #[tokio::test]
    #[should_panic(expected = "a program's own")]
    async fn a_panic_of_the_reader_is_the_askers() {
        let mut source = Ahead::<String>::start(SIZE, || panic!("a program's own"));
        let _ = source.next().await;
    }
}
