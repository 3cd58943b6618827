//! What becomes of a Redis while workers use it.

use std::time::{Duration, Instant};

use crate::redis::{Keeps, Server};

/// A mood of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mood {
    /// Nothing happens to it: it vouches.
    Well,
    /// It keeps a dead worker's heartbeat for an hour.
    Stale,
    /// It keeps a dead worker's heartbeat for an hour, and is killed more often than once per ttl, back at once with all it had: so it
    /// would object, and never can.
    StaleAndYoung,
    /// Emptied again and again.
    Flushed,
    /// Killed, and back with nothing.
    BackEmpty,
    /// Stopped for more than a ttl, and back with all it had.
    BackWithOldData,
    /// It stands still with its connections open.
    Frozen,
    /// It answers late.
    Slow,
    /// Killed more often than once per ttl, always back with all it had.
    CrashLoop,
    /// Not there when the workers start, and for long after.
    Absent,
    /// Out of memory: every write is refused.
    OutOfMemory,
    /// Short of memory: it evicts whatever it has.
    Evicting,
}

impl Mood {
    /// R2: whether Redis can vouch in the end, at the latest while the dead worker is judged.
    pub fn vouches(self) -> bool {
        matches!(self, Self::Well | Self::Stale)
    }

    fn keeps(self) -> Keeps {
        match self {
            Self::BackWithOldData | Self::CrashLoop | Self::StaleAndYoung => Keeps::EveryWrite,
            _ => Keeps::Nothing,
        }
    }
}

/// A server in a mood.
#[derive(Debug)]
pub struct Moody {
    mood: Mood,
    ttl: Duration,
    server: Server,
    down_since: Option<Instant>,
    last: Instant,
}

impl Moody {
    /// A server that is to be in this mood later on: well so far, or absent.
    pub fn new(mood: Mood, ttl: Duration) -> Self {
        let server = Server::start(mood.keeps());
        let mut moody = Self { mood, ttl, server, down_since: None, last: Instant::now() };
        if mood == Mood::Absent {
            moody.down();
        }
        moody
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Begins the mood; `victim` is the id of the lease whose worker was just killed.
    pub fn begin(&mut self, victim: &str) {
        match self.mood {
            Mood::Well | Mood::Absent => {}
            Mood::Stale => self.keep_heartbeat(victim),
            Mood::StaleAndYoung => {
                self.keep_heartbeat(victim);
                self.restart();
            }
            Mood::Flushed => self.flush(),
            Mood::BackEmpty => self.restart(),
            Mood::BackWithOldData => {
                self.server.stop();
                self.down_since = Some(Instant::now());
            }
            Mood::CrashLoop => self.down(),
            Mood::Frozen => self.server.freeze(),
            Mood::Slow => self.server.lag(self.ttl / 5),
            Mood::OutOfMemory => self.server.refuse_writes(),
            Mood::Evicting => {
                self.server.evict_when_full();
                self.server.crowd();
            }
        }
        self.last = Instant::now();
    }

    /// Keeps it up; to be called all the time.
    pub fn keep_on(&mut self) {
        let every = |part| self.last.elapsed() >= self.ttl / part;
        match self.mood {
            Mood::Flushed if every(4) => self.flush(),
            Mood::StaleAndYoung if every(2) => self.restart(),
            // Back for a moment, and gone.
            Mood::CrashLoop if every(4) => {
                self.up();
                self.down();
            }
            Mood::Slow => self.server.lag(self.ttl / 5),
            Mood::Evicting if every(20) => self.server.crowd(),
            Mood::BackWithOldData if self.down_since.is_some_and(|since| since.elapsed() > self.ttl * 5 / 4) => {
                self.up();
            }
            _ => return,
        }
        self.last = Instant::now();
    }

    /// Ends it: Redis is well from here on.
    pub fn end(&mut self) {
        match self.mood {
            Mood::Well | Mood::Stale | Mood::StaleAndYoung | Mood::Flushed | Mood::BackEmpty | Mood::Slow => {}
            Mood::BackWithOldData | Mood::Absent | Mood::CrashLoop => self.up(),
            Mood::Frozen => self.server.thaw(),
            Mood::OutOfMemory => {
                self.server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Mood::Evicting => {
                let evicted: u64 = self.server.info("evicted_keys").parse().expect("a number");
                assert!(evicted > 0, "nothing was evicted");
                self.server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
            }
        }
    }

    /// The dead worker's heartbeat outlives it by an hour.
    fn keep_heartbeat(&self, victim: &str) {
        let keys = self.server.ask(&["KEYS", &format!("fencepost:*:heartbeat:{victim}")]);
        assert_eq!(self.server.ask(&["EXPIRE", &keys, "3600"]), "1", "{keys:?} is the dead worker's heartbeat");
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.start_again();
    }

    fn flush(&self) {
        self.server.ask(&["FLUSHALL"]);
    }

    fn down(&mut self) {
        self.server.kill();
        self.down_since = Some(Instant::now());
    }

    fn up(&mut self) {
        if self.down_since.take().is_some() {
            self.server.start_again();
        }
    }
}
