//! A worker: claims lines, runs rows, offers their outcomes, leaves.
//!
//! | part of a row's way | module |
//! |---|---|
//! | lines are claimed, a lost claim is settled (C1 to C3) | `claiming` |
//! | rows are started, timed out, cancelled (L4, L6, O6) | `running` |
//! | answers are recorded until their end is known (O1 to O5) | `recording` |
//! | completion calls are made and recorded (S7) | `calling` |
//! | lines are given back, the worker leaves (S1) | `leaving` |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::calls::{CallGrant, CallKey};
use crate::config::WorkerOptions;
use crate::ids::{BatchId, LeaseId, RequestId, Token};
use crate::keeper::{KeeperCommand, LeaseEvent};
use crate::lines::LineSet;
use crate::random::Stream;
use crate::store::{RecordItem, Recorded, StoreFailure, StoreReply, StoreRequest};
use crate::time::Instant;

mod calling;
mod claiming;
mod leaving;
mod queue;
mod recording;
mod running;

pub use calling::CallAnswer;
use calling::{Calling, CancelCallReason};
use claiming::ClaimState;
use leaving::{Leaving, WaitingGiveBack};
use queue::Queue;
use recording::Recording;
use running::Run;

/// One run of one row. No token is ever run twice (L6), so an old run's answer never passes for a new one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// The batch.
    pub batch: BatchId,
    /// The line.
    pub line: u64,
    /// The token under which it runs.
    pub token: Token,
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum WorkerInput {
    /// The keeper tells about the lease.
    Lease(LeaseEvent),
    /// The store answered, or did not.
    Store(RequestId, Result<StoreReply, StoreFailure>),
    /// A run ended.
    RunEnded(RunKey, RunAnswer),
    /// S1: leave.
    Stop,
    /// There may be something to claim.
    Wake,
    /// C3: the same, of a batch of which nobody holds anything: it gets its turn at once.
    BatchOpened,
    /// S2: these batches were heard to be no longer open.
    BatchesClosed(Vec<BatchId>),
    /// S7: a completion call may be due.
    CallsDue,
    /// S7: a completion call ended.
    CallEnded(CallKey, CallAnswer),
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum RunAnswer {
    /// Done, with the result as JSON text.
    Success(Box<str>),
    /// Failed for good.
    Failed(Box<str>),
    /// To be tried again.
    Retry(Box<str>),
    /// Cancelled before it came to an answer.
    Cancelled,
    /// Cut off, and not known to be to blame for it: the line is given back, with no attempt used, and runs again under a new
    /// token (L6: no token is run twice).
    Interrupted,
}

/// What a worker wants done.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum WorkerEffect {
    /// Ask the store.
    Store(RequestId, StoreRequest),
    /// Run a row.
    Start(StartRun),
    /// Cancel a run; its end is still to be reported.
    Cancel(RunKey),
    /// A cancelled run did not end in time: whatever it still does, its slot is given up.
    Abandon(RunKey),
    /// S7: make a completion call.
    Call(CallGrant),
    /// Cancel a call; its end is still to be reported.
    CancelCall(CallKey),
    /// A cancelled call did not end in time.
    AbandonCall(CallKey),
    /// Tell the keeper.
    Keeper(KeeperCommand),
    /// Something to tell people.
    Tell(WorkerEvent),
    /// The worker has left.
    Exit(ExitReason),
}

/// A row to run.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct StartRun {
    /// Which run.
    pub key: RunKey,
    /// The batch's operation: which handler.
    pub operation: Arc<str>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The row, as JSON text.
    pub input: Box<str>,
    /// The worker whose death or leaving gave the line back, where one did.
    pub recovered_from: Option<Arc<str>>,
}

/// What happened, for people.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum WorkerEvent {
    /// A lease is held and claims may begin.
    LeaseTaken(LeaseId),
    /// L6: the lease was declared dead while this worker lived.
    LeaseEnded(LeaseId),
    /// L4: the licence ran out; running rows are cancelled.
    Lapsed(LeaseId),
    /// A row's answer was recorded.
    Recorded {
        /// The run.
        key: RunKey,
        /// As what.
        recorded: Recorded,
        /// How long it ran.
        run_time: Duration,
        /// The error, of a failure or retry.
        error: Option<Box<str>>,
    },
    /// O1: a row's answer was dropped, because the line had changed hands or its batch is over.
    Fenced(RunKey),
    /// S7: a completion call is recorded as delivered.
    CallDelivered(CallKey),
    /// S7: a completion call failed, and is made again later.
    CallFailed {
        /// Which.
        key: CallKey,
        /// What went wrong.
        error: Box<str>,
    },
    /// S7: what came of a completion call was dropped: another makes it.
    CallFenced(CallKey),
}

/// Why a worker left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExitReason {
    /// Asked to (S1).
    Stopped,
    /// `until_done`, and no batch of its operations has open lines.
    Done,
    /// R5: its stable name is in use by another process.
    NameInUse(String),
}

