//! O7, what the stores share: one row's effects, bounded in time, and what becomes of a row whose effects failed.

use std::panic::AssertUnwindSafe;

use fencepost_core::random::Stream;
use fencepost_core::store::{Answer, RecordItem};
use fencepost_core::worker::RunKey;
use futures_util::FutureExt;
use sqlx::Database;
use tokio::time::Instant;

use crate::driver::worker::panic_message;
use crate::handler::transactional::Effects;
use crate::handler::typed::RowError;

pub(super) const BEFORE_EFFECTS: &str = "savepoint effects";
pub(super) const KEEP_EFFECTS: &str = "release savepoint effects";
pub(super) const UNDO_EFFECTS: &str = "rollback to savepoint effects";

/// What a row's effects came to, before they are kept or undone; `None`: the time was up before.
pub(super) async fn attempt<Db: Database>(
    effects: &dyn Effects<Db>,
    conn: &mut Db::Connection,
    item: &RecordItem,
    until: Instant,
) -> Option<Result<Box<str>, RowError>> {
    let row = RunKey { batch: item.batch, line: item.line, token: item.token };
    let applying = AssertUnwindSafe(async { effects.apply(conn, row).await }).catch_unwind();
    match tokio::time::timeout_at(until, applying).await {
        Ok(Ok(result)) => Some(result),
        Ok(Err(panic)) => {
            let error = format!("applying the row's effects {}", panic_message(panic.as_ref()));
            Some(Err(RowError::Retry(error)))
        }
        Err(_) => None,
    }
}

/// What is said of a row whose effects ran out of time.
pub(super) fn too_slow(limit: std::time::Duration) -> RowError {
    RowError::Retry(format!("applying the row's effects took longer than {limit:?}"))
}

/// The answer for a row whose effects failed. The jitter only spreads backoffs: any number that differs by row does.
pub(super) fn undone(item: &RecordItem, error: RowError) -> Answer {
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
