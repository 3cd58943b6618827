//! Waiting for what no event tells of: other processes, and files that they write.

use std::time::{Duration, Instant};

/// Looks again and again; what takes longer than this does not come.
const LIMIT: Duration = Duration::from_secs(60);

/// Looks until it is so.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < end, "waited {LIMIT:?} until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
