//! Tells on stderr what is wrong with a child, without drowning everything else.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::say::say;

/// So many are told one by one.
const FIRST: u64 = 5;

/// Complaints of one kind.
#[derive(Debug, Default)]
pub(super) struct Complaints(AtomicU64);

impl Complaints {
    /// Counts a complaint, and tells it if it is among the first, or the 10th, the 100th and so on.
    pub(super) fn tell(&self, what: impl Display) {
        let count = self.0.fetch_add(1, Relaxed) + 1;
        if count < FIRST {
            say!("fencepost: {what}");
        } else if count == FIRST {
            say!("fencepost: {what} (from now on, few of these are shown)");
        } else if is_power_of_ten(count) {
            say!("fencepost: {what} (the {count}th)");
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

fn is_power_of_ten(count: u64) -> bool {
    10_u64.checked_pow(count.ilog10()) == Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten() {
        let found: Vec<u64> = (1..=1000).filter(|&count| is_power_of_ten(count)).collect();
        assert_eq!(found, [1, 10, 100, 1000]);
    }
}
