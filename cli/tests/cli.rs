//! The commands as scripts see them: output, exit codes, errors.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.file(name), text).expect("it can be written");
        self.file(name).to_str().expect("UTF-8").to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencepost"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FENCEPOST_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.file("config")).env("XDG_STATE_HOME", self.file("state"));
        command.envs(environment.iter().copied()).current_dir(self.0.path());
        command.args(arguments).stdin(Stdio::null()).output().expect("fencepost starts")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("JSON")
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const ROWS: &str = "name,n\none,1\ntwo,2\nthree,3\n";
/// Succeeds, except for the row `two`.
const FAILS_TWO: [&str; 6] = ["--", "sh", "-c", "test $0 != two || { echo no two >&2; exit 65; }; echo $1", "{name}", "{n}"];

#[test]
fn a_run_gives_results_in_order_and_a_repeat_gives_them_again() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let run = ["run", &file, "--concurrency", "3", "--", "echo", "{name}"];
    let first = place.run(&run);
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    let lines: Vec<Value> =
        String::from_utf8_lossy(&first.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let results: Vec<_> = lines.iter().map(|line| (line["line"].clone(), line["result"].clone())).collect();
    assert_eq!(results, [(json!(1), json!("one")), (json!(2), json!("two")), (json!(3), json!("three"))]);
    let again = place.run(&run);
    assert_eq!((code(&again), &again.stdout), (0, &first.stdout));
    assert!(stderr(&again).contains("was run before"), "{}", stderr(&again));
    let over = place.run(&[&run[..4], &["--again"], &run[4..]].concat());
    assert_eq!(code(&over), 0, "{}", stderr(&over));
    assert_eq!(place.json(&["list", "--json"])["batches"].as_array().expect("a list").len(), 2);
}

#[test]
fn failed_rows_are_told_by_the_exit_code_and_can_be_mended() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let run = place.run(&[&["run", &file, "-o", "out.jsonl"][..], &FAILS_TWO].concat());
    assert_eq!(code(&run), 3, "{}", stderr(&run));
    assert!(run.stdout.is_empty(), "results go to the file");
    let batch = place.json(&["list", "--json"])["batches"][0]["id"].as_str().expect("id").to_owned();
    let failed = place.ok(&["results", &batch[..4], "--failed", "--format", "csv"]);
    assert_eq!(failed, "name,n,error\ntwo,2,\"exit code 65\nno two\"\n");
}

#[test]
fn submit_says_what_it_did_and_a_key_makes_it_repeatable() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let first = place.json(&["submit", &file, "--key", "k", "--json"]);
    assert_eq!((&first["schema_version"], &first["rows"], &first["new"]), (&json!(1), &json!(3), &json!(true)));
    let again = place.json(&["submit", &file, "--key", "k", "--json"]);
    assert_eq!((&again["batch"], &again["new"]), (&first["batch"], &json!(false)));
    let other = place.write("other.csv", "name,n\nten,10\n");
    let differs = place.run(&["submit", &other, "--key", "k"]);
    assert_eq!(code(&differs), 8);
    assert!(stderr(&differs).contains("has other content"), "{}", stderr(&differs));
    assert_eq!(place.json(&["list", "--json"])["batches"].as_array().expect("a list").len(), 1);
}

#[test]
fn status_json_has_its_documented_form() {
    let place = Place::new();
    let batch = place.json(&["submit", "--rows", "7", "--key", "seven", "--json"])["batch"].clone();
    let id = batch.as_str().expect("id");
    let status = place.json(&["status", id, "--json"]);
    let expected = json!({
        "schema_version": 1,
        "batch": {"id": id, "key": "seven", "op": "default", "status": "open", "rows": 7},
        "counts": {"queued": 7, "inprog": 0, "success": 0, "failed": 0, "aborted": 0},
        "workers": [],
        "fenced": 0,
    });
    assert_eq!(status, expected);
    place.ok(&["worker", "--until-done", "--sleep", "0s", "--quiet"]);
    let status = place.json(&["status", id, "--json"]);
    assert_eq!((&status["counts"]["success"], &status["batch"]["status"]), (&json!(7), &json!("success")));
}

#[test]
fn a_line_of_results_has_its_documented_form() {
    let place = Place::new();
    let file = place.write("one.jsonl", "{\"big\":12345678901234567890.10}\n");
    let run = place.run(&["run", &file, "--workers", "1", "--", "cat"]);
    let line = String::from_utf8_lossy(&run.stdout).into_owned();
    let worker = serde_json::from_str::<Value>(&line).expect("JSON")["worker"].clone();
    let expected = format!(
        "{{\"line\":1,\"status\":\"success\",\"result\":{{\"big\":12345678901234567890.10}},\"error\":null,\
         \"attempts\":1,\"crashes\":0,\"worker\":{worker},\"token\":1}}\n"
    );
    assert_eq!(line, expected, "the row's own bytes come back");
}

