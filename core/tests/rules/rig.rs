//! A machine, a clock, and short names for what goes in and comes out.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use fencepost_core::judge::{Judge, JudgeEffect, JudgeInput, JudgeOptions};
use fencepost_core::keeper::{Keeper, KeeperEffect, KeeperInput, KeeperOptions, LeaseEvent};
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A moment so long after the start of every test.
pub fn at(after_start: Duration) -> Instant {
    Instant::from_micros(1_000_000_000) + after_start
}

/// ttl 8 s: renewed every 4, margins and retries of 1, watched for 7 by looks every second.
pub const TIMING: Timing = Timing {
    ttl: Duration::from_secs(8),
    renew: Duration::from_secs(4),
    scan: Duration::from_secs(8),
    request_timeout: Duration::from_secs(2),
};

pub trait Machine {
    type Input;
    type Effect: Debug;
    fn input(&mut self, now: Instant, input: Self::Input);
    fn timeout(&mut self, now: Instant);
    fn effect(&mut self) -> Option<Self::Effect>;
    fn next(&self) -> Option<Instant>;
}

macro_rules! machine {
    ($machine:ty, $input:ty, $effect:ty) => {
        impl Machine for $machine {
            type Input = $input;
            type Effect = $effect;
            fn input(&mut self, now: Instant, input: $input) {
                self.handle_input(now, input);
            }
            fn timeout(&mut self, now: Instant) {
                self.handle_timeout(now);
            }
            fn effect(&mut self) -> Option<$effect> {
                self.poll_effect()
            }
            fn next(&self) -> Option<Instant> {
                self.poll_timeout()
            }
        }
    };
}
machine!(Worker, WorkerInput, WorkerEffect);
machine!(Keeper, KeeperInput, KeeperEffect);
machine!(Judge, JudgeInput, JudgeEffect);

pub struct Rig<M: Machine> {
    pub machine: M,
    pub now: Instant,
}

impl<M: Machine> Rig<M> {
    /// Everything it wants now. Asked again at once, it wants nothing, and its next wake-up is ahead.
    fn drain(&mut self) -> Vec<M::Effect> {
        let effects: Vec<_> = std::iter::from_fn(|| self.machine.effect()).take(10_000).collect();
        self.machine.timeout(self.now);
        let again = self.machine.effect();
        assert!(again.is_none(), "a second timeout at the same instant: {again:?}");
        assert!(self.machine.next().is_none_or(|next| next > self.now), "the next wake-up is not ahead");
        effects
    }

    pub fn tell(&mut self, input: M::Input) -> Vec<M::Effect> {
        self.machine.input(self.now, input);
        self.drain()
    }

    /// Time passes; the machine is woken whenever it asked to be.
    pub fn pass(&mut self, time: Duration) -> Vec<M::Effect> {
        self.pass_timed(time).into_iter().map(|(_, effect)| effect).collect()
    }

    pub fn pass_timed(&mut self, time: Duration) -> Vec<(Instant, M::Effect)> {
        let end = self.now + time;
        let mut all = Vec::new();
        loop {
            let next = self.machine.next().filter(|next| *next <= end);
            self.now = next.unwrap_or(end);
            self.machine.timeout(self.now);
            all.extend(self.drain().into_iter().map(|effect| (self.now, effect)));
            if next.is_none() {
                return all;
            }
        }
    }

    /// The process is stopped for so long: nobody wakes it meanwhile.
    pub fn sleep(&mut self, time: Duration) {
        self.now = self.now + time;
    }
}

// --- worker

pub const BATCH: BatchId = BatchId::from_random(7);
pub const OTHER: BatchId = BatchId::from_random(8);
pub const LEASE: LeaseId = LeaseId::from_random(1);
pub const LEASE_2: LeaseId = LeaseId::from_random(2);

pub fn options(concurrency: u32) -> WorkerOptions {
    let (operations, poll) = (vec!["op".into()], secs(1));
    WorkerOptions { timing: TIMING, operations, concurrency, poll, ..WorkerOptions::default() }
}

pub fn worker(options: WorkerOptions) -> Rig<Worker> {
    let now = at(secs(0));
    let mut rig = Rig { machine: Worker::new(options, 1, now), now };
    assert!(rig.pass(secs(0)).is_empty());
    rig
}

pub fn held(lease: LeaseId, licence_ends: Instant) -> WorkerInput {
    WorkerInput::Lease(LeaseEvent::Held { lease, licence_ends, closed: Vec::new() })
}

/// A worker that was just told that it holds [`LEASE`], for ever; and what it wanted then.
pub fn at_work(options: WorkerOptions) -> (Rig<Worker>, Vec<WorkerEffect>) {
    let mut rig = worker(options);
    let effects = rig.tell(held(LEASE, at(secs(1_000_000))));
    (rig, effects)
}

