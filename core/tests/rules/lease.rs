use std::collections::BTreeSet;

use fencepost_core::keeper::{Keeper, KeeperCommand, KeeperEffect, KeeperInput, KeeperOptions, LeaseEvent};
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::rules::lease::*;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

const STATES: [LeaseState; 4] = [LeaseState::Live, LeaseState::Dead, LeaseState::TakenOver, LeaseState::Dropped];

fn beats(effects: &[KeeperEffect]) -> Vec<RequestId> {
    let pick = |effect: &KeeperEffect| match effect {
        KeeperEffect::Liveness(id, LivenessRequest::Beat { .. }) => Some(*id),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

fn taken() -> Result<StoreReply, StoreFailure> {
    Ok(StoreReply::TakeLease(TakeLeaseReply::Taken))
}

#[test]
fn l_timings_that_contradict_are_refused() {
    assert_eq!(Timing::default().validate(), Ok(()));
    assert_eq!(Timing::from_ttl(Timing::TTL_MIN).validate(), Ok(()));
    assert_eq!(Timing::from_ttl(Timing::TTL_MAX).validate(), Ok(()));
    let refused = |timing: Timing| timing.validate().unwrap_err();
    let Timing { ttl, renew, .. } = TIMING;
    assert_eq!(refused(Timing { ttl: ms(199), ..TIMING }), TimingError::Ttl { ttl: ms(199) });
    assert!(matches!(refused(Timing { ttl: Timing::TTL_MAX + ms(1), ..TIMING }), TimingError::Ttl { .. }));
    let late = renew + ms(1);
    assert_eq!(refused(Timing { renew: late, ..TIMING }), TimingError::Renew { renew: late, ttl });
    assert!(matches!(refused(Timing { renew: ms(0), ..TIMING }), TimingError::Renew { .. }));
    assert!(matches!(refused(Timing { scan: ms(0), ..TIMING }), TimingError::Scan { .. }));
    assert!(matches!(refused(Timing { request_timeout: secs(5), ..TIMING }), TimingError::RequestTimeout { .. }));
    let text = refused(Timing { renew: late, ..TIMING }).to_string();
    assert!(text.contains("at most every 4s"), "{text}");
}

#[test]
fn l1_no_claim_without_a_live_lease() {
    assert_eq!(STATES.map(|state| l1_may_claim(Some(state))), [true, false, false, false]);
    assert!(!l1_may_claim(None));

    let mut rig = worker(options(1));
    assert_eq!(rig.tell(WorkerInput::Wake), []);
    assert_eq!(rig.pass(secs(100)), []);
    assert_eq!(claims(&rig.tell(held(LEASE, rig.now + secs(7))))[0].1.lease, LEASE);
}

#[test]
fn l1_lease_and_heartbeat_come_before_the_first_claim() {
    let (mut rig, effects) = keeper(false, true);
    let (id, lease) = takes(&effects)[0];
    assert!(beats(&effects).is_empty());
    let effects = rig.tell(KeeperInput::Store(id, taken()));
    assert!(told(&effects).is_empty(), "the worker does not hear of a lease without a heartbeat");
    let effects = rig.tell(KeeperInput::Liveness(beats(&effects)[0], Some(LivenessReply::Done)));
    assert!(matches!(told(&effects)[..], [LeaseEvent::Held { lease: held, .. }] if held == lease));
}

#[test]
fn l1_a_silent_second_witness_does_not_keep_a_worker_from_work() {
    let (mut rig, effects) = keeper(false, true);
    rig.tell(KeeperInput::Store(takes(&effects)[0].0, taken()));
    assert!(told(&rig.pass(ms(999))).is_empty());
    assert!(matches!(told(&rig.pass(ms(1)))[..], [LeaseEvent::Held { .. }]));
}

#[test]
fn l1_a_take_with_an_unknown_end_is_repeated_as_it_is() {
    let (mut rig, first) = keeper(false, false);
    let silent = rig.pass(secs(1));
    let failed = rig.tell(KeeperInput::Store(takes(&silent)[0].0, Err(StoreFailure::Unknown)));
    assert!(takes(&failed).is_empty());
    let third = rig.pass(secs(1));
    let request = |effects: &[KeeperEffect]| kept(effects)[0].1.clone();
    assert_eq!(request(&silent), request(&first));
    assert_eq!(request(&third), request(&first));
}

#[test]
fn l1_a_lease_that_ended_before_its_take_was_answered_is_not_used() {
    let (mut rig, effects) = keeper(false, false);
    let (id, lease) = takes(&effects)[0];
    let effects = rig.tell(KeeperInput::Store(id, Ok(StoreReply::TakeLease(TakeLeaseReply::Ended))));
    assert!(told(&effects).is_empty());
    assert_ne!(takes(&effects)[0].1, lease);
}

#[test]
fn l2_renewed_while_live_and_never_again() {
    assert_eq!(STATES.map(l2_renewable), [true, false, false, false]);
    assert_eq!(l2_retry_after(secs(8)), secs(1));
}

#[test]
fn l2_a_renewal_that_fails_is_tried_again_every_eighth() {
    let mut rig = keeping();
    let mut times = Vec::new();
    // Silence and failures alike.
    for round in 0..3 {
        let effects = rig.pass_timed(if round == 0 { secs(4) } else { secs(1) });
        let (asked_at, effect) = effects.last().unwrap();
        times.push(asked_at.since(at(secs(0))));
        let id = renewals(std::slice::from_ref(effect))[0];
        if round % 2 == 0 {
            rig.tell(KeeperInput::Store(id, Err(StoreFailure::NotDone)));
        }
    }
    assert_eq!(times, [secs(4), secs(5), secs(6)]);
    // Back to the interval with the first success.
    let id = renewals(&rig.pass(ms(999)))[..].first().copied();
    assert_eq!(id, None);
    rig.sleep(ms(1));
    let id = probed(&rig.pass(secs(0)));
    rig.tell(KeeperInput::Store(id[0], Err(StoreFailure::NotDone)));
    let id = probed(&rig.pass(secs(1)));
    let effects = rig.tell(KeeperInput::Store(id[0], shows(rig.now, vec![])));
    let id = renewals(&effects)[0];
    assert_eq!(told(&rig.tell(KeeperInput::Store(id, renewed()))).len(), 1);
    assert!(renewals(&rig.pass(ms(3_999))).is_empty());
    assert_eq!(renewals(&rig.pass(ms(1))).len(), 1);
}

fn probed(effects: &[KeeperEffect]) -> Vec<RequestId> {
    let pick = |(id, request)| (request == StoreRequest::Look).then_some(id);
    kept(effects).into_iter().filter_map(pick).collect()
}

/// Requests arrive, replies do not: without this the lease would be renewed for ever, and its lines with it.
#[test]
fn l2_past_its_licence_a_worker_that_hears_nothing_renews_nothing() {
    assert!(
        l2_may_ask(at(ms(6_999)), at(secs(0)), secs(8), false) && !l2_may_ask(at(secs(7)), at(secs(0)), secs(8), false)
    );
    assert!(l2_may_ask(at(secs(100)), at(secs(0)), secs(8), true));

    let mut rig = keeping();
    let effects = rig.pass_timed(secs(100));
    let last = |pick: fn(&[KeeperEffect]) -> Vec<RequestId>| {
        let of = effects.iter().filter(|(_, effect)| !pick(std::slice::from_ref(effect)).is_empty());
        of.map(|(asked_at, _)| asked_at.since(at(secs(0)))).collect::<Vec<_>>()
    };
    assert_eq!(last(renewals), [4, 5, 6].map(secs));
    assert_eq!(last(probed), (7..=100).map(secs).collect::<Vec<_>>());
    // The last look is answered, and those before it late: one renewal.
    let ids: Vec<_> = effects.into_iter().flat_map(|(_, effect)| probed(&[effect])).collect();
    let mut heard: Vec<_> =
        ids.iter().rev().map(|id| rig.tell(KeeperInput::Store(*id, shows(rig.now, vec![])))).collect();
    assert_eq!(heard.iter().map(|effects| renewals(effects).len()).sum::<usize>(), 1);
    // It is not heard of either: a look again.
    assert_eq!((renewals(&rig.pass(secs(1))).len(), renewals(&heard.remove(0)).len()), (0, 1));
    // A late answer to a renewal counts as hearing.
    let mut rig = keeping();
    let id = renewals(&rig.pass(secs(4)))[0];
    rig.sleep(secs(20));
    let effects = rig.tell(KeeperInput::Store(id, renewed()));
    assert_eq!((renewals(&effects).len(), probed(&effects).len()), (1, 0));
}

#[test]
fn l2_renewal_extends_both_witnesses() {
    let (mut rig, effects) = keeper(false, true);
    let effects = rig.tell(KeeperInput::Store(takes(&effects)[0].0, taken()));
    rig.tell(KeeperInput::Liveness(beats(&effects)[0], Some(LivenessReply::Done)));
    let effects = rig.pass(secs(4));
    assert_eq!((renewals(&effects).len(), beats(&effects).len()), (1, 1));
}

#[test]
fn l2_an_answer_to_an_earlier_try_counts_from_that_try() {
    let mut rig = keeping();
    let first = renewals(&rig.pass(secs(4)))[0];
    rig.pass(secs(2));
    let effects = rig.tell(KeeperInput::Store(first, renewed()));
    let licence_ends = at(secs(4)) + secs(7);
    assert!(matches!(told(&effects)[..], [LeaseEvent::Held { licence_ends: ends, .. }] if ends == licence_ends));
}

#[test]
fn l3_the_heartbeat_is_earned() {
    let reached = at(secs(0));
    assert!(l3_heartbeat_earned(at(ms(7_999)), reached, secs(8)));
    assert!(!l3_heartbeat_earned(at(secs(8)), reached, secs(8)));

    let (mut rig, effects) = keeper(false, true);
    let effects = rig.tell(KeeperInput::Store(takes(&effects)[0].0, taken()));
    rig.tell(KeeperInput::Liveness(beats(&effects)[0], Some(LivenessReply::Done)));
    // The store is silent from here on; the second witness answers.
    let (mut last_beat, mut last_look) = (None, None);
    for _ in 0..20 {
        let effects = rig.pass(secs(1));
        for id in beats(&effects) {
            last_beat = Some(rig.now);
            rig.tell(KeeperInput::Liveness(id, Some(LivenessReply::Done)));
        }
        if let Some(id) = probed(&effects).last() {
            last_look = Some((rig.now, *id));
        }
    }
    assert_eq!(last_beat, Some(at(secs(7))), "none at a ttl without the store");
    let (asked_at, id) = last_look.unwrap();
    assert_eq!(asked_at, at(secs(20)), "it goes on asking");
    let effects = rig.tell(KeeperInput::Store(id, shows(rig.now, vec![])));
    rig.tell(KeeperInput::Store(renewals(&effects)[0], renewed()));
    assert_eq!(beats(&rig.pass(secs(4))).len(), 1, "earned again");
}

#[test]
fn l4_the_licence_counts_from_when_the_renewal_was_sent() {
    assert_eq!(l4_licence_ends(at(secs(0)), secs(8)), at(secs(7)));
    let mut rig = keeping();
    let id = renewals(&rig.pass(secs(4)))[0];
    rig.pass(ms(500));
    let effects = rig.tell(KeeperInput::Store(id, renewed()));
    let licence_ends = at(secs(4 + 7));
    assert!(matches!(told(&effects)[..], [LeaseEvent::Held { licence_ends: ends, .. }] if ends == licence_ends));
}

#[test]
fn l4_a_take_counts_from_its_first_try_that_may_have_happened() {
    let (mut rig, _) = keeper(false, false);
    let id = takes(&rig.pass(secs(5))).last().unwrap().0;
    let effects = rig.tell(KeeperInput::Store(id, taken()));
    let licence_ends = at(secs(7));
    assert!(matches!(told(&effects)[..], [LeaseEvent::Held { licence_ends: ends, .. }] if ends == licence_ends));
    assert_eq!(renewals(&effects).len(), 1, "and its first renewal is due");
}

#[test]
fn l4_a_take_that_did_not_happen_does_not_count() {
    let (mut rig, effects) = keeper(false, false);
    rig.tell(KeeperInput::Store(takes(&effects)[0].0, Err(StoreFailure::NotDone)));
    let id = takes(&rig.pass(secs(1)))[0].0;
    let effects = rig.tell(KeeperInput::Store(id, taken()));
    let licence_ends = at(secs(1 + 7));
    assert!(matches!(told(&effects)[..], [LeaseEvent::Held { licence_ends: ends, .. }] if ends == licence_ends));
}

#[test]
fn l4_older_news_of_a_renewal_takes_nothing_back() {
    let mut rig = worker(options(1));
    let claim = claims(&rig.tell(held(LEASE, at(secs(20)))))[0].0;
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(1, 1..=1)]))));
    rig.tell(held(LEASE, at(secs(7))));
    assert!(cancels(&rig.pass(ms(19_999))).is_empty());
    assert_eq!(cancels(&rig.pass(ms(1))), [run(1, 1)]);
}

