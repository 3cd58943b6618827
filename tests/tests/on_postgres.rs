//! What the main job and the embedded product must show, on Postgres, at sizes that fit a test run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use fencepost_tests::place::{Place, StoreKind};
use fencepost_tests::process::{Process, fencepost, fencepost_json, run_fencepost, submit, until};
use fencepost_tests::scenario::{
    STUCK, abort, command, completions, cuts, effects, fairness, kills, known_death, last_spans, poison, restart,
    sigterm, stopped, stream,
};

const ON: StoreKind = StoreKind::Postgres;

fn killed_workers(on: StoreKind) {
    let outcome = kills::run(
        on,
        kills::Kills {
            rows: 4_000,
            workers: 4,
            concurrency: 8,
            row_us: 5_000,
            kills: 4,
            lines_held_min: 100,
            kill_every: Duration::from_millis(100),
            seed: 7,
        },
    );
    assert_eq!(outcome.kills, 4);
}

#[test]
fn killed_workers_lose_and_repeat_no_outcome() {
    killed_workers(ON);
}

#[test]
fn killed_workers_behind_a_transaction_pooler_lose_and_repeat_no_outcome() {
    killed_workers(StoreKind::Pgbouncer);
}

fn effects_once(on: StoreKind) {
    let sizes =
        effects::Effects { rows: 2_500, kills: 4, pauses: 1, ttl: Duration::from_millis(500), row_us: 20_000, seed: 3 };
    let outcome = effects::run(on, sizes);
    assert!(outcome.lines_repeated > 0, "kills in mid-row repeat runs, not effects: {outcome:?}");
}

#[test]
fn transactional_effects_happen_once_per_row_under_kills_and_pauses() {
    effects_once(ON);
}

#[test]
fn transactional_effects_behind_a_transaction_pooler_happen_once_per_row() {
    effects_once(StoreKind::Pgbouncer);
}

#[test]
fn a_run_replaces_its_killed_workers() {
    let kill_every = Duration::from_millis(100);
    let sizes = command::CommandKills { rows: 200, kills: 3, lines_held_min: 8, kill_every, seed: 7 };
    assert_eq!(command::run(ON, sizes).kills, 3);
}

#[test]
fn a_stopped_worker_s_late_answers_are_fenced_and_shown() {
    let outcome = stopped::run(ON, Duration::from_millis(1_000));
    assert!(outcome.fenced > 0);
    assert!(outcome.story.contains("fenced") && outcome.story.contains("recovered"), "{}", outcome.story);
}

/// Each of an operator's verbs by the program itself.
#[test]
fn an_operator_s_verbs() {
    let place = Place::new(ON);
    let batch = submit(place.store(), &["--rows", "3"]);
    let verb = |name: &str, arguments: &[&str]| {
        fencepost_json([&[name, &batch, "--json", "--store", place.store()], arguments].concat())
    };
    assert_eq!(verb("hold", &[])["new"], true);
    assert_eq!(verb("append", &["--rows", "2", "--key", "k"])["lines"], serde_json::json!([4, 5]));
    assert_eq!(verb("append", &["--rows", "2", "--key", "k"])["new"], false);
    assert_eq!((&verb("hold", &[])["new"], &verb("resume", &[])["new"]), (&false.into(), &true.into()));
    let work = |script: &str| {
        let worker = ["worker", "--until-done", "--quiet", "--store", place.store(), "--", "sh", "-c", script];
        assert!(run_fencepost(worker).status.success());
    };
    work("test $FENCEPOST_LINE -lt 4 || { echo \"row $FENCEPOST_LINE: 100% no\" >&2; exit 65; }");
    let errors = verb("errors", &[]);
    assert_eq!((&errors["failed"], &errors["kinds"][0]["line"]), (&2.into(), &4.into()), "{errors}");
    assert_eq!(verb("retry", &["--error-like", "row _: 100%", "--yes"])["rows"], 0, "no pattern");
    assert_eq!(verb("retry", &["--error-like", "row 5: 100% no", "--yes"])["rows"], 1);
    assert_eq!(verb("retry", &["--line", "1", "--yes"])["generation"], 2);
    assert_eq!(verb("retry", &["--yes"])["rows"], 1, "the other one that failed");
    work("exit 0");
    assert_eq!(verb("status", &[])["counts"]["success"], 5);
    let refused = run_fencepost(["abort", &batch, "--yes", "--store", place.store()]);
    assert_eq!(refused.status.code(), Some(2), "it has ended");
    let migrated = fencepost_json(["migrate", "--json", "--store", place.store()]);
    assert_eq!(migrated["store_version"], migrated["program_version"]);
}

#[test]
fn an_aborted_batch_s_handlers_are_stopped_and_waited_for() {
    let stopped = abort::handlers(ON);
    assert!(stopped.waited >= Duration::from_millis(200), "it waited for handlers that take time to end: {stopped:?}");
}

#[test]
fn an_abort_behind_a_transaction_pooler_is_heard_of_within_a_second() {
    abort::handlers(StoreKind::Pgbouncer);
}

#[test]
fn a_busy_batch_is_aborted_at_once() {
    let sizes = abort::Busy { rows: 20_000, workers: 2, concurrency: 50, done_min: 1_000 };
    assert!(abort::busy(ON, sizes).took < Duration::from_secs(5));
}

