//! Runs a command for every row.
//!
//! | the command | gets |
//! |---|---|
//! | stdin | the row's JSON and a line end |
//! | `FENCEPOST_BATCH`, `FENCEPOST_LINE` | which row it is |
//! | `FENCEPOST_ATTEMPT` | which attempt, from 1 |
//! | `FENCEPOST_TOKEN` | the fencing token: larger on every run of the row |
//! | `IDEMPOTENCY_KEY` | batch and line: the same on every run of the row |
//! | `{column}` in an argument | the row's value (details: [`CommandHandler::columns`]) |
//!
//! | it answers with | and that means |
//! |---|---|
//! | exit code 0 | success; stdout is the result: JSON as it is, other text as a JSON string, nothing as `null` |
//! | exit code 75 | try again, if the row has an attempt left |
//! | exit code 65 | failed for good |
//! | any other exit code, or death by a signal | try again, if the row has an attempt left |
//! | a result that is too large, or that no store keeps | failed for good |
//!
//! The end of stderr becomes the error, under a line that says how the command ended.
//!
//! # Process groups
//!
//! A row's command runs in a process group of its own. When the command has exited, all that is left in the group is
//! killed: a row that has its outcome does nothing more. Cancelling asks the group to end with SIGTERM and kills it a
//! while later. When the worker itself is killed, the [guard](super::guard) kills the groups.
//!
//! A process that leaves the group (setsid(1), timeout(1), a shell's `set -m`) is still found as long as its parents up
//! to the command live: cancelling and the guard go down that tree too, where the kernel lists children
//! (`CONFIG_PROC_CHILDREN`, which is usual). What is not found:
//!
//! * what leaves the group and whose parent has exited: a daemon. It outlives its row and its worker.
//! * what leaves the group of a command that then exits by itself.
//! * what runs as another user (sudo(8)): no signal may be sent to it.
//! * everything, if the guard and the worker are killed within the moment that a new guard takes to start.
//! * a command that itself leaves the group at once, if the worker is killed before the guard has heard of its pid:
//!   some microseconds after its start.

mod calling;
pub(super) mod groups;
pub(super) mod output;
pub(crate) mod processes;
pub(super) mod program;
mod template;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::future::{Future, pending};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::groups::{Groups, Lease};
use self::output::Tail;
use self::processes::Strays;
use self::template::Argument;
use super::guard::GUARD_MARK;
use super::{CancelToken, Handler, HandlerAnswer, Row};

/// The exit code that asks for another attempt: `EX_TEMPFAIL` of sysexits.h.
pub const EXIT_RETRY: i32 = 75;
/// The exit code that fails the row for good: `EX_DATAERR` of sysexits.h.
pub const EXIT_FAILED: i32 = 65;

/// An input up to this size is in the pipe before the command starts: the least that a pipe holds.
const PIPE_SIZE: usize = 4096;
/// How much is read at once, at least.
const READ_SIZE: usize = 4096;
/// After a command's exit: how long its pipes may be silent before what holds them open is killed.
const SILENCE: Duration = Duration::from_millis(500);
/// After a command's exit: how long its pipes may be open altogether.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a killed process before the row is answered without it.
const DYING: Duration = Duration::from_secs(5);
/// How often a start is tried whose guard dies meanwhile.
const STARTS: u32 = 3;

/// How commands are run.
#[derive(Debug, Clone)]
pub struct CommandOptions {
    /// The most a result may have, in bytes. A row with a larger one is failed, and its command killed.
    pub result_limit: usize,
    /// How long a cancelled command has from SIGTERM to SIGKILL.
    pub kill_after: Duration,
    /// The program the guard is started from: usually [`guard::own_program`](super::guard::own_program), whose `main`
    /// calls [`guard::run_if_guard`](super::guard::run_if_guard) first.
    pub guard: PathBuf,
}

impl CommandOptions {
    /// The usual options: results up to 1 MiB, two seconds from SIGTERM to SIGKILL.
    pub fn new(guard: impl Into<PathBuf>) -> Self {
        Self { result_limit: 1 << 20, kill_after: Duration::from_secs(2), guard: guard.into() }
    }
}

