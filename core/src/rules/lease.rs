//! L: the lease.

use std::time::Duration;

use crate::time::Instant;

/// Where a lease is in its life. Only `Live` ever changes; no other state turns back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Renewed, or at least not ended.
    Live,
    /// Declared dead by a judge (R3).
    Dead,
    /// Ended by another process that started under the same stable name (R5).
    TakenOver,
    /// Dropped by its own worker (S1).
    Dropped,
}

/// L1: without a live lease, no claim.
pub fn l1_may_claim(state: Option<LeaseState>) -> bool {
    state == Some(LeaseState::Live)
}

/// L2: a lease is renewed while it is live, even past its time; once ended, never.
pub fn l2_renewable(state: LeaseState) -> bool {
    state == LeaseState::Live
}

/// L2: how long after a renewal failed it is tried again: at least every eighth of the ttl.
pub fn l2_retry_after(ttl: Duration) -> Duration {
    ttl / 8
}

/// L2: whether to ask for a renewal, or for a look that changes nothing: past its licence a worker asks for none that it might not
/// hear of. `heard`: the store has answered since the last one was asked for.
pub fn l2_may_ask(now: Instant, renewal_sent_at: Instant, ttl: Duration, heard: bool) -> bool {
    heard || now < l4_licence_ends(renewal_sent_at, ttl)
}

/// L3: the heartbeat is earned by having reached the store within the last ttl.
pub fn l3_heartbeat_earned(now: Instant, store_reached_at: Instant, ttl: Duration) -> bool {
    now.since(store_reached_at) < ttl
}

/// L4: when the worker's own licence ends, counted from when the last good renewal was sent. The margin covers clock
/// rates that differ by up to an eighth and the time a cancel takes.
pub fn l4_licence_ends(renewal_sent_at: Instant, ttl: Duration) -> Instant {
    renewal_sent_at + (ttl - l4_margin(ttl))
}

/// L4: the margin between the end of the licence and the ttl.
pub fn l4_margin(ttl: Duration) -> Duration {
    ttl / 8
}

/// L5: when the next renewal is due; it depends on nothing but the last one.
pub fn l5_next_renewal(renewal_sent_at: Instant, renew: Duration) -> Instant {
    renewal_sent_at + renew
}
