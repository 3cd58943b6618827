//! S3: somebody appends rows to a batch, and takes some time over it.

use fencepost_core::AppendId;
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};

use super::World;
use crate::coverage::Mark;
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
    /// Stages the rows; the end comes later, when the batch may have ended.
    pub(super) fn append(&mut self, batch: u8, rows: u64, for_us: u64) -> bool {
        let at = usize::from(batch) % self.rows.len();
        if self.store_server.is_away() {
            return false;
        }
        let (now, id) = (self.store_clock.now(self.now), batch_id(at));
        let append = AppendId::from_random(self.number_of(&[at as u64, self.now, 0xa99e]));
        let Begun::Loading { first_line } = self.store.begin_append(now, id, append, None) else { return false };
        let inputs: Vec<Box<str>> = (0..rows).map(|n| format!("{{\"n\":{}}}", first_line + n).into()).collect();
        let staged = self.store.append_rows(now, id, append, first_line, &inputs);
        debug_assert_eq!(staged, Some(Staged::Stored));
        let until = self.now + for_us;
        self.stagings.push(Staging { append, at, rows, until });
        self.end_outages_at(until);
        true
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
}
