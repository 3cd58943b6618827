//! Handlers: what runs a row.
//!
//! A handler never touches the store. It gets a row, runs it, and answers; the worker records the answer under the row's
//! token, or drops it where the row has changed hands meanwhile.

use std::future::Future;

use fencepost_core::{BatchId, Token};
use tokio::sync::watch;

pub mod call;
pub mod command;
pub mod guard;
pub mod sleep;
pub mod stream;
pub mod transactional;
pub mod typed;

/// A row to run.
#[derive(Debug, Clone)]
pub struct Row {
    /// The batch.
    pub batch: BatchId,
    /// The row's 1-based place in its batch.
    pub line: u64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The fencing token: larger on every run of the row.
    pub token: Token,
    /// The row as JSON text: an object for CSV, any value for JSONL.
    pub input: Box<str>,
}

impl Row {
    /// The same on every run of the row: batch and line.
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.batch, self.line)
    }
}

/// What a handler says of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerAnswer {
    /// Done, with the result as JSON text.
    Success(Box<str>),
    /// Failed for good, with the error.
    Failed(Box<str>),
    /// To be tried again if an attempt is left, with the error.
    Retry(Box<str>),
    /// The run was cancelled before it came to an answer.
    Cancelled,
    /// The run was cut off, and the row is not known to be to blame: it runs again under a new token, with no attempt used. It is
    /// for the handler to see that this comes to an end.
    Interrupted,
}

/// Tells a running handler that its row is to stop.
#[derive(Debug, Clone)]
pub struct CancelToken {
    flag: watch::Receiver<bool>,
}

/// Cancels the runs that hold its [`CancelToken`]s.
#[derive(Debug)]
pub struct Canceller {
    flag: watch::Sender<bool>,
}

impl Canceller {
    /// A canceller and its token.
    pub fn new() -> (Self, CancelToken) {
        let (sender, receiver) = watch::channel(false);
        (Self { flag: sender }, CancelToken { flag: receiver })
    }

    /// Cancels.
    pub fn cancel(&self) {
        self.flag.send_replace(true);
    }
}

impl CancelToken {
    /// Whether the run was cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.flag.borrow()
    }

    /// Whether nobody waits for the run's answer any more: its canceller is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.flag.has_changed().is_err()
    }

    /// Ends when the run is cancelled; never where its canceller is gone without cancelling.
    pub async fn cancelled(&mut self) {
        if self.flag.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs rows. One handler serves all rows of a worker at once.
pub trait Handler: Send + Sync + 'static {
    /// Runs one row. When `cancel` fires, stop soon and answer [`HandlerAnswer::Cancelled`], or the answer if there is
    /// one already.
    fn run(&self, row: Row, cancel: CancelToken) -> impl Future<Output = HandlerAnswer> + Send;
}
