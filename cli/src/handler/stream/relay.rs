//! Passes a child's stderr on to this process's, line by line, and keeps its end.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::handler::command::output::Tail;

/// How much is read at once, at least.
const READ_SIZE: usize = 8 << 10;
/// A line longer than this is broken into several.
const LINE_MAX: usize = 8 << 10;

/// A child's stderr on its way.
#[derive(Debug)]
pub(super) struct Relay {
    tail: Arc<Mutex<Tail>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(super) fn start(stderr: ChildStderr) -> Self {
        let tail = Arc::new(Mutex::new(Tail::default()));
        let task = tokio::spawn(pass_on(stderr, tail.clone()));
        Self { tail, task }
    }

    /// `what`, and below it the end of what the child said; waits so long for the rest of it.
    pub(super) async fn under(&mut self, what: &str, patience: Duration) -> Box<str> {
        // It ends by itself unless a process that got away holds the pipe.
        _ = timeout(patience, &mut self.task).await;
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *tail).under(what)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(mut stderr: ChildStderr, tail: Arc<Mutex<Tail>>) {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(READ_SIZE);
        let before = bytes.len();
        // A pipe that cannot be read has nothing more to say.
        let more = stderr.read_buf(&mut bytes).await.is_ok_and(|read| read > 0);
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&bytes[before..]);
        if !more && !bytes.is_empty() || bytes.len() > LINE_MAX && !bytes.contains(&b'\n') {
            bytes.push(b'\n');
        }
        if let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') {
            // Where nobody listens to this process, nobody misses it.
            _ = std::io::stderr().lock().write_all(&bytes[..=end]);
            bytes.drain(..=end);
        }
        if !more {
            return;
        }
    }
}
