//! The row store as the rest of the program sees it: what can be asked of any of them, and those that answer.
//!
//! | looking for | it is in |
//! |---|---|
//! | what workers ask and are answered | [`fencepost_core::store`], through [`Store`] |
//! | what each request does, exactly | `docs/store.md` |
//! | what people see: batches, counts, rows | [`Reads`], [`view`] |
//! | submitting rows | [`Loads`], [`loading`] |
//! | what an operator does to a batch | [`Operates`] |
//! | appending rows to a batch | [`Appends`], [`fencepost_core::append`] |
//! | removing what has ended | [`Purges`], [`fencepost_core::purge`] |
//! | what a running worker needs besides | [`WorkerStore`] |
//! | what `doctor` looks at, changing nothing | [`examine`] |
//! | what `verify` reads of a batch | [`verify`] |
//! | which store a name means, and opening it | [`url`] |
//! | which version its tables are at, and what moves them on | [`version`] |
//! | one type for whichever store it is | [`any`] |
//! | the embedded store | [`sqlite`] |
//! | the store on a Postgres server | [`postgres`] |

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgedLeases, PurgedSlice};
use fencepost_core::store::{Operated, Retried, RetryRows, StoreFailure, StoreReply, StoreRequest};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};

use self::loading::{BatchSpec, LoadEnd, Loaded, SliceSize};
use self::view::{
    BatchCounts, BatchView, CallsView, Resolved, RowPage, RowStatus, RowStory, StoppingView, WorkersView,
};

pub mod any;
mod called;
mod effects;
pub mod examine;
pub mod loading;
pub mod postgres;
pub mod sqlite;
pub mod url;
pub mod verify;
pub mod version;
pub mod view;

pub use any::AnyStore;
pub use url::StoreUrl;

/// A row store. Clones are handles to the same store, over the same connections.
pub trait Store: Clone + Send + Sync + 'static {
    /// Performs one request. A future that is dropped leaves the request's end unknown: it may happen yet.
    fn call(&self, request: StoreRequest) -> impl Future<Output = Result<StoreReply, StoreError>> + Send;
}

/// What people are shown of a store. Each call reads one snapshot, writes nothing and never scans the rows.
pub trait Reads: Send + Sync {
    /// The store's own id: prefixes every Redis key.
    fn store_id(&self) -> &str;

    /// The batch that this prefix of an id names, in small or capital letters.
    fn resolve_batch(&self, prefix: &str) -> impl Future<Output = Result<Resolved, StoreError>> + Send;

    /// One batch.
    fn batch(&self, batch: BatchId) -> impl Future<Output = Result<Option<BatchView>, StoreError>> + Send;

    /// The batch under this key.
    fn batch_of_key(&self, key: &str) -> impl Future<Output = Result<Option<BatchView>, StoreError>> + Send;

    /// All batches, the newest first; loads under way too.
    fn batches(&self) -> impl Future<Output = Result<Vec<BatchView>, StoreError>> + Send;

    /// A batch's counts.
    fn status(&self, batch: BatchId) -> impl Future<Output = Result<Option<BatchCounts>, StoreError>> + Send;

    /// Workers: the live ones, and those whose leases ended at this time or later.
    fn workers(&self, ended_since: StoreTime) -> impl Future<Output = Result<WorkersView, StoreError>> + Send;

    /// A batch's completion calls; nothing for one that is not there.
    fn calls(&self, batch: BatchId) -> impl Future<Output = Result<CallsView, StoreError>> + Send;

    /// Everything known of one row.
    fn row_story(&self, batch: BatchId, line: u64)
    -> impl Future<Output = Result<Option<RowStory>, StoreError>> + Send;

    /// Rows in order, a page at a time: those after this line, all or of one status. Empty for a batch that is not there or
    /// still loads.
    fn rows(
        &self,
        batch: BatchId,
        status: Option<RowStatus>,
        after_line: u64,
        limit: u32,
    ) -> impl Future<Output = Result<RowPage, StoreError>> + Send;

    /// Results in input order, a page at a time; only rows that have an outcome.
    fn results(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
        failed_only: bool,
    ) -> impl Future<Output = Result<RowPage, StoreError>> + Send;

