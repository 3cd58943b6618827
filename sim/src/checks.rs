//! The checkers of the model, fed on every step; the first violation ends the run.

use std::fmt;

use fencepost_model::check::{Bounds, Checker, Suite};
use fencepost_model::history;
use fencepost_model::store::ModelStore;

/// The check that fails where the core's or the model's own assertions do.
pub const PANIC: &str = "panic";

/// What sort of promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something happened that never may.
    Safety,
    /// Something did not happen in time: rows do not end, a death is not found, a process never becomes idle.
    Liveness,
    /// The code's own assertion failed.
    Panic,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which check. Shrinking keeps to it.
    pub check: &'static str,
    /// When.
    pub at_us: u64,
    /// What.
    pub what: String,
}

impl Violation {
    /// What sort of promise it breaks.
    pub fn kind(&self) -> Kind {
        match self.check {
            PANIC => Kind::Panic,
            "progress" | "7 progress" | "6 bounded recovery" | "busy" => Kind::Liveness,
            _ => Kind::Safety,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] at {} us: {}", self.check, self.at_us, self.what)
    }
}

/// All checkers, and the first violation.
pub(crate) struct Checks {
    suite: Suite,
    violation: Option<Violation>,
}

impl Checks {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { suite: Suite::new(bounds), violation: None }
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn into_violation(self) -> Option<Violation> {
        self.violation
    }

    pub(crate) fn violate(&mut self, at_us: u64, check: &'static str, what: String) {
        self.violation.get_or_insert(Violation { check, at_us, what });
    }

    /// Something happened.
    pub(crate) fn fact(&mut self, at: u64, event: &history::Event) {
        let result = self.suite.on_event(at, event);
        self.take(result);
    }

    /// A transaction is over.
    pub(crate) fn step(&mut self, at: u64, store: &mut ModelStore) {
        let touched = store.take_touched();
        if !touched.is_empty() {
            let result = self.suite.on_state(at, &store.view_of(&touched));
            self.take(result);
        }
    }

    /// The run is over.
    pub(crate) fn finish(&mut self, at: u64, store: &ModelStore) {
        let result = self.suite.at_end(at, &store.view());
        self.take(result);
    }

    fn take(&mut self, result: Result<(), fencepost_model::check::Violation>) {
        if let Err(violation) = result {
            self.violate(violation.at, violation.checker, violation.what);
        }
    }
}
