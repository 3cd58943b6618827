//! The store-only loop: claims a thousand rows with their inputs and records a thousand outcomes with results, over and over, by
//! the store's own calls. No worker, no handler, no heartbeat: what any product on this store could reach at most.

use std::time::{Duration, Instant};

use fencepost::store::{AnyStore, Store};
use fencepost_core::LeaseId;
use fencepost_core::calls::Calls;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Record, RecordItem, StoreReply, StoreRequest, TakeLease, Verdict,
};

use super::ground::Site;

/// Rows of a claim, and answers of a group: where the loop is fastest on both stores.
pub const LINES: u64 = 1_000;

/// What a handler that does nothing answers.
pub const RESULT: &str = "null";

/// Drains the operation with so many loops, each with connections of its own, and tells how long it took.
pub async fn drain(site: &Site, operation: &str, connections: u64) -> Duration {
    let mut leases = Vec::new();
    for number in 0..connections {
        leases.push(take_lease(site.store(), operation, number).await);
    }
    let began = Instant::now();
    let work = |lease| tokio::spawn(work(site.store().clone(), operation.to_owned(), lease));
    let loops: Vec<_> = leases.iter().copied().map(work).collect();
    for work in loops {
        work.await.expect("the loop ends");
    }
    let took = began.elapsed();
    for lease in leases {
        site.store().call(StoreRequest::DropLease { lease }).await.expect("the store answers");
    }
    took
}

async fn take_lease(store: &AnyStore, operation: &str, number: u64) -> LeaseId {
    let lease = LeaseId::from_random(rand::random());
    let take = TakeLease {
        lease,
        worker: format!("loop-{number}"),
        stable_name: false,
        ttl: Duration::from_secs(600),
        renew: Duration::from_secs(300),
        process: None,
        operations: vec![operation.to_owned()],
        calls: Calls::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.expect("the store answers");
    lease
}

async fn work(store: AnyStore, operation: String, lease: LeaseId) {
    for number in 1.. {
        let operations = vec![operation.clone()];
        let claim = Claim { lease, number, operations, lines_max: LINES, bytes_max: 8 << 20, idle: true };
        let reply = store.call(StoreRequest::Claim(claim)).await.expect("the store answers");
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = reply else { panic!("{reply:?}") };
        if grants.is_empty() {
            return;
        }
        let record = Record { lease, items: items(&grants) };
        let reply = store.call(StoreRequest::Record(record)).await.expect("the store answers");
        let StoreReply::Record(verdicts) = reply else { panic!("{reply:?}") };
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Recorded(_))), "a lost row");
    }
}

fn items(grants: &[Grant]) -> Vec<RecordItem> {
    let of = |grant: &Grant, line| RecordItem {
        batch: grant.batch,
        line,
        token: grant.token,
        answer: Answer::Success(RESULT.into()),
        run_time: Duration::ZERO,
    };
    grants.iter().flat_map(|grant| grant.rows.iter().map(|row| of(grant, row.line))).collect()
}
