//! S: leaving and stopping.

use std::time::Duration;

use crate::lines::LineSet;
use crate::rules::claim::BatchStatus;
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

/// S6: only ended batches are purged.
pub fn s6_may_purge(status: BatchStatus) -> bool {
    matches!(status, BatchStatus::Success | BatchStatus::Failed | BatchStatus::Aborted)
}
