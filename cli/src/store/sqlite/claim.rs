//! C1 to C3, P2: claims. First what could be taken is planned with reads alone; then, under the write lock, it is taken.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fencepost_core::rules::claim::{
    BatchStatus, BatchTurn, c1_lease_may_take, c2_close_number, c2_number_is_open, c3_batch_order, c3_claimable,
    c3_rows_within_bytes,
};
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::rules::poison::{
    p2_lines_to_take, p2_may_take_range, p2_may_take_suspect, p2_may_work_on_suspects, p2_wants_idle_worker,
};
use fencepost_core::store::{Claim, ClaimReply, Grant, GrantedRow};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use futures_util::TryStreamExt;
use sqlx::SqliteConnection;

use super::append::{self, Used};
use super::codec::{batch_id, from_millis, int, json, lease_id, lease_state, natural, ranges};
use super::lease;
use super::spans::{Hold, Span, SpanChanges, SpanRecord, Tokens};
use super::stopping;
use super::trouble::Trouble;

/// C3: a claim takes at most so many free spans.
const FREE_SPANS_MAX: u32 = 64;

/// An open batch of an operation that the worker has a handler for.
#[derive(Debug, Clone)]
struct OpenBatch {
    batch: BatchId,
    operation: String,
    held: bool,
    turn: BatchTurn,
    cursor: u64,
    total: u64,
    timeout: Duration,
    has_free_spans: bool,
}

/// What a claim comes to, as far as reads can tell.
#[derive(Debug)]
pub(super) enum Plan {
    /// The lease is not live.
    LeaseEnded,
    /// C2: the number is closed.
    Closed,
    /// There is nothing to take.
    Nothing(ClaimReply),
    /// There are lines to take.
    Take(Box<Takeable>),
}

/// Lines to take.
#[derive(Debug)]
pub(super) struct Takeable {
    batches: Vec<OpenBatch>,
    from: OpenBatch,
    spans: Vec<Span>,
    alone: bool,
    may_suspect: bool,
}

#[derive(sqlx::FromRow)]
struct LeaseFacts {
    state: String,
    last_number: i64,
    holds: bool,
    holds_suspect: bool,
    holds_alone: bool,
}

const LEASE_FACTS: &str = "\
select l.state,
       coalesce((select c.number from lease_claims c where c.lease = l.lease), 0) as last_number,
       exists (select 1 from spans s where s.lease = l.lease) as holds,
       exists (select 1 from spans s where s.lease = l.lease and s.suspicion > 0) as holds_suspect,
       exists (select 1 from spans s where s.lease = l.lease and s.alone = 1) as holds_alone
from leases l
where l.lease = ?1";

/// Plans a claim; reads only.
pub(super) async fn plan(conn: &mut SqliteConnection, now: StoreTime, claim: &Claim) -> Result<Plan, Trouble> {
    let facts: Option<LeaseFacts> =
        sqlx::query_as(LEASE_FACTS).bind(int(claim.lease.number())).fetch_optional(&mut *conn).await?;
    let state = facts.as_ref().map(|facts| lease_state(&facts.state)).transpose()?;
    let Some(facts) = facts.filter(|_| c1_lease_may_take(state)) else { return Ok(Plan::LeaseEnded) };
    if !c2_number_is_open(natural(facts.last_number)?, claim.number) {
        return Ok(Plan::Closed);
    }
    let batches = open_batches(conn, claim).await?;
    if facts.holds_alone {
        return Ok(Plan::Nothing(nothing_beside_alone(&batches)));
    }
    let may_suspect = may_suspect(conn, now, claim.lease, &batches).await?;
    if claim.idle && !facts.holds && may_suspect {
        for from in claimable(&batches) {
            if let Some(span) = due_lone_suspect(conn, now, from).await? {
                return Ok(Plan::take(&batches, from, vec![span], true, may_suspect));
            }
        }
    }
    // A worker that asks for no lines is told only what waits.
    for from in claimable(&batches).filter(|_| claim.lines_max > 0) {
        let spans = due_spans(conn, now, from, p2_may_take_range(may_suspect, facts.holds_suspect)).await?;
        if !spans.is_empty() || from.cursor <= from.total {
            return Ok(Plan::take(&batches, from, spans, false, may_suspect));
        }
    }
    reply(conn, now, &batches, may_suspect, Vec::new()).await.map(Plan::Nothing)
}

