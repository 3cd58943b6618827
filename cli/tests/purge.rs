//! `fencepost purge`, as scripts see it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use self::support::place::{FAILS_TWO, Place, ROWS, code, stderr};

mod support {
    pub mod place;
}

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn batches(place: &Place) -> usize {
    place.json(&["list", "--json"])["batches"].as_array().unwrap().len()
}

/// Two batches that ended, one that is open.
fn place_with_batches() -> Place {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    place.ok(&["submit", &file, "--key", "k"]);
    place.ok(&["worker", "--until-done", "--sleep", "0s", "--quiet"]);
    place.run(&[&["run", &file, "-o", "out.jsonl"][..], &FAILS_TWO].concat());
    place.ok(&["submit", "--rows", "5"]);
    place
}

#[test]
fn a_dry_run_says_what_would_be_removed_and_removes_nothing() {
    let place = place_with_batches();
    let text = place.ok(&["purge", "--older-than", "0s", "--dry-run"]);
    assert!(text.starts_with("This removes 2 batches with 6 rows, which ended from "), "{text}");
    assert!(text.ends_with("Nothing was done: --dry-run.\n"), "{text}");
    let value = place.json(&["purge", "--older-than", "0s", "--dry-run", "--json"]);
    assert_eq!((&value["dry_run"], &value["batches"], &value["rows"]), (&json!(true), &json!(2), &json!(6)));
    assert!(value["oldest_us"].as_i64().unwrap() <= value["newest_us"].as_i64().unwrap(), "{value}");
    let young = place.ok(&["purge", "--older-than", "30d", "--dry-run"]);
    assert!(young.starts_with("No batch ended before "), "{young}");
    assert_eq!(batches(&place), 3);
}

#[test]
fn nothing_is_removed_where_nobody_says_yes() {
    let place = place_with_batches();
    let asked = place.run(&["purge", "--older-than", "0s"]);
    assert_eq!(code(&asked), 2);
    let said = stderr(&asked);
    assert!(said.contains("This removes 2 batches with 6 rows") && said.contains("--yes"), "{said}");
    let without_age = place.run(&["purge", "--yes"]);
    assert_eq!(code(&without_age), 2);
    assert_eq!(code(&place.run(&["purge", "--yes", "--older-than", "soon"])), 2);
    // Neither file nor variable says yes.
    place.write("fencepost.toml", "yes = true\n");
    assert_eq!(code(&place.run(&["purge", "--older-than", "0s"])), 2);
    place.write("fencepost.toml", "");
    assert_eq!(batches(&place), 3);
}

#[test]
fn what_ended_is_removed_and_a_submit_of_it_is_new() {
    let place = place_with_batches();
    let done = place.run(&["purge", "--older-than", "0s", "--yes"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let said = stdout(&done);
    assert!(said.starts_with("Removed 2 batches with 6 rows"), "{said}");
    assert!(said.contains("vacuum"), "{said}");
    assert_eq!(batches(&place), 1);
    let again = place.ok(&["purge", "--older-than", "0s", "--quiet"]);
    assert_eq!(again, "Removed 0 batches with 0 rows.\n");
    let file = place.file("rows.csv");
    let new = place.json(&["submit", file.to_str().unwrap(), "--key", "k", "--json"]);
    assert_eq!(new["new"], json!(true));
    let value = place.json(&["purge", "--older-than", "0s", "--yes", "--json", "--quiet"]);
    let expected = json!({
        "schema_version": 1, "dry_run": false, "ended_before_us": value["ended_before_us"], "oldest_us": null,
        "newest_us": null, "batches": 0, "rows": 0, "loads": 0, "appends": 0, "leases": 0, "left": [],
    });
    assert_eq!(value, expected);
}

/// Takes the write lock between two slices of a purge, and lets go of it after this.
fn stand_still_between_slices(place: &Place, act: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = place.file("state/fencepost/fencepost.db");
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::ZERO);
        let mut conn = options.connect().await.unwrap();
        loop {
            if sqlx::raw_sql("begin immediate").execute(&mut conn).await.is_err() {
                continue;
            }
            let sql = "select count(*) from purges where gone_to > 0";
            let between: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
            if between > 0 {
                break;
            }
            sqlx::raw_sql("rollback").execute(&mut conn).await.unwrap();
        }
        act();
        sqlx::raw_sql("rollback").execute(&mut conn).await.unwrap();
    });
}

/// Killed in the middle: nothing half is seen, and the next one ends it.
#[test]
fn a_purge_that_is_killed_is_gone_on_with() {
    const ROWS: u64 = 20_000;
    let place = Place::new();
    let rows = ROWS.to_string();
    let batch = place.json(&["submit", "--rows", &rows, "--json"])["batch"].as_str().unwrap().to_owned();
    place.ok(&["worker", "--until-done", "--sleep", "0s", "--concurrency", "500", "--quiet"]);
    let mut child = place
        .command(&["purge", "--older-than", "0s", "--yes"], &[])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It says what it removes before it begins; then it is killed once the batch is hidden.
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("This removes 1 batch with 20000 rows"), "{said}");
    stand_still_between_slices(&place, || {
        child.kill().unwrap();
        child.wait().unwrap();
    });
    assert_eq!(code(&place.run(&["status", &batch])), 4, "it is gone for everybody");
    let left: Value = place.json(&["purge", "--older-than", "0s", "--dry-run", "--json"]);
    assert_eq!(left["batches"], json!(1), "{left}");
    let rows = left["rows"].as_u64().unwrap();
    assert!(0 < rows && rows < ROWS, "{left}");
    let text = place.ok(&["purge", "--older-than", "0s", "--dry-run"]);
    assert!(text.contains(&format!("A purge before this one did not end: {rows} rows of 1 batch are left.")), "{text}");
    let ended = place.ok(&["purge", "--older-than", "0s", "--yes", "--quiet"]);
    assert!(ended.starts_with(&format!("Removed 1 batch with {rows} rows")), "{ended}");
    assert_eq!(place.json(&["purge", "--older-than", "0s", "--dry-run", "--json"])["batches"], json!(0));
}
