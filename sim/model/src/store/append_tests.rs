//! Appends by the paragraph of `docs/store.md`, under all checkers.
#![allow(clippy::unwrap_used)]

use fencepost_core::append::{AppendEnd, Appended, Begun, Busy, Staged, lines_of};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::S3_CUT_OFF_AFTER;
use fencepost_core::store::Answer;
use fencepost_core::{AppendId, BatchId};

use super::tests::{Rig, batch};

fn append(number: u64) -> AppendId {
    AppendId::from_random(number)
}

fn end(rows: u64) -> AppendEnd {
    AppendEnd { digest: "d".to_owned(), rows }
}

fn rows(count: usize) -> Vec<Box<str>> {
    vec![Box::from("1"); count]
}

fn whole(rig: &mut Rig, of: BatchId, number: u64, key: Option<&str>, count: usize) -> Option<Appended> {
    let begun = rig.store.begin_append(rig.now, of, append(number), key);
    let Begun::Loading { first_line } = begun else { panic!("{begun:?}") };
    rig.store.append_rows(rig.now, of, append(number), first_line, &rows(count)).unwrap();
    let appended = rig.store.finish_append(of, append(number), &end(count as u64));
    rig.check();
    appended
}

#[test]
fn appended_rows_are_fresh_lines_and_the_batch_ends_with_them() {
    let mut rig = Rig::with(1, 1);
    let grants = rig.claim(1, 9);
    assert_eq!(whole(&mut rig, batch(1), 1, None, 2), Some(Appended::Done { lines: lines_of(2, 2) }));
    rig.record(1, 1, 1, grants[0].1, Answer::Success("1".into()));
    assert_eq!(rig.store.status(batch(1)), Some(BatchStatus::Open));
    let grants = rig.claim(1, 9);
    assert_eq!(grants[0].0, [2, 3]);
    rig.record(1, 1, 2, grants[0].1, Answer::Success("1".into()));
    rig.record(1, 1, 3, grants[0].1, Answer::Success("1".into()));
    assert_eq!(rig.store.status(batch(1)), Some(BatchStatus::Success));
}

#[test]
fn an_append_whose_batch_ended_meanwhile_adds_nothing() {
    let mut rig = Rig::with(1, 1);
    let begun = rig.store.begin_append(rig.now, batch(1), append(1), None);
    assert_eq!(begun, Begun::Loading { first_line: 2 });
    let grants = rig.claim(1, 9);
    rig.record(1, 1, 1, grants[0].1, Answer::Success("1".into()));
    let status = Some(BatchStatus::Success);
    let staged = rig.store.append_rows(rig.now, batch(1), append(1), 2, &rows(1));
    assert_eq!(staged, Some(Staged::Refused { status }));
    assert_eq!(rig.store.finish_append(batch(1), append(1), &end(0)), Some(Appended::Refused { status }));
    rig.check();
    assert_eq!(rig.store.begin_append(rig.now, batch(1), append(2), None), Begun::Refused { status });
}

#[test]
fn a_key_names_one_content_also_after_the_batch_has_ended() {
    let mut rig = Rig::with(1, 1);
    whole(&mut rig, batch(1), 1, Some("k"), 1);
    let done = Begun::Done { digest: "d".to_owned(), lines: lines_of(2, 1) };
    assert_eq!(rig.store.begin_append(rig.now, batch(1), append(2), Some("k")), done);
    assert_eq!(rig.store.finish_append(batch(1), append(1), &end(1)), Some(Appended::Same { lines: lines_of(2, 1) }));
    rig.store.abort(rig.now, batch(1));
    rig.check();
    assert_eq!(rig.store.begin_append(rig.now, batch(1), append(2), Some("k")), done);
}

#[test]
fn one_append_loads_at_a_time_until_it_was_cut_off() {
    let mut rig = Rig::with(1, 1);
    rig.store.begin_append(rig.now, batch(1), append(1), Some("k"));
    rig.store.append_rows(rig.now, batch(1), append(1), 2, &rows(3)).unwrap();
    rig.now = rig.now + S3_CUT_OFF_AFTER;
    rig.now.0 -= 1;
    let busy = Busy {
        key: Some("k".to_owned()),
        rows: 3,
        unmoved_for: S3_CUT_OFF_AFTER - std::time::Duration::from_micros(1),
    };
    assert_eq!(rig.store.begin_append(rig.now, batch(1), append(2), None), Begun::Busy(busy));
    rig.now.0 += 1;
    assert_eq!(rig.store.begin_append(rig.now, batch(1), append(2), None), Begun::Loading { first_line: 2 });
    // The old one is refused by its id, with nothing half done.
    assert_eq!(rig.store.append_rows(rig.now, batch(1), append(1), 5, &rows(1)), Some(Staged::TakenOver));
    assert_eq!(rig.store.finish_append(batch(1), append(1), &end(3)), Some(Appended::TakenOver));
    assert_eq!(rig.store.finish_append(batch(1), append(2), &end(0)), Some(Appended::Done { lines: None }));
    rig.check();
}
