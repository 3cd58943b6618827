//! What a row store is asked and what it answers: the one port that SQLite, Postgres and the simulator's model share.
//!
//! Each request is one statement or one short transaction (T2). A request may be repeated as it is after an unknown end.
//! The decisions inside the transactions are the functions of [`crate::rules`]; a store locks, looks, asks them, writes.

use std::time::Duration;

use crate::calls::{CallVerdict, Calls, ClaimCall, ClaimCallReply, RecordCall};
use crate::ids::{BatchId, LeaseId, Token};
use crate::lines::LineSet;
use crate::rules::claim::BatchStatus;
use crate::time::StoreTime;

/// A request to the row store.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum StoreRequest {
    /// L1, R5: take a lease.
    TakeLease(TakeLease),
    /// L2: extend the lease while it is live.
    Renew {
        /// The lease to extend.
        lease: LeaseId,
        /// Batches that the worker holds lines of: the answer tells which of them are no longer open (S2).
        batches: Vec<BatchId>,
    },
    /// S1: free whatever the lease holds, known or not, and drop it.
    DropLease {
        /// The lease to drop.
        lease: LeaseId,
    },
    /// C1: take lines.
    Claim(Claim),
    /// C2: close this claim number, then read what that claim took.
    SettleClaim {
        /// The claiming lease.
        lease: LeaseId,
        /// The claim whose end is unknown.
        number: u64,
    },
    /// O1 to O5: record a group of answers.
    Record(Record),
    /// S1, L4: give lines back, with no attempt used.
    GiveBack {
        /// The lease that held them.
        lease: LeaseId,
        /// Lines by the span that held them.
        lines: Vec<(BatchId, Token, LineSet)>,
    },
    /// R2: all live leases as they are now.
    Look,
    /// R3: declare a lease dead and free its spans.
    Recover(Recover),
    /// R2: cut leases and not-before times back that lie further ahead than they ever may (a clock stepped back).
    CutBack {
        /// The largest backoff: no not-before time lies further ahead.
        backoff_max: Duration,
    },
    /// P1: a worker that was declared dead while alive takes the crashes counted against its lines back.
    WithdrawCrashes {
        /// The lease that was declared dead.
        lease: LeaseId,
    },
    /// S7: take a completion call.
    ClaimCall(ClaimCall),
    /// S7: record what came of one.
    RecordCall(RecordCall),
}

/// A reply of the row store; its variants pair with [`StoreRequest`]'s.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum StoreReply {
    /// To [`StoreRequest::TakeLease`].
    TakeLease(TakeLeaseReply),
    /// To [`StoreRequest::Renew`].
    Renew(RenewReply),
    /// To [`StoreRequest::DropLease`]: dropped now or before, or found dead.
    DropLease,
    /// To [`StoreRequest::Claim`].
    Claim(ClaimReply),
    /// To [`StoreRequest::SettleClaim`]: the number is closed; these are the spans that the claim took and still holds, and the
    /// lines that it took of batches that were aborted since (S2), which the worker gives back. Empty as well where the lease is dead.
    SettleClaim(Vec<Grant>, Vec<(BatchId, Token, LineSet)>),
    /// To [`StoreRequest::Record`]: one verdict per item, in their order.
    Record(Vec<Verdict>),
    /// To [`StoreRequest::GiveBack`]: none of these lines is held under its token any more.
    GiveBack,
    /// To [`StoreRequest::Look`].
    Look(LookReply),
    /// To [`StoreRequest::Recover`].
    Recover(RecoverReply),
    /// To [`StoreRequest::CutBack`].
    CutBack,
    /// To [`StoreRequest::WithdrawCrashes`].
    WithdrawCrashes,
    /// To [`StoreRequest::ClaimCall`].
    ClaimCall(ClaimCallReply),
    /// To [`StoreRequest::RecordCall`].
    RecordCall(CallVerdict),
}

/// Why a request has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreFailure {
    /// It did not happen, and will not.
    NotDone,
    /// It may have happened, or may happen yet: cut off, timed out, commit without an answer.
    Unknown,
}

/// What identifies an operating system's process, so that others on the same machine can tell its death (R1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// Boot id and process namespace: equal only for processes that can see each other.
    pub machine: String,
    /// Process id in that namespace.
    pub pid: u32,
    /// When the process started, in the kernel's ticks since boot: tells a reused pid from the process meant.
    pub start_ticks: u64,
}

