//! Without determinism no failure can be replayed: this comes before everything else.

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