/// Two slots, four lines of token 1, a licence that ends after 7 s.
fn licensed_for_7_s() -> Rig<Worker> {
    let mut rig = worker(options(2));
    let effects = rig.tell(held(LEASE, at(secs(7))));
    let effects = rig.tell(WorkerInput::Store(claims(&effects)[0].0, Ok(granted(vec![grant(1, 1..=4)]))));
    assert_eq!(starts(&effects), [run(1, 1), run(2, 1)]);
    rig
}

#[test]
fn l4_the_licence_ends_cancels_and_gives_back_with_no_attempt() {
    let mut rig = licensed_for_7_s();
    assert!(cancels(&rig.pass(ms(6_999))).is_empty());
    let effects = rig.pass(ms(1));
    assert_eq!(cancels(&effects), [run(1, 1), run(2, 1)]);
    assert!(effects.contains(&WorkerEffect::Tell(WorkerEvent::Lapsed(LEASE))));
    // S2: what was not started goes back at once.
    let (id, lease, back) = give_backs(&effects)[0].clone();
    assert_eq!((lease, back), (LEASE, vec![(BATCH, Token(1), lines(3, 4))]));
    rig.tell(WorkerInput::Store(id, Ok(StoreReply::GiveBack)));
    // One had an answer in hand; the other is cancelled.
    let effects = rig.tell(success(run(1, 1)));
    assert!(starts(&effects).is_empty() && claims(&effects).is_empty());
    let effects = [effects, rig.tell(ended(run(2, 1), RunAnswer::Cancelled)), rig.pass(ms(10))].concat();
    let given_back: Vec<_> = give_backs(&effects).into_iter().map(|(_, lease, lines)| (lease, lines)).collect();
    assert_eq!(given_back, [(LEASE, vec![(BATCH, Token(1), lines(2, 2))])]);
    let offered: Vec<_> = records(&effects).into_iter().flat_map(|(_, record)| record.items).collect();
    assert_eq!(offered.len(), 1, "no attempt of line 2: {offered:?}");
    assert_eq!((offered[0].line, &offered[0].answer), (1, &Answer::Success("1".into())));
    assert!(starts(&effects).is_empty() && claims(&effects).is_empty());
    // Extended again, it claims anew.
    let effects = rig.tell(held(LEASE, at(secs(20))));
    assert!(starts(&effects).is_empty() && claims(&effects).len() == 1);
}

