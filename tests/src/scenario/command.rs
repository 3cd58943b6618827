//! Point 2 of the main job, second half: `run` with a command per row, its workers killed at random.

use std::time::{Duration, Instant};

use super::{STUCK, assert_all_succeeded, flights, kill_one};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, fencepost_json, until};

/// Workers of the run at a time.
const WORKERS: usize = 4;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct CommandKills {
    /// Rows of the flights.
    pub rows: usize,
    /// How many workers are killed.
    pub kills: usize,
    /// A worker is killed only while it holds so many lines; at least 2.
    pub lines_held_min: u64,
    /// Kills are at least so far apart.
    pub kill_every: Duration,
    /// Chooses whom to kill.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// How many workers were killed.
    pub kills: usize,
    /// Lines that ran more than once.
    pub lines_repeated: usize,
}

/// Runs it; the run itself replaces its workers.
pub fn run(on: StoreKind, sizes: CommandKills) -> Outcome {
    let place = Place::new(on);
    let input = place.file("flights.csv");
    flights(sizes.rows, &input);
    let store = place.store();
    let script = format!(
        "cat >/dev/null; echo \"$FENCEPOST_LINE $FENCEPOST_TOKEN $$\" >>{}; sleep 0.25; echo $FENCEPOST_LINE",
        place.ledger().display()
    );
    let mut command = fencepost();
    command.args(["run", input.to_str().expect("UTF-8"), "--store", store, "--concurrency", "8"]);
    command.args(["--workers", &WORKERS.to_string()]);
    // So that spans are long although rows are slow.
    command.args(["--horizon", "16s"]);
    command.args(["--quiet", "-o"]).arg(place.file("out.jsonl")).args(["--", "sh", "-c", &script]);
    let began = Instant::now();
    let mut run = Process::start(command);
    let mut random = fencepost_core::random::Stream::new(sizes.seed);
    until("rows run", STUCK, || place.ledger().exists().then_some(()));
    let look = place.look();
    let (mut killed, mut last_kill) = (0, Instant::now());
    let status = until("the run ends", STUCK, || {
        let due = killed < sizes.kills && last_kill.elapsed() >= sizes.kill_every;
        if due && kill_one(&look, sizes.lines_held_min, &mut random) {
            (killed, last_kill) = (killed + 1, Instant::now());
        }
        run.ended()
    });
    let took = began.elapsed();
    assert!(status.success(), "{status}");
    assert_eq!(killed, sizes.kills, "the run was over before all kills were done");
    // Each worker has one lease, unless it loses it. The last one to come may have found nothing to do any more.
    let leases = place.number("select count(*) from leases");
    let workers = i64::try_from(WORKERS + sizes.kills).expect("few");
    assert!(leases >= workers - 1, "of {workers} workers, replacements included, {leases} took a lease");
    let batch =
        fencepost_json(["list", "--json", "--store", store])["batches"][0]["id"].as_str().expect("id").to_owned();
    assert_all_succeeded(&place, &batch, sizes.rows);
    let runs = ledger::read(&place.ledger());
    ledger::assert_no_token_ran_twice(&runs);
    let (lines_repeated, _) = ledger::repeats(&runs);
    Outcome { took, kills: killed, lines_repeated }
}
