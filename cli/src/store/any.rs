//! Whichever store it is: one type for the command, which learns from a name what it works on.
//!
//! A further store is a variant of [`AnyStore`] and of [`AnyChanges`], a `From` for each, and a line in each macro.

use std::time::Duration;

use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgedLeases, PurgedSlice};
use fencepost_core::store::{Operated, Retried, RetryRows, StoreReply, StoreRequest};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};

use super::loading::{BatchSpec, LoadEnd, Loaded, SliceSize};
use super::postgres::{self, PostgresStore};
use super::sqlite::{self, SqliteStore};
use super::verify::{Inspector, Verifies};
use super::view::{
    BatchCounts, BatchView, CallsView, Resolved, RowPage, RowStatus, RowStory, StoppingView, WorkersView,
};
use super::{Appends, Change, Changes, Loads, Operates, Purges, Reads, Store, StoreError, WorkerStore};

/// A handle to a store of any kind. Clones share its connections.
#[derive(Clone, Debug)]
pub enum AnyStore {
    /// An SQLite file.
    Sqlite(SqliteStore),
    /// A schema on a Postgres server.
    Postgres(PostgresStore),
}

/// The news of a store of any kind.
#[derive(Debug)]
pub enum AnyChanges {
    /// Of an SQLite file.
    Sqlite(sqlite::Changes),
    /// Of a schema on a Postgres server.
    Postgres(postgres::Changes),
}

impl From<SqliteStore> for AnyStore {
    fn from(store: SqliteStore) -> Self {
        Self::Sqlite(store)
    }
}

impl From<PostgresStore> for AnyStore {
    fn from(store: PostgresStore) -> Self {
        Self::Postgres(store)
    }
}

impl From<sqlite::Changes> for AnyChanges {
    fn from(changes: sqlite::Changes) -> Self {
        Self::Sqlite(changes)
    }
}

impl From<postgres::Changes> for AnyChanges {
    fn from(changes: postgres::Changes) -> Self {
        Self::Postgres(changes)
    }
}

/// The same with the store itself, whichever it is.
macro_rules! with_store {
    ($any:expr, $store:ident => $act:expr) => {
        match $any {
            AnyStore::Sqlite($store) => $act,
            AnyStore::Postgres($store) => $act,
        }
    };
}

/// The same with the news themselves.
macro_rules! with_changes {
    ($any:expr, $changes:ident => $act:expr) => {
        match $any {
            AnyChanges::Sqlite($changes) => $act,
            AnyChanges::Postgres($changes) => $act,
        }
    };
}

impl Store for AnyStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        with_store!(self, store => store.call(request).await)
    }
}

impl Reads for AnyStore {
    fn store_id(&self) -> &str {
        with_store!(self, store => store.store_id())
    }

    async fn resolve_batch(&self, prefix: &str) -> Result<Resolved, StoreError> {
        with_store!(self, store => store.resolve_batch(prefix).await)
    }

    async fn batch(&self, batch: BatchId) -> Result<Option<BatchView>, StoreError> {
        with_store!(self, store => store.batch(batch).await)
    }

    async fn batch_of_key(&self, key: &str) -> Result<Option<BatchView>, StoreError> {
        with_store!(self, store => store.batch_of_key(key).await)
    }

    async fn batches(&self) -> Result<Vec<BatchView>, StoreError> {
        with_store!(self, store => store.batches().await)
    }

    async fn status(&self, batch: BatchId) -> Result<Option<BatchCounts>, StoreError> {
        with_store!(self, store => store.status(batch).await)
    }

    async fn workers(&self, ended_since: StoreTime) -> Result<WorkersView, StoreError> {
        with_store!(self, store => store.workers(ended_since).await)
    }

    async fn calls(&self, batch: BatchId) -> Result<CallsView, StoreError> {
        with_store!(self, store => store.calls(batch).await)
    }

    async fn row_story(&self, batch: BatchId, line: u64) -> Result<Option<RowStory>, StoreError> {
        with_store!(self, store => store.row_story(batch, line).await)
    }

    async fn rows(
        &self,
        batch: BatchId,
        status: Option<RowStatus>,
        after_line: u64,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        with_store!(self, store => store.rows(batch, status, after_line, limit).await)
    }

    async fn results(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
        failed_only: bool,
    ) -> Result<RowPage, StoreError> {
        with_store!(self, store => store.results(batch, after_line, limit, failed_only).await)
    }

    async fn stopping(&self, batch: BatchId) -> Result<Vec<StoppingView>, StoreError> {
        with_store!(self, store => store.stopping(batch).await)
    }

