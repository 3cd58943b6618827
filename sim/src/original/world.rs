//! The original's workers, its store and its Redis in simulated time: one heap of events, faults as plain data.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};

use super::checks::{CONSERVATION, Checks, POISON};
use super::facts::Fact;
use super::redis::{Redis, RedisOp, RedisReply};
use super::store::{Status, Store, StoreOp, StoreReply};
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
    plan_of: Vec<usize>,
    trace: bool,
    pub(super) now: u64,
    seq: u64,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
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
    checks: Checks,
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

    fn look(&mut self) {
        self.expire_keys();
        let rows: Vec<RowAt> = self.store.in_progress().collect();
        for row in rows {
            if self.is_stuck(row) {
                self.tell_stuck(row);
            }
        }
        self.push(self.now + self.schedule.options.ttl_us, Event::Look);
    }

    fn tell_stuck(&mut self, row: RowAt) {
        let registered = self.redis.trackers(row).any(|of| self.redis.is_registered(of));
        self.fact(Fact::Stuck { row, registered });
    }

    fn is_in_hand(&self, row: RowAt) -> bool {
        self.processes.iter().any(|process| process.alive && process.in_hand().contains(&row))
    }

    /// Nobody has it in hand, no message says anything of it, and no set that will be looked at has it. A live worker
    /// registers again and again, so its set counts.
    fn is_stuck(&self, row: RowAt) -> bool {
        let will_be_seen = |of: ProcessAt| self.processes[of].alive || self.redis.is_registered(of);
        let under_way = |event: &Event| match event {
            Event::ToStore { op: StoreOp::Write { row: at, .. }, .. } => *at == row,
            Event::ToStore { op: StoreOp::Reset { rows, .. }, .. } => rows.contains(&row),
            Event::ToRedis { op: RedisOp::Track(at), .. } => *at == row,
            _ => false,
        };
        !self.is_in_hand(row)
            && !self.redis.trackers(row).any(will_be_seen)
            && !self.events.iter().flatten().any(under_way)
            && !self.processes.iter().any(|process| process.alive && process.is_recovering(row))
    }

    /// The end has come, and batches are open. What a living worker has in its set, and no more in hand, is stuck for as
    /// long as it lives.
    fn still_open(&mut self) {
        let rows: Vec<RowAt> = self.store.in_progress().collect();
        for row in rows {
            if !self.is_in_hand(row) {
                self.tell_stuck(row);
            }
        }
        if self.checks.has(CONSERVATION) {
            return;
        }
        for batch in 0..self.plan_of.len() {
            if self.store.recorded(batch).is_none() {
                let running = self.processes.iter().filter(|process| process.alive).filter_map(Process::runs);
                let hangs = running.into_iter().any(|row| self.plan_of_row(row).nature == Nature::Hangs);
                self.fact(Fact::Open { batch, hangs });
            }
        }
    }

    pub(super) fn plan_of_row(&self, row: RowAt) -> RowPlan {
        let plan = self.plan_of[self.store.batch_of(row)];
        self.plans[plan][self.store.line_of(row) as usize - 1]
    }

    /// Sends a request to the store. Over TCP a silent cut delays, a loud one breaks the connection.
    pub(super) fn ask_store(&mut self, process: ProcessAt, thread: Thread, op: StoreOp) {
        let number = self.next_number(process, thread);
        let way = self.way_us(process, thread, number, 1);
        let slot = &mut self.slots[self.processes[process].slot];
        let mut arrives = self.now + way;
        if let Some(cut) = slot.cut.filter(|cut| cut.way != Way::Replies) {
            if cut.loud {
                self.fail_store(process, thread, number, &op);
                return;
            }
            arrives = arrives.max(cut.until);
        }
        if slot.delay.0 > 0 {
            slot.delay.0 -= 1;
            arrives += slot.delay.1;
        }
        self.push(arrives, Event::ToStore { process, thread, number, op });
    }

    /// It was not done, and the connection is gone.
    fn fail_store(&mut self, process: ProcessAt, thread: Thread, number: u64, op: &StoreOp) {
        if matches!(op, StoreOp::Fetch { .. } | StoreOp::Commit) {
            self.store.roll_back(process);
        }
        self.answer(process, thread, number, With::Store(Err(())));
    }

    fn store_arrives(&mut self, process: ProcessAt, thread: Thread, number: u64, op: StoreOp) {
        match self.store_away {
            Some((Away::Stalls, until)) => {
                self.push(until.max(self.now + 1), Event::ToStore { process, thread, number, op });
                return;
            }
            Some((Away::Refuses, _)) => {
                self.fail_store(process, thread, number, &op);
                return;
            }
            None => {}
        }
        let waits = self.processes[process].alive && self.processes[process].waits_for(thread, number);
        if matches!(op, StoreOp::Fetch { .. }) && !waits {
            // Its connection is closed: what it locks is free at once.
            return;
        }
        let Some(reply) = self.store.apply(process, &op) else {
            let later = self.now + self.schedule.options.latency_us_max.max(1);
            self.push(later, Event::ToStore { process, thread, number, op });
            return;
        };
        self.tell(process, &reply);
        let slot = &mut self.slots[self.processes[process].slot];
        let reply = With::Store(if reply == StoreReply::RolledBack { Err(()) } else { Ok(reply) });
        if slot.lose_replies > 0 {
            slot.lose_replies -= 1;
            self.lose_reply(process, thread, number);
        } else if let Some(cut) = slot.cut.filter(|cut| cut.way != Way::Requests) {
            if cut.loud {
                self.lose_reply(process, thread, number);
            } else {
                self.push(cut.until, Event::Resume(Resume { process, thread, number, with: reply }));
            }
        } else {
            self.answer(process, thread, number, reply);
        }
    }

    /// It was done; the connection breaks before the answer is there.
    fn lose_reply(&mut self, process: ProcessAt, thread: Thread, number: u64) {
        if thread == Thread::Loop {
            self.store.roll_back(process);
        }
        self.answer(process, thread, number, With::Store(Err(())));
    }

    fn answer(&mut self, process: ProcessAt, thread: Thread, number: u64, with: With) {
        let way = self.way_us(process, thread, number, 2);
        self.push(self.now + way, Event::Resume(Resume { process, thread, number, with }));
    }

    /// Tells the checkers what the store did.
    fn tell(&mut self, process: ProcessAt, reply: &StoreReply) {
        match reply {
            StoreReply::Claimed(rows) => {
                rows.iter().for_each(|row| self.fact(Fact::Claimed { process, row: *row }));
            }
            StoreReply::Written { row, before, status, fallback } => {
                let batch = self.store.batch_of(*row);
                let differ = |recorded| recorded != self.store.count(batch);
                let counts_differ = before != status && self.store.recorded(batch).is_some_and(differ);
                let (row, before, status, fallback) = (*row, *before, *status, *fallback);
                self.fact(Fact::Written { process, row, before, status, fallback, counts_differ });
            }
            StoreReply::Reset { rows, of } => {
                self.expire_keys();
                let beats = self.redis.beats(*of);
                for row in rows {
                    self.fact(Fact::Reset { row: *row, of: *of, by: process, beats });
                }
            }
            _ => {}
        }
    }

    pub(super) fn ask_redis(&mut self, process: ProcessAt, thread: Thread, op: RedisOp) {
        let number = self.next_number(process, thread);
        let arrives = self.now + self.way_us(process, thread, number, 3);
        self.push(arrives, Event::ToRedis { process, thread, number, op, sent_us: self.now });
    }

    /// The client tries a command four times with three seconds' patience: a fifth of the TTL; where it is refused, it
    /// gives up after a second.
    fn redis_arrives(&mut self, process: ProcessAt, thread: Thread, number: u64, op: RedisOp, sent_us: u64) {
        let ttl = self.schedule.options.ttl_us;
        let cut = self.slots[self.processes[process].slot].redis_cut_until.map(|until| (until, ttl / 5));
        let away = self.redis_away.map(|(how, until)| (until, if how == Away::Refuses { ttl / 60 } else { ttl / 5 }));
        if let Some((until, patience)) = cut.or(away) {
            let dead = !self.processes[process].alive;
            if !dead && until <= sent_us + patience {
                let back = until.max(self.now + 1);
                self.push(back, Event::ToRedis { process, thread, number, op, sent_us });
            } else {
                let with = With::Redis(Err(()));
                let at = (sent_us + patience).max(self.now);
                self.push(at, Event::Resume(Resume { process, thread, number, with }));
            }
            return;
        }
        self.expire_keys();
        let reply: RedisReply = self.redis.apply(self.now, process, &op, ttl);
        self.fact(Fact::Redis { by: process, op });
        let way = self.way_us(process, thread, number, 4);
        let with = With::Redis(Ok(reply));
        self.push(self.now + way, Event::Resume(Resume { process, thread, number, with }));
    }

    pub(super) fn expire_keys(&mut self) {
        for expired in self.redis.expire(self.now) {
            let rows = expired.rows.into_iter().collect();
            self.fact(Fact::SetExpired { of: expired.of, at_us: expired.at_us, rows });
        }
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

    /// Hangs on the message, and on nothing that happened before.
    fn way_us(&self, process: ProcessAt, thread: Thread, number: u64, leg: u64) -> u64 {
        let options = &self.schedule.options;
        let draw = self.number_of(&[process as u64, thread as u64, number, leg]);
        if draw % 1000 < options.slow_messages_per_mille {
            return (draw >> 10) % (options.request_timeout_us.min(options.ttl_us / 8) / 3).max(1);
        }
        options.latency_us_min + (draw >> 10) % (options.latency_us_max - options.latency_us_min + 1)
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