pub fn grant(token: u64, lines: impl IntoIterator<Item = u64>) -> Grant {
    Grant {
        batch: BATCH,
        operation: "op".into(),
        token: Token(token),
        rows: lines.into_iter().map(|line| GrantedRow { line, attempts: 0, input: "{}".into() }).collect(),
        suspicion: 0,
        alone: false,
        recovered_from: None,
        timeout: secs(100_000),
    }
}

pub fn granted(grants: Vec<Grant>) -> StoreReply {
    let next_after = None;
    StoreReply::Claim(ClaimReply::Granted { grants, suspect_waits: false, next_after, open_lines: true })
}

/// A worker that claimed these spans; its next claim, if it has sent one, is left without an answer.
pub fn with_grants(options: WorkerOptions, grants: Vec<Grant>) -> (Rig<Worker>, Vec<WorkerEffect>) {
    let (mut rig, effects) = at_work(options);
    let (id, _) = claims(&effects)[0].clone();
    let effects = rig.tell(WorkerInput::Store(id, Ok(granted(grants))));
    (rig, effects)
}

pub fn run(line: u64, token: u64) -> RunKey {
    RunKey { batch: BATCH, line, token: Token(token) }
}

pub fn ended(key: RunKey, answer: RunAnswer) -> WorkerInput {
    WorkerInput::RunEnded(key, answer)
}

pub fn success(key: RunKey) -> WorkerInput {
    ended(key, RunAnswer::Success("1".into()))
}

