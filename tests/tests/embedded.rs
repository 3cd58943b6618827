//! What the embedded product must show, at sizes that fit a test run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost_tests::scenario::effects;

#[test]
fn transactional_effects_happen_once_per_row_under_kills_and_pauses() {
    let sizes =
        effects::Effects { rows: 1_500, kills: 4, pauses: 1, ttl: Duration::from_millis(500), row_us: 20_000, seed: 3 };
    let outcome = effects::run(sizes);
    assert!(outcome.lines_repeated > 0, "kills in mid-row repeat runs, not effects: {outcome:?}");
}
