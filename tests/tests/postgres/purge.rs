//! S6: a purge beside whoever may still have to do with the batch, in every order that the locks allow.

use fencepost::purge;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{Appends, Loads, Operates, Purges, Reads, Store, StoreError, WorkerStore};
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::purge::{PurgeAges, PurgeBegun};
use fencepost_core::store::{Answer, Grant, Operated, Recorded, Retried, RetryRows, StoreReply, StoreRequest, Verdict};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row};
use std::time::Duration;
use tokio::task::JoinHandle;

use super::rig::{Rig, STUCK, claim, died, execute, granted, lock_batch, record, success, verdicts};

/// Later than everything.
const ALL: StoreTime = StoreTime(i64::MAX);
const NO_AGE: PurgeAges = PurgeAges { ended: Duration::ZERO, load: Duration::ZERO, append: Duration::ZERO };

impl Rig {
    fn start_purge(&self, batch: BatchId) -> JoinHandle<Result<PurgeBegun, StoreError>> {
        let store = self.store.clone();
        tokio::spawn(async move { store.begin_purge(batch, ALL).await })
    }

    /// A batch of two rows that failed, and its grants.
    async fn ended(&mut self, lease: LeaseId, number: u64) -> (BatchId, Vec<Grant>) {
        let batch = self.batch(2).await;
        let grants = self.grants(lease, number, 2).await;
        self.store.call(record(lease, &grants, &Answer::Failed("no".into()))).await.unwrap();
        (batch, grants)
    }

    async fn remove(&self, batch: BatchId) {
        while !self.store.purge_slice(batch, 1).await.unwrap().done {}
    }

    /// Every record that names a batch, of whatever table.
    async fn left(&mut self) -> i64 {
        let tables =
            ["batches", "rows", "outcomes", "attempts", "tallies", "spans", "appends", "completions", "purges"];
        let counts = tables.map(|table| format!("(select count(*) from {table})"));
        self.number(&format!("select {}", counts.join(" + "))).await
    }
}

/// S5: exactly one of a purge and an operator's retry has the batch.
#[tokio::test]
async fn of_a_purge_and_a_retry_one_wins() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    for purge_first in [true, false] {
        let (batch, _) = rig.ended(lease, 2 - u64::from(purge_first)).await;
        let holding = rig.holding(&lock_batch(batch)).await;
        let store = rig.store.clone();
        let retry = async move { store.retry(batch, RetryRows::Failed).await };
        let (purging, retrying) = if purge_first {
            let purging = rig.start_purge(batch);
            rig.until_waiting(1).await;
            (purging, tokio::spawn(retry))
        } else {
            let retrying = tokio::spawn(retry);
            rig.until_waiting(1).await;
            (rig.start_purge(batch), retrying)
        };
        rig.until_waiting(2).await;
        holding.commit().await;
        let (purged, retried) = (purging.await.unwrap().unwrap(), retrying.await.unwrap().unwrap());
        if purge_first {
            assert_eq!((purged, retried), (PurgeBegun::Now, Retried::NotThere));
            rig.remove(batch).await;
            assert_eq!(rig.left().await, 0);
        } else {
            assert_eq!(purged, PurgeBegun::NotEnded);
            assert_eq!(retried, Retried::Rows { freed: 2, generation: 2, reopened: true });
            rig.assert_tiled().await;
        }
    }
}

/// O1: a late answer that waits for the purge leaves nothing of itself; one that came before goes with the batch.
#[tokio::test]
async fn a_late_answer_beside_a_purge_leaves_nothing() {
    let mut rig = Rig::new().await;
    let (lease, other) = (rig.lease(1).await, rig.lease(2).await);
    for purge_first in [true, false] {
        let (batch, grants) = rig.ended(lease, 2 - u64::from(purge_first)).await;
        let holding = rig.holding(&lock_batch(batch)).await;
        let late = record(other, &grants, &success());
        let again = record(lease, &grants, &success());
        let (purging, recording) = if purge_first {
            let purging = rig.start_purge(batch);
            rig.until_waiting(1).await;
            (purging, [rig.start(late), rig.start(again)])
        } else {
            let recording = [rig.start(late), rig.start(again)];
            rig.until_waiting(2).await;
            (rig.start_purge(batch), recording)
        };
        rig.until_waiting(3).await;
        holding.commit().await;
        assert_eq!(purging.await.unwrap().unwrap(), PurgeBegun::Now);
        let [late, again] = recording;
        let (late, again) = (verdicts(late.await.unwrap()), verdicts(again.await.unwrap()));
        if purge_first {
            assert_eq!([late, again].concat(), [Verdict::Fenced; 4]);
        }
        // Everything of it once more, now that its rows are going.
        assert!(!rig.store.purge_slice(batch, 1).await.unwrap().done);
        let late = verdicts(rig.store.call(record(lease, &grants, &success())).await);
        assert_eq!(late, [Verdict::Fenced; 2], "recorded before, of a batch that is not there");
        assert!(rig.store.results(batch, 0, 9, false).await.unwrap().rows.is_empty());
        assert!(rig.store.results(batch, 0, 9, true).await.unwrap().rows.is_empty());
        rig.remove(batch).await;
        assert_eq!(rig.left().await, 0, "purge first: {purge_first}");
    }
}

