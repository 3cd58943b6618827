//! `scenario chaos` as a program: what it says of itself when it cannot run, and when it is told to stop.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::time::Duration;

use fencepost_tests::process::{Process, program};
use nix::sys::signal::Signal;

#[test]
fn programs_that_are_missing_are_named_before_anything_is_done() {
    let nothing = tempfile::tempdir().unwrap();
    let mut scenario = Command::new(program("scenario"));
    scenario.args(["chaos", "--on", "sqlite", "--minutes", "0.1"]).env("TMPDIR", nothing.path());
    let output = scenario.env("FENCEPOST_TESTS_PROGRAMS", nothing.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said.contains("no program fencepost") && said.contains("cargo build --workspace --bins"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(std::fs::read_dir(nothing.path()).unwrap().count(), 0);
}

#[test]
fn a_run_that_is_stopped_heals_checks_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut scenario = Command::new(program("scenario"));
    scenario.args(["chaos", "--on", "sqlite", "--minutes", "5"]).env("TMPDIR", folder.path());
    let (mut scenario, output) = Process::start_heard(scenario);
    let mut said = String::new();
    let mut output = BufReader::new(output);
    while !said.contains("steps; all is in") {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "it ended: {said}");
    }
    scenario.signal(Signal::SIGINT);
    output.read_to_string(&mut said).unwrap();
    let status = scenario.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("result: STOPPED: told to stop by signal 2"), "{said}");
    assert!(said.contains("the checks are done") && !said.contains("VIOLATION"), "{said}");
    let kept = said.lines().find_map(|line| line.strip_prefix("kept: ")).expect("it says where all is kept");
    assert!(std::path::Path::new(kept).join("report.txt").is_file(), "{said}");
}
