use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost_core::calls::*;
use fencepost_core::keeper::{KeeperCommand, LeaseEvent};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;
use proptest::prelude::*;

/// One thing that happens. Numbers choose among what there is, whatever there is.
#[derive(Debug, Clone)]
enum Happening {
    /// The store does what it was asked, and its reply sets out.
    Process(usize),
    /// A reply arrives; it stays known, so that it can arrive again, late.
    Deliver(usize),
    /// The worker hears of a failure; the request may be done all the same, later.
    Fail(usize, StoreFailure),
    End(usize, u8),
    EndCall(usize, u8),
    Wakeups(u16),
    Sleep(u16),
    Renewed {
        closed: Option<u64>,
    },
    Abort(u64),
    LeaseEnds,
    NewLease,
    Wake,
    BatchOpened,
    CallsDue,
    Stop,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let failure = prop_oneof![Just(StoreFailure::NotDone), Just(StoreFailure::Unknown)];
    prop_oneof![
        12 => any::<usize>().prop_map(Process),
        12 => any::<usize>().prop_map(Deliver),
        3 => (any::<usize>(), failure).prop_map(|(n, failure)| Fail(n, failure)),
        12 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| End(n, how)),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| EndCall(n, how)),
        1 => Just(CallsDue),
        8 => (0..3_000u16).prop_map(Wakeups),
        2 => (0..20_000u16).prop_map(Sleep),
        4 => prop::option::weighted(0.2, 0..3u64).prop_map(|closed| Renewed { closed }),
        1 => (0..3u64).prop_map(Abort),
        1 => Just(LeaseEnds),
        3 => Just(NewLease),
        3 => Just(Wake),
        2 => Just(BatchOpened),
        1 => prop_oneof![9 => Just(Wake), 1 => Just(Stop)],
    ]
}

fn options() -> impl Strategy<Value = WorkerOptions> {
    let grace = prop_oneof![Just(0), 1..5_000u64];
    (1..4u32, 1..4usize, 0..5u64, grace.clone(), grace, 1..40u64, any::<bool>(), 1..40u64).prop_map(
        |(concurrency, group_lines_max, flush, grace, cancel_grace, claim_lines_max, command, bytes)| WorkerOptions {
            claim_bytes_max: bytes,
            held_bytes_max: 40,
            calls: Calls { operations: vec!["op".into()], command, urls: Vec::new() },
            calls_at_once: 2,
            call_timeout: Duration::from_secs(3),
            timing: Timing::from_ttl(TTL),
            operations: vec!["op".into()],
            concurrency,
            claim_lines_max,
            group_lines_max,
            group_bytes_max: 20,
            flush_age: Duration::from_millis(flush),
            grace: Duration::from_millis(grace),
            cancel_grace: Duration::from_millis(cancel_grace),
            ..WorkerOptions::default()
        },
    )
}

const TTL: Duration = Duration::from_secs(8);
const LICENCE: Duration = Duration::from_secs(7);

/// The store as far as one worker sees it: who holds which line, which claim numbers are closed.
#[derive(Default)]
struct Store {
    live: BTreeSet<LeaseId>,
    last_number: BTreeMap<LeaseId, u64>,
    taken: BTreeMap<(LeaseId, u64), Vec<Grant>>,
    held: BTreeMap<RunKey, LeaseId>,
    aborted: BTreeSet<BatchId>,
    recorded: BTreeSet<RunKey>,
    token: u64,
    draws: u64,
    /// Nothing is left to grant.
    empty: bool,
    /// Tokens of rows granted alone.
    alone: BTreeSet<Token>,
    /// The ends of some generations; a call that is asked for again is due at once here.
    ends: [End; 3],
}

#[derive(Default)]
struct End {
    token: Option<Token>,
    lease: Option<LeaseId>,
    delivered: bool,
}

