//! Workers: their leases and what these hold.

use std::collections::BTreeMap;

use fencepost_core::{BatchId, LineSet, StoreTime};
use sqlx::SqliteConnection;

use super::super::codec::{
    batch_id, from_millis, int, lease_id, lease_state, lines_from_json, names_from_json, natural,
};
use super::super::lease::process;
use super::super::trouble::Trouble;
use crate::store::view::{StoppingView, WorkerView};

#[derive(sqlx::FromRow)]
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
}

const WORKERS: &str = "\
select lease, worker, stable_name, state, ttl_ms, renew_ms, expires_at, renewals, machine, pid, start_ticks, operations,
       taken_at, ended_at, ended_by
from leases
where state = 'live' or ended_at >= ?1
order by state <> 'live', ended_at desc, worker, lease";

const HELD_LINES: &str = "\
select lease, batch, lines from spans
where lease is not null
order by lease, batch";

pub(in super::super) async fn workers(
    conn: &mut SqliteConnection,
    ended_since: StoreTime,
) -> Result<Vec<WorkerView>, Trouble> {
    let records: Vec<WorkerRecord> = sqlx::query_as(WORKERS).bind(ended_since.0).fetch_all(&mut *conn).await?;
    let spans: Vec<(i64, i64, String)> = sqlx::query_as(HELD_LINES).fetch_all(conn).await?;
    let mut held: BTreeMap<i64, BTreeMap<BatchId, LineSet>> = BTreeMap::new();
    for (lease, batch, lines) in spans {
        let set = held.entry(lease).or_default().entry(batch_id(batch)?).or_default();
        *set = set.union(&lines_from_json(&lines)?);
    }
    let view = |record: WorkerRecord| {
        let holds = held.remove(&record.lease).unwrap_or_default();
        worker_view(record, holds.into_iter().collect())
    };
    records.into_iter().map(view).collect()
}

#[derive(sqlx::FromRow)]
struct StoppingRecord {
    worker: String,
    expires_at: i64,
    machine: Option<String>,
    pid: Option<i64>,
    start_ticks: Option<i64>,
    line_count: i64,
}

const STOPPING: &str = "\
select l.worker, l.expires_at, l.machine, l.pid, l.start_ticks, sum(s.line_count) as line_count
from stopping s join leases l on l.lease = s.lease and l.state = 'live'
where s.batch = ?1
group by s.lease
order by l.worker, l.lease";

/// S2: which live leases may still run rows of an aborted batch.
pub(super) async fn stopping(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
) -> Result<Vec<StoppingView>, Trouble> {
    let records: Vec<StoppingRecord> = sqlx::query_as(STOPPING).bind(int(batch.number())).fetch_all(conn).await?;
    let view = |record: StoppingRecord| {
        Ok(StoppingView {
            worker: record.worker,
            silent: now >= StoreTime(record.expires_at),
            process: process(record.machine, record.pid, record.start_ticks)?,
            rows: natural(record.line_count)?,
        })
    };
    records.into_iter().map(view).collect()
}

fn worker_view(record: WorkerRecord, holds: Vec<(BatchId, LineSet)>) -> Result<WorkerView, Trouble> {
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
        holds,
    })
}
