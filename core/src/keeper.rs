//! A worker's lease: take it, renew it, drop it; take a predecessor's over; take a new one when it was declared dead.
//!
//! The keeper runs apart from row work, on its own thread and connection (L5), and tells the worker what it may do.

use std::collections::VecDeque;
use std::time::Duration;

use crate::calls::Calls;
use crate::config::Timing;
use crate::ids::{BatchId, LeaseId, RequestId};
use crate::lines::LineSet;
use crate::liveness::{LivenessReply, LivenessRequest};
use crate::random::Stream;
use crate::rules::lease::{l2_retry_after, l3_heartbeat_earned, l4_licence_ends, l5_next_renewal};
use crate::rules::recovery::{
    Heartbeat, NameHeld, ProcessState, SecondLook, r1_death_known, r2_heartbeat_allows, r2_look_every,
    r2_past_its_time, r2_witness_limit, r5_name_held,
};
use crate::store::{
    EndCause, LeaseView, ProcessIdentity, Recover, RenewReply, StoreFailure, StoreReply, StoreRequest, TakeLease,
    TakeLeaseReply,
};
use crate::time::{Instant, StoreTime};

/// Who the keeper keeps a lease for.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperOptions {
    /// The worker's name.
    pub worker: String,
    /// Whether the name is stable (R5).
    pub stable_name: bool,
    /// Timings of the lease.
    pub timing: Timing,
    /// This process, where others can look it up.
    pub process: Option<ProcessIdentity>,
    /// The operations that the worker has a handler for.
    pub operations: Vec<String>,
    /// S7: the completion calls that it makes.
    pub calls: Calls,
    /// Whether there is a second witness.
    pub liveness: bool,
    /// Makes lease ids: must differ between processes.
    pub seed: u64,
}

/// What a keeper is told.
#[derive(Debug, Clone, PartialEq)]
pub enum KeeperInput {
    /// The store answered, or did not.
    Store(RequestId, Result<StoreReply, StoreFailure>),
    /// The second witness answered, or did not.
    Liveness(RequestId, Option<LivenessReply>),
    /// What the machine says of the process asked for.
    Process(LeaseId, ProcessState),
    /// The worker wants something.
    Command(KeeperCommand),
}

/// What a worker wants of its keeper.
#[derive(Debug, Clone, PartialEq)]
pub enum KeeperCommand {
    /// What the worker holds: for the mirror, and for the question which batches are closed (S2).
    Running(Vec<(BatchId, LineSet)>),
    /// The store said that the lease has ended: ask now, not at the next renewal.
    RenewNow,
    /// S1: drop the lease and end.
    Drop,
}

/// What a keeper wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum KeeperEffect {
    /// Ask the store.
    Store(RequestId, StoreRequest),
    /// Ask the second witness.
    Liveness(RequestId, LivenessRequest),
    /// Look up the process of this lease on this machine.
    CheckProcess(LeaseId, ProcessIdentity),
    /// Tell the worker.
    Tell(LeaseEvent),
}

/// What a worker learns about its lease.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseEvent {
    /// L1: the lease is held; claims may begin. Also tells of every renewal.
    Held {
        /// Which lease.
        lease: LeaseId,
        /// L4: until when the worker may run rows under it, unless told anew.
        licence_ends: Instant,
        /// S2: those of the worker's batches that are no longer open.
        closed: Vec<BatchId>,
    },
    /// L6: the lease is dead; another will be taken.
    Ended {
        /// Which lease.
        lease: LeaseId,
    },
    /// R5: the name is in use by another process. No other lease will be taken.
    NameInUse {
        /// The name.
        worker: String,
    },
    /// S1: the lease is dropped.
    Dropped,
}

#[derive(Debug)]
enum State {
    /// Before a lease: `next_at` is when to ask (again).
    Taking { next_at: Instant, asked: Option<(RequestId, Instant)>, predecessor: Option<Predecessor> },
    /// L1: the lease is taken, its first heartbeat is on its way.
    FirstBeat { taken_at: Instant, asked: (RequestId, Instant) },
    /// Renewing.
    Held(Held),
    /// P1: declared dead while alive: takes its crashes back before it takes a new lease.
    Withdrawing { next_at: Instant, asked: Option<(RequestId, Instant)>, then: AfterWithdrawal },
    /// S1: on the way out.
    Dropping { next_at: Instant, asked: Option<(RequestId, Instant)> },
    /// Nothing more to do.
    Gone,
}

