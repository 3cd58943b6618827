//! An operator's verbs by the program itself, on an SQLite file: what each does, says and exits with, and that bad input leaves
//! everything as it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use self::support::place::{FAILS_TWO, Place, ROWS, code, stderr};

mod support {
    pub mod place;
}

impl Place {
    fn submit(&self, arguments: &[&str]) -> String {
        let answer = self.json(&[&["submit", "--json"], arguments].concat());
        answer["batch"].as_str().expect("an id").to_owned()
    }

    fn work(&self, command: &[&str]) {
        let worker = self.run(&[&["worker", "--until-done", "--quiet"], command].concat());
        assert_eq!(code(&worker), 0, "{}", stderr(&worker));
    }

    fn counts(&self, batch: &str) -> Value {
        self.json(&["status", batch, "--json"])["counts"].clone()
    }

    fn status(&self, batch: &str) -> Value {
        self.json(&["status", batch, "--json"])["batch"]["status"].clone()
    }

    /// Fails with this code and these words, and leaves the batch as it was.
    fn refuses(&self, batch: &str, exit: i32, arguments: &[&str], words: &[&str]) -> Output {
        let before = self.json(&["status", batch, "--json"]);
        let output = self.run(arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", stderr(&output));
        let said = stderr(&output);
        words.iter().for_each(|word| assert!(said.contains(word), "{arguments:?}: {said}"));
        assert_eq!(self.json(&["status", batch, "--json"]), before, "{arguments:?} changed something");
        output
    }

    /// Three rows, of which the second failed.
    fn with_a_failed_row() -> (Self, String) {
        let place = Self::new();
        place.write("rows.csv", ROWS);
        let batch = place.submit(&["rows.csv"]);
        place.work(&FAILS_TWO);
        (place, batch)
    }
}

fn row_counts(queued: u64, success: u64, failed: u64, aborted: u64) -> Value {
    json!({ "queued": queued, "inprog": 0, "success": success, "failed": failed, "aborted": aborted })
}

#[test]
fn a_held_batch_is_not_claimed_until_it_is_resumed() {
    let place = Place::new();
    let batch = place.submit(&["--rows", "3"]);
    let expected = json!({ "schema_version": 1, "batch": batch, "held": true, "new": true });
    assert_eq!(place.json(&["hold", &batch, "--json"]), expected);
    assert_eq!(place.json(&["hold", &batch, "--json"])["new"], false);
    assert_eq!(place.status(&batch), "held");
    // Of an operation of its own, so that the worker leaves at once.
    let other = place.submit(&["--rows", "1"]);
    let mut worker = place.command(&["worker", "--quiet", "--sleep", "0s"], &[]).spawn().expect("a worker");
    assert_eq!(code(&place.run(&["wait", &other, "--timeout", "60s"])), 0);
    assert_eq!(place.counts(&batch), row_counts(3, 0, 0, 0), "the worker took the other batch alone");
    assert!(place.ok(&["resume", &batch]).contains("is resumed"));
    assert_eq!(code(&place.run(&["wait", &batch, "--timeout", "60s"])), 0);
    worker.kill().expect("it runs");
    worker.wait().expect("it ends");
    assert_eq!(place.counts(&batch), row_counts(0, 3, 0, 0));
    place.refuses(&batch, 2, &["hold", &batch], &["has ended (success)", "cannot be held"]);
    place.refuses(&batch, 2, &["resume", &batch], &["has ended (success)", "cannot be resumed"]);
}

#[test]
fn a_batch_that_is_not_there_or_named_by_too_little_is_refused_by_every_verb() {
    let place = Place::new();
    let batch = place.submit(&["--rows", "1"]);
    (0..40).for_each(|_| drop(place.submit(&["--rows", "1"])));
    place.write("rows.csv", ROWS);
    let list = place.json(&["list", "--json"]);
    let ids: Vec<&str> = list["batches"].as_array().unwrap().iter().map(|of| of["id"].as_str().unwrap()).collect();
    let same = ids.iter().find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1);
    let beginning = &same.expect("of 41 ids two begin alike")[..1];
    let verbs: [&[&str]; 6] =
        [&["hold"], &["resume"], &["append"], &["abort", "--yes"], &["retry", "--yes"], &["errors"]];
    for verb in verbs {
        let file: &[&str] = if verb[0] == "append" { &["rows.csv"] } else { &[] };
        let none = [verb, &["zzzzzzzz"], file].concat();
        place.refuses(&batch, 4, &none, &["there is no batch", "fencepost list"]);
        place.refuses(&batch, 4, &[verb, &[beginning], file].concat(), &["names several batches", "type more"]);
    }
    let untouched = place.json(&["list", "--json"]);
    assert_eq!(untouched, list);
}

