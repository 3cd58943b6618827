//! A simulated process: the three machines with their clock, driven as the real driver drives them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost_core::calls::CallKey;
use fencepost_core::judge::{Judge, JudgeEffect, JudgeInput, JudgeOptions};
use fencepost_core::keeper::{Keeper, KeeperCommand, KeeperEffect, KeeperInput, KeeperOptions, LeaseEvent};
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::{ProcessIdentity, StoreRequest};
use fencepost_core::worker::{ExitReason, RunKey, Worker, WorkerEffect, WorkerEvent, WorkerInput};
use fencepost_core::{Instant, LeaseId};
use fencepost_model::clock::{MonotonicClock, Rate};
use fencepost_model::history;

use super::handlers::Handler;
use super::messages::Notice;
use super::{Event, Machine, ProcessAt, World};
use crate::coverage::Mark;
use crate::options::OPERATION;
use crate::trace::What;

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: history::Process,
    pub(super) slot: usize,
    pub(super) identity: Option<ProcessIdentity>,
    pub(super) clock: MonotonicClock,
    pub(super) keeper: Keeper,
    pub(super) judge: Judge,
    pub(super) worker: Worker,
    /// Neither dead nor left.
    pub(super) alive: bool,
    pub(super) stopping: bool,
    /// Stands still until then.
    pub(super) paused: Option<Pause>,
    /// What reached it while it stood still.
    pub(super) inbox: Vec<Event>,
    pub(super) handlers: BTreeMap<RunKey, Handler>,
    pub(super) calls: BTreeSet<CallKey>,
    /// The lease whose choice was told to the checkers.
    chosen: Option<LeaseId>,
    /// Its licence ran out, and no renewal was granted since.
    pub(super) lapsed: bool,
    /// True time of the wake-up on the heap.
    wake_at: u64,
    /// When timers were last handled.
    woken_at: Option<u64>,
    /// Requests under way, for coverage.
    pub(super) claims_under_way: u32,
    pub(super) records_under_way: u32,
    /// How many troubles its links have; the checkers hear of the first and of the last.
    pub(super) link_troubles: [u32; 2],
    /// How many of its messages to the store are badly late.
    pub(super) held_up: u32,
    /// It dies once so many more effects were performed; when its successor starts.
    pub(super) dies_after: Option<(u16, Option<u64>)>,
    /// When keeper, judge and worker want to be woken, as of the last input.
    timeouts: [Option<Instant>; 3],
}

impl Process {
    fn poll_timeouts(&self) -> [Option<Instant>; 3] {
        [self.keeper.poll_timeout(), self.judge.poll_timeout(), self.worker.poll_timeout()]
    }
}

/// A standstill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    pub(super) since: u64,
    pub(super) until: u64,
}

/// What one thread of a process tells another.
#[derive(Debug)]
pub(super) enum Inner {
    Lease(LeaseEvent),
    Command(KeeperCommand),
}

impl Inner {
    pub(super) fn kind(&self) -> u64 {
        match self {
            Self::Lease(LeaseEvent::Held { .. }) => 0,
            Self::Lease(LeaseEvent::Ended { .. }) => 1,
            Self::Lease(LeaseEvent::NameInUse { .. }) => 2,
            Self::Lease(LeaseEvent::Dropped) => 3,
            Self::Command(KeeperCommand::Running(_)) => 4,
            Self::Command(KeeperCommand::Drop) => 5,
            Self::Command(KeeperCommand::RenewNow) => 6,
        }
    }
}

/// What a machine of a process wants done.
enum Effect {
    Keeper(KeeperEffect),
    Worker(WorkerEffect),
    Judge(JudgeEffect),
}

/// After one input a machine settles within so many effects, or it never does.
const EFFECTS_MAX: u32 = 10_000;

