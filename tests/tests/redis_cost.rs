//! What Redis costs a worker, measured small: that it is measured, and that requests do not come with rows.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fencepost_tests::scenario::redis_cost::{self, Cost};

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_redis_come_with_time_and_not_with_rows() {
    let sizes = Cost { rows: 20_000, concurrency: 500, ttl: Duration::from_secs(60), times: 1 };
    let outcome = redis_cost::run(sizes).await;
    assert!(outcome.with.requests_per_1000_rows < 0.5, "{outcome:?}");
    assert_eq!(outcome.without.requests_per_1000_rows, 0.0);
    assert!(outcome.with.commands_per_1000_rows > 0.0 && outcome.with.cpu_us_per_row > 0.0, "{outcome:?}");
}
