//! What `verify` reads: one snapshot, a page at a time where a batch may have much of it. None of it relies on an index.

use std::time::Duration;

use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::codec::{int, lease_state, lines_from_json};
use super::read::batches::one_batch;
use super::trouble::Trouble;
use super::{SqliteStore, StoreError};
use crate::store::verify::{
    AppendFact, BatchFacts, CallFact, EntryFact, EntryKey, EntryKind, Inspector, LeaseFact, OutcomeFact, PAGE, Pages,
    RecoveredFrom, SHARED_TOKENS_MAX, SharedToken, SpanFact, StoppingFact, Tallies, Verifies, lease, lines, number,
    tell,
};
use crate::store::view::BatchView;

impl Verifies for SqliteStore {
    async fn inspect(&self, batch: BatchId, inspector: &mut impl Inspector) -> Result<bool, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let found = inspect(&mut read, now, batch, inspector).await;
        self.end_read(read, found).await
    }
}

async fn inspect(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    inspector: &mut impl Inspector,
) -> Result<bool, Trouble> {
    let Some(view) = one_batch(conn, batch).await? else { return Ok(false) };
    inspector.begin(facts(conn, now, view).await?);
    tell(&mut Snapshot { conn, batch: int(batch.number()) }, inspector).await?;
    Ok(true)
}

const LAST_TOKEN: &str = "select last_token from store";

const PURGE_BEGUN: &str = "select exists (select 1 from purges where batch = ?1)";

const ROWS_THERE: &str = "select count(*) from rows where batch = ?1 and line between 1 and ?2";

const ROW_RANGES: &str = "\
select min(line), max(line) from (
    select line, line - row_number() over (order by line) as island from rows
    where batch = ?1 and line between 1 and ?2
)
group by island order by 1";

const ROW_RANGES_BEYOND: &str = "\
select min(line), max(line) from (
    select line, line - row_number() over (order by line) as island from (
        select line from rows where batch = ?1 and line < 1
        union all
        select line from rows where batch = ?1 and line > ?2
    )
)
group by island order by 1";

const SPANS: &str = "\
select token, lines, line_count, first_line, lease, claim_number from spans where batch = ?1 order by token";

const STOPPING: &str = "select token, lease, lines from stopping where batch = ?1 order by token";

const LEASES: &str = "\
select l.lease, l.state, l.ttl_ms, l.renew_ms, l.expires_at, l.taken_at,
       coalesce((select c.number from lease_claims c where c.lease = l.lease), 0)
from leases l
where l.state = 'live' or l.lease in (
    select lease from spans where batch = ?1
    union select lease from stopping where batch = ?1
    union select lease from completions where batch = ?1
)";

const TALLIES: &str = "\
select coalesce(sum(success), 0), coalesce(sum(failed), 0), coalesce(sum(retried), 0), coalesce(sum(timed_out), 0),
       coalesce(sum(fenced), 0)
from tallies where batch = ?1";

const CALLS: &str = "\
select generation, status, success, failed, aborted, ended_at, token, lease, delivered_at is not null
from completions where batch = ?1 order by generation";

const APPENDS: &str =
    "select status = 'done', first_line, line_count from appends where batch = ?1 order by first_line";

// A free span's token is nobody's.
const SHARED_TOKENS: &str = "\
select token, min(lease), max(lease), min(line), max(line) from (
    select token, lease, line from outcomes where batch = ?1
    union all
    select token, lease, first_line from attempts where batch = ?1 and kind <> 'fenced'
    union all
    select token, coalesce(lease, -1), first_line from spans where batch = ?1
)
group by token having min(lease) <> max(lease) order by token limit ?2";

const RECOVERED_FROM: &str = "\
select a.lease, l.ttl_ms, l.expires_at, l.ended_at
from (select distinct lease from attempts where batch = ?1 and kind in ('recovered', 'crashed')) a
left join leases l on l.lease = a.lease
order by a.lease";

