//! Level 2: the network simulation, which needs `--cfg madsim`. `SIM_NET_SEEDS` sets how many seeds, `SIM_NET_SEED` the first of them.

/// Whoever sets RUSTFLAGS switches off the flags of `.cargo/config.toml`; nobody shall believe that the simulation ran.
#[cfg(not(madsim))]
#[test]
fn madsim_cfg_is_missing() {
    panic!("the network simulation did not run. Run with RUSTFLAGS=\"$RUSTFLAGS --cfg madsim\", or without RUSTFLAGS");
}

#[cfg(madsim)]
mod with_madsim {
    use std::collections::BTreeSet;

    use sim::checks::Violation;
    use sim::net::explore::{NetFailure, explore};
    use sim::net::fault::NetFault;
    use sim::net::run::run;
    use sim::net::schedule::NetSchedule;

    const SEEDS: u64 = 2_000;

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok().and_then(|text| text.parse().ok())
    }

    #[test]
    fn random_networks_hold() {
        let (first, seeds) = (number("SIM_NET_SEED").unwrap_or(0), number("SIM_NET_SEEDS").unwrap_or(SEEDS));
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let sweep = explore(first..first + seeds, jobs);
        println!("{}", sweep.coverage);
        if let Some(failure) = sweep.failure {
            panic!("{failure}");
        }
        let missing = sweep.coverage.missing();
        assert!(seeds < SEEDS || missing.is_empty(), "never seen: {missing:?}");
    }

    /// What this level does not act upon is neither drawn nor printed as if it did.
    #[test]
    fn options_of_level_one_alone_are_neutral() {
        for seed in 0..200 {
            let options = NetSchedule::from_seed(seed).options;
            assert!(options.joins_us.is_empty(), "seed {seed}");
            assert_eq!(
                (options.lost_per_mille, options.witness_rate, options.inner_us),
                (0, 1_000_000, 0),
                "seed {seed}"
            );
        }
    }

    /// The small schedule as source, and a command that runs that one and not the whole.
    #[test]
    fn a_failure_prints_its_small_schedule_as_a_test() {
        let schedule = NetSchedule::from_seed(7);
        let mut shrunk = schedule.clone();
        shrunk.faults = vec![(5, NetFault::Kill { worker: 1, restart_after_us: None, reported: false })];
        let violation = Violation { check: "7 progress", at_us: 9, what: "no end".to_owned() };
        let told = NetFailure { schedule, violation, shrunk: shrunk.clone() }.to_string();
        assert!(
            told.contains(&format!("let schedule = {shrunk};\nassert_eq!(run(&schedule).violation, None);")),
            "{told}"
        );
        assert!(told.contains("faults: vec![\n") && told.contains("Kill {\n"), "{told}");
        assert!(told.contains("cargo run -p sim -- net 7 --shrunk\n"), "{told}");
    }

    /// Without determinism no failure can be replayed.
    #[test]
    fn the_same_seed_runs_the_same_way_twice() {
        let mut hashes = BTreeSet::new();
        for seed in 0..200 {
            let schedule = NetSchedule::from_seed(seed);
            let (first, second) = (run(&schedule), run(&schedule));
            assert_eq!(first.hash, second.hash, "seed {seed}");
            assert_eq!(first.coverage, second.coverage, "seed {seed}");
            hashes.insert(first.hash);
        }
        assert_eq!(hashes.len(), 200);
    }
}
