//! C3: rows that a worker holds and has not started. Of four turns, three go to the batch of which the fewest are held, so that a
//! small one that comes later is done about as soon as if it were alone; the fourth goes to the one that has waited longest, so that none starves.
//! Within a batch rows start in the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{RunKey, StartRun};
use crate::ids::{BatchId, Token};
use crate::store::GrantedRow;

/// A span held, as far as it is not started.
#[derive(Debug, Clone, Hash)]
pub(super) struct QueuedSpan {
    pub(super) batch: BatchId,
    pub(super) token: Token,
    pub(super) operation: Arc<str>,
    pub(super) recovered_from: Option<Arc<str>>,
    pub(super) timeout: Duration,
    pub(super) rows: VecDeque<GrantedRow>,
}

/// What is held of one batch. Neither it nor a span of it is without rows.
#[derive(Debug, Clone, Hash)]
struct OfBatch {
    batch: BatchId,
    spans: VecDeque<QueuedSpan>,
    rows: u64,
}

/// All of them: the batch that has waited longest for a turn first.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Queue {
    waiting: VecDeque<OfBatch>,
    rows: u64,
    bytes: u64,
    turns: u64,
}

/// Every so many turns it is that of the batch that has waited longest.
const LONGEST_WAIT_EVERY: u64 = 4;

impl Queue {
    /// How many rows.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// How many bytes their inputs have.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of which batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = BatchId> {
        self.waiting.iter().map(|of| of.batch)
    }

    /// Adds a span behind those of its batch.
    pub(super) fn push(&mut self, span: QueuedSpan) {
        if span.rows.is_empty() {
            return;
        }
        let rows = span.rows.len() as u64;
        self.rows += rows;
        self.bytes += span.rows.iter().map(input_bytes).sum::<u64>();
        match self.waiting.iter_mut().find(|of| of.batch == span.batch) {
            Some(of) => {
                of.rows += rows;
                of.spans.push_back(span);
            }
            None => self.waiting.push_back(OfBatch { batch: span.batch, spans: VecDeque::from([span]), rows }),
        }
    }

    /// The next row, and how long it may run.
    pub(super) fn pop(&mut self) -> Option<(StartRun, Duration)> {
        self.turns += 1;
        let next = if self.turns.is_multiple_of(LONGEST_WAIT_EVERY) {
            0
        } else {
            self.waiting.iter().enumerate().min_by_key(|(_, of)| of.rows).map_or(0, |(at, _)| at)
        };
        let OfBatch { batch, mut spans, rows } = self.waiting.remove(next)?;
        let span = spans.front_mut()?;
        let row = span.rows.pop_front()?;
        self.bytes -= input_bytes(&row);
        let timeout = span.timeout;
        let start = StartRun {
            key: RunKey { batch, line: row.line, token: span.token },
            operation: span.operation.clone(),
            attempt: row.attempts.saturating_add(1),
            input: row.input,
            recovered_from: span.recovered_from.clone(),
        };
        if span.rows.is_empty() {
            spans.pop_front();
        }
        if !spans.is_empty() {
            self.waiting.push_back(OfBatch { batch, spans, rows: rows - 1 });
        }
        self.rows -= 1;
        Some((start, timeout))
    }

    /// Takes all rows of these batches out.
    pub(super) fn remove(&mut self, which: impl Fn(BatchId) -> bool) -> Vec<RunKey> {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        self.waiting.retain_mut(|of| {
            if !which(of.batch) {
                return true;
            }
            let of_span = |span: QueuedSpan| {
                let (batch, token) = (span.batch, span.token);
                bytes += span.rows.iter().map(input_bytes).sum::<u64>();
                span.rows.into_iter().map(move |row| RunKey { batch, line: row.line, token })
            };
            removed.extend(std::mem::take(&mut of.spans).into_iter().flat_map(of_span));
            false
        });
        self.rows -= removed.len() as u64;
        self.bytes -= bytes;
        removed
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn input_bytes(row: &GrantedRow) -> u64 {
    row.input.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(batch: u64, token: u64, lines: std::ops::RangeInclusive<u64>) -> QueuedSpan {
        QueuedSpan {
            batch: BatchId::from_random(batch),
            token: Token(token),
            operation: "op".into(),
            recovered_from: None,
            timeout: Duration::from_secs(1),
            rows: lines.map(|line| GrantedRow { line, attempts: 0, input: "1".into() }).collect(),
        }
    }

    fn lines(queue: &mut Queue) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| queue.pop()).map(|(start, _)| (start.key.batch.number(), start.key.line)).collect()
    }

    #[test]
    fn small_batches_come_first_and_none_starves() {
        let mut queue = Queue::default();
        queue.push(span(1, 1, 1..=3));
        queue.push(span(1, 2, 4..=20));
        assert_eq!(queue.pop().map(|(start, _)| start.key.line), Some(1));
        queue.push(span(2, 3, 1..=7));
        queue.push(span(3, 4, 1..=2));
        queue.push(span(1, 5, 21..=21));
        assert_eq!((queue.rows(), queue.bytes(), queue.batches().count()), (29, 29, 3));
        let all = lines(&mut queue);
        // Batch 1 has waited longest, as batch 3 is served at once.
        assert_eq!(all[..11], [(3, 1), (3, 2), (1, 2), (2, 1), (2, 2), (2, 3), (1, 3), (2, 4), (2, 5), (2, 6), (1, 4)]);
        assert_eq!(all[11..13], [(2, 7), (1, 5)]);
        let of_1: Vec<u64> = all.iter().filter(|(batch, _)| *batch == 1).map(|(_, line)| *line).collect();
        assert_eq!(of_1, (2..=21).collect::<Vec<_>>(), "in their order");
        assert_eq!((queue.rows(), queue.bytes(), queue.batches().count()), (0, 0, 0));
    }

    #[test]
    fn what_is_removed_is_not_started() {
        let mut queue = Queue::default();
        queue.push(span(1, 1, 1..=2));
        queue.push(span(2, 2, 1..=1));
        queue.push(span(1, 3, 5..=5));
        let removed = queue.remove(|batch| batch.number() == 1);
        let removed: Vec<_> = removed.iter().map(|key| (key.token.0, key.line)).collect();
        assert_eq!(removed, [(1, 1), (1, 2), (3, 5)]);
        assert_eq!((queue.rows(), queue.bytes(), lines(&mut queue)), (1, 1, vec![(2, 1)]));
    }
}
