//! Claim: steps 1 to 7 of `docs/store.md`.

use std::time::Duration;

use fencepost_core::rules::claim::{
    BatchStatus, BatchTurn, c1_lease_may_take, c2_number_is_open, c3_batch_order, c3_rows_within_bytes,
};
use fencepost_core::rules::poison::{
    p2_lines_to_take, p2_may_take_range, p2_may_take_suspect, p2_may_work_on_suspects,
};
use fencepost_core::store::{Claim, ClaimReply, Grant};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use super::batch::{Batch, Holder, Span};
use super::{Event, FreedWhy, Mistake, ModelStore};

/// A claim takes at most so many free spans.
const FREE_SPANS_MAX: usize = 64;

/// What a claim is to take from one batch.
struct Plan {
    /// Free spans, with how many lines of each.
    free: Vec<(Token, u64)>,
    fresh: u64,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.free.is_empty() && self.fresh == 0
    }
}

impl ModelStore {
    pub(super) fn claim(&mut self, now: StoreTime, claim: &Claim) -> ClaimReply {
        let found = self.leases.get_mut(&claim.lease);
        if !c1_lease_may_take(found.as_ref().map(|lease| lease.state)) {
            return ClaimReply::LeaseEnded;
        }
        let Some(lease) = found else {
            return ClaimReply::LeaseEnded;
        };
        if !c2_number_is_open(lease.last_number, claim.number) {
            return ClaimReply::Closed;
        }
        lease.last_number = claim.number;
        if lease.alone > 0 {
            return self.nothing_beside_alone(&claim.operations);
        }
        let (holds_nothing, holds_suspect) = (lease.held.is_empty(), lease.suspects > 0);
        let order = self.claimable(&claim.operations);
        let something_else = self.something_else(now, claim, &order);
        let may_suspect = p2_may_work_on_suspects(self.within_quota(claim.lease), something_else);
        let alone =
            if claim.idle && holds_nothing && may_suspect { self.grant_alone(now, claim, &order) } else { None };
        let granted_alone = alone.is_some();
        let may_take_range = p2_may_take_range(may_suspect, holds_suspect);
        let grants = match alone {
            Some(grant) => vec![grant],
            None if claim.lines_max == 0 => Vec::new(),
            None => self.grant_first_batch(now, claim, &order, may_take_range),
        };
        ClaimReply::Granted {
            suspect_waits: !granted_alone && may_suspect && self.suspect_waits(now, &order),
            next_after: if grants.is_empty() { self.next_after(now, &order) } else { None },
            open_lines: self.has_open_lines(&claim.operations),
            grants,
        }
    }

    /// P2: whoever holds a suspect alone claims nothing until its outcome is known.
    fn nothing_beside_alone(&self, operations: &[String]) -> ClaimReply {
        ClaimReply::Granted {
            grants: Vec::new(),
            suspect_waits: false,
            next_after: None,
            open_lines: self.has_open_lines(operations),
        }
    }

    /// C3: claimable batches in their order.
    fn claimable(&self, operations: &[String]) -> Vec<BatchId> {
        let open = self.open.iter().filter_map(|batch| self.batches.get(batch));
        let turn = |batch: &Batch| BatchTurn {
            batch: batch.spec.batch,
            priority: batch.spec.priority,
            last_claim: batch.last_claim,
        };
        let mut turns: Vec<BatchTurn> =
            open.filter(|batch| batch.is_claimable(operations) || self.claims_from_held(batch)).map(turn).collect();
        c3_batch_order(&mut turns);
        turns.into_iter().map(|turn| turn.batch).collect()
    }

    fn claims_from_held(&self, batch: &Batch) -> bool {
        self.makes(Mistake::ClaimsFromHeld) && batch.held
    }

    /// P2: at most one worker in two works on suspects.
    fn within_quota(&self, lease: LeaseId) -> bool {
        let on_suspects = |other: &&LeaseId| **other != lease && self.leases[*other].suspects > 0;
        let others = self.live.iter().filter(on_suspects).count();
        p2_may_take_suspect(others as u64, self.live.len() as u64) || self.makes(Mistake::QuotaIgnored)
    }

    /// P2: whether there is anything to claim but suspects.
    fn something_else(&self, now: StoreTime, claim: &Claim, order: &[BatchId]) -> bool {
        let one = Claim { lines_max: 1, ..claim.clone() };
        order.iter().map(|batch| plan(&self.batches[batch], now, &one, false)).any(|plan| !plan.is_empty())
    }

    fn grant_alone(&mut self, now: StoreTime, claim: &Claim, order: &[BatchId]) -> Option<Grant> {
        let first = |batch: &BatchId| Some((*batch, self.batches[batch].due_single_suspect(now)?));
        let (batch, token) = order.iter().find_map(first)?;
        let grant = self.take_free(claim, batch, token, 1, true)?;
        debug_assert!(grant.alone && grant.rows.len() == 1);
        Some(grant)
    }

    /// The first batch that yields something, and only that one.
    fn grant_first_batch(
        &mut self,
        now: StoreTime,
        claim: &Claim,
        order: &[BatchId],
        may_take_range: bool,
    ) -> Vec<Grant> {
        for &batch in order {
            let plan = plan(&self.batches[&batch], now, claim, may_take_range);
            let grants = self.take_planned(claim, batch, &plan);
            if !grants.is_empty() {
                return grants;
            }
        }
        Vec::new()
    }

