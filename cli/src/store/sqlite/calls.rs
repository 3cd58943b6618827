//! S7: completion calls: the records of ends, claimed and recorded.

use fencepost_core::calls::{
    BatchEnd, CallGrant, CallKey, CallOutcome, CallVerdict, ClaimCall, ClaimCallReply, RecordCall,
};
use fencepost_core::rules::calls::{s7_after_lease_end, s7_backoff, s7_fence};
use fencepost_core::rules::lease::l1_may_claim;
use fencepost_core::rules::outcome::Fence;
use fencepost_core::{LeaseId, StoreTime, Token};
use sqlx::SqliteConnection;

use super::codec::{batch_id, batch_status, int, json, natural, small};
use super::lease;
use super::spans::Tokens;
use super::trouble::Trouble;

#[derive(sqlx::FromRow)]
struct CallRecord {
    batch: i64,
    generation: i64,
    token: Option<i64>,
    attempts: i64,
    key: Option<String>,
    operation: String,
    url: Option<String>,
    status: String,
    success: i64,
    failed: i64,
    aborted: i64,
    ended_at: i64,
}

impl CallRecord {
    fn grant(self, token: Token, attempt: u32) -> Result<CallGrant, Trouble> {
        Ok(CallGrant {
            key: CallKey { batch: batch_id(self.batch)?, generation: small(self.generation)?, token },
            attempt,
            end: BatchEnd {
                key: self.key,
                operation: self.operation,
                url: self.url,
                status: batch_status(&self.status)?,
                success: natural(self.success)?,
                failed: natural(self.failed)?,
                aborted: natural(self.aborted)?,
                ended_at: StoreTime(self.ended_at),
            },
        })
    }
}

/// What a claim of a call comes to.
pub(super) enum Plan {
    /// Nothing is to be written.
    Nothing(ClaimCallReply),
    /// This one is to be taken.
    Take(Box<Takeable>),
}

/// A call that is due.
pub(super) struct Takeable {
    call: CallRecord,
    open_lines: bool,
}

const HELD_UNKNOWN: &str = "\
select c.batch, c.generation, c.token, c.attempts, (select b.key from batches b where b.batch = c.batch) as key,
       c.operation, c.url, c.status, c.success, c.failed, c.aborted, c.ended_at
from completions c
where c.lease = ?1 and c.token not in (select value from json_each(?2))
order by c.token
limit 1";

// s7_makes, s7_may_claim, s7_due_since: of each operation the first one that the command makes, and the first one whose URL lies under
// a prefix (s7_url_allowed); of them all the first.
const DUE: &str = "\
select c.batch, c.generation, c.token, c.attempts, (select b.key from batches b where b.batch = c.batch) as key,
       c.operation, c.url, c.status, c.success, c.failed, c.aborted, c.ended_at
from completions c
where (c.batch, c.generation) in (
    select due.batch, due.generation
    from json_each(?1) o
    join completions due on (due.batch, due.generation) = (
        select d.batch, d.generation from completions d
        where d.operation = o.value and d.delivered_at is null and d.url is null
          and d.lease is null and (d.not_before is null or d.not_before <= ?4)
        order by coalesce(d.not_before, d.ended_at), d.batch, d.generation
        limit 1
    )
    where ?2
    union all
    select due.batch, due.generation
    from json_each(?1) o
    join completions due on (due.batch, due.generation) = (
        select d.batch, d.generation from completions d
        where d.operation = o.value and d.delivered_at is null and d.url is not null
          and d.lease is null and (d.not_before is null or d.not_before <= ?4)
          and exists (
              select 1 from json_each(?3) p
              where substr(d.url, 1, length(p.value)) = p.value
                and (length(d.url) = length(p.value) or substr(p.value, -1) = '/'
                     or substr(d.url, length(p.value) + 1, 1) in ('/', '?'))
          )
        order by coalesce(d.not_before, d.ended_at), d.batch, d.generation
        limit 1
    )
)
order by coalesce(c.not_before, c.ended_at), c.batch, c.generation
limit 1";

