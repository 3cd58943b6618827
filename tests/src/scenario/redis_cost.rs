//! Redis' share of the cost: the worker with a handler that does nothing, on Postgres, with Redis and without, by turns.

use std::time::{Duration, Instant};

use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost::liveness::RedisLiveness;
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{OpenMode, Reads};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::Timing;

use crate::postgres::{Schema, own};
use crate::redis::{Keeps, Server};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Rows of a batch.
    pub rows: u64,
    /// How many rows the worker runs at once.
    pub concurrency: u32,
    /// Its ttl. A shorter one beats more often.
    pub ttl: Duration,
    /// How many batches of either kind.
    pub times: usize,
}

/// Medians of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Rows per second.
    pub rows_per_second: f64,
    /// Of this process, for one row.
    pub cpu_us_per_row: f64,
    /// Redis' commands for a thousand rows, those inside scripts too.
    pub commands_per_1000_rows: f64,
    /// Requests of the worker to Redis for a thousand rows.
    pub requests_per_1000_rows: f64,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Without Redis.
    pub without: Kind,
    /// With it.
    pub with: Kind,
    /// The median over the pairs of the rate with Redis, in percent of the rate without it just before or after.
    pub percent_of_the_rate: f64,
    /// The same of the CPU time of a row.
    pub percent_of_the_cpu_time: f64,
}

struct Nothing;

impl Handler for Nothing {
    async fn run(&self, _: Row, _: CancelToken) -> HandlerAnswer {
        HandlerAnswer::Success("null".into())
    }
}

/// Runs it, on this process's own server and a Redis of its own. Which kind comes first in a pair alternates.
pub async fn run(sizes: Cost) -> Outcome {
    let redis = Server::start(Keeps::Nothing);
    // The first one pays for what is made once.
    once(sizes, Some(&redis)).await;
    let mut pairs = Vec::new();
    for nth in 0..sizes.times {
        let pair = if nth % 2 == 0 {
            let without = once(sizes, None).await;
            (without, once(sizes, Some(&redis)).await)
        } else {
            let with = once(sizes, Some(&redis)).await;
            (once(sizes, None).await, with)
        };
        pairs.push(pair);
    }
    let of = |kind: fn(&(Kind, Kind)) -> Kind| {
        let median_of = |field: fn(Kind) -> f64| median(pairs.iter().map(|pair| field(kind(pair))).collect());
        Kind {
            rows_per_second: median_of(|kind| kind.rows_per_second),
            cpu_us_per_row: median_of(|kind| kind.cpu_us_per_row),
            commands_per_1000_rows: median_of(|kind| kind.commands_per_1000_rows),
            requests_per_1000_rows: median_of(|kind| kind.requests_per_1000_rows),
        }
    };
    let percent =
        |field: fn(Kind) -> f64| median(pairs.iter().map(|(off, on)| field(*on) / field(*off) * 100.0).collect());
    Outcome {
        without: of(|(without, _)| *without),
        with: of(|(_, with)| *with),
        percent_of_the_rate: percent(|kind| kind.rows_per_second),
        percent_of_the_cpu_time: percent(|kind| kind.cpu_us_per_row),
    }
}

async fn once(sizes: Cost, redis: Option<&Server>) -> Kind {
    let schema = Schema::on(own().url());
    let options = schema.url().parse().expect("a store's URL");
    let store = PostgresStore::open(options, OpenMode::Create).await.expect("the store opens");
    let batch = load::values(&store, BatchSpec::new("default"), None, 1..=sizes.rows).await.expect("rows").batch;
    let mut config = WorkerConfig::new(["default"]);
    config.options.concurrency = sizes.concurrency;
    config.options.until_done = true;
    config.options.timing = Timing::from_ttl(sizes.ttl);
    let url = redis.map(|redis| redis.url().parse().expect("a URL"));
    let liveness = url.map(|url| RedisLiveness::new(url, store.store_id()).expect("no certificates"));
    let counted = || redis.map_or((0, 0), commands);
    let (commands_before, requests_before) = counted();
    let (cpu_before, began) = (cpu_time(), Instant::now());
    let worker = RunningWorker::on_store_with(store.clone(), liveness, Nothing, config).expect("a worker starts");
    worker.left().await.expect("the worker leaves");
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu_before);
    let (commands, requests) = counted();
    let counts = store.status(batch).await.expect("the store answers").expect("the batch is there");
    assert_eq!((counts.success, counts.fenced, counts.queued + counts.inprog), (sizes.rows, 0, 0));
    assert!(redis.is_none() || requests > requests_before, "the worker uses Redis");
    let rows = sizes.rows as f64;
    Kind {
        rows_per_second: rows / took.as_secs_f64(),
        cpu_us_per_row: cpu.as_secs_f64() * 1e6 / rows,
        commands_per_1000_rows: (commands - commands_before) as f64 / rows * 1e3,
        requests_per_1000_rows: (requests - requests_before) as f64 / rows * 1e3,
    }
}

/// All calls of commands that Redis counts, and those that are requests of a worker: scripts. The test's own `INFO` and
/// `KEYS` are left out.
fn commands(redis: &Server) -> (u64, u64) {
    let stats = redis.ask(&["INFO", "commandstats"]);
    let (mut all, mut scripts) = (0, 0);
    for line in stats.lines() {
        let Some((name, rest)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(":calls=")) else {
            continue;
        };
        let calls: u64 = rest.split(',').next().and_then(|calls| calls.parse().ok()).expect("a count");
        all += if matches!(name, "ping" | "keys") { 0 } else { calls };
        scripts += if name.starts_with("eval") { calls } else { 0 };
    }
    (all, scripts)
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("it is known");
    let part = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, u32::try_from(time.tv_usec() * 1_000).expect("below a second"))
    };
    part(usage.user_time()) + part(usage.system_time())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