/// P2: whoever holds a suspect alone claims nothing until its outcome is known.
fn nothing_beside_alone(batches: &[OpenBatch]) -> ClaimReply {
    ClaimReply::Granted { grants: Vec::new(), suspect_waits: false, next_after: None, open_lines: !batches.is_empty() }
}

impl Plan {
    fn take(batches: &[OpenBatch], from: &OpenBatch, spans: Vec<Span>, alone: bool, may_suspect: bool) -> Self {
        Self::Take(Box::new(Takeable { batches: batches.to_vec(), from: from.clone(), spans, alone, may_suspect }))
    }
}

fn claimable(batches: &[OpenBatch]) -> impl Iterator<Item = &OpenBatch> {
    batches.iter().filter(|batch| !batch.held)
}

#[derive(sqlx::FromRow)]
struct OpenBatchRecord {
    batch: i64,
    operation: String,
    held: bool,
    priority: i32,
    last_claim: i64,
    cursor: i64,
    total: i64,
    timeout_ms: i64,
    has_free_spans: bool,
}

const OPEN_BATCHES: &str = "\
select batch, operation, held, priority, last_claim, cursor, total, timeout_ms,
       exists (select 1 from spans s where s.batch = b.batch and s.lease is null) as has_free_spans
from batches b
where status = 'open'";

/// C3: the open batches of the claim's operations, held ones too, in batch order.
async fn open_batches(conn: &mut SqliteConnection, claim: &Claim) -> Result<Vec<OpenBatch>, Trouble> {
    let records: Vec<OpenBatchRecord> = sqlx::query_as(OPEN_BATCHES).fetch_all(conn).await?;
    let handled = |record: &OpenBatchRecord| {
        c3_claimable(BatchStatus::Open, false, &record.operation, claim.operations.iter().map(String::as_str))
    };
    let batches = records.into_iter().filter(handled).map(open_batch);
    let mut batches: BTreeMap<BatchId, OpenBatch> =
        batches.map(|batch| batch.map(|batch| (batch.batch, batch))).collect::<Result<_, Trouble>>()?;
    let mut turns: Vec<BatchTurn> = batches.values().map(|batch| batch.turn.clone()).collect();
    c3_batch_order(&mut turns);
    Ok(turns.iter().filter_map(|turn| batches.remove(&turn.batch)).collect())
}

fn open_batch(record: OpenBatchRecord) -> Result<OpenBatch, Trouble> {
    let batch = batch_id(record.batch)?;
    Ok(OpenBatch {
        batch,
        operation: record.operation,
        held: record.held,
        turn: BatchTurn { batch, priority: record.priority, last_claim: Token(natural(record.last_claim)?) },
        cursor: natural(record.cursor)?,
        total: natural(record.total)?,
        timeout: from_millis(record.timeout_ms)?,
        has_free_spans: record.has_free_spans,
    })
}

const SUSPECTS: &str = "select exists (select 1 from spans where suspicion > 0 and lease is null)";

const WORKERS_ON_SUSPECTS: &str = "\
select (select count(distinct lease) from spans where suspicion > 0 and lease is not null and lease <> ?1),
       (select count(*) from leases where state = 'live')";

