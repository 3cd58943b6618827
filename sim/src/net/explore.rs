//! Many runs on several threads, and the report of the first that fails.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::coverage::NetCoverage;
use super::run::run;
use super::schedule::NetSchedule;
use crate::checks::Violation;
use crate::explore::quiet_panics;

/// What a sweep came to.
#[derive(Debug, Clone, Default)]
pub struct NetSweep {
    /// What was seen.
    pub coverage: NetCoverage,
    /// The failure with the lowest seed among those found.
    pub failure: Option<NetFailure>,
}

/// A run that fails.
#[derive(Debug, Clone)]
pub struct NetFailure {
    /// The run.
    pub schedule: NetSchedule,
    /// What was violated.
    pub violation: Violation,
    /// With some of its faults left out, as far as it fails in the same way: tasks run in another order then.
    pub shrunk: NetSchedule,
}

impl NetFailure {
    /// Leaves out what faults it can.
    pub fn of(schedule: NetSchedule, violation: Violation) -> Self {
        let fails = |candidate: &NetSchedule| run(candidate).violation.is_some_and(|of| of.check == violation.check);
        let mut shrunk = schedule.clone();
        let mut chunk = shrunk.faults.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            while at < shrunk.faults.len() {
                let mut candidate = shrunk.clone();
                candidate.faults.drain(at..(at + chunk).min(candidate.faults.len()));
                if fails(&candidate) {
                    shrunk = candidate;
                } else {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
        Self { schedule, violation, shrunk }
    }
}

impl fmt::Display for NetFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.schedule.seed;
        writeln!(f, "seed {seed} violates {}", self.violation)?;
        writeln!(f, "options {:?}", self.schedule.options)?;
        writeln!(f, "{} faults: {:?}", self.schedule.faults.len(), self.schedule.faults)?;
        writeln!(
            f,
            "\nwith {} of them it fails in the same way; as a test in sim/tests/net.rs:\n",
            self.shrunk.faults.len()
        )?;
        writeln!(f, "let schedule = {};\nassert_eq!(run(&schedule).violation, None);\n", self.shrunk)?;
        writeln!(f, "replay:  cargo run -p sim -- net {seed} --shrunk")
    }
}

/// Runs these seeds on `jobs` threads; stops at the first failure, as soon as all lower seeds are done.
pub fn explore(seeds: Range<u64>, jobs: usize) -> NetSweep {
    quiet_panics();
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let found: Mutex<Vec<(u64, Violation)>> = Mutex::default();
    let job = || {
        let mut coverage = NetCoverage::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return coverage;
            }
            let run = run(&NetSchedule::from_seed(seed));
            coverage.merge(&run.coverage);
            if let Some(violation) = run.violation {
                end.fetch_min(seed, Ordering::Relaxed);
                found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((seed, violation));
            }
        }
    };
    let coverage = thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(job)).collect();
        let mut coverage = NetCoverage::default();
        for more in jobs.into_iter().filter_map(|job| job.join().ok()) {
            coverage.merge(&more);
        }
        coverage
    });
    let found = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lowest = found.into_iter().min_by_key(|(seed, _)| *seed);
    let failure = lowest.map(|(seed, violation)| NetFailure::of(NetSchedule::from_seed(seed), violation));
    NetSweep { coverage, failure }
}
