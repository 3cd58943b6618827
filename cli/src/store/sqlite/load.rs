//! S4: loading a batch in slices, so that nobody waits long for the write lock and the write-ahead log stays short.

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::batch;
use super::codec::{batch_id, batch_status, int, json, micros_of, millis_of};
use super::trouble::Trouble;
use super::{SqliteStore, StoreError};
use crate::store::Loads;
use crate::store::loading::{self, BatchSpec, CUT_OFF_AFTER, Finish, Held, LoadEnd, Loaded, SLICE_ROWS};

/// After a slice the loader stays away from the lock for longer than waiting writers take to ask again.
pub(super) const LET_OTHERS_IN: Duration = Duration::from_millis(3);

impl Loads for SqliteStore {
    async fn begin_load(&self, spec: BatchSpec) -> Result<BatchId, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let begun = begin(write.conn(), now, &spec).await;
            let (batch, cut_off) = write.end(begun).await?;
            for batch in cut_off {
                // Another's: where it cannot be removed now, a later load tries again.
                let _ = store.remove_load(batch).await;
            }
            Ok(batch)
        })
        .await
    }

    async fn load_rows(&self, batch: BatchId, first_line: u64, inputs: &[Box<str>]) -> Result<(), StoreError> {
        let rows = int(u64::try_from(inputs.len()).unwrap_or(u64::MAX));
        let inputs = json(&inputs).map_err(|trouble| trouble.not_done(self.path()))?;
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let appended = append(write.conn(), now, batch, first_line, rows, inputs).await;
            write.end(appended).await?;
            tokio::time::sleep(LET_OTHERS_IN).await;
            Ok(())
        })
        .await
    }

    async fn finish_load(&self, batch: BatchId, end: LoadEnd) -> Result<Loaded, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let finished = finish(write.conn(), now, batch, &end).await;
            let loaded = write.end(finished).await?;
            match loaded {
                Loaded::Same(there) | Loaded::Differs(there) if there != batch => {
                    // It is not claimable and goes with a later load: what is known of the end is the answer.
                    let _ = store.remove_load(batch).await;
                }
                _ => {}
            }
            Ok(loaded)
        })
        .await
    }

    async fn remove_load(&self, batch: BatchId) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            loop {
                let mut write = store.begin().await?;
                let removed = remove_slice(write.conn(), batch).await;
                if write.end(removed).await? == 0 {
                    return Ok(());
                }
                tokio::time::sleep(LET_OTHERS_IN).await;
            }
        })
        .await
    }
}

const INSERT_BATCH: &str = "\
insert into batches (batch, id, operation, status, priority, attempts_max, crashes_max, timeout_ms, header, source, created_at, on_done_url)
select ?1, ?2, ?3, 'loading', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
where not exists (select 1 from purges where batch = ?1)";

// loaded_at is when the load last moved, until it ends.
const CUT_OFF_LOADS: &str = "\
select batch from batches
where status = 'loading' and coalesce(loaded_at, created_at) < ?1";

async fn begin(
    conn: &mut SqliteConnection,
    now: StoreTime,
    spec: &BatchSpec,
) -> Result<(BatchId, Vec<BatchId>), Trouble> {
    let batch = BatchId::from_random(rand::random());
    let inserted = sqlx::query(INSERT_BATCH)
        .bind(int(batch.number()))
        .bind(batch.to_string())
        .bind(&spec.operation)
        .bind(spec.priority)
        .bind(spec.attempts_max)
        .bind(spec.crashes_max)
        .bind(millis_of(spec.timeout))
        .bind(spec.header.as_ref().map(json).transpose()?)
        .bind(&spec.source)
        .bind(now.0)
        .bind(&spec.on_done_url)
        .execute(&mut *conn)
        .await?;
    if inserted.rows_affected() == 0 {
        return Err(Trouble::refused(format!("batch {batch} is the id of one that is being purged; try again")));
    }
    let day_ago = now.0.saturating_sub(micros_of(CUT_OFF_AFTER));
    let cut_off: Vec<i64> = sqlx::query_scalar(CUT_OFF_LOADS).bind(day_ago).fetch_all(conn).await?;
    let cut_off = cut_off.into_iter().map(batch_id).collect::<Result<_, _>>()?;
    Ok((batch, cut_off))
}

