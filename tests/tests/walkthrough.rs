//! The walk-through of the README, step by step, with rows of a fifth of a second.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fencepost_tests::postgres::Schema;
use fencepost_tests::process::{Process, fencepost, fencepost_json, run_fencepost, submit, until};
use fencepost_tests::redis::{Keeps, Server};
use fencepost_tests::scenario::walk_through::{self, Servers, Sizes};

const LIMIT: Duration = Duration::from_secs(60);

fn worker(store: &str, log: &Path, more: &[&str]) -> Process {
    let mut command = fencepost();
    command.args(["worker", "--store", store, "--sleep", "200ms", "--horizon", "100ms"]).args(more);
    command.stdin(Stdio::null()).stderr(File::create(log).expect("a log"));
    Process::start(command)
}

fn success(store: &str, batch: &str) -> u64 {
    fencepost_json(["status", batch, "--json", "--store", store])["counts"]["success"].as_u64().expect("a count")
}

#[test]
fn a_killed_worker_s_row_is_recovered_first_and_all_rows_end_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("walk.db");
    let store = path.to_str().expect("UTF-8");
    // Step 1: submit 20 rows.
    let batch = submit(store, &["--rows", "20"]);
    // Steps 2 and 3: worker A, killed in mid-row after four or five rows.
    let log_a = dir.path().join("a.log");
    let mut a = worker(store, &log_a, &[]);
    until("four rows are done", LIMIT, || (success(store, &batch) >= 4).then_some(()));
    a.kill();
    let a_said = std::fs::read_to_string(&log_a).expect("a log");
    let name = a_said.lines().find_map(|line| line.strip_prefix("Instance ID: ")).expect("its name").to_owned();
    // Step 4: the status shows the dead worker and the row it held.
    let before = fencepost_json(["status", &batch, "--json", "--store", store]);
    let counts = &before["counts"];
    let (done, held) = (counts["success"].as_u64().unwrap(), counts["inprog"].as_u64().unwrap());
    assert_eq!((held, counts["queued"].as_u64().unwrap()), (1, 19 - done), "{before}");
    assert!((4..=6).contains(&done), "{before}");
    let row = before["workers"][0]["lines"][0][0].as_u64().expect("the row it held");
    let text = String::from_utf8(run_fencepost(["status", &batch, "--store", store]).stdout).expect("UTF-8");
    for says in [
        "Status Report".to_owned(),
        format!("Batch: {batch} (open"),
        "Rows in 'inprog' status: 1 (held by dead workers: 1)".to_owned(),
        "(none - heartbeat expired)".to_owned(),
        format!("{name} [DEAD (its process is gone - rows will be recovered)]\n    Rows: [{row}]"),
    ] {
        assert!(text.contains(&says), "{says:?} is not in\n{text}");
    }
    // Step 5: worker B recovers the row first, and marks it.
    let log_b = dir.path().join("b.log");
    let mut b = worker(store, &log_b, &["--until-done"]);
    assert!(b.wait(LIMIT).success());
    let b_said = std::fs::read_to_string(&log_b).expect("a log");
    let first = b_said.lines().find(|line| line.contains("START")).expect("rows");
    assert!(first.contains(&format!("Row {row}: START processing")), "{first}");
    assert!(first.contains(&format!("<-- Recovered row (from {name})")), "{first}");
    assert!(b_said.contains(&format!("Worker {name} is dead (its process is gone): 1 rows came back")), "{b_said}");
    // Step 6: all rows ended, nothing is left.
    let after = fencepost_json(["status", &batch, "--json", "--store", store]);
    assert_eq!(after["counts"]["success"], 20);
    assert!(after["workers"].as_array().unwrap().iter().all(|worker| worker["lines"] == serde_json::json!([])));
    let text = String::from_utf8(run_fencepost(["status", &batch, "--store", store]).stdout).expect("UTF-8");
    assert!(text.contains("nothing left to recover"), "{text}");
    let story = run_fencepost(["rows", &batch, "--line", &row.to_string(), "--store", store]);
    let story = String::from_utf8(story.stdout).expect("UTF-8");
    assert!(story.contains("recovered") && story.contains("recorded"), "{story}");
}

#[test]
fn on_postgres_and_redis_all_views_agree_and_a_worker_elsewhere_is_found_out_by_its_ttl() {
    let (schema, redis) = (Schema::new(), Server::start(Keeps::Nothing));
    let servers = Servers::with(&schema, &redis);
    walk_through::run(&servers, SCALED_DOWN);
}

/// With the proportions of the original: 60 s, 30 s, 60 s.
const SCALED_DOWN: Sizes = Sizes {
    rows: 6,
    kill_after: 2,
    row: Duration::from_millis(1_500),
    ttl: Duration::from_secs(2),
    renew: Duration::from_secs(1),
    scan: Duration::from_secs(2),
};

#[test]
fn the_demo_kills_and_pauses_its_workers_and_proves_itself() {
    let output = run_fencepost(["demo"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for says in [
        "kill -9 worker A",
        "declared worker-A dead (its process is gone)",
        "pause worker B",
        "declared worker-B dead (silent past its ttl)",
        "FENCED",
        "24 rows, 24 outcomes: none lost, none twice",
    ] {
        assert!(said.contains(says), "{says:?} is not in\n{said}");
    }
}
