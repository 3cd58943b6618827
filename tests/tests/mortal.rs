//! Workers of tests that are killed do not stay behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use fencepost_tests::process::{fencepost, until};

#[test]
fn a_worker_ends_with_whoever_started_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path().join("store.db");
    let starting = std::thread::spawn(move || {
        let mut submit = fencepost();
        assert!(
            submit
                .args(["submit", "--rows", "1", "--store"])
                .arg(&store)
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        let mut worker = fencepost();
        worker.args(["worker", "--sleep", "1h", "--store"]).arg(&store);
        worker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut worker = worker.spawn().expect("it starts");
        // It has begun, so it knows whom it dies with.
        worker.stderr.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it says so");
        worker
    });
    let mut worker = starting.join().unwrap();
    let ended = until("the worker has ended", Duration::from_secs(60), || worker.try_wait().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
}
