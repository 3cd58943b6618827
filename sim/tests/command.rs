//! The command: exit codes, files, and what a failure prints.

use std::path::Path;
use std::process::{Command, Output};

use fencepost_model::store::Mistake;
use sim::checks::{Kind, PANIC, Violation};
use sim::explore::Failure;
use sim::planted::{Found, PlantedBug, find};
use sim::schedule::{Schedule, file};
use sim::{run, run_planted};

#[allow(clippy::unwrap_used)]
fn sim(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_holds_exits_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let explored = sim(folder.path(), &["explore", "--schedules", "20", "--from", "5", "--jobs", "2"]);
    assert_eq!(explored.status.code(), Some(0));
    assert!(text(&explored.stdout).contains("20 schedules in "));
    let replayed = sim(folder.path(), &["replay", "7"]);
    assert_eq!(replayed.status.code(), Some(0));
    let hash = run(&Schedule::from_seed(7)).hash;
    assert!(text(&replayed.stdout).contains(&format!("hash {hash:016x}")), "{}", text(&replayed.stdout));
}

/// Safety 1, liveness 3; what is wrong with the arguments 2.
#[test]
fn the_exit_code_tells_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let code = |args: &[&str]| sim(folder.path(), args).status.code();
    assert_eq!(code(&["replay", "145", "--planted", "notokencheck"]), Some(1));
    assert_eq!(code(&["replay", "3", "--planted", "NoSettle"]), Some(3));
    // A mistake that the model check does not find is a violation, too.
    assert_eq!(code(&["model-check", "--mistakes", "--scope", "abort"]), Some(0));
    assert_eq!(code(&["model-check", "--mistakes", "--scope", "abort", "--states", "2"]), Some(1));
    assert_eq!(code(&["replay", "145", "--planted", "NoSuchBug"]), Some(2));
    assert_eq!(code(&["replay"]), Some(2));
    let too_large = sim(folder.path(), &["replay", "99999999999999999999"]);
    assert_eq!(too_large.status.code(), Some(2));
    assert!(text(&too_large.stderr).contains("a seed is at most 18446744073709551615"), "{}", text(&too_large.stderr));
    // A number of seeds that there are not, and nothing at all.
    assert_eq!(code(&["explore", "--from", "18446744073709551615", "--schedules", "2"]), Some(2));
    assert_eq!(code(&["explore", "--schedules", "0"]), Some(2));
    assert_eq!(code(&["net-explore", "--schedules", "0"]), Some(2));
    // Faults are drawn with the options: these are looked at first.
    for options in ["{\"batches\": []}", "{\"run_us_min\": 9000000000000000000, \"run_us_max\": 9000000000000000000}"] {
        std::fs::write(folder.path().join("bad.json"), format!("{{\"seed\": 3, \"options\": {options}}}")).unwrap();
        let bad = sim(folder.path(), &["replay", "bad.json"]);
        assert_eq!(bad.status.code(), Some(2), "{options}: {}", text(&bad.stderr));
    }
    std::fs::write(folder.path().join("bad.json"), "{\"seed\": 1,\n\"options\": {\"worker\": 1}}").unwrap();
    let bad = sim(folder.path(), &["shrink", "bad.json"]);
    assert_eq!(bad.status.code(), Some(2));
    assert_eq!(text(&bad.stderr), "sim: bad.json: line 2: there is no option `worker`; do you mean `workers`?\n");
}

#[test]
fn a_page_never_takes_the_place_of_its_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = "{\"seed\": 7}\n";
    std::fs::write(folder.path().join("a.html"), schedule).unwrap();
    for args in [&["timeline", "a.html"][..], &["timeline", "a.html", "--out", "./a.html"]] {
        let drawn = sim(folder.path(), args);
        assert_eq!(drawn.status.code(), Some(2));
        assert!(text(&drawn.stderr).ends_with("a.html: is the schedule itself; name another file to write\n"));
        assert_eq!(std::fs::read_to_string(folder.path().join("a.html")).unwrap(), schedule);
    }
    assert_eq!(sim(folder.path(), &["timeline", "a.html", "--out", "b.html"]).status.code(), Some(0));
}

