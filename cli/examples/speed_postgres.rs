//! How fast the store on Postgres is, with no worker around it:
//! `cargo run --release -p fencepost --example speed_postgres -- postgres://USER@HOST/DATABASE [ROWS]`.
//!
//! It works in a schema of its own, `fencepost_speed`, which it removes before and after.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded, SLICE_ROWS};
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::store::{Loads, OpenMode, Reads, Store, WorkerStore};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Record, RecordItem, StoreReply, StoreRequest, TakeLease, Verdict,
};
use fencepost_core::{BatchId, LeaseId};
use sqlx::{Connection, PgConnection};

const SCHEMA: &str = "fencepost_speed";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(url) = arguments.next() else {
        eprintln!("usage: speed_postgres postgres://USER@HOST/DATABASE [ROWS]");
        std::process::exit(2);
    };
    let rows: u64 = arguments.next().map_or(300_000, |rows| rows.parse().unwrap());
    clear(&url).await;
    let options: PostgresOptions = url.parse().unwrap();
    let store = PostgresStore::open(options.with_schema(SCHEMA).unwrap(), OpenMode::Create).await.unwrap();
    for workers in [1, 2] {
        drain(&store, rows, workers, 1000).await;
    }
    for lines in [1, 10, 100, 5000] {
        drain(&store, (lines * 500).min(rows), 1, lines).await;
    }
    backlog(&store).await;
    renewals(&store).await;
    clear(&url).await;
}

async fn clear(url: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let sql = "set client_min_messages = warning; drop schema if exists fencepost_speed cascade";
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
}

/// Claim, read 200-byte inputs, append outcomes with results, until nothing is left.
async fn drain(store: &PostgresStore, rows: u64, workers: u64, lines: u64) {
    let begun = Instant::now();
    let batch = load(store, rows).await;
    let loading = per_second(rows, begun.elapsed());
    let begun = Instant::now();
    let loops: Vec<_> = (0..workers).map(|worker| tokio::spawn(work(store.clone(), batch, worker, lines))).collect();
    let (mut claims, mut records) = (Duration::ZERO, Duration::ZERO);
    for work in loops {
        let (claiming, recording) = work.await.unwrap();
        claims += claiming;
        records += recording;
    }
    let all = begun.elapsed();
    let asked = Instant::now();
    let counts = store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.success, counts.queued), (rows, 0));
    println!(
        "n = {lines}, {workers} connections: {} rows/s (load {loading}, claim {}, record {}); status {:?}",
        per_second(rows, all),
        per_second(rows, claims / u32::try_from(workers).unwrap()),
        per_second(rows, records / u32::try_from(workers).unwrap()),
        asked.elapsed()
    );
}

async fn work(store: PostgresStore, batch: BatchId, worker: u64, lines: u64) -> (Duration, Duration) {
    let lease = take_lease(&store, batch.number() ^ worker).await;
    let (mut claims, mut records) = (Duration::ZERO, Duration::ZERO);
    for number in 1.. {
        let begun = Instant::now();
        let grants = claim(&store, lease, number, lines).await;
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
    (claims, records)
}

/// A backlog of retries that are not due yet must not slow claims down.
async fn backlog(store: &PostgresStore) {
    const WAITING: u64 = 100_000;
    let waiting = load(store, WAITING).await;
    let lease = take_lease(store, 77).await;
    let begun = Instant::now();
    // The first ones are due again before the last are claimed for the first time.
    for number in 1..=WAITING / 1000 {
        let grants = claim(store, lease, number, 1000).await;
        let again = Answer::Retry { error: "again".into(), jitter: u64::MAX, timed_out: false };
        record(store, lease, items(&grants, &again)).await;
    }
    println!("retries: {} rows/s", per_second(WAITING, begun.elapsed()));
    load(store, 10_000).await;
    let begun = Instant::now();
    assert!(!claim(store, lease, 5_000, 1000).await.is_empty());
    println!("claim beside {WAITING} waiting retries: {:?}", begun.elapsed());
    let begun = Instant::now();
    store.status(waiting).await.unwrap().unwrap();
    println!("status of those: {:?}", begun.elapsed());
}

/// Renewals beside two busy connections.
async fn renewals(store: &PostgresStore) {
    const ROWS: u64 = 200_000;
    let batch = load(store, ROWS).await;
    let loops: Vec<_> = (0..2).map(|worker| tokio::spawn(work(store.clone(), batch, worker, 1000))).collect();
    let lease = take_lease(store, 78).await;
    let own = store.for_renewals().await.unwrap();
    let mut times = Vec::new();
    while !loops.iter().all(tokio::task::JoinHandle::is_finished) {
        let begun = Instant::now();
        own.call(StoreRequest::Renew { lease, batches: vec![] }).await.unwrap();
        times.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    times.sort_unstable();
    let (median, most, slowest) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
    println!("renewals beside 2 busy connections: median {median:?}, 99 % {most:?}, slowest {slowest:?}");
}

async fn load(store: &PostgresStore, rows: u64) -> BatchId {
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    let filler = "x".repeat(165);
    let inputs: Vec<Box<str>> =
        (1..=rows).map(|line| format!("{{\"line\":{line:9},\"filler\":\"{filler}\"}}").into()).collect();
    for (index, slice) in inputs.chunks(SLICE_ROWS).enumerate() {
        store.load_rows(batch, (index * SLICE_ROWS) as u64 + 1, slice).await.unwrap();
    }
    let end = LoadEnd { key: None, digest: "d".to_owned(), total: rows };
    assert_eq!(store.finish_load(batch, end).await.unwrap(), Loaded::New);
    batch
}

async fn take_lease(store: &PostgresStore, number: u64) -> LeaseId {
    let lease = LeaseId::from_random(number);
    let take = TakeLease {
        lease,
        worker: format!("w{number}"),
        stable_name: false,
        ttl: Duration::from_secs(60),
        renew: Duration::from_secs(30),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.unwrap();
    lease
}

async fn claim(store: &PostgresStore, lease: LeaseId, number: u64, lines_max: u64) -> Vec<Grant> {
    let operations = vec!["op".to_owned()];
    let claim = Claim { lease, number, operations, lines_max, bytes_max: 8 << 20, idle: true };
    match store.call(StoreRequest::Claim(claim)).await.unwrap() {
        StoreReply::Claim(ClaimReply::Granted { grants, .. }) => grants,
        other => panic!("{other:?}"),
    }
}

fn items(grants: &[Grant], answer: &Answer) -> Vec<RecordItem> {
    let mut items = Vec::new();
    for grant in grants {
        items.extend(grant.rows.iter().map(|row| RecordItem {
            batch: grant.batch,
            line: row.line,
            token: grant.token,
            answer: answer.clone(),
            run_time: Duration::from_millis(5),
        }));
    }
    items
}

async fn record(store: &PostgresStore, lease: LeaseId, items: Vec<RecordItem>) -> Vec<Verdict> {
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
