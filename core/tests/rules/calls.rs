//! S7: completion calls.

use std::time::Duration;

use fencepost_core::calls::*;
use fencepost_core::keeper::{KeeperCommand, LeaseEvent};
use fencepost_core::rules::calls::*;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::outcome::Fence;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

fn calls() -> Calls {
    Calls { operations: vec!["op".into()], command: true, urls: vec!["http://host/hooks".into()] }
}

#[test]
fn s7_a_url_is_called_under_its_prefix_and_all_else_by_the_command() {
    let both = calls();
    let url = Some("http://host/hooks/a");
    assert!(s7_makes(&both, "op", url) && s7_makes(&both, "op", None));
    assert!(!s7_makes(&both, "other", url) && !s7_makes(&both, "other", None));
    assert!(!s7_makes(&both, "op", Some("http://host/hooksmith")), "and not by the command either");
    assert!(
        s7_url_allowed("http://host/hooks", "http://host/hooks")
            && s7_url_allowed("http://host/hooks", "http://host/hooks?a")
    );
    assert!(
        s7_url_allowed("http://host/hooks/", "http://host/hooks/a") && s7_url_allowed("http://host/", "http://host/")
    );
    assert!(!s7_url_allowed("http://host/hooks/", "http://host/hooks"));
    let command = Calls { urls: Vec::new(), ..calls() };
    assert!(!s7_makes(&command, "op", url) && s7_makes(&command, "op", None));
    let urls = Calls { command: false, ..calls() };
    assert!(s7_makes(&urls, "op", url) && !s7_makes(&urls, "op", None));
    assert!(!Calls { command: false, urls: Vec::new(), ..calls() }.makes_any());
}

#[test]
fn s7_a_call_is_claimed_once_it_is_due_and_by_one() {
    let (past, now, ahead) = (StoreTime(1), StoreTime(2), StoreTime(3));
    assert!(s7_may_claim(false, false, None, now) && s7_may_claim(false, false, Some(now), now));
    assert!(!s7_may_claim(false, false, Some(ahead), now));
    assert!(!s7_may_claim(true, false, None, now) && !s7_may_claim(false, true, None, now));
    assert_eq!((s7_due_since(Some(ahead), past), s7_due_since(None, past)), (ahead, past));
}

#[test]
fn s7_a_late_report_meets_the_fence() {
    let (own, other) = (Token(5), Token(6));
    assert_eq!(s7_fence(true, own, Some(own)), Fence::Holds);
    assert_eq!(s7_fence(false, own, Some(own)), Fence::Before);
    assert_eq!(s7_fence(false, own, Some(other)), Fence::Fenced);
    assert_eq!(s7_fence(false, own, None), Fence::Fenced, "its lease has ended");
}

#[test]
fn s7_a_death_counts_as_a_try_and_an_orderly_exit_does_not() {
    assert_eq!(s7_after_lease_end(1, false), (0, None));
    assert_eq!(s7_after_lease_end(1, true), (1, Some(secs(1))));
    assert_eq!(s7_after_lease_end(3, true), (3, Some(secs(4))));
    assert_eq!(s7_after_lease_end(99, true).1, Some(secs(400)), "it never gives up");
    assert_eq!(s7_backoff(1, 0), ms(500));
}

// --- the machine

fn caller() -> WorkerOptions {
    WorkerOptions { rows: false, calls: calls(), ..options(1) }
}

fn grant(token: u64) -> CallGrant {
    CallGrant {
        key: CallKey { batch: BATCH, generation: 1, token: Token(token) },
        attempt: 1,
        end: BatchEnd {
            key: None,
            operation: "op".into(),
            url: None,
            status: BatchStatus::Success,
            success: 1,
            failed: 0,
            aborted: 0,
            ended_at: StoreTime(0),
        },
    }
}

fn reply(call: Option<CallGrant>, next_after: Option<Duration>, open_lines: bool, undelivered: bool) -> StoreReply {
    StoreReply::ClaimCall(ClaimCallReply::Granted { call, next_after, open_lines, undelivered })
}

fn nothing() -> StoreReply {
    reply(None, None, true, false)
}

