//! C: claims.

use std::time::Duration;

use crate::ids::{BatchId, Token};
use crate::rules::lease::{LeaseState, l1_may_claim};

/// Where a batch is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchStatus {
    /// Its rows are being written; nothing of it is claimable (S4).
    Loading,
    /// Open for claims unless held.
    Open,
    /// Ended: every row succeeded.
    Success,
    /// Ended: at least one row failed.
    Failed,
    /// Aborted (S2).
    Aborted,
}

impl BatchStatus {
    /// Its name in SQL, JSON and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Open => "open",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Reads a name back.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Loading, Self::Open, Self::Success, Self::Failed, Self::Aborted].into_iter().find(|s| s.name() == name)
    }
}

/// C1: a claim takes effect only under a lease that is live.
pub fn c1_lease_may_take(state: Option<LeaseState>) -> bool {
    l1_may_claim(state)
}

/// C2: a claim happens only under a number larger than every number of its lease that happened or was closed.
pub fn c2_number_is_open(last_number: u64, number: u64) -> bool {
    number > last_number
}

/// C2: what settling a claim leaves as the lease's last number: from then on the claim can no longer happen.
pub fn c2_close_number(last_number: u64, number: u64) -> u64 {
    last_number.max(number)
}

/// What decides a batch's place in the order of claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchTurn {
    /// The batch.
    pub batch: BatchId,
    /// Higher comes first.
    pub priority: i32,
    /// The token of the batch's last claim: who waited longest comes first (fair turns).
    pub last_claim: Token,
}

/// C3: the order between batches: by priority, then fair turns, then age of the id as a tie-break.
pub fn c3_batch_order(batches: &mut [BatchTurn]) {
    batches
        .sort_by(|a, b| b.priority.cmp(&a.priority).then(a.last_claim.cmp(&b.last_claim)).then(a.batch.cmp(&b.batch)));
}

/// C3: held, loading and ended batches, and operations without a handler, are not claimed.
pub fn c3_claimable<'a>(
    status: BatchStatus,
    held: bool,
    operation: &str,
    mut handled: impl Iterator<Item = &'a str>,
) -> bool {
    status == BatchStatus::Open && !held && handled.any(|name| name == operation)
}

/// C3: how many lines a worker wants: what it expects to start within the horizon, from its own measured rate, or at
/// least what it could start now; less what it holds unstarted. So slow rows are claimed one at a time, quick ones by the
/// thousand.
pub fn c3_claim_lines(
    mean_run_time: Option<Duration>,
    concurrency: u32,
    free_slots: u32,
    horizon: Duration,
    unstarted: u64,
    lines_max: u64,
) -> u64 {
    c3_lines_ahead(mean_run_time, concurrency, horizon)
        .max(u64::from(free_slots))
        .min(lines_max)
        .saturating_sub(unstarted)
}

/// C3: how many lines a worker expects to start within the horizon; none before anything is measured.
pub fn c3_lines_ahead(mean_run_time: Option<Duration>, concurrency: u32, horizon: Duration) -> u64 {
    let Some(mean) = mean_run_time else { return 0 };
    let starts = u128::from(concurrency) * horizon.as_nanos() / mean.as_nanos().max(100);
    u64::try_from(starts).unwrap_or(u64::MAX)
}

/// C3: how many lines a worker that has enough of them (so many unstarted) claims of a batch that was opened just now: what it starts in half
/// its horizon, or as many as it runs at once. It then holds no more than twice what it would hold otherwise.
pub fn c3_newcomer_lines(ahead: u64, concurrency: u32, unstarted: u64, lines_max: u64) -> u64 {
    let most = ahead.max(u64::from(concurrency)) * 2;
    (ahead / 2).max(u64::from(concurrency)).min(lines_max).min(most.saturating_sub(unstarted))
}

/// C3: how many bytes of inputs a worker that holds so many claims now, if any: what there is room for, and nothing while that is
/// less than half a claim. The first row of a claim always fits, so it holds `held_max` and one row at most.
pub fn c3_claim_bytes(held: u64, claim_max: u64, held_max: u64) -> Option<u64> {
    let room = held_max.saturating_sub(held);
    if held == 0 {
        return Some(claim_max);
    }
    (room >= claim_max.div_ceil(2)).then(|| claim_max.min(room))
}

/// C3: how many of the rows offered, in order, fit into a claim's bytes; the first always does.
pub fn c3_rows_within_bytes(sizes: impl IntoIterator<Item = u64>, bytes_max: u64) -> usize {
    let mut sum = 0u64;
    let mut rows = 0;
    for size in sizes {
        sum = sum.saturating_add(size);
        if rows > 0 && sum > bytes_max {
            break;
        }
        rows += 1;
    }
    rows
}
