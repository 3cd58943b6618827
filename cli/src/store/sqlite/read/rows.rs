//! Rows with what came of them, page by page.

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{BatchId, LineSet};
use sqlx::SqliteConnection;

use super::super::codec::{int, json, lines_from_json, ranges};
use super::super::trouble::Trouble;
use super::batches::one_batch;
use super::paging::{Derive, RowRecord, whole_page};
use super::results::{FAILED_RESULTS, SUCCESS_RESULTS, results_with};
use crate::store::view::{BatchView, RowPage, RowStatus};

const HELD_OF_BATCH: &str = "\
select lines from spans indexed by spans_held
where lease is not null and batch = ?1";

const FREE_OF_BATCH: &str = "\
select lines from spans indexed by spans_free
where lease is null and batch = ?1 and first_line <= ?2
order by first_line";

async fn derive(conn: &mut SqliteConnection, batch: &BatchView) -> Result<Derive, Trouble> {
    let lines: Vec<String> = sqlx::query_scalar(HELD_OF_BATCH).bind(int(batch.batch.number())).fetch_all(conn).await?;
    Ok(Derive { aborted: batch.status == BatchStatus::Aborted, held: union_of(&lines)? })
}

fn union_of(texts: &[String]) -> Result<LineSet, Trouble> {
    let mut all = Vec::new();
    for text in texts {
        all.extend_from_slice(lines_from_json(text)?.ranges());
    }
    Ok(LineSet::covering(all))
}

const PAGE: &str = "\
select r.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from rows r
left join outcomes o on o.batch = r.batch and o.line = r.line
left join leases w on w.lease = o.lease
where r.batch = ?1 and r.line > ?2 and r.line <= ?4
order by r.line
limit ?3";

const PAGE_WITHOUT_OUTCOME: &str = "\
select r.line, r.input, null as status, null as result, null as error, null as token, null as lease, null as worker,
       null as attempts, null as crashes, null as run_us, null as recorded_at
from rows r
where r.batch = ?1 and r.line > ?2 and r.line <= ?4
  and not exists (select 1 from outcomes o where o.batch = r.batch and o.line = r.line)
order by r.line
limit ?3";

pub(super) async fn page(
    conn: &mut SqliteConnection,
    batch: BatchId,
    status: Option<RowStatus>,
    after_line: u64,
    limit: u32,
) -> Result<RowPage, Trouble> {
    let view = one_batch(conn, batch).await?.filter(|view| view.status != BatchStatus::Loading);
    let Some(view) = view else { return Ok(RowPage { rows: Vec::new(), next_after: None }) };
    let derive = derive(conn, &view).await?;
    let statement = match status {
        None => PAGE,
        Some(RowStatus::Success) => {
            return results_with(conn, SUCCESS_RESULTS, &derive, batch, after_line, limit).await;
        }
        Some(RowStatus::Failed) => return results_with(conn, FAILED_RESULTS, &derive, batch, after_line, limit).await,
        Some(RowStatus::Aborted) if !derive.aborted => return Ok(RowPage { rows: Vec::new(), next_after: None }),
        Some(RowStatus::Aborted) => PAGE_WITHOUT_OUTCOME,
        Some(RowStatus::InProg) => {
            let lines = derive.held.clone();
            return page_of_lines(conn, &derive, batch, lines, after_line, limit).await;
        }
        Some(RowStatus::Queued) => {
            let lines = queued_lines(conn, &view, after_line, limit).await?;
            return page_of_lines(conn, &derive, batch, lines, after_line, limit).await;
        }
    };
    let records: Vec<RowRecord> = sqlx::query_as(statement)
        .bind(int(batch.number()))
        .bind(int(after_line))
        .bind(limit)
        .bind(int(view.total))
        .fetch_all(conn)
        .await?;
    whole_page(&derive, records, limit)
}

/// The lines of free spans and the fresh ones, as far as a page after this line needs them.
async fn queued_lines(
    conn: &mut SqliteConnection,
    batch: &BatchView,
    after_line: u64,
    limit: u32,
) -> Result<LineSet, Trouble> {
    if batch.status != BatchStatus::Open {
        return Ok(LineSet::new());
    }
    let from = batch.cursor.max(after_line.saturating_add(1));
    let fresh = LineSet::range(from, batch.total.min(from.saturating_add(u64::from(limit))));
    let lines: Vec<String> = sqlx::query_scalar(FREE_OF_BATCH)
        .bind(int(batch.batch.number()))
        .bind(int(batch.total))
        .fetch_all(conn)
        .await?;
    Ok(union_of(&lines)?.union(&fresh))
}

const PAGE_OF_RANGES: &str = "\
select r.line, r.input, null as status, null as result, null as error, null as token, null as lease, null as worker,
       null as attempts, null as crashes, null as run_us, null as recorded_at
from json_each(?2) as range
cross join rows r on r.batch = ?1 and r.line between range.value ->> 0 and range.value ->> 1";

async fn page_of_lines(
    conn: &mut SqliteConnection,
    derive: &Derive,
    batch: BatchId,
    lines: LineSet,
    after_line: u64,
    limit: u32,
) -> Result<RowPage, Trouble> {
    let lines = lines.intersection(&LineSet::range(after_line.saturating_add(1), u64::MAX));
    let (lines, _) = lines.split_first(u64::from(limit));
    let records: Vec<RowRecord> =
        sqlx::query_as(PAGE_OF_RANGES).bind(int(batch.number())).bind(json(&ranges(&lines))?).fetch_all(conn).await?;
    whole_page(derive, records, limit)
}
