//! Point 4 of the main job: a row that kills its worker.

use std::time::{Duration, Instant};

use super::{STUCK, results};
use crate::place::{Place, StoreKind};
use crate::process::{Process, submit};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Poison {
    /// Rows in all.
    pub rows: usize,
    /// The one that kills.
    pub line: u64,
    /// Worker processes; each that dies is replaced.
    pub workers: usize,
    /// Rows that each runs at once.
    pub concurrency: u32,
    /// How long a row takes, in microseconds.
    pub row_us: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How many workers died.
    pub deaths: usize,
    /// How long it took.
    pub took: Duration,
    /// Why the row failed.
    pub error: String,
}

/// Runs it: that row ends failed, with the reason; every other succeeds.
pub fn run(on: StoreKind, sizes: Poison) -> Outcome {
    let place = Place::new(on);
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    let arguments = [
        "--until-done".to_owned(),
        format!("--concurrency={}", sizes.concurrency),
        format!("--row-us={}", sizes.row_us),
        format!("--poison-line={}", sizes.line),
    ];
    let began = Instant::now();
    let mut workers: Vec<Process> = (0..sizes.workers).map(|_| place.worker(&arguments)).collect();
    let look = place.look();
    let mut deaths = 0;
    while !look.has_ended(&batch) {
        assert!(began.elapsed() < STUCK, "the batch does not end: {:?}", look.counts(&batch));
        for worker in &mut workers {
            if worker.ended().is_some_and(|status| !status.success()) {
                deaths += 1;
                *worker = place.worker(&arguments);
            }
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let took = began.elapsed();
    drop(workers);
    let mut error = String::new();
    for result in results(&place, &batch) {
        if result["line"] == sizes.line {
            assert_eq!(result["status"], "failed", "{result}");
            assert_eq!(result["crashes"], 3, "{result}");
            error = result["error"].as_str().expect("a reason").to_owned();
        } else {
            assert_eq!(result["status"], "success", "an innocent row: {result}");
        }
    }
    let counts = look.counts(&batch);
    assert_eq!((counts.success, counts.failed), (sizes.rows as u64 - 1, 1));
    Outcome { deaths, took, error }
}
