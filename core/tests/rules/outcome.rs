use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::outcome::*;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

#[test]
fn o1_the_fence_is_per_line_and_knows_its_own_writes() {
    let token = Token(5);
    assert_eq!(o1_fence(true, token, None, false), Fence::Holds);
    assert_eq!(o1_fence(false, token, Some(Token(5)), false), Fence::Before);
    assert_eq!(o1_fence(false, token, None, true), Fence::Before);
    assert_eq!(o1_fence(false, token, Some(Token(6)), true), Fence::Before, "its retry, before another's outcome");
    assert_eq!(o1_fence(false, token, Some(Token(6)), false), Fence::Fenced);
    assert_eq!(o1_fence(false, token, Some(Token(4)), false), Fence::Fenced);
    assert_eq!(o1_fence(false, token, None, false), Fence::Fenced);
}

#[test]
fn o1_a_fenced_line_stops_neither_the_worker_nor_the_rest() {
    let (mut rig, _) = with_grants(options(3), vec![grant(1, 1..=4)]);
    let mut effects = rig.tell(ended(run(1, 1), RunAnswer::Failed("no".into())));
    effects.extend(rig.tell(success(run(2, 1))));
    effects.extend(rig.tell(success(run(3, 1))));
    effects.extend(rig.pass(ms(2)));
    let [(id, record)] = &records(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(record.items.iter().map(|item| item.line).collect::<Vec<_>>(), [1, 2, 3]);
    let verdicts = vec![Verdict::Recorded(Recorded::Failed), Verdict::Fenced, Verdict::RecordedBefore];
    let effects = rig.tell(WorkerInput::Store(*id, Ok(StoreReply::Record(verdicts))));
    let told: Vec<_> = effects.iter().filter(|effect| matches!(effect, WorkerEffect::Tell(_))).collect();
    let error = Some("no".into());
    let (recorded, run_time) = (Recorded::Failed, ms(0));
    let first = WorkerEffect::Tell(WorkerEvent::Recorded { key: run(1, 1), recorded, run_time, error });
    assert_eq!(told, [&first, &WorkerEffect::Tell(WorkerEvent::Fenced(run(2, 1)))]);
    assert!(exits(&effects).is_empty() && cancels(&effects).is_empty());
    assert_eq!(rig.machine.running(), 1);
}

#[test]
fn o2_a_group_is_repeated_as_it_is_until_its_end_is_known() {
    assert!(o2_repeat(false) && !o2_repeat(true));

    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=4)]);
    let mut effects = rig.tell(success(run(1, 1)));
    effects.extend(rig.tell(success(run(2, 1))));
    effects.extend(rig.pass(ms(2)));
    let (id, group) = records(&effects)[0].clone();
    // Others end meanwhile: they do not join a group that may have been written.
    rig.tell(success(run(3, 1)));
    let mut tries = Vec::new();
    let mut last = id;
    for failure in [Some(StoreFailure::NotDone), None, Some(StoreFailure::Unknown), None] {
        let effects = match failure {
            Some(failure) => {
                let at_once = rig.tell(WorkerInput::Store(last, Err(failure)));
                assert!(records(&at_once).is_empty(), "a failure is not answered by a storm");
                rig.pass(secs(1))
            }
            None => rig.pass(TIMING.request_timeout),
        };
        let [(id, record)] = &records(&effects)[..] else { panic!("{effects:?}") };
        last = *id;
        tries.push(record.clone());
    }
    assert_eq!(tries, vec![group.clone(); 4]);
    // Hours later, too.
    assert!(records(&rig.pass(secs(10_000))).iter().all(|(_, record)| *record == group));
    let (id, record) = records(&rig.pass(secs(2))).last().unwrap().clone();
    let effects = recorded(&mut rig, &(id, record));
    let next: Vec<_> = records(&effects).into_iter().flat_map(|(_, record)| record.items).collect();
    assert_eq!(next.iter().map(|item| item.line).collect::<Vec<_>>(), [3], "then those that came meanwhile");
}

