//! Makes a failing schedule small: fewer faults, milder ones, simpler options, while the same check still fails.

use crate::options::Options;
use crate::schedule::Schedule;

/// At most so many runs are spent on one schedule.
const RUNS_MAX: u32 = 2000;

/// A small schedule for which `fails` still holds; it holds for the one given.
pub fn shrink(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Schedule {
    let mut shrinker = Shrinker { best: schedule.clone(), fails, runs: 0 };
    while shrinker.runs < RUNS_MAX {
        let before = shrinker.best.clone();
        shrinker.drop_faults();
        shrinker.simplify_options();
        shrinker.soften_faults();
        if shrinker.best == before {
            break;
        }
    }
    shrinker.best
}

struct Shrinker<F> {
    best: Schedule,
    fails: F,
    runs: u32,
}

impl<F: Fn(&Schedule) -> bool> Shrinker<F> {
    fn try_one(&mut self, candidate: Schedule) -> bool {
        if candidate == self.best || self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.best = candidate;
        }
        fails
    }

    /// ddmin: leaves out half of the faults, quarters, single ones.
    fn drop_faults(&mut self) {
        let mut chunk = self.best.faults.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut candidate = self.best.clone();
                let end = (at + chunk).min(candidate.faults.len());
                candidate.faults.drain(at..end);
                if !self.try_one(candidate) {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
    }

    fn soften_faults(&mut self) {
        for at in 0..self.best.faults.len() {
            for milder in self.best.faults[at].1.milder() {
                let mut candidate = self.best.clone();
                candidate.faults[at].1 = milder;
                if self.try_one(candidate) {
                    break;
                }
            }
        }
    }

    fn simplify_options(&mut self) {
        for simpler in SIMPLER {
            let mut candidate = self.best.clone();
            simpler(&mut candidate.options);
            self.try_one(candidate);
        }
        for batch in 0..self.best.options.batches.len() {
            self.fewer_rows(batch);
        }
    }

    fn fewer_rows(&mut self, batch: usize) {
        while self.best.options.batches[batch].rows > 1 {
            let rows = self.best.options.batches[batch].rows;
            let fewer = |fewer: u64| {
                let mut candidate = self.best.clone();
                candidate.options.batches[batch].rows = fewer;
                candidate
            };
            let (half, less) = (fewer(rows / 2), fewer(rows - 1));
            if !self.try_one(half) && !self.try_one(less) {
                break;
            }
        }
    }
}

/// Ways to make options simpler, the largest first.
const SIMPLER: [fn(&mut Options); 32] = [
    |o| o.batches.truncate(1),
    |o| o.workers = 1,
    |o| o.workers = o.workers.saturating_sub(1).max(1),
    |o| o.joins_us.clear(),
    |o| o.lost_per_mille = 0,
    |o| o.witness_rate = 1_000_000,
    |o| o.held_bytes_max = 1_000_000,
    |o| o.poison_rows = 0,
    |o| o.poison_rows = o.poison_rows.min(1),
    |o| o.liveness = false,
    |o| o.supervised = false,
    |o| o.identities = false,
    |o| o.stable_names = false,
    |o| o.notify = false,
    |o| o.until_done = false,
    |o| o.calls = false,
    |o| o.slow_per_mille = 0,
    |o| o.failing_per_mille = 0,
    |o| o.retrying_per_mille = 0,
    |o| o.hanging_per_mille = 0,
    |o| o.deaf_per_mille = 0,
    |o| o.concurrency = 1,
    |o| o.clock_spread = 0,
    |o| o.store_rate = 1_000_000,
    |o| o.slow_messages_per_mille = 0,
    |o| o.inner_us = 0,
    |o| o.core = 255,
    |o| o.linger_us = 0,
    |o| o.claim_lines_max = 1,
    |o| o.group_lines_max = 1,
    |o| o.run_us_min = o.run_us_max,
    |o| o.machines = 1,
];
