//! Taking a lease (L1), a predecessor's name with it (R5); another one after a death (L6).

use std::time::Duration;

use super::{Keeper, KeeperEffect, LeaseEvent, State};
use crate::ids::{LeaseId, RequestId};
use crate::liveness::LivenessRequest;
use crate::rules::recovery::{
    Heartbeat, NameHeld, ProcessState, SecondLook, r1_death_known, r2_heartbeat_allows, r2_look_every,
    r2_past_its_time, r2_witness_limit, r5_name_held,
};
use crate::store::{EndCause, LeaseView, Recover, StoreRequest, TakeLease, TakeLeaseReply};
use crate::time::{Instant, StoreTime};

/// R5: a live lease under our stable name.
#[derive(Debug, Clone, Hash)]
pub(super) struct Predecessor {
    pub(super) look: SecondLook,
    pub(super) view: LeaseView,
    pub(super) now: StoreTime,
    pub(super) death_known: bool,
    pub(super) renewed_while_watched: bool,
    pub(super) heartbeat: Option<(RequestId, Instant)>,
    pub(super) recovering: Option<(RequestId, Instant)>,
}

impl Predecessor {
    /// When the second witness was asked about it, and does not answer any more.
    pub(super) fn heartbeat_limit(&self, request_limit: Duration) -> Option<Instant> {
        let limit = r2_witness_limit(self.view.renew, request_limit);
        self.heartbeat.map(|(_, sent_at)| sent_at + limit)
    }
}

impl Keeper {
    pub(super) fn take(&mut self, now: Instant) {
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

    pub(super) fn taken(&mut self, now: Instant, sent_at: Instant, reply: TakeLeaseReply) {
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
    pub(super) fn r5_predecessor(&mut self, now: Instant, sent_at: Instant, view: LeaseView, store_now: StoreTime) {
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

    pub(super) fn ask_heartbeat(&mut self, now: Instant) {
        let State::Taking { predecessor: Some(held), .. } = &self.state else { return };
        let request = LivenessRequest::Check { leases: vec![held.view.lease], ttl_max: held.view.ttl };
        let id = self.ask_liveness(request);
        if let State::Taking { predecessor: Some(held), .. } = &mut self.state {
            held.heartbeat = Some((id, now));
        }
    }

    pub(super) fn heartbeat_known(&mut self, now: Instant, heartbeat: Heartbeat) {
        let State::Taking { predecessor: Some(held), .. } = &mut self.state else { return };
        held.heartbeat = None;
        if r2_heartbeat_allows(heartbeat, &held.view, held.now) {
            self.recover_predecessor(now, EndCause::TakenOver);
        }
    }

    pub(super) fn recover_predecessor(&mut self, now: Instant, cause: EndCause) {
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

    pub(super) fn handle_process(&mut self, lease: LeaseId, state: ProcessState) {
        let machine = self.options.process.as_ref().map_or("", |process| process.machine.as_str());
        if let State::Taking { predecessor: Some(held), .. } = &mut self.state
            && held.view.lease == lease
        {
            held.death_known |= r1_death_known(machine, held.view.process.as_ref(), state);
        }
    }

    pub(super) fn take_another(&mut self, now: Instant) {
        self.lease = LeaseId::from_random(self.ids.next_u64());
        self.maybe_taken_at = None;
        self.running.clear();
        self.publish_at = None;
        self.state = State::Taking { next_at: now, asked: None, predecessor: None };
    }
}