impl Store {
    fn process(&mut self, request: &StoreRequest) -> StoreReply {
        match request {
            StoreRequest::Claim(claim) => StoreReply::Claim(self.claim(claim)),
            StoreRequest::SettleClaim { lease, number } => {
                let last = self.last_number.entry(*lease).or_default();
                *last = (*last).max(*number);
                let mut grants = self.taken.get(&(*lease, *number)).cloned().unwrap_or_default();
                for grant in &mut grants {
                    grant.rows.retain(|row| {
                        let key = RunKey { batch: grant.batch, line: row.line, token: grant.token };
                        self.held.get(&key) == Some(lease)
                    });
                }
                grants.retain(|grant| !grant.rows.is_empty());
                StoreReply::SettleClaim(grants, Vec::new())
            }
            StoreRequest::Record(record) => StoreReply::Record(
                record
                    .items
                    .iter()
                    .map(|item| {
                        let key = RunKey { batch: item.batch, line: item.line, token: item.token };
                        if self.held.get(&key) == Some(&record.lease) {
                            self.held.remove(&key);
                            self.recorded.insert(key);
                            Verdict::Recorded(Recorded::Success)
                        } else if self.recorded.contains(&key) {
                            Verdict::RecordedBefore
                        } else {
                            Verdict::Fenced
                        }
                    })
                    .collect(),
            ),
            StoreRequest::GiveBack { lease, lines } => {
                for (batch, token, lines) in lines {
                    for line in lines.iter() {
                        let key = RunKey { batch: *batch, line, token: *token };
                        if self.held.get(&key) == Some(lease) {
                            self.held.remove(&key);
                        }
                    }
                }
                StoreReply::GiveBack
            }
            StoreRequest::ClaimCall(claim) => StoreReply::ClaimCall(self.claim_call(claim)),
            StoreRequest::RecordCall(record) => {
                let end = &mut self.ends[record.key.generation as usize];
                if end.token != Some(record.key.token) {
                    return StoreReply::RecordCall(CallVerdict::Fenced);
                }
                if end.lease != Some(record.lease) {
                    return StoreReply::RecordCall(CallVerdict::RecordedBefore);
                }
                end.lease = None;
                end.delivered = record.outcome == CallOutcome::Delivered;
                StoreReply::RecordCall(CallVerdict::Recorded)
            }
            other => panic!("not a worker's request: {other:?}"),
        }
    }

    fn claim(&mut self, claim: &Claim) -> ClaimReply {
        if !self.live.contains(&claim.lease) {
            return ClaimReply::LeaseEnded;
        }
        let last = self.last_number.entry(claim.lease).or_default();
        if claim.number <= *last {
            return ClaimReply::Closed;
        }
        *last = claim.number;
        self.draws = self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let draw = self.draws >> 33;
        let alone = claim.idle && draw.is_multiple_of(5);
        let spans = if self.empty {
            0
        } else if alone {
            1
        } else {
            draw % 3
        };
        let mut lines_left = if alone { 1 } else { claim.lines_max };
        let mut grants = Vec::new();
        for span in 0..spans {
            let lines = lines_left.min(1 + (draw >> 3) % 7);
            let batch = BatchId::from_random((draw + span) % 3);
            if lines == 0 || self.aborted.contains(&batch) {
                continue;
            }
            lines_left -= lines;
            self.token += 1;
            let token = Token(self.token);
            // Lines come again, under new tokens.
            let first = 1 + (draw >> 6) % 5;
            let mut rows = Vec::new();
            for line in first..first + lines {
                self.held.insert(RunKey { batch, line, token }, claim.lease);
                rows.push(GrantedRow { line, attempts: 0, input: "{}".into() });
            }
            let timeout = Duration::from_millis(500 + (draw >> 9) % 9_000);
            let (operation, recovered_from) = ("op".into(), None);
            grants.push(Grant { batch, operation, token, rows, suspicion: 0, alone, recovered_from, timeout });
        }
        self.alone.extend(grants.iter().filter(|grant| grant.alone).map(|grant| grant.token));
        self.taken.insert((claim.lease, claim.number), grants.clone());
        let suspect_waits = !self.empty && draw.is_multiple_of(7) && !alone;
        ClaimReply::Granted { grants, suspect_waits, next_after: None, open_lines: true }
    }

