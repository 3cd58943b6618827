//! A worker's options, and which of them contradict each other.

use std::fmt;
use std::time::Duration;

use crate::calls::Calls;

/// The timings of a lease and its watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// How long a lease lasts without a renewal.
    pub ttl: Duration,
    /// How often it is renewed; at most half the ttl.
    pub renew: Duration,
    /// How often, at least, a worker looks for dead workers.
    pub scan: Duration,
    /// How long a request to the store may take before its end counts as unknown.
    pub request_timeout: Duration,
}

impl Default for Timing {
    /// Those of the original walk-through.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            renew: Duration::from_secs(30),
            scan: Duration::from_secs(60),
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// The shortest ttl that is accepted: below it, an ordinary stall of a machine looks like death.
    pub const TTL_MIN: Duration = Duration::from_millis(200);
    /// The longest: a week.
    pub const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

    /// The timing that follows from a ttl: renewed at half of it, scanned once per ttl.
    pub fn from_ttl(ttl: Duration) -> Self {
        Self { ttl, renew: ttl / 2, scan: ttl, request_timeout: Self::request_timeout(ttl) }
    }

    /// T2: well below the ttl, and never above ten seconds.
    pub fn request_timeout(ttl: Duration) -> Duration {
        (ttl / 4).min(Duration::from_secs(10))
    }

    /// Tells what contradicts.
    pub fn validate(&self) -> Result<(), TimingError> {
        if self.ttl < Self::TTL_MIN || self.ttl > Self::TTL_MAX {
            return Err(TimingError::Ttl { ttl: self.ttl });
        }
        if self.renew.is_zero() || self.renew > self.ttl / 2 {
            return Err(TimingError::Renew { renew: self.renew, ttl: self.ttl });
        }
        if self.scan.is_zero() || self.scan > Self::TTL_MAX {
            return Err(TimingError::Scan { scan: self.scan });
        }
        if self.request_timeout.is_zero() || self.request_timeout > self.ttl / 2 {
            return Err(TimingError::RequestTimeout { request_timeout: self.request_timeout, ttl: self.ttl });
        }
        Ok(())
    }
}

/// Timings that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimingError {
    /// The ttl is too short or too long.
    Ttl {
        /// The ttl given.
        ttl: Duration,
    },
    /// The renewal interval is zero or more than half the ttl.
    Renew {
        /// The interval given.
        renew: Duration,
        /// The ttl given.
        ttl: Duration,
    },
    /// The scan interval is zero or longer than a week.
    Scan {
        /// The interval given.
        scan: Duration,
    },
    /// The request timeout is zero or more than half the ttl.
    RequestTimeout {
        /// The timeout given.
        request_timeout: Duration,
        /// The ttl given.
        ttl: Duration,
    },
}

impl fmt::Display for TimingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ttl { ttl } => {
                write!(f, "ttl {ttl:?} is outside {:?} to 7 days", Timing::TTL_MIN)
            }
            Self::Renew { renew, ttl } => write!(
                f,
                "renewal every {renew:?} does not fit ttl {ttl:?}: renew at least twice per ttl (at most every {:?})",
                *ttl / 2
            ),
            Self::Scan { scan } => write!(f, "scan interval {scan:?} is outside 1us to 7 days"),
            Self::RequestTimeout { request_timeout, ttl } => {
                write!(f, "request timeout {request_timeout:?} does not fit ttl {ttl:?}: at most {:?}", *ttl / 2)
            }
        }
    }
}

impl std::error::Error for TimingError {}

/// A worker's options beyond its lease.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct WorkerOptions {
    /// The timings of lease and watch.
    pub timing: Timing,
    /// The operations that the worker has a handler for.
    pub operations: Vec<String>,
    /// How many rows run at once.
    pub concurrency: u32,
    /// How much work a claim takes: what is expected to start within this time (section 2).
    pub horizon: Duration,
    /// A claim takes at most so many lines.
    pub claim_lines_max: u64,
    /// A claim takes inputs of at most so many bytes.
    pub claim_bytes_max: u64,
    /// The inputs of the rows that a worker holds, running or not, have at most so many bytes, and one row more.
    pub held_bytes_max: u64,
    /// O3: a group has at most so many answers.
    pub group_lines_max: usize,
    /// O3: a group's results have at most so many bytes, beyond which it is written at once.
    pub group_bytes_max: usize,
    /// O3: an answer waits at most so long for others to join it.
    pub flush_age: Duration,
    /// How long an idle worker waits before it asks again for lines.
    pub poll: Duration,
    /// S1: how long running rows may go on after a stop.
    pub grace: Duration,
    /// How long a cancelled handler may take to end before the worker gives it up.
    pub cancel_grace: Duration,
    /// Leave as soon as no batch of these operations has open lines.
    pub until_done: bool,
    /// Whether it runs rows at all, or only makes completion calls.
    pub rows: bool,
    /// S7: the completion calls that it makes.
    pub calls: Calls,
    /// S7: how many of them at once.
    pub calls_at_once: u32,
    /// S7: a call that takes longer is cancelled, and made again later.
    pub call_timeout: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            operations: Vec::new(),
            concurrency: 1,
            horizon: Duration::from_secs(1),
            claim_lines_max: 10_000,
            claim_bytes_max: 8 << 20,
            held_bytes_max: 16 << 20,
            group_lines_max: 1_000,
            group_bytes_max: 4 << 20,
            flush_age: Duration::from_millis(2),
            poll: Duration::from_secs(2),
            grace: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(5),
            until_done: false,
            rows: true,
            calls: Calls::default(),
            calls_at_once: 4,
            call_timeout: Duration::from_secs(300),
        }
    }
}
