use std::time::Duration;

use fencepost_core::judge::{Judge, JudgeEffect, JudgeEvent, JudgeInput, JudgeOptions};
use fencepost_core::liveness::LivenessRequest;
use fencepost_core::rules::outcome::BACKOFF_MAX;
use fencepost_core::rules::recovery::{ProcessState, r4_bound};
use fencepost_core::store::*;
use fencepost_core::*;

use crate::judging_waits::asking_for_the_heartbeat;
use crate::rig::*;

/// When the judge acted, why, and at which count.
pub fn acted(effects: &[(Instant, JudgeEffect)]) -> Vec<(Duration, EndCause, u64)> {
    let mut all = Vec::new();
    for (acted_at, effect) in effects {
        for (_, act) in acts(std::slice::from_ref(effect)) {
            all.push((acted_at.since(at(secs(0))), act.cause, act.renewals));
        }
    }
    all
}

pub fn checks(effects: &[JudgeEffect]) -> Vec<RequestId> {
    let pick = |effect: &JudgeEffect| match effect {
        JudgeEffect::Liveness(id, LivenessRequest::Check { .. }) => Some(*id),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

pub fn silent(now: Instant) -> Option<Vec<LeaseView>> {
    let _ = now;
    Some(vec![view(LEASE, at(secs(0)), 3)])
}

/// A judge without a second witness, and its first look.
pub fn watching() -> (Rig<Judge>, Vec<JudgeEffect>) {
    judge(false)
}

#[test]
fn r1_a_process_of_this_machine_that_is_gone_is_acted_on_at_once() {
    let (mut rig, effects) = watching();
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), 3) };
    let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![ours])));
    assert_eq!(effects, [JudgeEffect::CheckProcess(LEASE, identity(5))]);
    assert_eq!(rig.tell(JudgeInput::Process(LEASE, ProcessState::Running)), []);
    assert_eq!(rig.tell(JudgeInput::Process(LEASE, ProcessState::Unknown)), []);
    // Between looks it asks again, without the store.
    assert_eq!(rig.pass(secs(1)), [JudgeEffect::CheckProcess(LEASE, identity(5))]);
    let effects = rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone));
    let expected =
        Recover { lease: LEASE, renewals: 3, seen_at: StoreTime::default(), cause: EndCause::Died, judge: None };
    assert_eq!(acts(&effects)[0].1, expected);
}

/// Its process may be of this machine, and die long before the next scan.
#[test]
fn r1_a_lease_taken_by_another_is_looked_at_soon_and_not_more_than_once_a_second() {
    let (mut rig, effects) = watching();
    // While the first look is under way.
    assert_eq!(rig.tell(JudgeInput::LeasesTaken), []);
    rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![])));
    assert_eq!(looks(&rig.pass(ms(900))), []);
    let look = looks(&rig.pass(ms(200)));
    rig.tell(JudgeInput::Store(look[0], shows(rig.now, vec![])));
    // Between looks.
    rig.pass(secs(5));
    let told: Vec<_> = (0..10).flat_map(|_| rig.tell(JudgeInput::LeasesTaken)).collect();
    let [look] = looks(&told)[..] else { panic!("one look: {told:?}") };
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(6)), 0) };
    let effects = rig.tell(JudgeInput::Store(look, shows(rig.now, vec![ours])));
    assert_eq!(effects, [JudgeEffect::CheckProcess(LEASE, identity(5))]);
    assert_eq!(looks(&rig.tell(JudgeInput::LeasesTaken)), [], "there was a look just now");
    assert_eq!(acts(&rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone))).len(), 1);
}

#[test]
fn r1_a_lease_that_is_over_is_not_acted_on() {
    let (mut rig, effects) = watching();
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), 3) };
    rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![ours])));
    let look = looks(&rig.tell(JudgeInput::ProcessEnded(identity(9))))[0];
    rig.tell(JudgeInput::Store(look, shows(rig.now, vec![])));
    assert!(acts(&rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone))).is_empty());
}

#[test]
fn r1_processes_of_other_machines_are_not_looked_up() {
    let (mut rig, effects) = watching();
    let process = ProcessIdentity { machine: "there".into(), ..identity(5) };
    let theirs = LeaseView { process: Some(process), ..view(LEASE, at(secs(0)), 3) };
    assert_eq!(rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![theirs]))), []);
    assert_eq!(rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone)), []);
}

