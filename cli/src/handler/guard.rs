//! The guard: a process of its own that kills what the rows started when their worker dies without a word.
//!
//! A worker that is killed with SIGKILL runs nothing more, so somebody else has to end its commands: they would work
//! on while another worker runs the same rows again. The worker starts one guard before its first command, with a pipe
//! as the guard's stdin. Only the worker holds the pipe's other end, so when it is closed the worker is gone, however it
//! went. The guard then kills all that is left of the rows, and leaves.
//!
//! # No command runs unguarded
//!
//! A command joins a process group that the guard knows *before* the command exists. The guard makes these groups: each
//! is led by a process that ended at once and that the guard does not reap. Such a zombie keeps the group open for
//! others to join and keeps its number from being given to anybody else; it takes no memory, and signals pass it by.
//! (They are the `<defunct>` children of the guard in `ps`: as many as rows ran at once.)
//!
//! A new child holds the worker's pipe end too, until it has become the command, and it has joined the group by then.
//! So the guard cannot see the pipe closed while a child is on its way: a command is in its group before the guard
//! kills the groups.
//!
//! # The worker's end is waited for
//!
//! A dying process first closes its files, and only then leaves its children to others. That makes orphans of their groups,
//! and the kernel sends SIGHUP and SIGCONT to a newly orphaned group in which somebody is stopped. The guard stops a
//! command before it looks at what is below it. Were it to do so in between, the command would die under its eyes, and its
//! children would be nobody's. So it waits until its own parent is another.
//!
//! # Messages
//!
//! One per line. From the worker:
//!
//! * `slot`: make another group. The answer is its number, or `error` and why not.
//! * `+GROUP LEADER`: the process LEADER runs a row in GROUP. GROUP may be of an earlier guard that died.
//! * `-GROUP`: the row has ended and GROUP is empty.
//!
//! LEADER is for commands that leave their group, as timeout(1) does: the guard finds what is below it.
//!
//! The guard's first line is `fencepost guard 1`.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgrp, getppid};

use super::command::processes;

/// The first argument that makes a program a guard.
pub(crate) const GUARD_MODE: &str = "__guard";
/// The first argument that makes a program a group's leader, which does nothing.
const SLOT_MODE: &str = "__guard-slot";
/// Set for the guard only: who finds it set and is about to run rows is a guard that went astray.
pub(crate) const GUARD_MARK: &str = "FENCEPOST_IS_GUARD";
/// The guard's name in `ps`. Not the program's: `pkill -9 fencepost` would kill the guard along with the worker.
pub(crate) const GUARD_NAME: &str = "fence-guard";
/// What a guard says first, so that another program in its place is noticed.
pub(crate) const HELLO: &str = "fencepost guard 1";