/// L1: what a worker says when it takes a lease.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct TakeLease {
    /// Chosen by the worker, so that a take with an unknown end is repeated as it is.
    pub lease: LeaseId,
    /// The worker's name: a label (R5).
    pub worker: String,
    /// Whether the name is stable, chosen by a person: then no two live leases may carry it (R5).
    pub stable_name: bool,
    /// How long the lease lasts without a renewal.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// The worker's process, where it has one that others can look up.
    pub process: Option<ProcessIdentity>,
    /// The operations that the worker has a handler for.
    pub operations: Vec<String>,
    /// S7: the completion calls that it makes.
    pub calls: Calls,
}

/// The answer to a take.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum TakeLeaseReply {
    /// The lease is live: taken now or by an earlier try.
    Taken,
    /// The lease is over: an earlier try took it, and it was declared dead since. Choose a new id.
    Ended,
    /// R5: another live lease carries the stable name.
    NameHeld {
        /// That lease.
        holder: LeaseView,
        /// The store's clock.
        now: StoreTime,
    },
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum RenewReply {
    /// Extended.
    Renewed {
        /// S2: those of the asked batches that are no longer open.
        closed: Vec<BatchId>,
    },
    /// The lease is no longer live and never will be again.
    Refused {
        /// R5: it ended because another process took its stable name over.
        taken_over: bool,
    },
}

/// C1, C3: what a worker wants.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Claim {
    /// Under which lease.
    pub lease: LeaseId,
    /// C2: this lease's claims are numbered from 1, upwards.
    pub number: u64,
    /// The operations that the worker has a handler for.
    pub operations: Vec<String>,
    /// At most so many lines. 0 asks only whether a suspect still waits for an idle worker (P2).
    pub lines_max: u64,
    /// Inputs of at most so many bytes together; the first line is granted whatever its size.
    pub bytes_max: u64,
    /// P2: the worker may be granted a single suspect: it holds, runs and owes nothing, has not heard of late that it was declared
    /// dead, and claims nothing more until it knows the outcome of a suspect that it is granted alone.
    pub idle: bool,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum ClaimReply {
    /// Granted, perhaps nothing.
    Granted {
        /// The spans taken.
        grants: Vec<Grant>,
        /// P2: a suspect line waits for an idle worker, and this one would be allowed to take it.
        suspect_waits: bool,
        /// After how long a line that was given back may be claimed, where nothing was granted and one is known of.
        next_after: Option<Duration>,
        /// Whether some batch of these operations still has open lines, held or not.
        open_lines: bool,
    },
    /// C2: this number is closed already; nothing was or will be taken under it that has not been.
    Closed,
    /// The lease is not live.
    LeaseEnded,
}

/// A span handed to a worker.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Grant {
    /// Its batch.
    pub batch: BatchId,
    /// The batch's operation.
    pub operation: String,
    /// The new token.
    pub token: Token,
    /// Rows in order of their lines; these are the span's lines.
    pub rows: Vec<GrantedRow>,
    /// P2: how many deaths these lines have been in; 0 is not suspect.
    pub suspicion: u32,
    /// P2: granted alone; a death now counts as the line's crash.
    pub alone: bool,
    /// The worker whose death or leaving gave these lines back, where one did.
    pub recovered_from: Option<String>,
    /// O6: how long a run may take.
    pub timeout: Duration,
}

/// A row to run.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct GrantedRow {
    /// Its 1-based place in the batch.
    pub line: u64,
    /// How many attempts it has used so far.
    pub attempts: u32,
    /// Its input, as JSON text.
    pub input: Box<str>,
}

/// O3: a group of answers. All items are of one lease.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Record {
    /// The lease under which the lines were claimed.
    pub lease: LeaseId,
    /// The answers; no two have the same batch and line.
    pub items: Vec<RecordItem>,
}

/// One row's answer.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct RecordItem {
    /// The batch.
    pub batch: BatchId,
    /// The line.
    pub line: u64,
    /// The token under which it was run.
    pub token: Token,
    /// What the handler said.
    pub answer: Answer,
    /// How long the run took, on the worker's monotonic clock.
    pub run_time: Duration,
}

