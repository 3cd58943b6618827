//! The stream handler with real children, most of them shell scripts.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use fencepost::handler::command::CommandError;
use fencepost::handler::stream::{StreamHandler, StreamOptions};
use fencepost::handler::{CancelToken, Canceller, Handler, HandlerAnswer, Row};
use fencepost_core::{BatchId, Token};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use self::support::until::until;

mod support {
    pub mod until;
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a script begins with: `next` reads a row into `row`, `line`, `token` and `input`; `say` answers it.
const BASICS: &str = r#"
next() {
    read -r row || return 1
    line=${row#*\"line\":} line=${line%%,*}
    token=${row#*\"token\":} token=${token%%,*}
    input=${row#*\"input\":} input=${input%\}}
}
say() { echo "{\"line\":$line,\"token\":$token,\"status\":\"$1\",$2}"; }
succeed() { say success "\"result\":$input"; }
"#;

fn options() -> StreamOptions {
    StreamOptions::new(env!("CARGO_BIN_EXE_fencepost"))
}

/// A handler of a script with `$0` and on from `arguments`.
fn script_with(script: &str, arguments: &[&Path], options: StreamOptions) -> Arc<StreamHandler> {
    let mut command: Vec<OsString> = vec!["-c".into(), format!("{BASICS}{script}").into()];
    command.extend(arguments.iter().map(|argument| argument.as_os_str().to_owned()));
    Arc::new(StreamHandler::new("sh", command, options).unwrap())
}

fn script(text: &str, arguments: &[&Path]) -> Arc<StreamHandler> {
    script_with(text, arguments, options())
}

fn row(line: u64, input: &str) -> Row {
    Row { batch: BatchId::from_random(7), line, attempt: 1, token: Token(99), input: input.into() }
}

/// Starts a row that is never cancelled.
fn start(handler: &Arc<StreamHandler>, line: u64, input: &str) -> JoinHandle<HandlerAnswer> {
    start_with(handler, line, input, Canceller::new().1)
}

fn start_with(handler: &Arc<StreamHandler>, line: u64, input: &str, cancel: CancelToken) -> JoinHandle<HandlerAnswer> {
    let (handler, mut row) = (handler.clone(), row(line, input));
    tokio::spawn(async move {
        // What was interrupted comes again under a new token, as from the store.
        loop {
            let again = Row { token: Token(row.token.0 + 1_000), input: row.input.clone(), ..row };
            match handler.run(row, cancel.clone()).await {
                HandlerAnswer::Interrupted => row = again,
                answer => return answer,
            }
        }
    })
}

async fn answer(running: JoinHandle<HandlerAnswer>) -> HandlerAnswer {
    tokio::time::timeout(PATIENCE, running).await.expect("the row hangs").unwrap()
}

/// Runs rows at once, and gives their answers in the rows' order.
async fn answers(handler: &Arc<StreamHandler>, inputs: &[&str]) -> Vec<HandlerAnswer> {
    let running: Vec<_> = (1..).zip(inputs).map(|(line, input)| start(handler, line, input)).collect();
    let mut answers = Vec::new();
    for row in running {
        answers.push(answer(row).await);
    }
    answers
}

fn success(result: &str) -> HandlerAnswer {
    HandlerAnswer::Success(result.into())
}

#[track_caller]
fn failed(answer: &HandlerAnswer) -> &str {
    match answer {
        HandlerAnswer::Failed(error) => error,
        other => panic!("not failed but {other:?}"),
    }
}

#[track_caller]
fn retry(answer: &HandlerAnswer) -> &str {
    match answer {
        HandlerAnswer::Retry(error) => error,
        other => panic!("not to be retried but {other:?}"),
    }
}

/// The words that scripts have appended to a file.
fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// A folder with a name in it for scripts to write to.
fn file(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

/// A pipe that scripts wait at until the test opens it.
fn gate() -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = file("gate");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    (folder, path)
}

async fn open(gate: PathBuf) {
    // Nothing is written: whoever waited only for it to be open may be gone by then.
    let opened = tokio::task::spawn_blocking(move || drop(File::options().write(true).open(gate).unwrap()));
    tokio::time::timeout(PATIENCE, opened).await.expect("nobody waits at the gate").unwrap();
}

fn exists(pid: &str) -> bool {
    kill(Pid::from_raw(pid.parse().unwrap()), None).is_ok()
}

// What a child gets and answers.

#[tokio::test]
async fn one_child_gets_all_rows_and_answers_in_any_order() {
    let (_folder, pids) = file("pids");
    let reverse = script(
        r#"echo $$ >>"$0"
        next; all=$(succeed); next; all="$(succeed)
$all"; next; succeed; echo "$all"; next; succeed"#,
        &[&pids],
    );
    let inputs = [r#"{"a": 1.0}"#, "[1, 2]", "\"x y\""];
    let expected: Vec<_> = inputs.iter().map(|input| success(input)).collect();
    assert_eq!(answers(&reverse, &inputs).await, expected);
    assert_eq!(answer(start(&reverse, 4, "null")).await, success("null"));
    assert_eq!(words(&pids).len(), 1);
}

#[tokio::test]
async fn a_row_says_which_it_is() {
    let echo = script(r#"while next; do say success "\"result\":$row"; done"#, &[]);
    let HandlerAnswer::Success(result) = answer(start(&echo, 12, r#"{"a":1}"#)).await else { panic!("no success") };
    let batch = BatchId::from_random(7).to_string();
    let expected = json!({
        "batch": batch, "line": 12, "attempt": 1, "token": 99, "key": format!("{batch}:12"), "input": {"a": 1}
    });
    assert_eq!(serde_json::from_str::<Value>(&result).unwrap(), expected);
}

#[tokio::test]
async fn rows_fail_and_are_tried_again_as_the_child_says() {
    let mixed = script(
        r#"while next; do case $line in
            1) say failed '"error":"bad \"row\""' ;;
            2) say retry '"error":"busy"' ;;
            3) say failed '"x":1' ;;
            4) say done '"result":1' ;;
            5) say success '"result":NaN' ;;
            6) say success '"result":"\u0000"' ;;
            7) say success '"result":"\udc00"' ;;
            8) say success "\"result\":\"$(printf %100s)\"" ;;
            *) succeed ;;
        esac; done"#,
        &[],
    );
    let answers = answers(&mixed, &["0"; 9]).await;
    assert_eq!(failed(&answers[0]), "bad \"row\"");
    assert_eq!(retry(&answers[1]), "busy");
    for (answer, part) in answers[2..7].iter().zip(["stream child says", "\"done\"", "not JSON", "NUL", "surrogate"]) {
        assert!(failed(answer).contains(part), "{answer:?}");
    }
    assert_eq!(answers[8], success("0"));
}

