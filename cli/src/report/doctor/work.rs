//! What is found of any store: whose it is, and why its work does or does not go on.

use std::time::Duration;

use fencepost_core::rules::leaving::S3_CUT_OFF_AFTER;

use super::{Finding, time};
use crate::report::BatchSummary;
use crate::report::status::{Alive, WorkerSummary};
use crate::store::examine::SchemaState;

/// What is to be done, as far as `doctor` looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The batches that are open or loading.
    pub batches: Vec<OpenBatch>,
    /// The live leases.
    pub workers: Vec<WorkerSummary>,
    /// How long each append that is not done has not moved.
    pub appends: Vec<Duration>,
}

/// A batch that is open or loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBatch {
    /// Itself.
    pub summary: BatchSummary,
    /// How long its load has not moved; of a batch that is loading.
    pub still: Duration,
    /// In what time the next row that was given back may be claimed, where rows wait for that.
    pub next_row_in: Option<Duration>,
}

/// Whether the store can be used by this program, which knows this version of its tables.
pub fn schema(state: &SchemaState, known: i64) -> Finding {
    const CHECK: &str = "schema";
    match state {
        SchemaState::Missing => Finding::problem(
            CHECK,
            "there is no store in it yet",
            "is this the right --store? `fencepost submit FILE` makes one that is not there",
        ),
        SchemaState::Foreign => Finding::problem(
            CHECK,
            "it belongs to something else: it has tables, but not fencepost's",
            "name another store with --store (on Postgres another schema with ?schema=NAME)",
        ),
        SchemaState::Older { version } => Finding::advice(
            CHECK,
            format!("version {version}, older than this program's {known}; its work is not looked at"),
            "`fencepost migrate` brings it up to date, as does the next `fencepost worker` or `fencepost submit`",
        ),
        SchemaState::Newer { version, wants } => Finding::problem(
            CHECK,
            format!("version {version}, which wants programs of version {wants} or later; this one knows {known}"),
            "update fencepost on this machine",
        ),
        SchemaState::Usable { version, .. } => {
            Finding::ok(CHECK, format!("version {version}; this program knows {known}"))
        }
    }
}

/// A load that has not moved for so long is told of.
const STILL_LOADING: Duration = Duration::from_secs(60);

/// Why work goes on, or does not. `store_option` stands behind the commands that are named.
pub fn findings(work: &Work, store_option: &str) -> Vec<Finding> {
    let mut found = vec![workers(work, store_option)];
    found.extend(dead(work, store_option));
    let open = work.batches.iter().filter(|batch| matches!(batch.summary.status, "open" | "held"));
    let waiting: u64 = open.clone().map(|batch| batch.summary.counts.queued).sum();
    found.push(Finding::ok("batches", format!("{} open, {waiting} rows wait", open.clone().count())));
    for batch in open {
        found.extend(of_open(batch, work, store_option));
    }
    found.extend(unfinished(work));
    found
}

fn is_alive(worker: &&WorkerSummary) -> bool {
    worker.alive == Alive::Yes
}

fn workers(work: &Work, store_option: &str) -> Finding {
    let live = work.workers.iter().filter(is_alive).count();
    let to_do = work.batches.iter().any(|batch| batch.summary.status == "open");
    if live > 0 || !to_do {
        return Finding::ok("workers", format!("{live} live"));
    }
    Finding::advice("workers", "none is live", format!("start one: fencepost worker{store_option} -- CMD"))
}

/// Dead workers whose rows nobody has taken back yet.
fn dead(work: &Work, store_option: &str) -> Option<Finding> {
    let dead: Vec<_> = work.workers.iter().filter(|worker| worker.alive != Alive::Yes).collect();
    if dead.is_empty() {
        return None;
    }
    let rows: u64 = dead.iter().flat_map(|worker| &worker.lines).map(|(_, lines)| lines.count()).sum();
    let names: Vec<&str> = dead.iter().take(3).map(|worker| worker.name.as_str()).collect();
    let more = if dead.len() > names.len() { ", ..." } else { "" };
    let found = format!("{} dead, holding {rows} rows ({}{more})", dead.len(), names.join(", "));
    Some(if work.workers.iter().any(|worker| is_alive(&worker)) {
        Finding::ok("recovery", format!("{found}; a live worker takes them back within its --ttl and --scan"))
    } else {
        let start = format!("start a worker, of whatever operation: fencepost worker{store_option} -- CMD");
        Finding::advice("recovery", format!("{found}; no live worker takes them back"), start)
    })
}

fn of_open(batch: &OpenBatch, work: &Work, store_option: &str) -> Option<Finding> {
    let BatchSummary { id, operation, status, counts, .. } = &batch.summary;
    if *status == "held" {
        let found = format!("{id} is held: none of its {} waiting rows is claimed", counts.queued);
        return Some(Finding::advice("held", found, format!("fencepost resume{store_option} {id}")));
    }
    let mut live = work.workers.iter().filter(is_alive);
    let handled = live.clone().any(|worker| worker.operations.contains(operation));
    if counts.queued > 0 && !handled && live.next().is_some() {
        let found = format!("{id} waits: no live worker has a handler for its operation {operation}");
        let start = format!("fencepost worker{store_option} --op {} -- CMD", super::super::quoted(operation));
        return Some(Finding::advice("operation", found, start));
    }
    let wait = batch.next_row_in.filter(|_| counts.queued > 0)?;
    Some(Finding::ok(
        "backoff",
        format!("{id} has rows that were given back and wait; the next is due in {}", time(wait)),
    ))
}

/// Loads and appends that were cut off.
fn unfinished(work: &Work) -> Vec<Finding> {
    let still = work.batches.iter().filter(|batch| batch.summary.status == "loading" && batch.still >= STILL_LOADING);
    let mut found: Vec<_> = still
        .map(|batch| {
            Finding::advice(
                "load",
                format!(
                    "{} has {} rows and has not moved for {}: cut off, or its input stands still",
                    batch.summary.id,
                    batch.summary.rows,
                    time(batch.still)
                ),
                "repeat the submit; a later one removes what a load left behind once it is a day old",
            )
        })
        .collect();
    found.extend(work.appends.iter().filter(|still| **still >= S3_CUT_OFF_AFTER).map(|still| {
        Finding::advice(
            "append",
            format!("one has not moved for {}: it was cut off", time(*still)),
            "repeat it; the next append to its batch removes what it left behind",
        )
    }));
    found
}
