//! S3: appending to a batch: rows beyond its total in slices, then one transaction that raises the total.

use fencepost_core::append::{AppendEnd, Appended, Begun, Busy, Staged, lines_of};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::{
    AppendBeginning, AppendEnding, AppendStaging, AppendState, UnfinishedAppend, s3_begin_append, s3_finish_append,
    s3_moved_at, s3_stage,
};
use fencepost_core::{AppendId, BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::codec::{batch_status, int, json, natural};
use super::load::{INSERT_ROWS, LET_OTHERS_IN};
use super::trouble::Trouble;
use super::{SqliteStore, StoreError};
use crate::store::Appends;
use crate::store::loading::SLICE_ROWS;

impl Appends for SqliteStore {
    async fn begin_append(&self, batch: BatchId, append: AppendId, key: Option<&str>) -> Result<Begun, StoreError> {
        let (store, key) = (self.clone(), key.map(str::to_owned));
        self.detached(async move {
            loop {
                let mut write = store.begin().await?;
                let now = write.now;
                let begun = begin(write.conn(), now, batch, append, key.as_deref()).await;
                match write.end(begun).await? {
                    Beginning::Known(begun) => return Ok(begun),
                    Beginning::Remove(cut_off) => store.remove_whole(batch, cut_off).await?,
                }
            }
        })
        .await
    }

    async fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> Result<Staged, StoreError> {
        let rows = int(u64::try_from(inputs.len()).unwrap_or(u64::MAX));
        let inputs = json(&inputs).map_err(|trouble| trouble.not_done(self.path()))?;
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let slice = Slice { now: write.now, batch, append, first_line: int(first_line), rows };
            let staged = stage(write.conn(), slice, inputs).await;
            let staged = write.end(staged).await?;
            tokio::time::sleep(LET_OTHERS_IN).await;
            Ok(staged)
        })
        .await
    }

    async fn finish_append(&self, batch: BatchId, append: AppendId, end: AppendEnd) -> Result<Appended, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let finished = finish(write.conn(), batch, append, &end).await;
            let appended = write.end(finished).await?;
            if let Appended::Refused { .. } = appended {
                // Nobody sees them where they are: what is known of the end is the answer.
                let _ = store.remove_whole(batch, append).await;
            }
            Ok(appended)
        })
        .await
    }

    async fn remove_append(&self, batch: BatchId, append: AppendId) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move { store.remove_whole(batch, append).await }).await
    }
}

impl SqliteStore {
    async fn remove_whole(&self, batch: BatchId, append: AppendId) -> Result<(), StoreError> {
        loop {
            let mut write = self.begin().await?;
            let removed = remove_slice(write.conn(), batch, append).await;
            if write.end(removed).await? == 0 {
                return Ok(());
            }
            tokio::time::sleep(LET_OTHERS_IN).await;
        }
    }
}

/// What a transaction of a beginning came to.
enum Beginning {
    /// The answer.
    Known(Begun),
    /// This append is to be removed; then it is tried again.
    Remove(AppendId),
}

/// An append's record.
struct Record {
    append: AppendId,
    key: Option<String>,
    digest: Option<String>,
    first_line: u64,
    rows: u64,
    state: AppendState,
    moved_at: StoreTime,
}

type RecordColumns = (i64, Option<String>, Option<String>, i64, i64, String, i64);

const OF_ID: &str = "\
select append, key, digest, first_line, line_count, status, moved_at from appends
where append = ?1 and batch = ?2";

const OF_KEY: &str = "\
select append, key, digest, first_line, line_count, status, moved_at from appends
where key = ?1 and batch = ?2";

const UNFINISHED: &str = "\
select append, key, digest, first_line, line_count, status, moved_at from appends indexed by appends_unfinished
where status <> 'done' and batch = ?2";

fn record(columns: RecordColumns) -> Result<Record, Trouble> {
    let (append, key, digest, first_line, rows, status, moved_at) = columns;
    let state = match status.as_str() {
        "loading" => AppendState::Loading,
        "removing" => AppendState::Removing,
        "done" => AppendState::Done,
        _ => return Err(Trouble::damaged("an append has a status that does not exist")),
    };
    Ok(Record {
        append: AppendId::from_random(natural(append)?),
        key,
        digest,
        first_line: natural(first_line)?,
        rows: natural(rows)?,
        state,
        moved_at: StoreTime(moved_at),
    })
}

