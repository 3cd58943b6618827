//! R1: a worker that joins after another has looked, and is killed long before that one's next scan.

use std::time::{Duration, Instant};

use super::STUCK;
use crate::place::{Place, StoreKind};
use crate::process::{submit, until};

/// How long it took from the kill until the rows of the killed worker were free. Both have the usual timings: a scan comes once a minute.
pub fn run(on: StoreKind) -> Duration {
    let place = Place::new(on);
    submit(place.store(), &["--rows", "1000"]);
    let look = place.look();
    let arguments = ["--ttl-ms=60000", "--concurrency=1", "--row-us=300000"].map(str::to_owned);
    let first = place.worker(&arguments);
    until("the first works", STUCK, || look.holds_at_least(first.pid(), 1).then_some(()));
    let mut second = place.worker(&arguments);
    until("the second works", STUCK, || look.holds_at_least(second.pid(), 1).then_some(()));
    let pid = second.pid();
    second.kill();
    let killed = Instant::now();
    until("its rows are free", SCAN / 2, || (look.lines_held_by(pid) == 0).then_some(()));
    drop(first);
    killed.elapsed()
}

/// The usual time between scans.
const SCAN: Duration = Duration::from_secs(60);
