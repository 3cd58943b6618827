//! Requests whose answers are lost: each kind is sent again, unchanged, at once or after others have acted (L1, C2, O2, R3, S1).

use super::*;

impl Run {
    /// Sends a request of some kind, then the same again.
    pub async fn ask_twice(&mut self) {
        match self.below(11) {
            0 => self.take_twice().await,
            1 => self.renew_twice().await,
            2 => self.drop_twice().await,
            3 | 4 => self.claim_twice().await,
            5 => self.claim_after_its_settling().await,
            6 | 7 => self.record_twice().await,
            8 => self.give_back_twice().await,
            9 => self.recover_twice().await,
            _ => self.rest_twice().await,
        }
    }

    /// The same once more: whatever it did, it did before.
    async fn ask_again(&mut self, request: StoreRequest) -> StoreReply {
        let (before, drawn) = (self.model.view(), self.subjects.last_token().await);
        let reply = self.ask(request).await;
        assert_eq!(self.model.view(), before, "the repeat changed something, after\n{}", self.told());
        assert_eq!(self.subjects.last_token().await, drawn, "the repeat drew a token, after\n{}", self.told());
        self.compare().await;
        reply
    }

    async fn take_twice(&mut self) {
        let lease = LeaseId::from_random(self.random.next_u64());
        let take = StoreRequest::TakeLease(TakeLease {
            lease,
            worker: format!("worker-{}", self.below(3)),
            stable_name: self.one_in(3),
            ttl: Duration::from_secs(20),
            renew: Duration::from_secs(10),
            process: None,
            operations: vec!["op".to_owned()],
            calls: Default::default(),
        });
        if self.ask(take.clone()).await != StoreReply::TakeLease(TakeLeaseReply::Taken) {
            return;
        }
        let ended = self.one_in(2);
        if ended {
            // Somebody found it too quiet in between.
            self.ask(StoreRequest::DropLease { lease }).await;
            self.ended.push(lease);
        } else {
            self.workers.push(Worker { lease, next_number: 1, used_numbers: vec![], grants: vec![] });
        }
        let (reply, kind) =
            if ended { (TakeLeaseReply::Ended, "take again, ended") } else { (TakeLeaseReply::Taken, "take again") };
        assert_eq!(self.ask_again(take).await, StoreReply::TakeLease(reply));
        self.seen.insert(kind);
    }

    async fn renew_twice(&mut self) {
        let renew = StoreRequest::Renew { lease: self.some_lease(), batches: self.batches.clone() };
        let first = self.ask(renew.clone()).await;
        assert_eq!(self.ask_again(renew).await, first);
        self.seen.insert("renew again");
    }

    async fn drop_twice(&mut self) {
        let Some(lease) = self.worker_with_grants() else { return };
        self.ask(StoreRequest::DropLease { lease }).await;
        self.ask_again(StoreRequest::DropLease { lease }).await;
        self.seen.insert("drop again");
        self.lease_ended(lease);
    }

    /// A lease that holds, or held, something.
    fn worker_with_grants(&mut self) -> Option<LeaseId> {
        let working = self.workers.iter().filter(|worker| !worker.grants.is_empty());
        let working: Vec<LeaseId> = working.map(|worker| worker.lease).collect();
        self.pick(&working)
    }

    fn next_claim(&mut self, at: usize) -> (LeaseId, u64, StoreRequest) {
        let worker = &mut self.workers[at];
        let (lease, number) = (worker.lease, worker.next_number);
        worker.next_number += 1;
        let operations = vec!["op".to_owned(), "other".to_owned()];
        let claim =
            Claim { lease, number, operations, lines_max: 1 + self.below(10), bytes_max: 1_000_000, idle: true };
        (lease, number, StoreRequest::Claim(claim))
    }

    /// C2: a claim whose answer is lost takes nothing more when it comes again, and its settling tells what it took.
    async fn claim_twice(&mut self) {
        let count = self.workers.len() as u64;
        let at = self.below(count) as usize;
        if self.workers.is_empty() {
            return;
        }
        let (lease, number, claim) = self.next_claim(at);
        // One that finds nothing may use its number up or not.
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = self.ask(claim.clone()).await else { return };
        if grants.is_empty() {
            return;
        }
        self.workers[at].used_numbers.push(number);
        self.workers[at].grants.extend(grants.clone());
        if self.one_in(2) {
            assert_eq!(self.ask_again(claim).await, StoreReply::Claim(ClaimReply::Closed));
            self.seen.insert("claim again");
        }
        let mut told = grants;
        if self.one_in(2) {
            // The end of the lease comes before the settling.
            self.ask(StoreRequest::DropLease { lease }).await;
            self.lease_ended(lease);
            told.clear();
        }
        let settle = StoreRequest::SettleClaim { lease, number };
        assert_eq!(self.ask_again(settle.clone()).await, StoreReply::SettleClaim(told.clone(), Vec::new()));
        assert_eq!(self.ask_again(settle).await, StoreReply::SettleClaim(told.clone(), Vec::new()));
        self.seen.insert(if told.is_empty() { "settled again, ended" } else { "settled again" });
    }

