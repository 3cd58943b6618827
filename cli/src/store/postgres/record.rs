//! O1 to O5: recording a group of answers; S1, L4: giving lines back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use fencepost_core::store::{Answer, Record, Recorded, Verdict};
use fencepost_core::{BatchId, LeaseId, LineSet, Token};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::call::Call;
use super::codec::{int, micros_of, multirange, storable};
use super::trouble::Trouble;
use crate::store::StoreError;

/// A dropped answer, or a superseded outcome, is kept in the row's story up to so many bytes.
pub(super) const DROPPED_ANSWER_BYTES_MAX: i32 = 4096;

impl PostgresStore {
    /// O3: records a group in one transaction; one verdict per item, in their order.
    pub(super) async fn record(&self, record: &Record) -> Result<Vec<Verdict>, StoreError> {
        if record.items.is_empty() {
            return Ok(Vec::new());
        }
        let row = self.connections.call_one(record_call(record, self.at(), None)).await?;
        self.read(|| verdicts(record, &row))
    }

    /// S1, L4: lines go back as they were, with no attempt used.
    pub(super) async fn give_back(
        &self,
        lease: LeaseId,
        given: &[(BatchId, Token, LineSet)],
    ) -> Result<(), StoreError> {
        if given.is_empty() {
            return Ok(());
        }
        let call = Call::new("give_back")
            .arg(int(lease.number()))
            .arg(given.iter().map(|(batch, _, _)| int(batch.number())).collect::<Vec<_>>())
            .arg(given.iter().map(|(_, token, _)| int(token.0)).collect::<Vec<_>>())
            .arg(given.iter().map(|(_, _, lines)| Cow::Owned(multirange(lines))).collect::<Vec<_>>())
            .arg(self.at());
        self.connections.call(call).await.map(drop)
    }
}

/// A group as the function takes it: its items column by column, then the same lines once more, a set per span. `exclusive`:
/// what `fence` answered earlier in this transaction, which has the locks.
pub(super) fn record_call(record: &Record, at: Option<i64>, exclusive: Option<Vec<i64>>) -> Call<'_> {
    let items = &record.items;
    let mut groups: BTreeMap<(BatchId, Token), Vec<u64>> = BTreeMap::new();
    for item in items {
        groups.entry((item.batch, item.token)).or_default().push(item.line);
    }
    let groups: Vec<(BatchId, Token, LineSet)> =
        groups.into_iter().map(|((batch, token), lines)| (batch, token, lines.into_iter().collect())).collect();
    Call::new("record_answers")
        .arg(int(record.lease.number()))
        .arg(items.iter().map(|item| int(item.batch.number())).collect::<Vec<_>>())
        .arg(items.iter().map(|item| int(item.line)).collect::<Vec<_>>())
        .arg(items.iter().map(|item| int(item.token.0)).collect::<Vec<_>>())
        .arg(items.iter().map(|item| kind(&item.answer)).collect::<Vec<i16>>())
        .arg(items.iter().map(|item| storable(text(&item.answer))).collect::<Vec<_>>())
        .arg(items.iter().map(|item| spread_of(&item.answer)).collect::<Vec<i32>>())
        .arg(items.iter().map(|item| micros_of(item.run_time)).collect::<Vec<_>>())
        .arg(groups.iter().map(|(batch, _, _)| int(batch.number())).collect::<Vec<_>>())
        .arg(groups.iter().map(|(_, token, _)| int(token.0)).collect::<Vec<_>>())
        .arg(groups.iter().map(|(_, _, lines)| Cow::Owned(multirange(lines))).collect::<Vec<_>>())
        .arg(groups.iter().map(|(_, _, lines)| int(lines.count())).collect::<Vec<_>>())
        .arg(DROPPED_ANSWER_BYTES_MAX)
        .arg(at)
        .arg(exclusive)
}

fn kind(answer: &Answer) -> i16 {
    match answer {
        Answer::Success(_) => 0,
        Answer::Failed(_) => 1,
        Answer::Retry { timed_out: false, .. } => 2,
        Answer::Retry { timed_out: true, .. } => 3,
    }
}

fn text(answer: &Answer) -> &str {
    match answer {
        Answer::Success(text) | Answer::Failed(text) | Answer::Retry { error: text, .. } => text,
    }
}

/// `o5_backoff`: half to one and a half times the middle, in thousandths.
pub(super) fn spread(jitter: u64) -> i32 {
    500 + i32::try_from(jitter % 1001).unwrap_or(0)
}

fn spread_of(answer: &Answer) -> i32 {
    match answer {
        Answer::Retry { jitter, .. } => spread(*jitter),
        Answer::Success(_) | Answer::Failed(_) => 0,
    }
}

/// Null: all are recorded as they were answered.
pub(super) fn verdicts(record: &Record, row: &PgRow) -> Result<Vec<Verdict>, Trouble> {
    let Some(codes): Option<Vec<i16>> = row.try_get(0)? else {
        let recorded = |answer: &Answer| match answer {
            Answer::Success(_) => Verdict::Recorded(Recorded::Success),
            Answer::Failed(_) | Answer::Retry { .. } => Verdict::Recorded(Recorded::Failed),
        };
        return Ok(record.items.iter().map(|item| recorded(&item.answer)).collect());
    };
    if codes.len() != record.items.len() {
        return Err(Trouble::damaged("not one verdict per answer"));
    }
    let verdict = |code| match code {
        1 => Ok(Verdict::Recorded(Recorded::Success)),
        2 => Ok(Verdict::Recorded(Recorded::Failed)),
        3 => Ok(Verdict::Recorded(Recorded::GivenBack)),
        4 => Ok(Verdict::RecordedBefore),
        5 => Ok(Verdict::Fenced),
        _ => Err(Trouble::damaged("a verdict that does not exist")),
    };
    codes.into_iter().map(verdict).collect()
}
