//! A simulator that finds nothing proves nothing: each planted bug must be found within so many schedules.

#![allow(clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use fencepost_model::store::Mistake;
use sim::explore::quiet_panics;
use sim::fault::{Again, Fault};
use sim::options::Options;
use sim::planted::{PlantedBug, find};
use sim::run_planted;
use sim::schedule::Schedule;

/// How many schedules a bug may take: several times what it took when this was written.
fn schedules_for(bug: PlantedBug) -> u64 {
    match bug {
        // 1150: an abort, and a purge while what was held at it runs.
        PlantedBug::Store(Mistake::PurgeAsksForNothing) => 5_000,
        // 1064; 2759, it takes a claim that is later than its settling; 12024, it takes two batches in one group.
        PlantedBug::Store(Mistake::NoTokenCheck) | PlantedBug::SeenCountIgnored => 5_000,
        PlantedBug::SettleLeavesNumberOpen => 12_000,
        PlantedBug::FenceForGroup => 40_000,
        // 292.
        PlantedBug::Store(Mistake::NoCutBack) => 1_500,
        // Up to 70.
        _ => 400,
    }
}

#[test]
fn every_planted_bug_is_found() {
    let bugs = PlantedBug::all();
    assert!(bugs.len() >= 33, "{} bugs", bugs.len());
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let is_missed = |bug: &PlantedBug| {
        let limit = schedules_for(*bug);
        let found = find(*bug, 0..limit, jobs);
        match &found {
            Some(found) => println!("{bug}: schedule {} of {limit}: {}", found.seed + 1, found.violation),
            None => println!("{bug}: not within {limit} schedules"),
        }
        found.is_none()
    };
    let missed: Vec<PlantedBug> = bugs.into_iter().filter(is_missed).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// S3: a hold stays over the batch's end and an operator's retry.
#[test]
fn claims_of_a_held_batch_that_was_opened_again_are_found() {
    quiet_panics();
    let mut options = Options { workers: 1, ..Options::small() };
    options.batches[0].rows = 1;
    let faults = vec![
        (30_000, Fault::Hold { batch: 0, for_us: 6_000_000 }),
        (1_000_000, Fault::Retry { batch: 0, rows: Again::Line(0) }),
    ];
    let schedule = Schedule { seed: 1, options, faults };
    assert_eq!(sim::run(&schedule).violation, None);
    let seen = run_planted(&schedule, Some(PlantedBug::Store(Mistake::ClaimsFromHeld))).violation;
    assert!(seen.as_ref().is_some_and(|seen| seen.check == "12 order"), "{seen:?}");
}

/// What sees it is what is there for it: no other check counts, and a panic never does.
#[test]
fn each_bug_is_seen_by_checks_of_its_rule() {
    for bug in PlantedBug::all() {
        let (checks, rule) = (bug.seen_by(), bug.breaks().0);
        assert!(!checks.is_empty() && !checks.contains(&sim::checks::PANIC), "{bug}, {rule}: {checks:?}");
    }
    // Without faults nothing is judged by a second witness that has lost its data.
    quiet_panics();
    for seed in 0..200 {
        let schedule = Schedule { faults: Vec::new(), ..Schedule::from_seed(seed) };
        let run = run_planted(&schedule, Some(PlantedBug::YoungWitnessBelieved));
        // In some the second witness restarts for ever once the faults have stopped.
        let loops = run.coverage.count(sim::coverage::Mark::WitnessLoopsForEver) > 0;
        assert!(loops || run.violation.is_none(), "seed {seed}: {:?}", run.violation);
    }
}

/// The mistakes are in the model, and what is shipped has neither the model nor a switch for any of them.
#[test]
fn nothing_that_is_shipped_can_make_a_mistake() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "fencepost",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "--all-features",
        ])
        .current_dir(&root)
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"fencepost-core"), "{text}");
    for name in ["fencepost-model", "sim"] {
        assert!(!names.contains(&name), "fencepost depends on {name}");
    }
    let mut looked_at = 0;
    for part in ["core/src", "cli/src"] {
        no_switch(&root.join(part), &mut looked_at);
    }
    assert!(looked_at > 50, "{looked_at} files");
    let mut checkers = 0;
    no_switch(&root.join("sim/model/src/check"), &mut checkers);
    assert!(checkers > 10, "{checkers} checkers");
}

fn no_switch(folder: &Path, looked_at: &mut u32) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            no_switch(&path, looked_at);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).expect("a source");
            *looked_at += 1;
            for word in ["Mistake", "mistake::", "PlantedBug", "planted::"] {
                assert!(!source.contains(word), "{} has {word}", path.display());
            }
        }
    }
}
