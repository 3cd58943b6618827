//! The kinds of faults.

use super::options::On;

/// One kind of fault, or one operator's command in the midst of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL; a new worker under a new name comes later.
    Kill,
    /// SIGKILL; the next one has the same stable name.
    KillAndSameName,
    /// SIGSTOP for longer than the ttl, then SIGCONT.
    Pause,
    /// SIGTERM in mid-row.
    Term,
    /// SIGTERM; the next one has the same stable name.
    TermAndSameName,
    /// A second worker under the name of one that runs.
    Twin,
    /// What the store says comes late.
    StoreDelay,
    /// No byte moves between worker and store.
    StoreStall,
    /// One direction between worker and store is lost for good, on connections that stay open.
    StoreHalfOpen,
    /// All connections of a worker to the store are reset.
    StoreReset,
    /// Requests get to the store, and the connections are cut before the answers get back.
    StoreCut,
    /// As for the store.
    RedisDelay,
    /// As for the store.
    RedisStall,
    /// As for the store.
    RedisHalfOpen,
    /// As for the store.
    RedisReset,
    /// As for the store.
    RedisCut,
    /// What the store says comes late to an operator's command.
    OperatorsDelay,
    /// No byte moves between an operator's command and the store.
    OperatorsStall,
    /// One direction between an operator's command and the store is lost for good, on connections that stay open.
    OperatorsHalfOpen,
    /// The connections of an operator's command to the store are reset.
    OperatorsReset,
    /// Requests of an operator's command get to the store, and the connections are cut before the answers get back.
    OperatorsCut,
    /// Postgres is restarted in order.
    PostgresFast,
    /// Postgres crashes and starts again.
    PostgresCrash,
    /// Redis is emptied.
    RedisFlush,
    /// Redis is killed, and starts with what it had.
    RedisKill,
    /// Redis is killed, and starts with nothing.
    RedisKillAndEmpty,
    /// Redis stands still (SIGSTOP).
    RedisFreeze,
    /// The disk under the ledgers (and an SQLite store) is full.
    DiskFull,
    /// A worker's wall clock is stepped forward.
    ClockForward,
    /// A worker's wall clock is stepped back.
    ClockBack,
    /// An operator holds a batch and resumes it later.
    Hold,
    /// An operator appends rows to a batch.
    Append,
    /// An operator aborts a batch.
    Abort,
    /// An operator has a batch's failed rows run again.
    RetryFailed,
    /// An operator has one row run again.
    RetryLine,
    /// An operator purges what ended a while ago.
    Purge,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::Kill,
        Self::KillAndSameName,
        Self::Pause,
        Self::Term,
        Self::TermAndSameName,
        Self::Twin,
        Self::StoreDelay,
        Self::StoreStall,
        Self::StoreHalfOpen,
        Self::StoreReset,
        Self::StoreCut,
        Self::RedisDelay,
        Self::RedisStall,
        Self::RedisHalfOpen,
        Self::RedisReset,
        Self::RedisCut,
        Self::OperatorsDelay,
        Self::OperatorsStall,
        Self::OperatorsHalfOpen,
        Self::OperatorsReset,
        Self::OperatorsCut,
        Self::PostgresFast,
        Self::PostgresCrash,
        Self::RedisFlush,
        Self::RedisKill,
        Self::RedisKillAndEmpty,
        Self::RedisFreeze,
        Self::DiskFull,
        Self::ClockForward,
        Self::ClockBack,
        Self::Hold,
        Self::Append,
        Self::Abort,
        Self::RetryFailed,
        Self::RetryLine,
        Self::Purge,
    ];

    /// Whether there is such a fault where the store is of this kind.
    pub fn is_of(self, on: On) -> bool {
        match self {
            Self::StoreDelay
            | Self::StoreStall
            | Self::StoreHalfOpen
            | Self::StoreReset
            | Self::StoreCut
            | Self::OperatorsDelay
            | Self::OperatorsStall
            | Self::OperatorsHalfOpen
            | Self::OperatorsReset
            | Self::OperatorsCut
            | Self::PostgresFast
            | Self::PostgresCrash => on != On::Sqlite,
            Self::RedisDelay
            | Self::RedisStall
            | Self::RedisHalfOpen
            | Self::RedisReset
            | Self::RedisCut
            | Self::RedisFlush
            | Self::RedisKill
            | Self::RedisKillAndEmpty
            | Self::RedisFreeze => on == On::Redis,
            _ => true,
        }
    }

    /// Whether it kills a worker.
    pub fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::KillAndSameName)
    }

    /// Whether it is an operator's command.
    pub fn is_of_operators(self) -> bool {
        matches!(self, Self::Hold | Self::Append | Self::Abort | Self::RetryFailed | Self::RetryLine | Self::Purge)
    }
}
