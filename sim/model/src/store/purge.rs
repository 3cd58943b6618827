//! S6: purging.

use std::time::Duration;

use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgeableBatch, PurgedLeases, PurgedSlice};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::{
    AppendState, PurgeCandidate, s6_begin_purge, s6_may_purge, s6_may_refer, s6_rows_of, s6_slice,
};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};

use super::batch::Batch;
use super::{Event, Mistake, ModelStore};

/// A batch whose purge has begun: nothing of it is seen any more.
#[derive(Debug, Clone, Hash)]
pub(super) struct Purge {
    rows: u64,
    last_line: u64,
    gone_to: u64,
}

impl ModelStore {
    /// S6: what there is to purge.
    pub fn purgeable(&self, now: StoreTime, ages: &PurgeAges) -> Purgeable {
        let ended_before = now - ages.ended;
        let ended = self.batches.values().filter_map(|batch| {
            let ended_at = batch.ended_at.filter(|_| s6_may_purge(batch.status))?;
            let found = PurgeableBatch { batch: batch.spec.batch, rows: batch.total, ended_at };
            (ended_at <= ended_before).then_some(found)
        });
        let mut batches: Vec<PurgeableBatch> = ended.collect();
        batches.sort_by_key(|found| (found.ended_at, found.batch));
        let cut_off = |batch: &&Batch| batch.status == BatchStatus::Loading && batch.created_at <= now - ages.load;
        let stays = |batch| self.batches.contains_key(&batch) && batches.iter().all(|found| found.batch != batch);
        let appends = self.appends.iter().filter(|(_, append)| {
            append.state != AppendState::Done && append.moved_at <= now - ages.append && stays(append.batch)
        });
        let mut appends: Vec<(BatchId, AppendId, u64)> =
            appends.map(|(id, append)| (append.batch, *id, append.rows)).collect();
        appends.sort_unstable();
        Purgeable {
            ended_before,
            begun: self
                .purges
                .iter()
                .map(|(batch, purge)| (*batch, purge.rows - purge.gone_to.min(purge.rows)))
                .collect(),
            loads: self.batches.values().filter(cut_off).map(|batch| (batch.spec.batch, batch.total)).collect(),
            appends,
            batches,
        }
    }

    /// S6: hides a batch.
    pub fn begin_purge(&mut self, id: BatchId, ended_before: StoreTime) -> PurgeBegun {
        let found = self.batches.get(&id).map(|batch| PurgeCandidate {
            status: batch.status,
            ended_at: batch.ended_at,
            has_spans: !batch.spans().is_empty() && !self.makes(Mistake::PurgeAsksForNothing),
            busy: !self.makes(Mistake::PurgeAsksForNothing) && (self.stopping.is_of(id) || self.call_is_made(id)),
        });
        let begun = s6_begin_purge(found, self.purges.contains_key(&id), ended_before);
        if begun != PurgeBegun::Now {
            return begun;
        }
        let Some(batch) = self.batches.remove(&id) else { return begun };
        let staged = self.appends.values().filter(|append| append.batch == id && append.state != AppendState::Done);
        let staged: u64 = staged.map(|append| append.rows).sum();
        self.appends.retain(|_, append| append.batch != id);
        self.completions.retain(|completion| completion.batch != id);
        self.purges.insert(id, Purge { rows: batch.total, last_line: batch.total + staged, gone_to: 0 });
        self.events.push(Event::BatchPurged { batch: id });
        self.touched.insert(id);
        begun
    }

    /// S6: removes so many lines of a batch whose purge has begun.
    pub fn purge_slice(&mut self, id: BatchId, lines_max: u64) -> PurgedSlice {
        let Some(purge) = self.purges.get_mut(&id) else {
            return PurgedSlice { rows: 0, done: true, took: Duration::ZERO };
        };
        let (after, to) = s6_slice(purge.gone_to, purge.last_line, lines_max);
        let rows = s6_rows_of(after, to, purge.rows);
        purge.gone_to = to;
        let done = to == purge.last_line;
        if done {
            self.purges.remove(&id);
        }
        PurgedSlice { rows, done, took: Duration::ZERO }
    }

    /// S6: removes ended leases that nothing can refer to, those among so many behind this one.
    pub fn purge_leases(&mut self, ended_before: StoreTime, after: Option<LeaseId>, look_at: usize) -> PurgedLeases {
        let behind = self.leases.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let ended = behind.filter_map(|(id, lease)| {
            let ended_at = lease.ended_at.filter(|_| !self.live.contains(id))?;
            (ended_at <= ended_before).then_some((*id, lease.taken_at, ended_at))
        });
        let looked_at: Vec<(LeaseId, StoreTime, StoreTime)> = ended.take(look_at).collect();
        let mut removed = 0;
        for (id, taken_at, ended_at) in &looked_at {
            let refers = |batch: &Batch| s6_may_refer((*taken_at, *ended_at), (batch.created_at, batch.ended_at));
            if !self.batches.values().any(refers) {
                self.leases.remove(id);
                removed += 1;
            }
        }
        let next_after = looked_at.last().filter(|_| looked_at.len() == look_at).map(|(id, ..)| *id);
        PurgedLeases { removed, next_after }
    }
}
