use fencepost_core::keeper::{Keeper, KeeperEffect, KeeperInput, LeaseEvent};
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

const HOLDER: LeaseId = LeaseId::from_random(99);

fn holder(now: Instant, renewals: u64, process: Option<ProcessIdentity>) -> Result<StoreReply, StoreFailure> {
    // Its last renewal was at the start of the test.
    let holder = LeaseView { process, ..view(HOLDER, at(secs(0)), renewals) };
    Ok(StoreReply::TakeLease(TakeLeaseReply::NameHeld { holder, now: store_time(now) }))
}

fn acts(effects: &[KeeperEffect]) -> Vec<(RequestId, Recover)> {
    let pick = |(id, request)| match request {
        StoreRequest::Recover(recover) => Some((id, recover)),
        _ => None,
    };
    kept(effects).into_iter().filter_map(pick).collect()
}

fn checks(effects: &[KeeperEffect]) -> Vec<RequestId> {
    let pick = |effect: &KeeperEffect| match effect {
        KeeperEffect::Liveness(id, LivenessRequest::Check { .. }) => Some(*id),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

/// Answers takes with [`holder`] until the keeper asks for something else, or for so long.
fn look_at_holder(
    rig: &mut Rig<Keeper>,
    mut effects: Vec<KeeperEffect>,
    time: std::time::Duration,
    renewals: impl Fn(Instant) -> u64,
) -> Vec<KeeperEffect> {
    let end = rig.now + time;
    loop {
        while let [(id, _)] = takes(&effects)[..] {
            effects = rig.tell(KeeperInput::Store(id, holder(rig.now, renewals(rig.now), None)));
        }
        if !effects.is_empty() {
            return effects;
        }
        let Some(next) = rig.machine.poll_timeout().filter(|next| *next <= end) else {
            rig.now = end;
            return effects;
        };
        effects = rig.pass(next.since(rig.now));
    }
}

#[test]
fn r5_a_dead_predecessor_is_taken_over_at_once() {
    let (mut rig, effects) = keeper(true, true);
    let (id, lease) = takes(&effects)[0];
    let effects = rig.tell(KeeperInput::Store(id, holder(rig.now, 3, Some(identity(5)))));
    assert_eq!(effects, [KeeperEffect::CheckProcess(HOLDER, identity(5))]);
    rig.tell(KeeperInput::Process(HOLDER, ProcessState::Gone));
    let (id, _) = takes(&rig.pass(ms(100)))[0];
    let effects = rig.tell(KeeperInput::Store(id, holder(rig.now, 3, Some(identity(5)))));
    let (act, recover) = acts(&effects)[0].clone();
    assert_eq!(
        recover,
        Recover { lease: HOLDER, renewals: 3, seen_at: store_time(rig.now), cause: EndCause::Died, judge: None }
    );
    let recovered = RecoverReply::Recovered { lines: 0, failed: 0 };
    let effects = rig.tell(KeeperInput::Store(act, Ok(StoreReply::Recover(recovered))));
    assert_eq!(takes(&effects)[0].1, lease);
}

#[test]
fn r5_a_silent_predecessor_is_taken_over_after_a_second_look() {
    let (mut rig, effects) = keeper(true, false);
    let effects = look_at_holder(&mut rig, effects, secs(60), |_| 3);
    assert_eq!(rig.now, at(secs(8)), "past its time, and watched for 7 s");
    let expected =
        Recover { lease: HOLDER, renewals: 3, seen_at: store_time(rig.now), cause: EndCause::TakenOver, judge: None };
    assert_eq!(acts(&effects)[0].1, expected);

    let (mut rig, effects) = keeper(true, false);
    let id = takes(&effects)[0].0;
    rig.sleep(secs(1_000));
    // The first take was long ago; its successor finds a lease long past its time, and watches it all the same.
    rig.tell(KeeperInput::Store(id, Err(StoreFailure::NotDone)));
    let effects = rig.pass(secs(1));
    look_at_holder(&mut rig, effects, secs(60), |_| 3);
    assert_eq!(rig.now, at(secs(1_001 + 7)));
}

#[test]
fn r5_a_failed_look_starts_the_watch_again() {
    let (mut rig, effects) = keeper(true, false);
    let mut effects = look_at_holder(&mut rig, effects, ms(7_500), |_| 3);
    while takes(&effects).is_empty() {
        effects = rig.pass(ms(500));
    }
    let failed_at = rig.now;
    rig.tell(KeeperInput::Store(takes(&effects)[0].0, Err(StoreFailure::NotDone)));
    let effects = rig.pass(secs(1));
    let effects = look_at_holder(&mut rig, effects, secs(60), |_| 3);
    assert_eq!(acts(&effects).len(), 1);
    assert_eq!(rig.now, failed_at + secs(1 + 7));
}

#[test]
fn r5_a_heartbeat_delays_a_takeover_and_silence_does_not() {
    let (mut rig, effects) = keeper(true, true);
    let effects = look_at_holder(&mut rig, effects, secs(60), |_| 3);
    let present = Some(LivenessReply::Check { vouches: true, alive: vec![HOLDER] });
    assert!(acts(&rig.tell(KeeperInput::Liveness(checks(&effects)[0], present))).is_empty());
    // Still silent at the next look; this time the second witness says nothing at all.
    let effects = look_at_holder(&mut rig, vec![], secs(60), |_| 3);
    assert_eq!(checks(&effects).len(), 1);
    let effects = rig.pass(secs(1));
    assert_eq!(acts(&effects)[0].1.cause, EndCause::TakenOver);
}

#[test]
fn r5_a_name_whose_holder_renews_is_in_use() {
    let (mut rig, effects) = keeper(true, false);
    let effects = look_at_holder(&mut rig, effects, secs(60), |now| now.since(at(secs(0))).as_secs() / 4);
    assert_eq!(rig.now, at(secs(4)));
    assert_eq!(told(&effects), [LeaseEvent::NameInUse { worker: "w".into() }]);
    assert!(rig.machine.is_gone() && rig.pass(secs(100)).is_empty());
}

#[test]
fn r5_a_takeover_that_was_spared_or_is_unknown_is_decided_by_the_next_take() {
    for reply in [Ok(StoreReply::Recover(RecoverReply::Spared)), Err(StoreFailure::Unknown)] {
        let (mut rig, effects) = keeper(true, false);
        let effects = look_at_holder(&mut rig, effects, secs(60), |_| 3);
        let act = acts(&effects)[0].0;
        let effects = [rig.tell(KeeperInput::Store(act, reply)), rig.pass(secs(1))].concat();
        assert!(acts(&effects).is_empty());
        let (id, _) = *takes(&effects).last().unwrap();
        let effects = rig.tell(KeeperInput::Store(id, Ok(StoreReply::TakeLease(TakeLeaseReply::Taken))));
        assert!(matches!(told(&effects)[0], LeaseEvent::Held { .. }));
    }
}

#[test]
fn r5_who_was_taken_over_leaves_and_takes_no_other_lease() {
    let mut rig = keeping();
    let lease = rig.machine.lease();
    let id = renewals(&rig.pass(secs(4)))[0];
    let mut effects = rig.tell(KeeperInput::Store(id, refused(true)));
    let [(id, _)] = kept(&effects)[..] else { panic!("{effects:?}") };
    effects.extend(rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes))));
    effects.extend(rig.pass(secs(100)));
    assert_eq!(told(&effects), [LeaseEvent::Ended { lease }, LeaseEvent::NameInUse { worker: "w".into() }]);
    assert!(takes(&effects).is_empty() && rig.machine.is_gone());

    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=3)]);
    let effects = rig.tell(WorkerInput::Lease(LeaseEvent::NameInUse { worker: "w".into() }));
    assert!(effects.contains(&WorkerEffect::Cancel(run(1, 1))) && exits(&effects).is_empty());
    // L6: what is in hand is still offered; then it leaves, and drops no lease that is not its own.
    let effects = rig.tell(success(run(1, 1)));
    let (id, record) = records(&effects)[0].clone();
    assert_eq!(record.items.len(), 1);
    let effects = rig.tell(WorkerInput::Store(id, Ok(StoreReply::Record(vec![Verdict::Fenced]))));
    assert_eq!((exits(&effects), drops(&effects)), (vec![ExitReason::NameInUse("w".into())], 0));
}

