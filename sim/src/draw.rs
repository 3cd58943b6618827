//! Random numbers for schedules and for the simulated world, fully given by their seeds.

use fencepost_core::random::Stream;

/// A stream of draws.
#[derive(Debug, Clone)]
pub struct Draw(Stream);

impl Draw {
    /// The draws of this seed, for this purpose: purposes do not disturb each other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(Stream::new(mix(&[seed, purpose])))
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end.max(1)
    }

    /// A number from `first` to `last`, both in reach.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// A number from `first` to `last`, small ones as likely as large ones: even over the number of its bits.
    pub fn log_between(&mut self, first: u64, last: u64) -> u64 {
        let bits = self.between(u64::from(first.max(1).ilog2()), u64::from(last.max(1).ilog2()));
        let low = 1u64 << bits;
        self.between(low, low * 2 - 1).clamp(first, last)
    }

    /// True for so many out of a thousand draws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }
}

/// One number out of several: equal only for equal ones, as far as 64 bits go.
pub fn mix(values: &[u64]) -> u64 {
    let mut sum = 0x5e_ed0f_fece_u64;
    for value in values {
        sum = Stream::new(sum ^ value.wrapping_mul(0xff51_afd7_ed55_8ccd)).next_u64();
    }
    sum
}