#[derive(Debug, Clone, Hash)]
struct Licence {
    lease: LeaseId,
    ends: Instant,
    /// The end was noticed: runs are cancelled and nothing starts until it is extended.
    lapsed: bool,
}

/// The worker machine.
#[derive(Debug, Clone, Hash)]
pub struct Worker {
    options: WorkerOptions,
    random: Stream,
    licence: Option<Licence>,
    /// What was not started, all of the licence's lease.
    queue: Queue,
    runs: BTreeMap<RunKey, Run>,
    /// C3: how many bytes the inputs of `runs` have.
    running_bytes: u64,
    /// L6: how many of `runs` each lease has; asked at every event, of thousands of runs.
    runs_of_leases: BTreeMap<LeaseId, usize>,
    /// Runs that were given up and have not ended: they may still kill the process.
    /// With the lease under which the line is yet to be given back, where it is.
    abandoned: BTreeMap<RunKey, Option<LeaseId>>,
    /// When something is to happen to a run: its timeout, or the end of the patience after a cancel.
    deadlines: BTreeSet<(Instant, RunKey)>,
    /// Smoothed run time, once one was measured.
    mean_run_time: Option<Duration>,
    claim: ClaimState,
    last_claim_number: u64,
    next_claim_at: Instant,
    /// P2: this row was granted alone; nothing is claimed until its outcome is known.
    alone: Option<RunKey>,
    /// P2: a suspect waits for an idle worker: nothing more is claimed until this one is idle.
    draining_for_suspect: bool,
    /// P2: when a draining worker asks whether the suspect still waits.
    drain_look_at: Instant,
    /// P2, S7: until then, single suspects and completion calls are left to others.
    others_first_until: Instant,
    /// P2, S7: under the present lease it has asked for a single suspect or a call.
    took_its_turn: bool,
    /// C3: a batch was opened since the last claim.
    newcomer_waits: bool,
    /// P2: the last claim found nothing, for which the reason may be that it was not allowed to run a row alone then.
    refused_while_busy: bool,
    recording: Recording,
    give_back: WaitingGiveBack,
    calling: Calling,
    leaving: Leaving,
    /// When the keeper is to be told what runs, where that has changed.
    mirror_due_at: Option<Instant>,
    effects: VecDeque<WorkerEffect>,
    next_request: u64,
}

/// The keeper is told what runs at most this often.
const MIRROR_EVERY: Duration = Duration::from_millis(500);

impl Worker {
    /// A worker without a lease yet. `seed` spreads its backoffs.
    pub fn new(options: WorkerOptions, seed: u64, now: Instant) -> Self {
        assert!(options.concurrency > 0, "a worker without a slot runs nothing");
        assert!(options.claim_lines_max > 0 && options.group_lines_max > 0);
        Self {
            options,
            random: Stream::new(seed),
            licence: None,
            queue: Queue::default(),
            runs: BTreeMap::new(),
            running_bytes: 0,
            runs_of_leases: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            mean_run_time: None,
            claim: ClaimState::Idle,
            last_claim_number: 0,
            next_claim_at: now,
            alone: None,
            draining_for_suspect: false,
            drain_look_at: now,
            others_first_until: now,
            took_its_turn: false,
            newcomer_waits: false,
            refused_while_busy: false,
            recording: Recording::default(),
            give_back: WaitingGiveBack::default(),
            calling: Calling::new(now),
            leaving: Leaving::No,
            mirror_due_at: None,
            effects: VecDeque::new(),
            next_request: 0,
        }
    }

