//! A child process: its start, its pipes, its end.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Sender;
use tokio::process::{ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::lines::Lines;
use super::relay::Relay;
use crate::handler::command::groups::Groups;
use crate::handler::command::{Process, keep_secrets};

/// How often a start is tried whose guard dies meanwhile.
const STARTS: u32 = 3;
/// How long the pipes of a dead child may be silent before they are left to whoever still holds them.
const SILENCE: Duration = Duration::from_millis(500);
/// How long the kernel may take to end a killed process.
const DYING: Duration = Duration::from_secs(5);

/// How children are started.
#[derive(Debug)]
pub(super) struct Recipe {
    /// As the program was called.
    pub(super) name: OsString,
    /// The file it is.
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) groups: Groups,
    pub(super) line_limit: usize,
}

impl Recipe {
    /// Starts a child under the guard, or says why it does not start.
    pub(super) async fn start(&self) -> Result<Child, String> {
        let mut command = Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        keep_secrets(&mut command);
        for attempt in 1..=STARTS {
            let mut lease = self.groups.lease().await.map_err(|error| error.to_string())?;
            let no_pipe = |error| format!("no pipe for the rows: {error}");
            let (for_child, stdin) = io::pipe().map_err(no_pipe)?;
            let unread = for_child.try_clone().map_err(no_pipe)?;
            let stdin = Sender::from_owned_fd(OwnedFd::from(stdin)).map_err(no_pipe)?;
            command.stdin(for_child).process_group(lease.group().as_raw());
            match command.spawn() {
                Ok(mut child) => {
                    let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
                    if let Some(leader) = leader {
                        lease.started(leader);
                    }
                    let pipes = child.stdout.take().zip(child.stderr.take());
                    let process = Process { child, lease, leader, strays: None };
                    let (stdout, stderr) = pipes.ok_or("it has no pipes")?;
                    return Ok(Child {
                        process,
                        stdin: Stdin { pipe: stdin, unread, bytes: Vec::new(), next: 0, written: 0 },
                        stdout: Some(stdout),
                        lines: Lines::new(self.line_limit),
                        relay: Relay::start(stderr),
                    });
                }
                Err(error)
                    if attempt < STARTS && error.kind() == io::ErrorKind::PermissionDenied && lease.is_gone() => {}
                Err(error) => return Err(format!("cannot run {}: {error}", self.program.display())),
            }
        }
        Err("its guard dies again and again".into())
    }
}

/// A running child. Dropping it kills it.
pub(super) struct Child {
    process: Process,
    pub(super) stdin: Stdin,
    stdout: Option<ChildStdout>,
    pub(super) lines: Lines,
    relay: Relay,
}

/// Why a child is at its end.
#[derive(Debug)]
pub(super) enum Cause {
    /// It has exited.
    Exited(io::Result<ExitStatus>),
    /// It has closed its stdout: no answer can come any more.
    Silent,
    /// It is to be killed, and this is why.
    Killed(String),
}

impl Child {
    /// Reads once into the lines; `false` at the end of stdout. Nothing is lost where this is dropped before its end.
    pub(super) async fn read(&mut self) -> bool {
        read(&mut self.stdout, &mut self.lines).await
    }

    /// Waits for what can happen to a child: its exit, room for more of its input, or some of its answers.
    pub(super) async fn event(&mut self) -> Event {
        tokio::select! {
            biased;
            () = self.stdin.write() => Event::Written,
            more = read(&mut self.stdout, &mut self.lines) => if more { Event::Read } else { Event::End(Cause::Silent) },
            status = self.process.child.wait() => Event::End(Cause::Exited(status)),
        }
    }

