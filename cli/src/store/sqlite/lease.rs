//! L and S1: taking, renewing and dropping a lease; what judges see of leases.

use fencepost_core::rules::lease::{LeaseState, l2_renewable};
use fencepost_core::rules::leaving::{s1_after_drop, s2_closed};
use fencepost_core::store::{LeaseView, LookReply, ProcessIdentity, RenewReply, TakeLease, TakeLeaseReply};
use fencepost_core::{BatchId, LeaseId, StoreTime};
use sqlx::SqliteConnection;

use super::append::{self, Entry, EntryKind};
use super::batch;
use super::calls;
use super::codec::{from_millis, int, json, lease_id, lease_state, millis_of, natural, small};
use super::spans::{self, Span, SpanChanges, Tokens};
use super::stopping;
use super::trouble::Trouble;
use crate::store::called;

const LEASE_STATE: &str = "select state from leases where lease = ?1";

/// Where the lease is in its life; `None` where it was never taken.
pub(super) async fn state(conn: &mut SqliteConnection, lease: LeaseId) -> Result<Option<LeaseState>, Trouble> {
    let state: Option<String> = sqlx::query_scalar(LEASE_STATE).bind(int(lease.number())).fetch_optional(conn).await?;
    state.as_deref().map(lease_state).transpose()
}

#[derive(sqlx::FromRow)]
struct LeaseRecord {
    lease: i64,
    worker: String,
    ttl_ms: i64,
    renew_ms: i64,
    expires_at: i64,
    renewals: i64,
    machine: Option<String>,
    pid: Option<i64>,
    start_ticks: Option<i64>,
}

impl TryFrom<LeaseRecord> for LeaseView {
    type Error = Trouble;

    fn try_from(record: LeaseRecord) -> Result<Self, Trouble> {
        Ok(Self {
            lease: lease_id(record.lease)?,
            worker: record.worker,
            ttl: from_millis(record.ttl_ms)?,
            renew: from_millis(record.renew_ms)?,
            expires_at: StoreTime(record.expires_at),
            renewals: natural(record.renewals)?,
            process: process(record.machine, record.pid, record.start_ticks)?,
        })
    }
}

/// A process's identity as it is kept: all of it or nothing.
pub(super) fn process(
    machine: Option<String>,
    pid: Option<i64>,
    start_ticks: Option<i64>,
) -> Result<Option<ProcessIdentity>, Trouble> {
    match (machine, pid, start_ticks) {
        (Some(machine), Some(pid), Some(ticks)) => {
            Ok(Some(ProcessIdentity { machine, pid: small(pid)?, start_ticks: natural(ticks)? }))
        }
        _ => Ok(None),
    }
}

const HOLDER_OF_NAME: &str = "\
select lease, worker, ttl_ms, renew_ms, expires_at, renewals, machine, pid, start_ticks
from leases
where worker = ?1 and state = 'live' and stable_name = 1";

const INSERT_LEASE: &str = "\
insert into leases (lease, id, worker, stable_name, ttl_ms, renew_ms, expires_at, state, machine, pid, start_ticks, operations, taken_at, calls)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'live', ?8, ?9, ?10, ?11, ?12, ?13)";

const INSERT_CLAIM_NUMBER: &str = "\
insert into lease_claims (lease, number) values (?1, 0)
on conflict do nothing";

/// L1: takes a lease, once per id.
pub(super) async fn take(
    conn: &mut SqliteConnection,
    now: StoreTime,
    take: &TakeLease,
) -> Result<TakeLeaseReply, Trouble> {
    match state(conn, take.lease).await? {
        Some(LeaseState::Live) => return Ok(TakeLeaseReply::Taken),
        Some(_) => return Ok(TakeLeaseReply::Ended),
        None => {}
    }
    if take.stable_name {
        let holder: Option<LeaseRecord> =
            sqlx::query_as(HOLDER_OF_NAME).bind(&take.worker).fetch_optional(&mut *conn).await?;
        if let Some(holder) = holder {
            return Ok(TakeLeaseReply::NameHeld { holder: holder.try_into()?, now });
        }
    }
    let number = int(take.lease.number());
    sqlx::query(INSERT_LEASE)
        .bind(number)
        .bind(take.lease.to_string())
        .bind(&take.worker)
        .bind(take.stable_name)
        .bind(millis_of(take.ttl))
        .bind(millis_of(take.renew))
        .bind((now + take.ttl).0)
        .bind(take.process.as_ref().map(|process| process.machine.as_str()))
        .bind(take.process.as_ref().map(|process| i64::from(process.pid)))
        .bind(take.process.as_ref().map(|process| int(process.start_ticks)))
        .bind(json(&take.operations)?)
        .bind(now.0)
        .bind(called::to_json(&take.calls))
        .execute(&mut *conn)
        .await?;
    sqlx::query(INSERT_CLAIM_NUMBER).bind(number).execute(conn).await?;
    Ok(TakeLeaseReply::Taken)
}

const RENEW: &str = "\
update leases set expires_at = ?2 + ttl_ms * 1000, renewals = renewals + 1
where lease = ?1 and state = 'live'";