#[test]
fn checks_are_told_apart() {
    let kind = |check| Violation { check, at_us: 0, what: String::new() }.kind();
    assert_eq!((kind("3 fencing"), kind("7 progress"), kind(PANIC)), (Kind::Safety, Kind::Liveness, Kind::Panic));
    // A planted bug after which rows never end is a matter of liveness, whatever its check is called.
    let violation = find(PlantedBug::NoSettle, 0..300, 2).unwrap().violation;
    assert_eq!(violation.kind(), Kind::Liveness, "{violation}");
}

#[test]
fn explore_writes_what_it_found_and_all_commands_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let explored = sim(
        folder.path(),
        &["explore", "--schedules", "20", "--from", "140", "--planted", "NoTokenCheck", "--save", "found"],
    );
    assert_eq!(explored.status.code(), Some(1));
    let told = text(&explored.stdout);
    for wanted in [
        "seed 145 with NoTokenCheck planted violates [1 conservation]",
        "options Options {",
        "let schedule = Schedule {",
        "run_planted(&schedule, PlantedBug::named(\"NoTokenCheck\"))",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    assert!(!told.contains("assert_holds"), "without the bug it holds: {told}");
    let shrunk = folder.path().join("found/seed-145-NoTokenCheck-shrunk.json");
    assert_eq!(file::read(&folder.path().join("found/seed-145-NoTokenCheck.json")).unwrap(), Schedule::from_seed(145));
    assert!(file::read(&shrunk).unwrap().faults.len() < Schedule::from_seed(145).faults.len());

    let shrunk = shrunk.to_str().unwrap();
    let replayed = sim(folder.path(), &["replay", shrunk, "--planted", "NoTokenCheck"]);
    assert_eq!(replayed.status.code(), Some(1));
    assert!(text(&replayed.stdout).contains("violates [1 conservation]"));
    let without = sim(folder.path(), &["replay", shrunk]);
    assert_eq!(without.status.code(), Some(0), "{}", text(&without.stdout));
    let drawn = sim(folder.path(), &["timeline", shrunk, "--planted", "NoTokenCheck"]);
    assert_eq!(drawn.status.code(), Some(1));
    let page = std::fs::read_to_string(folder.path().join("seed-145-NoTokenCheck-shrunk.html")).unwrap();
    assert!(page.contains("1 conservation"));
    let again = sim(folder.path(), &["shrink", shrunk, "--planted", "NoTokenCheck", "--out", "again.json"]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(std::fs::read(folder.path().join("again.json")).unwrap(), std::fs::read(shrunk).unwrap());
}

/// The commands that a failure prints do what they say.
#[test]
fn printed_commands_work() {
    let folder = tempfile::tempdir().unwrap();
    let shrink = sim(folder.path(), &["shrink", "145", "--planted", "NoTokenCheck"]);
    let told = text(&shrink.stdout);
    let printed: Vec<Vec<&str>> = told
        .lines()
        .filter_map(|line| line.split_once("cargo run -p sim -- ").map(|(_, args)| args.split(' ').collect()))
        .collect();
    assert_eq!(printed.len(), 3, "{told}");
    for args in printed {
        let ran = sim(folder.path(), &args);
        assert_eq!(ran.status.code(), Some(1), "{args:?}: {}", text(&ran.stderr));
    }
    assert!(folder.path().join("145.json").exists() && folder.path().join("145.html").exists());
}

/// Of several bugs: what is left still fails, in the same check, and is smaller.
#[test]
fn a_shrunk_schedule_still_fails() {
    for bug in
        [PlantedBug::Store(Mistake::NoTokenCheck), PlantedBug::RecoveryByHeartbeat, PlantedBug::GiveBackForgotten]
    {
        let Found { seed, violation, .. } = find(bug, 0..2000, 2).unwrap();
        let failure = Failure::of(&Schedule::from_seed(seed), violation.clone(), Some(bug));
        let again = run_planted(&failure.shrunk, Some(bug)).violation.unwrap();
        assert_eq!(again.check, violation.check, "{bug}");
        assert_eq!(again, failure.shrunk_violation, "{bug}");
        let (before, after) = (&failure.schedule, &failure.shrunk);
        assert!(after.faults.len() < before.faults.len() || after.options.rows() < before.options.rows(), "{bug}");
    }
}
