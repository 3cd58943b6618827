//! Record: outcomes, retries, the fence, and how a batch ends.

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::outcome::{AfterRetry, Fence, o1_fence, o4_batch_end, o5_after_retry};
use fencepost_core::rules::transactions::t1_lock_order;
use fencepost_core::store::{Answer, Record, RecordItem, Recorded, Verdict};
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Token};

use super::batch::{Batch, LeftSpan, Outcome, Span};
use super::log::{LogEntry, LogKind};
use super::{Event, FreedWhy, Mistake, ModelStore};
use crate::history::{OutcomeStatus, RecordedWhy};

impl ModelStore {
    pub(super) fn record(&mut self, now: StoreTime, record: &Record) -> Vec<Verdict> {
        let mut changed: Vec<BatchId> = Vec::new();
        let mut verdicts = Vec::with_capacity(record.items.len());
        for item in &record.items {
            let verdict = self.record_item(now, record.lease, item);
            if matches!(verdict, Verdict::Recorded(_)) && changed.last() != Some(&item.batch) {
                changed.push(item.batch);
            }
            verdicts.push(verdict);
        }
        if self.makes(Mistake::EndApart) {
            self.end_later(record.lease, std::mem::take(&mut changed));
        }
        for batch in t1_lock_order(changed) {
            self.end_if_done(now, batch);
        }
        debug_assert_eq!(verdicts.len(), record.items.len());
        verdicts
    }

    fn record_item(&mut self, now: StoreTime, lease: LeaseId, item: &RecordItem) -> Verdict {
        let left = self.take_answered(lease, item);
        let Some(batch) = self.batches.get(&item.batch) else {
            return Verdict::Fenced;
        };
        match (fence(batch, left.is_some(), item), left) {
            (Fence::Holds, Some(left)) => Verdict::Recorded(self.record_held(now, lease, item, &left)),
            (Fence::Before, _) => {
                self.stopping.end_lines(lease, item.token, &LineSet::single(item.line));
                Verdict::RecordedBefore
            }
            (Fence::Holds | Fence::Fenced, _) => {
                self.stopping.end_lines(lease, item.token, &LineSet::single(item.line));
                self.note_fenced(now, lease, item);
                Verdict::Fenced
            }
        }
    }

    /// Takes the line out of the span that holds it under the answer's token.
    fn take_answered(&mut self, lease: LeaseId, item: &RecordItem) -> Option<LeftSpan> {
        let open = self.batches.get_mut(&item.batch).filter(|batch| batch.status == BatchStatus::Open);
        let left = open.and_then(|batch| batch.take_line(lease, item.token, item.line));
        left.or_else(|| self.take_by_mistake(lease, item))
    }

    /// O5: attempts used.
    pub(super) fn used(&self, batch: BatchId, line: u64) -> u32 {
        let log = self.batches[&batch].log();
        let by_crashes = if self.makes(Mistake::CrashUsesAttempt) { log.crashes(line) } else { 0 };
        log.used(line) + by_crashes
    }

    /// The line has just left its span.
    fn record_held(&mut self, now: StoreTime, lease: LeaseId, item: &RecordItem, left: &LeftSpan) -> Recorded {
        if left.gone {
            self.detach(lease, item.token, left.suspicion, left.alone);
        }
        self.touched.insert(item.batch);
        match &item.answer {
            Answer::Success(result) => {
                self.record_answer(now, lease, item, OutcomeStatus::Success, result, RecordedWhy::Answered);
                Recorded::Success
            }
            Answer::Failed(error) => {
                self.record_answer(now, lease, item, OutcomeStatus::Failed, error, RecordedWhy::Answered);
                Recorded::Failed
            }
            Answer::Retry { error, jitter, timed_out } => {
                let batch = &self.batches[&item.batch];
                match o5_after_retry(self.used(item.batch, item.line), batch.spec.attempts_max, *jitter) {
                    AfterRetry::Exhausted => {
                        let failed = OutcomeStatus::Failed;
                        self.record_answer(now, lease, item, failed, error, RecordedWhy::Exhausted);
                        Recorded::Failed
                    }
                    AfterRetry::Again { backoff } => {
                        self.record_retry(now, lease, item, now + backoff, *timed_out, left.suspicion);
                        Recorded::GivenBack
                    }
                }
            }
        }
    }

    fn record_answer(
        &mut self,
        now: StoreTime,
        lease: LeaseId,
        item: &RecordItem,
        status: OutcomeStatus,
        text: &str,
        why: RecordedWhy,
    ) {
        let batch = &self.batches[&item.batch];
        let outcome = Outcome {
            status,
            text: text.into(),
            token: item.token,
            lease,
            attempts: self.used(item.batch, item.line).saturating_add(1),
            crashes: batch.log().crashes(item.line),
            generation: batch.generation,
            run_time: item.run_time,
            recorded_at: now,
        };
        self.append_outcome(item.batch, item.line, outcome, lease, why);
    }