#[test]
fn l4_a_worker_that_slept_past_its_licence_notices_before_anything_else() {
    let mut rig = licensed_for_7_s();
    rig.sleep(secs(3_600));
    let effects = rig.tell(success(run(1, 1)));
    assert_eq!(effects[0], WorkerEffect::Tell(WorkerEvent::Lapsed(LEASE)));
    assert_eq!(cancels(&effects), [run(1, 1), run(2, 1)]);
    assert!(starts(&effects).is_empty(), "the slot that came free stays free");
}

#[test]
fn l4_a_run_that_ignores_its_cancel_is_given_up_and_its_line_given_back() {
    let mut rig = licensed_for_7_s();
    let unstarted = give_backs(&rig.pass(secs(7)))[0].0;
    rig.tell(WorkerInput::Store(unstarted, Ok(StoreReply::GiveBack)));
    let effects = rig.pass(secs(5));
    let abandoned: Vec<_> = effects.iter().filter(|effect| matches!(effect, WorkerEffect::Abandon(_))).collect();
    assert_eq!(abandoned, [&WorkerEffect::Abandon(run(1, 1)), &WorkerEffect::Abandon(run(2, 1))]);
    let back: LineSet = give_backs(&effects)
        .into_iter()
        .flat_map(|(_, _, lines)| lines)
        .flat_map(|(_, _, lines)| lines.iter().collect::<Vec<_>>())
        .collect();
    assert_eq!(back, lines(1, 2));
    assert!(records(&effects).is_empty());
}

