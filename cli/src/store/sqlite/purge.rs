//! S6: purging in slices, so that nobody waits long for the write lock.

use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgeableBatch, PurgedLeases, PurgedSlice};
use fencepost_core::rules::leaving::{PurgeCandidate, s6_begin_purge, s6_rows_of, s6_slice};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};
use sqlx::SqliteConnection;
use tokio::time::Instant;

use super::codec::{batch_id, batch_status, int, json, lease_id, natural};
use super::load::LET_OTHERS_IN;
use super::trouble::Trouble;
use super::{SqliteStore, StoreError};
use crate::store::Purges;

/// A slice of leases looks at so many.
const LEASES_AT_ONCE: usize = 500;

impl Purges for SqliteStore {
    async fn purgeable(&self, ages: PurgeAges) -> Result<Purgeable, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let found = purgeable(&mut read, now, &ages).await;
        self.end_read(read, found).await
    }

    async fn begin_purge(&self, batch: BatchId, ended_before: StoreTime) -> Result<PurgeBegun, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let begun = begin(write.conn(), now, batch, ended_before).await;
            write.end(begun).await
        })
        .await
    }

    async fn purge_slice(&self, batch: BatchId, lines_max: u64) -> Result<PurgedSlice, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let since = Instant::now();
            let removed = remove_slice(write.conn(), batch, lines_max).await;
            let (rows, done) = write.end(removed).await?;
            let removed = PurgedSlice { rows, done, took: since.elapsed() };
            tokio::time::sleep(LET_OTHERS_IN).await;
            Ok(removed)
        })
        .await
    }

    async fn purge_leases(&self, ended_before: StoreTime, after: Option<LeaseId>) -> Result<PurgedLeases, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let removed = remove_leases(write.conn(), ended_before, after).await;
            let removed = write.end(removed).await?;
            tokio::time::sleep(LET_OTHERS_IN).await;
            Ok(removed)
        })
        .await
    }
}

const ENDED: &str = "\
select batch, total, ended_at from batches
where status in ('success', 'failed', 'aborted') and ended_at <= ?1
order by ended_at, batch";

const BEGUN: &str = "select batch, max(line_count - gone_to, 0) from purges order by batch";

// loaded_at is when the load last moved, until it ends.
const CUT_OFF_LOADS: &str = "\
select batch, total from batches
where status = 'loading' and coalesce(loaded_at, created_at) <= ?1
order by batch";

// Those of a batch that goes as well go with it.
const CUT_OFF_APPENDS: &str = "\
select a.batch, a.append, a.line_count
from appends a join batches b on b.batch = a.batch
where a.status <> 'done' and a.moved_at <= ?1
  and not (b.status in ('success', 'failed', 'aborted') and b.ended_at <= ?2)
order by a.batch, a.append";

async fn purgeable(conn: &mut SqliteConnection, now: StoreTime, ages: &PurgeAges) -> Result<Purgeable, Trouble> {
    let ended_before = now - ages.ended;
    let ended: Vec<(i64, i64, i64)> = sqlx::query_as(ENDED).bind(ended_before.0).fetch_all(&mut *conn).await?;
    let begun: Vec<(i64, i64)> = sqlx::query_as(BEGUN).fetch_all(&mut *conn).await?;
    let loads: Vec<(i64, i64)> = sqlx::query_as(CUT_OFF_LOADS).bind((now - ages.load).0).fetch_all(&mut *conn).await?;
    let appends: Vec<(i64, i64, i64)> =
        sqlx::query_as(CUT_OFF_APPENDS).bind((now - ages.append).0).bind(ended_before.0).fetch_all(conn).await?;
    let counted = |records: Vec<(i64, i64)>| -> Result<Vec<(BatchId, u64)>, Trouble> {
        records.into_iter().map(|(batch, rows)| Ok((batch_id(batch)?, natural(rows)?))).collect()
    };
    let ended = ended.into_iter().map(|(batch, rows, ended_at)| {
        Ok(PurgeableBatch { batch: batch_id(batch)?, rows: natural(rows)?, ended_at: StoreTime(ended_at) })
    });
    let appends = appends
        .into_iter()
        .map(|(batch, append, rows)| Ok((batch_id(batch)?, AppendId::from_random(natural(append)?), natural(rows)?)));
    Ok(Purgeable {
        ended_before,
        batches: ended.collect::<Result<_, Trouble>>()?,
        begun: counted(begun)?,
        loads: counted(loads)?,
        appends: appends.collect::<Result<_, Trouble>>()?,
    })
}

