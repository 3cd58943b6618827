//! `fencepost wait`

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;

use super::args::{Global, WaitArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::store;
use crate::store::{Changes, Reads, WorkerStore};

pub async fn wait(global: &Global, args: WaitArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?.batch;
    let ended = until_ended(&store, batch);
    match args.timeout {
        None => ended.await,
        Some(limit) => tokio::time::timeout(limit, ended).await.unwrap_or_else(|_| {
            Err(Failure::new(Exit::TimedOut, format!("batch {batch} has not ended after {limit:?}"))
                .help(format!("`fencepost status {batch}{}` tells why", store_option(global))))
        }),
    }
}

/// How often, at least, a batch is looked at: changes wake earlier.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes are not followed more often than this.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(50);

/// Waits until the batch has ended, and tells how as an exit code.
async fn until_ended(store: &(impl Reads + WorkerStore), batch: BatchId) -> Result<Exit, Failure> {
    let mut changes = store.changes().await?;
    loop {
        let Some(view) = store.batch(batch).await? else {
            return Err(Failure::new(Exit::NotFound, format!("batch {batch} was purged meanwhile")));
        };
        match view.status {
            BatchStatus::Success => return Ok(Exit::Done),
            BatchStatus::Failed => return Ok(Exit::FailedRows),
            BatchStatus::Aborted => return Ok(Exit::Aborted),
            BatchStatus::Loading | BatchStatus::Open => {}
        }
        tokio::time::sleep(LOOK_EVERY_MIN).await;
        // Whether it was woken or the time is up: look.
        let _ = tokio::time::timeout(LOOK_EVERY, changes.next()).await;
    }
}
