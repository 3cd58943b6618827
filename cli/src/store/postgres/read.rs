//! Reading for people: one call of a STABLE function each, so one snapshot, without a lock and without scanning the rows.

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{BatchId, LineSet, StoreTime, Token};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::PostgresStore;
use super::call::Call;
use super::calls::calls;
use super::codec::{
    batch_id, batch_status, from_millis, int, lease_id, lease_state, lines_of, names_from_json, natural, process, small,
};
use super::trouble::Trouble;
use crate::store::view::{
    BatchCounts, BatchView, CANDIDATES_MAX, CallsView, OutcomeView, Resolved, RowPage, RowStatus, RowStory, RowView,
    SpanView, StoppingView, StoryEntry, WorkerView, WorkersView,
};
use crate::store::{Reads, StoreError};

impl PostgresStore {
    /// Calls a function that only reads; whatever goes wrong, nothing was done.
    async fn ask<T>(
        &self,
        call: Call<'_>,
        read: impl FnOnce(Vec<PgRow>) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let rows = self.connections.call(call).await?;
        read(rows).map_err(|trouble| trouble.not_done(self.place()))
    }
}

impl Reads for PostgresStore {
    fn store_id(&self) -> &str {
        &self.store_id
    }

    async fn resolve_batch(&self, prefix: &str) -> Result<Resolved, StoreError> {
        let limit = i64::try_from(CANDIDATES_MAX).unwrap_or(i64::MAX);
        let call = Call::new("batches_with_prefix").arg(prefix.to_ascii_lowercase()).arg(limit);
        self.ask(call, |rows| {
            let found = rows.iter().map(|row| batch_id(row.try_get(0)?)).collect::<Result<Vec<_>, _>>()?;
            Ok(match found.as_slice() {
                [] => Resolved::None,
                [one] => Resolved::Found(*one),
                _ => Resolved::Ambiguous(found),
            })
        })
        .await
    }

    async fn batch(&self, batch: BatchId) -> Result<Option<BatchView>, StoreError> {
        let call = Call::new("batch_views").arg(int(batch.number())).arg(None::<&str>);
        self.ask(call, |rows| rows.first().map(batch_view).transpose()).await
    }

    async fn batch_of_key(&self, key: &str) -> Result<Option<BatchView>, StoreError> {
        let call = Call::new("batch_views").arg(None::<i64>).arg(key);
        self.ask(call, |rows| rows.first().map(batch_view).transpose()).await
    }

    async fn batches(&self) -> Result<Vec<BatchView>, StoreError> {
        let call = Call::new("batch_views").arg(None::<i64>).arg(None::<&str>);
        self.ask(call, |rows| rows.iter().map(batch_view).collect()).await
    }

    async fn status(&self, batch: BatchId) -> Result<Option<BatchCounts>, StoreError> {
        let call = Call::new("batch_status").arg(int(batch.number())).arg(self.at());
        self.ask(call, |rows| rows.first().map(counts).transpose()).await
    }

    async fn workers(&self, ended_since: StoreTime) -> Result<WorkersView, StoreError> {
        let now = self.ask(Call::new("store_time").arg(self.at()), |rows| now_of(&rows)).await?;
        let workers =
            self.ask(Call::new("worker_views").arg(ended_since.0), |rows| rows.iter().map(worker).collect()).await?;
        Ok(WorkersView { now, workers })
    }

    async fn calls(&self, batch: BatchId) -> Result<CallsView, StoreError> {
        let call = Call::new("batch_calls").arg(int(batch.number())).arg(self.at());
        let damaged = || Trouble::damaged("the calls of a batch are not one answer");
        self.ask(call, |rows| calls(rows.first().ok_or_else(damaged)?)).await
    }

    async fn row_story(&self, batch: BatchId, line: u64) -> Result<Option<RowStory>, StoreError> {
        if line == 0 {
            return Ok(None);
        }
        let call = Call::new("row_story").arg(int(batch.number())).arg(int(line)).arg(self.at());
        self.ask(call, |rows| rows.first().map(story).transpose()).await
    }

