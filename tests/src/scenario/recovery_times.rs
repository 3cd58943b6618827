//! R4 and R1 measured on a real store: from a worker's `kill -9` until its rows can be claimed, and until they run again.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use fencepost_core::rules::recovery::r4_bound;
use fencepost_core::{LeaseId, StoreTime, Timing};
use nix::sys::signal::Signal;

use super::STUCK;
use super::percentiles::Percentiles;
use crate::ledger;
use crate::place::{Looker, Place, StoreKind};
use crate::process::{Process, submit, until};

mod known;

pub use known::{stable_name, supervised};

/// How the death of a worker is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// By its silence: as far as anybody knows, it was on a machine of its own.
    Silent,
    /// A judge on its machine sees that its process is gone (R1).
    SeenGone,
    /// `run` saw its child end (R1).
    Supervised,
    /// The next worker starts under its stable name at once, and sees that its process is gone (R5).
    StableName,
}

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Deaths {
    /// How the deaths are found out: [`Death::Silent`] or [`Death::SeenGone`].
    pub death: Death,
    /// The workers' ttl; renewal interval and scan follow from it.
    pub ttl: Duration,
    /// How many workers are killed in all.
    pub times: usize,
    /// How many of them at the same moment. Their renewals are spread over a renewal interval.
    pub at_once: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How the deaths were found out.
    pub death: Death,
    /// The workers' ttl.
    pub ttl: Duration,
    /// Until the lease was declared dead, and its rows were free.
    pub claimable: Percentiles,
    /// Until the last of them had run again.
    pub running: Percentiles,
    /// R4, with half a second for requests on a busy machine; of a known death there is none.
    pub bound: Option<Duration>,
}

impl Outcome {
    /// Whether no row was claimable later than the bound.
    pub fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.claimable.max <= bound)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |of: Percentiles| format!("{:.3?} / {:.3?} / {:.3?}", of.min, of.median, of.p99);
        let Self { death, ttl, claimable, running, bound } = *self;
        write!(f, "| {death:?} | {ttl:?} | {} | {} | {} ", claimable.count, times(claimable), times(running))?;
        match bound {
            Some(bound) => write!(f, "| {:.3?} of {bound:.3?} |", claimable.max),
            None => write!(f, "| {:.3?} |", claimable.max),
        }
    }
}

/// The table's head: times are minimum, median, p99.
pub const HEAD: &str = "| death | ttl | deaths | until claimable | until run again | longest until claimable, of R4's bound |\n\
                        |---|---|---|---|---|---|";

/// How often a judge looks at the processes of its own machine.
const LOCAL_CHECK: Duration = Duration::from_secs(1);

/// Rows that a worker holds when it is killed.
const ROWS: usize = 4;

/// Runs it: one worker is left, the heir, which has nothing else to do, and has watched for longer than a scan before the kills.
pub fn run(on: StoreKind, sizes: Deaths) -> Outcome {
    let Deaths { death, ttl, times, at_once } = sizes;
    assert!(at_once > 0 && times.is_multiple_of(at_once), "{times} deaths do not come {at_once} at once");
    let place = Place::new(on);
    // Makes the store.
    submit(place.store(), &["--rows", "1"]);
    let timing = Timing::from_ttl(ttl);
    let own = |ops: &[String], row_us: u64| {
        let timing = [format!("--ttl-ms={}", ttl.as_millis()), format!("--row-us={row_us}")];
        let ops = ops.iter().map(|op| format!("--op={op}"));
        [format!("--concurrency={ROWS}")].into_iter().chain(timing).chain(ops).collect::<Vec<_>>()
    };
    let ops: Vec<String> = (0..at_once).map(|nth| format!("doomed-{nth}")).collect();
    let look = place.look();
    if death == Death::Silent {
        place.hide_processes();
    }
    let every = if death == Death::Silent { timing.scan } else { LOCAL_CHECK };
    let rounds = times / at_once;
    let (mut claimable, mut running) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut doomed: Vec<Doomed> = Vec::new();
        let began = Instant::now();
        for (nth, op) in ops.iter().enumerate() {
            let spread = timing.renew * u32::try_from(nth).expect("few") / u32::try_from(at_once).expect("few");
            let apart = if death == Death::Silent { spread } else { Duration::ZERO };
            until("its turn to start", STUCK, || (began.elapsed() >= apart).then_some(()));
            let process = place.worker(&own(std::slice::from_ref(op), 3_600_000_000));
            let lease = until("it has a lease", STUCK, || lease_of(&look, process.pid()));
            doomed.push(Doomed { process, lease, batch: String::new() });
        }
        for (doomed, op) in doomed.iter_mut().zip(&ops) {
            doomed.batch = submit(place.store(), &["--rows", &ROWS.to_string(), "--op", op]);
        }
        let begun = |doomed: &Doomed| ledger::runs_begun_by(&place.ledger(), doomed.process.pid()) == ROWS;
        until("they run all rows", STUCK, || doomed.iter().all(begun).then_some(()));
        // Only now, so that none of these rows is its own before.
        let mut heir = place.worker(&own(&ops, 0));
        until("it has a lease", STUCK, || lease_of(&look, heir.pid()));
        // At any moment of the other's scans, after one of each.
        let wait = every * 5 / 4 + every.mul_f64(round as f64 / rounds as f64);
        let seen = Instant::now();
        until("somebody watches", STUCK, || (seen.elapsed() > wait).then_some(()));
        let killed_at = SystemTime::now();
        for doomed in &doomed {
            doomed.process.signal(Signal::SIGKILL);
        }
        for Doomed { lease, batch, .. } in &doomed {
            let ended = until("the batch ends", STUCK.max(ttl * 6), || look.counts(batch).batch.ended_at);
            running.push(since(killed_at, ended));
            claimable.push(since(killed_at, ended_at(&look, *lease).expect("its rows were taken from it")));
        }
        heir.signal(Signal::SIGTERM);
        assert!(heir.wait(STUCK).success(), "it leaves in order");
    }
    let dead = place.number("select count(*) from leases where state = 'dead'");
    assert_eq!(usize::try_from(dead), Ok(times), "nobody was declared dead but those that were killed");
    let bound = r4_bound(ttl, timing.renew, timing.scan, true, Duration::from_millis(500));
    let bound = (death == Death::Silent).then_some(bound);
    Outcome { death, ttl, claimable: Percentiles::of(claimable), running: Percentiles::of(running), bound }
}

struct Doomed {
    process: Process,
    lease: LeaseId,
    batch: String,
}

/// The live lease of a process.
fn lease_of(look: &Looker<'_>, pid: u32) -> Option<LeaseId> {
    let mut workers = look.workers().workers.into_iter();
    let of_pid = |worker: &fencepost::store::view::WorkerView| {
        worker.ended_at.is_none() && worker.process.as_ref().is_some_and(|process| process.pid == pid)
    };
    workers.find(of_pid).map(|worker| worker.lease)
}

/// When a lease ended.
fn ended_at(look: &Looker<'_>, lease: LeaseId) -> Option<StoreTime> {
    look.workers().workers.into_iter().find(|worker| worker.lease == lease)?.ended_at
}

/// From a moment of this machine's clock, which is the store's, too.
fn since(from: SystemTime, to: StoreTime) -> Duration {
    let from_us = from.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros();
    let took_us = i128::from(to.0) - from_us.cast_signed();
    Duration::from_micros(
        u64::try_from(took_us).expect("a worker was declared dead before it was killed: the machine is too slow"),
    )
}
