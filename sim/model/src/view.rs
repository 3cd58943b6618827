//! A snapshot of a store as plain data, from the model or read from a real store.

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use crate::history::OutcomeStatus;

/// What a store holds at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreView {
    /// Batches by id, those that are loading left out; in a partial view only those that were asked for.
    pub batches: Vec<BatchView>,
    /// All leases by id.
    pub leases: Vec<(LeaseId, LeaseState)>,
    /// All completions, in the order they were recorded.
    pub completions: Vec<CompletionView>,
    /// Whether all batches are here.
    pub whole: bool,
}

impl StoreView {
    /// A lease's state.
    pub fn lease_state(&self, lease: LeaseId) -> Option<LeaseState> {
        let at = self.leases.binary_search_by_key(&lease, |(lease, _)| *lease).ok()?;
        Some(self.leases[at].1)
    }

    /// A batch.
    pub fn batch(&self, batch: BatchId) -> Option<&BatchView> {
        self.batches.iter().find(|view| view.batch == batch)
    }
}

/// A batch and all that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchView {
    /// Which.
    pub batch: BatchId,
    /// Its status.
    pub status: BatchStatus,
    /// S3: held.
    pub held: bool,
    /// Lines `1..=total`.
    pub total: u64,
    /// The first line that was never claimed.
    pub cursor: u64,
    /// Its generation, from 1.
    pub generation: u32,
    /// Spans in order of their tokens.
    pub spans: Vec<SpanView>,
    /// Outcomes by line.
    pub outcomes: Vec<OutcomeView>,
    /// Tallies by lease.
    pub tallies: Vec<(LeaseId, Tally)>,
    /// What the log has.
    pub logged: LogCounts,
    /// The counts as the store reports them.
    pub counts: RowCounts,
}

/// A span.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanView {
    /// Its token.
    pub token: Token,
    /// Its open lines.
    pub lines: LineSet,
    /// The lease that holds it; none: free.
    pub lease: Option<LeaseId>,
    /// C2: the claim that took it.
    pub number: Option<u64>,
    /// Of a free span.
    pub not_before: Option<StoreTime>,
    /// P2.
    pub suspicion: u32,
    /// P2: granted alone.
    pub alone: bool,
    /// The log may have attempts or crashes of these lines.
    pub tried: bool,
    /// The ended lease that it came from.
    pub from_lease: Option<LeaseId>,
}

/// S2: lines of an aborted batch that may still run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoppingView {
    /// The token that they were held under.
    pub token: Token,
    /// Their batch.
    pub batch: BatchId,
    /// The lease that held them.
    pub lease: LeaseId,
    /// C2: the claim that took them.
    pub number: u64,
    /// The lines.
    pub lines: LineSet,
}

/// An outcome.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct OutcomeView {
    /// The line.
    pub line: u64,
    /// How it ended.
    pub status: OutcomeStatus,
    /// Under which token.
    pub token: Token,
    /// Under which lease.
    pub lease: LeaseId,
    /// Attempts used.
    pub attempts: u32,
    /// Crashes counted.
    pub crashes: u32,
    /// In which generation.
    pub generation: u32,
}

/// Counts kept by one lease for one batch. Operators' retries take off the outcomes that they take away under lease 0, which may
/// be below zero by that; the sum over all leases never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tally {
    /// Outcomes `success`.
    pub success: i64,
    /// Outcomes `failed`.
    pub failed: i64,
    /// Retries given back.
    pub retried: u64,
    /// Time-outs given back.
    pub timed_out: u64,
    /// Answers dropped.
    pub fenced: u64,
}

impl Tally {
    /// The sum of two.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            success: self.success + other.success,
            failed: self.failed + other.failed,
            retried: self.retried + other.retried,
            timed_out: self.timed_out + other.timed_out,
            fenced: self.fenced + other.fenced,
        }
    }
}

/// How many entries of each counted kind the log has, over all generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCounts {
    /// `retried`.
    pub retried: u64,
    /// `timed_out`.
    pub timed_out: u64,
    /// `crashed`.
    pub crashed: u64,
    /// `crash_withdrawn`.
    pub crash_withdrawn: u64,
    /// `fenced`.
    pub fenced: u64,
    /// `superseded`.
    pub superseded: u64,
}

/// Rows by status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RowCounts {
    /// Never claimed, or free.
    pub queued: u64,
    /// Held.
    pub inprog: u64,
    /// Recorded.
    pub success: u64,
    /// Recorded.
    pub failed: u64,
    /// Without an outcome in an aborted batch.
    pub aborted: u64,
}

/// The end of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionView {
    /// The batch.
    pub batch: BatchId,
    /// Which generation.
    pub generation: u32,
    /// How it ended.
    pub status: BatchStatus,
    /// Rows by status at that moment.
    pub counts: RowCounts,
    /// S7: what has become of its call.
    pub call: CallView,
}

/// A completion call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallView {
    /// Under which it was claimed last; none where the lease's end took it.
    pub token: Option<Token>,
    /// Who holds it.
    pub lease: Option<LeaseId>,
    /// Of one that waits: its backoff.
    pub not_before: Option<StoreTime>,
    /// How many tries count.
    pub attempts: u32,
    /// What the last try that failed came to.
    pub error: Option<Box<str>>,
    /// Whether it is recorded as delivered.
    pub delivered: bool,
}