#[test]
fn l5_renewal_depends_on_nothing_but_the_last_one() {
    assert_eq!(l5_next_renewal(at(secs(1)), secs(4)), at(secs(5)));
    let busy = |commands: bool| {
        let mut rig = keeping();
        let mut times = Vec::new();
        for _ in 0..40 {
            if commands {
                let running = vec![(BATCH, lines(1, 1_000))];
                assert_eq!(rig.tell(KeeperInput::Command(KeeperCommand::Running(running))), []);
            }
            for (asked_at, effect) in rig.pass_timed(ms(500)) {
                for id in renewals(&[effect]) {
                    times.push(asked_at.since(at(secs(0))));
                    rig.tell(KeeperInput::Store(id, renewed()));
                }
            }
        }
        times
    };
    assert_eq!(busy(true), [4, 8, 12, 16, 20].map(secs));
    assert_eq!(busy(true), busy(false));
}

#[test]
fn l6_a_refused_renewal_ends_the_lease_and_another_is_taken() {
    let mut rig = keeping();
    let lease = rig.machine.lease();
    let id = renewals(&rig.pass(secs(4)))[0];
    let effects = rig.tell(KeeperInput::Store(id, refused(false)));
    assert_eq!(told(&effects), [LeaseEvent::Ended { lease }]);
    let [(id, StoreRequest::WithdrawCrashes { lease: withdrawn })] = kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(withdrawn, lease);
    let effects = rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes)));
    let [(id, new)] = takes(&effects)[..] else { panic!("{effects:?}") };
    assert_ne!(new, lease);
    let effects = rig.tell(KeeperInput::Store(id, taken()));
    assert!(matches!(told(&effects)[..], [LeaseEvent::Held { lease, .. }] if lease == new));
    // It is the new one that is renewed.
    let [(_, StoreRequest::Renew { lease, .. })] = kept(&rig.pass(secs(4)))[..] else { panic!() };
    assert_eq!(lease, new);
}