    fn claim_call(&mut self, claim: &ClaimCall) -> ClaimCallReply {
        if !self.live.contains(&claim.lease) {
            return ClaimCallReply::LeaseEnded;
        }
        let unknown =
            |end: &End| end.lease == Some(claim.lease) && !end.token.is_some_and(|t| claim.known.contains(&t));
        let at = self.ends.iter().position(unknown).or_else(|| {
            let at = self.ends.iter().position(|end| end.lease.is_none() && !end.delivered)?;
            self.token += 1;
            (self.ends[at].token, self.ends[at].lease) = (Some(Token(self.token)), Some(claim.lease));
            Some(at)
        });
        let call = at.and_then(|at| {
            let key = CallKey { batch: BatchId::from_random(0), generation: at as u32, token: self.ends[at].token? };
            let (key_name, operation, url, status) = (None, "op".into(), None, BatchStatus::Success);
            let (success, failed, aborted, ended_at) = (1, 0, 0, StoreTime(0));
            let end = BatchEnd { key: key_name, operation, url, status, success, failed, aborted, ended_at };
            Some(CallGrant { key, attempt: 1, end })
        });
        let undelivered = self.ends.iter().any(|end| !end.delivered);
        ClaimCallReply::Granted { call, next_after: None, open_lines: true, undelivered }
    }

    fn end(&mut self, lease: LeaseId) {
        for end in self.ends.iter_mut().filter(|end| end.lease == Some(lease)) {
            (end.token, end.lease) = (None, None);
        }
        self.live.remove(&lease);
        self.held.retain(|_, holder| *holder != lease);
    }
}

struct World {
    worker: Worker,
    now: Instant,
    concurrency: usize,
    held_bytes_max: u64,
    store: Store,
    asked: Vec<(RequestId, StoreRequest)>,
    replies: Vec<(RequestId, StoreReply)>,
    /// What the worker was told: its lease, and until when it may run rows.
    licence: Option<(LeaseId, Instant)>,
    leases: u64,
    running: BTreeMap<RunKey, LeaseId>,
    /// Runs that were given up and have not ended.
    abandoned: BTreeSet<RunKey>,
    calling: BTreeSet<CallKey>,
    called: BTreeSet<CallKey>,
    calls_cancelled: BTreeSet<CallKey>,
    makes_calls: bool,
    cancelled: BTreeSet<RunKey>,
    started: BTreeSet<RunKey>,
    /// Answers that the worker took and that no verdict has arrived for.
    owed: BTreeMap<RunKey, (LeaseId, RunAnswer)>,
    recordings: BTreeMap<RequestId, Record>,
    dropped: bool,
    exited: bool,
}

impl World {
    fn new(options: WorkerOptions, seed: u64) -> Self {
        let now = Instant::from_micros(1_000_000_000);
        Self {
            concurrency: options.concurrency as usize,
            held_bytes_max: options.held_bytes_max,
            makes_calls: options.calls.command,
            worker: Worker::new(options, seed, now),
            now,
            store: Store { draws: seed, ..Store::default() },
            asked: Vec::new(),
            replies: Vec::new(),
            licence: None,
            leases: 0,
            running: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            calling: BTreeSet::new(),
            called: BTreeSet::new(),
            calls_cancelled: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            started: BTreeSet::new(),
            owed: BTreeMap::new(),
            recordings: BTreeMap::new(),
            dropped: false,
            exited: false,
        }
    }

    fn tell(&mut self, input: WorkerInput) -> Result<(), TestCaseError> {
        self.worker.handle_input(self.now, input);
        self.drain()
    }

    fn wake_up(&mut self) -> Result<(), TestCaseError> {
        self.worker.handle_timeout(self.now);
        self.drain()
    }

    fn drain(&mut self) -> Result<(), TestCaseError> {
        let mut polls = 0;
        while let Some(effect) = self.worker.poll_effect() {
            polls += 1;
            prop_assert!(polls < 1_000, "effects without end");
            self.check(effect)?;
        }
        let next = self.worker.poll_timeout();
        prop_assert!(
            next.is_none_or(|next| next > self.now),
            "the next wake-up, {next:?}, is not after {:?}",
            self.now
        );
        self.worker.handle_timeout(self.now);
        let again = self.worker.poll_effect();
        prop_assert!(again.is_none(), "at the same instant again: {again:?}");
        prop_assert_eq!(self.worker.poll_timeout(), next);
        Ok(())
    }

