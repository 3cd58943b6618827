//! Makes a schedule that fails small enough to be read: by the shrinker, then towards [`Options::small`], whose TTL is a
//! second, then by rounding.

use super::run;
use super::windows::{Found, Window};
use crate::fault::Fault;
use crate::options::{BatchPlan, Options};
use crate::schedule::Schedule;
use crate::shrink::shrink;

/// What shrinking mostly ends at: [`Options::small`] made simpler yet.
pub fn plain() -> Options {
    Options {
        machines: 1,
        run_us_min: 120_000,
        claim_lines_max: 1,
        group_lines_max: 1,
        inner_us: 0,
        clock_spread: 0,
        core: u8::MAX,
        linger_us: 0,
        ..Options::small()
    }
}

/// One batch of so many rows.
pub fn rows(rows: u64) -> Vec<BatchPlan> {
    vec![BatchPlan { rows, ..Options::small().batches[0].clone() }]
}

/// The smallest that comes of what was found.
pub fn smallest(found: &Found) -> Schedule {
    let size = |schedule: &Schedule| {
        let (options, small) = (&schedule.options, Options::small());
        let odd = u64::from(options.slow_messages_per_mille > 0) + options.batches.len() as u64;
        (schedule.faults.len(), options.ttl_us != small.ttl_us, options.rows() + u64::from(options.workers) + 5 * odd)
    };
    let shrunk = found.failing.iter().map(|schedule| shrink_to(found.window, schedule));
    shrunk.min_by_key(size).unwrap_or_else(|| found.failing[0].clone())
}

/// A small schedule that still shows the window. The second witness stays: without it ours would not be put to the test.
fn shrink_to(window: Window, schedule: &Schedule) -> Schedule {
    let allowed = |options: &Options| options.liveness && 2 * options.renew_us <= options.ttl_us;
    let shows =
        |candidate: &Schedule| allowed(&candidate.options) && window.shown_by(candidate, &run(candidate)).is_some();
    let mut best = shrink(schedule, shows);
    for _ in 0..2 {
        for change in CHANGES {
            let mut candidate = best.clone();
            one_second(&mut candidate);
            change(&mut candidate);
            if candidate != best && shows(&candidate) {
                best = candidate;
            }
        }
        best = shrink(&best, shows);
    }
    round(best, shows)
}

type Change = fn(&mut Schedule);

/// The largest first.
const CHANGES: [Change; 38] = [
    all_small,
    |_| (),
    |s| crashed_are_back(s, 1_000_000),
    |s| crashed_are_back(s, 4_000_000),
    |s| s.seed = 1,
    |s| s.options.workers = 2,
    |s| s.options.machines = 2,
    |s| s.options.identities = false,
    |s| s.options.supervised = false,
    |s| s.options.stable_names = false,
    |s| s.options.notify = false,
    |s| s.options.until_done = false,
    |s| s.options.calls = false,
    |s| s.options.batches = Options::small().batches,
    |s| s.options.batches.iter_mut().for_each(|batch| batch.timeout_us = 3_000_000),
    |s| s.options.batches.iter_mut().for_each(|batch| (batch.attempts_max, batch.crashes_max) = (3, 3)),
    |s| s.options.batches.iter_mut().for_each(|batch| (batch.priority, batch.submit_at_us) = (0, 0)),
    |s| (s.options.run_us_min, s.options.run_us_max) = (60_000, 120_000),
    |s| s.options.deaf_per_mille = 0,
    |s| s.options.concurrency = 1,
    |s| s.options.renew_us = 500_000,
    |s| s.options.scan_us = 1_000_000,
    |s| s.options.request_timeout_us = 250_000,
    |s| s.options.horizon_us = 200_000,
    |s| s.options.claim_lines_max = 2,
    |s| s.options.claim_bytes_max = 10_000,
    |s| (s.options.group_lines_max, s.options.flush_age_us) = (10, 2000),
    |s| s.options.poll_us = 100_000,
    |s| s.options.grace_us = 500_000,
    |s| s.options.cancel_grace_us = 100_000,
    |s| (s.options.latency_us_min, s.options.latency_us_max) = (100, 1000),
    |s| s.options.slow_messages_per_mille = 0,
    |s| s.options.inner_us = 50,
    |s| s.options.clock_spread = 10_000,
    |s| s.options.store_rate = 1_000_000,
    |s| s.options.restart_us = 300_000,
    |s| s.options.core = 0b11,
    |s| s.options.linger_us = 2_500_000,
];