    async fn rows(
        &self,
        batch: BatchId,
        status: Option<RowStatus>,
        after_line: u64,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        let call = Call::new("row_page")
            .arg(int(batch.number()))
            .arg(status.map(RowStatus::name))
            .arg(int(after_line))
            .arg(i64::from(limit));
        self.ask(call, |rows| page(&rows, limit)).await
    }

    async fn results(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
        failed_only: bool,
    ) -> Result<RowPage, StoreError> {
        let call = Call::new("result_page")
            .arg(int(batch.number()))
            .arg(failed_only.then_some("failed"))
            .arg(int(after_line))
            .arg(i64::from(limit));
        self.ask(call, |rows| page(&rows, limit)).await
    }

    async fn stopping(&self, batch: BatchId) -> Result<Vec<StoppingView>, StoreError> {
        let call = Call::new("stopping_of").arg(int(batch.number())).arg(self.at());
        self.ask(call, |rows| rows.iter().map(stopping).collect()).await
    }

    async fn failed(&self, batch: BatchId, with: Option<&str>) -> Result<u64, StoreError> {
        let call = Call::new("failed_rows").arg(int(batch.number())).arg(with);
        self.ask(call, |rows| rows.first().map_or(Ok(0), |row| natural(row.try_get(0)?))).await
    }

    async fn errors(&self, batch: BatchId, after_line: u64, limit: u32) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        let call = Call::new("error_page").arg(int(batch.number())).arg(int(after_line)).arg(i64::from(limit));
        self.ask(call, |rows| {
            let of = |row: &PgRow| Ok((natural(row.try_get(0)?)?, row.try_get::<String, _>(1)?.into_boxed_str()));
            rows.iter().map(of).collect()
        })
        .await
    }

    async fn inputs(&self, batch: BatchId, after_line: u64, limit: u32) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        let call = Call::new("input_page").arg(int(batch.number())).arg(int(after_line)).arg(i64::from(limit));
        self.ask(call, |rows| {
            let input =
                |row: &PgRow| Ok((natural(row.try_get("line")?)?, row.try_get::<String, _>("input")?.into_boxed_str()));
            rows.iter().map(input).collect()
        })
        .await
    }
}

fn now_of(rows: &[PgRow]) -> Result<StoreTime, Trouble> {
    let row = rows.first().ok_or_else(|| Trouble::damaged("the clock does not answer"))?;
    Ok(StoreTime(row.try_get(0)?))
}

#[derive(FromRow)]
struct BatchRecord {
    batch: i64,
    key: Option<String>,
    digest: Option<String>,
    operation: String,
    status: String,
    held: bool,
    priority: i32,
    total: i64,
    cursor: i64,
    generation: i32,
    attempts_max: i64,
    crashes_max: i64,
    timeout_ms: i64,
    header: Option<String>,
    source: Option<String>,
    created_at: i64,
    loaded_at: Option<i64>,
    ended_at: Option<i64>,
}

pub(super) fn batch_view(row: &PgRow) -> Result<BatchView, Trouble> {
    let record = BatchRecord::from_row(row)?;
    Ok(BatchView {
        batch: batch_id(record.batch)?,
        key: record.key,
        digest: record.digest,
        operation: record.operation,
        status: batch_status(&record.status)?,
        held: record.held,
        priority: record.priority,
        total: natural(record.total)?,
        cursor: natural(record.cursor)?,
        generation: small(record.generation.into())?,
        attempts_max: small(record.attempts_max)?,
        crashes_max: small(record.crashes_max)?,
        timeout: from_millis(record.timeout_ms)?,
        header: record.header.as_deref().map(names_from_json).transpose()?,
        source: record.source,
        created_at: StoreTime(record.created_at),
        loaded_at: record.loaded_at.map(StoreTime),
        ended_at: record.ended_at.map(StoreTime),
    })
}

