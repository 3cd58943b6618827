//! The place of one child: keeps a child there while there are rows, and gives it the rows.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fencepost_core::BatchId;
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, Lived};
use super::child::{Cause, Child, Event, Recipe};
use super::complaints::Complaints;
use super::desk::{Desk, Job};
use super::flight::Flight;
use super::wire::{self, Answer};
use crate::handler::{HandlerAnswer, Row};

/// No more than this is made ready to be written: rows that wait at the desk can still go to another child.
const READY_BYTES: usize = 256 << 10;
/// How much of a wrong line is shown.
const SHOWN: usize = 200;

/// What the slots of a handler have in common.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) desk: Desk,
    pub(super) recipe: Recipe,
    pub(super) window: usize,
    pub(super) result_limit: usize,
    pub(super) line_limit: usize,
    pub(super) kill_after: Duration,
    /// Lines that are no answer to a row that runs.
    pub(super) nonsense: Complaints,
    pub(super) deaths: Complaints,
    /// Rows that a child died over, among others perhaps.
    pub(super) suspects: Suspects,
}

/// The rows that a child died over: each runs alone until it has an answer, whichever child has it, and whichever token.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<HashSet<(BatchId, u64)>>);

/// More are forgotten: rows that went to other workers and never came back.
const SUSPECTS_MAX: usize = 100_000;

impl Suspects {
    fn rows(&self) -> MutexGuard<'_, HashSet<(BatchId, u64)>> {
        // Every change is whole in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, row: &Row) {
        let mut rows = self.rows();
        if rows.len() >= SUSPECTS_MAX {
            rows.clear();
        }
        rows.insert((row.batch, row.line));
    }

    fn has(&self, row: &Row) -> bool {
        self.rows().contains(&(row.batch, row.line))
    }

    fn clear(&self, row: &Row) {
        self.rows().remove(&(row.batch, row.line));
    }
}

/// One child's place.
pub(super) struct Slot {
    place: usize,
    shop: Arc<Shop>,
    /// Suspects taken from the desk: they run one by one, before all others.
    suspects: VecDeque<Job>,
    backoff: Backoff,
    next_start: Instant,
    hopeless: bool,
}

impl Slot {
    pub(super) fn new(place: usize, shop: Arc<Shop>) -> Self {
        Self {
            place,
            shop,
            suspects: VecDeque::new(),
            backoff: Backoff::default(),
            next_start: Instant::now(),
            hopeless: false,
        }
    }

    /// Runs children until the desk is closed.
    pub(super) async fn run(mut self) {
        while self.is_needed().await {
            match self.shop.recipe.start().await {
                Ok(child) => {
                    self.set_hopeless(false, "");
                    if !self.attend(child).await {
                        return;
                    }
                }
                Err(why) => self.pause(Lived::NotAtAll, &format!("the stream child was not started: {why}")),
            }
        }
    }

    /// Waits until a child can be started and has something to do. `false`: the desk is closed.
    async fn is_needed(&mut self) -> bool {
        loop {
            if self.shop.desk.is_closed() {
                return false;
            }
            self.suspects.retain(|job| !job.is_cancelled());
            let wanted = !self.suspects.is_empty() || self.shop.desk.has_waiting();
            if wanted && Instant::now() >= self.next_start {
                return true;
            }
            let next_start = wanted.then_some(self.next_start);
            tokio::select! {
                biased;
                () = self.shop.desk.change(self.place) => {}
                () = until(next_start) => {}
            }
        }
    }

    /// Gives rows to a child until its end. `false`: the desk is closed.
    async fn attend(&mut self, child: Child) -> bool {
        let mut session = Session { shop: self.shop.clone(), child, flight: Flight::default(), answered: false };
        let Some(cause) = session.run(self.place, &mut self.suspects).await else {
            session.child.leave(self.shop.kill_after).await;
            return false;
        };
        let how = session.child.bury(cause).await;
        session.take_rest().await;
        let Session { mut child, flight, answered, .. } = session;
        let read = child.stdin.read_by_child();
        let left = flight.crash(read);
        if left.culprit.is_some() || !left.suspects.is_empty() || !answered {
            let again = left.suspects.len();
            let rows = if again > 0 { format!("; {again} rows go back, to run one by one") } else { String::new() };
            self.shop.deaths.tell(format_args!("the stream child {how}{rows}"));
        }
        let words = |what| format!("the stream child {how}{what}");
        let lived = match (answered, read) {
            (true, _) => Lived::Answered,
            (false, 0) => Lived::NotAtAll,
            (false, _) => Lived::Read,
        };
        let what = if lived == Lived::NotAtAll { " before it read a row" } else { " while it ran this row" };
        let error = child.last_words(&words(what)).await;
        if let Some(culprit) = left.culprit {
            self.shop.suspects.add(&culprit.row);
            culprit.answer(HandlerAnswer::Retry(error.clone()));
        }
        for suspect in left.suspects {
            // L6: a child had it under this token, so it is run again only under another.
            self.shop.suspects.add(&suspect.row);
            suspect.answer(HandlerAnswer::Interrupted);
        }
        self.shop.desk.give_back(left.unread.into_iter());
        self.pause(lived, &error);
        true
    }