// Whether a batch of these operations is open; whether such a call is undelivered; until when the first of them that waits does so.
const AHEAD: &str = "\
select exists (
           select 1 from batches b
           where b.status = 'open' and b.operation in (select value from json_each(?1))
       ),
       exists (
           select 1 from completions d
           where ?2 and d.operation in (select value from json_each(?1)) and d.delivered_at is null and d.url is null
       ) or exists (
           select 1 from completions d
           where d.operation in (select value from json_each(?1)) and d.delivered_at is null and d.url is not null
             and exists (
                 select 1 from json_each(?3) p
                 where substr(d.url, 1, length(p.value)) = p.value
                   and (length(d.url) = length(p.value) or substr(p.value, -1) = '/'
                        or substr(d.url, length(p.value) + 1, 1) in ('/', '?'))
             )
       ),
       (
           select min(d.not_before) from completions d
           where d.not_before is not null and d.delivered_at is null and d.lease is null
             and d.operation in (select value from json_each(?1))
             and (?2 and d.url is null or exists (
                 select 1 from json_each(?3) p
                 where substr(d.url, 1, length(p.value)) = p.value
                   and (length(d.url) = length(p.value) or substr(p.value, -1) = '/'
                        or substr(d.url, length(p.value) + 1, 1) in ('/', '?'))
             ))
       )";

/// Looks: may be done before the lock is taken, and is done again under it.
pub(super) async fn plan(conn: &mut SqliteConnection, now: StoreTime, claim: &ClaimCall) -> Result<Plan, Trouble> {
    if !l1_may_claim(lease::state(conn, claim.lease).await?) {
        return Ok(Plan::Nothing(ClaimCallReply::LeaseEnded));
    }
    let (operations, urls) = (json(&claim.calls.operations)?, json(&claim.calls.urls)?);
    let known: Vec<u64> = claim.known.iter().map(|token| token.0).collect();
    let held: Option<CallRecord> = sqlx::query_as(HELD_UNKNOWN)
        .bind(int(claim.lease.number()))
        .bind(json(&known)?)
        .fetch_optional(&mut *conn)
        .await?;
    let due: Option<CallRecord> = match held {
        Some(_) => None,
        None => {
            sqlx::query_as(DUE)
                .bind(&operations)
                .bind(claim.calls.command)
                .bind(&urls)
                .bind(now.0)
                .fetch_optional(&mut *conn)
                .await?
        }
    };
    let (open_lines, undelivered, waits): (bool, bool, Option<i64>) =
        sqlx::query_as(AHEAD).bind(&operations).bind(claim.calls.command).bind(&urls).fetch_one(conn).await?;
    if let Some(call) = due {
        return Ok(Plan::Take(Box::new(Takeable { call, open_lines })));
    }
    let call = held.map(|held| {
        let token = held.token.ok_or_else(|| Trouble::damaged("a held call has no token"))?;
        let (token, attempt) = (Token(natural(token)?), small(held.attempts)?);
        held.grant(token, attempt)
    });
    let call = call.transpose()?;
    let next_after = waits.filter(|_| call.is_none()).map(|at| StoreTime(at).since(now));
    Ok(Plan::Nothing(ClaimCallReply::Granted { call, next_after, open_lines, undelivered }))
}

const TAKE: &str = "\
update completions set token = ?3, lease = ?4, not_before = null, attempts = attempts + 1
where batch = ?1 and generation = ?2 and lease is null and delivered_at is null";

/// C1, T3: the call that is due the longest, under a fresh token.
pub(super) async fn claim(
    conn: &mut SqliteConnection,
    now: StoreTime,
    claim: &ClaimCall,
) -> Result<ClaimCallReply, Trouble> {
    let Takeable { call, open_lines } = match plan(conn, now, claim).await? {
        Plan::Nothing(reply) => return Ok(reply),
        Plan::Take(take) => *take,
    };
    let mut tokens = Tokens::load(conn).await?;
    let token = tokens.draw();
    sqlx::query(TAKE)
        .bind(call.batch)
        .bind(call.generation)
        .bind(int(token.0))
        .bind(int(claim.lease.number()))
        .execute(&mut *conn)
        .await?;
    tokens.write(conn).await?;
    let attempt = small(call.attempts)?.saturating_add(1);
    let call = Some(call.grant(token, attempt)?);
    Ok(ClaimCallReply::Granted { call, next_after: None, open_lines, undelivered: true })
}

const CALL: &str = "\
select coalesce(lease = ?3 and token = ?4, false), token, attempts from completions
where batch = ?1 and generation = ?2";

