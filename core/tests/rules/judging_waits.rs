//! What a judge asks the second witness (R2), and in which order it acts on those that wait (R1, R4).

use fencepost_core::judge::{Judge, JudgeEffect, JudgeInput};
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::rules::recovery::{ProcessState, r3_still_fresh};
use fencepost_core::store::*;
use fencepost_core::*;

use crate::judging::{acted, checks, silent, watching};
use crate::rig::*;

/// A judge whose watch over [`LEASE`] is complete at 12 s; the check of its heartbeat.
pub fn asking_for_the_heartbeat() -> (Rig<Judge>, RequestId) {
    let (mut rig, first) = judge(true);
    let effects: Vec<_> = watch(&mut rig, first, secs(12), silent).into_iter().map(|(_, effect)| effect).collect();
    assert_eq!(acts(&effects), []);
    let check = checks(&effects)[0];
    let request = LivenessRequest::Check { leases: vec![LEASE], ttl_max: secs(8) };
    assert!(effects.contains(&JudgeEffect::Liveness(check, request)));
    (rig, check)
}

#[test]
fn r2_a_heartbeat_delays_and_only_one_that_can_be_vouched_for() {
    let reply = |vouches, alive| Some(LivenessReply::Check { vouches, alive });
    let replies = [
        (reply(true, vec![LEASE]), 0),
        (reply(true, vec![]), 1),
        (reply(true, vec![LEASE_2]), 1),
        (reply(false, vec![LEASE]), 1),
        (None, 1),
    ];
    for (reply, expected) in replies {
        let (mut rig, check) = asking_for_the_heartbeat();
        let effects = rig.tell(JudgeInput::Liveness(check, reply.clone()));
        assert_eq!(acts(&effects).len(), expected, "{reply:?}");
    }
    let (mut rig, check) = asking_for_the_heartbeat();
    assert_eq!(acts(&rig.pass(TIMING.request_timeout)).len(), 1, "a silent witness has no veto");
    assert_eq!(rig.tell(JudgeInput::Liveness(check, reply(true, vec![LEASE]))), []);
}

/// Asked one after the other, a silent witness would let the looks at all but the first two grow too old to act on.
#[test]
fn r4_a_silent_witness_is_waited_for_once_for_all_that_died_together() {
    let leases: Vec<LeaseId> = (1..=9).map(LeaseId::from_random).collect();
    let dead = |_| Some(leases.iter().map(|lease| view(*lease, at(secs(0)), 3)).collect());
    let (mut rig, first) = judge(true);
    let effects: Vec<_> = watch(&mut rig, first, secs(12), dead).into_iter().map(|(_, effect)| effect).collect();
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let request = LivenessRequest::Check { leases: leases.clone(), ttl_max: secs(8) };
    assert!(effects.contains(&JudgeEffect::Liveness(check, request)));
    let mut effects = rig.pass(TIMING.request_timeout);
    let mut recovered = Vec::new();
    while let [(act, ref recover)] = acts(&effects)[..] {
        assert_eq!(recover.seen_at, store_time(at(secs(12))));
        recovered.push(recover.lease);
        let reply = RecoverReply::Recovered { lines: 1, failed: 0 };
        effects = rig.tell(JudgeInput::Store(act, Ok(StoreReply::Recover(reply))));
        assert_eq!(checks(&effects), []);
    }
    assert_eq!(recovered, leases);
}

/// A known death needs no waiting, whatever else is asked about meanwhile; and it counts for more than silence.
#[test]
fn r1_a_known_death_does_not_wait_for_a_witness_that_is_asked_about_others() {
    let (mut rig, first) = judge(true);
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE_2, at(secs(0)), 3) };
    let seen = |_| Some(vec![view(LEASE, at(secs(0)), 3), ours.clone()]);
    let effects: Vec<_> = watch(&mut rig, first, secs(12), seen).into_iter().map(|(_, effect)| effect).collect();
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let effects = rig.tell(JudgeInput::Process(LEASE_2, ProcessState::Gone));
    let [(act, recover)] = &acts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((recover.lease, recover.cause), (LEASE_2, EndCause::Died));
    let recovered = RecoverReply::Recovered { lines: 1, failed: 0 };
    assert_eq!(acts(&rig.tell(JudgeInput::Store(*act, Ok(StoreReply::Recover(recovered))))), []);
    let effects = rig.tell(JudgeInput::Liveness(check, None));
    let [(_, recover)] = &acts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(recover.lease, LEASE, "the other is recovered already");
}

