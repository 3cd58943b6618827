//! Signals to process groups and process trees, and what `/proc` knows of a process.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, SysconfVar, getpgid, sysconf};

/// Start times are kept in ticks of 10 ms: one is what two readings of the same moment can differ by, one is to spare.
const START_TIME_SLACK: Duration = Duration::from_millis(20);

/// The children of a process. None where the kernel does not list them (it was built without `CONFIG_PROC_CHILDREN`).
fn children(parent: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return found };
    for thread in threads.flatten() {
        // Each thread has its own list: a child is its thread's, not its process's.
        let Ok(list) = fs::read_to_string(thread.path().join("children")) else { continue };
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    found
}

/// Processes and groups outside a row's group that were asked to end.
///
/// They have to be remembered: once their parents are gone, nothing tells whose they are.
#[derive(Debug)]
pub(crate) struct Strays {
    since: Instant,
    groups: Vec<Pid>,
    single: Vec<Pid>,
}

impl Strays {
    /// Kills those that are left.
    pub(crate) fn kill(&self) {
        for &pid in self.groups.iter().chain(&self.single) {
            if is_since(pid, self.since) == Some(true) {
                kill_tree(pid);
            }
        }
        for &group in &self.groups {
            // Its leader may be gone, but the number must not be that of a newer process.
            if is_since(group, self.since) != Some(false) {
                _ = killpg(group, Signal::SIGKILL);
            }
        }
    }
}

/// Asks `group`, `leader` and everything below `leader` to end. `leader` must not have been reaped yet.
///
/// Nobody is sent the signal twice: to many programs the second one means "at once".
pub(crate) fn terminate(group: Pid, leader: Pid) -> Strays {
    let mut strays = Strays { since: Instant::now(), groups: Vec::new(), single: Vec::new() };
    let mut tree = vec![leader];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(children(pid));
        next += 1;
    }
    for pid in tree {
        let Ok(own) = getpgid(Some(pid)) else { continue };
        if own == pid {
            strays.groups.push(own);
        } else if own != group && !strays.groups.contains(&own) {
            // Of a group whose leader is not below the command: only this one process is known to belong here.
            strays.single.push(pid);
        }
    }
    _ = killpg(group, Signal::SIGTERM);
    for &group in &strays.groups {
        _ = killpg(group, Signal::SIGTERM);
    }
    for &pid in &strays.single {
        _ = kill(pid, Signal::SIGTERM);
    }
    strays
}

/// Kills `leader`, everything below it, and the groups these lead. `leader` must not have been reaped yet.
pub(crate) fn kill_tree(leader: Pid) {
    let mut tree = vec![leader];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        // A stopped parent starts no child and reaps none, so the pids below it stay theirs until all are killed.
        _ = kill(pid, Signal::SIGSTOP);
        tree.extend(children(pid));
        next += 1;
    }
    for pid in tree {
        if getpgid(Some(pid)) == Ok(pid) {
            _ = killpg(pid, Signal::SIGKILL);
        }
        _ = kill(pid, Signal::SIGKILL);
    }
}

/// Whether the process that has this pid now had it at `since` already. `None` where no process has it.
pub(crate) fn is_since(pid: Pid, since: Instant) -> Option<bool> {
    let started = started(pid)?;
    // In this order: whatever delays the second reading makes the moment later, and a process no stranger.
    let elapsed = since.elapsed();
    let Some(then) = uptime().and_then(|uptime| uptime.checked_sub(elapsed)) else { return Some(false) };
    Some(started <= then + START_TIME_SLACK)
}

/// When a process started, from the machine's start.
fn started(pid: Pid) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name, in brackets, and may hold anything, brackets and spaces too.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u32::try_from(ticks).ok())?;
    Duration::from_secs(ticks).checked_div(per_second)
}

/// How long the machine is up.
fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_no_newer_than_now_but_newer_than_the_machine() {
        let own = Pid::this();
        assert_eq!(is_since(own, Instant::now()), Some(true));
        let before = Instant::now().checked_sub(Duration::from_secs(3600));
        if let (Some(before), Some(up)) = (before, uptime())
            && up > Duration::from_secs(3601)
        {
            assert_eq!(is_since(own, before), Some(false));
        }
    }
}
