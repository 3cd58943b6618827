//! Completion calls (S7) by the command: who is called when a batch has ended, how often, and what happens to callers that die.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{OpenMode, Operates};
use fencepost_core::BatchId;
use fencepost_core::store::{Operated, Retried, RetryRows};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use self::support::place::{Place, code, stderr};
use self::support::until::until;

#[allow(dead_code)]
mod support {
    pub mod place;
    pub mod until;
}

/// A command that keeps what it is told.
const KEEPS: [&str; 4] = [
    "--",
    "sh",
    "-c",
    r#"cat >> told; echo "$FENCEPOST_BATCH $FENCEPOST_GENERATION $FENCEPOST_STATUS $IDEMPOTENCY_KEY" >> env"#,
];

fn submit(place: &Place, more: &[&str]) -> String {
    let submitted = place.json(&[&["submit", "--rows", "2", "--json"], more].concat());
    submitted["batch"].as_str().unwrap().to_owned()
}

fn lines(place: &Place, file: &str) -> Vec<String> {
    std::fs::read_to_string(place.file(file)).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn told(place: &Place) -> Vec<Value> {
    lines(place, "told").iter().map(|line| serde_json::from_str(line).expect("one JSON object per line")).collect()
}

/// A worker that has not left after this never does: it waits for a call that nobody makes, or makes one again and again.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

/// Runs a worker until it leaves.
fn worker(place: &Place, arguments: &[&str]) -> Output {
    let mut command = place.command(&[&["worker", "--until-done"], arguments].concat(), &[]);
    let worker = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(worker.id()).unwrap());
    let (tells, left) = channel();
    std::thread::spawn(move || tells.send(worker.wait_with_output().unwrap()));
    left.recv_timeout(LEAVES_WITHIN).unwrap_or_else(|_| {
        kill(pid, Signal::SIGKILL).unwrap();
        panic!("{arguments:?} never leaves: {}", stderr(&left.recv().unwrap()))
    })
}

/// Runs the rows of all batches of operation `default`.
fn run_rows(place: &Place) {
    let ran = worker(place, &["--sleep", "0s", "--quiet"]);
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
}

fn caller(place: &Place, options: &[&str], command: &[&str]) -> Output {
    worker(place, &[&["--ttl", "2s"], options, command].concat())
}

async fn store(place: &Place) -> SqliteStore {
    SqliteStore::open(place.file("state/fencepost/fencepost.db"), OpenMode::Existing).await.unwrap()
}

#[test]
fn a_command_is_told_of_an_end_once() {
    let place = Place::new();
    let batch = submit(&place, &["--key", "nightly"]);
    run_rows(&place);
    let first = caller(&place, &["--on-done"], &KEEPS);
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    assert!(stderr(&first).contains("call DELIVERED"), "{}", stderr(&first));
    let again = caller(&place, &["--on-done"], &KEEPS);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    let [said] = &told(&place)[..] else { panic!("{:?}", told(&place)) };
    let ended_at = said["ended_at_us"].as_i64().unwrap();
    assert!(ended_at > 1_700_000_000_000_000);
    let expected = json!({
        "schema_version": 1, "batch": batch, "key": "nightly", "op": "default", "generation": 1, "status": "success",
        "rows": 2, "success": 2, "failed": 0, "aborted": 0, "ended_at_us": ended_at, "attempt": 1,
    });
    assert_eq!(*said, expected);
    assert_eq!(lines(&place, "env"), [format!("{batch} 1 success {batch}:1")]);
    assert!(place.ok(&["status", &batch]).contains("(generation 1, success, by command): delivered after 1 try"));
    let call = &place.json(&["status", &batch, "--json"])["calls"][0];
    assert!(call["delivered_at_us"].as_i64().unwrap() >= ended_at && call["attempts"] == 1, "{call}");
}