    /// What to do next, if anything.
    pub fn poll_effect(&mut self) -> Option<WorkerEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Self::handle_timeout`]; later than the last instant handled.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.has_left() {
            return None;
        }
        let licence = self.licence.as_ref().filter(|licence| !licence.lapsed).map(|licence| licence.ends);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let requests = [self.claim_timeout(), self.recording_timeout(), self.leaving_timeout(), self.calling_timeout()];
        [licence, deadline, self.mirror_due_at].into_iter().chain(requests).flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.has_left() {
            return;
        }
        self.l4_end_licence(now);
        self.s1_end_grace(now);
        self.end_deadlines(now);
        self.time_out_requests(now);
        self.record_what_is_due(now);
        self.give_back_what_waits(now);
        self.start_rows(now);
        self.record_calls(now);
        self.claim_calls(now);
        self.claim_lines(now);
        self.mirror(now);
        self.s1_leave();
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: WorkerInput) {
        if self.has_left() {
            return;
        }
        // A licence that ended meanwhile ends before anything else is looked at: this process may have slept.
        self.l4_end_licence(now);
        match input {
            WorkerInput::Lease(event) => self.handle_lease(now, event),
            WorkerInput::Store(id, reply) => self.handle_store(now, id, reply),
            WorkerInput::RunEnded(key, answer) => self.run_ended(now, key, answer),
            WorkerInput::Stop => self.s1_stop(now, ExitReason::Stopped),
            WorkerInput::BatchesClosed(batches) => self.s2_let_go(now, &batches),
            WorkerInput::CallsDue => self.calling.wake(now),
            WorkerInput::CallEnded(key, answer) => self.call_ended(now, key, answer),
            WorkerInput::Wake => self.next_claim_at = self.next_claim_at.min(now),
            WorkerInput::BatchOpened => {
                self.newcomer_waits = true;
                self.next_claim_at = self.next_claim_at.min(now);
            }
        }
        self.handle_timeout(now);
    }

    /// What the worker holds: every batch it has lines of, with the lines that run.
    pub fn running_lines(&self) -> Vec<(BatchId, LineSet)> {
        let mut lines: BTreeMap<BatchId, Vec<u64>> = BTreeMap::new();
        for batch in self.queue.batches() {
            lines.entry(batch).or_default();
        }
        for key in self.runs.keys() {
            lines.entry(key.batch).or_default().push(key.line);
        }
        lines.into_iter().map(|(batch, lines)| (batch, lines.into_iter().collect())).collect()
    }

    /// Tells the keeper what runs, some time after it changed: for the mirror, and for S2.
    fn mirror(&mut self, now: Instant) {
        if self.mirror_due_at.is_some_and(|at| now >= at) {
            self.mirror_due_at = None;
            let running = self.running_lines();
            self.effects.push_back(WorkerEffect::Keeper(KeeperCommand::Running(running)));
        }
    }

    fn holding_changed(&mut self, now: Instant) {
        self.mirror_due_at.get_or_insert(now + MIRROR_EVERY);
    }

    /// C3: how many bytes the inputs of the rows have that it holds, running or not.
    pub fn held_bytes(&self) -> u64 {
        self.queue.bytes() + self.running_bytes
    }

    /// How many rows run.
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    fn handle_lease(&mut self, now: Instant, event: LeaseEvent) {
        match event {
            LeaseEvent::Held { lease, licence_ends, closed } => {
                self.licence_extended(now, lease, licence_ends);
                self.s2_let_go(now, &closed);
            }
            LeaseEvent::Ended { lease } => self.l6_lease_ended(now, lease),
            // L6: answers in hand are still offered, then the worker leaves.
            LeaseEvent::NameInUse { worker } => self.name_in_use(now, worker),
            LeaseEvent::Dropped => self.dropped(),
        }
    }

    fn licence_extended(&mut self, now: Instant, lease: LeaseId, ends: Instant) {
        match &mut self.licence {
            Some(licence) if licence.lease == lease => {
                licence.ends = licence.ends.max(ends);
                licence.lapsed = licence.ends <= now;
            }
            _ => {
                self.licence = Some(Licence { lease, ends, lapsed: ends <= now });
                self.last_claim_number = 0;
                self.next_claim_at = now;
                self.calling.wake(now);
                self.tell(WorkerEvent::LeaseTaken(lease));
            }
        }
    }

    fn handle_store(&mut self, now: Instant, id: RequestId, mut reply: Result<StoreReply, StoreFailure>) {
        if self.claim_answered(now, id, &mut reply) {
            return;
        }
        if self.record_answered(now, id, &reply) || self.call_answered(now, id, &reply) {
            return;
        }
        // A reply that nobody waits for any more is an old try's: the repeat's reply tells the same.
        self.give_back_answered(now, id, &reply);
    }

    /// The lease under which rows may be started and claimed now.
    fn licensed(&self) -> Option<LeaseId> {
        self.licence.as_ref().filter(|licence| !licence.lapsed).map(|licence| licence.lease)
    }

    /// P2: holds, runs and owes nothing. What was given up counts as running until it has ended, and a call that was asked for
    /// as if it were granted.
    fn is_idle(&self) -> bool {
        self.abandoned.is_empty() && self.calling.is_idle() && self.owes_nothing()
    }

    /// P2: whether a row may be granted to it alone.
    fn may_run_alone(&self, now: Instant) -> bool {
        self.is_idle() && now >= self.others_first_until
    }

    fn owes_nothing(&self) -> bool {
        self.queue.rows() == 0
            && self.runs.is_empty()
            && self.recording.is_empty()
            && self.give_back.is_empty()
            && self.calling.is_empty()
            && matches!(self.claim, ClaimState::Idle)
    }

    fn time_out_requests(&mut self, now: Instant) {
        self.time_out_claim(now);
        self.time_out_record(now);
        self.time_out_give_back(now);
        self.time_out_calls(now);
    }

    /// How long after a failed request it is tried again.
    fn retry_after(&self) -> Duration {
        (self.options.timing.ttl / 8).min(Duration::from_secs(1))
    }

    fn request_limit(&self) -> Duration {
        self.options.timing.request_timeout
    }

    fn ask(&mut self, request: StoreRequest) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.effects.push_back(WorkerEffect::Store(id, request));
        id
    }

    fn tell(&mut self, event: WorkerEvent) {
        self.effects.push_back(WorkerEffect::Tell(event));
    }
}

impl RunKey {
    fn of(item: &RecordItem) -> Self {
        Self { batch: item.batch, line: item.line, token: item.token }
    }
}
