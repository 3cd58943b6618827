//! What happened, as plain data: changes of a store's state, and facts that only a simulator knows.
//!
//! The first kind is emitted by [`crate::store::ModelStore`] and can equally be read back from a real store's tables (its
//! log, outcomes, spans and leases). The second kind is fed by whoever injects the faults. Checkers see nothing else but
//! these and snapshots ([`crate::view::StoreView`]).

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Timing, Token};

/// A worker's process, numbered by the simulator: a restart is a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub u32);

/// How a row ended. (Aborted rows have no outcome.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeStatus {
    /// The handler succeeded.
    Success,
    /// The handler failed, retries ran out, or the row crashed its workers too often.
    Failed,
}

/// Why an outcome was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordedWhy {
    /// The handler's own answer.
    Answered,
    /// O5: a retry, and it was the last attempt.
    Exhausted,
    /// P2: the line crashed too often; recorded under a new token when the lease that ran it ended.
    CrashedTooOften,
}

/// Why lines became free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FreedWhy {
    /// C1: the rest of a free span of which a part was claimed. It was free before, too.
    Split,
    /// S1, L4: the worker gave them back.
    GivenBack,
    /// S1: the worker dropped its lease.
    Dropped,
    /// O5: the handler asked for a retry: an attempt is used.
    Retried,
    /// O6: the run timed out: an attempt is used.
    TimedOut,
    /// R3: the lease was declared dead or taken over.
    Recovered,
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseEnd {
    /// S1: dropped by its own worker.
    Dropped,
    /// R2: judged after a second look.
    Lapsed,
    /// R1: judged on a known death.
    Died,
    /// R5: its stable name was taken over.
    TakenOver,
}

/// A worker's link, cut in one or both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// To the row store.
    Store,
    /// To the second witness.
    Liveness,
}