/// Two looks at two leases are no second look.
#[test]
fn r5_a_name_that_changed_hands_is_watched_anew() {
    let (mut rig, effects) = keeper(true, false);
    let effects = look_at_holder(&mut rig, effects, ms(7_500), |_| 3);
    assert_eq!(effects, []);
    let other = |now: Instant| {
        let holder = LeaseView { lease: LEASE_2, ..view(LEASE_2, at(secs(0)), 3) };
        KeeperInput::Store(
            RequestId(0),
            Ok(StoreReply::TakeLease(TakeLeaseReply::NameHeld { holder, now: store_time(now) })),
        )
    };
    let mut seen_at = None;
    let effects = loop {
        let effects = rig.pass(ms(250));
        let Some((id, _)) = takes(&effects).first().copied() else {
            if acts(&effects).is_empty() { continue } else { break effects }
        };
        seen_at.get_or_insert(rig.now);
        let KeeperInput::Store(_, reply) = other(rig.now) else { unreachable!() };
        let effects = rig.tell(KeeperInput::Store(id, reply));
        if !acts(&effects).is_empty() {
            break effects;
        }
        assert!(told(&effects).is_empty(), "{effects:?}");
    };
    assert_eq!(acts(&effects)[0].1.lease, LEASE_2);
    assert!(rig.now >= seen_at.unwrap() + secs(7), "{:?} {seen_at:?}", rig.now);
}

/// Only the answer about this heartbeat counts, and no other take is sent while the act is under way, however often its holder is looked at.
#[test]
fn r5_a_takeover_waits_for_its_own_answers() {
    let (mut rig, mut effects) = keeper(true, true);
    while checks(&effects).is_empty() {
        effects = match takes(&effects).first() {
            Some((id, _)) => {
                let holder = LeaseView { renew: ms(400), ..view(HOLDER, at(secs(0)), 3) };
                let reply = TakeLeaseReply::NameHeld { holder, now: store_time(rig.now) };
                rig.tell(KeeperInput::Store(*id, Ok(StoreReply::TakeLease(reply))))
            }
            None => rig.pass(ms(50)),
        };
        assert!(rig.now < at(secs(60)), "it never asks");
    }
    let check = checks(&effects)[0];
    let absent = || Some(LivenessReply::Check { vouches: true, alive: vec![] });
    assert_eq!(rig.tell(KeeperInput::Liveness(RequestId(check.0 + 1_000), absent())), []);
    assert_eq!(acts(&rig.tell(KeeperInput::Liveness(check, absent()))).len(), 1);
    assert_eq!(rig.pass(ms(900)), [], "nothing else is asked for before the act is answered");
}
