//! `--redis` on the command line: what workers write and `status` shows.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use fencepost_tests::process::{Process, fencepost, fencepost_json, run_fencepost, submit, until};
use fencepost_tests::redis::{Keeps, Server};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn status_shows_what_redis_has_of_a_worker_until_it_leaves() {
    let server = Server::start(Keeps::Nothing);
    let url = server.url();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = dir.path().join("rows.db").to_str().expect("UTF-8").to_owned();
    let batch = submit(&store, &["--rows", "3"]);
    let mut command = fencepost();
    command.args([
        "worker",
        "--store",
        &store,
        "--sleep",
        "1h",
        "--concurrency",
        "2",
        "--name",
        "first",
        "--grace",
        "1s",
    ]);
    command.env("FENCEPOST_REDIS", &url).stdin(Stdio::null()).stderr(Stdio::null());
    let mut worker = Process::start(command);
    let status = || fencepost_json(["status", &batch, "--json", "--store", &store, "--redis", &url])["redis"].clone();
    let seen = until("its rows are in Redis", LIMIT, || {
        let redis = status();
        let running = redis["workers"][0]["running"][0]["lines"].clone();
        (running == serde_json::json!([[1, 2]])).then_some(redis)
    });
    assert_eq!((&seen["answers"], &seen["workers"][0]["doubt"]), (&true.into(), &"restarted".into()), "{seen}");
    let left = seen["workers"][0]["heartbeat_ms"].as_u64().expect("a heartbeat");
    assert!((1..=60_000).contains(&left), "{seen}");
    // The same by redis-cli.
    let key = |kind: &str| {
        let (prefix, id) = (seen["prefix"].as_str().unwrap(), seen["workers"][0]["id"].as_str().unwrap());
        format!("{prefix}{kind}:{id}")
    };
    assert_eq!(server.ask(&["GET", &key("heartbeat")]), "first");
    assert_eq!(server.ask(&["SMEMBERS", &key("running")]), format!("{batch}:1-2"));
    let text = run_fencepost(["status", &batch, "--store", &store, "--redis", &url]);
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    for says in [format!("Redis {url} "), "  first: heartbeat, ".to_owned(), "Running: [1-2]".to_owned()] {
        assert!(text.contains(&says), "{says:?} is not in\n{text}");
    }
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait(LIMIT).success());
    assert_eq!(server.ask(&["EXISTS", &key("heartbeat"), &key("running")]), "0");
}

#[test]
fn status_says_that_redis_does_not_answer_and_shows_the_rest() {
    let mut server = Server::start(Keeps::Nothing);
    server.stop();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = dir.path().join("rows.db").to_str().expect("UTF-8").to_owned();
    let batch = submit(&store, &["--rows", "3"]);
    let url = server.url().replace("redis://", "redis://:secret@");
    let status = fencepost_json(["status", &batch, "--json", "--store", &store, "--redis", &url]);
    assert_eq!((&status["redis"]["answers"], &status["counts"]["queued"]), (&false.into(), &3.into()));
    assert!(status["redis"]["error"].as_str().expect("a text").contains("refused"), "{status}");
    assert!(!status.to_string().contains("secret"), "{status}");
}

/// People wait longer for a slow one than workers do, and not for ever for one that is there and says nothing.
#[test]
fn status_waits_three_seconds_for_a_redis_and_shows_the_rest() {
    let server = Server::start(Keeps::Nothing);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = dir.path().join("rows.db").to_str().expect("UTF-8").to_owned();
    let batch = submit(&store, &["--rows", "3"]);
    let said = dir.path().join("said");
    let status = || -> serde_json::Value {
        let mut command = fencepost();
        command.args(["status", &batch, "--json", "--store", &store, "--redis", &server.url()]);
        command.stdin(Stdio::null()).stdout(File::create(&said).expect("a file"));
        assert!(Process::start(command).wait(LIMIT).success());
        serde_json::from_str(&std::fs::read_to_string(&said).expect("a text")).expect("JSON")
    };
    // Longer than any worker waits.
    server.lag(Duration::from_millis(1500));
    assert_eq!(status()["redis"]["answers"], true);
    server.lag(LIMIT * 10);
    let status = status();
    assert_eq!((&status["redis"]["answers"], &status["counts"]["queued"]), (&false.into(), &3.into()));
    assert!(status["redis"]["error"].as_str().expect("a text").contains("within 3s"), "{status}");
}

#[test]
fn a_run_s_workers_have_its_redis_and_not_on_their_command_lines() {
    let server = Server::start(Keeps::Nothing);
    server.ask(&["CONFIG", "SET", "requirepass", "sesame"]);
    let url = server.url().replace("redis://", "redis://:sesame@");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let input = dir.path().join("rows.csv");
    std::fs::write(&input, "n\n1\n2\n").expect("it can be written");
    std::fs::write(dir.path().join("fencepost.toml"), format!("redis = \"{url}\"\nstore = \"rows.db\"\n")).unwrap();
    let log = dir.path().join("log");
    let mut command = fencepost();
    command.current_dir(dir.path()).args(["run", "rows.csv", "--workers", "2", "--sleep", "1h", "--grace", "1s"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
    let mut run = Process::start(command);
    let cli = |command: &[&str]| server.ask(&[&["--no-auth-warning", "-a", "sesame"], command].concat());
    until("both workers have heartbeats", LIMIT, || {
        let keys = cli(&["KEYS", "fencepost:*:heartbeat:*"]);
        (keys.lines().filter(|key| key.contains("heartbeat")).count() == 2).then_some(())
    });
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!(line.contains("--supervised") && line.contains("sesame")), "{line}");
    }
    run.signal(Signal::SIGTERM);
    run.wait(LIMIT);
    until("no heartbeat is left", LIMIT, || (!cli(&["KEYS", "fencepost:*"]).contains("heartbeat")).then_some(()));
    assert!(!std::fs::read_to_string(&log).expect("a log").contains("sesame"));
}

#[test]
fn a_name_that_is_no_redis_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = dir.path().join("rows.db").to_str().expect("UTF-8").to_owned();
    for (url, says) in [
        ("http://host", "begins with none of redis://"),
        ("redis://:secret@a,b", "several hosts are for"),
        ("rediss://host?ca=/nowhere.pem", "cannot read the certificates in /nowhere.pem"),
    ] {
        let output = run_fencepost(["worker", "--store", &store, "--redis", url, "--sleep", "1s", "--until-done"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says) && !said.contains("secret"), "{said}");
    }
}
