//! What `verify` reads: one snapshot, a page at a time where a batch may have much of it.
//!
//! A transaction of several round trips that reads alone: it locks nothing that anybody waits for. Its statements are texts of the simple
//! protocol, with nothing in them but numbers, and the log's own names.

use std::time::Duration;

use fencepost_core::{BatchId, LineSet, StoreTime};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use tokio::time::{Instant, timeout};

use super::codec::{int, lease_state, lines_of};
use super::read::batch_view;
use super::trouble::{self, Trouble};
use super::{PostgresStore, StoreError};
use crate::store::verify::{
    AppendFact, BatchFacts, CallFact, EntryFact, EntryKey, EntryKind, Inspector, LeaseFact, OutcomeFact, PAGE, Pages,
    RecoveredFrom, SHARED_TOKENS_MAX, SharedToken, SpanFact, StoppingFact, Tallies, Verifies, lease, lines, number,
    tell,
};
use crate::store::view::BatchView;

/// How long one statement may take: some read all outcomes of a batch.
const STATEMENT_LIMIT: Duration = Duration::from_secs(600);

/// How long the server lets the session idle between two of them: a process that is stopped meanwhile keeps old versions of records from
/// being cleaned up.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

impl Verifies for PostgresStore {
    async fn inspect(&self, batch: BatchId, inspector: &mut impl Inspector) -> Result<bool, StoreError> {
        let connections = &self.connections;
        let mut used = connections.take(Instant::now() + connections.answer_limit()).await?;
        let found = self.in_snapshot(&mut used.conn, batch, inspector).await;
        match found {
            Ok(found) => {
                connections.keep(used);
                Ok(found)
            }
            // Without its connection the transaction is over.
            Err(Trouble::Sql(error)) => Err(trouble::of_statement(error, self.place())),
            Err(trouble) => Err(trouble.not_done(self.place())),
        }
    }
}

impl PostgresStore {
    async fn in_snapshot(
        &self,
        conn: &mut PgConnection,
        batch: BatchId,
        inspector: &mut impl Inspector,
    ) -> Result<bool, Trouble> {
        let (statement, idle) = (STATEMENT_LIMIT.as_millis(), IDLE_LIMIT.as_millis());
        let begin = format!(
            "begin isolation level repeatable read read only; set local search_path to \"{}\"; \
             set local statement_timeout = {statement}; set local idle_in_transaction_session_timeout = {idle}; \
             set local jit = off",
            self.connections.options().schema
        );
        execute(conn, begin).await?;
        let id = int(batch.number());
        let view: Option<PgRow> = rows(conn, format!("select * from batches where batch = {id}")).await?.pop();
        let found = view.is_some();
        if let Some(view) = view {
            inspector.begin(self.facts(conn, batch_view(&view)?).await?);
            tell(&mut Snapshot { conn, batch: id }, inspector).await?;
        }
        execute(conn, "rollback".to_owned()).await?;
        Ok(found)
    }