/// P2: whether there is anything to claim but suspects.
async fn something_else(conn: &mut SqliteConnection, now: StoreTime, batches: &[OpenBatch]) -> Result<bool, Trouble> {
    for from in claimable(batches) {
        if from.cursor <= from.total || !due_spans(conn, now, from, false).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// P2: whether this lease may take suspects; where there are none, it does not matter.
async fn may_suspect(
    conn: &mut SqliteConnection,
    now: StoreTime,
    lease: LeaseId,
    batches: &[OpenBatch],
) -> Result<bool, Trouble> {
    let suspects: bool = sqlx::query_scalar(SUSPECTS).fetch_one(&mut *conn).await?;
    if !suspects {
        return Ok(false);
    }
    let (others, live): (i64, i64) =
        sqlx::query_as(WORKERS_ON_SUSPECTS).bind(int(lease.number())).fetch_one(&mut *conn).await?;
    let within_quota = p2_may_take_suspect(natural(others)?, natural(live)?);
    let something_else = within_quota || something_else(conn, now, batches).await?;
    Ok(p2_may_work_on_suspects(within_quota, something_else))
}

const DUE_LONE_SUSPECT: &str = "\
select token, batch, lines, lease, claim_number, not_before, suspicion, alone, tried, from_lease
from spans
where batch = ?1 and suspicion > 0 and line_count = 1 and lease is null and (not_before is null or not_before <= ?2)
order by first_line
limit 1";

/// P2: the batch's first due free suspect of one line.
async fn due_lone_suspect(
    conn: &mut SqliteConnection,
    now: StoreTime,
    from: &OpenBatch,
) -> Result<Option<Span>, Trouble> {
    if !from.has_free_spans {
        return Ok(None);
    }
    let record: Option<SpanRecord> =
        sqlx::query_as(DUE_LONE_SUSPECT).bind(int(from.batch.number())).bind(now.0).fetch_optional(conn).await?;
    record.map(Span::try_from).transpose()
}

const DUE_SPANS: &str = "\
select token, batch, lines, lease, claim_number, not_before, suspicion, alone, tried, from_lease
from spans indexed by spans_free
where batch = ?1 and lease is null and (not_before is null or not_before <= ?2)
  and suspicion = 0
order by first_line
limit ?3";

const DUE_SUSPECT_RANGE: &str = "\
select token, batch, lines, lease, claim_number, not_before, suspicion, alone, tried, from_lease
from spans indexed by spans_free
where batch = ?1 and lease is null and (not_before is null or not_before <= ?2)
  and suspicion > 0 and line_count > 1
order by first_line
limit 1";

/// C3: the batch's due free spans, by first line; of suspect ranges one at most (P2).
async fn due_spans(
    conn: &mut SqliteConnection,
    now: StoreTime,
    from: &OpenBatch,
    may_take_range: bool,
) -> Result<Vec<Span>, Trouble> {
    if !from.has_free_spans {
        return Ok(Vec::new());
    }
    let batch = int(from.batch.number());
    let mut records: Vec<SpanRecord> =
        sqlx::query_as(DUE_SPANS).bind(batch).bind(now.0).bind(FREE_SPANS_MAX).fetch_all(&mut *conn).await?;
    if may_take_range {
        let suspect: Option<SpanRecord> =
            sqlx::query_as(DUE_SUSPECT_RANGE).bind(batch).bind(now.0).fetch_optional(conn).await?;
        records.extend(suspect);
    }
    let mut spans = records.into_iter().map(Span::try_from).collect::<Result<Vec<Span>, Trouble>>()?;
    spans.sort_by_key(|span| span.lines.first());
    spans.truncate(FREE_SPANS_MAX as usize);
    Ok(spans)
}

const LONE_SUSPECT_WAITS: &str = "\
select exists (
    select 1
    from json_each(?1) as claimable
    cross join spans s on s.batch = claimable.value
    where s.suspicion > 0 and s.line_count = 1 and s.lease is null and (s.not_before is null or s.not_before <= ?2)
)";

const NEXT_NOT_BEFORE: &str = "\
select s.not_before
from spans s indexed by spans_waiting
where s.lease is null and s.not_before is not null and s.not_before > ?2
  and s.batch in (select value from json_each(?1))
order by s.not_before
limit 1";

/// What else a claim's reply tells.
async fn reply(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batches: &[OpenBatch],
    may_suspect: bool,
    grants: Vec<Grant>,
) -> Result<ClaimReply, Trouble> {
    let ids: Vec<u64> = claimable(batches).map(|batch| batch.batch.number()).collect();
    let ids = json(&ids)?;
    let alone = grants.iter().any(|grant| grant.alone);
    let suspect_waits = may_suspect
        && !alone
        && sqlx::query_scalar(LONE_SUSPECT_WAITS).bind(&ids).bind(now.0).fetch_one(&mut *conn).await?;
    let next_after = if grants.is_empty() && batches.iter().any(|batch| batch.has_free_spans) {
        let next: Option<i64> = sqlx::query_scalar(NEXT_NOT_BEFORE).bind(&ids).bind(now.0).fetch_optional(conn).await?;
        next.map(|next| StoreTime(next).since(now))
    } else {
        None
    };
    Ok(ClaimReply::Granted { grants, suspect_waits, next_after, open_lines: !batches.is_empty() })
}

const CONSUME_NUMBER: &str = "\
insert into lease_claims (lease, number) values (?1, ?2)
on conflict (lease) do update set number = excluded.number
where excluded.number > lease_claims.number";

/// Claims, under the write lock.
pub(super) async fn claim(conn: &mut SqliteConnection, now: StoreTime, claim: &Claim) -> Result<ClaimReply, Trouble> {
    let plan = plan(conn, now, claim).await?;
    let take = match plan {
        Plan::LeaseEnded => return Ok(ClaimReply::LeaseEnded),
        Plan::Closed => return Ok(ClaimReply::Closed),
        Plan::Nothing(reply) => {
            consume_number(conn, claim).await?;
            return Ok(reply);
        }
        Plan::Take(take) => take,
    };
    consume_number(conn, claim).await?;
    let wanted = Wanted::choose(&take, claim.lines_max);
    let rows = read_rows(conn, take.from.batch, &wanted.all_lines(), claim.bytes_max).await?;
    let sizes = rows.iter().map(|row| u64::try_from(row.input.len()).unwrap_or(u64::MAX));
    let taken = wanted.cut(c3_rows_within_bytes(sizes, claim.bytes_max));
    let grants = hand_over(conn, claim, &take, taken, rows).await?;
    reply(conn, now, &take.batches, take.may_suspect, grants).await
}

async fn consume_number(conn: &mut SqliteConnection, claim: &Claim) -> Result<(), Trouble> {
    sqlx::query(CONSUME_NUMBER).bind(int(claim.lease.number())).bind(int(claim.number)).execute(conn).await?;
    Ok(())
}

/// Lines that a claim would take if their bytes fit.
#[derive(Debug)]
struct Wanted<'a> {
    spans: Vec<(&'a Span, LineSet)>,
    fresh: LineSet,
}

impl<'a> Wanted<'a> {
    fn choose(take: &'a Takeable, lines_max: u64) -> Self {
        let mut left = if take.alone { 1 } else { lines_max };
        let mut spans = Vec::new();
        for span in &take.spans {
            if left == 0 {
                break;
            }
            let available = span.lines.count();
            let several_suspects = span.suspicion > 0 && !p2_wants_idle_worker(span.suspicion, available);
            let lines = if several_suspects { p2_lines_to_take(left, available) } else { left.min(available) };
            spans.push((span, span.lines.split_first(lines).0));
            left = left.saturating_sub(lines);
        }
        let OpenBatch { cursor, total, .. } = take.from;
        let fresh = if take.alone || left == 0 {
            LineSet::new()
        } else {
            LineSet::range(cursor, total.min(cursor.saturating_add(left - 1)))
        };
        Self { spans, fresh }
    }

    /// In the order of the claim.
    fn all_lines(&self) -> Vec<(u64, u64)> {
        self.spans.iter().map(|(_, lines)| lines).chain([&self.fresh]).flat_map(ranges).collect()
    }

    /// Keeps what the first so many rows are; a suspect range keeps two lines whatever their size.
    fn cut(mut self, rows: usize) -> Self {
        let mut left = u64::try_from(rows).unwrap_or(u64::MAX);
        for (span, lines) in &mut self.spans {
            let fits = left.min(lines.count());
            let fits = if fits == 1 && span.suspicion > 0 { lines.count().min(2) } else { fits };
            left = left.saturating_sub(lines.count());
            *lines = lines.split_first(fits).0;
        }
        self.spans.retain(|(_, lines)| !lines.is_empty());
        self.fresh = self.fresh.split_first(left).0;
        self
    }
}

const ROWS_OF_RANGES: &str = "\
select r.line, r.input
from json_each(?2) as range
cross join rows r on r.batch = ?1 and r.line between range.value ->> 0 and range.value ->> 1";

/// Reads rows in the order of the ranges, until their bytes are surely too many. The row that was one too many is the
/// last: a suspect range may need it.
async fn read_rows(
    conn: &mut SqliteConnection,
    batch: BatchId,
    lines: &[(u64, u64)],
    bytes_max: u64,
) -> Result<VecDeque<GrantedRow>, Trouble> {
    let ranges = json(&lines)?;
    let mut expected = lines.iter().flat_map(|&(first, last)| first..=last);
    let mut found = sqlx::query_as(ROWS_OF_RANGES).bind(int(batch.number())).bind(ranges).fetch(conn);
    let mut rows = VecDeque::new();
    let mut bytes = 0u64;
    while let Some((line, input)) = found.try_next().await? {
        let (line, input): (i64, String) = (line, input);
        let line = natural(line)?;
        if expected.next() != Some(line) {
            return Err(Trouble::damaged(format!("batch {batch} lacks rows before its line {line}")));
        }
        bytes = bytes.saturating_add(u64::try_from(input.len()).unwrap_or(u64::MAX));
        rows.push_back(GrantedRow { line, attempts: 0, input: input.into_boxed_str() });
        if rows.len() >= 2 && bytes > bytes_max {
            return Ok(rows);
        }
    }
    match expected.next() {
        Some(line) => Err(Trouble::damaged(format!("batch {batch} lacks the row of its line {line}"))),
        None => Ok(rows),
    }
}

const MOVE_CURSOR: &str = "\
update batches set cursor = ?3
where batch = ?1 and status = 'open' and cursor = ?2";

const SET_LAST_CLAIM: &str = "\
update batches set last_claim = ?2
where batch = ?1 and status = 'open'";

/// C1: span, lease and token change together.
async fn hand_over(
    conn: &mut SqliteConnection,
    claim: &Claim,
    take: &Takeable,
    taken: Wanted<'_>,
    mut rows: VecDeque<GrantedRow>,
) -> Result<Vec<Grant>, Trouble> {
    let from = &take.from;
    let hold = Hold { lease: claim.lease, claim_number: claim.number, alone: take.alone };
    let mut tokens = Tokens::load(conn).await?;
    let mut changes = SpanChanges::of(None);
    let mut granted: Vec<Span> = Vec::new();
    for (span, lines) in taken.spans {
        let rest = span.lines.difference(&lines);
        changes.end(span);
        granted.push(Span { token: tokens.draw(), lines, hold: Some(hold), not_before: None, ..span.clone() });
        if !rest.is_empty() {
            changes.begin(Span { token: tokens.draw(), lines: rest, ..span.clone() });
        }
    }
    if let Some(last) = taken.fresh.last() {
        let done = sqlx::query(MOVE_CURSOR)
            .bind(int(from.batch.number()))
            .bind(int(from.cursor))
            .bind(int(last + 1))
            .execute(&mut *conn)
            .await?;
        if done.rows_affected() != 1 {
            return Err(Trouble::damaged("a batch's cursor moved inside another's transaction"));
        }
        granted.push(fresh_span(from, tokens.draw(), taken.fresh, hold));
    }
    let last_claim = granted.last().map(|span| int(span.token.0));
    for span in &granted {
        changes.begin(span.clone());
    }
    changes.write(conn).await?;
    sqlx::query(SET_LAST_CLAIM).bind(int(from.batch.number())).bind(last_claim).execute(&mut *conn).await?;
    tokens.write(conn).await?;
    grants(conn, from, granted, &mut rows).await
}

fn fresh_span(from: &OpenBatch, token: Token, lines: LineSet, hold: Hold) -> Span {
    Span {
        token,
        batch: from.batch,
        lines,
        hold: Some(hold),
        not_before: None,
        suspicion: 0,
        tried: false,
        from_lease: None,
    }
}

const WORKER_NAMES: &str = "\
select lease, worker from leases
where lease in (select value from json_each(?1))";

/// Spans as the worker gets them. `rows` has the rows of all of them in order.
async fn grants(
    conn: &mut SqliteConnection,
    from: &OpenBatch,
    spans: Vec<Span>,
    rows: &mut VecDeque<GrantedRow>,
) -> Result<Vec<Grant>, Trouble> {
    let tried = spans.iter().filter(|span| span.tried).fold(LineSet::new(), |all, span| all.union(&span.lines));
    let used = append::used(conn, from.batch, &tried).await?;
    let workers = worker_names(conn, &spans).await?;
    let mut grants = Vec::with_capacity(spans.len());
    for span in spans {
        let count = usize::try_from(span.lines.count()).unwrap_or(usize::MAX);
        let rows = rows.drain(..count.min(rows.len())).map(|row| with_attempts(row, &used)).collect();
        grants.push(Grant {
            batch: from.batch,
            operation: from.operation.clone(),
            token: span.token,
            rows,
            suspicion: span.suspicion,
            alone: span.hold.is_some_and(|hold| hold.alone),
            recovered_from: span.from_lease.and_then(|lease| workers.get(&lease).cloned()),
            timeout: from.timeout,
        });
    }
    Ok(grants)
}

fn with_attempts(row: GrantedRow, used: &BTreeMap<u64, Used>) -> GrantedRow {
    let attempts = used.get(&row.line).map_or(0, |used| used.attempts);
    GrantedRow { attempts, ..row }
}

async fn worker_names(conn: &mut SqliteConnection, spans: &[Span]) -> Result<BTreeMap<LeaseId, String>, Trouble> {
    let leases: Vec<u64> = spans.iter().filter_map(|span| span.from_lease).map(LeaseId::number).collect();
    if leases.is_empty() {
        return Ok(BTreeMap::new());
    }
    let records: Vec<(i64, String)> = sqlx::query_as(WORKER_NAMES).bind(json(&leases)?).fetch_all(conn).await?;
    let names = records.into_iter().map(|(lease, worker)| Ok((lease_id(lease)?, worker)));
    names.collect()
}

const LAST_NUMBER: &str = "\
select coalesce((select number from lease_claims where lease = ?1), 0)";

const TAKEN_BY_CLAIM: &str = "\
select token, batch, lines, lease, claim_number, not_before, suspicion, alone, tried, from_lease
from spans
where lease = ?1 and claim_number = ?2
order by token";

const OPEN_BATCH: &str = "\
select batch, operation, held, priority, last_claim, cursor, total, timeout_ms, 0 as has_free_spans
from batches
where batch = ?1";

/// What a claim came to: what it took and still holds, and what was stopped of it.
type Settled = (Vec<Grant>, Vec<(BatchId, Token, LineSet)>);

/// C2: closes the claim's number, then reads what that claim took and still holds.
/// And what it took of batches that were aborted since.
pub(super) async fn settle(conn: &mut SqliteConnection, lease: LeaseId, number: u64) -> Result<Settled, Trouble> {
    let Some(state) = lease::state(conn, lease).await? else { return Ok(Settled::default()) };
    let stopped = stopping::of_claim(conn, lease, number).await?;
    let lease = int(lease.number());
    let last: i64 = sqlx::query_scalar(LAST_NUMBER).bind(lease).fetch_one(&mut *conn).await?;
    let closed = c2_close_number(natural(last)?, number);
    sqlx::query(CONSUME_NUMBER).bind(lease).bind(int(closed)).execute(&mut *conn).await?;
    if state != LeaseState::Live {
        return Ok(Settled::default());
    }
    let records: Vec<SpanRecord> =
        sqlx::query_as(TAKEN_BY_CLAIM).bind(lease).bind(int(number)).fetch_all(&mut *conn).await?;
    let mut all = Vec::new();
    for record in records {
        let span = Span::try_from(record)?;
        let from: OpenBatchRecord =
            sqlx::query_as(OPEN_BATCH).bind(int(span.batch.number())).fetch_one(&mut *conn).await?;
        let mut rows = read_rows(conn, span.batch, &ranges(&span.lines), u64::MAX).await?;
        all.extend(grants(conn, &open_batch(from)?, vec![span], &mut rows).await?);
    }
    Ok((all, stopped))
}
