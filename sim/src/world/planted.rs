//! The store as the processes meet it: the model, or the model with a planted bug around it.

use std::time::Duration;

use fencepost_core::store::{
    EndCause, LookReply, Record, Recorded, Recover, RenewReply, StoreReply, StoreRequest, Verdict,
};
use fencepost_core::{RequestId, StoreTime};
use fencepost_model::history::{self, OutcomeStatus, RecordedWhy};

use super::{Event, Machine, ProcessAt, StoreCall, World};
use crate::planted::PlantedBug;

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
            (PlantedBug::NoFence, StoreRequest::Record(record)) => self.record_unfenced(now, record),
            (PlantedBug::FenceForGroup, StoreRequest::Record(record)) => {
                let trial = self.store.clone().apply(now, &call.request);
                match trial {
                    StoreReply::Record(verdicts) if verdicts.contains(&Verdict::Fenced) => {
                        StoreReply::Record(vec![Verdict::Fenced; record.items.len()])
                    }
                    _ => self.store.apply(now, &call.request),
                }
            }
            (PlantedBug::NoSettle, StoreRequest::SettleClaim { .. }) => StoreReply::SettleClaim(Vec::new()),
            (PlantedBug::SettleLeavesNumberOpen, request @ StoreRequest::SettleClaim { .. }) => {
                self.store.clone().apply(now, request)
            }
            (PlantedBug::GiveBackForgotten, StoreRequest::GiveBack { .. }) => StoreReply::GiveBack,
            (PlantedBug::NeverIdle, StoreRequest::Claim(claim)) => {
                let claim = fencepost_core::store::Claim { idle: false, ..claim.clone() };
                self.store.apply(now, &StoreRequest::Claim(claim))
            }
            (PlantedBug::SeenCountIgnored, StoreRequest::Recover(recover)) => self.recover_unseen(now, recover),
            (PlantedBug::LeaseStateIgnored, StoreRequest::Renew { .. }) => match self.store.apply(now, &call.request) {
                StoreReply::Renew(RenewReply::Refused { .. }) => {
                    StoreReply::Renew(RenewReply::Renewed { closed: Vec::new() })
                }
                reply => reply,
            },
            (PlantedBug::RecoveryByJudgeClock, StoreRequest::Look) => self.judge_by_own_clock(now, call.process),
            (PlantedBug::RecoveryByHeartbeat, StoreRequest::Look) => self.judge_by_heartbeat(now, call.process),
            (_, request) => self.store.apply(now, request),
        }
    }

    /// The checkers are told of every fenced answer as if it had been recorded.
    fn record_unfenced(&mut self, now: StoreTime, record: &Record) -> StoreReply {
        let reply = self.store.apply(now, &StoreRequest::Record(record.clone()));
        let StoreReply::Record(mut verdicts) = reply else { return reply };
        for (item, verdict) in record.items.iter().zip(&mut verdicts) {
            if *verdict == Verdict::Fenced {
                *verdict = Verdict::Recorded(Recorded::Success);
                self.fact(history::Event::Recorded {
                    batch: item.batch,
                    line: item.line,
                    token: item.token,
                    lease: record.lease,
                    status: OutcomeStatus::Success,
                    attempts: 1,
                    crashes: 0,
                    why: RecordedWhy::Answered,
                });
            }
        }
        StoreReply::Record(verdicts)
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

    fn judge_by_own_clock(&mut self, now: StoreTime, judge: ProcessAt) -> StoreReply {
        let ttl_us = self.schedule.options.ttl_us;
        let off = self.number_of(&[self.processes[judge].slot as u64, 0xc10c]) % (2 * ttl_us);
        let wall = now + Duration::from_micros(off);
        self.judge_at_once(now, judge, |_, view| wall >= view.expires_at)
    }

    fn judge_by_heartbeat(&mut self, now: StoreTime, judge: ProcessAt) -> StoreReply {
        let liveness = self.schedule.options.liveness;
        self.judge_at_once(now, judge, |world, view| {
            liveness && !world.witness.has_beat(world.witness_now(), view.lease)
        })
    }

    fn judge_at_once(
        &mut self,
        now: StoreTime,
        judge: ProcessAt,
        is_dead: impl Fn(&Self, &fencepost_core::store::LeaseView) -> bool,
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

    /// O2: with this bug the driver answers in the store's place when nobody else does.
    pub(super) fn pretend_recorded(&mut self, at: ProcessAt, machine: Machine, id: RequestId, request: &StoreRequest) {
        if let (Some(PlantedBug::UnknownTakenForSuccess), StoreRequest::Record(record)) = (self.bug, request) {
            let verdicts = vec![Verdict::Recorded(Recorded::Success); record.items.len()];
            let reply = Ok(StoreReply::Record(verdicts));
            self.push(self.now + 1000, Event::StoreAnswers { process: at, machine, id, reply });
        }
    }
}
