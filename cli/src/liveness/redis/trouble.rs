//! A Redis that does not answer: said when it begins and when it ends, not at every beat.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fencepost_core::Instant;
use redis::RedisError;

use crate::driver::{Observer, Report};

/// Why Redis gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LivenessError {
    /// It cannot be reached, or refuses the request.
    #[error("{}", self.brief())]
    Redis(#[source] RedisError),
    /// It said nothing.
    #[error("no answer within {limit:?}")]
    Silent {
        /// In this time.
        limit: Duration,
    },
    /// There is no connection yet, or none again.
    #[error("{why}")]
    NotConnected {
        /// Why the last attempt failed.
        why: Arc<str>,
    },
}

impl LivenessError {
    /// The library's text without its kind, on one line.
    fn brief(&self) -> String {
        match self {
            Self::Redis(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
            Self::Silent { .. } | Self::NotConnected { .. } => String::new(),
        }
    }
}

/// A trouble that begins within this time of the last one that was told is told only if it lasts so long.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is gone or silent: over when there is one again.
    Lost,
    /// It is there, and the server refused a request: over as soon as the server does one, on whatever connection, since this one
    /// may not be asked again for long.
    Refused,
}

/// The troubles of all connections of a worker: told as one.
pub struct Trouble {
    observer: Observer,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The connections that are in trouble.
    who: BTreeMap<u64, Kind>,
    connections: u64,
    told_at: Option<Instant>,
    told: bool,
}

impl Trouble {
    /// None so far.
    pub fn new(observer: Observer) -> Self {
        Self { observer, state: Mutex::default() }
    }

    /// A number for one more connection.
    pub fn connection(&self) -> u64 {
        let mut state = self.lock();
        state.connections += 1;
        state.connections
    }

    /// This connection gave no answer.
    pub fn began(&self, who: u64, kind: Kind, now: Instant, error: &LivenessError) {
        let tell = {
            let mut state = self.lock();
            state.who.insert(who, kind);
            let tell = !state.told && state.told_at.is_none_or(|at| now.since(at) >= TELL_EVERY);
            if tell {
                (state.told, state.told_at) = (true, Some(now));
            }
            tell
        };
        if tell {
            (self.observer)(Report::LivenessTrouble(error));
        }
    }

    /// A request of this connection was done.
    pub fn answered(&self, who: u64) {
        self.ended(|other, kind| other == who || kind == Kind::Refused);
    }

    /// This connection is there; whether requests are done is not known yet.
    pub fn connected(&self, who: u64) {
        self.ended(|other, _| other == who);
    }

    fn ended(&self, is_over: impl Fn(u64, Kind) -> bool) {
        let tell = {
            let mut state = self.lock();
            state.who.retain(|who, kind| !is_over(*who, *kind));
            state.who.is_empty() && std::mem::take(&mut state.told)
        };
        if tell {
            (self.observer)(Report::LivenessBack);
        }
    }

    /// A connection that is not used any more.
    pub fn forget(&self, who: u64) {
        self.lock().who.remove(&who);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trouble").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_trouble_is_told_when_it_begins_and_when_it_ends() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = told.clone();
        let observer: Observer = Arc::new(move |report| {
            let word = match report {
                Report::LivenessTrouble(_) => "trouble",
                Report::LivenessBack => "back",
                _ => "other",
            };
            sink.lock().expect("not poisoned").push(word);
        });
        let told = move || std::mem::take(&mut *told.lock().expect("not poisoned"));
        let trouble = Trouble::new(observer);
        let [keeper, judge] = [(); 2].map(|()| trouble.connection());
        let error = LivenessError::NotConnected { why: "refused".into() };

        trouble.answered(keeper);
        assert!(told().is_empty(), "there was none");
        trouble.began(keeper, Kind::Lost, at(1), &error);
        trouble.began(keeper, Kind::Lost, at(2), &error);
        trouble.began(judge, Kind::Lost, at(30), &error);
        assert_eq!(told(), ["trouble"]);
        trouble.answered(keeper);
        assert!(told().is_empty(), "the other has it still");
        trouble.connected(judge);
        assert_eq!(told(), ["back"]);

        trouble.began(keeper, Kind::Lost, at(40), &error);
        trouble.answered(keeper);
        assert_eq!(told(), ["trouble", "back"]);
        for second in 41..50 {
            trouble.began(keeper, Kind::Lost, at(second), &error);
            trouble.answered(keeper);
        }
        assert!(told().is_empty(), "it comes and goes");
        trouble.began(keeper, Kind::Lost, at(49), &error);
        trouble.began(keeper, Kind::Lost, at(50), &error);
        assert_eq!(told(), ["trouble"], "it lasts");
        trouble.answered(keeper);
        assert_eq!(told(), ["back"]);

        // The judge may not ask again for an hour.
        trouble.began(judge, Kind::Refused, at(70), &error);
        trouble.connected(keeper);
        assert_eq!(told(), ["trouble"], "a connection alone says nothing of what is refused");
        trouble.answered(keeper);
        assert_eq!(told(), ["back"]);
    }
}