/// Those whose question is yet to come are neither forgotten with a known death nor asked about for it.
#[test]
fn r1_a_known_death_leaves_the_others_to_their_question() {
    let (mut rig, first) = judge(true);
    let lease_3 = LeaseId::from_random(3);
    let slow = |lease| LeaseView { ttl: secs(9), expires_at: store_time(at(secs(8))), ..view(lease, at(secs(0)), 3) };
    let ours = LeaseView { process: Some(identity(5)), ..slow(lease_3) };
    let dead = |_| Some(vec![view(LEASE, at(secs(0)), 3), slow(LEASE_2), ours.clone()]);
    let effects: Vec<_> = watch(&mut rig, first, secs(12), dead).into_iter().map(|(_, effect)| effect).collect();
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let effects = rig.tell(JudgeInput::Process(lease_3, ProcessState::Gone));
    let [(act, recover)] = &acts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((recover.lease, recover.cause), (lease_3, EndCause::Died));
    let recovered = RecoverReply::Recovered { lines: 1, failed: 0 };
    rig.tell(JudgeInput::Store(*act, Ok(StoreReply::Recover(recovered))));
    let vouched = Some(LivenessReply::Check { vouches: true, alive: vec![LEASE] });
    let effects = rig.tell(JudgeInput::Liveness(check, vouched));
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let request = LivenessRequest::Check { leases: vec![LEASE_2], ttl_max: secs(9) };
    assert_eq!(effects, [JudgeEffect::Liveness(check, request)]);
}

/// Acts of silence may wait for many others before them.
#[test]
fn r1_a_known_death_is_acted_on_before_those_that_are_silent() {
    let (mut rig, first) = watching();
    let leases: Vec<LeaseId> = (1..=4).map(LeaseId::from_random).collect();
    let seen = |now| {
        let mut seen: Vec<LeaseView> = leases.iter().map(|lease| view(*lease, at(secs(0)), 3)).collect();
        seen[3] = LeaseView { process: Some(identity(5)), ..view(leases[3], now, 3) };
        Some(seen)
    };
    let effects: Vec<_> = watch(&mut rig, first, secs(12), seen).into_iter().map(|(_, effect)| effect).collect();
    let [(act, _)] = acts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(acts(&rig.tell(JudgeInput::Process(leases[3], ProcessState::Gone))), []);
    let recovered = RecoverReply::Recovered { lines: 1, failed: 0 };
    let effects = rig.tell(JudgeInput::Store(act, Ok(StoreReply::Recover(recovered))));
    let next: Vec<_> = acts(&effects).into_iter().map(|(_, recover)| (recover.lease, recover.cause)).collect();
    assert_eq!(next, [(leases[3], EndCause::Died)]);
}

/// R2: what the second witness allowed was about the count that was seen then.
#[test]
fn r2_who_was_renewed_while_its_act_waited_is_asked_about_anew() {
    let leases: Vec<LeaseId> = (1..=10).map(LeaseId::from_random).collect();
    let last = leases[9];
    let (mut rig, first) = judge(true);
    let mut left = leases.clone();
    let seen = |left: &[LeaseId], now| {
        let renewed = at(ms(12_500));
        let view_of = |lease: &LeaseId| match *lease == last && now >= renewed {
            true => view(last, renewed, 4),
            false => view(*lease, at(secs(0)), 3),
        };
        Some(left.iter().map(view_of).collect())
    };
    let effects: Vec<_> =
        watch(&mut rig, first, secs(12), |now| seen(&left, now)).into_iter().map(|(_, effect)| effect).collect();
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let mut pending = rig.tell(JudgeInput::Liveness(check, None));
    let mut asked_anew = 0;
    while let Some((act, recover)) = acts(&pending).last().cloned() {
        assert_ne!(recover.lease, last);
        // Each takes a while, so that the last one is silent for long enough a second time before its turn.
        for _ in 0..6 {
            for (_, effect) in watch(&mut rig, std::mem::take(&mut pending), ms(250), |now| seen(&left, now)) {
                let JudgeEffect::Liveness(check, LivenessRequest::Check { leases, .. }) = effect else { continue };
                assert_eq!(leases, [last]);
                asked_anew += 1;
                let alive = Some(LivenessReply::Check { vouches: true, alive: vec![last] });
                pending.extend(rig.tell(JudgeInput::Liveness(check, alive)));
            }
        }
        left.retain(|lease| *lease != recover.lease);
        let reply = RecoverReply::Recovered { lines: 1, failed: 0 };
        pending.extend(rig.tell(JudgeInput::Store(act, Ok(StoreReply::Recover(reply)))));
    }
    assert_eq!(left, [last]);
    assert!(asked_anew > 0);
}