impl World<'_> {
    /// Starts a process unless one lives in the slot.
    pub(super) fn start_if_none(&mut self, slot: usize) {
        let lives = self.processes.iter().any(|process| process.slot == slot && process.alive && !process.stopping);
        let wanted = !self.healed || self.slots[slot].core;
        if !lives && wanted {
            self.start(slot);
        }
    }

    pub(super) fn start(&mut self, slot: usize) {
        let options = &self.schedule.options;
        self.slots[slot].incarnations += 1;
        let number = slot as u32 * 1000 + self.slots[slot].incarnations;
        let seed = self.number_of(&[u64::from(number)]);
        let rate = Rate::from_millionths(options.worker_rate(self.schedule.seed, slot as u8));
        let clock = MonotonicClock::new(self.now, Instant::from_micros(seed % 1_000_000_000), rate);
        let now = clock.now(self.now);
        let machine = format!("m{}", slot % usize::from(options.machines.max(1)));
        // Few process ids, so that they are used again.
        let start_ticks = u64::from(number) << 32 | self.now;
        let identity = ProcessIdentity { machine: machine.clone(), pid: number % 3, start_ticks };
        let identity = (options.identities || options.supervised).then_some(identity);
        let name = if options.stable_names { format!("w{slot}") } else { format!("w{slot}-{number}") };
        let keeper = KeeperOptions {
            worker: name,
            stable_name: options.stable_names,
            timing: options.timing(),
            process: identity.clone(),
            operations: vec![OPERATION.to_owned()],
            calls: options.calls(),
            liveness: options.liveness,
            seed,
        };
        let judge = JudgeOptions {
            timing: options.timing(),
            machine: options.identities.then_some(machine),
            liveness: options.liveness,
            local_check: Duration::from_micros(options.ttl_us / 4),
        };
        let mut process = Process {
            number: history::Process(number),
            slot,
            identity,
            clock,
            keeper: Keeper::new(keeper, now),
            judge: Judge::new(judge, now),
            worker: Worker::new(options.worker(), seed ^ 1, now),
            alive: true,
            stopping: false,
            paused: None,
            inbox: Vec::new(),
            handlers: BTreeMap::new(),
            calls: BTreeSet::new(),
            chosen: None,
            lapsed: false,
            wake_at: u64::MAX,
            woken_at: None,
            claims_under_way: 0,
            records_under_way: 0,
            link_troubles: [0; 2],
            held_up: 0,
            dies_after: None,
            timeouts: [None; 3],
        };
        process.timeouts = process.poll_timeouts();
        self.processes.push(process);
        let timing = options.timing();
        self.fact(history::Event::WorkerStarted {
            process: history::Process(number),
            timing,
            steady: rate.is_steady(),
        });
        if slot >= usize::from(options.workers) && self.slots[slot].incarnations == 1 {
            self.coverage.mark(Mark::Joined);
        }
        let at = self.processes.len() - 1;
        self.tell_cuts_of_slot(at);
        self.wake_machines(at);
        self.settle(at);
    }

    /// Whether an event for this process can be handled now; one that stands still gets it when it goes on.
    pub(super) fn receives(&mut self, at: ProcessAt, event: impl FnOnce() -> Event) -> bool {
        let process = &mut self.processes[at];
        if process.alive && process.paused.is_some() {
            process.inbox.push(event());
            return false;
        }
        process.alive
    }

    pub(super) fn wake(&mut self, at: ProcessAt) {
        if self.processes[at].wake_at != self.now {
            return;
        }
        self.processes[at].wake_at = u64::MAX;
        if !self.receives(at, || Event::Wake { process: at }) {
            return;
        }
        self.wake_machines(at);
        self.settle(at);
    }

    /// Time has passed. A second call at the same instant does nothing.
    pub(super) fn wake_machines(&mut self, at: ProcessAt) {
        let wakes_judges = self.wakes_judges();
        let process = &mut self.processes[at];
        process.woken_at = Some(self.now);
        let now = process.clock.now(self.now);
        let [keeper, judge, worker] = process.timeouts.map(|timeout| timeout.is_some_and(|timeout| timeout <= now));
        if keeper {
            process.keeper.handle_timeout(now);
        }
        if judge && wakes_judges {
            process.judge.handle_timeout(now);
        }
        if worker {
            process.worker.handle_timeout(now);
        }
    }

    /// Performs all effects, then plans the next wake-up.
    pub(super) fn settle(&mut self, at: ProcessAt) {
        let mut effects = 0;
        while self.processes[at].alive && self.perform_one(at, effects) {
            effects += 1;
            if effects > EFFECTS_MAX {
                self.violate("busy", format!("{:?} never becomes idle", self.processes[at].number));
                return;
            }
        }
        self.plan_wake(at);
    }

    /// After a standstill: timers that are overdue come last, after what is on its way at this very moment.
    pub(super) fn settle_overdue(&mut self, at: ProcessAt) {
        let mut effects = 0;
        while self.processes[at].alive && self.perform_one(at, effects) {
            effects += 1;
        }
        self.processes[at].wake_at = self.now;
        self.push(self.now, Event::Wake { process: at });
    }

    /// S1: SIGTERM; a process that stands still gets it when it goes on.
    pub(super) fn stop(&mut self, at: ProcessAt) {
        if !self.receives(at, || Event::Stop { process: at }) {
            return;
        }
        let process = &mut self.processes[at];
        let now = process.clock.now(self.now);
        process.worker.handle_input(now, WorkerInput::Stop);
        self.settle(at);
    }

    /// `nth`: so many effects of the same input were performed before.
    fn perform_one(&mut self, at: ProcessAt, nth: u32) -> bool {
        let process = &mut self.processes[at];
        let effect = if let Some(effect) = process.keeper.poll_effect() {
            Effect::Keeper(effect)
        } else if let Some(effect) = process.worker.poll_effect() {
            Effect::Worker(effect)
        } else if let Some(effect) = process.judge.poll_effect() {
            Effect::Judge(effect)
        } else {
            return false;
        };
        if let Some((effects, restart_after_us)) = &mut process.dies_after {
            if *effects == 0 {
                let restart_after_us = *restart_after_us;
                self.crash_at_effect(at, restart_after_us, nth);
                return true;
            }
            *effects -= 1;
        }
        match effect {
            Effect::Keeper(effect) => self.keeper_effect(at, effect),
            Effect::Worker(effect) => self.worker_effect(at, effect),
            Effect::Judge(effect) => self.judge_effect(at, effect),
        }
        true
    }

    fn plan_wake(&mut self, at: ProcessAt) {
        let process = &mut self.processes[at];
        if !process.alive {
            return;
        }
        process.timeouts = process.poll_timeouts();
        let Some(next) = process.timeouts.into_iter().flatten().min() else { return };
        let now = process.clock.now(self.now);
        if next <= now && process.woken_at != Some(self.now) {
            // After a standstill a machine that got nothing else may have its timer overdue.
            process.wake_at = self.now;
            self.push(self.now, Event::Wake { process: at });
            return;
        }
        if next <= now {
            let what =
                format!("{:?} wants to be woken at {next:?}, it is {now:?}: {:?}", process.number, process.timeouts);
            self.violate("busy", what);
            return;
        }
        let wake_at = process.clock.true_at(next);
        if wake_at < process.wake_at || process.wake_at <= self.now {
            process.wake_at = wake_at;
            self.push(wake_at, Event::Wake { process: at });
        }
    }

    fn keeper_effect(&mut self, at: ProcessAt, effect: KeeperEffect) {
        match effect {
            KeeperEffect::Store(id, request) => {
                self.tell_choice(at, &request);
                self.ask_store(at, Machine::Keeper, id, request);
            }
            KeeperEffect::Liveness(id, request) => self.ask_witness(at, Machine::Keeper, id, request),
            KeeperEffect::CheckProcess(lease, identity) => {
                let state = self.look_up(&identity);
                let process = &mut self.processes[at];
                let now = process.clock.now(self.now);
                process.keeper.handle_input(now, KeeperInput::Process(lease, state));
            }
            KeeperEffect::Tell(event) => {
                let own = match &event {
                    LeaseEvent::Held { lease, .. } => Some(*lease),
                    _ => None,
                };
                let process = &mut self.processes[at];
                let now = process.clock.now(self.now);
                process.judge.handle_input(now, JudgeInput::OwnLease(own));
                self.tell_inner(at, Inner::Lease(event));
            }
        }
    }

    /// L1: the checkers know whose a lease is from before its first take.
    fn tell_choice(&mut self, at: ProcessAt, request: &StoreRequest) {
        let StoreRequest::TakeLease(take) = request else { return };
        let process = &mut self.processes[at];
        if process.chosen != Some(take.lease) {
            process.chosen = Some(take.lease);
            let fact = history::Event::LeaseChosen { process: process.number, lease: take.lease };
            self.fact(fact);
        }
    }

    fn look_up(&self, identity: &ProcessIdentity) -> ProcessState {
        let runs = self.processes.iter().any(|process| process.alive && process.identity.as_ref() == Some(identity));
        if runs { ProcessState::Running } else { ProcessState::Gone }
    }

    fn judge_effect(&mut self, at: ProcessAt, effect: JudgeEffect) {
        match effect {
            JudgeEffect::Store(id, request) => self.ask_store(at, Machine::Judge, id, request),
            JudgeEffect::Liveness(id, request) => self.ask_witness(at, Machine::Judge, id, request),
            JudgeEffect::CheckProcess(lease, identity) => {
                let state = self.look_up(&identity);
                let process = &mut self.processes[at];
                let now = process.clock.now(self.now);
                process.judge.handle_input(now, JudgeInput::Process(lease, state));
            }
            JudgeEffect::Tell(_) => {}
        }
    }

    fn worker_effect(&mut self, at: ProcessAt, effect: WorkerEffect) {
        match effect {
            WorkerEffect::Store(id, request) => {
                if self.processes[at].lapsed && matches!(request, StoreRequest::GiveBack { .. }) {
                    self.coverage.mark(Mark::GiveBackAfterLapse);
                }
                self.ask_store(at, Machine::Worker, id, request);
            }
            WorkerEffect::Start(start) => self.start_handler(at, &start),
            WorkerEffect::Cancel(key) => self.cancel_handler(at, key),
            WorkerEffect::Abandon(key) => self.abandon_handler(at, key),
            WorkerEffect::Call(grant) => self.start_call(at, &grant),
            WorkerEffect::CancelCall(key) => self.cancel_call(at, key),
            WorkerEffect::AbandonCall(_) => {}
            WorkerEffect::Keeper(command) => self.tell_inner(at, Inner::Command(command)),
            WorkerEffect::Tell(event) => self.worker_tells(at, &event),
            WorkerEffect::Exit(reason) => self.exited(at, &reason),
        }
    }

    fn worker_tells(&mut self, at: ProcessAt, event: &WorkerEvent) {
        self.trace(|world| What::Told(world.processes[at].number, event.clone()));
        match event {
            WorkerEvent::LeaseTaken(_) => self.processes[at].lapsed = false,
            WorkerEvent::LeaseEnded(_) => self.coverage.mark(Mark::LeaseEndedAlive),
            WorkerEvent::Lapsed(_) => {
                self.processes[at].lapsed = true;
                self.coverage.mark(Mark::Lapse);
            }
            WorkerEvent::CallFenced(_) => self.coverage.mark(Mark::CallFenced),
            WorkerEvent::CallDelivered(_) => self.coverage.mark(Mark::CallDelivered),
            WorkerEvent::Recorded { .. } | WorkerEvent::Fenced(_) | WorkerEvent::CallFailed { .. } => {}
        }
    }

    fn exited(&mut self, at: ProcessAt, reason: &ExitReason) {
        self.trace(|world| What::Left(world.processes[at].number, reason.clone()));
        let process = &mut self.processes[at];
        process.alive = false;
        let (number, slot) = (process.number, process.slot);
        match reason {
            ExitReason::Stopped => self.coverage.mark(Mark::LeftStopped),
            // A batch was submitted while it was on its way out.
            ExitReason::Done if self.healed && (self.store.has_open_batch() || self.owes_calls()) => {
                self.push(self.now + self.schedule.options.restart_us, Event::Start { slot });
            }
            ExitReason::Done => {}
            ExitReason::NameInUse(_) => {
                self.coverage.mark(Mark::NameInUse);
                if !self.processes.iter().any(|other| other.slot == slot && other.alive) {
                    self.coverage.mark(Mark::NameInUseByTheDead);
                }
                self.push(self.now + self.schedule.options.restart_us, Event::Start { slot });
            }
        }
        self.fact(history::Event::WorkerLeft { process: number });
    }

    /// Tells another thread of the same process, which takes a moment.
    fn tell_inner(&mut self, at: ProcessAt, inner: Inner) {
        match self.schedule.options.inner_us {
            0 => self.inner_now(at, inner),
            delay => self.push(self.now + delay, Event::Inner { process: at, inner }),
        }
    }

    pub(super) fn inner(&mut self, at: ProcessAt, inner: Inner) {
        let process = &mut self.processes[at];
        if process.alive && process.paused.is_some() {
            process.inbox.push(Event::Inner { process: at, inner });
        } else if process.alive {
            self.inner_now(at, inner);
            self.settle(at);
        }
    }

    fn inner_now(&mut self, at: ProcessAt, inner: Inner) {
        if let Inner::Lease(LeaseEvent::Held { closed, .. }) = &inner {
            self.hears_closed(at, closed);
        }
        let process = &mut self.processes[at];
        let now = process.clock.now(self.now);
        match inner {
            Inner::Lease(event) => process.worker.handle_input(now, WorkerInput::Lease(event)),
            Inner::Command(command) => process.keeper.handle_input(now, KeeperInput::Command(command)),
        }
    }

    /// R1: a supervisor's report reaches a judge.
    pub(super) fn death_reported(&mut self, at: ProcessAt, identity: ProcessIdentity) {
        if !self.receives(at, || Event::DeathReported { process: at, identity: identity.clone() }) {
            return;
        }
        let process = &mut self.processes[at];
        let now = process.clock.now(self.now);
        process.judge.handle_input(now, JudgeInput::ProcessEnded(identity));
        self.settle(at);
    }

    /// The store tells what has changed: what the real driver makes of it.
    pub(super) fn notified(&mut self, at: ProcessAt, notice: Notice) {
        if !self.receives(at, || Event::Notified { process: at, notice: notice.clone() }) {
            return;
        }
        let Notice { freed, opened, ended, leases, aborted } = notice;
        self.hears_closed(at, &aborted);
        let process = &mut self.processes[at];
        let now = process.clock.now(self.now);
        if process.handlers.keys().any(|run| aborted.contains(&run.batch)) {
            self.coverage.mark(Mark::ToldOfAbort);
        }
        if leases {
            process.judge.handle_input(now, JudgeInput::LeasesTaken);
        }
        let inputs = [
            (!aborted.is_empty()).then_some(WorkerInput::BatchesClosed(aborted)),
            ended.then_some(WorkerInput::CallsDue),
            opened.then_some(WorkerInput::BatchOpened),
            (freed && !opened).then_some(WorkerInput::Wake),
        ];
        for input in inputs.into_iter().flatten() {
            process.worker.handle_input(now, input);
        }
        self.settle(at);
    }

    /// A process ends without a word. What it sent may still arrive.
    pub(super) fn crash(&mut self, at: ProcessAt, by_row: Option<(fencepost_core::BatchId, u64)>, reported: bool) {
        let process = &mut self.processes[at];
        debug_assert!(process.alive);
        process.alive = false;
        process.inbox.clear();
        process.handlers.clear();
        if !std::mem::take(&mut process.calls).is_empty() {
            self.coverage.mark(Mark::CrashWithCall);
        }
        let (number, identity) = (process.number, process.identity.clone());
        let (claims, records) = (process.claims_under_way, process.records_under_way);
        if claims > 0 {
            self.coverage.mark(Mark::CrashWithClaim);
        }
        if records > 0 {
            self.coverage.mark(Mark::CrashWithRecord);
        }
        self.fact(history::Event::WorkerCrashed { process: number, by_row });
        if let Some(identity) = identity.filter(|_| reported) {
            self.report_death(&identity);
        }
    }

    /// A supervisor tells every living worker, some of them twice.
    fn report_death(&mut self, identity: &ProcessIdentity) {
        for at in 0..self.processes.len() {
            if !self.processes[at].alive {
                continue;
            }
            let spread = self.number_of(&[identity.start_ticks, at as u64]);
            let report = || Event::DeathReported { process: at, identity: identity.clone() };
            self.push(self.now + 100 + spread % 10_000, report());
            if spread.is_multiple_of(4) {
                self.push(self.now + self.schedule.options.ttl_us, report());
            }
        }
    }
}
