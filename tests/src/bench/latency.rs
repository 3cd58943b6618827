//! Part (g): from a submit's end to its first row's start, and from a handler's end to an outcome that others see; on an idle store, and
//! beside a load of half of what the worker can do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fencepost::store::{OpenMode, Reads};
use fencepost_core::BatchId;

use super::drain::{self, OP, per_second};
use super::figures::Figures;
use super::ground::{Ground, Site};
use super::processes::{self, WorkerProcess};
use super::sizes::Sizes;
use super::worker::{PROBE, now_us};
use crate::place::{self, StoreKind};
use crate::process::until;
use crate::scenario::STUCK;
use crate::scenario::percentiles::Percentiles;

/// Measures it on both stores.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    for (part, on) in [("Latency on Postgres", StoreKind::Postgres), ("Latency on SQLite", StoreKind::Sqlite)] {
        let most = most_beside_submits(ground, on, sizes.rows);
        for _ in 0..sizes.repeats {
            for (when, rate) in [("idle", None), ("at half load", Some(most / 2.0))] {
                let site = ground.store(on);
                let probes = probes(ground, &site, sizes.probes, rate);
                for (what, times) in
                    [("submit to first start", probes.starts), ("handler's end to visible outcome", probes.ends)]
                {
                    let times = Percentiles::of(times);
                    for (kind, time) in [("median", times.median), ("p99", times.p99)] {
                        let name = format!("{what}, {when}, {kind}");
                        figures.sample(part, &name, "ms", time.as_secs_f64() * 1e3);
                        tell(&format!("  {part}: {name}: {time:?}"));
                    }
                }
            }
        }
    }
}

struct Probes {
    starts: Vec<Duration>,
    ends: Vec<Duration>,
}

/// Batches of one row, one after the other, for the worker that has the load, too.
fn probes(ground: &Ground, site: &Site, count: usize, load: Option<f64>) -> Probes {
    let mut worker = WorkerProcess::start(site, OP, drain::CONCURRENCY, &[]);
    processes::idle(ground, site, 1);
    let done = Arc::new(AtomicBool::new(false));
    let loading = load.map(|rate| {
        let (url, done) = (site.url().to_owned(), Arc::clone(&done));
        std::thread::spawn(move || submit_at(&url, rate, &done))
    });
    let mut probes = Probes { starts: Vec::new(), ends: Vec::new() };
    for nth in 0..count {
        // At another moment of whatever goes by turns.
        std::thread::sleep(Duration::from_millis(10 + (nth as u64 * 7) % 23));
        let (submitted_us, batch) = ground.block_on(async {
            let batch = site.load_of(OP, 1, |_| PROBE.into()).await;
            site.opened(batch, 1).await;
            (now_us(), batch)
        });
        let visible_us = ground.block_on(visible(site, batch));
        let told = worker.line();
        let (of, ran_us) = told.trim().split_once(' ').expect("two words");
        assert_eq!(of, batch.to_string(), "probes run one by one");
        let ran_us: i64 = ran_us.parse().expect("a time");
        // A worker may have been quicker than the answer to the submit.
        let since = |from: i64, to: i64| Duration::from_micros(u64::try_from(to - from).unwrap_or_default());
        probes.starts.push(since(submitted_us, ran_us));
        probes.ends.push(since(ran_us, visible_us));
    }
    done.store(true, Ordering::SeqCst);
    if let Some(loading) = loading {
        loading.join().expect("a load");
    }
    worker.leave();
    probes
}

/// When the outcome is seen, asked for over and over.
async fn visible(site: &Site, batch: BatchId) -> i64 {
    loop {
        let page = site.store().results(batch, 0, 1, false).await.expect("the store answers");
        if !page.rows.is_empty() {
            return now_us();
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// How many rows a worker does in a second while they are submitted beside it: on few cores far less than it does alone, and half of
/// that alone would be more than it can bear.
fn most_beside_submits(ground: &Ground, on: StoreKind, rows: u64) -> f64 {
    // So many batches wait for it at any time: it never runs dry.
    const AHEAD: usize = 20;
    let site = ground.store(on);
    let workers = processes::start(ground, &site, OP, 1, drain::CONCURRENCY, &[]);
    let (began, mut open, mut done) = (Instant::now(), VecDeque::new(), 0);
    while done < rows {
        open.push_back(ground.block_on(async {
            let batch = site.load(OP, LOAD_ROWS).await;
            site.opened(batch, LOAD_ROWS).await;
            batch
        }));
        if open.len() < AHEAD {
            continue;
        }
        let Some(oldest) = open.pop_front() else { continue };
        until("the oldest batch has ended", STUCK, || ground.block_on(site.counts(oldest)).batch.ended_at);
        done += LOAD_ROWS;
    }
    let took = began.elapsed();
    for worker in workers {
        worker.leave();
    }
    per_second(rows, took)
}

/// The rows of a batch of the load.
const LOAD_ROWS: u64 = 1_000;

/// Batches of [`LOAD_ROWS`], so many rows in a second, until it is done.
fn submit_at(url: &str, rate: f64, done: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let site = Site::of(url, place::open(url, OpenMode::Existing).await);
        let (began, mut submitted) = (Instant::now(), 0);
        while !done.load(Ordering::SeqCst) {
            let batch = site.load(OP, LOAD_ROWS).await;
            site.opened(batch, LOAD_ROWS).await;
            submitted += LOAD_ROWS;
            let due = began + Duration::from_secs_f64(submitted as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
    });
}