/// O5, O6: what came of a run.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Answer {
    /// Done, with the result as JSON text.
    Success(Box<str>),
    /// Failed for good, with the error.
    Failed(Box<str>),
    /// To be tried again, if an attempt is left.
    Retry {
        /// What went wrong.
        error: Box<str>,
        /// A random number that spreads the backoff.
        jitter: u64,
        /// The handler ran past the row's timeout (O6).
        timed_out: bool,
    },
}

/// O1: what became of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Recorded now: the span under this token still held the line.
    Recorded(Recorded),
    /// Recorded by an earlier try under the same token.
    RecordedBefore,
    /// Dropped and counted: the line had changed hands, or its batch is over.
    Fenced,
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recorded {
    /// The outcome `success`.
    Success,
    /// The outcome `failed`; after a retry: it was the last attempt.
    Failed,
    /// The line is free again, not before its backoff.
    GivenBack,
}

/// A live lease as a judge sees it.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct LeaseView {
    /// Which lease.
    pub lease: LeaseId,
    /// Its worker's name.
    pub worker: String,
    /// Its own ttl.
    pub ttl: Duration,
    /// Its own renewal interval.
    pub renew: Duration,
    /// Until when it lasts, on the store's clock.
    pub expires_at: StoreTime,
    /// How often it was renewed.
    pub renewals: u64,
    /// Its worker's process, where it is known.
    pub process: Option<ProcessIdentity>,
}

/// The answer to a look.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct LookReply {
    /// The store's clock.
    pub now: StoreTime,
    /// All live leases.
    pub leases: Vec<LeaseView>,
    /// R2: the furthest not-before time of a free span.
    pub not_before_max: Option<StoreTime>,
}

/// R3: an act of recovery, conditional on what was seen.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Recover {
    /// The lease to declare dead.
    pub lease: LeaseId,
    /// The count of renewals that the judge saw: a renewal since then spares the lease.
    pub renewals: u64,
    /// When it was seen, on the store's clock: an act that comes much later, on other grounds than a known death, spares
    /// the lease as well.
    pub seen_at: StoreTime,
    /// Why.
    pub cause: EndCause,
    /// The judge's own lease, under which rows that crashed too often are counted as failed.
    pub judge: Option<LeaseId>,
}

/// Why a lease ends other than by its own worker dropping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// R2: past its time and unchanged through a second look. Its lines become suspect (P2).
    Lapsed,
    /// R1: its process is known to be dead. Its lines become suspect (P2).
    Died,
    /// R5: its stable name was taken over after a second look. Like a lapse, but its worker is to leave when it wakes.
    TakenOver,
}

/// The answer to a recovery.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum RecoverReply {
    /// Declared dead, spans freed.
    Recovered {
        /// How many lines came back.
        lines: u64,
        /// P2: how many rows were recorded as failed because they crashed too often.
        failed: u64,
    },
    /// Renewed since it was seen, or not live any more: nothing was done.
    Spared,
}

/// S2, S3: what came of an operator's abort, hold or resume. No request of workers, but the same from every store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operated {
    /// Done now.
    Now,
    /// Nothing was to be done: it was aborted, held or not held before.
    Before,
    /// The batch has ended, with this status: nothing was done.
    Ended(BatchStatus),
    /// The batch is still loading: nothing was done.
    Loading,
    /// No such batch.
    NotThere,
}

/// S5: which rows an operator has run again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RetryRows {
    /// All that failed.
    Failed,
    /// Those that failed with an error that contains this text, as it is.
    FailedWith(Box<str>),
    /// This one, failed or succeeded.
    Line {
        /// Which.
        line: u64,
        /// Only while its outcome is the one under this token. So a repeat after an unknown end does not run the row twice,
        /// whatever became of it meanwhile. `None`: whatever its outcome is.
        token: Option<Token>,
    },
}

/// S5: what came of an operator's retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retried {
    /// Done, as far as anything matched.
    Rows {
        /// So many rows are free again. 0: nothing has changed.
        freed: u64,
        /// The batch's generation now.
        generation: u32,
        /// Whether the batch had ended and is open again for it.
        reopened: bool,
    },
    /// The batch was aborted: nothing was done.
    Aborted,
    /// The batch is still loading: nothing was done.
    Loading,
    /// No such batch.
    NotThere,
}
