//! S7: completion calls of a worker: claimed, made while licensed (L4), recorded until their end is known (O2).

use std::collections::{BTreeMap, BTreeSet};

use super::claiming::ClaimState;
use super::{ExitReason, Worker, WorkerEffect, WorkerEvent};
use crate::calls::{CallGrant, CallKey, CallOutcome, CallVerdict, ClaimCall, ClaimCallReply, RecordCall};
use crate::ids::{LeaseId, RequestId};
use crate::keeper::KeeperCommand;
use crate::rules::outcome::o6_deadline;
use crate::store::{StoreFailure, StoreReply, StoreRequest};
use crate::time::Instant;

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallAnswer {
    /// It was heard.
    Delivered,
    /// It was not, for this reason.
    Failed(Box<str>),
    /// Cancelled before it came to an answer.
    Cancelled,
}

/// Calls under way, and what is owed to the store about them.
#[derive(Debug, Clone, Hash)]
pub(super) struct Calling {
    asked: Option<(RequestId, Instant)>,
    next_at: Instant,
    /// There was news while a claim was under way, which may have looked before it.
    news: bool,
    running: BTreeMap<CallKey, RunningCall>,
    /// Calls that were given up and have not ended: they may still kill the process.
    abandoned: BTreeSet<CallKey>,
    owed: BTreeMap<CallKey, Owed>,
}

#[derive(Debug, Clone, Hash)]
struct RunningCall {
    lease: LeaseId,
    started_at: Instant,
    /// O6: its timeout; once it is cancelled, the end of the patience.
    deadline: Instant,
    cancelled: Option<CancelCallReason>,
}

/// Why a call was cancelled: decides what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CancelCallReason {
    /// O6: a try that failed.
    Timeout,
    /// L4: given back.
    Lapse,
    /// L6, S1: the lease's end frees it.
    LeaseEnds,
}

#[derive(Debug, Clone, Hash)]
struct Owed {
    record: RecordCall,
    asked: Option<(RequestId, Instant)>,
    next_at: Instant,
}

impl Calling {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            asked: None,
            next_at: now,
            news: false,
            running: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            owed: BTreeMap::new(),
        }
    }

    /// Nothing runs and nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.owed.is_empty()
    }

    /// P2: nothing of it may kill the process: neither now nor before the next claim of lines is answered.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.abandoned.is_empty() && self.asked.is_none()
    }

    /// A call that was given up has not ended.
    pub(super) fn has_given_up(&self) -> bool {
        !self.abandoned.is_empty()
    }

    pub(super) fn wake(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now);
        self.news |= self.asked.is_some();
    }

    /// C2: whatever a claim under way is answered from now on is old news. What it took is granted again.
    pub(super) fn forget_claim(&mut self) {
        self.asked = None;
    }

    /// The calls that still run.
    pub(super) fn forget_all(&mut self) -> Vec<CallKey> {
        std::mem::take(&mut self.running).into_keys().collect()
    }

    fn tokens(&self) -> Vec<crate::ids::Token> {
        self.running.keys().chain(self.owed.keys()).map(|key| key.token).collect()
    }
}

impl Worker {
    pub(super) fn makes_calls(&self) -> bool {
        self.options.calls.makes_any()
    }

    /// Whether a call may be started. P2: never beside a row that runs alone, or that may be granted so just now.
    fn may_call(&self) -> bool {
        let idle_claim = matches!(self.claim, ClaimState::Asked { idle: true, .. } | ClaimState::Settling { .. });
        self.licensed().is_some()
            && !self.leaving.is_leaving()
            && self.alone.is_none()
            && !idle_claim
            && !self.is_draining()
    }

    fn wants_call(&self) -> bool {
        let calling = &self.calling;
        let room = calling.running.len() + calling.owed.len() < self.options.calls_at_once as usize;
        self.makes_calls() && room && calling.asked.is_none() && self.may_call()
    }

    /// P2, S7: who was declared dead while it lived leaves calls to others for a while.
    fn next_call_at(&self) -> Instant {
        self.calling.next_at.max(self.others_first_until)
    }

