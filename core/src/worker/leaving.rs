//! Giving lines back (L4, S1) and leaving (S1).

use std::collections::BTreeMap;

use super::running::CancelReason;
use super::{CancelCallReason, ExitReason, RunKey, Worker, WorkerEffect};
use crate::ids::{BatchId, LeaseId, RequestId, Token};
use crate::keeper::KeeperCommand;
use crate::lines::LineSet;
use crate::rules::leaving::s1_grace_ends;
use crate::store::{StoreFailure, StoreReply, StoreRequest};
use crate::time::Instant;

#[derive(Debug, Clone, Hash)]
pub(super) enum Leaving {
    No,
    /// S1: claims nothing; running rows may end until `grace_ends`.
    Finishing {
        grace_ends: Instant,
        cancelled: bool,
        reason: ExitReason,
    },
    /// The keeper was told to drop the lease.
    Dropping {
        reason: ExitReason,
    },
    Left,
}

impl Leaving {
    pub(super) fn is_leaving(&self) -> bool {
        !matches!(self, Self::No)
    }
}

type Lines = BTreeMap<(BatchId, Token), Vec<u64>>;

/// Lines on their way back. One request at a time, repeated until its end is known (O2).
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct WaitingGiveBack {
    waiting: BTreeMap<LeaseId, Lines>,
    under_way: Option<GiveBackRequest>,
}

#[derive(Debug, Clone, Hash)]
struct GiveBackRequest {
    lease: LeaseId,
    lines: Vec<(BatchId, Token, LineSet)>,
    asked: Option<(RequestId, Instant)>,
    next_at: Instant,
}

impl WaitingGiveBack {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    pub(super) fn add(&mut self, lease: LeaseId, key: RunKey) {
        self.waiting.entry(lease).or_default().entry((key.batch, key.token)).or_default().push(key.line);
    }

    /// L6: a dead lease's lines are in other hands already.
    pub(super) fn forget(&mut self, lease: LeaseId) {
        self.waiting.remove(&lease);
        if self.under_way.as_ref().is_some_and(|request| request.lease == lease) {
            self.under_way = None;
        }
    }
}

impl Worker {
    pub(super) fn has_left(&self) -> bool {
        matches!(self.leaving, Leaving::Left)
    }

    pub(super) fn leaving_timeout(&self) -> Option<Instant> {
        let give_back = self.give_back.under_way.as_ref().map(|request| match request.asked {
            Some((_, sent_at)) => sent_at + self.request_limit(),
            None => request.next_at,
        });
        let grace = match &self.leaving {
            Leaving::Finishing { grace_ends, cancelled: false, .. } => Some(*grace_ends),
            _ => None,
        };
        give_back.into_iter().chain(grace).min()
    }

    pub(super) fn give_back_what_waits(&mut self, now: Instant) {
        if self.give_back.under_way.is_none()
            && let Some((lease, lines)) = self.give_back.waiting.pop_first()
        {
            let lines =
                lines.into_iter().map(|((batch, token), lines)| (batch, token, lines.into_iter().collect())).collect();
            self.give_back.under_way = Some(GiveBackRequest { lease, lines, asked: None, next_at: now });
        }
        let Some(GiveBackRequest { lease, lines, asked: None, next_at }) = &self.give_back.under_way else { return };
        if now < *next_at {
            return;
        }
        let request = StoreRequest::GiveBack { lease: *lease, lines: lines.clone() };
        let id = self.ask(request);
        if let Some(request) = &mut self.give_back.under_way {
            request.asked = Some((id, now));
        }
    }

    pub(super) fn time_out_give_back(&mut self, now: Instant) {
        let limit = self.request_limit();
        if let Some(request) = &mut self.give_back.under_way
            && request.asked.is_some_and(|(_, sent_at)| now >= sent_at + limit)
        {
            request.asked = None;
            request.next_at = now;
        }
    }

    pub(super) fn give_back_answered(&mut self, now: Instant, id: RequestId, reply: &Result<StoreReply, StoreFailure>) {
        let retry_at = now + self.retry_after();
        let Some(request) = &mut self.give_back.under_way else { return };
        if request.asked.is_none_or(|(asked, _)| asked != id) {
            return;
        }
        if reply.is_err() {
            request.asked = None;
            request.next_at = retry_at;
            return;
        }
        let given_back = self.give_back.under_way.take();
        let alone_is_back = |key: &RunKey| {
            given_back
                .iter()
                .flat_map(|request| &request.lines)
                .any(|(batch, token, lines)| (*batch, *token) == (key.batch, key.token) && lines.contains(key.line))
        };
        if self.alone.as_ref().is_some_and(alone_is_back) {
            self.alone = None;
        }
        self.next_claim_at = self.next_claim_at.min(now);
    }

