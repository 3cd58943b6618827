//! Simulated clocks: true time is microseconds since the start of a run; everyone else sees it through a clock of theirs.

use fencepost_core::{Instant, StoreTime};

/// How fast a clock runs, in millionths of true time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u32);

impl Rate {
    /// True to time.
    pub const TRUE: Self = Self(1_000_000);

    /// A rate in millionths; at least 1, since a clock never stands still or runs back.
    pub const fn from_millionths(millionths: u32) -> Self {
        if millionths == 0 { Self(1) } else { Self(millionths) }
    }

    /// The rate in millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// Whether it is within an eighth of true time: what the protocol's margins cover.
    pub const fn is_steady(self) -> bool {
        self.0 >= 875_000 && self.0 <= 1_125_000
    }

    fn shown(self, true_micros: u64) -> u64 {
        if self.0 == Self::TRUE.0 {
            return true_micros;
        }
        match true_micros.checked_mul(u64::from(self.0)) {
            Some(product) => product / 1_000_000,
            // Rare, and a division of 128 bits is slow.
            None => narrow(u128::from(true_micros) * u128::from(self.0) / 1_000_000),
        }
    }

    /// The least true time after which `shown` microseconds are shown.
    fn needed(self, shown: u64) -> u64 {
        if self.0 == Self::TRUE.0 {
            return shown;
        }
        match shown.checked_mul(1_000_000) {
            Some(product) => product.div_ceil(u64::from(self.0)),
            None => narrow((u128::from(shown) * 1_000_000).div_ceil(u128::from(self.0))),
        }
    }
}

fn narrow(micros: u128) -> u64 {
    u64::try_from(micros).unwrap_or(u64::MAX)
}

/// A process's monotonic clock: an origin of its own and a rate. Never runs back.
#[derive(Debug, Clone)]
pub struct MonotonicClock {
    true_base: u64,
    shown_base: u64,
    rate: Rate,
}

impl MonotonicClock {
    /// Shows `origin` at true time `at`.
    pub const fn new(at: u64, origin: Instant, rate: Rate) -> Self {
        Self { true_base: at, shown_base: origin.as_micros(), rate }
    }

    /// What it shows at a true time.
    pub fn now(&self, at: u64) -> Instant {
        debug_assert!(at >= self.true_base, "a clock is not read in its past");
        Instant::from_micros(self.shown_base.saturating_add(self.rate.shown(at.saturating_sub(self.true_base))))
    }

    /// The first true time at which it shows `instant` or later.
    pub fn true_at(&self, instant: Instant) -> u64 {
        let ahead = instant.as_micros().saturating_sub(self.shown_base);
        self.true_base.saturating_add(self.rate.needed(ahead))
    }

    /// Goes on at another rate from here.
    pub fn set_rate(&mut self, at: u64, rate: Rate) {
        *self = Self::new(at, self.now(at), rate);
    }

    /// Its rate.
    pub const fn rate(&self) -> Rate {
        self.rate
    }
}

/// A server's wall clock: it has a rate and may jump either way.
#[derive(Debug, Clone)]
pub struct WallClock {
    true_base: u64,
    shown_base: i64,
    rate: Rate,
}

impl WallClock {
    /// Shows `origin` at true time `at`.
    pub const fn new(at: u64, origin: StoreTime, rate: Rate) -> Self {
        Self { true_base: at, shown_base: origin.0, rate }
    }

    /// What it shows at a true time.
    pub fn now(&self, at: u64) -> StoreTime {
        debug_assert!(at >= self.true_base, "a clock is not read in its past");
        StoreTime(self.shown_base.saturating_add_unsigned(self.rate.shown(at.saturating_sub(self.true_base))))
    }

    /// Steps by so many microseconds.
    pub fn jump(&mut self, at: u64, by: i64) {
        *self = Self::new(at, StoreTime(self.now(at).0.saturating_add(by)), self.rate);
    }

    /// Goes on at another rate from here.
    pub fn set_rate(&mut self, at: u64, rate: Rate) {
        *self = Self::new(at, self.now(at), rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_neither_early_nor_late() {
        for millionths in [1, 333_333, 999_999, 1_000_000, 1_000_001, 7_000_000] {
            let clock = MonotonicClock::new(500, Instant::from_micros(77), Rate::from_millionths(millionths));
            for ahead in [0, 1, 2, 999, 123_456] {
                let wanted = Instant::from_micros(77 + ahead);
                let at = clock.true_at(wanted);
                assert!(clock.now(at) >= wanted);
                assert!(at == 500 || clock.now(at - 1) < wanted);
            }
        }
    }

    #[test]
    fn a_new_rate_does_not_jump() {
        let mut clock = MonotonicClock::new(0, Instant::from_micros(0), Rate::from_millionths(500_000));
        let before = clock.now(1000);
        clock.set_rate(1000, Rate::from_millionths(2_000_000));
        assert_eq!(clock.now(1000), before);
        assert_eq!(clock.now(1100).since(before).as_micros(), 200);
        assert!(!clock.rate().is_steady());
        assert!(Rate::TRUE.is_steady());
    }

    #[test]
    fn a_wall_clock_jumps_both_ways() {
        let mut clock = WallClock::new(0, StoreTime(1_000_000), Rate::TRUE);
        clock.jump(10, -500_000);
        assert_eq!(clock.now(20), StoreTime(500_020));
        clock.jump(20, 1_000_000);
        assert_eq!(clock.now(20), StoreTime(1_500_020));
        clock.set_rate(20, Rate::from_millionths(2_000_000));
        assert_eq!(clock.now(30), StoreTime(1_500_040));
    }
}
