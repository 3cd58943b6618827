//! Submit: loading a batch.

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::{KeyBinding, s4_bind_key};
use fencepost_core::{BatchId, StoreTime};

use super::batch::{Batch, BatchSpec, Rows};
use super::{Event, ModelStore};

/// S4: loads that were cut off are removed once they are so old.
const LOAD_AGE_MAX: Duration = Duration::from_secs(86_400);

/// What came of ending a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The batch is there; an empty one has ended already.
    Opened {
        /// How many lines it has.
        total: u64,
        /// Open, or success where it is empty.
        status: BatchStatus,
    },
    /// The key has the same content already: this batch. What was loaded is gone.
    Same {
        /// The batch that is there.
        batch: BatchId,
    },
    /// The key has other content: an error. What was loaded is gone.
    Differs {
        /// The batch that is there.
        batch: BatchId,
    },
    /// No such load: it was removed, or never began.
    NotThere,
}

impl ModelStore {
    /// S4: begins a load under an id of its own. Repeated, it changes nothing.
    pub fn begin_load(&mut self, now: StoreTime, spec: BatchSpec) -> BatchId {
        let cut_off =
            |batch: &Batch| batch.status == BatchStatus::Loading && now.since(batch.created_at) >= LOAD_AGE_MAX;
        self.batches.retain(|_, batch| !cut_off(batch));
        let id = spec.batch;
        self.batches.entry(id).or_insert_with(|| Batch::new(now, spec));
        id
    }

    /// S4: appends rows to a load; answers how many it has now. None: there is no such load.
    pub fn load_rows(&mut self, batch: BatchId, rows: Rows) -> Option<u64> {
        let found = self.batches.get_mut(&batch)?;
        if found.status != BatchStatus::Loading {
            return None;
        }
        found.load(rows);
        Some(found.total)
    }

    /// S4: ends a load: binds its key and opens it, or finds the key bound. May be repeated.
    pub fn finish_load(&mut self, now: StoreTime, id: BatchId, key: Option<&str>, digest: &str) -> Loaded {
        let bound = key.and_then(|key| self.batches.values().find(|batch| batch.key.as_deref() == Some(key)));
        let bound = bound.map(|batch| (batch.spec.batch, batch.digest.clone()));
        let Some(found) = self.batches.get(&id) else {
            return Loaded::NotThere;
        };
        if found.status != BatchStatus::Loading {
            // A repeat: the first try's reply was lost.
            return if *found.digest == *digest { Loaded::Same { batch: id } } else { Loaded::Differs { batch: id } };
        }
        match (s4_bind_key(bound.as_ref().map(|(_, digest)| &**digest), digest), bound) {
            (KeyBinding::Same, Some((batch, _))) => {
                self.batches.remove(&id);
                Loaded::Same { batch }
            }
            (KeyBinding::Differs, Some((batch, _))) => {
                self.batches.remove(&id);
                Loaded::Differs { batch }
            }
            (_, _) => self.open_batch(now, id, key, digest),
        }
    }

    fn open_batch(&mut self, now: StoreTime, id: BatchId, key: Option<&str>, digest: &str) -> Loaded {
        let Some(batch) = self.batches.get_mut(&id) else {
            return Loaded::NotThere;
        };
        batch.open();
        batch.key = key.map(Into::into);
        batch.digest = digest.into();
        let total = batch.total;
        self.events.push(Event::BatchLoaded {
            batch: id,
            total,
            operation: batch.spec.operation.clone(),
            priority: batch.spec.priority,
            attempts_max: batch.spec.attempts_max,
            crashes_max: batch.spec.crashes_max,
        });
        self.open.insert(id);
        self.touched.insert(id);
        self.end_if_done(now, id);
        Loaded::Opened { total, status: self.batches[&id].status }
    }

    /// Begins, loads and ends a load without a key in one go.
    pub fn submit(&mut self, now: StoreTime, spec: BatchSpec, rows: Rows) -> BatchId {
        let batch = self.begin_load(now, spec);
        self.load_rows(batch, rows);
        self.finish_load(now, batch, None, "");
        batch
    }
}
