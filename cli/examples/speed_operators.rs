//! How long an operator's verbs take beside busy workers, on any store:
//! `cargo run --release -p fencepost --example speed_operators -- STORE [ROWS]`. The store named is filled and left so.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fencepost::store::loading::{BatchSpec, LoadEnd, SLICE_ROWS};
use fencepost::store::{AnyStore, Loads, OpenMode, Operates, Reads, Store, StoreUrl, WorkerStore};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Record, RecordItem, RetryRows, StoreReply, StoreRequest, TakeLease,
};
use fencepost_core::{BatchId, LeaseId};

const WORKERS: u64 = 4;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        eprintln!("usage: speed_operators STORE [ROWS]");
        std::process::exit(2);
    };
    let rows: u64 = arguments.next().map_or(1_000_000, |rows| rows.parse().unwrap());
    let store = name.parse::<StoreUrl>().unwrap().open(OpenMode::Create).await.unwrap();
    busy(&store, rows).await;
    for failed in [rows / 100, rows / 10] {
        retries(&store, failed).await;
    }
}

/// Hold, resume and abort while workers claim and record small groups of a large batch.
async fn busy(store: &AnyStore, rows: u64) {
    let batch = load(store, rows).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for worker in 1..=WORKERS {
        let own = store.for_renewals().await.unwrap();
        workers.push(tokio::spawn(work(own, worker + batch.number(), 100, done.clone(), true)));
    }
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begun = Instant::now();
        store.hold(batch).await.unwrap();
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        store.resume(batch).await.unwrap();
        times[1].push(begun.elapsed());
    }
    let begun = Instant::now();
    let retried = store.retry(batch, RetryRows::Line { line: 1, token: None }).await.unwrap();
    println!("retry of one row of the busy batch: {:?}, {retried:?}", begun.elapsed());
    let begun = Instant::now();
    let aborted = store.abort(batch).await.unwrap();
    println!("abort of the busy batch: {:?}, {aborted:?}", begun.elapsed());
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    for (verb, mut times) in ["hold", "resume"].into_iter().zip(times) {
        times.sort_unstable();
        println!("{verb} of the busy batch: median {:?}, at most {:?}", times[25], times[49]);
    }
    let counts = store.status(batch).await.unwrap().unwrap();
    println!("{} rows: {} recorded, {} aborted", rows, counts.success, counts.aborted);
}

/// All rows of a batch have failed, and are retried at once; then they are claimed and recorded once more.
async fn retries(store: &AnyStore, rows: u64) {
    let batch = load(store, rows).await;
    let done = Arc::new(AtomicBool::new(true));
    let begun = Instant::now();
    work(store.clone(), batch.number(), 1000, done.clone(), false).await;
    let first = begun.elapsed();
    let begun = Instant::now();
    match store.retry(batch, RetryRows::Failed).await {
        Ok(retried) => println!("retry of {rows} failed rows: {:?}, {retried:?}", begun.elapsed()),
        Err(error) => return println!("retry of {rows} failed rows: {error}"),
    }
    let begun = Instant::now();
    work(store.clone(), batch.number() + 1, 1000, done, true).await;
    println!("claimed and recorded at first in {first:?}, retried in {:?}", begun.elapsed());
}

async fn load(store: &AnyStore, rows: u64) -> BatchId {
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    let slice: Vec<Box<str>> = (0..SLICE_ROWS).map(|row| row.to_string().into()).collect();
    for first in (1..=rows).step_by(SLICE_ROWS) {
        let count = usize::try_from(rows - first + 1).unwrap().min(SLICE_ROWS);
        store.load_rows(batch, first, &slice[..count]).await.unwrap();
    }
    store.finish_load(batch, LoadEnd { key: None, digest: String::new(), total: rows }).await.unwrap();
    batch
}

/// Claims and records so many lines at a time: until it is told that all is over; with `done` set, until nothing is left.
async fn work(store: AnyStore, number: u64, lines_max: u64, done: Arc<AtomicBool>, succeed: bool) {
    let lease = LeaseId::from_random(number);
    let take = TakeLease {
        lease,
        worker: "speed".to_owned(),
        stable_name: false,
        ttl: Duration::from_secs(600),
        renew: Duration::from_secs(300),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.unwrap();
    for number in 1.. {
        let operations = vec!["op".to_owned()];
        let claim = Claim { lease, number, operations, lines_max, bytes_max: 1 << 24, idle: false };
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) =
            store.call(StoreRequest::Claim(claim)).await.unwrap()
        else {
            panic!("the lease ended")
        };
        let over = done.load(Ordering::Relaxed);
        if grants.is_empty() && over {
            return;
        }
        let answer = if succeed { Answer::Success("1".into()) } else { Answer::Failed("no".into()) };
        let items = grants.iter().flat_map(|grant| {
            grant.rows.iter().map(|row| RecordItem {
                batch: grant.batch,
                line: row.line,
                token: grant.token,
                answer: answer.clone(),
                run_time: Duration::ZERO,
            })
        });
        let items = items.collect();
        store.call(StoreRequest::Record(Record { lease, items })).await.unwrap();
    }
}
