//! The original's workers, its store and its Redis in simulated time: one heap of events, faults as plain data.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};

use super::checks::{CONSERVATION, Checks, POISON};
use super::facts::Fact;
use super::redis::{Redis, RedisOp};
use super::store::{Status, Store, StoreOp};
use super::worker::{Loop, Process, Thread, With};
use super::{ProcessAt, RowAt, Run};
use crate::draw::mix;
use crate::fault::{Away, Way};
use crate::rows::{Nature, RowPlan, plan_rows};
use crate::schedule::Schedule;

/// An answer to, or a timer of, one thread of a process. Another number than the thread's own: it is out of date.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Resume {
    pub(super) process: ProcessAt,
    pub(super) thread: Thread,
    pub(super) number: u64,
    pub(super) with: With,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Event {
    Fault(usize),
    OutagesEnd,
    Submit(usize),
    Abort(usize),
    Heal,
    /// Looks for rows that nobody will ever finish.
    Look,
    Start {
        slot: usize,
    },
    ToStore {
        process: ProcessAt,
        thread: Thread,
        number: u64,
        op: StoreOp,
    },
    ToRedis {
        process: ProcessAt,
        thread: Thread,
        number: u64,
        op: RedisOp,
        sent_us: u64,
    },
    Resume(Resume),
    RowKills {
        process: ProcessAt,
        row: RowAt,
    },
    /// SIGTERM.
    Stop {
        process: ProcessAt,
    },
    /// The program waits no longer for its worker.
    GraceOver {
        process: ProcessAt,
    },
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) cut: Option<Cut>,
    pub(super) redis_cut_until: Option<u64>,
    pub(super) lose_replies: u32,
    pub(super) delay: (u32, u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) way: Way,
    pub(super) loud: bool,
    pub(super) until: u64,
}

pub(super) struct World<'a> {
    pub(super) schedule: &'a Schedule,
    /// By batch and line, as the schedule has them.
    plans: Vec<Vec<RowPlan>>,
    /// The schedule's batch of each batch in the store.
    pub(super) plan_of: Vec<usize>,
    trace: bool,
    pub(super) now: u64,
    seq: u64,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    pub(super) events: Vec<Option<Event>>,
    free: Vec<usize>,
    pub(super) store: Store,
    pub(super) store_away: Option<(Away, u64)>,
    pub(super) redis: Redis,
    pub(super) redis_away: Option<(Away, u64)>,
    pub(super) slots: Vec<Slot>,
    pub(super) processes: Vec<Process>,
    healed: bool,
    heal_us: u64,
    deadline_us: u64,
    pub(super) checks: Checks,
    hash: u64,
    handled: u64,
}

const EVENTS_MAX: u64 = 2_000_000;

