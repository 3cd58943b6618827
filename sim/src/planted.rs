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
    /// R2: a heartbeat that is missing counts although the second witness has lost its data. (That it is empty because it was started
    /// with the run is not enough.)
    YoungWitnessBelieved,
    /// R3: the act does not ask whether the lease was renewed since.
    SeenCountIgnored,
    /// S1, L4: lines given back stay where they are.
    GiveBackForgotten,
    /// P2: no worker ever counts as idle.
    NeverIdle,
    /// L6: the driver runs a row again by itself, under the same token, when its handler asks to be tried again.
    RetriesByItself,
    /// The driver never tells a judge that time has passed.
    TimerForgotten,
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
            Self::RetriesByItself,
            Self::TimerForgotten,
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
            Self::YoungWitnessBelieved => ("R2", "a missing heartbeat counts although Redis has lost its data"),
            Self::SeenCountIgnored => ("R3", "the act does not ask whether the lease was renewed since"),
            Self::GiveBackForgotten => ("L4", "lines given back stay where they are"),
            Self::NeverIdle => ("P2", "no worker ever counts as idle"),
            Self::RetriesByItself => ("L6", "the driver runs a row again by itself, under the same token"),
            Self::TimerForgotten => ("R2", "the driver never tells a judge that time has passed"),
        }
    }

    /// The checks that must see it: one is enough, and no other counts. (That a run does not end is seen by either of two.)
    pub const fn seen_by(self) -> &'static [&'static str] {
        const ENDLESS: &[&str] = &["progress", "7 progress"];
        const JUDGED_EARLY: &[&str] = &["5 innocence", "R2 expiry"];
        match self {
            Self::Store(
                Mistake::NoTokenCheck
                | Mistake::FenceOfAMomentAgo
                | Mistake::GiveBackWithoutToken
                | Mistake::LateOutcomesAfterAbort
                | Mistake::LinesGrantedTwice,
            ) => &["1 conservation"],
            Self::Store(Mistake::RecoveryKeepsTokens | Mistake::RenewsTheDead) => &["4 ownership"],
            Self::Store(Mistake::RefusesTheLate) | Self::NoSecondLook => &["5 innocence"],
            Self::Store(Mistake::NoCutBack) => &["6 bounded recovery"],
            Self::Store(Mistake::EndApart)
            | Self::FenceForGroup
            | Self::UnknownTakenForSuccess
            | Self::NoSettle
            | Self::SettleLeavesNumberOpen
            | Self::GiveBackForgotten
            | Self::NeverIdle => ENDLESS,
            Self::Store(
                Mistake::AppendToEnded
                | Mistake::RetryKeepsGeneration
                | Mistake::CompletionApart
                | Mistake::CallWithoutToken,
            ) => &["8 ends once"],
            Self::Store(
                Mistake::CrashUsesAttempt
                | Mistake::WholeLeaseBlamed
                | Mistake::SuspectsNotHalved
                | Mistake::QuotaIgnored,
            ) => &["9 poison"],
            Self::Store(Mistake::PurgeAsksForNothing) => &["11 abort"],
            Self::Store(Mistake::ClaimsFromHeld) => &["12 order"],
            Self::RecoveryByHeartbeat | Self::YoungWitnessBelieved | Self::SeenCountIgnored => JUDGED_EARLY,
            Self::RecoveryByJudgeClock => &["R2 expiry"],
            Self::RetriesByItself => &["L6"],
            Self::TimerForgotten => &["busy"],
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