#[derive(FromRow)]
struct CountsRecord {
    now_us: i64,
    success: i64,
    failed: i64,
    retried: i64,
    timed_out: i64,
    fenced: i64,
    inprog: i64,
    crashed: i64,
    withdrawn: i64,
    recovered: i64,
    next_not_before: Option<i64>,
}

fn counts(row: &PgRow) -> Result<BatchCounts, Trouble> {
    let view = batch_view(row)?;
    let record = CountsRecord::from_row(row)?;
    let (success, failed, inprog) = (natural(record.success)?, natural(record.failed)?, natural(record.inprog)?);
    let loaded = if view.status == BatchStatus::Loading { 0 } else { view.total };
    let rest = loaded
        .checked_sub(success + failed + inprog)
        .ok_or_else(|| Trouble::damaged(format!("batch {} has more outcomes than rows", view.batch)))?;
    let aborted = view.status == BatchStatus::Aborted;
    Ok(BatchCounts {
        now: StoreTime(record.now_us),
        queued: if aborted { 0 } else { rest },
        inprog,
        success,
        failed,
        aborted: if aborted { rest } else { 0 },
        retried: natural(record.retried)?,
        timed_out: natural(record.timed_out)?,
        fenced: natural(record.fenced)?,
        crashed: natural(record.crashed.saturating_sub(record.withdrawn))?,
        recovered: natural(record.recovered)?,
        next_not_before: record.next_not_before.map(StoreTime),
        batch: view,
    })
}

#[derive(FromRow)]
struct WorkerRecord {
    lease: i64,
    worker: String,
    stable_name: bool,
    state: String,
    ttl_ms: i64,
    renew_ms: i64,
    expires_at: i64,
    renewals: i64,
    machine: Option<String>,
    pid: Option<i64>,
    start_ticks: Option<i64>,
    operations: String,
    taken_at: i64,
    ended_at: Option<i64>,
    ended_by: Option<i64>,
    held_batches: Option<Vec<i64>>,
    held_lines: Option<Vec<String>>,
}

fn worker(row: &PgRow) -> Result<WorkerView, Trouble> {
    let record = WorkerRecord::from_row(row)?;
    let mut holds: BTreeMap<BatchId, LineSet> = BTreeMap::new();
    for (batch, lines) in record.held_batches.into_iter().flatten().zip(record.held_lines.into_iter().flatten()) {
        let set = holds.entry(batch_id(batch)?).or_default();
        *set = set.union(&lines_of(&lines)?);
    }
    Ok(WorkerView {
        lease: lease_id(record.lease)?,
        worker: record.worker,
        stable_name: record.stable_name,
        state: lease_state(&record.state)?,
        ttl: from_millis(record.ttl_ms)?,
        renew: from_millis(record.renew_ms)?,
        expires_at: StoreTime(record.expires_at),
        renewals: natural(record.renewals)?,
        process: process(record.machine, record.pid, record.start_ticks)?,
        operations: names_from_json(&record.operations)?,
        taken_at: StoreTime(record.taken_at),
        ended_at: record.ended_at.map(StoreTime),
        ended_by: record.ended_by.map(lease_id).transpose()?,
        holds: holds.into_iter().collect(),
    })
}

fn stopping(row: &PgRow) -> Result<StoppingView, Trouble> {
    let (now, expires_at): (i64, i64) = (row.try_get("now_us")?, row.try_get("expires_at")?);
    Ok(StoppingView {
        worker: row.try_get("worker")?,
        silent: now >= expires_at,
        process: process(row.try_get("machine")?, row.try_get("pid")?, row.try_get("start_ticks")?)?,
        rows: natural(row.try_get("line_count")?)?,
    })
}

#[derive(FromRow)]
struct RowRecord {
    line: i64,
    input: String,
    status: String,
    result: Option<String>,
    error: Option<String>,
    token: Option<i64>,
    lease: Option<i64>,
    worker: Option<String>,
    attempts: Option<i32>,
    crashes: Option<i32>,
    run_us: Option<i64>,
    recorded_at: Option<i64>,
}

