//! Without determinism no failure can be replayed: this comes before everything else.

use sim::checks::PANIC;
use sim::explore::quiet_panics;
use sim::fault::{Fault, Server};
use sim::options::Options;
use sim::run;
use sim::schedule::Schedule;

#[test]
fn the_same_schedule_runs_the_same_way_twice() {
    for seed in 0..300 {
        let schedule = Schedule::from_seed(seed);
        let (first, second) = (run(&schedule), run(&schedule));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!((first.events, first.end_us), (second.events, second.end_us), "seed {seed}");
        assert_eq!(first.coverage, second.coverage, "seed {seed}");
    }
}

/// Nothing but an answer's content differs: the same events happen at the same times.
#[test]
fn the_hash_sees_what_is_said() {
    let with = |failing_per_mille| {
        let options = Options { failing_per_mille, run_us_min: 120_000, ..Options::small() };
        run(&Schedule { seed: 1, options, faults: Vec::new() })
    };
    let (succeed, fail) = (with(0), with(1000));
    assert_eq!((succeed.events, succeed.end_us), (fail.events, fail.end_us));
    assert_ne!(succeed.hash, fail.hash);
}

/// A panic is told with its time, and with the hash of all before it.
#[test]
fn a_panic_keeps_what_was_before_it() {
    quiet_panics();
    let with = |at_us| {
        // Times overflow: files with such a fault are refused.
        let delay = Fault::Delay { worker: 0, server: Server::Store, count: 1, by_us: u64::MAX };
        run(&Schedule { seed: 1, options: Options::small(), faults: vec![(at_us, delay)] })
    };
    let (early, late) = (with(1), with(100_000));
    for run in [&early, &late] {
        assert!(run.violation.as_ref().is_some_and(|violation| violation.check == PANIC && violation.at_us > 0));
    }
    assert!(0 < early.events && early.events < late.events);
    assert_ne!(early.hash, late.hash);
}

#[test]
fn the_same_seed_runs_the_same_way_on_another_thread() {
    let hashes = |_| (0..100).map(|seed| run(&Schedule::from_seed(seed)).hash).collect::<Vec<u64>>();
    let here = hashes(());
    let there = std::thread::spawn(move || hashes(())).join();
    assert!(there.is_ok_and(|there| there == here));
}

#[test]
fn other_seeds_run_otherwise() {
    let hashes: std::collections::BTreeSet<u64> = (0..100).map(|seed| run(&Schedule::from_seed(seed)).hash).collect();
    assert_eq!(hashes.len(), 100);
}

/// Unless it is biased, `select!` draws which branch it looks at first from a source that no seed decides.
#[test]
fn every_select_of_simulated_code_is_biased() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<std::path::PathBuf> =
        ["cli/src/driver", "cli/src/liveness", "sim/src"].map(|of| root.join(of)).into();
    let mut files = vec![root.join("cli/src/driver.rs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let mut selects = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|of| of == "rs")) {
        let text = std::fs::read_to_string(file).expect("a source file");
        for after in text.split("select! {").skip(1) {
            selects += 1;
            assert!(
                after.trim_start().starts_with("biased;"),
                "an unbiased select! in {}: {after:.60}",
                file.display()
            );
        }
    }
    assert!(selects >= 8, "only {selects} were found");
}
