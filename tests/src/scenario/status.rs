//! How long `status BATCH --json` takes, as a whole process, while workers write.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::STUCK;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, fencepost_json, submit, until};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Looks {
    /// Rows of the batch.
    pub rows: u64,
    /// Workers that write outcomes meanwhile.
    pub workers: usize,
    /// How often the status is asked for, spread over the batch.
    pub looks: u64,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How many of the looks showed rows that were not done yet.
    pub looks_beside_writers: u64,
    /// The fastest.
    pub min: Duration,
    /// Half of them took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// Looks each time that another part of the rows is done; the counts add up each time and never go back.
pub fn run(on: StoreKind, sizes: Looks) -> Outcome {
    let place = Place::new(on);
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    let _workers: Vec<Process> = (0..sizes.workers).map(|_| Process::start(worker(&place))).collect();
    let store = place.store();
    let looker = place.look();
    let (mut times, mut looks_beside_writers, mut done_before) = (Vec::new(), 0, 0);
    for look in 0..sizes.looks {
        let due = sizes.rows * look / sizes.looks + 1;
        until("more rows are done", STUCK, || (looker.counts(&batch).success >= due).then_some(()));
        let began = Instant::now();
        let status = fencepost_json(["status", &batch, "--json", "--store", store]);
        times.push(began.elapsed());
        let count = |name: &str| status["counts"][name].as_u64().expect("every count is there");
        let all: u64 = ["queued", "inprog", "success", "failed", "aborted"].map(count).iter().sum();
        assert_eq!(all, sizes.rows, "the counts add up: {status}");
        assert_eq!(count("failed") + count("aborted"), 0, "{status}");
        assert!(count("success") >= due.max(done_before), "outcomes stay: {status}");
        done_before = count("success");
        looks_beside_writers += u64::from(done_before < sizes.rows);
    }
    until("the batch ends", STUCK, || looker.has_ended(&batch).then_some(()));
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    Outcome { looks_beside_writers, min: at(0), median: at(50), p99: at(99), max: at(100) }
}

fn worker(place: &Place) -> Command {
    let mut command = fencepost();
    command.args(["worker", "--quiet", "--until-done", "--sleep", "0s", "--concurrency", "500", "--store"]);
    command.arg(place.store()).stdin(Stdio::null());
    command
}
