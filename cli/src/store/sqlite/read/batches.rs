//! Batches by id, key and prefix.

use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::super::codec::{batch_id, batch_status, from_millis, int, names_from_json, natural, small};
use super::super::trouble::Trouble;
use crate::store::view::{BatchView, CANDIDATES_MAX, Resolved};

const IDS_WITH_PREFIX: &str = "\
select batch from batches
where id >= ?1 and id < ?1 || '~'
order by id
limit ?2";

pub(super) async fn resolve(conn: &mut SqliteConnection, prefix: &str) -> Result<Resolved, Trouble> {
    let limit = i64::try_from(CANDIDATES_MAX).unwrap_or(i64::MAX);
    let found: Vec<i64> = sqlx::query_scalar(IDS_WITH_PREFIX).bind(prefix).bind(limit).fetch_all(conn).await?;
    let found = found.into_iter().map(batch_id).collect::<Result<Vec<_>, _>>()?;
    Ok(match found.as_slice() {
        [] => Resolved::None,
        [one] => Resolved::Found(*one),
        _ => Resolved::Ambiguous(found),
    })
}

#[derive(sqlx::FromRow)]
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
    generation: i64,
    attempts_max: i64,
    crashes_max: i64,
    timeout_ms: i64,
    header: Option<String>,
    source: Option<String>,
    created_at: i64,
    loaded_at: Option<i64>,
    ended_at: Option<i64>,
}

impl TryFrom<BatchRecord> for BatchView {
    type Error = Trouble;

    fn try_from(record: BatchRecord) -> Result<Self, Trouble> {
        Ok(Self {
            batch: batch_id(record.batch)?,
            key: record.key,
            digest: record.digest,
            operation: record.operation,
            status: batch_status(&record.status)?,
            held: record.held,
            priority: record.priority,
            total: natural(record.total)?,
            cursor: natural(record.cursor)?,
            generation: small(record.generation)?,
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
}

const BATCH: &str = "\
select batch, key, digest, operation, status, held, priority, total, cursor, generation, attempts_max, crashes_max,
       timeout_ms, header, source, created_at, loaded_at, ended_at
from batches
where batch = ?1";

pub(in super::super) async fn one_batch(
    conn: &mut SqliteConnection,
    batch: BatchId,
) -> Result<Option<BatchView>, Trouble> {
    let record: Option<BatchRecord> = sqlx::query_as(BATCH).bind(int(batch.number())).fetch_optional(conn).await?;
    record.map(BatchView::try_from).transpose()
}

const BATCH_OF_KEY: &str = "\
select batch, key, digest, operation, status, held, priority, total, cursor, generation, attempts_max, crashes_max,
       timeout_ms, header, source, created_at, loaded_at, ended_at
from batches
where key = ?1";

pub(super) async fn batch_of_key(conn: &mut SqliteConnection, key: &str) -> Result<Option<BatchView>, Trouble> {
    let record: Option<BatchRecord> = sqlx::query_as(BATCH_OF_KEY).bind(key).fetch_optional(conn).await?;
    record.map(BatchView::try_from).transpose()
}

const ALL_BATCHES: &str = "\
select batch, key, digest, operation, status, held, priority, total, cursor, generation, attempts_max, crashes_max,
       timeout_ms, header, source, created_at, loaded_at, ended_at
from batches
order by created_at desc, batch";

pub(in super::super) async fn all_batches(conn: &mut SqliteConnection) -> Result<Vec<BatchView>, Trouble> {
    let records: Vec<BatchRecord> = sqlx::query_as(ALL_BATCHES).fetch_all(conn).await?;
    records.into_iter().map(BatchView::try_from).collect()
}