    /// Gives back what is queued of these spans, and forgets it here.
    pub(super) fn give_queued_back(&mut self, lease: LeaseId, which: impl Fn(BatchId) -> bool) {
        for key in self.queue.remove(which) {
            self.give_back.add(lease, key);
        }
    }

    /// S2: what a settled claim took of batches that were aborted since is run by nobody. The store cannot see that by the
    /// settling, which may arrive again late, when lines that it granted run: so it is told, as of any line that is not run.
    pub(super) fn s2_give_stopped_back(&mut self, lease: LeaseId, stopped: &[(BatchId, Token, LineSet)]) {
        if self.licence.as_ref().is_none_or(|licence| licence.lease != lease) {
            return;
        }
        for (batch, token, lines) in stopped {
            for line in lines.iter() {
                self.give_back.add(lease, RunKey { batch: *batch, line, token: *token });
            }
        }
    }

    /// S1: stop claiming, give unstarted lines back at once, let running rows finish.
    pub(super) fn s1_stop(&mut self, now: Instant, reason: ExitReason) {
        if self.leaving.is_leaving() {
            return;
        }
        let grace_ends = s1_grace_ends(now, self.options.grace);
        self.leaving = Leaving::Finishing { grace_ends, cancelled: false, reason };
        let Some(lease) = self.licence.as_ref().map(|licence| licence.lease) else { return };
        self.give_queued_back(lease, |_| true);
    }

    /// S1: at the end of the grace, what still runs is cancelled.
    pub(super) fn s1_end_grace(&mut self, now: Instant) {
        let Leaving::Finishing { grace_ends, cancelled, .. } = &mut self.leaving else { return };
        if now >= *grace_ends && !*cancelled {
            *cancelled = true;
            self.cancel_runs(now, CancelReason::Stop, |_, _| true);
            self.cancel_calls(now, None, CancelCallReason::LeaseEnds);
        }
    }

    /// S1: once nothing runs and nothing is owed, the lease is dropped, with whatever it still holds.
    pub(super) fn s1_leave(&mut self) {
        if !matches!(self.leaving, Leaving::Finishing { .. }) {
            return;
        }
        let calls = !self.calling.is_empty();
        if calls || !self.runs.is_empty() || !self.recording.is_empty() || !self.give_back.is_empty() {
            return;
        }
        match std::mem::replace(&mut self.leaving, Leaving::Left) {
            // R5: the lease is not this worker's any more.
            Leaving::Finishing { reason: reason @ ExitReason::NameInUse(_), .. } => self.leave_now(reason),
            Leaving::Finishing { reason, .. } => {
                self.leaving = Leaving::Dropping { reason };
                self.effects.push_back(WorkerEffect::Keeper(KeeperCommand::Drop));
            }
            other => self.leaving = other,
        }
    }

    /// R5: no lease will be taken any more, and the keeper has ended: nothing is to be dropped.
    pub(super) fn name_in_use(&mut self, now: Instant, worker: String) {
        if let Some(lease) = self.licence.as_ref().map(|licence| licence.lease) {
            self.l6_lease_ended(now, lease);
        }
        self.s1_stop(now, ExitReason::NameInUse(worker.clone()));
        match &mut self.leaving {
            Leaving::Finishing { reason, .. } => *reason = ExitReason::NameInUse(worker),
            Leaving::Dropping { .. } => self.leave_now(ExitReason::NameInUse(worker)),
            Leaving::No | Leaving::Left => {}
        }
    }

    pub(super) fn dropped(&mut self) {
        let reason = match &self.leaving {
            Leaving::Dropping { reason } | Leaving::Finishing { reason, .. } => reason.clone(),
            Leaving::No | Leaving::Left => ExitReason::Stopped,
        };
        self.leave_now(reason);
    }

    pub(super) fn leave_now(&mut self, reason: ExitReason) {
        self.running_bytes = 0;
        self.runs_of_leases.clear();
        for key in std::mem::take(&mut self.runs).into_keys() {
            self.effects.push_back(WorkerEffect::Cancel(key));
        }
        for key in self.calling.forget_all() {
            self.effects.push_back(WorkerEffect::CancelCall(key));
        }
        self.deadlines.clear();
        self.leaving = Leaving::Left;
        self.effects.push_back(WorkerEffect::Exit(reason));
    }
}