#[test]
fn l6_the_dead_lease_s_runs_end_its_spans_are_forgotten_its_answers_still_offered() {
    let mut rig = licensed_for_7_s();
    rig.tell(success(run(1, 1)));
    // Line 1's answer waits, 2 and 3 run, 4 is not started.
    let effects = rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    assert_eq!(cancels(&effects), [run(2, 1), run(3, 1)]);
    assert!(effects.contains(&WorkerEffect::Tell(WorkerEvent::LeaseEnded(LEASE))));
    let mut all = effects;
    all.extend(rig.tell(held(LEASE_2, at(secs(100)))));
    assert!(claims(&all).is_empty(), "not while rows of the dead lease run");
    all.extend(rig.tell(ended(run(2, 1), RunAnswer::Cancelled)));
    all.extend(rig.tell(success(run(3, 1))));
    assert_eq!(claims(&all).len(), 1);
    assert_eq!((claims(&all)[0].1.lease, claims(&all)[0].1.number), (LEASE_2, 1));
    for _ in 0..3 {
        if let Some(group) = records(&all).last().cloned() {
            all.extend(recorded(&mut rig, &group));
        }
        all.extend(rig.pass(ms(10)));
    }
    let offered: BTreeSet<_> = records(&all)
        .into_iter()
        .flat_map(|(_, record)| record.items.into_iter().map(move |item| (record.lease, item.line, item.token)))
        .collect();
    assert_eq!(offered, BTreeSet::from([(LEASE, 1, Token(1)), (LEASE, 3, Token(1))]));
    assert!(give_backs(&all).is_empty(), "the lines are in other hands already");
    assert!(starts(&all).is_empty());
}