const CANDIDATE: &str = "\
select b.status, b.ended_at, exists (select 1 from spans s where s.batch = b.batch),
       exists (select 1 from completions c where c.batch = b.batch and c.lease is not null and c.delivered_at is null)
       or exists (select 1 from stopping s where s.batch = b.batch)
from batches b
where b.batch = ?1";

const IS_BEGUN: &str = "select exists (select 1 from purges where batch = ?1)";

const BEGIN_PURGE: &str = "\
insert into purges (batch, line_count, last_line, began_at)
select b.batch, b.total, max(b.total, coalesce((select max(r.line) from rows r where r.batch = ?1), 0)), ?2
from batches b
where b.batch = ?1 and b.status in ('success', 'failed', 'aborted') and b.ended_at <= ?3
  and not exists (select 1 from spans s where s.batch = ?1)";

// Nobody calls for its end any more.
const DELETE_COMPLETIONS: &str = "delete from completions where batch = ?1";

const DELETE_BATCH: &str = "delete from batches where batch = ?1";

async fn begin(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    ended_before: StoreTime,
) -> Result<PurgeBegun, Trouble> {
    let number = int(batch.number());
    let found: Option<(String, Option<i64>, bool, bool)> =
        sqlx::query_as(CANDIDATE).bind(number).fetch_optional(&mut *conn).await?;
    let found = found.map(|(status, ended_at, has_spans, busy)| {
        let ended_at = ended_at.map(StoreTime);
        Ok::<_, Trouble>(PurgeCandidate { status: batch_status(&status)?, ended_at, has_spans, busy })
    });
    let begun: bool = sqlx::query_scalar(IS_BEGUN).bind(number).fetch_one(&mut *conn).await?;
    let begun = s6_begin_purge(found.transpose()?, begun, ended_before);
    if begun == PurgeBegun::Now {
        let noted = sqlx::query(BEGIN_PURGE).bind(number).bind(now.0).bind(ended_before.0).execute(&mut *conn).await?;
        if noted.rows_affected() != 1 {
            return Err(Trouble::damaged("a batch that has ended cannot be purged"));
        }
        sqlx::query(DELETE_COMPLETIONS).bind(number).execute(&mut *conn).await?;
        sqlx::query(DELETE_BATCH).bind(number).execute(conn).await?;
    }
    Ok(begun)
}

const PURGE: &str = "select line_count, last_line, gone_to from purges where batch = ?1";

const DELETE_LINES: [&str; 3] = [
    "delete from rows where batch = ?1 and line > ?2 and line <= ?3",
    "delete from outcomes where batch = ?1 and line > ?2 and line <= ?3",
    "delete from attempts where batch = ?1 and first_line > ?2 and first_line <= ?3",
];

const SET_GONE_TO: &str = "update purges set gone_to = ?2 where batch = ?1";

// The log's entries of lines that do not exist are dropped answers of programs that are no good.
const DELETE_REST: [&str; 4] = [
    "delete from attempts where batch = ?1",
    "delete from tallies where batch = ?1",
    "delete from appends where batch = ?1",
    "delete from purges where batch = ?1",
];

/// How many of the batch's rows went, and whether nothing is left.
async fn remove_slice(conn: &mut SqliteConnection, batch: BatchId, lines_max: u64) -> Result<(u64, bool), Trouble> {
    let number = int(batch.number());
    let purge: Option<(i64, i64, i64)> = sqlx::query_as(PURGE).bind(number).fetch_optional(&mut *conn).await?;
    let Some((rows, last_line, gone_to)) = purge else { return Ok((0, true)) };
    let (rows, last_line) = (natural(rows)?, natural(last_line)?);
    let (after, to) = s6_slice(natural(gone_to)?, last_line, lines_max);
    for statement in DELETE_LINES {
        sqlx::query(statement).bind(number).bind(int(after)).bind(int(to)).execute(&mut *conn).await?;
    }
    let done = to == last_line;
    if done {
        for statement in DELETE_REST {
            sqlx::query(statement).bind(number).execute(&mut *conn).await?;
        }
    } else {
        sqlx::query(SET_GONE_TO).bind(number).bind(int(to)).execute(conn).await?;
    }
    Ok((s6_rows_of(after, to, rows), done))
}