impl<'a> World<'a> {
    pub(super) fn new(schedule: &'a Schedule, trace: bool) -> Self {
        let options = &schedule.options;
        let plans = plan_rows(schedule.seed, options);
        let kills_max = options.batches.iter().map(|batch| batch.crashes_max).max().unwrap_or(1);
        let submitted = options.batches.iter().map(|batch| batch.submit_at_us).max().unwrap_or(0);
        let started = u64::from(options.workers) * options.ttl_us / 5;
        let heal_us = schedule.faults_end_us().max(submitted).max(options.expected_us()).max(started) + 1;
        // One worker does everything; every death waits for its TTL and two scans; the sweep comes after ten TTLs.
        let work: u64 = plans.iter().flatten().map(|row| row.run_us + 20 * options.latency_us_max).sum();
        let recovery = 6 * options.ttl_us + options.restart_us + 2 * options.poll_us;
        let deaths: u64 = plans.iter().flatten().map(|row| if row.kills() { 16 } else { 0 }).sum();
        let deadline_us = heal_us + 2 * work + (4 + deaths) * recovery + 24 * options.ttl_us;
        let mut world = Self {
            schedule,
            plans,
            plan_of: Vec::new(),
            trace,
            now: 0,
            seq: 0,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            store: Store::default(),
            store_away: None,
            redis: Redis::default(),
            redis_away: None,
            slots: (0..options.workers.max(1)).map(|_| Slot::default()).collect(),
            processes: Vec::new(),
            healed: false,
            heal_us,
            deadline_us,
            checks: Checks::new(options.ttl_us, options.rows(), kills_max),
            hash: 0xcbf2_9ce4_8422_2325,
            handled: 0,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        for at in 0..self.schedule.faults.len() {
            self.push(self.schedule.faults[at].0, Event::Fault(at));
        }
        for at in 0..self.plans.len() {
            self.push(self.schedule.options.batches[at].submit_at_us, Event::Submit(at));
        }
        // Nobody starts all workers in the same instant.
        for slot in 0..self.slots.len() {
            self.push(slot as u64 * self.schedule.options.ttl_us / 5, Event::Start { slot });
        }
        self.push(self.heal_us, Event::Heal);
        self.push(self.schedule.options.ttl_us, Event::Look);
    }

    pub(super) fn run(mut self) -> Run {
        while let Some((at, event)) = self.pop() {
            self.now = at;
            self.handled += 1;
            if at > self.deadline_us || self.handled > EVENTS_MAX {
                self.still_open();
                break;
            }
            self.note(at, &event);
            self.handle(event);
            if self.is_over() {
                break;
            }
        }
        Run { hash: self.hash, events: self.handled, end_us: self.now, findings: self.checks.into_findings() }
    }

    /// All batches have ended and nobody has rows in hand; or it can get no worse.
    fn is_over(&self) -> bool {
        if self.checks.has(POISON) {
            return true;
        }
        if !self.healed || self.plan_of.len() < self.plans.len() {
            return false;
        }
        if self.store.open_batches() == 0 {
            return self.processes.iter().all(|process| !process.alive || process.in_hand().is_empty());
        }
        // What is stuck stays so, and everything else is done.
        self.checks.has(CONSERVATION)
            && !self.store.has_queued()
            && self.store.in_progress().all(|row| self.is_stuck(row))
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Fault(at) => self.strike(self.schedule.faults[at].1),
            Event::OutagesEnd => self.end_outages(self.now),
            Event::Submit(at) => self.submit(at),
            Event::Abort(batch) => self.abort(batch),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
            Event::Start { slot } => self.start_if_none(slot),
            Event::ToStore { process, thread, number, op } => self.store_arrives(process, thread, number, op),
            Event::ToRedis { process, thread, number, op, sent_us } => {
                self.redis_arrives(process, thread, number, op, sent_us);
            }
            Event::Resume(resume) => self.resumes(resume),
            Event::RowKills { process, row } => self.row_kills(process, row),
            Event::Stop { process } => self.stop(process),
            Event::GraceOver { process } => self.grace_over(process),
        }
    }

    fn submit(&mut self, at: usize) {
        if self.store_away.is_some() {
            self.push(self.now + self.schedule.options.ttl_us / 16, Event::Submit(at));
            return;
        }
        self.store.submit(self.plans[at].len() as u64);
        self.plan_of.push(at);
    }

    fn abort(&mut self, batch: usize) {
        if self.store_away.is_some() {
            return;
        }
        let Some(at) = self.plan_of.iter().position(|plan| *plan == batch) else { return };
        match self.store.abort(at) {
            Some(rows) => rows.into_iter().for_each(|row| self.fact(Fact::Aborted(row))),
            None => self.push(self.now + self.schedule.options.latency_us_max.max(1), Event::Abort(batch)),
        }
    }

    /// Nothing is broken from now on, and there is a worker in every place.
    fn heal(&mut self) {
        self.healed = true;
        self.end_outages(u64::MAX);
        for slot in 0..self.slots.len() {
            self.slots[slot].lose_replies = 0;
            self.slots[slot].delay = (0, 0);
            self.start_if_none(slot);
        }
    }

    pub(super) fn plan_of_row(&self, row: RowAt) -> RowPlan {
        let plan = self.plan_of[self.store.batch_of(row)];
        self.plans[plan][self.store.line_of(row) as usize - 1]
    }