#[test]
fn l6_a_new_lease_is_used_at_once() {
    let (mut rig, effects) = at_work(options(1));
    rig.tell(WorkerInput::Store(claims(&effects)[0].0, Ok(StoreReply::Claim(ClaimReply::LeaseEnded))));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    assert_eq!(claims(&rig.tell(held(LEASE_2, at(secs(100)))))[0].1.lease, LEASE_2);
}

#[test]
fn l6_no_group_has_answers_of_two_leases() {
    let mut rig = licensed_for_7_s();
    // Lines 1 and 2 end one after the other: a group of one is under way, an answer waits.
    rig.tell(success(run(1, 1)));
    let first = records(&rig.pass(ms(2)))[0].clone();
    rig.tell(success(run(2, 1)));
    let ended_lease = WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE });
    for key in cancels(&rig.tell(ended_lease)) {
        rig.tell(ended(key, RunAnswer::Cancelled));
    }
    let claim = claims(&rig.tell(held(LEASE_2, at(secs(100)))))[0].0;
    rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(2, 9..=9)]))));
    rig.tell(success(run(9, 2)));
    let second = records(&recorded(&mut rig, &first))[0].clone();
    let third = records(&recorded(&mut rig, &second))[0].clone();
    let of = |record: &Record| (record.lease, record.items.iter().map(|item| item.line).collect::<Vec<_>>());
    assert_eq!((of(&second.1), of(&third.1)), ((LEASE, vec![2]), (LEASE_2, vec![9])));
}

#[test]
fn l6_an_old_run_s_answer_never_passes_for_a_new_one_s() {
    let mut rig = licensed_for_7_s();
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    rig.tell(ended(run(2, 1), RunAnswer::Cancelled));
    let claim = claims(&rig.tell(held(LEASE_2, at(secs(100)))))[0].0;
    let effects = rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(2, 1..=2)]))));
    assert_eq!(starts(&effects), [run(1, 2), run(2, 2)]);
    let effects = [rig.tell(success(run(1, 1))), rig.pass(ms(10))].concat();
    assert!(records(&effects).is_empty());
    assert_eq!(rig.machine.running(), 2);
    // What the worker claims under a new lease is offered under the new lease.
    let effects = [rig.tell(success(run(1, 2))), rig.pass(ms(10))].concat();
    let (_, record) = &records(&effects)[0];
    assert_eq!((record.lease, record.items[0].token), (LEASE_2, Token(2)));
}

#[test]
fn l6_a_give_back_of_a_dead_lease_is_forgotten() {
    let mut rig = licensed_for_7_s();
    assert_eq!(give_backs(&rig.pass(secs(7))).len(), 1);
    rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    rig.tell(ended(run(2, 1), RunAnswer::Cancelled));
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    assert!(give_backs(&rig.pass(secs(60))).is_empty());
}

#[test]
fn l6_a_dead_lease_s_run_has_nothing_to_give_back_whatever_else_it_is_told() {
    let mut rig = licensed_for_7_s();
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    let (licence_ends, closed) = (at(secs(100)), vec![BATCH]);
    let mut effects = rig.tell(WorkerInput::Lease(LeaseEvent::Held { lease: LEASE_2, licence_ends, closed }));
    effects.extend(rig.tell(ended(run(1, 1), RunAnswer::Cancelled)));
    effects.extend(rig.pass(secs(4)));
    assert!(give_backs(&effects).is_empty());
}