#[test]
fn o2_a_reply_that_fits_no_request_is_no_verdict() {
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=1)]);
    let (id, record) = records(&rig.tell(success(run(1, 1))))[0].clone();
    rig.tell(WorkerInput::Store(id, Ok(StoreReply::Record(vec![]))));
    assert_eq!(records(&rig.pass(secs(1)))[0].1, record);
    // The first try's reply, after the repeat was sent: the repeat's tells.
    let verdicts = vec![Verdict::Recorded(Recorded::Success)];
    assert_eq!(rig.tell(WorkerInput::Store(id, Ok(StoreReply::Record(verdicts)))), []);
}

#[test]
fn o2_a_row_s_slot_is_free_again_once_the_end_of_its_write_is_known() {
    for failure in [StoreFailure::Unknown, StoreFailure::NotDone] {
        let (mut rig, effects) = with_grants(options(2), vec![grant(1, 1..=9)]);
        assert_eq!(starts(&effects).len(), 2);
        // While nothing speaks against it, the slot is free with the run's end.
        let mut effects = rig.tell(success(run(1, 1)));
        assert_eq!(starts(&effects), [run(3, 1)]);
        effects.extend(rig.pass(ms(2)));
        let group = records(&effects)[0].clone();
        rig.tell(WorkerInput::Store(group.0, Err(failure)));
        let next = starts(&rig.tell(success(run(2, 1))));
        if failure == StoreFailure::NotDone {
            assert_eq!(next, [run(4, 1)]);
            continue;
        }
        assert_eq!(next, [], "line 1 has its slot again");
        let again = records(&rig.pass(secs(1)))[0].clone();
        assert_eq!(starts(&recorded(&mut rig, &again)), [run(4, 1)]);
    }
}

#[test]
fn o2_a_silent_write_holds_its_slots_too() {
    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=9)]);
    let effects = [rig.tell(success(run(1, 1))), rig.pass(ms(2))].concat();
    assert_eq!(records(&effects).len(), 1);
    rig.pass(TIMING.request_timeout);
    assert_eq!(starts(&rig.tell(success(run(2, 1)))), []);
}

#[test]
fn o2_a_give_back_is_repeated_until_its_end_is_known() {
    let mut rig = worker(options(1));
    let claim = claims(&rig.tell(held(LEASE, at(secs(7)))))[0].0;
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(1, 1..=1)]))));
    rig.pass(secs(7));
    let (id, lease, back) = give_backs(&rig.tell(ended(run(1, 1), RunAnswer::Cancelled)))[0].clone();
    assert!(give_backs(&rig.tell(WorkerInput::Store(id, Err(StoreFailure::Unknown)))).is_empty());
    let again = give_backs(&rig.pass(secs(1)))[0].clone();
    assert_eq!((again.1, again.2), (lease, back.clone()));
    let again = give_backs(&rig.pass(TIMING.request_timeout))[0].clone();
    assert_eq!((again.1, again.2), (lease, back));
    // An earlier try's failure says nothing of this one.
    rig.tell(WorkerInput::Store(id, Err(StoreFailure::Unknown)));
    rig.tell(WorkerInput::Store(again.0, Ok(StoreReply::GiveBack)));
    assert!(give_backs(&rig.pass(secs(60))).is_empty());
}

#[test]
fn o3_flush_by_size_or_age() {
    let due = |lines, bytes, age| o3_flush_due(lines, 10, bytes, 1_000, ms(age), ms(2));
    assert!(!due(9, 999, 1));
    assert!(due(10, 0, 0));
    assert!(due(1, 1_000, 0));
    assert!(due(1, 0, 2));
    assert!(!due(0, 0, 100), "nothing is nothing");
}

