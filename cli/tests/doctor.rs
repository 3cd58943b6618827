//! `doctor` on an SQLite store: what it finds, that it changes nothing, and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use self::support::place::{Place, code, stderr};

#[allow(dead_code)]
mod support {
    pub mod place;
}

const LIMIT: Duration = Duration::from_secs(60);

/// What `doctor --json` finds, by check, and its exit code.
fn doctor(place: &Place, arguments: &[&str]) -> (BTreeMap<String, Value>, i32) {
    let output = place.run(&[&["doctor", "--json", "--store", "rows.db"], arguments].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    assert_eq!(report["schema_version"], 1);
    let findings = report["findings"].as_array().expect("a list");
    let of_level = |level: &str| findings.iter().filter(|finding| finding["level"] == level).count();
    assert_eq!((&report["problems"], &report["advice"]), (&of_level("problem").into(), &of_level("advice").into()));
    let name = |finding: &Value| finding["check"].as_str().expect("a word").to_owned();
    (findings.iter().map(|finding| (name(finding), finding.clone())).collect(), code(&output))
}

fn level<'a>(findings: &'a BTreeMap<String, Value>, check: &str) -> &'a str {
    findings.get(check).unwrap_or_else(|| panic!("{check} is not in {findings:?}"))["level"].as_str().expect("a word")
}

fn found<'a>(findings: &'a BTreeMap<String, Value>, check: &str) -> &'a str {
    findings[check]["found"].as_str().expect("a text")
}

/// The checks that are not well.
fn ill(findings: &BTreeMap<String, Value>) -> Vec<&str> {
    findings.iter().filter(|(_, finding)| finding["level"] != "ok").map(|(check, _)| check.as_str()).collect()
}

async fn open(place: &Place) -> SqliteConnection {
    SqliteConnectOptions::new().filename(place.file("rows.db")).connect().await.expect("it opens")
}

/// The files of the folder with their content; but for SQLite's index of its log, which all who read share.
fn files(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(place.file(".")).expect("a folder").flatten();
    let files = files.filter(|file| file.path().is_file() && !file.path().to_string_lossy().ends_with("-shm"));
    files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
}

#[test]
fn a_healthy_store_has_no_problem_and_is_not_changed() {
    let place = Place::new();
    place.ok(&["submit", "--rows", "3", "--store", "rows.db"]);
    place.ok(&["worker", "--until-done", "--sleep", "0s", "--quiet", "--store", "rows.db"]);
    // What a worker would make anew, and the one who looks does not.
    std::fs::remove_file(place.file("rows.db-turn")).expect("a worker made it");
    let before = files(&place);
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((exit, ill(&findings)), (0, Vec::new()), "{findings:?}");
    assert_eq!(found(&findings, "journal_mode"), "wal");
    let text = place.ok(&["doctor", "--store", "rows.db"]);
    assert!(text.contains("\nok       journal_mode: wal\n") && text.ends_with("\nproblems: 0, advice: 0\n"), "{text}");
    assert!(files(&place) == before, "{:?} became {:?}", before.keys(), files(&place).keys());
}

#[test]
fn a_file_that_is_not_there_is_a_problem_and_is_not_made() {
    let place = Place::new();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((exit, ill(&findings)), (7, vec!["file"]), "{findings:?}");
    assert!(found(&findings, "file").contains("no such file"));
    assert!(files(&place).is_empty());
}

#[tokio::test]
async fn another_s_database_and_an_older_or_newer_store_are_told_and_left_alone() {
    let place = Place::new();
    place.ok(&["submit", "--rows", "3", "--store", "rows.db"]);
    let mut conn = open(&place).await;
    for (versions, expected, exit) in [
        ("schema_version = 2", "advice", 0),
        ("schema_version = 99, worker_version_min = 99", "problem", 7),
        ("schema_version = 99, worker_version_min = 1", "ok", 0),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(format!("update store set {versions}"))).execute(&mut conn).await.unwrap();
        let (findings, exited) = doctor(&place, &[]);
        assert_eq!((level(&findings, "schema"), exited), (expected, exit), "{versions}: {findings:?}");
        // Only where the version will do is the work looked at.
        assert_eq!(findings.contains_key("workers"), expected == "ok");
        let kept: i64 = sqlx::query_scalar("select schema_version from store").fetch_one(&mut conn).await.unwrap();
        assert!(versions.starts_with(&format!("schema_version = {kept}")), "{kept}");
    }
    sqlx::query("pragma application_id = 7").execute(&mut conn).await.unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((level(&findings, "schema"), exit), ("problem", 7));
    place.write("rows.db", "no database, but a text that is long enough to be looked at");
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(place.file(&format!("rows.db{ending}")));
    }
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((ill(&findings), exit), (vec!["reachable"], 7));
}

