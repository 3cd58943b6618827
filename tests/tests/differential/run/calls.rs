//! S7: completion calls, as steps of a run: claimed, recorded, recorded again, lost with their lease.

use fencepost_core::calls::{
    CallGrant, CallKey, CallOutcome, CallVerdict, Calls, ClaimCall, ClaimCallReply, RecordCall,
};
use fencepost_core::store::{StoreReply, StoreRequest};
use fencepost_core::{LeaseId, Token};

use super::Run;

/// A call that some worker was granted at some time.
#[derive(Clone)]
pub(super) struct Calling {
    lease: LeaseId,
    key: CallKey,
}

/// Where some batches want to be called.
pub(super) const URLS: [&str; 3] = ["http://host/hooks/a", "http://host/hooksmith", "http://other:81/"];

impl Run {
    pub(super) async fn call(&mut self) {
        match self.below(10) {
            0..5 => self.claim_call().await,
            5..9 => self.record_call().await,
            _ => self.claim_call_again().await,
        }
    }

    fn some_calls(&mut self) -> Calls {
        let operations = [vec!["op"], vec!["op", "other"], vec!["other"], vec!["nothing"], vec![]];
        let operations = self.pick(&operations).unwrap().into_iter().map(str::to_owned).collect();
        let urls =
            [vec![], vec!["http://host/hooks"], vec!["http://other:81/", "http://host/hooks/"], vec!["http://host/"]];
        let urls = self.pick(&urls).unwrap().into_iter().map(str::to_owned).collect();
        Calls { operations, command: !self.one_in(3), urls }
    }

    fn known_calls(&mut self, lease: LeaseId) -> Vec<Token> {
        let held = self.calls.iter().filter(|call| call.lease == lease).map(|call| call.key.token);
        let held: Vec<Token> = held.collect();
        if self.one_in(4) { held.into_iter().filter(|token| token.0 % 2 == 0).collect() } else { held }
    }

    async fn ask_for_call(&mut self, claim: ClaimCall) -> Option<CallGrant> {
        let lease = claim.lease;
        let commanded = claim.calls.command;
        let drawn = self.subjects.last_token().await;
        match self.ask(StoreRequest::ClaimCall(claim)).await {
            StoreReply::ClaimCall(ClaimCallReply::Granted { call, next_after, open_lines, undelivered }) => {
                let new = self.subjects.last_token().await > drawn;
                self.see("no call, but one waits", next_after.is_some());
                self.see("no call and none undelivered", !undelivered && !open_lines);
                self.see("no call, some held", call.is_none() && undelivered && next_after.is_none());
                let grant = call?;
                self.see(if new { "call granted" } else { "call granted that was held" }, true);
                self.see("call granted by URL", grant.end.url.is_some());
                self.see("call granted by command", grant.end.url.is_none() && commanded);
                self.see("call granted again", grant.attempt > 1);
                self.see("call granted of a later generation", grant.key.generation > 1);
                self.see("call granted of an abort", grant.end.aborted > 0);
                if new {
                    self.calls.push(Calling { lease, key: grant.key });
                }
                Some(grant)
            }
            StoreReply::ClaimCall(ClaimCallReply::LeaseEnded) => {
                self.seen.insert("call refused, lease ended");
                None
            }
            other => panic!("{other:?}"),
        }
    }

    async fn claim_call(&mut self) {
        let lease = self.some_lease();
        let (calls, known) = (self.some_calls(), self.known_calls(lease));
        self.ask_for_call(ClaimCall { lease, calls, known }).await;
    }

    /// A claim whose reply is lost: the next one is granted the same, under the same token.
    async fn claim_call_again(&mut self) {
        let lease = self.some_lease();
        let (calls, known) = (self.some_calls(), self.known_calls(lease));
        let claim = ClaimCall { lease, calls, known };
        let Some(first) = self.ask_for_call(claim.clone()).await else { return };
        let before = self.model.view();
        assert_eq!(self.ask_for_call(claim).await, Some(first), "after\n{}", self.told());
        assert_eq!(self.model.view(), before, "the repeat changed something, after\n{}", self.told());
    }

    async fn record_call(&mut self) {
        let from = self.calls.len().saturating_sub(5);
        let recent = self.calls[from..].to_vec();
        let Some(Calling { mut lease, mut key }) = self.pick(&recent) else { return };
        if self.one_in(10) {
            lease = self.some_lease();
        }
        if self.one_in(20) {
            key.token = Token(self.below(100));
        }
        if self.one_in(30) {
            key.generation += 7;
        }
        let outcome = match self.below(8) {
            0..6 => CallOutcome::Delivered,
            6 => CallOutcome::Retry { error: "not \"now\"\n".into(), jitter: self.random.next_u64() },
            _ => CallOutcome::GivenBack,
        };
        let kind = match &outcome {
            CallOutcome::Delivered => "call delivered",
            CallOutcome::Retry { .. } => "call to be tried again",
            CallOutcome::GivenBack => "call given back",
        };
        let record = StoreRequest::RecordCall(RecordCall { lease, key, outcome });
        let StoreReply::RecordCall(verdict) = self.ask(record.clone()).await else { panic!() };
        match verdict {
            CallVerdict::Recorded => {
                self.seen.insert(kind);
                let before = self.model.view();
                let again = self.ask(record).await;
                assert_eq!(again, StoreReply::RecordCall(CallVerdict::RecordedBefore), "after\n{}", self.told());
                assert_eq!(self.model.view(), before, "the repeat changed something, after\n{}", self.told());
            }
            CallVerdict::RecordedBefore => drop(self.seen.insert("call recorded before")),
            CallVerdict::Fenced => drop(self.seen.insert("call fenced")),
        }
    }
}