fn asked_for(effects: &[WorkerEffect]) -> Vec<(RequestId, ClaimCall)> {
    let pick = |(id, request)| match request {
        StoreRequest::ClaimCall(claim) => Some((id, claim)),
        _ => None,
    };
    asked(effects).into_iter().filter_map(pick).collect()
}

fn records_of_calls(effects: &[WorkerEffect]) -> Vec<(RequestId, RecordCall)> {
    let pick = |(id, request)| match request {
        StoreRequest::RecordCall(record) => Some((id, record)),
        _ => None,
    };
    asked(effects).into_iter().filter_map(pick).collect()
}

fn made(effects: &[WorkerEffect]) -> Vec<CallKey> {
    let pick = |effect: &WorkerEffect| match effect {
        WorkerEffect::Call(grant) => Some(grant.key),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

fn answer(id: RequestId, reply: StoreReply) -> WorkerInput {
    WorkerInput::Store(id, Ok(reply))
}

/// A worker that was granted this call; its next claim is answered with nothing.
fn calling(options: WorkerOptions, grant: CallGrant) -> (Rig<Worker>, Vec<WorkerEffect>) {
    let (mut rig, effects) = at_work(options);
    let (id, _) = asked_for(&effects)[0];
    let mut effects = rig.tell(answer(id, reply(Some(grant), None, true, true)));
    if let Some((next, _)) = asked_for(&effects).first() {
        effects.extend(rig.tell(answer(*next, nothing())));
    }
    (rig, effects)
}

#[test]
fn s7_a_call_is_claimed_made_and_recorded_until_its_end_is_known() {
    let (mut rig, effects) = at_work(caller());
    let [(id, claim)] = &asked_for(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((claim.lease, &claim.calls, claim.known.len()), (LEASE, &calls(), 0));
    assert!(claims(&effects).is_empty(), "it runs no rows");
    let effects = rig.tell(answer(*id, reply(Some(grant(5)), None, true, true)));
    assert_eq!(made(&effects), [grant(5).key]);
    let [(id, claim)] = &asked_for(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(claim.known, [Token(5)], "what it knows of is not granted again");
    rig.tell(answer(*id, nothing()));

    let effects = rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Delivered));
    let [(id, record)] = &records_of_calls(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*record, RecordCall { lease: LEASE, key: grant(5).key, outcome: CallOutcome::Delivered });
    let effects = rig.tell(WorkerInput::Store(*id, Err(StoreFailure::Unknown)));
    assert!(records_of_calls(&effects).is_empty(), "not at once");
    let effects = rig.pass(secs(1));
    let [(again, repeated)] = &records_of_calls(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(repeated, record, "O2: as it is");
    let effects = rig.tell(answer(*again, StoreReply::RecordCall(CallVerdict::RecordedBefore)));
    assert!(effects.contains(&WorkerEffect::Tell(WorkerEvent::CallDelivered(grant(5).key))), "{effects:?}");
    assert!(records_of_calls(&rig.pass(secs(60))).is_empty());
}

#[test]
fn s7_a_claim_whose_reply_is_lost_is_asked_again() {
    let (mut rig, effects) = at_work(caller());
    let (first, claim) = asked_for(&effects)[0].clone();
    let effects = rig.pass(TIMING.request_timeout);
    let [(second, again)] = &asked_for(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*again, claim);
    let effects = rig.tell(answer(first, reply(Some(grant(5)), None, true, true)));
    assert!(made(&effects).is_empty(), "old news: the repeat tells the same");
    assert_eq!(made(&rig.tell(answer(*second, reply(Some(grant(5)), None, true, true)))), [grant(5).key]);
}

#[test]
fn s7_idle_it_asks_when_something_is_due_when_it_is_told_to_and_once_per_poll() {
    let (mut rig, effects) = at_work(caller());
    rig.tell(answer(asked_for(&effects)[0].0, reply(None, Some(ms(300)), true, true)));
    assert!(asked_for(&rig.pass(ms(299))).is_empty());
    let effects = rig.pass(ms(1));
    rig.tell(answer(asked_for(&effects)[0].0, reply(None, Some(secs(400)), true, true)));
    assert!(asked_for(&rig.pass(ms(999))).is_empty());
    let effects = rig.pass(ms(1));
    rig.tell(answer(asked_for(&effects)[0].0, nothing()));
    assert_eq!(asked_for(&rig.tell(WorkerInput::CallsDue)).len(), 1);
}

#[test]
fn s7_news_while_a_claim_is_under_way_is_asked_about_after_its_answer() {
    let (mut rig, effects) = at_work(caller());
    assert!(asked_for(&rig.tell(WorkerInput::CallsDue)).is_empty(), "one at a time");
    let effects = rig.tell(answer(asked_for(&effects)[0].0, nothing()));
    let [(id, _)] = &asked_for(&effects)[..] else { panic!("the claim may have looked before: {effects:?}") };
    assert!(asked_for(&rig.tell(answer(*id, nothing()))).is_empty(), "and once");
}

#[test]
fn s7_a_delivery_is_no_reason_to_ask_where_nothing_was_due() {
    let recorded = |options, answered| {
        let (mut rig, _) = calling(options, grant(5));
        let (id, _) = records_of_calls(&rig.tell(WorkerInput::CallEnded(grant(5).key, answered)))[0];
        asked_for(&rig.tell(answer(id, StoreReply::RecordCall(CallVerdict::Recorded)))).len()
    };
    assert_eq!(recorded(caller(), CallAnswer::Delivered), 0);
    assert_eq!(recorded(caller(), CallAnswer::Failed("no".into())), 1, "when it is due again is not known");
    assert_eq!(recorded(WorkerOptions { until_done: true, ..caller() }, CallAnswer::Delivered), 1, "is all done now?");
}

#[test]
fn s7_l4_no_call_is_started_without_a_licence_and_those_that_run_are_cancelled() {
    let (mut rig, effects) = at_work(caller());
    let (id, _) = asked_for(&effects)[0];
    let effects = rig.tell(answer(id, reply(Some(grant(5)), None, true, true)));
    let (under_way, _) = asked_for(&effects)[0];
    // The licence is for ever here: another lease, whose licence ends.
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Cancelled));
    rig.pass(TIMING.ttl - ms(1));
    rig.tell(held(LEASE_2, rig.now + secs(1)));
    assert!(made(&rig.tell(answer(under_way, reply(Some(grant(6)), None, true, true)))).is_empty(), "of the old lease");
    let (id, _) = asked_for(&rig.pass(ms(1)))[0];
    let effects = rig.tell(answer(id, reply(Some(grant(7)), None, true, true)));
    assert_eq!(made(&effects), [grant(7).key]);
    let (under_way, _) = asked_for(&effects)[0];
    let effects = rig.pass(secs(1));
    assert!(effects.contains(&WorkerEffect::CancelCall(grant(7).key)), "{effects:?}");
    let effects = rig.tell(answer(under_way, reply(Some(grant(8)), None, true, true)));
    let [(_, back)] = &records_of_calls(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((back.key, &back.outcome), (grant(8).key, &CallOutcome::GivenBack));
    assert!(made(&effects).is_empty());
    let effects = rig.tell(WorkerInput::CallEnded(grant(7).key, CallAnswer::Cancelled));
    assert_eq!(records_of_calls(&effects)[0].1.outcome, CallOutcome::GivenBack, "no try used");
    assert!(asked_for(&rig.pass(secs(5))).is_empty());
    let effects = rig.tell(held(LEASE_2, rig.now + secs(100)));
    assert_eq!(asked_for(&effects).len(), 1);
}

#[test]
fn s7_l4_what_was_delivered_is_recorded_after_the_licence_too() {
    let (mut rig, _) = calling(caller(), grant(5));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    let effects = rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Delivered));
    assert_eq!(records_of_calls(&effects)[0].1.lease, LEASE, "the fence judges it");
}

