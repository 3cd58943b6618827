//! O7: effects of handlers, applied inside the transaction that records their rows' outcomes.

use std::sync::Arc;
use std::time::Duration;

use fencepost_core::random::Stream;
use fencepost_core::store::{Answer, Record, RecordItem, StoreReply};
use fencepost_core::worker::RunKey;
use sqlx::SqliteConnection;

use super::trouble::Trouble;
use super::{SqliteStore, record};
use crate::handler::transactional::Effects;
use crate::handler::typed::RowError;
use crate::store::StoreError;

impl SqliteStore {
    /// Records a group of answers, and applies the effects of those that are recorded now.
    pub async fn record_with_effects(
        &self,
        record: Record,
        effects: Arc<dyn Effects>,
    ) -> Result<StoreReply, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut write = store.begin().await?;
            let now = write.now;
            // Others wait for the lock meanwhile (T2).
            let limit = store.lock_wait;
            let verdicts = record::record_with_effects(write.conn(), now, &record, effects.as_ref(), limit).await;
            write.end(verdicts).await.map(StoreReply::Record)
        })
        .await
    }
}

const BEFORE_EFFECTS: &str = "savepoint effects";
const KEEP_EFFECTS: &str = "release effects";
const UNDO_EFFECTS: &str = "rollback to effects";

/// Applies the effects of the items that hold. The answers become what the effects came to.
pub(super) async fn apply(
    conn: &mut SqliteConnection,
    record: &Record,
    holds: &[bool],
    effects: &dyn Effects,
    limit: Duration,
) -> Result<Record, Trouble> {
    let mut applied = record.clone();
    for (item, _) in applied.items.iter_mut().zip(holds).filter(|(_, holds)| **holds) {
        if matches!(item.answer, Answer::Success(_)) {
            apply_one(conn, item, effects, limit).await?;
        }
    }
    Ok(applied)
}

async fn apply_one(
    conn: &mut SqliteConnection,
    item: &mut RecordItem,
    effects: &dyn Effects,
    limit: Duration,
) -> Result<(), Trouble> {
    let row = RunKey { batch: item.batch, line: item.line, token: item.token };
    sqlx::query(BEFORE_EFFECTS).execute(&mut *conn).await?;
    let came_to = match tokio::time::timeout(limit, effects.apply(conn, row)).await {
        Ok(None) => None,
        Ok(Some(result)) => Some(result),
        Err(_) => Some(Err(RowError::Retry(format!("applying the row's effects took longer than {limit:?}")))),
    };
    match came_to {
        Some(Err(error)) => {
            sqlx::query(UNDO_EFFECTS).execute(&mut *conn).await?;
            item.answer = undone(item, error);
        }
        Some(Ok(result)) => item.answer = Answer::Success(result),
        None => {}
    }
    sqlx::query(KEEP_EFFECTS).execute(conn).await?;
    Ok(())
}

/// The answer for a row whose effects failed. The jitter only spreads backoffs: any number that differs by row does.
fn undone(item: &RecordItem, error: RowError) -> Answer {
    let jitter = Stream::new(item.token.0 ^ item.line.rotate_left(32)).next_u64();
    match error {
        RowError::Failed(error) => Answer::Failed(error.into()),
        RowError::Retry(error) => Answer::Retry { error: error.into(), jitter, timed_out: false },
        RowError::Cancelled => {
            let error = "the row's effects were given up".into();
            Answer::Retry { error, jitter, timed_out: false }
        }
    }
}