#[tokio::test]
async fn a_result_over_the_limit_fails_its_row_only() {
    let large = r#"while next; do say success "\"result\":\"$(printf "%${line}s")\""; done"#;
    let handler = script_with(large, &[], StreamOptions { result_limit: 4, ..options() });
    let answers = answers(&handler, &["0"; 3]).await;
    assert_eq!((&answers[0], &answers[1]), (&success("\" \""), &success("\"  \"")));
    let error = failed(&answers[2]);
    assert!(error.contains("4 bytes") && error.contains("--max-result-bytes"), "{answers:?}");
}

#[tokio::test]
async fn rows_larger_than_a_pipe_go_through_whole() {
    let large = format!("\"{}\"", "x".repeat(300_000));
    let cat = script("while next; do succeed; done", &[]);
    assert_eq!(answers(&cat, &[&large, "1", &large]).await, [success(&large), success("1"), success(&large)]);
}

#[tokio::test]
async fn the_window_bounds_what_a_child_has() {
    let (_folder, seen) = file("seen");
    let (_gates, gate) = gate();
    // It answers two rows once the gate is open, and would hang if the third did not come then.
    let two = script_with(
        r#"next; echo $line >>"$0"; first=$(succeed); next; echo $line >>"$0"
        : <"$1"; echo "$first"; succeed; next; succeed"#,
        &[&seen, &gate],
        StreamOptions { window: 2, ..options() },
    );
    let running: Vec<_> = (1..=3).map(|line| start(&two, line, "0")).collect();
    until("two rows come", || words(&seen).len() == 2).await;
    open(gate).await;
    for row in running {
        assert_eq!(answer(row).await, success("0"));
    }
}

