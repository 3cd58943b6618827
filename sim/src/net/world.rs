//! What all nodes of a run share: servers' data, facts for the checkers, what is planned.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::store::{Operated, ProcessIdentity};
use fencepost_core::worker::RunKey;
use fencepost_model::check::Told;
use fencepost_model::history::{self, OutcomeStatus, RecordedWhy};
use fencepost_model::store::{BatchSpec, Rows};
use madsim::time::TimeHandle;
use tokio::sync::Notify;

use super::coverage::{NetCoverage, NetMark};
use super::process::{Process, Slot};
use super::redis_server::Redis;
use super::schedule::NetSchedule;
use super::store_server::Store;
use crate::checks::{Checks, Violation};
use crate::digest::Digest;
use crate::draw::mix;
use crate::options::{OPERATION, batch_id};
use crate::rows::{RowPlan, plan_rows};
use crate::world::ending::bounds;

/// A process by its index in the world.
pub(super) type ProcessAt = usize;

/// What is to happen at a known time.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Fault(usize),
    /// The end of an outage, whichever has run out by now.
    OutagesEnd,
    Submit(usize),
    Heal,
    Start {
        slot: usize,
    },
    RowKills {
        process: ProcessAt,
        key: RunKey,
    },
    DeathReported {
        process: ProcessAt,
        identity: ProcessIdentity,
    },
    /// Redis restarts once more, and goes on doing so.
    RedisLoops,
    /// Nothing: something may be over.
    Look,
}

/// The world.
pub(super) struct World {
    pub(super) schedule: Arc<NetSchedule>,
    pub(super) rows: Vec<Vec<RowPlan>>,
    pub(super) batches: BTreeMap<BatchId, usize>,
    time: TimeHandle,
    trace: bool,

    timeline: BTreeMap<(u64, u64), Action>,
    next_seq: u64,
    /// Something was planned.
    pub(super) news: Arc<Notify>,

    pub(super) store: Store,
    pub(super) redis: Redis,
    pub(super) slots: Vec<Slot>,
    pub(super) processes: Vec<Process>,
    /// The network is bad until then.
    pub(super) bad_network: Option<u64>,
    /// When that last changed.
    pub(super) network_since: u64,

    /// How many runs of each row were started.
    ledger: BTreeMap<(BatchId, u64), u32>,
    /// L6: all runs that a worker ordered; no token is ever run twice.
    pub(super) ordered: BTreeSet<RunKey>,
    /// Those that a handler was called for.
    pub(super) ran: BTreeSet<RunKey>,
    /// What handlers answered, where that is an outcome.
    pub(super) answers: BTreeMap<RunKey, OutcomeStatus>,
    pub(super) holds: BTreeMap<BatchId, u64>,
    pub(super) submitted: usize,
    pub(super) ended_at: Option<u64>,
    pub(super) healed: bool,
    pub(super) deadline: u64,

    pub(super) checks: Checks,
    pub(super) hash: Digest,
    pub(super) coverage: NetCoverage,
}

