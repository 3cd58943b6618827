//! Small scopes: every fault at every event, and pairs of some. All of them: `cargo run --profile sim -p sim -- exhaustive`.

use std::collections::BTreeSet;
use std::mem::discriminant;

use sim::exhaustive::{Scope, all_kinds, check, pairs, scopes, singles};
use sim::fault::{Fault, draw_faults};
use sim::options::Options;

/// Does every `every`-th run of these scopes: so many as are expected, and no fewer.
fn hold(scopes: Vec<Scope>, every: u64, expected: u64) {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut total = 0;
    for scope in scopes {
        let (runs, failure) = check(&scope, every, jobs);
        println!("{}: {runs} of {} runs, {} moments", scope.name, scope.runs(), scope.moments);
        if let Some(failure) = failure {
            panic!("{}\n{failure}", scope.name);
        }
        total += runs;
    }
    assert_eq!(total, expected);
}

#[test]
fn one_fault_at_every_event() {
    hold(singles(), 13, 18_433);
}

#[test]
fn two_faults_at_every_pair_of_events() {
    hold(pairs(), 11, 16_005);
}

/// The size of the full set, so that nobody makes it smaller unnoticed.
#[test]
fn the_full_set_is_as_large_as_is_said() {
    let sizes: Vec<(&str, u64)> = scopes().iter().map(|scope| (scope.name, scope.runs())).collect();
    let said = [
        ("plain", 47_355),
        ("deaths known", 49_692),
        ("stable names", 44_403),
        ("poison", 21_156),
        ("calls", 76_998),
        ("pairs", 48_650),
        ("pairs, stable names", 55_846),
        ("pairs, no witness", 71_547),
    ];
    assert_eq!(sizes, said);
}

/// Whatever the generator draws strikes here too.
#[test]
fn every_kind_of_fault_is_there() {
    let there = all_kinds();
    let has = |fault: &Fault| there.iter().any(|kind| discriminant(kind) == discriminant(fault));
    let mut kinds = BTreeSet::new();
    for seed in 0..2000 {
        for (_, fault) in draw_faults(seed, &Options::from_seed(seed)) {
            assert!(has(&fault), "{fault:?} is in no scope");
            let name = format!("{fault:?}");
            kinds.insert(name.split([' ', '(']).next().unwrap_or_default().to_owned());
        }
    }
    let all: BTreeSet<_> =
        there.iter().map(|kind| format!("{kind:?}").split([' ', '(']).next().unwrap_or_default().to_owned()).collect();
    assert_eq!(kinds, all);
}