#[test]
fn one_worker_runs_rows_and_makes_calls() {
    let place = Place::new();
    let batch = submit(&place, &[]);
    let keeps = format!("--on-done=sh -c '{}'", KEEPS[3]);
    let both = caller(&place, &[&keeps], &["--", "sh", "-c", "test \"$FENCEPOST_LINE\" = 1 || exit 65"]);
    assert_eq!(code(&both), 0, "{}", stderr(&both));
    let [said] = &told(&place)[..] else { panic!("{:?}", told(&place)) };
    assert_eq!((&said["status"], &said["success"], &said["failed"]), (&json!("failed"), &json!(1), &json!(1)));
    assert_eq!(lines(&place, "env"), [format!("{batch} 1 failed {batch}:1")]);
}

#[test]
fn a_call_that_fails_is_made_again() {
    let place = Place::new();
    let batch = submit(&place, &[]);
    run_rows(&place);
    let fails_once =
        ["--", "sh", "-c", "echo {attempt} >> tries; test -e tried || { touch tried; echo not yet >&2; exit 3; }"];
    let output = caller(&place, &["--on-done"], &fails_once);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(lines(&place, "tries"), ["1", "2"]);
    assert!(stderr(&output).contains("call to be tried again: exit code 3"), "{}", stderr(&output));
    assert!(place.ok(&["status", &batch]).contains("delivered after 2 tries"));
}

#[test]
fn a_call_that_takes_too_long_is_cancelled_and_made_again() {
    let place = Place::new();
    submit(&place, &[]);
    run_rows(&place);
    let hangs_once = ["--", "sh", "-c", "echo x >> tries; test -e tried || { touch tried; exec sleep 600; }"];
    let output = caller(&place, &["--on-done", "--on-done-timeout", "200ms"], &hangs_once);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(lines(&place, "tries").len(), 2);
    assert!(stderr(&output).contains("timed out after"), "{}", stderr(&output));
}

/// Begins, then waits until it may go on.
const WAITS: [&str; 4] = ["--", "sh", "-c", "echo x >> tries; while ! test -e go; do sleep 0.02; done"];

