//! What must always hold (`docs/protocol.md`, section 5), each as an object that is fed events and snapshots.
//!
//! Checkers work out what is right by themselves: none asks a rule function, and none knows which bug may be planted.
//! All of them start with an empty store. Times are true microseconds since the start of the run.
//!
//! - Feed every event, in order, with [`Checker::on_event`]: its cost is that of the lines named.
//! - Feed snapshots with [`Checker::on_state`]; one of the touched batches alone is enough for a step.
//! - Feed the whole store once at the end with [`Checker::at_end`].
//!
//! Facts about processes are optional: what is not known of is not judged.

mod abort;
mod conservation;
mod ends_once;
mod fencing;
mod health;
mod innocence;
mod one_outcome;
mod order;
mod ownership;
mod poison;
mod progress;
mod recovery;

use std::fmt;
use std::time::Duration;

pub use self::abort::Abort;
pub use self::conservation::{Conservation, tiling};
pub use self::ends_once::EndsOnce;
pub use self::fencing::Fencing;
pub use self::innocence::Innocence;
pub use self::one_outcome::OneOutcome;
pub use self::order::Order;
pub use self::ownership::Ownership;
pub use self::poison::Poison;
pub use self::progress::Progress;
pub use self::recovery::BoundedRecovery;
use crate::history::Event;
use crate::view::StoreView;

/// Something that must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which checker saw it.
    pub checker: &'static str,
    /// When, in true microseconds.
    pub at: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} us: {}", self.checker, self.at, self.what)
    }
}

impl std::error::Error for Violation {}

/// One invariant.
pub trait Checker {
    /// Its number in section 5 and its name there.
    fn name(&self) -> &'static str;

    /// Takes an event in.
    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation>;

    /// Looks at a snapshot, whole or partial, taken between two transactions.
    fn on_state(&mut self, _at: u64, _state: &StoreView) -> Result<(), Violation> {
        Ok(())
    }

    /// Looks at the whole store when the run is over.
    fn at_end(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        self.on_state(at, state)
    }
}

/// The bounds that a run sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// R4: what a recovery may take beyond ttl, scan and looks: the way of requests.
    pub recovery_slack: Duration,
    /// Invariant 7: how long after the last fault everything may take.
    pub progress: Duration,
    /// S2: how long after an abort a connected worker may still start rows.
    pub abort_notice: Duration,
    /// The same for one whose clock is slower than the protocol's margins cover: its second is longer than others'.
    pub abort_notice_slow: Duration,
    /// S2: the same for one that is notified. None: nobody is.
    pub abort_told: Option<Told>,
}

/// How soon a notification is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Told {
    /// How long after what it tells of.
    pub within: Duration,
    /// By whom: those that have been connected for so long before. Who was cut off listens again some time later.
    pub connected_for: Duration,
}

/// All checkers as one.
pub struct Suite {
    checkers: Vec<Box<dyn Checker + Send>>,
}

impl Suite {
    /// Every invariant.
    pub fn new(bounds: Bounds) -> Self {
        let mut suite = Self::of_store();
        suite.checkers.push(Box::new(Innocence::new()));
        suite.checkers.push(Box::new(BoundedRecovery::new(bounds.recovery_slack)));
        suite.checkers.push(Box::new(Progress::new(bounds.progress)));
        suite.checkers.push(Box::new(Abort::new(bounds.abort_notice, bounds.abort_notice_slow, bounds.abort_told)));
        suite
    }

    /// Those that need nothing but a store's events and snapshots.
    pub fn of_store() -> Self {
        Self {
            checkers: vec![
                Box::new(Conservation::new()),
                Box::new(OneOutcome::new()),
                Box::new(Fencing::new()),
                Box::new(Ownership::new()),
                Box::new(EndsOnce::new()),
                Box::new(Poison::new()),
                Box::new(Order::new()),
            ],
        }
    }
}

impl Checker for Suite {
    fn name(&self) -> &'static str {
        "all"
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        self.checkers.iter_mut().try_for_each(|checker| checker.on_event(at, event))
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        self.checkers.iter_mut().try_for_each(|checker| checker.on_state(at, state))
    }

    fn at_end(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        self.checkers.iter_mut().try_for_each(|checker| checker.at_end(at, state))
    }
}

/// A claim about what must hold; the text is made only where it does not.
fn ensure(holds: bool, checker: &'static str, at: u64, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation { checker, at, what: what() })
}

/// The place of a line in a vector.
fn index(line: u64) -> usize {
    usize::try_from(line).map_or(usize::MAX, |line| line.wrapping_sub(1))
}

fn micros(duration: Duration) -> u64 {
    fencepost_core::time::micros(duration)
}

#[cfg(test)]
mod testing;
