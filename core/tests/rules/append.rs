use std::time::Duration;

use fencepost_core::append::lines_of;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::*;
use fencepost_core::*;

const OPEN: Option<BatchStatus> = Some(BatchStatus::Open);
const ENDED: Option<BatchStatus> = Some(BatchStatus::Success);
const NOW: StoreTime = StoreTime(1_000_000_000);

fn unfinished(own: bool, state: AppendState, unmoved_for: Duration) -> Option<UnfinishedAppend> {
    let moved_at = StoreTime(NOW.0 - i64::try_from(unmoved_for.as_micros()).unwrap());
    Some(UnfinishedAppend { own, state, moved_at })
}

#[test]
fn s3_only_open_batches_take_rows() {
    use BatchStatus::*;
    assert!(s3_may_append(OPEN));
    for status in [None, Some(Loading), Some(Success), Some(Failed), Some(Aborted)] {
        assert!(!s3_may_append(status), "{status:?}");
    }
}

#[test]
fn s3_an_append_is_cut_off_once_it_has_not_moved_for_so_long() {
    let moved = |ago: Duration| StoreTime(NOW.0 - i64::try_from(ago.as_micros()).unwrap());
    assert!(s3_cut_off(moved(S3_CUT_OFF_AFTER), NOW));
    assert!(!s3_cut_off(moved(S3_CUT_OFF_AFTER - Duration::from_micros(1)), NOW));
    // The clock was stepped back by an hour: it counts from now on, not from in an hour.
    let ahead = NOW + Duration::from_secs(3600);
    assert!(!s3_cut_off(ahead, NOW));
    assert_eq!(s3_moved_at(ahead, NOW), NOW);
    assert_eq!(s3_moved_at(moved(S3_CUT_OFF_AFTER), NOW), moved(S3_CUT_OFF_AFTER));
}

#[test]
fn s3_one_append_loads_at_a_time() {
    use AppendBeginning::*;
    use AppendState::{Loading, Removing};
    let (young, old) = (Duration::from_secs(1), S3_CUT_OFF_AFTER);
    for (done, status, other, comes_to) in [
        (false, OPEN, None, Begin),
        (false, OPEN, unfinished(false, Loading, young), Busy),
        (false, OPEN, unfinished(false, Loading, old), Remove),
        (false, OPEN, unfinished(false, Removing, young), Remove),
        // A repeat, the reply to the first try was lost. However late: nobody else has begun meanwhile.
        (false, OPEN, unfinished(true, Loading, young), Begun),
        (false, OPEN, unfinished(true, Loading, old), Begun),
        (false, OPEN, unfinished(true, Removing, young), Remove),
        (false, ENDED, None, Refused),
        (false, ENDED, unfinished(true, Loading, young), Refused),
        (false, None, None, Refused),
        // What is done stays known.
        (true, OPEN, None, Done),
        (true, OPEN, unfinished(false, Loading, young), Done),
        (true, ENDED, None, Done),
    ] {
        assert_eq!(s3_begin_append(done, status, other, NOW), comes_to, "{done} {status:?} {other:?}");
    }
}

#[test]
fn s3_rows_are_stored_while_the_append_loads_and_the_batch_is_open() {
    use AppendState::*;
    for (state, status, comes_to) in [
        (Some(Loading), OPEN, AppendStaging::Store),
        (Some(Loading), ENDED, AppendStaging::Refused),
        (Some(Loading), None, AppendStaging::Refused),
        (Some(Removing), OPEN, AppendStaging::TakenOver),
        (Some(Done), OPEN, AppendStaging::TakenOver),
        (None, OPEN, AppendStaging::TakenOver),
        (None, ENDED, AppendStaging::Refused),
    ] {
        assert_eq!(s3_stage(state, status), comes_to, "{state:?} {status:?}");
    }
}

#[test]
fn s3_the_total_is_raised_once_and_only_while_the_batch_is_open() {
    use AppendEnding::*;
    use AppendState::{Done, Loading, Removing};
    for (own, status, comes_to) in [
        (Some((Loading, None)), OPEN, Raise),
        (Some((Loading, None)), ENDED, Refused),
        (Some((Loading, None)), None, Refused),
        (Some((Removing, None)), OPEN, TakenOver),
        (Some((Removing, None)), ENDED, Refused),
        (None, OPEN, TakenOver),
        (None, ENDED, Refused),
        (Some((Done, Some("d"))), OPEN, Same),
        (Some((Done, Some("d"))), ENDED, Same),
        (Some((Done, Some("other"))), OPEN, Differs),
    ] {
        assert_eq!(s3_finish_append(own, status, "d"), comes_to, "{own:?} {status:?}");
    }
}

#[test]
fn s3_an_append_of_nothing_has_no_lines() {
    assert_eq!(lines_of(5, 0), None);
    assert_eq!(lines_of(5, 1), Some(LineRange { first: 5, last: 5 }));
    assert_eq!(lines_of(5, 3), Some(LineRange { first: 5, last: 7 }));
}

/// Of a batch that is not there any more an append's record says nothing.
#[test]
fn s3_an_append_to_a_batch_that_was_purged_is_refused() {
    for state in [AppendState::Done, AppendState::Loading] {
        assert_eq!(s3_finish_append(Some((state, Some("digest"))), None, "digest"), AppendEnding::Refused, "{state:?}");
    }
}
