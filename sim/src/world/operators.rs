//! What operators do to batches: hold, append, abort, retry, purge. One whose store is away does nothing, or tries again.

use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::purge::PurgeBegun;
use fencepost_core::store::{Operated, Retried, RetryRows};
use fencepost_core::{AppendId, BatchId};

use super::{Event, World};
use crate::coverage::Mark;
use crate::fault::Again;
use crate::options::batch_id;
use crate::rows::RowPlan;

/// An append whose rows are staged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Staging {
    append: AppendId,
    /// Place of its batch.
    at: usize,
    rows: u64,
    until: u64,
}

impl World<'_> {
    pub(super) fn hold(&mut self, batch: u8, for_us: u64) -> bool {
        let batch = batch_id(usize::from(batch) % self.rows.len());
        if self.store_server.is_away() || !matches!(self.store.hold(batch), Operated::Now | Operated::Before) {
            return false;
        }
        if self.rows_run() {
            self.coverage.mark(Mark::HoldWhileRunning);
        }
        let until = self.holds.entry(batch).or_default();
        *until = (*until).max(self.now + for_us);
        self.end_outages_at(self.now + for_us);
        self.store_changed();
        true
    }

    pub(super) fn abort(&mut self, batch: u8) -> bool {
        let at = usize::from(batch) % self.rows.len();
        if self.store_server.is_away() {
            return false;
        }
        let now = self.store_clock.now(self.now);
        let aborted = self.store.abort(now, batch_id(at)) == Operated::Now;
        if aborted && self.rows_run() {
            self.coverage.mark(Mark::AbortWhileRunning);
        }
        self.store_changed();
        aborted
    }

    pub(super) fn end_holds(&mut self, upto: u64) {
        let over: Vec<_> = self.holds.iter().filter(|(_, until)| **until <= upto).map(|(batch, _)| *batch).collect();
        for batch in over {
            // An operator whose store is away tries again.
            if self.store_server.is_away() {
                self.end_outages_at(self.now + self.schedule.options.ttl_us / 16);
                return;
            }
            // An ended batch keeps its hold, and a retry may open it again.
            if matches!(self.store.resume(batch), Operated::Now | Operated::Before) {
                self.holds.remove(&batch);
            }
            self.store_changed();
        }
    }

    /// Stages the rows; the end comes later, when the batch may have ended.
    pub(super) fn append(&mut self, batch: u8, rows: u64, for_us: u64) -> bool {
        let Some((at, append)) = self.stage(batch, rows) else { return false };
        let until = self.now + for_us;
        self.stagings.push(Staging { append, at, rows, until });
        self.end_outages_at(until);
        true
    }

    /// Rows are staged, and nobody ends it.
    pub(super) fn append_cut_off(&mut self, batch: u8, rows: u64) -> bool {
        let staged = self.stage(batch, rows).is_some();
        if staged {
            self.coverage.mark(Mark::AppendCutOff);
        }
        staged
    }

    fn stage(&mut self, batch: u8, rows: u64) -> Option<(usize, AppendId)> {
        let at = usize::from(batch) % self.rows.len();
        if self.store_server.is_away() {
            return None;
        }
        let (now, id) = (self.store_clock.now(self.now), batch_id(at));
        self.appends += 1;
        let append = AppendId::from_random(self.number_of(&[self.appends, 0xa99e]));
        let Begun::Loading { first_line } = self.store.begin_append(now, id, append, None) else { return None };
        let inputs: Vec<Box<str>> = (0..rows).map(|n| format!("{{\"n\":{}}}", first_line + n).into()).collect();
        let staged = self.store.append_rows(now, id, append, first_line, &inputs);
        debug_assert_eq!(staged, Some(Staged::Stored));
        Some((at, append))
    }

    pub(super) fn end_appends(&mut self, upto: u64) {
        while let Some(place) = self.stagings.iter().position(|staging| staging.until <= upto) {
            // The end of the store's outage comes here again.
            if self.store_server.is_away() {
                return;
            }
            let Staging { append, at, rows, .. } = self.stagings.swap_remove(place);
            let end = AppendEnd { digest: String::new(), rows };
            match self.store.finish_append(batch_id(at), append, &end) {
                Some(Appended::Done { .. }) => {
                    self.coverage.mark(Mark::Appended);
                    self.coverage.add(Mark::Rows, rows);
                    let plan = RowPlan::plain(&self.schedule.options);
                    self.rows[at].extend((0..rows).map(|_| plan));
                }
                Some(Appended::Refused { .. } | Appended::TakenOver) => self.coverage.mark(Mark::AppendRefused),
                other => unreachable!("a whole append ends as {other:?}"),
            }
            self.store_changed();
        }
    }

    pub(super) fn retry(&mut self, batch: u8, again: Again) -> bool {
        let at = usize::from(batch) % self.rows.len();
        if self.store_server.is_away() {
            return false;
        }
        let rows = match again {
            Again::Failed => RetryRows::Failed,
            Again::Line(line) => {
                RetryRows::Line { line: u64::from(line) % self.rows[at].len().max(1) as u64 + 1, token: None }
            }
        };
        let now = self.store_clock.now(self.now);
        let retried = self.store.retry(now, batch_id(at), &rows);
        self.store_changed();
        let Retried::Rows { freed, reopened, .. } = retried else { return false };
        if reopened {
            self.coverage.mark(Mark::Reopened);
            self.end_outages_at(self.now + self.schedule.options.ttl_us / 16);
        }
        if freed > 0 {
            self.coverage.mark(Mark::RowsRetried);
        }
        freed > 0
    }

    /// Slices follow one another as they would from a real client.
    pub(super) fn purge(&mut self, batch: u8) -> bool {
        let id = batch_id(usize::from(batch) % self.rows.len());
        if self.store_server.is_away() {
            return false;
        }
        let now = self.store_clock.now(self.now);
        let begun = self.store.begin_purge(id, now);
        match begun {
            PurgeBegun::Now => {
                self.coverage.mark(Mark::Purged);
                self.purged.insert(id);
                self.push(self.now + self.schedule.options.latency_us_max, Event::PurgeGoesOn(id));
            }
            PurgeBegun::Busy => self.coverage.mark(Mark::PurgeBusy),
            _ => {}
        }
        self.store_changed();
        begun == PurgeBegun::Now
    }

    pub(super) fn go_on_purging(&mut self, id: BatchId) {
        let later = self.now + self.schedule.options.latency_us_max.max(1);
        if self.store_server.is_away() || !self.store.purge_slice(id, 3).done {
            self.push(later, Event::PurgeGoesOn(id));
        }
        self.store_changed();
    }
}