#[test]
fn s7_o6_a_call_that_takes_too_long_is_cancelled_and_then_given_up() {
    let options = WorkerOptions { call_timeout: secs(10), ..caller() };
    for ends in [true, false] {
        let (mut rig, _) = calling(options.clone(), grant(5));
        let cancel = WorkerEffect::CancelCall(grant(5).key);
        let cancelled: Vec<Instant> =
            rig.pass_timed(secs(10)).into_iter().filter(|(_, effect)| *effect == cancel).map(|(at, _)| at).collect();
        assert_eq!(cancelled, [at(secs(10))]);
        let effects = if ends {
            rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Cancelled))
        } else {
            rig.pass(secs(5))
        };
        let [(_, record)] = &records_of_calls(&effects)[..] else { panic!("{effects:?}") };
        let CallOutcome::Retry { error, .. } = &record.outcome else { panic!("{record:?}") };
        assert!(error.starts_with("timed out after"), "{error}");
        assert_eq!(effects.contains(&WorkerEffect::AbandonCall(grant(5).key)), !ends);
    }
}

#[test]
fn s7_s1_a_call_may_end_within_the_grace_and_the_drop_frees_one_that_does_not() {
    let (mut rig, _) = calling(caller(), grant(5));
    let effects = rig.tell(WorkerInput::Stop);
    assert_eq!((drops(&effects), asked_for(&effects).len()), (0, 0));
    let effects = rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Delivered));
    let (id, _) = records_of_calls(&effects)[0];
    assert_eq!(drops(&effects), 0, "it owes what came of it");
    assert_eq!(drops(&rig.tell(answer(id, StoreReply::RecordCall(CallVerdict::Recorded)))), 1);

    let (mut rig, _) = calling(caller(), grant(5));
    rig.tell(WorkerInput::Stop);
    let effects = rig.pass(secs(30));
    assert!(effects.contains(&WorkerEffect::CancelCall(grant(5).key)), "{effects:?}");
    let effects = rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Cancelled));
    assert_eq!((records_of_calls(&effects).len(), drops(&effects)), (0, 1));
}

