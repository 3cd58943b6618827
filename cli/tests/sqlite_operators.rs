//! S2, S3, S5 on the embedded store's real file: what an operator's verbs write, and verbs of several handles at once.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{Changes, Loads, OpenMode, Operates, Reads, Store, WorkerStore};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Operated, Record, RecordItem, Retried, RetryRows, StoreReply, StoreRequest,
    TakeLease,
};
use fencepost_core::{BatchId, LeaseId};

const LEASE: LeaseId = LeaseId::from_random(1);

struct Place {
    _directory: tempfile::TempDir,
    store: SqliteStore,
}

impl Place {
    /// A store with a live lease.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("store.db"), OpenMode::Create).await.unwrap();
        let take = TakeLease {
            lease: LEASE,
            worker: "w".to_owned(),
            stable_name: false,
            ttl: Duration::from_secs(600),
            renew: Duration::from_secs(300),
            process: None,
            operations: vec!["op".to_owned()],
            calls: Default::default(),
        };
        store.call(StoreRequest::TakeLease(take)).await.unwrap();
        Self { _directory: directory, store }
    }

    async fn load(&self, rows: usize) -> BatchId {
        let batch = self.store.begin_load(BatchSpec::new("op")).await.unwrap();
        self.store.load_rows(batch, 1, &vec!["1".into(); rows]).await.unwrap();
        let end = LoadEnd { key: None, digest: String::new(), total: rows as u64 };
        self.store.finish_load(batch, end).await.unwrap();
        batch
    }

    async fn claim(&self, number: u64, lines_max: u64) -> Vec<Grant> {
        let operations = vec!["op".to_owned()];
        let claim = Claim { lease: LEASE, number, operations, lines_max, bytes_max: 1 << 20, idle: true };
        match self.store.call(StoreRequest::Claim(claim)).await.unwrap() {
            StoreReply::Claim(ClaimReply::Granted { grants, .. }) => grants,
            other => panic!("{other:?}"),
        }
    }

    async fn record(&self, grants: &[Grant], answer: impl Fn(u64) -> Answer) {
        let items = grants.iter().flat_map(|grant| {
            grant.rows.iter().map(|row| RecordItem {
                batch: grant.batch,
                line: row.line,
                token: grant.token,
                answer: answer(row.line),
                run_time: Duration::from_micros(row.line),
            })
        });
        self.store.call(StoreRequest::Record(Record { lease: LEASE, items: items.collect() })).await.unwrap();
    }

    async fn retry(&self, batch: BatchId, rows: RetryRows) -> Retried {
        self.store.retry(batch, rows).await.unwrap()
    }
}

fn freed(freed: u64, generation: u32, reopened: bool) -> Retried {
    Retried::Rows { freed, generation, reopened }
}

/// More rows than are taken into memory at once come back as one span, whatever lies between the slices.
#[tokio::test]
async fn a_retry_of_many_rows_is_one_span_for_each_run_of_lines() {
    let place = Place::new().await;
    let batch = place.load(1300).await;
    let grants = place.claim(1, 1300).await;
    let answer = |line| if line == 1201 { Answer::Success("1".into()) } else { Answer::Failed("no".into()) };
    place.record(&grants, answer).await;
    assert_eq!(place.retry(batch, RetryRows::Failed).await, freed(1299, 2, true));
    let again = place.claim(2, 1300).await;
    let ranges: Vec<_> = again.iter().map(|grant| (grant.rows[0].line, grant.rows.len())).collect();
    assert_eq!(ranges, [(1, 1200), (1202, 99)]);
    let counts = place.store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.success, counts.failed, counts.inprog, counts.queued), (1, 0, 1299, 0));
    place.record(&again, |_| Answer::Success("1".into())).await;
    let counts = place.store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.batch.status, counts.success, counts.failed), (BatchStatus::Success, 1300, 0));
}

#[tokio::test]
async fn an_error_is_sought_as_it_is_written() {
    let place = Place::new().await;
    let batch = place.load(2).await;
    let grants = place.claim(1, 2).await;
    place.record(&grants, |_| Answer::Failed("100% no".into())).await;
    let failed_with = |text: &str| RetryRows::FailedWith(text.into());
    for text in ["1%no", "_", "NO"] {
        assert_eq!(place.store.failed(batch, Some(text)).await.unwrap(), 0, "{text}");
        assert_eq!(place.retry(batch, failed_with(text)).await, freed(0, 1, false), "{text}");
    }
    assert_eq!(place.store.failed(batch, Some("0% n")).await.unwrap(), 2);
    assert_eq!(place.retry(batch, failed_with("0% n")).await, freed(2, 2, true));
}

