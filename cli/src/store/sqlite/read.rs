//! Reading for people: each call reads one snapshot and never scans the rows.
//!
//! | looking for | it is in |
//! |---|---|
//! | batches by id, key and prefix | `batches.rs` |
//! | a batch's counts | `status.rs` |
//! | workers and what they hold | `workers.rs` |
//! | pages of rows by status | `rows.rs` |
//! | pages of results and of inputs | `results.rs` |
//! | failed rows' errors, and how many there are | `failures.rs` |
//! | one row's story | `story.rs` |

use fencepost_core::{BatchId, StoreTime};

use super::{SqliteStore, StoreError};
use crate::store::Reads;
use crate::store::view::{
    BatchCounts, BatchView, CallsView, Resolved, RowPage, RowStatus, RowStory, StoppingView, WorkersView,
};

pub(super) mod batches;
mod calls;
mod failures;
mod paging;
mod results;
mod rows;
pub(super) mod status;
mod story;
pub(super) mod workers;

impl Reads for SqliteStore {
    fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    async fn resolve_batch(&self, prefix: &str) -> Result<Resolved, StoreError> {
        let mut read = self.begin_read().await?;
        let resolved = batches::resolve(&mut read, &prefix.to_ascii_lowercase()).await;
        self.end_read(read, resolved).await
    }

    async fn batch(&self, batch: BatchId) -> Result<Option<BatchView>, StoreError> {
        let mut read = self.begin_read().await?;
        let view = batches::one_batch(&mut read, batch).await;
        self.end_read(read, view).await
    }

    async fn batch_of_key(&self, key: &str) -> Result<Option<BatchView>, StoreError> {
        let mut read = self.begin_read().await?;
        let view = batches::batch_of_key(&mut read, key).await;
        self.end_read(read, view).await
    }

    async fn batches(&self) -> Result<Vec<BatchView>, StoreError> {
        let mut read = self.begin_read().await?;
        let views = batches::all_batches(&mut read).await;
        self.end_read(read, views).await
    }

    async fn status(&self, batch: BatchId) -> Result<Option<BatchCounts>, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let counts = status::counts(&mut read, now, batch).await;
        self.end_read(read, counts).await
    }

    async fn workers(&self, ended_since: StoreTime) -> Result<WorkersView, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let workers = workers::workers(&mut read, ended_since).await;
        let workers = self.end_read(read, workers).await?;
        Ok(WorkersView { now, workers })
    }

    async fn calls(&self, batch: BatchId) -> Result<CallsView, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let view = calls::calls(&mut read, now, batch).await;
        self.end_read(read, view).await
    }

    async fn row_story(&self, batch: BatchId, line: u64) -> Result<Option<RowStory>, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let story = story::story(&mut read, now, batch, line).await;
        self.end_read(read, story).await
    }

    async fn rows(
        &self,
        batch: BatchId,
        status: Option<RowStatus>,
        after_line: u64,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        let mut read = self.begin_read().await?;
        let page = rows::page(&mut read, batch, status, after_line, limit).await;
        self.end_read(read, page).await
    }

    async fn results(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
        failed_only: bool,
    ) -> Result<RowPage, StoreError> {
        let mut read = self.begin_read().await?;
        let page = results::results(&mut read, batch, after_line, limit, failed_only).await;
        self.end_read(read, page).await
    }

    async fn stopping(&self, batch: BatchId) -> Result<Vec<StoppingView>, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let stopping = workers::stopping(&mut read, now, batch).await;
        self.end_read(read, stopping).await
    }

    async fn failed(&self, batch: BatchId, with: Option<&str>) -> Result<u64, StoreError> {
        let mut read = self.begin_read().await?;
        let count = failures::count(&mut read, batch, with).await;
        self.end_read(read, count).await
    }

    async fn errors(&self, batch: BatchId, after_line: u64, limit: u32) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        let mut read = self.begin_read().await?;
        let page = failures::errors(&mut read, batch, after_line, limit).await;
        self.end_read(read, page).await
    }

    async fn inputs(&self, batch: BatchId, after_line: u64, limit: u32) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        let mut read = self.begin_read().await?;
        let page = results::inputs(&mut read, batch, after_line, limit).await;
        self.end_read(read, page).await
    }
}
