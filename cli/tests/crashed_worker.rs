//! A worker whose loop crashes inside a process that lives on.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use fencepost::driver::Report;
use fencepost::handler::sleep::SleepHandler;
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{OpenMode, Reads};
use fencepost::worker::{RunningWorker, WorkerConfig, WorkerError};
use fencepost_core::Timing;
use fencepost_core::worker::ExitReason;

fn config() -> WorkerConfig {
    let mut config = WorkerConfig::new(["op"]);
    config.options.timing = Timing::from_ttl(Duration::from_secs(1));
    config.options.until_done = true;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_lease_is_not_kept_and_its_rows_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("store.db"), OpenMode::Create).await.unwrap();
    let batch = load::values(&store, BatchSpec::new("op"), None, 1..=3).await.unwrap().batch;
    let handler = || SleepHandler { each: Duration::from_millis(1) };

    let mut crashing = config();
    crashing.observer = Arc::new(|report| assert!(!matches!(report, Report::Started { .. }), "as a bug would"));
    let crashed = RunningWorker::on_store(store.clone(), handler(), crashing).unwrap().left().await;
    assert!(matches!(crashed, Err(WorkerError::Crashed { .. })), "{crashed:?}");

    let other = RunningWorker::on_store(store.clone(), handler(), config()).unwrap();
    let left = tokio::time::timeout(Duration::from_secs(60), other.left()).await.expect("the rows are kept for ever");
    assert_eq!(left.unwrap(), ExitReason::Done);
    assert_eq!(store.status(batch).await.unwrap().unwrap().success, 3);
}
