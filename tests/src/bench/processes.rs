//! Worker processes of the benchmark, and what processes used: as the kernel counts it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fencepost::store::Store;
use fencepost_core::store::{StoreReply, StoreRequest};

use super::ground::{Ground, Site};
use crate::postgres::Server;
use crate::process::until;
use crate::scenario::STUCK;

/// Ticks of the kernel's process times in a second: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A worker process: see [`super::worker`].
pub struct WorkerProcess {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl WorkerProcess {
    /// Starts one.
    pub fn start(site: &Site, op: &str, concurrency: u32, more: &[&str]) -> Self {
        let own = std::env::current_exe().expect("a program knows its own file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(own).args(["worker", "--store", site.url(), "--op", op]);
        command.args(["--concurrency", &concurrency.to_string()]).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a worker starts");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, said }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says next: of one that tells.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a worker that lives");
        line
    }

    /// Has it leave, and tells how many rows it ran.
    pub fn leave(mut self) -> u64 {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.said.read_to_string(&mut said).expect("text");
        assert!(self.child.wait().expect("a child").success(), "the worker leaves in order");
        let runs = said.lines().last().and_then(|line| line.strip_prefix("runs ")?.parse().ok());
        runs.unwrap_or_else(|| panic!("a worker that counts: {said}"))
    }
}

/// Starts so many workers, and waits until each has its lease: they are idle then.
pub fn start(
    ground: &Ground,
    site: &Site,
    op: &str,
    workers: usize,
    concurrency: u32,
    more: &[&str],
) -> Vec<WorkerProcess> {
    let workers: Vec<WorkerProcess> = (0..workers).map(|_| WorkerProcess::start(site, op, concurrency, more)).collect();
    idle(ground, site, workers.len());
    workers
}

/// Waits until so many leases are live.
pub fn idle(ground: &Ground, site: &Site, workers: usize) {
    until("the workers have their leases", STUCK, || {
        let reply = ground.block_on(site.store().call(StoreRequest::Look)).expect("the store answers");
        let StoreReply::Look(look) = reply else { panic!("{reply:?}") };
        (look.leases.len() >= workers).then_some(())
    });
}

/// The fields of a process' state behind its name; none where it is gone.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// Of the fields behind the name: parent, own times, times of children that were waited for.
const PARENT: usize = 1;
const OWN_TIMES: [usize; 2] = [11, 12];
const CHILDRENS_TIMES: [usize; 2] = [13, 14];

fn time(stat: &[String], fields: &[usize]) -> Duration {
    let ticks: f64 = fields.iter().filter_map(|field| stat.get(*field)?.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}

/// CPU time that a process has used.
pub fn cpu(pid: u32) -> Duration {
    stat(pid).map_or(Duration::ZERO, |stat| time(&stat, &OWN_TIMES))
}

/// CPU time that a server has used with all its sessions, those that ended too.
pub fn server_cpu(server: &Server) -> Duration {
    let file = server.socket_folder().join("data/postmaster.pid");
    let postmaster = std::fs::read_to_string(file).expect("the server runs");
    let postmaster: u32 = postmaster.lines().next().and_then(|pid| pid.trim().parse().ok()).expect("a pid");
    let pids = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let sessions =
        pids.filter_map(stat).filter(|stat| stat.get(PARENT).is_some_and(|of| *of == postmaster.to_string()));
    let of_sessions: Duration = sessions.map(|stat| time(&stat, &OWN_TIMES)).sum();
    let own = stat(postmaster).expect("the server runs");
    of_sessions + time(&own, &OWN_TIMES) + time(&own, &CHILDRENS_TIMES)
}

/// The most memory that a process ever had, and what it has now, in MB.
pub fn memory_mb(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()).unwrap_or_default() / 1024.0
    };
    (field("VmHWM:"), field("VmRSS:"))
}