/// What follows once the crashes are taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterWithdrawal {
    TakeAnother,
    /// S1: the worker wants to leave.
    Leave,
    /// R5: the name is in use.
    NameInUse,
}

#[derive(Debug)]
struct Held {
    /// Renewals whose answer is still of interest, oldest first.
    asked: VecDeque<(RequestId, Instant)>,
    next_at: Instant,
    /// When the last good renewal was sent.
    renewed_at: Instant,
}

/// R5: a live lease under our stable name.
#[derive(Debug)]
struct Predecessor {
    look: SecondLook,
    view: LeaseView,
    now: StoreTime,
    death_known: bool,
    renewed_while_watched: bool,
    heartbeat: Option<(RequestId, Instant)>,
    recovering: Option<(RequestId, Instant)>,
}

impl Predecessor {
    /// When the second witness was asked about it, and does not answer any more.
    fn heartbeat_limit(&self, request_limit: Duration) -> Option<Instant> {
        let limit = r2_witness_limit(self.view.renew, request_limit);
        self.heartbeat.map(|(_, sent_at)| sent_at + limit)
    }
}

/// Outside a lease nothing is at stake: what failed is tried again after at most this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// Running rows that changed are published at most this often.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Answers to so many renewals are waited for at once; older ones are forgotten.
const RENEWALS_ASKED_MAX: usize = 8;

/// The lease-keeping machine of one worker.
#[derive(Debug)]
pub struct Keeper {
    options: KeeperOptions,
    ids: Stream,
    lease: LeaseId,
    /// L4: when the first take of this lease was sent that may have happened unheard; no later try extends it.
    maybe_taken_at: Option<Instant>,
    state: State,
    running: Vec<(BatchId, LineSet)>,
    /// The beat that the second witness has not answered yet.
    beat: Option<(RequestId, Instant)>,
    /// The same of a publication; no beat waits for it.
    publishing: Option<(RequestId, Instant)>,
    /// When the running rows are to be published, if they changed since they last were.
    publish_at: Option<Instant>,
    /// When they last were.
    published_at: Instant,
    effects: VecDeque<KeeperEffect>,
    next_request: u64,
}

impl Keeper {
    /// A keeper that asks for its first lease at `now`.
    pub fn new(options: KeeperOptions, now: Instant) -> Self {
        let mut ids = Stream::new(options.seed);
        let lease = LeaseId::from_random(ids.next_u64());
        Self {
            options,
            ids,
            lease,
            maybe_taken_at: None,
            state: State::Taking { next_at: now, asked: None, predecessor: None },
            running: Vec::new(),
            beat: None,
            publishing: None,
            publish_at: None,
            published_at: now,
            effects: VecDeque::new(),
            next_request: 0,
        }
    }