fn publications(effects: &[KeeperEffect]) -> Vec<(RequestId, Vec<(BatchId, LineSet)>)> {
    let pick = |effect: &KeeperEffect| match effect {
        KeeperEffect::Liveness(id, LivenessRequest::Publish { running, .. }) => Some((*id, running.clone())),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

/// A keeper with a second witness that holds its lease and has a heartbeat since the start.
fn keeping_with_heartbeat() -> Rig<Keeper> {
    let (mut rig, effects) = keeper(false, true);
    let effects = rig.tell(KeeperInput::Store(takes(&effects)[0].0, taken()));
    rig.tell(KeeperInput::Liveness(beats(&effects)[0], Some(LivenessReply::Done)));
    rig
}

fn running(line: u64) -> KeeperInput {
    KeeperInput::Command(KeeperCommand::Running(vec![(BatchId::from_random(1), LineSet::single(line))]))
}

fn only(line: u64) -> Vec<(BatchId, LineSet)> {
    vec![(BatchId::from_random(1), LineSet::single(line))]
}

#[test]
fn l3_running_rows_are_published_when_they_change_and_not_more_than_once_a_second() {
    let mut rig = keeping_with_heartbeat();
    // The first beat was at the start.
    assert_eq!(publications(&rig.tell(running(1))), []);
    assert_eq!(publications(&rig.pass(ms(999))), []);
    rig.tell(running(2));
    let effects = rig.pass(ms(1));
    let [(id, rows)] = &publications(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*rows, only(2), "the newest, in full");
    rig.tell(KeeperInput::Liveness(*id, Some(LivenessReply::Done)));
    assert_eq!(publications(&rig.tell(running(2))), []);
    assert_eq!(publications(&rig.pass(ms(1_500))), [], "nothing changed");
    let effects = rig.tell(running(3));
    assert_eq!(publications(&effects)[0].1, only(3), "at once: the last is more than a second ago");
}

#[test]
fn l3_a_beat_has_the_running_rows_in_full_and_waits_for_no_publication() {
    let mut rig = keeping_with_heartbeat();
    rig.pass(ms(3_400));
    assert_eq!(publications(&rig.tell(running(1))).len(), 1);
    rig.tell(running(2));
    // The publication is not answered yet; the renewal's beat goes out all the same, and takes the change along.
    let effects = rig.pass(ms(600));
    let beat = |effect: &KeeperEffect| match effect {
        KeeperEffect::Liveness(_, LivenessRequest::Beat { running, worker, .. }) => {
            Some((worker.clone(), running.clone()))
        }
        _ => None,
    };
    assert_eq!(effects.iter().find_map(beat), Some(("w".to_owned(), only(2))));
    rig.tell(KeeperInput::Liveness(beats(&effects)[0], Some(LivenessReply::Done)));
    assert_eq!(publications(&rig.pass(ms(900))), [], "the beat had it");
}

#[test]
fn l3_nothing_is_published_that_a_heartbeat_would_not_be_earned_for() {
    let mut rig = keeping_with_heartbeat();
    // The store is silent from the start; the second witness answers.
    while rig.now < at(ms(7_500)) {
        for id in beats(&rig.pass(ms(500))) {
            rig.tell(KeeperInput::Liveness(id, Some(LivenessReply::Done)));
        }
    }
    // The last beat was at 7 s: due at 8 s, a ttl after the store was reached.
    assert_eq!(publications(&rig.tell(running(1))), []);
    assert_eq!(publications(&rig.pass(ms(500))), []);
    assert!(rig.machine.poll_timeout() > Some(rig.now), "it does not spin");
    rig.tell(running(2));
    assert_eq!(publications(&rig.pass(secs(5))), []);
}

#[test]
fn l3_without_a_lease_or_a_witness_nothing_is_published() {
    let mut rig = keeping();
    assert_eq!(publications(&rig.tell(running(1))), []);
    assert_eq!(publications(&rig.pass(secs(3))), []);
    let (mut rig, _) = keeper(false, true);
    rig.tell(running(1));
    assert_eq!(publications(&rig.pass(secs(3))), [], "there is no lease yet");
}

/// With a ttl of a minute an unanswered beat or publication is given up after 7.5 s.
#[test]
fn l3_a_publication_waits_for_the_beat_or_the_publication_before_it() {
    let options = KeeperOptions {
        worker: "w".into(),
        stable_name: false,
        timing: Timing::default(),
        process: None,
        operations: vec!["op".into()],
        calls: Default::default(),
        liveness: true,
        seed: 1,
    };
    let now = at(secs(0));
    let mut rig = Rig { machine: Keeper::new(options, now), now };
    let effects = rig.pass(secs(0));
    let effects = rig.tell(KeeperInput::Store(takes(&effects)[0].0, taken()));
    let others = |id: RequestId| KeeperInput::Liveness(RequestId(id.0 + 1_000), Some(LivenessReply::Done));
    let done = |id: RequestId| KeeperInput::Liveness(id, Some(LivenessReply::Done));
    rig.tell(done(beats(&effects)[0]));

    let effects = rig.pass(secs(30));
    rig.tell(KeeperInput::Store(renewals(&effects)[0], renewed()));
    let beat = beats(&effects)[0];
    rig.tell(running(1));
    rig.tell(others(beat));
    assert_eq!(publications(&rig.pass(secs(7))), [], "the beat may still be on its way");
    let effects = rig.tell(done(beat));
    let [(first, _)] = publications(&effects)[..] else { panic!("{effects:?}") };
    rig.tell(running(2));
    rig.tell(others(first));
    assert_eq!(publications(&rig.pass(secs(7))), [], "so may the publication");
    assert_eq!(publications(&rig.pass(ms(499))), []);
    let effects = rig.pass(ms(1));
    assert_eq!(publications(&effects)[0].1, only(2), "it is given up");
}

/// However often it is told that its lease may have ended.
#[test]
fn l2_each_of_the_last_eight_tries_may_be_answered() {
    for (tries, counts) in [(8, true), (9, false)] {
        let mut rig = keeping();
        let renew_now = || KeeperInput::Command(KeeperCommand::RenewNow);
        let asked: Vec<_> = (0..tries).flat_map(|_| renewals(&rig.tell(renew_now()))).collect();
        assert_eq!(asked.len(), tries);
        let told = told(&rig.tell(KeeperInput::Store(asked[0], renewed())));
        assert_eq!(told.len() == 1, counts, "{tries} tries: {told:?}");
    }
}

/// What is answered to a request of before is not the answer to this one.
#[test]
fn l1_l6_s1_only_the_request_that_is_under_way_is_answered() {
    let stale = |id: RequestId| RequestId(id.0 + 1_000);
    // The first heartbeat.
    let (mut rig, effects) = keeper(false, true);
    let effects = rig.tell(KeeperInput::Store(takes(&effects)[0].0, taken()));
    let beat = beats(&effects)[0];
    assert_eq!(rig.tell(KeeperInput::Liveness(stale(beat), Some(LivenessReply::Done))), []);
    assert_eq!(told(&rig.tell(KeeperInput::Liveness(beat, Some(LivenessReply::Done)))).len(), 1);
    // Crashes that are taken back.
    let mut rig = keeping();
    let lease = rig.machine.lease();
    let id = renewals(&rig.pass(secs(4)))[0];
    let effects = rig.tell(KeeperInput::Store(id, refused(false)));
    let [(id, _)] = kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(rig.tell(KeeperInput::Store(stale(id), Ok(StoreReply::WithdrawCrashes))), []);
    assert_eq!(rig.machine.lease(), lease);
    assert_eq!(takes(&rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes)))).len(), 1);
    // A drop.
    let mut rig = keeping();
    let effects = rig.tell(KeeperInput::Command(KeeperCommand::Drop));
    let [(id, _)] = kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(rig.tell(KeeperInput::Store(stale(id), Ok(StoreReply::DropLease))), []);
}