/// P1: a crash that is taken back while the batch goes is not noted.
#[tokio::test]
async fn a_crash_that_is_withdrawn_beside_a_purge_leaves_nothing() {
    let mut rig = Rig::new().await;
    let (lease, dead) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(1).await;
    rig.grants(dead, 1, 1).await;
    rig.store.call(died(dead, 0)).await.unwrap();
    let dead = rig.lease(3).await;
    assert!(granted(rig.store.call(claim(dead, 1, 1)).await)[0].alone);
    rig.store.call(died(dead, 0)).await.unwrap();
    assert_eq!(rig.number("select count(*) from attempts where kind = 'crashed'").await, 1);
    assert_eq!(rig.store.abort(batch).await.unwrap(), Operated::Now);
    let holding = rig.holding(&lock_batch(batch)).await;
    let purging = rig.start_purge(batch);
    rig.until_waiting(1).await;
    let withdrawing = rig.start(StoreRequest::WithdrawCrashes { lease: dead });
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(purging.await.unwrap().unwrap(), PurgeBegun::Now);
    withdrawing.await.unwrap().unwrap();
    assert_eq!(rig.number("select count(*) from attempts where kind = 'crash_withdrawn'").await, 0);
    rig.store.call(StoreRequest::WithdrawCrashes { lease: dead }).await.unwrap();
    assert_eq!(rig.number("select count(*) from attempts where kind = 'crash_withdrawn'").await, 0);
    rig.remove(batch).await;
    assert_eq!(rig.left().await, 0);
    rig.store.call(StoreRequest::DropLease { lease }).await.unwrap();
}

/// S3: a slice of an append that is on its way keeps the batch; one that comes later is refused, and no row stays behind.
#[tokio::test]
async fn a_purge_beside_a_slice_of_an_append() {
    let mut rig = Rig::new().await;
    let batch = rig.batch(2).await;
    let done = AppendId::from_random(4);
    rig.store.begin_append(batch, done, Some("done")).await.unwrap();
    assert_eq!(rig.store.append_rows(batch, done, 3, &["3".into()]).await.unwrap(), Staged::Stored);
    let end = AppendEnd { digest: "d".to_owned(), rows: 1 };
    assert!(matches!(rig.store.finish_append(batch, done, end.clone()).await.unwrap(), Appended::Done { .. }));
    let append = AppendId::from_random(5);
    rig.store.begin_append(batch, append, Some("k")).await.unwrap();
    assert_eq!(rig.store.append_rows(batch, append, 4, &["4".into()]).await.unwrap(), Staged::Stored);
    rig.store.abort(batch).await.unwrap();
    let holding = rig.holding("select from appends for update").await;
    assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Busy);
    assert!(rig.store.batch(batch).await.unwrap().is_some());
    holding.commit().await;
    assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
    let refused = rig.store.append_rows(batch, append, 5, &["5".into()]).await.unwrap();
    assert_eq!(refused, Staged::Refused { status: None });
    // One that is done, too, of which there is still a record.
    for (id, key) in [(done, None), (AppendId::from_random(6), Some("done"))] {
        let refused = rig.store.begin_append(batch, id, key).await.unwrap();
        assert_eq!(refused, Begun::Refused { status: None }, "{key:?}");
    }
    assert_eq!(rig.store.finish_append(batch, done, end).await.unwrap(), Appended::Refused { status: None });
    let refused = rig.store.begin_append(batch, append, Some("k")).await.unwrap();
    assert_eq!(refused, Begun::Refused { status: None });
    rig.remove(batch).await;
    assert_eq!(rig.left().await, 0);
}

/// S7: a completion call that is claimed, or being claimed, keeps the batch.
#[tokio::test]
async fn a_completion_call_under_way_keeps_the_batch() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let (batch, _) = rig.ended(lease, 1).await;
    let mut holding = rig.holding("select from completions for update").await;
    assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Busy);
    holding.and("update completions set lease = 1, token = 9").await;
    holding.commit().await;
    assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Busy);
    execute(&mut rig.raw, "update completions set delivered_at = 1").await;
    assert_eq!(rig.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
    rig.remove(batch).await;
    assert_eq!(rig.left().await, 0);
}

async fn purge_all(store: PostgresStore) -> purge::Purged {
    let found = store.purgeable(NO_AGE).await.unwrap();
    purge::all(&store, &found, &mut |_: &purge::Purged| ()).await.unwrap()
}