    fn licensed(&self) -> Option<LeaseId> {
        self.licence.filter(|(_, ends)| self.now < *ends).map(|(lease, _)| lease)
    }

    fn check(&mut self, effect: WorkerEffect) -> Result<(), TestCaseError> {
        prop_assert!(!self.exited, "after its exit: {effect:?}");
        match effect {
            WorkerEffect::Store(id, request) => {
                match &request {
                    StoreRequest::Claim(claim) => {
                        prop_assert_eq!(self.licensed(), Some(claim.lease), "a claim without a licence");
                        prop_assert!(claim.lines_max > 0 || !claim.idle, "an idle worker drains for nobody");
                        prop_assert!(!claim.idle || self.calling.is_empty(), "idle, with a call under way");
                        let held = self.worker.held_bytes();
                        let fits = held + claim.bytes_max <= self.held_bytes_max;
                        prop_assert!(fits || held == 0 || claim.lines_max == 0, "C3: {held} bytes held, {claim:?}");
                    }
                    StoreRequest::ClaimCall(claim) => {
                        prop_assert!(self.makes_calls);
                        prop_assert_eq!(self.licensed(), Some(claim.lease), "a call is claimed without a licence");
                    }
                    StoreRequest::Record(record) => {
                        prop_assert!(!record.items.is_empty());
                        self.recordings.insert(id, record.clone());
                        for item in &record.items {
                            let key = RunKey { batch: item.batch, line: item.line, token: item.token };
                            prop_assert!(self.started.contains(&key), "an answer of no run");
                            if let Some((lease, answer)) = self.owed.get(&key) {
                                prop_assert_eq!(*lease, record.lease);
                                let same = match (answer, &item.answer) {
                                    (RunAnswer::Success(a), Answer::Success(b)) => a == b,
                                    (RunAnswer::Failed(a), Answer::Failed(b)) => a == b,
                                    (RunAnswer::Retry(a), Answer::Retry { error, timed_out, .. }) => {
                                        a == error && !timed_out
                                    }
                                    _ => false,
                                };
                                prop_assert!(same, "{answer:?} became {:?}", item.answer);
                            }
                        }
                    }
                    _ => {}
                }
                self.asked.push((id, request));
            }
            WorkerEffect::Start(start) => {
                let lease = self.licensed();
                prop_assert!(lease.is_some(), "a start without a licence");
                prop_assert!(self.started.insert(start.key), "{:?} is run twice", start.key);
                let alone = self.store.alone.contains(&start.key.token);
                prop_assert!(!alone || self.calling.is_empty(), "a row runs alone beside a call");
                self.running.insert(start.key, lease.unwrap());
                prop_assert!(self.running.len() <= self.concurrency, "more runs than slots");
            }
            WorkerEffect::Cancel(key) => {
                // Its end may be on its way already.
                prop_assert!(self.started.contains(&key), "cancelled, and never started");
                prop_assert!(self.cancelled.insert(key), "cancelled twice");
            }
            WorkerEffect::Abandon(key) => {
                prop_assert!(self.cancelled.contains(&key), "abandoned, and not cancelled");
                prop_assert!(self.running.remove(&key).is_some());
                self.abandoned.insert(key);
            }
            WorkerEffect::Keeper(KeeperCommand::Drop) => {
                prop_assert!(self.running.is_empty() && self.owed.is_empty(), "it leaves owing something");
                prop_assert!(self.calling.is_empty(), "it leaves in the midst of a call");
                self.dropped = true;
            }
            WorkerEffect::Keeper(KeeperCommand::Running(_) | KeeperCommand::RenewNow) | WorkerEffect::Tell(_) => {}
            WorkerEffect::Call(grant) => {
                prop_assert!(self.licensed().is_some(), "a call without a licence");
                let alone = self.running.keys().any(|key| self.store.alone.contains(&key.token));
                prop_assert!(!alone, "a call beside a row that runs alone");
                prop_assert!(self.called.insert(grant.key), "{:?} is made twice", grant.key);
                self.calling.insert(grant.key);
                prop_assert!(self.calling.len() <= 2, "more calls than it may make at once");
            }
            WorkerEffect::CancelCall(key) => {
                prop_assert!(self.called.contains(&key), "cancelled, and never made");
                prop_assert!(self.calls_cancelled.insert(key), "cancelled twice");
            }
            WorkerEffect::AbandonCall(key) => {
                prop_assert!(self.calls_cancelled.contains(&key), "abandoned, and not cancelled");
                prop_assert!(self.calling.remove(&key));
            }
            WorkerEffect::Exit(_) => self.exited = true,
        }
        Ok(())
    }

