//! Rows that have an outcome, and inputs alone, page by page.

use fencepost_core::{BatchId, LineSet};
use sqlx::SqliteConnection;

use super::super::codec::{int, natural};
use super::super::trouble::Trouble;
use super::paging::{Derive, RowRecord, whole_page};
use crate::store::view::RowPage;

const ALL_RESULTS: &str = "\
select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from outcomes o
join rows r on r.batch = o.batch and r.line = o.line
left join leases w on w.lease = o.lease
where o.batch = ?1 and o.line > ?2
  and exists (select 1 from batches b where b.batch = ?1)
order by o.line
limit ?3";

pub(super) const FAILED_RESULTS: &str = "\
select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from outcomes o indexed by outcomes_failed
join rows r on r.batch = o.batch and r.line = o.line
left join leases w on w.lease = o.lease
where o.batch = ?1 and o.line > ?2 and o.status = 'failed'
  and exists (select 1 from batches b where b.batch = ?1)
order by o.line
limit ?3";

pub(super) const SUCCESS_RESULTS: &str = "\
select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from outcomes o
join rows r on r.batch = o.batch and r.line = o.line
left join leases w on w.lease = o.lease
where o.batch = ?1 and o.line > ?2 and o.status = 'success'
  and exists (select 1 from batches b where b.batch = ?1)
order by o.line
limit ?3";

pub(super) async fn results(
    conn: &mut SqliteConnection,
    batch: BatchId,
    after_line: u64,
    limit: u32,
    failed_only: bool,
) -> Result<RowPage, Trouble> {
    let derive = Derive { aborted: false, held: LineSet::new() };
    let statement = if failed_only { FAILED_RESULTS } else { ALL_RESULTS };
    results_with(conn, statement, &derive, batch, after_line, limit).await
}

pub(super) async fn results_with(
    conn: &mut SqliteConnection,
    statement: &'static str,
    derive: &Derive,
    batch: BatchId,
    after_line: u64,
    limit: u32,
) -> Result<RowPage, Trouble> {
    let records: Vec<RowRecord> =
        sqlx::query_as(statement).bind(int(batch.number())).bind(int(after_line)).bind(limit).fetch_all(conn).await?;
    whole_page(derive, records, limit)
}

const INPUTS: &str = "\
select line, input from rows
where batch = ?1 and line > ?2 and line <= (select total from batches where batch = ?1)
order by line
limit ?3";

pub(super) async fn inputs(
    conn: &mut SqliteConnection,
    batch: BatchId,
    after_line: u64,
    limit: u32,
) -> Result<Vec<(u64, Box<str>)>, Trouble> {
    let records: Vec<(i64, String)> =
        sqlx::query_as(INPUTS).bind(int(batch.number())).bind(int(after_line)).bind(limit).fetch_all(conn).await?;
    records.into_iter().map(|(line, input)| Ok((natural(line)?, input.into_boxed_str()))).collect()
}
