//! The status report, after the original's: counts, live workers, dead workers and the rows they hold.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use fencepost_core::{BatchId, LeaseId, LineSet};
use serde_json::{Value, json};

use super::calls::{self, CallsReport};
use super::redis::{self, RedisReport};
use super::{BatchSummary, RULE, SCHEMA_VERSION, headline, ranges_text, shown};

/// Whether a worker lives, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    /// Its lease is live and not past its time.
    Yes,
    /// Its process, on this machine, is gone.
    ProcessGone,
    /// Its lease is past its time.
    Silent,
    /// Its lease was declared dead, or taken over.
    Ended,
}

/// A worker as reports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSummary {
    /// Its lease.
    pub id: LeaseId,
    /// Its name.
    pub name: String,
    /// Whether it lives.
    pub alive: Alive,
    /// The lines it holds, by batch.
    pub lines: Vec<(BatchId, LineSet)>,
    /// The operations it works on.
    pub operations: Vec<String>,
    /// Its process id, where it is known.
    pub pid: Option<u32>,
    /// Seconds since its last sign of life, by the store's clock.
    pub seen_s_ago: u64,
    /// Its lease's ttl.
    pub ttl: Duration,
}

impl WorkerSummary {
    /// The lines of one batch, or of all.
    fn lines_of(&self, batch: Option<BatchId>) -> impl Iterator<Item = &(BatchId, LineSet)> {
        self.lines.iter().filter(move |(id, lines)| batch.is_none_or(|batch| *id == batch) && !lines.is_empty())
    }

    /// Whether it is dead and its rows are still to be recovered.
    fn is_to_be_recovered(&self) -> bool {
        matches!(self.alive, Alive::ProcessGone | Alive::Silent)
    }
}

/// What `status` shows: one batch, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusReport {
    /// The batches.
    pub batches: Vec<BatchSummary>,
    /// The workers that matter: live ones, and dead ones that are not recovered yet.
    pub workers: Vec<WorkerSummary>,
    /// Completion calls, by batch.
    pub calls: BTreeMap<BatchId, CallsReport>,
    /// What Redis says, if there is to be one.
    pub redis: Option<RedisReport>,
}

/// The report as text. `store_option` stands behind the commands that it names: ` --store rows.db`, or nothing.
pub fn text(report: &StatusReport, store_option: &str) -> String {
    let mut out = headline("Status Report");
    if report.batches.is_empty() {
        let _ = writeln!(out, "\nNo open batch. `fencepost list{store_option}` shows all.");
    }
    let only = match report.batches.as_slice() {
        [one] => Some(one.id),
        _ => None,
    };
    for batch in &report.batches {
        batch_text(&mut out, batch, &report.workers);
        let calls = report.calls.get(&batch.id).map(|calls| calls::text(calls, &batch.operation, batch.has_ended()));
        if let Some(calls) = calls.filter(|calls| !calls.is_empty()) {
            let _ = write!(out, "\n{calls}");
        }
    }
    workers_text(&mut out, &report.workers, only);
    if let Some(redis) = &report.redis {
        out.push_str(&redis::text(redis, only));
    }
    out
}

fn batch_text(out: &mut String, batch: &BatchSummary, workers: &[WorkerSummary]) {
    let _ = writeln!(out, "\nBatch: {} ({}, operation {})\n{RULE}", batch.id, batch.status, shown(&batch.operation));
    let _ = writeln!(out, "Row status counts:");
    for (name, count) in batch.counts.named() {
        let _ = writeln!(out, "  {:<10} {count}", format!("{name}:"));
    }
    if batch.fenced > 0 {
        let _ = writeln!(out, "Late answers dropped by the fence: {}", batch.fenced);
    }
    if batch.stopping > 0 {
        let _ = writeln!(out, "\nRows that may still run: {} (their workers are to cancel them)", batch.stopping);
    }
    if batch.counts.inprog > 0 {
        let stuck: u64 = workers
            .iter()
            .filter(|worker| worker.is_to_be_recovered())
            .flat_map(|worker| worker.lines_of(Some(batch.id)))
            .map(|(_, lines)| lines.count())
            .sum();
        let _ = writeln!(out, "\nRows in 'inprog' status: {} (held by dead workers: {stuck})", batch.counts.inprog);
    }
    if waits_for_worker(batch, workers) {
        let operation = shown(&batch.operation);
        let _ = writeln!(out, "\nWaiting: no live worker has a handler for operation {operation}.");
    }
}

fn waits_for_worker(batch: &BatchSummary, workers: &[WorkerSummary]) -> bool {
    let handled = |worker: &WorkerSummary| worker.alive == Alive::Yes && worker.operations.contains(&batch.operation);
    batch.status == "open" && batch.counts.queued > 0 && !workers.iter().any(handled)
}

fn workers_text(out: &mut String, workers: &[WorkerSummary], only: Option<BatchId>) {
    let _ = writeln!(out, "\nWorkers:\n{RULE}");
    let _ = writeln!(out, "\nActive workers (have heartbeat):");
    let mut none = true;
    for worker in workers.iter().filter(|worker| worker.alive == Alive::Yes) {
        none = false;
        let _ = writeln!(out, "  {} (seen {} s ago)", shown(&worker.name), worker.seen_s_ago);
    }
    if none {
        let dead = workers.iter().any(WorkerSummary::is_to_be_recovered);
        let _ = writeln!(out, "  {}", if dead { "(none - heartbeat expired)" } else { "(none)" });
    }
    let _ = writeln!(out, "\nWorker row sets (rows being processed):");
    let mut none = true;
    for worker in workers {
        let mut lines = worker.lines_of(only).peekable();
        if lines.peek().is_none() && worker.alive == Alive::Yes {
            continue;
        }
        none = false;
        let _ = writeln!(out, "  {}{}", shown(&worker.name), alive_text(worker.alive, lines.peek().is_some()));
        for (batch, lines) in lines {
            let of = if only.is_some() { String::new() } else { format!(" of {batch}") };
            let _ = writeln!(out, "    Rows{of}: {}", ranges_text(lines));
        }
    }
    if none {
        let _ = writeln!(out, "  (no rows held: nothing to recover)");
    }
}

