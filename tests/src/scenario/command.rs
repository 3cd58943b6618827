//! Point 2 of the main job, second half: `run` with a command per row, its workers killed at random.

use std::time::{Duration, Instant};

use super::{STUCK, assert_all_succeeded, flights, kill_one};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, fencepost_json};

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
        "cat >/dev/null; echo \"$FENCEPOST_LINE $FENCEPOST_TOKEN $$\" >>{}; sleep 0.05; echo $FENCEPOST_LINE",
        place.ledger().display()
    );
    let mut command = fencepost();
    command.args(["run", input.to_str().expect("UTF-8"), "--store", store, "--workers", "4", "--concurrency", "4"]);
    // So that spans are long although rows are slow.
    command.args(["--horizon", "3s"]);
    command.args(["--quiet", "-o"]).arg(place.file("out.jsonl")).args(["--", "sh", "-c", &script]);
    let began = Instant::now();
    let mut run = Process::start(command);
    let mut random = fencepost_core::random::Stream::new(sizes.seed);
    crate::process::until("rows run", STUCK, || place.ledger().exists().then_some(()));
    let look = place.look();
    let (mut killed, mut last_kill) = (0, Instant::now());
    let status = loop {
        assert!(began.elapsed() < STUCK, "the run does not end");
        if let Some(status) = run.ended() {
            break status;
        }
        let due = killed < sizes.kills && last_kill.elapsed() >= sizes.kill_every;
        if due && kill_one(&look, sizes.lines_held_min, &mut random) {
            (killed, last_kill) = (killed + 1, Instant::now());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    };
    let took = began.elapsed();
    assert!(status.success(), "{status}");
    assert_eq!(killed, sizes.kills, "the run was over before all kills were done");
    let batch =
        fencepost_json(["list", "--json", "--store", store])["batches"][0]["id"].as_str().expect("id").to_owned();
    assert_all_succeeded(&place, &batch, sizes.rows);
    let runs = ledger::read(&place.ledger());
    ledger::assert_no_token_ran_twice(&runs);
    let (lines_repeated, _) = ledger::repeats(&runs);
    Outcome { took, kills: killed, lines_repeated }
}
