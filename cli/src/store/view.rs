//! What people see of a store: batches, counts, workers, rows, results. Plain values, the same from every store.

use std::time::Duration;

use fencepost_core::calls::Calls;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

/// At most so many candidates of an ambiguous prefix are named.
pub const CANDIDATES_MAX: usize = 10;

/// What a prefix of a batch's id names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// One batch.
    Found(BatchId),
    /// No batch.
    None,
    /// Several; these are the first of them.
    Ambiguous(Vec<BatchId>),
}

/// A batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchView {
    /// Its id.
    pub batch: BatchId,
    /// The submitter's own name for it.
    pub key: Option<String>,
    /// Of the content.
    pub digest: Option<String>,
    /// Names the handler.
    pub operation: String,
    /// Where it is in its life.
    pub status: BatchStatus,
    /// S3: not claimed for now.
    pub held: bool,
    /// Higher comes first.
    pub priority: i32,
    /// How many rows.
    pub total: u64,
    /// The first line that was never claimed.
    pub cursor: u64,
    /// S5: goes up when it is opened again.
    pub generation: u32,
    /// How many attempts a row has.
    pub attempts_max: u32,
    /// How many crashes a row may cause before it fails.
    pub crashes_max: u32,
    /// How long a run may take.
    pub timeout: Duration,
    /// The input's columns, where it had a header.
    pub header: Option<Vec<String>>,
    /// The input's name.
    pub source: Option<String>,
    /// When its load began.
    pub created_at: StoreTime,
    /// When its load ended (last moved, while it is loading).
    pub loaded_at: Option<StoreTime>,
    /// When it ended.
    pub ended_at: Option<StoreTime>,
}

/// A batch's counts at one moment. The first five add up to its total.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchCounts {
    /// The batch.
    pub batch: BatchView,
    /// The store's clock.
    pub now: StoreTime,
    /// Rows that wait.
    pub queued: u64,
    /// Rows that a worker holds.
    pub inprog: u64,
    /// Rows recorded as success.
    pub success: u64,
    /// Rows recorded as failed.
    pub failed: u64,
    /// Rows without an outcome in an aborted batch.
    pub aborted: u64,
    /// Attempts that were retried.
    pub retried: u64,
    /// Attempts that ran past their time.
    pub timed_out: u64,
    /// Answers that were dropped by the fence.
    pub fenced: u64,
    /// Deaths counted against rows, less those taken back.
    pub crashed: u64,
    /// How often a line came back from a dead worker.
    pub recovered: u64,
    /// When the next row that was given back may be claimed, where rows wait for that.
    pub next_not_before: Option<StoreTime>,
}

/// A lease and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    /// The lease.
    pub lease: LeaseId,
    /// The worker's name.
    pub worker: String,
    /// Whether a person chose the name.
    pub stable_name: bool,
    /// Where the lease is in its life.
    pub state: LeaseState,
    /// How long it lasts without a renewal.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// Until when it lasts.
    pub expires_at: StoreTime,
    /// How often it was renewed.
    pub renewals: u64,
    /// The worker's process.
    pub process: Option<ProcessIdentity>,
    /// The operations that the worker has a handler for.
    pub operations: Vec<String>,
    /// When it was taken.
    pub taken_at: StoreTime,
    /// When it ended.
    pub ended_at: Option<StoreTime>,
    /// The judge that ended it.
    pub ended_by: Option<LeaseId>,
    /// The lines it holds.
    pub holds: Vec<(BatchId, LineSet)>,
}

/// S2: rows of an aborted batch that a live lease's worker may still run.
#[derive(Debug, Clone, PartialEq)]
pub struct StoppingView {
    /// The worker's name.
    pub worker: String,
    /// Whether its lease is past its time: then its licence is over, and it runs nothing.
    pub silent: bool,
    /// The worker's process.
    pub process: Option<ProcessIdentity>,
    /// How many.
    pub rows: u64,
}

/// All workers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkersView {
    /// The store's clock.
    pub now: StoreTime,
    /// Live ones first, then those that ended lately, the latest first.
    pub workers: Vec<WorkerView>,
}

