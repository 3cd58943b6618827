//! Idle workers on Postgres: how soon they hear of rows, and what they ask meanwhile.

use std::time::{Duration, Instant};

use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{OpenMode, Reads, Store};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::store::{StoreReply, StoreRequest};
use sqlx::PgConnection;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::STUCK;
use super::percentiles::Percentiles;
use crate::pooler::Pooler;
use crate::postgres::{Schema, own};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Workers of this process.
    pub workers: usize,
    /// How often a batch is submitted.
    pub times: u32,
    /// Rows of each.
    pub rows: u64,
    /// How long queries are counted.
    pub counting: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Outcome {
    /// From the submit's end to the first row's start.
    pub first_row: Percentiles,
    /// Transactions per second of all idle workers together: polls, looks and renewals.
    pub idle_transactions_per_second: f64,
}

struct Tells(UnboundedSender<Instant>);

impl Handler for Tells {
    async fn run(&self, _: Row, _: CancelToken) -> HandlerAnswer {
        let now = Instant::now();
        self.0.send(now).expect("somebody listens");
        HandlerAnswer::Success("null".into())
    }
}

/// Runs it on this process's own server: told by NOTIFY.
pub async fn listening(sizes: Idle) -> Outcome {
    let schema = Schema::on(own().url());
    run(sizes, &schema, &schema.url()).await
}

/// The same through PgBouncer in transaction mode: nobody is told, workers poll.
pub async fn polling(sizes: Idle) -> Outcome {
    let schema = Schema::on(own().url());
    let pooler = Pooler::start(own());
    run(sizes, &schema, &schema.url_at(pooler.url())).await
}

async fn run(sizes: Idle, schema: &Schema, url: &str) -> Outcome {
    let (tells, mut told) = unbounded_channel();
    let mut workers = Vec::new();
    for _ in 0..sizes.workers {
        let mut config = WorkerConfig::new(["default"]);
        config.options.poll = POLL;
        workers.push(RunningWorker::on_store(open(url).await, Tells(tells.clone()), config).expect("a worker starts"));
    }
    // The submitter is another client, straight at the server.
    let store = open(&schema.url()).await;
    let until = Instant::now() + STUCK;
    while live_leases(&store).await < sizes.workers {
        assert!(Instant::now() < until, "the workers never took their leases");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut times = Vec::new();
    for time in 0..sizes.times {
        // Workers are idle, at another moment between two polls each time.
        tokio::time::sleep(POLL / 10 + POLL * (time * 37 % 100) / 100).await;
        let batch = load::values(&store, BatchSpec::new("default"), None, 1..=sizes.rows).await.expect("rows").batch;
        let submitted = Instant::now();
        for row in 1..=sizes.rows {
            let started =
                tokio::time::timeout(STUCK, told.recv()).await.expect("a row starts").expect("workers are there");
            if row == 1 {
                times.push(started.saturating_duration_since(submitted));
            }
        }
        let until = Instant::now() + STUCK;
        while store.status(batch).await.expect("an answer").expect("it is there").batch.ended_at.is_none() {
            assert!(Instant::now() < until, "the batch never ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut conn = schema.connect().await;
    let before = transactions(&mut conn).await;
    let began = Instant::now();
    tokio::time::sleep(sizes.counting).await;
    // This one's own is in the second number.
    let after = transactions(&mut conn).await - 1;
    let idle_transactions_per_second = (after - before) as f64 / began.elapsed().as_secs_f64();
    for worker in &workers {
        worker.stopper()();
    }
    for worker in workers {
        worker.left().await.expect("the worker leaves");
    }
    Outcome { first_row: Percentiles::of(times), idle_transactions_per_second }
}

const POLL: Duration = Duration::from_secs(1);

async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url.parse().expect("a store's URL"), OpenMode::Create).await.expect("the store opens")
}

async fn live_leases(store: &PostgresStore) -> usize {
    match store.call(StoreRequest::Look).await.expect("an answer") {
        StoreReply::Look(look) => look.leases.len(),
        other => panic!("{other:?}"),
    }
}

/// Transactions of this database so far. Sessions report theirs within about a second.
async fn transactions(conn: &mut PgConnection) -> i64 {
    let sql = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(conn).await.expect("the server counts")
}