/// All options at once, but for those that decide whether anything can go wrong.
fn all_small(schedule: &mut Schedule) {
    one_second(schedule);
    let kept = &schedule.options;
    let batches = kept.batches.iter().map(|batch| BatchPlan {
        rows: batch.rows,
        submit_at_us: batch.submit_at_us,
        ..Options::small().batches[0].clone()
    });
    schedule.options = Options {
        workers: kept.workers,
        batches: batches.collect(),
        hanging_per_mille: kept.hanging_per_mille,
        poison_rows: kept.poison_rows,
        ..Options::small()
    };
}

/// Says when, where it would be when all faults are over.
fn crashed_are_back(schedule: &mut Schedule, after_us: u64) {
    for (_, fault) in &mut schedule.faults {
        if let Fault::Crash { restart_after_us, .. } | Fault::Stop { restart_after_us, .. } = fault {
            restart_after_us.get_or_insert(after_us);
        }
    }
}

/// All times in proportion, so that the TTL is a second.
fn one_second(schedule: &mut Schedule) {
    let ttl = schedule.options.ttl_us.max(1);
    let scale = |us: &mut u64| *us = u64::try_from(u128::from(*us) * 1_000_000 / u128::from(ttl)).unwrap_or(*us);
    let o = &mut schedule.options;
    let times = [
        &mut o.run_us_min,
        &mut o.run_us_max,
        &mut o.ttl_us,
        &mut o.renew_us,
        &mut o.scan_us,
        &mut o.request_timeout_us,
        &mut o.horizon_us,
        &mut o.flush_age_us,
        &mut o.poll_us,
        &mut o.grace_us,
        &mut o.cancel_grace_us,
        &mut o.latency_us_min,
        &mut o.latency_us_max,
        &mut o.restart_us,
        &mut o.linger_us,
    ];
    times.into_iter().for_each(scale);
    for batch in &mut o.batches {
        scale(&mut batch.submit_at_us);
        scale(&mut batch.timeout_us);
    }
    for (at, fault) in &mut schedule.faults {
        scale(at);
        with_time(fault, scale);
    }
}

/// The time that a fault has.
fn with_time(fault: &mut Fault, change: impl Fn(&mut u64)) {
    match fault {
        Fault::Delay { by_us: us, .. }
        | Fault::CutStore { for_us: us, .. }
        | Fault::CutWitness { for_us: us, .. }
        | Fault::Pause { for_us: us, .. }
        | Fault::StoreAway { for_us: us, .. }
        | Fault::WitnessAway { for_us: us, .. }
        | Fault::Crash { restart_after_us: Some(us), .. }
        | Fault::Stop { restart_after_us: Some(us), .. } => change(us),
        _ => {}
    }
}

/// Whole seconds if they do, else tenths, else hundredths, else thousandths.
fn round(mut best: Schedule, shows: impl Fn(&Schedule) -> bool) -> Schedule {
    let steps = [1_000_000, 500_000, 100_000, 10_000, 1000, 100];
    for at in 0..best.faults.len() {
        for time in [true, false] {
            for step in steps {
                let to_step = |us: &mut u64| *us = ((*us + step / 2) / step * step).max(step);
                let mut candidate = best.clone();
                if time {
                    to_step(&mut candidate.faults[at].0);
                } else {
                    with_time(&mut candidate.faults[at].1, to_step);
                }
                candidate.faults.sort_by_key(|(at, _)| *at);
                if shows(&candidate) {
                    best = candidate;
                    break;
                }
            }
        }
    }
    best
}
