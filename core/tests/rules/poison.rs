use fencepost_core::keeper::{KeeperCommand, KeeperInput, LeaseEvent};
use fencepost_core::rules::poison::*;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

#[test]
fn p1_what_a_living_worker_took_back_does_not_count() {
    assert_eq!(p1_crashes(3, 1), 2);
    assert_eq!(p1_crashes(1, 1), 0);
    assert_eq!(p1_crashes(0, 1), 0);
}

/// A keeper whose renewal was refused, and its pending withdrawal.
fn declared_dead(taken_over: bool) -> (Rig<fencepost_core::keeper::Keeper>, LeaseId, RequestId) {
    let mut rig = keeping();
    let lease = rig.machine.lease();
    let id = renewals(&rig.pass(secs(4)))[0];
    let effects = rig.tell(KeeperInput::Store(id, refused(taken_over)));
    assert_eq!(told(&effects), [LeaseEvent::Ended { lease }]);
    let [(id, StoreRequest::WithdrawCrashes { lease: of })] = kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(of, lease);
    (rig, lease, id)
}

fn withdrawals(effects: &[fencepost_core::keeper::KeeperEffect]) -> Vec<(RequestId, LeaseId)> {
    let pick = |(id, request)| match request {
        StoreRequest::WithdrawCrashes { lease } => Some((id, lease)),
        _ => None,
    };
    kept(effects).into_iter().filter_map(pick).collect()
}

#[test]
fn p1_a_worker_declared_dead_while_alive_takes_its_crash_back_before_all_else() {
    let (mut rig, lease, id) = declared_dead(false);
    let mut effects = rig.tell(KeeperInput::Store(id, Err(StoreFailure::Unknown)));
    effects.extend(rig.pass(secs(5)));
    assert!(takes(&effects).is_empty());
    let again = withdrawals(&effects);
    assert!(again.len() >= 3 && again.iter().all(|(_, of)| *of == lease));
    let (id, _) = *again.last().unwrap();
    assert_eq!(takes(&rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes)))).len(), 1);
}

#[test]
fn p1_a_worker_that_leaves_meanwhile_takes_its_crash_back_as_well() {
    let (mut rig, lease, id) = declared_dead(false);
    let mut effects = rig.tell(KeeperInput::Command(KeeperCommand::Drop));
    effects.extend(rig.tell(KeeperInput::Store(id, Err(StoreFailure::NotDone))));
    effects.extend(rig.pass(secs(1)));
    assert!(told(&effects).is_empty() && !rig.machine.is_gone());
    let [(id, of)] = withdrawals(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(of, lease);
    let effects = rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes)));
    assert_eq!((told(&effects), rig.machine.is_gone()), (vec![LeaseEvent::Dropped], true));
    assert!(takes(&effects).is_empty());
}

#[test]
fn p1_a_worker_whose_name_was_taken_over_takes_its_crash_back_as_well() {
    let (mut rig, _, id) = declared_dead(true);
    let effects = rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes)));
    assert_eq!(told(&effects), [LeaseEvent::NameInUse { worker: "w".into() }]);
    assert!(rig.machine.is_gone());
}

#[test]
fn p2_a_dead_lease_s_lines_come_back_suspect_and_halved() {
    let suspect = |parts: &[LineSet], suspicion| AfterEnd::Suspect { parts: parts.to_vec(), suspicion };
    assert_eq!(p2_after_end(&lines(1, 9), 0, false), suspect(&[lines(1, 9)], 1));
    assert_eq!(p2_after_end(&lines(1, 9), 1, false), suspect(&[lines(1, 5), lines(6, 9)], 2));
    assert_eq!(p2_after_end(&lines(4, 5), 7, false), suspect(&[lines(4, 4), lines(5, 5)], 8));
    assert_eq!(p2_after_end(&lines(4, 4), 3, false), suspect(&[lines(4, 4)], 4), "held, but not alone: no crash");
    assert_eq!(p2_after_end(&lines(4, 4), 3, true), AfterEnd::Crash);
    let gaps = LineSet::from_ranges([(1, 2), (9, 9)]).unwrap();
    assert_eq!(p2_halves(&gaps), [lines(1, 2), lines(9, 9)]);
}

