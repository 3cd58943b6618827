//! A simulator that finds nothing proves nothing: each planted bug must be found within so many schedules.

use sim::explore::find_planted;
use sim::planted::PlantedBug;

/// How many schedules a bug may take: several times what it took when this was written.
fn schedules_for(bug: PlantedBug) -> u64 {
    match bug {
        // 1050; 2280, it takes two batches in one group; 4909, it takes a claim that is later than its settling.
        PlantedBug::SeenCountIgnored => 5_000,
        PlantedBug::FenceForGroup => 10_000,
        PlantedBug::SettleLeavesNumberOpen => 20_000,
        // Up to 123.
        _ => 500,
    }
}

#[test]
fn every_planted_bug_is_found() {
    let find = |bug: PlantedBug| {
        let limit = schedules_for(bug);
        let found = find_planted(bug, 0..limit);
        match &found {
            Some((seed, violation)) => println!("{bug:?}: schedule {seed} of {limit}: {violation}"),
            None => println!("{bug:?}: not within {limit} schedules"),
        }
        found.is_some()
    };
    let missed: Vec<PlantedBug> = PlantedBug::ALL.into_iter().filter(|bug| !find(*bug)).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
