//! How fast a library handler that does nothing drains a batch, against the store alone with the same groups:
//! `cargo run --release -p fencepost --example speed_library [ROWS [TIMES]]`.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use fencepost::handler::typed::{Context, RowError, RowHandler, Typed};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{OpenMode, Reads, Store};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::LeaseId;
use fencepost_core::store::{Answer, Claim, ClaimReply, Record, RecordItem, StoreReply, StoreRequest, TakeLease};
use serde_json::value::RawValue;

const GROUP: u64 = 1_000;

struct Nothing;

impl RowHandler for Nothing {
    type Input = Box<RawValue>;
    type Output = ();

    async fn run(&self, _: Context, _: Box<RawValue>) -> Result<(), RowError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    let rows = std::env::args().nth(1).map_or(300_000, |rows| rows.parse().unwrap());
    let times = std::env::args().nth(2).map_or(3, |times| times.parse().unwrap());
    let (mut products, mut stores) = (Vec::new(), Vec::new());
    for _ in 0..times {
        stores.push(measure(rows, false).await);
        products.push(measure(rows, true).await);
    }
    products.sort_unstable();
    stores.sort_unstable();
    let median = times / 2;
    println!("store alone, groups of {GROUP}: {stores:?} rows/s, median {}", stores[median]);
    println!(
        "one worker, no-op handler:  {products:?} rows/s, median {}: {} % of the store",
        products[median],
        products[median] * 100 / stores[median]
    );
}

async fn measure(rows: u64, product: bool) -> u64 {
    let place = std::env::temp_dir().join(format!("fencepost-speed-{}", std::process::id()));
    std::fs::create_dir(&place).unwrap();
    let store = SqliteStore::open(place.join("rows.db"), OpenMode::Create).await.unwrap();
    let text = "x".repeat(190);
    let batch =
        load::values(&store, BatchSpec::new("nothing"), None, (0..rows).map(|_| text.clone())).await.unwrap().batch;
    let began = Instant::now();
    if product {
        drain(store.clone()).await
    } else {
        loop_of_the_store(&store).await
    }
    let took = began.elapsed();
    let counts = store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.success, counts.fenced, counts.queued + counts.inprog), (rows, 0, 0));
    drop(store);
    std::fs::remove_dir_all(place).unwrap();
    u64::try_from(u128::from(rows) * 1_000 / took.as_millis()).unwrap()
}

async fn drain(store: SqliteStore) {
    let mut config = WorkerConfig::new(["nothing"]);
    config.options.concurrency = 2_000;
    config.options.until_done = true;
    RunningWorker::on_store(store, Typed::new(Nothing), config).unwrap().left().await.unwrap();
}

/// Claims and records, and nothing around it.
async fn loop_of_the_store(store: &SqliteStore) {
    let lease = LeaseId::from_random(1);
    let take = TakeLease {
        lease,
        worker: "loop".to_owned(),
        stable_name: false,
        ttl: Duration::from_secs(60),
        renew: Duration::from_secs(30),
        process: None,
        operations: Vec::new(),
        calls: Default::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.unwrap();
    for number in 1.. {
        let operations = vec!["nothing".to_owned()];
        let claim = Claim { lease, number, operations, lines_max: GROUP, bytes_max: 8 << 20, idle: true };
        let reply = store.call(StoreRequest::Claim(claim)).await.unwrap();
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = reply else { panic!("{reply:?}") };
        if grants.is_empty() {
            return;
        }
        let of = |grant: &fencepost_core::store::Grant, line| RecordItem {
            batch: grant.batch,
            line,
            token: grant.token,
            answer: Answer::Success("null".into()),
            run_time: Duration::ZERO,
        };
        let items = grants.iter().flat_map(|grant| grant.rows.iter().map(|row| of(grant, row.line))).collect();
        store.call(StoreRequest::Record(Record { lease, items })).await.unwrap();
    }
}
