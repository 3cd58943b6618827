//! A model of the row store: `docs/store.md` as code over plain collections.
//!
//! Every request is one transaction, done at once. The decisions are the rule functions of `fencepost_core`; what is here
//! is locks that need no taking, looks and writes. Every change of state is told as an [`Event`].

mod append;
#[cfg(test)]
mod append_tests;
mod batch;
mod calls;
mod claim;
mod load;
mod log;
mod look;
mod mistakes;
mod operate;
#[cfg(test)]
mod operate_tests;
mod purge;
#[cfg(test)]
mod random_tests;
mod record;
mod recover;
mod stopping;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::rules::claim::c2_close_number;
use fencepost_core::rules::lease::{LeaseState, l2_renewable};
use fencepost_core::rules::leaving::{s1_after_drop, s2_closed};
use fencepost_core::rules::transactions::t3_draw_token;
use fencepost_core::store::{Grant, LeaseView, RenewReply, StoreReply, StoreRequest, TakeLease, TakeLeaseReply};
use fencepost_core::{AppendId, BatchId, LeaseId, LineRange, LineSet, StoreTime, Token};

use self::append::Append;
use self::batch::{Batch, Span};
pub use self::batch::{BatchSpec, Outcome, Rows};
use self::calls::Completion;
pub use self::load::Loaded;
pub use self::log::{LogEntry, LogKind};
pub use self::mistakes::Mistake;
use self::mistakes::Mistaken;
use self::purge::Purge;
use self::stopping::Stopping;
use crate::history::{Event, FreedWhy, LeaseEnd};

/// The store's state.
#[derive(Debug, Clone, Hash, Default)]
pub struct ModelStore {
    last_token: LastToken,
    batches: BTreeMap<BatchId, Batch>,
    /// Those of `batches` that are open, so that a claim does not pass by all that ever ended.
    open: BTreeSet<BatchId>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Those of `leases` that are live.
    live: BTreeSet<LeaseId>,
    appends: BTreeMap<AppendId, Append>,
    purges: BTreeMap<BatchId, Purge>,
    stopping: Stopping,
    completions: Vec<Completion>,
    events: Vec<Event>,
    touched: BTreeSet<BatchId>,
    mistaken: Mistaken,
}

#[derive(Debug, Clone, Hash)]
struct LastToken(Token);

impl Default for LastToken {
    fn default() -> Self {
        Self(Token(0))
    }
}

#[derive(Debug, Clone, Hash)]
struct Lease {
    take: TakeLease,
    taken_at: StoreTime,
    expires_at: StoreTime,
    renewals: u64,
    state: LeaseState,
    ended_at: Option<StoreTime>,
    ended_by: Option<LeaseId>,
    /// C2: the largest claim number that happened or was closed.
    last_number: u64,
    /// Its spans in order of their tokens.
    held: Vec<(Token, BatchId)>,
    /// How many of them are suspect.
    suspects: u32,
    /// How many of them were granted alone: at most one.
    alone: u32,
}

impl Lease {
    fn attach(&mut self, token: Token, batch: BatchId, suspicion: u32, alone: bool) {
        debug_assert!(self.held.last().is_none_or(|(last, _)| *last < token));
        debug_assert!(self.alone == 0, "with a suspect alone nothing else is claimed");
        self.held.push((token, batch));
        self.suspects += u32::from(suspicion > 0);
        self.alone += u32::from(alone);
    }

    fn detach(&mut self, token: Token, suspicion: u32, alone: bool) {
        let Ok(at) = self.held.binary_search_by_key(&token, |(token, _)| *token) else {
            unreachable!("a held span is known to its lease");
        };
        self.held.remove(at);
        self.suspects -= u32::from(suspicion > 0);
        self.alone -= u32::from(alone);
    }

    fn view(&self) -> LeaseView {
        LeaseView {
            lease: self.take.lease,
            worker: self.take.worker.clone(),
            ttl: self.take.ttl,
            renew: self.take.renew,
            expires_at: self.expires_at,
            renewals: self.renewals,
            process: self.take.process.clone(),
        }
    }
}

