//! The real outside: tokio's clock and tasks, and this machine's processes.

use std::future::Future;
use std::io;

use fencepost_core::Instant;
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::ProcessIdentity;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::driver::{Clock, Processes, Spawn};

/// The machine's monotonic clock, from one origin per process.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: std::time::Instant,
}

impl TokioClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant::from_micros(fencepost_core::time::micros(self.origin.elapsed()))
    }

    async fn sleep_until(&self, at: Instant) {
        let at = self.origin + std::time::Duration::from_micros(at.as_micros());
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Tasks on the current tokio runtime.
#[derive(Debug, Clone, Copy)]
pub struct TokioSpawn;

impl Spawn for TokioSpawn {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn side_by_side(&self) -> usize {
        tokio::runtime::Handle::current().metrics().num_workers()
    }
}

/// The processes that this one can see.
#[derive(Debug, Clone)]
pub struct LocalProcesses {
    machine: Option<String>,
}

impl LocalProcesses {
    /// Looks up which machine this is. Where the kernel does not say, no death is ever known (R1 then never applies).
    pub fn new() -> Self {
        Self { machine: machine() }
    }

    /// Boot id, process namespace and time namespace of this process: equal only for processes that can see each other and
    /// count start times alike.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// The identity of a process that runs now.
    pub fn identity(&self, pid: u32) -> Option<ProcessIdentity> {
        let machine = self.machine.clone()?;
        let (start_ticks, _) = stat(pid).ok()?;
        Some(ProcessIdentity { machine, pid, start_ticks })
    }
}

impl Default for LocalProcesses {
    fn default() -> Self {
        Self::new()
    }
}

impl Processes for LocalProcesses {
    fn state(&self, process: &ProcessIdentity) -> ProcessState {
        if self.machine.as_deref() != Some(process.machine.as_str()) {
            return ProcessState::Unknown;
        }
        let Ok(pid) = i32::try_from(process.pid) else { return ProcessState::Unknown };
        // Asked before /proc, which may hide other users' processes.
        if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            return ProcessState::Gone;
        }
        match stat(process.pid) {
            Ok((start_ticks, _)) if start_ticks != process.start_ticks => ProcessState::Gone,
            // A zombie runs no more: only its parent has not looked yet.
            Ok((_, b'Z' | b'X')) => ProcessState::Gone,
            Ok(_) => ProcessState::Running,
            Err(_) => ProcessState::Unknown,
        }
    }
}

fn machine() -> Option<String> {
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    if !is_of(&own, std::process::id()) {
        return None;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let mut machine = format!("{} {}", boot.trim(), namespace.display());
    // Start times count from the namespace's own boot time. Old kernels have one for all.
    if let Ok(time) = std::fs::read_link("/proc/self/ns/time") {
        machine.push_str(&format!(" {}", time.display()));
    }
    Some(machine)
}

/// Whether this `/proc` numbers processes as the process itself does. One of another namespace would show strangers under
/// the ids asked for.
fn is_of(stat: &str, pid: u32) -> bool {
    stat.split_ascii_whitespace().next().and_then(|field| field.parse().ok()) == Some(pid)
}

/// Start time in ticks since boot, and state letter, from `/proc/PID/stat` (proc(5): fields 22 and 3).
fn stat(pid: u32) -> io::Result<(u64, u8)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name, in parentheses, may hold anything: the fields count from behind it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.bytes().next());
    let start_ticks = fields.nth(18).and_then(|field| field.parse().ok());
    match (start_ticks, state) {
        (Some(start_ticks), Some(state)) => Ok((start_ticks, state)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let processes = LocalProcesses::new();
        let own = processes.identity(std::process::id()).expect("this process runs");
        assert_eq!(processes.state(&own), ProcessState::Running);
        let reused = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own.clone() };
        assert_eq!(processes.state(&reused), ProcessState::Gone);
        let elsewhere = ProcessIdentity { machine: "another".to_owned(), ..own };
        assert_eq!(processes.state(&elsewhere), ProcessState::Unknown);
    }

    #[test]
    fn a_proc_of_another_namespace_names_no_machine() {
        assert!(is_of("71 (fencepost) S 1", 71));
        assert!(!is_of("4071 (fencepost) S 1", 71));
        assert!(!is_of("", 71));
        let machine = LocalProcesses::new().machine().map(str::to_owned).expect("this /proc is its own");
        let time = std::fs::read_link("/proc/self/ns/time");
        assert!(time.is_err() || machine.contains("time:["), "{machine}");
    }

    #[test]
    fn a_child_that_ended_is_gone_even_before_it_is_waited_for() {
        let processes = LocalProcesses::new();
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let identity = processes.identity(child.id()).expect("it runs");
        assert_eq!(processes.state(&identity), ProcessState::Running);
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(processes.state(&identity), ProcessState::Gone);
    }
}
