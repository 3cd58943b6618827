//! Many schedules on several threads, and the report of the first that fails.

use std::fmt;
use std::panic;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::checks::Violation;
use crate::coverage::Coverage;
use crate::planted::PlantedBug;
use crate::schedule::Schedule;
use crate::shrink::shrink;
use crate::{run, run_planted};

/// What a sweep came to.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// What was seen.
    pub coverage: Coverage,
    /// The failure with the lowest seed among those found.
    pub failure: Option<Failure>,
}

/// A schedule that fails.
#[derive(Debug, Clone)]
pub struct Failure {
    /// As it was drawn.
    pub schedule: Schedule,
    /// What was violated.
    pub violation: Violation,
    /// A small one that fails in the same way.
    pub shrunk: Schedule,
    /// What that one violates.
    pub shrunk_violation: Violation,
}

impl Failure {
    /// Shrinks a failing schedule.
    pub fn of(schedule: &Schedule, violation: Violation, bug: Option<PlantedBug>) -> Self {
        let violated = |candidate: &Schedule| run_planted(candidate, bug).violation;
        let shrunk =
            shrink(schedule, |candidate| violated(candidate).is_some_and(|found| found.check == violation.check));
        let shrunk_violation = violated(&shrunk).unwrap_or_else(|| violation.clone());
        Self { schedule: schedule.clone(), violation, shrunk, shrunk_violation }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.schedule.seed;
        writeln!(f, "seed {seed} violates {}", self.violation)?;
        writeln!(f, "options {:?}", self.schedule.options)?;
        writeln!(f, "{} faults: {:?}", self.schedule.faults.len(), self.schedule.faults)?;
        writeln!(f, "\nshrunk, it violates {}", self.shrunk_violation)?;
        writeln!(f, "as a test:\n\nlet schedule = {};\nassert_holds(&schedule);\n", self.shrunk)?;
        writeln!(f, "replay: cargo run -p sim -- replay {seed}")
    }
}

/// Runs the schedules of `seeds` on `jobs` threads; stops at the first failure, as soon as all lower seeds are done.
pub fn explore(seeds: std::ops::Range<u64>, jobs: usize) -> Sweep {
    quiet_panics();
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let found: Mutex<Vec<(u64, Violation)>> = Mutex::default();
    let coverage = thread::scope(|scope| {
        let job = || {
            let mut coverage = Coverage::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end.load(Ordering::Relaxed) {
                    return coverage;
                }
                let run = run(&Schedule::from_seed(seed));
                coverage.merge(&run.coverage);
                if let Some(violation) = run.violation {
                    end.fetch_min(seed, Ordering::Relaxed);
                    found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((seed, violation));
                }
            }
        };
        let jobs: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(job)).collect();
        let mut coverage = Coverage::default();
        for job in jobs {
            if let Ok(more) = job.join() {
                coverage.merge(&more);
            }
        }
        coverage
    });
    let found = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lowest = found.into_iter().min_by_key(|(seed, _)| *seed);
    let failure = lowest.map(|(seed, violation)| Failure::of(&Schedule::from_seed(seed), violation, None));
    Sweep { coverage, failure }
}

/// Panics of simulated code are results; they are not printed.
pub fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let simulated = info.location().is_some_and(|at| !at.file().starts_with("sim/tests"));
            if !simulated || std::env::var_os("SIM_PANICS").is_some() {
                before(info);
            }
        }));
    });
}
