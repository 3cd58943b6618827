//! O: outcomes.

use std::time::Duration;

use crate::ids::Token;
use crate::rules::claim::BatchStatus;
use crate::time::Instant;

/// O1: what the fence says of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// A span under the token still holds the line: the write takes effect.
    Holds,
    /// The write took effect before, under the same token.
    Before,
    /// The line is out of the token's hands: the write is dropped and counted.
    Fenced,
}

/// O1: the verdict on one line. `held` is tested on the record that the write changes; the other two are looked up in a
/// later statement (O2): the token of the line's outcome, and whether the log has something recorded under this token: the
/// line's return, or an outcome that an operator's retry superseded (S5).
pub fn o1_fence(held: bool, token: Token, outcome_token: Option<Token>, logged_under_token: bool) -> Fence {
    if held {
        Fence::Holds
    } else if outcome_token == Some(token) || logged_under_token {
        Fence::Before
    } else {
        Fence::Fenced
    }
}

/// O2: whether a write is to be repeated as it is: its end is unknown, or it did not happen.
pub fn o2_repeat(reply_arrived: bool) -> bool {
    !reply_arrived
}

/// O3: whether a group is to be written now.
pub fn o3_flush_due(
    lines: usize,
    lines_max: usize,
    bytes: usize,
    bytes_max: usize,
    age: Duration,
    age_max: Duration,
) -> bool {
    lines > 0 && (lines >= lines_max || bytes >= bytes_max || age >= age_max)
}

/// O4: how an open batch ends, once its fresh lines are all claimed and no span of it is left. The caller holds the batch
/// exclusively from before the fence.
pub fn o4_batch_end(fresh_lines: bool, spans: bool, failed_rows: u64) -> Option<BatchStatus> {
    match (fresh_lines || spans, failed_rows) {
        (true, _) => None,
        (false, 0) => Some(BatchStatus::Success),
        (false, _) => Some(BatchStatus::Failed),
    }
}

/// O5: what a retry comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRetry {
    /// The line is free again after so long.
    Again {
        /// The backoff.
        backoff: Duration,
    },
    /// That was the last attempt: the row fails.
    Exhausted,
}

/// O5: decides a retry inside the fenced transaction. `used_before` are the attempts in the log, without this one.
pub fn o5_after_retry(used_before: u32, attempts_max: u32, jitter: u64) -> AfterRetry {
    let used = used_before.saturating_add(1);
    if used >= attempts_max { AfterRetry::Exhausted } else { AfterRetry::Again { backoff: o5_backoff(used, jitter) } }
}

/// O5: the first backoff's middle.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// O5: no backoff is longer; R2 cuts not-before times back to it.
pub const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// O5: exponential backoff after the `used`-th attempt (1 s, 2 s, 4 s, ... at most 400 s), spread over half to
/// one and a half times that by the random number `jitter`.
pub fn o5_backoff(used: u32, jitter: u64) -> Duration {
    let doubled = BACKOFF_FIRST * 2u32.saturating_pow(used.saturating_sub(1).min(16));
    // So that the longest ones are spread as well.
    let middle = doubled.min(BACKOFF_MAX * 2 / 3);
    let per_mille = 500 + u32::try_from(jitter % 1001).unwrap_or(0);
    middle * per_mille / 1000
}

/// O6: when a run is cancelled; never at the instant it starts.
pub fn o6_deadline(started_at: Instant, timeout: Duration) -> Instant {
    started_at + timeout.max(Duration::from_millis(1))
}
