//! The embedded store against its real file: each paragraph of `docs/store.md`, several handles and processes at once,
//! files that are something else, kills.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use fencepost::store::Store;
use fencepost::store::sqlite::load::{SLICE_ROWS, BatchSpec, LoadEnd, Loaded};
use fencepost::store::sqlite::{Clock, OpenMode, SqliteStore};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Record, RecordItem, StoreReply, StoreRequest, TakeLease, TakeLeaseReply, Verdict,
};
use fencepost_core::{BatchId, LeaseId, StoreTime};

/// A clock that only the test moves.
#[derive(Clone, Default)]
struct StepClock(Arc<AtomicI64>);

impl Clock for StepClock {
    fn now(&self) -> StoreTime {
        StoreTime(self.0.load(Ordering::SeqCst))
    }
}

impl StepClock {
    fn step(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
    clock: StepClock,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let clock = StepClock::default();
        clock.step(Duration::from_secs(1_000_000));
        Self { _directory: directory, path, clock }
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open_with_clock(&self.path, OpenMode::Create, Arc::new(self.clock.clone())).await.unwrap()
    }
}

fn spec() -> BatchSpec {
    BatchSpec {
        operation: "op".to_owned(),
        attempts_max: 3,
        crashes_max: 3,
        timeout: Duration::from_secs(60),
        priority: 0,
        header: Some(vec!["name".to_owned()]),
        source: Some("names.csv".to_owned()),
    }
}

async fn load(store: &SqliteStore, spec: BatchSpec, rows: u64) -> BatchId {
    let batch = store.begin_load(spec).await.unwrap();
    let inputs: Vec<Box<str>> = (1..=rows).map(|line| format!("{{\"line\":{line},\"name\":\"some name here\"}}").into()).collect();
    for (index, slice) in inputs.chunks(SLICE_ROWS).enumerate() {
        store.load_rows(batch, (index * SLICE_ROWS) as u64 + 1, slice).await.unwrap();
    }
    let end = LoadEnd { key: None, digest: "d".to_owned(), total: rows };
    assert_eq!(store.finish_load(batch, end).await.unwrap(), Loaded::New);
    batch
}

fn lease_id(number: u64) -> LeaseId {
    LeaseId::from_random(number)
}

async fn take_lease(store: &SqliteStore, number: u64) -> LeaseId {
    let lease = lease_id(number);
    let take = TakeLease {
        lease,
        worker: format!("w{number}"),
        stable_name: false,
        ttl: Duration::from_secs(60),
        renew: Duration::from_secs(30),
        process: None,
        operations: vec!["op".to_owned()],
    };
    let reply = store.call(StoreRequest::TakeLease(take)).await.unwrap();
    assert_eq!(reply, StoreReply::TakeLease(TakeLeaseReply::Taken));
    lease
}

fn claim_of(lease: LeaseId, number: u64, lines_max: u64) -> Claim {
    Claim { lease, number, operations: vec!["op".to_owned()], lines_max, bytes_max: 8 << 20, idle: true }
}

async fn claim_reply(store: &SqliteStore, claim: Claim) -> ClaimReply {
    match store.call(StoreRequest::Claim(claim)).await.unwrap() {
        StoreReply::Claim(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn claim(store: &SqliteStore, lease: LeaseId, number: u64, lines_max: u64) -> Vec<Grant> {
    match claim_reply(store, claim_of(lease, number, lines_max)).await {
        ClaimReply::Granted { grants, .. } => grants,
        other => panic!("{other:?}"),
    }
}

fn items(grants: &[Grant], answer: &Answer) -> Vec<RecordItem> {
    let of_grant = |grant: &Grant| {
        let item = |line| RecordItem {
            batch: grant.batch,
            line,
            token: grant.token,
            answer: answer.clone(),
            run_time: Duration::from_millis(5),
        };
        grant.rows.iter().map(|row| item(row.line)).collect::<Vec<_>>()
    };
    grants.iter().flat_map(of_grant).collect()
}

async fn record(store: &SqliteStore, lease: LeaseId, items: Vec<RecordItem>) -> Vec<Verdict> {
    match store.call(StoreRequest::Record(Record { lease, items })).await.unwrap() {
        StoreReply::Record(verdicts) => verdicts,
        other => panic!("{other:?}"),
    }
}

fn success() -> Answer {
    Answer::Success("{\"ok\":true,\"value\":12345}".into())
}

fn per_second(rows: u64, took: Duration) -> u64 {
    (rows as f64 / took.as_secs_f64()) as u64
}

fn file_len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

// How fast it is: cargo test --release -p fencepost --test sqlite_store -- --ignored --nocapture speed
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed() {
    let place = Place::new();
    let store = place.open().await;
    let rows = 300_000;
    let begun = Instant::now();
    let batch = load(&store, spec(), rows).await;
    println!("load: {} rows/s", per_second(rows, begun.elapsed()));
    let wal = place.path.with_extension("db-wal");
    println!("log after load: {} KiB, file {} KiB", file_len(&wal) >> 10, file_len(&place.path) >> 10);
    let lease = take_lease(&store, 1).await;
    let (mut claims, mut records) = (Duration::ZERO, Duration::ZERO);
    for number in 1.. {
        let begun = Instant::now();
        let grants = claim(&store, lease, number, 1000).await;
        claims += begun.elapsed();
        if grants.is_empty() {
            break;
        }
        let group = items(&grants, &success());
        let begun = Instant::now();
        let verdicts = record(&store, lease, group).await;
        records += begun.elapsed();
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Recorded(_))));
    }
    println!("claim: {} rows/s, record: {} rows/s, both {}", per_second(rows, claims), per_second(rows, records), per_second(rows, claims + records));
    let begun = Instant::now();
    let counts = store.status(batch).await.unwrap().unwrap();
    println!("status: {:?}", begun.elapsed());
    assert_eq!((counts.success, counts.queued), (rows, 0));
    println!("log at the end: {} KiB, file {} KiB", file_len(&wal) >> 10, file_len(&place.path) >> 10);
}
