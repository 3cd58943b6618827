//! Point 3 of the main job: a worker stopped for longer than its ttl and continued.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{STUCK, assert_all_succeeded};
use crate::ledger::runs_begun_by;
use crate::place::{Place, StoreKind};
use crate::process::{fencepost_json, run_fencepost, submit, until};

/// What the reports said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How many late answers `status` counts.
    pub fenced: u64,
    /// `rows --line` of one fenced row.
    pub story: String,
    /// `status` at the end.
    pub status: String,
}

/// Stops a worker in mid-row for longer than its ttl, lets another finish, continues the first. Its handler's answer
/// comes after its lease was declared dead.
pub fn run(on: StoreKind, ttl: Duration) -> Outcome {
    let place = Place::new(on);
    let rows = 40;
    let batch = submit(place.store(), &["--rows", &rows.to_string()]);
    let store = place.store();
    let ttl_ms = format!("--ttl-ms={}", ttl.as_millis());
    // The row takes longer than it is stopped for, by its own clock: its answer is certain to be late.
    let slow = place.worker(&[ttl_ms.clone(), "--concurrency=4".to_owned(), "--row-us=100000".to_owned()]);
    let look = place.look();
    until("the worker runs rows", STUCK, || (runs_begun_by(&place.ledger(), slow.pid()) >= 4).then_some(()));
    place.stop(slow.pid());
    let other = place.worker(&[ttl_ms, "--concurrency=4".to_owned(), "--row-us=1000".to_owned()]);
    until("the batch ends without the stopped worker", STUCK, || look.has_ended(&batch).then_some(()));
    slow.signal(Signal::SIGCONT);
    let fenced = until("the late answers are fenced", STUCK, || Some(look.counts(&batch).fenced).filter(|&n| n > 0));
    drop((slow, other));
    assert_all_succeeded(&place, &batch, rows);
    let status = fencepost_json(["status", &batch, "--json", "--store", store]);
    assert!(status["fenced"].as_u64().expect("a count") >= fenced);
    let story = (1..=rows)
        .map(|line| run_fencepost(["rows", &batch, "--line", &line.to_string(), "--store", store]))
        .map(|output| String::from_utf8(output.stdout).expect("UTF-8"))
        .find(|story| story.contains("fenced"))
        .expect("the row's story tells of the fence");
    let text = run_fencepost(["status", &batch, "--store", store]);
    let status = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(status.contains("Late answers dropped by the fence"), "{status}");
    Outcome { fenced, story, status }
}