/// Why no row can be run with a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The command is empty.
    #[error("no command given: name a program to run for every row, after --")]
    NoProgram,
    /// No folder in `PATH` has the program.
    #[error("command `{program}` not found: looked in PATH ({path}); install it, or give the path to it")]
    NotInPath {
        /// The program as it was given.
        program: String,
        /// Where it was looked for.
        path: String,
    },
    /// The program was given as a path that leads nowhere.
    #[error("command `{program}` not found: there is no file {}; check the path", file.display())]
    NoSuchFile {
        /// The program as it was given.
        program: String,
        /// The path it leads to.
        file: PathBuf,
    },
    /// The program is a folder or a device.
    #[error("cannot run {}: it is not a file; give the path to a program", file.display())]
    NotAFile {
        /// The path.
        file: PathBuf,
    },
    /// The file may not be executed.
    #[error("cannot run {}: it is not executable; allow it with `chmod +x {}`", file.display(), file.display())]
    NotExecutable {
        /// The path.
        file: PathBuf,
    },
    /// The file could not be looked at.
    #[error("cannot run {}: {error}; check the permissions of its folders", file.display())]
    Unreachable {
        /// The path.
        file: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The program or an argument holds a NUL byte.
    #[error("`{0}` holds a NUL byte, which no command line can: remove it")]
    NulInCommand(
        /// The program or argument.
        String,
    ),
    /// This process was started to be the guard.
    #[error(
        "this program was started as a guard but went on to run rows: its main must call \
         fencepost::handler::guard::run_if_guard first"
    )]
    GuardAstray,
}

/// Why there is no guard for a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The system gave no pipe or signal handler.
    #[error("cannot prepare for the guard: {0}")]
    Start(#[source] io::Error),
    /// The guard's program does not start.
    #[error("cannot start the guard from {}: {error}", program.display())]
    NoGuard {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The guard's program starts, but is no guard.
    #[error(
        "{} does not act as a guard: its main must call fencepost::handler::guard::run_if_guard first",
        program.display()
    )]
    NotAGuard {
        /// The program.
        program: PathBuf,
    },
    /// The guard could not make a process group.
    #[error("the guard cannot make a process group: {0}")]
    Group(
        /// What the system says.
        String,
    ),
    /// Guard after guard died.
    #[error("guards die as soon as they are started: see whether something kills them")]
    Unsteady,
}

/// Runs a command for every row. See the [module](self).
#[derive(Debug)]
pub struct CommandHandler {
    name: OsString,
    program: PathBuf,
    arguments: Vec<Argument>,
    options: CommandOptions,
    groups: Groups,
}

impl CommandHandler {
    /// A handler that runs `program` with `arguments`. The program is found now, not at the first row.
    ///
    /// # Errors
    ///
    /// No row could be run: the error says why, and what to do.
    pub fn new(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        options: CommandOptions,
    ) -> Result<Self, CommandError> {
        // Otherwise a program that forgot to be a guard would start guards without end.
        if env::var_os(GUARD_MARK).is_some() {
            return Err(CommandError::GuardAstray);
        }
        let name = program.into();
        let program = program::find(&name, env::var_os("PATH").as_deref())?;
        let arguments = arguments
            .into_iter()
            .map(|argument| {
                let argument = argument.into();
                if argument.as_bytes().contains(&0) {
                    return Err(CommandError::NulInCommand(argument.to_string_lossy().into_owned()));
                }
                Ok(Argument::parse(&argument))
            })
            .collect::<Result<_, _>>()?;
        let groups = Groups::new(options.guard.clone());
        Ok(Self { name, program, arguments, options, groups })
    }

    /// The file that is run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The columns that the arguments name: a row that does not have them all fails for good.
    ///
    /// An argument names a column as `{column}`, where the name is a letter or `_`, then letters, digits, `_`, `.`, `-`
    /// and spaces, all ASCII. Strings take their place as they are, other values as JSON text. `{{column}}` is the text
    /// `{column}`. Everything else in braces stays as it is, and so does `${column}`, which is a shell's.
    pub fn columns(&self) -> BTreeSet<&str> {
        self.arguments.iter().flat_map(Argument::columns).collect()
    }

