//! S: leaving and stopping.

use std::time::Duration;

use crate::lines::LineSet;
use crate::purge::PurgeBegun;
use crate::rules::claim::BatchStatus;
use crate::store::Operated;
use crate::time::{Instant, StoreTime};

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

/// S2: which of a span's lines may still run although their batch is aborted: those that were held at the abort, less those that
/// were given back, or answered, under the token they were held under. A settling of the span's claim (C2) ends all of them,
/// since it grants none; so does the lease's end.
pub fn s2_still_runs(lines: &LineSet, ended: &LineSet) -> LineSet {
    lines.difference(ended)
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

/// S3: an append that has not moved for so long, by the store's clock, was cut off: the next one removes it.
pub const S3_CUT_OFF_AFTER: Duration = Duration::from_secs(60);

/// S3: which batches take more rows, held or not. `None`: there is no such batch.
pub fn s3_may_append(status: Option<BatchStatus>) -> bool {
    status == Some(BatchStatus::Open)
}

/// S3: whether an append that last moved then was cut off.
pub fn s3_cut_off(moved_at: StoreTime, now: StoreTime) -> bool {
    now.since(moved_at) >= S3_CUT_OFF_AFTER
}

/// S3: when an append last moved, as far as that can be: after the store's clock was stepped back, now. Else it would stand in the
/// way for as long as the step was.
pub fn s3_moved_at(moved_at: StoreTime, now: StoreTime) -> StoreTime {
    moved_at.min(now)
}

/// S3: how far an append's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppendState {
    /// Its rows are being stored beyond the batch's total.
    Loading,
    /// It was given up, refused or cut off: its rows are being removed, its record is the last to go.
    Removing,
    /// Its rows are the batch's.
    Done,
}

/// S3: a batch's one append that is not done, as a further beginning sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedAppend {
    /// Whether it is the one that begins: the reply to its first try was lost.
    pub own: bool,
    /// Loading or removing.
    pub state: AppendState,
    /// When it last stored rows.
    pub moved_at: StoreTime,
}

/// S3: what the beginning of an append comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendBeginning {
    /// An append with this key, or this id, is done. Whether its content is the same is for its digest to say.
    Done,
    /// The batch takes no rows.
    Refused,
    /// It has begun before.
    Begun,
    /// Another one loads: to be asked again later.
    Busy,
    /// What is left of another one is to be removed first.
    Remove,
    /// A record is to be written: its lines begin behind the total.
    Begin,
}

/// S3: decides in a transaction that shares the batch's lock. What is done stays known when the batch has ended, not when it was purged
/// (S6). A batch has one append at a time: so no line is given out twice.
pub fn s3_begin_append(
    done: bool,
    status: Option<BatchStatus>,
    unfinished: Option<UnfinishedAppend>,
    now: StoreTime,
) -> AppendBeginning {
    if done && status.is_some() {
        return AppendBeginning::Done;
    }
    if !s3_may_append(status) {
        return AppendBeginning::Refused;
    }
    match unfinished {
        None => AppendBeginning::Begin,
        Some(UnfinishedAppend { state: AppendState::Loading, own: true, .. }) => AppendBeginning::Begun,
        Some(UnfinishedAppend { state: AppendState::Loading, moved_at, .. }) if !s3_cut_off(moved_at, now) => {
            AppendBeginning::Busy
        }
        Some(_) => AppendBeginning::Remove,
    }
}

/// S3: whether rows of an append are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendStaging {
    /// They are.
    Store,
    /// The batch has ended meanwhile.
    Refused,
    /// The append does not load any more.
    TakenOver,
}

/// S3: decides in the slice's own transaction, which has the lock on the append's record.
pub fn s3_stage(state: Option<AppendState>, status: Option<BatchStatus>) -> AppendStaging {
    match state {
        _ if !s3_may_append(status) => AppendStaging::Refused,
        Some(AppendState::Loading) => AppendStaging::Store,
        _ => AppendStaging::TakenOver,
    }
}

/// S3: what the end of an append comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendEnding {
    /// The total is to be raised over its rows.
    Raise,
    /// An earlier try raised it.
    Same,
    /// An earlier try raised it, with other content.
    Differs,
    /// The batch has ended meanwhile: the rows are to be removed.
    Refused,
    /// The append does not load any more.
    TakenOver,
}

/// S3: decides in the transaction that holds the batch exclusively. `own`: the append's record and its digest.
pub fn s3_finish_append(
    own: Option<(AppendState, Option<&str>)>,
    status: Option<BatchStatus>,
    digest: &str,
) -> AppendEnding {
    match own {
        _ if status.is_none() => AppendEnding::Refused,
        Some((AppendState::Done, there)) if there == Some(digest) => AppendEnding::Same,
        Some((AppendState::Done, _)) => AppendEnding::Differs,
        _ if !s3_may_append(status) => AppendEnding::Refused,
        Some((AppendState::Loading, _)) => AppendEnding::Raise,
        Some((AppendState::Removing, _)) | None => AppendEnding::TakenOver,
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

/// S6: an ended batch as the beginning of its purge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeCandidate {
    /// Its status.
    pub status: BatchStatus,
    /// When it ended.
    pub ended_at: Option<StoreTime>,
    /// Whether it has any span: an ended batch never does.
    pub has_spans: bool,
    /// Whether a completion call of it is under way, or a slice of an append, or something that was held at its abort may still run.
    pub busy: bool,
}

/// S6: decides in the transaction that holds the batch exclusively. `begun`: its purge has begun, and its record is gone.
pub fn s6_begin_purge(found: Option<PurgeCandidate>, begun: bool, ended_before: StoreTime) -> PurgeBegun {
    match found {
        None if begun => PurgeBegun::Before,
        None => PurgeBegun::NotThere,
        Some(found) if !s6_may_purge(found.status) || found.has_spans => PurgeBegun::NotEnded,
        Some(found) if found.ended_at.is_none_or(|ended_at| ended_at > ended_before) => PurgeBegun::EndedSince,
        Some(found) if found.busy => PurgeBegun::Busy,
        Some(_) => PurgeBegun::Now,
    }
}

/// S6: the lines that a slice removes: those after the first number, up to the second.
pub fn s6_slice(gone_to: u64, last_line: u64, lines_max: u64) -> (u64, u64) {
    (gone_to, gone_to.saturating_add(lines_max.max(1)).min(last_line))
}

/// S6: how many of a batch's rows are among these lines. Those beyond its total were staged by an append that never ended.
pub fn s6_rows_of(after: u64, to: u64, total: u64) -> u64 {
    to.min(total) - after.min(total)
}

/// S6: whether anything of a batch can refer to an ended lease: only of one that was open at some time while the lease lived.
pub fn s6_may_refer(
    (taken_at, lease_ended_at): (StoreTime, StoreTime),
    (created_at, batch_ended_at): (StoreTime, Option<StoreTime>),
) -> bool {
    created_at <= lease_ended_at && batch_ended_at.is_none_or(|ended_at| ended_at >= taken_at)
}
