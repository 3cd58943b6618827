//! R3: declaring a lease dead, and what becomes of its spans (P2).

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::rules::lease::LeaseState;
use fencepost_core::rules::poison::{AfterEnd, p1_crashes, p2_after_crash, p2_after_end};
use fencepost_core::rules::recovery::{r3_may_act, r3_still_fresh};
use fencepost_core::store::{EndCause, Recover, RecoverReply};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use sqlx::SqliteConnection;

use super::append::{self, Counts, Ending, Entry, EntryKind, Outcome, Used};
use super::batch::{self, BatchFacts};
use super::calls;
use super::codec::{int, lease_state, natural};
use super::lease;
use super::spans::{self, Span, SpanChanges, Tokens};
use super::stopping;
use super::trouble::Trouble;

const LEASE_AS_SEEN: &str = "select state, renewals, renew_ms from leases where lease = ?1";

const END_LEASE: &str = "\
update leases set state = ?3, ended_at = ?4, ended_by = ?5
where lease = ?1 and state = 'live' and renewals = ?2";

/// R3: declares the lease dead where it is as it was seen, then frees its spans.
pub(super) async fn recover(
    conn: &mut SqliteConnection,
    now: StoreTime,
    recover: &Recover,
) -> Result<RecoverReply, Trouble> {
    let number = int(recover.lease.number());
    let seen: Option<(String, i64, i64)> =
        sqlx::query_as(LEASE_AS_SEEN).bind(number).fetch_optional(&mut *conn).await?;
    let Some((state, renewals, renew_ms)) = seen else { return Ok(RecoverReply::Spared) };
    let may_act = r3_may_act(lease_state(&state)?, natural(renewals)?, recover.renewals);
    let renew = Duration::from_millis(natural(renew_ms)?);
    if !may_act || !r3_still_fresh(recover.cause, recover.seen_at, now, renew) {
        return Ok(RecoverReply::Spared);
    }
    sqlx::query(END_LEASE)
        .bind(number)
        .bind(renewals)
        .bind(if recover.cause == EndCause::TakenOver { "taken_over" } else { "dead" })
        .bind(now.0)
        .bind(recover.judge.map(|judge| int(judge.number())))
        .execute(&mut *conn)
        .await?;
    stopping::end_lease(conn, recover.lease).await?;
    calls::free(conn, now, recover.lease, true).await?;
    free_spans(conn, now, recover).await
}

async fn free_spans(conn: &mut SqliteConnection, now: StoreTime, recover: &Recover) -> Result<RecoverReply, Trouble> {
    let mut held = spans::held_by_lease(conn, recover.lease).await?;
    if held.is_empty() {
        return Ok(RecoverReply::Recovered { lines: 0, failed: 0 });
    }
    held.sort_by_key(|span| (span.batch, span.token));
    let facts = batch::facts(conn, held.iter().map(|span| span.batch)).await?;
    let used = used_by_crashed(conn, &held).await?;

    let mut freeing = Freeing::new(recover, Tokens::load(conn).await?);
    for span in &held {
        let facts = facts.get(&span.batch).ok_or_else(|| Trouble::damaged("a span's batch is not there"))?;
        freeing.free(span, facts, &used);
    }
    freeing.write(conn, now, recover).await
}

/// P1: what the lines that ran alone used up before.
async fn used_by_crashed(
    conn: &mut SqliteConnection,
    held: &[Span],
) -> Result<BTreeMap<(BatchId, u64), Used>, Trouble> {
    let mut lines: BTreeMap<BatchId, LineSet> = BTreeMap::new();
    for span in held.iter().filter(|span| after_end(span) == AfterEnd::Crash) {
        let set = lines.entry(span.batch).or_default();
        *set = set.union(&span.lines);
    }
    let mut used = BTreeMap::new();
    for (batch, lines) in &lines {
        let of_batch = append::used(conn, *batch, lines).await?;
        used.extend(of_batch.into_iter().map(|(line, used)| ((*batch, line), used)));
    }
    Ok(used)
}

fn after_end(span: &Span) -> AfterEnd {
    p2_after_end(&span.lines, span.suspicion, span.hold.is_some_and(|hold| hold.alone))
}

/// What the freeing of a dead lease's spans comes to, gathered before it is written.
struct Freeing {
    dead: LeaseId,
    judge: Option<LeaseId>,
    cause: EndCause,
    tokens: Tokens,
    changes: SpanChanges,
    log: Vec<Entry<'static>>,
    failed: Vec<FailedRow>,
    lines_back: u64,
}

/// P2: a row that crashed too often.
struct FailedRow {
    batch: BatchId,
    line: u64,
    token: Token,
    generation: u32,
    attempts: u32,
    crashes: u32,
    error: String,
}