    /// Starts the guard now and not with the first row, so that a guard that cannot start is noticed before.
    ///
    /// # Errors
    ///
    /// There is no guard.
    pub async fn ready(&self) -> Result<(), GuardError> {
        self.groups.lease().await.map(drop)
    }

    /// The guard's pid, if one is running.
    pub fn guard_pid(&self) -> Option<u32> {
        self.groups.guard_pid()
    }

    /// Starts the command for a task.
    async fn start(&self, task: &Task) -> Result<Started, HandlerAnswer> {
        let retry = |error: String| HandlerAnswer::Retry(error.into());
        let arguments =
            template::fill(&self.arguments, &task.input).map_err(|error| HandlerAnswer::Failed(error.into()))?;
        let mut command = Command::new(&self.program);
        command
            .arg0(&self.name)
            .args(arguments)
            .envs(task.variables.iter().map(|(name, value)| (name, value)))
            .stdout(if task.wants_output { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped());

        keep_secrets(&mut command);

        for attempt in 1..=STARTS {
            let mut lease =
                self.groups.lease().await.map_err(|error| retry(format!("the command was not run: {error}")))?;
            let input =
                stdin(&task.input).map_err(|error| retry(format!("cannot make a pipe for the row: {error}")))?;
            command.stdin(input).process_group(lease.group().as_raw());
            match command.spawn() {
                Ok(mut child) => {
                    let feed = Feed::new(child.stdin.take(), &task.input);
                    let pipes = Pipes::new(&mut child);
                    let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
                    if let Some(leader) = leader {
                        lease.started(leader);
                    }
                    return Ok(Started { process: Process { child, lease, leader, strays: None }, feed, pipes });
                }
                Err(error)
                    if attempt < STARTS && error.kind() == io::ErrorKind::PermissionDenied && lease.is_gone() => {}
                Err(error) => return Err(self.not_started(&error)),
            }
        }
        Err(retry("the command was not run".into()))
    }

    fn not_started(&self, error: &io::Error) -> HandlerAnswer {
        let program = self.program.display();
        match error.raw_os_error().map(Errno::from_raw) {
            // Another attempt would have the same arguments.
            Some(Errno::E2BIG) => HandlerAnswer::Failed(
                format!(
                    "cannot run {program}: the row's arguments are too long ({error}); read the row from stdin instead"
                )
                .into(),
            ),
            Some(Errno::ENOEXEC) => HandlerAnswer::Retry(
                format!("cannot run {program}: {error}; a script must begin with a line such as #!/bin/sh").into(),
            ),
            _ => HandlerAnswer::Retry(format!("cannot run {program}: {error}").into()),
        }
    }
}

/// Keeps from a handler what may have passwords in it: where the store and Redis are is the worker's business.
pub(super) fn keep_secrets(command: &mut Command) {
    for variable in ["FENCEPOST_STORE", "FENCEPOST_REDIS"] {
        command.env_remove(variable);
    }
}

/// What one process of the command is for.
struct Task {
    /// Its stdin, as JSON text; the arguments' placeholders are filled from it.
    input: Box<str>,
    /// What its environment has besides the worker's own.
    variables: Vec<(&'static str, String)>,
    /// Whether its stdout is of interest.
    wants_output: bool,
}

impl Task {
    fn of_row(row: Row) -> Self {
        let variables = vec![
            ("FENCEPOST_BATCH", row.batch.to_string()),
            ("FENCEPOST_LINE", row.line.to_string()),
            ("FENCEPOST_ATTEMPT", row.attempt.to_string()),
            ("FENCEPOST_TOKEN", row.token.to_string()),
            ("IDEMPOTENCY_KEY", row.idempotency_key()),
        ];
        Self { input: row.input, variables, wants_output: true }
    }
}

impl CommandHandler {
    async fn perform(&self, task: Task, mut cancel: CancelToken) -> HandlerAnswer {
        if cancel.is_cancelled() {
            return HandlerAnswer::Cancelled;
        }
        let started = tokio::select! {
            biased;
            started = self.start(&task) => started,
            () = cancel.cancelled() => return HandlerAnswer::Cancelled,
        };
        match started {
            Ok(started) => attend(started, cancel, &self.options).await,
            Err(answer) => answer,
        }
    }
}

impl Handler for CommandHandler {
    async fn run(&self, row: Row, cancel: CancelToken) -> HandlerAnswer {
        self.perform(Task::of_row(row), cancel).await
    }
}

/// Why a command is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    TooLarge,
}

/// Sees a command through to its answer.
async fn attend(started: Started, mut cancel: CancelToken, options: &CommandOptions) -> HandlerAnswer {
    let Started { mut process, mut feed, mut pipes } = started;
    let limit = options.result_limit;
    let mut stop = None;
    let mut killed = false;
    let mut deadline = None;
    let status = loop {
        let at_deadline = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        // In this order: a command that writes without end must not keep the others from their turn.
        tokio::select! {
            biased;
            () = cancel.cancelled(), if stop.is_none() => {
                stop = Some(Stop::Cancelled);
                process.terminate();
                deadline = Some(Instant::now() + options.kill_after);
            }
            () = at_deadline => {
                if killed {
                    break None;
                }
                killed = true;
                process.kill();
                deadline = Some(Instant::now() + DYING);
            }
            status = process.child.wait() => break Some(status),
            () = feed.write() => {}
            () = pipes.read(limit), if pipes.is_open() => {
                if pipes.too_large && stop.is_none() {
                    stop = Some(Stop::TooLarge);
                    killed = true;
                    process.kill();
                    deadline = Some(Instant::now() + DYING);
                }
            }
        }
    };
    // It has exited: nobody reads the rest of its input.
    drop(feed);

    let end = Instant::now() + DRAIN;
    // What still holds the pipes may have something to say, unless the row is to stop anyway.
    while pipes.is_open() && stop.is_none() && !pipes.too_large {
        let patience = end.min(Instant::now() + SILENCE);
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            read = timeout_at(patience, pipes.read(limit)) => if read.is_err() { break },
        }
        if Instant::now() >= end {
            break;
        }
    }
    process.kill();
    // The killed close the pipes as they die. Who has left the group may hold them for ever.
    let end = Instant::now() + SILENCE;
    while pipes.is_open() && stop != Some(Stop::TooLarge) && timeout_at(end, pipes.read(limit)).await.is_ok() {
        if Instant::now() >= end {
            break;
        }
    }

