//! Looking for planted bugs, and the table of what it took.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::PlantedBug;
use crate::checks::Violation;
use crate::explore::{Failure, quiet_panics};
use crate::run_planted;
use crate::schedule::Schedule;

/// A bug that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which.
    pub bug: PlantedBug,
    /// By this seed, the first that did.
    pub seed: u64,
    /// What was violated.
    pub violation: Violation,
}

/// Looks for a bug in the runs of these seeds, on so many threads: the lowest that violates a check that must see it.
pub fn find(bug: PlantedBug, seeds: Range<u64>, jobs: usize) -> Option<Found> {
    quiet_panics();
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let found: Mutex<Option<Found>> = Mutex::default();
    let job = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return;
            }
            let violation = run_planted(&Schedule::from_seed(seed), Some(bug)).violation;
            let Some(violation) = violation.filter(|violation| bug.seen_by().contains(&violation.check)) else {
                continue;
            };
            end.fetch_min(seed, Ordering::Relaxed);
            let mut found = found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if found.as_ref().is_none_or(|before| seed < before.seed) {
                *found = Some(Found { bug, seed, violation });
            }
        }
    };
    thread::scope(|scope| (0..jobs.max(1)).for_each(|_| drop(scope.spawn(job))));
    found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A line of the table.
struct Line {
    bug: PlantedBug,
    found: Option<Failure>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, what) = self.bug.breaks();
        write!(f, "| {} | {rule}: {what} ", self.bug)?;
        let Some(found) = &self.found else { return writeln!(f, "| not found | | | |") };
        let Failure { schedule, shrunk, shrunk_violation, .. } = found;
        let check = shrunk_violation.check;
        write!(f, "| {} | {check} | {} ", schedule.seed + 1, shrunk.faults.len())?;
        writeln!(f, "| `{}` |", one_line(shrunk))
    }
}

/// What a shrunk schedule is: its seed, what is left of its options, its faults.
fn one_line(schedule: &Schedule) -> String {
    let options = &schedule.options;
    let rows: Vec<u64> = options.batches.iter().map(|batch| batch.rows).collect();
    let Schedule { seed, faults, .. } = schedule;
    format!("seed {seed}, {} workers, rows {rows:?}, ttl {} us, faults {faults:?}", options.workers, options.ttl_us)
}

/// Looks for every bug, shrinks what finds it, and prints a table. True: all were found.
pub fn table(schedules: u64, jobs: usize, mut print: impl FnMut(&str)) -> bool {
    print("| bug | rule | schedules | seen by | faults | shrunk schedule |\n|---|---|---|---|---|---|\n");
    let mut all = true;
    for bug in PlantedBug::all() {
        let found = find(bug, 0..schedules, jobs);
        all &= found.is_some();
        let shrunk = |found: Found| Failure::of(&Schedule::from_seed(found.seed), found.violation, Some(bug));
        print(&Line { bug, found: found.map(shrunk) }.to_string());
    }
    all
}