#[test]
fn p2_a_row_fails_at_its_last_crash() {
    assert!(!p2_after_crash(2, 3));
    assert!(p2_after_crash(3, 3));
    assert!(p2_after_crash(4, 3));
}

#[test]
fn p2_who_may_take_suspects_and_how_many() {
    assert!(p2_wants_idle_worker(1, 1));
    assert!(!p2_wants_idle_worker(1, 2) && !p2_wants_idle_worker(0, 1));
    let may = |others, live| p2_may_take_suspect(others, live);
    assert!(may(0, 0) && may(0, 1) && may(0, 2) && may(0, 3), "always one");
    assert!(!may(1, 1) && !may(1, 2) && !may(1, 3), "at most one in two");
    assert!(may(1, 4) && !may(2, 4) && !may(2, 5));
    assert!(p2_may_work_on_suspects(true, true) && p2_may_work_on_suspects(false, false));
    assert!(!p2_may_work_on_suspects(false, true), "beyond the quota, only who would stand idle");
    assert!(p2_may_take_range(true, false) && !p2_may_take_range(true, true) && !p2_may_take_range(false, false));
    assert_eq!([0, 1, 2, 3, 9].map(|wanted| p2_lines_to_take(wanted, 5)), [2, 2, 2, 3, 5]);
}

#[test]
fn p2_others_have_a_ttl_or_two_polls_to_take_what_a_living_worker_lost() {
    assert_eq!(p2_others_first_until(at(secs(3)), secs(8), secs(1)), at(secs(11)));
    assert_eq!(p2_others_first_until(at(secs(3)), secs(8), secs(5)), at(secs(13)), "who polls seldom is to have asked");
}

fn suspect_alone() -> Vec<Grant> {
    vec![Grant { suspicion: 2, alone: true, ..grant(1, 1..=1) }]
}

#[test]
fn p2_nothing_is_claimed_until_a_suspect_s_outcome_is_known() {
    let (mut rig, effects) = at_work(options(4));
    let (id, claim) = claims(&effects)[0].clone();
    assert!(claim.idle);
    let mut effects = rig.tell(WorkerInput::Store(id, Ok(granted(suspect_alone()))));
    assert_eq!(starts(&effects), [run(1, 1)]);
    effects.extend(rig.tell(WorkerInput::Wake));
    effects.extend(rig.pass(secs(60)));
    effects.extend(rig.tell(success(run(1, 1))));
    effects.extend(rig.tell(WorkerInput::Wake));
    let group = records(&effects).last().unwrap().clone();
    effects.extend(rig.tell(WorkerInput::Store(group.0, Err(StoreFailure::Unknown))));
    effects.extend(rig.pass(secs(60)));
    assert!(claims(&effects).is_empty());
    let group = records(&effects).last().unwrap().clone();
    assert_eq!(claims(&recorded(&mut rig, &group)).len(), 1);
}

#[test]
fn p2_a_suspect_given_back_or_gone_with_its_lease_or_batch_is_waited_for_no_more() {
    // Given back at the licence's end: waited for until that is known.
    let mut rig = worker(options(4));
    let claim = claims(&rig.tell(held(LEASE, at(secs(7)))))[0].0;
    rig.tell(WorkerInput::Store(claim, Ok(granted(suspect_alone()))));
    rig.pass(secs(7));
    let (id, ..) = give_backs(&rig.tell(ended(run(1, 1), RunAnswer::Cancelled)))[0];
    assert!(claims(&rig.tell(held(LEASE, at(secs(1_000))))).is_empty());
    let effects = rig.tell(WorkerInput::Store(id, Ok(StoreReply::GiveBack)));
    let [(claim, Claim { idle: true, .. })] = claims(&effects)[..] else { panic!("{effects:?}") };

    // Gone with the lease.
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![Grant { alone: true, ..grant(2, 1..=1) }]))));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    rig.tell(ended(run(1, 2), RunAnswer::Cancelled));
    let claim = claims(&rig.tell(held(LEASE_2, at(secs(1_000)))))[0].0;

    // Gone with the batch.
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![Grant { alone: true, ..grant(3, 1..=1) }]))));
    let closed = vec![BATCH];
    rig.tell(WorkerInput::Lease(LeaseEvent::Held { lease: LEASE_2, licence_ends: at(secs(1_000)), closed }));
    let effects = rig.tell(ended(run(1, 3), RunAnswer::Cancelled));
    let (id, ..) = give_backs(&effects)[0];
    assert_eq!(claims(&rig.tell(WorkerInput::Store(id, Ok(StoreReply::GiveBack)))).len(), 1);
}

