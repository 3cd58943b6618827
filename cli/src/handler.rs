//! Handlers: what runs a row.
//!
//! A handler never touches the store. It gets a row, runs it, and answers; the worker records the answer under the row's
//! token, or drops it where the row has changed hands meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fencepost_core::{BatchId, Token};
use tokio::sync::Notify;

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
    shared: Arc<Shared>,
}

/// Cancels the runs that hold its [`CancelToken`]s.
#[derive(Debug)]
pub struct Canceller {
    shared: Arc<Shared>,
}

/// One of these is made for each row, so it is small.
#[derive(Debug, Default)]
struct Shared {
    cancelled: AtomicBool,
    abandoned: AtomicBool,
    changed: Notify,
}

impl Canceller {
    /// A canceller and its token.
    pub fn new() -> (Self, CancelToken) {
        let shared = Arc::new(Shared::default());
        (Self { shared: Arc::clone(&shared) }, CancelToken { shared })
    }

    /// Cancels.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::SeqCst);
    }
}

impl CancelToken {
    /// Whether the run was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::SeqCst)
    }

    /// Whether nobody waits for the run's answer any more: its canceller is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.shared.abandoned.load(Ordering::SeqCst)
    }

    /// Ends when the run is cancelled; never where its canceller is gone without cancelling.
    pub async fn cancelled(&mut self) {
        loop {
            // Made before the look: it hears what is told after that.
            let changed = self.shared.changed.notified();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}

/// Runs rows. One handler serves all rows of a worker at once.
pub trait Handler: Send + Sync + 'static {
    /// Runs one row. When `cancel` fires, stop soon and answer [`HandlerAnswer::Cancelled`], or the answer if there is
    /// one already.
    fn run(&self, row: Row, cancel: CancelToken) -> impl Future<Output = HandlerAnswer> + Send;
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_token_hears_of_its_cancel_before_and_after_it_waits() {
        let (canceller, mut token) = Canceller::new();
        let mut other = token.clone();
        let mut waits = Box::pin(token.cancelled());
        assert!(waits.as_mut().now_or_never().is_none() && !other.is_cancelled());
        canceller.cancel();
        assert!(waits.now_or_never().is_some(), "it was told while it waited");
        assert!(other.cancelled().now_or_never().is_some() && other.is_cancelled(), "it asks afterwards");
        assert!(!other.is_abandoned());
        drop(canceller);
        assert!(other.is_abandoned() && other.cancelled().now_or_never().is_some());
    }

    #[test]
    fn a_token_whose_canceller_is_gone_is_never_cancelled() {
        let (canceller, mut token) = Canceller::new();
        let mut waits = token.clone();
        let mut waits = Box::pin(waits.cancelled());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(canceller);
        assert!(waits.now_or_never().is_none() && token.cancelled().now_or_never().is_none());
        assert!(token.is_abandoned() && !token.is_cancelled());
    }
}
