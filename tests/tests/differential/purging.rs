//! S6: purges in a run, at any moment: begun, left in the middle, gone on with, repeated, of batches of every status.

use std::time::Duration;

use fencepost::store::sqlite::Clock;
use fencepost_core::purge::{PurgeAges, PurgeBegun, PurgedSlice};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::Record;
use fencepost_core::{BatchId, StoreTime};

use super::run::Run;

/// As the stores have it.
const LEASES_AT_ONCE: usize = 500;

impl Run {
    pub(super) async fn purge(&mut self) {
        match self.below(10) {
            0..4 => self.begin_purge().await,
            4..6 => self.purge_slice().await,
            6..8 => self.ask_purgeable().await,
            _ => self.purge_leases().await,
        }
    }

    /// A moment that something ended before, or not.
    fn some_moment(&mut self) -> StoreTime {
        let now = self.clock.now();
        let ages = [0, 1, 60, 3600, 86_400];
        now - Duration::from_secs(self.pick(&ages).unwrap())
    }

    async fn begin_purge(&mut self) {
        // Few enough that batches last for the rest of the run to do something with.
        let ended = self.batches.iter().filter(|batch| self.model.status(**batch).is_some_and(is_ended)).count();
        let purging = self.purging.clone();
        let staged_to = self.staged_to();
        let stopping: Vec<BatchId> = self.model.stopping().iter().map(|of| of.batch).collect();
        let mut moment = self.some_moment();
        let batch = match self.below(5) {
            // It has ended by now, and is still at work.
            4 if !stopping.is_empty() => {
                moment = self.clock.now();
                self.pick(&stopping).unwrap_or(BatchId::from_random(7))
            }
            0 => self.pick(&purging).unwrap_or(BatchId::from_random(7)),
            1 if !staged_to.is_empty() => {
                moment = self.clock.now();
                self.pick(&staged_to).unwrap_or(BatchId::from_random(7))
            }
            _ => self.some_batch().await,
        };
        let status = self.model.status(batch);
        if status.is_some_and(is_ended) && ended < 5 && !stopping.contains(&batch) && !staged_to.contains(&batch) {
            return;
        }
        let staged = self.model.view().batch(batch).map(|view| view.total);
        let again = self.one_in(3);
        for _ in 0..=u8::from(again) {
            let begun = self.ask_begin_purge(batch, moment).await;
            match begun {
                PurgeBegun::Now => {
                    self.see("purge begun", true);
                    self.purging.push(batch);
                    let of_it = |group: &&Record| group.items.iter().any(|item| item.batch == batch);
                    let zombies: Vec<Record> = self.groups.iter().rev().filter(of_it).take(20).cloned().collect();
                    if let Some(zombie) = self.pick(&zombies) {
                        self.record_group(zombie).await;
                    }
                }
                PurgeBegun::Before => self.see("purge begun before", true),
                PurgeBegun::NotThere => self.see("purge of nothing there", true),
                PurgeBegun::NotEnded => {
                    self.see("purge of an open batch", status == Some(BatchStatus::Open));
                    self.see("purge of a loading batch", status == Some(BatchStatus::Loading));
                }
                PurgeBegun::EndedSince => self.see("purge of a batch that ended since", true),
                PurgeBegun::Busy => self.see("purge of what may still run", true),
            }
            let beyond = self.subjects.lines_beyond(batch, staged.unwrap_or(u64::MAX)).await;
            self.see("purge of staged rows", begun == PurgeBegun::Now && beyond > 0);
        }
        self.compare().await;
    }

    async fn ask_begin_purge(&mut self, batch: BatchId, ended_before: StoreTime) -> PurgeBegun {
        self.story.push(format!("{} begin purge {batch} {ended_before:?}", self.clock.now().0));
        let expected = self.model.begin_purge(batch, ended_before);
        for (name, got) in self.subjects.begin_purge(batch, ended_before).await {
            assert_eq!(got.unwrap(), expected, "{name} left, model right, after\n{}", self.told());
        }
        expected
    }

    async fn purge_slice(&mut self) {
        let purging = self.purging.clone();
        // Now and then one that is not begun: nothing comes of it.
        let batch = match self.one_in(6) {
            true => self.some_batch().await,
            false => self.pick(&purging).unwrap_or(BatchId::from_random(7)),
        };
        let lines_max = self.below(4);
        self.story.push(format!("{} purge {lines_max} of {batch}", self.clock.now().0));
        let PurgedSlice { rows, done, .. } = self.model.purge_slice(batch, lines_max);
        for (name, got) in self.subjects.purge_slice(batch, lines_max).await {
            let got = got.unwrap();
            assert_eq!((got.rows, got.done), (rows, done), "{name} left, model right, after\n{}", self.told());
        }
        let was_begun = purging.contains(&batch);
        self.see("purge slice", rows > 0 && !done);
        self.see("purge done", done && was_begun);
        self.see("purge done before", done && !was_begun);
        if done {
            self.purging.retain(|other| *other != batch);
        }
        self.compare().await;
    }

    async fn ask_purgeable(&mut self) {
        let ended = Duration::from_secs(self.below(4000));
        let ages = PurgeAges { ended, load: Duration::from_secs(3000), append: Duration::from_secs(60) };
        let expected = self.model.purgeable(self.clock.now(), &ages);
        for (name, got) in self.subjects.purgeable(ages).await {
            assert_eq!(got.unwrap(), expected, "{name} left, model right, after\n{}", self.told());
        }
        self.see("purgeable batches", !expected.batches.is_empty());
        self.see("purgeable, begun", expected.begun.iter().any(|(_, rows)| *rows > 0));
        self.see("purgeable loads", !expected.loads.is_empty());
        self.see("purgeable appends", !expected.appends.is_empty());
    }

    async fn purge_leases(&mut self) {
        let (moment, mut after) = (self.some_moment(), None);
        self.story.push(format!("{} purge leases {moment:?}", self.clock.now().0));
        let ended = self.model.ended_leases();
        let mut removed = 0;
        loop {
            let expected = self.model.purge_leases(moment, after, LEASES_AT_ONCE);
            for (name, got) in self.subjects.purge_leases(moment, after).await {
                assert_eq!(got.unwrap(), expected, "{name} left, model right, after\n{}", self.told());
            }
            removed += expected.removed;
            after = expected.next_after;
            if after.is_none() {
                break;
            }
        }
        self.see("purged leases", removed > 0);
        self.see("purge kept leases", removed < ended);
        self.compare().await;
    }

    /// Nothing is left of batches that are gone, and nothing is seen of those that are going.
    pub(super) async fn compare_leftovers(&mut self) {
        for (name, left) in self.subjects.leftovers(&self.purging).await {
            assert_eq!(left, 0, "{name} left, after\n{}", self.told());
        }
    }
}

fn is_ended(status: BatchStatus) -> bool {
    matches!(status, BatchStatus::Success | BatchStatus::Failed | BatchStatus::Aborted)
}