/// Two purges at once remove everything, and each row once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_purges_at_once_do_the_work_of_one() {
    const BATCHES: usize = 12;
    let mut rig = Rig::new().await;
    for _ in 0..BATCHES {
        let batch = rig.batch(700).await;
        rig.store.abort(batch).await.unwrap();
    }
    // One that was cut off before.
    let cut_off = rig.batch(50).await;
    rig.store.abort(cut_off).await.unwrap();
    assert_eq!(rig.store.begin_purge(cut_off, ALL).await.unwrap(), PurgeBegun::Now);
    assert_eq!(rig.store.purge_slice(cut_off, 20).await.unwrap().rows, 20);
    let (one, two) = (rig.store.for_renewals().await.unwrap(), rig.store.for_renewals().await.unwrap());
    let (one, two) = (tokio::spawn(purge_all(one)), tokio::spawn(purge_all(two)));
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!(one.rows + two.rows, 700 * BATCHES as u64 + 30, "{one:?} {two:?}");
    assert_eq!((rig.left().await, one.left.len() + two.left.len()), (0, 0));
}

/// A slice that has to wait, for whatever reason, holds up nobody who works on another batch, nor submits one.
#[tokio::test]
async fn workers_of_other_batches_do_not_wait_for_a_slice() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let large = rig.batch(1000).await;
    rig.store.abort(large).await.unwrap();
    assert_eq!(rig.store.begin_purge(large, ALL).await.unwrap(), PurgeBegun::Now);
    let holding =
        rig.holding(&format!("select from rows where batch = {} and line = 90 for update", large.number())).await;
    let store = rig.store.clone();
    let slice = tokio::spawn(async move { store.purge_slice(large, 100).await });
    rig.until_waiting(1).await;
    let others = async {
        let batch = rig.batch(2).await;
        let grants = rig.grants(lease, 1, 2).await;
        let recorded = verdicts(rig.store.call(record(lease, &grants, &success())).await);
        assert_eq!(recorded, [Verdict::Recorded(Recorded::Success); 2]);
        assert!(matches!(rig.store.call(StoreRequest::Look).await.unwrap(), StoreReply::Look(_)));
        assert_eq!(rig.store.batches().await.unwrap().len(), 1);
        rig.store.remove_load(batch).await.unwrap();
    };
    tokio::time::timeout(STUCK, others).await.expect("nobody waits");
    holding.commit().await;
    assert_eq!(slice.await.unwrap().unwrap().rows, 100, "no more than was asked");
    assert_eq!(rig.number(&format!("select min(line) from rows where batch = {}", large.number())).await, 101);
}

/// S6, T2: a slice of leases goes through the batches once, and not once per lease.
#[tokio::test]
async fn a_slice_of_leases_costs_what_leases_and_batches_add_up_to() {
    const LEASES: i64 = 1000;
    const BATCHES: i64 = 2000;
    let mut rig = Rig::new().await;
    // Each batch was open for a moment, and each lease lived for one; every tenth began when its batch ended.
    let insert = format!(
        "insert into leases (lease, id, worker, stable_name, ttl_ms, renew_ms, expires_at, state, operations, taken_at, ended_at)
         select n, n::text, 'w', false, 1, 1, 1, 'dropped', '[]', n * 10 + case when n % 10 = 0 then 1 else 5 end, n * 10 + 7
         from generate_series(1, {LEASES}) n;
         insert into batches (batch, id, operation, status, attempts_max, crashes_max, timeout_ms, created_at, ended_at)
         select n, n::text, 'op', 'aborted', 1, 1, 1, n * 10, n * 10 + 1 from generate_series(1, {BATCHES}) n;
         analyze"
    );
    execute(&mut rig.raw, &insert).await;
    let function = rig.text("select pg_get_functiondef('purge_leases'::regproc)").await;
    let statement =
        function.split_once("with ended as").and_then(|(_, after)| after.split_once(';')).expect("its look").0;
    let (select, from) =
        statement.split_once("into v_count, next_after, v_unused").expect("where it puts what it finds");
    let mut explain = format!("explain (analyze, timing off, format json) with ended as{select}{from}");
    for (parameter, value) in [("p_ended_before", i64::MAX), ("p_after", -1), ("p_look_at", LEASES)] {
        explain = explain.replace(parameter, &value.to_string());
    }
    let plan = sqlx::query(AssertSqlSafe(explain)).fetch_one(&mut rig.raw).await.unwrap();
    let plan: Value = serde_json::from_str(plan.get_unchecked(0)).unwrap();
    let rows = rows_handled(&plan[0]["Plan"]);
    assert!(rows >= LEASES + BATCHES, "it looks at them: {plan:#}");
    assert!(rows <= 20 * (LEASES + BATCHES), "{rows} rows: {plan:#}");

    let (mut removed, mut after) = (0, None);
    loop {
        let slice = rig.store.purge_leases(ALL, after).await.unwrap();
        removed += slice.removed;
        after = slice.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(i64::try_from(removed).unwrap(), LEASES * 9 / 10);
    assert_eq!(rig.number("select count(*) from leases where lease % 10 <> 0").await, 0);
}

/// How many rows a plan's nodes handed on or threw away, each as often as it did.
fn rows_handled(node: &Value) -> i64 {
    let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
    let each = number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Join Filter");
    let own = (each * number("Actual Loops")) as i64;
    own + node["Plans"].as_array().into_iter().flatten().map(rows_handled).sum::<i64>()
}
