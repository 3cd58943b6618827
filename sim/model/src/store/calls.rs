//! S7: completion calls: the records of ends, claimed and recorded.

use fencepost_core::calls::{
    BatchEnd, CallGrant, CallKey, CallOutcome, CallVerdict, Calls, ClaimCall, ClaimCallReply, RecordCall,
};
use fencepost_core::rules::calls::{s7_after_lease_end, s7_backoff, s7_due_since, s7_fence, s7_makes, s7_may_claim};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::l1_may_claim;
use fencepost_core::rules::outcome::Fence;
use fencepost_core::{BatchId, LeaseId, StoreTime, Token};

use super::{Event, Mistake, ModelStore};
use crate::view::{CallView, CompletionView, RowCounts};

/// The end of one generation, and its call.
#[derive(Debug, Clone, Hash)]
pub(super) struct Completion {
    pub(super) batch: BatchId,
    pub(super) generation: u32,
    pub(super) counts: RowCounts,
    pub(super) end: BatchEnd,
    pub(super) call: Call,
}

/// Where a call is in its life.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Call {
    token: Option<Token>,
    lease: Option<LeaseId>,
    not_before: Option<StoreTime>,
    attempts: u32,
    error: Option<Box<str>>,
    delivered_at: Option<StoreTime>,
}

impl ModelStore {
    /// Whether somebody makes a call of the batch.
    pub(super) fn call_is_made(&self, batch: BatchId) -> bool {
        let made = |call: &Call| call.lease.is_some() && call.delivered_at.is_none();
        self.completions.iter().any(|completion| completion.batch == batch && made(&completion.call))
    }
}

impl Completion {
    fn may_be_claimed(&self, calls: &Calls, now: StoreTime) -> bool {
        let Call { lease, not_before, delivered_at, .. } = &self.call;
        s7_may_claim(delivered_at.is_some(), lease.is_some(), *not_before, now) && self.is_made_by(calls)
    }

    fn is_made_by(&self, calls: &Calls) -> bool {
        s7_makes(calls, &self.end.operation, self.end.url.as_deref())
    }

    fn grant(&self) -> Option<CallGrant> {
        let key = CallKey { batch: self.batch, generation: self.generation, token: self.call.token? };
        Some(CallGrant { key, attempt: self.call.attempts, end: self.end.clone() })
    }

    /// A not-before that counts: of a call that nobody holds and that waits.
    fn waits_until(&self) -> Option<StoreTime> {
        self.call.not_before.filter(|_| self.call.lease.is_none() && self.call.delivered_at.is_none())
    }

    pub(super) fn view(&self) -> CompletionView {
        let Call { token, lease, not_before, attempts, error, delivered_at } = &self.call;
        CompletionView {
            batch: self.batch,
            generation: self.generation,
            status: self.end.status,
            counts: self.counts,
            call: CallView {
                token: *token,
                lease: *lease,
                not_before: *not_before,
                attempts: *attempts,
                error: error.clone(),
                delivered: delivered_at.is_some(),
            },
        }
    }
}

impl ModelStore {
    pub(super) fn claim_call(&mut self, now: StoreTime, claim: &ClaimCall) -> ClaimCallReply {
        if !l1_may_claim(self.leases.get(&claim.lease).map(|lease| lease.state)) {
            return ClaimCallReply::LeaseEnded;
        }
        let call = self.unheard_of(claim).or_else(|| self.take_call(now, claim));
        let made = || self.completions.iter().filter(|completion| completion.is_made_by(&claim.calls));
        let waits = made().filter_map(Completion::waits_until).min();
        let next_after = waits.filter(|_| call.is_none()).map(|at| at.since(now));
        ClaimCallReply::Granted {
            next_after,
            open_lines: self.has_open_lines(&claim.calls.operations),
            undelivered: call.is_some() || made().any(|completion| completion.call.delivered_at.is_none()),
            call,
        }
    }