#[tokio::test]
async fn who_holds_the_write_lock_is_named() {
    let place = Place::new();
    place.ok(&["submit", "--rows", "3", "--store", "rows.db"]);
    let mut conn = open(&place).await;
    sqlx::query("begin immediate").execute(&mut conn).await.unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((ill(&findings), exit), (vec!["workers", "write_lock"], 7), "{findings:?}");
    let this = format!("by process {};", std::process::id());
    assert!(found(&findings, "write_lock").contains(&this), "{findings:?}");
    assert!(findings["write_lock"]["do"].as_str().unwrap().contains("kill -CONT"));
    // The one who looks did not disturb the one who writes.
    sqlx::query("update store set last_token = last_token").execute(&mut conn).await.unwrap();
    sqlx::query("commit").execute(&mut conn).await.unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((level(&findings, "write_lock"), exit), ("ok", 0));
}

#[tokio::test]
async fn a_journal_mode_that_somebody_changed_is_a_problem() {
    let place = Place::new();
    place.ok(&["submit", "--rows", "3", "--store", "rows.db"]);
    let mut conn = open(&place).await;
    sqlx::query("pragma journal_mode = delete").execute(&mut conn).await.unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((found(&findings, "journal_mode").split(':').next(), exit), (Some("delete"), 7), "{findings:?}");
}

#[test]
fn a_killed_worker_is_told_of_until_another_has_its_rows() {
    let place = Place::new();
    let batch = place.json(&["submit", "--rows", "3", "--op", "a b", "--store", "rows.db", "--json"])["batch"].clone();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((ill(&findings), exit), (vec!["workers"], 0), "{findings:?}");
    let worker = |operation: &str| {
        let arguments = ["worker", "--store", "rows.db", "--op", operation, "--sleep", "1h", "--quiet"];
        let mut command = place.command(&arguments, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a worker starts")
    };
    let until_live = |count: &str| {
        let began = Instant::now();
        loop {
            let (findings, _) = doctor(&place, &[]);
            if found(&findings, "workers") == count {
                return findings;
            }
            assert!(began.elapsed() < LIMIT, "{findings:?}");
        }
    };
    // It has a handler for another operation.
    let mut other = worker("other");
    let findings = until_live("1 live");
    assert_eq!(ill(&findings), ["operation"]);
    assert!(found(&findings, "operation").starts_with(batch.as_str().unwrap()), "{findings:?}");
    assert_eq!(findings["operation"]["do"], "fencepost worker --store rows.db --op 'a b' -- CMD");
    other.kill().unwrap();
    other.wait().unwrap();

    let mut first = worker("a b");
    until_live("1 live");
    kill(Pid::from_raw(i32::try_from(first.id()).unwrap()), Signal::SIGKILL).unwrap();
    first.wait().unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((ill(&findings), exit), (vec!["recovery", "workers"], 0), "{findings:?}");
    assert!(found(&findings, "recovery").contains("dead, holding "), "{findings:?}");
    let mut second = worker("other");
    until_live("1 live");
    let (findings, _) = doctor(&place, &[]);
    assert!(!ill(&findings).contains(&"recovery"), "{findings:?}");
    second.kill().unwrap();
    second.wait().unwrap();
}

#[tokio::test]
async fn held_batches_and_what_was_cut_off_are_told_of() {
    let place = Place::new();
    let batch = place.json(&["submit", "--rows", "3", "--store", "rows.db", "--json"])["batch"].clone();
    let mut conn = open(&place).await;
    sqlx::query("update batches set held = 1").execute(&mut conn).await.unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((ill(&findings), exit), (vec!["held"], 0), "{findings:?}");
    assert!(found(&findings, "held").contains(batch.as_str().unwrap()));
    sqlx::query(
        "update batches set held = 0, status = 'loading', loaded_at = created_at - 61000000, created_at = loaded_at",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let append = "insert into appends (append, batch, first_line, status, created_at, moved_at)
                  select 1, batch, 4, 'loading', created_at, created_at - ?1 from batches";
    sqlx::query(append).bind(61_000_000).execute(&mut conn).await.unwrap();
    let (findings, exit) = doctor(&place, &[]);
    assert_eq!((ill(&findings), exit), (vec!["append", "load"], 0), "{findings:?}");
}

#[test]
fn a_store_and_a_redis_that_are_not_there_are_both_told_of_without_passwords() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let store = format!("postgres://u:secret1@127.0.0.1:{port}/rows");
    let redis = format!("redis://u:secret2@127.0.0.1:{port}");
    for form in [&["doctor"][..], &["doctor", "--json"]] {
        let output = place.run(&[form, &["--store", &store, "--redis", &redis]].concat());
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert_eq!(code(&output), 7, "{said}");
        assert!(!said.contains("secret"), "{said}");
        assert!(said.contains("connection refused at 127.0.0.1") && said.contains("redis://u:***@127.0.0.1"), "{said}");
        assert!(said.contains("start it, or mend --redis"), "{said}");
        assert_eq!(said.matches("problem").count(), 3, "{said}");
    }
}
