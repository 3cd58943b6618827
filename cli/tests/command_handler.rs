//! The command handler with real processes.
//!
//! Whether processes are gone is seen at a pipe they all hold: it ends when the last of them does.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fencepost::handler::command::{CommandError, CommandHandler, CommandOptions};
use fencepost::handler::sleep::SleepHandler;
use fencepost::handler::{CancelToken, Canceller, Handler, HandlerAnswer, Row};
use fencepost_core::{BatchId, Token};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::support::until::until;

mod support {
    pub mod until;
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than any pipe holds, so it is not all written before the command reads.
const MORE_THAN_A_PIPE: usize = 300_000;

fn options() -> CommandOptions {
    CommandOptions::new(env!("CARGO_BIN_EXE_fencepost"))
}

fn handler_with(command: &[&str], options: CommandOptions) -> CommandHandler {
    CommandHandler::new(command[0], &command[1..], options).unwrap()
}

fn handler(command: &[&str]) -> CommandHandler {
    handler_with(command, options())
}

/// A script with `$0` and on from `arguments`.
fn script(script: &str, arguments: &[&Path]) -> CommandHandler {
    script_with(script, arguments, options())
}

fn script_with(script: &str, arguments: &[&Path], options: CommandOptions) -> CommandHandler {
    let mut command: Vec<OsString> = vec!["-c".into(), script.into()];
    command.extend(arguments.iter().map(|argument| argument.as_os_str().to_owned()));
    CommandHandler::new("sh", command, options).unwrap()
}

fn row(input: &str) -> Row {
    Row { batch: BatchId::from_random(7), line: 12, attempt: 3, token: Token(99), input: input.into() }
}

/// Never fires: its canceller is gone.
fn never() -> CancelToken {
    Canceller::new().1
}

async fn answer(handler: &CommandHandler, input: &str) -> HandlerAnswer {
    tokio::time::timeout(PATIENCE, handler.run(row(input), never())).await.expect("the row hangs")
}

async fn script_answer(text: &str) -> HandlerAnswer {
    answer(&script(text, &[]), "{}").await
}

fn success(result: &str) -> HandlerAnswer {
    HandlerAnswer::Success(result.into())
}

fn failed(answer: HandlerAnswer) -> Box<str> {
    match answer {
        HandlerAnswer::Failed(error) => error,
        other => panic!("not failed but {other:?}"),
    }
}

fn retry(answer: HandlerAnswer) -> Box<str> {
    match answer {
        HandlerAnswer::Retry(error) => error,
        other => panic!("not to be retried but {other:?}"),
    }
}

/// The lines that a set of processes writes, and the end when all of them are gone.
struct Watch {
    lines: mpsc::UnboundedReceiver<String>,
}

impl Watch {
    fn new(open: impl FnOnce() -> File + Send + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(open()).lines() {
                if sender.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        Self { lines }
    }

    /// For processes that open `name` in `folder` as a pipe to write to.
    fn at(folder: &tempfile::TempDir, name: &str) -> (Self, PathBuf) {
        let path = folder.path().join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let fifo = path.clone();
        (Self::new(move || File::open(fifo).unwrap()), path)
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await.expect("nothing is written");
        line.expect("the processes are gone")
    }

    async fn end(&mut self) {
        let end = async { while self.lines.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("processes are left");
    }
}

// What a command gets and answers.

#[tokio::test]
async fn the_row_is_stdin_and_stdout_is_the_result() {
    let cat = handler(&["cat"]);
    for input in [r#"{"a": 1.0}"#, "[1, 2]", "\"x\"", "null"] {
        assert_eq!(answer(&cat, input).await, success(input));
    }
    assert_eq!(script_answer("echo hello").await, success("\"hello\""));
    assert_eq!(script_answer("true").await, success("null"));
    assert_eq!(script_answer(r"printf 'a\377b'").await, success("\"a\u{fffd}b\""));
    assert_eq!(script_answer("read line; echo $line").await, success("{}"));
}

#[tokio::test]
async fn a_large_row_is_written_while_the_output_is_read() {
    let large = format!("\"{}\"", "x".repeat(900_000));
    assert_eq!(answer(&handler(&["cat"]), &large).await, success(&large));
    // Around the size that a fresh pipe takes at once.
    for length in [4093, 4094, 4095, 4096, 65_533, 65_534, 65_535] {
        let input = format!("\"{}\"", "x".repeat(length - 2));
        assert_eq!(answer(&handler(&["cat"]), &input).await, success(&input), "{length}");
    }
}

#[tokio::test]
async fn a_command_need_not_read_its_row() {
    let large = format!("\"{}\"", "x".repeat(MORE_THAN_A_PIPE));
    assert_eq!(answer(&handler(&["true"]), &large).await, success("null"));
    assert_eq!(answer(&script("exec <&-; echo 1", &[]), &large).await, success("1"));
}

#[tokio::test]
async fn the_environment_names_the_run() {
    let show = "echo \"$FENCEPOST_BATCH $FENCEPOST_LINE $FENCEPOST_ATTEMPT $FENCEPOST_TOKEN $IDEMPOTENCY_KEY\"; env >&2; exit 75";
    let this = row("{}");
    let show_only = show.split(';').next().unwrap();
    let expected = format!("\"{} 12 3 99 {}\"", this.batch, this.idempotency_key());
    assert_eq!(script_answer(show_only).await, success(&expected));
    let environment = retry(script_answer(show).await);
    assert!(!environment.contains("FENCEPOST_IS_GUARD"), "{environment}");
}

#[tokio::test]
async fn exit_codes_decide() {
    assert_eq!(&*retry(script_answer("exit 75").await), "exit code 75");
    assert_eq!(&*failed(script_answer("exit 65").await), "exit code 65");
    assert_eq!(&*retry(script_answer("echo 1; exit 3").await), "exit code 3");
    assert_eq!(&*retry(script_answer("kill -9 $$").await), "killed by signal 9");
    assert_eq!(&*retry(script_answer("kill -15 $$").await), "killed by signal 15");
}

#[tokio::test]
async fn the_end_of_stderr_is_the_error() {
    assert_eq!(&*failed(script_answer("echo one >&2; echo two >&2; exit 65").await), "exit code 65\none\ntwo");
    assert_eq!(script_answer("echo noise >&2; echo 1").await, success("1"));
    let error = retry(script_answer("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done >&2; exit 3").await);
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1], lines[20]), (21, "exit code 3", "line 2981", "line 3000"));
    // Much of it, and at once with stdout.
    let both = "head -c 500000 /dev/zero | tr '\\0' e >&2 & head -c 500000 /dev/zero | tr '\\0' o; wait; exit 4";
    let error = retry(script_answer(both).await);
    assert!(error.starts_with("exit code 4\nee") && error.len() < 5000, "{}", error.len());
}

