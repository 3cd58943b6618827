//! Signals to process groups and process trees, and what `/proc` knows of a process.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, SysconfVar, getpgid, sysconf};

/// Start times are kept in ticks of 10 ms: one is what two readings of the same moment can differ by, one is to spare.
const START_TIME_SLACK: Duration = Duration::from_millis(20);

/// How long a tree's processes may take to stop before it is read all the same: one that hangs in the kernel stops when it
/// comes back, before it can start another.
const STOPPING: Duration = Duration::from_millis(200);

/// The children of a process. None where the kernel does not list them (it was built without `CONFIG_PROC_CHILDREN`).
///
/// The kernel passes over a child when an elder one is reaped while it makes the list, so the list counts only once it has
/// been read twice alike.
fn children(parent: Pid) -> Vec<Pid> {
    let mut last = children_at_once(parent);
    for _ in 0..READS_MAX {
        let again = children_at_once(parent);
        if again == last {
            break;
        }
        last = again;
    }
    last
}

/// A process that starts and reaps children all the time is not waited for.
const READS_MAX: u32 = 16;

fn children_at_once(parent: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return found };
    for thread in threads.flatten() {
        // Each thread has its own list: a child is its thread's, not its process's.
        let Ok(list) = fs::read_to_string(thread.path().join("children")) else { continue };
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    found
}

/// `leader` and everything below it, parents before their children.
fn tree(leader: Pid) -> Vec<Pid> {
    let mut tree = vec![leader];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(children(pid));
        next += 1;
    }
    tree
}

/// Stops `leader` and everything below it: who that is, parents before their children.
///
/// A stopped parent starts no child and reaps none, so what is below it is known whole and keeps its pids.
fn stop_tree(leader: Pid) -> Vec<Pid> {
    let until = Instant::now() + STOPPING;
    let mut tree = vec![leader];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        _ = kill(pid, Signal::SIGSTOP);
        while runs(pid) && Instant::now() < until {
            thread::sleep(Duration::from_micros(100));
        }
        tree.extend(children(pid));
        next += 1;
    }
    tree
}

/// Whether a process does anything: it is there, has not ended and is not stopped.
fn runs(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, fields)| fields.trim_start().chars().next());
    !matches!(state, Some('T' | 't' | 'Z' | 'X'))
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
    for pid in tree(leader) {
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
    // The youngest first: the death of a parent would leave stopped orphans, which the kernel wakes.
    for pid in stop_tree(leader).into_iter().rev() {
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
