//! The commands as scripts see them: output, exit codes, errors.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use self::support::place::{FAILS_TWO, Place, ROWS, code, stderr};

mod support {
    pub mod place;
}

fn run_with(place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    place.command(arguments, environment).output().expect("fencepost starts")
}

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
        "stopping": 0,
        "fenced": 0,
        "calls": [],
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
    let nameless = place.write("rows", "\"name\"\n\"one\"\n");
    let fifo = place.file("pipe.csv").to_str().expect("UTF-8").to_owned();
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for (arguments, exit, says) in [
        (&["run", "missing.csv", "--", "true"][..], 8, "missing.csv"),
        (&["run", &file, "--", "no-such-command"], 2, "no-such-command"),
        (&["run", &file], 2, "nothing to run"),
        (&["run", &file, "--ttl", "10s", "--renew", "6s", "--", "true"], 2, "renew at least twice per ttl"),
        (&["run", &file, "--ttl", "soon", "--", "true"], 2, "30s"),
        (&["status", "zzzzzzzz"], 7, "fencepost.db"),
        (&["submit"], 2, "FILE"),
        (&["run", &file, "--", "echo", "{nope}"], 2, "name, n"),
        (&["run", &file, "-o", "no/such/folder/out.jsonl", "--", "true"], 2, "no/such/folder"),
        (&["run", &file, "-o", ".", "--", "true"], 2, "-o"),
        (&["run", &file, "--renew", "1ns", "--", "true"], 2, "1ms"),
        (&["run", &file, "--scan", "1ns", "--", "true"], 2, "1ms"),
        (&["run", &file, "--timeout", "0s", "--", "true"], 2, "1ms"),
        (&["wait", "abcdefgh", "--timeout", "0s"], 2, "fencepost status BATCH"),
        (&["run", &file, "--ttl", "1y", "--", "true"], 2, "this is no duration"),
        (&["run", &fifo, "--", "true"], 2, "no regular file"),
        (&["run", "-", "--", "true"], 2, "stdin"),
        (&["run", &nameless, "--", "true"], 8, "--input-format"),
        (&["submit", &file, "--op", ""], 2, "empty"),
        (&["submit", &file, "--key", "a\nb"], 2, "control characters"),
        (&["submit", &file, "--op", "run:abc"], 2, "run:"),
        (&["submit", &file, "--key", "run:abc"], 2, "run:"),
        (&["submit", &file, "--op", &"x".repeat(201)], 2, "at most 200 bytes"),
        (&["worker", "--op", "", "--sleep", "0s"], 2, "empty"),
        (&["worker", "--name", "\u{1b}[2J", "--sleep", "0s"], 2, "control characters"),
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
        let output = run_with(&place, &all, environment);
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

#[test]
fn an_operation_may_have_a_comma_and_a_run_takes_no_other_rows() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    place.ok(&["submit", &file, "--op", "a,b", "--key", "comma"]);
    place.ok(&["submit", &file, "--key", "plain"]);
    place.ok(&["run", &file, "--key", "x,default", "-o", "out.jsonl", "--", "true"]);
    let queued = |key: &str| {
        let list = place.json(&["list", "--json"]);
        let batches = list["batches"].as_array().expect("a list");
        let batch = batches.iter().find(|batch| batch["key"] == key).expect("it is there");
        batch["counts"]["queued"].as_u64().expect("a number")
    };
    assert_eq!((queued("comma"), queued("plain")), (3, 3), "the run has its own rows only");
    place.ok(&["worker", "--op", "a,b", "--until-done", "--quiet", "--sleep", "0s"]);
    assert_eq!((queued("comma"), queued("plain")), (0, 3), "the comma is part of the name");
    place.write("fencepost.toml", "[worker]\nop = [\"a,b\", \"default\"]\n");
    place.ok(&["worker", "--until-done", "--quiet", "--sleep", "0s"]);
    assert_eq!(queued("plain"), 0, "a list in the file names several");
    place.ok(&["submit", &file, "--op", "c", "--key", "third"]);
    place.ok(&["worker", "--op", "b", "--op", "c", "--until-done", "--quiet", "--sleep", "0s"]);
    assert_eq!(queued("third"), 0, "so do several flags");
}

