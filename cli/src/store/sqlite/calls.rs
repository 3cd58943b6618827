//! S7: completion calls: the records of ends, claimed and recorded.

use fencepost_core::calls::{
    BatchEnd, CallGrant, CallKey, CallOutcome, CallVerdict, Calls, ClaimCall, ClaimCallReply, RecordCall,
};
use fencepost_core::rules::calls::{s7_after_lease_end, s7_backoff, s7_due_since, s7_fence, s7_may_claim};
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

/// What a claim of a call comes to, before the lock is taken.
pub(super) enum Plan {
    /// Nothing is to be written.
    Nothing(ClaimCallReply),
    /// One is due.
    Due,
}

macro_rules! columns {
    () => {
        "select c.batch, c.generation, c.token, c.attempts, (select b.key from batches b where b.batch = c.batch) as key,
       c.operation, c.url, c.status, c.success, c.failed, c.aborted, c.ended_at
from completions c
"
    };
}

const HELD_UNKNOWN: &str = concat!(
    columns!(),
    "where c.lease = ?1 and c.token not in (select value from json_each(?2))
order by c.token
limit 1"
);

const ONE: &str = concat!(columns!(), "where c.batch = ?1 and c.generation = ?2");

// s7_url_allowed of the prefix p.value.
macro_rules! url_allowed {
    ($url:literal) => {
        concat!(
            "substr(",
            $url,
            ", 1, length(p.value)) = p.value and (length(",
            $url,
            ") = length(p.value) or substr(p.value, -1) = '/'
             or substr(",
            $url,
            ", length(p.value) + 1, 1) in ('/', '?'))"
        )
    };
}

// Of the calls of an operation that nobody holds: the first of each kind.
const FRESH_BY_COMMAND: &str = "\
select batch, generation, not_before, ended_at from completions indexed by completions_fresh_by_command
where operation = ?1 and delivered_at is null and lease is null and not_before is null and url is null
order by ended_at, batch, generation limit 1";

const WAITING_BY_COMMAND: &str = "\
select batch, generation, not_before, ended_at from completions indexed by completions_waiting_by_command
where operation = ?1 and delivered_at is null and lease is null and not_before is not null and url is null
order by not_before, batch, generation limit 1";

/// So many calls by URL are looked at in their order. Where none of them is allowed, those under the prefixes are.
const IN_ORDER_MAX: i64 = 64;

const FRESH_BY_URL: &str = concat!(
    "select f.batch, f.generation, f.not_before, f.ended_at
from (
    select * from completions indexed by completions_fresh_by_url
    where operation = ?1 and delivered_at is null and lease is null and not_before is null and url is not null
    order by ended_at, batch, generation limit ?3
) f
where exists (select 1 from json_each(?2) p where ",
    url_allowed!("f.url"),
    ")
order by f.ended_at, f.batch, f.generation limit 1"
);

const WAITING_BY_URL: &str = concat!(
    "select f.batch, f.generation, f.not_before, f.ended_at
from (
    select * from completions indexed by completions_waiting_by_url
    where operation = ?1 and delivered_at is null and lease is null and not_before is not null and url is not null
    order by not_before, batch, generation limit ?3
) f
where exists (select 1 from json_each(?2) p where ",
    url_allowed!("f.url"),
    ")
order by f.not_before, f.batch, f.generation limit 1"
);

// No text that begins with the prefix comes after the last character of all.
macro_rules! under_url {
    ($index:literal, $not_before:literal, $since:literal) => {
        concat!(
            "select c.batch, c.generation, c.not_before, c.ended_at
from json_each(?2) p cross join completions c indexed by ",
            $index,
            " where c.operation = ?1 and c.delivered_at is null and c.lease is null and c.url is not null and c.not_before ",
            $not_before,
            " and c.url >= p.value and c.url < p.value || char(1114111) and ",
            url_allowed!("c.url"),
            " order by ",
            $since,
            ", c.batch, c.generation limit 1"
        )
    };
}

const FRESH_UNDER_URL: &str = under_url!("completions_fresh_under_url", "is null", "c.ended_at");

const WAITING_UNDER_URL: &str = under_url!("completions_waiting_under_url", "is not null", "c.not_before");

/// A call that nobody holds.
#[derive(Clone, Copy, sqlx::FromRow)]
struct Free {
    batch: i64,
    generation: i64,
    not_before: Option<i64>,
    ended_at: i64,
}

impl Free {
    fn is_due(&self, now: StoreTime) -> bool {
        s7_may_claim(false, false, self.not_before.map(StoreTime), now)
    }

    fn due_since(&self) -> (StoreTime, i64, i64) {
        (s7_due_since(self.not_before.map(StoreTime), StoreTime(self.ended_at)), self.batch, self.generation)
    }
}

/// s7_makes: of the calls that nobody holds, the first of each kind: by operation, command or URL, with a time to wait for or without
/// one. Whether any of them may be claimed, and which, or else until when they wait, is seen from these alone.
async fn first_free(conn: &mut SqliteConnection, calls: &Calls) -> Result<Vec<Free>, Trouble> {
    let urls = json(&calls.urls)?;
    let mut first = Vec::new();
    for operation in &calls.operations {
        if calls.command {
            for query in [FRESH_BY_COMMAND, WAITING_BY_COMMAND] {
                first.extend(sqlx::query_as::<_, Free>(query).bind(operation).fetch_optional(&mut *conn).await?);
            }
        }
        if calls.urls.is_empty() {
            continue;
        }
        for (in_order, under) in [(FRESH_BY_URL, FRESH_UNDER_URL), (WAITING_BY_URL, WAITING_UNDER_URL)] {
            let in_order = sqlx::query_as::<_, Free>(in_order).bind(operation).bind(&urls).bind(IN_ORDER_MAX);
            let mut found = in_order.fetch_optional(&mut *conn).await?;
            if found.is_none() {
                let under = sqlx::query_as::<_, Free>(under).bind(operation).bind(&urls);
                found = under.fetch_optional(&mut *conn).await?;
            }
            first.extend(found);
        }
    }
    Ok(first)
}

const OPEN_LINES: &str = "\
select exists (select 1 from batches b where b.status = 'open' and b.operation in (select value from json_each(?1)))";

const HELD_OF: &str = concat!(
    "select exists (
    select 1 from completions d indexed by completions_held
    where d.lease is not null and d.delivered_at is null and d.operation in (select value from json_each(?1))
      and iif(d.url is null, ?2, exists (select 1 from json_each(?3) p where ",
    url_allowed!("d.url"),
    "))
)"
);

/// What a lease may take.
enum Found {
    Due(Free),
    NotDue(NotDue),
}

enum NotDue {
    LeaseEnded,
    /// It holds this one; its worker does not know.
    Unheard(Box<CallRecord>),
    /// The first of each kind: they wait.
    Waiting(Vec<Free>),
}

async fn find(conn: &mut SqliteConnection, now: StoreTime, claim: &ClaimCall) -> Result<Found, Trouble> {
    if !l1_may_claim(lease::state(conn, claim.lease).await?) {
        return Ok(Found::NotDue(NotDue::LeaseEnded));
    }
    let known: Vec<u64> = claim.known.iter().map(|token| token.0).collect();
    let held: Option<CallRecord> = sqlx::query_as(HELD_UNKNOWN)
        .bind(int(claim.lease.number()))
        .bind(json(&known)?)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(held) = held {
        return Ok(Found::NotDue(NotDue::Unheard(Box::new(held))));
    }
    let free = first_free(conn, &claim.calls).await?;
    let due = free.iter().filter(|free| free.is_due(now)).min_by_key(|free| free.due_since());
    Ok(due.copied().map_or(Found::NotDue(NotDue::Waiting(free)), Found::Due))
}

/// Looks: may be done before the lock is taken, and is done again under it.
pub(super) async fn plan(conn: &mut SqliteConnection, now: StoreTime, claim: &ClaimCall) -> Result<Plan, Trouble> {
    match find(conn, now, claim).await? {
        Found::Due(_) => Ok(Plan::Due),
        Found::NotDue(found) => not_due(conn, now, claim, found).await.map(Plan::Nothing),
    }
}

async fn not_due(
    conn: &mut SqliteConnection,
    now: StoreTime,
    claim: &ClaimCall,
    found: NotDue,
) -> Result<ClaimCallReply, Trouble> {
    let (call, next_after, undelivered) = match found {
        NotDue::LeaseEnded => return Ok(ClaimCallReply::LeaseEnded),
        NotDue::Unheard(held) => {
            let token = held.token.ok_or_else(|| Trouble::damaged("a held call has no token"))?;
            let (token, attempt) = (Token(natural(token)?), small(held.attempts)?);
            (Some(held.grant(token, attempt)?), None, true)
        }
        NotDue::Waiting(waiting) => {
            let first = waiting.iter().filter_map(|free| free.not_before).min();
            let next_after = first.map(|at| StoreTime(at).since(now));
            let (operations, urls) = (json(&claim.calls.operations)?, json(&claim.calls.urls)?);
            let held = sqlx::query_scalar(HELD_OF).bind(operations).bind(claim.calls.command).bind(urls);
            (None, next_after, !waiting.is_empty() || held.fetch_one(&mut *conn).await?)
        }
    };
    let open_lines = open_lines(conn, claim).await?;
    Ok(ClaimCallReply::Granted { call, next_after, open_lines, undelivered })
}

async fn open_lines(conn: &mut SqliteConnection, claim: &ClaimCall) -> Result<bool, Trouble> {
    Ok(sqlx::query_scalar(OPEN_LINES).bind(json(&claim.calls.operations)?).fetch_one(conn).await?)
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
    let free = match find(conn, now, claim).await? {
        Found::Due(free) => free,
        Found::NotDue(found) => return not_due(conn, now, claim, found).await,
    };
    let mut tokens = Tokens::load(conn).await?;
    let token = tokens.draw();
    sqlx::query(TAKE)
        .bind(free.batch)
        .bind(free.generation)
        .bind(int(token.0))
        .bind(int(claim.lease.number()))
        .execute(&mut *conn)
        .await?;
    tokens.write(conn).await?;
    let call: CallRecord = sqlx::query_as(ONE).bind(free.batch).bind(free.generation).fetch_one(&mut *conn).await?;
    let attempt = small(call.attempts)?;
    let call = Some(call.grant(token, attempt)?);
    let open_lines = open_lines(conn, claim).await?;
    Ok(ClaimCallReply::Granted { call, next_after: None, open_lines, undelivered: true })
}

const TELL_DUE: &str = "update store set calls_due = calls_due + 1 where one = 1";

/// S7: a call has come due: watches see it ([`super::changes`]).
pub(super) async fn tell_due(conn: &mut SqliteConnection) -> Result<(), Trouble> {
    sqlx::query(TELL_DUE).execute(conn).await?;
    Ok(())
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
    if query.execute(&mut *conn).await?.rows_affected() != 1 {
        return Err(Trouble::damaged("a held call cannot be recorded"));
    }
    if record.outcome == CallOutcome::GivenBack {
        tell_due(conn).await?;
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
    if !held.is_empty() {
        tell_due(conn).await?;
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use fencepost_core::store::{StoreRequest, TakeLease};

    use super::super::SqliteStore;
    use super::*;
    use crate::store::{OpenMode, Store};

    const LEASE: LeaseId = LeaseId::from_random(1);
    const NOW: StoreTime = StoreTime(1_000_000);

    const FILL: &str = "\
with recursive n (i) as (select 1 union all select i + 1 from n where i < ?1)
insert into completions (batch, generation, operation, url, status, success, failed, aborted, ended_at, not_before, attempts)
select 4294967296 + i, 1, 'op', ?2 || i, 'success', 1, 0, 0, i, ?3 + i, 1 from n";

    const OPEN_OTHERS: &str = "\
with recursive n (i) as (select 1 union all select i + 1 from n where i < 2000)
insert into batches (batch, id, operation, status, attempts_max, crashes_max, timeout_ms, created_at)
select i, 'b' || i, 'other', 'open', 1, 1, 1, 1 from n";

    fn claim_call() -> ClaimCall {
        let urls = vec!["http://host/hooks".to_owned()];
        let calls = Calls { operations: vec!["op".to_owned()], command: true, urls };
        ClaimCall { lease: LEASE, calls, known: Vec::new() }
    }

    /// A store with a lease and so many undelivered calls.
    async fn store(calls: u32, url: Option<&str>, not_before: Option<i64>) -> (tempfile::TempDir, SqliteStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("store.db"), OpenMode::Create).await.unwrap();
        let take = TakeLease {
            lease: LEASE,
            worker: "w".to_owned(),
            stable_name: false,
            ttl: Duration::from_secs(600),
            renew: Duration::from_secs(300),
            process: None,
            operations: vec!["op".to_owned()],
            calls: Calls::default(),
        };
        store.call(StoreRequest::TakeLease(take)).await.unwrap();
        let mut write = store.begin().await.unwrap();
        sqlx::query(FILL).bind(calls).bind(url).bind(not_before).execute(write.conn()).await.unwrap();
        write.end(Ok(())).await.unwrap();
        (directory, store)
    }

    /// How many steps SQLite's machine makes: the same each time, and more with each record that it visits.
    async fn counted(conn: &mut SqliteConnection) -> Arc<AtomicU64> {
        let steps = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&steps);
        let handler = move || {
            count.fetch_add(1, Ordering::Relaxed);
            true
        };
        conn.lock_handle().await.unwrap().set_progress_handler(1, handler);
        steps
    }

    /// Steps of the look, and of the claim under the lock.
    async fn steps(store: &SqliteStore) -> (u64, u64) {
        let mut read = store.begin_read().await.unwrap();
        let look = counted(&mut read).await;
        plan(&mut read, NOW, &claim_call()).await.unwrap();
        let mut write = store.begin().await.unwrap();
        let taking = counted(write.conn()).await;
        claim(write.conn(), NOW, &claim_call()).await.unwrap();
        (look.load(Ordering::Relaxed), taking.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_claim_visits_as_much_with_many_undelivered_calls_as_with_a_few() {
        let (waits, is_due) = (Some(2_000_000), Some(1));
        let urls = [None, Some("http://host/hooks/"), Some("http://host/other/")];
        for url in urls {
            for not_before in [None, waits, is_due] {
                let (_few, few) = store(100, url, not_before).await;
                let (_many, many) = store(3000, url, not_before).await;
                let (few, many) = (steps(&few).await, steps(&many).await);
                let much = |few: u64, many: u64| many > few + few / 5;
                let text = format!("{url:?}, {not_before:?}: {few:?} steps with few, {many:?} with many");
                assert!(!much(few.0, many.0) && !much(few.1, many.1), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn calls_that_others_make_do_not_hide_the_few_that_this_worker_makes() {
        let (_directory, store) = store(3000, Some("http://host/other/"), None).await;
        let mut write = store.begin().await.unwrap();
        const LATE: &str = "update completions set url = ?1, ended_at = ?2 where batch = 4294967296 + ?3";
        for (batch, url, ended_at) in
            [(7, "http://host/hooks?a", 9000), (8, "http://host/hooks/b", 8000), (9, "http://host/hooksmith", 1)]
        {
            sqlx::query(LATE).bind(url).bind(ended_at).bind(batch).execute(write.conn()).await.unwrap();
        }
        let reply = claim(write.conn(), NOW, &claim_call()).await.unwrap();
        let ClaimCallReply::Granted { call: Some(call), .. } = reply else { panic!("{reply:?}") };
        assert_eq!(call.end.url.as_deref(), Some("http://host/hooks/b"));
    }

    #[tokio::test]
    async fn what_comes_with_the_reply_is_not_looked_for_before_the_lock() {
        let (_directory, store) = store(1, None, None).await;
        let mut write = store.begin().await.unwrap();
        sqlx::query(OPEN_OTHERS).execute(write.conn()).await.unwrap();
        write.end(Ok(())).await.unwrap();
        let (look, taking) = steps(&store).await;
        assert!(look < 1000 && taking > 4000, "{look} and {taking} steps beside 2000 open batches");
    }
}
