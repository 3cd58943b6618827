//! What is only appended: outcomes and the log of attempts; and the counts that go with them.

use std::collections::BTreeMap;

use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Token};
use sqlx::SqliteConnection;

use super::codec::{int, json, natural, ranges, small};
use super::trouble::Trouble;

/// What a line came to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending<'a> {
    /// Done, with the result as JSON text.
    Success(&'a str),
    /// Failed for good, with the error.
    Failed(&'a str),
}

/// An outcome to append.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub batch: BatchId,
    pub line: u64,
    pub ending: Ending<'a>,
    pub token: Token,
    pub attempts: u32,
    pub crashes: u32,
    pub generation: u32,
    pub run_us: i64,
}

const APPEND_OUTCOMES: &str = "\
insert into outcomes (batch, line, status, result, error, token, lease, attempts, crashes, generation, run_us, recorded_at)
select value ->> 0, value ->> 1, iif(value ->> 2, 'success', 'failed'), iif(value ->> 2, value ->> 3, null),
       iif(value ->> 2, null, value ->> 3), value ->> 4, ?2, value ->> 5, value ->> 6, value ->> 7, value ->> 8, ?3
from jsonb_each(?1)";

/// Appends outcomes; a line that has one already rolls everything back.
pub(super) async fn outcomes(
    conn: &mut SqliteConnection,
    now: StoreTime,
    lease: LeaseId,
    outcomes: &[Outcome<'_>],
) -> Result<(), Trouble> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let records: Vec<_> = outcomes.iter().map(outcome_record).collect();
    sqlx::query(APPEND_OUTCOMES).bind(json(&records)?).bind(int(lease.number())).bind(now.0).execute(conn).await?;
    Ok(())
}

fn outcome_record<'a>(outcome: &Outcome<'a>) -> (u64, u64, bool, &'a str, u64, u32, u32, u32, i64) {
    let (success, text) = match outcome.ending {
        Ending::Success(result) => (true, result),
        Ending::Failed(error) => (false, error),
    };
    (
        outcome.batch.number(),
        outcome.line,
        success,
        text,
        outcome.token.0,
        outcome.attempts,
        outcome.crashes,
        outcome.generation,
        outcome.run_us,
    )
}

/// What happened to lines besides their outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Retried,
    TimedOut,
    Crashed,
    Fenced,
    Recovered,
    GivenBack,
    Superseded,
}

impl EntryKind {
    fn name(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
            Self::Fenced => "fenced",
            Self::Recovered => "recovered",
            Self::GivenBack => "given_back",
            Self::Superseded => "superseded",
        }
    }
}

/// An entry of the log.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub batch: BatchId,
    pub generation: u32,
    pub lines: LineRange,
    pub token: Token,
    pub kind: EntryKind,
    pub lease: LeaseId,
    pub judge: Option<LeaseId>,
    pub detail: Option<&'a str>,
    pub run_us: Option<i64>,
}

const APPEND_ENTRIES: &str = "\
insert into attempts (batch, generation, first_line, last_line, token, kind, lease, judge, detail, run_us, at)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
       value ->> 9, ?2
from jsonb_each(?1)";

/// Appends to the log.
pub(super) async fn entries(conn: &mut SqliteConnection, now: StoreTime, entries: &[Entry<'_>]) -> Result<(), Trouble> {
    if entries.is_empty() {
        return Ok(());
    }
    let records: Vec<_> = entries.iter().map(entry_record).collect();
    sqlx::query(APPEND_ENTRIES).bind(json(&records)?).bind(now.0).execute(conn).await?;
    Ok(())
}

const APPEND_FENCED: &str = "\
insert into attempts (batch, generation, first_line, last_line, token, kind, lease, detail, run_us, at)
values (?1, ?2, ?3, ?3, ?4, 'fenced', ?5, ?6, ?7, ?8)
on conflict do nothing";

/// Appends a dropped answer once; whether it is new.
pub(super) async fn fenced(conn: &mut SqliteConnection, now: StoreTime, entry: &Entry<'_>) -> Result<bool, Trouble> {
    let done = sqlx::query(APPEND_FENCED)
        .bind(int(entry.batch.number()))
        .bind(i64::from(entry.generation))
        .bind(int(entry.lines.first))
        .bind(int(entry.token.0))
        .bind(int(entry.lease.number()))
        .bind(entry.detail)
        .bind(entry.run_us)
        .bind(now.0)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

#[allow(clippy::type_complexity, reason = "a record of attempts, column by column")]
fn entry_record<'a>(
    entry: &Entry<'a>,
) -> (u64, u32, u64, u64, u64, &'static str, u64, Option<u64>, Option<&'a str>, Option<i64>) {
    (
        entry.batch.number(),
        entry.generation,
        entry.lines.first,
        entry.lines.last,
        entry.token.0,
        entry.kind.name(),
        entry.lease.number(),
        entry.judge.map(LeaseId::number),
        entry.detail,
        entry.run_us,
    )
}

/// What one line used up so far, since its last operator's retry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// O5: attempts.
    pub attempts: u32,
    /// P1: counted deaths.
    pub crashes: u32,
    /// P1: those taken back.
    pub withdrawn: u32,
}

