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

/// The mistake is found in the scope, by this check; what led to it is told step by step.
fn is_found(mistake: Mistake, name: &str, check: &str, told: &[&str]) {
    quiet_panics();
    let (violation, steps) = search(&scope(name), Some(mistake), usize::MAX).found.unwrap();
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
fn a_store_without_a_fence_is_found() {
    let told = ["Claim number 1", "w0 dies", "Recover", "Record line 1 token 1"];
    is_found(Mistake::NoFence, "crash", "1 conservation", &told);
}

#[test]
fn a_settling_that_leaves_the_number_open_is_found() {
    let told = ["is held back: w0 -> store: Claim number 1", "SettleClaim number 1", "store -> w0: Settled nothing"];
    is_found(Mistake::SettleLeavesNumberOpen, "late", "7 progress", &told);
}

#[test]
fn a_recovery_that_ignores_what_was_seen_is_found() {
    let told = ["w0 dies", "Look: w0 with 0 renewals", "w0 -> store: Renew", "Recover, seen with 0 renewals"];
    is_found(Mistake::SeenCountIgnored, "crash", "5 innocence", &told);
}
