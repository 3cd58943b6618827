//! awa: one process works off no-op jobs. What goes in and out: ../../README.md.

use std::error::Error;
use std::io::BufRead;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use awa::{Client, InsertOpts, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

type Anything<T> = Result<T, Box<dyn Error + Send + Sync>>;

const QUEUE: &str = "noop";
const STALLED: Duration = Duration::from_secs(60);
const INSERTED_AT_ONCE: usize = 5_000;

/// Its own benchmark of the storage engine: many workers of one queue in one process, and no deadline per job, which is its
/// short path; with a deadline a job costs the server more. Completions are batched by itself. From 512 workers on, with
/// one claimer or two, the cost per job is the same within what two runs differ by; with fewer, or more claimers, it is higher.
#[derive(Deserialize)]
#[serde(default)]
struct Setting {
    workers: u32,
    claimers: u16,
    claim_batch: usize,
    deadline_s: u64,
    pool: u32,
}

impl Default for Setting {
    fn default() -> Self {
        Self { workers: 1024, claimers: 1, claim_batch: 512, deadline_s: 0, pool: 20 }
    }
}

static RAN: OnceLock<Vec<AtomicU8>> = OnceLock::new();
static CALLS: AtomicUsize = AtomicUsize::new(0);

#[derive(Deserialize, Serialize, JobArgs)]
struct Noop {
    n: usize,
    text: String,
}

fn client(pool: &PgPool, setting: &Setting) -> Anything<Client> {
    let config = QueueConfig {
        max_workers: setting.workers,
        claimers: setting.claimers,
        claim_batch_size: setting.claim_batch,
        deadline_duration: Duration::from_secs(setting.deadline_s),
        ..QueueConfig::default()
    };
    let client = Client::builder(pool.clone()).queue(QUEUE, config).register::<Noop, _, _>(|job, _| async move {
        std::hint::black_box(&job.text);
        if let Some(times) = RAN.get().and_then(|ran| ran.get(job.n)) {
            times.fetch_add(1, Ordering::Relaxed);
        }
        CALLS.fetch_add(1, Ordering::Relaxed);
        Ok(JobResult::Completed)
    });
    Ok(client.build()?)
}

fn store() -> Anything<QueueStorage> {
    Ok(QueueStorage::new(QueueStorageConfig::default())?)
}

async fn insert(pool: &PgPool, jobs: usize, payload_bytes: usize) -> Anything<()> {
    let text = "x".repeat(payload_bytes.saturating_sub(20));
    for from in (0..jobs).step_by(INSERTED_AT_ONCE) {
        let some: Result<Vec<_>, _> = (from..jobs.min(from + INSERTED_AT_ONCE))
            .map(|n| {
                let options = InsertOpts { queue: QUEUE.into(), ..Default::default() };
                awa::insert::params_with(&Noop { n, text: text.clone() }, options)
            })
            .collect();
        store()?.enqueue_params_copy(pool, &some?).await?;
    }
    // Without statistics the server takes twice as long per job. In a queue that has run for a while they are there.
    sqlx::query("vacuum analyze").execute(pool).await?;
    Ok(())
}

async fn left(pool: &PgPool, jobs: usize) -> Anything<i64> {
    let terminal = store()?.queue_counts(pool, QUEUE).await?.terminal;
    Ok(i64::try_from(jobs)? - terminal)
}

/// Asks the store only when all jobs have run, so that it does not disturb them.
async fn finished(pool: &PgPool, jobs: usize) -> Anything<()> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let calls = CALLS.load(Ordering::Relaxed);
        if calls >= jobs && left(pool, jobs).await? == 0 {
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
    awa::migrations::run(&pool).await?;
    // The first client of a new database switches it to the storage engine that workers use by default.
    let first = client(&pool, &setting)?;
    first.start().await?;
    first.shutdown(Duration::from_secs(10)).await;
    insert(&pool, jobs, payload_bytes).await?;
    println!("{}", json!({ "ready": true }));
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err("nobody says go".into());
    }

    let started = Instant::now();
    let client = client(&pool, &setting)?;
    client.start().await?;
    finished(&pool, jobs).await?;
    let seconds = started.elapsed().as_secs_f64();
    client.shutdown(Duration::from_secs(10)).await;

    let times = |wanted: fn(u8) -> bool| ran.iter().filter(|times| wanted(times.load(Ordering::Relaxed))).count();
    let deadline = if setting.deadline_s == 0 {
        "no deadline per job".into()
    } else {
        format!("deadline {} s", setting.deadline_s)
    };
    let result = json!({
        "jobs": jobs,
        "seconds": seconds,
        "ran_once": times(|times| times == 1),
        "ran_twice_or_more": times(|times| times > 1),
        "never_ran": times(|times| times == 0),
        "left_in_store": left(&pool, jobs).await?,
        "keeps_outcome": true,
        "version": "0.6.9",
        "setting": format!(
            "{} workers, {} claimer(s), claims of {}, {deadline}",
            setting.workers, setting.claimers, setting.claim_batch
        ),
    });
    println!("{result}");
    Ok(())
}