#[test]
fn o3_answers_are_written_in_groups() {
    // By age: the oldest answer's, while others run that could join.
    let (mut rig, _) = with_grants(options(9), vec![grant(1, 1..=9)]);
    let mut effects = rig.tell(success(run(1, 1)));
    effects.extend(rig.pass(ms(1)));
    effects.extend(rig.tell(success(run(2, 1))));
    assert!(records(&effects).is_empty());
    let effects = rig.pass(ms(1));
    assert_eq!(records(&effects)[0].1.items.len(), 2);
    assert_eq!(records(&effects)[0].1.items[0].run_time, ms(0));

    // By size.
    let (mut rig, _) = with_grants(WorkerOptions { group_lines_max: 3, ..options(9) }, vec![grant(1, 1..=9)]);
    let sent: Vec<_> = (1..=4).map(|line| records(&rig.tell(success(run(line, 1)))).len()).collect();
    assert_eq!(sent, [0, 0, 1, 0]);

    // By bytes: a group never takes more, but for one answer that is larger by itself.
    let (mut rig, _) = with_grants(WorkerOptions { group_bytes_max: 10, ..options(9) }, vec![grant(1, 1..=9)]);
    let answer = |bytes: usize| RunAnswer::Success("x".repeat(bytes).into());
    assert!(records(&rig.tell(ended(run(1, 1), answer(6)))).is_empty());
    let effects = rig.tell(ended(run(2, 1), answer(60)));
    assert_eq!(records(&effects)[0].1.items.len(), 1);
    let effects = recorded(&mut rig, &records(&effects)[0]);
    assert_eq!(records(&effects)[0].1.items[0].line, 2);

    // A limit may be as large as it likes.
    let unbounded = WorkerOptions { group_lines_max: usize::MAX, group_bytes_max: usize::MAX, ..options(9) };
    let (mut rig, _) = with_grants(unbounded, vec![grant(1, 1..=9)]);
    assert!(records(&rig.tell(success(run(1, 1)))).is_empty());

    // At once where nothing else can join.
    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=1)]);
    assert_eq!(records(&rig.tell(success(run(1, 1)))).len(), 1);
}

#[test]
fn o4_a_batch_ends_with_its_last_open_row() {
    assert_eq!(o4_batch_end(false, false, 0), Some(BatchStatus::Success));
    assert_eq!(o4_batch_end(false, false, 1), Some(BatchStatus::Failed));
    for (fresh, spans) in [(true, false), (false, true), (true, true)] {
        assert_eq!(o4_batch_end(fresh, spans, 0), None);
        assert_eq!(o4_batch_end(fresh, spans, 1), None);
    }
}

#[test]
fn o5_a_retry_is_another_attempt_until_there_are_none() {
    assert!(matches!(o5_after_retry(0, 3, 0), AfterRetry::Again { .. }));
    assert!(matches!(o5_after_retry(1, 3, 0), AfterRetry::Again { .. }));
    assert_eq!(o5_after_retry(2, 3, 0), AfterRetry::Exhausted);
    assert_eq!(o5_after_retry(u32::MAX, 3, 0), AfterRetry::Exhausted);
    assert_eq!(o5_after_retry(0, 1, 0), AfterRetry::Exhausted);
    assert_eq!(o5_after_retry(1, 3, 500), AfterRetry::Again { backoff: secs(2) });
}

#[test]
fn o5_the_backoff_doubles_is_spread_and_ends_at_ten_minutes() {
    let middle = 500;
    assert_eq!([1, 2, 3, 4].map(|used| o5_backoff(used, middle)), [1, 2, 4, 8].map(secs));
    assert_eq!((o5_backoff(2, 0), o5_backoff(2, 1_000)), (secs(1), secs(3)));
    assert_eq!(o5_backoff(2, 1_001), o5_backoff(2, 0), "any random number");
    assert_eq!([9, 10].map(|used| o5_backoff(used, middle)), [256, 400].map(secs));
    assert_eq!([11, 16, 17, u32::MAX].map(|used| o5_backoff(used, middle)), [secs(400); 4]);
    assert_eq!((BACKOFF_MAX, o5_backoff(u32::MAX, 1_000)), (secs(600), BACKOFF_MAX));
    assert!(!o5_backoff(0, 0).is_zero());
}

