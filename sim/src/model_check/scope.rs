//! What a search explores: who there is, what may go wrong how often, what operators may do.

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::calls::Calls;
use fencepost_core::config::{Timing, WorkerOptions};

/// How often each fault may happen in one history, all of them to process 0: the others are like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// Process 0 dies; what it has sent may still arrive, at any time or never.
    pub crashes: u8,
    /// Process 0 stands still for as long as it likes.
    pub pauses: u8,
    /// A request or reply is lost: unheard, or heard of at once (and then a request may still arrive, at any time), or refused.
    pub losses: u8,
    /// A request or reply is held back, and arrives at any later time or never.
    pub late: u8,
    /// A request arrives twice, the second time at any later time or never.
    pub duplicates: u8,
}

/// One thing that an operator does, once, at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// S2.
    Abort,
    /// S3.
    Hold,
    /// S3: some time after the hold.
    Resume,
    /// S3: the three steps of an append of one row, each after the one before.
    BeginAppend,
    /// See above.
    StageRow,
    /// See above.
    FinishAppend,
    /// S5: of line 1, whatever its outcome.
    RetryLine,
    /// S6: once the batch has ended.
    Purge,
}

/// What a handler may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Done.
    Success,
    /// Failed for good.
    Failed,
    /// Again.
    Retry,
}

/// What there is when a search begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begins {
    /// Processes that have just started.
    Cold,
    /// Leases are taken, one after the other.
    Warm,
    /// And process 0 runs row 1 and stands still. It goes on at any time between these two.
    StandsStill {
        /// From the start.
        from: Duration,
        /// From the start.
        to: Duration,
    },
}

/// A scope.
#[derive(Debug, Clone)]
pub struct Scope {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it covers.
    pub what: &'static str,
    /// Worker processes.
    pub processes: usize,
    /// Those that judge others; all of them have a judge of their own, which costs states.
    pub judges: fn(usize) -> bool,
    /// Rows of the one batch.
    pub rows: u64,
    /// Rows that a worker runs at once.
    pub concurrency: u32,
    /// O5.
    pub attempts_max: u32,
    /// O6.
    pub timeout: Duration,
    /// What handlers answer.
    pub ends: &'static [End],
    /// What may go wrong.
    pub faults: Faults,
    /// What operators do.
    pub operations: &'static [Operation],
    /// What there is when the search begins.
    pub begins: Begins,
    /// S7: whether completion calls are made.
    pub calls: bool,
    /// The threads of a process hear of each other by messages of their own.
    pub threads: bool,
    /// Invariant 7: everything is over by then.
    pub over_by: Duration,
    /// Steps that need not be taken in every order are left out (`reduction`).
    pub reduced: bool,
}

impl Scope {
    /// Whether an operator may abort the batch.
    pub fn has_abort(&self) -> bool {
        self.operations.contains(&Operation::Abort)
    }
}

/// All times are multiples of this: an eighth of the ttl.
pub const UNIT: Duration = Duration::from_millis(500);

/// The operation of the one batch.
pub const OPERATION: &str = "op";

/// The one batch.
pub fn batch() -> BatchId {
    BatchId::from_random(1)
}

impl Scope {
    /// One worker's options.
    pub fn worker(&self) -> WorkerOptions {
        WorkerOptions {
            timing: timing(),
            operations: vec![OPERATION.to_owned()],
            concurrency: self.concurrency,
            flush_age: UNIT,
            poll: UNIT * 3,
            grace: UNIT * 2,
            cancel_grace: UNIT,
            until_done: true,
            calls: self.makes(),
            calls_at_once: 1,
            call_timeout: UNIT * 2,
            ..WorkerOptions::default()
        }
    }

    /// S7.
    pub fn makes(&self) -> Calls {
        let operations = if self.calls { vec![OPERATION.to_owned()] } else { Vec::new() };
        Calls { operations, command: self.calls, urls: Vec::new() }
    }
}

/// Everybody's timing: the ttl is 8 units, renewals come every 4.
pub fn timing() -> Timing {
    Timing::from_ttl(UNIT * 8)
}

const PLAIN: Scope = Scope {
    name: "plain",
    what: "two workers, one row, nothing goes wrong",
    processes: 2,
    judges: |_| true,
    rows: 1,
    concurrency: 1,
    attempts_max: 1,
    timeout: Duration::from_millis(1500),
    ends: &[End::Success],
    faults: Faults { crashes: 0, pauses: 0, losses: 0, late: 0, duplicates: 0 },
    operations: &[],
    begins: Begins::Cold,
    calls: false,
    threads: false,
    over_by: Duration::from_secs(30),
    reduced: true,
};