#[test]
fn p2_a_worker_drains_for_a_waiting_suspect_and_then_asks_as_idle() {
    let (mut rig, effects) = at_work(options(2));
    let grants = vec![grant(1, 1..=2)];
    let reply = ClaimReply::Granted { grants, suspect_waits: true, next_after: None, open_lines: true };
    let mut effects = rig.tell(WorkerInput::Store(claims(&effects)[0].0, Ok(StoreReply::Claim(reply))));
    rig.pass(ms(1));
    effects.extend(rig.tell(success(run(1, 1))));
    effects.extend(rig.tell(WorkerInput::Wake));
    effects.extend(rig.pass(ms(100)));
    assert!(claims(&effects).is_empty(), "one still runs: {effects:?}");
    let first = records(&effects).last().unwrap().clone();
    effects.extend(recorded(&mut rig, &first));
    let last = rig.tell(success(run(2, 1)));
    assert!(claims(&effects).is_empty() && claims(&last).is_empty(), "its answer is still owed");
    let effects = recorded(&mut rig, &records(&last)[0]);
    assert!(claims(&effects)[0].1.idle);
}

#[test]
fn p2_a_draining_worker_asks_whether_the_suspect_still_waits_and_goes_on_when_not() {
    let (mut rig, effects) = at_work(options(2));
    let reply = |grants: Vec<Grant>, suspect_waits| {
        let reply = ClaimReply::Granted { grants, suspect_waits, next_after: None, open_lines: true };
        Ok(StoreReply::Claim(reply))
    };
    let mut row = grant(1, 1..=2);
    row.timeout = secs(1_000);
    rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply(vec![row], true)));
    let group = records(&rig.tell(success(run(1, 1)))).last().cloned();
    let group = group.unwrap_or_else(|| records(&rig.pass(ms(10))).last().unwrap().clone());
    recorded(&mut rig, &group);
    for _ in 0..3 {
        let effects = rig.pass(secs(1));
        let [(id, claim)] = &claims(&effects)[..] else { panic!("{effects:?}") };
        assert!(claim.lines_max == 0 && !claim.idle, "one row is slow, its neighbour's slot stays free");
        rig.tell(WorkerInput::Store(*id, reply(vec![], true)));
    }
    let effects = rig.pass(secs(1));
    let effects = rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply(vec![], false)));
    assert!(claims(&effects)[0].1.lines_max > 0, "another took it");
}

#[test]
fn p2_a_draining_worker_does_not_spin_on_a_store_that_refuses() {
    let (mut rig, effects) = at_work(options(2));
    let grants = vec![grant(1, 1..=2)];
    let reply = ClaimReply::Granted { grants, suspect_waits: true, next_after: None, open_lines: true };
    rig.tell(WorkerInput::Store(claims(&effects)[0].0, Ok(StoreReply::Claim(reply))));
    rig.tell(success(run(1, 1)));
    let refusals = [Err(StoreFailure::NotDone), Ok(StoreReply::Claim(ClaimReply::LeaseEnded))];
    for refusal in refusals {
        let asked = claims(&rig.pass(secs(2)))[0].clone();
        assert_eq!(asked.1.lines_max, 0, "it drains");
        let effects = rig.tell(WorkerInput::Store(asked.0, refusal));
        assert!(claims(&effects).is_empty(), "not again at once: {effects:?}");
    }
}

#[test]
fn p2_a_worker_that_runs_or_owes_something_does_not_call_itself_idle() {
    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=1)]);
    let effects = [rig.tell(WorkerInput::Wake), rig.pass(secs(2))].concat();
    assert!(claims(&effects).iter().all(|(_, claim)| !claim.idle), "{effects:?}");
    rig.tell(success(run(1, 1)));
    let mut rig = worker(options(1));
    let claim = claims(&rig.tell(held(LEASE, at(secs(7)))))[0].0;
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(1, 1..=1)]))));
    rig.pass(secs(7));
    rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    let effects = rig.tell(held(LEASE, at(secs(1_000))));
    assert!(!claims(&effects)[0].1.idle, "a line is still on its way back");
}

