//! A worker's lease: take it, renew it, drop it; take a predecessor's over; take a new one when it was declared dead.
//!
//! The keeper runs apart from row work, on its own thread and connection (L5), and tells the worker what it may do.
//!
//! | part of a lease's way | module |
//! |---|---|
//! | it is taken, from a predecessor if need be (L1, R5) | `taking` |
//! | it is kept, and ends (L2, L3, L6, P1, S1) | `keeping` |

use std::collections::VecDeque;
use std::time::Duration;

use crate::calls::Calls;
use crate::config::Timing;
use crate::ids::{BatchId, LeaseId, RequestId};
use crate::lines::LineSet;
use crate::liveness::{LivenessReply, LivenessRequest};
use crate::random::Stream;
use crate::rules::lease::{l2_retry_after, l4_licence_ends, l5_next_renewal};
use crate::rules::recovery::{Heartbeat, ProcessState};
use crate::store::{ProcessIdentity, RenewReply, StoreFailure, StoreReply, StoreRequest};
use crate::time::Instant;

mod keeping;
mod taking;

use keeping::Held;
use taking::Predecessor;

/// Who the keeper keeps a lease for.
#[derive(Debug, Clone, PartialEq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum KeeperCommand {
    /// What the worker holds: for the mirror, and for the question which batches are closed (S2).
    Running(Vec<(BatchId, LineSet)>),
    /// The store said that the lease has ended: ask now, not at the next renewal.
    RenewNow,
    /// S1: drop the lease and end.
    Drop,
}

/// What a keeper wants done.
#[derive(Debug, Clone, PartialEq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Hash)]
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

#[derive(Debug, Clone, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum AfterWithdrawal {
    TakeAnother,
    /// S1: the worker wants to leave.
    Leave,
    /// R5: the name is in use.
    NameInUse,
}

/// Outside a lease nothing is at stake: what failed is tried again after at most this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// The lease-keeping machine of one worker.
#[derive(Debug, Clone, Hash)]
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
                if held.probe.take_if(|asked_id| *asked_id == id).is_some() {
                    if reply.is_ok() {
                        (held.heard, held.next_at) = (true, now);
                    }
                    return;
                }
                let Some(at) = held.asked.iter().position(|(asked_id, _)| *asked_id == id) else { return };
                let Some((_, sent_at)) = held.asked.remove(at) else { return };
                match reply {
                    Ok(StoreReply::Renew(RenewReply::Renewed { closed })) => {
                        held.heard = true;
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
                let heartbeat = heartbeat_of(held.view.lease, reply.as_ref());
                self.heartbeat_known(now, heartbeat);
            }
            _ => {}
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
pub(crate) fn heartbeat_of(lease: LeaseId, reply: Option<&LivenessReply>) -> Heartbeat {
    match reply {
        Some(LivenessReply::Check { vouches: true, alive }) if alive.contains(&lease) => Heartbeat::Present,
        Some(LivenessReply::Check { vouches: true, .. }) => Heartbeat::Absent,
        _ => Heartbeat::NoWitness,
    }
}
