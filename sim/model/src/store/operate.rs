//! Hold, resume, abort, retry: what an operator does to a batch.

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::{MayRetry, s2_abort, s3_hold, s5_generation, s5_may_retry};
use fencepost_core::store::{Operated, Retried, RetryRows};
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Token};

use super::batch::{Batch, Outcome, Span};
use super::log::{LogEntry, LogKind};
use super::{Event, Mistake, ModelStore};
use crate::history::OutcomeStatus;

impl ModelStore {
    /// S3: stops claims of an open batch.
    pub fn hold(&mut self, batch: BatchId) -> Operated {
        self.set_held(batch, true)
    }

    /// S3: allows them again.
    pub fn resume(&mut self, batch: BatchId) -> Operated {
        self.set_held(batch, false)
    }

    fn set_held(&mut self, id: BatchId, hold: bool) -> Operated {
        let found = self.batches.get_mut(&id);
        let (status, held) = found.as_ref().map_or((None, false), |batch| (Some(batch.status), batch.held));
        let comes_to = s3_hold(status, held, hold);
        if let (Operated::Now, Some(batch)) = (comes_to, found) {
            batch.held = hold;
            self.events.push(Event::BatchHeld { batch: id, held: hold });
            self.touched.insert(id);
        }
        comes_to
    }

    /// S2: locks the batch, ends it, then removes its spans; what was held is kept as what may still run.
    pub fn abort(&mut self, now: StoreTime, id: BatchId) -> Operated {
        self.begin_mistaken(now, None);
        let found = self.batches.get_mut(&id);
        let comes_to = s2_abort(found.as_ref().map(|batch| batch.status));
        let (Operated::Now, Some(batch)) = (comes_to, found) else { return comes_to };
        let generation = batch.generation;
        for (token, span) in batch.drop_spans() {
            if let Some(holder) = span.holder {
                self.stopping.begin(id, token, holder.lease, holder.number, span.lines);
                self.detach(holder.lease, token, span.suspicion, holder.alone);
            }
        }
        self.close(now, id, BatchStatus::Aborted);
        self.events.push(Event::BatchAborted { batch: id, generation });
        comes_to
    }

    /// S5: turns outcomes back into free spans, one for each run of adjacent lines. Repeated, it takes away what is there then.
    pub fn retry(&mut self, now: StoreTime, id: BatchId, rows: &RetryRows) -> Retried {
        let keeps_generation = self.makes(Mistake::RetryKeepsGeneration);
        let found = self.batches.get_mut(&id);
        let reopens = match s5_may_retry(found.as_ref().map(|batch| batch.status)) {
            MayRetry::Yes { reopens } => reopens,
            MayRetry::Aborted => return Retried::Aborted,
            MayRetry::Loading => return Retried::Loading,
            MayRetry::NotThere => return Retried::NotThere,
        };
        let Some(batch) = found else { return Retried::NotThere };
        let lines: LineSet =
            batch.outcomes().filter(|(line, row)| is_meant(rows, *line, row)).map(|(line, _)| line).collect();
        let freed = lines.count();
        let next = s5_generation(batch.generation, reopens, freed);
        let reopened = next != batch.generation;
        let generation = if keeps_generation { batch.generation } else { next };
        if freed == 0 {
            return Retried::Rows { freed, generation, reopened };
        }
        take_outcomes(batch, now, &lines);
        if reopened {
            batch.status = BatchStatus::Open;
            batch.ended_at = None;
            batch.generation = generation;
            self.open.insert(id);
        }
        let mut spans = Vec::with_capacity(lines.ranges().len());
        for range in lines.ranges() {
            let lines = LineSet::range(range.first, range.last);
            spans.push((lines.clone(), self.put_retried(id, lines)));
        }
        self.events.push(Event::RowsRetried { batch: id, generation, spans });
        self.touched.insert(id);
        Retried::Rows { freed, generation, reopened }
    }

    /// A free span that carries neither suspicion nor a backoff from before.
    fn put_retried(&mut self, id: BatchId, lines: LineSet) -> Token {
        let token = self.draw();
        let span = Span { lines, holder: None, not_before: None, suspicion: 0, tried: true, from_lease: None };
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.put_span(token, span);
        }
        token
    }
}

fn is_meant(rows: &RetryRows, line: u64, outcome: &Outcome) -> bool {
    match rows {
        RetryRows::Failed => outcome.status == OutcomeStatus::Failed,
        RetryRows::FailedWith(text) => outcome.status == OutcomeStatus::Failed && outcome.text.contains(&**text),
        RetryRows::Line { line: meant, token } => *meant == line && token.is_none_or(|token| token == outcome.token),
    }
}

/// The old outcomes stay in the rows' stories. Nobody knows any more which lease counted them: lease 0 takes them off.
fn take_outcomes(batch: &mut Batch, now: StoreTime, lines: &LineSet) {
    for line in lines.iter() {
        let Some(outcome) = batch.take_outcome(line) else { continue };
        let entry = LogEntry {
            generation: outcome.generation,
            lines: LineRange { first: line, last: line },
            token: outcome.token,
            kind: LogKind::Superseded,
            lease: outcome.lease,
            judge: None,
            at: now,
        };
        let is_new = batch.log_mut().append(line, entry);
        debug_assert!(is_new, "a token is on one outcome");
        let tally = batch.tally(LeaseId::from_random(0));
        match outcome.status {
            OutcomeStatus::Success => tally.success -= 1,
            OutcomeStatus::Failed => tally.failed -= 1,
        }
    }
}
