//! What others do between two statements of one function: it is made to wait there.

use fencepost::store::{Operates, Purges, Reads, Store};
use fencepost_core::StoreTime;
use fencepost_core::calls::{Calls, ClaimCall, ClaimCallReply};
use fencepost_core::purge::PurgeBegun;
use fencepost_core::store::{Operated, StoreReply, StoreRequest};

use super::rig::{Holding, Rig, claim, died, execute, granted};

/// Later than everything.
const ALL: StoreTime = StoreTime(i64::MAX);

impl Rig {
    /// This function waits before what it says here, for as long as what is returned is held.
    async fn waiting_before(&mut self, function: &str, says: &str) -> Holding {
        const WAIT: &str = "pg_advisory_xact_lock(hashtext(current_schema()))";
        let whole = self.text(&format!("select pg_get_functiondef('{function}'::regproc)")).await;
        assert_eq!(whole.matches(says).count(), 1, "{function} says once: {says}");
        execute(&mut self.raw, &whole.replace(says, &format!("perform {WAIT};\n    {says}"))).await;
        self.holding(&format!("select {WAIT}")).await
    }
}

/// C2, S2: a batch is aborted while a claim of it is being settled: before it is read what the claim holds, or after. Either way nothing
/// is granted, and nothing is said to run that nobody has: else `abort --wait` and a purge would wait until the lease ends.
#[tokio::test]
async fn an_abort_between_the_statements_of_a_settling_leaves_nothing_running() {
    for says in ["select array_agg(s.batch order by s.token)", "select array_agg(t.batch order by t.token)"] {
        let mut rig = Rig::new().await;
        let lease = rig.lease(1).await;
        let batch = rig.batch(3).await;
        assert_eq!(rig.grants(lease, 1, 2).await[0].rows.len(), 2);
        let holding = rig.waiting_before("settle_claim", says).await;
        let settling = rig.start(StoreRequest::SettleClaim { lease, number: 1 });
        rig.until_waiting(1).await;
        assert_eq!(rig.store.abort(batch).await.unwrap(), Operated::Now);
        assert_eq!(rig.store.stopping(batch).await.unwrap()[0].rows, 2, "what the claim took may still run");
        holding.commit().await;
        let StoreReply::SettleClaim(grants, stopped) = settling.await.unwrap().unwrap() else { panic!() };
        assert_eq!((grants.len(), stopped.len()), (0, 1), "before {says}");
        assert_eq!(rig.store.stopping(batch).await.unwrap()[0].rows, 2, "until it is given back");
        rig.store.call(StoreRequest::GiveBack { lease, lines: stopped }).await.unwrap();
        assert_eq!(rig.store.stopping(batch).await.unwrap(), [], "before {says}");
        assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
    }
}

/// C1: between looking whether a claim is held and reading its rows, its batch may be aborted, its lease declared dead, and the batch
/// purged: then the claim grants nothing. It does not find the store damaged.
#[tokio::test]
async fn rows_of_a_claim_that_a_purge_took_meanwhile_are_not_missed() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(3).await;
    let holding = rig.waiting_before("claimed_rows", "perform pg_logical_emit_message").await;
    let claiming = rig.start(claim(lease, 1, 2));
    rig.until_waiting(1).await;
    assert_eq!(rig.store.abort(batch).await.unwrap(), Operated::Now);
    rig.store.call(died(lease, 0)).await.unwrap();
    assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
    while !rig.store.purge_slice(batch, 100).await.unwrap().done {}
    holding.commit().await;
    assert_eq!(granted(claiming.await.unwrap()), []);
}

/// The same where the lease lives on, and another has some of the lines by now.
#[tokio::test]
async fn rows_of_a_claim_that_changed_hands_meanwhile_are_not_granted() {
    let mut rig = Rig::new().await;
    let (lease, other) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(3).await;
    let holding = rig.waiting_before("claimed_rows", "perform pg_logical_emit_message").await;
    let claiming = rig.start(claim(lease, 1, 2));
    rig.until_waiting(1).await;
    rig.store.call(died(lease, 0)).await.unwrap();
    let taking = rig.start(claim(other, 1, 3));
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(granted(claiming.await.unwrap()), []);
    let lines: Vec<u64> =
        granted(taking.await.unwrap()).iter().flat_map(|grant| &grant.rows).map(|row| row.line).collect();
    assert!(!lines.is_empty(), "batch {batch}");
    rig.assert_tiled().await;
}

/// S7: a batch ends while a worker finds nothing to call: its reply says that lines are open, or that a call is undelivered. Else the last
/// worker would leave, and nobody would be told.
#[tokio::test]
async fn an_end_between_the_looks_of_a_claim_of_calls_is_not_overlooked() {
    let looks = [
        "undelivered := is_call_held",
        "select undelivered or count(*) > 0",
        "undelivered := undelivered or is_call_held",
    ];
    for says in looks {
        let mut rig = Rig::new().await;
        let lease = rig.lease(1).await;
        let batch = rig.batch(3).await;
        let holding = rig.waiting_before("claim_call", says).await;
        let calls = Calls { operations: vec!["op".into()], command: true, urls: Vec::new() };
        let claiming = rig.start(StoreRequest::ClaimCall(ClaimCall { lease, calls, known: Vec::new() }));
        rig.until_waiting(1).await;
        assert_eq!(rig.store.abort(batch).await.unwrap(), Operated::Now);
        holding.commit().await;
        let reply = claiming.await.unwrap().unwrap();
        let StoreReply::ClaimCall(ClaimCallReply::Granted { call, open_lines, undelivered, .. }) = reply else {
            panic!("{reply:?}")
        };
        assert!(call.is_some() || open_lines || undelivered, "before {says}");
    }
}