    /// Sees to it that nothing of the child is left, and says how it died.
    pub(super) async fn bury(&mut self, cause: Cause) -> String {
        let cause = match cause {
            // Most likely it is just exiting: how it does tells more.
            Cause::Silent => match timeout(SILENCE, self.process.child.wait()).await {
                Ok(status) => Cause::Exited(status),
                Err(_) => Cause::Silent,
            },
            other => other,
        };
        self.process.kill();
        if !matches!(cause, Cause::Exited(_)) {
            _ = timeout(DYING, self.process.child.wait()).await;
        }
        match cause {
            Cause::Exited(Ok(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited (code {code})"),
                (_, Some(signal)) => format!("died (signal {signal})"),
                _ => format!("died ({status})"),
            },
            Cause::Exited(Err(error)) => format!("died (nobody knows how: {error})"),
            Cause::Silent => "closed its stdout and was killed".into(),
            Cause::Killed(why) => format!("was killed: {why}"),
        }
    }

    /// Reads what a dead child has left in its stdout. `false` when that is all.
    pub(super) async fn read_rest(&mut self) -> bool {
        timeout(SILENCE, self.read()).await.unwrap_or(false)
    }

    /// `what`, with the end of a dead child's stderr below.
    pub(super) async fn last_words(&mut self, what: &str) -> Box<str> {
        self.relay.under(what, SILENCE).await
    }

    /// Asks the child to leave: first by the end of its input, then by SIGTERM, then not any more.
    pub(super) async fn leave(self, patience: Duration) {
        let Self { mut process, stdin, mut stdout, mut lines, relay } = self;
        drop(stdin);
        for ask in [false, true] {
            if ask {
                process.terminate();
            }
            let end = Instant::now() + patience;
            let gone = async {
                loop {
                    tokio::select! {
                        biased;
                        _ = process.child.wait() => return,
                        // Otherwise it could not finish what it is writing.
                        more = read(&mut stdout, &mut lines), if stdout.is_some() => {
                            if !more {
                                stdout = None;
                            }
                            lines = Lines::new(0);
                        }
                    }
                }
            };
            if timeout_at(end, gone).await.is_ok() {
                break;
            }
        }
        process.kill();
        _ = timeout(DYING, process.child.wait()).await;
        drop(relay);
    }
}

/// What happened to a child.
#[derive(Debug)]
pub(super) enum Event {
    /// Some of its input was written.
    Written,
    /// Some of its output was read.
    Read,
    /// It is at its end.
    End(Cause),
}

async fn read(stdout: &mut Option<ChildStdout>, lines: &mut Lines) -> bool {
    let Some(stdout) = stdout else { return false };
    // A pipe that cannot be read has nothing more to say.
    stdout.read_buf(lines.space()).await.is_ok_and(|read| read > 0)
}

/// A child's stdin and what is to be written to it.
#[derive(Debug)]
pub(super) struct Stdin {
    pipe: Sender,
    /// Another hold on the child's end: when the child is dead, what it has not read is still there.
    unread: PipeReader,
    bytes: Vec<u8>,
    /// Where in `bytes` the next write begins.
    next: usize,
    /// All that was ever written.
    written: u64,
}

impl Stdin {
    /// Appends a line; says where it begins in all that the child gets.
    pub(super) fn push(&mut self, line: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.next == self.bytes.len() {
            self.bytes.clear();
            self.next = 0;
        }
        let start = self.written + self.waiting() as u64;
        line(&mut self.bytes);
        start
    }

    /// How much there is to be written.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.next
    }

    /// Writes once; for ever where there is nothing to write. Nothing is lost where this is dropped before its end.
    async fn write(&mut self) {
        if self.waiting() == 0 {
            return std::future::pending().await;
        }
        match self.pipe.write(&self.bytes[self.next..]).await {
            Ok(written) => {
                self.next += written;
                self.written += written as u64;
            }
            // Not for want of a reader, as this process has one. So the rows wait, and time out.
            Err(_) => std::future::pending().await,
        }
    }

    /// How much a dead child has read.
    pub(super) fn read_by_child(&mut self) -> u64 {
        let mut left = 0;
        let mut bytes = [0; 4096];
        // Not before: this flag is the child's too.
        if fcntl(self.unread.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
            while let Ok(read @ 1..) = self.unread.read(&mut bytes) {
                left += read as u64;
            }
        }
        self.written.saturating_sub(left)
    }
}
