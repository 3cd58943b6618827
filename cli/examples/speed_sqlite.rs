//! How fast the embedded store is: `cargo run --release -p fencepost --example speed_sqlite [recovery]`.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded, SLICE_ROWS};
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{Changes, Loads, OpenMode, Reads, Store, WorkerStore};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, Record, RecordItem, Recover, RecoverReply, StoreReply, StoreRequest,
    TakeLease, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, WorkerOptions};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("recovery") => return recovery_of_many_spans().await,
        Some(path) => return busy(Path::new(path)).await,
        None => {}
    }
    work().await;
    idle().await;
    renewals_beside_busy_processes().await;
    recovery_of_many_spans().await;
}

async fn open_in(directory: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(directory.path().join("store.db"), OpenMode::Create).await.unwrap()
}

/// One worker, one batch, then a backlog.
async fn work() {
    const ROWS: u64 = 300_000;
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(&directory).await;
    let begun = Instant::now();
    let batch = load(&store, ROWS).await;
    println!("load: {} rows/s", per_second(ROWS, begun.elapsed()));
    print_sizes(&store, "after the load");
    let lease = take_lease(&store, 1).await;
    claim_and_record(&store, lease, ROWS).await;
    let begun = Instant::now();
    let counts = store.status(batch).await.unwrap().unwrap();
    println!("status: {:?}", begun.elapsed());
    assert_eq!((counts.success, counts.queued), (ROWS, 0));
    print_sizes(&store, "at the end");
    let begun = Instant::now();
    store.row_story(batch, ROWS / 2).await.unwrap().unwrap();
    println!("row story: {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(store.results(batch, 0, 100, true).await.unwrap().rows.is_empty());
    println!("failed results, none among {ROWS}: {:?}", begun.elapsed());
    backlog(&store, lease).await;
}

async fn claim_and_record(store: &SqliteStore, lease: LeaseId, rows: u64) {
    let (mut claims, mut records) = (Duration::ZERO, Duration::ZERO);
    for number in 1.. {
        let begun = Instant::now();
        let grants = claim(store, lease, number, 1000).await;
        claims += begun.elapsed();
        if grants.is_empty() {
            break;
        }
        let group = items(&grants, &success());
        let begun = Instant::now();
        let verdicts = record(store, lease, group).await;
        records += begun.elapsed();
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Recorded(_))));
    }
    let (claimed, recorded) = (per_second(rows, claims), per_second(rows, records));
    println!("claim: {claimed} rows/s, record: {recorded} rows/s, both {}", per_second(rows, claims + records));
}

/// A backlog of retries that are not due yet must not slow claims down.
async fn backlog(store: &SqliteStore, lease: LeaseId) {
    const WAITING: u64 = 100_000;
    let waiting = load(store, WAITING).await;
    for number in 1_000.. {
        let grants = claim(store, lease, number, 1000).await;
        if grants.is_empty() {
            break;
        }
        let again = Answer::Retry { error: "again".into(), jitter: u64::MAX, timed_out: false };
        record(store, lease, items(&grants, &again)).await;
    }
    load(store, 10_000).await;
    let begun = Instant::now();
    claim(store, lease, 5_000, 1000).await;
    println!("claim beside {WAITING} waiting retries: {:?}", begun.elapsed());
    let begun = Instant::now();
    store.status(waiting).await.unwrap().unwrap();
    println!("status of those: {:?}", begun.elapsed());
}

/// What idle waiting costs.
async fn idle() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(&directory).await;
    let mut changes = store.changes().await.unwrap();
    let before = cpu_time();
    let waited = Duration::from_secs(10);
    assert!(tokio::time::timeout(waited, changes.next()).await.is_err());
    let used = cpu_time() - before;
    println!("idle: {used:?} of a core in {waited:?}: {:.2} %", 100.0 * used.as_secs_f64() / waited.as_secs_f64());
}

/// This process's user and system time, in the kernel's ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Duration::from_millis(10 * (fields[10] + fields[11]))
}

/// Renewals of one process while others write as fast as they can.
async fn renewals_beside_busy_processes() {
    const ROWS: u64 = 600_000;
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(&directory).await;
    load(&store, ROWS).await;
    let all = Instant::now();
    let mut busy: Vec<Child> = (0..3).map(|_| spawn_busy(store.path())).collect();
    let lease = take_lease(&store, 1_000).await;
    let renewals = store.for_renewals().await.unwrap();
    let mut times = Vec::new();
    while store.batches().await.unwrap()[0].status == BatchStatus::Open {
        let begun = Instant::now();
        renewals.call(StoreRequest::Renew { lease, batches: vec![] }).await.unwrap();
        times.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for child in &mut busy {
        assert!(child.wait().unwrap().success());
    }
    times.sort_unstable();
    let (median, most, slowest) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
    println!(
        "{} rows/s; renewals: {}, median {median:?}, 99 % {most:?}, slowest {slowest:?}",
        per_second(ROWS, all.elapsed()),
        times.len()
    );
}

fn spawn_busy(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap()).arg(path).spawn().unwrap()
}

