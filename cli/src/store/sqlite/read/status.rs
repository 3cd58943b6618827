//! A batch's counts, from its tallies and spans.

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::super::codec::{int, natural};
use super::super::trouble::Trouble;
use super::batches::one_batch;
use crate::store::view::BatchCounts;

#[derive(sqlx::FromRow)]
struct CountsRecord {
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

const COUNTS: &str = "\
select coalesce(sum(t.success), 0) as success, coalesce(sum(t.failed), 0) as failed,
       coalesce(sum(t.retried), 0) as retried, coalesce(sum(t.timed_out), 0) as timed_out,
       coalesce(sum(t.fenced), 0) as fenced,
       (select coalesce(sum(s.line_count), 0) from spans s indexed by spans_held
        where s.lease is not null and s.batch = ?1) as inprog,
       coalesce(d.crashed, 0) as crashed, coalesce(d.withdrawn, 0) as withdrawn, coalesce(d.recovered, 0) as recovered,
       (select s.not_before from spans s indexed by spans_waiting
        where s.lease is null and s.not_before is not null and s.not_before > ?2 and s.batch = ?1
        order by s.not_before limit 1) as next_not_before
from (
    select sum(a.kind = 'crashed') as crashed, sum(a.kind = 'crash_withdrawn') as withdrawn,
           sum(iif(a.kind = 'recovered', a.last_line - a.first_line + 1, 0)) as recovered
    from attempts a indexed by attempts_deaths
    where a.batch = ?1 and a.kind in ('crashed', 'crash_withdrawn', 'recovered')
) as d
left join tallies t on t.batch = ?1";

pub(in super::super) async fn counts(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
) -> Result<Option<BatchCounts>, Trouble> {
    let Some(view) = one_batch(conn, batch).await? else { return Ok(None) };
    let record: CountsRecord = sqlx::query_as(COUNTS).bind(int(batch.number())).bind(now.0).fetch_one(conn).await?;
    let (success, failed, inprog) = (natural(record.success)?, natural(record.failed)?, natural(record.inprog)?);
    let loaded = if view.status == BatchStatus::Loading { 0 } else { view.total };
    let rest = loaded
        .checked_sub(success + failed + inprog)
        .ok_or_else(|| Trouble::damaged(format!("batch {batch} has more outcomes than rows")))?;
    let aborted = view.status == BatchStatus::Aborted;
    Ok(Some(BatchCounts {
        now,
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
    }))
}