#[test]
fn o5_the_longest_backoffs_are_spread_too() {
    assert_ne!(o5_backoff(30, 1), o5_backoff(30, 2));
    let mut all: Vec<_> = (0..=1_000).map(|jitter| o5_backoff(30, jitter)).collect();
    assert_eq!((all[0], all[1_000]), (secs(200), BACKOFF_MAX));
    assert!(all.iter().all(|backoff| *backoff <= BACKOFF_MAX));
    all.dedup();
    assert_eq!(all.len(), 1_001, "none is cut off to the same as another");
    for used in [0, 1, 9, 10, 11, 30, u32::MAX] {
        assert!(o5_backoff(used, u64::MAX) <= BACKOFF_MAX, "{used}");
    }
}

#[test]
fn o5_the_handler_s_answer_is_what_is_offered() {
    let offered = |answer| {
        let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=1)]);
        rig.pass(ms(30));
        let item = records(&rig.tell(ended(run(1, 1), answer)))[0].1.items[0].clone();
        assert_eq!((item.batch, item.line, item.token, item.run_time), (BATCH, 1, Token(1), ms(30)));
        item.answer
    };
    assert_eq!(offered(RunAnswer::Success("1".into())), Answer::Success("1".into()));
    assert_eq!(offered(RunAnswer::Failed("f".into())), Answer::Failed("f".into()));
    let retry = offered(RunAnswer::Retry("r".into()));
    assert!(matches!(&retry, Answer::Retry { error, timed_out: false, .. } if **error == *"r"), "{retry:?}");
    // A handler that gives up without being asked to used an attempt.
    assert!(matches!(offered(RunAnswer::Cancelled), Answer::Retry { timed_out: false, .. }));
}

#[test]
fn o5_backoffs_of_neighbours_are_spread() {
    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=2)]);
    let mut effects = rig.tell(ended(run(1, 1), RunAnswer::Retry("r".into())));
    effects.extend(rig.tell(ended(run(2, 1), RunAnswer::Retry("r".into()))));
    let jitters: Vec<_> = records(&effects)
        .into_iter()
        .flat_map(|(_, record)| record.items)
        .filter_map(|item| match item.answer {
            Answer::Retry { jitter, .. } => Some(jitter),
            _ => None,
        })
        .collect();
    assert!(jitters.len() == 2 && jitters[0] != jitters[1], "{jitters:?}");
}

fn with_timeout() -> Rig<Worker> {
    let mut row = grant(1, 1..=1);
    row.timeout = secs(10);
    with_grants(options(1), vec![row]).0
}

#[test]
fn o6_a_run_past_its_timeout_is_cancelled_and_that_is_an_attempt() {
    assert_eq!(o6_deadline(at(secs(1)), secs(10)), at(secs(11)));
    assert!(o6_deadline(at(secs(1)), ms(0)) > at(secs(1)));

    let mut rig = with_timeout();
    assert!(cancels(&rig.pass(ms(9_999))).is_empty());
    assert_eq!(cancels(&rig.pass(ms(1))), [run(1, 1)]);
    rig.pass(secs(1));
    let item = records(&rig.tell(ended(run(1, 1), RunAnswer::Cancelled)))[0].1.items[0].clone();
    assert!(matches!(item.answer, Answer::Retry { timed_out: true, .. }), "{item:?}");
    assert_eq!(item.run_time, secs(11));
}

#[test]
fn o6_an_answer_that_was_faster_than_its_cancel_counts() {
    let mut rig = with_timeout();
    rig.pass(secs(10));
    let item = records(&rig.tell(success(run(1, 1))))[0].1.items[0].clone();
    assert_eq!(item.answer, Answer::Success("1".into()));
}

