//! The rows that a child has.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::desk::Job;
use super::wire::RowKey;

/// The rows that were given to a child and have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Flight {
    rows: HashMap<RowKey, Flying>,
    /// The one row is a suspect: nothing else may run beside it.
    alone: bool,
}

#[derive(Debug)]
struct Flying {
    job: Job,
    /// Where its line begins in all that is written to the child.
    start: u64,
    /// Since when nobody waits for the answer.
    cancelled: Option<Instant>,
}

/// What a child's death leaves behind.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The child had this row and no other: it died of it.
    pub(super) culprit: Option<Job>,
    /// The child had read these, and died of one of them, or of a row that was cancelled.
    pub(super) suspects: VecDeque<Job>,
    /// The child has not read these.
    pub(super) unread: VecDeque<Job>,
}

impl Flight {
    /// A row is given to the child.
    pub(super) fn start(&mut self, job: Job, start: u64, alone: bool) {
        self.alone = alone;
        self.rows.insert(RowKey::of(&job.row), Flying { job, start, cancelled: None });
    }

    /// The row has its answer.
    pub(super) fn end(&mut self, key: RowKey) -> Option<Job> {
        let ended = self.rows.remove(&key)?;
        self.alone &= !self.rows.is_empty();
        Some(ended.job)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether a suspect is running.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Looks which rows were cancelled.
    pub(super) fn note_cancelled(&mut self, now: Instant) {
        for row in self.rows.values_mut() {
            if row.cancelled.is_none() && row.job.is_cancelled() {
                row.cancelled = Some(now);
            }
        }
    }

    /// When the child hangs: a cancelled row has had no answer for `patience`.
    pub(super) fn hangs_at(&self, patience: Duration) -> Option<Instant> {
        self.rows.values().filter_map(|row| row.cancelled).min().map(|since| since + patience)
    }

    /// The child has died and had read so many bytes: what becomes of its rows.
    pub(super) fn crash(self, read: u64) -> Left {
        let mut rows: Vec<Flying> = self.rows.into_values().collect();
        rows.sort_unstable_by_key(|row| row.start);
        let unread = rows.split_off(rows.partition_point(|row| row.start < read));
        // A cancelled row counts here: the child may have died of that one.
        let alone = rows.len() == 1;
        let (mut suspects, unread) = (jobs(rows), jobs(unread));
        let culprit = if alone { suspects.pop_front() } else { None };
        Left { culprit, suspects, unread }
    }
}

/// Those that somebody still waits for.
fn jobs(rows: Vec<Flying>) -> VecDeque<Job> {
    rows.into_iter().map(|row| row.job).filter(|job| !job.is_cancelled()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fencepost_core::{BatchId, Token};

    use super::*;
    use crate::handler::Row;
    use crate::handler::stream::desk::{Desk, Visit};

    fn key(line: u64) -> RowKey {
        RowKey { line, token: 1 }
    }

    /// Rows 1 to `count`, whose lines take ten bytes each.
    fn flight(desk: &Desk, count: u64) -> (Flight, Vec<Visit<'_>>) {
        let mut flight = Flight::default();
        let mut visits = Vec::new();
        for line in 1..=count {
            let row = Row { batch: BatchId::from_random(7), line, attempt: 1, token: Token(1), input: "{}".into() };
            visits.push(desk.enter(row));
            flight.start(desk.take(flight.len(), 100).unwrap(), (line - 1) * 10, false);
        }
        (flight, visits)
    }

    fn lines(jobs: &VecDeque<Job>) -> Vec<u64> {
        jobs.iter().map(|job| job.row.line).collect()
    }

    #[test]
    fn of_many_rows_those_that_were_read_are_suspects() {
        let desk = Desk::new(1);
        let (mut flight, _visits) = flight(&desk, 5);
        flight.end(key(2)).unwrap();
        let left = flight.crash(31);
        assert!(left.culprit.is_none());
        assert_eq!((lines(&left.suspects), lines(&left.unread)), (vec![1, 3, 4], vec![5]));
    }

    #[test]
    fn a_single_row_is_the_culprit_unless_the_child_has_not_read_it() {
        let desk = Desk::new(1);
        let (mut first, _visits) = flight(&desk, 2);
        first.end(key(1)).unwrap();
        let left = first.crash(20);
        assert_eq!(left.culprit.map(|job| job.row.line), Some(2));
        assert!(left.suspects.is_empty() && left.unread.is_empty());

        let desk = Desk::new(1);
        let (second, _visits) = flight(&desk, 1);
        let left = second.crash(0);
        assert!(left.culprit.is_none() && left.suspects.is_empty());
        assert_eq!(lines(&left.unread), [1]);
    }

    #[test]
    fn a_row_that_runs_alone_is_no_culprit_until_the_child_has_read_it() {
        let desk = Desk::new(1);
        let (mut flight, _visits) = flight(&desk, 1);
        let suspect = flight.end(key(1)).unwrap();
        flight.start(suspect, 0, true);
        assert!(flight.is_alone());
        let left = flight.crash(0);
        assert!(left.culprit.is_none() && left.suspects.is_empty());
        assert_eq!(lines(&left.unread), [1]);
    }

    #[test]
    fn beside_a_cancelled_row_a_single_one_is_only_a_suspect() {
        let desk = Desk::new(1);
        let (flight, mut visits) = flight(&desk, 2);
        drop(visits.remove(0));
        let left = flight.crash(20);
        assert!(left.culprit.is_none());
        assert_eq!(lines(&left.suspects), [2]);
    }

    #[test]
    fn a_cancelled_row_makes_the_child_hang_until_it_is_answered() {
        let desk = Desk::new(1);
        let (mut flight, mut visits) = flight(&desk, 2);
        let (now, patience) = (Instant::now(), Duration::from_secs(2));
        flight.note_cancelled(now);
        assert_eq!(flight.hangs_at(patience), None);
        drop(visits.remove(0));
        flight.note_cancelled(now);
        flight.note_cancelled(now + patience);
        assert_eq!(flight.hangs_at(patience), Some(now + patience));
        assert!(flight.end(key(1)).unwrap().is_cancelled());
        assert_eq!(flight.hangs_at(patience), None);
    }
}
