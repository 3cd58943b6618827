//! O7: effects of handlers, applied inside the transaction that records their rows' outcomes.

use std::sync::Arc;
use std::time::Duration;

use fencepost_core::store::{Answer, Record, RecordItem, StoreFailure, StoreReply, Verdict};
use sqlx::{Sqlite, SqliteConnection};
use tokio::time::Instant;

use super::load::LET_OTHERS_IN;
use super::record::Fences;
use super::trouble::Trouble;
use super::{SqliteStore, record};
use crate::handler::transactional::{Effects, TransactionalStore, sealed};
use crate::handler::typed::RowError;
use crate::store::StoreError;
use crate::store::effects::{BEFORE_EFFECTS, KEEP_EFFECTS, UNDO_EFFECTS, attempt, too_slow, undone};

impl sealed::Sealed for SqliteStore {}

impl TransactionalStore for SqliteStore {
    type Database = Sqlite;

    /// A group whose effects take long is recorded in several transactions: others get their turn in between (T2).
    async fn record_with_effects(
        &self,
        record: Record,
        effects: Arc<dyn Effects<Sqlite>>,
    ) -> Result<StoreReply, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut rest = record;
            let mut verdicts = Vec::with_capacity(rest.items.len());
            loop {
                match store.record_some(&rest, effects.as_ref()).await {
                    Ok(some) => {
                        rest.items.drain(..some.len());
                        verdicts.extend(some);
                    }
                    Err(error) if verdicts.is_empty() => return Err(error),
                    // Some of the group is recorded: the whole of it is repeated (O2).
                    Err(error) => return Err(StoreError { failure: StoreFailure::Unknown, ..error }),
                }
                if rest.items.is_empty() {
                    return Ok(StoreReply::Record(verdicts));
                }
                tokio::time::sleep(LET_OTHERS_IN).await;
            }
        })
        .await
    }
}

impl SqliteStore {
    /// Half the time that others wait for the lock may go on effects.
    async fn record_some(&self, record: &Record, effects: &dyn Effects<Sqlite>) -> Result<Vec<Verdict>, StoreError> {
        let mut write = self.begin().await?;
        let now = write.now;
        let limit = self.lock_wait / 2;
        let verdicts = record::record_with_effects(write.conn(), now, record, effects, limit).await;
        write.end(verdicts).await
    }
}

/// Applies the effects of the items that hold, from the first item on, until the time is up; one item at least. Answers
/// those items with what their effects came to, and which of them hold.
pub(super) async fn apply(
    conn: &mut SqliteConnection,
    record: &Record,
    fences: &mut Fences,
    effects: &dyn Effects<Sqlite>,
    limit: Duration,
) -> Result<(Record, Vec<bool>), Trouble> {
    let until = Instant::now() + limit;
    let mut applied = Record { lease: record.lease, items: Vec::new() };
    let mut holds = Vec::new();
    for item in &record.items {
        let first = applied.items.is_empty();
        if !first && Instant::now() >= until {
            break;
        }
        let mut item = item.clone();
        if fences.holds(&item) && matches!(item.answer, Answer::Success(_)) {
            item.answer = match apply_one(conn, &item, effects, until).await? {
                Some(Ok(result)) => Answer::Success(result),
                Some(Err(error)) => undone(&item, error),
                // It gets all of the time in the next transaction.
                None if !first => break,
                None => undone(&item, too_slow(limit)),
            };
        }
        holds.push(fences.take_out(&item));
        applied.items.push(item);
    }
    Ok((applied, holds))
}

/// What the effects came to; `None`: the time was up before. Nothing is kept of effects that failed.
async fn apply_one(
    conn: &mut SqliteConnection,
    item: &RecordItem,
    effects: &dyn Effects<Sqlite>,
    until: Instant,
) -> Result<Option<Result<Box<str>, RowError>>, Trouble> {
    sqlx::query(BEFORE_EFFECTS).execute(&mut *conn).await?;
    let came_to = attempt(effects, conn, item, until).await;
    if !matches!(came_to, Some(Ok(_))) {
        sqlx::query(UNDO_EFFECTS).execute(&mut *conn).await?;
    }
    sqlx::query(KEEP_EFFECTS).execute(conn).await?;
    Ok(came_to)
}