    /// The lease asked for or held.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Whether the keeper has ended: its lease is dropped or its name is in use elsewhere.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// What to do next, if anything.
    pub fn poll_effect(&mut self) -> Option<KeeperEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let limit = self.request_limit();
        let own = match &self.state {
            State::Taking { next_at, asked, predecessor } => {
                let heartbeat = predecessor.as_ref().and_then(|p| p.heartbeat_limit(limit));
                let request = predecessor.as_ref().and_then(|p| p.recovering).or(*asked);
                let waiting = request.map(|(_, sent_at)| sent_at + limit);
                Some(heartbeat.or(waiting).unwrap_or(*next_at))
            }
            State::FirstBeat { asked, .. } => Some(asked.1 + limit),
            State::Held(held) => Some(held.next_at),
            State::Withdrawing { next_at, asked, .. } | State::Dropping { next_at, asked } => {
                Some(asked.map_or(*next_at, |(_, sent_at)| sent_at + limit))
            }
            State::Gone => None,
        };
        let witness = [self.beat, self.publishing].into_iter().flatten().map(|(_, sent_at)| sent_at + limit);
        own.into_iter().chain(witness).chain(self.next_publish()).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let limit = self.request_limit();
        let expired = |asked: &Option<(RequestId, Instant)>| asked.is_some_and(|(_, sent_at)| now >= sent_at + limit);
        if expired(&self.beat) {
            self.beat = None;
        }
        if expired(&self.publishing) {
            self.publishing = None;
        }
        match &self.state {
            State::FirstBeat { asked, taken_at } if now >= asked.1 + limit => self.hold(now, *taken_at),
            // R2: a second witness that does not answer has no veto.
            State::Taking { predecessor: Some(held), .. }
                if held.heartbeat_limit(limit).is_some_and(|at| now >= at) =>
            {
                self.heartbeat_known(now, Heartbeat::NoWitness);
            }
            _ => {}
        }
        match &mut self.state {
            State::Taking { asked, predecessor, next_at } => {
                // A look or an act without an answer starts the count again.
                if predecessor.as_ref().is_some_and(|held| expired(&held.recovering)) {
                    *predecessor = None;
                    *next_at = now;
                }
                if let Some((_, sent_at)) = asked.take_if(|(_, sent_at)| now >= *sent_at + limit) {
                    self.maybe_taken_at.get_or_insert(sent_at);
                    *predecessor = None;
                    *next_at = now;
                }
                let waiting = asked.is_some()
                    || predecessor.as_ref().is_some_and(|p| p.recovering.is_some() || p.heartbeat.is_some());
                if !waiting && now >= *next_at {
                    self.take(now);
                }
            }
            State::Held(held) => {
                if now >= held.next_at {
                    self.renew(now);
                }
                self.publish(now);
            }
            State::Withdrawing { next_at, asked, .. } => {
                if expired(asked) {
                    *asked = None;
                    *next_at = now;
                }
                if asked.is_none() && now >= *next_at {
                    self.withdraw(now);
                }
            }
            State::Dropping { next_at, asked } => {
                if expired(asked) {
                    *asked = None;
                    *next_at = now;
                }
                if asked.is_none() && now >= *next_at {
                    self.drop_lease(now);
                }
            }
            State::FirstBeat { .. } | State::Gone => {}
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: KeeperInput) {
        match input {
            KeeperInput::Store(id, reply) => self.handle_store(now, id, reply),
            KeeperInput::Liveness(id, reply) => self.handle_liveness(now, id, reply),
            KeeperInput::Process(lease, state) => self.handle_process(lease, state),
            KeeperInput::Command(KeeperCommand::Running(running)) => self.running_changed(running),
            KeeperInput::Command(KeeperCommand::RenewNow) => {
                if let State::Held(held) = &mut self.state {
                    held.next_at = now;
                }
            }
            KeeperInput::Command(KeeperCommand::Drop) => match self.state {
                // S1: a take that was refused each time left nothing to drop.
                State::Taking { asked: None, .. } if self.maybe_taken_at.is_none() => self.end(LeaseEvent::Dropped),
                State::Held(_) | State::FirstBeat { .. } | State::Taking { .. } => {
                    self.state = State::Dropping { next_at: now, asked: None };
                }
                // A dead lease needs no dropping, but its crashes are taken back first.
                State::Withdrawing { then: ref mut then @ AfterWithdrawal::TakeAnother, .. } => {
                    *then = AfterWithdrawal::Leave;
                }
                State::Withdrawing { .. } => {}
                State::Dropping { .. } | State::Gone => {}
            },
        }
        self.handle_timeout(now);
    }

    /// A renewal or take counts as failed after an eighth of the ttl (L2), so that it is tried again in time.
    fn request_limit(&self) -> Duration {
        self.options.timing.request_timeout.min(l2_retry_after(self.options.timing.ttl))
    }

