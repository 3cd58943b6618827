//! Schedules made by hand, for what random ones seldom meet.

use sim::explore::quiet_panics;
use sim::fault::{Fault, Way};
use sim::options::Options;
use sim::run;
use sim::schedule::Schedule;

/// S2: a handler that does not listen outlives its batch's abort and is given up; a purge waits until it has ended.
#[test]
fn a_purge_waits_for_a_run_of_an_aborted_batch_that_was_given_up() {
    quiet_panics();
    let mut purges = 0;
    for seed in 0..20 {
        let mut options = Options { workers: 1, deaf_per_mille: 1000, notify: true, ..Options::small() };
        options.batches[0].rows = 1;
        (options.run_us_min, options.run_us_max) = (1_500_000, 1_500_000);
        // Aborted at once, given up a tenth of a second later, at an end within a ttl from then on.
        let mut faults = vec![(200_000, Fault::Abort { batch: 0 })];
        faults.extend((0..12).map(|at| (350_000 + at * 100_000, Fault::Purge { batch: 0 })));
        let run = run(&Schedule { seed, options, faults });
        assert_eq!(run.violation, None, "seed {seed}");
        purges += run.coverage.count(sim::coverage::Mark::PurgeBusy);
    }
    assert!(purges > 20, "{purges} purges came while the run went on");
}

/// A worker that is given ten thousand rows to start at once is not done with them in as many effects.
#[test]
fn a_process_that_does_not_settle_is_seen() {
    quiet_panics();
    let rows = 30_000;
    let mut options = Options { workers: 1, concurrency: 30_000, claim_lines_max: rows, ..Options::small() };
    (options.claim_bytes_max, options.held_bytes_max, options.horizon_us) = (1 << 30, 1 << 31, 1_000_000);
    options.batches[0].rows = rows;
    let violation = run(&Schedule { seed: 1, options, faults: Vec::new() }).violation;
    assert!(violation.as_ref().is_some_and(|seen| seen.check == "busy"), "{violation:?}");
}

/// L2, R4: a worker whose requests arrive, but that hears nothing, loses its lease and its rows within the bound. It renewed for
/// as long as the link was like that (ten minutes here), and no check saw it: each renewal moved the bound.
#[test]
fn who_hears_nothing_does_not_keep_rows() {
    quiet_panics();
    let mut held = 0;
    for seed in 0..20 {
        let mut options = Options { workers: 2, ..Options::small() };
        (options.run_us_min, options.run_us_max) = (200_000, 300_000);
        let cut = Fault::CutStore { worker: 0, way: Way::Replies, loud: false, for_us: 600_000_000 };
        let run = run(&Schedule { seed, options, faults: vec![(250_000, cut)] });
        assert_eq!(run.violation, None, "seed {seed}");
        assert!(run.end_us < 60_000_000, "seed {seed}: it took {} us", run.end_us);
        held += run.coverage.count(sim::coverage::Mark::RecoveredSpan);
    }
    assert!(held > 0, "it held rows when it was cut off");
}
