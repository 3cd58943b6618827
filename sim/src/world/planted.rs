//! The store as the processes meet it: the model, or the model with a planted bug around it.

use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::store::{EndCause, LeaseView, LookReply, Recorded, Recover, StoreReply, StoreRequest, Verdict};
use fencepost_core::worker::{RunAnswer, RunKey};
use fencepost_core::{LeaseId, RequestId, StoreTime};
use fencepost_model::store::ModelStore;

use super::{Event, Machine, ProcessAt, StoreCall, World};
use crate::planted::PlantedBug;

/// The store, with its mistake.
pub(super) fn store(bug: Option<PlantedBug>) -> ModelStore {
    let store = ModelStore::new();
    match bug.and_then(PlantedBug::mistake) {
        Some(mistake) => store.with_mistake(mistake),
        None => store,
    }
}

impl World<'_> {
    /// Does a request.
    pub(super) fn apply(&mut self, call: &StoreCall) -> StoreReply {
        let now = self.store_clock.now(self.now);
        match self.bug {
            None => self.store.apply(now, &call.request),
            Some(bug) => self.apply_with(bug, now, call),
        }
    }

    fn apply_with(&mut self, bug: PlantedBug, now: StoreTime, call: &StoreCall) -> StoreReply {
        match (bug, &call.request) {
            (PlantedBug::FenceForGroup, StoreRequest::Record(record)) => {
                let trial = self.store.clone().apply(now, &call.request);
                match trial {
                    StoreReply::Record(verdicts) if verdicts.contains(&Verdict::Fenced) => {
                        StoreReply::Record(vec![Verdict::Fenced; record.items.len()])
                    }
                    _ => self.store.apply(now, &call.request),
                }
            }
            (PlantedBug::NoSettle, StoreRequest::SettleClaim { .. }) => StoreReply::SettleClaim(Vec::new(), Vec::new()),
            (PlantedBug::SettleLeavesNumberOpen, request @ StoreRequest::SettleClaim { .. }) => {
                self.store.clone().apply(now, request)
            }
            (PlantedBug::GiveBackForgotten, StoreRequest::GiveBack { .. }) => StoreReply::GiveBack,
            (PlantedBug::NeverIdle, StoreRequest::Claim(claim)) => {
                let claim = fencepost_core::store::Claim { idle: false, ..claim.clone() };
                self.store.apply(now, &StoreRequest::Claim(claim))
            }
            (PlantedBug::SeenCountIgnored, StoreRequest::Recover(recover)) => self.recover_unseen(now, recover),
            (PlantedBug::RecoveryByJudgeClock, StoreRequest::Look) => {
                let look = self.look(now);
                StoreReply::Look(LookReply { now: self.wall_of(call.process, look.now), ..look })
            }
            (PlantedBug::RecoveryByJudgeClock, StoreRequest::Recover(recover)) => {
                let off = self.wall_of(call.process, StoreTime(0)).0;
                let seen_at = StoreTime(recover.seen_at.0 - off);
                self.store.apply(now, &StoreRequest::Recover(Recover { seen_at, ..recover.clone() }))
            }
            (PlantedBug::NoSecondLook, StoreRequest::Look) => {
                self.judge_at_once(now, call.process, |_, view| now >= view.expires_at)
            }
            (PlantedBug::RecoveryByHeartbeat, StoreRequest::Look) => {
                self.judge_at_once(now, call.process, |world, view| world.misses_beat(view) == Some(true))
            }
            (PlantedBug::YoungWitnessBelieved, StoreRequest::Look) => {
                let is_dead = |world: &Self, view: &LeaseView| {
                    world.misses_beat(view) == Some(false) && world.has_lost_beat(view.lease)
                };
                self.judge_at_once(now, call.process, is_dead)
            }
            (_, request) => self.store.apply(now, request),
        }
    }

    fn look(&mut self, now: StoreTime) -> LookReply {
        match self.store.apply(now, &StoreRequest::Look) {
            StoreReply::Look(look) => look,
            other => unreachable!("a look is answered as one: {other:?}"),
        }
    }

    fn recover_unseen(&mut self, now: StoreTime, recover: &Recover) -> StoreReply {
        let seen = self.look(now).leases.into_iter().find(|view| view.lease == recover.lease);
        let renewals = seen.map_or(recover.renewals, |view| view.renewals);
        self.store.apply(now, &StoreRequest::Recover(Recover { renewals, seen_at: now, ..recover.clone() }))
    }

    /// What this process's wall clock shows at a moment of the store's: off by up to eight times the ttl.
    fn wall_of(&self, process: ProcessAt, now: StoreTime) -> StoreTime {
        let ttl_us = self.schedule.options.ttl_us;
        let off = self.number_of(&[self.processes[process].slot as u64, 0xc10c]) % (16 * ttl_us + 1);
        StoreTime(now.0 + off as i64 - 8 * ttl_us as i64)
    }

    /// Whether a lease has no heartbeat, and the second witness vouches. None: it has one, or there is no witness.
    fn misses_beat(&self, view: &LeaseView) -> Option<bool> {
        let now = self.witness_now();
        if !self.schedule.options.liveness || self.witness_server.is_away() || self.witness.has_beat(now, view.lease) {
            return None;
        }
        let check = LivenessRequest::Check { leases: vec![view.lease], ttl_max: view.ttl };
        let reply = self.witness.clone().apply(now, &check);
        Some(matches!(reply, LivenessReply::Check { vouches: true, .. }))
    }

    /// A heartbeat was accepted: with which of its data the second witness has it.
    pub(super) fn note_beat(&mut self, request: &LivenessRequest) {
        if let (Some(PlantedBug::YoungWitnessBelieved), LivenessRequest::Beat { lease, .. }) = (self.bug, request) {
            self.beats.insert(*lease, self.witness.data_since());
        }
    }

    /// The second witness had a heartbeat of this lease, and has lost its data since.
    fn has_lost_beat(&self, lease: LeaseId) -> bool {
        self.beats.get(&lease).is_some_and(|data| *data != self.witness.data_since())
    }

    fn judge_at_once(
        &mut self,
        now: StoreTime,
        judge: ProcessAt,
        is_dead: impl Fn(&Self, &LeaseView) -> bool,
    ) -> StoreReply {
        let own = self.processes[judge].keeper.lease();
        for view in self.look(now).leases {
            if view.lease != own && is_dead(self, &view) {
                let (lease, renewals) = (view.lease, view.renewals);
                let recover = Recover { lease, renewals, seen_at: now, cause: EndCause::Lapsed, judge: Some(own) };
                self.store.apply(now, &StoreRequest::Recover(recover));
            }
        }
        self.store.apply(now, &StoreRequest::Look)
    }

    /// L6: with this bug the driver does not wait to be told.
    pub(super) fn run_again_unasked(&mut self, at: ProcessAt, key: RunKey, answer: &RunAnswer) {
        if let (Some(PlantedBug::RetriesByItself), RunAnswer::Retry(_)) = (self.bug, answer) {
            self.note_run(at, key);
        }
    }

    /// Whether machines hear that time has passed.
    pub(super) fn wakes_judges(&self) -> bool {
        self.bug != Some(PlantedBug::TimerForgotten)
    }

    /// O2: with this bug the driver answers in the store's place when nobody else does.
    pub(super) fn pretend_recorded(&mut self, at: ProcessAt, machine: Machine, id: RequestId, request: &StoreRequest) {
        if let (Some(PlantedBug::UnknownTakenForSuccess), StoreRequest::Record(record)) = (self.bug, request) {
            let verdicts = vec![Verdict::Recorded(Recorded::Success); record.items.len()];
            let reply = Box::new(Ok(StoreReply::Record(verdicts)));
            self.push(self.now + 1000, Event::StoreAnswers { process: at, machine, id, reply });
        }
    }
}