#[test]
fn r1_a_supervisor_s_report_is_acted_on_at_once_and_names_the_process() {
    let (mut rig, effects) = watching();
    let process = |pid| Some(ProcessIdentity { machine: "there".into(), ..identity(pid) });
    let leases = |now| {
        let dead = LeaseView { process: process(5), ..view(LEASE, now, 3) };
        vec![dead, LeaseView { process: process(6), ..view(LEASE_2, now, 9) }]
    };
    rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, leases(rig.now))));
    rig.pass(secs(1));
    let report = JudgeInput::ProcessEnded(process(5).unwrap());
    let effects = rig.tell(report.clone());
    let look = looks(&effects)[0];
    assert!(looks(&rig.tell(report)).is_empty(), "repeated, it changes nothing");
    let effects = rig.tell(JudgeInput::Store(look, shows(rig.now, leases(rig.now))));
    let acts: Vec<_> = acts(&effects).into_iter().map(|(_, act)| (act.lease, act.cause)).collect();
    assert_eq!(acts, [(LEASE, EndCause::Died)]);
}

#[test]
fn r1_a_report_while_a_look_is_under_way_is_looked_into_at_once() {
    let (mut rig, effects) = watching();
    assert!(looks(&rig.tell(JudgeInput::ProcessEnded(identity(5)))).is_empty());
    // This look was answered before the dead process took its lease.
    let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![])));
    assert_eq!(looks(&effects).len(), 1, "{effects:?}");
}

#[test]
fn r1_a_known_death_that_was_spared_or_failed_is_tried_again_soon() {
    for reply in [Ok(StoreReply::Recover(RecoverReply::Spared)), Err(StoreFailure::Unknown), Err(StoreFailure::NotDone)]
    {
        let (mut rig, effects) = watching();
        rig.tell(JudgeInput::ProcessEnded(identity(5)));
        let lease = |renewals| LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), renewals) };
        let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![lease(3)])));
        let again = |effects: &[JudgeEffect]| looks(effects).first().copied();
        let mut effects = match again(&effects) {
            Some(look) => [effects, rig.tell(JudgeInput::Store(look, shows(rig.now, vec![lease(3)])))].concat(),
            None => effects,
        };
        let (act, _) = acts(&effects)[0].clone();
        effects = [rig.tell(JudgeInput::Store(act, reply)), rig.pass(secs(1))].concat();
        let look = again(&effects).unwrap();
        let effects = rig.tell(JudgeInput::Store(look, shows(rig.now, vec![lease(4)])));
        assert_eq!(acts(&effects)[0].1.renewals, 4, "the renewal that was still on its way");
    }
}

#[test]
fn r1_a_known_death_does_not_wait_for_a_heartbeat() {
    let (mut rig, effects) = judge(true);
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), 3) };
    rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![ours])));
    let effects = rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone));
    assert_eq!((acts(&effects).len(), checks(&effects).len()), (1, 0));
}

#[test]
fn r2_acts_once_past_its_time_and_long_enough_unchanged() {
    let (mut rig, first) = watching();
    let effects = watch(&mut rig, first, secs(12), silent);
    // Late at 5 s, past its time at 8 s, watched for 7 s.
    assert_eq!(acted(&effects)[0], (secs(12), EndCause::Lapsed, 3));
    let when: Vec<_> = effects.iter().filter(|(_, effect)| !looks(std::slice::from_ref(effect)).is_empty()).collect();
    assert!(when.len() >= 4, "it looked several times: {when:?}");
}

#[test]
fn r2_never_before_its_time() {
    // Renewed so often that it was watched for long enough well before its ttl is over.
    let (mut rig, first) = watching();
    let lease = LeaseView { renew: secs(1), ..view(LEASE, at(secs(0)), 3) };
    let effects = watch(&mut rig, first, secs(10), |_| Some(vec![lease.clone()]));
    assert_eq!(acted(&effects)[0], (secs(8), EndCause::Lapsed, 3));
}