async fn busy(path: &Path) {
    let store = SqliteStore::open(path, OpenMode::Existing).await.unwrap();
    let lease = take_lease(&store, u64::from(std::process::id())).await;
    for number in 1.. {
        let grants = claim(&store, lease, number, 500).await;
        if grants.is_empty() {
            return;
        }
        record(&store, lease, items(&grants, &success())).await;
    }
}

/// R4: the worst case of a recovery, a lease that holds single lines only: as many as a worker claims ahead at most, and
/// those with as many running as can be.
async fn recovery_of_many_spans() {
    let ahead = WorkerOptions::default().claim_lines_max;
    for spans in [ahead / 10, ahead, ahead + 100_000] {
        let directory = tempfile::tempdir().unwrap();
        let store = open_in(&directory).await;
        let batch = load(&store, spans).await;
        free_each_line(&store, batch).await;
        let lease = take_lease(&store, 2).await;
        let begun = Instant::now();
        let mut held = 0;
        for number in 1.. {
            let grants = claim(&store, lease, number, 10_000).await;
            held += grants.len() as u64;
            if grants.is_empty() {
                break;
            }
        }
        let claimed = begun.elapsed();
        assert_eq!(held, spans, "a span per line");
        let renewals = store.for_renewals().await.unwrap();
        let judge = take_lease(&store, 3).await;
        let begun = Instant::now();
        let recover = Recover { lease, renewals: 0, seen_at: StoreTime(0), judge: Some(judge), cause: EndCause::Died };
        let renewal = async {
            // The recovery has the lock by then, unless it is over within this time.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let begun = Instant::now();
            renewals.call(StoreRequest::Renew { lease: judge, batches: vec![] }).await.unwrap();
            begun.elapsed()
        };
        let (reply, waited) = tokio::join!(store.call(StoreRequest::Recover(recover)), renewal);
        assert_eq!(reply.unwrap(), StoreReply::Recover(RecoverReply::Recovered { lines: spans, failed: 0 }));
        let took = begun.elapsed();
        println!(
            "recovery of {spans} spans of one line: {took:?}; a renewal beside it: {waited:?}; (claims: {claimed:?})"
        );
    }
}

/// Leaves a free span for each line.
async fn free_each_line(store: &SqliteStore, batch: BatchId) {
    let lease = take_lease(store, 1).await;
    let mut lines = Vec::new();
    for number in 1.. {
        let grants = claim(store, lease, number, 1000).await;
        if grants.is_empty() {
            break;
        }
        let single = |grant: &Grant, line| (batch, grant.token, LineSet::single(line));
        lines.extend(grants.iter().flat_map(|grant| grant.rows.iter().map(|row| single(grant, row.line))));
    }
    for lines in lines.chunks(1000) {
        store.call(StoreRequest::GiveBack { lease, lines: lines.to_vec() }).await.unwrap();
    }
    store.call(StoreRequest::DropLease { lease }).await.unwrap();
}

async fn load(store: &SqliteStore, rows: u64) -> BatchId {
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    let inputs: Vec<Box<str>> =
        (1..=rows).map(|line| format!("{{\"line\":{line},\"name\":\"some name here\"}}").into()).collect();
    for (index, slice) in inputs.chunks(SLICE_ROWS).enumerate() {
        store.load_rows(batch, (index * SLICE_ROWS) as u64 + 1, slice).await.unwrap();
    }
    let end = LoadEnd { key: None, digest: "d".to_owned(), total: rows };
    assert_eq!(store.finish_load(batch, end).await.unwrap(), Loaded::New);
    batch
}

async fn take_lease(store: &SqliteStore, number: u64) -> LeaseId {
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

async fn claim(store: &SqliteStore, lease: LeaseId, number: u64, lines_max: u64) -> Vec<Grant> {
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

fn print_sizes(store: &SqliteStore, when: &str) {
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len() >> 10);
    println!("{when}: log {} KiB, file {} KiB", len(&store.path().with_extension("db-wal")), len(store.path()));
}
