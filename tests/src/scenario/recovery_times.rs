//! R4 and R1 measured on a real store: from a worker's `kill -9` until its rows can be claimed, and until they run again.

use std::time::{Duration, Instant};

use fencepost_core::Timing;
use fencepost_core::rules::recovery::r4_bound;

use super::STUCK;
use super::percentiles::Percentiles;
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, submit, until};

/// How the death of a worker is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// By its silence: as far as anybody knows, it was on a machine of its own.
    Silent,
    /// Its process is gone (R1).
    Known,
}

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Deaths {
    /// How the deaths are found out.
    pub death: Death,
    /// The workers' ttl; renewal interval and scan follow from it.
    pub ttl: Duration,
    /// How many workers are killed, one after the other.
    pub times: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Until the lease was declared dead, and its rows were free.
    pub claimable: Percentiles,
    /// Until the last of them ran again.
    pub running: Percentiles,
    /// R4, with half a second for requests on a busy machine; of a known death there is none but the next look at the machine's processes.
    pub bound: Option<Duration>,
}

/// How often a judge looks at the processes of its own machine.
const LOCAL_CHECK: Duration = Duration::from_secs(1);

/// Rows that a worker holds when it is killed.
const ROWS: usize = 4;

/// Runs it: a second worker, which has nothing else to do, watches for longer than a scan before the kill.
pub fn run(on: StoreKind, sizes: Deaths) -> Outcome {
    let place = Place::new(on);
    submit(place.store(), &["--rows", "1"]);
    let timing = Timing::from_ttl(sizes.ttl);
    let own = |row_us: u64| {
        let ttl = sizes.ttl.as_millis();
        [format!("--ttl-ms={ttl}"), format!("--concurrency={ROWS}"), format!("--row-us={row_us}")]
    };
    let watcher = place.worker(&own(0));
    let look = place.look();
    until("the watcher works", STUCK, || (ledger::runs_begun_by(&place.ledger(), watcher.pid()) > 0).then_some(()));
    if sizes.death == Death::Silent {
        place.hide_processes();
    }
    let began = Instant::now();
    let (mut claimable, mut running) = (Vec::new(), Vec::new());
    for nth in 0..sizes.times {
        // Only the one that is to die takes these rows: the other stands still meanwhile.
        place.stop(watcher.pid());
        let batch = submit(place.store(), &["--rows", &ROWS.to_string()]);
        let mut doomed = place.worker(&own(3_600_000_000));
        let pid = doomed.pid();
        let begun = || ledger::runs_begun_by(&place.ledger(), pid);
        until("it runs all rows", STUCK, || (begun() == ROWS).then_some(()));
        watcher.signal(nix::sys::signal::Signal::SIGCONT);
        // At any moment of its renewals and the other's scans, after one of each.
        let every = if sizes.death == Death::Silent { sizes.ttl } else { LOCAL_CHECK };
        let phase = every.mul_f64(nth as f64 / sizes.times as f64);
        let seen = Instant::now();
        until("somebody watches", STUCK, || (seen.elapsed() > every * 5 / 4 + phase).then_some(()));
        let runs_before = runs(&place, &watcher);
        doomed.kill();
        let killed = Instant::now();
        let bound = STUCK.max(sizes.ttl * 4);
        until("its rows are free", bound, || (look.lines_held_by(pid) == 0).then_some(()));
        claimable.push(killed.elapsed());
        until("they run again", bound, || (runs(&place, &watcher) == runs_before + ROWS).then_some(()));
        running.push(killed.elapsed());
        until("the batch ends", bound, || look.has_ended(&batch).then_some(()));
    }
    println!("{sizes:?}: {:.0} s", began.elapsed().as_secs_f64());
    let slack = Duration::from_millis(500);
    let bound = r4_bound(timing.ttl, timing.renew, timing.scan, true, slack);
    let (claimable, running) = (Percentiles::of(claimable), Percentiles::of(running));
    Outcome { claimable, running, bound: (sizes.death == Death::Silent).then_some(bound) }
}

/// How many runs the watcher has begun.
fn runs(place: &Place, watcher: &Process) -> usize {
    ledger::runs_begun_by(&place.ledger(), watcher.pid())
}
