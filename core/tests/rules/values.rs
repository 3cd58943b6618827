//! Plain values: times, ids, random numbers, timings, and what is asked of them.

use fencepost_core::calls::Calls;
use fencepost_core::purge::{Purgeable, PurgeableBatch};
use fencepost_core::random::Stream;
use fencepost_core::*;

use crate::rig::{ms, secs};

/// The reference values of SplitMix64 from seed 0: backoffs and ids of one seed are the same in every version.
#[test]
fn a_stream_is_splitmix64() {
    let mut stream = Stream::new(0);
    let first = [stream.next_u64(), stream.next_u64(), stream.next_u64()];
    assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
}

#[test]
fn times_are_moved_both_ways() {
    assert_eq!(Instant::from_micros(5_000) - ms(2), Instant::from_micros(3_000));
    assert_eq!(StoreTime(5_000) - ms(2), StoreTime(3_000));
    assert_eq!((Instant::from_micros(3_000) + ms(2)) - ms(2), Instant::from_micros(3_000));
}

#[test]
fn tokens_and_errors_of_ids_say_what_they_are() {
    assert_eq!((Token(7).to_string(), format!("{:?}", Token(7))), ("7".to_owned(), "t7".to_owned()));
    let error = "abc".parse::<BatchId>().unwrap_err();
    assert!(error.to_string().starts_with("an id has 8 characters"), "{error}");
}

#[test]
fn a_timing_follows_from_its_ttl() {
    assert_eq!(Timing::from_ttl(secs(60)), Timing::default());
    let short = Timing { ttl: secs(2), renew: secs(1), scan: secs(2), request_timeout: ms(500) };
    assert_eq!(Timing::from_ttl(secs(2)), short);
    assert_eq!(Timing::TTL_MAX, secs(604_800));
}

/// What is just allowed is allowed.
#[test]
fn timings_at_their_limits_are_accepted() {
    let timing = Timing::from_ttl(secs(8));
    for accepted in [
        Timing { renew: secs(4), ..timing },
        Timing { scan: Timing::TTL_MAX, ..timing },
        Timing { request_timeout: secs(4), ..timing },
        Timing { ttl: Timing::TTL_MAX, ..timing },
    ] {
        assert_eq!(accepted.validate(), Ok(()), "{accepted:?}");
    }
    let late = Timing::TTL_MAX + ms(1);
    assert!(matches!(Timing { scan: late, ..timing }.validate(), Err(TimingError::Scan { .. })));
}

#[test]
fn s7_a_worker_makes_calls_of_its_operations_only() {
    let none = Calls { operations: Vec::new(), command: true, urls: vec!["http://host/".into()] };
    assert!(!none.makes_any());
    let operations = vec!["op".to_owned()];
    assert!(Calls { operations: operations.clone(), urls: Vec::new(), ..none.clone() }.makes_any());
    assert!(Calls { operations, command: false, ..none }.makes_any());
}

#[test]
fn s6_nothing_to_purge_is_nothing_of_any_kind() {
    let batch = BatchId::from_random(1);
    let nothing = Purgeable {
        ended_before: StoreTime(0),
        batches: Vec::new(),
        begun: Vec::new(),
        loads: Vec::new(),
        appends: Vec::new(),
    };
    assert!(nothing.is_empty());
    let ended = PurgeableBatch { batch, rows: 1, ended_at: StoreTime(0) };
    for something in [
        Purgeable { batches: vec![ended], ..nothing.clone() },
        Purgeable { begun: vec![(batch, 0)], ..nothing.clone() },
        Purgeable { loads: vec![(batch, 0)], ..nothing.clone() },
        Purgeable { appends: vec![(batch, AppendId::from_random(2), 0)], ..nothing.clone() },
    ] {
        assert!(!something.is_empty(), "{something:?}");
    }
}

/// What a store kept, read back; a damaged record is refused.
#[test]
fn ranges_are_ordered_and_do_not_touch() {
    let read = |ranges: &[(u64, u64)]| LineSet::from_ranges(ranges.iter().copied());
    assert_eq!(read(&[]), Some(LineSet::new()));
    assert_eq!(read(&[(0, 0)]).map(|set| set.count()), Some(1));
    assert_eq!(read(&[(1, 2), (4, 4)]).map(|set| set.iter().collect::<Vec<_>>()), Some(vec![1, 2, 4]));
    for damaged in [&[(2, 1)][..], &[(1, u64::MAX)], &[(1, 2), (3, 4)], &[(1, 2), (2, 4)], &[(5, 6), (1, 2)]] {
        assert_eq!(read(damaged), None, "{damaged:?}");
    }
    let shown = |first, last| format!("{:?}", LineRange { first, last });
    assert_eq!((shown(3, 3), shown(3, 5)), ("3".to_owned(), "3-5".to_owned()));
}

#[test]
fn what_is_taken_from_the_front_of_a_range_leaves_no_empty_one() {
    let whole = LineSet::range(3, 9);
    assert_eq!(whole.difference(&LineSet::range(3, 5)).ranges(), [LineRange { first: 6, last: 9 }]);
    assert_eq!(whole.difference(&LineSet::range(3, 9)).ranges(), []);
    assert_eq!(format!("{:?}", whole.difference(&LineSet::single(5))), "{3-4, 6-9}");
}
