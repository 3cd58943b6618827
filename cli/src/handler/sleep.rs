//! A handler that only takes time: for trying a batch out, and for tests.

use std::time::Duration;

use super::{CancelToken, Handler, HandlerAnswer, Row};

/// Sleeps for a while on every row, then answers success with the result `null`.
#[derive(Debug, Clone, Copy)]
pub struct SleepHandler {
    /// How long every row takes.
    pub each: Duration,
}

impl Handler for SleepHandler {
    async fn run(&self, _row: Row, mut cancel: CancelToken) -> HandlerAnswer {
        tokio::select! {
            biased;
            () = cancel.cancelled() => HandlerAnswer::Cancelled,
            () = tokio::time::sleep(self.each) => HandlerAnswer::Success("null".into()),
        }
    }
}
