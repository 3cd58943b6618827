//! Many workers on one batch on Postgres: their rate, who waits for locks, and how long the status takes meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{OpenMode, Reads};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::BatchId;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::percentiles::Percentiles;
use crate::postgres::{Schema, own};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Rows of the batch.
    pub rows: u64,
    /// Workers of this process, each with connections of its own.
    pub workers: usize,
    /// How many rows a worker runs at once.
    pub concurrency: u32,
}

/// What was measured.
#[derive(Debug)]
pub struct Outcome {
    /// From the first worker's start to the last one's end.
    pub took: Duration,
    /// Rows per second of all.
    pub rows_per_second: u64,
    /// Looks at what the workers' sessions wait for, one every 5 ms.
    pub samples: u64,
    /// Those in which a session waited for a lock: for another's transaction.
    pub samples_with_wait_for_another: u64,
    /// Those in which a session waited while another made a table longer: that lock lasts until the pages are there, not until
    /// the transaction's end.
    pub samples_with_wait_for_pages: u64,
    /// Sessions that waited, by what for and in which function, over all samples.
    pub waits: BTreeMap<String, u64>,
    /// Sessions that waited for one that reads the status, over all samples.
    pub waits_for_status: u64,
    /// How long the status took, beside the workers.
    pub status: Percentiles,
}

struct Nothing;

impl Handler for Nothing {
    async fn run(&self, _: Row, _: CancelToken) -> HandlerAnswer {
        HandlerAnswer::Success("null".into())
    }
}

const WORKERS: &str = "worker";
const STATUS: &str = "status";
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
const STATUS_EVERY: Duration = Duration::from_millis(10);

/// Runs it, on this process's own server. All the time a transaction is open that has read the status.
pub async fn run(sizes: Load) -> Outcome {
    let schema = Schema::on(own().url());
    let looker = open(&named(&schema, STATUS)).await;
    let batch = load::values(&looker, BatchSpec::new("default"), None, 1..=sizes.rows).await.expect("rows").batch;
    let mut reading = connect(&schema, STATUS).await;
    let status = format!("begin; select * from \"{}\".batch_status({}, null)", schema.name(), batch.number());
    sqlx::raw_sql(AssertSqlSafe(status)).execute(&mut reading).await.expect("the status");

    let done = Arc::new(AtomicBool::new(false));
    // On threads of their own, as other processes would be: the workers keep this runtime's threads busy.
    let (of_sampler, of_looker) = (done.clone(), done.clone());
    let looker_url = named(&schema, STATUS);
    let sampling = alone(move || async move { sample(own().url(), of_sampler).await });
    let looking = alone(move || async move { look(&looker_url, batch, sizes.rows, of_looker).await });
    let mut stores = Vec::new();
    for _ in 0..sizes.workers {
        stores.push(open(&named(&schema, WORKERS)).await);
    }
    let began = Instant::now();
    let start = |store| {
        let mut config = WorkerConfig::new(["default"]);
        config.options.concurrency = sizes.concurrency;
        config.options.until_done = true;
        RunningWorker::on_store(store, Nothing, config).expect("a worker starts")
    };
    let workers: Vec<RunningWorker> = stores.into_iter().map(start).collect();
    for worker in workers {
        worker.left().await.expect("the worker leaves");
    }
    let took = began.elapsed();
    done.store(true, Ordering::SeqCst);
    sqlx::raw_sql("commit").execute(&mut reading).await.expect("the transaction was open all the time");

    let counts = looker.status(batch).await.expect("the store answers").expect("the batch is there");
    assert_eq!((counts.success, counts.batch.status.name()), (sizes.rows, "success"));
    let (samples, [samples_with_wait_for_another, samples_with_wait_for_pages], waits, waits_for_status) =
        sampling.join().expect("samples");
    assert_eq!(waits_for_status, 0, "nobody waits for a status query");
    Outcome {
        took,
        rows_per_second: (sizes.rows as f64 / took.as_secs_f64()) as u64,
        samples,
        samples_with_wait_for_another,
        samples_with_wait_for_pages,
        waits,
        waits_for_status,
        status: looking.join().expect("looks"),
    }
}

fn alone<T: Send + 'static, F: Future<Output = T>>(work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work())
    })
}

fn named(schema: &Schema, name: &str) -> String {
    format!("{}&application_name={name}", schema.url())
}

async fn open(url: &str) -> PostgresStore {
    let options = url.parse().expect("a store's URL");
    PostgresStore::open(options, OpenMode::Create).await.expect("the store opens")
}

async fn connect(schema: &Schema, name: &str) -> PgConnection {
    let mut conn = schema.connect().await;
    let sql = format!("set application_name = '{name}'");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.expect("a name");
    conn
}

const WAITING: &str = r#"
select a.wait_event || ' in ' || coalesce(substring(a.query from '"\.([a-z_]+)\('), a.query),
       exists (
           select from pg_stat_activity b where b.pid = any (pg_blocking_pids(a.pid)) and b.application_name = 'status'
       )
from pg_stat_activity a
where a.application_name = 'worker' and a.wait_event_type = 'Lock'"#;

async fn sample(url: &str, done: Arc<AtomicBool>) -> (u64, [u64; 2], BTreeMap<String, u64>, u64) {
    let mut conn = <PgConnection as Connection>::connect(url).await.expect("the server answers");
    let (mut samples, mut with_wait, mut waits, mut for_status) = (0, [0, 0], BTreeMap::new(), 0);
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !done.load(Ordering::SeqCst) {
        every.tick().await;
        let waiting: Vec<(String, bool)> =
            sqlx::query_as(WAITING).fetch_all(&mut conn).await.expect("the server tells who waits");
        samples += 1;
        let for_pages = |what: &String| what.starts_with("extend ");
        with_wait[0] += u64::from(waiting.iter().any(|(what, _)| !for_pages(what)));
        with_wait[1] += u64::from(waiting.iter().any(|(what, _)| for_pages(what)));
        for (what, waits_for_status) in waiting {
            *waits.entry(what).or_default() += 1;
            for_status += u64::from(waits_for_status);
        }
    }
    (samples, with_wait, waits, for_status)
}

/// Only looks that show rows not done yet count.
async fn look(url: &str, batch: BatchId, rows: u64, done: Arc<AtomicBool>) -> Percentiles {
    let store = open(url).await;
    let mut times = Vec::new();
    let mut every = tokio::time::interval(STATUS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !done.load(Ordering::SeqCst) {
        every.tick().await;
        let began = Instant::now();
        let counts = store.status(batch).await.expect("the store answers").expect("the batch is there");
        let took = began.elapsed();
        assert_eq!(counts.queued + counts.inprog + counts.success, rows, "the counts add up");
        if counts.success > 0 && counts.success < rows {
            times.push(took);
        }
    }
    Percentiles::of(times)
}