impl ModelStore {
    /// A new store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does one request at `now` by the store's clock.
    pub fn apply(&mut self, now: StoreTime, request: &StoreRequest) -> StoreReply {
        self.begin_mistaken(now, Some(request));
        match request {
            StoreRequest::TakeLease(take) => StoreReply::TakeLease(self.take_lease(now, take)),
            StoreRequest::Renew { lease, batches } => StoreReply::Renew(self.renew(now, *lease, batches)),
            StoreRequest::DropLease { lease } => {
                self.drop_lease(now, *lease);
                StoreReply::DropLease
            }
            StoreRequest::Claim(claim) => StoreReply::Claim(self.claim(now, claim)),
            StoreRequest::SettleClaim { lease, number } => {
                let grants = self.settle_claim(*lease, *number);
                StoreReply::SettleClaim(grants, self.stopping.of_claim(*lease, *number))
            }
            StoreRequest::Record(record) => StoreReply::Record(self.record(now, record)),
            StoreRequest::GiveBack { lease, lines } => {
                self.give_back(now, *lease, lines);
                StoreReply::GiveBack
            }
            StoreRequest::Look => StoreReply::Look(self.look(now)),
            StoreRequest::Recover(recover) => StoreReply::Recover(self.recover(now, recover)),
            StoreRequest::CutBack { backoff_max } => {
                self.cut_back(now, *backoff_max);
                StoreReply::CutBack
            }
            StoreRequest::WithdrawCrashes { lease } => {
                self.withdraw_crashes(now, *lease);
                StoreReply::WithdrawCrashes
            }
            StoreRequest::ClaimCall(claim) => StoreReply::ClaimCall(self.claim_call(now, claim)),
            StoreRequest::RecordCall(record) => StoreReply::RecordCall(self.record_call(now, record)),
        }
    }

    fn take_lease(&mut self, now: StoreTime, take: &TakeLease) -> TakeLeaseReply {
        match self.leases.get(&take.lease).map(|lease| lease.state) {
            Some(LeaseState::Live) => return TakeLeaseReply::Taken,
            Some(_) => return TakeLeaseReply::Ended,
            None => {}
        }
        if let Some(holder) = self.name_holder(take) {
            return TakeLeaseReply::NameHeld { holder, now };
        }
        let lease = Lease {
            take: take.clone(),
            taken_at: now,
            expires_at: now + take.ttl,
            renewals: 0,
            state: LeaseState::Live,
            ended_at: None,
            ended_by: None,
            last_number: 0,
            held: Vec::new(),
            suspects: 0,
            alone: 0,
        };
        self.events.push(Event::LeaseTaken {
            lease: take.lease,
            worker: take.worker.clone(),
            ttl: take.ttl,
            renew: take.renew,
            operations: take.operations.clone(),
            expires_at: lease.expires_at,
        });
        self.leases.insert(take.lease, lease);
        self.live.insert(take.lease);
        TakeLeaseReply::Taken
    }

    /// R5: no two live leases carry the same stable name.
    fn name_holder(&self, take: &TakeLease) -> Option<LeaseView> {
        if !take.stable_name {
            return None;
        }
        let mut live = self.live.iter().filter_map(|lease| self.leases.get(lease));
        live.find(|lease| lease.take.stable_name && lease.take.worker == take.worker).map(Lease::view)
    }

    fn renew(&mut self, now: StoreTime, lease: LeaseId, batches: &[BatchId]) -> RenewReply {
        let (any_state, not_late) = (self.makes(Mistake::RenewsTheDead), self.makes(Mistake::RefusesTheLate));
        let Some(found) = self.leases.get_mut(&lease) else {
            return RenewReply::Refused { taken_over: false };
        };
        if !(l2_renewable(found.state) || any_state) || (not_late && now >= found.expires_at) {
            let taken_over = found.state == LeaseState::TakenOver;
            return RenewReply::Refused { taken_over };
        }
        found.expires_at = now + found.take.ttl;
        found.renewals += 1;
        self.events.push(Event::LeaseRenewed { lease, renewals: found.renewals, expires_at: found.expires_at });
        let closed = |batch: &BatchId| s2_closed(self.batches.get(batch).map(|batch| batch.status));
        RenewReply::Renewed { closed: batches.iter().copied().filter(closed).collect() }
    }

    /// S1: frees whatever the lease holds, known to its worker or not.
    fn drop_lease(&mut self, now: StoreTime, lease: LeaseId) {
        let Some(held) = self.end_lease(now, lease, LeaseEnd::Dropped, None) else {
            return;
        };
        for (token, batch) in held {
            let Some(span) = self.batches.get_mut(&batch).and_then(|batch| batch.take_span(token)) else {
                continue;
            };
            let (lines, suspicion) = s1_after_drop(&span.lines, span.suspicion);
            self.log_ranges(batch, &span.lines, token, lease, None, LogKind::GivenBack, now);
            let free = Span { lines, suspicion, ..freed(&span, None) };
            self.free(batch, token, free, FreedWhy::Dropped);
        }
    }

