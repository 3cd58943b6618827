//! Why a command fails: what, where, what to do, and the exit code.

use std::error::Error;
use std::fmt;

/// Documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; every row succeeded.
    Done = 0,
    /// Something that should not happen.
    Unexpected = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The batch has ended, with failed rows.
    FailedRows = 3,
    /// There is no such batch or row.
    NotFound = 4,
    /// The batch was aborted.
    Aborted = 5,
    /// The wait timed out.
    TimedOut = 6,
    /// The store cannot be reached or used.
    Store = 7,
    /// The input cannot be read, or is not what was submitted before.
    Input = 8,
    /// The store's records break the promise.
    Broken = 9,
    /// Interrupted.
    Interrupted = 130,
}

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, and where.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Why.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a deeper cause.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None, cause: None }
    }

    /// A failure that an error explains: its message, and its causes below.
    pub fn from_error(exit: Exit, error: impl Error + Send + Sync + 'static) -> Self {
        let message = error.to_string();
        let cause = source_of(Box::new(error), &message);
        Self { exit, message, help: None, cause }
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says why.
    pub fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }
}

/// The errors below this one, as a text of its own: what the message tells already is left out.
fn source_of(error: Box<dyn Error + Send + Sync>, message: &str) -> Option<Box<dyn Error + Send + Sync>> {
    let mut causes = Vec::new();
    let mut below = error.source();
    while let Some(cause) = below {
        causes.push(cause.to_string());
        below = cause.source();
    }
    causes.retain(|cause| !message.contains(cause.as_str()));
    (!causes.is_empty()).then(|| causes.join(": ").into())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(error) = cause {
            write!(f, "\n  cause: {error}")?;
            cause = error.source();
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl Failure {
    /// The form of `--json`, on stderr.
    pub fn to_json(&self) -> serde_json::Value {
        let cause = self.cause.as_deref().map(ToString::to_string);
        serde_json::json!({ "code": self.exit as u8, "message": self.message, "cause": cause, "help": self.help })
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Self::from_error(Exit::Store, error)
    }
}

impl From<crate::input::InputError> for Failure {
    fn from(error: crate::input::InputError) -> Self {
        Self::from_error(Exit::Input, error)
    }
}
