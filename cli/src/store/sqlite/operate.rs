//! S2, S3, S5: what an operator does to a batch.

use fencepost_core::rules::leaving::{MayRetry, s2_abort, s3_hold, s5_generation, s5_may_retry};
use fencepost_core::store::{Operated, Retried, RetryRows};
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Token};
use sqlx::SqliteConnection;

use super::append::{self, Entry, EntryKind};
use super::codec::{int, lease_id, natural, small};
use super::record::{DROPPED_ANSWER_BYTES_MAX, told};
use super::spans::{Span, SpanChanges, Tokens};
use super::trouble::Trouble;
use super::{SqliteStore, StoreError, batch, stopping};
use crate::store::Operates;

/// A retry takes so many outcomes into memory at once.
const OUTCOMES_AT_ONCE: i64 = 500;

/// What is longer is cut.
const KEPT_BYTES_MAX: i64 = DROPPED_ANSWER_BYTES_MAX as i64;

impl Operates for SqliteStore {
    async fn hold(&self, batch: BatchId) -> Result<Operated, StoreError> {
        self.set_held(batch, true).await
    }

    async fn resume(&self, batch: BatchId) -> Result<Operated, StoreError> {
        self.set_held(batch, false).await
    }

    async fn abort(&self, batch: BatchId) -> Result<Operated, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let aborted = abort(write.conn(), now, batch).await;
            write.end(aborted).await
        })
        .await
    }

    async fn retry(&self, batch: BatchId, rows: RetryRows) -> Result<Retried, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            let retried = retry(write.conn(), now, batch, &rows).await;
            write.end(retried).await
        })
        .await
    }
}

impl SqliteStore {
    async fn set_held(&self, batch: BatchId, hold: bool) -> Result<Operated, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let held = set_held(write.conn(), batch, hold).await;
            write.end(held).await
        })
        .await
    }
}

const IS_HELD: &str = "select held from batches where batch = ?1";

const SET_HELD: &str = "update batches set held = ?2 where batch = ?1 and status = 'open'";

/// S3: stops claims of an open batch, or allows them again.
async fn set_held(conn: &mut SqliteConnection, batch: BatchId, hold: bool) -> Result<Operated, Trouble> {
    let status = batch::facts(conn, [batch]).await?.get(&batch).map(|facts| facts.status);
    let number = int(batch.number());
    let held: Option<bool> = sqlx::query_scalar(IS_HELD).bind(number).fetch_optional(&mut *conn).await?;
    let comes_to = s3_hold(status, held.unwrap_or_default(), hold);
    if comes_to == Operated::Now {
        sqlx::query(SET_HELD).bind(number).bind(hold).execute(conn).await?;
    }
    Ok(comes_to)
}

const ABORT: &str = "update batches set status = 'aborted', ended_at = ?2 where batch = ?1 and status = 'open'";

const DELETE_SPANS_OF_BATCH: &str = "delete from spans where batch = ?1";

/// S2: ends an open batch for good. Nothing in it is done row by row.
async fn abort(conn: &mut SqliteConnection, now: StoreTime, batch: BatchId) -> Result<Operated, Trouble> {
    let facts = batch::facts(conn, [batch]).await?;
    let comes_to = s2_abort(facts.get(&batch).map(|facts| facts.status));
    if comes_to == Operated::Now {
        let number = int(batch.number());
        sqlx::query(ABORT).bind(number).bind(now.0).execute(&mut *conn).await?;
        stopping::begin(conn, batch).await?;
        sqlx::query(DELETE_SPANS_OF_BATCH).bind(number).execute(&mut *conn).await?;
        batch::add_completion(conn, batch).await?;
    }
    Ok(comes_to)
}

const REOPEN: &str = "\
update batches set status = 'open', ended_at = null, generation = ?2
where batch = ?1 and status in ('success', 'failed')";

/// S5: turns outcomes back into free spans. What is removed drives everything else: exactly that is free, in the rows' stories,
/// and off the counts.
async fn retry(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    rows: &RetryRows,
) -> Result<Retried, Trouble> {
    let facts = batch::facts(conn, [batch]).await?;
    let facts = facts.get(&batch);
    let reopens = match s5_may_retry(facts.map(|facts| facts.status)) {
        MayRetry::Yes { reopens } => reopens,
        MayRetry::Aborted => return Ok(Retried::Aborted),
        MayRetry::Loading => return Ok(Retried::Loading),
        MayRetry::NotThere => return Ok(Retried::NotThere),
    };
    let before = facts.map_or(1, |facts| facts.generation);
    let taken = take_outcomes(conn, now, batch, rows).await?;
    let freed = taken.success + taken.failed;
    let generation = s5_generation(before, reopens, freed);
    let reopened = generation != before;
    if freed > 0 {
        append::uncount(conn, batch, taken.success, taken.failed).await?;
        free(conn, batch, &taken.lines).await?;
    }
    if reopened {
        sqlx::query(REOPEN).bind(int(batch.number())).bind(i64::from(generation)).execute(conn).await?;
    }
    Ok(Retried::Rows { freed, generation, reopened })
}

/// What was taken away.
#[derive(Default)]
struct Taken {
    lines: LineSet,
    success: u64,
    failed: u64,
}

#[derive(sqlx::FromRow)]
struct TakenRecord {
    line: i64,
    status: String,
    result: Option<String>,
    error: Option<String>,
    token: i64,
    lease: i64,
    generation: i64,
    run_us: i64,
}

