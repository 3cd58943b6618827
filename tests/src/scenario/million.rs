//! Point 7 of the main job: a large submit in constant memory, while a worker's renewals stay in time.

use std::time::{Duration, Instant};

use super::STUCK;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, submit, until};

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long the submit took.
    pub took: Duration,
    /// Its peak of resident memory.
    pub peak_bytes: u64,
    /// The longest that the worker's lease went without a renewal.
    pub renewal_gap_max: Duration,
    /// The interval at which it should renew.
    pub renew: Duration,
}

/// Submits a JSONL file of so many rows while a worker with this ttl runs slow rows of another batch.
pub fn run(on: StoreKind, rows: u64, ttl: Duration) -> Outcome {
    let place = Place::new(on);
    let input = place.file("rows.jsonl");
    write_rows(&input, rows);
    let busy = submit(place.store(), &["--rows", "100000"]);
    let arguments = [format!("--ttl-ms={}", ttl.as_millis()), "--row-us=20000".to_owned()];
    let worker = place.worker(&arguments);
    let look = place.look();
    until("the worker works", STUCK, || (look.counts(&busy).success > 0).then_some(()));
    let mut command = fencepost();
    command.args(["submit", "--quiet", "--op", "later", "--store"]).arg(place.store()).arg(&input);
    command.stdout(std::process::Stdio::null());
    let began = Instant::now();
    let mut submit = Process::start(command);
    let (mut peak_bytes, mut renewal_gap_max) = (0, Duration::ZERO);
    let status = loop {
        peak_bytes = peak_bytes.max(peak_resident_bytes(submit.pid()));
        let view = look.workers();
        let lease = view.workers.iter().find(|lease| lease.process.as_ref().is_some_and(|p| p.pid == worker.pid()));
        let lease = lease.expect("the worker has a lease");
        let left = lease.expires_at.since(view.now);
        renewal_gap_max = renewal_gap_max.max(ttl.saturating_sub(left));
        if let Some(status) = submit.ended() {
            break status;
        }
        assert!(began.elapsed() < STUCK, "the submit does not end");
        std::thread::park_timeout(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
    let took = began.elapsed();
    let renew = ttl / 2;
    assert!(peak_bytes > 0, "the peak was seen");
    Outcome { took, peak_bytes, renewal_gap_max, renew }
}

fn write_rows(path: &std::path::Path, rows: u64) {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).expect("a file"));
    for n in 0..rows {
        writeln!(out, "{{\"n\":{n},\"text\":\"{:0>150}\"}}", n).expect("a full disk?");
    }
    out.flush().expect("a full disk?");
}

/// `VmHWM` of `/proc/PID/status`; zero once the process has ended.
fn peak_resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