#[test]
fn results_overwrite_neither_the_store_nor_the_input() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    std::os::unix::fs::symlink("rows.csv", place.file("link.csv")).expect("a link");
    std::fs::hard_link(place.file("rows.csv"), place.file("hard.csv")).expect("a link");
    let refused = |output: &str| {
        let run = place.run(&["run", &file, "--store", "rows.db", "-o", output, "--", "true"]);
        assert_eq!(code(&run), 2, "{output}: {}", stderr(&run));
        assert!(stderr(&run).contains("would overwrite it"), "{output}: {}", stderr(&run));
    };
    let store_files = ["rows.db", "./rows.db-wal", "rows.db-shm", "rows.db-turn", "rows.db-journal"];
    let outputs = [&store_files[..], &["rows.csv", "./rows.csv", "link.csv", "hard.csv"]].concat();
    outputs.iter().for_each(|output| refused(output));
    assert!(!place.file("rows.db").exists(), "found before the store was made");
    assert_eq!(std::fs::read_to_string(&file).expect("the input"), ROWS);
    let batch = place.json(&["submit", "rows.csv", "--store", "rows.db", "--json"])["batch"].clone();
    outputs.iter().for_each(|output| refused(output));
    for output in outputs {
        let results = place.run(&["results", batch.as_str().expect("id"), "--store", "rows.db", "-o", output]);
        assert_eq!(code(&results), 2, "{output}: {}", stderr(&results));
    }
    let input = std::fs::OpenOptions::new().append(true).open(&file).expect("the input");
    let run = place.command(&["run", &file, "--", "true"], &[]).stdout(input).output().expect("fencepost starts");
    assert_eq!(code(&run), 2, "{}", stderr(&run));
}

#[test]
fn the_key_of_a_run_is_bound_to_its_content_and_options() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let other = place.write("other.csv", "name,n\nten,10\n");
    let run = |file: &str, options: &[&str]| {
        place.run(&[&["run", file, "--key", "k"], options, &["--", "echo", "{name}"]].concat())
    };
    let first = run(&file, &[]);
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    let differs = run(&other, &[]);
    assert_eq!(code(&differs), 8, "{}", stderr(&differs));
    assert!(differs.stdout.is_empty() && stderr(&differs).contains("has other content"), "{}", stderr(&differs));
    for option in [["--max-attempts", "5"], ["--max-crashes", "5"], ["--timeout", "5s"]] {
        let differs = run(&file, &option);
        assert_eq!(code(&differs), 2, "{}", stderr(&differs));
        assert!(stderr(&differs).contains(option[0]), "{}", stderr(&differs));
    }
    assert_eq!(run(&file, &["--timeout", "60m"]).stdout, first.stdout, "the same options go on");
    assert_eq!(code(&run(&other, &["--again"])), 0, "to start over is to start over");
    assert_eq!(code(&run(&other, &[])), 0, "and is gone on with");
}

#[test]
fn keys_of_runs_and_of_submits_do_not_meet() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let other = place.write("other.csv", "name,n\nten,10\n");
    for key in ["k", "k~2", "k:2", "1:k:2"] {
        place.ok(&["submit", &other, "--key", key, "--op", "idle"]);
    }
    let run = |key: &str, more: &[&str]| {
        let output = place.run(&[&["run", &file, "--key", key, "-o", "out.jsonl"], more, &["--", "true"]].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stderr(&output)
    };
    run("k", &[]);
    run("k", &["--again"]);
    assert!(!run("k~2", &[]).contains("was run before"));
    assert!(!run("k:2", &[]).contains("was run before"));
}

#[test]
fn what_cannot_be_written_stops_nothing() {
    let place = Place::new();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there is one");
    let submit = ["submit", "--rows", "3", "--op", "idle"];
    let mute = place.command(&submit, &[]).stderr(full()).output().expect("fencepost starts");
    assert_eq!(code(&mute), 0, "the rows are in, who cares for hints");
    let file = place.write("rows.csv", ROWS);
    let run = place.command(&["run", &file, "--", "true"], &[]).stderr(full()).output().expect("fencepost starts");
    assert_eq!((code(&run), run.stdout.iter().filter(|byte| **byte == b'\n').count()), (0, 3));
    let untold = place.command(&submit, &[]).stdout(full()).output().expect("fencepost starts");
    assert_eq!(code(&untold), 1, "{}", stderr(&untold));
    let batch = place.json(&["list", "--json"])["batches"][0]["id"].as_str().expect("id").to_owned();
    assert!(stderr(&untold).contains(&batch), "the batch is named: {}", stderr(&untold));
}

#[test]
fn empty_variables_are_no_variables() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let empty: Vec<(&str, &str)> =
        ["STORE", "KEY", "OP", "QUIET", "CONFIG", "MAX_ATTEMPTS", "PRIORITY", "INPUT_FORMAT"]
            .iter()
            .map(|name| (&*String::leak(format!("FENCEPOST_{name}")), ""))
            .collect();
    for _ in 0..2 {
        let output = run_with(&place, &["submit", &file, "--json"], &empty);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    assert_eq!(place.json(&["list", "--json"])["batches"].as_array().expect("a list").len(), 2, "no key binds them");
    let homeless = [("HOME", ""), ("XDG_STATE_HOME", ""), ("XDG_CONFIG_HOME", "")];
    let output = run_with(&place, &["list"], &homeless);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    for (value, hints) in [("yes", false), ("1", false), ("true", false), ("no", true), ("0", true), ("false", true)] {
        let output = run_with(&place, &["submit", &file], &[("FENCEPOST_QUIET", value)]);
        assert_eq!((code(&output), stderr(&output).contains("Next steps")), (0, hints), "{value}: {}", stderr(&output));
    }
}

