//! Deaths that somebody sees at once: those of a supervisor's child, and of the predecessor under a stable name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use fencepost_core::{StoreTime, Timing};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Death, Outcome, ended_at, since};
use crate::place::{Looker, Place, StoreKind};
use crate::process::{Process, fencepost, submit, until};
use crate::scenario::STUCK;
use crate::scenario::percentiles::Percentiles;

/// Rows that each worker runs at once.
const ROWS: usize = 2;

/// Notes line and time of each run. The first run of a line lasts until its worker is killed or all is over, the next ends at
/// once.
const HANDLER: &str = r#"
echo "$FENCEPOST_LINE $(date +%s%N)" >>"$0"
mkdir "$0-$FENCEPOST_LINE" 2>/dev/null || exit 0
until [ -e "$0-over" ]; do sleep 0.2; done
"#;

/// One of the two workers of a `run` is killed, so often.
pub fn supervised(on: StoreKind, times: usize) -> Outcome {
    let place = Place::new(on);
    measure(Death::Supervised, times, |nth| {
        let notes = place.file(&format!("notes-{nth}"));
        let input = place.file(&format!("rows-{nth}.csv"));
        let rows: String = (1..=ROWS * 2).map(|row| format!("{nth}-{row}\n")).collect();
        std::fs::write(&input, format!("n\n{rows}")).expect("the input can be written");
        let mut command = fencepost();
        command.arg("run").arg(&input).args(["--quiet", "--workers", "2", "--store", place.store(), "-o"]);
        command.arg(place.file("out.jsonl"));
        let mut run = start(command, &notes);
        until("all rows run", STUCK, || (runs(&notes).len() == ROWS * 2).then_some(()));
        let look = place.look();
        let (times, ()) = kill_and_wait(&look, &notes, || ());
        // Killed, it would leave its workers behind.
        std::fs::write(place.file(&format!("notes-{nth}-over")), "").expect("it can be written");
        assert!(run.wait(STUCK).success(), "the run ends well");
        times
    })
}

/// A worker with a stable name is killed, and the next one starts under that name at once, so often.
pub fn stable_name(on: StoreKind, times: usize) -> Outcome {
    let place = Place::new(on);
    measure(Death::StableName, times, |nth| {
        let notes = place.file(&format!("notes-{nth}"));
        let batch = submit(place.store(), &["--rows", &ROWS.to_string()]);
        let worker = || {
            let mut command = fencepost();
            command.args(["worker", "--quiet", "--name", "stable", "--store", place.store()]);
            start(command, &notes)
        };
        let _first = worker();
        until("all rows run", STUCK, || (runs(&notes).len() == ROWS).then_some(()));
        let look = place.look();
        let (times, _next) = kill_and_wait(&look, &notes, worker);
        // Killed before, it would leave rows to the next time.
        until("the batch ends", STUCK, || look.has_ended(&batch).then_some(()));
        times
    })
}

fn measure(death: Death, times: usize, mut once: impl FnMut(usize) -> (Duration, Duration)) -> Outcome {
    let (claimable, running): (Vec<_>, Vec<_>) = (0..times).map(&mut once).unzip();
    let ttl = Timing::default().ttl;
    Outcome { death, ttl, claimable: Percentiles::of(claimable), running: Percentiles::of(running), bound: None }
}

/// Kills a worker that holds rows and does something at once; gives the times until they could be claimed, and until the last of
/// them ran again.
fn kill_and_wait<T>(look: &Looker<'_>, notes: &Path, then: impl FnOnce() -> T) -> ((Duration, Duration), T) {
    let workers = look.workers().workers;
    let held = |worker: &&fencepost::store::view::WorkerView| !worker.holds.is_empty();
    let victim = workers.iter().find(held).expect("somebody holds the rows");
    let lines: Vec<u64> = victim.holds.iter().flat_map(|(_, lines)| lines.iter()).collect();
    assert_eq!(lines.len(), ROWS, "it holds what it runs");
    let pid = victim.process.as_ref().expect("it is on this machine").pid;
    let killed_at = SystemTime::now();
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("it runs");
    let next = then();
    let again = until("its rows run again", STUCK, || {
        let runs = runs(notes);
        let again = lines.iter().map(|line| runs.iter().filter(|(of, _)| of == line).nth(1).map(|(_, at)| *at));
        again.collect::<Option<Vec<StoreTime>>>()?.into_iter().max()
    });
    let claimable = ended_at(look, victim.lease).expect("its rows were taken from it");
    ((since(killed_at, claimable), since(killed_at, again)), next)
}

fn start(mut command: Command, notes: &PathBuf) -> Process {
    command.args(["--concurrency", &ROWS.to_string(), "--", "sh", "-c", HANDLER]).arg(notes);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Process::start(command)
}

/// The runs so far: lines and times.
fn runs(notes: &Path) -> Vec<(u64, StoreTime)> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    let run = |entry: &str| {
        let (line, at_ns) = entry.split_once(' ')?;
        Some((line.parse().ok()?, StoreTime(at_ns.parse::<i64>().ok()? / 1_000)))
    };
    text.lines().filter_map(run).collect()
}