async fn of_id(conn: &mut SqliteConnection, batch: BatchId, append: AppendId) -> Result<Option<Record>, Trouble> {
    let found: Option<RecordColumns> =
        sqlx::query_as(OF_ID).bind(int(append.number())).bind(int(batch.number())).fetch_optional(conn).await?;
    found.map(record).transpose()
}

async fn of_key(conn: &mut SqliteConnection, batch: BatchId, key: &str) -> Result<Option<Record>, Trouble> {
    let found: Option<RecordColumns> =
        sqlx::query_as(OF_KEY).bind(key).bind(int(batch.number())).fetch_optional(conn).await?;
    found.map(record).transpose()
}

async fn unfinished(conn: &mut SqliteConnection, batch: BatchId) -> Result<Option<Record>, Trouble> {
    let found: Option<RecordColumns> =
        sqlx::query_as(UNFINISHED).bind(None::<i64>).bind(int(batch.number())).fetch_optional(conn).await?;
    found.map(record).transpose()
}

const BATCH: &str = "select status, total from batches where batch = ?1";

/// Its status and total.
async fn batch_of(conn: &mut SqliteConnection, batch: BatchId) -> Result<Option<(BatchStatus, u64)>, Trouble> {
    let found: Option<(String, i64)> = sqlx::query_as(BATCH).bind(int(batch.number())).fetch_optional(conn).await?;
    found.map(|(status, total)| Ok((batch_status(&status)?, natural(total)?))).transpose()
}

const INSERT: &str = "\
insert into appends (append, batch, key, first_line, status, created_at, moved_at)
values (?1, ?2, ?3, ?4, 'loading', ?5, ?5)";

const SET_MOVED_AT: &str = "update appends set moved_at = ?2 where append = ?1";

async fn begin(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    append: AppendId,
    key: Option<&str>,
) -> Result<Beginning, Trouble> {
    let mut known = of_id(conn, batch, append).await?;
    if let (None, Some(key)) = (&known, key) {
        known = of_key(conn, batch, key).await?;
    }
    let done = known.filter(|record| record.state == AppendState::Done);
    let found = batch_of(conn, batch).await?;
    let unfinished = unfinished(conn, batch).await?;
    let as_seen = unfinished.as_ref().map(|record| UnfinishedAppend {
        own: record.append == append,
        state: record.state,
        moved_at: record.moved_at,
    });
    let status = found.map(|(status, _)| status);
    let beginning = s3_begin_append(done.is_some(), status, as_seen, now);
    let known = match (beginning, done, unfinished, found) {
        (AppendBeginning::Done, Some(done), ..) => {
            Begun::Done { digest: done.digest.unwrap_or_default(), lines: lines_of(done.first_line, done.rows) }
        }
        (AppendBeginning::Begun, _, Some(own), _) => Begun::Loading { first_line: own.first_line },
        (AppendBeginning::Busy, _, Some(other), _) => {
            let moved_at = s3_moved_at(other.moved_at, now);
            if moved_at != other.moved_at {
                sqlx::query(SET_MOVED_AT).bind(int(other.append.number())).bind(moved_at.0).execute(conn).await?;
            }
            Begun::Busy(Busy { key: other.key, rows: other.rows, unmoved_for: now.since(moved_at) })
        }
        (AppendBeginning::Remove, _, Some(other), _) => return Ok(Beginning::Remove(other.append)),
        (AppendBeginning::Begin, _, _, Some((_, total))) => {
            let first_line = total + 1;
            sqlx::query(INSERT)
                .bind(int(append.number()))
                .bind(int(batch.number()))
                .bind(key)
                .bind(int(first_line))
                .bind(now.0)
                .execute(conn)
                .await?;
            Begun::Loading { first_line }
        }
        _ => Begun::Refused { status },
    };
    Ok(Beginning::Known(known))
}

/// Rows to store.
struct Slice {
    now: StoreTime,
    batch: BatchId,
    append: AppendId,
    first_line: i64,
    rows: i64,
}

const ADVANCE: &str = "\
update appends set line_count = max(line_count, ?2 + ?3 - first_line), moved_at = ?4
where append = ?1 and ?2 between first_line and first_line + line_count";

