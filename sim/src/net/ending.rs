//! Faults stop; a random core of workers is whole; everything must end.

use fencepost_core::rules::claim::BatchStatus;

use super::world::World;
use crate::world::ending::progress_bound_us;

/// What connections may add: TCP sends again after 10 s at most, Redis is connected to again after 10 s at most.
const NETWORK_US: u64 = 60_000_000;

impl World {
    /// The workers that are whole in the end: at least one.
    pub(super) fn core(&self) -> Vec<usize> {
        let mask = self.schedule.options.core;
        let core: Vec<usize> = (0..self.workers()).filter(|slot| mask >> slot & 1 == 1).collect();
        if core.is_empty() { vec![self.number_of(&[0xc0de]) as usize % self.workers()] } else { core }
    }

    pub(super) fn progress_bound_us(&self) -> u64 {
        progress_bound_us(&self.schedule.as_level_one(), self.rows.iter().flatten().copied()) + NETWORK_US
    }

    pub(super) fn is_over(&self) -> bool {
        self.checks.violation().is_some()
            || self.ended_at.is_some_and(|ended| self.now() >= ended + self.schedule.options.linger_us)
    }

    /// For the report of a run that does not end.
    pub(super) fn what_is_open(&self) -> String {
        let view = self.store.model.view();
        let open = view.batches.iter().filter(|batch| batch.status == BatchStatus::Open);
        let spans: Vec<String> = open.map(|batch| format!("{} {:?}", batch.batch, batch.spans)).collect();
        let calls = if self.owes_calls() { "; calls are owed" } else { "" };
        format!("open long after all faults stopped: {}{calls}", spans.join("; "))
    }
}
