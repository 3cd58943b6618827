//! What happens in a run of the original, as its checkers are told.

use super::redis::RedisOp;
use super::store::Status;
use super::{ProcessAt, RowAt};

/// Why a row that its worker knows of did not get into the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTracked {
    /// The context was cancelled: SIGTERM.
    Cancelled,
    /// Redis did not answer.
    Unreachable,
}

/// One fact.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// The next process.
    Started,
    Stopping(ProcessAt),
    /// It left after `Shutdown`.
    Left(ProcessAt),
    Died {
        process: ProcessAt,
        by_row: Option<RowAt>,
    },
    /// It stands still, or cannot reach Redis.
    Absent(ProcessAt),
    Present(ProcessAt),
    RedisAway,
    RedisBack,
    RedisLost,
    /// A command that Redis has done.
    Redis {
        by: ProcessAt,
        op: RedisOp,
    },
    SetExpired {
        of: ProcessAt,
        at_us: u64,
        rows: Vec<RowAt>,
    },
    /// The claim's commit took effect.
    Claimed {
        process: ProcessAt,
        row: RowAt,
    },
    NotTracked {
        process: ProcessAt,
        row: RowAt,
        why: NotTracked,
    },
    RunStarted {
        process: ProcessAt,
        row: RowAt,
    },
    RunEnded {
        process: ProcessAt,
        row: RowAt,
    },
    /// The worker takes its outcome write for failed.
    WriteFailed {
        process: ProcessAt,
        row: RowAt,
    },
    /// An outcome write took effect.
    Written {
        process: ProcessAt,
        row: RowAt,
        before: Status,
        status: Status,
        fallback: bool,
        /// The batch had ended, and its counts now differ from its rows.
        counts_differ: bool,
    },
    /// A recoverer's reset took effect.
    Reset {
        row: RowAt,
        of: ProcessAt,
        by: ProcessAt,
        /// The heartbeat was there at that moment.
        beats: bool,
    },
    Aborted(RowAt),
    /// The row is in progress, and nothing in the protocol will ever touch it again.
    Stuck {
        row: RowAt,
        registered: bool,
    },
    /// Long after the last fault a batch is open.
    Open {
        batch: usize,
        hangs: bool,
    },
}