    fn take_planned(&mut self, claim: &Claim, batch: BatchId, plan: &Plan) -> Vec<Grant> {
        let mut grants = Vec::with_capacity(plan.free.len() + 1);
        for &(token, lines) in &plan.free {
            grants.extend(self.take_free(claim, batch, token, lines, false));
        }
        if plan.fresh > 0 {
            grants.extend(self.take_fresh(claim, batch, plan.fresh));
        }
        grants
    }

    /// Takes the first lines of a free span; what is left of it stays free.
    fn take_free(&mut self, claim: &Claim, batch: BatchId, from: Token, lines: u64, alone: bool) -> Option<Grant> {
        let span = self.batches.get_mut(&batch)?.take_span(from)?;
        let (head, tail) = if lines < span.lines.count() {
            span.lines.split_first(lines)
        } else {
            (span.lines.clone(), LineSet::new())
        };
        let taken = Span { lines: head, not_before: None, ..span.clone() };
        let grant = self.write_held(claim, batch, Some(from), taken, alone);
        if !tail.is_empty() {
            self.free(batch, from, Span { lines: tail, ..span }, FreedWhy::Split);
        }
        grant
    }

    fn take_fresh(&mut self, claim: &Claim, batch: BatchId, lines: u64) -> Option<Grant> {
        let mut first = self.batches.get(&batch)?.cursor;
        if self.makes(Mistake::LinesGrantedTwice) {
            first = self.cursor_by_mistake(claim.lease, batch, first);
        }
        let found = self.batches.get_mut(&batch)?;
        debug_assert!(lines <= found.fresh_lines());
        let span = Span {
            lines: LineSet::range(first, first + lines - 1),
            holder: None,
            not_before: None,
            suspicion: 0,
            tried: false,
            from_lease: None,
        };
        found.cursor = first + lines;
        self.write_held(claim, batch, None, span, false)
    }

    /// Writes a held span under a new token.
    fn write_held(
        &mut self,
        claim: &Claim,
        batch: BatchId,
        from: Option<Token>,
        mut span: Span,
        alone: bool,
    ) -> Option<Grant> {
        let token = self.draw();
        span.holder = Some(Holder { lease: claim.lease, number: claim.number, alone });
        self.events.push(Event::Claimed {
            batch,
            lines: span.lines.clone(),
            token,
            from,
            lease: claim.lease,
            number: claim.number,
            suspicion: span.suspicion,
            alone,
        });
        self.touched.insert(batch);
        self.leases.get_mut(&claim.lease)?.attach(token, batch, span.suspicion, alone);
        let recovered_from = self.worker_of(span.from_lease);
        let found = self.batches.get_mut(&batch)?;
        found.last_claim = token;
        let grant = found.grant(token, &span, recovered_from);
        found.put_span(token, span);
        Some(grant)
    }

    fn suspect_waits(&self, now: StoreTime, order: &[BatchId]) -> bool {
        order.iter().any(|batch| self.batches[batch].due_single_suspect(now).is_some())
    }

    fn next_after(&self, now: StoreTime, order: &[BatchId]) -> Option<Duration> {
        let free = order.iter().flat_map(|batch| self.batches[batch].free_spans());
        let later = free.filter(|(_, span)| !span.is_due(now)).filter_map(|(_, span)| span.not_before);
        later.min().map(|earliest| earliest.since(now))
    }

    pub(super) fn has_open_lines(&self, operations: &[String]) -> bool {
        let mut open = self.open.iter().filter_map(|batch| self.batches.get(batch));
        open.any(|batch| batch.status == BatchStatus::Open && operations.contains(&batch.spec.operation))
    }
}

/// C3: what a claim takes from one batch: due free spans by first line, one suspect at most, then fresh lines, while lines
/// and bytes are left.
fn plan(batch: &Batch, now: StoreTime, claim: &Claim, mut may_take_range: bool) -> Plan {
    let mut left = claim.lines_max;
    let mut free = Vec::new();
    for (token, span) in batch.free_spans() {
        if left == 0 || free.len() == FREE_SPANS_MAX {
            break;
        }
        let suspect = span.suspicion > 0;
        if !span.is_due(now) || span.is_single_suspect() || (suspect && !may_take_range) {
            continue;
        }
        may_take_range &= !suspect;
        let available = span.lines.count();
        let lines = if suspect { p2_lines_to_take(left, available) } else { left.min(available) };
        left = left.saturating_sub(lines);
        free.push((token, lines));
    }
    let fresh = left.min(batch.fresh_lines());
    within_bytes(batch, claim.bytes_max, Plan { free, fresh })
}

/// C3: cuts a plan to the claim's bytes.
fn within_bytes(batch: &Batch, bytes_max: u64, plan: Plan) -> Plan {
    let of_free = plan.free.iter().flat_map(|(token, lines)| {
        let span = batch.span(*token).into_iter();
        span.flat_map(|span| span.lines.iter()).take(usize::try_from(*lines).unwrap_or(usize::MAX))
    });
    let of_fresh = batch.cursor..batch.cursor + plan.fresh;
    let sizes = of_free.chain(of_fresh).map(|line| batch.input(line).len() as u64);
    let mut left = c3_rows_within_bytes(sizes, bytes_max) as u64;
    let mut cut = Plan { free: Vec::with_capacity(plan.free.len()), fresh: 0 };
    for (token, lines) in plan.free {
        if left == 0 {
            return cut;
        }
        let suspect = batch.span(token).is_some_and(|span| span.suspicion > 0);
        let fitting = lines.min(left);
        cut.free.push((token, if suspect { fitting.max(2) } else { fitting }));
        left -= fitting;
    }
    cut.fresh = plan.fresh.min(left);
    cut
}