    let Pipes { stdout_bytes, tail, too_large, .. } = pipes;
    match (stop, status) {
        // Done before it could be stopped.
        (Some(Stop::Cancelled), Some(Ok(status))) if status.success() && !too_large => {
            success(&stdout_bytes, tail, limit)
        }
        (Some(Stop::Cancelled), _) => HandlerAnswer::Cancelled,
        _ if too_large => HandlerAnswer::Failed(tail.under(&output::too_large(limit))),
        (_, Some(Ok(status))) => exited(status, &stdout_bytes, tail, limit),
        (_, Some(Err(error))) => {
            HandlerAnswer::Retry(tail.under(&format!("cannot tell how the command ended: {error}")))
        }
        (_, None) => HandlerAnswer::Retry(tail.under("the command does not end")),
    }
}

fn exited(status: ExitStatus, stdout: &[u8], tail: Tail, limit: usize) -> HandlerAnswer {
    match (status.code(), status.signal()) {
        (Some(0), _) => success(stdout, tail, limit),
        (Some(EXIT_FAILED), _) => HandlerAnswer::Failed(tail.under(&format!("exit code {EXIT_FAILED}"))),
        (Some(code), _) => HandlerAnswer::Retry(tail.under(&format!("exit code {code}"))),
        (None, Some(signal)) => HandlerAnswer::Retry(tail.under(&format!("killed by signal {signal}"))),
        (None, None) => HandlerAnswer::Retry(tail.under(&format!("{status}"))),
    }
}