#[test]
fn r2_a_lease_that_a_look_did_not_show_starts_again() {
    let (mut rig, first) = watching();
    // The other lease is acted on at 12 s; this one would be at 14 s, when that act has timed out, and not at 9 + 7 s.
    let effects = watch(&mut rig, first, secs(14), |now| {
        let mut leases = vec![view(LEASE_2, at(secs(0)), 5)];
        if now.since(at(secs(0))) != secs(8) {
            leases.push(view(LEASE, at(secs(0)), 3));
        }
        Some(leases)
    });
    assert_eq!(acted(&effects)[0], (secs(12), EndCause::Lapsed, 5));
    assert!(acted(&effects).iter().all(|(_, _, renewals)| *renewals == 5), "{:?}", acted(&effects));
}

#[test]
fn r2_a_newcomer_takes_its_second_look_first() {
    let (mut rig, _) = watching();
    // The lease is long past its time when the judge first sees it.
    rig.sleep(secs(1_000));
    let first = rig.pass(secs(0));
    let effects = watch(&mut rig, first, secs(20), silent);
    assert_eq!(acted(&effects)[0], (secs(1_007), EndCause::Lapsed, 3));
}

#[test]
fn r2_a_stepped_store_clock_is_not_death() {
    let (mut rig, first) = watching();
    // The store's clock is an hour ahead of every lease, and the worker goes on renewing.
    let effects = watch(&mut rig, first, secs(600), |now| {
        let renewals = now.since(at(secs(0))).as_secs() / 4;
        let mut lease = view(LEASE, at(secs(0)), renewals);
        lease.expires_at = store_time(now - secs(3_600));
        Some(vec![lease])
    });
    assert_eq!(acted(&effects), []);
}

#[test]
fn r2_a_failed_look_starts_the_count_again() {
    let outages = [secs(7)..secs(8), secs(7)..secs(14)];
    for outage in outages {
        let (mut rig, first) = watching();
        let effects = watch(&mut rig, first, secs(60), |now| {
            let away = outage.contains(&now.since(at(secs(0))));
            if away { None } else { silent(now) }
        });
        let (first_act, ..) = acted(&effects)[0];
        let watched = first_act.saturating_sub(outage.end);
        assert!(watched >= secs(7), "acted at {first_act:?}, away in {outage:?}");
        assert!(watched <= secs(9), "acted at {first_act:?}, away in {outage:?}");
    }
}

#[test]
fn r2_a_silent_look_starts_the_count_again() {
    let (mut rig, first) = watching();
    let effects = watch(&mut rig, first, ms(7_500), silent);
    assert_eq!(acted(&effects), []);
    let look = looks(&rig.pass(ms(500)))[0];
    rig.pass(TIMING.request_timeout);
    // Its answer comes too late to count.
    assert_eq!(rig.tell(JudgeInput::Store(look, shows(rig.now, silent(rig.now).unwrap()))), []);
    let next = rig.pass(secs(1));
    let effects = watch(&mut rig, next, secs(20), silent);
    let (first_act, ..) = acted(&effects)[0];
    assert_eq!(first_act, secs(8 + 2 + 1 + 7));
}

#[test]
fn r2_a_judge_that_slept_starts_again() {
    let (mut rig, first) = watching();
    let effects = watch(&mut rig, first, ms(7_500), silent);
    assert_eq!(acted(&effects), []);
    rig.sleep(secs(100));
    let next = rig.pass(secs(0));
    let effects = watch(&mut rig, next, secs(20), silent);
    assert_eq!(acted(&effects)[0].0, ms(107_500) + secs(7));
}

#[test]
fn r2_a_renewal_seen_starts_the_count_again() {
    let (mut rig, first) = watching();
    let effects = watch(&mut rig, first, secs(60), |now| {
        let late = now.since(at(secs(0))) >= ms(7_500);
        // Renewed once, late, under a clock that makes it look past its time all the same.
        let mut lease = view(LEASE, at(secs(0)), if late { 4 } else { 3 });
        lease.expires_at = store_time(at(secs(0))) + secs(8);
        Some(vec![lease])
    });
    assert_eq!(acted(&effects)[0], (secs(8 + 7), EndCause::Lapsed, 4));
}