    fn handle_store(&mut self, now: Instant, id: RequestId, reply: Result<StoreReply, StoreFailure>) {
        let retry_at = now + l2_retry_after(self.options.timing.ttl).min(RETRY_AFTER_MAX);
        let is = |asked: &Option<(RequestId, Instant)>| asked.is_some_and(|(asked_id, _)| asked_id == id);
        match &mut self.state {
            State::Taking { asked, predecessor, next_at } => {
                if predecessor.as_ref().is_some_and(|p| is(&p.recovering)) {
                    // Recovered, spared or unknown: the next take tells.
                    *predecessor = None;
                    *next_at = if reply.is_ok() { now } else { retry_at };
                } else if is(asked) {
                    let sent_at = asked.take().map_or(now, |(_, sent_at)| sent_at);
                    match reply {
                        Ok(StoreReply::TakeLease(reply)) => self.taken(now, sent_at, reply),
                        failed => {
                            *predecessor = None;
                            *next_at = retry_at;
                            if failed != Err(StoreFailure::NotDone) {
                                self.maybe_taken_at.get_or_insert(sent_at);
                            }
                        }
                    }
                }
            }
            State::Held(held) => {
                let Some(at) = held.asked.iter().position(|(asked_id, _)| *asked_id == id) else { return };
                let Some((_, sent_at)) = held.asked.remove(at) else { return };
                match reply {
                    Ok(StoreReply::Renew(RenewReply::Renewed { closed })) => {
                        held.renewed_at = held.renewed_at.max(sent_at);
                        held.next_at = l5_next_renewal(held.renewed_at, self.options.timing.renew);
                        let licence_ends = l4_licence_ends(held.renewed_at, self.options.timing.ttl);
                        self.tell(LeaseEvent::Held { lease: self.lease, licence_ends, closed });
                    }
                    Ok(StoreReply::Renew(RenewReply::Refused { taken_over })) => self.l6_refused(now, taken_over),
                    _ => {}
                }
            }
            State::Withdrawing { asked, next_at, then } if is(asked) => {
                *asked = None;
                match (reply, *then) {
                    (Ok(_), AfterWithdrawal::TakeAnother) => self.take_another(now),
                    (Ok(_), AfterWithdrawal::Leave) => self.end(LeaseEvent::Dropped),
                    (Ok(_), AfterWithdrawal::NameInUse) => {
                        self.end(LeaseEvent::NameInUse { worker: self.options.worker.clone() });
                    }
                    (Err(_), _) => *next_at = retry_at,
                }
            }
            State::Dropping { asked, next_at } if is(asked) => {
                *asked = None;
                match reply {
                    // P1: a lease that was declared dead meanwhile is found dead by its drop.
                    Ok(_) => {
                        let then = AfterWithdrawal::Leave;
                        self.state = State::Withdrawing { next_at: now, asked: None, then };
                    }
                    Err(_) => *next_at = retry_at,
                }
            }
            State::Withdrawing { .. } | State::Dropping { .. } | State::FirstBeat { .. } | State::Gone => {}
        }
    }

    fn handle_liveness(&mut self, now: Instant, id: RequestId, reply: Option<LivenessReply>) {
        self.beat.take_if(|(asked_id, _)| *asked_id == id);
        self.publishing.take_if(|(asked_id, _)| *asked_id == id);
        match &mut self.state {
            State::FirstBeat { taken_at, asked } if asked.0 == id => {
                let taken_at = *taken_at;
                self.hold(now, taken_at);
            }
            State::Taking { predecessor: Some(held), .. }
                if held.heartbeat.is_some_and(|(asked_id, _)| asked_id == id) =>
            {
                let heartbeat = heartbeat_of(held.view.lease, reply);
                self.heartbeat_known(now, heartbeat);
            }
            _ => {}
        }
    }

    fn handle_process(&mut self, lease: LeaseId, state: ProcessState) {
        let machine = self.options.process.as_ref().map_or("", |process| process.machine.as_str());
        if let State::Taking { predecessor: Some(held), .. } = &mut self.state
            && held.view.lease == lease
        {
            held.death_known |= r1_death_known(machine, held.view.process.as_ref(), state);
        }
    }

    fn take(&mut self, now: Instant) {
        let request = StoreRequest::TakeLease(TakeLease {
            lease: self.lease,
            worker: self.options.worker.clone(),
            stable_name: self.options.stable_name,
            ttl: self.options.timing.ttl,
            renew: self.options.timing.renew,
            process: self.options.process.clone(),
            operations: self.options.operations.clone(),
            calls: self.options.calls.clone(),
        });
        let id = self.ask_store(request);
        if let State::Taking { asked, .. } = &mut self.state {
            *asked = Some((id, now));
        }
    }

    fn taken(&mut self, now: Instant, sent_at: Instant, reply: TakeLeaseReply) {
        let taken_at = self.maybe_taken_at.unwrap_or(sent_at);
        match reply {
            TakeLeaseReply::Taken if self.options.liveness => {
                let request = self.beat_request(now);
                let id = self.ask_liveness(request);
                self.state = State::FirstBeat { taken_at, asked: (id, now) };
            }
            TakeLeaseReply::Taken => self.hold(now, taken_at),
            TakeLeaseReply::Ended => self.take_another(now),
            TakeLeaseReply::NameHeld { holder, now: store_now } => self.r5_predecessor(now, sent_at, holder, store_now),
        }
    }