fn success(stdout: &[u8], tail: Tail, limit: usize) -> HandlerAnswer {
    match output::result(stdout, limit) {
        Ok(result) => HandlerAnswer::Success(result),
        Err(error) => HandlerAnswer::Failed(tail.under(&error)),
    }
}

/// Writes a row that does not fit into an empty pipe. Never ends once that is done.
struct Feed(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Feed {
    fn new(stdin: Option<ChildStdin>, input: &str) -> Self {
        let Some(mut stdin) = stdin else { return Self(None) };
        let line = format!("{input}\n");
        Self(Some(Box::pin(async move {
            // A command need not read its input: closing it early is no error.
            _ = stdin.write_all(line.as_bytes()).await;
        })))
    }

    async fn write(&mut self) {
        if let Some(writing) = &mut self.0 {
            writing.await;
        }
        self.0 = None;
        pending().await
    }
}

/// A stdin that holds the row already, where that is certain not to block; otherwise one that is written later.
fn stdin(input: &str) -> io::Result<Stdio> {
    if input.len() >= PIPE_SIZE {
        return Ok(Stdio::piped());
    }
    let (reader, mut writer) = io::pipe()?;
    let mut line = Vec::with_capacity(input.len() + 1);
    line.extend_from_slice(input.as_bytes());
    line.push(b'\n');
    writer.write_all(&line)?;
    Ok(reader.into())
}

/// A command that was started.
struct Started {
    process: Process,
    feed: Feed,
    pipes: Pipes,
}

/// A running command. Dropping it kills it.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) lease: Lease,
    pub(super) leader: Option<Pid>,
    pub(super) strays: Option<Strays>,
}

impl Process {
    /// The command's pid until it is reaped: it is safe to send signals to.
    fn leader(&self) -> Option<Pid> {
        self.child.id().and(self.leader)
    }

    pub(super) fn terminate(&mut self) {
        if let Some(leader) = self.leader() {
            self.strays = Some(processes::terminate(self.lease.group(), leader));
        }
    }

    /// Kills what is left of the command.
    pub(super) fn kill(&self) {
        if let Some(leader) = self.leader() {
            processes::kill_tree(leader);
        }
        if let Some(strays) = &self.strays {
            strays.kill();
        }
        self.lease.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The pipes that a command writes to.
struct Pipes {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    stdout_bytes: Vec<u8>,
    /// Stdout was over the limit. It is not read any more, but stays open: the command has nothing to complain of.
    too_large: bool,
    stderr_bytes: Vec<u8>,
    tail: Tail,
}

impl Pipes {
    fn new(child: &mut Child) -> Self {
        Self {
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            stdout_bytes: Vec::new(),
            too_large: false,
            stderr_bytes: Vec::new(),
            tail: Tail::default(),
        }
    }

    fn is_open(&self) -> bool {
        (self.stdout.is_some() && !self.too_large) || self.stderr.is_some()
    }

    /// Reads once from either pipe. Nothing is lost where this is dropped before its end.
    async fn read(&mut self, limit: usize) {
        tokio::select! {
            more = read_once(&mut self.stderr, &mut self.stderr_bytes) => {
                self.tail.push(&self.stderr_bytes);
                self.stderr_bytes.clear();
                if !more {
                    self.stderr = None;
                }
            }
            more = read_once(&mut self.stdout, &mut self.stdout_bytes), if !self.too_large => {
                self.too_large = self.stdout_bytes.len() > limit;
                if !more {
                    self.stdout = None;
                }
            }
        }
    }
}

/// Reads once and appends what there is. `false` at the end, never where there is no pipe.
async fn read_once(pipe: &mut Option<impl AsyncRead + Unpin>, bytes: &mut Vec<u8>) -> bool {
    let Some(pipe) = pipe else { return pending().await };
    bytes.reserve(READ_SIZE);
    // A pipe that cannot be read has nothing more to say.
    pipe.read_buf(bytes).await.is_ok_and(|read| read > 0)
}
