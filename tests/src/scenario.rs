//! Scenarios of the main job, on the embedded store: real processes, real signals.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fencepost::store::sqlite::read::{BatchCounts, WorkersView};
use fencepost::store::sqlite::{OpenMode, SqliteStore};
use fencepost_core::{BatchId, StoreTime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Process, program, run_fencepost};

pub mod command;
pub mod effects;
pub mod kills;
pub mod last_spans;
pub mod million;
pub mod poison;
pub mod sigterm;
pub mod status;
pub mod stopped;
pub mod stream;
pub mod stream_speed;

/// A scenario's folder, and the store in it.
pub struct Place {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    /// An empty place.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { dir: tempfile::tempdir().expect("a temporary folder"), runtime: runtime.expect("a runtime") }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.file("store.db")
    }

    /// The handlers' ledger.
    pub fn ledger(&self) -> PathBuf {
        self.file("ledger")
    }

    /// Opens the store for looking.
    pub fn look(&self) -> Looker<'_> {
        let store =
            self.runtime.block_on(SqliteStore::open(self.store(), OpenMode::Existing)).expect("the store opens");
        Looker { store, runtime: &self.runtime }
    }

    /// Starts a worker with the ledger handler.
    pub fn worker(&self, arguments: &[String]) -> Process {
        let mut command = std::process::Command::new(program("fencepost-tests", "ledger-worker"));
        command.arg("--store").arg(self.store()).arg("--ledger").arg(self.ledger()).args(arguments);
        Process::start(command)
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// Looks at a store.
pub struct Looker<'p> {
    store: SqliteStore,
    runtime: &'p tokio::runtime::Runtime,
}

impl Looker<'_> {
    /// A batch's counts.
    pub fn counts(&self, batch: &str) -> BatchCounts {
        let batch: BatchId = batch.parse().expect("an id");
        self.runtime.block_on(self.store.status(batch)).expect("the store answers").expect("the batch is there")
    }

    /// All workers that ever were.
    pub fn workers(&self) -> WorkersView {
        self.runtime.block_on(self.store.workers(StoreTime(0))).expect("the store answers")
    }

    /// How many lines the live lease of a process holds.
    pub fn lines_held_by(&self, pid: u32) -> u64 {
        let workers = self.workers().workers;
        let of_pid = workers.iter().filter(|worker| worker.process.as_ref().is_some_and(|process| process.pid == pid));
        of_pid.flat_map(|worker| &worker.holds).map(|(_, lines)| lines.count()).sum()
    }

    /// The longest span that the live lease of a process holds lines of.
    pub fn holds_at_least(&self, pid: u32, lines: u64) -> bool {
        self.lines_held_by(pid) >= lines
    }

    /// Whether the batch has ended.
    pub fn has_ended(&self, batch: &str) -> bool {
        self.counts(batch).batch.ended_at.is_some()
    }
}

/// The first rows of the flights, as a CSV file.
pub fn flights(rows: usize, to: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights-50k.csv.gz");
    let file = std::fs::File::open(file).expect("the flights are there");
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    let text: Vec<String> = lines.take(rows + 1).map(|line| line.expect("text")).collect();
    assert_eq!(text.len(), rows + 1);
    std::fs::write(to, text.join("\n") + "\n").expect("the input can be written");
}

/// Writes a batch's results and reads them back: one JSON value per row, in order.
pub fn results(place: &Place, batch: &str) -> Vec<serde_json::Value> {
    let file = place.file("results.jsonl");
    let (store, out) = (place.store(), file.to_str().expect("UTF-8").to_owned());
    let output = run_fencepost(["results", batch, "--store", store.to_str().expect("UTF-8"), "-o", &out]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(file).expect("results");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Every row has one outcome, success, in input order, and the counts say the same.
pub fn assert_all_succeeded(place: &Place, batch: &str, rows: usize) {
    let results = results(place, batch);
    assert_eq!(results.len(), rows, "one result per row");
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result["line"], at + 1, "in input order");
        assert_eq!(result["status"], "success", "{result}");
    }
    let counts = place.look().counts(batch);
    assert_eq!(counts.success, rows as u64);
    assert_eq!(counts.queued + counts.inprog + counts.failed + counts.aborted, 0);
}

/// How long something takes at most in a scenario before it counts as stuck.
pub const STUCK: Duration = Duration::from_secs(300);

/// Kills one of the live workers that hold so many lines. With two or more it is never one that runs a suspect alone: three
/// unrelated deaths of such a row would fail it, as P2 states.
pub fn kill_one(look: &Looker<'_>, lines_held_min: u64, random: &mut fencepost_core::random::Stream) -> bool {
    let holding: Vec<u32> = look
        .workers()
        .workers
        .iter()
        .filter(|worker| worker.holds.iter().map(|(_, lines)| lines.count()).sum::<u64>() >= lines_held_min)
        .filter_map(|worker| worker.process.as_ref().map(|process| process.pid))
        .collect();
    let Some(at) = usize::try_from(random.next_u64()).ok().and_then(|n| n.checked_rem(holding.len())) else {
        return false;
    };
    let pid = Pid::from_raw(i32::try_from(holding[at]).expect("a pid"));
    kill(pid, Signal::SIGKILL).is_ok()
}
