//! What Redis costs a worker, measured small: that it is measured, and that requests do not come with rows.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost_tests::scenario::redis_cost::{self, Cost};

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_redis_come_with_time_and_not_with_rows() {
    let sizes = Cost { rows: 20_000, concurrency: 500, ttl: Duration::from_secs(60), times: 1 };
    let outcome = redis_cost::run(sizes).await;
    let requests = outcome.with.requests_per_1000_rows * sizes.rows as f64 / 1_000.0;
    let seconds = sizes.rows as f64 / outcome.with.rows_per_second;
    // One at the start, one at the end, one a second for the mirror; a beat comes every 30 s.
    assert!((2.0..=seconds * 1.1 + 4.0).contains(&requests), "{requests} requests in {seconds} s: {outcome:?}");
    assert!(outcome.with.commands_per_1000_rows > 0.0 && outcome.with.cpu_us_per_row > 0.0, "{outcome:?}");
}