fn start(place: &Place, arguments: &[&str]) -> Child {
    place.command(arguments, &[]).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn another_worker_makes_the_call_of_one_that_was_killed_in_it() {
    let place = Place::new();
    let batch = submit(&place, &[]);
    run_rows(&place);
    let mut first = start(&place, &[&["worker", "--on-done"], &WAITS[..]].concat());
    until("the first call is made", || lines(&place, "tries").len() == 1).await;
    let status = place.ok(&["status", &batch]);
    assert!(status.contains("being made by "), "{status}");
    first.kill().unwrap();
    first.wait().unwrap();
    place.write("go", "");
    let second = caller(&place, &["--on-done"], &WAITS);
    assert_eq!(code(&second), 0, "{}", stderr(&second));
    assert_eq!(lines(&place, "tries").len(), 2);
    assert!(place.ok(&["status", &batch]).contains("delivered after 2 tries"), "a death is a try");
}

#[tokio::test]
async fn a_worker_that_is_asked_to_leave_lets_its_call_end_or_gives_it_back() {
    for (grace, delivered) in [("30s", true), ("0s", false)] {
        let place = Place::new();
        let batch = submit(&place, &[]);
        run_rows(&place);
        let worker = start(&place, &[&["worker", "--grace", grace, "--on-done"], &WAITS[..]].concat());
        until("the call is made", || lines(&place, "tries").len() == 1).await;
        kill(Pid::from_raw(i32::try_from(worker.id()).unwrap()), Signal::SIGTERM).unwrap();
        if delivered {
            place.write("go", "");
        }
        let left = worker.wait_with_output().unwrap();
        assert_eq!(code(&left), 0, "{}", stderr(&left));
        let call = place.json(&["status", &batch, "--json"])["calls"][0].clone();
        let expected = if delivered { json!(1) } else { json!(0) };
        assert_eq!((&call["attempts"], call["delivered_at_us"].is_i64()), (&expected, delivered), "{call}");
        assert_eq!(call["worker"], Value::Null);
    }
}

#[tokio::test]
async fn each_generation_is_told_of_and_an_abort_too() {
    let place = Place::new();
    let batch = submit(&place, &[]);
    run_rows(&place);
    assert_eq!(code(&caller(&place, &["--on-done"], &KEEPS)), 0);
    let store = store(&place).await;
    let id: BatchId = batch.parse().unwrap();
    let retried = store.retry(id, RetryRows::Line { line: 1, token: None }).await.unwrap();
    assert!(matches!(retried, Retried::Rows { generation: 2, reopened: true, .. }), "{retried:?}");
    let aborted = submit(&place, &[]);
    assert_eq!(store.abort(aborted.parse().unwrap()).await.unwrap(), Operated::Now);
    run_rows(&place);
    assert_eq!(code(&caller(&place, &["--on-done"], &KEEPS)), 0);
    let mut said: Vec<_> = told(&place)
        .iter()
        .map(|told| (told["batch"].clone(), told["generation"].clone(), told["status"].clone()))
        .collect();
    let first = json!(id.to_string());
    said.sort_by_key(|(batch, generation, _)| (*batch != first, generation.as_i64()));
    let success = |generation| (json!(batch), json!(generation), json!("success"));
    assert_eq!(said, [success(1), success(2), (json!(aborted), json!(1), json!("aborted"))]);
    let abort = told(&place).into_iter().find(|told| told["status"] == "aborted").unwrap();
    assert_eq!((&abort["rows"], &abort["aborted"]), (&json!(2), &json!(2)));
}

#[test]
fn who_runs_rows_waits_for_no_calls_and_status_is_silent_about_calls_that_nobody_makes() {
    let place = Place::new();
    let batch = submit(&place, &[]);
    run_rows(&place);
    // Nor does who calls URLs wait for calls by command.
    assert_eq!(code(&caller(&place, &["--allow-url", "http://127.0.0.1/"], &[])), 0);
    assert!(!place.ok(&["status", &batch]).contains("call"));
}

/// A store made before calls were built has ends that nobody was told of.
#[tokio::test]
async fn a_store_of_version_3_is_brought_up_to_date_and_its_ends_are_told() {
    let place = Place::new();
    let batch = submit(&place, &[]);
    run_rows(&place);
    let options = SqliteConnectOptions::new().filename(place.file("state/fencepost/fencepost.db"));
    let mut raw = options.connect().await.unwrap();
    sqlx::raw_sql(
        "drop table purges;
         drop table stopping;
         drop index completions_fresh_by_command;
         drop index completions_waiting_by_command;
         drop index completions_fresh_by_url;
         drop index completions_waiting_by_url;
         drop index completions_fresh_under_url;
         drop index completions_waiting_under_url;
         alter table store drop column calls_due;
         drop index completions_held;
         drop index completions_waiting;
         alter table completions drop column operation;
         alter table leases drop column calls;
         alter table batches drop column on_done_url;
         update store set schema_version = 3, worker_version_min = 1",
    )
    .execute(&mut raw)
    .await
    .unwrap();
    raw.close().await.unwrap();
    assert_eq!(code(&caller(&place, &["--on-done"], &KEEPS)), 0);
    assert_eq!(lines(&place, "env"), [format!("{batch} 1 success {batch}:1")]);
}

// --- by URL

/// A server that answers with these, one per request, and tells what it was asked.
struct Server {
    at: String,
    heard: Receiver<Request>,
}

#[derive(Debug)]
struct Request {
    path: String,
    headers: Vec<String>,
    body: Value,
}

impl Server {
    fn new(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let (told, heard) = channel();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read(&mut stream);
                write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                told.send(request).unwrap();
            }
        });
        Self { at, heard }
    }

    fn requests(&self, count: usize) -> Vec<Request> {
        (0..count).map(|_| self.heard.recv_timeout(Duration::from_secs(60)).unwrap()).collect()
    }
}

fn read(stream: &mut TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    // A GET has none: what a redirect would lead to.
    let length = lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let path = lines.remove(0);
    Request { path, headers: lines, body: serde_json::from_slice(&body).unwrap_or_default() }
}