async fn facts(conn: &mut SqliteConnection, now: StoreTime, batch: BatchView) -> Result<BatchFacts, Trouble> {
    let (id, total) = (int(batch.batch.number()), int(batch.total));
    let last_token: i64 = sqlx::query_scalar(LAST_TOKEN).fetch_one(&mut *conn).await?;
    let purge_begun: bool = sqlx::query_scalar(PURGE_BEGUN).bind(id).fetch_one(&mut *conn).await?;

    let there: i64 = sqlx::query_scalar(ROWS_THERE).bind(id).bind(total).fetch_one(&mut *conn).await?;
    let all = lines((batch.total > 0).then_some((1, total)));
    let missing = if there == total {
        lines([])
    } else {
        all.difference(&lines(sqlx::query_as(ROW_RANGES).bind(id).bind(total).fetch_all(&mut *conn).await?))
    };
    let beyond = lines(sqlx::query_as(ROW_RANGES_BEYOND).bind(id).bind(total).fetch_all(&mut *conn).await?);

    type SpanRecord = (i64, String, i64, i64, Option<i64>, Option<i64>);
    let spans: Vec<SpanRecord> = sqlx::query_as(SPANS).bind(id).fetch_all(&mut *conn).await?;
    let span = |(token, lines, line_count, first_line, by, claim_number): SpanRecord| SpanFact {
        token: number(token),
        lines: lines_from_json(&lines).map_err(|_| lines),
        line_count,
        first_line,
        lease: by.map(lease),
        claim_number,
    };
    let stopping: Vec<(i64, i64, String)> = sqlx::query_as(STOPPING).bind(id).fetch_all(&mut *conn).await?;
    let stopping_fact = |(token, by, lines): (i64, i64, String)| StoppingFact {
        token: number(token),
        lease: lease(by),
        lines: lines_from_json(&lines).map_err(|_| lines),
    };
    type LeaseRecord = (i64, String, i64, i64, i64, i64, i64);
    let leases: Vec<LeaseRecord> = sqlx::query_as(LEASES).bind(id).fetch_all(&mut *conn).await?;
    let lease_fact = |(id, state, ttl_ms, renew_ms, expires_at, taken_at, claims): LeaseRecord| {
        Ok::<_, Trouble>(LeaseFact {
            lease: lease(id),
            state: lease_state(&state)?,
            ttl: Duration::from_millis(number(ttl_ms)),
            renew: Duration::from_millis(number(renew_ms)),
            expires_at: StoreTime(expires_at),
            taken_at: StoreTime(taken_at),
            claims,
        })
    };
    let (success, failed, retried, timed_out, fenced): (i64, i64, i64, i64, i64) =
        sqlx::query_as(TALLIES).bind(id).fetch_one(&mut *conn).await?;
    type CallRecord = (i64, String, i64, i64, i64, i64, Option<i64>, Option<i64>, bool);
    let calls: Vec<CallRecord> = sqlx::query_as(CALLS).bind(id).fetch_all(&mut *conn).await?;
    let call = |(generation, status, success, failed, aborted, ended_at, token, by, delivered): CallRecord| CallFact {
        generation,
        status,
        success,
        failed,
        aborted,
        ended_at: StoreTime(ended_at),
        token: token.map(number),
        lease: by.map(lease),
        delivered,
    };
    let appends: Vec<(bool, Option<i64>, i64)> = sqlx::query_as(APPENDS).bind(id).fetch_all(&mut *conn).await?;
    let append = |(done, first_line, line_count): (bool, Option<i64>, i64)| AppendFact {
        done,
        first_line: first_line.unwrap_or_default(),
        line_count,
    };
    let shared: Vec<(i64, i64, i64, i64, i64)> =
        sqlx::query_as(SHARED_TOKENS).bind(id).bind(SHARED_TOKENS_MAX).fetch_all(&mut *conn).await?;
    let shared_token = |(token, one, other, first, last): (i64, i64, i64, i64, i64)| SharedToken {
        token: number(token),
        leases: [one, other].map(|id| (id != -1).then(|| lease(id))),
        lines: [number(first), number(last)],
    };
    type Recovered = (i64, Option<i64>, Option<i64>, Option<i64>);
    let recovered_from: Vec<Recovered> = sqlx::query_as(RECOVERED_FROM).bind(id).fetch_all(&mut *conn).await?;
    let recovered = |(id, ttl_ms, expires_at, ended_at): Recovered| RecoveredFrom {
        lease: lease(id),
        ended: ttl_ms.zip(expires_at).zip(ended_at).map(|((ttl_ms, expires_at), ended_at)| {
            (Duration::from_millis(number(ttl_ms)), StoreTime(expires_at), StoreTime(ended_at))
        }),
    };
    Ok(BatchFacts {
        now,
        batch,
        last_token: number(last_token),
        purge_begun,
        missing,
        beyond,
        spans: spans.into_iter().map(span).collect(),
        stopping: stopping.into_iter().map(stopping_fact).collect(),
        leases: leases.into_iter().map(lease_fact).collect::<Result<_, _>>()?,
        tallies: Tallies { success, failed, retried, timed_out, fenced },
        calls: calls.into_iter().map(call).collect(),
        appends: appends.into_iter().map(append).collect(),
        shared_tokens: shared.into_iter().map(shared_token).collect(),
        recovered_from: recovered_from.into_iter().map(recovered).collect(),
    })
}

