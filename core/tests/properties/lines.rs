use std::collections::BTreeSet;

use fencepost_core::LineSet;
use proptest::prelude::*;

type Plain = BTreeSet<u64>;

/// Small numbers, so that lines touch, overlap and miss each other; now and then a long way off.
fn plain() -> impl Strategy<Value = Plain> {
    let run = (prop_oneof![9 => 1..60u64, 1 => 1_000_000..1_000_020u64], 1..8u64);
    prop::collection::vec(run, 0..8).prop_map(|runs| runs.into_iter().flat_map(|(at, n)| at..at + n).collect())
}

fn set(plain: &Plain) -> LineSet {
    plain.iter().copied().collect()
}

fn is(set: &LineSet, plain: &Plain) -> Result<(), TestCaseError> {
    prop_assert!(set.iter().eq(plain.iter().copied()), "{set:?} is not {plain:?}");
    for range in set.ranges() {
        prop_assert!(range.first <= range.last);
    }
    for pair in set.ranges().windows(2) {
        prop_assert!(pair[0].last + 1 < pair[1].first, "{set:?}: not in order, or touching");
    }
    prop_assert_eq!(set.count(), plain.len() as u64);
    prop_assert_eq!(set.is_empty(), plain.is_empty());
    prop_assert_eq!((set.first(), set.last()), (plain.first().copied(), plain.last().copied()));
    Ok(())
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn lines_are_a_set_however_they_are_listed(plain in plain(), doubles in prop::collection::vec(1..60u64, 0..9)) {
        let mut listed: Vec<u64> = plain.iter().rev().copied().collect();
        listed.extend(&doubles);
        let all: Plain = listed.iter().copied().collect();
        is(&listed.into_iter().collect(), &all)?;
    }

    #[test]
    fn lines_come_and_go(changes in prop::collection::vec((any::<bool>(), 1..30u64), 0..80)) {
        let (mut set, mut plain) = (LineSet::new(), Plain::new());
        for (insert, line) in changes {
            if insert {
                prop_assert_eq!(set.insert(line), plain.insert(line));
            } else {
                prop_assert_eq!(set.remove(line), plain.remove(&line));
            }
            is(&set, &plain)?;
        }
    }

    #[test]
    fn two_sets_of_lines(a in plain(), b in plain()) {
        is(&set(&a).union(&set(&b)), &(&a | &b))?;
        is(&set(&a).intersection(&set(&b)), &(&a & &b))?;
        is(&set(&a).difference(&set(&b)), &(&a - &b))?;
    }

    #[test]
    fn a_set_of_lines_contains_its_lines(plain in plain(), line in 0..70u64) {
        prop_assert_eq!(set(&plain).contains(line), plain.contains(&line));
    }

    #[test]
    fn a_set_of_lines_is_split(plain in plain(), count in 0..80u64) {
        let (head, tail) = set(&plain).split_first(count);
        is(&head, &plain.iter().copied().take(count as usize).collect())?;
        is(&tail, &plain.iter().copied().skip(count as usize).collect())?;
    }

    #[test]
    fn ranges_read_back_as_written(plain in plain()) {
        let set = set(&plain);
        let ranges = set.ranges().iter().map(|range| (range.first, range.last));
        prop_assert_eq!(LineSet::from_ranges(ranges), Some(set));
    }

    #[test]
    fn ranges_that_no_set_writes_are_refused(ranges in prop::collection::vec((1..30u64, 1..30u64), 0..5)) {
        let proper = ranges.iter().all(|(first, last)| first <= last)
            && ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
        let read = LineSet::from_ranges(ranges.iter().copied());
        prop_assert_eq!(read.is_some(), proper);
        if let Some(read) = read {
            is(&read, &ranges.iter().flat_map(|(first, last)| *first..=*last).collect())?;
        }
    }

    #[test]
    fn one_range(first in 1..30u64, last in 1..30u64) {
        is(&LineSet::range(first, last), &(first..=last).collect())?;
        is(&LineSet::single(first), &Plain::from([first]))?;
    }
}
