use fencepost_core::rules::lease::LeaseState;
use fencepost_core::rules::recovery::*;
use fencepost_core::store::EndCause;

use crate::rig::*;

#[test]
fn r1_a_death_is_known_only_on_the_same_machine() {
    let process = identity(5);
    assert!(r1_death_known("here", Some(&process), ProcessState::Gone));
    assert!(!r1_death_known("here", Some(&process), ProcessState::Running));
    assert!(!r1_death_known("here", Some(&process), ProcessState::Unknown));
    assert!(!r1_death_known("there", Some(&process), ProcessState::Gone));
    assert!(!r1_death_known("here", None, ProcessState::Gone));
}

#[test]
fn r2_the_watch_is_a_renewal_interval_and_a_margin_with_several_looks() {
    assert_eq!(r2_watch_for(secs(4), secs(8)), secs(7));
    assert_eq!(r2_watch_for(secs(1), secs(8)), secs(4));
    assert_eq!(r2_margin(secs(8)), secs(1));
    assert_eq!(r2_look_every(secs(4)), secs(1));
    assert!(!r2_look_every(ms(0)).is_zero());
}

#[test]
fn r2_a_lease_is_late_an_interval_and_a_margin_after_its_renewal() {
    let lease = view(LEASE, at(secs(0)), 0);
    let late_in = |now| r2_late_in(&lease, store_time(at(now)));
    assert_eq!(late_in(secs(0)), Some(secs(5)));
    assert_eq!(late_in(ms(4_999)), Some(ms(1)));
    assert_eq!(late_in(secs(5)), None);
    assert_eq!(late_in(secs(500)), None);
}

#[test]
fn r2_past_its_time_by_the_store_s_clock() {
    let lease = view(LEASE, at(secs(0)), 0);
    assert!(!r2_past_its_time(&lease, store_time(at(ms(7_999)))));
    assert!(r2_past_its_time(&lease, store_time(at(secs(8)))));
}

#[test]
fn r2_a_heartbeat_has_a_veto_for_one_ttl() {
    let lease = view(LEASE, at(secs(0)), 0);
    let allows = |heartbeat, now| r2_heartbeat_allows(heartbeat, &lease, store_time(at(now)));
    assert!(!allows(Heartbeat::Present, secs(8)));
    assert!(!allows(Heartbeat::Present, ms(15_999)));
    assert!(allows(Heartbeat::Present, secs(16)));
    assert!(allows(Heartbeat::Absent, secs(8)) && allows(Heartbeat::NoWitness, secs(8)));
}

#[test]
fn r2_what_lies_too_far_ahead_is_cut_back() {
    let lease = view(LEASE, at(secs(1)), 0);
    assert!(!r2_too_far_ahead(&lease, store_time(at(secs(1)))));
    assert!(r2_too_far_ahead(&lease, store_time(at(ms(999)))));
}

#[test]
fn r2_the_second_look_counts_from_answer_to_question_and_starts_again() {
    let lease = view(LEASE, at(secs(0)), 3);
    // Looks of half a second each, one second apart.
    let mut look = SecondLook::begin(&lease, at(secs(0)), at(ms(500)));
    for n in 1..=7 {
        look.look(&lease, at(secs(n)), at(secs(n) + ms(500)));
        assert!(!look.complete(&lease, at(secs(n))), "{n}");
    }
    assert!(look.complete(&lease, at(ms(7_500))));
    assert_eq!(look.renewals(), 3);

    let mut gap = look.clone();
    // From question to question: an answer that was heard late hides no gap.
    gap.look(&lease, at(secs(9)), at(secs(20)));
    assert!(gap.complete(&lease, at(secs(9))), "looks two intervals apart still count");
    let mut gap = look.clone();
    gap.look(&lease, at(ms(9_001)), at(ms(9_001)));
    assert!(!gap.complete(&lease, at(ms(9_001))));

    let renewed = view(LEASE, at(secs(8)), 4);
    look.look(&renewed, at(secs(8)), at(secs(8)));
    assert!(!look.complete(&renewed, at(secs(14))) && look.complete(&renewed, at(secs(15))));
    assert_eq!(look.renewals(), 4);
}

#[test]
fn r3_an_act_on_silence_grows_old_and_a_known_death_does_not() {
    let seen = store_time(at(secs(100)));
    let fresh = |cause, now| r3_still_fresh(cause, seen, store_time(at(now)), secs(4));
    for cause in [EndCause::Lapsed, EndCause::TakenOver] {
        assert!(fresh(cause, secs(100)) && fresh(cause, secs(102)));
        assert!(!fresh(cause, ms(102_001)), "the store may have been away since: {cause:?}");
        assert!(!fresh(cause, secs(99)), "the clock was set back since: {cause:?}");
    }
    assert!(fresh(EndCause::Died, secs(1)) && fresh(EndCause::Died, secs(1_000)));
}

#[test]
fn r3_the_act_is_conditional_on_what_was_seen() {
    assert!(r3_may_act(LeaseState::Live, 3, 3));
    assert!(!r3_may_act(LeaseState::Live, 4, 3));
    for state in [LeaseState::Dead, LeaseState::TakenOver, LeaseState::Dropped] {
        assert!(!r3_may_act(state, 3, 3), "one judge wins: {state:?}");
    }
}

#[test]
fn r4_the_bound_is_ttl_and_scan_and_a_stated_slack() {
    let bound = |watched| r4_bound(secs(8), secs(4), secs(8), watched, ms(100));
    assert_eq!(bound(true), secs(8 + 8 + 2) + ms(100));
    assert_eq!(bound(false), bound(true) + secs(4));
}

#[test]
fn r5_what_a_newcomer_does_about_its_name() {
    for past in [false, true] {
        for complete in [false, true] {
            for renewed in [false, true] {
                assert_eq!(r5_name_held(true, past, complete, renewed), NameHeld::TakeOverDead);
            }
            assert_eq!(r5_name_held(false, past, complete, true), NameHeld::InUse);
            let expected = if past && complete { NameHeld::TakeOverSilent } else { NameHeld::Watch };
            assert_eq!(r5_name_held(false, past, complete, false), expected);
        }
    }
}