#[test]
fn r2_an_outage_between_two_looks_and_a_jump_of_the_store_s_clock_are_not_death() {
    for scan in [TIMING.scan, secs(1)] {
        // Renewed just before the first look, and the store's clock jumps an hour at once: past its time from the start.
        let jumped = |renewals| {
            let expires_at = store_time(at(secs(0)) - secs(3_600)) + TIMING.ttl;
            Some(vec![LeaseView { expires_at, ..view(LEASE, at(secs(0)), renewals) }])
        };
        // The renewal due at 4 s finds the store away, and the worker gets through at 6 s; every look is answered.
        let renewed_at = |now: Instant| now.since(at(secs(0))).checked_sub(secs(6));
        let (mut rig, first) = judge_that_scans(scan, false);
        let effects =
            watch(&mut rig, first, secs(60), |now| jumped(renewed_at(now).map_or(3, |since| 4 + since.as_secs() / 4)));
        assert_eq!(acted(&effects), []);
        let looked = |looked_at: u64| {
            let now = at(secs(looked_at));
            effects.iter().any(|(when, effect)| *when == now && !looks(std::slice::from_ref(effect)).is_empty())
        };
        assert!((0..=6).all(looked), "watched from the first look on: {effects:?}");
        // A worker that did not come back is acted on one second after that one did.
        let (mut rig, first) = judge_that_scans(scan, false);
        let effects = watch(&mut rig, first, secs(7), |_| jumped(3));
        assert_eq!(acted(&effects), [(secs(7), EndCause::Lapsed, 3)]);
    }
}

#[test]
fn r2_short_intervals_can_be_watched_too() {
    let lease = |now: Instant| {
        let _ = now;
        let renewed = at(secs(0));
        let (ttl, renew) = (ms(200), ms(10));
        vec![LeaseView { ttl, renew, expires_at: store_time(renewed) + ttl, ..view(LEASE, renewed, 3) }]
    };
    let (mut rig, first) = watching();
    let effects = watch(&mut rig, first, secs(2), |now| Some(lease(now)));
    assert_eq!(acted(&effects).first().map(|(_, cause, _)| *cause), Some(EndCause::Lapsed));
}

#[test]
fn r2_a_lease_or_a_not_before_too_far_ahead_is_cut_back() {
    let cut_back = |ahead: Duration, not_before: Duration| {
        let (mut rig, effects) = watching();
        let now = store_time(rig.now);
        let lease = LeaseView { expires_at: now + TIMING.ttl + ahead, ..view(LEASE, rig.now, 3) };
        let reply = LookReply { now, leases: vec![lease], not_before_max: Some(now + not_before) };
        let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], Ok(StoreReply::Look(reply))));
        judged(&effects).iter().any(|(_, r)| *r == StoreRequest::CutBack { backoff_max: BACKOFF_MAX })
    };
    assert!(!cut_back(ms(0), BACKOFF_MAX));
    assert!(cut_back(ms(1), BACKOFF_MAX));
    assert!(cut_back(ms(0), BACKOFF_MAX + ms(1)));
}

#[test]
fn r2_a_judge_does_not_judge_its_own_lease() {
    let (mut rig, first) = watching();
    rig.tell(JudgeInput::OwnLease(Some(LEASE)));
    let effects = watch(&mut rig, first, secs(60), silent);
    assert_eq!(acted(&effects), []);
    // Nor one that became its own between the look and the act.
    let (mut rig, check) = asking_for_the_heartbeat();
    let others = |now| Some(vec![view(LEASE, at(secs(0)), 3), view(LEASE_2, now, 0)]);
    let next = rig.pass(ms(1));
    watch(&mut rig, next, secs(1), others);
    rig.tell(JudgeInput::OwnLease(Some(LEASE_2)));
    let effects = rig.tell(JudgeInput::Liveness(check, None));
    assert!(acts(&effects).iter().all(|(_, act)| act.judge == Some(LEASE_2)), "counted in its own tally");
}

#[test]
fn r3_the_act_names_the_count_that_was_seen_and_is_told_when_it_took_effect() {
    let reply = |reply| {
        let (mut rig, check) = asking_for_the_heartbeat();
        let (act, recover) = acts(&rig.tell(JudgeInput::Liveness(check, None)))[0].clone();
        assert_eq!((recover.lease, recover.renewals), (LEASE, 3));
        rig.tell(JudgeInput::Store(act, reply))
    };
    let told = |effects: Vec<JudgeEffect>| effects.into_iter().filter(|effect| matches!(effect, JudgeEffect::Tell(_)));
    let recovered = RecoverReply::Recovered { lines: 7, failed: 1 };
    let event =
        JudgeEvent::Recovered { lease: LEASE, worker: "w".into(), cause: EndCause::Lapsed, lines: 7, failed: 1 };
    assert!(told(reply(Ok(StoreReply::Recover(recovered)))).eq([JudgeEffect::Tell(event)]));
    assert_eq!(told(reply(Ok(StoreReply::Recover(RecoverReply::Spared)))).count(), 0);
    assert_eq!(told(reply(Err(StoreFailure::Unknown))).count(), 0);
}