    async fn failed(&self, batch: BatchId, with: Option<&str>) -> Result<u64, StoreError> {
        with_store!(self, store => store.failed(batch, with).await)
    }

    async fn errors(&self, batch: BatchId, after_line: u64, limit: u32) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        with_store!(self, store => store.errors(batch, after_line, limit).await)
    }

    async fn inputs(&self, batch: BatchId, after_line: u64, limit: u32) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        with_store!(self, store => store.inputs(batch, after_line, limit).await)
    }
}

impl Verifies for AnyStore {
    async fn inspect(&self, batch: BatchId, inspector: &mut impl Inspector) -> Result<bool, StoreError> {
        with_store!(self, store => store.inspect(batch, inspector).await)
    }
}

impl Loads for AnyStore {
    async fn begin_load(&self, spec: BatchSpec) -> Result<BatchId, StoreError> {
        with_store!(self, store => store.begin_load(spec).await)
    }

    fn slice_size(&self) -> SliceSize {
        with_store!(self, store => Loads::slice_size(store))
    }

    async fn load_rows(&self, batch: BatchId, first_line: u64, inputs: &[Box<str>]) -> Result<(), StoreError> {
        with_store!(self, store => store.load_rows(batch, first_line, inputs).await)
    }

    async fn finish_load(&self, batch: BatchId, end: LoadEnd) -> Result<Loaded, StoreError> {
        with_store!(self, store => store.finish_load(batch, end).await)
    }

    async fn remove_load(&self, batch: BatchId) -> Result<(), StoreError> {
        with_store!(self, store => store.remove_load(batch).await)
    }
}

impl Operates for AnyStore {
    async fn hold(&self, batch: BatchId) -> Result<Operated, StoreError> {
        with_store!(self, store => store.hold(batch).await)
    }

    async fn resume(&self, batch: BatchId) -> Result<Operated, StoreError> {
        with_store!(self, store => store.resume(batch).await)
    }

    async fn abort(&self, batch: BatchId) -> Result<Operated, StoreError> {
        with_store!(self, store => store.abort(batch).await)
    }

    async fn retry(&self, batch: BatchId, rows: RetryRows) -> Result<Retried, StoreError> {
        with_store!(self, store => store.retry(batch, rows).await)
    }
}

impl Appends for AnyStore {
    async fn begin_append(&self, batch: BatchId, append: AppendId, key: Option<&str>) -> Result<Begun, StoreError> {
        with_store!(self, store => store.begin_append(batch, append, key).await)
    }

    fn slice_size(&self) -> SliceSize {
        with_store!(self, store => Appends::slice_size(store))
    }

    async fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> Result<Staged, StoreError> {
        with_store!(self, store => store.append_rows(batch, append, first_line, inputs).await)
    }

    async fn finish_append(&self, batch: BatchId, append: AppendId, end: AppendEnd) -> Result<Appended, StoreError> {
        with_store!(self, store => store.finish_append(batch, append, end).await)
    }

    async fn remove_append(&self, batch: BatchId, append: AppendId) -> Result<(), StoreError> {
        with_store!(self, store => store.remove_append(batch, append).await)
    }
}

impl Purges for AnyStore {
    async fn purgeable(&self, ages: PurgeAges) -> Result<Purgeable, StoreError> {
        with_store!(self, store => store.purgeable(ages).await)
    }

    async fn begin_purge(&self, batch: BatchId, ended_before: StoreTime) -> Result<PurgeBegun, StoreError> {
        with_store!(self, store => store.begin_purge(batch, ended_before).await)
    }

    async fn purge_slice(&self, batch: BatchId, lines_max: u64) -> Result<PurgedSlice, StoreError> {
        with_store!(self, store => store.purge_slice(batch, lines_max).await)
    }

    async fn purge_leases(&self, ended_before: StoreTime, after: Option<LeaseId>) -> Result<PurgedLeases, StoreError> {
        with_store!(self, store => store.purge_leases(ended_before, after).await)
    }
}

impl WorkerStore for AnyStore {
    type Changes = AnyChanges;

    fn with_lock_wait(self, lock_wait: Duration) -> Self {
        with_store!(self, store => store.with_lock_wait(lock_wait).into())
    }

    async fn for_renewals(&self) -> Result<Self, StoreError> {
        with_store!(self, store => Ok(store.for_renewals().await?.into()))
    }

    async fn changes(&self) -> Result<AnyChanges, StoreError> {
        with_store!(self, store => Ok(store.changes().await?.into()))
    }
}

impl Changes for AnyChanges {
    async fn next(&mut self) -> Result<Change, StoreError> {
        with_changes!(self, changes => changes.next().await)
    }
}
