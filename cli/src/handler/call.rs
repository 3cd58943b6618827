//! S7: completion calls: what is told, and who tells it.

use fencepost_core::calls::{CallGrant, CallKey};
use fencepost_core::worker::CallAnswer;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::CancelToken;
use super::command::CommandHandler;

pub mod http;
pub mod url;

use self::http::HttpCaller;

/// Makes completion calls.
pub trait Caller: Send + Sync + 'static {
    /// Makes one. When `cancel` fires, stop soon and answer [`CallAnswer::Cancelled`], or the answer if there is one already.
    fn call(&self, grant: CallGrant, cancel: CancelToken) -> BoxFuture<'_, CallAnswer>;
}

/// The same on every call for one end of a batch, and another for its next generation.
pub fn idempotency_key(key: &CallKey) -> String {
    format!("{}:{}", key.batch, key.generation)
}

/// What a call tells; `docs/json.md` has its fields.
#[derive(Debug, Serialize)]
pub struct CallMessage<'a> {
    schema_version: u32,
    batch: String,
    key: Option<&'a str>,
    op: &'a str,
    generation: u32,
    status: &'a str,
    rows: u64,
    success: u64,
    failed: u64,
    aborted: u64,
    ended_at_us: i64,
    attempt: u32,
}

impl<'a> CallMessage<'a> {
    /// Of this call.
    pub fn of(grant: &'a CallGrant) -> Self {
        let end = &grant.end;
        Self {
            schema_version: crate::report::SCHEMA_VERSION,
            batch: grant.key.batch.to_string(),
            key: end.key.as_deref(),
            op: &end.operation,
            generation: grant.key.generation,
            status: end.status.name(),
            rows: end.success + end.failed + end.aborted,
            success: end.success,
            failed: end.failed,
            aborted: end.aborted,
            ended_at_us: end.ended_at.0,
            attempt: grant.attempt,
        }
    }

    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Calls a batch's URL where it has one, else the operation's command.
pub struct Calling {
    /// The command, where there is one.
    pub command: Option<CommandHandler>,
    /// URLs, where some are allowed.
    pub http: Option<HttpCaller>,
}

impl Caller for Calling {
    fn call(&self, grant: CallGrant, cancel: CancelToken) -> BoxFuture<'_, CallAnswer> {
        Box::pin(async move {
            match (&grant.end.url, &self.command, &self.http) {
                (Some(_), _, Some(http)) => http.call(grant, cancel).await,
                (None, Some(command), _) => command.call(grant, cancel).await,
                (Some(_), _, None) => CallAnswer::Failed("this worker calls no URLs".into()),
                (None, None, _) => CallAnswer::Failed("this worker has no command for completion calls".into()),
            }
        })
    }
}