/// The scopes by name.
pub fn scopes() -> Vec<Scope> {
    let none = Faults::default();
    let survivor_judges = |process| process == 1;
    let nobody = |_| false;
    vec![
        PLAIN,
        Scope {
            name: "threads",
            what: "the same; keeper and worker of a process hear of each other late",
            threads: true,
            ..PLAIN
        },
        Scope {
            name: "crash",
            what: "two workers, one row; one dies at any point, what it sent arrives at any time or never",
            judges: survivor_judges,
            faults: Faults { crashes: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "lost",
            what: "two workers, one row; one message is lost, with or without notice, or refused",
            judges: survivor_judges,
            faults: Faults { losses: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "pause",
            what: "two workers, one row; one stands still at any point for any time (too large: see recovery)",
            judges: survivor_judges,
            faults: Faults { pauses: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "lapse",
            what: "one worker that stands still with a row, and goes on at any time from a little after the end of its licence to twice the ttl",
            processes: 1,
            judges: nobody,
            begins: Begins::StandsStill { from: UNIT * 7, to: UNIT * 16 },
            over_by: Duration::from_secs(16),
            ..PLAIN
        },
        Scope {
            name: "recovery",
            what: "two workers, one row; its holder stands still, and goes on a second after its recovery",
            judges: survivor_judges,
            begins: Begins::StandsStill { from: UNIT * 14, to: UNIT * 14 },
            timeout: UNIT,
            ..PLAIN
        },
        Scope {
            name: "late",
            what: "one worker, one row; one message comes at any later time or never",
            processes: 1,
            judges: nobody,
            faults: Faults { late: 1, ..none },
            begins: Begins::Warm,
            over_by: Duration::from_secs(12),
            ..PLAIN
        },
        Scope {
            name: "late-twice",
            what: "the same; two messages",
            processes: 1,
            judges: nobody,
            faults: Faults { late: 2, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "twice",
            what: "one worker, one row; one request arrives twice, the second time at any later time or never",
            processes: 1,
            judges: nobody,
            faults: Faults { duplicates: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "two-rows",
            what: "one worker, two rows at once; one message is lost, with or without notice, or refused",
            processes: 1,
            judges: nobody,
            rows: 2,
            concurrency: 2,
            faults: Faults { losses: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "two-rows-twice",
            what: "the same; two messages",
            processes: 1,
            judges: nobody,
            rows: 2,
            concurrency: 2,
            timeout: UNIT,
            faults: Faults { losses: 2, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "answers",
            what: "one worker, one row that succeeds, fails or asks to be tried again",
            processes: 1,
            judges: nobody,
            attempts_max: 2,
            ends: &[End::Success, End::Failed, End::Retry],
            timeout: UNIT,
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "abort",
            what: "one worker, one row; abort, then purge, at any point",
            processes: 1,
            judges: nobody,
            timeout: UNIT,
            operations: &[Operation::Abort, Operation::Purge],
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "abort-lost",
            what: "the same; one message is lost",
            processes: 1,
            judges: nobody,
            timeout: UNIT,
            operations: &[Operation::Abort, Operation::Purge],
            faults: Faults { losses: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "append",
            what: "one worker, one row; an append at any point, each step at any time or never",
            processes: 1,
            judges: nobody,
            timeout: UNIT,
            operations: &[Operation::BeginAppend, Operation::StageRow, Operation::FinishAppend],
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "hold",
            what: "one worker, two rows; hold and resume at any point",
            processes: 1,
            judges: nobody,
            rows: 2,
            timeout: UNIT,
            operations: &[Operation::Hold, Operation::Resume],
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "retry",
            what: "one worker, one row; an operator's retry, then a purge, at any point",
            processes: 1,
            judges: nobody,
            timeout: UNIT,
            operations: &[Operation::RetryLine, Operation::Purge],
            begins: Begins::Warm,
            ..PLAIN
        },
        Scope {
            name: "calls",
            what: "one worker, one row, a completion call; one message is lost",
            processes: 1,
            judges: nobody,
            calls: true,
            timeout: UNIT,
            faults: Faults { losses: 1, ..none },
            begins: Begins::Warm,
            ..PLAIN
        },
    ]
}