    /// What a claim took whose reply was lost.
    fn unheard_of(&self, claim: &ClaimCall) -> Option<CallGrant> {
        let held = self.completions.iter().filter(|completion| completion.call.lease == Some(claim.lease));
        let unknown = held.filter(|completion| completion.call.token.is_none_or(|token| !claim.known.contains(&token)));
        unknown.min_by_key(|completion| completion.call.token)?.grant()
    }

    fn take_call(&mut self, now: StoreTime, claim: &ClaimCall) -> Option<CallGrant> {
        let due = self.completions.iter().enumerate().filter(|(_, found)| found.may_be_claimed(&claim.calls, now));
        let (at, _) = due.min_by_key(|(_, found)| {
            (s7_due_since(found.call.not_before, found.end.ended_at), found.batch, found.generation)
        })?;
        let token = self.draw();
        let found = &mut self.completions[at];
        let call = &mut found.call;
        (call.token, call.lease, call.not_before) = (Some(token), Some(claim.lease), None);
        call.attempts = call.attempts.saturating_add(1);
        found.grant()
    }

    pub(super) fn record_call(&mut self, now: StoreTime, record: &RecordCall) -> CallVerdict {
        let CallKey { batch, generation, token } = record.key;
        let any_token = self.makes(Mistake::CallWithoutToken);
        let own = |found: &&mut Completion| (found.batch, found.generation) == (batch, generation);
        let Some(found) = self.completions.iter_mut().find(own) else { return CallVerdict::Fenced };
        let call = &mut found.call;
        let held = any_token || (call.lease == Some(record.lease) && call.token == Some(token));
        match s7_fence(held, token, call.token) {
            Fence::Before => return CallVerdict::RecordedBefore,
            Fence::Fenced => return CallVerdict::Fenced,
            Fence::Holds => call.lease = None,
        }
        match &record.outcome {
            CallOutcome::Delivered => {
                call.delivered_at = Some(now);
                self.events.push(Event::CompletionDelivered { batch, generation });
            }
            CallOutcome::Retry { error, jitter } => {
                call.not_before = Some(now + s7_backoff(call.attempts, *jitter));
                call.error = Some(error.clone());
            }
            CallOutcome::GivenBack => call.attempts = call.attempts.saturating_sub(1),
        }
        CallVerdict::Recorded
    }

    /// A lease that ends frees the calls that it holds.
    pub(super) fn free_calls(&mut self, now: StoreTime, lease: LeaseId, recovered: bool) {
        for found in self.completions.iter_mut().filter(|found| found.call.lease == Some(lease)) {
            let (attempts, backoff) = s7_after_lease_end(found.call.attempts, recovered);
            (found.call.lease, found.call.token, found.call.attempts) = (None, None, attempts);
            found.call.not_before = backoff.map(|backoff| now + backoff);
        }
    }

    /// R2: not-before times that lie further ahead than they ever may.
    pub(super) fn cut_calls_back(&mut self, latest: StoreTime) {
        for found in &mut self.completions {
            if found.waits_until().is_some_and(|at| at > latest) {
                found.call.not_before = Some(latest);
            }
        }
    }

    /// Whether an end is yet to be told.
    pub fn has_undelivered_call(&self) -> bool {
        self.completions.iter().any(|completion| completion.call.delivered_at.is_none())
    }

    pub(super) fn calls_wait_until(&self) -> Option<StoreTime> {
        self.completions.iter().filter_map(Completion::waits_until).max()
    }

    /// A generation is over: its record, with a call that is due.
    pub(super) fn add_completion(&mut self, now: StoreTime, id: BatchId, status: BatchStatus) {
        let Some(batch) = self.batches.get(&id) else { return };
        let counts = batch.counts();
        let end = BatchEnd {
            key: batch.key.as_deref().map(str::to_owned),
            operation: batch.spec.operation.clone(),
            url: batch.spec.on_done_url.clone(),
            status,
            success: counts.success,
            failed: counts.failed,
            aborted: counts.aborted,
            ended_at: now,
        };
        let completion = Completion { batch: id, generation: batch.generation, counts, end, call: Call::default() };
        self.completions.push(completion);
    }
}
