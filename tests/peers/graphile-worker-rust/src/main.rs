//! graphile_worker (the Rust port): one process works off no-op jobs. What goes in and out: ../../README.md.

use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext, WorkerOptions,
    WorkerUtils,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

type Anything<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SCHEMA: &str = "graphile_worker";
const STALLED: Duration = Duration::from_secs(60);
const INSERTED_AT_ONCE: usize = 5_000;

/// Its guide and its own benchmark: a local queue of thousands, some hundred jobs at once, and completion in batches after 1 to
/// 5 ms. Local queues of 1000 to 5000 and 100 to 500 jobs at once cost the same per job, within what two runs differ by; four
/// queues of 1250 cost more.
#[derive(Deserialize)]
#[serde(default)]
struct Setting {
    local_queue: usize,
    queues: usize,
    concurrency: usize,
    complete_delay_ms: u64,
    pool: u32,
}

impl Default for Setting {
    fn default() -> Self {
        Self { local_queue: 2_000, queues: 1, concurrency: 100, complete_delay_ms: 1, pool: 20 }
    }
}

static RAN: OnceLock<Vec<AtomicU8>> = OnceLock::new();
static CALLS: AtomicUsize = AtomicUsize::new(0);

#[derive(Deserialize, Serialize)]
struct Noop {
    n: usize,
    text: String,
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        std::hint::black_box(&self.text);
        let times = RAN.get().and_then(|ran| ran.get(self.n)).ok_or("an unknown job")?;
        times.fetch_add(1, Ordering::Relaxed);
        CALLS.fetch_add(1, Ordering::Relaxed);
        Ok::<(), &str>(())
    }
}

async fn insert(utils: &WorkerUtils, jobs: usize, payload_bytes: usize) -> Anything<()> {
    utils.migrate().await?;
    let text = "x".repeat(payload_bytes.saturating_sub(20));
    for from in (0..jobs).step_by(INSERTED_AT_ONCE) {
        let some: Vec<RawJobSpec> = (from..jobs.min(from + INSERTED_AT_ONCE))
            .map(|n| RawJobSpec {
                identifier: Noop::IDENTIFIER.into(),
                payload: json!({ "n": n, "text": text }),
                spec: JobSpec::default(),
            })
            .collect();
        utils.add_raw_jobs(&some).await?;
    }
    Ok(())
}

async fn left(pool: &PgPool) -> Anything<i64> {
    Ok(sqlx::query_scalar("select count(*) from graphile_worker._private_jobs").fetch_one(pool).await?)
}

/// Asks the store only when all jobs have run, so that it does not disturb them.
async fn finished(pool: &PgPool, jobs: usize) -> Anything<()> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let calls = CALLS.load(Ordering::Relaxed);
        if calls >= jobs && left(pool).await? == 0 {
            return Ok(());
        }
        if calls != seen {
            (seen, since) = (calls, Instant::now());
        }
        if since.elapsed() > STALLED {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn variable(name: &str) -> Anything<String> {
    std::env::var(name).map_err(|why| format!("{name}: {why}").into())
}

#[tokio::main]
async fn main() -> Anything<()> {
    let url = variable("BENCH_DATABASE_URL")?;
    let jobs: usize = variable("BENCH_JOBS")?.parse()?;
    let payload_bytes: usize = variable("BENCH_PAYLOAD_BYTES")?.parse()?;
    let setting: Setting = match std::env::var("BENCH_SETTING") {
        Ok(text) if !text.is_empty() => serde_json::from_str(&text)?,
        _ => Setting::default(),
    };
    let ran = RAN.get_or_init(|| (0..jobs).map(|_| AtomicU8::new(0)).collect());
    let pool = PgPoolOptions::new().max_connections(setting.pool).connect(&url).await?;
    insert(&WorkerUtils::new(pool.clone(), SCHEMA), jobs, payload_bytes).await?;
    println!("{}", json!({ "ready": true }));
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err("nobody says go".into());
    }

    let started = Instant::now();
    let mut options = WorkerOptions::default()
        .pg_pool(pool.clone())
        .schema(SCHEMA)
        .concurrency(setting.concurrency)
        .listen_os_shutdown_signals(false)
        .define_job::<Noop>();
    if setting.complete_delay_ms > 0 {
        let delay = Duration::from_millis(setting.complete_delay_ms);
        options = options.complete_job_batch_delay(delay).fail_job_batch_delay(delay);
    }
    if setting.local_queue > 0 {
        let queue = LocalQueueConfig::builder().size(setting.local_queue).queue_count(setting.queues).build();
        options = options.local_queue(queue);
    }
    let worker = Arc::new(options.init().await?);
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });
    finished(&pool, jobs).await?;
    let seconds = started.elapsed().as_secs_f64();
    worker.request_shutdown();
    running.await??;

    let times = |wanted: fn(u8) -> bool| ran.iter().filter(|times| wanted(times.load(Ordering::Relaxed))).count();
    let result = json!({
        "jobs": jobs,
        "seconds": seconds,
        "ran_once": times(|times| times == 1),
        "ran_twice_or_more": times(|times| times > 1),
        "never_ran": times(|times| times == 0),
        "left_in_store": left(&pool).await?,
        "keeps_outcome": false,
        "version": "0.14.1",
        "setting": format!(
            "local queue {} x {}, {} jobs at once, completion batched for {} ms",
            setting.queues, setting.local_queue, setting.concurrency, setting.complete_delay_ms
        ),
    });
    println!("{result}");
    Ok(())
}
