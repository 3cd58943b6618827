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