#[test]
fn r4_a_judge_looks_at_its_start_and_every_scan() {
    let (mut rig, first) = watching();
    assert_eq!(looks(&first).len(), 1);
    let effects = watch(&mut rig, first, secs(24), |_| Some(vec![]));
    let when: Vec<_> = effects.iter().map(|(looked_at, _)| looked_at.since(at(secs(0)))).collect();
    assert_eq!(when, [0, 8, 16, 24].map(secs));
    assert_eq!(looks(&rig.tell(JudgeInput::ProcessEnded(identity(9)))).len(), 1);
}

#[test]
fn r4_recovery_is_within_the_bound_watched_or_not() {
    for watched in [true, false] {
        // Renewed last at any time between two scans of the judge.
        for died in (0..8_000).step_by(125).map(ms) {
            let (mut rig, first) = watching();
            let first = if watched {
                first
            } else {
                rig.sleep(died + secs(8));
                rig.pass(secs(0))
            };
            let effects = watch(&mut rig, first, secs(60), |now| {
                let last_renewed = at(died).min(now);
                Some(vec![view(LEASE, last_renewed, last_renewed.since(at(secs(0))).as_millis() as u64)])
            });
            let (first_act, ..) = acted(&effects)[0];
            let bound = r4_bound(TIMING.ttl, TIMING.renew, TIMING.scan, watched, ms(0));
            let took = first_act - died;
            assert!(took <= bound, "died at {died:?}: {took:?} over {bound:?}");
            assert!(took >= TIMING.ttl, "died at {died:?}: {took:?}");
        }
    }
}

#[test]
fn r4_recovery_is_within_the_bound_of_a_scan_shorter_than_the_watch() {
    for scan in [ms(250), secs(1), ms(2_500), secs(6)] {
        for died in (0..8_000).step_by(125).map(ms) {
            let (mut rig, first) = judge_that_scans(scan, false);
            let effects = watch(&mut rig, first, secs(60), |now| {
                let last_renewed = at(died).min(now);
                Some(vec![view(LEASE, last_renewed, last_renewed.since(at(secs(0))).as_millis() as u64)])
            });
            let (first_act, ..) = acted(&effects)[0];
            let took = first_act - died;
            let bound = r4_bound(TIMING.ttl, TIMING.renew, scan, true, ms(0));
            assert_eq!(bound, TIMING.ttl + scan + secs(2));
            assert!(took <= bound, "scan {scan:?}, died at {died:?}: {took:?} over {bound:?}");
            assert!(took >= TIMING.ttl, "scan {scan:?}, died at {died:?}: {took:?}");
        }
    }
}

#[test]
fn r4_with_a_short_scan_the_watch_is_complete_when_the_lease_is_past_its_time() {
    // Shorter than the watch of 7 s: looked at every 1.5 s while it is in time, every second once it is late.
    let (mut rig, first) = judge_that_scans(ms(6_999), false);
    let effects = watch(&mut rig, first, secs(8), silent);
    let when: Vec<_> = effects
        .iter()
        .filter(|(_, effect)| !looks(std::slice::from_ref(effect)).is_empty())
        .map(|(looked_at, _)| looked_at.since(at(secs(0))))
        .collect();
    assert_eq!(when, [0, 1_500, 3_000, 4_500, 6_000, 7_000, 8_000].map(ms));
    assert_eq!(acted(&effects), [(secs(8), EndCause::Lapsed, 3)]);
    // As long as the watch: looked at when it would be late, and watched from then on.
    let (mut rig, first) = judge_that_scans(secs(7), false);
    let effects = watch(&mut rig, first, secs(12), silent);
    assert_eq!(acted(&effects), [(secs(12), EndCause::Lapsed, 3)]);
}

