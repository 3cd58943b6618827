//! S4: loading a batch in slices, so that nobody waits long for the write lock and the write-ahead log stays short.

use std::time::Duration;

use fencepost_core::rules::leaving::{KeyBinding, s4_bind_key};
use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::batch;
use super::codec::{int, json, micros_of, millis_of, natural};
use super::open::random_number;
use super::trouble::Trouble;
use super::{SqliteStore, StoreError};

/// A slice has at most about so many rows: its transaction then takes some 10 ms.
pub const SLICE_ROWS: usize = 4_000;

/// And inputs of at most about so many bytes.
pub const SLICE_BYTES: usize = 1 << 20;

/// After a slice the loader stays away from the lock for longer than waiting writers take to ask again.
pub(super) const LET_OTHERS_IN: Duration = Duration::from_millis(3);

/// A load that has not moved for so long was cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(86_400);

/// What a batch is, besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpec {
    /// Names the handler.
    pub operation: String,
    /// How many attempts a row has.
    pub attempts_max: u32,
    /// How many crashes a row may cause before it fails.
    pub crashes_max: u32,
    /// How long a run may take.
    pub timeout: Duration,
    /// Higher comes first.
    pub priority: i32,
    /// The input's columns, where it had a header.
    pub header: Option<Vec<String>>,
    /// The input's name, for people.
    pub source: Option<String>,
}

impl BatchSpec {
    /// A batch of this operation with the usual options: 3 attempts, 3 crashes, an hour per run.
    pub fn new(operation: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            attempts_max: 3,
            crashes_max: 3,
            timeout: Duration::from_secs(3600),
            priority: 0,
            header: None,
            source: None,
        }
    }
}

/// How a load ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadEnd {
    /// The submitter's own name for this input: the same key never makes two batches.
    pub key: Option<String>,
    /// Of the content: what tells a repeat from other content under the same key.
    pub digest: String,
    /// How many rows were loaded.
    pub total: u64,
}

/// What a finished load came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The batch is open.
    New,
    /// A repeat of this batch; if it is another one, the rows just loaded are gone. Of the batch itself: an earlier try
    /// opened it.
    Same(BatchId),
    /// This batch has other content; if it is another one, under the same key, the rows just loaded are gone.
    Differs(BatchId),
}

impl SqliteStore {
    /// Makes a batch to load rows into; nobody claims of it. Also clears away loads that were cut off a day ago or more.
    pub async fn begin_load(&self, spec: BatchSpec) -> Result<BatchId, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let begun = begin(write.conn(), now, &spec).await;
            let (batch, cut_off) = write.end(begun).await?;
            for batch in cut_off {
                store.remove_load(batch).await?;
            }
            Ok(batch)
        })
        .await
    }

    /// Appends rows from this line on, in one transaction; [`SLICE_ROWS`] and [`SLICE_BYTES`] say how many are good. A slice
    /// may be repeated; one that would leave a gap is refused.
    pub async fn load_rows(&self, batch: BatchId, first_line: u64, inputs: &[Box<str>]) -> Result<(), StoreError> {
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

    /// Binds the key and opens the batch, or finds out that it is there already. May be repeated.
    pub async fn finish_load(&self, batch: BatchId, end: LoadEnd) -> Result<Loaded, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let finished = finish(write.conn(), now, batch, &end).await;
            let loaded = write.end(finished).await?;
            match loaded {
                Loaded::Same(there) | Loaded::Differs(there) if there != batch => store.remove_load(batch).await?,
                _ => {}
            }
            Ok(loaded)
        })
        .await
    }

    /// Removes a batch that was never opened, in slices.
    pub async fn remove_load(&self, batch: BatchId) -> Result<(), StoreError> {
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
insert into batches (batch, id, operation, status, priority, attempts_max, crashes_max, timeout_ms, header, source, created_at)
values (?1, ?2, ?3, 'loading', ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

// loaded_at is when the load last moved, until it ends.
const CUT_OFF_LOADS: &str = "\
select batch from batches
where status = 'loading' and coalesce(loaded_at, created_at) < ?1";

async fn begin(
    conn: &mut SqliteConnection,
    now: StoreTime,
    spec: &BatchSpec,
) -> Result<(BatchId, Vec<BatchId>), Trouble> {
    let batch = BatchId::from_random(random_number());
    sqlx::query(INSERT_BATCH)
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
        .execute(&mut *conn)
        .await?;
    let day_ago = now.0.saturating_sub(micros_of(CUT_OFF_AFTER));
    let cut_off: Vec<i64> = sqlx::query_scalar(CUT_OFF_LOADS).bind(day_ago).fetch_all(conn).await?;
    let cut_off =
        cut_off.into_iter().map(|batch| natural(batch).map(BatchId::from_random)).collect::<Result<_, _>>()?;
    Ok((batch, cut_off))
}

const ADVANCE_LOAD: &str = "\
update batches set total = max(total, ?2 + ?3 - 1), loaded_at = ?4
where batch = ?1 and status = 'loading' and total >= ?2 - 1";

const INSERT_ROWS: &str = "\
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

const BOUND_KEY: &str = "select batch, digest from batches where key = ?1";

const OWN_STATUS: &str = "select status, digest from batches where batch = ?1";

const OPEN_LOADED: &str = "\
update batches set status = 'open', key = ?2, digest = ?3, loaded_at = ?4
where batch = ?1 and status = 'loading' and total = ?5";

async fn finish(conn: &mut SqliteConnection, now: StoreTime, batch: BatchId, end: &LoadEnd) -> Result<Loaded, Trouble> {
    let bound: Option<(i64, Option<String>)> = match &end.key {
        Some(key) => sqlx::query_as(BOUND_KEY).bind(key).fetch_optional(&mut *conn).await?,
        None => None,
    };
    let bound = match bound {
        Some((bound, digest)) => Some((BatchId::from_random(natural(bound)?), digest.unwrap_or_default())),
        None => None,
    };
    let own: Option<(String, Option<String>)> =
        sqlx::query_as(OWN_STATUS).bind(int(batch.number())).fetch_optional(&mut *conn).await?;
    match (&own, &bound) {
        // An earlier try opened it.
        (Some((status, digest)), _) if status != "loading" => {
            let same = digest.as_deref() == Some(&end.digest);
            return Ok(if same { Loaded::Same(batch) } else { Loaded::Differs(batch) });
        }
        (None, None) => return Err(Trouble::refused(format!("batch {batch} is not there any more"))),
        _ => {}
    }
    match (s4_bind_key(bound.as_ref().map(|(_, digest)| digest.as_str()), &end.digest), bound) {
        (KeyBinding::Same, Some((there, _))) => Ok(Loaded::Same(there)),
        (KeyBinding::Differs, Some((there, _))) => Ok(Loaded::Differs(there)),
        _ => open(conn, now, batch, end).await,
    }
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