/// One thing that happened. Within a transaction the order of events is that of its writes.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Event {
    /// L1: a lease was inserted.
    LeaseTaken {
        /// The lease.
        lease: LeaseId,
        /// Its worker's name.
        worker: String,
        /// Its ttl.
        ttl: Duration,
        /// Its renewal interval.
        renew: Duration,
        /// The operations that its worker handles.
        operations: Vec<String>,
        /// Until when it lasts.
        expires_at: StoreTime,
    },
    /// L2: a lease was extended.
    LeaseRenewed {
        /// The lease.
        lease: LeaseId,
        /// Its count of renewals now.
        renewals: u64,
        /// Until when it lasts.
        expires_at: StoreTime,
    },
    /// A live lease ended. What becomes of its spans follows.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
        /// How.
        how: LeaseEnd,
        /// The judge's lease, where a judge ended it and has one.
        by: Option<LeaseId>,
    },
    /// R2: a lease too far ahead was cut back.
    LeaseCutBack {
        /// The lease.
        lease: LeaseId,
        /// Until when it lasts now.
        expires_at: StoreTime,
    },
    /// C1: lines were taken.
    Claimed {
        /// Their batch.
        batch: BatchId,
        /// The lines.
        lines: LineSet,
        /// The new token.
        token: Token,
        /// The free span that they were in; none: fresh lines.
        from: Option<Token>,
        /// By which lease.
        lease: LeaseId,
        /// Under which claim number.
        number: u64,
        /// In how many deaths they were.
        suspicion: u32,
        /// P2: granted alone.
        alone: bool,
    },
    /// Lines are free under a new token.
    Freed {
        /// Their batch.
        batch: BatchId,
        /// The lines.
        lines: LineSet,
        /// The new token.
        token: Token,
        /// The token that they had.
        from: Token,
        /// Why.
        why: FreedWhy,
        /// Their suspicion now.
        suspicion: u32,
        /// Not claimable before.
        not_before: Option<StoreTime>,
    },
    /// An outcome was appended.
    Recorded {
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
        /// The token on the outcome.
        token: Token,
        /// The lease on the outcome.
        lease: LeaseId,
        /// The outcome.
        status: OutcomeStatus,
        /// Attempts used, this one included.
        attempts: u32,
        /// Crashes counted.
        crashes: u32,
        /// Why.
        why: RecordedWhy,
    },
    /// O1: an answer was dropped. Once per line and token.
    Fenced {
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
        /// The token of the answer.
        token: Token,
        /// The lease that offered it.
        lease: LeaseId,
    },
    /// P2: a line that ran alone was in a death; counted.
    Crashed {
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
        /// The token that it ran under.
        token: Token,
        /// The lease that ran it.
        lease: LeaseId,
    },
    /// P1: a worker that was declared dead while alive took this crash back.
    CrashWithdrawn {
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
        /// The token that it ran under.
        token: Token,
        /// The lease that ran it.
        lease: LeaseId,
    },
    /// S4: a batch was opened.
    BatchLoaded {
        /// The batch.
        batch: BatchId,
        /// How many lines it has.
        total: u64,
        /// Its operation.
        operation: String,
        /// Its priority.
        priority: i32,
        /// O5: attempts that a row has.
        attempts_max: u32,
        /// P2: crashes that a row survives, less one.
        crashes_max: u32,
    },
    /// S3: a batch's total was raised; its new lines are fresh.
    BatchAppended {
        /// The batch.
        batch: BatchId,
        /// The new lines.
        lines: LineRange,
    },
    /// S3: a batch was held or let go.
    BatchHeld {
        /// The batch.
        batch: BatchId,
        /// Held now.
        held: bool,
    },
    /// O4: a generation ended with all its rows recorded.
    BatchEnded {
        /// The batch.
        batch: BatchId,
        /// Which generation.
        generation: u32,
        /// Success or failed.
        status: BatchStatus,
    },
    /// S2: a generation ended by abort; all its spans are gone.
    BatchAborted {
        /// The batch.
        batch: BatchId,
        /// Which generation.
        generation: u32,
    },
    /// S5: an operator's retry took outcomes away; their lines are free, and count no attempts and crashes from before.
    RowsRetried {
        /// The batch.
        batch: BatchId,
        /// Its generation now: the next one, where it had ended and is open again by this.
        generation: u32,
        /// The lines, with the tokens of the free spans that they are in.
        spans: Vec<(LineSet, Token)>,
    },
    /// S6: an ended batch's purge has begun: it is gone for everybody.
    BatchPurged {
        /// The batch.
        batch: BatchId,
    },
    /// S7: a completion call was made.
    CompletionCalled {
        /// The batch.
        batch: BatchId,
        /// Of which generation's end.
        generation: u32,
    },
    /// S7: a completion call was recorded as delivered.
    CompletionDelivered {
        /// The batch.
        batch: BatchId,
        /// Of which generation's end.
        generation: u32,
    },

    /// Fact: a process's clock goes on at another rate.
    ClockChanged {
        /// Whose.
        process: Process,
        /// The new rate is within what the protocol's margins cover.
        steady: bool,
    },
    /// Fact: from now on heartbeats may outlast their time: the second witness's clock was stepped back, or an older copy of its
    /// data took over.
    HeartbeatsLinger,
    /// Fact: a process started.
    WorkerStarted {
        /// Which.
        process: Process,
        /// Its timings.
        timing: Timing,
        /// Whether its monotonic clock's rate is within an eighth of the true one for all its life.
        steady: bool,
    },
    /// Fact: a process first sends a take of this lease (so this comes before any [`Event::LeaseTaken`] of it).
    LeaseChosen {
        /// Which process.
        process: Process,
        /// Its lease's id.
        lease: LeaseId,
    },
    /// Fact: a process starts a handler.
    HandlerStarted {
        /// Which process.
        process: Process,
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
        /// The run's token.
        token: Token,
    },
    /// Fact: a handler ended; or its worker gave it up, and did not know that its batch is closed.
    HandlerEnded {
        /// Which process.
        process: Process,
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
        /// The run's token.
        token: Token,
    },
    /// Fact: this row kills its worker whenever it runs.
    RowKills {
        /// The batch.
        batch: BatchId,
        /// The line.
        line: u64,
    },
    /// Fact: a process died.
    WorkerCrashed {
        /// Which.
        process: Process,
        /// The row that killed it; none: a fault.
        by_row: Option<(BatchId, u64)>,
    },
    /// Fact: a process was told to stop (S1); from now on it need not judge others.
    WorkerStopping {
        /// Which.
        process: Process,
    },
    /// Fact: a process ended by itself.
    WorkerLeft {
        /// Which.
        process: Process,
    },
    /// Fact: a process stands still.
    WorkerPaused {
        /// Which.
        process: Process,
    },
    /// Fact: it goes on.
    WorkerResumed {
        /// Which.
        process: Process,
    },
    /// Fact: a link is cut, at least one way. A lost message is a cut and a heal at once.
    LinkCut {
        /// Whose.
        process: Process,
        /// Which link.
        link: Link,
    },
    /// Fact: a message to the store is badly late, while others may arrive: whose process is in trouble, and may renew all the same.
    MessageHeldUp {
        /// Whose.
        process: Process,
    },
    /// Fact: no message to the store is held up any more.
    MessagesArrived {
        /// Whose.
        process: Process,
    },
    /// Fact: the link works again.
    LinkHealed {
        /// Whose.
        process: Process,
        /// Which link.
        link: Link,
    },
    /// Fact: the store answers nobody.
    StoreAway,
    /// Fact: the store answers again.
    StoreBack,
    /// Fact: the store's clock was stepped.
    StoreClockJumped {
        /// By so many microseconds.
        by: i64,
    },
    /// Fact: from here on nothing more is broken, and what is still broken may stay so (but who is whole must finish).
    FaultsStopped,
    /// Fact: time passes. For runs in which nothing happens for long.
    Tick,
}
