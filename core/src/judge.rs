//! Looking for dead workers: known deaths at once (R1), silent ones after a second look (R2), and the act (R3).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Timing;
use crate::ids::{LeaseId, RequestId};
use crate::keeper::heartbeat_of;
use crate::liveness::{LivenessReply, LivenessRequest};
use crate::rules::outcome::BACKOFF_MAX;
use crate::rules::recovery::{
    LOOK_EVERY_MIN, ProcessState, SecondLook, r1_death_known, r2_heartbeat_allows, r2_late_in, r2_look_every,
    r2_past_its_time, r2_too_far_ahead, r2_watch_for, r2_witness_limit,
};
use crate::store::{
    EndCause, LeaseView, LookReply, ProcessIdentity, Recover, RecoverReply, StoreFailure, StoreReply, StoreRequest,
};
use crate::time::{Instant, StoreTime};

/// How a judge looks.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct JudgeOptions {
    /// The judge's own timings: how often it scans, how long a request may take.
    pub timing: Timing,
    /// The judge's machine: it can tell the death of processes on the same one (R1).
    pub machine: Option<String>,
    /// Whether there is a second witness.
    pub liveness: bool,
    /// How often processes on the same machine are looked up between scans, without asking the store.
    pub local_check: Duration,
}

/// What a judge is told.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum JudgeInput {
    /// The store answered, or did not.
    Store(RequestId, Result<StoreReply, StoreFailure>),
    /// The second witness answered, or did not.
    Liveness(RequestId, Option<LivenessReply>),
    /// What the machine says of a process asked for.
    Process(LeaseId, ProcessState),
    /// The worker that this judge belongs to holds this lease now: it is not judged by itself.
    OwnLease(Option<LeaseId>),
    /// R1: a supervisor saw this process end. May be repeated.
    ProcessEnded(ProcessIdentity),
    /// Others may have taken leases: their processes may be of this machine, and are to be known before they can die (R1).
    LeasesTaken,
}

/// What a judge wants done.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum JudgeEffect {
    /// Ask the store.
    Store(RequestId, StoreRequest),
    /// Ask the second witness.
    Liveness(RequestId, LivenessRequest),
    /// Look up the process of this lease on this machine.
    CheckProcess(LeaseId, ProcessIdentity),
    /// Something to tell people.
    Tell(JudgeEvent),
}

/// What a judge did.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum JudgeEvent {
    /// A lease was declared dead by this judge.
    Recovered {
        /// Which lease.
        lease: LeaseId,
        /// Its worker.
        worker: String,
        /// Why.
        cause: EndCause,
        /// How many lines came back.
        lines: u64,
        /// How many rows failed because they crashed too often.
        failed: u64,
    },
}

/// An act of recovery that waits or is under way.
#[derive(Debug, Clone, Hash)]
struct Act {
    view: LeaseView,
    now: StoreTime,
    cause: EndCause,
}

impl Act {
    fn is_of(&self, lease: LeaseId) -> bool {
        self.view.lease == lease
    }
}

/// A question to the second witness, until when its answer is waited for, and the acts that depend on it.
#[derive(Debug, Clone, Hash)]
struct Asking {
    id: RequestId,
    until: Instant,
    acts: Vec<Act>,
}

/// Reported deaths that no lease was found for are remembered, up to so many.
const REPORTS_MAX: usize = 64;

/// The judging machine of one worker.
#[derive(Debug, Clone, Hash)]
pub struct Judge {
    options: JudgeOptions,
    own_lease: Option<LeaseId>,
    looking: Option<(RequestId, Instant)>,
    next_look_at: Instant,
    last_look_at: Option<Instant>,
    /// Leases were taken while a look was under way.
    look_soon: bool,
    /// Something changed while a look was under way: what it shows may be older.
    look_again: bool,
    next_local_check_at: Option<Instant>,
    looks: BTreeMap<LeaseId, SecondLook>,
    /// Live leases of others on this machine, as last seen.
    local: BTreeMap<LeaseId, LeaseView>,
    reported: VecDeque<ProcessIdentity>,
    /// Lapsed leases that the second witness is still to be asked about.
    lapsed: VecDeque<Act>,
    asking: Option<Asking>,
    /// Acts that wait for their turn: known deaths, then lapsed leases that the second witness lets go.
    due: VecDeque<Act>,
    /// The act under way and when it was asked for: one at a time. One that cannot be done blocks no other.
    recovering: Option<(RequestId, Instant, Act)>,
    effects: VecDeque<JudgeEffect>,
    next_request: u64,
}

