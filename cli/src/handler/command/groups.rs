//! The worker's side of the guard: process groups to run rows in.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::future::Future;
use std::io::{PipeWriter, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::GuardError;
use super::processes;
use crate::handler::guard::{GUARD_MARK, GUARD_MODE, GUARD_NAME, HELLO};

/// How long a guard may take to answer before it counts as stuck.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How many guards are tried for one row.
const TRIES: u32 = 3;
/// A guard that lived shorter is not replaced before the next row needs one, or this time has passed.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Process groups for rows. Starts the guard when the first is needed, and another when it dies.
#[derive(Debug)]
pub(in crate::handler) struct Groups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    state: Mutex<State>,
    /// Held while a guard is being started: one at a time.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    guard: Option<Guard>,
    /// How many guards there have been.
    generation: u64,
    /// The leaders of the running rows by group, of all generations.
    running: HashMap<Pid, Pid>,
}

/// The guard as long as it is not known to be dead; not reaped either, so its pid is its own.
#[derive(Debug)]
struct Guard {
    pid: Pid,
    messages: PipeWriter,
    free: Vec<Pid>,
    waiting: VecDeque<oneshot::Sender<Result<Lease, String>>>,
}

/// A process group that belongs to one row until this is dropped. It must be empty then: see [`Lease::kill`].
#[derive(Debug)]
pub(in crate::handler) struct Lease {
    inner: Arc<Inner>,
    group: Pid,
    generation: u64,
    since: std::time::Instant,
    leader: Option<Pid>,
}

impl Groups {
    /// Groups under a guard that is started from `program`.
    pub(in crate::handler) fn new(program: PathBuf) -> Self {
        let inner = Inner { program, state: Mutex::default(), starting: tokio::sync::Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// A group for a row.
    pub(in crate::handler) async fn lease(&self) -> Result<Lease, GuardError> {
        for _ in 0..TRIES {
            let Some(asked) = self.inner.ask() else {
                self.inner.start_guard().await?;
                continue;
            };
            match timeout(ANSWER_TIME, asked.answer).await {
                Ok(Ok(Ok(lease))) => return Ok(lease),
                Ok(Ok(Err(error))) => return Err(GuardError::Group(error)),
                // It died: a row that is about to start has time for the next one.
                Ok(Err(_)) => {}
                Err(_) => self.inner.kill_guard(asked.generation),
            }
        }
        Err(GuardError::Unsteady)
    }

    /// The guard's pid, if one is known to run.
    pub(in crate::handler) fn guard_pid(&self) -> Option<u32> {
        self.inner.state().guard.as_ref().and_then(|guard| guard.pid.as_raw().try_into().ok())
    }
}

/// A question for a group and where its answer comes.
struct Asked {
    generation: u64,
    answer: oneshot::Receiver<Result<Lease, String>>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change to the state is whole in itself, so a panic elsewhere left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a group, if there is a guard.
    fn ask(self: &Arc<Self>) -> Option<Asked> {
        let mut state = self.state();
        let generation = state.generation;
        let guard = state.guard.as_mut()?;
        let (answer_to, answer) = oneshot::channel();
        match guard.free.pop() {
            Some(group) => {
                // Nobody else has the receiver yet, so the lease cannot come back and be dropped under the lock.
                _ = answer_to.send(Ok(self.lease(group, generation)));
            }
            None => {
                guard.waiting.push_back(answer_to);
                guard.send("slot\n");
            }
        }
        Some(Asked { generation, answer })
    }

    fn lease(self: &Arc<Self>, group: Pid, generation: u64) -> Lease {
        Lease { inner: Arc::clone(self), group, generation, since: std::time::Instant::now(), leader: None }
    }

    /// Starts a guard if there is none, and tells it of the rows that run.
    async fn start_guard(self: &Arc<Self>) -> Result<(), GuardError> {
        let _alone = self.starting.lock().await;
        if self.state().guard.is_some() {
            return Ok(());
        }
        // A process may be started with SIGCHLD ignored, and its children inherit that: their dead would vanish before
        // anybody has seen their exit codes. A handler ends it, for this process and what it starts.
        let child_signal = tokio::signal::unix::SignalKind::child();
        drop(tokio::signal::unix::signal(child_signal).map_err(GuardError::Start)?);

        let (for_guard, messages) = std::io::pipe().map_err(GuardError::Start)?;
        // The sending end only: the two ends do not share their flags.
        fcntl(messages.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|error| GuardError::Start(error.into()))?;
        let mut child = Command::new(&self.program)
            .arg0(GUARD_NAME)
            .arg(GUARD_MODE)
            .env(GUARD_MARK, "1")
            .process_group(0)
            .stdin(for_guard)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| GuardError::NoGuard { program: self.program.clone(), error })?;
        let not_a_guard = || GuardError::NotAGuard { program: self.program.clone() };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw).ok_or_else(not_a_guard)?;
        let mut answers = BufReader::new(child.stdout.take().ok_or_else(not_a_guard)?).lines();
        match timeout(ANSWER_TIME, answers.next_line()).await {
            Ok(Ok(Some(hello))) if hello == HELLO => {}
            _ => {
                // Whatever it is, it is not to run on.
                _ = child.kill().await;
                return Err(not_a_guard());
            }
        }

        let mut guard = Guard { pid, messages, free: Vec::new(), waiting: VecDeque::new() };
        let mut state = self.state();
        for (group, leader) in &state.running {
            guard.send(&format!("+{group} {leader}\n"));
        }
        state.generation += 1;
        state.guard = Some(guard);
        tokio::spawn(attend(Arc::downgrade(self), state.generation, child, answers));
        Ok(())
    }

