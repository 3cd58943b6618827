//! S: leaving and stopping.

use std::time::Duration;

use crate::lines::LineSet;
use crate::rules::claim::BatchStatus;
use crate::store::Operated;
use crate::time::Instant;

/// S1: when running rows are cancelled after a stop.
pub fn s1_grace_ends(stopped_at: Instant, grace: Duration) -> Instant {
    stopped_at + grace
}

/// S1: what dropping a lease makes of one held span: free, suspicion unchanged, no attempt and no crash used.
pub fn s1_after_drop(lines: &LineSet, suspicion: u32) -> (LineSet, u32) {
    (lines.clone(), suspicion)
}

/// S2: which batches a worker must let go of.
pub fn s2_closed(status: Option<BatchStatus>) -> bool {
    status != Some(BatchStatus::Open)
}

/// S2: what an abort comes to. Where that is `Now`, the batch ends as aborted and its spans are deleted in a later statement.
pub fn s2_abort(status: Option<BatchStatus>) -> Operated {
    match status {
        None => Operated::NotThere,
        Some(BatchStatus::Loading) => Operated::Loading,
        Some(BatchStatus::Open) => Operated::Now,
        Some(BatchStatus::Aborted) => Operated::Before,
        Some(ended @ (BatchStatus::Success | BatchStatus::Failed)) => Operated::Ended(ended),
    }
}

/// S3: what holding a batch comes to, or (with `hold` false) resuming it. `held`: whether it is held already.
pub fn s3_hold(status: Option<BatchStatus>, held: bool, hold: bool) -> Operated {
    match status {
        None => Operated::NotThere,
        Some(BatchStatus::Loading) => Operated::Loading,
        Some(BatchStatus::Open) if held == hold => Operated::Before,
        Some(BatchStatus::Open) => Operated::Now,
        Some(ended @ (BatchStatus::Success | BatchStatus::Failed | BatchStatus::Aborted)) => Operated::Ended(ended),
    }
}

/// S4: what a finished load finds under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBinding {
    /// Nothing: bind the key, open the batch.
    Bind,
    /// The same content: the load is a repeat; drop its rows and answer with the batch that is there.
    Same,
    /// Other content: an error, and the load's rows are dropped.
    Differs,
}

/// S4: decides in the transaction that ends the loading. `bound` is the digest of the batch under the key.
pub fn s4_bind_key(bound: Option<&str>, digest: &str) -> KeyBinding {
    match bound {
        None => KeyBinding::Bind,
        Some(bound) if bound == digest => KeyBinding::Same,
        Some(_) => KeyBinding::Differs,
    }
}

/// S5: whether outcomes of a batch may be turned back into free spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayRetry {
    /// Yes. `reopens`: the batch has ended, so that it opens again where any outcome is taken away.
    Yes {
        /// It has ended.
        reopens: bool,
    },
    /// It was aborted, which is final.
    Aborted,
    /// It is loading: it has no outcomes yet.
    Loading,
    /// It is not there.
    NotThere,
}

/// S5: an operator's retry is for batches that are open, or ended other than by an abort.
pub fn s5_may_retry(status: Option<BatchStatus>) -> MayRetry {
    match status {
        None => MayRetry::NotThere,
        Some(BatchStatus::Loading) => MayRetry::Loading,
        Some(BatchStatus::Aborted) => MayRetry::Aborted,
        Some(BatchStatus::Open) => MayRetry::Yes { reopens: false },
        Some(BatchStatus::Success | BatchStatus::Failed) => MayRetry::Yes { reopens: true },
    }
}

/// S5: the generation that a batch is in after a retry of so many rows: the next one, where that opens an ended batch again.
pub fn s5_generation(generation: u32, reopens: bool, rows: u64) -> u32 {
    generation.saturating_add(u32::from(reopens && rows > 0))
}

/// S6: only ended batches are purged.
pub fn s6_may_purge(status: BatchStatus) -> bool {
    matches!(status, BatchStatus::Success | BatchStatus::Failed | BatchStatus::Aborted)
}