#[test]
fn rows_are_appended_once_under_a_key() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    place.write("more.csv", "n,name\n4,four\n5,five\n");
    place.write("other.csv", "n,name\n9,nine\n");
    place.write("wrong.csv", "n,title\n9,nine\n");
    place.write("header.csv", "n,name\n");
    place.write("nothing.csv", "");
    place.write("half.csv", "n,name\n6,six\n7\n");
    let batch = place.submit(&["rows.csv"]);
    let append = ["append", &batch, "more.csv", "--key", "k", "--json"];
    let expected = json!({ "schema_version": 1, "batch": batch, "rows": 2, "lines": [4, 5], "new": true });
    assert_eq!(place.json(&append), expected);
    let mut again = expected.clone();
    again["new"] = false.into();
    assert_eq!(place.json(&append), again);
    assert_eq!(place.counts(&batch), row_counts(5, 0, 0, 0));

    place.refuses(&batch, 8, &["append", &batch, "other.csv", "--key", "k"], &["\"k\"", "other rows", "another key"]);
    place.refuses(&batch, 8, &["append", &batch, "wrong.csv"], &["missing: \"name\"", "not in the batch: \"title\""]);
    place.refuses(&batch, 8, &["append", &batch, "header.csv"], &["header.csv"]);
    place.refuses(&batch, 8, &["append", &batch, "nothing.csv"], &["nothing.csv"]);
    place.refuses(&batch, 8, &["append", &batch, "half.csv"], &["half.csv", "line 3", "nothing was appended"]);
    place.refuses(&batch, 8, &["append", &batch, "absent.csv"], &["absent.csv"]);
    place.refuses(&batch, 8, &["append", &batch, "."], &["directory"]);
    place.refuses(&batch, 2, &["append", &batch], &["FILE"]);
    place.refuses(&batch, 2, &["append", &batch, "more.csv", "--rows", "3"], &["cannot be used with"]);
    // Nothing of what was refused is in the way of the next.
    assert!(place.ok(&["append", &batch, "other.csv"]).contains("1 row appended"), "lines 6 to 6");

    // From standard input; numbered rows: to a batch without columns.
    let plain = place.submit(&["--rows", "1"]);
    let mut stdin = place.command(&["append", &plain, "-", "--json"], &[]);
    let mut stdin = stdin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("fencepost starts");
    stdin.stdin.take().expect("a pipe").write_all(b"{\"name\":\"seven\",\"n\":\"7\"}\n").expect("it reads");
    let said: Value = serde_json::from_slice(&stdin.wait_with_output().expect("it ends").stdout).expect("JSON");
    assert_eq!(said["lines"], json!([2, 2]));
    assert_eq!(place.json(&["append", &plain, "--rows", "2", "--json"])["lines"], json!([3, 4]));
    assert_eq!(place.json(&["append", &plain, "--rows", "0", "--json"])["lines"], Value::Null);

    place.work(&["--sleep", "0s"]);
    assert_eq!(place.counts(&batch), row_counts(0, 6, 0, 0));
    place.refuses(&batch, 2, &["append", &batch, "more.csv"], &["has ended", "a batch of their own"]);
    // What was appended under a key is known for good.
    assert_eq!(place.json(&append), again);
}