    /// S2: which live leases may still run rows of an aborted batch.
    fn stopping(&self, batch: BatchId) -> impl Future<Output = Result<Vec<StoppingView>, StoreError>> + Send;

    /// How many rows have failed: all, or those whose error contains this text, as an operator's retry finds them (S5). Reads the
    /// errors of the failed rows, where there is a text.
    fn failed(&self, batch: BatchId, with: Option<&str>) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// What failed rows failed with, in order, a page at a time, without their inputs.
    fn errors(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<(u64, Box<str>)>, StoreError>> + Send;

    /// Inputs in order, a page at a time.
    fn inputs(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<(u64, Box<str>)>, StoreError>> + Send;
}

/// S4: loading a batch in slices. [`crate::load`] does it whole.
pub trait Loads: Send + Sync {
    /// Makes a batch to load rows into; nobody claims of it. Also clears away loads that were cut off
    /// ([`loading::CUT_OFF_AFTER`]).
    fn begin_load(&self, spec: BatchSpec) -> impl Future<Output = Result<BatchId, StoreError>> + Send;

    /// How large slices are best.
    fn slice_size(&self) -> SliceSize {
        SliceSize::SMALL
    }

    /// Appends rows from this line on, in one transaction. A slice may be repeated; one that would leave a gap is refused.
    fn load_rows(
        &self,
        batch: BatchId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Binds the key and opens the batch, or finds out that it is there already. May be repeated.
    fn finish_load(&self, batch: BatchId, end: LoadEnd) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Removes a batch that was never opened; on any other it does nothing. A load that is given up is cleaned up at once
    /// by this, otherwise by a later load.
    fn remove_load(&self, batch: BatchId) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// S2, S3, S5: what an operator does to a batch: each a transaction on the batch's lock. All may be repeated after an unknown end.
pub trait Operates: Send + Sync {
    /// Stops claims of an open batch. What runs goes on, and the batch can still end.
    fn hold(&self, batch: BatchId) -> impl Future<Output = Result<Operated, StoreError>> + Send;

    /// Allows claims of an open batch again, and wakes idle workers.
    fn resume(&self, batch: BatchId) -> impl Future<Output = Result<Operated, StoreError>> + Send;

    /// Ends an open batch for good: once this has answered, nothing of it is claimed or recorded any more. Takes as long for a
    /// large batch as for a small one.
    fn abort(&self, batch: BatchId) -> impl Future<Output = Result<Operated, StoreError>> + Send;

    /// Has rows that have an outcome run again; their old outcomes stay in their stories. A batch that had ended (but was not
    /// aborted) opens again. A repeat takes away what is there then: what failed anew, and a line that is named without a
    /// token whatever became of it. All rows go in one transaction, within the time that a statement may take.
    fn retry(&self, batch: BatchId, rows: RetryRows) -> impl Future<Output = Result<Retried, StoreError>> + Send;
}

/// S3: appending rows to a batch in slices. [`crate::append`] does it whole. The rows are stored beyond the batch's total, where nobody
/// sees them, until the end raises it. Each of these may be repeated as it is.
pub trait Appends: Send + Sync {
    /// Begins an append, under an id that the caller draws. Removes one before it that was cut off
    /// ([`S3_CUT_OFF_AFTER`](fencepost_core::rules::leaving::S3_CUT_OFF_AFTER)).
    fn begin_append(
        &self,
        batch: BatchId,
        append: AppendId,
        key: Option<&str>,
    ) -> impl Future<Output = Result<Begun, StoreError>> + Send;

    /// How large slices are best.
    fn slice_size(&self) -> SliceSize {
        SliceSize::SMALL
    }

    /// Stores the append's rows from this line of the batch on, in one transaction. A slice that would leave a gap is an error.
    fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> impl Future<Output = Result<Staged, StoreError>> + Send;

    /// Makes the rows the batch's, all of them or none.
    fn finish_append(
        &self,
        batch: BatchId,
        append: AppendId,
        end: AppendEnd,
    ) -> impl Future<Output = Result<Appended, StoreError>> + Send;

    /// Removes an append that is not done, and its rows; on any other it does nothing. One that is given up stands in nobody's way
    /// by this, otherwise until it counts as cut off.
    fn remove_append(&self, batch: BatchId, append: AppendId) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// S6: removing batches that have ended, and what else is left over, in slices. [`crate::purge`] does it whole. Any number may purge at
/// once, and each of these may be repeated as it is.
pub trait Purges: Send + Sync {
    /// What there is to purge, as of now by the store's clock. Reads one snapshot and writes nothing.
    fn purgeable(&self, ages: PurgeAges) -> impl Future<Output = Result<Purgeable, StoreError>> + Send;

    /// Hides a batch that ended before this, in one transaction: nobody sees it, and nobody writes to it, from then on.
    fn begin_purge(
        &self,
        batch: BatchId,
        ended_before: StoreTime,
    ) -> impl Future<Output = Result<PurgeBegun, StoreError>> + Send;

    /// Removes so many lines of a batch whose purge has begun, with their outcomes and all that befell them; with the last
    /// ones all that is left of the batch.
    fn purge_slice(
        &self,
        batch: BatchId,
        lines_max: u64,
    ) -> impl Future<Output = Result<PurgedSlice, StoreError>> + Send;

    /// Removes leases that ended before this and that nothing can refer to any more, some hundreds behind this one.
    fn purge_leases(
        &self,
        ended_before: StoreTime,
        after: Option<LeaseId>,
    ) -> impl Future<Output = Result<PurgedLeases, StoreError>> + Send;
}

/// What a running worker needs of its store besides [`Store::call`]. A layer over a store is one too.
pub trait WorkerStore: Store {
    /// Tells of what others wrote.
    type Changes: Changes;

    /// The same handle with this bound on how long a write waits for others; a worker's is `t2_limit` of its ttl.
    #[must_use]
    fn with_lock_wait(self, lock_wait: Duration) -> Self;

    /// L5: a handle to the same store, with the same bound, whose writes have connections of their own. It is opened and used
    /// in the keeper's own runtime.
    fn for_renewals(&self) -> impl Future<Output = Result<Self, StoreError>> + Send;

    /// Watches from now on for what others commit: a submit, a recovery, a line given back. It only spares waiting: whoever
    /// hears nothing still looks now and then.
    fn changes(&self) -> impl Future<Output = Result<Self::Changes, StoreError>> + Send;
}

/// News that others committed something.
pub trait Changes: Send + 'static {
    /// Ends when something was committed since the last call ended, and tells what, as far as the store can. May be dropped while it
    /// waits. After an error it may be called again, and then watches again if it can.
    fn next(&mut self) -> impl Future<Output = Result<Change, StoreError>> + Send;
}

/// What others committed. Several commits may come as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// There may be lines to claim.
    pub free_lines: bool,
    /// C3: batches may have been opened, resumed, appended to or opened again.
    pub batches: bool,
    /// Leases may have been taken.
    pub leases: bool,
    /// S7: a completion call may be due.
    pub ended: bool,
    /// These batches were aborted (S2).
    pub aborted: Vec<BatchId>,
}

impl Change {
    /// Something; the store cannot tell what.
    pub const fn anything() -> Self {
        Self { free_lines: true, batches: true, leases: true, ended: true, aborted: Vec::new() }
    }
}

/// Whether a store that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It is. A store that cannot be written is refused.
    Create,
    /// It is an error. A store that cannot be written can be read.
    Existing,
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What is known of the request's end.
    pub failure: StoreFailure,
    /// It is the store's own answer, which holds for all earlier tries of the same request, too.
    pub settled: bool,
    /// What went wrong, for people.
    pub message: String,
    /// The driver's own error, where there is one.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// It did not happen, and will not.
    pub fn not_done(message: impl Into<String>, cause: impl Into<Option<Box<dyn Error + Send + Sync>>>) -> Self {
        Self { failure: StoreFailure::NotDone, settled: false, message: message.into(), cause: cause.into() }
    }

    /// It did not happen, and no earlier try of it did or will.
    pub fn settled(message: impl Into<String>) -> Self {
        Self { settled: true, ..Self::not_done(message, None) }
    }

    /// It may have happened, or may happen yet.
    pub fn unknown(message: impl Into<String>, cause: impl Into<Option<Box<dyn Error + Send + Sync>>>) -> Self {
        Self { failure: StoreFailure::Unknown, settled: false, message: message.into(), cause: cause.into() }
    }
}