#[test]
fn wait_tells_how_a_batch_ended() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let batch = place.json(&["submit", &file, "--json"])["batch"].as_str().expect("id").to_owned();
    let early = place.run(&["wait", &batch, "--timeout", "100ms"]);
    assert_eq!(code(&early), 6, "{}", stderr(&early));
    place.run(&[&["worker", "--until-done", "--quiet"][..], &FAILS_TWO].concat());
    assert_eq!(code(&place.run(&["wait", &batch])), 3);
}

#[test]
fn an_empty_batch_ends_at_once() {
    let place = Place::new();
    let batch = place.json(&["submit", "--rows", "0", "--json"])["batch"].as_str().expect("id").to_owned();
    assert_eq!(code(&place.run(&["wait", &batch, "--timeout", "10s"])), 0);
}

#[test]
fn what_is_wrong_is_found_before_anything_is_done() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    for (arguments, exit, says) in [
        (&["run", "missing.csv", "--", "true"][..], 8, "missing.csv"),
        (&["run", &file, "--", "no-such-command"], 2, "no-such-command"),
        (&["run", &file], 2, "nothing to run"),
        (&["run", &file, "--ttl", "10s", "--renew", "6s", "--", "true"], 2, "renew at least twice per ttl"),
        (&["run", &file, "--ttl", "soon", "--", "true"], 2, "30s"),
        (&["status", "zzzzzzzz"], 7, "fencepost.db"),
        (&["submit"], 2, "FILE"),
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
        assert!(!place.file("state/fencepost/fencepost.db").exists(), "{arguments:?} made a store");
    }
    place.ok(&["submit", &file]);
    let unknown = place.run(&["status", "zzzzzzzz"]);
    assert_eq!(code(&unknown), 4, "{}", stderr(&unknown));
    let json = place.run(&["status", "zzzzzzzz", "--json"]);
    let error: Value = serde_json::from_str(&stderr(&json)).expect("errors are JSON, too");
    assert_eq!(error["code"], 4);
}

#[test]
fn a_failed_submit_leaves_nothing_to_claim() {
    let place = Place::new();
    let file = place.write("broken.csv", "a,b\n1,2\n3\n");
    let output = place.run(&["submit", &file]);
    assert_eq!(code(&output), 8, "{}", stderr(&output));
    assert_eq!(place.json(&["list", "--json"])["batches"], json!([]));
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let place = Place::new();
    let rows = |environment: &[(&str, &str)], arguments: &[&str]| {
        let all = [&["worker", "--until-done", "--sleep", "0s"], arguments].concat();
        let output = place.run_with(&all, environment);
        stderr(&output)
    };
    assert!(rows(&[], &[]).contains("Worker started"), "text is the default");
    place.write("fencepost.toml", "[worker]\nlog = \"json\"\n");
    assert!(rows(&[], &[]).contains("\"event\""), "the file's");
    let quiet = rows(&[("FENCEPOST_LOG", "quiet")], &[]);
    assert!(quiet.is_empty(), "the variable's: {quiet}");
    assert!(rows(&[("FENCEPOST_LOG", "quiet")], &["--log", "text"]).contains("Worker started"), "the flag's");
    place.write("fencepost.toml", "[worker]\nlgo = \"json\"\n");
    assert!(rows(&[], &[]).contains("lgo"), "a mistake is named");
}

#[test]
fn the_store_can_be_read_with_plain_sql() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    place.run(&[&["run", &file, "--store", "rows.db", "-o", "out.jsonl"][..], &FAILS_TWO].concat());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rows: Vec<(i64, String, Option<String>)> = runtime.block_on(read_status(&place.file("rows.db")));
    let statuses: Vec<_> = rows.iter().map(|(line, status, _)| (*line, status.as_str())).collect();
    assert_eq!(statuses, [(1, "success"), (2, "failed"), (3, "success")]);
    assert!(rows.iter().all(|(_, _, worker)| worker.is_some()));
}

async fn read_status(store: &Path) -> Vec<(i64, String, Option<String>)> {
    use sqlx::Connection;
    let mut conn = sqlx::SqliteConnection::connect(&format!("sqlite:{}", store.display())).await.expect("it opens");
    let sql = "select line, status, worker from row_status order by line";
    sqlx::query_as(sql).fetch_all(&mut conn).await.expect("the view works")
}
