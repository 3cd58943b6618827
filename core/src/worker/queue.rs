//! C3: rows that a worker holds and has not started. Batches take turns, row by row: a small one that comes later does not wait for
//! what is held of a large one. Within a batch rows start in the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{RunKey, StartRun};
use crate::ids::{BatchId, Token};
use crate::store::GrantedRow;

/// A span held, as far as it is not started.
#[derive(Debug)]
pub(super) struct QueuedSpan {
    pub(super) batch: BatchId,
    pub(super) token: Token,
    pub(super) operation: Arc<str>,
    pub(super) recovered_from: Option<Arc<str>>,
    pub(super) timeout: Duration,
    pub(super) rows: VecDeque<GrantedRow>,
}

/// All of them: batches in the order of their turns, the next one first. None is without rows, nor is any of their spans.
#[derive(Debug, Default)]
pub(super) struct Queue {
    turns: VecDeque<(BatchId, VecDeque<QueuedSpan>)>,
    rows: u64,
}

impl Queue {
    /// How many rows.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Of which batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = BatchId> {
        self.turns.iter().map(|(batch, _)| *batch)
    }

    /// Adds a span behind those of its batch. A batch of which there was none has the next turn.
    pub(super) fn push(&mut self, span: QueuedSpan) {
        if span.rows.is_empty() {
            return;
        }
        self.rows += span.rows.len() as u64;
        match self.turns.iter_mut().find(|(batch, _)| *batch == span.batch) {
            Some((_, spans)) => spans.push_back(span),
            None => self.turns.push_front((span.batch, VecDeque::from([span]))),
        }
    }

    /// The next row, and how long it may run.
    pub(super) fn pop(&mut self) -> Option<(StartRun, Duration)> {
        let (batch, mut spans) = self.turns.pop_front()?;
        let span = spans.front_mut()?;
        let row = span.rows.pop_front()?;
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
            self.turns.push_back((batch, spans));
        }
        self.rows -= 1;
        Some((start, timeout))
    }

    /// Takes all rows of these batches out.
    pub(super) fn remove(&mut self, which: impl Fn(BatchId) -> bool) -> Vec<RunKey> {
        let mut removed = Vec::new();
        self.turns.retain_mut(|(batch, spans)| {
            if !which(*batch) {
                return true;
            }
            let of_span = |span: QueuedSpan| {
                let (batch, token) = (span.batch, span.token);
                span.rows.into_iter().map(move |row| RunKey { batch, line: row.line, token })
            };
            removed.extend(std::mem::take(spans).into_iter().flat_map(of_span));
            false
        });
        self.rows -= removed.len() as u64;
        removed
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
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
    fn batches_take_turns_and_a_new_one_is_next() {
        let mut queue = Queue::default();
        queue.push(span(1, 1, 1..=3));
        queue.push(span(1, 2, 4..=6));
        assert_eq!(queue.pop().map(|(start, _)| start.key.line), Some(1));
        queue.push(span(2, 3, 1..=2));
        queue.push(span(3, 4, 1..=1));
        queue.push(span(1, 5, 7..=7));
        assert_eq!((queue.rows(), queue.batches().count()), (9, 3));
        let all = lines(&mut queue);
        assert_eq!(all, [(3, 1), (2, 1), (1, 2), (2, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7)]);
        assert_eq!((queue.rows(), queue.batches().count()), (0, 0));
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
        assert_eq!((queue.rows(), lines(&mut queue)), (1, vec![(2, 1)]));
    }
}