fn alive_text(alive: Alive, holds_lines: bool) -> &'static str {
    match (alive, holds_lines) {
        (Alive::Yes, _) => "",
        (Alive::ProcessGone, true) => " [DEAD (its process is gone - rows will be recovered)]",
        (Alive::ProcessGone, false) => " [DEAD (its process is gone - nothing to recover)]",
        (Alive::Silent, true) => " [DEAD (no heartbeat - rows will be recovered)]",
        (Alive::Silent, false) => " [DEAD (no heartbeat - nothing to recover)]",
        (Alive::Ended, _) => " [DEAD (recovered - nothing left to recover)]",
    }
}

/// A batch as every JSON shows it.
pub fn batch_json(batch: &BatchSummary) -> Value {
    json!({
        "id": batch.id.to_string(),
        "key": batch.key,
        "op": batch.operation,
        "status": batch.status,
        "rows": batch.rows,
    })
}

/// Counts as every JSON shows them: all of them, always.
pub fn counts_json(batch: &BatchSummary) -> Value {
    Value::Object(batch.counts.named().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
}

fn worker_json(worker: &WorkerSummary, only: Option<BatchId>) -> Value {
    let lines: Vec<Value> = worker
        .lines_of(only)
        .flat_map(|(_, lines)| lines.ranges())
        .map(|range| json!([range.first, range.last]))
        .collect();
    json!({
        "id": worker.id.to_string(),
        "name": worker.name,
        "alive": worker.alive == Alive::Yes,
        "lines": lines,
    })
}

/// `status BATCH --json`.
pub fn batch_status_json(batch: &BatchSummary, workers: &[WorkerSummary]) -> Value {
    json!({
        "schema_version": SCHEMA_VERSION,
        "batch": batch_json(batch),
        "counts": counts_json(batch),
        "workers": workers.iter().map(|worker| worker_json(worker, Some(batch.id))).collect::<Vec<_>>(),
        "stopping": batch.stopping,
        "fenced": batch.fenced,
    })
}

/// `list --json`, and `status --json` without a batch.
pub fn list_json(batches: &[BatchSummary]) -> Value {
    let batches: Vec<Value> = batches
        .iter()
        .map(|batch| {
            let mut value = batch_json(batch);
            value["counts"] = counts_json(batch);
            value["stopping"] = batch.stopping.into();
            value["fenced"] = batch.fenced.into();
            value
        })
        .collect();
    json!({ "schema_version": SCHEMA_VERSION, "batches": batches })
}

/// `list` as text; for `store_option` see [`text`].
pub fn list_text(batches: &[BatchSummary], store_option: &str) -> String {
    if batches.is_empty() {
        return format!("No batches. `fencepost submit FILE{store_option}` makes one.\n");
    }
    let mut out = format!(
        "{:<8}  {:<8}  {:>10}  {:>10}  {:>8}  {:<19}  {}\n",
        "BATCH", "STATUS", "ROWS", "DONE", "FAILED", "SUBMITTED", "SOURCE"
    );
    for batch in batches {
        let _ = writeln!(
            out,
            "{:<8}  {:<8}  {:>10}  {:>10}  {:>8}  {:<19}  {}",
            batch.id,
            batch.status,
            batch.rows,
            batch.counts.success + batch.counts.failed,
            batch.counts.failed,
            super::time_text(batch.created_at_us),
            shown(batch.source.as_deref().unwrap_or("-")),
        );
    }
    out
}

/// `workers --json`.
pub fn workers_json(workers: &[WorkerSummary]) -> Value {
    let workers: Vec<Value> = workers
        .iter()
        .map(|worker| {
            let mut value = worker_json(worker, None);
            value["operations"] = worker.operations.clone().into();
            value["pid"] = worker.pid.into();
            value["seen_s_ago"] = worker.seen_s_ago.into();
            value
        })
        .collect();
    json!({ "schema_version": SCHEMA_VERSION, "workers": workers })
}

/// `workers` as text; for `store_option` see [`text`].
pub fn list_workers_text(workers: &[WorkerSummary], store_option: &str) -> String {
    if workers.is_empty() {
        return format!("No workers. `fencepost worker{store_option} -- CMD` starts one.\n");
    }
    let mut out = format!("{:<32}  {:<6}  {:>8}  {:>8}  {}\n", "WORKER", "STATE", "HELD", "SEEN", "OPERATIONS");
    for worker in workers {
        let held: u64 = worker.lines_of(None).map(|(_, lines)| lines.count()).sum();
        let state = if worker.alive == Alive::Yes { "alive" } else { "DEAD" };
        let _ = writeln!(
            out,
            "{:<32}  {state:<6}  {held:>8}  {:>6} s  {}",
            shown(&worker.name),
            worker.seen_s_ago,
            shown(&worker.operations.join(", "))
        );
    }
    out
}