impl Judge {
    /// A judge that looks for the first time at `now`: a new worker starts looking at its start (R4).
    pub fn new(options: JudgeOptions, now: Instant) -> Self {
        Self {
            options,
            own_lease: None,
            looking: None,
            next_look_at: now,
            last_look_at: None,
            look_soon: false,
            look_again: false,
            next_local_check_at: None,
            looks: BTreeMap::new(),
            local: BTreeMap::new(),
            reported: VecDeque::new(),
            lapsed: VecDeque::new(),
            asking: None,
            due: VecDeque::new(),
            recovering: None,
            effects: VecDeque::new(),
            next_request: 0,
        }
    }

    /// What to do next, if anything.
    pub fn poll_effect(&mut self) -> Option<JudgeEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let limit = self.options.timing.request_timeout;
        let look = self.looking.map_or(self.next_look_at, |(_, sent_at)| sent_at + limit);
        let asking = self.asking.as_ref().map(|asking| asking.until);
        let recovering = self.recovering.as_ref().map(|(_, sent_at, _)| *sent_at + limit);
        [Some(look), asking, recovering, self.next_local_check_at].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let limit = self.options.timing.request_timeout;
        if self.looking.is_some_and(|(_, sent_at)| now >= sent_at + limit) {
            self.look_failed(now);
        }
        // The next look shows whether it is still to be done.
        self.recovering.take_if(|(_, sent_at, _)| now >= *sent_at + limit);
        if let Some(asking) = self.asking.take_if(|asking| now >= asking.until) {
            self.heartbeats_known(asking.acts, None);
        }
        if self.looking.is_none() && now >= self.next_look_at {
            let id = self.new_request();
            self.looking = Some((id, now));
            self.last_look_at = Some(now);
            self.effects.push_back(JudgeEffect::Store(id, StoreRequest::Look));
        }
        if self.next_local_check_at.is_some_and(|at| now >= at) {
            self.check_local_processes(now);
        }
        self.act(now);
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: JudgeInput) {
        match input {
            JudgeInput::Store(id, reply) => self.handle_store(now, id, reply),
            JudgeInput::Liveness(id, reply) => {
                if let Some(asking) = self.asking.take_if(|asking| asking.id == id) {
                    self.heartbeats_known(asking.acts, reply.as_ref());
                }
            }
            JudgeInput::Process(lease, state) => self.handle_process(now, lease, state),
            JudgeInput::OwnLease(lease) => self.own_lease = lease,
            JudgeInput::ProcessEnded(process) => {
                self.remember(process);
                self.look_now(now);
            }
            JudgeInput::LeasesTaken if self.options.machine.is_some() => {
                let soon = self.last_look_at.map_or(now, |at| at + self.options.local_check.max(LOOK_EVERY_MIN));
                self.next_look_at = self.next_look_at.min(soon.max(now));
                // What a look under way shows may be older.
                self.look_soon = self.looking.is_some();
            }
            // Nobody's death is seen here: scans are soon enough.
            JudgeInput::LeasesTaken => {}
        }
        self.handle_timeout(now);
    }

    fn remember(&mut self, process: ProcessIdentity) {
        if !self.reported.contains(&process) {
            self.reported.push_back(process);
        }
        if self.reported.len() > REPORTS_MAX {
            self.reported.pop_front();
        }
    }

    fn look_now(&mut self, now: Instant) {
        self.next_look_at = now;
        self.look_again = self.looking.is_some();
    }

    fn handle_store(&mut self, now: Instant, id: RequestId, reply: Result<StoreReply, StoreFailure>) {
        if let Some((_, sent_at)) = self.looking.filter(|(asked, _)| *asked == id) {
            self.looking = None;
            // What was answered in time may be heard late: this process may have slept.
            let in_time = now < sent_at + self.options.timing.request_timeout;
            match reply {
                Ok(StoreReply::Look(look)) if in_time => self.looked(now, sent_at, look),
                _ => self.look_failed(now),
            }
            return;
        }
        if let Some((_, _, act)) = self.recovering.take_if(|(asked, _, _)| *asked == id) {
            match reply {
                Ok(StoreReply::Recover(RecoverReply::Recovered { lines, failed })) => {
                    self.forget(act.view.lease);
                    let Act { view: LeaseView { lease, worker, .. }, cause, .. } = act;
                    self.tell(JudgeEvent::Recovered { lease, worker, cause, lines, failed });
                }
                // Renewed or ended, the next look shows it; only held up until the look was old (R3), the watch is as good as before.
                Ok(_) => {
                    self.local.remove(&act.view.lease);
                }
                Err(_) => {}
            }
        }
    }

    /// R2: a failed look starts every count again.
    fn look_failed(&mut self, now: Instant) {
        self.looking = None;
        self.looks.clear();
        self.next_look_at = now + r2_look_every(self.options.timing.renew);
    }

    /// R2: goes through all live leases as the store shows them.
    fn looked(&mut self, now: Instant, sent_at: Instant, look: LookReply) {
        let others: Vec<LeaseView> =
            look.leases.into_iter().filter(|view| Some(view.lease) != self.own_lease).collect();
        let live: Vec<LeaseId> = others.iter().map(|view| view.lease).collect();
        self.looks.retain(|lease, _| live.contains(lease));
        self.local.clear();
        let not_before_ahead = look.not_before_max.is_some_and(|at| at.since(look.now) > BACKOFF_MAX);
        if not_before_ahead || others.iter().any(|view| r2_too_far_ahead(view, look.now)) {
            let id = self.new_request();
            let request = StoreRequest::CutBack { backoff_max: BACKOFF_MAX };
            self.effects.push_back(JudgeEffect::Store(id, request));
        }
        let mut next_in = self.options.timing.scan;
        for view in others {
            if view.process.as_ref().is_some_and(|process| self.reported.contains(process)) {
                // Where it is spared by a renewal still on its way, the next look shows it.
                next_in = next_in.min(r2_look_every(view.renew));
                self.decide(Act { view, now: look.now, cause: EndCause::Died });
                continue;
            }
            if let (Some(process), Some(machine)) = (&view.process, &self.options.machine)
                && process.machine == *machine
            {
                self.effects.push_back(JudgeEffect::CheckProcess(view.lease, process.clone()));
                self.local.insert(view.lease, view.clone());
            }
            next_in = next_in.min(self.next_look_in(&view, look.now));
            self.second_look(now, sent_at, view, look.now);
        }
        if std::mem::take(&mut self.look_soon) {
            next_in = next_in.min(self.options.local_check);
        }
        let look_again = std::mem::take(&mut self.look_again);
        self.next_look_at = if look_again { now } else { now + next_in.max(LOOK_EVERY_MIN) };
        self.plan_local_check(now);
    }

    fn plan_local_check(&mut self, now: Instant) {
        let every = self.options.local_check.max(LOOK_EVERY_MIN);
        self.next_local_check_at = (!self.local.is_empty()).then(|| now + every);
    }

    /// R2, R4: a lease whose renewal is late is watched closely, so that the second look is complete when its time is over;
    /// one that is in time is looked at when it would be late. With a scan too short for that, it is watched from the start.
    fn next_look_in(&self, view: &LeaseView, store_now: StoreTime) -> Duration {
        match r2_late_in(view, store_now) {
            None => r2_look_every(view.renew),
            Some(_) if self.options.timing.scan < r2_watch_for(view.renew, view.ttl) => {
                r2_look_every(view.renew) * 3 / 2
            }
            Some(late_in) => late_in,
        }
    }

    fn second_look(&mut self, now: Instant, sent_at: Instant, view: LeaseView, store_now: StoreTime) {
        let watch = self.looks.entry(view.lease).or_insert_with(|| SecondLook::begin(&view, sent_at, now));
        watch.look(&view, sent_at, now);
        if r2_past_its_time(&view, store_now) && watch.complete(&view, sent_at) {
            self.decide(Act { view, now: store_now, cause: EndCause::Lapsed });
        }
    }

    fn check_local_processes(&mut self, now: Instant) {
        for (lease, view) in &self.local {
            if let Some(process) = &view.process {
                self.effects.push_back(JudgeEffect::CheckProcess(*lease, process.clone()));
            }
        }
        self.plan_local_check(now);
    }

    /// R1: acts at once on a process of this machine that is gone. What is acted on is the lease as last seen; where it
    /// was renewed since, by a renewal still on its way at the death, the next look shows it.
    fn handle_process(&mut self, now: Instant, lease: LeaseId, state: ProcessState) {
        let machine = self.options.machine.clone().unwrap_or_default();
        let Some(view) = self.local.get(&lease) else { return };
        if r1_death_known(&machine, view.process.as_ref(), state) {
            let view = view.clone();
            if let Some(process) = view.process.clone() {
                self.remember(process);
            }
            self.decide(Act { view, now: StoreTime::default(), cause: EndCause::Died });
            // Spared by a late renewal or not, the store says soon.
            self.next_look_at = self.next_look_at.min(now + LOOK_EVERY_MIN);
        }
    }

    /// R1: a known death waits for no witness, and for no lease that lapsed. R3: of a lease that waits already, the newer look
    /// counts, or it would grow too old to act on.
    fn decide(&mut self, act: Act) {
        let lease = act.view.lease;
        if self.recovering.as_ref().is_some_and(|(_, _, other)| other.is_of(lease)) {
            return;
        }
        if act.cause == EndCause::Died {
            self.lapsed.retain(|other| !other.is_of(lease));
            self.due.retain(|other| !other.is_of(lease));
            if let Some(asking) = &mut self.asking {
                asking.acts.retain(|other| !other.is_of(lease));
            }
            let lapsed = |other: &Act| other.cause != EndCause::Died;
            let place = self.due.iter().position(lapsed).unwrap_or(self.due.len());
            self.due.insert(place, act);
            return;
        }
        // What was asked about another count says nothing of this one.
        let count = act.view.renewals;
        self.due.retain(|other| other.cause == EndCause::Died || !other.is_of(lease) || other.view.renewals == count);
        let asked_about = self.asking.iter_mut().flat_map(|asking| &mut asking.acts).find(|other| other.is_of(lease));
        if let Some(other) = self.due.iter_mut().find(|other| other.is_of(lease)) {
            if other.cause != EndCause::Died {
                *other = act;
            }
        } else if let Some(other) = asked_about {
            *other = act;
        } else if let Some(other) = self.lapsed.iter_mut().find(|other| other.is_of(lease)) {
            *other = act;
        } else if self.options.liveness {
            self.lapsed.push_back(act);
        } else {
            self.due.push_back(act);
        }
    }

    fn act(&mut self, now: Instant) {
        let own_lease = self.own_lease;
        let not_own = |act: &Act| Some(act.view.lease) != own_lease;
        self.due.retain(not_own);
        self.lapsed.retain(not_own);
        if self.recovering.is_none()
            && let Some(act) = self.due.pop_front()
        {
            self.recover(now, act);
        }
        if self.asking.is_none() {
            self.ask_for_heartbeats(now);
        }
    }

    /// R2, R4: one question for all that wait and have the same timings. Asked one after the other, a silent witness would
    /// let the looks at all but the first grow too old to act on.
    fn ask_for_heartbeats(&mut self, now: Instant) {
        let Some(first) = self.lapsed.front() else { return };
        let (ttl, renew) = (first.view.ttl, first.view.renew);
        let is_alike = |act: &Act| (act.view.ttl, act.view.renew) == (ttl, renew);
        let (acts, rest) = std::mem::take(&mut self.lapsed).into_iter().partition::<VecDeque<_>, _>(is_alike);
        self.lapsed = rest;
        let id = self.new_request();
        let leases = acts.iter().map(|act| act.view.lease).collect();
        self.effects.push_back(JudgeEffect::Liveness(id, LivenessRequest::Check { leases, ttl_max: ttl }));
        let until = now + r2_witness_limit(renew, self.options.timing.request_timeout);
        self.asking = Some(Asking { id, until, acts: acts.into() });
    }

    /// R2: the second witness spoke, or did not; a witness that cannot vouch has no veto.
    fn heartbeats_known(&mut self, acts: Vec<Act>, reply: Option<&LivenessReply>) {
        let is_allowed = |act: &Act| {
            let heartbeat = heartbeat_of(act.view.lease, reply);
            r2_heartbeat_allows(heartbeat, &act.view, act.now)
        };
        self.due.extend(acts.into_iter().filter(is_allowed));
    }

    /// R3: asks for the act, conditional on what was seen.
    fn recover(&mut self, now: Instant, act: Act) {
        let request = StoreRequest::Recover(Recover {
            lease: act.view.lease,
            renewals: act.view.renewals,
            seen_at: act.now,
            cause: act.cause,
            judge: self.own_lease,
        });
        let id = self.new_request();
        self.effects.push_back(JudgeEffect::Store(id, request));
        self.recovering = Some((id, now, act));
    }

    fn forget(&mut self, lease: LeaseId) {
        self.looks.remove(&lease);
        self.local.remove(&lease);
    }

    fn tell(&mut self, event: JudgeEvent) {
        self.effects.push_back(JudgeEffect::Tell(event));
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }
}
