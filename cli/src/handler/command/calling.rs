//! S7: completion calls by a command.
//!
//! It is started like a row's, and answers with its exit code alone: 0 is delivered, anything else is tried again later. What it writes
//! to stdout goes nowhere.

use fencepost_core::calls::CallGrant;
use fencepost_core::worker::CallAnswer;

use super::{CommandHandler, Task};
use crate::handler::call::{CallMessage, idempotency_key};
use crate::handler::{CancelToken, HandlerAnswer};

impl CommandHandler {
    /// Makes a completion call.
    pub async fn call(&self, grant: CallGrant, cancel: CancelToken) -> CallAnswer {
        let mut variables = vec![
            ("FENCEPOST_BATCH", grant.key.batch.to_string()),
            ("FENCEPOST_GENERATION", grant.key.generation.to_string()),
            ("FENCEPOST_STATUS", grant.end.status.name().to_owned()),
            ("FENCEPOST_ATTEMPT", grant.attempt.to_string()),
            ("FENCEPOST_TOKEN", grant.key.token.to_string()),
        ];
        variables.push(("IDEMPOTENCY_KEY", idempotency_key(&grant.key)));
        let input = CallMessage::of(&grant).to_json().into();
        match self.perform(Task { input, variables, wants_output: false }, cancel).await {
            HandlerAnswer::Success(_) => CallAnswer::Delivered,
            HandlerAnswer::Failed(error) | HandlerAnswer::Retry(error) => CallAnswer::Failed(error),
            HandlerAnswer::Cancelled | HandlerAnswer::Interrupted => CallAnswer::Cancelled,
        }
    }
}