/// A batch's completion calls at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct CallsView {
    /// The store's clock.
    pub now: StoreTime,
    /// Where its ends are told, if it says so.
    pub url: Option<String>,
    /// One per generation that has ended, the first one first.
    pub calls: Vec<CallView>,
    /// The live leases whose workers make completion calls, and which.
    pub makers: Vec<(LeaseId, Calls)>,
}

/// The completion call of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct CallView {
    /// Which.
    pub generation: u32,
    /// How it ended.
    pub status: BatchStatus,
    /// Where the call goes; none: the operation's command.
    pub url: Option<String>,
    /// How many tries count.
    pub attempts: u32,
    /// What the last try that failed came to.
    pub error: Option<String>,
    /// When it is tried again, where it waits.
    pub not_before: Option<StoreTime>,
    /// The worker that makes it now.
    pub worker: Option<String>,
    /// When it was recorded as delivered.
    pub delivered_at: Option<StoreTime>,
}

/// A row's status, derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowStatus {
    /// It waits.
    Queued,
    /// A worker holds it.
    InProg,
    /// Recorded.
    Success,
    /// Recorded.
    Failed,
    /// Its batch was aborted before it was recorded.
    Aborted,
}

impl RowStatus {
    /// Its name in SQL, JSON and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProg => "inprog",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A row and what it came to.
#[derive(Debug, Clone, PartialEq)]
pub struct RowView {
    /// Its place in the batch.
    pub line: u64,
    /// Its status.
    pub status: RowStatus,
    /// Its input, as JSON text.
    pub input: Box<str>,
    /// Its outcome.
    pub outcome: Option<OutcomeView>,
}

/// A recorded outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct OutcomeView {
    /// Whether it is a success.
    pub success: bool,
    /// Of a success: JSON text.
    pub result: Option<Box<str>>,
    /// Of a failure.
    pub error: Option<Box<str>>,
    /// Under which token.
    pub token: Token,
    /// By which lease.
    pub lease: LeaseId,
    /// By which worker, where the lease is known.
    pub worker: Option<String>,
    /// Attempts used, this one included.
    pub attempts: u32,
    /// Crashes counted.
    pub crashes: u32,
    /// How long the run took.
    pub run_time: Duration,
    /// When it was recorded.
    pub recorded_at: StoreTime,
}

/// An entry of a row's story.
#[derive(Debug, Clone, PartialEq)]
pub struct StoryEntry {
    /// When.
    pub at: StoreTime,
    /// What: retried, timed_out, crashed, crash_withdrawn, fenced, recovered, given_back, superseded.
    pub kind: String,
    /// In which generation of the batch.
    pub generation: u32,
    /// Under which token the line was held.
    pub token: Token,
    /// By which lease.
    pub lease: LeaseId,
    /// By which worker, where the lease is known.
    pub worker: Option<String>,
    /// The judge that recovered it.
    pub judge: Option<LeaseId>,
    /// The error, the dropped answer, the cause.
    pub detail: Option<String>,
    /// How long the run took.
    pub run_time: Option<Duration>,
}

/// The span that has a row now.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanView {
    /// Its token.
    pub token: Token,
    /// Who holds it; nobody: it is free.
    pub lease: Option<LeaseId>,
    /// The holder's name.
    pub worker: Option<String>,
    /// Not claimed before.
    pub not_before: Option<StoreTime>,
    /// P2: how many deaths its lines were in.
    pub suspicion: u32,
}

/// Everything known of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowStory {
    /// The store's clock.
    pub now: StoreTime,
    /// The row as it is now.
    pub row: RowView,
    /// What happened to it, in the order of time.
    pub entries: Vec<StoryEntry>,
    /// The span that has it; `None` if it was never claimed or is done.
    pub span: Option<SpanView>,
}

/// A page of rows, and from where to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPage {
    /// The rows, in order.
    pub rows: Vec<RowView>,
    /// Ask for lines after this one next; `None`: that was all.
    pub next_after: Option<u64>,
}
