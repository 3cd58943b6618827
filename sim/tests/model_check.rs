//! All interleavings of small scopes; and mistakes that such a search must find.

#![allow(clippy::unwrap_used)]

use sim::explore::quiet_panics;
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

#[test]
fn two_workers_and_a_row() {
    holds("plain", 10_000);
}