    pub(super) fn calling_timeout(&self) -> Option<Instant> {
        let calling = &self.calling;
        let limit = self.request_limit();
        let asked = calling.asked.map(|(_, sent_at)| sent_at + limit);
        let next = self.wants_call().then_some(self.next_call_at());
        let running = calling.running.values().map(|call| call.deadline);
        let owed = calling.owed.values().map(|owed| owed.asked.map_or(owed.next_at, |(_, sent_at)| sent_at + limit));
        asked.into_iter().chain(next).chain(running).chain(owed).min()
    }

    pub(super) fn claim_calls(&mut self, now: Instant) {
        if !self.wants_call() || now < self.next_call_at() {
            return;
        }
        let Some(lease) = self.licensed() else { return };
        let (calls, known) = (self.options.calls.clone(), self.calling.tokens());
        let id = self.ask(StoreRequest::ClaimCall(ClaimCall { lease, calls, known }));
        self.calling.asked = Some((id, now));
        self.calling.news = false;
        self.took_its_turn = true;
    }

    pub(super) fn time_out_calls(&mut self, now: Instant) {
        let limit = self.request_limit();
        let expired = |(_, sent_at): &mut (RequestId, Instant)| now >= *sent_at + limit;
        if self.calling.asked.take_if(expired).is_some() {
            self.calling.next_at = now;
        }
        for owed in self.calling.owed.values_mut() {
            if owed.asked.take_if(expired).is_some() {
                owed.next_at = now;
            }
        }
        let over = |calling: &Calling| {
            let mut over = calling.running.iter().filter(|(_, call)| now >= call.deadline);
            over.next().map(|(key, call)| (*key, call.cancelled.is_some()))
        };
        while let Some((key, patience_is_over)) = over(&self.calling) {
            if patience_is_over {
                self.effects.push_back(WorkerEffect::AbandonCall(key));
                self.call_ended(now, key, CallAnswer::Cancelled);
                self.calling.abandoned.insert(key);
            } else {
                self.cancel_call(now, key, CancelCallReason::Timeout);
            }
        }
    }

    /// Returns whether the reply was for a claim or a record of a call.
    pub(super) fn call_answered(
        &mut self,
        now: Instant,
        id: RequestId,
        reply: &Result<StoreReply, StoreFailure>,
    ) -> bool {
        if self.calling.asked.take_if(|(asked, _)| *asked == id).is_some() {
            match reply {
                Ok(StoreReply::ClaimCall(reply)) => self.call_claimed(now, reply.clone()),
                // The next one tells what became of it.
                _ => self.calling.next_at = now + self.retry_after(),
            }
            return true;
        }
        let retry_at = now + self.retry_after();
        let asked = |owed: &Owed| owed.asked.is_some_and(|(asked, _)| asked == id);
        let Some((&key, owed)) = self.calling.owed.iter_mut().find(|(_, owed)| asked(owed)) else { return false };
        let Ok(StoreReply::RecordCall(verdict)) = reply else {
            owed.asked = None;
            owed.next_at = retry_at;
            return true;
        };
        if let Some(owed) = self.calling.owed.remove(&key) {
            // A call that was delivered brings no other: the last answer still says when to ask.
            if owed.record.outcome != CallOutcome::Delivered || self.options.until_done {
                self.calling.wake(now);
            }
            self.tell_recorded(key, owed.record.outcome, *verdict);
        }
        true
    }

    fn tell_recorded(&mut self, key: CallKey, outcome: CallOutcome, verdict: CallVerdict) {
        match (verdict, outcome) {
            (CallVerdict::Fenced, _) => self.tell(WorkerEvent::CallFenced(key)),
            (_, CallOutcome::Delivered) => self.tell(WorkerEvent::CallDelivered(key)),
            (_, CallOutcome::Retry { error, .. }) => self.tell(WorkerEvent::CallFailed { key, error }),
            (_, CallOutcome::GivenBack) => {}
        }
    }

