//! Look, and what tests and checkers read.

use std::collections::BTreeSet;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::LookReply;
use fencepost_core::{BatchId, StoreTime, Token};

use super::batch::{Batch, Outcome, Span};
use super::calls::Completion;
use super::log::LogEntry;
use super::{Event, Lease, ModelStore};
use crate::view::{BatchView, CompletionView, OutcomeView, SpanView, StoppingView, StoreView};

impl ModelStore {
    pub(super) fn look(&self, now: StoreTime) -> LookReply {
        let live = self.live.iter().filter_map(|lease| self.leases.get(lease));
        let open = self.open.iter().filter_map(|batch| self.batches.get(batch));
        let not_before = open.flat_map(Batch::free_spans).filter_map(|(_, span)| span.not_before);
        LookReply {
            now,
            leases: live.map(Lease::view).collect(),
            not_before_max: not_before.max().max(self.calls_wait_until()),
        }
    }

    /// What happened since the last call, in order.
    pub fn drain_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// The batches that changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<BatchId> {
        std::mem::take(&mut self.touched)
    }

    /// Everything.
    pub fn view(&self) -> StoreView {
        let loaded = self.batches.values().filter(|batch| batch.status != BatchStatus::Loading);
        StoreView { batches: loaded.map(batch_view).collect(), whole: true, ..self.view_of(&BTreeSet::new()) }
    }

    /// These batches, and all leases and completions.
    pub fn view_of(&self, batches: &BTreeSet<BatchId>) -> StoreView {
        let found = batches.iter().filter_map(|batch| self.batches.get(batch));
        StoreView {
            batches: found.filter(|batch| batch.status != BatchStatus::Loading).map(batch_view).collect(),
            leases: self.leases.iter().map(|(id, lease)| (*id, lease.state)).collect(),
            completions: self.completions(),
            whole: false,
        }
    }

    /// A batch's status.
    pub fn status(&self, batch: BatchId) -> Option<BatchStatus> {
        self.batches.get(&batch).map(|batch| batch.status)
    }

    /// Whether a batch is open: the end of most runs.
    pub fn has_open_batch(&self) -> bool {
        !self.open.is_empty()
    }

    /// A row's outcome.
    pub fn outcome(&self, batch: BatchId, line: u64) -> Option<&Outcome> {
        self.batches.get(&batch)?.outcome(line)
    }

    /// A batch's log, in order.
    pub fn log(&self, batch: BatchId) -> &[LogEntry] {
        self.batches.get(&batch).map_or(&[], |batch| batch.log().entries())
    }

    /// How many leases there are that have ended.
    pub fn ended_leases(&self) -> u64 {
        (self.leases.len() - self.live.len()) as u64
    }

    /// S2: what may still run of aborted batches, by token.
    pub fn stopping(&self) -> Vec<StoppingView> {
        self.stopping.views()
    }

    /// All completions, in order.
    pub fn completions(&self) -> Vec<CompletionView> {
        self.completions.iter().map(Completion::view).collect()
    }
}

fn batch_view(batch: &Batch) -> BatchView {
    let outcome = |line| {
        let outcome = batch.outcome(line)?;
        Some(OutcomeView {
            line,
            status: outcome.status,
            token: outcome.token,
            lease: outcome.lease,
            attempts: outcome.attempts,
            crashes: outcome.crashes,
            generation: outcome.generation,
        })
    };
    BatchView {
        batch: batch.spec.batch,
        status: batch.status,
        held: batch.held,
        total: batch.total,
        cursor: batch.cursor,
        generation: batch.generation,
        spans: batch.spans().iter().map(|(token, span)| span_view(*token, span)).collect(),
        outcomes: (1..=batch.total).filter_map(outcome).collect(),
        tallies: batch.tallies().iter().map(|(lease, tally)| (*lease, *tally)).collect(),
        logged: batch.log().counts(),
        counts: batch.counts(),
    }
}

fn span_view(token: Token, span: &Span) -> SpanView {
    SpanView {
        token,
        lines: span.lines.clone(),
        lease: span.holder.map(|holder| holder.lease),
        number: span.holder.map(|holder| holder.number),
        not_before: span.not_before,
        suspicion: span.suspicion,
        alone: span.holder.is_some_and(|holder| holder.alone),
        tried: span.tried,
        from_lease: span.from_lease,
    }
}
