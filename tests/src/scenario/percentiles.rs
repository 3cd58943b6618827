//! What many measurements of one thing come to.

use std::time::Duration;

/// Durations in order.
#[derive(Debug, Clone, Copy)]
pub struct Percentiles {
    /// How many there are.
    pub count: usize,
    /// The shortest.
    pub min: Duration,
    /// Half of them were no longer.
    pub median: Duration,
    /// 99 of 100 were no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Percentiles {
    /// Of these.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        assert!(!times.is_empty(), "nothing was measured");
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        Self { count: times.len(), min: at(0), median: at(50), p99: at(99), max: at(100) }
    }
}