impl Freeing {
    fn new(recover: &Recover, tokens: Tokens) -> Self {
        Self {
            dead: recover.lease,
            judge: recover.judge,
            cause: recover.cause,
            tokens,
            changes: SpanChanges::of(Some(recover.lease)),
            log: Vec::new(),
            failed: Vec::new(),
            lines_back: 0,
        }
    }

    fn free(&mut self, span: &Span, facts: &BatchFacts, used: &BTreeMap<(BatchId, u64), Used>) {
        self.changes.end(span);
        match after_end(span) {
            AfterEnd::Suspect { parts, suspicion } => self.back(span, facts, parts, suspicion, span.tried),
            AfterEnd::Crash => {
                let line = span.lines.first().unwrap_or_default();
                let used = used.get(&(span.batch, line)).copied().unwrap_or_default();
                self.crash(span, facts, line, used);
            }
        }
    }

    fn back(&mut self, span: &Span, facts: &BatchFacts, parts: Vec<LineSet>, suspicion: u32, tried: bool) {
        self.lines_back += span.lines.count();
        self.enter(span, facts, EntryKind::Recovered);
        for lines in parts {
            let freed = span.freed(self.tokens.draw(), lines);
            self.changes.begin(Span { suspicion, tried, from_lease: Some(self.dead), ..freed });
        }
    }

    fn crash(&mut self, span: &Span, facts: &BatchFacts, line: u64, used: Used) {
        self.enter(span, facts, EntryKind::Crashed);
        let crashes = p1_crashes(used.crashes.saturating_add(1), used.withdrawn);
        if !p2_after_crash(crashes, facts.crashes_max) {
            return self.back(span, facts, vec![span.lines.clone()], span.suspicion.saturating_add(1), true);
        }
        self.failed.push(FailedRow {
            batch: span.batch,
            line,
            token: self.tokens.draw(),
            generation: facts.generation,
            attempts: used.attempts,
            crashes,
            error: format!("its worker died {crashes} times while it ran this row and no other"),
        });
    }

    /// One entry per range of the span, under its old token.
    fn enter(&mut self, span: &Span, facts: &BatchFacts, kind: EntryKind) {
        let entry = |&lines| Entry {
            batch: span.batch,
            generation: facts.generation,
            lines,
            token: span.token,
            kind,
            lease: self.dead,
            judge: self.judge,
            detail: Some(cause_name(self.cause)),
            run_us: None,
        };
        self.log.extend(span.lines.ranges().iter().map(entry));
    }

    async fn write(
        self,
        conn: &mut SqliteConnection,
        now: StoreTime,
        recover: &Recover,
    ) -> Result<RecoverReply, Trouble> {
        self.changes.write(conn).await?;
        append::entries(conn, now, &self.log).await?;
        let outcomes: Vec<Outcome<'_>> = self.failed.iter().map(FailedRow::outcome).collect();
        append::outcomes(conn, now, recover.lease, &outcomes).await?;
        let mut counts: BTreeMap<BatchId, Counts> = BTreeMap::new();
        for row in &self.failed {
            counts.entry(row.batch).or_default().failed += 1;
        }
        append::count(conn, recover.judge, &counts).await?;
        self.tokens.write(conn).await?;
        batch::end_finished(conn, now, counts.keys().copied()).await?;
        let failed = u64::try_from(self.failed.len()).unwrap_or(u64::MAX);
        Ok(RecoverReply::Recovered { lines: self.lines_back, failed })
    }
}

impl FailedRow {
    fn outcome(&self) -> Outcome<'_> {
        Outcome {
            batch: self.batch,
            line: self.line,
            ending: Ending::Failed(&self.error),
            token: self.token,
            attempts: self.attempts,
            crashes: self.crashes,
            generation: self.generation,
            run_us: 0,
        }
    }
}

fn cause_name(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Lapsed => "lapsed",
        EndCause::Died => "died",
        EndCause::TakenOver => "taken over",
    }
}

const WITHDRAW_CRASHES: &str = "\
insert into attempts (batch, generation, first_line, last_line, token, kind, lease, at)
select a.batch, a.generation, a.first_line, a.last_line, a.token, 'crash_withdrawn', a.lease, ?2
from attempts a join batches b on b.batch = a.batch
where a.lease = ?1 and a.kind = 'crashed'
  and exists (select 1 from leases l where l.lease = ?1 and l.state <> 'live')
on conflict do nothing";

/// P1: a worker that was declared dead while alive takes its crashes back.
pub(super) async fn withdraw_crashes(
    conn: &mut SqliteConnection,
    now: StoreTime,
    lease: LeaseId,
) -> Result<(), Trouble> {
    if lease::state(conn, lease).await? == Some(LeaseState::Live) {
        return Ok(());
    }
    sqlx::query(WITHDRAW_CRASHES).bind(int(lease.number())).bind(now.0).execute(conn).await?;
    Ok(())
}