    /// R5: our stable name is on a live lease: it is taken over at once where the death is known, else after the second
    /// look; where it is renewed meanwhile, the name is in use.
    fn r5_predecessor(&mut self, now: Instant, sent_at: Instant, view: LeaseView, store_now: StoreTime) {
        let State::Taking { predecessor, next_at, .. } = &mut self.state else { return };
        let look_every = r2_look_every(view.renew);
        *next_at = now + look_every;
        let held = match predecessor {
            Some(held) if held.view.lease == view.lease => {
                held.renewed_while_watched |= view.renewals != held.view.renewals;
                held.look.look(&view, sent_at, now);
                held.view = view;
                held.now = store_now;
                held
            }
            _ => {
                if let Some(process) = &view.process {
                    self.effects.push_back(KeeperEffect::CheckProcess(view.lease, process.clone()));
                    // The answer is at hand at once: do not wait a whole look for it.
                    *next_at = now + look_every.min(Duration::from_millis(100));
                }
                predecessor.insert(Predecessor {
                    look: SecondLook::begin(&view, sent_at, now),
                    view,
                    now: store_now,
                    death_known: false,
                    renewed_while_watched: false,
                    heartbeat: None,
                    recovering: None,
                })
            }
        };
        let past = r2_past_its_time(&held.view, held.now);
        let complete = held.look.complete(&held.view, sent_at);
        match r5_name_held(held.death_known, past, complete, held.renewed_while_watched) {
            NameHeld::Watch => {}
            NameHeld::TakeOverDead => self.recover_predecessor(now, EndCause::Died),
            NameHeld::TakeOverSilent if self.options.liveness => self.ask_heartbeat(now),
            NameHeld::TakeOverSilent => self.recover_predecessor(now, EndCause::TakenOver),
            NameHeld::InUse => self.end(LeaseEvent::NameInUse { worker: self.options.worker.clone() }),
        }
    }

    fn ask_heartbeat(&mut self, now: Instant) {
        let State::Taking { predecessor: Some(held), .. } = &self.state else { return };
        let request = LivenessRequest::Check { leases: vec![held.view.lease], ttl_max: held.view.ttl };
        let id = self.ask_liveness(request);
        if let State::Taking { predecessor: Some(held), .. } = &mut self.state {
            held.heartbeat = Some((id, now));
        }
    }

    fn heartbeat_known(&mut self, now: Instant, heartbeat: Heartbeat) {
        let State::Taking { predecessor: Some(held), .. } = &mut self.state else { return };
        held.heartbeat = None;
        if r2_heartbeat_allows(heartbeat, &held.view, held.now) {
            self.recover_predecessor(now, EndCause::TakenOver);
        }
    }

    fn recover_predecessor(&mut self, now: Instant, cause: EndCause) {
        let State::Taking { predecessor: Some(held), .. } = &self.state else { return };
        let request = StoreRequest::Recover(Recover {
            lease: held.view.lease,
            renewals: held.view.renewals,
            seen_at: held.now,
            cause,
            judge: None,
        });
        let id = self.ask_store(request);
        if let State::Taking { predecessor: Some(held), .. } = &mut self.state {
            held.recovering = Some((id, now));
        }
    }

    /// L1: the lease is taken and its heartbeat set, as far as there is a witness: claims may begin.
    fn hold(&mut self, now: Instant, taken_at: Instant) {
        let next_at = l5_next_renewal(taken_at, self.options.timing.renew).max(now);
        self.state = State::Held(Held { asked: VecDeque::new(), next_at, renewed_at: taken_at });
        let licence_ends = l4_licence_ends(taken_at, self.options.timing.ttl);
        self.tell(LeaseEvent::Held { lease: self.lease, licence_ends, closed: Vec::new() });
    }

    /// L2: asks for a renewal; until one succeeds, it is asked again every eighth of the ttl.
    fn renew(&mut self, now: Instant) {
        let batches = self.running.iter().map(|(batch, _)| *batch).collect();
        let id = self.ask_store(StoreRequest::Renew { lease: self.lease, batches });
        let retry_after = l2_retry_after(self.options.timing.ttl);
        let State::Held(held) = &mut self.state else { return };
        held.asked.push_back((id, now));
        if held.asked.len() > RENEWALS_ASKED_MAX {
            held.asked.pop_front();
        }
        held.next_at = now + retry_after;
        self.beat(now);
    }

