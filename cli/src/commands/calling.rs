//! The completion calls of `fencepost worker`: which its options name, and what makes them.

use std::sync::Arc;

use fencepost_core::WorkerOptions;
use fencepost_core::calls::Calls;

use super::args::WorkerArgs;
use super::failure::{Exit, Failure};
use crate::handler::call::http::HttpCaller;
use crate::handler::call::{Caller, Calling};
use crate::handler::command::{CommandHandler, CommandOptions};
use crate::handler::guard;
use crate::handler::{CancelToken, Handler, HandlerAnswer, Row};

/// What makes a worker's calls, checked before the first one.
pub struct PreparedCalls {
    calls: Calls,
    rows: bool,
    timeout: std::time::Duration,
    caller: Option<Arc<dyn Caller>>,
}

impl PreparedCalls {
    /// Puts into the options which calls are made, and hands out what makes them.
    pub fn apply(self, options: &mut WorkerOptions) -> Option<Arc<dyn Caller>> {
        options.calls = self.calls;
        options.rows = self.rows;
        options.call_timeout = self.timeout;
        self.caller
    }
}

/// Of a worker that only makes calls: no row ever gets here.
pub struct NoRows;

impl Handler for NoRows {
    async fn run(&self, _: Row, _: CancelToken) -> HandlerAnswer {
        HandlerAnswer::Interrupted
    }
}

/// Finds what the options name.
pub async fn prepare(args: &WorkerArgs) -> Result<PreparedCalls, Failure> {
    let handler = &args.handler;
    let (words, rows) = match args.calls.on_done.as_ref().map(|value| value.as_deref()) {
        None => (None, true),
        Some(None) if handler.stream || handler.sleep.is_some() => {
            return Err(Failure::new(
                Exit::Usage,
                "--on-done without a value takes the command after --, and runs no rows",
            )
            .help("for both write --on-done='CMD ARG' -- HANDLER"));
        }
        Some(None) => (Some(handler.command.clone()), false),
        // As from a variable that was never set: the command after -- is not meant.
        Some(Some(text)) if text.trim().is_empty() => {
            return Err(Failure::new(Exit::Usage, "--on-done= has no command")
                .help("write --on-done='CMD ARG' -- HANDLER, or --on-done -- CMD"));
        }
        Some(Some(text)) => {
            let words = shell_words::split(text).map_err(|error| {
                Failure::new(Exit::Usage, format!("--on-done={text:?} is no command line")).because(error)
            })?;
            (Some(words), has_handler(args))
        }
    };
    let urls = args.calls.allow_url.clone();
    let rows = rows && (has_handler(args) || urls.is_empty());
    let command = match words {
        None => None,
        Some(words) => Some(command(&words).await?),
    };
    let http = match urls.is_empty() {
        true => None,
        false => {
            let http = HttpCaller::new(urls.clone()).map_err(|error| Failure::from_error(Exit::Unexpected, error))?;
            Some(http)
        }
    };
    let calls = Calls { operations: args.op.clone(), command: command.is_some(), urls };
    let caller = calls.makes_any().then(|| Arc::new(Calling { command, http }) as Arc<dyn Caller>);
    let calls = if caller.is_some() { calls } else { Calls::default() };
    Ok(PreparedCalls { calls, rows, timeout: args.calls.on_done_timeout, caller })
}

fn has_handler(args: &WorkerArgs) -> bool {
    args.handler.sleep.is_some() || !args.handler.command.is_empty()
}

async fn command(words: &[String]) -> Result<CommandHandler, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::new(Exit::Usage, "--on-done has no command to run")
            .help("end the command line with -- CMD ARG..., or write --on-done='CMD ARG'"));
    };
    let own = guard::own_program()
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot find this program's own file").because(error))?;
    let command = CommandHandler::new(program, arguments, CommandOptions::new(own))
        .map_err(|error| Failure::from_error(Exit::Usage, error))?;
    command.ready().await.map_err(|error| Failure::from_error(Exit::Unexpected, error))?;
    Ok(command)
}