    fn call_claimed(&mut self, now: Instant, reply: ClaimCallReply) {
        match reply {
            ClaimCallReply::Granted { call: Some(grant), .. } => {
                self.calling.next_at = now;
                self.start_call(now, grant);
            }
            ClaimCallReply::Granted { call: None, next_after, open_lines, undelivered } => {
                let poll = self.options.poll.max(super::claiming::CLAIM_AGAIN_MIN);
                let wait = next_after.unwrap_or(poll).clamp(super::claiming::CLAIM_AGAIN_MIN, poll);
                self.calling.next_at = if self.calling.news { now } else { now + wait };
                if self.options.until_done && !open_lines && !undelivered && self.owes_nothing() {
                    self.s1_stop(now, ExitReason::Done);
                }
            }
            // The keeper is to hear of the lease's end: only it can take another.
            ClaimCallReply::LeaseEnded => {
                self.calling.next_at = now + self.retry_after();
                self.effects.push_back(WorkerEffect::Keeper(KeeperCommand::RenewNow));
            }
        }
    }

    /// L4: none is started without a licence: what was granted meanwhile goes back.
    fn start_call(&mut self, now: Instant, grant: CallGrant) {
        let Some(lease) = self.licence.as_ref().map(|licence| licence.lease) else { return };
        let key = grant.key;
        if !self.may_call() {
            self.calling.next_at = now + self.retry_after();
            self.owe(now, RecordCall { lease, key, outcome: CallOutcome::GivenBack });
            return;
        }
        let deadline = o6_deadline(now, self.options.call_timeout);
        let call = RunningCall { lease, started_at: now, deadline, cancelled: None };
        let before = self.calling.running.insert(key, call);
        debug_assert!(before.is_none(), "no token is called under twice");
        self.effects.push_back(WorkerEffect::Call(grant));
    }

    fn owe(&mut self, now: Instant, record: RecordCall) {
        self.calling.owed.insert(record.key, Owed { record, asked: None, next_at: now });
    }

    /// O2: repeated as it is until its end is known.
    pub(super) fn record_calls(&mut self, now: Instant) {
        let due = self.calling.owed.iter().filter(|(_, owed)| owed.asked.is_none() && now >= owed.next_at);
        let due: Vec<(CallKey, RecordCall)> = due.map(|(key, owed)| (*key, owed.record.clone())).collect();
        for (key, record) in due {
            let id = self.ask(StoreRequest::RecordCall(record));
            if let Some(owed) = self.calling.owed.get_mut(&key) {
                owed.asked = Some((id, now));
            }
        }
    }

    /// Cancels the calls under this lease.
    pub(super) fn cancel_calls(&mut self, now: Instant, lease: Option<LeaseId>, why: CancelCallReason) {
        let running = self.calling.running.iter().filter(|(_, call)| lease.is_none_or(|lease| lease == call.lease));
        let keys: Vec<CallKey> = running.map(|(key, _)| *key).collect();
        for key in keys {
            self.cancel_call(now, key, why);
        }
    }

    /// A later reason replaces an earlier one, since it says what has become of the call since.
    fn cancel_call(&mut self, now: Instant, key: CallKey, why: CancelCallReason) {
        let patience_ends = now + self.options.cancel_grace;
        let Some(call) = self.calling.running.get_mut(&key) else { return };
        if call.cancelled.replace(why).is_none() {
            call.deadline = patience_ends;
            self.effects.push_back(WorkerEffect::CancelCall(key));
        }
    }

    /// A call ended: what came of it is owed to the store, or it is forgotten.
    pub(super) fn call_ended(&mut self, now: Instant, key: CallKey, answer: CallAnswer) {
        let Some(call) = self.calling.running.remove(&key) else {
            // An abandoned call's late end: it is long decided.
            self.calling.abandoned.remove(&key);
            return;
        };
        let jitter = self.random.next_u64();
        let retry = |error: Box<str>| CallOutcome::Retry { error, jitter };
        let outcome = match (answer, call.cancelled) {
            (CallAnswer::Delivered, _) => CallOutcome::Delivered,
            (CallAnswer::Failed(error), _) => retry(error),
            (CallAnswer::Cancelled, None) => retry("the call was given up without being asked to".into()),
            (CallAnswer::Cancelled, Some(CancelCallReason::Timeout)) => {
                retry(format!("timed out after {:.3} s", now.since(call.started_at).as_secs_f64()).into())
            }
            (CallAnswer::Cancelled, Some(CancelCallReason::Lapse)) => CallOutcome::GivenBack,
            (CallAnswer::Cancelled, Some(CancelCallReason::LeaseEnds)) => return,
        };
        self.owe(now, RecordCall { lease: call.lease, key, outcome });
    }
}