    /// A child has died, or was not started.
    fn pause(&mut self, lived: Lived, why: &str) {
        self.next_start = Instant::now() + self.backoff.died(lived);
        if let Some(starts) = self.backoff.is_hopeless() {
            self.set_hopeless(true, &format!("{starts} starts in a row failed; the last: {why}"));
        }
    }

    /// Rows that no child will run are answered, so that their attempts come to an end.
    fn set_hopeless(&mut self, hopeless: bool, why: &str) {
        let given_up = self.shop.desk.set_hopeless(self.hopeless, hopeless);
        self.hopeless = hopeless;
        let own = if hopeless { std::mem::take(&mut self.suspects) } else { VecDeque::new() };
        for job in own.into_iter().chain(given_up) {
            job.answer(HandlerAnswer::Retry(why.into()));
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// A child at work.
struct Session {
    shop: Arc<Shop>,
    child: Child,
    flight: Flight,
    answered: bool,
}

impl Session {
    /// Brings rows to the child and answers to the rows. `None`: the desk is closed.
    async fn run(&mut self, place: usize, suspects: &mut VecDeque<Job>) -> Option<Cause> {
        let shop = self.shop.clone();
        let mut cancelled = 0;
        let mut hangs_at = None;
        loop {
            self.fill(suspects);
            let event = tokio::select! {
                // The child comes last: what it writes must not keep the others from their turn.
                biased;
                () = shop.desk.change(place) => {
                    if shop.desk.is_closed() {
                        return None;
                    }
                    if shop.desk.cancelled() != cancelled {
                        cancelled = shop.desk.cancelled();
                        self.flight.note_cancelled(Instant::now());
                        hangs_at = self.flight.hangs_at(shop.kill_after);
                    }
                    continue;
                }
                () = until(hangs_at) => {
                    // The row may have been answered meanwhile.
                    hangs_at = self.flight.hangs_at(shop.kill_after);
                    if hangs_at.is_some_and(|at| at <= Instant::now()) {
                        let what = "a row that was cancelled or timed out has no answer yet after";
                        return Some(Cause::Killed(format!("{what} {:?}", shop.kill_after)));
                    }
                    continue;
                }
                event = self.child.event() => event,
            };
            match event {
                Event::Written => {}
                Event::Read => {
                    if let Err(too_long) = self.take_lines() {
                        return Some(too_long);
                    }
                }
                Event::End(cause) => return Some(cause),
            }
        }
    }

    /// Gives the child as many rows as it may have.
    fn fill(&mut self, suspects: &mut VecDeque<Job>) {
        while self.child.stdin.waiting() < READY_BYTES && !self.flight.is_alone() {
            let alone = !suspects.is_empty();
            let job = match alone {
                true if self.flight.is_empty() => suspects.pop_front(),
                true => None,
                false => self.shop.desk.take(self.flight.len(), self.shop.window),
            };
            let Some(job) = job else { return };
            if job.is_cancelled() {
                continue;
            }
            if !alone && self.shop.suspects.has(&job.row) {
                suspects.push_back(job);
                continue;
            }
            let start = self.child.stdin.push(|out| wire::write_row(out, &job.row));
            self.flight.start(job, start, alone);
        }
    }

    fn take_lines(&mut self) -> Result<(), Cause> {
        loop {
            match self.child.lines.next() {
                Ok(Some(line)) => {
                    self.answered |= take_line(line, &mut self.flight, &self.shop);
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    let limit = self.shop.line_limit;
                    return Err(Cause::Killed(format!("it wrote a line longer than {limit} bytes")));
                }
            }
        }
    }

    /// Takes what a dead child has still answered.
    async fn take_rest(&mut self) {
        // After a line that is too long, nothing that follows is known to be a line.
        while self.take_lines().is_ok() {
            if self.child.read_rest().await {
                continue;
            }
            let half = self.child.lines.rest();
            if !half.is_empty() {
                self.shop.nonsense.tell(format_args!("the stream child's last line has no end: {}", shown(half)));
            }
            return;
        }
    }
}

/// Takes a line of the child's; whether it answers a row.
fn take_line(line: &[u8], flight: &mut Flight, shop: &Shop) -> bool {
    let answer = Answer::read(line);
    let Some(key) = answer.key() else {
        shop.nonsense.tell(format_args!("the stream child wrote a line that answers no row: {}", shown(line)));
        return false;
    };
    let Some(job) = flight.end(key) else {
        let what = "the stream child answered a row that it does not have (any more)";
        shop.nonsense.tell(format_args!("{what}: {}", shown(line)));
        return false;
    };
    shop.suspects.clear(&job.row);
    if !job.is_cancelled() {
        job.answer(answer.verdict(shop.result_limit));
    }
    true
}

/// The beginning of a line, for people.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    let more = if line.len() > SHOWN { "..." } else { "" };
    format!("{text:?}{more}")
}
