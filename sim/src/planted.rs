//! Planted bugs: what a store or a driver might get wrong, one rule each. Each must be found, or the checkers prove nothing.
//!
//! The core has no switches for them. Some are in the model of the store ([`Mistake`]); the others are put between the two, by
//! changing requests and replies. The checkers are not told which bug there is.

mod search;

use std::fmt;

use fencepost_model::store::Mistake;

pub use self::search::{Found, find, table};

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// In the store.
    Store(Mistake),
    /// O1: one fenced line gives the verdict for its whole group.
    FenceForGroup,
    /// O2: the driver takes a lost reply to a record for success.
    UnknownTakenForSuccess,
    /// C2: what a lost claim took is never asked for.
    NoSettle,
    /// C2: settling reads what the claim took, but leaves its number open.
    SettleLeavesNumberOpen,
    /// R2: a judge asks its own wall clock whether a lease is past its time.
    RecoveryByJudgeClock,
    /// R2: a lease past its time is declared dead at the first look.
    NoSecondLook,
    /// R2: a heartbeat that is missing, where the second witness vouches, is enough.
    RecoveryByHeartbeat,
    /// R2: a heartbeat that is missing counts although the second witness was just wiped.
    YoungWitnessBelieved,
    /// R3: the act does not ask whether the lease was renewed since.
    SeenCountIgnored,
    /// S1, L4: lines given back stay where they are.
    GiveBackForgotten,
    /// P2: no worker ever counts as idle.
    NeverIdle,
}

impl PlantedBug {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let around = [
            Self::FenceForGroup,
            Self::UnknownTakenForSuccess,
            Self::NoSettle,
            Self::SettleLeavesNumberOpen,
            Self::RecoveryByJudgeClock,
            Self::NoSecondLook,
            Self::RecoveryByHeartbeat,
            Self::YoungWitnessBelieved,
            Self::SeenCountIgnored,
            Self::GiveBackForgotten,
            Self::NeverIdle,
        ];
        Mistake::ALL.into_iter().map(Self::Store).chain(around).collect()
    }

    /// The mistake of the store that it is.
    pub const fn mistake(self) -> Option<Mistake> {
        match self {
            Self::Store(mistake) => Some(mistake),
            _ => None,
        }
    }

    /// The rule that it breaks, and how.
    pub const fn breaks(self) -> (&'static str, &'static str) {
        match self {
            Self::Store(mistake) => mistake.breaks(),
            Self::FenceForGroup => ("O1", "one fenced line gives the verdict for its whole group"),
            Self::UnknownTakenForSuccess => ("O2", "a lost reply to a record is taken for success"),
            Self::NoSettle => ("C2", "what a lost claim took is never asked for"),
            Self::SettleLeavesNumberOpen => ("C2", "settling leaves the claim's number open"),
            Self::RecoveryByJudgeClock => ("R2", "a judge asks its own wall clock"),
            Self::NoSecondLook => ("R2", "a lease past its time is dead at the first look"),
            Self::RecoveryByHeartbeat => ("R2", "a missing heartbeat is enough"),
            Self::YoungWitnessBelieved => ("R2", "a missing heartbeat counts although Redis was just wiped"),
            Self::SeenCountIgnored => ("R3", "the act does not ask whether the lease was renewed since"),
            Self::GiveBackForgotten => ("L4", "lines given back stay where they are"),
            Self::NeverIdle => ("P2", "no worker ever counts as idle"),
        }
    }

    /// The bug of this name, as it is printed.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|bug| bug.to_string().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for PlantedBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(mistake) => write!(f, "{mistake:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}
