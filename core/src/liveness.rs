//! The second witness (Redis): heartbeats and what they are worth. It can delay a recovery by at most a ttl; it can never
//! cause one.

use std::time::Duration;

use crate::ids::{BatchId, LeaseId};
use crate::lines::LineSet;

/// A request to the second witness.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum LivenessRequest {
    /// L2, L3: set or extend the heartbeat, and publish the running rows in full: a mirror for people.
    Beat {
        /// Whose.
        lease: LeaseId,
        /// The worker's name, for people.
        worker: String,
        /// How long it lasts.
        ttl: Duration,
        /// The running rows.
        running: Vec<(BatchId, LineSet)>,
    },
    /// L3: publish the running rows where the heartbeat is there; the mirror lasts as long as it does.
    Publish {
        /// Whose.
        lease: LeaseId,
        /// The running rows, in full.
        running: Vec<(BatchId, LineSet)>,
    },
    /// S1: remove the heartbeat and the mirror.
    Leave {
        /// Whose.
        lease: LeaseId,
    },
    /// R2: which of these leases have a heartbeat, and is that worth anything?
    Check {
        /// The leases in question, with the longest ttl among them.
        leases: Vec<LeaseId>,
        /// For how long the witness must have been up with its data.
        ttl_max: Duration,
    },
}

/// A reply of the second witness. No reply means that it cannot vouch.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum LivenessReply {
    /// To [`LivenessRequest::Beat`], [`LivenessRequest::Publish`] and [`LivenessRequest::Leave`].
    Done,
    /// To [`LivenessRequest::Check`].
    Check {
        /// R2: it was surely up, with its data, for longer than `ttl_max`.
        vouches: bool,
        /// Those of the asked leases that have a heartbeat.
        alive: Vec<LeaseId>,
    },
}