#[test]
fn o6_a_run_that_ignores_its_cancel_is_given_up_after_the_cancel_grace() {
    let mut rig = with_timeout();
    rig.pass(secs(10));
    assert_eq!(rig.pass(ms(4_999)), []);
    let effects = rig.pass(ms(1));
    assert_eq!(effects[0], WorkerEffect::Abandon(run(1, 1)));
    let item = records(&effects)[0].1.items[0].clone();
    assert!(matches!(item.answer, Answer::Retry { timed_out: true, .. }), "{item:?}");
    assert_eq!((rig.machine.running(), claims(&effects).len()), (0, 1), "its slot is free");
    assert_eq!(rig.tell(success(run(1, 1))), [], "whatever it still says");
}

#[test]
fn o6_a_timed_out_run_whose_licence_ends_uses_no_attempt() {
    let mut rig = worker(options(1));
    let claim = claims(&rig.tell(held(LEASE, at(secs(7)))))[0].0;
    let mut row = grant(1, 1..=1);
    row.timeout = secs(5);
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![row]))));
    assert_eq!(cancels(&rig.pass(secs(7))), [run(1, 1)], "cancelled once");
    let effects = rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    assert_eq!((records(&effects).len(), give_backs(&effects).len()), (0, 1));
}

/// L6: what was cut off is not run again under its token.
#[test]
fn l6_an_interrupted_run_gives_its_line_back_and_uses_no_attempt() {
    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=2)]);
    let effects = rig.tell(ended(run(1, 1), RunAnswer::Interrupted));
    assert_eq!(give_backs(&effects).len(), 1, "{effects:?}");
    assert!(records(&[effects, rig.pass(secs(1))].concat()).is_empty(), "that is no answer");
}

/// A group takes answers until the next would be too much, and not one before.
#[test]
fn o3_a_group_takes_as_many_bytes_as_it_may() {
    let answer = || RunAnswer::Success("x".repeat(5).into());
    let (mut rig, _) = with_grants(WorkerOptions { group_bytes_max: 10, ..options(9) }, vec![grant(1, 1..=9)]);
    let mut effects = Vec::new();
    for line in 1..=3 {
        // While the first group is under way the others wait.
        effects.extend(rig.tell(ended(run(line, 1), answer())));
    }
    effects.extend(rig.pass(secs(1)));
    let lines: Vec<_> = records(&effects)[0].1.items.iter().map(|item| item.line).collect();
    assert_eq!(lines, [1, 2]);
}

/// Whoever drives the machine by its timeouts alone gets its answers recorded.
#[test]
fn o3_an_answer_that_waits_has_a_timeout_and_so_has_its_group() {
    let (mut rig, _) = with_grants(options(9), vec![grant(1, 1..=9)]);
    rig.tell(success(run(1, 1)));
    let flush_age = WorkerOptions::default().flush_age;
    let asked_at: Vec<_> = rig
        .pass_timed(secs(5))
        .into_iter()
        .filter(|(_, effect)| !records(std::slice::from_ref(effect)).is_empty())
        .map(|(asked_at, _)| asked_at.since(at(secs(0))))
        .collect();
    let limit = TIMING.request_timeout;
    assert_eq!(asked_at, [flush_age, flush_age + limit, flush_age + limit * 2]);
}

/// What waited while another group was under way may be more than a group takes.
#[test]
fn o3_a_group_takes_no_more_than_it_may_of_those_that_waited() {
    let answer = |bytes: usize| RunAnswer::Success("x".repeat(bytes).into());
    let (mut rig, _) = with_grants(WorkerOptions { group_bytes_max: 10, ..options(9) }, vec![grant(1, 1..=9)]);
    let effects = rig.tell(ended(run(1, 1), answer(10)));
    let [first] = &records(&effects)[..] else { panic!("{effects:?}") };
    for line in 2..=5 {
        rig.tell(ended(run(line, 1), answer(4)));
    }
    let effects = recorded(&mut rig, first);
    let lines: Vec<_> = records(&effects)[0].1.items.iter().map(|item| item.line).collect();
    assert_eq!(lines, [2, 3]);
}
