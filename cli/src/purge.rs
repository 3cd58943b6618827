//! Purging (S6): batches that ended long ago are hidden one by one, and their rows removed in slices, so that workers go on meanwhile. It
//! may be stopped at any moment, a kill included: whoever purges next goes on with what was begun.

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgedSlice};
use fencepost_core::rules::leaving::S3_CUT_OFF_AFTER;

use crate::store::loading::CUT_OFF_AFTER;
use crate::store::{Appends, Loads, Purges, StoreError};

/// A slice is to keep others waiting for about so long.
const SLICE: Duration = Duration::from_millis(50);
/// The first slice; rows may be large.
const LINES_AT_FIRST: u64 = 64;
/// No slice has more.
const LINES_MAX: u64 = 10_000;

/// What was removed so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purged {
    /// Batches of which nothing is left, other than those below.
    pub batches: u64,
    /// Their rows.
    pub rows: u64,
    /// Loads that were cut off.
    pub loads: u64,
    /// Appends that were cut off.
    pub appends: u64,
    /// Ended leases.
    pub leases: u64,
    /// Batches that stay although they were to be purged, and why.
    pub left: Vec<(BatchId, PurgeBegun)>,
}

/// The ages that go with this one of batches and leases: what is cut off is never younger than it must be to count as that.
pub fn ages(older_than: Duration) -> PurgeAges {
    PurgeAges { ended: older_than, load: older_than.max(CUT_OFF_AFTER), append: older_than.max(S3_CUT_OFF_AFTER) }
}

/// Removes what was found, first what others have begun. `progress` hears what is done so far.
///
/// # Errors
///
/// Where the store does not do it: what was removed by then is what `progress` heard last; a repeat goes on there.
pub async fn all(
    store: &(impl Purges + Loads + Appends),
    found: &Purgeable,
    progress: &mut (impl FnMut(&Purged) + Send),
) -> Result<Purged, StoreError> {
    let mut purged = Purged::default();
    let mut lines = LINES_AT_FIRST;
    for (batch, _) in &found.begun {
        remove(store, *batch, &mut lines, &mut purged, progress).await?;
    }
    for batch in found.batches.iter().map(|found| found.batch) {
        match store.begin_purge(batch, found.ended_before).await? {
            PurgeBegun::Now | PurgeBegun::Before => remove(store, batch, &mut lines, &mut purged, progress).await?,
            // Another purge was faster.
            PurgeBegun::NotThere => {}
            why @ (PurgeBegun::NotEnded | PurgeBegun::EndedSince | PurgeBegun::Busy) => purged.left.push((batch, why)),
        }
    }
    for (batch, _) in &found.loads {
        store.remove_load(*batch).await?;
        purged.loads += 1;
        progress(&purged);
    }
    for (batch, append, _) in &found.appends {
        store.remove_append(*batch, *append).await?;
        purged.appends += 1;
        progress(&purged);
    }
    let mut after = None;
    loop {
        let removed = store.purge_leases(found.ended_before, after).await?;
        purged.leases += removed.removed;
        progress(&purged);
        after = removed.next_after;
        if after.is_none() {
            return Ok(purged);
        }
    }
}

async fn remove(
    store: &impl Purges,
    batch: BatchId,
    lines: &mut u64,
    purged: &mut Purged,
    progress: &mut (impl FnMut(&Purged) + Send),
) -> Result<(), StoreError> {
    loop {
        let slice = store.purge_slice(batch, *lines).await?;
        *lines = next_lines(*lines, &slice);
        purged.rows += slice.rows;
        purged.batches += u64::from(slice.done);
        progress(purged);
        if slice.done {
            return Ok(());
        }
    }
}

/// How many lines the next slice has.
fn next_lines(lines: u64, slice: &PurgedSlice) -> u64 {
    if slice.took > SLICE {
        (lines / 2).max(1)
    } else if slice.took < SLICE / 2 && slice.rows >= lines {
        (lines * 2).min(LINES_MAX)
    } else {
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_grow_while_they_are_quick_and_shrink_when_they_are_slow() {
        let next = |lines, rows, millis| {
            next_lines(lines, &PurgedSlice { rows, done: false, took: Duration::from_millis(millis) })
        };
        assert_eq!((next(64, 64, 1), next(64, 64, 30), next(64, 64, 60)), (128, 64, 32));
        assert_eq!((next(LINES_MAX, LINES_MAX, 1), next(1, 1, 900)), (LINES_MAX, 1));
        assert_eq!(next(64, 3, 1), 64, "the end of a small batch tells nothing of a large one");
    }
}