#[test]
fn a_url_is_called_until_it_says_so_and_no_redirect_is_followed() {
    let server = Server::new(&["500 Trouble", "302 Found\r\nlocation: /elsewhere", "204 No Content", "200 Too Many"]);
    let place = Place::new();
    let url = format!("{}/hooks/a?b=c", server.at);
    let batch = submit(&place, &["--on-done-url", &url]);
    run_rows(&place);
    let allow = format!("{}/hooks", server.at);
    let output = caller(&place, &["--allow-url", &allow], &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let requests = server.requests(3);
    for (request, attempt) in requests.iter().zip(1..) {
        assert_eq!(request.path, "POST /hooks/a?b=c HTTP/1.1");
        let has = |header: String| request.headers.iter().any(|line| line.eq_ignore_ascii_case(&header));
        assert!(
            has(format!("idempotency-key: {batch}:1")) && has("content-type: application/json".into()),
            "{request:?}"
        );
        assert_eq!((&request.body["batch"], &request.body["attempt"]), (&json!(batch), &json!(attempt)));
    }
    let said = stderr(&output);
    assert!(said.contains("answered 500") && said.contains("redirects are not followed"), "{said}");
    assert!(server.heard.try_recv().is_err(), "the worker has left: that was all");
    assert!(place.ok(&["status", &batch]).contains(&format!("{}/hooks/a?***): delivered after 3 tries", server.at)));
}

#[test]
fn a_url_that_no_worker_allows_is_called_by_none_and_status_says_so() {
    let server = Server::new(&["200 OK"]);
    let place = Place::new();
    let batch = submit(&place, &["--on-done-url", &format!("{}/hooks/a", server.at)]);
    assert!(place.ok(&["status", &batch]).contains("no live worker makes it"));
    run_rows(&place);
    for elsewhere in [format!("{}/hook", server.at), "https://127.0.0.1/".to_owned()] {
        let output = caller(&place, &["--allow-url", &elsewhere], &[]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    // A batch with a URL is called there and nowhere else.
    assert_eq!(code(&caller(&place, &["--on-done"], &KEEPS)), 0);
    assert!(told(&place).is_empty());
    let status = place.ok(&["status", &batch]);
    assert!(status.contains("due; no live worker makes this call (--allow-url)"), "{status}");
    let output = caller(&place, &["--allow-url", "https://127.0.0.1/", "--allow-url", &server.at], &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(server.requests(1).len(), 1);
}

/// Who writes to the store by other means cannot send a worker where it may not go: it looks at the URL itself.
#[tokio::test]
async fn a_url_that_leads_out_of_its_prefix_is_not_called_though_the_store_has_it() {
    let server = Server::new(&["200 OK"]);
    let place = Place::new();
    let batch = submit(&place, &["--on-done-url", &format!("{}/hooks/a", server.at)]);
    run_rows(&place);
    let options = SqliteConnectOptions::new().filename(place.file("state/fencepost/fencepost.db"));
    let mut raw = options.connect().await.unwrap();
    let outside = sqlx::query("update completions set url = ?1").bind(format!("{}/hooks/../admin", server.at));
    assert_eq!(outside.execute(&mut raw).await.unwrap().rows_affected(), 1);
    raw.close().await.unwrap();
    let mut worker = start(&place, &["worker", "--allow-url", &format!("{}/hooks", server.at)]);
    let call = || place.json(&["status", &batch, "--json"])["calls"][0].clone();
    until("the call is over", || call()["error"].is_string() || call()["delivered_at_us"].is_i64()).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(call()["error"].as_str().is_some_and(|error| error.contains("is not allowed here")), "{}", call());
    assert!(server.heard.try_recv().is_err(), "nobody was asked");
}

#[test]
fn what_makes_no_call_is_refused_before_anything_is_done() {
    let place = Place::new();
    for (arguments, says) in [
        (&["submit", "--rows", "1", "--on-done-url", "ftp://host/"][..], "begins with ftp:"),
        (&["submit", "--rows", "1", "--on-done-url", "https://me:secret@host/"], "password"),
        (&["worker", "--allow-url", "host"], "relative URL"),
        (&["worker", "--on-done"], "--on-done has no command"),
        (&["worker", "--on-done", "--sleep", "1s"], "--on-done='CMD ARG' -- HANDLER"),
        (&["worker", "--on-done=", "--", "true"], "--on-done= has no command"),
        (&["worker", "--on-done=sh 'x", "--", "true"], "is no command line"),
        (&["worker", "--on-done=no-such-program", "--", "true"], "no-such-program"),
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
    }
    assert!(!place.file("state").exists(), "no store was made");
}