#[test]
fn s7_s1_who_is_told_that_the_lease_is_dropped_leaves_no_call_behind() {
    let (mut rig, _) = calling(caller(), grant(5));
    let effects = rig.tell(WorkerInput::Lease(LeaseEvent::Dropped));
    assert_eq!(effects, [WorkerEffect::CancelCall(grant(5).key), WorkerEffect::Exit(ExitReason::Stopped)]);
    assert_eq!(rig.machine.poll_timeout(), None);
}

/// A call that cannot be started now is left to others for a while.
#[test]
fn s7_who_gave_a_call_back_does_not_ask_again_at_once() {
    let (mut rig, effects) = at_work(caller());
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    drop(effects);
    rig.pass(TIMING.ttl);
    let effects = rig.tell(held(LEASE_2, rig.now + secs(1)));
    let (id, _) = asked_for(&effects)[0];
    rig.pass(secs(1));
    let effects = rig.tell(answer(id, reply(Some(grant(7)), None, true, true)));
    assert_eq!(records_of_calls(&effects)[0].1.outcome, CallOutcome::GivenBack, "{effects:?}");
    assert!(asked_for(&rig.tell(held(LEASE_2, rig.now + secs(100)))).is_empty());
    assert!(!asked_for(&rig.pass(secs(5))).is_empty());
}

#[test]
fn s7_it_leaves_once_all_is_done_and_delivered() {
    let options = WorkerOptions { until_done: true, ..caller() };
    for (open_lines, undelivered, leaves) in [(true, false, false), (false, true, false), (false, false, true)] {
        let (mut rig, effects) = at_work(options.clone());
        let effects = rig.tell(answer(asked_for(&effects)[0].0, reply(None, None, open_lines, undelivered)));
        assert_eq!(drops(&effects) == 1, leaves, "{open_lines} {undelivered}");
    }
    // With rows as well: that no line is open is not enough.
    let both = WorkerOptions { rows: true, ..options };
    let (mut rig, effects) = at_work(both);
    let (call, claim) = (asked_for(&effects)[0].0, claims(&effects)[0].0);
    rig.tell(answer(call, nothing()));
    let none = ClaimReply::Granted { grants: vec![], suspect_waits: false, next_after: None, open_lines: false };
    let effects = rig.tell(answer(claim, StoreReply::Claim(none)));
    assert_eq!(drops(&effects), 0);
    let [(call, _)] = &asked_for(&effects)[..] else { panic!("it asks at once: {effects:?}") };
    assert_eq!(drops(&rig.tell(answer(*call, reply(None, None, false, false)))), 1);
}

