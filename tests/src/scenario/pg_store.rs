//! The store on Postgres with no worker around it: whether it slows down as its tables grow, or while an old snapshot keeps
//! the server from clearing away what is dead.
//!
//! Each case is a database of its own, since a snapshot holds up only its own database. The cases take turns.

use std::time::{Duration, Instant};

use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{OpenMode, Reads, Store};
use fencepost_core::LeaseId;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Record, RecordItem, StoreReply, StoreRequest, TakeLease, Verdict,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::postgres::own;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Rows in a small table.
    pub small: u64,
    /// Rows in a large one.
    pub large: u64,
    /// Rows that are timed.
    pub rows: u64,
    /// Rows that are claimed and recorded one by one before: each leaves dead versions of the batch's record and of spans.
    pub churn: u64,
    /// How often.
    pub times: usize,
}

/// Rows per second of one case: the median.
#[derive(Debug)]
pub struct Rates {
    /// How many connections work at once.
    pub connections: u64,
    /// With the small table.
    pub small: u64,
    /// With the large table.
    pub large: u64,
    /// With the small table and an old snapshot.
    pub snapshot: u64,
    /// `large` in hundredths of `small`.
    pub large_percent: u64,
    /// `snapshot` in hundredths of `small`.
    pub snapshot_percent: u64,
}

/// Claims and groups are of so many lines.
const LINES: u64 = 1000;

/// Runs it on this process's own server.
pub async fn run(sizes: Growth) -> Vec<Rates> {
    let mut admin = PgConnection::connect(own().url()).await.expect("the server answers");
    for (name, rows) in [("growth_small", sizes.small), ("growth_large", sizes.large)] {
        sql(&mut admin, format!("create database {name}")).await;
        let store = open(name).await;
        let batch = load::values(&store, BatchSpec::new("op"), None, (1..=rows).map(input)).await.expect("rows").batch;
        drain(&store, 1, batch.number(), LINES, u64::MAX).await;
        drop(store);
        let mut conn = connect(name).await;
        sql(&mut conn, "vacuum (analyze)".to_owned()).await;
        conn.close().await.expect("it closes");
    }
    let mut rates: [[Vec<u64>; 3]; 2] = Default::default();
    for _ in 0..sizes.times {
        for (rates, connections) in rates.iter_mut().zip([1, 2]) {
            rates[0].push(small(&mut admin, sizes, connections, false).await);
            rates[1].push(rate("growth_large", sizes, connections).await);
            rates[2].push(small(&mut admin, sizes, connections, true).await);
        }
    }
    let summary = |(rates, connections): ([Vec<u64>; 3], u64)| {
        let [small, large, snapshot] = rates.map(|mut rates| {
            rates.sort_unstable();
            rates[rates.len() / 2]
        });
        Rates {
            connections,
            small,
            large,
            snapshot,
            large_percent: large * 100 / small,
            snapshot_percent: snapshot * 100 / small,
        }
    };
    rates.into_iter().zip([1, 2]).map(summary).collect()
}

/// On a fresh copy of the small database.
async fn small(admin: &mut PgConnection, sizes: Growth, connections: u64, snapshot: bool) -> u64 {
    const COPY: &str = "growth_copy";
    sql(admin, format!("drop database if exists {COPY} with (force)")).await;
    // Sessions of the template may take a moment to be gone.
    sql(
        admin,
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'growth_small'".to_owned(),
    )
    .await;
    sql(admin, format!("create database {COPY} template growth_small")).await;
    let mut old = connect(COPY).await;
    if snapshot {
        sql(&mut old, "begin isolation level repeatable read; select count(*) from pg_class".to_owned()).await;
    }
    rate(COPY, sizes, connections).await
}

async fn rate(database: &str, sizes: Growth, connections: u64) -> u64 {
    let store = open(database).await;
    let total = sizes.churn + sizes.rows;
    let batch = load::values(&store, BatchSpec::new("op"), None, (1..=total).map(input)).await.expect("rows").batch;
    drain(&store, 1, batch.number() ^ 1, 1, sizes.churn).await;
    let began = Instant::now();
    drain(&store, connections, batch.number() ^ 2, LINES, u64::MAX).await;
    let took = began.elapsed();
    let counts = store.status(batch).await.expect("the store answers").expect("the batch is there");
    assert_eq!((counts.success, counts.batch.status.name()), (total, "success"));
    (sizes.rows as f64 / took.as_secs_f64()) as u64
}

/// Claims and records on so many connections at once, until nothing is left or so many claims were made.
async fn drain(store: &PostgresStore, connections: u64, seed: u64, lines: u64, claims: u64) {
    let work = |who| tokio::spawn(work(store.clone(), LeaseId::from_random(seed.rotate_left(8) ^ who), lines, claims));
    let loops: Vec<_> = (0..connections).map(work).collect();
    for work in loops {
        work.await.expect("the store answers");
    }
}

async fn work(store: PostgresStore, lease: LeaseId, lines_max: u64, claims: u64) {
    let take = TakeLease {
        lease,
        worker: lease.to_string(),
        stable_name: false,
        ttl: Duration::from_secs(3600),
        renew: Duration::from_secs(1800),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.expect("a lease");
    for number in 1..=claims {
        let operations = vec!["op".to_owned()];
        let claim = Claim { lease, number, operations, lines_max, bytes_max: 8 << 20, idle: true };
        let reply = store.call(StoreRequest::Claim(claim)).await.expect("a claim");
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = reply else { panic!("{reply:?}") };
        if grants.is_empty() {
            break;
        }
        let mut items = Vec::new();
        for grant in &grants {
            items.extend(grant.rows.iter().map(|row| RecordItem {
                batch: grant.batch,
                line: row.line,
                token: grant.token,
                answer: Answer::Success("{\"ok\":true,\"value\":12345}".into()),
                run_time: Duration::from_millis(5),
            }));
        }
        let reply = store.call(StoreRequest::Record(Record { lease, items })).await.expect("a record");
        let StoreReply::Record(verdicts) = reply else { panic!("{reply:?}") };
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Recorded(_))));
    }
    store.call(StoreRequest::DropLease { lease }).await.expect("a lease's end");
}

/// About 200 bytes.
fn input(line: u64) -> serde_json::Value {
    serde_json::json!({ "line": line, "filler": "x".repeat(165) })
}

fn url(database: &str) -> String {
    let url = own().url();
    format!("{}/{database}", url.rsplit_once('/').map_or(url, |(server, _)| server))
}

async fn open(database: &str) -> PostgresStore {
    let options = url(database).parse().expect("a store's URL");
    PostgresStore::open(options, OpenMode::Create).await.expect("the store opens")
}

async fn connect(database: &str) -> PgConnection {
    PgConnection::connect(&url(database)).await.expect("the server answers")
}

async fn sql(conn: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.expect("it can be done");
}