// The first so many whose errors are too long to be kept whole.
const TAKE_FAILED_LONG: &str = "\
delete from outcomes
where batch = ?1 and line in (
    select line from outcomes indexed by outcomes_failed
    where batch = ?1 and status = 'failed' and (?2 is null or instr(error, ?2) > 0) and length(cast(error as blob)) > ?3
    order by line limit ?4
)
returning line, status, result, error, token, lease, generation, run_us";

// The rest as a whole: one transaction may take a million of them, and others wait for it.
const FAILED_RANGES: &str = "\
select min(line), max(line) from (
    select line, line - row_number() over (order by line) as island from outcomes indexed by outcomes_failed
    where batch = ?1 and status = 'failed' and (?2 is null or instr(error, ?2) > 0)
)
group by island";

const KEEP_FAILED: &str = "\
insert into attempts (batch, generation, first_line, last_line, token, kind, lease, detail, run_us, at)
select batch, generation, line, line, token, 'superseded', lease, status || ': ' || coalesce(error, ''), run_us, ?3
from outcomes indexed by outcomes_failed
where batch = ?1 and status = 'failed' and (?2 is null or instr(error, ?2) > 0)
order by line";

const TAKE_FAILED: &str = "\
delete from outcomes
where batch = ?1 and status = 'failed' and (?2 is null or instr(error, ?2) > 0)";

const TAKE_LINE: &str = "\
delete from outcomes
where batch = ?1 and line = ?2 and (?3 is null or token = ?3)
returning line, status, result, error, token, lease, generation, run_us";

/// Removes the outcomes that are meant, and keeps them in their rows' stories.
async fn take_outcomes(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    rows: &RetryRows,
) -> Result<Taken, Trouble> {
    let mut taken = Taken::default();
    let number = int(batch.number());
    let text = match rows {
        RetryRows::Line { line, token } => {
            let take = sqlx::query_as(TAKE_LINE).bind(number).bind(int(*line)).bind(token.map(|token| int(token.0)));
            let removed = take.fetch_all(&mut *conn).await?;
            supersede(conn, now, batch, removed, &mut taken).await?;
            return Ok(taken);
        }
        RetryRows::Failed => None,
        RetryRows::FailedWith(text) => Some(&**text),
    };
    loop {
        let take = sqlx::query_as(TAKE_FAILED_LONG).bind(number).bind(text).bind(KEPT_BYTES_MAX).bind(OUTCOMES_AT_ONCE);
        let removed: Vec<TakenRecord> = take.fetch_all(&mut *conn).await?;
        if removed.is_empty() {
            break;
        }
        supersede(conn, now, batch, removed, &mut taken).await?;
    }
    let ranges: Vec<(i64, i64)> = sqlx::query_as(FAILED_RANGES).bind(number).bind(text).fetch_all(&mut *conn).await?;
    let mut all = taken.lines.ranges().to_vec();
    for (first, last) in ranges {
        all.push(LineRange { first: natural(first)?, last: natural(last)? });
    }
    taken.lines = LineSet::covering(all);
    let kept = sqlx::query(KEEP_FAILED).bind(number).bind(text).bind(now.0).execute(&mut *conn).await?.rows_affected();
    let removed = sqlx::query(TAKE_FAILED).bind(number).bind(text).execute(conn).await?.rows_affected();
    taken.failed += removed;
    if kept != removed || taken.failed != taken.lines.count() {
        return Err(Trouble::damaged("what a retry removes is not what it frees"));
    }
    Ok(taken)
}

async fn supersede(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    mut removed: Vec<TakenRecord>,
    taken: &mut Taken,
) -> Result<(), Trouble> {
    removed.sort_unstable_by_key(|record| record.line);
    let text = |record: &TakenRecord| {
        told(&record.status, record.result.as_deref().or(record.error.as_deref()).unwrap_or_default())
    };
    let details: Vec<String> = removed.iter().map(text).collect();
    let mut entries = Vec::with_capacity(removed.len());
    for (record, detail) in removed.iter().zip(&details) {
        entries.push(entry(batch, record, detail)?);
        taken.lines.insert(natural(record.line)?);
        match record.status.as_str() {
            "success" => taken.success += 1,
            _ => taken.failed += 1,
        }
    }
    append::entries(conn, now, &entries).await
}

fn entry<'d>(batch: BatchId, record: &TakenRecord, detail: &'d str) -> Result<Entry<'d>, Trouble> {
    let line = natural(record.line)?;
    let lease: LeaseId = lease_id(record.lease)?;
    Ok(Entry {
        batch,
        generation: small(record.generation)?,
        lines: LineRange { first: line, last: line },
        token: Token(natural(record.token)?),
        kind: EntryKind::Superseded,
        lease,
        judge: None,
        detail: Some(detail),
        run_us: Some(record.run_us),
    })
}

/// T3: a span, with a token of its own, for each run of adjacent lines; without suspicion and backoff from before.
async fn free(conn: &mut SqliteConnection, batch: BatchId, lines: &LineSet) -> Result<(), Trouble> {
    let mut tokens = Tokens::load(conn).await?;
    let mut changes = SpanChanges::of(None);
    for range in lines.ranges() {
        changes.begin(Span {
            token: tokens.draw(),
            batch,
            lines: LineSet::range(range.first, range.last),
            hold: None,
            not_before: None,
            suspicion: 0,
            tried: true,
            from_lease: None,
        });
    }
    changes.write(conn).await?;
    tokens.write(conn).await
}