/// Texts that are too long to be kept go another way than the rest; it is one retry.
#[tokio::test]
async fn a_retry_of_all_failed_rows_cuts_long_errors_and_keeps_the_others_whole() {
    let place = Place::new().await;
    let batch = place.load(4).await;
    let grants = place.claim(1, 4).await;
    let error = |line| if line == 2 { "é".repeat(3000) } else { format!("no {line}") };
    place.record(&grants, |line| Answer::Failed(error(line).into())).await;
    assert_eq!(place.retry(batch, RetryRows::FailedWith("no".into())).await, freed(3, 2, true));
    assert_eq!(place.retry(batch, RetryRows::Failed).await, freed(1, 2, false));
    for line in 1..=4 {
        let story = place.store.row_story(batch, line).await.unwrap().unwrap();
        let kept = if line == 2 { format!("failed: {}...", "é".repeat(2048)) } else { format!("failed: no {line}") };
        assert_eq!(story.entries.last().unwrap().detail.as_deref(), Some(kept.as_str()));
    }
    let counts = place.store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.queued, counts.failed), (4, 0));
}

/// The old outcome is in the row's story as it was, cut like a dropped answer.
#[tokio::test]
async fn a_superseded_outcome_is_told_in_the_rows_story() {
    let place = Place::new().await;
    let batch = place.load(2).await;
    let grants = place.claim(1, 2).await;
    let long = "é".repeat(3000);
    place
        .record(
            &grants,
            |line| if line == 1 { Answer::Failed(long.clone().into()) } else { Answer::Success("7".into()) },
        )
        .await;
    for line in [1, 2] {
        assert_eq!(place.retry(batch, RetryRows::Line { line, token: None }).await, freed(1, 2, line == 1));
        let story = place.store.row_story(batch, line).await.unwrap().unwrap();
        let entry = story.entries.last().unwrap();
        let kept = if line == 1 { format!("failed: {}...", "é".repeat(2048)) } else { "success: 7".to_owned() };
        assert_eq!(entry.detail.as_deref(), Some(kept.as_str()));
        assert_eq!((entry.kind.as_str(), entry.token, entry.generation), ("superseded", grants[0].token, 1));
        assert_eq!((entry.lease, entry.run_time), (LEASE, Some(Duration::from_micros(line))));
        assert!(story.row.outcome.is_none() && story.span.is_some());
    }
}

#[tokio::test]
async fn a_held_batch_gives_nothing_and_resuming_it_wakes_who_waits() {
    let place = Place::new().await;
    let batch = place.load(2).await;
    assert_eq!(place.store.hold(batch).await.unwrap(), Operated::Now);
    assert!(place.claim(1, 1).await.is_empty());
    let mut changes = place.store.changes().await.unwrap();
    assert_eq!(place.store.resume(batch).await.unwrap(), Operated::Now);
    tokio::time::timeout(Duration::from_secs(30), changes.next()).await.expect("resuming is told").unwrap();
    assert_eq!(place.claim(2, 2).await[0].rows.len(), 2);
}

/// Handles of their own, at once: each row is freed by one of them, and one opens the batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_several_handles_at_once_free_each_row_once() {
    let place = Place::new().await;
    for round in 0..10 {
        let batch = place.load(20).await;
        let grants = place.claim(round * 2 + 1, 20).await;
        place.record(&grants, |_| Answer::Failed("no".into())).await;
        let mut asking = Vec::new();
        for asked in 0..4u64 {
            let store = place.store.for_renewals().await.unwrap();
            let rows = match asked {
                // Those of single lines come first, most likely: then each frees something.
                0 | 1 => RetryRows::Line { line: asked + 1, token: None },
                _ => RetryRows::Failed,
            };
            asking.push(tokio::spawn(async move { store.retry(batch, rows).await.unwrap() }));
        }
        let (mut rows, mut opened) = (0, 0);
        for asked in asking {
            let Retried::Rows { freed, generation, reopened } = asked.await.unwrap() else { panic!() };
            assert_eq!(generation, 2);
            rows += freed;
            opened += u32::from(reopened);
        }
        assert_eq!((rows, opened), (20, 1));
        let again = place.claim(round * 2 + 2, 20).await;
        assert_eq!(again.iter().map(|grant| grant.rows.len()).sum::<usize>(), 20);
        place.record(&again, |_| Answer::Success("1".into())).await;
        assert_eq!(place.store.batch(batch).await.unwrap().unwrap().status, BatchStatus::Success);
    }
}