#[test]
fn p2_a_worker_that_got_nothing_more_while_it_held_a_range_asks_as_soon_as_it_is_idle() {
    let (mut rig, effects) = at_work(options(2));
    let reply = |grants| {
        let reply = ClaimReply::Granted { grants, suspect_waits: false, next_after: None, open_lines: true };
        Ok(StoreReply::Claim(reply))
    };
    let effects = rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply(vec![grant(1, 1..=1)])));
    let (id, claim) = claims(&effects)[0].clone();
    assert!(!claim.idle, "it asks for more while this one runs");
    assert!(claims(&rig.tell(WorkerInput::Store(id, reply(vec![])))).is_empty(), "the next look is a poll away");
    let effects = rig.tell(success(run(1, 1)));
    let effects = recorded(&mut rig, &records(&effects)[0]);
    let (id, claim) = claims(&effects)[0].clone();
    assert!(claim.idle);
    assert!(claims(&rig.tell(WorkerInput::Store(id, reply(vec![])))).is_empty(), "there is nothing: now it waits");
}

#[test]
fn p2_a_suspect_that_another_took_is_waited_for_no_more() {
    let (mut rig, effects) = at_work(options(2));
    let reply = |suspect_waits| {
        let claim = ClaimReply::Granted { grants: vec![], suspect_waits, next_after: None, open_lines: true };
        Ok(StoreReply::Claim(claim))
    };
    rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply(true)));
    let effects = rig.pass(secs(1));
    let (id, claim) = claims(&effects)[0].clone();
    assert!(claim.idle);
    rig.tell(WorkerInput::Store(id, reply(false)));
    assert_eq!(claims(&rig.pass(secs(1))).len(), 1);
}

/// What a run that was given up still does is not known: its worker is not idle, and drains for no suspect.
#[test]
fn p2_a_worker_with_a_run_that_was_given_up_leaves_suspects_to_others() {
    let mut row = grant(1, 1..=1);
    row.timeout = secs(10);
    let (mut rig, _) = with_grants(options(1), vec![row]);
    let effects = rig.pass(secs(15));
    assert!(effects.contains(&WorkerEffect::Abandon(run(1, 1))));
    let group = records(&effects).last().unwrap().clone();
    let mut all = [effects, recorded(&mut rig, &group)].concat();
    let (id, _) = claims(&all).last().unwrap().clone();
    let reply = ClaimReply::Granted { grants: vec![], suspect_waits: true, next_after: None, open_lines: true };
    all = [rig.tell(WorkerInput::Store(id, Ok(StoreReply::Claim(reply.clone())))), rig.pass(secs(1))].concat();
    let (id, claim) = claims(&all).last().unwrap().clone();
    assert!(!claim.idle, "it still asks, for ordinary lines");
    // Its late end makes the worker idle again.
    assert!(records(&rig.tell(success(run(1, 1)))).is_empty());
    let all = [rig.tell(WorkerInput::Store(id, Ok(StoreReply::Claim(reply)))), rig.pass(secs(1))].concat();
    assert!(claims(&all).last().unwrap().1.idle);
}

#[test]
fn p1_counts_from_the_last_operators_retry_on() {
    assert!(p1_counts(Token(1), None));
    assert_eq!([4, 5, 6].map(|token| p1_counts(Token(token), Some(Token(5)))), [false, false, true]);
}

/// L6: a row that ran alone under a lease that is over keeps nobody from anything.
#[test]
fn p2_who_lost_the_lease_under_a_row_that_ran_alone_claims_again() {
    let (mut rig, _) = with_grants(options(2), suspect_alone());
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    let effects = rig.tell(held(LEASE_2, at(secs(1_000))));
    assert_eq!(claims(&effects).len(), 1, "{effects:?}");
}

