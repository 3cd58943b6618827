//! Random schedules, and what they must have seen. `SIM_SCHEDULES` sets how many.

use sim::coverage::Mark;
use sim::explore::explore;
use sim::options::Options;
use sim::run;
use sim::schedule::Schedule;

#[test]
fn random_schedules_hold() {
    let schedules = std::env::var("SIM_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let sweep = explore(0..schedules, jobs);
    println!("{}", sweep.coverage);
    if let Some(failure) = sweep.failure {
        panic!("{failure}");
    }
    let missing = sweep.coverage.missing();
    assert!(schedules < 20_000 || missing.is_empty(), "never seen: {missing:?}");
}

/// Without faults nothing is fenced, nothing lapses, nobody is judged, and every row runs once.
#[test]
fn quiet_schedules_are_quiet() {
    for seed in 0..1000 {
        let options = Options {
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            slow_per_mille: 0,
            poison_rows: 0,
            core: u8::MAX,
            until_done: false,
            calls: false,
            lost_per_mille: 0,
            ..Options::from_seed(seed)
        };
        let run = run(&Schedule { seed, options, faults: Vec::new() });
        assert_eq!(run.violation, None, "seed {seed}");
        let never = [Mark::FencedOutcome, Mark::Lapse, Mark::JudgedLapsed, Mark::JudgedDied, Mark::RowsRunAgain];
        for mark in never {
            assert_eq!(run.coverage.count(mark), 0, "seed {seed}: {mark:?}");
        }
    }
}