/// The world, for all nodes. Nobody holds it while waiting.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub(super) fn new(schedule: &Arc<NetSchedule>, trace: bool) -> Self {
        let options = &schedule.options;
        let batches = (0..options.batches.len()).map(|at| (batch_id(at), at)).collect();
        let rows = plan_rows(schedule.seed, options);
        let mut bounds = bounds(&schedule.as_level_one(), rows.iter().flatten().copied());
        if let Some(told) = &mut bounds.abort_told {
            // Each message sleeps for a millisecond at least, and who was cut off listens again a second of its clock later.
            *told =
                Told { within: told.within + Duration::from_millis(2), connected_for: Duration::from_millis(1_250) };
        }
        let mut world = Self {
            schedule: schedule.clone(),
            checks: Checks::new(bounds),
            rows,
            batches,
            time: TimeHandle::current(),
            trace,
            timeline: BTreeMap::new(),
            next_seq: 0,
            news: Arc::default(),
            store: Store::new(options),
            redis: Redis::new(schedule.pauses_us()),
            slots: Vec::new(),
            processes: Vec::new(),
            bad_network: None,
            network_since: 0,
            ledger: BTreeMap::new(),
            ordered: BTreeSet::new(),
            ran: BTreeSet::new(),
            answers: BTreeMap::new(),
            holds: BTreeMap::new(),
            submitted: 0,
            ended_at: None,
            healed: false,
            deadline: u64::MAX,
            hash: Digest::new(),
            coverage: NetCoverage::default(),
        };
        // Faults come first: at equal times they strike before the rest.
        for (at, (time, _)) in schedule.faults.iter().enumerate() {
            world.plan(*time, Action::Fault(at));
        }
        for (at, batch) in options.batches.iter().enumerate() {
            world.plan(batch.submit_at_us, Action::Submit(at));
        }
        world.plan(schedule.heal_at_us(), Action::Heal);
        world
    }

    /// True microseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.time.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn time(&self) -> &TimeHandle {
        &self.time
    }

    pub(super) fn plan(&mut self, at: u64, action: Action) {
        self.next_seq += 1;
        self.timeline.insert((at, self.next_seq), action);
        self.news.notify_one();
    }

    /// What is due; otherwise when to ask again.
    pub(super) fn next(&mut self) -> Result<Action, u64> {
        let now = self.now();
        match self.timeline.first_entry() {
            Some(first) if first.key().0 <= now => Ok(first.remove()),
            Some(first) => Err(first.key().0.min(self.deadline)),
            None => Err(self.deadline),
        }
    }

    /// S4, in one go; an absent store is asked again a little later. Returns whether it was there.
    pub(super) fn submit(&mut self, at: usize) -> bool {
        let now = self.now();
        if self.store.is_away() {
            self.plan(now + self.schedule.options.ttl_us / 16, Action::Submit(at));
            return false;
        }
        let schedule = self.schedule.clone();
        let plan = &schedule.options.batches[at];
        let spec = BatchSpec {
            on_done_url: None,
            priority: plan.priority,
            attempts_max: plan.attempts_max,
            crashes_max: plan.crashes_max,
            timeout: std::time::Duration::from_micros(plan.timeout_us),
            ..BatchSpec::new(batch_id(at), OPERATION)
        };
        let inputs = (1..=plan.rows).map(|line| format!("{{\"n\":{line}}}").into_boxed_str()).collect();
        self.coverage.add(NetMark::Rows, plan.rows);
        self.submitted += 1;
        for line in 0..self.rows[at].len() {
            if self.rows[at][line].kills() {
                self.fact(&history::Event::RowKills { batch: batch_id(at), line: line as u64 + 1 });
            }
        }
        let store_now = self.store.clock.now(now);
        self.store.model.submit(store_now, spec, Rows::Inputs(inputs));
        self.store_changed();
        true
    }

    pub(super) fn hold(&mut self, batch: u8, for_us: u64) -> bool {
        let batch = batch_id(usize::from(batch) % self.rows.len());
        if self.store.is_away() || !matches!(self.store.model.hold(batch), Operated::Now | Operated::Before) {
            return false;
        }
        if self.rows_run() {
            self.coverage.mark(NetMark::HoldWhileRunning);
        }
        let until = self.now() + for_us;
        let longest = self.holds.entry(batch).or_default();
        *longest = until.max(*longest);
        self.plan(until, Action::OutagesEnd);
        self.store_changed();
        true
    }

    pub(super) fn end_holds(&mut self, upto: u64) {
        let over: Vec<_> = self.holds.iter().filter(|(_, until)| **until <= upto).map(|(batch, _)| *batch).collect();
        for batch in over {
            // An operator whose store is away tries again.
            if self.store.is_away() {
                let again = self.now() + self.schedule.options.ttl_us / 16;
                self.plan(again, Action::OutagesEnd);
                return;
            }
            self.holds.remove(&batch);
            self.store.model.resume(batch);
            self.store_changed();
        }
    }

    pub(super) fn abort(&mut self, batch: u8) -> bool {
        if self.store.is_away() {
            return false;
        }
        let at = usize::from(batch) % self.rows.len();
        let store_now = self.store.clock.now(self.now());
        let aborted = self.store.model.abort(store_now, batch_id(at)) == Operated::Now;
        if aborted && self.rows_run() {
            self.coverage.mark(NetMark::AbortWhileRunning);
        }
        self.store_changed();
        aborted
    }

    /// A worker orders a run.
    pub(super) fn order(&mut self, at: ProcessAt, key: RunKey) {
        let RunKey { batch, line, token } = key;
        let process = self.processes[at].number;
        self.coverage.mark(NetMark::RunsStarted);
        *self.ledger.entry((batch, line)).or_default() += 1;
        self.note(1, at as u64, token.0 << 20 | line);
        self.fact(&history::Event::HandlerStarted { process, batch, line, token });
        self.processes[at].running.insert(key);
        if !self.ordered.insert(key) {
            self.violate("L6", format!("{key:?} is run twice, now by {process:?}"));
        }
    }

    /// What is recorded as a handler's answer is what that very run answered.
    pub(super) fn compare_answer(&mut self, event: &history::Event) {
        let history::Event::Recorded { batch, line, token, status, why: RecordedWhy::Answered, .. } = *event else {
            return;
        };
        let key = RunKey { batch, line, token };
        let answered = self.answers.get(&key);
        if answered != Some(&status) {
            self.violate("answers", format!("{key:?} is recorded as {status:?}, its handler answered {answered:?}"));
        }
    }

    /// Whether any handler is at work.
    pub(super) fn rows_run(&self) -> bool {
        self.processes.iter().any(|process| process.alive && !process.running.is_empty())
    }

    pub(super) fn fact(&mut self, fact: &history::Event) {
        let now = self.now();
        self.say(|| format!("  fact {fact:?}"));
        fact.hash(&mut self.hash);
        self.checks.fact(now, fact);
        self.stop_on_violation();
    }

    pub(super) fn violate(&mut self, check: &'static str, what: String) {
        let now = self.now();
        self.checks.violate(now, check, what);
        self.stop_on_violation();
    }

    pub(super) fn stop_on_violation(&self) {
        if self.checks.violation().is_some() {
            self.news.notify_one();
        }
    }

    /// Takes something into the run's hash, with its time.
    pub(super) fn note(&mut self, kind: u64, who: u64, what: u64) {
        let nanos = u64::try_from(self.time.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for value in [nanos, kind, who, what] {
            self.hash.take(value);
        }
    }

    /// Into the trace, where there is one.
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12} {}", self.now(), what());
        }
    }

    /// A number that hangs on the seed and on these values only.
    pub(super) fn number_of(&self, values: &[u64]) -> u64 {
        mix(&[self.schedule.seed, mix(values)])
    }

    /// Ends the run's books: its hash, what was seen, what went wrong.
    pub(super) fn finish(&mut self) -> (u64, NetCoverage, Option<Violation>) {
        let now = self.now();
        if self.checks.violation().is_none() {
            self.checks.finish(now, &self.store.model);
        }
        let again = self.ledger.values().filter(|runs| **runs > 1).count();
        self.coverage.add(NetMark::RowsRunAgain, again as u64);
        self.coverage.mark(NetMark::Runs);
        self.coverage.add(NetMark::SimulatedSeconds, now / 1_000_000);
        (self.hash.finish(), self.coverage.clone(), self.checks.violation().cloned())
    }
}