    /// Appends an outcome and counts it in the tally of `counted_by`.
    pub(super) fn append_outcome(
        &mut self,
        batch: BatchId,
        line: u64,
        outcome: Outcome,
        counted_by: LeaseId,
        why: RecordedWhy,
    ) {
        self.events.push(Event::Recorded {
            batch,
            line,
            token: outcome.token,
            lease: outcome.lease,
            status: outcome.status,
            attempts: outcome.attempts,
            crashes: outcome.crashes,
            why,
        });
        self.touched.insert(batch);
        if let Some(batch) = self.batches.get_mut(&batch) {
            let tally = batch.tally(counted_by);
            match outcome.status {
                OutcomeStatus::Success => tally.success += 1,
                OutcomeStatus::Failed => tally.failed += 1,
            }
            batch.append_outcome(line, outcome);
        }
    }

    fn record_retry(
        &mut self,
        now: StoreTime,
        lease: LeaseId,
        item: &RecordItem,
        not_before: StoreTime,
        timed_out: bool,
        suspicion: u32,
    ) {
        let (kind, why) = match timed_out {
            true => (LogKind::TimedOut, FreedWhy::TimedOut),
            false => (LogKind::Retried, FreedWhy::Retried),
        };
        let is_new = self.log_line(item.batch, item.line, item.token, lease, kind, now);
        debug_assert!(is_new, "no token holds a line that was given back under it");
        if let Some(batch) = self.batches.get_mut(&item.batch) {
            let tally = batch.tally(lease);
            match timed_out {
                true => tally.timed_out += 1,
                false => tally.retried += 1,
            }
        }
        let span = Span {
            lines: LineSet::single(item.line),
            holder: None,
            not_before: Some(not_before),
            suspicion,
            tried: true,
            from_lease: None,
        };
        self.free(item.batch, item.token, span, why);
    }

    /// O1: a dropped answer is kept in the row's story, once.
    fn note_fenced(&mut self, now: StoreTime, lease: LeaseId, item: &RecordItem) {
        if !self.log_line(item.batch, item.line, item.token, lease, LogKind::Fenced, now) {
            return;
        }
        self.touched.insert(item.batch);
        self.events.push(Event::Fenced { batch: item.batch, line: item.line, token: item.token, lease });
        if let Some(batch) = self.batches.get_mut(&item.batch) {
            batch.tally(lease).fenced += 1;
        }
    }

    /// Appends an entry of one line; false where it is there already.
    pub(super) fn log_line(
        &mut self,
        batch: BatchId,
        line: u64,
        token: Token,
        lease: LeaseId,
        kind: LogKind,
        at: StoreTime,
    ) -> bool {
        let Some(batch) = self.batches.get_mut(&batch) else {
            return false;
        };
        let entry = LogEntry {
            generation: batch.generation,
            lines: LineRange { first: line, last: line },
            token,
            kind,
            lease,
            judge: None,
            at,
        };
        batch.log_mut().append(line, entry)
    }

    /// O4: ends the batch where nothing of it is open any more.
    pub(super) fn end_if_done(&mut self, now: StoreTime, id: BatchId) {
        let Some(batch) = self.batches.get_mut(&id).filter(|batch| batch.status == BatchStatus::Open) else {
            return;
        };
        let spans = !batch.spans().is_empty();
        let Some(status) = o4_batch_end(batch.fresh_lines() > 0, spans, batch.failed_rows()) else {
            return;
        };
        let generation = batch.generation;
        self.close(now, id, status);
        self.events.push(Event::BatchEnded { batch: id, generation, status });
    }

    /// A generation is over: its completion is recorded (S7).
    pub(super) fn close(&mut self, now: StoreTime, id: BatchId, status: BatchStatus) {
        let Some(batch) = self.batches.get_mut(&id) else {
            return;
        };
        batch.status = status;
        batch.ended_at = Some(now);
        if self.makes(Mistake::CompletionApart) {
            self.complete_later(now, id, status);
        } else {
            self.add_completion(now, id, status);
        }
        self.open.remove(&id);
        self.touched.insert(id);
    }
}

/// O1, O2: the verdict on one line; what was recorded before is looked up after the fence.
fn fence(batch: &Batch, held: bool, item: &RecordItem) -> Fence {
    if held {
        return o1_fence(true, item.token, None, false);
    }
    let logged = batch.log().has_recorded(item.line, item.token);
    o1_fence(false, item.token, batch.outcome(item.line).map(|outcome| outcome.token), logged)
}