const ADVANCE_LOAD: &str = "\
update batches set total = max(total, ?2 + ?3 - 1), loaded_at = ?4
where batch = ?1 and status = 'loading' and total >= ?2 - 1";

pub(super) const INSERT_ROWS: &str = "\
insert into rows (batch, line, input)
select ?1, ?2 + input.key, input.value
from json_each(?3) as input
where true
on conflict do nothing";

async fn append(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    first_line: u64,
    rows: i64,
    inputs: String,
) -> Result<(), Trouble> {
    let (number, first_line) = (int(batch.number()), int(first_line));
    let advanced =
        sqlx::query(ADVANCE_LOAD).bind(number).bind(first_line).bind(rows).bind(now.0).execute(&mut *conn).await?;
    if advanced.rows_affected() == 0 {
        return Err(Trouble::refused(format!(
            "batch {batch} takes no rows from line {first_line} on: it is not loading (cut off for a day?), or lines before are missing"
        )));
    }
    sqlx::query(INSERT_ROWS).bind(number).bind(first_line).bind(inputs).execute(conn).await?;
    Ok(())
}

const BOUND_KEY: &str = "select batch, status, digest from batches where key = ?1";

const OWN: &str = "select batch, status, digest from batches where batch = ?1";

const OPEN_LOADED: &str = "\
update batches set status = 'open', key = ?2, digest = ?3, loaded_at = ?4
where batch = ?1 and status = 'loading' and total = ?5";

async fn finish(conn: &mut SqliteConnection, now: StoreTime, batch: BatchId, end: &LoadEnd) -> Result<Loaded, Trouble> {
    let own = held(conn, OWN, int(batch.number())).await?;
    let bound = match &end.key {
        Some(key) => held(conn, BOUND_KEY, key).await?,
        None => None,
    };
    match loading::finish(own.as_ref(), bound.as_ref(), &end.digest) {
        Finish::Gone => Err(Trouble::refused(format!("batch {batch} is not there any more"))),
        Finish::Known(loaded) => Ok(loaded),
        Finish::Open => open(conn, now, batch, end).await,
    }
}

async fn held<'q>(
    conn: &mut SqliteConnection,
    statement: &'static str,
    which: impl sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Send + 'q,
) -> Result<Option<Held>, Trouble> {
    let held: Option<(i64, String, Option<String>)> =
        sqlx::query_as(statement).bind(which).fetch_optional(conn).await?;
    let held = held.map(|(batch, status, digest)| {
        Ok(Held { batch: batch_id(batch)?, loading: batch_status(&status)? == BatchStatus::Loading, digest })
    });
    held.transpose()
}

async fn open(conn: &mut SqliteConnection, now: StoreTime, batch: BatchId, end: &LoadEnd) -> Result<Loaded, Trouble> {
    let opened = sqlx::query(OPEN_LOADED)
        .bind(int(batch.number()))
        .bind(&end.key)
        .bind(&end.digest)
        .bind(now.0)
        .bind(int(end.total))
        .execute(&mut *conn)
        .await?;
    if opened.rows_affected() == 0 {
        return Err(Trouble::refused(format!("batch {batch} does not have the {} rows that were loaded", end.total)));
    }
    batch::end_finished(conn, now, [batch]).await?;
    Ok(Loaded::New)
}

// A total of 0 keeps a loader that was taken for dead from going on, or from opening what is half removed.
const STOP_LOAD: &str = "\
update batches set total = 0
where batch = ?1 and status = 'loading'";

const DELETE_SLICE: &str = "\
delete from rows
where batch = ?1
  and line in (select line from rows where batch = ?1 order by line limit ?2)
  and exists (select 1 from batches where batch = ?1 and status = 'loading')";

const DELETE_LOAD: &str = "\
delete from batches
where batch = ?1 and status = 'loading' and not exists (select 1 from rows where batch = ?1)";

/// How many records went; 0 at the end.
async fn remove_slice(conn: &mut SqliteConnection, batch: BatchId) -> Result<u64, Trouble> {
    let number = int(batch.number());
    let slice = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
    sqlx::query(STOP_LOAD).bind(number).execute(&mut *conn).await?;
    let rows = sqlx::query(DELETE_SLICE).bind(number).bind(slice).execute(&mut *conn).await?.rows_affected();
    let batches = sqlx::query(DELETE_LOAD).bind(number).execute(conn).await?.rows_affected();
    Ok(if batches > 0 { 0 } else { rows })
}
