//! A batch's completion calls, and who makes such calls.

use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::super::codec::{batch_status, int, lease_id, small};
use super::super::trouble::Trouble;
use crate::store::called;
use crate::store::view::{CallView, CallsView};

#[derive(sqlx::FromRow)]
struct CallRecord {
    generation: i64,
    status: String,
    url: Option<String>,
    attempts: i64,
    error: Option<String>,
    not_before: Option<i64>,
    worker: Option<String>,
    delivered_at: Option<i64>,
}

const URL: &str = "select on_done_url from batches where batch = ?1";

const CALLS: &str = "\
select c.generation, c.status, c.url, c.attempts, c.error, c.not_before, l.worker, c.delivered_at
from completions c left join leases l on l.lease = c.lease
where c.batch = ?1
order by c.generation";

const MAKERS: &str = "select lease, calls from leases where state = 'live' and calls is not null order by lease";

pub(super) async fn calls(conn: &mut SqliteConnection, now: StoreTime, batch: BatchId) -> Result<CallsView, Trouble> {
    let number = int(batch.number());
    let url: Option<Option<String>> = sqlx::query_scalar(URL).bind(number).fetch_optional(&mut *conn).await?;
    let records: Vec<CallRecord> = sqlx::query_as(CALLS).bind(number).fetch_all(&mut *conn).await?;
    let makers: Vec<(i64, String)> = sqlx::query_as(MAKERS).fetch_all(conn).await?;
    let makers = makers.into_iter().map(|(lease, calls)| Ok((lease_id(lease)?, called::from_json(Some(&calls)))));
    let view = |record: CallRecord| {
        Ok(CallView {
            generation: small(record.generation)?,
            status: batch_status(&record.status)?,
            url: record.url,
            attempts: small(record.attempts)?,
            error: record.error,
            not_before: record.not_before.map(StoreTime),
            worker: record.worker,
            delivered_at: record.delivered_at.map(StoreTime),
        })
    };
    Ok(CallsView {
        now,
        url: url.flatten(),
        calls: records.into_iter().map(view).collect::<Result<_, Trouble>>()?,
        makers: makers.collect::<Result<_, Trouble>>()?,
    })
}
