//! One row's story: its log and the span that has it.

use std::time::Duration;

use fencepost_core::{BatchId, StoreTime, Token};
use sqlx::SqliteConnection;

use super::super::codec::{int, lease_id, lines_from_json, natural, small};
use super::super::trouble::Trouble;
use super::rows::page;
use crate::store::view::{RowStory, SpanView, StoryEntry};

#[derive(sqlx::FromRow)]
struct StoryRecord {
    at: i64,
    kind: String,
    generation: i64,
    token: i64,
    lease: i64,
    worker: Option<String>,
    judge: Option<i64>,
    detail: Option<String>,
    run_us: Option<i64>,
}

const STORY: &str = "\
select a.at, a.kind, a.generation, a.token, a.lease, w.worker, a.judge, a.detail, a.run_us
from (
    select * from attempts where batch = ?1 and first_line = ?2
    union all
    select * from attempts indexed by attempts_ranges
    where batch = ?1 and first_line < ?2 and last_line >= ?2 and last_line > first_line
) as a
left join leases w on w.lease = a.lease
order by a.at, a.attempt";

const SPANS_AROUND: &str = "\
select s.token, s.lines, s.lease, w.worker, s.not_before, s.suspicion
from spans s left join leases w on w.lease = s.lease
where s.batch = ?1 and s.first_line <= ?2";

pub(super) async fn story(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    line: u64,
) -> Result<Option<RowStory>, Trouble> {
    if line == 0 {
        return Ok(None);
    }
    let page = page(conn, batch, None, line - 1, 1).await?;
    let Some(row) = page.rows.into_iter().next().filter(|row| row.line == line) else { return Ok(None) };
    let (number, at) = (int(batch.number()), int(line));
    let records: Vec<StoryRecord> = sqlx::query_as(STORY).bind(number).bind(at).fetch_all(&mut *conn).await?;
    let entries = records.into_iter().map(story_entry).collect::<Result<_, _>>()?;
    let span = if row.outcome.is_none() { span_of(conn, batch, line).await? } else { None };
    Ok(Some(RowStory { now, row, entries, span }))
}

fn story_entry(record: StoryRecord) -> Result<StoryEntry, Trouble> {
    Ok(StoryEntry {
        at: StoreTime(record.at),
        kind: record.kind,
        generation: small(record.generation)?,
        token: Token(natural(record.token)?),
        lease: lease_id(record.lease)?,
        worker: record.worker,
        judge: record.judge.map(lease_id).transpose()?,
        detail: record.detail,
        run_time: record.run_us.map(natural).transpose()?.map(Duration::from_micros),
    })
}

type SpanAround = (i64, String, Option<i64>, Option<String>, Option<i64>, i64);

async fn span_of(conn: &mut SqliteConnection, batch: BatchId, line: u64) -> Result<Option<SpanView>, Trouble> {
    let records: Vec<SpanAround> =
        sqlx::query_as(SPANS_AROUND).bind(int(batch.number())).bind(int(line)).fetch_all(conn).await?;
    for (token, lines, lease, worker, not_before, suspicion) in records {
        if lines_from_json(&lines)?.contains(line) {
            return Ok(Some(SpanView {
                token: Token(natural(token)?),
                lease: lease.map(lease_id).transpose()?,
                worker,
                not_before: not_before.map(StoreTime),
                suspicion: small(suspicion)?,
            }));
        }
    }
    Ok(None)
}
