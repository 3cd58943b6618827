//! The worker processes of a run: replaced when they die, their rows put back at once (R1).

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fencepost_core::judge::{JudgeInput, JudgeOptions};
use fencepost_core::store::ProcessIdentity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::super::args::RunArgs;
use super::super::failure::{Exit, Failure};
use crate::driver::{self, NoLiveness, Ports, Report};
use crate::handler::guard;
use crate::runtime::{LocalProcesses, TokioClock, TokioSpawn};
use crate::store::sqlite::SqliteStore;

/// A worker that ends by itself, with an error, this often within [`ENDS_WITHIN`], ends the run.
const ENDS_MAX: usize = 10;
/// See [`ENDS_MAX`].
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// The workers of a run.
pub struct Supervisor {
    program: std::path::PathBuf,
    arguments: Vec<std::ffi::OsString>,
    processes: LocalProcesses,
    judge: mpsc::UnboundedSender<JudgeInput>,
    ended: mpsc::UnboundedSender<(usize, std::io::Result<ExitStatus>)>,
    ends: mpsc::UnboundedReceiver<(usize, std::io::Result<ExitStatus>)>,
    workers: Vec<Option<Worker>>,
    stopping: bool,
    failures: Vec<Instant>,
}

struct Worker {
    pid: u32,
    identity: Option<ProcessIdentity>,
}

impl Supervisor {
    /// Starts the workers, and a judge that hears of their deaths.
    pub fn start(store: &SqliteStore, path: &Path, args: &RunArgs, operation: &str) -> Result<Self, Failure> {
        let program = guard::own_program()
            .map_err(|error| Failure::new(Exit::Unexpected, "cannot find this program's own file").because(error))?;
        let processes = LocalProcesses::new();
        let (judge, queue) = mpsc::unbounded_channel();
        let options = JudgeOptions {
            timing: args.timing.timing(),
            machine: processes.machine().map(str::to_owned),
            liveness: false,
            local_check: Duration::from_secs(1),
        };
        let ports = Ports {
            store: store.clone(),
            liveness: NoLiveness,
            clock: TokioClock::start(),
            spawn: TokioSpawn,
            processes: processes.clone(),
            // The workers report their store's troubles; the supervisor's are the same.
            observer: Arc::new(|_: Report<'_>| {}),
        };
        tokio::spawn(driver::judge::drive(options, ports, judge.downgrade(), queue));
        let (ended, ends) = mpsc::unbounded_channel();
        let count = usize::try_from(args.workers).unwrap_or(usize::MAX);
        let mut supervisor = Self {
            program,
            arguments: arguments(path, args, operation),
            processes,
            judge,
            ended,
            ends,
            workers: Vec::new(),
            stopping: false,
            failures: Vec::new(),
        };
        for place in 0..count {
            supervisor.workers.push(None);
            supervisor.spawn(place)?;
        }
        Ok(supervisor)
    }

    fn spawn(&mut self, place: usize) -> Result<(), Failure> {
        let child = Command::new(&self.program)
            .args(&self.arguments)
            // The worker leaves when this end is gone, whatever becomes of this process.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for this process, which tells the workers.
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::new(Exit::Unexpected, "cannot start a worker process").because(error))?;
        let Some(pid) = child.id() else { return Ok(()) };
        self.workers[place] = Some(Worker { pid, identity: self.processes.identity(pid) });
        tokio::spawn(wait(place, child, self.ended.clone()));
        Ok(())
    }

    /// Handles the next end of a worker: its rows are put back at once, and it is replaced unless it left.
    pub async fn next(&mut self) -> Result<(), Failure> {
        let Some((place, status)) = self.ends.recv().await else { return Ok(()) };
        let Some(worker) = self.workers[place].take() else { return Ok(()) };
        let left = status.as_ref().is_ok_and(ExitStatus::success);
        if let Some(identity) = worker.identity.filter(|_| !left) {
            // The judge ends with this supervisor only.
            let _ = self.judge.send(JudgeInput::ProcessEnded(identity));
        }
        if self.stopping || left {
            return Ok(());
        }
        self.give_up_on_useless_workers(&status)?;
        self.spawn(place)
    }

    /// A worker that was killed is replaced for ever. One that ends by itself says why on stderr; when that goes on, more
    /// of the same help nobody.
    fn give_up_on_useless_workers(&mut self, status: &std::io::Result<ExitStatus>) -> Result<(), Failure> {
        let Some(code) = status.as_ref().ok().and_then(ExitStatus::code) else { return Ok(()) };
        let now = Instant::now();
        self.failures.retain(|at| now - *at < ENDS_WITHIN);
        self.failures.push(now);
        if self.failures.len() < ENDS_MAX {
            return Ok(());
        }
        self.stop();
        Err(Failure::new(Exit::Unexpected, format!("workers end by themselves again and again, with exit code {code}"))
            .help("their own messages are above; the batch is kept, the same command goes on with it"))
    }

    /// Asks all workers to leave.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.signal(Signal::SIGTERM);
    }

    /// Ends all workers at once.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        for worker in self.workers.iter().flatten() {
            if let Ok(pid) = i32::try_from(worker.pid) {
                // One that has ended meanwhile needs no signal; it is not waited for yet, so its pid is still its own.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }

    /// Ends when all workers have.
    pub async fn all_left(&mut self) {
        while self.workers.iter().any(Option::is_some) {
            match self.ends.recv().await {
                Some((place, _)) => self.workers[place] = None,
                None => return,
            }
        }
    }
}

async fn wait(
    place: usize,
    mut child: Child,
    ended: mpsc::UnboundedSender<(usize, std::io::Result<ExitStatus>)>,
) {
    // `wait` would close the child's stdin, which tells it that this process is gone.
    let stdin = child.stdin.take();
    let status = child.wait().await;
    drop(stdin);
    let _ = ended.send((place, status));
}

/// The command line of a worker process.
fn arguments(path: &Path, args: &RunArgs, operation: &str) -> Vec<std::ffi::OsString> {
    let micros = |duration: Duration| format!("{}us", duration.as_micros());
    let timing = args.timing.timing();
    let mut arguments: Vec<std::ffi::OsString> = ["worker", "--until-done", "--exit-with-stdin", "--quiet", "--store"]
        .into_iter()
        .map(Into::into)
        .collect();
    arguments.push(path.into());
    for (option, value) in [
        ("--op", operation.to_owned()),
        ("--concurrency", args.work.concurrency(&args.handler).to_string()),
        ("--horizon", micros(args.work.horizon)),
        ("--max-result-bytes", args.work.max_result_bytes.to_string()),
        ("--ttl", micros(timing.ttl)),
        ("--renew", micros(timing.renew)),
        ("--scan", micros(timing.scan)),
        ("--grace", micros(args.timing.grace)),
    ] {
        arguments.push(option.into());
        arguments.push(value.into());
    }
    if args.handler.stream {
        arguments.push("--stream".into());
        for (option, value) in [
            ("--stream-children", args.handler.stream_children),
            ("--window", args.handler.window),
            ("--max-line-bytes", args.handler.max_line_bytes),
        ] {
            arguments.extend([option.into(), value.to_string().into()]);
        }
    }
    match args.handler.sleep {
        Some(each) => arguments.extend(["--sleep".into(), micros(each).into()]),
        None => {
            arguments.push("--".into());
            arguments.extend(args.handler.command.iter().map(Into::into));
        }
    }
    arguments
}
