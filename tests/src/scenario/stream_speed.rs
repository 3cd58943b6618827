//! How many rows a stream handler in Python gets done, from the start of `run` to its end.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{assert_all_succeeded, flights};
use crate::place::{Place, StoreKind};
use crate::process::{fencepost, fencepost_json};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct StreamSpeed {
    /// Rows of the flights.
    pub rows: usize,
    /// Workers of the run.
    pub workers: usize,
    /// How often it is measured, each time with a new store.
    pub times: usize,
}

/// Runs it, checks its results, and tells how long each run took, the fastest first.
pub fn run(on: StoreKind, sizes: StreamSpeed) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..sizes.times).map(|_| once(on, sizes)).collect();
    took.sort_unstable();
    took
}

fn once(on: StoreKind, sizes: StreamSpeed) -> Duration {
    let place = Place::new(on);
    let input = place.file("flights.csv");
    flights(sizes.rows, &input);
    let store = place.store();
    let handler = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/stream.py");
    let mut command = fencepost();
    command.arg("run").arg(&input).args(["--store", store, "--workers", &sizes.workers.to_string()]);
    command.args(["--quiet", "--stream", "-o"]).arg(place.file("out.jsonl"));
    command.args(["--", "python3"]).arg(handler);
    let began = Instant::now();
    let output = command.output().expect("fencepost starts");
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let batch = fencepost_json(["list", "--json", "--store", store])["batches"][0]["id"].clone();
    assert_all_succeeded(&place, batch.as_str().expect("id"), sizes.rows);
    let written = std::fs::read_to_string(place.file("out.jsonl")).expect("results");
    assert_eq!(written.lines().count(), sizes.rows, "one result per row");
    took
}