// p1_counts: entries under tokens after those of the outcomes that operators' retries took away.
const USED_BY_LINES: &str = "\
select a.first_line,
       sum(a.kind in ('retried', 'timed_out')), sum(a.kind = 'crashed'), sum(a.kind = 'crash_withdrawn')
from json_each(?2) as range
cross join attempts a on a.batch = ?1 and a.first_line between range.value ->> 0 and range.value ->> 1
where a.kind in ('retried', 'timed_out', 'crashed', 'crash_withdrawn')
  and a.token > coalesce((
      select s.token from attempts s
      where s.batch = ?1 and s.first_line = a.first_line and s.kind = 'superseded'
      order by s.token desc limit 1
  ), 0)
group by a.first_line";

/// What these lines used up; lines with nothing are left out.
pub(super) async fn used(
    conn: &mut SqliteConnection,
    batch: BatchId,
    lines: &LineSet,
) -> Result<BTreeMap<u64, Used>, Trouble> {
    if lines.is_empty() {
        return Ok(BTreeMap::new());
    }
    let records: Vec<(i64, i64, i64, i64)> =
        sqlx::query_as(USED_BY_LINES).bind(int(batch.number())).bind(json(&ranges(lines))?).fetch_all(conn).await?;
    let used = |(line, attempts, crashes, withdrawn)| {
        Ok((
            natural(line)?,
            Used { attempts: small(attempts)?, crashes: small(crashes)?, withdrawn: small(withdrawn)? },
        ))
    };
    records.into_iter().map(used).collect()
}

/// Counts to add to one lease's tally of one batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub success: u64,
    pub failed: u64,
    pub retried: u64,
    pub timed_out: u64,
    pub fenced: u64,
}

const COUNT: &str = "\
insert into tallies (batch, lease, success, failed, retried, timed_out, fenced)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
on conflict (batch, lease) do update set
    success = success + excluded.success,
    failed = failed + excluded.failed,
    retried = retried + excluded.retried,
    timed_out = timed_out + excluded.timed_out,
    fenced = fenced + excluded.fenced";

/// Adds counts to the tallies. Lease 0 stands for a judge without a lease.
pub(super) async fn count(
    conn: &mut SqliteConnection,
    lease: Option<LeaseId>,
    counts: &BTreeMap<BatchId, Counts>,
) -> Result<(), Trouble> {
    for (batch, counts) in counts.iter().filter(|(_, counts)| **counts != Counts::default()) {
        sqlx::query(COUNT)
            .bind(int(batch.number()))
            .bind(lease.map_or(0, |lease| int(lease.number())))
            .bind(int(counts.success))
            .bind(int(counts.failed))
            .bind(int(counts.retried))
            .bind(int(counts.timed_out))
            .bind(int(counts.fenced))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

const UNCOUNT: &str = "\
insert into tallies (batch, lease, success, failed)
values (?1, 0, -?2, -?3)
on conflict (batch, lease) do update set success = success + excluded.success, failed = failed + excluded.failed";

/// S5: takes outcomes off the counts, under lease 0: nobody knows any more which lease counted them.
pub(super) async fn uncount(
    conn: &mut SqliteConnection,
    batch: BatchId,
    success: u64,
    failed: u64,
) -> Result<(), Trouble> {
    sqlx::query(UNCOUNT).bind(int(batch.number())).bind(int(success)).bind(int(failed)).execute(conn).await?;
    Ok(())
}
