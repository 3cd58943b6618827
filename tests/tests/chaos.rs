//! The chaos runner at a size that fits a test run: a plan by a fixed seed, on each kind of store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost_tests::chaos::options::{On, Options};
use fencepost_tests::chaos::run::run;

fn all_holds(on: On, seed: u64) {
    let options = Options {
        on,
        seed,
        faults_for: Duration::from_secs(16),
        fault_every: Duration::from_millis(500),
        workers: 4,
        durable: false,
        every_kind: false,
        keep: false,
    };
    let report = run(options, &std::env::temp_dir());
    println!("{report}");
    assert!(report.holds(), "all of it is kept in {:?}: {:#?}", report.kept, report.findings.violations);
    // A run in which little happens proves little.
    assert!(report.applied() >= 16, "{} faults were applied", report.applied());
    assert!(report.findings.outcomes["success"] >= 50, "{:?}", report.findings.outcomes);
    assert!(report.findings.repeats.len() >= 2, "runs are repeated: {:?}", report.findings.repeats);
    assert!(report.findings.killed_by_rows >= 3, "poison rows kill: {:?}", report.findings);
    assert!(report.findings.failed_by_crashes >= 1, "and fail by that: {:?}", report.findings);
    assert!(report.findings.ends_told >= 2, "ends of batches are told: {:?}", report.findings);
}

#[test]
fn all_holds_on_sqlite() {
    all_holds(On::Sqlite, 1);
}

#[test]
fn all_holds_on_postgres() {
    all_holds(On::Postgres, 2);
}

#[test]
fn all_holds_on_postgres_and_redis() {
    all_holds(On::Redis, 3);
}