    /// A thread goes on, unless its process stands still.
    fn resumes(&mut self, resume: Resume) {
        let process = &mut self.processes[resume.process];
        if !process.alive {
            return;
        }
        if process.paused_until.is_some() {
            process.inbox.push(Event::Resume(resume));
        } else if process.waits_for(resume.thread, resume.number) {
            self.step(resume.process, resume.thread, resume.with);
        }
    }

    pub(super) fn start_if_none(&mut self, slot: usize) {
        let lives = |process: &Process| process.slot == slot && process.alive && !process.stopping;
        if !self.processes.iter().any(lives) {
            self.start(slot);
        }
    }

    pub(super) fn start(&mut self, slot: usize) {
        let at = self.processes.len();
        self.processes.push(Process::new(slot));
        self.fact(Fact::Started);
        if self.slots[slot].redis_cut_until.is_some() {
            self.fact(Fact::Absent(at));
        }
        self.begin(at);
    }

    /// A process is no more. What it sent still arrives.
    pub(super) fn end(&mut self, at: ProcessAt, fact: Fact) {
        // A claim whose commit is under way goes its way.
        if !matches!(self.processes[at].main, Loop::Committing(_)) {
            self.store.roll_back(at);
        }
        self.processes[at].alive = false;
        self.processes[at].inbox.clear();
        self.fact(fact);
    }

    fn row_kills(&mut self, process: ProcessAt, row: RowAt) {
        if !self.processes[process].alive {
            return;
        }
        if self.processes[process].paused_until.is_some() {
            self.processes[process].inbox.push(Event::RowKills { process, row });
            return;
        }
        self.end(process, Fact::Died { process, by_row: Some(row) });
        let slot = self.processes[process].slot;
        self.push(self.now + self.schedule.options.restart_us, Event::Start { slot });
    }

    /// What a row's run answers: the original has no retries, and no timeout.
    pub(super) fn start_run(&mut self, at: ProcessAt, row: RowAt) {
        self.fact(Fact::RunStarted { process: at, row });
        let plan = self.plan_of_row(row);
        let number = self.next_number(at, Thread::Loop);
        let status = match plan.nature {
            Nature::Poison { at_once } => {
                let after = if at_once { 0 } else { plan.run_us / 2 };
                self.push(self.now + after, Event::RowKills { process: at, row });
                return;
            }
            Nature::Hangs => return,
            Nature::Succeeds => Status::Success,
            Nature::Fails | Nature::Retries(_) => Status::Failed,
        };
        let resume = Resume { process: at, thread: Thread::Loop, number, with: With::RunEnds(status) };
        self.push(self.now + plan.run_us, Event::Resume(resume));
    }

    pub(super) fn sleep(&mut self, at: ProcessAt, thread: Thread, for_us: u64) {
        let number = self.next_number(at, thread);
        let resume = Resume { process: at, thread, number, with: With::Timer };
        self.push(self.now + for_us.max(1), Event::Resume(resume));
    }

    pub(super) fn next_number(&mut self, at: ProcessAt, thread: Thread) -> u64 {
        let number = &mut self.processes[at].numbers[thread as usize];
        *number += 1;
        *number
    }

    pub(super) fn number_of(&self, values: &[u64]) -> u64 {
        mix(&[self.schedule.seed, mix(values), 0x0416])
    }

    pub(super) fn fact(&mut self, fact: Fact) {
        if self.trace {
            println!("{:>12}   fact {fact:?}", self.now);
        }
        self.checks.fact(self.now, &fact);
    }

    pub(super) fn push(&mut self, at: u64, event: Event) {
        let place = self.free.pop().unwrap_or(self.events.len());
        if place == self.events.len() {
            self.events.push(None);
        }
        self.events[place] = Some(event);
        self.seq += 1;
        self.heap.push(Reverse((at, self.seq, place)));
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }

    fn note(&mut self, at: u64, event: &Event) {
        let mut hasher = Fnv(self.hash);
        (at, event).hash(&mut hasher);
        self.hash = hasher.0;
        if self.trace {
            println!("{at:>12} {event:?}");
        }
    }
}

/// FNV-1a: the same on every machine of the same word size.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