    async fn facts(&self, conn: &mut PgConnection, batch: BatchView) -> Result<BatchFacts, Trouble> {
        let (id, total) = (int(batch.batch.number()), int(batch.total));
        let at = self.at().map_or_else(|| "null".to_owned(), |at| at.to_string());
        let (now, last_token, purge_begun, there): (i64, i64, bool, i64) = one(
            conn,
            format!(
                "select store_time({at}), coalesce(pg_sequence_last_value('tokens'), 0),
                        exists (select from purges where batch = {id}),
                        (select count(*) from rows where batch = {id} and line between 1 and {total})"
            ),
        )
        .await?;
        let missing = if there == total {
            LineSet::new()
        } else {
            let there = ranges(conn, format!("line between 1 and {total}"), id).await?;
            LineSet::range(1, batch.total).difference(&there)
        };
        let beyond = ranges(conn, format!("(line < 1 or line > {total})"), id).await?;

        type SpanRecord = (i64, String, i64, i64, Option<i64>, Option<i64>);
        let spans: Vec<SpanRecord> = all(
            conn,
            format!(
                "select token, lines::text, line_count, first_line, lease, claim_number
                 from spans where batch = {id} order by token"
            ),
        )
        .await?;
        let span = |(token, lines, line_count, first_line, by, claim_number): SpanRecord| SpanFact {
            token: number(token),
            lines: lines_of(&lines).map_err(|_| lines),
            line_count,
            first_line,
            lease: by.map(lease),
            claim_number,
        };
        let stopping: Vec<(i64, i64, String)> =
            all(conn, format!("select token, lease, lines::text from stopping where batch = {id} order by token"))
                .await?;
        let stopping_fact = |(token, by, lines): (i64, i64, String)| StoppingFact {
            token: number(token),
            lease: lease(by),
            lines: lines_of(&lines).map_err(|_| lines),
        };
        type LeaseRecord = (i64, String, i64, i64, i64, i64, i64);
        let leases: Vec<LeaseRecord> = all(
            conn,
            format!(
                "select l.lease, l.state, l.ttl_ms, l.renew_ms, l.expires_at, l.taken_at,
                        coalesce((select c.number from lease_claims c where c.lease = l.lease), 0)
                 from leases l
                 where l.state = 'live' or l.lease in (
                     select lease from spans where batch = {id}
                     union select lease from stopping where batch = {id}
                     union select lease from completions where batch = {id}
                 )"
            ),
        )
        .await?;
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
        let (success, failed, retried, timed_out, fenced): (i64, i64, i64, i64, i64) = one(
            conn,
            format!(
                "select coalesce(sum(success), 0)::bigint, coalesce(sum(failed), 0)::bigint,
                        coalesce(sum(retried), 0)::bigint, coalesce(sum(timed_out), 0)::bigint,
                        coalesce(sum(fenced), 0)::bigint
                 from tallies where batch = {id}"
            ),
        )
        .await?;
        type CallRecord = (i64, String, i64, i64, i64, i64, Option<i64>, Option<i64>, bool);
        let calls: Vec<CallRecord> = all(
            conn,
            format!(
                "select generation::bigint, status, success, failed, aborted, ended_at, token, lease,
                        delivered_at is not null
                 from completions where batch = {id} order by generation"
            ),
        )
        .await?;
        let call =
            |(generation, status, success, failed, aborted, ended_at, token, by, delivered): CallRecord| CallFact {
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
        let appends: Vec<(bool, i64, i64)> = all(
            conn,
            format!(
                "select status = 'done', first_line, line_count from appends where batch = {id} order by first_line"
            ),
        )
        .await?;
        let append = |(done, first_line, line_count): (bool, i64, i64)| AppendFact { done, first_line, line_count };
        // A free span's token is nobody's.
        let shared: Vec<(i64, i64, i64, i64, i64)> = all(
            conn,
            format!(
                "select token, min(lease), max(lease), min(line), max(line) from (
                     select token, lease, line from outcomes where batch = {id}
                     union all
                     select token, lease, first_line from attempts where batch = {id} and kind <> 'fenced'
                     union all
                     select token, coalesce(lease, -1), first_line from spans where batch = {id}
                 ) one
                 group by token having min(lease) <> max(lease) order by token limit {SHARED_TOKENS_MAX}"
            ),
        )
        .await?;
        let shared_token = |(token, one, other, first, last): (i64, i64, i64, i64, i64)| SharedToken {
            token: number(token),
            leases: [one, other].map(|id| (id != -1).then(|| lease(id))),
            lines: [number(first), number(last)],
        };
        type Recovered = (i64, Option<i64>, Option<i64>, Option<i64>);
        let recovered_from: Vec<Recovered> = all(
            conn,
            format!(
                "select a.lease, l.ttl_ms, l.expires_at, l.ended_at
                 from (select distinct lease from attempts where batch = {id} and kind in ('recovered', 'crashed')) a
                 left join leases l on l.lease = a.lease
                 order by a.lease"
            ),
        )
        .await?;
        let recovered = |(id, ttl_ms, expires_at, ended_at): Recovered| RecoveredFrom {
            lease: lease(id),
            ended: ttl_ms.zip(expires_at).zip(ended_at).map(|((ttl_ms, expires_at), ended_at)| {
                (Duration::from_millis(number(ttl_ms)), StoreTime(expires_at), StoreTime(ended_at))
            }),
        };
        Ok(BatchFacts {
            now: StoreTime(now),
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
}

struct Snapshot<'c> {
    conn: &'c mut PgConnection,
    batch: i64,
}

impl Pages for Snapshot<'_> {
    type Error = Trouble;

    async fn outcomes(&mut self, after_line: i64) -> Result<Vec<OutcomeFact>, Trouble> {
        type Record = (i64, bool, bool, i64, i64, i64, i64);
        let records: Vec<Record> = all(
            self.conn,
            format!(
                "select line, status = 'success',
                        case status when 'success' then result is not null and error is null
                                    else error is not null and result is null end,
                        token, attempts::bigint, crashes::bigint, generation::bigint
                 from outcomes
                 where batch = {} and line > '{after_line}'::bigint
                 order by line limit {PAGE}",
                self.batch
            ),
        )
        .await?;
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
        let records: Vec<Record> = all(
            self.conn,
            format!(
                "select first_line, last_line, token, kind, generation::bigint
                 from attempts
                 where batch = {} and (first_line, token, kind) > ('{line}'::bigint, '{token}'::bigint, '{kind}')
                 order by first_line, token, kind limit {PAGE}",
                self.batch
            ),
        )
        .await?;
        let last =
            records.last().map(|(line, _, token, kind, _)| EntryKey { line: *line, token: *token, kind: kind.clone() });
        let entry = |(first, last, token, kind, generation): Record| {
            let kind = EntryKind::from_name(&kind);
            // So a kind that goes into the next text is one of these names.
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

async fn ranges(conn: &mut PgConnection, which: String, batch: i64) -> Result<LineSet, Trouble> {
    let sql = format!(
        "select min(line), max(line) from (
             select line, line - row_number() over (order by line) as island from rows where batch = {batch} and {which}
         ) one
         group by island order by 1"
    );
    Ok(lines(all(conn, sql).await?))
}

async fn execute(conn: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

/// The server's own limit is heard of first.
async fn rows(conn: &mut PgConnection, sql: String) -> Result<Vec<PgRow>, sqlx::Error> {
    let limit = STATEMENT_LIMIT + STATEMENT_LIMIT / 4;
    match timeout(limit, sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(conn)).await {
        Ok(rows) => rows,
        Err(_) => Err(sqlx::Error::Protocol(format!("no answer within {limit:?}"))),
    }
}

async fn all<T: for<'r> FromRow<'r, PgRow>>(conn: &mut PgConnection, sql: String) -> Result<Vec<T>, sqlx::Error> {
    rows(conn, sql).await?.iter().map(T::from_row).collect()
}

async fn one<T: for<'r> FromRow<'r, PgRow>>(conn: &mut PgConnection, sql: String) -> Result<T, Trouble> {
    let found = all(conn, sql).await?.pop();
    found.ok_or_else(|| Trouble::damaged("the server's reply has no record"))
}
