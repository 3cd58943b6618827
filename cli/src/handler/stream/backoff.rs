//! When a child that died is started again.

use std::time::Duration;

/// The pause before the second start in a row; it doubles from there.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause while the child does not even read a row.
const LONGEST: Duration = Duration::from_secs(5);
/// So many starts in a row without a row read, and the rows are answered without a child.
const STARTS: u32 = 5;

/// What a child did before it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lived {
    /// It answered a row.
    Answered,
    /// It read a row, but answered none.
    Read,
    /// It never got as far as a row.
    NotAtAll,
}

/// Counts the deaths since a child answered.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Lives in a row without an answer.
    barren: u32,
    /// Starts in a row without a row read.
    failed: u32,
}

impl Backoff {
    /// A child has died: how long until the next start.
    ///
    /// A child that reads rows makes headway with each death, as one of them gets its answer by it: a long pause would
    /// only hold up the others.
    pub(super) fn died(&mut self, lived: Lived) -> Duration {
        self.failed = if lived == Lived::NotAtAll { self.failed.saturating_add(1) } else { 0 };
        self.barren = if lived == Lived::Answered { 0 } else { self.barren.saturating_add(1) };
        let Some(doublings) = self.barren.checked_sub(2) else { return Duration::ZERO };
        let longest = if lived == Lived::Read { FIRST } else { LONGEST };
        FIRST.saturating_mul(1 << doublings.min(10)).min(longest)
    }

    /// How many starts failed in a row, if that is enough.
    pub(super) fn is_hopeless(&self) -> Option<u32> {
        (self.failed >= STARTS).then_some(self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_is_at_once_and_the_pauses_double_up_to_five_seconds() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.died(Lived::NotAtAll).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.died(Lived::Answered), Duration::ZERO);
        assert_eq!(backoff.died(Lived::NotAtAll), Duration::ZERO);
        for _ in 0..100 {
            assert!(backoff.died(Lived::NotAtAll) <= LONGEST);
        }
    }

    #[test]
    fn a_child_that_reads_rows_is_not_kept_waiting_and_never_hopeless() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.died(Lived::Read) <= FIRST);
            assert_eq!(backoff.is_hopeless(), None);
        }
    }

    #[test]
    fn hope_ends_after_the_fifth_start_and_comes_back() {
        let mut backoff = Backoff::default();
        let hopeless: Vec<_> = (0..6)
            .map(|_| {
                backoff.died(Lived::NotAtAll);
                backoff.is_hopeless()
            })
            .collect();
        assert_eq!(hopeless, [None, None, None, None, Some(5), Some(6)]);
        backoff.died(Lived::Read);
        assert_eq!(backoff.is_hopeless(), None);
    }
}