struct Snapshot<'c> {
    conn: &'c mut SqliteConnection,
    batch: i64,
}

const OUTCOMES: &str = "\
select line, status = 'success',
       iif(status = 'success', result is not null and error is null, error is not null and result is null),
       token, attempts, crashes, generation
from outcomes
where batch = ?1 and line > ?2
order by line limit ?3";

const ENTRIES: &str = "\
select first_line, last_line, token, kind, generation
from attempts
where batch = ?1 and (first_line, token, kind) > (?2, ?3, ?4)
order by first_line, token, kind limit ?5";

impl Pages for Snapshot<'_> {
    type Error = Trouble;

    async fn outcomes(&mut self, after_line: i64) -> Result<Vec<OutcomeFact>, Trouble> {
        type Record = (i64, bool, bool, i64, i64, i64, i64);
        let page = sqlx::query_as(OUTCOMES).bind(self.batch).bind(after_line).bind(page());
        let records: Vec<Record> = page.fetch_all(&mut *self.conn).await?;
        let outcome = |(line, success, whole, token, attempts, crashes, generation): Record| OutcomeFact {
            line: number(line),
            success,
            whole,
            token: number(token),
            attempts,
            crashes,
            generation,
        };
        Ok(records.into_iter().map(outcome).collect())
    }

    async fn entries(&mut self, after: &EntryKey) -> Result<(Vec<EntryFact>, Option<EntryKey>), Trouble> {
        type Record = (i64, i64, i64, String, i64);
        let EntryKey { line, token, kind } = after;
        let page = sqlx::query_as(ENTRIES).bind(self.batch).bind(line).bind(token).bind(kind).bind(page());
        let records: Vec<Record> = page.fetch_all(&mut *self.conn).await?;
        let last =
            records.last().map(|(line, _, token, kind, _)| EntryKey { line: *line, token: *token, kind: kind.clone() });
        let entry = |(first, last, token, kind, generation): Record| {
            let kind = EntryKind::from_name(&kind);
            let kind = kind.ok_or_else(|| Trouble::damaged("an entry of the log is of a kind that does not exist"))?;
            Ok::<_, Trouble>(EntryFact {
                first: number(first),
                last: number(last),
                token: number(token),
                kind,
                generation,
            })
        };
        Ok((records.into_iter().map(entry).collect::<Result<_, _>>()?, last))
    }
}

fn page() -> i64 {
    i64::try_from(PAGE).unwrap_or(i64::MAX)
}
