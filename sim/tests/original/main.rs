//! The protocol that ours descends from falls into the windows that ours was made to close, under schedules in which ours
//! holds.

mod shrunk;

use std::collections::BTreeSet;

use sim::fault::Fault;
use sim::options::{BatchPlan, Options};
use sim::original::{Cause, WINDOWS, Window, ours, run, schedule, search, tell};
use sim::schedule::Schedule;

/// Nothing odd, no faults.
fn quiet(seed: u64) -> Schedule {
    let drawn = schedule(seed);
    let options = Options { hanging_per_mille: 0, poison_rows: 0, slow_messages_per_mille: 0, ..drawn.options };
    Schedule { options, faults: Vec::new(), ..drawn }
}

/// The model is no straw man: it does its work.
#[test]
fn quiet_schedules_run_clean() {
    for seed in 0..1000 {
        let run = run(&quiet(seed));
        assert_eq!(run.findings, Vec::new(), "seed {seed}");
    }
}

/// The walk-through of the original: 20 rows of 2 s, TTL 60 s, heartbeat every 30 s, scan every 60 s. Worker A is killed in
/// its fifth row; B does its rows 60 to 120 s later, and then the rest.
#[test]
fn a_crash_is_recovered_as_the_walk_through_says() {
    let second = 1_000_000;
    let batch = BatchPlan { rows: 20, ..Options::small().batches[0].clone() };
    let options = Options {
        workers: 2,
        batches: vec![batch],
        run_us_min: 2 * second,
        run_us_max: 2 * second,
        ttl_us: 60 * second,
        renew_us: 30 * second,
        scan_us: 60 * second,
        poll_us: 45 * second,
        claim_lines_max: 10,
        ..Options::small()
    };
    let crash = Fault::Crash { worker: 0, restart_after_us: None, reported: false };
    let run = run(&Schedule { seed: 1, options, faults: vec![(9 * second, crash)] });
    assert_eq!(run.findings, Vec::new());
    // The dead worker's rows are back between 69 and 129 s, and found within a poll; six of them take 12 s.
    assert!((69 * second..220 * second).contains(&run.end_us), "ended at {} us", run.end_us);
}

#[test]
fn the_same_schedule_runs_the_same_way_twice() {
    let mut hashes = BTreeSet::new();
    for seed in 0..200 {
        let schedule = schedule(seed);
        let (first, second) = (run(&schedule), run(&schedule));
        assert_eq!(first, second, "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 200);
}

/// Each window within its number of schedules. What fails otherwise is explained, too.
#[test]
fn windows_are_found() {
    let wanted: Vec<Window> = WINDOWS.into_iter().filter(|window| window.within <= 8000).collect();
    let search = search(0..8000, &wanted);
    for window in wanted {
        let found = search.found.iter().find(|found| found.window == window);
        let schedules = found.map(|found| found.schedules);
        assert!(schedules.is_some_and(|schedules| schedules <= window.within), "{window:?}: found after {schedules:?}");
    }
    let unexplained = search.others.iter().find(|(_, finding)| finding.cause == Cause::Other("unexplained"));
    assert_eq!(unexplained, None);
}

#[test]
fn shrunk_schedules_show_their_windows() {
    let schedules = shrunk::schedules();
    let numbers: BTreeSet<u8> = schedules.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, WINDOWS.iter().map(|window| window.number).collect());
    for window in WINDOWS {
        for (_, schedule) in schedules.iter().filter(|(number, _)| *number == window.number) {
            let run = run(schedule);
            let shown = window.shown_by(schedule, &run);
            assert!(shown.is_some(), "{window:?} is not shown by {schedule:?}, but {:?}", run.findings);
            assert!(schedule.faults.len() <= 3, "{window:?}");
        }
    }
}

/// With the second witness and without; and as ours is elsewhere when such a fault strikes, earlier and later, too.
#[test]
fn ours_holds_under_the_shrunk_schedules() {
    sim::explore::quiet_panics();
    for (number, schedule) in shrunk::schedules() {
        assert_eq!(ours(&schedule), None, "window {number}");
        for nth in 0..100 {
            let moved = moved(&schedule, nth);
            assert_eq!(ours(&moved), None, "window {number}: {moved}");
        }
    }
}

/// All faults by the same time, for a second either way, and other latencies.
fn moved(schedule: &Schedule, nth: u64) -> Schedule {
    let later = |at: u64| (at + nth * 20_011).saturating_sub(1_000_000);
    let faults = schedule.faults.iter().map(|(at, fault)| (later(*at), *fault)).collect();
    Schedule { seed: schedule.seed + nth, faults, ..schedule.clone() }
}

/// `docs/original.md` has the shrunk schedules as they are.
#[test]
fn the_page_tells_of_the_shrunk_schedules() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/original.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    for (number, schedule) in shrunk::schedules() {
        let row = page.lines().find(|line| line.starts_with(&format!("| {number} |"))).unwrap_or_default();
        let told = format!("| {} | {} | holds", schedule.faults.len(), tell(&schedule));
        assert!(row.contains(&told), "window {number} is told as {row:?}, not as {told:?}");
    }
}