#[test]
fn s7_p2_no_call_is_made_beside_a_row_that_runs_alone() {
    let both = WorkerOptions { rows: true, ..caller() };
    let (mut rig, effects) = at_work(both);
    let (call, claim) = (asked_for(&effects)[0].0, claims(&effects)[0].clone());
    assert!(!claim.1.idle, "a call may be granted before the claim is answered");
    rig.tell(answer(call, nothing()));
    let effects = rig.tell(answer(claim.0, granted(vec![])));
    let [(claim, idle)] = &claims(&effects)[..] else { panic!("it asks once more, idle: {effects:?}") };
    assert!(idle.idle);
    assert!(asked_for(&rig.tell(WorkerInput::CallsDue)).is_empty(), "a row may be granted alone just now");
    let alone = Grant { alone: true, suspicion: 3, ..crate::rig::grant(1, 1..=1) };
    let effects = rig.tell(answer(*claim, granted(vec![alone])));
    assert_eq!(starts(&effects), [run(1, 1)]);
    assert!(asked_for(&rig.pass(secs(60))).is_empty());
    let effects = rig.tell(success(run(1, 1)));
    let record = [effects, rig.pass(secs(1))].concat();
    let effects = recorded(&mut rig, &records(&record)[0]);
    assert_eq!(asked_for(&effects).len(), 1, "{effects:?}");
}

#[test]
fn s7_a_worker_with_a_call_under_way_is_not_idle() {
    let both = WorkerOptions { rows: true, ..caller() };
    let (mut rig, effects) = at_work(both);
    let (call, claim) = (asked_for(&effects)[0].0, claims(&effects)[0].0);
    rig.tell(answer(claim, granted(vec![])));
    let effects = rig.tell(answer(call, reply(Some(self::grant(5)), None, true, true)));
    assert_eq!(made(&effects).len(), 1);
    let effects = rig.tell(WorkerInput::Wake);
    assert!(claims(&effects).iter().all(|(_, claim)| !claim.idle) && claims(&effects).len() == 1, "{effects:?}");
}

/// P2: while a call runs a worker waits to be idle for a suspect. What a call that was given up still does is not known, and it may never
/// end: the worker goes on with rows and other calls, and leaves suspects to others.
#[test]
fn s7_p2_a_worker_with_a_call_that_was_given_up_leaves_suspects_to_others() {
    let both = WorkerOptions { rows: true, call_timeout: secs(10), ..caller() };
    let (mut rig, effects) = at_work(both);
    let (call, claim) = (asked_for(&effects)[0].0, claims(&effects)[0].0);
    let suspect = ClaimReply::Granted { grants: vec![], suspect_waits: true, next_after: None, open_lines: true };
    let suspect = StoreReply::Claim(suspect);
    rig.tell(answer(claim, suspect.clone()));
    let mut effects = rig.tell(answer(call, reply(Some(grant(5)), None, true, true)));
    assert_eq!(made(&effects), [grant(5).key]);
    let (mut asked_for_lines, mut asked_for_calls) = (Vec::new(), Vec::new());
    for second in 0..20 {
        // Whoever asks gets nothing, and is told of the suspect.
        for _ in 0..2 {
            let told = std::mem::take(&mut effects);
            asked_for_lines.extend(claims(&told).iter().map(|(_, claim)| (second, claim.lines_max > 0, claim.idle)));
            asked_for_calls.extend(asked_for(&told).iter().map(|_| second));
            for (id, _) in claims(&told) {
                effects.extend(rig.tell(answer(id, suspect.clone())));
            }
            for (id, _) in asked_for(&told) {
                effects.extend(rig.tell(answer(id, nothing())));
            }
            for (id, _) in records_of_calls(&told) {
                effects.extend(rig.tell(answer(id, StoreReply::RecordCall(CallVerdict::Recorded))));
            }
        }
        effects.extend(rig.pass(secs(1)));
        if second == 14 {
            assert!(effects.contains(&WorkerEffect::AbandonCall(grant(5).key)), "{effects:?}");
        }
    }
    let (runs, given_up): (Vec<_>, Vec<_>) = asked_for_lines.iter().partition(|(second, ..)| *second < 15);
    assert!(runs.len() > 10 && runs.iter().all(|(_, lines, idle)| !lines && !idle), "it drains: {runs:?}");
    assert!(given_up.len() > 3 && given_up.iter().all(|(_, lines, idle)| *lines && !idle), "it goes on: {given_up:?}");
    assert!(asked_for_calls.iter().any(|second| *second >= 15), "with calls too: {asked_for_calls:?}");
    // Its late end makes the worker idle again.
    effects.extend(rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Cancelled)));
    assert!(records_of_calls(&effects).is_empty(), "what came of it is decided");
    let told = std::mem::take(&mut effects);
    for (id, _) in asked_for(&told) {
        effects.extend(rig.tell(answer(id, nothing())));
    }
    for (id, _) in claims(&told) {
        effects.extend(rig.tell(answer(id, suspect.clone())));
    }
    assert!(claims(&effects).iter().any(|(_, claim)| claim.idle), "{effects:?}");
}