    fn process(&mut self, n: usize) {
        if !self.asked.is_empty() {
            let (id, request) = self.asked.swap_remove(n % self.asked.len());
            let reply = self.store.process(&request);
            self.replies.push((id, reply));
        }
    }

    fn deliver(&mut self, n: usize) -> Result<(), TestCaseError> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let at = n % self.replies.len();
        let (id, reply) = self.replies[at].clone();
        self.arrives(id, reply)?;
        // Every other reply may arrive once more.
        if n.is_multiple_of(2) {
            self.replies.swap_remove(at);
        }
        Ok(())
    }

    fn arrives(&mut self, id: RequestId, reply: StoreReply) -> Result<(), TestCaseError> {
        if let (StoreReply::Record(_), Some(record)) = (&reply, self.recordings.get(&id)) {
            for item in &record.items {
                self.owed.remove(&RunKey { batch: item.batch, line: item.line, token: item.token });
            }
        }
        self.tell(WorkerInput::Store(id, Ok(reply)))
    }

    fn end_run(&mut self, n: usize, how: u8) -> Result<(), TestCaseError> {
        let Some((key, lease)) = self.running.iter().nth(n % self.running.len().max(1)).map(|(k, l)| (*k, *l)) else {
            return Ok(());
        };
        let text: Box<str> = format!("{key:?}").into();
        let answer = match how % 7 {
            0..=2 => RunAnswer::Success(text),
            3 => RunAnswer::Failed(text),
            4 => RunAnswer::Retry(text),
            5 => RunAnswer::Interrupted,
            _ => RunAnswer::Cancelled,
        };
        self.running.remove(&key);
        if !matches!(answer, RunAnswer::Cancelled | RunAnswer::Interrupted) {
            self.owed.insert(key, (lease, answer.clone()));
        }
        self.tell(WorkerInput::RunEnded(key, answer))
    }

    fn end_call(&mut self, n: usize, how: u8) -> Result<(), TestCaseError> {
        let Some(key) = self.calling.iter().nth(n % self.calling.len().max(1)).copied() else { return Ok(()) };
        self.calling.remove(&key);
        let answer = match how % 4 {
            0 | 1 => CallAnswer::Delivered,
            2 => CallAnswer::Failed("no".into()),
            _ => CallAnswer::Cancelled,
        };
        self.tell(WorkerInput::CallEnded(key, answer))
    }

    fn held(&mut self, closed: Vec<BatchId>) -> Result<(), TestCaseError> {
        let Some((lease, _)) = self.licence else { return Ok(()) };
        if !self.store.live.contains(&lease) || self.dropped {
            return Ok(());
        }
        let licence_ends = self.now + LICENCE;
        self.licence = Some((lease, licence_ends));
        self.tell(WorkerInput::Lease(LeaseEvent::Held { lease, licence_ends, closed }))
    }

    /// Time passes; the worker is woken whenever it asked to be.
    fn wakeups(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(next) = self.worker.poll_timeout().filter(|next| *next <= end) {
            wakes += 1;
            prop_assert!(wakes < 10_000, "it never sleeps");
            self.now = next;
            self.wake_up()?;
        }
        self.now = end;
        self.wake_up()
    }

    fn happens(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Process(n) => self.process(n),
            Happening::Deliver(n) => self.deliver(n)?,
            Happening::Fail(n, failure) => {
                if !self.asked.is_empty() {
                    let at = n % self.asked.len();
                    let id = self.asked[at].0;
                    if failure == StoreFailure::NotDone || n.is_multiple_of(3) {
                        self.asked.swap_remove(at);
                    }
                    self.tell(WorkerInput::Store(id, Err(failure)))?;
                }
            }
            // A run that was given up ends as well, some time.
            Happening::End(n, 255) if !self.abandoned.is_empty() => {
                let at = n % self.abandoned.len();
                if let Some(key) = self.abandoned.iter().nth(at).copied() {
                    self.abandoned.remove(&key);
                    self.tell(WorkerInput::RunEnded(key, RunAnswer::Success("late".into())))?;
                }
            }
            Happening::End(n, how) => self.end_run(n, how)?,
            Happening::EndCall(n, how) => self.end_call(n, how)?,
            Happening::CallsDue => self.tell(WorkerInput::CallsDue)?,
            Happening::Wakeups(millis) => self.wakeups(Duration::from_millis(millis.into()))?,
            Happening::Sleep(millis) => self.now = self.now + Duration::from_millis(millis.into()),
            Happening::Renewed { closed } => self.held(closed.map(BatchId::from_random).into_iter().collect())?,
            Happening::Abort(batch) => {
                let batch = BatchId::from_random(batch);
                self.store.aborted.insert(batch);
                self.store.held.retain(|key, _| key.batch != batch);
            }
            Happening::LeaseEnds => {
                if let Some((lease, _)) = self.licence.take() {
                    self.store.end(lease);
                    self.tell(WorkerInput::Lease(LeaseEvent::Ended { lease }))?;
                }
            }
            Happening::NewLease => {
                if self.licence.is_none() && !self.dropped {
                    self.leases += 1;
                    let lease = LeaseId::from_random(self.leases);
                    self.store.live.insert(lease);
                    self.licence = Some((lease, self.now));
                    self.held(Vec::new())?;
                }
            }
            Happening::Wake => self.tell(WorkerInput::Wake)?,
            Happening::BatchOpened => self.tell(WorkerInput::BatchOpened)?,
            Happening::Stop => self.tell(WorkerInput::Stop)?,
        }
        if self.dropped && !self.exited {
            if let Some((lease, _)) = self.licence.take() {
                self.store.end(lease);
            }
            self.tell(WorkerInput::Lease(LeaseEvent::Dropped))?;
            prop_assert!(self.exited);
        }
        Ok(())
    }

    /// Faults stop, and there is nothing more to claim: every line that the store granted is done with.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        self.store.empty = true;
        let mut news: Vec<BatchId> = self.store.aborted.iter().copied().collect();
        for _ in 0..200 {
            if self.exited {
                break;
            }
            self.happens(Happening::NewLease)?;
            self.held(news)?;
            // From now on as a renewal tells it: of what the worker holds.
            let holds = self.worker.running_lines();
            news = holds.iter().map(|(batch, _)| *batch).filter(|batch| self.store.aborted.contains(batch)).collect();
            while !self.asked.is_empty() {
                self.process(0);
            }
            // Old replies first, so that they are late.
            while !self.replies.is_empty() && !self.exited {
                let (id, reply) = self.replies.remove(0);
                self.arrives(id, reply)?;
            }
            while !self.running.is_empty() {
                self.end_run(0, 0)?;
            }
            while !self.calling.is_empty() {
                self.end_call(0, 0)?;
            }
            while let Some(key) = self.abandoned.pop_first() {
                self.tell(WorkerInput::RunEnded(key, RunAnswer::Cancelled))?;
            }
            self.wakeups(Duration::from_millis(300))?;
            self.happens(Happening::Wake)?;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_worker_keeps_its_promises_whatever_happens(
        options in options(),
        seed in any::<u64>(),
        happenings in prop::collection::vec(happening(), 1..250),
    ) {
        let mut world = World::new(options, seed);
        world.drain()?;
        world.happens(Happening::NewLease)?;
        for happening in happenings {
            world.happens(happening)?;
            if world.exited {
                break;
            }
        }
        world.come_to_rest()?;
        prop_assert!(world.store.held.is_empty(), "held, and nobody is at work on it: {:?}", world.store.held);
        prop_assert!(world.exited || world.running.is_empty());
        let delivered = world.store.ends.iter().all(|end| end.delivered);
        prop_assert!(world.exited || !world.makes_calls || delivered, "an end was never told");
        prop_assert!(world.exited || world.owed.is_empty(), "never recorded: {:?}", world.owed);
    }
}
