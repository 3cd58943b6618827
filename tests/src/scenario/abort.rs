//! S2: a batch is aborted while workers run its rows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fencepost::store::{OpenMode, Operates};
use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::Operated;
use nix::sys::signal::Signal;

use super::STUCK;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, fencepost_json, submit, until};

/// How soon after an acknowledged abort a connected worker starts no row of the batch any more.
const NOTICE: Duration = Duration::from_secs(1);

/// What the handlers' ledger says.
#[derive(Debug, Clone, Copy)]
pub struct Stopped {
    /// How many rows were started.
    pub started: usize,
    /// How many of them were told to end.
    pub told: usize,
    /// When the last one was started, seen from the acknowledged abort: mostly before it.
    pub last_start_after: Duration,
    /// How long after the abort the last one ended.
    pub last_end_after: Duration,
    /// How long after the abort `abort --wait` came back.
    pub waited: Duration,
}

/// A row that takes a while, notes its start and its end, and takes time to end when it is told to: in bash, which knows the time without a
/// process that would be told as well.
const HANDLER: &str = "\
note() { echo \"$1 $FENCEPOST_LINE $EPOCHREALTIME\" >> \"$0\"; }
trap 'sleep 0.4; note told; exit 1' TERM
note start
sleep 0.3 & wait $!
note end";

/// Aborts a batch whose rows run as commands on two workers that hold many more, renew seldom, and so hear of it by nothing but
/// the store's news. Then waits by `abort --wait`, and reads the ledger.
pub fn handlers(on: StoreKind) -> Stopped {
    let place = Place::new(on);
    let batch = submit(place.store(), &["--rows", "2000"]);
    let mut workers: Vec<Process> = (0..2).map(|_| start_worker(&place)).collect();
    until("rows run, and more are held", STUCK, || (count(&place, "start") >= 30).then_some(()));
    let answer = fencepost_json(["abort", &batch, "--yes", "--quiet", "--json", "--store", place.store()]);
    let aborted_at = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    assert!(answer["stopping"].as_u64().expect("a count") > 0, "it returns at once, while rows run: {answer}");
    let began = Instant::now();
    let answer = fencepost_json(["abort", &batch, "--yes", "--wait", "--json", "--store", place.store()]);
    let waited = began.elapsed();
    let ledger = ledger(&place);
    assert_eq!(answer["stopping"], 0);
    let starts = times(&ledger, "start");
    let mut ends = times(&ledger, "end");
    let told = times(&ledger, "told");
    ends.extend(&told);
    assert_eq!(starts.len(), ends.len(), "a row still runs although `abort --wait` has returned");
    assert!(!told.is_empty(), "running handlers are told");
    for worker in &workers {
        worker.signal(Signal::SIGTERM);
    }
    for worker in &mut workers {
        assert!(worker.wait(STUCK).success(), "a worker of an aborted batch leaves in order");
    }
    assert_eq!(count(&place, "start"), starts.len(), "nothing was started afterwards");
    let after = |times: &[Duration]| times.iter().max().map_or(Duration::ZERO, |at| at.saturating_sub(aborted_at));
    let last_start_after = after(&starts);
    assert!(last_start_after <= NOTICE, "a row was started {last_start_after:?} after the abort");
    let counts = fencepost_json(["status", &batch, "--json", "--store", place.store()]);
    let row_count = |name: &str| counts["counts"][name].as_u64().expect("a count");
    assert_eq!(row_count("success") + row_count("aborted"), 2_000, "{counts}");
    Stopped { started: starts.len(), told: told.len(), last_start_after, last_end_after: after(&ends), waited }
}

fn start_worker(place: &Place) -> Process {
    let mut command = fencepost();
    command.args(["worker", "--quiet", "--log", "quiet", "--concurrency", "4", "--horizon", "10s", "--store"]);
    command.arg(place.store()).args(["--", "bash", "-c", HANDLER]).arg(place.ledger());
    Process::start(command)
}

/// What happened to which row at which time since 1970.
type Ledger = BTreeMap<(String, u64), Duration>;

fn ledger(place: &Place) -> Ledger {
    let text = std::fs::read_to_string(place.ledger()).unwrap_or_default();
    let entry = |line: &str| {
        let [what, row, at] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let at = Duration::from_secs_f64(at.replace(',', ".").parse().expect("a time"));
        ((what.to_owned(), row.parse().expect("a line")), at)
    };
    text.lines().map(entry).collect()
}

fn times(ledger: &Ledger, what: &str) -> Vec<Duration> {
    ledger.iter().filter(|((of, _), _)| of == what).map(|(_, at)| *at).collect()
}

fn count(place: &Place, what: &str) -> usize {
    let text = std::fs::read_to_string(place.ledger()).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(what)).count()
}

/// How large a busy batch is.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// Its rows.
    pub rows: u64,
    /// How many workers work on it.
    pub workers: usize,
    /// How many rows each of them runs at once.
    pub concurrency: u32,
    /// How many rows are done before it is aborted.
    pub done_min: u64,
}

/// What was measured of it.
#[derive(Debug, Clone, Copy)]
pub struct Aborted {
    /// How long the abort took, by whoever asked for it.
    pub took: Duration,
    /// How many rows have an outcome.
    pub recorded: u64,
    /// How many were aborted.
    pub aborted: u64,
    /// How many late answers hit the fence.
    pub fenced: u64,
}

/// Aborts a large batch while workers record its outcomes: in one transaction, with the counts right at once, and no outcome after it.
pub fn busy(on: StoreKind, sizes: Busy) -> Aborted {
    let place = Place::new(on);
    let store = place.open(OpenMode::Create);
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    let look = place.look();
    let arguments = [format!("--concurrency={}", sizes.concurrency), "--row-us=1000".to_owned()];
    let mut workers: Vec<Process> = (0..sizes.workers).map(|_| place.worker(&arguments)).collect();
    until("it is busy", STUCK, || (look.counts(&batch).success >= sizes.done_min).then_some(()));
    let id: BatchId = batch.parse().expect("an id");
    let began = Instant::now();
    assert_eq!(place.block_on(store.abort(id)).expect("the store answers"), Operated::Now);
    let took = began.elapsed();
    let at_once = look.counts(&batch);
    assert_eq!(at_once.batch.status, BatchStatus::Aborted);
    assert_eq!((at_once.queued, at_once.inprog, at_once.failed), (0, 0, 0));
    assert!(at_once.aborted > 0, "it had open rows");
    assert_eq!(at_once.success + at_once.aborted, sizes.rows);
    fencepost_json(["abort", &batch, "--wait", "--json", "--store", place.store()]);
    for worker in &workers {
        worker.signal(Signal::SIGTERM);
    }
    for worker in &mut workers {
        assert!(worker.wait(STUCK).success());
    }
    let afterwards = look.counts(&batch);
    assert_eq!((afterwards.success, afterwards.aborted), (at_once.success, at_once.aborted), "an outcome came later");
    let outcomes = place.number("select count(*) from outcomes");
    assert_eq!(u64::try_from(outcomes).expect("a count"), at_once.success);
    assert_eq!(place.number("select count(*) from stopping"), 0, "nothing of it runs any more");
    Aborted { took, recorded: at_once.success, aborted: at_once.aborted, fenced: afterwards.fenced }
}
