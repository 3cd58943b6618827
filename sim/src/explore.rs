//! Many schedules on several threads, and the report of the first that fails.

use std::fmt;
use std::panic;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::checks::Violation;
use crate::coverage::Coverage;
use crate::planted::PlantedBug;
use crate::run_planted;
use crate::schedule::Schedule;
use crate::shrink::shrink;

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
    /// As it was drawn or read.
    pub schedule: Schedule,
    /// The bug that was planted, if any.
    pub bug: Option<PlantedBug>,
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
        Self { schedule: schedule.clone(), bug, violation, shrunk, shrunk_violation }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedule, bug, violation, shrunk, shrunk_violation } = self;
        let planted = bug.map(|bug| format!(" with {bug} planted")).unwrap_or_default();
        writeln!(f, "seed {}{planted} violates {violation}", schedule.seed)?;
        writeln!(f, "options {:?}", schedule.options)?;
        writeln!(f, "{} faults: {:?}", schedule.faults.len(), schedule.faults)?;
        writeln!(f, "\nshrunk, it violates {shrunk_violation}")?;
        match bug {
            None => writeln!(f, "as a test:\n\nlet schedule = {shrunk};\nassert_holds(&schedule);\n")?,
            // Without the bug it holds.
            Some(bug) => {
                writeln!(f, "as a test of the planted bug:\n\nlet schedule = {shrunk};")?;
                let run = format!("run_planted(&schedule, PlantedBug::named(\"{bug}\"))");
                writeln!(f, "let violation = {run}.violation;")?;
                let check = shrunk_violation.check;
                writeln!(f, "assert_eq!(violation.map(|found| found.check), Some(\"{check}\"));\n")?;
            }
        }
        // Drawn by its seed, it can be had again by that alone.
        let planted = bug.map(|bug| format!(" --planted {bug}")).unwrap_or_default();
        if *schedule == Schedule::from_seed(schedule.seed) {
            let seed = schedule.seed;
            writeln!(f, "replay:  cargo run -p sim -- replay {seed}{planted} --shrunk")?;
            writeln!(f, "keep:    cargo run -p sim -- shrink {seed}{planted} --out {seed}.json")?;
            writeln!(f, "draw:    cargo run -p sim -- timeline {seed}{planted} --shrunk --out {seed}.html")?;
        }
        Ok(())
    }
}

/// Runs the schedules of `seeds` on `jobs` threads; stops at the first failure, as soon as all lower seeds are done.
pub fn explore(seeds: std::ops::Range<u64>, jobs: usize) -> Sweep {
    explore_planted(seeds, jobs, None)
}

/// The same with a bug.
pub fn explore_planted(seeds: std::ops::Range<u64>, jobs: usize, bug: Option<PlantedBug>) -> Sweep {
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
                let run = run_planted(&Schedule::from_seed(seed), bug);
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
    let failure = lowest.map(|(seed, violation)| Failure::of(&Schedule::from_seed(seed), violation, bug));
    Sweep { coverage, failure }
}

thread_local! {
    /// What this thread runs is simulated.
    static SIMULATES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs what is simulated: a panic in it is its result.
pub(crate) fn catch<T>(simulated: impl FnOnce() -> T) -> std::thread::Result<T> {
    let before = SIMULATES.replace(true);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(simulated));
    SIMULATES.set(before);
    result
}

/// Panics of simulated code are results; they are not printed. Those of the simulator's own programs are.
pub fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !SIMULATES.get() || std::env::var_os("SIM_PANICS").is_some() {
                before(info);
            }
        }));
    });
}
