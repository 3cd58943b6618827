//! All interleavings of small scopes; and mistakes that such a search must find.

#![allow(clippy::unwrap_used)]

use sim::explore::quiet_panics;
use sim::model_check::mistake::Mistake;
use sim::model_check::scope::{Scope, scopes};
use sim::model_check::search::search;

fn scope(name: &str) -> Scope {
    scopes().into_iter().find(|scope| scope.name == name).unwrap()
}

/// All states of the scope are seen, at least so many, and all is well.
fn holds(name: &str, states_min: usize) {
    quiet_panics();
    let report = search(&scope(name), None, usize::MAX);
    if let Some((violation, steps)) = report.found {
        panic!("{violation}\n{}", steps.join("\n"));
    }
    assert!(report.complete && report.states >= states_min && report.ends > 0, "{} states", report.states);
}

/// The mistake is found in its scope, by this check; what led to it is told step by step.
fn is_found(mistake: Mistake, check: &str, told: &[&str]) {
    quiet_panics();
    let (violation, steps) = search(&scope(mistake.scope()), Some(mistake), usize::MAX).found.unwrap();
    let steps = steps.join("\n");
    assert_eq!(violation.check, check, "{violation}\n{steps}");
    let mut rest = steps.as_str();
    for words in told {
        let at = rest.find(words);
        assert!(at.is_some(), "{words:?} is not told, or not in its place:\n{steps}");
        rest = &rest[at.unwrap()..];
    }
}

#[test]
fn two_workers_and_a_row() {
    holds("plain", 30_000);
}

#[test]
fn a_late_message_and_one_that_arrives_twice() {
    holds("late", 15_000);
    holds("twice", 20_000);
}

#[test]
fn answers_and_an_abort() {
    holds("answers", 10_000);
    holds("abort", 15_000);
}

#[test]
fn a_worker_that_stands_still() {
    holds("lapse", 300);
    holds("recovery", 23_000);
}

/// What is left out comes to the same ends by other ways, and to the same violation.
#[test]
fn the_reduction_leaves_out_no_end() {
    quiet_panics();
    let reduced = scope("recovery");
    let whole = Scope { reduced: false, ..reduced.clone() };
    let (less, all) = (search(&reduced, None, usize::MAX), search(&whole, None, usize::MAX));
    assert!(all.complete && less.complete && all.found.is_none(), "{:?}", all.found);
    assert!(less.states < all.states && less.ends > 1, "{} of {} states, {} ends", less.states, all.states, less.ends);
    assert!(all.end_states == less.end_states, "{} and {} ends", less.ends, all.ends);
    for mistake in [Mistake::NoFence, Mistake::LeaseStateIgnored] {
        let check = |scope| search(scope, Some(mistake), usize::MAX).found.map(|(violation, _)| violation.check);
        assert_eq!(check(&reduced), check(&whole), "{mistake:?}");
    }
}

#[test]
fn a_store_without_a_fence_is_found() {
    let told = ["Recover", "w0 goes on", "Record line 1 token 1"];
    is_found(Mistake::NoFence, "1 conservation", &told);
}

#[test]
fn a_claim_that_is_never_settled_is_found() {
    let told = ["is held back: store -> w0: Granted lines 1 token 1", "store -> w0: Settled nothing"];
    is_found(Mistake::NoSettle, "7 progress", &told);
}

#[test]
fn a_dead_lease_that_is_renewed_is_found() {
    let told = ["Recover", "w0 goes on", "w0 -> store: Renew", "Renewed", "Claim(LeaseEnded)"];
    is_found(Mistake::LeaseStateIgnored, "7 progress", &told);
}

#[test]
fn a_give_back_that_is_forgotten_is_found() {
    let told = ["w0 goes on", "GiveBack"];
    is_found(Mistake::GiveBackForgotten, "7 progress", &told);
}

#[test]
fn a_purge_under_a_run_is_found() {
    let told = ["operator: Abort", "operator: Purge"];
    is_found(Mistake::PurgeAsksForNothing, "11 abort", &told);
}

#[test]
fn a_settling_that_leaves_the_number_open_is_found() {
    let told = ["is held back: w0 -> store: Claim number 1", "SettleClaim number 1", "store -> w0: Settled nothing"];
    is_found(Mistake::SettleLeavesNumberOpen, "7 progress", &told);
}

#[test]
fn a_recovery_that_ignores_what_was_seen_is_found() {
    let told = ["w0 dies", "Look: w0 with 0 renewals", "w0 -> store: Renew", "Recover, seen with 0 renewals"];
    is_found(Mistake::SeenCountIgnored, "5 innocence", &told);
}
