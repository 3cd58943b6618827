//! Recover, cut back, withdraw crashes.

use std::time::Duration;

use fencepost_core::rules::poison::{AfterEnd, p2_after_crash, p2_after_end};
use fencepost_core::rules::recovery::{r3_may_act, r3_still_fresh};
use fencepost_core::rules::transactions::t1_lock_order;
use fencepost_core::store::{EndCause, Recover, RecoverReply};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use super::batch::{Outcome, Span};
use super::log::LogKind;
use super::{Event, FreedWhy, LeaseEnd, Mistake, ModelStore, freed};
use crate::history::{OutcomeStatus, RecordedWhy};

/// What came of a recovery so far.
#[derive(Default)]
struct Sum {
    lines: u64,
    failed: u64,
    failed_in: Vec<BatchId>,
}

impl ModelStore {
    pub(super) fn recover(&mut self, now: StoreTime, recover: &Recover) -> RecoverReply {
        let found = self.leases.get(&recover.lease);
        let may_act = found.is_some_and(|lease| {
            r3_may_act(lease.state, lease.renewals, recover.renewals)
                && r3_still_fresh(recover.cause, recover.seen_at, now, lease.take.renew)
        });
        if !may_act {
            return RecoverReply::Spared;
        }
        let how = match recover.cause {
            EndCause::Lapsed => LeaseEnd::Lapsed,
            EndCause::Died => LeaseEnd::Died,
            EndCause::TakenOver => LeaseEnd::TakenOver,
        };
        let Some(mut held) = self.end_lease(now, recover.lease, how, recover.judge) else {
            return RecoverReply::Spared;
        };
        held.sort_unstable_by_key(|(token, batch)| (*batch, *token));
        let mut sum = Sum::default();
        for (token, batch) in held {
            if let Some(span) = self.batches.get_mut(&batch).and_then(|batch| batch.take_span(token)) {
                self.recover_span(now, recover, batch, token, &span, &mut sum);
            }
        }
        for batch in t1_lock_order(sum.failed_in) {
            self.end_if_done(now, batch);
        }
        RecoverReply::Recovered { lines: sum.lines, failed: sum.failed }
    }

    fn recover_span(
        &mut self,
        now: StoreTime,
        recover: &Recover,
        batch: BatchId,
        token: Token,
        span: &Span,
        sum: &mut Sum,
    ) {
        let alone = span.holder.is_some_and(|holder| holder.alone);
        if self.makes(Mistake::WholeLeaseBlamed) {
            for line in span.lines.iter() {
                let one = Span { lines: LineSet::single(line), ..span.clone() };
                self.crash(now, recover, batch, token, &one, sum);
            }
            return;
        }
        match p2_after_end(&span.lines, span.suspicion, alone) {
            AfterEnd::Suspect { suspicion, .. } if self.makes(Mistake::SuspectsNotHalved) => {
                self.free_recovered(now, recover, batch, token, span, vec![span.lines.clone()], suspicion, sum);
            }
            AfterEnd::Suspect { parts, suspicion } => {
                self.free_recovered(now, recover, batch, token, span, parts, suspicion, sum);
            }
            AfterEnd::Crash => self.crash(now, recover, batch, token, span, sum),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a span, its end, and what it becomes")]
    fn free_recovered(
        &mut self,
        now: StoreTime,
        recover: &Recover,
        batch: BatchId,
        token: Token,
        span: &Span,
        parts: Vec<LineSet>,
        suspicion: u32,
        sum: &mut Sum,
    ) {
        let kind = LogKind::Recovered;
        self.log_ranges(batch, &span.lines, token, recover.lease, recover.judge, kind, now);
        for lines in parts {
            sum.lines += lines.count();
            let free = Span { lines, suspicion, ..freed(span, Some(recover.lease)) };
            self.free(batch, token, free, FreedWhy::Recovered);
        }
    }

    /// P2: a line that ran alone was in a death.
    fn crash(&mut self, now: StoreTime, recover: &Recover, batch: BatchId, token: Token, span: &Span, sum: &mut Sum) {
        let Some(line) = span.lines.first() else {
            return;
        };
        debug_assert_eq!(span.lines.count(), 1, "only a single line is granted alone");
        let lease = recover.lease;
        let is_new = self.log_line(batch, line, token, lease, LogKind::Crashed, now);
        debug_assert!(is_new, "a token is in one death");
        self.events.push(Event::Crashed { batch, line, token, lease });
        let found = &self.batches[&batch];
        let crashes = found.log().crashes(line);
        if p2_after_crash(crashes, found.spec.crashes_max) {
            self.fail_crashed(now, recover, batch, line, crashes);
            sum.failed += 1;
            sum.failed_in.push(batch);
        } else {
            let tried = Span { tried: true, ..span.clone() };
            let suspicion = span.suspicion.saturating_add(1);
            self.free_recovered(now, recover, batch, token, &tried, vec![span.lines.clone()], suspicion, sum);
        }
    }

    fn fail_crashed(&mut self, now: StoreTime, recover: &Recover, batch: BatchId, line: u64, crashes: u32) {
        let token = self.draw();
        let found = &self.batches[&batch];
        let outcome = Outcome {
            status: OutcomeStatus::Failed,
            text: "crashed its worker too often".into(),
            token,
            lease: recover.lease,
            attempts: self.used(batch, line),
            crashes,
            generation: found.generation,
            run_time: Duration::ZERO,
            recorded_at: now,
        };
        let counted_by = recover.judge.unwrap_or(LeaseId::from_random(0));
        self.append_outcome(batch, line, outcome, counted_by, RecordedWhy::CrashedTooOften);
    }

    /// R2: leases and not-before times that lie further ahead than they ever may.
    pub(super) fn cut_back(&mut self, now: StoreTime, backoff_max: Duration) {
        let leases_too = !self.makes(Mistake::NoCutBack);
        for id in self.live.iter().filter(|_| leases_too) {
            let Some(lease) = self.leases.get_mut(id) else {
                continue;
            };
            let latest = now + lease.take.ttl;
            if lease.expires_at > latest {
                lease.expires_at = latest;
                self.events.push(Event::LeaseCutBack { lease: *id, expires_at: latest });
            }
        }
        for id in &self.open {
            if let Some(batch) = self.batches.get_mut(id) {
                batch.cut_back(now + backoff_max);
            }
        }
        self.cut_calls_back(now + backoff_max);
    }

    /// P1: a worker that was declared dead while alive takes its crashes back.
    pub(super) fn withdraw_crashes(&mut self, now: StoreTime, lease: LeaseId) {
        if self.live.contains(&lease) || !self.leases.contains_key(&lease) {
            return;
        }
        let mut withdrawn = Vec::new();
        for (id, batch) in &mut self.batches {
            let crashed = |entry: &&super::LogEntry| entry.kind == LogKind::Crashed && entry.lease == lease;
            let crashes: Vec<super::LogEntry> = batch.log().entries().iter().filter(crashed).cloned().collect();
            for entry in crashes {
                let (line, token) = (entry.lines.first, entry.token);
                let kind = LogKind::CrashWithdrawn;
                if batch.log_mut().append(line, super::LogEntry { kind, at: now, ..entry }) {
                    withdrawn.push((*id, line, token));
                }
            }
        }
        for (batch, line, token) in withdrawn {
            self.touched.insert(batch);
            self.events.push(Event::CrashWithdrawn { batch, line, token, lease });
        }
    }
}