/// While acts wait for their turn looks go on, and the newest counts: none grows too old.
#[test]
fn r4_acts_that_wait_for_their_turn_stay_fresh() {
    let leases: Vec<LeaseId> = (1..=40).map(LeaseId::from_random).collect();
    let mut left = leases.clone();
    let (mut rig, first) = judge(true);
    let dead = |left: &[LeaseId]| Some(left.iter().map(|lease| view(*lease, at(secs(0)), 3)).collect());
    let effects: Vec<_> =
        watch(&mut rig, first, secs(12), |_| dead(&left)).into_iter().map(|(_, effect)| effect).collect();
    assert_eq!(checks(&effects).len(), 1);
    let mut pending = rig.pass(TIMING.request_timeout);
    let mut asked_again = 0;
    while let Some((act, recover)) = acts(&pending).last().cloned() {
        assert!(r3_still_fresh(EndCause::Lapsed, recover.seen_at, store_time(rig.now), TIMING.renew), "{}", left.len());
        // Each takes a while.
        let during = watch(&mut rig, pending, ms(100), |_| dead(&left));
        left.retain(|lease| *lease != recover.lease);
        let during: Vec<_> = during.into_iter().map(|(_, effect)| effect).collect();
        asked_again += checks(&during).len();
        let reply = RecoverReply::Recovered { lines: 1, failed: 0 };
        pending = rig.tell(JudgeInput::Store(act, Ok(StoreReply::Recover(reply))));
    }
    assert_eq!((left, asked_again), (vec![], 0));
}

/// An act that was held up until its look was old is repeated after the next look: the watch goes on.
#[test]
fn r4_an_act_that_was_spared_is_decided_by_the_next_look() {
    let acts_again = |renewals| {
        let (mut rig, check) = asking_for_the_heartbeat();
        let (act, recover) = acts(&rig.tell(JudgeInput::Liveness(check, None)))[0].clone();
        let effects = rig.tell(JudgeInput::Store(act, Ok(StoreReply::Recover(RecoverReply::Spared))));
        assert_eq!((acts(&effects), recover.renewals), (vec![], 3));
        acted(&watch(&mut rig, effects, secs(2), |_| Some(vec![view(LEASE, at(secs(0)), renewals)])))
    };
    assert_eq!(acts_again(3).first().map(|(_, cause, renewals)| (*cause, *renewals)), Some((EndCause::Lapsed, 3)));
    assert_eq!(acts_again(4), [], "it was renewed");
}

/// A young witness vouches for those with short ttls, and a question names one.
#[test]
fn r2_leases_with_other_timings_are_asked_for_by_themselves() {
    let (mut rig, first) = judge(true);
    let slow = LeaseView { ttl: secs(9), expires_at: store_time(at(secs(8))), ..view(LEASE_2, at(secs(0)), 3) };
    let dead = |_| Some(vec![view(LEASE, at(secs(0)), 3), slow.clone()]);
    let effects: Vec<_> = watch(&mut rig, first, secs(12), dead).into_iter().map(|(_, effect)| effect).collect();
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let request = LivenessRequest::Check { leases: vec![LEASE], ttl_max: secs(8) };
    assert!(effects.contains(&JudgeEffect::Liveness(check, request)));
    let vouched = Some(LivenessReply::Check { vouches: true, alive: vec![LEASE] });
    let effects = rig.tell(JudgeInput::Liveness(check, vouched));
    let [check] = checks(&effects)[..] else { panic!("{effects:?}") };
    let request = LivenessRequest::Check { leases: vec![LEASE_2], ttl_max: secs(9) };
    assert_eq!(effects, [JudgeEffect::Liveness(check, request)]);
}

#[test]
fn r2_no_heartbeat_puts_recovery_off_for_ever() {
    let (mut rig, check) = asking_for_the_heartbeat();
    let present = || Some(LivenessReply::Check { vouches: true, alive: vec![LEASE] });
    let mut pending = rig.tell(JudgeInput::Liveness(check, present()));
    let mut first_act = None;
    while first_act.is_none() && rig.now < at(secs(60)) {
        let effects = watch(&mut rig, std::mem::take(&mut pending), secs(1), silent);
        first_act = acted(&effects).first().copied();
        for check in effects.iter().flat_map(|(_, effect)| checks(std::slice::from_ref(effect))) {
            pending.extend(rig.tell(JudgeInput::Liveness(check, present())));
        }
        first_act = first_act.or(acts(&pending).first().map(|_| (rig.now.since(at(secs(0))), EndCause::Lapsed, 3)));
    }
    assert_eq!(first_act.map(|(when, ..)| when), Some(secs(16)), "a whole ttl past its time");
}
