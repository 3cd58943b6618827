//! `run` when its workers, its store or its user do not behave.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fencepost_tests::place::{Place, StoreKind};
use fencepost_tests::process::{Process, fencepost, run_fencepost, until};
use fencepost_tests::scenario::STUCK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const INTERRUPTED: i32 = 130;

/// A run over so many rows.
fn run(place: &Place, rows: u32, options: &[&str], command: &[&str]) -> std::process::Command {
    run_to(place, &place.file("out.jsonl"), rows, options, command)
}

/// The same with results elsewhere.
fn run_to(place: &Place, output: &Path, rows: u32, options: &[&str], command: &[&str]) -> std::process::Command {
    let input = place.file("rows.csv");
    let rows: String = (1..=rows).map(|row| format!("{row}\n")).collect();
    std::fs::write(&input, format!("n\n{rows}")).expect("the input can be written");
    let mut run = fencepost();
    run.arg("run").arg(input).arg("--store").arg(place.store()).arg("-o").arg(output);
    run.args(options).arg("--").args(command).stdin(Stdio::null());
    run
}

fn workers(store: &str) -> Vec<i32> {
    let output = run_fencepost(["workers", "--json", "--store", store]);
    // The run is just making the store.
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return Vec::new() };
    let live = said["workers"].as_array().expect("a list").iter().filter(|worker| worker["alive"] == true);
    live.filter_map(|worker| i32::try_from(worker["pid"].as_i64()?).ok()).collect()
}

/// Waits until so many workers are at work.
fn working(place: &Place, count: usize) -> Vec<i32> {
    until("workers work", STUCK, || Some(workers(place.store())).filter(|workers| workers.len() == count))
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it runs");
}

#[test]
fn workers_that_were_asked_to_leave_by_others_are_replaced() {
    let place = Place::new(StoreKind::Sqlite);
    let mut running = Process::start(run(&place, 40, &["--workers", "3"], &["sleep", "0.1"]));
    for pid in working(&place, 3) {
        signal(pid, Signal::SIGTERM);
    }
    assert!(running.wait(STUCK).success());
    assert_eq!(lines(&place.file("out.jsonl")), 40);
}

#[test]
fn workers_that_never_stay_end_the_run_and_leave_nobody_behind() {
    let place = Place::new(StoreKind::Sqlite);
    // The store is gone, so no worker can start any more; the rows that run now would run for long.
    let script = format!("rm -f {}*; kill -9 $PPID", place.store_file().display());
    let options = ["--workers", "1", "--quiet"];
    let mut running = Process::start(run(&place, 3, &options, &["sh", "-c", &script]));
    let status = running.wait(STUCK);
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(!place.store_file().exists(), "no worker made an empty store in its place");
}

#[test]
fn a_worker_that_stands_still_does_not_hold_up_the_end() {
    let place = Place::new(StoreKind::Sqlite);
    let options = ["--workers", "2", "--ttl", "1s", "--grace", "0s"];
    let mut running = Process::start(run(&place, 30, &options, &["sleep", "0.1"]));
    let stopped = working(&place, 2)[0];
    place.stop(stopped.unsigned_abs());
    let status = running.wait(Duration::from_secs(60));
    assert!(status.success(), "{status}");
    assert_eq!(lines(&place.file("out.jsonl")), 30);
    assert!(is_gone(stopped), "it was killed");
}

#[test]
fn a_second_signal_is_heard_while_a_worker_stands_still() {
    let place = Place::new(StoreKind::Sqlite);
    let mut running = Process::start(run(&place, 30, &["--workers", "2", "--grace", "1h"], &["sleep", "0.2"]));
    let workers = working(&place, 2);
    place.stop(workers[0].unsigned_abs());
    running.signal(Signal::SIGTERM);
    until("the other leaves", STUCK, || is_gone(workers[1]).then_some(()));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait(Duration::from_secs(20)).code(), Some(INTERRUPTED));
    until("no worker is left", Duration::from_secs(1), || is_gone(workers[0]).then_some(()));
}

#[test]
fn a_store_that_does_not_answer_for_a_while_ends_no_run() {
    let place = Place::new(StoreKind::Sqlite);
    let mut running = Process::start(run(&place, 20, &["--quiet"], &["sleep", "0.1"]));
    working(&place, 2);
    place.execute("pragma legacy_alter_table = on; alter table batches rename to away");
    let silent = Instant::now();
    until("the run has looked in vain", STUCK, || (silent.elapsed() > Duration::from_secs(1)).then_some(()));
    assert_eq!(running.ended(), None, "it is borne");
    place.execute("pragma legacy_alter_table = on; alter table away rename to batches");
    assert!(running.wait(STUCK).success());
    assert_eq!(lines(&place.file("out.jsonl")), 20);
}

#[test]
fn a_store_that_does_not_answer_any_more_ends_the_run_and_its_workers() {
    let place = Place::new(StoreKind::Sqlite);
    let options = ["--quiet", "--patience", "1s", "--grace", "0s"];
    let mut running = Process::start(run(&place, 1000, &options, &["sleep", "0.1"]));
    let workers = working(&place, 2);
    place.execute("pragma legacy_alter_table = on; alter table batches rename to away");
    let status = running.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(7), "{status}");
    assert!(workers.into_iter().all(is_gone), "no worker is left");
}

#[test]
fn a_leaving_worker_does_not_wait_for_ever_for_its_store() {
    let place = Place::new(StoreKind::Sqlite);
    fencepost_tests::process::submit(place.store(), &["--rows", "1000"]);
    let mut command = fencepost();
    command.args(["worker", "--quiet", "--grace", "0s", "--patience", "1s", "--store"]).arg(place.store());
    command.args(["--", "sleep", "0.1"]).stdin(Stdio::null());
    let mut worker = Process::start(command);
    working(&place, 1);
    place.execute("pragma legacy_alter_table = on; alter table leases rename to away");
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait(Duration::from_secs(30)).code(), Some(7));
}

#[test]
fn a_signal_is_heard_while_results_are_written() {
    let place = Place::new(StoreKind::Sqlite);
    let pipe = place.file("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // Nobody ever reads it.
    let running = run_to(&place, &pipe, 3, &["--quiet", "--workers", "1"], &["true"]);
    let mut running = Process::start(running);
    until("the batch has ended and its workers are gone", STUCK, || {
        let output = run_fencepost(["list", "--json", "--store", place.store()]);
        let said = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default();
        (said["batches"][0]["status"] == "success" && workers(place.store()).is_empty()).then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait(Duration::from_secs(20)).code(), Some(INTERRUPTED));
}
