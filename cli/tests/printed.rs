//! What every command prints, text and JSON, as snapshots of the program's own output. What differs from run to run (ids,
//! times, processes, names of hosts, tokens) is replaced.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, mkfifo};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use self::support::place::{FAILS_TWO, Place, ROWS, code};

mod support {
    pub mod place;
}

/// What takes longer does not come.
const LIMIT: Duration = Duration::from_secs(60);

/// What differs from run to run, and what stands for it.
const FILTERS: [(&str, &str); 18] = [
    (r#"[^\s"]*/\.tmp\w{6}\b"#, "[DIR]"),
    (r"\[\d\d:\d\d:\d\d\]", "[hh:mm:ss]"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD hh:mm:ss"),
    (r#""time":"[^"]+""#, r#""time":"[TIME]""#),
    // Ids: 8 characters of a batch, 12 of a lease, 5 behind host and process of a worker.
    (r"\b([Bb]atch:?|Batch ID:|fencepost (?:results|status|rows)) [0-9a-z]{8}\b", "$1 [BATCH]"),
    (r#"("id":\s*|"batch":\s*)"[0-9a-z]{8}""#, r#"$1"[BATCH]""#),
    (r"(?m)^[0-9a-z]{8} ( (?:loading|open|held|success|failed|aborted) )", "[BATCH] $1"),
    (r"Lease [0-9a-z]{12}\b", "Lease [LEASE]"),
    (r#"("id":\s*|"lease":\s*)"[0-9a-z]{12}""#, r#"$1"[LEASE]""#),
    (r"[\w.-]+-\d+-[0-9a-z]{5}\b", "[WORKER]"),
    (r"PID:( +)\d+", "PID:$1[PID]"),
    (r"\(process \d+", "(process [PID]"),
    (r"kill -9 \d+", "kill -9 [PID]"),
    (r#"("(?:token|pid|run_us|at_us|seen_s_ago)":\s*)\d+"#, "$1[N]"),
    (r"\btoken \d+( *)", "token [N]$1"),
    (r"(?m)([,\t])(w|\[WORKER\])([,\t])\d+$", "$1$2$3[TOKEN]"),
    (r"\d+\.\d{3} s\b", "[TIME] s"),
    (r" *\b\d+ s( ago|  )", " [N] s$1"),
];

/// Compares with the snapshot of this name.
fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    for (pattern, instead) in FILTERS {
        settings.add_filter(pattern, instead);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Both outputs and the exit code.
fn check_output(name: &str, output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    check(name, &format!("exit code {}\n--- stdout\n{stdout}--- stderr\n{stderr}", code(output)));
}

impl Place {
    /// With the three rows as `rows.csv`.
    fn with_rows() -> Self {
        let place = Self::new();
        place.write("rows.csv", ROWS);
        place
    }

    /// Runs a command to its end and compares what it prints.
    fn prints(&self, name: &str, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        check_output(name, &output);
        output
    }

    fn submit(&self, arguments: &[&str]) -> String {
        let answer = self.json(&[&["submit", "--json"], arguments].concat());
        answer["batch"].as_str().expect("an id").to_owned()
    }

    /// A pipe that a handler writes to, or merely has open.
    fn pipe(&self, name: &str) -> Pipe {
        let path = self.file(name);
        if !path.exists() {
            mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
        }
        let (tell, told) = mpsc::channel();
        // Opened once somebody opens it to write, read until all of those have closed it.
        std::thread::spawn(move || tell.send(std::fs::read_to_string(path)));
        Pipe(told)
    }

    /// A worker named `first` that was killed in the middle of the first row it took.
    fn killed_worker(&self) {
        let runs = self.pipe("runs");
        let first = self.start(&["worker", "--name", "first", "--", "sh", "-c", "echo up >runs; sleep 1000"]);
        runs.wait_for("up\n");
        first.signal(Signal::SIGKILL);
        first.end();
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments, &[]))
    }
}

/// What was written to a pipe.
struct Pipe(mpsc::Receiver<std::io::Result<String>>);

impl Pipe {
    fn wait_for(self, text: &str) {
        let said = self.0.recv_timeout(LIMIT).expect("nobody closes the pipe").expect("the pipe can be read");
        assert_eq!(said, text);
    }
}

/// A process whose lines are read as they come; killed when it is dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        // One pipe for both, so that the lines keep their order.
        let (from, to) = std::io::pipe().expect("a pipe");
        command.stdout(to.try_clone().expect("a descriptor")).stderr(to);
        let child = command.spawn().expect("fencepost starts");
        drop(command);
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                if tell.send(line.expect("UTF-8")).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: String::new() }
    }

    /// Reads until it has said this.
    fn until(&mut self, has_said: impl Fn(&str) -> bool) {
        while !has_said(&self.said) {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("it says only\n{}", self.said));
            self.said += &format!("{line}\n");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("it was not waited for yet");
    }

    /// Stops it, but not inside a write to the store: nobody else could write until it goes on.
    fn stop_outside_writes(&self, store: &Path) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let options = SqliteConnectOptions::new().filename(store).busy_timeout(LIMIT);
        let mut conn = runtime.block_on(SqliteConnection::connect_with(&options)).expect("the store opens");
        runtime.block_on(sqlx::raw_sql("begin immediate").execute(&mut conn)).expect("the lock is given");
        self.signal(Signal::SIGSTOP);
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).expect("it stands still");
        runtime.block_on(conn.close()).expect("it closes");
    }

    /// All that it has said, and its exit code, once it has ended.
    fn end(mut self) -> (String, Option<i32>) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.said += &format!("{line}\n");
        }
        (std::mem::take(&mut self.said), self.child.wait().expect("it ends").code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker's log with the lines of each row together: a row's end is told once it is recorded, when the next may have
/// started; and the judge speaks from a thread of its own.
fn by_row(log: &str) -> String {
    let number = |text: &str, before: &str| {
        let digits: String = text.split_once(before)?.1.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_by_key(|line| {
        let row = number(line, "] Row ").or_else(|| number(line, "\"line\":"));
        let recovery = line.contains(" is dead (") || line.contains("\"recovered\"");
        (row.unwrap_or(0), recovery)
    });
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The first run of row 1 is to be tried again, row 2 fails, the others succeed.
const EVENTFUL: [&str; 6] = [
    "--",
    "sh",
    "-c",
    "case $FENCEPOST_LINE:$FENCEPOST_ATTEMPT in 1:1) echo not now >&2; exit 75;; 2:*) echo never >&2; exit 65;; esac",
    "sh",
    "{n}",
];

#[test]
fn submit() {
    let place = Place::with_rows();
    place.prints("submit", &["submit", "rows.csv"]);
    place.prints("submit_quiet", &["submit", "rows.csv", "--quiet"]);
    place.prints("submit_under_a_key", &["submit", "rows.csv", "--key", "k", "--op", "mail", "--store", "rows.db"]);
    place.prints("submit_repeated", &["submit", "rows.csv", "--key", "k", "--op", "mail", "--store", "rows.db"]);
    place.prints("submit_json", &["submit", "--rows", "7", "--key", "k", "--json"]);
    place.prints("submit_json_repeated", &["submit", "--rows", "7", "--key", "k", "--json"]);
    place.prints("submit_differs", &["submit", "rows.csv", "--key", "k"]);
    place.prints("submit_differs_json", &["submit", "rows.csv", "--key", "k", "--json"]);
}

#[test]
fn run() {
    let place = Place::with_rows();
    let echo = ["run", "rows.csv", "--workers", "1", "--", "echo", "{name}"];
    place.prints("run", &echo);
    place.prints("run_done_before", &echo);
    place.prints("run_quiet", &[&["--quiet"], &echo[..]].concat());
    place.prints("run_to_a_file", &[&["run", "rows.csv", "-o", "out.csv", "--format", "csv"], &FAILS_TWO[..]].concat());
    let table = std::fs::read_to_string(place.file("out.csv")).expect("results");
    check("run_s_file", &table);
}

#[test]
fn a_run_that_is_interrupted_and_gone_on_with() {
    let place = Place::with_rows();
    let script = "test -e go || { echo up >runs; sleep 1000; }; echo $1";
    let run = ["run", "rows.csv", "--workers", "1", "--grace", "0s", "--", "sh", "-c", script, "sh", "{name}"];
    let runs = place.pipe("runs");
    let running = place.start(&run);
    runs.wait_for("up\n");
    running.signal(Signal::SIGTERM);
    let (said, code) = running.end();
    check("run_interrupted", &format!("{said}exit code {code:?}\n"));
    place.write("go", "");
    place.prints("run_gone_on_with", &run);
}

#[test]
fn wait() {
    let place = Place::with_rows();
    let batch = place.submit(&["rows.csv"]);
    place.prints("wait_in_vain", &["wait", &batch, "--timeout", "10ms"]);
    place.run(&[&["worker", "--until-done", "--quiet"], &FAILS_TWO[..]].concat());
    place.prints("wait_failed_rows", &["wait", &batch]);
    let empty = place.submit(&["--rows", "0"]);
    place.prints("wait_done", &["wait", &empty]);
    place.prints("wait_unknown", &["wait", "zzzzzzzz"]);
}

#[test]
fn hints_name_the_store() {
    let place = Place::with_rows();
    let store = ["--store", "my rows.db"];
    let prints =
        |name: &str, arguments: &[&str]| place.prints(name, &[&arguments[..1], &store, &arguments[1..]].concat());
    prints("hint_submit", &["submit", "rows.csv"]);
    place.ok(&[&["worker", "--until-done", "--quiet", "--sleep", "0s"], &store[..]].concat());
    prints("hint_run", &[&["run", "rows.csv", "--workers", "1", "-o", "out.csv"], &FAILS_TWO[..]].concat());
    let batch = place.submit(&["--rows", "3", "--store", "my rows.db"]);
    prints("hint_rows", &["rows", &batch, "--limit", "2", "--status", "queued"]);
    prints("hint_row", &["rows", &batch, "--line", "4"]);
    prints("hint_wait", &["wait", &batch, "--timeout", "10ms"]);
    prints("hint_batch", &["results", "zzzzzzzz"]);
    prints("hint_workers", &["workers"]);
    // A store that has never had a batch.
    place.ok(&["worker", "--until-done", "--quiet", "--sleep", "0s", "--store", "my rows 2.db"]);
    place.prints("hint_list", &["list", "--store", "my rows 2.db"]);
    place.prints("hint_status", &["status", "--store", "my rows 2.db"]);
}

#[test]
fn a_worker_s_log() {
    for (name, form) in [("worker_text", "text"), ("worker_json", "json"), ("worker_quiet", "quiet")] {
        let place = Place::with_rows();
        place.submit(&["rows.csv"]);
        let worker = place.run(&[&["worker", "--until-done", "--log", form], &EVENTFUL[..]].concat());
        assert_eq!((code(&worker), worker.stdout.len()), (0, 0));
        check(name, &by_row(&String::from_utf8_lossy(&worker.stderr)));
    }
}

#[test]
fn a_worker_s_log_of_a_recovery() {
    for (name, form) in [("worker_recovers_text", "text"), ("worker_recovers_json", "json")] {
        let place = Place::new();
        place.submit(&["--rows", "1"]);
        place.killed_worker();
        let second = ["worker", "--until-done", "--sleep", "0s", "--log", form];
        let worker = place.run(&second);
        assert_eq!(code(&worker), 0);
        check(name, &by_row(&String::from_utf8_lossy(&worker.stderr)));
    }
}

#[test]
fn a_worker_s_log_of_a_late_answer() {
    for (name, form) in [("worker_fenced_text", "text"), ("worker_fenced_json", "json")] {
        let place = Place::new();
        place.submit(&["--rows", "1"]);
        mkfifo(&place.file("go"), Mode::S_IRWXU).expect("a pipe");
        let (runs, ended) = (place.pipe("runs"), place.pipe("ended"));
        let script = "exec 3>ended; echo up >runs; read go <go; echo late";
        let first = ["worker", "--name", "first", "--ttl", "1s", "--log", form, "--", "sh", "-c", script];
        let mut first = place.start(&first);
        runs.wait_for("up\n");
        first.stop_outside_writes(&place.file("state/fencepost/fencepost.db"));
        // Ends once it has found the first one silent, and done its row.
        place.ok(&["worker", "--until-done", "--quiet", "--sleep", "0s"]);
        place.write("go", "\n");
        ended.wait_for("");
        first.signal(Signal::SIGCONT);
        let taken = if form == "text" { " taken\n" } else { "\"lease_taken\"" };
        first.until(|said| said.matches(taken).count() == 2 && said.to_lowercase().contains("fenced"));
        first.signal(Signal::SIGTERM);
        let (said, code) = first.end();
        assert_eq!(code, Some(0), "{said}");
        // Whether it first sees that its time is over, or that it was declared dead, is chance.
        let said: Vec<&str> =
            said.lines().filter(|line| !line.contains("ran out") && !line.contains("lapsed")).collect();
        check(name, &by_row(&said.join("\n")));
    }
}

#[test]
fn a_worker_that_is_told_to_leave_or_may_not_start() {
    let place = Place::new();
    // It is watched for somewhat more than half its ttl before the other gives up.
    let first = ["worker", "--name", "the-only-one", "--ttl", "3s", "--sleep", "0s"];
    let mut worker = place.start(&first);
    worker.until(|said| said.contains("taken"));
    place.prints("worker_of_a_name_in_use", &["worker", "--name", "the-only-one", "--sleep", "0s", "--log", "quiet"]);
    place.prints("worker_waits_for_its_name", &["worker", "--name", "the-only-one", "--sleep", "0s"]);
    worker.signal(Signal::SIGTERM);
    let (said, code) = worker.end();
    check("worker_leaves", &format!("{said}exit code {code:?}\n"));
}

#[test]
fn a_worker_that_finds_nothing_to_do() {
    let place = Place::new();
    place.prints("worker_without_a_batch", &["worker", "--until-done", "--sleep", "0s", "--store", "typo.db"]);
    let quiet = place.run(&["worker", "--until-done", "--sleep", "0s", "--log", "quiet"]);
    assert_eq!((code(&quiet), quiet.stderr.len()), (0, 0));
    place.submit(&["--rows", "1", "--op", "mail"]);
    let mut worker = place.start(&["worker", "--op", "typo", "--op", "slip", "--sleep", "0s"]);
    worker.until(|said| said.contains("taken"));
    worker.signal(Signal::SIGTERM);
    let (said, code) = worker.end();
    let line = said.lines().find(|line| line.starts_with("Waiting: ")).unwrap_or_else(|| panic!("{said}"));
    check("worker_of_operations_without_a_batch", &format!("{line}\nexit code {code:?}\n"));
}

#[test]
fn status_of_nothing_and_of_a_batch_without_a_worker() {
    let place = Place::new();
    place.prints("status_without_a_store", &["status"]);
    let batch = place.submit(&["--rows", "0", "--key", "none"]);
    place.prints("status_of_an_empty_batch", &["status"]);
    place.prints("status_json_of_an_empty_batch", &["status", &batch, "--json"]);
    let batch = place.submit(&["--rows", "3", "--key", "three"]);
    place.prints("status_without_a_worker", &["status", &batch]);
    place.prints("status_json_without_a_worker", &["status", &batch, "--json"]);
    place.prints("status_json_of_all", &["status", "--json"]);
    place.prints("status_unknown", &["status", "zzzzzzzz"]);
    place.prints("status_unknown_json", &["status", "zzzzzzzz", "--json"]);
}

#[test]
fn status_of_a_live_and_of_a_dead_worker() {
    let place = Place::new();
    let batch = place.submit(&["--rows", "3", "--key", "three"]);
    let runs = place.pipe("runs");
    let first = ["worker", "--name", "first", "--horizon", "0s", "--", "sh", "-c", "echo up >runs; sleep 1000"];
    let first = place.start(&first);
    runs.wait_for("up\n");
    place.prints("status_of_a_live_worker", &["status", &batch]);
    place.prints("status_json_of_a_live_worker", &["status", &batch, "--json"]);
    place.prints("workers_live", &["workers"]);
    first.signal(Signal::SIGKILL);
    first.end();
    place.prints("status_of_a_dead_worker", &["status", &batch]);
    place.prints("status_json_of_a_dead_worker", &["status", &batch, "--json"]);
    place.prints("workers_dead", &["workers"]);
    place.prints("workers_json", &["workers", "--json"]);
    place.prints("row_held", &["rows", &batch, "--line", "1"]);
    place.ok(&["worker", "--until-done", "--quiet", "--sleep", "0s"]);
    place.prints("status_with_nothing_to_recover", &["status", &batch]);
    place.prints("status_json_with_nothing_to_recover", &["status", &batch, "--json"]);
    place.prints("workers_recovered", &["workers"]);
    place.prints("row_recovered", &["rows", &batch, "--line", "1"]);
}

#[test]
fn status_watched() {
    let place = Place::new();
    for form in ["text", "json"] {
        let batch = place.submit(&["--rows", "2"]);
        let json: &[&str] = if form == "json" { &["--json"] } else { &[] };
        let mut watch = place.start(&[&["status", &batch, "--watch"], json].concat());
        let last_line = if form == "json" { "\"calls\":[]}\n" } else { "nothing to recover)\n" };
        watch.until(|said| said.contains(last_line));
        check(&format!("status_watch_{form}_begin"), &watch.said);
        place.ok(&["worker", "--until-done", "--quiet", "--sleep", "0s"]);
        let (said, code) = watch.end();
        assert_eq!(code, Some(0), "it ends with the batch");
        // However many reports it took. Whether the last one still shows the worker is chance.
        let end = if form == "json" {
            let mut last: serde_json::Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
            last["workers"] = "[WORKERS]".into();
            format!("{last}\n")
        } else {
            let last = said.rfind("Status Report").expect("a report");
            said[last..].split("Workers:").next().expect("the first part").to_owned()
        };
        check(&format!("status_watch_{form}_end"), &end);
    }
}

#[test]
fn lists_rows_and_results() {
    let place = Place::with_rows();
    place.prints("list_without_a_store", &["list"]);
    let batch = place.submit(&["rows.csv", "--key", "k"]);
    place.prints("list_open", &["list"]);
    place.prints("rows_queued", &["rows", &batch]);
    place.prints("row_queued", &["rows", &batch, "--line", "2"]);
    place.prints("results_of_an_open_batch", &["results", &batch]);
    place.run(&[&["worker", "--name", "w", "--until-done", "--quiet"], &EVENTFUL[..]].concat());
    place.prints("list", &["list"]);
    place.prints("list_json", &["list", "--json"]);
    place.prints("rows", &["rows", &batch]);
    place.prints("rows_json", &["rows", &batch, "--json"]);
    place.prints("rows_page", &["rows", &batch, "--after", "1", "--limit", "1"]);
    place.prints("rows_failed", &["rows", &batch, "--status", "failed"]);
    place.prints("rows_none", &["rows", &batch, "--status", "aborted"]);
    place.prints("row", &["rows", &batch, "--line", "1"]);
    place.prints("row_json", &["rows", &batch, "--line", "1", "--json"]);
    place.prints("row_failed", &["rows", &batch, "--line", "2"]);
    place.prints("row_unknown", &["rows", &batch, "--line", "4"]);
    place.prints("row_unknown_json", &["rows", &batch, "--line", "4", "--json"]);
    place.prints("results", &["results", &batch]);
    place.prints("results_csv", &["results", &batch, "--format", "csv"]);
    place.prints("results_tsv", &["results", &batch, "--format", "tsv"]);
    place.prints("results_failed", &["results", &batch, "--failed"]);
    place.prints("results_failed_csv", &["results", &batch, "--failed", "--format", "csv"]);
    place.prints("results_to_a_file", &["results", &batch, "-o", "out.jsonl"]);
    place.prints("workers_none", &["workers"]);
    place.prints("workers_none_json", &["workers", "--json"]);
}

#[test]
fn demo() {
    let place = Place::new();
    let output = place.run(&["demo"]);
    let said = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert_eq!(code(&output), 0, "{said}");
    let (acts, proof) = said.split_once("\n\n").expect("two parts");
    let (stage, workers): (Vec<&str>, Vec<&str>) = acts.lines().partition(|line| line.contains(">> "));
    // Which rows it is, and who takes them, is chance; what is said of them is not.
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\[ *\d+\.\d s\] ([ABC]\b)?", "[N s] ");
    settings.add_filter("recovered from worker-[AB]", "recovered from [WHO]");
    settings.add_filter(r"\d+ rows came back", "[N] rows came back");
    settings.add_filter(r"\b(rows?) +\d+( and \d+)?", "$1 [N]");
    settings.add_filter(r"has \d+ runs", "has [N] runs");
    settings.add_filter(r"row \[N\] under tokens \[[^\]]+\](, row \[N\] under tokens \[[^\]]+\])*", "[ROWS]");
    settings.add_filter(r"fence: [1-9]\d*", "fence: [N]");
    let _bound = settings.bind_to_scope();
    check("demo_stage", &format!("{}\n", stage.join("\n")));
    check("demo_proof", proof);
    for (name, says) in [
        ("demo_start", "started under"),
        ("demo_recovered_row", "<-- recovered"),
        ("demo_recorded", "recorded"),
        ("demo_declared_dead", "is gone)"),
        ("demo_declared_silent", "past its ttl)"),
        ("demo_fenced", "FENCED"),
    ] {
        let line = workers.iter().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{says:?}: {said}"));
        check(name, line);
    }
}

#[test]
fn help() {
    let place = Place::new();
    let commands = [
        "run",
        "submit",
        "worker",
        "status",
        "list",
        "rows",
        "results",
        "wait",
        "workers",
        "hold",
        "resume",
        "append",
        "abort",
        "retry",
        "errors",
        "migrate",
        "completions",
        "man",
        "demo",
    ];
    place.prints("help", &["--help"]);
    for command in commands {
        place.prints(&format!("help_{command}"), &[command, "--help"]);
    }
}