#[test]
fn r4_an_act_that_cannot_be_done_blocks_no_other() {
    let (mut rig, first) = watching();
    let two = |_| Some(vec![view(LEASE, at(secs(0)), 3), view(LEASE_2, at(secs(0)), 5)]);
    let mut effects = watch(&mut rig, first, secs(12), two);
    assert_eq!(acted(&effects).len(), 1, "one at a time");
    let next = rig.pass(ms(1));
    effects.extend(watch(&mut rig, next, TIMING.request_timeout, two));
    let counts: Vec<_> = acted(&effects).into_iter().map(|(_, _, renewals)| renewals).take(2).collect();
    assert_eq!(counts, [3, 5]);
}

#[test]
fn r1_of_machines_that_cannot_look_up_processes_no_lease_taken_is_looked_at() {
    let options = JudgeOptions { timing: TIMING, machine: None, liveness: false, local_check: secs(1) };
    let now = at(secs(0));
    let mut rig = Rig { machine: Judge::new(options, now), now };
    let effects = rig.pass(secs(0));
    rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![])));
    rig.tell(JudgeInput::LeasesTaken);
    assert_eq!(looks(&rig.pass(secs(7))), [], "scans are soon enough");
}

/// 64 of them: what is reported while the store is away is not forgotten.
#[test]
fn r1_reports_are_kept_until_there_is_a_lease_to_them() {
    let (mut rig, effects) = watching();
    for pid in 1..=64 {
        rig.tell(JudgeInput::ProcessEnded(identity(pid)));
    }
    let first = LeaseView { process: Some(identity(1)), ..view(LEASE, at(secs(0)), 3) };
    let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![first.clone()])));
    assert_eq!(acts(&effects)[0].1.cause, EndCause::Died);

    let (mut rig, effects) = watching();
    for pid in 1..=65 {
        rig.tell(JudgeInput::ProcessEnded(identity(pid)));
    }
    let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![first])));
    assert_eq!(acts(&effects), [], "the oldest of too many is forgotten");
}

/// R2: what a judge hears after the time it allows itself says nothing, however good it looks.
#[test]
fn r2_a_look_that_is_heard_too_late_is_a_failed_one() {
    for (heard_after, counts) in [(ms(1_999), true), (ms(2_000), false), (secs(100), false)] {
        let (mut rig, effects) = watching();
        let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), 3) };
        rig.sleep(heard_after);
        let effects = rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![ours])));
        let checked = effects.contains(&JudgeEffect::CheckProcess(LEASE, identity(5)));
        assert_eq!(checked, counts, "{heard_after:?}: {effects:?}");
    }
}

#[test]
fn r1_after_a_known_death_the_store_is_asked_again_soon_but_not_at_once() {
    let (mut rig, effects) = watching();
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), 3) };
    rig.tell(JudgeInput::Store(looks(&effects)[0], shows(rig.now, vec![ours])));
    rig.pass(ms(500));
    let effects = rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone));
    assert_eq!((acts(&effects).len(), looks(&effects).len()), (1, 0));
    assert_eq!(looks(&rig.pass(ms(19))), []);
    assert_eq!(looks(&rig.pass(ms(1))).len(), 1);
}

/// Its requests are told apart by their ids, and so are their replies.
#[test]
fn r3_a_lease_that_was_recovered_is_not_looked_up_again() {
    let (mut rig, effects) = watching();
    let ours = LeaseView { process: Some(identity(5)), ..view(LEASE, at(secs(0)), 3) };
    let look = looks(&effects)[0];
    rig.tell(JudgeInput::Store(look, shows(rig.now, vec![ours])));
    let effects = rig.tell(JudgeInput::Process(LEASE, ProcessState::Gone));
    let act = acts(&effects)[0].0;
    assert_ne!(act, look);
    let recovered = StoreReply::Recover(RecoverReply::Recovered { lines: 2, failed: 0 });
    let effects = rig.tell(JudgeInput::Store(act, Ok(recovered)));
    let told = JudgeEvent::Recovered { lease: LEASE, worker: "w".into(), cause: EndCause::Died, lines: 2, failed: 0 };
    assert_eq!(effects, [JudgeEffect::Tell(told)]);
    // The next look is silent: what is left to look up is asked every second.
    let effects = rig.pass(secs(2));
    assert!(!effects.contains(&JudgeEffect::CheckProcess(LEASE, identity(5))), "{effects:?}");
}