fn row_view(row: &PgRow) -> Result<RowView, Trouble> {
    let record = RowRecord::from_row(row)?;
    let statuses = [RowStatus::Queued, RowStatus::InProg, RowStatus::Success, RowStatus::Failed, RowStatus::Aborted];
    let status = statuses.into_iter().find(|status| status.name() == record.status);
    let status = status.ok_or_else(|| Trouble::damaged("a row has a status that does not exist"))?;
    let outcome = match (record.token, record.lease) {
        (Some(token), Some(lease)) => Some(OutcomeView {
            success: status == RowStatus::Success,
            result: record.result.map(String::into_boxed_str),
            error: record.error.map(String::into_boxed_str),
            token: Token(natural(token)?),
            lease: lease_id(lease)?,
            worker: record.worker,
            attempts: small(record.attempts.unwrap_or_default().into())?,
            crashes: small(record.crashes.unwrap_or_default().into())?,
            run_time: Duration::from_micros(natural(record.run_us.unwrap_or_default())?),
            recorded_at: StoreTime(record.recorded_at.unwrap_or_default()),
        }),
        _ => None,
    };
    Ok(RowView { line: natural(record.line)?, status, input: record.input.into_boxed_str(), outcome })
}

fn page(rows: &[PgRow], limit: u32) -> Result<RowPage, Trouble> {
    let rows: Vec<RowView> = rows.iter().map(row_view).collect::<Result<_, _>>()?;
    let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next_after = rows.last().filter(|_| full).map(|row| row.line);
    Ok(RowPage { rows, next_after })
}

/// A row's log as arrays with one place per entry; null where there is none.
#[derive(FromRow)]
struct StoryRecord {
    now_us: i64,
    ats: Option<Vec<i64>>,
    kinds: Option<Vec<String>>,
    generations: Option<Vec<i32>>,
    tokens: Option<Vec<i64>>,
    leases: Option<Vec<i64>>,
    workers: Option<Vec<Option<String>>>,
    judges: Option<Vec<Option<i64>>>,
    details: Option<Vec<Option<String>>>,
    runs_us: Option<Vec<Option<i64>>>,
    span_token: Option<i64>,
    span_lease: Option<i64>,
    span_worker: Option<String>,
    span_not_before: Option<i64>,
    span_suspicion: Option<i32>,
}

fn story(row: &PgRow) -> Result<RowStory, Trouble> {
    let record = StoryRecord::from_row(row)?;
    let span = match record.span_token {
        None => None,
        Some(token) => Some(SpanView {
            token: Token(natural(token)?),
            lease: record.span_lease.map(lease_id).transpose()?,
            worker: record.span_worker,
            not_before: record.span_not_before.map(StoreTime),
            suspicion: small(record.span_suspicion.unwrap_or_default().into())?,
        }),
    };
    let what = record.ats.into_iter().flatten().zip(record.kinds.into_iter().flatten());
    let under = record.generations.into_iter().flatten().zip(record.tokens.into_iter().flatten());
    let by = record.leases.into_iter().flatten().zip(record.workers.into_iter().flatten());
    let more = record.judges.into_iter().flatten().zip(record.details.into_iter().flatten());
    let all = what.zip(under).zip(by).zip(more).zip(record.runs_us.into_iter().flatten());
    let entry = |(((((at, kind), (generation, token)), (lease, worker)), (judge, detail)), run_us)| {
        let (generation, judge, run_us): (i32, Option<i64>, Option<i64>) = (generation, judge, run_us);
        Ok(StoryEntry {
            at: StoreTime(at),
            kind,
            generation: small(generation.into())?,
            token: Token(natural(token)?),
            lease: lease_id(lease)?,
            worker,
            judge: judge.map(lease_id).transpose()?,
            detail,
            run_time: run_us.map(natural).transpose()?.map(Duration::from_micros),
        })
    };
    let entries = all.map(entry).collect::<Result<_, Trouble>>()?;
    Ok(RowStory { now: StoreTime(record.now_us), row: row_view(row)?, entries, span })
}