/// P2: whatever ended its lease may end the next as soon: a worker that was declared dead while it lived runs no row alone for a
/// while, nor waits to be idle for one; it goes on with all other lines.
#[test]
fn p2_who_was_declared_dead_while_it_lived_leaves_suspects_to_others_for_a_ttl() {
    let (mut rig, _) = at_work(options(2));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    let reply = |grants| {
        let reply = ClaimReply::Granted { grants, suspect_waits: true, next_after: None, open_lines: true };
        Ok(StoreReply::Claim(reply))
    };
    let (id, first) = claims(&rig.tell(held(LEASE_2, at(secs(1_000)))))[0].clone();
    assert!(!first.idle);
    // It is told of the suspect together with other lines: it runs those, and asks for more.
    let effects = rig.tell(WorkerInput::Store(id, reply(vec![grant(1, 1..=1)])));
    assert_eq!(starts(&effects), [run(1, 1)]);
    let (id, more) = claims(&effects)[0].clone();
    assert!(!more.idle && more.lines_max > 0, "it does not drain: {more:?}");
    rig.tell(WorkerInput::Store(id, reply(vec![])));
    let effects = rig.tell(success(run(1, 1)));
    let group = records(&[effects, rig.pass(ms(2))].concat())[0].clone();
    recorded(&mut rig, &group);
    // With nothing else to do it asks once per poll, and for the suspect not before its time.
    let mut asked = Vec::new();
    while rig.now < at(TIMING.ttl + secs(2)) {
        let effects = rig.pass(ms(500));
        for (id, claim) in claims(&effects) {
            asked.push((rig.now >= at(TIMING.ttl), claim.idle));
            rig.tell(WorkerInput::Store(id, reply(vec![])));
        }
    }
    assert!((8..=10).contains(&asked.len()), "once per poll: {asked:?}");
    assert!(asked.iter().all(|(over, idle)| over == idle), "{asked:?}");
    assert!(asked.iter().any(|(over, _)| *over) && asked.iter().any(|(over, _)| !over));
}

/// P2: a lease that ends before it had its turn changes nothing: else a worker that loses every lease would never have a turn again,
/// where it may be the only one that is left. At its turn it asks at once, not at its next poll.
#[test]
fn p2_who_loses_each_lease_has_its_turn_of_suspects_now_and_then() {
    let (mut rig, _) = at_work(options(1));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    let nothing = ClaimReply::Granted { grants: vec![], suspect_waits: true, next_after: None, open_lines: true };
    let nothing = Ok(StoreReply::Claim(nothing));
    let mut lease = LEASE_2;
    let mut asked = Vec::new();
    for nth in 0..8 {
        // Each lasts for two thirds of a ttl; polls and turns fall together nowhere.
        let mut effects = rig.tell(held(lease, rig.now + secs(100)));
        let ends = rig.now + ms(5_300);
        while rig.now < ends {
            let mut told = std::mem::take(&mut effects);
            for (id, claim) in claims(&told) {
                asked.push((rig.now, nth, claim.idle));
                told.extend(rig.tell(WorkerInput::Store(id, nothing.clone())));
            }
            effects.extend(rig.pass(ms(100)));
        }
        rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease }));
        lease = LeaseId::from_random(nth + 10);
    }
    let idle: Vec<(Instant, u64)> = asked.iter().filter(|asked| asked.2).map(|asked| (asked.0, asked.1)).collect();
    let first = idle.first().expect("it has its turn");
    assert_eq!(*first, (at(TIMING.ttl), 1), "a ttl after the first lease's end: {idle:?}");
    let turns: Vec<u64> =
        idle.iter().map(|(_, nth)| *nth).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(turns, [1, 3, 5, 7], "every second lease lasts until its turn");
}

/// P2: it is idle, and its turn comes between two polls.
#[test]
fn p2_at_its_turn_of_suspects_an_idle_worker_asks_at_once() {
    let (mut rig, _) = at_work(options(1));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    rig.pass(ms(500));
    let mut effects = rig.tell(held(LEASE_2, at(secs(1_000))));
    let nothing = ClaimReply::Granted { grants: vec![], suspect_waits: true, next_after: None, open_lines: true };
    while let Some((id, claim)) = claims(&effects).pop() {
        assert!(!claim.idle);
        rig.tell(WorkerInput::Store(id, Ok(StoreReply::Claim(nothing.clone()))));
        if rig.now > at(secs(7)) {
            break;
        }
        effects = rig.pass(secs(1));
    }
    assert_eq!(rig.machine.poll_timeout(), Some(at(TIMING.ttl)), "half a second before its poll");
    assert!(claims(&rig.pass(ms(500)))[0].1.idle);
}
