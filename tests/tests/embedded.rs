//! What the embedded product must show, at sizes that fit a test run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost_tests::place::StoreKind;
use fencepost_tests::scenario::{abort, effects, stream, stream_speed};

const ON: StoreKind = StoreKind::Sqlite;

#[test]
fn a_stream_handler_s_killed_workers_lose_and_repeat_no_outcome() {
    let sizes = stream::StreamKills {
        rows: 4_000,
        kills: 4,
        lines_held_min: 100,
        kill_every: Duration::from_millis(200),
        row: Duration::from_millis(1),
        seed: 5,
    };
    assert_eq!(stream::run(ON, sizes).kills, 4);
}

#[test]
fn an_aborted_batch_s_handlers_are_stopped_and_waited_for() {
    let stopped = abort::handlers(ON);
    assert!(stopped.waited >= Duration::from_millis(200), "it waited for handlers that take time to end: {stopped:?}");
}

#[test]
fn a_busy_batch_is_aborted_at_once() {
    let sizes = abort::Busy { rows: 20_000, workers: 2, concurrency: 50, done_min: 1_000 };
    assert!(abort::busy(ON, sizes).took < Duration::from_secs(5));
}

#[test]
fn transactional_effects_happen_once_per_row_under_kills_and_pauses() {
    let sizes =
        effects::Effects { rows: 2_500, kills: 4, pauses: 1, ttl: Duration::from_millis(500), row_us: 20_000, seed: 3 };
    let outcome = effects::run(ON, sizes);
    assert!(outcome.lines_repeated > 0, "kills in mid-row repeat runs, not effects: {outcome:?}");
}

#[test]
fn the_example_of_a_stream_handler_answers_every_row() {
    stream_speed::run(ON, stream_speed::StreamSpeed { rows: 3_000, workers: 2, times: 1 });
}