const DELIVERED: &str = "\
update completions set lease = null, delivered_at = ?5
where batch = ?1 and generation = ?2 and lease = ?3 and token = ?4 and delivered_at is null";

const TRY_AGAIN: &str = "\
update completions set lease = null, not_before = ?5, error = ?6
where batch = ?1 and generation = ?2 and lease = ?3 and token = ?4 and delivered_at is null";

const GIVE_BACK: &str = "\
update completions set lease = null, attempts = max(attempts - 1, 0)
where batch = ?1 and generation = ?2 and lease = ?3 and token = ?4 and delivered_at is null";

/// S7: what came of a call, once.
pub(super) async fn record(
    conn: &mut SqliteConnection,
    now: StoreTime,
    record: &RecordCall,
) -> Result<CallVerdict, Trouble> {
    let CallKey { batch, generation, token } = record.key;
    let key = (int(batch.number()), i64::from(generation), int(record.lease.number()), int(token.0));
    let found: Option<(bool, Option<i64>, i64)> =
        sqlx::query_as(CALL).bind(key.0).bind(key.1).bind(key.2).bind(key.3).fetch_optional(&mut *conn).await?;
    let Some((held, last, attempts)) = found else { return Ok(CallVerdict::Fenced) };
    match s7_fence(held, token, last.map(natural).transpose()?.map(Token)) {
        Fence::Holds => {}
        Fence::Before => return Ok(CallVerdict::RecordedBefore),
        Fence::Fenced => return Ok(CallVerdict::Fenced),
    }
    let query = match &record.outcome {
        CallOutcome::Delivered => sqlx::query(DELIVERED).bind(key.0).bind(key.1).bind(key.2).bind(key.3).bind(now.0),
        CallOutcome::Retry { error, jitter } => {
            let not_before = now + s7_backoff(small(attempts)?, *jitter);
            let query = sqlx::query(TRY_AGAIN).bind(key.0).bind(key.1).bind(key.2).bind(key.3);
            query.bind(not_before.0).bind(&**error)
        }
        CallOutcome::GivenBack => sqlx::query(GIVE_BACK).bind(key.0).bind(key.1).bind(key.2).bind(key.3),
    };
    if query.execute(conn).await?.rows_affected() != 1 {
        return Err(Trouble::damaged("a held call cannot be recorded"));
    }
    Ok(CallVerdict::Recorded)
}

const HELD: &str = "select batch, generation, attempts from completions where lease = ?1";

const FREE: &str = "\
update completions set lease = null, token = null, attempts = ?4, not_before = ?5
where batch = ?1 and generation = ?2 and lease = ?3";

/// S1, R3: a lease that ends frees the calls that it holds.
pub(super) async fn free(
    conn: &mut SqliteConnection,
    now: StoreTime,
    lease: LeaseId,
    recovered: bool,
) -> Result<(), Trouble> {
    let lease = int(lease.number());
    let held: Vec<(i64, i64, i64)> = sqlx::query_as(HELD).bind(lease).fetch_all(&mut *conn).await?;
    for (batch, generation, attempts) in held {
        let (attempts, backoff) = s7_after_lease_end(small(attempts)?, recovered);
        sqlx::query(FREE)
            .bind(batch)
            .bind(generation)
            .bind(lease)
            .bind(attempts)
            .bind(backoff.map(|backoff| (now + backoff).0))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

const FURTHEST_NOT_BEFORE: &str = "\
select max(not_before) from completions
where not_before is not null and delivered_at is null and lease is null";

/// R2: until when the last call that waits does so.
pub(super) async fn furthest_not_before(conn: &mut SqliteConnection) -> Result<Option<StoreTime>, Trouble> {
    let furthest: Option<i64> = sqlx::query_scalar(FURTHEST_NOT_BEFORE).fetch_one(conn).await?;
    Ok(furthest.map(StoreTime))
}

const CUT_BACK: &str = "\
update completions set not_before = ?1
where not_before is not null and delivered_at is null and lease is null and not_before > ?1";

/// R2: cuts back what waits longer than it ever may.
pub(super) async fn cut_back(conn: &mut SqliteConnection, latest: StoreTime) -> Result<(), Trouble> {
    sqlx::query(CUT_BACK).bind(latest.0).execute(conn).await?;
    Ok(())
}
