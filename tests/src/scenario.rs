//! Scenarios of the main job: real processes, real signals, on any kind of store.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ledger;
use crate::place::{Looker, Place};
use crate::process::run_fencepost;

pub mod abort;
pub mod command;
pub mod completions;
pub mod cuts;
pub mod effects;
pub mod fairness;
pub mod kills;
pub mod known_death;
pub mod last_spans;
pub mod million;
pub mod partitions;
pub mod percentiles;
pub mod pg_idle;
pub mod pg_load;
pub mod pg_store;
pub mod poison;
pub mod recovery_times;
pub mod redis_cost;
pub mod redis_kinds;
pub mod redis_moods;
pub mod restart;
pub mod sigterm;
pub mod status;
pub mod stopped;
pub mod stream;
pub mod stream_speed;
pub mod walk_through;

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
    let out = file.to_str().expect("UTF-8");
    let output = run_fencepost(["results", batch, "--store", place.store(), "-o", out]);
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

/// Whether a process runs a row that it holds: killed now, it leaves one that was begun.
pub fn is_in_mid_row(place: &Place, look: &Looker<'_>, pid: u32) -> bool {
    let held = look.workers().workers.into_iter();
    let held = held.filter(|worker| worker.process.as_ref().is_some_and(|process| process.pid == pid));
    let held: Vec<_> = held.flat_map(|worker| worker.holds).map(|(_, lines)| lines).collect();
    let runs = ledger::read(&place.ledger());
    let begun = |line: &u64| runs[line].iter().any(|(_, of)| *of == pid);
    runs.keys().any(|line| begun(line) && held.iter().any(|lines| lines.contains(*line)))
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