#[tokio::test]
async fn rows_are_spread_over_the_children() {
    let (_folder, pids) = file("pids");
    // No child answers before both have a row.
    let pair = script_with(
        r#"next; echo $$ >>"$0"; while [ $(sort -u "$0" | wc -l) -lt 2 ]; do :; done
        succeed; while next; do succeed; done"#,
        &[&pids],
        StreamOptions { children: 2, ..options() },
    );
    assert_eq!(answers(&pair, &["0"; 10]).await, vec![success("0"); 10]);
}

// What is no answer.

#[tokio::test]
async fn lines_that_answer_no_row_are_counted_and_otherwise_ignored() {
    let noisy = script(
        r#"next; echo hello; echo; echo '[1]'; echo "{\"line\":$line,\"token\":1,\"status\":\"success\"}"
        echo "{\"line\":77,\"token\":$token,\"status\":\"success\"}"; succeed; succeed
        next; succeed"#,
        &[],
    );
    assert_eq!(answer(start(&noisy, 1, "1")).await, success("1"));
    // The second answer of the first row comes before that of the second.
    assert_eq!(answer(start(&noisy, 2, "2")).await, success("2"));
    assert_eq!(noisy.nonsense(), 6);
}

#[tokio::test]
async fn half_a_line_at_the_end_is_no_answer() {
    let half = script(r#"next; printf '{"line":%s,"token":%s,"status":"success"' $line $token; exit 3"#, &[]);
    let said = answer(start(&half, 1, "1")).await;
    assert!(retry(&said).starts_with("the stream child exited (code 3) while it ran this row"), "{said:?}");
    assert_eq!(half.nonsense(), 1);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_a_death() {
    let endless = script_with(
        r#"next; [ $line = 2 ] && printf %5000s x; succeed; cat"#,
        &[],
        StreamOptions { line_limit: 4096, ..options() },
    );
    assert_eq!(answer(start(&endless, 1, "1")).await, success("1"));
    let fresh = script_with("next; printf %5000s x; cat", &[], StreamOptions { line_limit: 4096, ..options() });
    let said = answer(start(&fresh, 1, "1")).await;
    assert!(retry(&said).contains("longer than 4096 bytes"), "{said:?}");
}

// Deaths.

#[tokio::test]
async fn a_single_row_at_a_death_is_tried_again_with_the_reason() {
    let dies = script("next; echo some last words >&2; kill -9 $$", &[]);
    let said = answer(start(&dies, 1, "1")).await;
    assert_eq!(retry(&said), "the stream child died (signal 9) while it ran this row\nsome last words");
}

#[tokio::test]
async fn only_the_row_that_kills_its_child_uses_an_attempt() {
    let (_folder, seen) = file("seen");
    // The first child reads four rows before it dies of the third; the later ones read one by one.
    let poisoned = script(
        r#"if [ -e "$0" ]; then
            while next; do echo $line >>"$0"; [ $line = 3 ] && kill -9 $$; succeed; done
        else
            : >"$0"; next; next; next; next; kill -9 $$
        fi"#,
        &[&seen],
    );
    let answers = answers(&poisoned, &["0"; 4]).await;
    assert!(retry(&answers[2]).contains("signal 9"), "{answers:?}");
    for innocent in [0, 1, 3] {
        assert_eq!(answers[innocent], success("0"), "{answers:?}");
    }
    assert_eq!(words(&seen), ["1", "2", "3", "4"]);
}

/// L6, with a ledger by line and token.
#[tokio::test]
async fn no_token_reaches_a_child_twice() {
    let (_folder, seen) = file("seen");
    let (_folder, died) = file("died");
    let dies_once = script(
        r#"while next; do
            echo "$line:$token" >>"$0"
            [ $line = 3 ] && [ ! -e "$1" ] && : >"$1" && kill -9 $$
            [ -e "$1" ] && succeed
        done"#,
        &[&seen, &died],
    );
    assert_eq!(answers(&dies_once, &["0"; 3]).await, [success("0"), success("0"), success("0")]);
    let runs = words(&seen);
    assert_eq!(runs.iter().collect::<std::collections::BTreeSet<_>>().len(), runs.len(), "{runs:?}");
    assert_eq!(runs.len(), 6, "each ran before the death and after it: {runs:?}");
}

#[tokio::test]
async fn suspects_run_alone_and_before_others() {
    let (_folder, seen) = file("seen");
    let (_gates, gate) = gate();
    // Whatever else is in the pipe is read after a row and shown; nothing may be.
    let shy = script(
        r#"if [ -e "$0" ]; then
            while next; do echo $line >>"$0"; [ $line = 1 ] && : <"$1"; succeed; done
        else
            : >"$0"; next; next; kill -9 $$
        fi"#,
        &[&seen, &gate],
    );
    let mut running = vec![start(&shy, 1, "0"), start(&shy, 2, "0")];
    until("the next child has the first suspect", || words(&seen) == ["1"]).await;
    running.push(start(&shy, 3, "0"));
    open(gate).await;
    for row in running {
        assert_eq!(answer(row).await, success("0"));
    }
    assert_eq!(words(&seen), ["1", "2", "3"]);
}

#[tokio::test]
async fn rows_that_a_dead_child_has_not_read_are_no_suspects() {
    let (_folder, seen) = file("seen");
    let (_gates, gate) = gate();
    // The second child would hang if it did not get both rows at once.
    let sleepy = script(
        r#"if [ -e "$0" ]; then
            next; first=$(succeed); next; echo "$first"; succeed; next
        else
            : >"$0"; : <"$1"; exit 0
        fi"#,
        &[&seen, &gate],
    );
    let running = [start(&sleepy, 1, "1"), start(&sleepy, 2, "2")];
    open(gate).await;
    for (row, result) in running.into_iter().zip(["1", "2"]) {
        assert_eq!(answer(row).await, success(result));
    }
}

#[tokio::test]
async fn answers_given_before_a_death_count() {
    let last = script("next; succeed; next; succeed; kill -9 $$", &[]);
    assert_eq!(answers(&last, &["1", "2"]).await, [success("1"), success("2")]);
}

#[tokio::test]
async fn a_child_that_closes_stdout_is_replaced() {
    let (_folder, pids) = file("pids");
    let mute = script(r#"echo $$ >>"$0"; next; exec >&-; next; next"#, &[&pids]);
    let said = answer(start(&mute, 1, "1")).await;
    assert!(retry(&said).contains("closed its stdout"), "{said:?}");
    assert!(!exists(&words(&pids)[0]));
}

#[tokio::test]
async fn a_child_that_never_lives_ends_in_answers() {
    let (_folder, starts) = file("starts");
    let stillborn = script(r#"echo x >>"$0"; echo no such module >&2; exit 1"#, &[&starts]);
    for said in answers(&stillborn, &["0"; 20]).await {
        let error = retry(&said);
        for part in ["5 starts in a row failed", "exited (code 1) before it read a row", "no such module"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(words(&starts).len(), 5);
}

#[tokio::test]
async fn a_command_that_is_missing_is_found_before_the_first_row() {
    let missing = StreamHandler::new("no-such-program-here", ["x"], options()).unwrap_err();
    assert!(matches!(missing, CommandError::NotInPath { .. }), "{missing}");
    let unready = StreamHandler::new("sh", ["-c", "exit 1"], StreamOptions::new("/bin/true")).unwrap();
    assert!(unready.ready().await.is_err());
}

#[tokio::test]
async fn a_file_that_is_no_program_ends_in_answers() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = file("noise");
    fs::write(&path, "\u{1}\u{2}").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let handler = Arc::new(StreamHandler::new(&path, [""; 0], options()).unwrap());
    let said = answer(start(&handler, 1, "0")).await;
    assert!(retry(&said).contains("cannot run"), "{said:?}");
}

// Cancelling, and the end.

#[tokio::test]
async fn a_cancelled_row_is_answered_at_once_and_its_late_answer_is_ignored() {
    let (_folder, seen) = file("seen");
    let (_gates, gate) = gate();
    let slow = script_with(
        r#"next; echo $line >>"$0"; : <"$1"; succeed; while next; do succeed; done"#,
        &[&seen, &gate],
        StreamOptions { kill_after: PATIENCE, ..options() },
    );
    let (canceller, cancel) = Canceller::new();
    let running = start_with(&slow, 1, "1", cancel);
    until("the row runs", || words(&seen) == ["1"]).await;
    canceller.cancel();
    assert_eq!(answer(running).await, HandlerAnswer::Cancelled);
    let next = start(&slow, 2, "2");
    open(gate).await;
    assert_eq!(answer(next).await, success("2"));
    assert_eq!(slow.nonsense(), 0);
}

#[tokio::test]
async fn a_child_that_hangs_over_a_cancelled_row_is_replaced_and_the_others_run_again() {
    let (_folder, seen) = file("seen");
    let hangs = script_with(
        r#"while next; do echo $line >>"$0"; [ $line = 1 ] && exec sleep 1000; succeed; done"#,
        &[&seen],
        StreamOptions { kill_after: Duration::from_millis(50), ..options() },
    );
    let (canceller, cancel) = Canceller::new();
    let hanging = start_with(&hangs, 1, "1", cancel);
    until("the row runs", || words(&seen) == ["1"]).await;
    let other = start(&hangs, 2, "2");
    canceller.cancel();
    assert_eq!(answer(hanging).await, HandlerAnswer::Cancelled);
    assert_eq!(answer(other).await, success("2"));
    assert_eq!(words(&seen), ["1", "2"]);
}

#[tokio::test]
async fn a_cancelled_row_that_waits_never_reaches_a_child() {
    let (_folder, seen) = file("seen");
    let (_gates, gate) = gate();
    let one = script_with(
        r#"while next; do echo $line >>"$0"; [ $line = 1 ] && : <"$1"; succeed; done"#,
        &[&seen, &gate],
        StreamOptions { window: 1, ..options() },
    );
    let first = start(&one, 1, "1");
    until("the first row runs", || words(&seen) == ["1"]).await;
    let (canceller, cancel) = Canceller::new();
    let second = start_with(&one, 2, "2", cancel);
    canceller.cancel();
    assert_eq!(answer(second).await, HandlerAnswer::Cancelled);
    open(gate).await;
    assert_eq!(answer(first).await, success("1"));
    assert_eq!(answer(start(&one, 3, "3")).await, success("3"));
    assert_eq!(words(&seen), ["1", "3"]);
}

/// A handler whose child has answered a row, and the child's pid.
async fn at_work(text: &str, kill_after: Duration) -> (StreamHandler, String) {
    let whole = format!(r#"{BASICS} next; say success "\"result\":$$"; {text}"#);
    let handler = StreamHandler::new("sh", ["-c", &whole], StreamOptions { kill_after, ..options() }).unwrap();
    let run = handler.run(row(1, "0"), Canceller::new().1);
    let HandlerAnswer::Success(pid) = tokio::time::timeout(PATIENCE, run).await.unwrap() else { panic!("no success") };
    assert!(exists(&pid));
    (handler, pid.into())
}

#[tokio::test]
async fn children_leave_at_the_end_of_their_input() {
    let (_folder, path) = file("end");
    let text = format!("while next; do :; done; echo left >'{}'", path.display());
    let (mut handler, pid) = at_work(&text, PATIENCE).await;
    tokio::time::timeout(PATIENCE, handler.closer().close()).await.expect("it does not leave");
    assert!(!exists(&pid));
    assert_eq!(words(&path), ["left"]);
}

#[tokio::test]
async fn children_that_do_not_leave_are_killed() {
    let (mut handler, pid) = at_work("trap '' TERM; while :; do sleep 1000; done", Duration::from_millis(20)).await;
    tokio::time::timeout(PATIENCE, handler.closer().close()).await.expect("it does not leave");
    assert!(!exists(&pid));
}

#[tokio::test]
async fn dropping_the_handler_ends_its_children() {
    let (handler, pid) = at_work("sleep 1000", Duration::from_millis(20)).await;
    drop(handler);
    until("the child is gone", || !exists(&pid)).await;
}

#[tokio::test]
async fn many_rows_go_through_few_children() {
    let echo = script_with("while next; do succeed; done", &[], StreamOptions { children: 3, window: 4, ..options() });
    let mut running = JoinSet::new();
    for line in 1..=500 {
        let echo = echo.clone();
        running.spawn(async move { (line, echo.run(row(line, &line.to_string()), Canceller::new().1).await) });
    }
    let all = async {
        while let Some(done) = running.join_next().await {
            let (line, answer) = done.unwrap();
            assert_eq!(answer, success(&line.to_string()));
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("rows hang");
}

// Through the command line.

struct Place(tempfile::TempDir);

impl Place {
    fn new(rows: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("rows.csv"), rows).unwrap();
        Self(folder)
    }

    fn command(&self, arguments: &[&str], script: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencepost"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FENCEPOST_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.0.path()).env("XDG_STATE_HOME", self.0.path());
        command.current_dir(self.0.path()).stdin(Stdio::null()).args(arguments).args(["--", "sh", "-c"]);
        command.arg(format!("{BASICS}{script}"));
        command
    }

    fn run(&self, arguments: &[&str], script: &str) -> Output {
        self.command(&[&["run", "rows.csv"], arguments].concat(), script).output().unwrap()
    }
}

fn results(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn run_brings_a_file_through_a_stream() {
    let rows: String = (1..=300).map(|n| format!("{n}\n")).collect();
    let place = Place::new(&format!("n\n{rows}"));
    let output = place.run(&["--stream", "--stream-children", "2"], "while next; do succeed; done");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = results(&output);
    assert_eq!(results.len(), 300);
    assert!(
        results.iter().zip(1..).all(|(result, n)| result["result"]["n"].as_str() == Some(&*n.to_string())),
        "{:?}",
        results[0]
    );
}

#[test]
fn a_row_that_always_kills_its_child_fails_alone() {
    let place = Place::new("n\none\ntwo\nthree\nfour\n");
    let script = r#"while next; do case $input in *three*) echo it hurts >&2; kill -9 $$ ;; esac; succeed; done"#;
    let output = place.run(&["--stream", "--workers", "1", "--max-attempts", "2"], script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("it hurts") && stderr.contains("the stream child died (signal 9)"), "{stderr}");
    let statuses: Vec<_> = results(&output).iter().map(|result| result["status"].clone()).collect();
    assert_eq!(statuses, ["success", "success", "failed", "success"]);
}

#[test]
fn a_row_that_times_out_does_not_stop_the_others() {
    let place = Place::new("n\none\ntwo\nthree\n");
    let script = "while next; do case $input in *two*) exec sleep 1000 ;; esac; succeed; done";
    let output =
        place.run(&["--stream", "--window", "1", "--workers", "1", "--max-attempts", "1", "--timeout", "6s"], script);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let results = results(&output);
    assert_eq!(results.iter().filter(|result| result["status"] == "failed").count(), 1, "{results:?}");
    assert_eq!(results[1]["status"], "failed");
}

#[test]
fn stream_options_are_checked_before_the_first_row() {
    let place = Place::new("n\none\n");
    let output = place.command(&["run", "rows.csv", "--stream", "--window", "0"], "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let mut missing = Command::new(env!("CARGO_BIN_EXE_fencepost"));
    missing.current_dir(place.0.path()).env("XDG_STATE_HOME", place.0.path());
    let output = missing.args(["run", "rows.csv", "--stream", "--", "no-such-program-here"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-program-here"));
}

#[test]
fn the_guard_kills_the_children_of_a_killed_worker() {
    let place = Place::new("n\none\n");
    let submit = Command::new(env!("CARGO_BIN_EXE_fencepost"))
        .args(["submit", "rows.csv", "--store", "s.db"])
        .current_dir(place.0.path())
        .status()
        .unwrap();
    assert!(submit.success());
    // The child alone holds the pipe, so its end is the child's.
    let (_folder, pipe) = gate();
    let script = format!("next; exec 3>'{}'; echo up >&3; exec sleep 1000", pipe.display());
    let mut worker = place.command(&["worker", "--store", "s.db", "--stream"], &script).spawn().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(File::open(pipe).unwrap()).lines() {
            sender.send(line.unwrap()).unwrap();
        }
    });
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "up");
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(lines.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn children_see_the_environment_but_for_names_with_passwords_in_them() {
    let place = Place::new("n\none\n");
    let script = r#"while next; do say success "\"result\":\"$OTHER$FENCEPOST_STORE$FENCEPOST_REDIS\""; done"#;
    let mut command = place.command(&["run", "rows.csv", "--stream", "--workers", "1"], script);
    command.env("OTHER", "seen").env("FENCEPOST_STORE", "s.db").env("FENCEPOST_REDIS", "redis://127.0.0.1:1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(results(&output)[0]["result"], "seen");
}
