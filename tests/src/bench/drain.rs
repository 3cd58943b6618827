//! Parts (a), (b) and the cost of a row: the store-only loop, and workers with a handler that does nothing, by turns.

use std::time::Duration;

use fencepost_core::BatchId;
use sqlx::PgConnection;

use super::figures::Figures;
use super::ground::{Ground, Site};
use super::limit;
use super::processes::{self, WorkerProcess};
use super::sizes::Sizes;
use super::verified::{self, Verified};
use crate::place::StoreKind;
use crate::postgres::own;
use crate::process::until;
use crate::scenario::STUCK;

/// How many rows a worker of the benchmark runs at once: as many as make no difference any more.
pub const CONCURRENCY: u32 = 2_000;

/// The operation of all batches.
pub const OP: &str = "nothing";

/// A worker is given so many rows first: the first requests of each of its sessions cost the server some 25 ms, which have nothing to
/// do with the rate, and are half a second for ten workers.
const WARM_UP_ROWS: u64 = 10_000;

/// How many workers are tried.
const WORKERS: [usize; 4] = [1, 2, 4, 10];

/// A drain by workers.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// From just before the rows could be claimed to the batch's end, by the store's clock.
    pub took: Duration,
    /// What was counted.
    pub verified: Verified,
    /// CPU time of all workers.
    pub worker_cpu: Duration,
    /// CPU time of the server.
    pub server_cpu: Duration,
    /// Bytes that the server wrote ahead.
    pub wal_bytes: u64,
    /// The most memory of a worker.
    pub memory_mb: f64,
}

/// Measures them on both stores.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    for (part, on) in [("Postgres", StoreKind::Postgres), ("SQLite", StoreKind::Sqlite)] {
        for _ in 0..sizes.repeats {
            for connections in [1, 2] {
                let took = loops(ground, on, sizes.rows, connections);
                let name = loop_name(connections);
                figures.sample(part, &name, "rows/s", per_second(sizes.rows, took));
                tell(&format!("  {part}: {name}: {:.0} rows/s", per_second(sizes.rows, took)));
            }
            for workers in WORKERS {
                let drain = workers_drain(ground, on, sizes.rows, workers, &[]);
                let rate = per_second(sizes.rows, drain.took);
                let name = workers_name(workers);
                figures.sample(part, &name, "rows/s", rate);
                figures.note(part, &name, "rows/s", drain.verified.to_string());
                figures.compare(part, &name, &loop_name(if workers == 1 { 1 } else { 2 }));
                costs(figures, part, workers, sizes.rows, &drain);
                tell(&format!("  {part}: {name}: {rate:.0} rows/s, {drain:?}"));
            }
        }
    }
}

/// How the loop's figure is called.
pub fn loop_name(connections: u64) -> String {
    format!("store-only loop, {connections} connection{}", if connections == 1 { "" } else { "s" })
}

/// How the workers' figure is called.
pub fn workers_name(workers: usize) -> String {
    format!("{workers} worker{}, handler inside", if workers == 1 { "" } else { "s" })
}

fn costs(figures: &mut Figures, part: &'static str, workers: usize, rows: u64, drain: &Drain) {
    let per_row = |time: Duration| time.as_secs_f64() * 1e6 / rows as f64;
    let of = |what: &str| format!("{what}, {workers} worker{}", if workers == 1 { "" } else { "s" });
    if workers > 2 {
        return;
    }
    figures.sample(part, &of("CPU of a row in the worker"), "µs", per_row(drain.worker_cpu));
    if part == "Postgres" {
        figures.sample(part, &of("CPU of a row in the server"), "µs", per_row(drain.server_cpu));
        figures.sample(part, &of("WAL of a row"), "bytes", drain.wal_bytes as f64 / rows as f64);
    }
    figures.sample(part, &of("memory of a busy worker"), "MB", drain.memory_mb);
}

/// Rows in a second.
pub fn per_second(rows: u64, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}

/// The store-only loop on a store of its own.
pub fn loops(ground: &Ground, on: StoreKind, rows: u64, connections: u64) -> Duration {
    let site = ground.store(on);
    ground.block_on(async {
        let batch = site.load_and_settle(OP, rows).await;
        site.opened(batch, rows).await;
        let took = limit::drain(&site, OP, connections).await;
        verified::verify(site.url(), batch, rows, None);
        took
    })
}

/// Worker processes on a store of its own. They are there, have worked, and are idle when the rows come.
pub fn workers_drain(ground: &Ground, on: StoreKind, rows: u64, workers: usize, more: &[&str]) -> Drain {
    let site = ground.store(on);
    let processes = processes::start(ground, &site, OP, workers, CONCURRENCY, more);
    let warm_up = WARM_UP_ROWS * workers as u64;
    released(ground, &site, ground.block_on(site.load_and_settle(OP, warm_up)), warm_up);
    let batch = ground.block_on(site.load_and_settle(OP, rows));
    let cpu =
        |processes: &[WorkerProcess]| processes.iter().map(|worker| processes::cpu(worker.pid())).sum::<Duration>();
    let (worker_before, server_before) = (cpu(&processes), processes::server_cpu(own()));
    let wal_before = ground.block_on(wal(on));
    let took = released(ground, &site, batch, rows);
    let worker_cpu = cpu(&processes) - worker_before;
    let server_cpu = processes::server_cpu(own()).saturating_sub(server_before);
    let wal_bytes = ground.block_on(wal(on)) - wal_before;
    let memory_mb = processes.iter().map(|worker| processes::memory_mb(worker.pid()).0).fold(0.0, f64::max);
    let runs: u64 = processes.into_iter().map(WorkerProcess::leave).sum();
    let verified = verified::verify(site.url(), batch, rows, Some(runs - warm_up));
    Drain { took, verified, worker_cpu, server_cpu, wal_bytes, memory_mb }
}

/// Lets the workers have the batch, and tells how long they took, by the store's clock.
pub fn released(ground: &Ground, site: &Site, batch: BatchId, rows: u64) -> Duration {
    let began = ground.block_on(async {
        let began = site.counts(batch).await.now;
        site.opened(batch, rows).await;
        began
    });
    let ended = until("the batch has ended", STUCK, || {
        std::thread::sleep(LOOK_EVERY);
        ground.block_on(site.counts(batch)).batch.ended_at
    });
    Duration::from_micros(ended.0.abs_diff(began.0))
}

/// How often it is looked whether a batch has ended. When it did, the store says.
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn wal(on: StoreKind) -> u64 {
    if on == StoreKind::Sqlite {
        return 0;
    }
    let mut conn = <PgConnection as sqlx::Connection>::connect(own().url()).await.expect("the server answers");
    let sql = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.expect("the server counts");
    bytes.unsigned_abs()
}