#[test]
fn a_row_that_kills_its_worker_fails_alone() {
    let outcome = poison::run(ON, poison::Poison { rows: 2_000, line: 777, workers: 4, concurrency: 8, row_us: 2_000 });
    assert!(outcome.error.contains('3'), "it says how often: {}", outcome.error);
    assert!(outcome.deaths >= 4);
}

#[test]
fn a_killed_worker_that_came_later_is_found_at_once() {
    known_death::run(ON);
}

#[test]
fn a_terminated_worker_finishes_what_runs_and_gives_the_rest_back() {
    sigterm::run(ON);
}

#[test]
fn two_last_outcomes_at_once_end_the_batch_once() {
    last_spans::run(ON, 100, Path::new(env!("CARGO_BIN_EXE_scenario")));
}

#[test]
fn a_stream_handler_s_killed_workers_lose_and_repeat_no_outcome() {
    let sizes = stream::StreamKills {
        rows: 3_000,
        kills: 3,
        lines_held_min: 100,
        kill_every: Duration::from_millis(200),
        row: Duration::from_millis(1),
        seed: 5,
    };
    assert_eq!(stream::run(ON, sizes).kills, 3);
}

#[test]
fn a_server_that_restarts_or_stays_away_loses_no_result_and_no_lease() {
    let outcome = restart::run(restart::Restart {
        rows: 4_000,
        workers: 4,
        concurrency: 8,
        row_us: 20_000,
        ttl: Duration::from_secs(1),
        away: Duration::from_secs(3),
    });
    assert!(outcome.kept > 0, "{outcome:?}");
}

#[test]
fn connections_cut_at_random_lose_and_repeat_no_outcome() {
    let outcome = cuts::run(cuts::Cuts { rows: 3_000, workers: 4, row_us: 5_000, lost_in_1000: 100, seed: 11 });
    assert!(outcome.claims_unheard > 0 && outcome.groups_unheard > 0, "{outcome:?}");
}

/// Everybody on a machine may read command lines.
#[test]
fn no_command_line_of_a_run_has_the_password() {
    const SECRET: &str = "open-sesame-5207";
    let place = Place::on_own();
    place.execute("create role secretive superuser login password 'open-sesame-5207'");
    let input = place.file("rows.csv");
    std::fs::write(&input, "n\n1\n2\n3\n4\n").expect("the input can be written");
    let (ledger, store) = (place.ledger(), place.store().replace("postgres@", &format!("secretive:{SECRET}@")));
    let mut command = fencepost();
    command.arg("run").arg(&input).args(["--workers", "2", "--concurrency", "1", "--quiet", "-o"]);
    command.arg(place.file("out.jsonl")).args([
        "--",
        "sh",
        "-c",
        "echo >>\"$0\"; until [ -e \"$0.go\" ]; do sleep 0.05; done",
    ]);
    command.arg(&ledger).env("FENCEPOST_STORE", store);
    let mut run = Process::start(command);
    let rows = || std::fs::read_to_string(&ledger).map_or(0, |text| text.lines().count());
    until("each worker runs a row", STUCK, || (rows() == 2).then_some(()));
    let lines = command_lines();
    assert!(lines.iter().filter(|line| line.contains("--supervised")).count() >= 2, "{lines:?}");
    let told: Vec<_> = lines.iter().filter(|line| line.contains(SECRET)).collect();
    assert!(told.is_empty(), "{told:?}");
    std::fs::write(ledger.with_extension("go"), "").expect("it can be written");
    assert!(run.wait(STUCK).success());
    place.execute("drop owned by secretive cascade; drop role secretive");
}

fn command_lines() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("it is there").flatten();
    let line = |process: std::fs::DirEntry| std::fs::read(process.path().join("cmdline")).ok();
    processes.filter_map(line).map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

#[test]
fn what_submit_says_next_can_be_pasted_into_a_shell() {
    let place = Place::on_own();
    let url = format!("{}&application_name=it's&sslmode=prefer", place.store());
    let output = run_fencepost(["submit", "--rows", "1", "--op", "my op", "--store", &url]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    let next = said.lines().find_map(|line| line.trim().strip_prefix("2. Check status:")).expect("what is next");
    let shell = format!("fencepost() {{ \"$PROGRAM\" \"$@\"; }}; {next} --json");
    let program = fencepost_tests::process::program("fencepost");
    let status =
        std::process::Command::new("sh").args(["-c", &shell]).env("PROGRAM", program).output().expect("a shell");
    let status = String::from_utf8(status.stdout).expect("UTF-8");
    assert!(status.contains("\"queued\": 1"), "{said}{status}");
    assert!(said.contains("--op 'my op'"), "{said}");
}

#[test]
fn completion_calls_are_delivered_once_though_their_callers_are_killed() {
    let call = Duration::from_millis(50);
    let outcome = completions::run(ON, completions::Completions { batches: 30, workers: 2, kills: 4, call, seed: 3 });
    assert!(outcome.calls >= 30, "{outcome:?}");
}

/// C3: what is held of a large batch is not worked off first: of four rows that a worker starts three are of the small one. Without turns, or without a
/// claim at once, a thousand rows of the large batch come before those of the small one.
#[test]
fn a_small_batch_does_not_wait_for_a_large_one() {
    let (row, horizon) = (Duration::from_millis(20), Duration::from_secs(5));
    let sizes = fairness::Fairness { large: 20_000, small: 100, workers: 2, concurrency: 4, row, horizon, times: 3 };
    let outcome = fairness::run(ON, sizes);
    assert!(outcome.large_rows_meanwhile < 500, "{outcome:?}");
}