// s6_may_refer. All batches are gone through once, in the order of their beginnings, and not once per lease: of those that began
// before a lease ended, the one that ended last decides.
const LOOK_AT_LEASES: &str = "\
with ended as (
    select lease, taken_at, ended_at from leases
    where state <> 'live' and ended_at <= ?1 and lease > ?2
    order by lease limit ?3
), moments as (
    select created_at as moment, 0 as kind, coalesce(ended_at, 9223372036854775807) as open_until,
           null as lease, null as taken_at
    from batches
    union all
    select ended_at, 1, null, lease, taken_at from ended
), swept as (
    select kind, lease, taken_at,
           max(open_until) over (order by moment, kind rows unbounded preceding) as open_until
    from moments
)
select lease, open_until is null or open_until < taken_at from swept where kind = 1 order by lease";

const DELETE_LEASES: [&str; 2] = [
    "delete from leases where lease in (select value from json_each(?1)) and state <> 'live'",
    "delete from lease_claims where lease in (select value from json_each(?1))",
];

async fn remove_leases(
    conn: &mut SqliteConnection,
    ended_before: StoreTime,
    after: Option<LeaseId>,
) -> Result<PurgedLeases, Trouble> {
    let after = after.map_or(-1, |after| int(after.number()));
    let looked_at: Vec<(i64, bool)> = sqlx::query_as(LOOK_AT_LEASES)
        .bind(ended_before.0)
        .bind(after)
        .bind(i64::try_from(LEASES_AT_ONCE).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await?;
    let unused: Vec<i64> = looked_at.iter().filter(|(_, unused)| *unused).map(|(lease, _)| *lease).collect();
    if !unused.is_empty() {
        let unused = json(&unused)?;
        for statement in DELETE_LEASES {
            sqlx::query(statement).bind(&unused).execute(&mut *conn).await?;
        }
    }
    let last = looked_at.last().filter(|_| looked_at.len() == LEASES_AT_ONCE);
    Ok(PurgedLeases {
        removed: u64::try_from(unused.len()).unwrap_or(u64::MAX),
        next_after: last.map(|(lease, _)| lease_id(*lease)).transpose()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::OpenMode;

    /// T2: the write lock is held for a slice, which goes through the batches once, and not once per lease.
    #[tokio::test]
    async fn a_slice_of_leases_takes_as_many_steps_as_leases_and_batches_add_up_to() {
        const BATCHES: u64 = 4_000;
        const LEASES: u64 = LEASES_AT_ONCE as u64;
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("store.db"), OpenMode::Create).await.unwrap();
        let mut write = store.begin().await.unwrap();
        // No lease but the first had anything to do with a batch: that is known when the last batch has been looked at.
        let insert = format!(
            "with recursive n (n) as (select 1 union all select n + 1 from n where n < {BATCHES})
             insert into batches (batch, id, operation, status, attempts_max, crashes_max, timeout_ms, created_at, ended_at)
             select n, n, 'op', 'aborted', 1, 1, 1, 1, 1 from n;
             with recursive n (n) as (select 1 union all select n + 1 from n where n < {LEASES})
             insert into leases (lease, id, worker, stable_name, ttl_ms, renew_ms, expires_at, state, operations, taken_at, ended_at)
             select n, n, 'w', 0, 1, 1, 1, 'dropped', '[]', min(n, 2), 3 from n"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut *write.conn()).await.unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        let count = move || {
            counted.fetch_add(1_000, Ordering::Relaxed);
            true
        };
        write.conn().lock_handle().await.unwrap().set_progress_handler(1_000, count);
        let purged = remove_leases(write.conn(), StoreTime(i64::MAX), None).await.unwrap();
        write.conn().lock_handle().await.unwrap().remove_progress_handler();
        assert_eq!(purged.removed, LEASES - 1, "the first began as the batches ended");
        let steps = steps.load(Ordering::Relaxed);
        assert!(steps > LEASES + BATCHES, "it looks at them");
        assert!(steps < 200 * (LEASES + BATCHES), "{steps} steps");
    }
}