#[test]
fn an_abort_is_final_and_says_what_it_ends() {
    let place = Place::new();
    let batch = place.submit(&["--rows", "120"]);
    let asked =
        ["This ends 120 queued rows and 0 that workers hold (they run, or are to) as aborted, for good.", "--yes"];
    place.refuses(&batch, 2, &["abort", &batch], &asked);
    let output = place.run(&["abort", &batch, "--yes", "--json"]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains(asked[0]), "{}", stderr(&output));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let counts = row_counts(0, 0, 0, 120);
    let expected = json!({ "schema_version": 1, "batch": batch, "new": true, "counts": counts, "stopping": 0 });
    assert_eq!(said, expected);
    // Nobody is asked for what is done already.
    assert!(place.ok(&["abort", &batch, "--wait"]).contains("was aborted before"));
    assert_eq!(code(&place.run(&["wait", &batch])), 5);
    for verb in
        [&["hold", &batch][..], &["resume", &batch], &["retry", &batch, "--yes"], &["append", &batch, "--rows", "1"]]
    {
        place.refuses(&batch, 5, verb, &["aborted"]);
    }
    let ended = place.submit(&["--rows", "0"]);
    place.refuses(&ended, 2, &["abort", &ended, "--yes"], &["has ended (success)", "cannot be aborted"]);
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let (place, batch) = Place::with_a_failed_row();
    let open = place.submit(&["--rows", "3"]);
    let answers = |answer: &str, verb: &str, batch: &str| {
        // script(1) gives it a terminal.
        let command = format!("{} {verb} {batch}", env!("CARGO_BIN_EXE_fencepost"));
        let mut terminal = std::process::Command::new("script");
        let of_place = place.command(&[], &[]);
        let folder = of_place.get_current_dir().expect("a folder of its own");
        terminal.current_dir(folder);
        for (name, value) in of_place.get_envs() {
            match value {
                Some(value) => terminal.env(name, value),
                None => terminal.env_remove(name),
            };
        }
        terminal.args(["-qec", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut asked = terminal.spawn().expect("script starts");
        asked.stdin.take().expect("a pipe").write_all(answer.as_bytes()).expect("it reads");
        let output = asked.wait_with_output().expect("it ends");
        assert_eq!(code(&output), 0);
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for no in ["n\n", "\n", "what?\n"] {
        let said = answers(no, "abort", &open);
        assert!(
            said.contains("3 queued rows and 0 that workers hold (they run, or are to)")
                && said.contains("Go on? [y/N]"),
            "{said}"
        );
        assert!(said.contains("Nothing was done."), "{said}");
        assert_eq!(place.counts(&open), row_counts(3, 0, 0, 0));
        assert!(answers(no, "retry", &batch).contains("This runs 1 failed row again"));
        assert_eq!(place.counts(&batch), row_counts(0, 2, 1, 0));
    }
    assert!(answers("y\n", "retry", &batch).contains("1 row of batch"));
    assert_eq!(place.counts(&batch), row_counts(1, 2, 0, 0));
    assert!(answers("yes\n", "abort", &open).contains("is aborted: 3 rows"));
    assert_eq!(place.counts(&open), row_counts(0, 0, 0, 3));
}

#[test]
fn failed_rows_run_again() {
    let (place, batch) = Place::with_a_failed_row();
    let asked = ["This runs 1 failed row again, and opens the batch again.", "--yes"];
    place.refuses(&batch, 2, &["retry", &batch], &asked);
    place.refuses(&batch, 2, &["retry", &batch, "--failed", "--line", "2", "--yes"], &["cannot be used with"]);
    place.refuses(&batch, 2, &["retry", &batch, "--error-like", "", "--yes"], &["--error-like"]);
    place.refuses(&batch, 4, &["retry", &batch, "--line", "4", "--yes"], &["has no row 4"]);
    for nothing in [&["--error-like", "No two"][..], &["--error-like", "%"]] {
        let retry = [&["retry", &batch, "--json"], nothing].concat();
        assert_eq!(place.json(&retry)["rows"], 0, "an error is sought as it is written: {nothing:?}");
    }
    let expected = json!({ "schema_version": 1, "batch": batch, "rows": 1, "generation": 2, "reopened": true });
    assert_eq!(place.json(&["retry", &batch, "--error-like", "no two", "--yes", "--json"]), expected);
    assert_eq!((place.status(&batch), place.counts(&batch)), (json!("open"), row_counts(1, 2, 0, 0)));
    assert!(place.ok(&["retry", &batch, "--line", "2"]).contains("Nothing to retry"), "it has no outcome now");
    assert!(place.ok(&["retry", &batch]).contains("no row has failed"));

    place.work(&["--", "sh", "-c", "echo $IDEMPOTENCY_KEY >> keys; echo $FENCEPOST_ATTEMPT"]);
    assert_eq!(place.counts(&batch), row_counts(0, 3, 0, 0));
    let story = place.ok(&["rows", &batch, "--line", "2"]);
    assert!(story.contains("superseded") && story.contains("failed: exit code 65"), "{story}");
    // A success that is named runs again, under the same key.
    let retry = ["retry", &batch, "--line", "2"];
    place.refuses(&batch, 2, &retry, &["This runs row 2 again (it succeeded), and opens the batch again."]);
    assert_eq!(place.json(&[&retry[..], &["--yes", "--json"]].concat())["generation"], 3);
    place.work(&["--", "sh", "-c", "echo $IDEMPOTENCY_KEY >> keys; echo $FENCEPOST_ATTEMPT"]);
    let keys = std::fs::read_to_string(place.file("keys")).expect("two runs");
    let keys: Vec<&str> = keys.lines().collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
    let results = place.ok(&["results", &batch]);
    assert_eq!(results.lines().count(), 3, "{results}");
}

#[test]
fn errors_are_told_apart_by_what_does_not_differ_from_row_to_row() {
    let (place, batch) = Place::with_a_failed_row();
    let said = place.json(&["errors", &batch, "--json"]);
    assert_eq!(
        said["kinds"],
        json!([{ "kind": "exit code N", "count": 1, "line": 2, "error": "exit code 65\nno two" }])
    );
    assert_eq!((said["failed"].clone(), said["other"].clone()), (json!(1), json!(0)));
    let many = place.submit(&["--rows", "230"]);
    // One kind, however many rows.
    let script = "n=$FENCEPOST_LINE; test $n -gt 20 || exit 65; exit 1";
    place.work(&["--concurrency", "8", "--", "sh", "-c", script]);
    assert_eq!(place.json(&["errors", &many, "--json"])["failed"], 230);
    let text = place.ok(&["errors", &many]);
    assert!(text.contains("failed rows: 230") && text.contains("230 x exit code N"), "{text}");
    let none = place.submit(&["--rows", "1"]);
    assert_eq!(place.json(&["errors", &none, "--json"])["kinds"], json!([]));
}

#[test]
fn a_migration_is_shown_and_done_and_a_newer_store_is_left_alone() {
    let place = Place::new();
    let absent = place.run(&["migrate"]);
    assert_eq!(code(&absent), 7);
    assert!(!place.file("state/fencepost/fencepost.db").exists(), "none is made");
    place.submit(&["--rows", "1"]);
    let now = place.json(&["migrate", "--json"]);
    let version = now["program_version"].as_u64().expect("a number");
    assert_eq!((now["store_version"].clone(), now["migrations"].clone()), (json!(version), json!([])));
    assert_eq!(now["applied"], false);
    assert!(place.ok(&["migrate"]).contains("Nothing to do"));

    let store = place.file("state/fencepost/fencepost.db");
    execute(
        &store,
        "drop table stopping; drop table purges; drop index completions_fresh_by_command; drop index completions_waiting_by_command;
         drop index completions_fresh_by_url; drop index completions_waiting_by_url; drop index completions_fresh_under_url;
         drop index completions_waiting_under_url; alter table store drop column calls_due; drop index completions_held; drop index completions_waiting; alter table completions drop column operation;
         alter table leases drop column calls; alter table batches drop column on_done_url;
         update store set schema_version = 3, worker_version_min = 1",
    );
    let migrations = json!([{ "version": 4, "name": "purges" }]);
    for (options, applied) in [(&["--dry-run"][..], false), (&["--dry-run"], false), (&[], true)] {
        let said = place.json(&[&["migrate", "--json"], options].concat());
        let pending: Vec<Value> = said["migrations"].as_array().expect("a list").iter().take(1).cloned().collect();
        assert_eq!((&said["store_version"], json!(pending)), (&json!(3), migrations.clone()));
        assert_eq!(said["applied"], applied);
    }
    assert_eq!(place.json(&["migrate", "--json"])["store_version"], version);
    execute(&store, "update store set schema_version = 99, worker_version_min = 98");
    let newer = place.run(&["migrate"]);
    assert_eq!(code(&newer), 7);
    assert!(stderr(&newer).contains("update fencepost"), "{}", stderr(&newer));
}

/// Runs statements on the store behind the program's back.
fn execute(store: &std::path::Path, statements: &'static str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store);
        let mut conn = SqliteConnection::connect_with(&options).await.expect("it opens");
        sqlx::raw_sql(statements).execute(&mut conn).await.expect("it can be done");
        conn.close().await.expect("it closes");
    });
}

/// As from a variable that was never set.
#[test]
fn an_empty_id_means_no_batch() {
    let place = Place::new();
    let batch = place.submit(&["--rows", "3"]);
    for verb in
        [&["abort", "", "--yes"][..], &["retry", " ", "--yes"], &["hold", ""], &["status", ""], &["results", ""]]
    {
        let output = place.run(verb);
        assert_eq!(code(&output), 2, "{verb:?}");
        assert!(stderr(&output).contains("the batch's id is empty"), "{}", stderr(&output));
    }
    assert_eq!(place.json(&["status", &batch, "--json"])["counts"]["queued"], 3);
}

#[test]
fn a_refused_value_is_repeated_without_its_password() {
    let place = Place::new();
    for arguments in [
        &["submit", "--rows", "1", "--on-done-url", "http://user:sesame@host/x"][..],
        &["worker", "--allow-url", "http://user:sesame@host/x"],
        &["list", "--store", "host=localhost password=sesame"],
        &["list", "--store", "postgres:u:sesame@host"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("sesame"), "{}", stderr(&output));
    }
}

#[test]
fn rows_without_columns_are_not_appended_to_a_batch_that_has_them() {
    let place = Place::new();
    std::fs::write(place.file("rows.csv"), ROWS).expect("it is written");
    std::fs::write(place.file("rows.jsonl"), "{\"x\":1}\n").expect("it is written");
    let batch = place.submit(&["rows.csv"]);
    for rows in [&["append", &batch, "rows.jsonl"][..], &["append", &batch, "--rows", "2"]] {
        let output = place.run(rows);
        assert_eq!(code(&output), 8);
        assert!(stderr(&output).contains("append CSV with the header name,n"), "{}", stderr(&output));
    }
    assert_eq!(place.json(&["status", &batch, "--json"])["batch"]["rows"], 3);
}