#[test]
fn a_mistake_in_the_file_is_told_with_the_file() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    for (text, says) in [
        ("ttl = \"soon\"", "this is no duration"),
        ("[worker]\nlog = \"loud\"", "possible values"),
        ("op = [\"a\", \"b\"]", "one value"),
        ("quiet = \"perhaps\"", "true or false"),
        ("sleep = \"1s\"", "belongs on a command line"),
        ("[run]\nkey = \"k\"", "belongs on a command line"),
        ("[worker]\nname = \"w\"", "belongs on a command line"),
        ("output = \"out.jsonl\"", "belongs on a command line"),
        ("store = 5", "a text"),
        ("store = true", "a text"),
        ("[worker]\nop = [\"a\", 5]", "a text"),
    ] {
        place.write("fencepost.toml", text);
        let output = place.run(&["run", &file, "--", "true"]);
        assert_eq!(code(&output), 2, "{text}: {}", stderr(&output));
        assert!(stderr(&output).contains("fencepost.toml"), "{text}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{text}: {}", stderr(&output));
    }
    place.write("fencepost.toml", "quiet = true\nttl = \"10s\"\n[run]\nworkers = 1\n");
    let output = place.run(&["run", &file, "--", "true"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[test]
fn passwords_in_the_file_are_shown_nowhere() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let secrets = "store = \"postgres://u:sesame@127.0.0.1:1/d\"\nredis = \"redis://:sesame@127.0.0.1:1\"\n";
    place.write("fencepost.toml", &format!("{secrets}ttl = \"10s\"\n"));
    for command in ["worker", "run", "status", "doctor", "demo"] {
        let help = place.ok(&[command, "--help"]);
        assert!(!help.contains("sesame") && !help.contains("127.0.0.1"), "{help}");
        assert!(command != "worker" || help.contains("[default: 10s]"), "others are: {help}");
    }
    let output = place.run(&["list"]);
    assert!(code(&output) == 7 && !stderr(&output).contains("sesame"), "{}", stderr(&output));
    for (broken, place_of_it) in [
        ("# a b\nstore = postgres://u:sesame@h/d\n", "(line 2, column 9)"),
        ("store = \"postgres://u:sesame@h/d\n", "(line 1, column "),
        ("redis = \"redis://:sesame@h\" x\n", "(line 1, column "),
        ("redis = \"a\"\nredis = \"redis://:sesame@h\"\n", "(line 2, column 1)"),
        ("redis = 'sesame\\x", "(line 1, column "),
        ("redis = \"\\sesame\"", "(line 1, column "),
    ] {
        place.write("fencepost.toml", broken);
        let output = place.run(&["run", &file, "--", "true"]);
        let said = stderr(&output);
        assert_eq!(code(&output), 2, "{said}");
        assert!(said.contains("fencepost.toml is not TOML") && said.contains(place_of_it), "{broken}: {said}");
        assert!(!said.contains("sesame"), "{broken}: {said}");
    }
}

#[test]
fn certificates_that_cannot_be_read_are_told_before_anything_is_made() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let redis = ["--store", "rows.db", "--redis", "rediss://h?ca=/nowhere.pem", "--sleep", "0s"];
    for command in [&["run", &file][..], &["worker", "--until-done"]] {
        let output = place.run(&[command, &redis].concat());
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains("cannot read the certificates in /nowhere.pem"), "{}", stderr(&output));
        assert!(!place.file("rows.db").exists());
    }
}

#[test]
fn a_hint_repeats_a_store_that_was_typed_and_no_other() {
    let place = Place::new();
    place.ok(&["submit", "--rows", "1", "--store", "rows.db"]);
    place.write("fencepost.toml", "store = \"rows.db\"\n");
    let hint = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = run_with(&place, &[&["status", "nobatch"], arguments].concat(), environment);
        stderr(&output).contains("--store rows.db")
    };
    assert!(hint(&["--store", "rows.db"], &[]));
    assert!(!hint(&[], &[]), "the file says it to the next command, too");
    std::fs::remove_file(place.file("fencepost.toml")).expect("it was there");
    assert!(!hint(&[], &[("FENCEPOST_STORE", "rows.db")]), "so does the environment");
    assert!(hint(&["--store", "rows.db"], &[("FENCEPOST_STORE", "other.db")]));
}

