//! Keeping a lease that is taken: renewals (L2, L5), heartbeats and the mirror of running rows (L3); the news of its end (L6, P1), and
//! dropping it (S1).

use std::collections::VecDeque;
use std::time::Duration;

use super::{AfterWithdrawal, Keeper, LeaseEvent, State};
use crate::ids::{BatchId, RequestId};
use crate::lines::LineSet;
use crate::liveness::LivenessRequest;
use crate::rules::lease::{l2_may_ask, l2_retry_after, l3_heartbeat_earned, l4_licence_ends, l5_next_renewal};
use crate::store::StoreRequest;
use crate::time::Instant;

/// Running rows that changed are published at most this often.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Answers to so many renewals are waited for at once; older ones are forgotten.
const RENEWALS_ASKED_MAX: usize = 8;

#[derive(Debug, Clone, Hash)]
pub(super) struct Held {
    /// Renewals whose answer is still of interest, oldest first.
    pub(super) asked: VecDeque<(RequestId, Instant)>,
    /// L2: the last look in a renewal's place, until it is answered.
    pub(super) probe: Option<RequestId>,
    /// L2: the store has answered since the last renewal was asked for.
    pub(super) heard: bool,
    pub(super) next_at: Instant,
    /// When the last good renewal was sent.
    pub(super) renewed_at: Instant,
}

impl Keeper {
    /// L1: the lease is taken and its heartbeat set, as far as there is a witness: claims may begin.
    pub(super) fn hold(&mut self, now: Instant, taken_at: Instant) {
        let next_at = l5_next_renewal(taken_at, self.options.timing.renew).max(now);
        self.state =
            State::Held(Held { asked: VecDeque::new(), probe: None, heard: false, next_at, renewed_at: taken_at });
        let licence_ends = l4_licence_ends(taken_at, self.options.timing.ttl);
        self.tell(LeaseEvent::Held { lease: self.lease, licence_ends, closed: Vec::new() });
    }

    /// L2: asks for a renewal; until one succeeds, it is asked again every eighth of the ttl. After the licence, the store is
    /// to be heard first: where requests arrive but replies do not, a lease would else be renewed for ever by a worker that runs
    /// nothing under it.
    pub(super) fn renew(&mut self, now: Instant) {
        let ttl = self.options.timing.ttl;
        let State::Held(held) = &self.state else { return };
        let may_ask = l2_may_ask(now, held.renewed_at, ttl, held.heard);
        let id = self.ask_store(if may_ask {
            let batches = self.running.iter().map(|(batch, _)| *batch).collect();
            StoreRequest::Renew { lease: self.lease, batches }
        } else {
            StoreRequest::Look
        });
        let State::Held(held) = &mut self.state else { return };
        if may_ask {
            held.asked.push_back((id, now));
            if held.asked.len() > RENEWALS_ASKED_MAX {
                held.asked.pop_front();
            }
        }
        (held.heard, held.probe) = (false, (!may_ask).then_some(id));
        held.next_at = now + l2_retry_after(ttl);
        self.beat(now);
    }

    /// L3: sends a heartbeat where it is earned.
    pub(super) fn beat(&mut self, now: Instant) {
        let State::Held(held) = &self.state else { return };
        let earned = l3_heartbeat_earned(now, held.renewed_at, self.options.timing.ttl);
        if self.options.liveness && self.beat.is_none() && earned {
            let request = self.beat_request(now);
            let id = self.ask_liveness(request);
            self.beat = Some((id, now));
        }
    }

    pub(super) fn beat_request(&mut self, now: Instant) -> LivenessRequest {
        (self.publish_at, self.published_at) = (None, now);
        LivenessRequest::Beat {
            lease: self.lease,
            worker: self.options.worker.clone(),
            ttl: self.options.timing.ttl,
            running: self.running.clone(),
        }
    }

    pub(super) fn running_changed(&mut self, running: Vec<(BatchId, LineSet)>) {
        if self.options.liveness && self.running != running {
            self.publish_at.get_or_insert(self.published_at + PUBLISH_EVERY);
        }
        self.running = running;
    }

    /// When running rows that changed are published: while the lease is held, and once the beat or publication before is
    /// answered.
    pub(super) fn next_publish(&self) -> Option<Instant> {
        let waits = self.beat.is_some() || self.publishing.is_some();
        self.publish_at.filter(|_| !waits && matches!(self.state, State::Held(_)))
    }

    /// L3: publishes running rows that changed, where a heartbeat would be earned. What is not published, or fails, is not
    /// repeated: the next beat has it all.
    pub(super) fn publish(&mut self, now: Instant) {
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
    pub(super) fn l6_refused(&mut self, now: Instant, taken_over: bool) {
        self.tell(LeaseEvent::Ended { lease: self.lease });
        let then = if taken_over { AfterWithdrawal::NameInUse } else { AfterWithdrawal::TakeAnother };
        self.state = State::Withdrawing { next_at: now, asked: None, then };
    }

    /// P1: takes the crashes back that were counted against rows of the dead lease.
    pub(super) fn withdraw(&mut self, now: Instant) {
        let id = self.ask_store(StoreRequest::WithdrawCrashes { lease: self.lease });
        if let State::Withdrawing { asked, .. } = &mut self.state {
            *asked = Some((id, now));
        }
    }

    /// S1: R3 applied to oneself.
    pub(super) fn drop_lease(&mut self, now: Instant) {
        let id = self.ask_store(StoreRequest::DropLease { lease: self.lease });
        if let State::Dropping { asked, .. } = &mut self.state {
            *asked = Some((id, now));
        }
        if self.options.liveness {
            let request = LivenessRequest::Leave { lease: self.lease };
            self.ask_liveness(request);
        }
    }
}
