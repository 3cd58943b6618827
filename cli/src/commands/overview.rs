//! From what the store says to what reports show.

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::{BatchId, LeaseId, StoreTime};

use super::failure::Failure;
use crate::driver::Processes;
use crate::report::calls::{CallSummary, CallsReport};
use crate::report::status::{Alive, WorkerSummary};
use crate::report::{BatchSummary, Counts};
use crate::results::ResultRow;
use crate::runtime::LocalProcesses;
use crate::store::Reads;
use crate::store::view::{BatchCounts, CallView, RowView, WorkerView, WorkersView};

/// How long an ended worker is still shown.
const ENDED_SHOWN: Duration = Duration::from_secs(60);

/// One batch with its counts; `None` where it is gone.
pub async fn batch(store: &impl Reads, batch: BatchId) -> Result<Option<BatchSummary>, Failure> {
    let Some(counts) = store.status(batch).await? else { return Ok(None) };
    let stopping = match counts.batch.status {
        BatchStatus::Aborted => stopping(store, batch).await?,
        _ => 0,
    };
    Ok(Some(BatchSummary { stopping, ..summary(&counts) }))
}

/// S2: how many rows of an aborted batch workers may still run. A worker that is dead, or past its time, runs none.
pub async fn stopping(store: &impl Reads, batch: BatchId) -> Result<u64, Failure> {
    let processes = LocalProcesses::new();
    let gone = |process: &ProcessIdentity| processes.state(process) == ProcessState::Gone;
    let stopping = store.stopping(batch).await?;
    let running = stopping.iter().filter(|of| !of.silent && !of.process.as_ref().is_some_and(gone));
    Ok(running.map(|of| of.rows).sum())
}

/// All batches, the newest first.
pub async fn batches(store: &impl Reads) -> Result<Vec<BatchSummary>, Failure> {
    let mut summaries = Vec::new();
    for view in store.batches().await? {
        summaries.extend(batch(store, view.batch).await?);
    }
    Ok(summaries)
}

/// A batch as reports show it.
pub fn summary(counts: &BatchCounts) -> BatchSummary {
    let view = &counts.batch;
    BatchSummary {
        id: view.batch,
        key: view.key.clone(),
        operation: view.operation.clone(),
        status: if view.held && view.status == BatchStatus::Open { "held" } else { view.status.name() },
        rows: view.total,
        source: view.source.clone(),
        created_at_us: view.created_at.0,
        ended_at_us: view.ended_at.map(|at| at.0),
        counts: Counts {
            queued: counts.queued,
            inprog: counts.inprog,
            success: counts.success,
            failed: counts.failed,
            aborted: counts.aborted,
        },
        fenced: counts.fenced,
        stopping: 0,
    }
}

/// The workers that matter: live ones, those that are dead but not recovered, those recovered a moment ago.
pub async fn workers(store: &impl Reads) -> Result<Vec<WorkerSummary>, Failure> {
    let now_us = jiff::Timestamp::now().as_microsecond();
    let ended_since = StoreTime(now_us - i64::try_from(ENDED_SHOWN.as_micros()).unwrap_or(0));
    Ok(summaries(store.workers(ended_since).await?))
}

/// Workers as reports show them, with a look at those of this machine.
pub fn summaries(view: WorkersView) -> Vec<WorkerSummary> {
    let processes = LocalProcesses::new();
    let workers = view.workers.into_iter().filter(|worker| worker.state != LeaseState::Dropped);
    workers.map(|worker| worker_summary(worker, view.now, &processes)).collect()
}

fn worker_summary(worker: WorkerView, now: StoreTime, processes: &LocalProcesses) -> WorkerSummary {
    let gone = worker.process.as_ref().is_some_and(|process| processes.state(process) == ProcessState::Gone);
    let alive = match worker.state {
        LeaseState::Live if gone => Alive::ProcessGone,
        LeaseState::Live if now >= worker.expires_at => Alive::Silent,
        LeaseState::Live => Alive::Yes,
        LeaseState::Dead | LeaseState::TakenOver | LeaseState::Dropped => Alive::Ended,
    };
    let left = worker.expires_at.since(now);
    let past = now.since(worker.expires_at);
    WorkerSummary {
        id: worker.lease,
        name: worker.worker,
        alive,
        lines: worker.holds,
        operations: worker.operations,
        pid: worker.process.map(|process| process.pid),
        ttl: worker.ttl,
        seen_s_ago: (worker.ttl.saturating_sub(left) + past).as_secs(),
    }
}

/// A batch's completion calls. `workers`: those of [`workers`].
pub async fn calls(store: &impl Reads, batch: BatchId, workers: &[WorkerSummary]) -> Result<CallsReport, Failure> {
    let view = store.calls(batch).await?;
    let lives = |lease: &LeaseId| workers.iter().any(|worker| worker.id == *lease && worker.alive == Alive::Yes);
    let call = |call: CallView| CallSummary {
        generation: call.generation,
        status: call.status.name(),
        url: call.url,
        attempts: call.attempts,
        error: call.error,
        due_in: call.not_before.map(|at| at.since(view.now)).filter(|wait| !wait.is_zero()),
        worker: call.worker,
        delivered_at_us: call.delivered_at.map(|at| at.0),
    };
    Ok(CallsReport {
        url: view.url,
        calls: view.calls.into_iter().map(call).collect(),
        makers: view.makers.into_iter().filter(|(lease, _)| lives(lease)).map(|(_, calls)| calls).collect(),
    })
}

/// A row as reports and results show it.
pub fn result_row(row: RowView) -> ResultRow {
    let RowView { line, status, input, outcome, .. } = row;
    let input = Some(input);
    match outcome {
        Some(outcome) => ResultRow {
            line,
            status: status.name(),
            result: outcome.result,
            error: outcome.error.map(String::from),
            attempts: outcome.attempts,
            crashes: outcome.crashes,
            worker: outcome.worker,
            token: Some(outcome.token.0),
            input,
        },
        None => ResultRow {
            line,
            status: status.name(),
            result: None,
            error: None,
            attempts: 0,
            crashes: 0,
            worker: None,
            token: None,
            input,
        },
    }
}