    /// L3: sends a heartbeat where it is earned.
    fn beat(&mut self, now: Instant) {
        let State::Held(held) = &self.state else { return };
        let earned = l3_heartbeat_earned(now, held.renewed_at, self.options.timing.ttl);
        if self.options.liveness && self.beat.is_none() && earned {
            let request = self.beat_request(now);
            let id = self.ask_liveness(request);
            self.beat = Some((id, now));
        }
    }

    fn beat_request(&mut self, now: Instant) -> LivenessRequest {
        (self.publish_at, self.published_at) = (None, now);
        LivenessRequest::Beat {
            lease: self.lease,
            worker: self.options.worker.clone(),
            ttl: self.options.timing.ttl,
            running: self.running.clone(),
        }
    }

    fn running_changed(&mut self, running: Vec<(BatchId, LineSet)>) {
        if self.options.liveness && self.running != running {
            self.publish_at.get_or_insert(self.published_at + PUBLISH_EVERY);
        }
        self.running = running;
    }

    /// When running rows that changed are published: while the lease is held, and once the beat or publication before is
    /// answered.
    fn next_publish(&self) -> Option<Instant> {
        let waits = self.beat.is_some() || self.publishing.is_some();
        self.publish_at.filter(|_| !waits && matches!(self.state, State::Held(_)))
    }

    /// L3: publishes running rows that changed, where a heartbeat would be earned. What is not published, or fails, is not
    /// repeated: the next beat has it all.
    fn publish(&mut self, now: Instant) {
        let (State::Held(held), Some(at)) = (&self.state, self.next_publish()) else { return };
        if now < at {
            return;
        }
        let earned = l3_heartbeat_earned(now, held.renewed_at, self.options.timing.ttl);
        self.publish_at = None;
        if earned {
            self.published_at = now;
            let request = LivenessRequest::Publish { lease: self.lease, running: self.running.clone() };
            let id = self.ask_liveness(request);
            self.publishing = Some((id, now));
        }
    }

    /// L6: a refused renewal means that the lease is dead.
    fn l6_refused(&mut self, now: Instant, taken_over: bool) {
        self.tell(LeaseEvent::Ended { lease: self.lease });
        let then = if taken_over { AfterWithdrawal::NameInUse } else { AfterWithdrawal::TakeAnother };
        self.state = State::Withdrawing { next_at: now, asked: None, then };
    }

    /// P1: takes the crashes back that were counted against rows of the dead lease.
    fn withdraw(&mut self, now: Instant) {
        let id = self.ask_store(StoreRequest::WithdrawCrashes { lease: self.lease });
        if let State::Withdrawing { asked, .. } = &mut self.state {
            *asked = Some((id, now));
        }
    }

    fn take_another(&mut self, now: Instant) {
        self.lease = LeaseId::from_random(self.ids.next_u64());
        self.maybe_taken_at = None;
        self.running.clear();
        self.publish_at = None;
        self.state = State::Taking { next_at: now, asked: None, predecessor: None };
    }

    /// S1: R3 applied to oneself.
    fn drop_lease(&mut self, now: Instant) {
        let id = self.ask_store(StoreRequest::DropLease { lease: self.lease });
        if let State::Dropping { asked, .. } = &mut self.state {
            *asked = Some((id, now));
        }
        if self.options.liveness {
            let request = LivenessRequest::Leave { lease: self.lease };
            self.ask_liveness(request);
        }
    }

    fn end(&mut self, event: LeaseEvent) {
        self.state = State::Gone;
        self.tell(event);
    }

    fn tell(&mut self, event: LeaseEvent) {
        self.effects.push_back(KeeperEffect::Tell(event));
    }

    fn ask_store(&mut self, request: StoreRequest) -> RequestId {
        let id = self.new_request();
        self.effects.push_back(KeeperEffect::Store(id, request));
        id
    }

    fn ask_liveness(&mut self, request: LivenessRequest) -> RequestId {
        let id = self.new_request();
        self.effects.push_back(KeeperEffect::Liveness(id, request));
        id
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }
}

/// R2: what a reply of the second witness says of one lease.
pub(crate) fn heartbeat_of(lease: LeaseId, reply: Option<LivenessReply>) -> Heartbeat {
    match reply {
        Some(LivenessReply::Check { vouches: true, alive }) if alive.contains(&lease) => Heartbeat::Present,
        Some(LivenessReply::Check { vouches: true, .. }) => Heartbeat::Absent,
        _ => Heartbeat::NoWitness,
    }
}