pub fn asked(effects: &[WorkerEffect]) -> Vec<(RequestId, StoreRequest)> {
    let pick = |effect: &WorkerEffect| match effect {
        WorkerEffect::Store(id, request) => Some((*id, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn claims(effects: &[WorkerEffect]) -> Vec<(RequestId, Claim)> {
    let pick = |(id, request)| match request {
        StoreRequest::Claim(claim) => Some((id, claim)),
        _ => None,
    };
    asked(effects).into_iter().filter_map(pick).collect()
}

pub fn settlings(effects: &[WorkerEffect]) -> Vec<(RequestId, LeaseId, u64)> {
    let pick = |(id, request)| match request {
        StoreRequest::SettleClaim { lease, number } => Some((id, lease, number)),
        _ => None,
    };
    asked(effects).into_iter().filter_map(pick).collect()
}

pub fn records(effects: &[WorkerEffect]) -> Vec<(RequestId, Record)> {
    let pick = |(id, request)| match request {
        StoreRequest::Record(record) => Some((id, record)),
        _ => None,
    };
    asked(effects).into_iter().filter_map(pick).collect()
}

type GivenBack = (RequestId, LeaseId, Vec<(BatchId, Token, LineSet)>);

pub fn give_backs(effects: &[WorkerEffect]) -> Vec<GivenBack> {
    let pick = |(id, request)| match request {
        StoreRequest::GiveBack { lease, lines } => Some((id, lease, lines)),
        _ => None,
    };
    asked(effects).into_iter().filter_map(pick).collect()
}

pub fn starts(effects: &[WorkerEffect]) -> Vec<RunKey> {
    let pick = |effect: &WorkerEffect| match effect {
        WorkerEffect::Start(start) => Some(start.key),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn cancels(effects: &[WorkerEffect]) -> Vec<RunKey> {
    let pick = |effect: &WorkerEffect| match effect {
        WorkerEffect::Cancel(key) => Some(*key),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn lines(first: u64, last: u64) -> LineSet {
    LineSet::range(first, last)
}

pub fn drops(effects: &[WorkerEffect]) -> usize {
    let drop =
        |effect: &&WorkerEffect| matches!(effect, WorkerEffect::Keeper(fencepost_core::keeper::KeeperCommand::Drop));
    effects.iter().filter(drop).count()
}

pub fn exits(effects: &[WorkerEffect]) -> Vec<ExitReason> {
    let pick = |effect: &WorkerEffect| match effect {
        WorkerEffect::Exit(reason) => Some(reason.clone()),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

/// Answers every item of the record request as recorded.
pub fn recorded(rig: &mut Rig<Worker>, (id, record): &(RequestId, Record)) -> Vec<WorkerEffect> {
    let verdicts = vec![Verdict::Recorded(Recorded::Success); record.items.len()];
    rig.tell(WorkerInput::Store(*id, Ok(StoreReply::Record(verdicts))))
}

// --- keeper

pub fn identity(pid: u32) -> ProcessIdentity {
    ProcessIdentity { machine: "here".into(), pid, start_ticks: 1 }
}

pub fn keeper(stable_name: bool, liveness: bool) -> (Rig<Keeper>, Vec<KeeperEffect>) {
    let options = KeeperOptions {
        worker: "w".into(),
        stable_name,
        timing: TIMING,
        process: Some(identity(1)),
        operations: vec!["op".into()],
        calls: Default::default(),
        liveness,
        seed: 1,
    };
    let now = at(secs(0));
    let mut rig = Rig { machine: Keeper::new(options, now), now };
    let effects = rig.pass(secs(0));
    (rig, effects)
}

/// A keeper without a second witness that holds its lease since the start.
pub fn keeping() -> Rig<Keeper> {
    let (mut rig, effects) = keeper(false, false);
    let (id, _) = takes(&effects)[0];
    rig.tell(KeeperInput::Store(id, Ok(StoreReply::TakeLease(TakeLeaseReply::Taken))));
    rig
}

pub fn kept(effects: &[KeeperEffect]) -> Vec<(RequestId, StoreRequest)> {
    let pick = |effect: &KeeperEffect| match effect {
        KeeperEffect::Store(id, request) => Some((*id, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn takes(effects: &[KeeperEffect]) -> Vec<(RequestId, LeaseId)> {
    let pick = |(id, request)| match request {
        StoreRequest::TakeLease(take) => Some((id, take.lease)),
        _ => None,
    };
    kept(effects).into_iter().filter_map(pick).collect()
}

pub fn renewals(effects: &[KeeperEffect]) -> Vec<RequestId> {
    let pick = |(id, request)| matches!(request, StoreRequest::Renew { .. }).then_some(id);
    kept(effects).into_iter().filter_map(pick).collect()
}

pub fn told(effects: &[KeeperEffect]) -> Vec<LeaseEvent> {
    let pick = |effect: &KeeperEffect| match effect {
        KeeperEffect::Tell(event) => Some(event.clone()),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn renewed() -> Result<StoreReply, StoreFailure> {
    Ok(StoreReply::Renew(RenewReply::Renewed { closed: Vec::new() }))
}

pub fn refused(taken_over: bool) -> Result<StoreReply, StoreFailure> {
    Ok(StoreReply::Renew(RenewReply::Refused { taken_over }))
}

// --- judge

/// The store's clock runs with the test's, from an origin of its own.
pub fn store_time(now: Instant) -> StoreTime {
    StoreTime(i64::try_from(now.as_micros()).unwrap() + 5_000_000_000)
}

/// The lease of a worker on another machine, last renewed at `renewed_at`.
pub fn view(lease: LeaseId, renewed_at: Instant, renewals: u64) -> LeaseView {
    LeaseView {
        lease,
        worker: "w".into(),
        ttl: TIMING.ttl,
        renew: TIMING.renew,
        expires_at: store_time(renewed_at) + TIMING.ttl,
        renewals,
        process: None,
    }
}

pub fn judge(liveness: bool) -> (Rig<Judge>, Vec<JudgeEffect>) {
    judge_that_scans(TIMING.scan, liveness)
}

pub fn judge_that_scans(scan: Duration, liveness: bool) -> (Rig<Judge>, Vec<JudgeEffect>) {
    let timing = Timing { scan, ..TIMING };
    let options = JudgeOptions { timing, machine: Some("here".into()), liveness, local_check: secs(1) };
    let now = at(secs(0));
    let mut rig = Rig { machine: Judge::new(options, now), now };
    let effects = rig.pass(secs(0));
    (rig, effects)
}

pub fn judged(effects: &[JudgeEffect]) -> Vec<(RequestId, StoreRequest)> {
    let pick = |effect: &JudgeEffect| match effect {
        JudgeEffect::Store(id, request) => Some((*id, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn looks(effects: &[JudgeEffect]) -> Vec<RequestId> {
    judged(effects).into_iter().filter_map(|(id, r)| (r == StoreRequest::Look).then_some(id)).collect()
}

pub fn acts(effects: &[JudgeEffect]) -> Vec<(RequestId, Recover)> {
    let pick = |(id, request)| match request {
        StoreRequest::Recover(recover) => Some((id, recover)),
        _ => None,
    };
    judged(effects).into_iter().filter_map(pick).collect()
}

pub fn shows(now: Instant, leases: Vec<LeaseView>) -> Result<StoreReply, StoreFailure> {
    Ok(StoreReply::Look(LookReply { now: store_time(now), leases, not_before_max: None }))
}

/// Lets the judge look for so long; every look is answered at once by `leases`. Returns all effects with their times.
pub fn watch(
    rig: &mut Rig<Judge>,
    mut pending: Vec<JudgeEffect>,
    time: Duration,
    mut leases: impl FnMut(Instant) -> Option<Vec<LeaseView>>,
) -> Vec<(Instant, JudgeEffect)> {
    let end = rig.now + time;
    let mut all = Vec::new();
    loop {
        let mut answered = BTreeSet::new();
        while let Some(id) = looks(&pending).into_iter().find(|id| !answered.contains(id)) {
            answered.insert(id);
            let reply = leases(rig.now).map_or(Err(StoreFailure::NotDone), |leases| shows(rig.now, leases));
            pending.extend(rig.tell(JudgeInput::Store(id, reply)));
        }
        all.extend(pending.drain(..).map(|effect| (rig.now, effect)));
        let Some(next) = rig.machine.poll_timeout().filter(|next| *next <= end) else {
            rig.now = end;
            return all;
        };
        pending = rig.pass(next.since(rig.now));
    }
}
