//! With a store that does not answer for a while: its workers bear it, and so does the run.

use std::time::{Duration, Instant};

use super::super::failure::{Exit, Failure};
use crate::say::say;

/// How long a store has not answered, and may not.
pub struct Patience {
    limit: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// It may be silent for so long.
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None }
    }

    /// The answer, or none yet; an error where it takes too long, or is none of the store's troubles.
    pub fn bear<T>(&mut self, answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
        let failure = match answer {
            Ok(answer) => {
                self.since = None;
                return Ok(Some(answer));
            }
            Err(failure) => failure,
        };
        if failure.exit != Exit::Store {
            return Err(failure);
        }
        match self.since {
            None => {
                say!("The store does not answer: {}; it is asked again for {:?}", failure.message, self.limit);
                self.since = Some(Instant::now());
                Ok(None)
            }
            Some(since) if since.elapsed() < self.limit => Ok(None),
            Some(_) => Err(failure),
        }
    }
}