#[test]
fn a_mistake_in_a_variable_is_told_with_the_variable() {
    let place = Place::new();
    let tip = "the value comes from the variable FENCEPOST_CONCURRENCY";
    let worker = |value: &str, flags: &[&str]| {
        let all = [&["worker", "--until-done", "--sleep", "0s"], flags].concat();
        let output = run_with(&place, &all, &[("FENCEPOST_CONCURRENCY", value)]);
        (code(&output), stderr(&output).contains(tip))
    };
    assert_eq!(worker("x", &[]), (2, true));
    assert_eq!(worker("0", &[]), (2, true), "out of range");
    assert_eq!(worker("x", &["--concurrency", "x"]), (2, false), "the flag is wrong, too, and it counts");
    assert_eq!(worker("x", &["--concurrency=x"]), (2, false));
    assert_eq!(worker("x", &["--concurrency", "2"]), (0, false));
    let quiet = run_with(&place, &["list"], &[("FENCEPOST_QUIET", "perhaps")]);
    assert!(code(&quiet) == 2 && stderr(&quiet).contains("variable FENCEPOST_QUIET"), "{}", stderr(&quiet));
}

#[test]
fn the_workers_of_a_run_are_told_by_the_run_alone() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    // Both workers would take this name, and the second would not start.
    let environment = [
        ("FENCEPOST_NAME", "x"),
        ("FENCEPOST_LOG", "nonsense"),
        ("FENCEPOST_STORE", "rows.db"),
        ("FENCEPOST_REDIS", "redis://127.0.0.1:1"),
        ("OTHER", "seen"),
    ];
    // The first row breaks the configuration file, and its worker.
    let script = "test -e once || { touch once; echo 'nonsense = 1' >fencepost.toml; kill -9 $PPID; }; echo $OTHER$FENCEPOST_STORE$FENCEPOST_REDIS";
    place.write("fencepost.toml", "ttl = \"5s\"\n");
    let output = run_with(&place, &["run", &file, "--", "sh", "-c", script], &environment);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let results = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = results.matches("\"result\":\"seen\"").count();
    assert_eq!(seen, 3, "rows see the environment, but for names with passwords in them: {results}");
}

#[test]
fn the_smallest_durations_do() {
    let place = Place::new();
    let file = place.write("rows.csv", ROWS);
    let output =
        place.run(&["run", &file, "--horizon", "0s", "--grace", "1ns", "--sleep", "1ns", "--renew", "1ms500ns"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn tab_separated_values_are_read_and_written() {
    let place = Place::new();
    let file = place.write("rows.txt", "name\tn\none\t1\n");
    let run = ["run", &file, "--input-format", "tsv", "--format", "tsv", "--workers", "1", "--", "echo", "{n}"];
    let output = place.run(&run);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("name\tn\tfencepost_line") && text.contains("one\t1\t1\tsuccess\t1"), "{text}");
}

#[test]
fn a_row_s_story_has_all_of_its_error() {
    let place = Place::new();
    let file = place.write("rows.csv", "name\none\n");
    let script = "printf 'first\\nsec\\033[2Jond\\nthird\\n' >&2; exit 65";
    assert_eq!(code(&place.run(&["run", &file, "-o", "out.jsonl", "--", "sh", "-c", script])), 3);
    let batch = place.json(&["list", "--json"])["batches"][0]["id"].as_str().expect("id").to_owned();
    let story = place.ok(&["rows", &batch, "--line", "1"]);
    assert!(["first", "ond", "third"].iter().all(|line| story.contains(line)), "{story}");
    assert!(!story.contains('\u{1b}'), "{story:?}");
}

#[test]
fn reports_escape_control_characters() {
    let place = Place::new();
    let name = "rows\u{1b}[2J\n.csv";
    let file = place.write(name, ROWS);
    place.ok(&["submit", &file]);
    let list = place.ok(&["list"]);
    assert!(!list.contains('\u{1b}') && list.contains("\\u{1b}[2J\\n"), "{list:?}");
    assert_eq!(list.lines().count(), 2, "{list}");
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let place = Place::new();
    let bash = place.ok(&["completions", "bash"]);
    assert!(bash.contains("complete -F") && bash.contains("--max-attempts"), "{bash}");
    assert_eq!(code(&place.run(&["completions", "tea"])), 2);
    let page = place.ok(&["man"]);
    assert!(page.contains(".TH fencepost 1") && page.contains("Exit codes"), "{page}");
    let page = place.ok(&["man", "run"]);
    assert!(page.contains("max\\-attempts") && page.contains("\\-\\-store"), "{page}");
    assert_eq!(code(&place.run(&["man", "tea"])), 2);
}
