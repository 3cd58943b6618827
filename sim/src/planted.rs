//! Planted bugs: what a store or a driver might get wrong. Each must be found, or the checkers prove nothing.
//!
//! The core and the model have no switches for them: they are put between the two, by changing requests, replies and what
//! the checkers are told of the store.

use std::fmt;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// O1: the store records an answer although the line is out of its token's hands.
    NoFence,
    /// O1: one fenced line gives the verdict for its whole group.
    FenceForGroup,
    /// O2: the driver takes a lost reply to a record for success.
    UnknownTakenForSuccess,
    /// C2: what a lost claim took is never asked for.
    NoSettle,
    /// C2: settling reads what the claim took, but leaves its number open.
    SettleLeavesNumberOpen,
    /// R2: a judge goes by its own wall clock, and looks once.
    RecoveryByJudgeClock,
    /// R2: a missing heartbeat is enough.
    RecoveryByHeartbeat,
    /// R3: the act does not ask whether the lease was renewed since.
    SeenCountIgnored,
    /// L2: a dead lease is renewed as if it lived.
    LeaseStateIgnored,
    /// S1, L4: lines given back stay where they are.
    GiveBackForgotten,
    /// P2: no worker ever counts as idle.
    NeverIdle,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoFence,
        Self::FenceForGroup,
        Self::UnknownTakenForSuccess,
        Self::NoSettle,
        Self::SettleLeavesNumberOpen,
        Self::RecoveryByJudgeClock,
        Self::RecoveryByHeartbeat,
        Self::SeenCountIgnored,
        Self::LeaseStateIgnored,
        Self::GiveBackForgotten,
        Self::NeverIdle,
    ];

    /// The bug of this name, as `Debug` has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.to_string().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for PlantedBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
