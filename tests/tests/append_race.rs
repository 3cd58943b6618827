//! S3: an append against the record of its batch's last row, on real connections and in no set order: the rows are appended and the
//! batch goes on, or it has ended and the append is refused. `FENCEPOST_APPEND_ROUNDS=10000` for a longer race.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::postgres::PostgresStore;
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{Appends, Loads, OpenMode, Reads, Store, WorkerStore};
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::random::Stream;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Record, RecordItem, Recorded, StoreReply, StoreRequest, TakeLease, Verdict,
};
use fencepost_core::{AppendId, BatchId, LeaseId};
use fencepost_tests::postgres::Schema;
use sqlx::ConnectOptions;

fn rounds() -> u64 {
    std::env::var("FENCEPOST_APPEND_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

fn lease() -> LeaseId {
    LeaseId::from_random(1)
}

async fn batch_of_one_row(store: &impl Loads) -> BatchId {
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    store.load_rows(batch, 1, &["1".into()]).await.unwrap();
    store.finish_load(batch, LoadEnd { key: None, digest: String::new(), total: 1 }).await.unwrap();
    batch
}

async fn claim(store: &impl Store, number: u64) -> Vec<Grant> {
    let operations = vec!["op".to_owned()];
    let claim = Claim { lease: lease(), number, operations, lines_max: 9, bytes_max: 1 << 20, idle: true };
    match store.call(StoreRequest::Claim(claim)).await.unwrap() {
        StoreReply::Claim(ClaimReply::Granted { grants, .. }) => grants,
        other => panic!("{other:?}"),
    }
}

async fn record(store: &impl Store, grants: &[Grant]) {
    let items = grants.iter().flat_map(|grant| {
        grant.rows.iter().map(|row| RecordItem {
            batch: grant.batch,
            line: row.line,
            token: grant.token,
            answer: Answer::Success("1".into()),
            run_time: Duration::from_millis(1),
        })
    });
    let record = Record { lease: lease(), items: items.collect() };
    match store.call(StoreRequest::Record(record)).await.unwrap() {
        StoreReply::Record(verdicts) => {
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Recorded(Recorded::Success)), "{verdicts:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// The two have connections of their own. Answers how many appends were done, and how many refused.
async fn race<S: Store + Loads + Appends + Reads>(worker: S, appender: S, rounds: u64) -> (u64, u64) {
    let take = TakeLease {
        lease: lease(),
        worker: "w".to_owned(),
        stable_name: false,
        ttl: Duration::from_secs(3600),
        renew: Duration::from_secs(1800),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    worker.call(StoreRequest::TakeLease(take)).await.unwrap();
    let (mut random, mut done, mut refused) = (Stream::new(1), 0, 0);
    for round in 1..=rounds {
        let batch = batch_of_one_row(&worker).await;
        let last = claim(&worker, 2 * round).await;
        let (append, rows) = (AppendId::from_random(round), 1 + round % 3);
        assert_eq!(appender.begin_append(batch, append, None).await.unwrap(), Begun::Loading { first_line: 2 });
        let inputs: Vec<Box<str>> = (0..rows).map(|_| "1".into()).collect();
        assert_eq!(appender.append_rows(batch, append, 2, &inputs).await.unwrap(), Staged::Stored);

        // Somebody is a little later than the other, now this one, now that.
        let (first, second) = (random.next_u64() % 40, random.next_u64() % 40);
        let (store, recording) = (worker.clone(), last);
        let recording = tokio::spawn(async move {
            for _ in 0..first {
                tokio::task::yield_now().await;
            }
            record(&store, &recording).await;
        });
        let store = appender.clone();
        let ending = tokio::spawn(async move {
            for _ in 0..second {
                tokio::task::yield_now().await;
            }
            store.finish_append(batch, append, AppendEnd { digest: "d".to_owned(), rows }).await.unwrap()
        });
        recording.await.unwrap();
        match ending.await.unwrap() {
            Appended::Done { .. } => {
                done += 1;
                let counts = worker.status(batch).await.unwrap().unwrap();
                assert_eq!(
                    (counts.batch.status, counts.batch.total, counts.queued),
                    (BatchStatus::Open, 1 + rows, rows)
                );
                record(&worker, &claim(&worker, 2 * round + 1).await).await;
            }
            Appended::Refused { status: Some(BatchStatus::Success) } => refused += 1,
            other => panic!("{other:?}"),
        }
        let counts = worker.status(batch).await.unwrap().unwrap();
        assert_eq!((counts.batch.status, counts.success), (BatchStatus::Success, counts.batch.total), "round {round}");
    }
    println!("{done} appended, {refused} refused");
    (done, refused)
}

/// Batches that ended other than once, rows of no batch's lines, lines without a row, appends that are not done.
const LEFT_OVER: &str = "\
select cast((select count(*) from batches b
        where (select count(*) from completions c where c.batch = b.batch) <> 1)
     + (select count(*) from rows r join batches b on b.batch = r.batch where r.line > b.total)
     + (select abs(sum(total) - (select count(*) from rows)) from batches)
     + (select count(*) from appends where status <> 'done') as bigint)";

fn assert_both_happened((done, refused): (u64, u64)) {
    assert!(done > 0 && refused > 0, "{done} appended, {refused} refused: one of the two always came first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_races_the_last_row_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let worker = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    let appender = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    assert_both_happened(race(worker, appender, rounds()).await);
    let mut raw = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let left: i64 = sqlx::query_scalar(LEFT_OVER).fetch_one(&mut raw).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_races_the_last_row_on_postgres() {
    let schema = Schema::new();
    let worker = PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    let appender = worker.for_renewals().await.unwrap();
    assert_both_happened(race(worker, appender, rounds()).await);
    let left: i64 = sqlx::query_scalar(LEFT_OVER).fetch_one(&mut schema.connect().await).await.unwrap();
    assert_eq!(left, 0);
}
