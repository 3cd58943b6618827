//! S7 on the embedded store: who hears that a completion call is due.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{Change, Changes, Loads, OpenMode, Operates, Store, WorkerStore};
use fencepost_core::LeaseId;
use fencepost_core::calls::{
    CallGrant, CallKey, CallOutcome, CallVerdict, Calls, ClaimCall, ClaimCallReply, RecordCall,
};
use fencepost_core::store::{EndCause, Recover, StoreReply, StoreRequest, TakeLease};

const LEASE: LeaseId = LeaseId::from_random(1);

async fn call(store: &SqliteStore, request: StoreRequest) -> StoreReply {
    store.call(request).await.unwrap()
}

async fn take_lease(store: &SqliteStore, lease: LeaseId) {
    let take = TakeLease {
        lease,
        worker: "w".to_owned(),
        stable_name: false,
        ttl: Duration::from_secs(600),
        renew: Duration::from_secs(300),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    call(store, StoreRequest::TakeLease(take)).await;
}

async fn load(store: &SqliteStore, rows: usize) -> fencepost_core::BatchId {
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    store.load_rows(batch, 1, &vec!["1".into(); rows]).await.unwrap();
    store.finish_load(batch, LoadEnd { key: None, digest: String::new(), total: rows as u64 }).await.unwrap();
    batch
}

async fn claim_call(store: &SqliteStore, lease: LeaseId) -> CallGrant {
    let calls = Calls { operations: vec!["op".to_owned()], command: true, urls: Vec::new() };
    match call(store, StoreRequest::ClaimCall(ClaimCall { lease, calls, known: Vec::new() })).await {
        StoreReply::ClaimCall(ClaimCallReply::Granted { call: Some(call), .. }) => call,
        other => panic!("{other:?}"),
    }
}

async fn record(store: &SqliteStore, lease: LeaseId, key: CallKey, outcome: CallOutcome) {
    let reply = call(store, StoreRequest::RecordCall(RecordCall { lease, key, outcome })).await;
    assert_eq!(reply, StoreReply::RecordCall(CallVerdict::Recorded));
}

/// What the next news is: there is some.
async fn next(changes: &mut impl Changes) -> Change {
    tokio::time::timeout(Duration::from_secs(30), changes.next()).await.expect("there is news").unwrap()
}

#[tokio::test]
async fn a_watch_tells_of_calls_only_when_one_has_come_due() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("store.db"), OpenMode::Create).await.unwrap();
    take_lease(&store, LEASE).await;
    let mut changes = store.changes().await.unwrap();
    let batch = load(&store, 2).await;
    assert!(!next(&mut changes).await.ended, "a batch was loaded");
    call(&store, StoreRequest::Renew { lease: LEASE, batches: Vec::new() }).await;
    assert!(!next(&mut changes).await.ended, "a lease was renewed");

    store.abort(batch).await.unwrap();
    assert!(next(&mut changes).await.ended, "a batch has ended");
    let key = claim_call(&store, LEASE).await.key;
    assert!(!next(&mut changes).await.ended, "its call is held");
    record(&store, LEASE, key, CallOutcome::GivenBack).await;
    assert!(next(&mut changes).await.ended, "it was given back: anybody may make it");
    let key = claim_call(&store, LEASE).await.key;
    record(&store, LEASE, key, CallOutcome::Retry { error: "no".into(), jitter: 0 }).await;
    assert!(!next(&mut changes).await.ended, "it waits");

    load(&store, 0).await;
    assert!(next(&mut changes).await.ended, "a batch without rows has ended");
    claim_call(&store, LEASE).await;
    call(&store, StoreRequest::DropLease { lease: LEASE }).await;
    assert!(next(&mut changes).await.ended, "its holder left");
    let other = LeaseId::from_random(2);
    take_lease(&store, other).await;
    assert!(!next(&mut changes).await.ended, "a lease was taken");
    claim_call(&store, other).await;
    let recover = Recover {
        lease: other,
        renewals: 0,
        seen_at: fencepost_core::StoreTime(0),
        cause: EndCause::Died,
        judge: None,
    };
    call(&store, StoreRequest::Recover(recover)).await;
    assert!(next(&mut changes).await.ended, "its holder died: when it is due again is to be asked");
}
