//! S7: completion calls, as far as a store is asked about them. When a generation of a batch has ended, somebody is called.
//!
//! The record of the end is the call's record: claimed under a lease and a fresh token, freed with the lease, delivered once.

use std::time::Duration;

use crate::ids::{BatchId, LeaseId, Token};
use crate::rules::claim::BatchStatus;
use crate::time::StoreTime;

/// Which completion calls a worker makes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Calls {
    /// Of batches of these operations.
    pub operations: Vec<String>,
    /// With a command: those of batches without a URL.
    pub command: bool,
    /// Those of batches whose URL lies under one of these prefixes.
    pub urls: Vec<String>,
}

impl Calls {
    /// Whether there are any.
    pub fn makes_any(&self) -> bool {
        !self.operations.is_empty() && (self.command || !self.urls.is_empty())
    }
}

/// Asks for a call to make.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimCall {
    /// Under which lease.
    pub lease: LeaseId,
    /// Those that the worker makes.
    pub calls: Calls,
    /// Tokens of the calls that the worker knows it holds. One that it holds and does not know of was claimed by a try whose reply
    /// was lost: that one is granted, before any other.
    pub known: Vec<Token>,
}

/// The answer to a claim of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClaimCallReply {
    /// Granted, perhaps nothing.
    Granted {
        /// The call to make.
        call: Option<CallGrant>,
        /// After how long one that was tried before is due again, where nothing was granted and one is known of.
        next_after: Option<Duration>,
        /// Whether some batch of these operations still has open lines, held or not.
        open_lines: bool,
        /// Whether some call that this worker makes is undelivered, whoever holds it; so it is where one was granted.
        undelivered: bool,
    },
    /// The lease is not live.
    LeaseEnded,
}

/// A call handed to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallGrant {
    /// Which end, and under which token.
    pub key: CallKey,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// What is told.
    pub end: BatchEnd,
}

/// One try of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey {
    /// The batch.
    pub batch: BatchId,
    /// Whose end it is.
    pub generation: u32,
    /// Fresh for each try.
    pub token: Token,
}

/// The end of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchEnd {
    /// The batch's key, where it was submitted under one.
    pub key: Option<String>,
    /// Its operation.
    pub operation: String,
    /// Where the call goes, if the batch says so.
    pub url: Option<String>,
    /// How it ended.
    pub status: BatchStatus,
    /// Rows that succeeded.
    pub success: u64,
    /// Rows that failed.
    pub failed: u64,
    /// Rows without an outcome: of an aborted batch.
    pub aborted: u64,
    /// When it ended, on the store's clock.
    pub ended_at: StoreTime,
}

/// What came of a call, to be recorded. May be repeated as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordCall {
    /// The lease under which it was claimed.
    pub lease: LeaseId,
    /// Which call.
    pub key: CallKey,
    /// What came of it.
    pub outcome: CallOutcome,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// It was heard: no more calls for this end.
    Delivered,
    /// It was not: again, after a backoff.
    Retry {
        /// What went wrong.
        error: Box<str>,
        /// A random number that spreads the backoff.
        jitter: u64,
    },
    /// It was not made, or cancelled: again at once, and this try does not count.
    GivenBack,
}

/// What became of the record of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallVerdict {
    /// Recorded now.
    Recorded,
    /// Recorded by an earlier try under the same token.
    RecordedBefore,
    /// Dropped: the call has changed hands.
    Fenced,
}
