//! Random schedules, and what they must have seen. `SIM_SCHEDULES` sets how many.

use std::collections::BTreeSet;

use sim::coverage::{Mark, Marks};
use sim::explore::explore;
use sim::fault::{Away, Fault, Server, Way, WitnessLoss};
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

/// Every form of a fault that can be drawn has a mark, and the sweep above misses none of them.
#[test]
fn every_kind_of_fault_has_a_mark_and_is_drawn() {
    let is_of_fault = |mark: &Mark| format!("{mark:?}").starts_with("Struck");
    let marks: BTreeSet<Mark> = Mark::ALL.iter().copied().filter(is_of_fault).collect();
    let drawn: BTreeSet<Mark> =
        (0..5000).flat_map(|seed| Schedule::from_seed(seed).faults).map(|(_, fault)| fault.mark()).collect();
    assert_eq!(drawn, marks);
}

/// What changes nothing counts as nothing.
#[test]
fn faults_without_effect_are_not_counted_as_work() {
    let quiet = Options { liveness: false, clock_spread: 0, ..Options::small() };
    let faults = [
        Fault::StoreClockJump { by_us: 0 },
        Fault::StoreClockRate { millionths: 1_000_000 },
        Fault::ClockRate { worker: 0, millionths: 1_000_000 },
        Fault::Witness(WitnessLoss::Flush),
        Fault::Witness(WitnessLoss::RestartEmpty),
        Fault::WitnessClockJump { by_us: -5_000_000 },
        Fault::Evict { worker: 0 },
        Fault::Failover { behind_us: 5 },
        Fault::CutWitness { worker: 0, way: Way::Both, for_us: 1_000_000 },
        Fault::WitnessAway { how: Away::Stalls, for_us: 1_000_000 },
        Fault::LoseReplies { worker: 0, server: Server::SecondWitness, count: 1 },
    ];
    let count = faults.len() as u64;
    let faults = faults.map(|fault| (100_000, fault)).to_vec();
    let seen = run(&Schedule { seed: 1, options: quiet, faults }).coverage;
    assert_eq!((seen.count(Mark::FaultsOnWork), seen.count(Mark::FaultsOnNothing)), (0, count));
    let never = [
        Mark::ClockJumpWhileLeased,
        Mark::ClockRateChanged,
        Mark::WitnessLostData,
        Mark::WitnessWipedWhileRunning,
        Mark::WitnessClockJump,
        Mark::BeatEvicted,
        Mark::WitnessFailedOver,
    ];
    assert_eq!(never.map(|mark| seen.count(mark)), [0; 7]);
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