/// L2: extends the lease while it is live.
pub(super) async fn renew(
    conn: &mut SqliteConnection,
    now: StoreTime,
    lease: LeaseId,
    batches: &[BatchId],
) -> Result<RenewReply, Trouble> {
    let state = state(conn, lease).await?;
    if !state.is_some_and(l2_renewable) {
        return Ok(RenewReply::Refused { taken_over: state == Some(LeaseState::TakenOver) });
    }
    sqlx::query(RENEW).bind(int(lease.number())).bind(now.0).execute(&mut *conn).await?;
    if batches.is_empty() {
        return Ok(RenewReply::Renewed { closed: Vec::new() });
    }
    let facts = batch::facts(conn, batches.iter().copied()).await?;
    let closed = |batch: &BatchId| s2_closed(facts.get(batch).map(|facts| facts.status));
    Ok(RenewReply::Renewed { closed: batches.iter().copied().filter(closed).collect() })
}

const DROP: &str = "\
update leases set state = 'dropped', ended_at = ?2
where lease = ?1 and state = 'live'";

/// S1: frees whatever the lease holds, and drops it.
pub(super) async fn drop(conn: &mut SqliteConnection, now: StoreTime, lease: LeaseId) -> Result<(), Trouble> {
    let dropped = sqlx::query(DROP).bind(int(lease.number())).bind(now.0).execute(&mut *conn).await?;
    if dropped.rows_affected() == 0 {
        return Ok(());
    }
    stopping::end_lease(conn, lease).await?;
    calls::free(conn, now, lease, false).await?;
    let held = spans::held_by_lease(conn, lease).await?;
    if held.is_empty() {
        return Ok(());
    }
    let facts = batch::facts(conn, held.iter().map(|span| span.batch)).await?;
    let mut tokens = Tokens::load(conn).await?;
    let mut changes = SpanChanges::of(Some(lease));
    let mut log = Vec::new();
    for span in &held {
        let (lines, suspicion) = s1_after_drop(&span.lines, span.suspicion);
        let generation = facts.get(&span.batch).map_or(1, |facts| facts.generation);
        log_given_back(&mut log, span, &lines, generation, lease);
        changes.end(span);
        changes.begin(Span { suspicion, ..span.freed(tokens.draw(), lines) });
    }
    changes.write(conn).await?;
    append::entries(conn, now, &log).await?;
    tokens.write(conn).await
}

/// One entry per range that left the span without an attempt used.
pub(super) fn log_given_back(
    log: &mut Vec<Entry<'_>>,
    span: &Span,
    lines: &fencepost_core::LineSet,
    generation: u32,
    lease: LeaseId,
) {
    log.extend(lines.ranges().iter().map(|&lines| Entry {
        batch: span.batch,
        generation,
        lines,
        token: span.token,
        kind: EntryKind::GivenBack,
        lease,
        judge: None,
        detail: None,
        run_us: None,
    }));
}

const LIVE_LEASES: &str = "\
select lease, worker, ttl_ms, renew_ms, expires_at, renewals, machine, pid, start_ticks
from leases
where state = 'live'
order by lease";

const FURTHEST_NOT_BEFORE: &str = "\
select max(not_before) from spans
where lease is null and not_before is not null";

/// R2: all live leases as they are now.
pub(super) async fn look(conn: &mut SqliteConnection, now: StoreTime) -> Result<LookReply, Trouble> {
    let records: Vec<LeaseRecord> = sqlx::query_as(LIVE_LEASES).fetch_all(&mut *conn).await?;
    let furthest: Option<i64> = sqlx::query_scalar(FURTHEST_NOT_BEFORE).fetch_one(&mut *conn).await?;
    let furthest = furthest.map(StoreTime).max(calls::furthest_not_before(conn).await?);
    let leases = records.into_iter().map(LeaseView::try_from).collect::<Result<_, _>>()?;
    Ok(LookReply { now, leases, not_before_max: furthest })
}

// Always another value: SQLite writes no page that stays as it is.
const LEAVE_MARK: &str = "\
update store set looked_at = max(?1, coalesce(looked_at, 0) + 1)
where one = 1";

/// R2: a write as small as a renewal's, to find out whether one would get through.
pub(super) async fn leave_mark(conn: &mut SqliteConnection, now: StoreTime) -> Result<(), Trouble> {
    sqlx::query(LEAVE_MARK).bind(now.0).execute(conn).await?;
    Ok(())
}

const CUT_BACK_LEASES: &str = "\
update leases set expires_at = ?1 + ttl_ms * 1000
where state = 'live' and expires_at > ?1 + ttl_ms * 1000";

const CUT_BACK_SPANS: &str = "\
update spans set not_before = ?1
where lease is null and not_before is not null and not_before > ?1";

/// R2: cuts back what lies further ahead than it ever may.
pub(super) async fn cut_back(
    conn: &mut SqliteConnection,
    now: StoreTime,
    backoff_max: std::time::Duration,
) -> Result<(), Trouble> {
    sqlx::query(CUT_BACK_LEASES).bind(now.0).execute(&mut *conn).await?;
    sqlx::query(CUT_BACK_SPANS).bind((now + backoff_max).0).execute(&mut *conn).await?;
    calls::cut_back(conn, now + backoff_max).await
}