    /// C2: a claim that arrives only after it was settled takes nothing.
    async fn claim_after_its_settling(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let count = self.workers.len() as u64;
        let at = self.below(count) as usize;
        let (lease, number, claim) = self.next_claim(at);
        self.workers[at].used_numbers.push(number);
        let none = StoreReply::SettleClaim(vec![], vec![]);
        assert_eq!(self.ask(StoreRequest::SettleClaim { lease, number }).await, none);
        let late = self.ask_again(claim).await;
        assert!(matches!(late, StoreReply::Claim(ClaimReply::Closed | ClaimReply::LeaseEnded)), "{late:?}");
        if late == StoreReply::Claim(ClaimReply::Closed) {
            self.seen.insert("claim after its settling");
        }
    }

    /// O2: each line of a group that comes again was recorded before, or is fenced as it was.
    async fn record_twice(&mut self) {
        let known = self.groups.len();
        self.record().await;
        if self.groups.len() == known {
            return;
        }
        let Some(group) = self.groups.last().cloned() else { return };
        // What the first try of it did: this one finds it done.
        let StoreReply::Record(first) = self.ask_again(StoreRequest::Record(group.clone())).await else { panic!() };
        assert!(!first.iter().any(|verdict| matches!(verdict, Verdict::Recorded(_))), "{first:?}");
        self.see("record again", first.contains(&Verdict::RecordedBefore));
        // The lease ends; what is recorded stays so.
        if self.one_in(4) {
            self.ask(StoreRequest::DropLease { lease: group.lease }).await;
            self.lease_ended(group.lease);
            let StoreReply::Record(second) = self.ask_again(StoreRequest::Record(group)).await else { panic!() };
            assert_eq!(second, first);
            self.see("record again, ended", second.contains(&Verdict::RecordedBefore));
        }
    }

    async fn give_back_twice(&mut self) {
        let Some(lease) = self.worker_with_grants() else { return };
        let grants = self.workers.iter().find(|worker| worker.lease == lease).map(|worker| worker.grants.clone());
        let grants = grants.unwrap_or_default();
        let recent = &grants[grants.len().saturating_sub(2)..];
        let lines = |grant: &Grant| grant.rows.iter().map(|row| row.line).collect::<LineSet>();
        let lines = recent.iter().map(|grant| (grant.batch, grant.token, lines(grant))).collect();
        let request = StoreRequest::GiveBack { lease, lines };
        let drawn = self.subjects.last_token().await;
        self.ask(request.clone()).await;
        let went = self.subjects.last_token().await > drawn;
        if self.one_in(2) {
            // Others may have the lines by the time that it comes again.
            self.claim().await;
        }
        self.ask_again(request).await;
        self.see("give back again", went);
    }

    async fn recover_twice(&mut self) {
        let Some(lease) = self.worker_with_grants() else { return };
        let StoreReply::Look(look) = self.ask(StoreRequest::Look).await else { panic!() };
        let Some(renewals) = look.leases.iter().find(|view| view.lease == lease).map(|view| view.renewals) else {
            return;
        };
        let cause = self.pick(&[EndCause::Lapsed, EndCause::Died, EndCause::TakenOver]).unwrap();
        let recover = StoreRequest::Recover(Recover { lease, renewals, seen_at: look.now, cause, judge: None });
        let first = self.ask(recover.clone()).await;
        assert!(matches!(first, StoreReply::Recover(RecoverReply::Recovered { .. })), "{first:?}");
        assert_eq!(self.ask_again(recover).await, StoreReply::Recover(RecoverReply::Spared));
        self.seen.insert("recover again");
        self.lease_ended(lease);
        let withdraw = StoreRequest::WithdrawCrashes { lease };
        self.ask(withdraw.clone()).await;
        self.ask_again(withdraw).await;
    }

    async fn rest_twice(&mut self) {
        for request in [StoreRequest::CutBack { backoff_max: Duration::from_secs(5) }, StoreRequest::Look] {
            let first = self.ask(request.clone()).await;
            assert_eq!(self.ask_again(request).await, first);
        }
    }
}