    /// Ends a live lease and hands back what it held, in token order. None: it is not live.
    fn end_lease(
        &mut self,
        now: StoreTime,
        lease: LeaseId,
        how: LeaseEnd,
        by: Option<LeaseId>,
    ) -> Option<Vec<(Token, BatchId)>> {
        let found = self.leases.get_mut(&lease).filter(|lease| lease.state == LeaseState::Live)?;
        found.state = match how {
            LeaseEnd::Dropped => LeaseState::Dropped,
            LeaseEnd::TakenOver => LeaseState::TakenOver,
            LeaseEnd::Lapsed | LeaseEnd::Died => LeaseState::Dead,
        };
        found.ended_at = Some(now);
        found.ended_by = by;
        (found.suspects, found.alone) = (0, 0);
        let held = std::mem::take(&mut found.held);
        self.live.remove(&lease);
        self.stopping.end_lease(lease);
        self.free_calls(now, lease, how != LeaseEnd::Dropped);
        self.events.push(Event::LeaseEnded { lease, how, by });
        Some(held)
    }

    fn settle_claim(&mut self, lease: LeaseId, number: u64) -> Vec<Grant> {
        let Some(found) = self.leases.get_mut(&lease) else {
            return Vec::new();
        };
        found.last_number = c2_close_number(found.last_number, number);
        let found = &self.leases[&lease];
        let grant = |(token, batch): &(Token, BatchId)| {
            let batch = self.batches.get(batch)?;
            let span = batch.span(*token).filter(|span| span.holder.is_some_and(|holder| holder.number == number))?;
            Some(batch.grant(*token, span, self.worker_of(span.from_lease)))
        };
        found.held.iter().filter_map(grant).collect()
    }

    fn give_back(&mut self, now: StoreTime, lease: LeaseId, entries: &[(BatchId, Token, LineSet)]) {
        for (batch, token, lines) in entries {
            self.give_back_span(now, lease, *batch, *token, lines);
        }
    }

    fn give_back_span(&mut self, now: StoreTime, lease: LeaseId, batch: BatchId, token: Token, lines: &LineSet) {
        if self.makes(Mistake::GiveBackWithoutToken) {
            self.give_back_anyhow(now, lease, batch, token, lines);
            return;
        }
        let Some(found) = self.batches.get_mut(&batch) else {
            return;
        };
        let Some(span) = found.span(token).filter(|span| span.held_by(lease)) else {
            self.stopping.end_lines(lease, token, lines);
            return;
        };
        let back = span.lines.intersection(lines);
        if back.is_empty() {
            return;
        }
        let (suspicion, alone) = (span.suspicion, span.holder.is_some_and(|holder| holder.alone));
        let free = Span { lines: back.clone(), ..freed(span, None) };
        if found.take_lines(token, &back) {
            self.detach(lease, token, suspicion, alone);
        }
        self.log_ranges(batch, &back, token, lease, None, LogKind::GivenBack, now);
        self.free(batch, token, free, FreedWhy::GivenBack);
    }

    // What the requests share.

    /// T3.
    fn draw(&mut self) -> Token {
        t3_draw_token(&mut self.last_token.0)
    }

    /// Puts a free span under a new token.
    fn free(&mut self, batch: BatchId, from: Token, span: Span, why: FreedWhy) {
        debug_assert!(span.holder.is_none());
        let keeps = why == FreedWhy::Recovered && self.makes(Mistake::RecoveryKeepsTokens);
        let keeps = keeps && self.batches.get(&batch).is_some_and(|batch| batch.span(from).is_none());
        let token = if keeps { from } else { self.draw() };
        self.events.push(Event::Freed {
            batch,
            lines: span.lines.clone(),
            token,
            from,
            why,
            suspicion: span.suspicion,
            not_before: span.not_before,
        });
        self.touched.insert(batch);
        if let Some(batch) = self.batches.get_mut(&batch) {
            if keeps {
                batch.put_span_back(token, span);
            } else {
                batch.put_span(token, span);
            }
        }
    }

    fn detach(&mut self, lease: LeaseId, token: Token, suspicion: u32, alone: bool) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.detach(token, suspicion, alone);
        }
    }

    fn worker_of(&self, lease: Option<LeaseId>) -> Option<String> {
        self.leases.get(&lease?).map(|lease| lease.take.worker.clone())
    }

    #[expect(clippy::too_many_arguments, reason = "they are the columns of a record")]
    fn log_ranges(
        &mut self,
        batch: BatchId,
        lines: &LineSet,
        token: Token,
        lease: LeaseId,
        judge: Option<LeaseId>,
        kind: LogKind,
        at: StoreTime,
    ) {
        let Some(batch) = self.batches.get_mut(&batch) else {
            return;
        };
        let entry = LogEntry {
            generation: batch.generation,
            lines: LineRange { first: 1, last: 1 },
            token,
            kind,
            lease,
            judge,
            at,
        };
        batch.log_mut().append_ranges(lines, &entry);
    }
}

/// What a held span is once it is free: nobody's, and claimable at once.
fn freed(span: &Span, from_lease: Option<LeaseId>) -> Span {
    Span {
        lines: LineSet::new(),
        holder: None,
        not_before: None,
        suspicion: span.suspicion,
        tried: span.tried,
        from_lease,
    }
}
