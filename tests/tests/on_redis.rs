//! What must hold whatever Redis does, on Postgres and Redis, at sizes that fit a test run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost_tests::place::StoreKind;
use fencepost_tests::scenario::redis_moods::{self, Mood};
use fencepost_tests::scenario::{kills, redis_kinds};

fn while_redis_is(mood: Mood) {
    let sizes = redis_moods::Moods {
        rows: 60,
        workers: 3,
        concurrency: 4,
        row: Duration::from_millis(2_500),
        ttl: Duration::from_secs(2),
        slack: Duration::from_millis(500),
    };
    println!("{:?}", redis_moods::run(mood, sizes));
}

#[test]
fn a_dead_worker_is_recovered_while_redis_is_well() {
    while_redis_is(Mood::Well);
}

#[test]
fn a_stale_heartbeat_delays_recovery_by_a_ttl_and_no_more() {
    while_redis_is(Mood::Stale);
}

#[test]
fn a_stale_heartbeat_delays_nothing_while_redis_has_just_started() {
    while_redis_is(Mood::StaleAndYoung);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_is_flushed() {
    while_redis_is(Mood::Flushed);
}

#[test]
fn only_the_dead_worker_is_recovered_when_redis_is_killed_and_back_empty() {
    while_redis_is(Mood::BackEmpty);
}

#[test]
fn only_the_dead_worker_is_recovered_when_redis_was_away_and_is_back_with_old_data() {
    while_redis_is(Mood::BackWithOldData);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_is_frozen() {
    while_redis_is(Mood::Frozen);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_is_slow() {
    while_redis_is(Mood::Slow);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_crashes_again_and_again() {
    while_redis_is(Mood::CrashLoop);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_was_never_there() {
    while_redis_is(Mood::Absent);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_is_out_of_memory() {
    while_redis_is(Mood::OutOfMemory);
}

#[test]
fn only_the_dead_worker_is_recovered_while_redis_evicts() {
    while_redis_is(Mood::Evicting);
}

#[test]
fn killed_workers_lose_and_repeat_no_outcome_beside_a_redis_that_is_flushed_and_restarted() {
    let sizes = kills::Kills {
        rows: 4_000,
        workers: 4,
        concurrency: 8,
        row_us: 5_000,
        kills: 4,
        lines_held_min: 100,
        kill_every: Duration::from_millis(100),
        seed: 7,
    };
    assert_eq!(kills::run_beside_redis(StoreKind::Postgres, sizes).kills, 4);
}

const KIND: redis_kinds::Kinds =
    redis_kinds::Kinds { rows: 60, concurrency: 4, row: Duration::from_millis(2_500), ttl: Duration::from_secs(2) };

#[test]
fn workers_follow_the_sentinels_to_another_primary() {
    assert!(redis_kinds::sentinel(KIND).lines_repeated > 0);
}

#[test]
fn workers_use_a_cluster() {
    assert!(redis_kinds::cluster(KIND).lines_repeated > 0);
}

#[test]
fn workers_use_redis_through_tls() {
    assert!(redis_kinds::tls(KIND).lines_repeated > 0);
}