    /// Hands a new group to who waits for one.
    fn answered(self: &Arc<Self>, generation: u64, line: &str) {
        let answer = match line.parse() {
            // 0 and 1 would be "my own group" and "everybody".
            Ok(group) if group > 1 => Ok(self.lease(Pid::from_raw(group), generation)),
            _ => Err(line.strip_prefix("error ").unwrap_or(line).to_owned()),
        };
        let waiting = {
            let mut state = self.state();
            let guard = state.guard.as_mut();
            guard.and_then(|guard| guard.waiting.pop_front())
        };
        // Where nobody waits any more the lease is dropped, and the group is free for the next row.
        match waiting {
            Some(waiting) => drop(waiting.send(answer)),
            None => drop(answer),
        }
    }

    /// Forgets a guard that died.
    fn guard_died(&self, generation: u64) -> Option<Guard> {
        let mut state = self.state();
        if state.generation == generation { state.guard.take() } else { None }
    }

    fn kill_guard(&self, generation: u64) {
        let state = self.state();
        if let Some(guard) = &state.guard
            && state.generation == generation
        {
            guard.kill();
        }
    }
}

impl Guard {
    /// Sends a message. A guard that cannot take it is dead or stuck; either way another one is needed.
    fn send(&mut self, message: &str) {
        // Short enough for the pipe to take it whole or not at all.
        if self.messages.write_all(message.as_bytes()).is_err() {
            self.kill();
        }
    }

    fn kill(&self) {
        _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// Listens to a guard until it dies, and starts the next one if rows are running.
///
/// Boxed because it starts guards, which start it.
fn attend(
    inner: Weak<Inner>,
    generation: u64,
    mut child: Child,
    mut answers: Lines<BufReader<ChildStdout>>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let born = Instant::now();
        while let Ok(Some(line)) = answers.next_line().await {
            let Some(inner) = inner.upgrade() else { break };
            inner.answered(generation, &line);
        }
        // Forgotten first, so that nobody sends a signal to its pid once it is reaped.
        if let Some(inner) = inner.upgrade() {
            drop(inner.guard_died(generation));
            // It has stopped talking; if it still lives it is of no use, and would kill rows that the next one guards.
            _ = child.start_kill();
        }
        _ = child.wait().await;
        if let Some(rest) = SHORT_LIFE.checked_sub(born.elapsed()) {
            sleep(rest).await;
        }
        if let Some(inner) = inner.upgrade()
            && !inner.state().running.is_empty()
        {
            // Where it fails, the next row tries again and says so.
            _ = inner.start_guard().await;
        }
    })
}

impl Lease {
    /// The group's number, for the child to join.
    pub(in crate::handler) fn group(&self) -> Pid {
        self.group
    }

    /// The child has joined the group.
    pub(in crate::handler) fn started(&mut self, leader: Pid) {
        self.leader = Some(leader);
        let mut state = self.inner.state();
        state.running.insert(self.group, leader);
        if let Some(guard) = &mut state.guard {
            let mut message = String::with_capacity(32);
            _ = writeln!(message, "+{} {leader}", self.group);
            guard.send(&message);
        }
    }

    /// No child can join the group: whether that is because its guard died. Another lease is of another guard then.
    pub(in crate::handler) fn is_gone(&self) -> bool {
        let gone = killpg(self.group, None) == Err(Errno::ESRCH);
        if gone {
            // It may not have been noticed yet.
            self.inner.kill_guard(self.generation);
            drop(self.inner.guard_died(self.generation));
        }
        gone
    }

    /// Kills what is left in the group. Nothing can get away by starting another process meanwhile.
    pub(in crate::handler) fn kill(&self) {
        // Under a living guard the number is ours. After its death it stays so only while somebody is in the group: it
        // may be the pid of a newer process, with a group of its own.
        let guarded = {
            let state = self.inner.state();
            state.guard.is_some() && state.generation == self.generation
        };
        if guarded || processes::is_since(self.group, self.since) != Some(false) {
            _ = killpg(self.group, Signal::SIGKILL);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        let current = state.generation == self.generation;
        if self.leader.is_some() {
            state.running.remove(&self.group);
        }
        if let Some(guard) = &mut state.guard {
            if self.leader.is_some() {
                guard.send(&format!("-{}\n", self.group));
            }
            if current {
                guard.free.push(self.group);
            }
        }
    }
}
