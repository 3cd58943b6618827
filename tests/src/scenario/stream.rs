//! Point 1 of the embedded product: the flights through `run` with a stream handler in Python, its workers killed at random.

use std::time::{Duration, Instant};

use super::{STUCK, assert_all_succeeded, flights, kill_one};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, fencepost_json, until};

/// Notes each run in the ledger, takes its time, has the run's token as the result.
const HANDLER: &str = r#"
import json, os, sys, time
ledger = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
seconds = float(sys.argv[2])
for text in sys.stdin:
    row = json.loads(text)
    os.write(ledger, f"{row['line']} {row['token']} {os.getpid()}\n".encode())
    time.sleep(seconds)
    print(json.dumps({"line": row["line"], "token": row["token"], "status": "success", "result": row["token"]}), flush=True)
"#;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct StreamKills {
    /// Rows of the flights.
    pub rows: usize,
    /// How many workers are killed.
    pub kills: usize,
    /// A worker is killed only while it holds so many lines.
    pub lines_held_min: u64,
    /// Kills are at least so far apart.
    pub kill_every: Duration,
    /// How long the handler takes for a row.
    pub row: Duration,
    /// Chooses whom to kill.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Without kills.
    pub undisturbed: Duration,
    /// With kills.
    pub disturbed: Duration,
    /// How many workers were killed.
    pub kills: usize,
    /// Lines that ran more than once, by the handler's ledger.
    pub lines_repeated: usize,
}

/// Runs it without and with kills, checks rows, results, counts and ledger.
pub fn run(on: StoreKind, sizes: StreamKills) -> Outcome {
    let (undisturbed, _) = once(on, StreamKills { kills: 0, ..sizes });
    let (disturbed, lines_repeated) = once(on, sizes);
    Outcome { undisturbed, disturbed, kills: sizes.kills, lines_repeated }
}

fn once(on: StoreKind, sizes: StreamKills) -> (Duration, usize) {
    let place = Place::new(on);
    let input = place.file("flights.csv");
    flights(sizes.rows, &input);
    let store = place.store();
    let mut command = fencepost();
    command.args(["run", input.to_str().expect("UTF-8"), "--store", store, "--workers", "4", "--quiet", "-o"]);
    command.arg(place.file("out.jsonl")).args(["--stream", "--", "python3", "-c", HANDLER]);
    command.arg(place.ledger()).arg(sizes.row.as_secs_f64().to_string());
    let mut run = Process::start(command);
    until("rows run", STUCK, || place.ledger().exists().then_some(()));
    let look = place.look();
    let mut random = fencepost_core::random::Stream::new(sizes.seed);
    let (began, mut killed, mut last_kill) = (Instant::now(), 0, Instant::now());
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
    let batch = fencepost_json(["list", "--json", "--store", store])["batches"][0]["id"].clone();
    assert_all_succeeded(&place, batch.as_str().expect("id"), sizes.rows);
    let others = place.number("select count(*) from outcomes where cast(result as bigint) <> token");
    assert_eq!(others, 0, "rows have the result of another run");
    let runs = ledger::read(&place.ledger());
    assert_eq!(runs.len(), sizes.rows, "every row ran");
    ledger::assert_no_token_ran_twice(&runs);
    (took, ledger::repeats(&runs).0)
}