async fn stage(conn: &mut SqliteConnection, slice: Slice, inputs: String) -> Result<Staged, Trouble> {
    let Slice { now, batch, append, first_line, rows } = slice;
    let status = batch_of(conn, batch).await?.map(|(status, _)| status);
    let own = of_id(conn, batch, append).await?;
    match s3_stage(own.map(|own| own.state), status) {
        AppendStaging::Refused => return Ok(Staged::Refused { status }),
        AppendStaging::TakenOver => return Ok(Staged::TakenOver),
        AppendStaging::Store => {}
    }
    let number = int(append.number());
    let advanced =
        sqlx::query(ADVANCE).bind(number).bind(first_line).bind(rows).bind(now.0).execute(&mut *conn).await?;
    if advanced.rows_affected() == 0 {
        return Err(Trouble::refused(format!(
            "batch {batch}: the append takes no rows from line {first_line} on, since lines before are missing"
        )));
    }
    sqlx::query(INSERT_ROWS).bind(int(batch.number())).bind(first_line).bind(inputs).execute(conn).await?;
    Ok(Staged::Stored)
}

const RAISE_TOTAL: &str = "\
update batches set total = total + ?3
where batch = ?1 and status = 'open' and total = ?2 - 1";

const SET_DONE: &str = "update appends set status = 'done', digest = ?2 where append = ?1";

const SET_REMOVING: &str =
    "update appends set status = 'removing' where append = ?1 and batch = ?2 and status <> 'done'";

async fn finish(
    conn: &mut SqliteConnection,
    batch: BatchId,
    append: AppendId,
    end: &AppendEnd,
) -> Result<Appended, Trouble> {
    let status = batch_of(conn, batch).await?.map(|(status, _)| status);
    let own = of_id(conn, batch, append).await?;
    let ending = s3_finish_append(own.as_ref().map(|own| (own.state, own.digest.as_deref())), status, &end.digest);
    let lines = own.as_ref().and_then(|own| lines_of(own.first_line, own.rows));
    let number = int(append.number());
    match (ending, own) {
        (AppendEnding::Raise, Some(own)) => {
            if own.rows != end.rows {
                return Err(Trouble::refused(format!(
                    "batch {batch}: the append has {} rows of the {} that were stored",
                    own.rows, end.rows
                )));
            }
            if own.rows > 0 {
                let raised = sqlx::query(RAISE_TOTAL)
                    .bind(int(batch.number()))
                    .bind(int(own.first_line))
                    .bind(int(own.rows))
                    .execute(&mut *conn)
                    .await?;
                if raised.rows_affected() != 1 {
                    return Err(Trouble::damaged("an append does not begin behind its batch's total"));
                }
            }
            sqlx::query(SET_DONE).bind(number).bind(&end.digest).execute(conn).await?;
            Ok(Appended::Done { lines })
        }
        (AppendEnding::Same, _) => Ok(Appended::Same { lines }),
        (AppendEnding::Differs, _) => Ok(Appended::Differs { lines }),
        (AppendEnding::Refused, _) => {
            sqlx::query(SET_REMOVING).bind(number).bind(int(batch.number())).execute(conn).await?;
            Ok(Appended::Refused { status })
        }
        (AppendEnding::TakenOver | AppendEnding::Raise, _) => Ok(Appended::TakenOver),
    }
}

// The total's own lines are never in it.
const DELETE_ROWS: &str = "\
delete from rows
where batch = ?1 and line between ?2 and ?3 and line > (select total from batches where batch = ?1)";

const SHORTEN: &str = "update appends set line_count = line_count - ?2 where append = ?1";

const DELETE: &str = "delete from appends where append = ?1";

/// From the last row on; how many went, 0 at the end.
async fn remove_slice(conn: &mut SqliteConnection, batch: BatchId, append: AppendId) -> Result<u64, Trouble> {
    let number = int(append.number());
    let marked = sqlx::query(SET_REMOVING).bind(number).bind(int(batch.number())).execute(&mut *conn).await?;
    if marked.rows_affected() == 0 {
        return Ok(0);
    }
    let Some(own) = of_id(conn, batch, append).await? else { return Ok(0) };
    let rows = own.rows.min(u64::try_from(SLICE_ROWS).unwrap_or(u64::MAX));
    let end = own.first_line + own.rows;
    sqlx::query(DELETE_ROWS)
        .bind(int(batch.number()))
        .bind(int(end - rows))
        .bind(int(end) - 1)
        .execute(&mut *conn)
        .await?;
    if rows < own.rows {
        sqlx::query(SHORTEN).bind(number).bind(int(rows)).execute(conn).await?;
        return Ok(rows);
    }
    sqlx::query(DELETE).bind(number).execute(conn).await?;
    Ok(0)
}
