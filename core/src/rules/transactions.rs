//! T: transactions.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{BatchId, Token};

/// T1: the batches that a transaction locks, in the one order that all transactions keep.
pub fn t1_lock_order(batches: impl IntoIterator<Item = BatchId>) -> Vec<BatchId> {
    batches.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// T2: how long a store lets one statement run, one lock be waited for, and one transaction idle: well below the ttl,
/// so that a process stopped inside a write does not stop the others for long.
pub fn t2_limit(ttl: Duration) -> Duration {
    (ttl / 6).clamp(Duration::from_millis(50), Duration::from_secs(5))
}

/// T3: draws the next token. The caller holds the lock on what the token is for and keeps `last_drawn` in the store.
pub fn t3_draw_token(last_drawn: &mut Token) -> Token {
    *last_drawn = Token(last_drawn.0 + 1);
    *last_drawn
}