#[test]
fn s7_l6_a_claim_that_finds_the_lease_dead_tells_the_keeper() {
    let (mut rig, effects) = at_work(caller());
    let effects = rig.tell(answer(asked_for(&effects)[0].0, StoreReply::ClaimCall(ClaimCallReply::LeaseEnded)));
    assert!(effects.contains(&WorkerEffect::Keeper(KeeperCommand::RenewNow)), "{effects:?}");
}

#[test]
fn s7_no_more_calls_at_once_than_are_allowed_those_counted_that_wait_for_their_record() {
    let two = WorkerOptions { calls_at_once: 2, ..caller() };
    let (mut rig, effects) = at_work(two);
    let (id, _) = asked_for(&effects)[0];
    let effects = rig.tell(answer(id, reply(Some(grant(5)), None, true, true)));
    let (id, _) = asked_for(&effects)[0];
    let effects = rig.tell(WorkerInput::CallEnded(grant(5).key, CallAnswer::Delivered));
    let (record, _) = records_of_calls(&effects)[0].clone();
    let second = CallGrant { key: CallKey { batch: OTHER, ..grant(6).key }, ..grant(6) };
    // One is owed, one runs: no room.
    let effects = rig.tell(answer(id, reply(Some(second), None, true, true)));
    assert_eq!((made(&effects).len(), asked_for(&effects).len()), (1, 0));
    assert_eq!(asked_for(&rig.tell(WorkerInput::CallsDue)), []);
    let effects = rig.tell(answer(record, StoreReply::RecordCall(CallVerdict::Recorded)));
    let effects = [effects, rig.tell(WorkerInput::CallsDue)].concat();
    assert_eq!(asked_for(&effects).len(), 1);
}

/// Whoever drives the machine by its timeouts alone makes its calls too.
#[test]
fn s7_calls_have_their_own_timeouts() {
    let (mut rig, effects) = at_work(caller());
    let (id, _) = asked_for(&effects)[0];
    rig.tell(answer(id, nothing()));
    // Idle: once per poll.
    assert_eq!(rig.machine.poll_timeout(), Some(rig.now + caller().poll));
    rig.pass(caller().poll);
    // A failed claim is asked again after an eighth of the ttl, and not at once.
    let effects = rig.pass(caller().poll * 2);
    let (id, _) = *asked_for(&effects).last().map(|(id, claim)| (*id, claim.clone())).as_ref().unwrap();
    let failed_at = rig.now;
    let effects = rig.tell(WorkerInput::Store(id, Err(StoreFailure::NotDone)));
    assert_eq!(asked_for(&effects), []);
    assert_eq!(rig.machine.poll_timeout(), Some(failed_at + secs(1)));
    let effects = rig.pass(secs(1));
    let (id, _) = asked_for(&effects)[0];
    // One whose lease has ended likewise.
    let ended_at = rig.now;
    assert_eq!(asked_for(&rig.tell(answer(id, StoreReply::ClaimCall(ClaimCallReply::LeaseEnded)))), []);
    assert_eq!(rig.machine.poll_timeout(), Some(ended_at + secs(1)));
}

/// P2: who was declared dead while it lived would take the same call each time, and never get to its end.
#[test]
fn s7_p2_who_was_declared_dead_while_it_lived_leaves_calls_to_others_for_a_ttl() {
    let (mut rig, _) = at_work(caller());
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    let mut effects = rig.tell(held(LEASE_2, rig.now + secs(1_000)));
    effects.extend(rig.tell(WorkerInput::CallsDue));
    effects.extend(rig.pass(TIMING.ttl - ms(1)));
    assert!(asked_for(&effects).is_empty(), "{effects:?}");
    assert_eq!(asked_for(&rig.pass(ms(1))).len(), 1);
}
