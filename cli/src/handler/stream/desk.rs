//! Where rows wait for a child that has room for them.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::handler::{HandlerAnswer, Row};

/// A row on its way to an answer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) row: Row,
    answer: oneshot::Sender<HandlerAnswer>,
}

impl Job {
    /// Gives the answer. A row that was cancelled needs none.
    pub(super) fn answer(self, answer: HandlerAnswer) {
        _ = self.answer.send(answer);
    }

    /// Whether the row was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.answer.is_closed()
    }
}

/// Shared by the handler, which brings rows, and the tasks of its children, which take them.
#[derive(Debug)]
pub(super) struct Desk {
    waiting: Mutex<VecDeque<Job>>,
    /// Rows without an answer: waiting or with a child.
    open: AtomicUsize,
    /// How many rows were ever cancelled.
    cancelled: AtomicU64,
    /// Children that do not start any more.
    hopeless: AtomicUsize,
    closed: AtomicBool,
    /// One per child.
    bells: Vec<Notify>,
}

impl Desk {
    pub(super) fn new(children: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            open: AtomicUsize::new(0),
            cancelled: AtomicU64::new(0),
            hopeless: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            bells: std::iter::repeat_with(Notify::new).take(children).collect(),
        }
    }

    /// A row comes in.
    pub(super) fn enter(&self, row: Row) -> Visit<'_> {
        let (answer, coming) = oneshot::channel();
        self.open.fetch_add(1, SeqCst);
        self.waiting().push_back(Job { row, answer });
        self.ring();
        Visit { desk: self, coming, answered: false }
    }

    /// The next row for a child that has `has` rows and may have `window`: no more than its part of all open rows, so
    /// that the first child does not take what the others could run.
    pub(super) fn take(&self, has: usize, window: usize) -> Option<Job> {
        let part = self.open.load(SeqCst).div_ceil(self.bells.len());
        if has >= window.min(part) {
            return None;
        }
        let mut waiting = self.waiting();
        loop {
            let job = waiting.pop_front()?;
            if !job.is_cancelled() {
                return Some(job);
            }
        }
    }

    /// Rows come back that no child has read.
    pub(super) fn give_back(&self, jobs: impl DoubleEndedIterator<Item = Job>) {
        let mut waiting = self.waiting();
        for job in jobs.rev() {
            waiting.push_front(job);
        }
        drop(waiting);
        self.ring();
    }

    /// Whether a row waits.
    pub(super) fn has_waiting(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.retain(|job| !job.is_cancelled());
        !waiting.is_empty()
    }

    /// A child does not start any more, or does again. When none does, the rows that wait are handed out to be answered
    /// without one.
    pub(super) fn set_hopeless(&self, was: bool, is: bool) -> VecDeque<Job> {
        let hopeless = match (was, is) {
            (false, true) => self.hopeless.fetch_add(1, SeqCst) + 1,
            (true, false) => self.hopeless.fetch_sub(1, SeqCst) - 1,
            _ => self.hopeless.load(SeqCst),
        };
        if hopeless == self.bells.len() { std::mem::take(&mut *self.waiting()) } else { VecDeque::new() }
    }

    /// How many rows were ever cancelled: when that changes, it is worth looking which.
    pub(super) fn cancelled(&self) -> u64 {
        self.cancelled.load(SeqCst)
    }

    /// No more rows: all children are to end.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
        self.ring();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Ends when something has changed since the last time that this child was rung for.
    pub(super) fn change(&self, child: usize) -> impl Future<Output = ()> + '_ {
        self.bells[child].notified()
    }

    fn ring(&self) {
        for bell in &self.bells {
            bell.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // Every change is whole in itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row that is waited for. Dropping it cancels the row.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    desk: &'a Desk,
    coming: oneshot::Receiver<HandlerAnswer>,
    answered: bool,
}

impl Visit<'_> {
    pub(super) async fn answer(&mut self) -> HandlerAnswer {
        let answer = (&mut self.coming).await;
        self.answered = true;
        answer.unwrap_or_else(|_| HandlerAnswer::Retry("the stream handler has ended".into()))
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.desk.open.fetch_sub(1, SeqCst);
        if !self.answered {
            // Closed first, so that who is rung for finds it so.
            self.coming.close();
            self.desk.cancelled.fetch_add(1, SeqCst);
            self.desk.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use fencepost_core::{BatchId, Token};

    use super::*;

    fn row(line: u64) -> Row {
        Row { batch: BatchId::from_random(7), line, attempt: 1, token: Token(1), input: "{}".into() }
    }

    fn line(job: Option<Job>) -> Option<u64> {
        job.map(|job| job.row.line)
    }

    #[test]
    fn a_child_takes_its_part_in_order() {
        let desk = Desk::new(2);
        let _visits: Vec<_> = (1..=3).map(|line| desk.enter(row(line))).collect();
        assert_eq!(line(desk.take(0, 10)), Some(1));
        assert_eq!(line(desk.take(1, 1)), None);
        assert_eq!(line(desk.take(1, 10)), Some(2));
        assert_eq!(line(desk.take(2, 10)), None);
        assert_eq!(line(desk.take(0, 10)), Some(3));
        assert!(!desk.has_waiting());
    }

    #[test]
    fn cancelled_rows_are_not_taken() {
        let desk = Desk::new(1);
        let first = desk.enter(row(1));
        let _second = desk.enter(row(2));
        drop(first);
        assert_eq!(desk.cancelled(), 1);
        assert_eq!(line(desk.take(0, 10)), Some(2));
        drop(desk.enter(row(3)));
        assert!(!desk.has_waiting());
    }

    #[test]
    fn what_comes_back_is_first_again() {
        let desk = Desk::new(1);
        let _visits: Vec<_> = (1..=3).map(|line| desk.enter(row(line))).collect();
        let taken: Vec<_> = (0..2).filter_map(|has| desk.take(has, 10)).collect();
        desk.give_back(taken.into_iter());
        let order: Vec<_> = (0..3).map(|has| line(desk.take(has, 10))).collect();
        assert_eq!(order, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn rows_are_given_up_when_no_child_starts() {
        let desk = Desk::new(2);
        let _visit = desk.enter(row(1));
        assert!(desk.set_hopeless(false, true).is_empty());
        assert!(desk.set_hopeless(true, false).is_empty());
        assert!(desk.set_hopeless(false, true).is_empty());
        assert_eq!(desk.set_hopeless(false, true).len(), 1);
    }
}
