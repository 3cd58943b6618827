//! Point 2 of the main job, second half: `run` with a command per row, its workers killed at random.

use std::time::{Duration, Instant};

use super::{Place, STUCK, assert_all_succeeded, flights};
use crate::ledger;
use crate::process::{Process, fencepost, fencepost_json};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct CommandKills {
    /// Rows of the flights.
    pub rows: usize,
    /// How many workers are killed.
    pub kills: usize,
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
pub fn run(sizes: CommandKills) -> Outcome {
    let place = Place::new();
    let input = place.file("flights.csv");
    flights(sizes.rows, &input);
    let store = place.store();
    let store = store.to_str().expect("UTF-8");
    let script = format!(
        "cat >/dev/null; echo \"$FENCEPOST_LINE $FENCEPOST_TOKEN $$\" >>{}; sleep 0.01; echo $FENCEPOST_LINE",
        place.ledger().display()
    );
    let mut command = fencepost();
    command.args(["run", input.to_str().expect("UTF-8"), "--store", store, "--workers", "4", "--concurrency", "4"]);
    command.args(["--quiet", "-o"]).arg(place.file("out.jsonl")).args(["--", "sh", "-c", &script]);
    let began = Instant::now();
    let mut run = Process::start(command);
    let mut random = fencepost_core::random::Stream::new(sizes.seed);
    let mut killed = 0;
    let status = loop {
        assert!(began.elapsed() < STUCK, "the run does not end");
        if let Some(status) = run.ended() {
            break status;
        }
        if killed < sizes.kills && place.ledger().exists() && kill_one(store, &mut random) {
            killed += 1;
        }
        std::thread::park_timeout(Duration::from_millis(50));
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

/// Kills one of the live workers that hold lines.
fn kill_one(store: &str, random: &mut fencepost_core::random::Stream) -> bool {
    let said = fencepost_json(["workers", "--json", "--store", store]);
    let workers = said["workers"].as_array().expect("a list");
    let holding: Vec<i32> = workers
        .iter()
        .filter(|worker| worker["alive"] == true && !worker["lines"].as_array().expect("a list").is_empty())
        .filter_map(|worker| i32::try_from(worker["pid"].as_i64()?).ok())
        .collect();
    if holding.is_empty() {
        return false;
    }
    let victim = holding[usize::try_from(random.next_u64() % holding.len() as u64).expect("a place")];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), nix::sys::signal::Signal::SIGKILL).is_ok()
}