/// Runs the guard, if this process was started as one, until its worker is gone. The exit code is for `main` to return.
///
/// Every program that runs rows with a [`CommandHandler`](super::command::CommandHandler) and names itself as the
/// guard's program must call this first in `main`, before it starts threads or reads its arguments.
pub fn run_if_guard() -> Option<ExitCode> {
    // Both, so that nobody gets here by typing.
    env::var_os(GUARD_MARK)?;
    let mode = env::args_os().nth(1)?;
    if mode == SLOT_MODE {
        return Some(ExitCode::SUCCESS);
    }
    if mode != GUARD_MODE {
        return None;
    }
    Some(match Guard::new().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// This program, as the guard's program.
///
/// # Errors
///
/// The system does not know where this program is.
pub fn own_program() -> io::Result<PathBuf> {
    // Leads to the running program even after its file was replaced by another version.
    let link = Path::new("/proc/self/exe");
    if link.exists() { Ok(link.to_owned()) } else { env::current_exe() }
}

/// A row that runs.
struct Running {
    leader: Pid,
    since: Instant,
}

/// How long a worker may take from closing its files to leaving its children.
const WORKER_ENDING: Duration = Duration::from_secs(2);

/// What the guard knows.
struct Guard {
    worker: Pid,
    /// The leaders of the groups made here, which are not reaped before the end.
    slots: Vec<Child>,
    /// By group.
    running: HashMap<Pid, Running>,
}

impl Guard {
    fn new() -> Self {
        Self { worker: getppid(), slots: Vec::new(), running: HashMap::new() }
    }

    fn run(mut self) -> io::Result<()> {
        // Ctrl-C, a closed terminal, a friendly kill: none of them is for the guard. It leaves after its worker.
        SigSet::all().thread_block()?;
        // A guard must not keep a file system in use.
        _ = env::set_current_dir("/");
        #[cfg(target_os = "linux")]
        if let Ok(name) = std::ffi::CString::new(GUARD_NAME) {
            _ = nix::sys::prctl::set_name(&name);
        }

        let mut answers = io::stdout().lock();
        let greeted = writeln!(answers, "{HELLO}").and_then(|()| answers.flush());
        let mut ended = greeted;
        let mut line = Vec::new();
        let mut messages = io::stdin().lock();
        while ended.is_ok() {
            line.clear();
            match messages.read_until(b'\n', &mut line) {
                // A message without its end is of a worker that died over it.
                Ok(_) if line.pop() != Some(b'\n') => break,
                Ok(_) => ended = self.message(&line, &mut answers),
                Err(error) => ended = Err(error),
            }
        }
        // A worker that no longer listens is as good as gone, and a guard that cannot read is no guard.
        self.kill_all();
        ended
    }

    fn message(&mut self, line: &[u8], answers: &mut impl Write) -> io::Result<()> {
        let line = String::from_utf8_lossy(line);
        if line == "slot" {
            match self.add_slot() {
                Ok(group) => writeln!(answers, "{group}")?,
                Err(error) => writeln!(answers, "error {error}")?,
            }
            answers.flush()?;
        } else if let Some(group) = line.strip_prefix('-').and_then(pid) {
            self.running.remove(&group);
        } else if let Some((group, leader)) = line.strip_prefix('+').and_then(|rest| rest.split_once(' '))
            && let (Some(group), Some(leader)) = (pid(group), pid(leader))
        {
            self.running.insert(group, Running { leader, since: Instant::now() });
        }
        Ok(())
    }

    fn add_slot(&mut self) -> io::Result<Pid> {
        let leader = Command::new(own_program()?)
            .arg0(OsStr::new(GUARD_NAME))
            .arg(SLOT_MODE)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let group = i32::try_from(leader.id()).map_err(io::Error::other)?;
        self.slots.push(leader);
        Ok(Pid::from_raw(group))
    }

    /// Waits until the worker has left its children, the guard among them. One that closed the pipe and lives on is not
    /// waited for long.
    fn wait_for_worker(&self) {
        let until = Instant::now() + WORKER_ENDING;
        while getppid() == self.worker && Instant::now() < until {
            thread::sleep(Duration::from_micros(100));
        }
        // Whoever has a new parent may not be the last one to get it. All get theirs under one lock, and this waits for it.
        _ = killpg(getpgrp(), None);
    }

    fn kill_all(mut self) {
        if !self.running.is_empty() {
            self.wait_for_worker();
        }
        // The trees before the groups: who is in a tree is known only while the parents live.
        for running in self.running.values() {
            if processes::is_since(running.leader, running.since) == Some(true) {
                processes::kill_tree(running.leader);
            }
        }
        for slot in &self.slots {
            if let Ok(group) = i32::try_from(slot.id()) {
                let group = Pid::from_raw(group);
                _ = killpg(group, Signal::SIGKILL);
                self.running.remove(&group);
            }
        }
        // The groups of an earlier guard: their leaders are reaped, so their numbers could have gone to others.
        for (group, running) in self.running {
            if processes::is_since(group, running.since) != Some(false) {
                _ = killpg(group, Signal::SIGKILL);
            }
        }
        for mut slot in self.slots {
            // Somebody has to reap them, and not every init does.
            _ = slot.wait();
        }
    }
}

fn pid(text: &str) -> Option<Pid> {
    // 0 and 1 would be "my own group" and "everybody".
    text.parse().ok().filter(|&number| number > 1).map(Pid::from_raw)
}
