//! Spans: read, and changed hands in bulk.

use std::collections::HashMap;

use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use sqlx::SqliteConnection;

use super::codec::{batch_id, int, json, lease_id, lines_from_json, natural, ranges, small};
use super::trouble::Trouble;

/// Who holds a span, since which claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    pub lease: LeaseId,
    pub claim_number: u64,
    pub alone: bool,
}

/// A span as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub token: Token,
    pub batch: BatchId,
    pub lines: LineSet,
    pub hold: Option<Hold>,
    pub not_before: Option<StoreTime>,
    pub suspicion: u32,
    pub tried: bool,
    pub from_lease: Option<LeaseId>,
}

impl Span {
    /// A free span of these lines under a new token, with the suspicion and the past of this one.
    pub(super) fn freed(&self, token: Token, lines: LineSet) -> Self {
        Self { token, lines, hold: None, not_before: None, from_lease: None, ..self.clone() }
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct SpanRecord {
    token: i64,
    batch: i64,
    lines: String,
    lease: Option<i64>,
    claim_number: Option<i64>,
    not_before: Option<i64>,
    suspicion: i64,
    alone: bool,
    tried: bool,
    from_lease: Option<i64>,
}

impl TryFrom<SpanRecord> for Span {
    type Error = Trouble;

    fn try_from(record: SpanRecord) -> Result<Self, Trouble> {
        let hold = match (record.lease, record.claim_number) {
            (Some(lease), Some(number)) => {
                Some(Hold { lease: lease_id(lease)?, claim_number: natural(number)?, alone: record.alone })
            }
            _ => None,
        };
        Ok(Self {
            token: Token(natural(record.token)?),
            batch: batch_id(record.batch)?,
            lines: lines_from_json(&record.lines)?,
            hold,
            not_before: record.not_before.map(StoreTime),
            suspicion: small(record.suspicion)?,
            tried: record.tried,
            from_lease: record.from_lease.map(lease_id).transpose()?,
        })
    }
}

const HELD_BY_TOKENS: &str = "\
select token, batch, lines, lease, claim_number, not_before, suspicion, alone, tried, from_lease
from spans
where token in (select value from json_each(?1)) and lease = ?2";

/// Those of the spans under these tokens that the lease holds.
pub(super) async fn held_by_tokens(
    conn: &mut SqliteConnection,
    tokens: &[u64],
    lease: LeaseId,
) -> Result<HashMap<Token, Span>, Trouble> {
    let records: Vec<SpanRecord> =
        sqlx::query_as(HELD_BY_TOKENS).bind(json(&tokens)?).bind(int(lease.number())).fetch_all(conn).await?;
    records.into_iter().map(|record| Span::try_from(record).map(|span| (span.token, span))).collect()
}

const HELD_BY_LEASE: &str = "\
select token, batch, lines, lease, claim_number, not_before, suspicion, alone, tried, from_lease
from spans
where lease = ?1
order by token";

/// All spans that the lease holds, in token order.
pub(super) async fn held_by_lease(conn: &mut SqliteConnection, lease: LeaseId) -> Result<Vec<Span>, Trouble> {
    let records: Vec<SpanRecord> = sqlx::query_as(HELD_BY_LEASE).bind(int(lease.number())).fetch_all(conn).await?;
    records.into_iter().map(Span::try_from).collect()
}

const DELETE_SPANS: &str = "\
delete from spans
where token in (select value from json_each(?1)) and lease is ?2";

const SHRINK_SPANS: &str = "\
update spans
set lines = change.value -> 1, line_count = change.value ->> 2, first_line = change.value ->> 3
from jsonb_each(?1) as change
where spans.token = change.value ->> 0 and spans.lease is ?2";

const INSERT_SPANS: &str = "\
insert into spans (token, batch, lines, line_count, first_line, lease, claim_number, not_before, suspicion, alone, tried, from_lease)
select value ->> 0, value ->> 1, value -> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
       value ->> 9, value ->> 10, value ->> 11
from jsonb_each(?1)";

/// A span that lost lines: its token, lines, their count, the first.
#[derive(Debug, serde::Serialize)]
struct Shrunk(u64, Vec<(u64, u64)>, u64, u64);

/// Spans that change hands in one transaction: all that go or shrink are of one holder.
#[derive(Debug)]
pub(super) struct SpanChanges {
    holder: Option<LeaseId>,
    gone: Vec<u64>,
    shrunk: Vec<Shrunk>,
    new: Vec<Span>,
}

impl SpanChanges {
    /// Changes to spans of this lease, or to free ones.
    pub(super) fn of(holder: Option<LeaseId>) -> Self {
        Self { holder, gone: Vec::new(), shrunk: Vec::new(), new: Vec::new() }
    }

    /// The span ends: all its lines left it, or it goes on under other tokens.
    pub(super) fn end(&mut self, span: &Span) {
        self.gone.push(span.token.0);
    }

    /// Lines left the span; these are the ones still open.
    pub(super) fn keep(&mut self, span: &Span) {
        match span.lines.first() {
            Some(first) => self.shrunk.push(Shrunk(span.token.0, ranges(&span.lines), span.lines.count(), first)),
            None => self.end(span),
        }
    }

    /// A span under a token just drawn.
    pub(super) fn begin(&mut self, span: Span) {
        self.new.push(span);
    }

    /// Writes them. A span that is not in the expected hands any more rolls everything back.
    pub(super) async fn write(self, conn: &mut SqliteConnection) -> Result<(), Trouble> {
        let holder = self.holder.map(|lease| int(lease.number()));
        if !self.gone.is_empty() {
            let query = sqlx::query(DELETE_SPANS).bind(json(&self.gone)?).bind(holder);
            expect_all(self.gone.len(), query.execute(&mut *conn).await?.rows_affected())?;
        }
        if !self.shrunk.is_empty() {
            let query = sqlx::query(SHRINK_SPANS).bind(json(&self.shrunk)?).bind(holder);
            expect_all(self.shrunk.len(), query.execute(&mut *conn).await?.rows_affected())?;
        }
        if !self.new.is_empty() {
            let records: Vec<_> = self.new.iter().map(span_record).collect();
            sqlx::query(INSERT_SPANS).bind(json(&records)?).execute(&mut *conn).await?;
        }
        Ok(())
    }
}

/// A record of spans, column by column as [`INSERT_SPANS`] has them.
type NewRecord =
    (u64, u64, Vec<(u64, u64)>, u64, Option<u64>, Option<u64>, Option<u64>, Option<i64>, u32, u8, u8, Option<u64>);

fn span_record(span: &Span) -> NewRecord {
    (
        span.token.0,
        span.batch.number(),
        ranges(&span.lines),
        span.lines.count(),
        span.lines.first(),
        span.hold.map(|hold| hold.lease.number()),
        span.hold.map(|hold| hold.claim_number),
        span.not_before.map(|time| time.0),
        span.suspicion,
        u8::from(span.hold.is_some_and(|hold| hold.alone)),
        u8::from(span.tried),
        span.from_lease.map(LeaseId::number),
    )
}

fn expect_all(expected: usize, changed: u64) -> Result<(), Trouble> {
    if u64::try_from(expected).is_ok_and(|expected| expected == changed) {
        Ok(())
    } else {
        Err(Trouble::damaged("a span changed hands inside another's transaction"))
    }
}

const LAST_TOKEN: &str = "select last_token from store where one = 1";

const SET_LAST_TOKEN: &str = "update store set last_token = ?1 where one = 1 and last_token < ?1";

/// T3: tokens drawn in one transaction, under the write lock.
#[derive(Debug)]
pub(super) struct Tokens {
    kept: Token,
    last: Token,
}

impl Tokens {
    /// Begins where the store stands.
    pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Self, Trouble> {
        let kept: i64 = sqlx::query_scalar(LAST_TOKEN).fetch_one(conn).await?;
        let kept = Token(natural(kept)?);
        Ok(Self { kept, last: kept })
    }

    /// Draws the next.
    pub(super) fn draw(&mut self) -> Token {
        fencepost_core::rules::transactions::t3_draw_token(&mut self.last)
    }

    /// Keeps the last one drawn.
    pub(super) async fn write(self, conn: &mut SqliteConnection) -> Result<(), Trouble> {
        if self.last > self.kept {
            sqlx::query(SET_LAST_TOKEN).bind(int(self.last.0)).execute(conn).await?;
        }
        Ok(())
    }
}
