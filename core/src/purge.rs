//! S6: what purging asks of a store, and what it is answered.
//!
//! What there is to purge is asked once, which fixes the moment that everything is compared with. Each batch is then begun, in one
//! short transaction that hides it from everybody, and its rows are removed in slices. Each of these may be repeated as it is, and by
//! anybody: whoever purges next goes on where another one stopped. The decisions are in
//! [`rules::leaving`](crate::rules::leaving), `s6_...`.

use std::time::Duration;

use crate::ids::{AppendId, BatchId, LeaseId};
use crate::time::StoreTime;

/// How long ago things must have ended, or last moved, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeAges {
    /// Of batches and leases.
    pub ended: Duration,
    /// Of loads.
    pub load: Duration,
    /// Of appends.
    pub append: Duration,
}

/// What there is to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purgeable {
    /// Batches and leases that ended later stay.
    pub ended_before: StoreTime,
    /// Batches, those that ended first first.
    pub batches: Vec<PurgeableBatch>,
    /// Batches whose purge was begun, with the rows that are left.
    pub begun: Vec<(BatchId, u64)>,
    /// Loads that were cut off, with the rows that are there.
    pub loads: Vec<(BatchId, u64)>,
    /// Appends that were cut off and whose batch stays, with the rows that are there.
    pub appends: Vec<(BatchId, AppendId, u64)>,
}

impl Purgeable {
    /// Whether there is nothing, except perhaps leases.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.begun.is_empty() && self.loads.is_empty() && self.appends.is_empty()
    }
}

/// A batch that can be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeableBatch {
    /// Which.
    pub batch: BatchId,
    /// How many rows it has.
    pub rows: u64,
    /// When it ended.
    pub ended_at: StoreTime,
}

/// What the beginning of a batch's purge comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeBegun {
    /// From now on nobody sees it.
    Now,
    /// It has begun before: what is left is to be removed.
    Before,
    /// There is no such batch, or no longer.
    NotThere,
    /// It is open or loads: an operator's retry may have opened it again.
    NotEnded,
    /// It ended later than was said: it was open in between.
    EndedSince,
    /// Something of it is under way: a completion call, rows of an append on their way, or what ran when it was aborted. To be tried again later.
    Busy,
}

/// What a slice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgedSlice {
    /// How many of the batch's rows it removed.
    pub rows: u64,
    /// Nothing is left of the batch.
    pub done: bool,
    /// How long it kept others waiting: what the size of the next one goes by.
    pub took: Duration,
}

/// What a slice of ended leases came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgedLeases {
    /// How many it removed.
    pub removed: u64,
    /// The next slice is behind this one; none: there is none.
    pub next_after: Option<LeaseId>,
}
