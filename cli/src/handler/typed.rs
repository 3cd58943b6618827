//! Handlers written in Rust: typed inputs and results, and errors that say whether to try again.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CancelToken, Handler, HandlerAnswer, Row};

/// What a handler knows of its row besides the input.
#[derive(Debug, Clone)]
pub struct Context {
    /// The batch.
    pub batch: fencepost_core::BatchId,
    /// The row's 1-based place in its batch.
    pub line: u64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The fencing token: larger on every run of the row. Pass it to systems that can refuse an older one.
    pub token: u64,
    /// The same on every run of the row: for effects that must not happen twice.
    pub key: String,
    /// Fires when the row is to stop: it timed out, its worker leaves, or it is in other hands.
    pub cancel: CancelToken,
}

/// Why a row has no result. `?` on any error makes a [`RowError::Retry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowError {
    /// Failed for good.
    Failed(String),
    /// To be tried again if an attempt is left.
    Retry(String),
    /// The handler stopped because its [`Context::cancel`] fired.
    Cancelled,
}

impl RowError {
    /// An error that no repeat would mend.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// An error that may pass.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::Retry(error.to_string())
    }
}

/// Not an [`std::error::Error`] itself, so that every error converts into it.
impl<E: std::error::Error> From<E> for RowError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut below = error.source();
        while let Some(cause) = below {
            text = format!("{text}: {cause}");
            below = cause.source();
        }
        Self::Retry(text)
    }
}

/// Runs rows in this process. One handler serves all rows of a worker at once.
///
/// A run may be repeated: its worker may die before the result is recorded. Where an effect outside must not happen twice,
/// use [`Context::key`] or [`Context::token`], or a
/// [`TransactionalHandler`](super::transactional::TransactionalHandler).
///
/// A panic takes nothing but its row down: it counts as a failed attempt.
pub trait RowHandler: Send + Sync + 'static {
    /// The row's input: CSV rows are objects of strings.
    type Input: DeserializeOwned + Send;
    /// The row's result.
    type Output: Serialize + Send;

    /// Runs one row.
    fn run(&self, context: Context, input: Self::Input) -> impl Future<Output = Result<Self::Output, RowError>> + Send;
}

/// A [`RowHandler`] as a worker takes it.
#[derive(Debug)]
pub struct Typed<H>(pub Arc<H>);

impl<H: RowHandler> Typed<H> {
    /// Wraps a handler.
    pub fn new(handler: H) -> Self {
        Self(Arc::new(handler))
    }
}

impl<H: RowHandler> Handler for Typed<H> {
    async fn run(&self, row: Row, cancel: CancelToken) -> HandlerAnswer {
        let (context, input) = match read_row(row, cancel) {
            Ok(read) => read,
            Err(error) => return answer_of(error),
        };
        match self.0.run(context, input).await.and_then(|output| write_result(&output)) {
            Ok(result) => HandlerAnswer::Success(result),
            Err(error) => answer_of(error),
        }
    }
}

/// The context and the typed input of a row. An input of another shape fails its row for good.
pub(super) fn read_row<I: DeserializeOwned>(row: Row, cancel: CancelToken) -> Result<(Context, I), RowError> {
    let input = serde_json::from_str(&row.input)
        .map_err(|error| RowError::Failed(format!("the row's input is not what the handler takes: {error}")))?;
    let key = row.idempotency_key();
    let Row { batch, line, attempt, token, .. } = row;
    Ok((Context { batch, line, attempt, token: token.0, key, cancel }, input))
}

/// A result as the store keeps it: JSON that every store can keep.
pub(crate) fn write_result<O: Serialize>(output: &O) -> Result<Box<str>, RowError> {
    let text = serde_json::to_string(output)
        .map_err(|error| RowError::Failed(format!("the handler's result cannot be written as JSON: {error}")))?;
    crate::input::check_json(&text)
        .map_err(|fault| RowError::Failed(format!("the handler's result cannot be kept: {fault}")))?;
    Ok(text.into_boxed_str())
}

pub(super) fn answer_of(error: RowError) -> HandlerAnswer {
    match error {
        RowError::Failed(error) => HandlerAnswer::Failed(error.into()),
        RowError::Retry(error) => HandlerAnswer::Retry(error.into()),
        RowError::Cancelled => HandlerAnswer::Cancelled,
    }
}