#[tokio::test]
async fn a_result_over_the_limit_fails_the_row() {
    let limited = |script: &str| script_with(script, &[], CommandOptions { result_limit: 1000, ..options() });
    let exact = "head -c 1000 /dev/zero | tr '\\0' 1";
    assert_eq!(answer(&limited(exact), "{}").await, success(&"1".repeat(1000)));
    let over = failed(answer(&limited("head -c 1001 /dev/zero | tr '\\0' 1"), "{}").await);
    assert!(over.contains("limit of 1000 bytes") && over.contains("--max-result-bytes"), "{over}");
    // It would never end by itself, and its exit code does not matter.
    let endless =
        failed(answer(&limited("echo why >&2; trap '' TERM PIPE; while :; do echo xxxxxxxx; done"), "{}").await);
    assert!(endless.contains("limit of 1000 bytes") && endless.ends_with("\nwhy"), "{endless}");
}

#[tokio::test]
async fn a_result_that_no_store_keeps_fails_the_row() {
    for script in [r#"echo '"\u0000"'"#, r"printf 'a\000b'"] {
        let error = failed(script_answer(script).await);
        assert!(error.contains("U+0000"), "{error}");
    }
    let error = failed(answer(&handler(&["printf", "%s", r#""\ud800""#]), "{}").await);
    assert!(error.contains("surrogate"), "{error}");
}

#[tokio::test]
async fn placeholders_are_filled_from_the_row() {
    let print = handler(&["printf", "%s|", "{name}", "n={n}", "{{n}}", "{print $1}", r#"{"a":1}"#]);
    assert_eq!(print.columns().into_iter().collect::<Vec<_>>(), ["n", "name"]);
    let out = answer(&print, r#"{"name":"Ada L; rm -rf '*'","n":1.50}"#).await;
    assert_eq!(out, success(r#""Ada L; rm -rf '*'|n=1.50|{n}|{print $1}|{\"a\":1}|""#));

    let error = failed(answer(&print, r#"{"name":"x","m":1}"#).await);
    assert!(error.contains("`n`") && error.contains("name, m"), "{error}");
    let error = failed(answer(&print, "[1]").await);
    assert!(error.contains("an array"), "{error}");
    let error = failed(answer(&print, r#"{"name":"x\u0000","n":1}"#).await);
    assert!(error.contains("NUL"), "{error}");
    // More than the kernel takes in one argument.
    let error = failed(answer(&print, &format!(r#"{{"n":1,"name":"{}"}}"#, "x".repeat(1 << 20))).await);
    assert!(error.contains("too long"), "{error}");
}

// Finding the program.

#[test]
fn a_missing_command_is_found_before_the_first_row() {
    let folder = tempfile::tempdir().unwrap();
    let new = |program: &Path| CommandHandler::new(program, ["x"], options()).unwrap_err();
    let error = new(Path::new("no-such-command-anywhere"));
    assert!(matches!(&error, CommandError::NotInPath { .. }) && error.to_string().contains("PATH"), "{error}");
    assert!(matches!(new(&folder.path().join("x")), CommandError::NoSuchFile { .. }));
    assert!(matches!(new(folder.path()), CommandError::NotAFile { .. }));
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let error = new(&plain);
    assert!(matches!(&error, CommandError::NotExecutable { .. }) && error.to_string().contains("chmod +x"), "{error}");
    assert!(matches!(CommandHandler::new("cat", ["a\0b"], options()), Err(CommandError::NulInCommand(_))));
}

#[tokio::test]
async fn a_command_that_cannot_start_is_retried_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "echo 1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let handler = CommandHandler::new(&script, [""; 0], options()).unwrap();
    let error = retry(answer(&handler, "{}").await);
    assert!(error.contains("#!/bin/sh"), "{error}");
    fs::remove_file(&script).unwrap();
    let error = retry(answer(&handler, "{}").await);
    assert!(error.contains(&*script.to_string_lossy()), "{error}");
}

// Cancelling.

/// Runs a command until it has written a line to the pipe `$0`, then cancels it.
async fn cancelled(handler: CommandHandler, mut watch: Watch, input: &str) -> HandlerAnswer {
    let (canceller, token) = Canceller::new();
    let row = row(input);
    let run = tokio::spawn(async move { handler.run(row, token).await });
    watch.line().await;
    canceller.cancel();
    let answer = tokio::time::timeout(PATIENCE, run).await.expect("the row hangs").unwrap();
    watch.end().await;
    answer
}

#[tokio::test]
async fn cancelling_reaches_the_whole_group() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("plain", "exec 3>$0; sleep 1000 & sh -c 'sleep 1000 & echo up >&3; sleep 1000'"),
        // With a group of their own, but below the command.
        ("moved", "exec 3>$0; timeout 1000 sh -c 'echo up >&3; sleep 1000'; true"),
        ("replaced", "exec 3>$0; exec timeout 1000 sh -c 'echo up >&3; sleep 1000'"),
        ("session", "exec 3>$0; exec setsid sh -c 'echo up >&3; sleep 1000'"),
    ] {
        let (watch, pipe) = Watch::at(&folder, name);
        // Long enough to see that SIGTERM did it.
        let options = CommandOptions { kill_after: PATIENCE * 2, ..options() };
        assert_eq!(
            cancelled(script_with(text, &[&pipe], options), watch, "{}").await,
            HandlerAnswer::Cancelled,
            "{name}"
        );
    }
}

#[tokio::test]
async fn who_does_not_heed_sigterm_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("plain", "trap '' TERM; exec 3>$0; sh -c 'echo up >&3; sleep 1000'; true"),
        (
            "moved",
            "trap '' TERM; exec 3>$0; timeout 1000 sh -c 'trap \"\" TERM; echo up >&3; sleep 1000; sleep 1000'; false",
        ),
        // Whose parent is gone before it is killed.
        ("orphaned", "exec 3>$0; setsid -w sh -c 'trap \"\" TERM; sleep 1000 & echo up >&3; sleep 1000'; true"),
        ("session", "trap '' TERM; exec 3>$0; setsid -w sh -c 'sleep 1000 & echo up >&3; sleep 1000'; true"),
    ] {
        let (watch, pipe) = Watch::at(&folder, name);
        let options = CommandOptions { kill_after: Duration::from_millis(20), ..options() };
        assert_eq!(
            cancelled(script_with(text, &[&pipe], options), watch, "{}").await,
            HandlerAnswer::Cancelled,
            "{name}"
        );
    }
}

#[tokio::test]
async fn who_finishes_in_spite_of_being_cancelled_has_its_say() {
    let folder = tempfile::tempdir().unwrap();
    let (watch, pipe) = Watch::at(&folder, "zero");
    let text = "trap 'echo 5; exit 0' TERM; exec 3>$0; echo up >&3; sleep 1000 & wait";
    let options = || CommandOptions { kill_after: PATIENCE, ..options() };
    assert_eq!(cancelled(script_with(text, &[&pipe], options()), watch, "{}").await, success("5"));
    let (watch, pipe) = Watch::at(&folder, "other");
    let text = text.replace("exit 0", "exit 65");
    assert_eq!(cancelled(script_with(&text, &[&pipe], options()), watch, "{}").await, HandlerAnswer::Cancelled);
}

#[tokio::test]
async fn a_cancelled_row_does_not_start() {
    let (canceller, token) = Canceller::new();
    canceller.cancel();
    let handler = handler(&["true"]);
    assert_eq!(handler.run(row("{}"), token).await, HandlerAnswer::Cancelled);
    assert_eq!(handler.guard_pid(), None);
}

#[tokio::test]
async fn an_abandoned_run_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (mut watch, pipe) = Watch::at(&folder, "pipe");
    let handler = script("trap '' TERM; exec 3>$0; setsid sh -c 'echo up >&3; sleep 1000'; sleep 1000", &[&pipe]);
    let run = tokio::spawn(async move { handler.run(row("{}"), never()).await });
    watch.line().await;
    run.abort();
    watch.end().await;
}

// What a command leaves behind.

#[tokio::test]
async fn children_that_outlive_the_command_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut watch, pipe) = Watch::at(&folder, "quiet");
    let handler = script("exec 3>$0; sleep 1000 >&3 2>&3 & echo up >&3; echo 1", &[&pipe]);
    assert_eq!(answer(&handler, "{}").await, success("1"));
    watch.end().await;

    // With the pipes open; the row must not wait for it.
    let (mut watch, pipe) = Watch::at(&folder, "holding");
    let handler = script("exec 3>$0; sleep 1000 & echo up >&3; echo 1", &[&pipe]);
    assert_eq!(answer(&handler, "{}").await, success("1"));
    watch.end().await;

    // Writing all the time.
    let (mut watch, pipe) = Watch::at(&folder, "writing");
    let handler = script("exec 3>$0; yes >&2 & echo up >&3; echo 1", &[&pipe]);
    assert_eq!(answer(&handler, "{}").await, success("1"));
    watch.end().await;
}

#[tokio::test]
async fn what_comes_soon_after_the_exit_still_counts() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    // The child reads until nobody can write any more: until its parent, the command, has exited.
    let handler = script("exec 3<>$0; (exec 4<$0; exec 3>&-; cat <&4; echo 2) & echo 1", &[&gate]);
    assert_eq!(answer(&handler, "{}").await, success("\"1\\n2\""));
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipes_does_not_hold_the_row() {
    let handler = script("setsid sleep 1000 & echo $!", &[]);
    let HandlerAnswer::Success(pid) = answer(&handler, "{}").await else { panic!("no success") };
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
}

// The guard.

#[tokio::test]
async fn the_guard_leaves_with_its_handler() {
    let handler = handler(&["true"]);
    handler.ready().await.unwrap();
    let guard = guard_of(&handler).unwrap();
    // `pkill -9 fencepost`, with or without -f, is not to find it.
    assert_eq!(fs::read_to_string(format!("/proc/{guard}/comm")).unwrap(), "fence-guard\n");
    assert_eq!(fs::read(format!("/proc/{guard}/cmdline")).unwrap(), b"fence-guard\0__guard\0");
    kill(guard, Signal::SIGTERM).unwrap();
    kill(guard, Signal::SIGINT).unwrap();
    kill(guard, Signal::SIGHUP).unwrap();
    assert_eq!(answer(&handler, "{}").await, success("null"));
    assert_eq!(guard_of(&handler), Some(guard));
    drop(handler);
    until("the guard is gone", || kill(guard, None).is_err()).await;
}

#[tokio::test]
async fn a_dead_guard_is_replaced() {
    let handler = script("echo $PPID", &[]);
    for _ in 0..5 {
        handler.ready().await.unwrap();
        kill(guard_of(&handler).unwrap(), Signal::SIGKILL).unwrap();
        assert_eq!(answer(&handler, "{}").await, success(&std::process::id().to_string()));
    }
}

#[tokio::test]
async fn a_program_that_is_no_guard_is_noticed() {
    for (guard, error) in
        [("/bin/true", "does not act as a guard"), ("/bin/yes", "does not act as a guard"), ("/nope", "cannot start")]
    {
        let handler = handler_with(&["true"], CommandOptions::new(guard));
        let found = handler.ready().await.unwrap_err().to_string();
        assert!(found.contains(error) && found.contains(guard), "{found}");
        assert!(retry(answer(&handler, "{}").await).contains(error));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_run_at_once() {
    let cat = Arc::new(handler(&["cat"]));
    let mut runs = JoinSet::new();
    for number in 0..100 {
        let cat = Arc::clone(&cat);
        runs.spawn(async move { (number, answer(&cat, &number.to_string()).await) });
    }
    while let Some(run) = runs.join_next().await {
        let (number, answer) = run.unwrap();
        assert_eq!(answer, success(&number.to_string()));
    }
}

fn guard_of(handler: &CommandHandler) -> Option<Pid> {
    handler.guard_pid().map(|pid| Pid::from_raw(pid.try_into().unwrap()))
}

// Workers of their own, which can be killed. This very program, with the variables below.

const WORKER_SCRIPT: &str = "TEST_WORKER_SCRIPT";
const WORKER_MODE: &str = "TEST_WORKER_MODE";
const WORKER_ROWS: u64 = 8;

/// Starts a worker whose file 3 all its processes inherit: the pipe ends when all of them have.
fn worker(script: &str, mode: &str, start: &str) -> (std::process::Child, Watch) {
    let mut worker = Command::new("sh")
        .args(["-c", &format!("{start} exec \"$0\" --exact worker_process --nocapture 3>&1 >/dev/null")])
        .arg(env::current_exe().unwrap())
        .env(WORKER_SCRIPT, script)
        .env(WORKER_MODE, mode)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(worker.stdout.take().unwrap()));
    (worker, Watch::new(|| pipe))
}

fn kill_worker(worker: &mut std::process::Child) {
    worker.kill().unwrap();
    worker.wait().unwrap();
}

/// What the tests of killed workers run as a process of its own; without their variable it is nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_process() {
    let Ok(text) = env::var(WORKER_SCRIPT) else { return };
    let say = |what: &str| writeln!(File::options().write(true).open("/dev/fd/3").unwrap(), "{what}").unwrap();
    let handler = Arc::new(script(&text, &[]));
    let mode = env::var(WORKER_MODE).unwrap();
    if mode == "answer" {
        return say(&format!("{:?}", answer(&handler, "{}").await));
    }
    let mut runs = JoinSet::new();
    for _ in 0..WORKER_ROWS {
        let handler = Arc::clone(&handler);
        // So long that the command has its end only when the worker has gone on to serve it.
        let input = format!("\"{}\"", "x".repeat(MORE_THAN_A_PIPE));
        runs.spawn(async move { handler.run(row(&input), never()).await });
    }
    if mode == "guard dies" {
        // The rows run once the test has seen their lines and answers by creating a file.
        let file = env::var("TEST_WORKER_GO").unwrap();
        until("it is told to go", || Path::new(&file).exists()).await;
        let first = guard_of(&handler).unwrap();
        kill(first, Signal::SIGKILL).unwrap();
        until("there is another guard", || guard_of(&handler).is_some_and(|guard| guard != first)).await;
        say("another guard");
    }
    while let Some(run) = runs.join_next().await {
        say(&format!("{run:?}"));
    }
}

#[tokio::test]
async fn a_killed_worker_takes_its_commands_along() {
    for text in [
        "cat >/dev/null; sleep 1000 & echo up >&3; sleep 1000",
        "cat >/dev/null; trap '' TERM HUP INT; sh -c 'sleep 1000 & echo up >&3; sleep 1000'; true",
        // With a group of their own.
        "exec timeout 1000 sh -c 'cat >/dev/null; echo up >&3; sleep 1000'",
        "cat | timeout 1000 sh -c 'cat >/dev/null; echo up >&3; sleep 1000'; true",
        "exec setsid sh -c 'cat >/dev/null; sleep 1000 & echo up >&3; sleep 1000'",
    ] {
        let (mut worker, mut watch) = worker(text, "rows", "");
        for _ in 0..WORKER_ROWS {
            assert_eq!(watch.line().await, "up");
        }
        kill_worker(&mut worker);
        watch.end().await;
    }
}

#[tokio::test]
async fn a_worker_killed_at_any_moment_leaves_no_command_running() {
    for round in 0..40 {
        let (mut worker, mut watch) = worker("echo up >&3; exec sleep 1000", "rows", "");
        // While it starts, or while its commands do.
        for _ in 0..round % (WORKER_ROWS + 1) {
            assert_eq!(watch.line().await, "up");
        }
        kill_worker(&mut worker);
        watch.end().await;
    }
}

#[tokio::test]
async fn the_next_guard_knows_the_running_rows() {
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    for text in [
        "cat >/dev/null; sleep 1000 & echo up >&3; sleep 1000",
        "exec timeout 1000 sh -c 'cat >/dev/null; echo up >&3; sleep 1000'",
    ] {
        let start = format!("export TEST_WORKER_GO='{}';", go.display());
        let (mut worker, mut watch) = worker(text, "guard dies", &start);
        for _ in 0..WORKER_ROWS {
            assert_eq!(watch.line().await, "up");
        }
        File::create(&go).unwrap();
        assert_eq!(watch.line().await, "another guard");
        kill_worker(&mut worker);
        watch.end().await;
        fs::remove_file(&go).unwrap();
    }
}

#[tokio::test]
async fn an_ignored_sigchld_does_not_lose_exit_codes() {
    let (mut worker, mut watch) = worker("echo why >&2; exit 65", "answer", "trap '' CHLD;");
    assert_eq!(watch.line().await, r#"Failed("exit code 65\nwhy")"#);
    watch.end().await;
    worker.wait().unwrap();
}

// The handler that sleeps.

#[tokio::test]
async fn the_sleeper_sleeps_or_is_cancelled() {
    let sleeper = SleepHandler { each: Duration::from_millis(1) };
    assert_eq!(sleeper.run(row("{}"), never()).await, success("null"));
    let (canceller, token) = Canceller::new();
    let run = tokio::spawn(async move { SleepHandler { each: PATIENCE * 100 }.run(row("{}"), token).await });
    canceller.cancel();
    assert_eq!(tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap(), HandlerAnswer::Cancelled);
}
