//! S7: what a claim of a completion call reads, and who hears of one that is given back.

use fencepost::store::{Changes, Operates, Store, WorkerStore};
use fencepost_core::LeaseId;
use fencepost_core::calls::{CallOutcome, CallVerdict, Calls, ClaimCall, ClaimCallReply, RecordCall};
use fencepost_core::store::{StoreReply, StoreRequest};
use sqlx::{AssertSqlSafe, Row};

use crate::rig::{Rig, STUCK, execute};

/// Replaces all calls by so many undelivered ones.
async fn fill(rig: &mut Rig, calls: u32, url: &str, not_before: &str) {
    let sql = format!(
        "truncate completions;
         insert into completions
             (batch, generation, operation, url, status, success, failed, aborted, ended_at, not_before, attempts)
         select 4294967296 + i, 1, 'op', {url}, 'success', 1, 0, 0, i, {not_before}, 1 from generate_series(1, {calls}) i"
    );
    execute(&mut rig.raw, &sql).await;
}

/// How many blocks a claim reads, whatever the statistics say; it is rolled back. The session knows its tables by then.
async fn blocks(rig: &mut Rig, lease: LeaseId) -> i64 {
    let claim = format!(
        "select * from claim_call({}, array['op'], true, array['http://host/hooks'], array[]::bigint[], 1000000)",
        lease.number()
    );
    execute(&mut rig.raw, &format!("begin; {claim}; rollback; begin")).await;
    let explain = format!("explain (analyze, buffers, format json) {claim}");
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut rig.raw).await.unwrap();
    execute(&mut rig.raw, "rollback").await;
    let plan: serde_json::Value = serde_json::from_str(row.try_get_unchecked(0).unwrap()).unwrap();
    let plan = &plan[0]["Plan"];
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test]
async fn a_claim_reads_as_much_with_many_undelivered_calls_as_with_a_few() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    // An autovacuum's analysis in between would have the claim planned anew, which reads a hundred blocks of the catalog.
    execute(&mut rig.raw, "alter table completions set (autovacuum_enabled = off)").await;
    for url in ["null", "'http://host/hooks/' || i", "'http://host/other/' || i"] {
        for not_before in ["null", "2000000 + i", "1 + i"] {
            fill(&mut rig, 100, url, not_before).await;
            let few = blocks(&mut rig, lease).await;
            fill(&mut rig, 5000, url, not_before).await;
            let many = blocks(&mut rig, lease).await;
            assert!(many < few * 2 + 30, "{url}, {not_before}: {few} blocks with few, {many} with many");
        }
    }
}

#[tokio::test]
async fn calls_that_others_make_do_not_hide_the_few_that_this_worker_makes() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    fill(&mut rig, 500, "'http://host/other/' || i", "null").await;
    for (batch, url, ended_at) in
        [(7, "http://host/hooks?a", 900), (8, "http://host/hooks/b", 800), (9, "http://host/hooksmith", 1)]
    {
        let sql =
            format!("update completions set url = '{url}', ended_at = {ended_at} where batch = 4294967296 + {batch}");
        execute(&mut rig.raw, &sql).await;
    }
    let calls = Calls { operations: vec!["op".into()], command: true, urls: vec!["http://host/hooks".into()] };
    let reply = rig.store.call(StoreRequest::ClaimCall(ClaimCall { lease, calls, known: Vec::new() })).await.unwrap();
    let StoreReply::ClaimCall(ClaimCallReply::Granted { call: Some(call), .. }) = reply else { panic!("{reply:?}") };
    assert_eq!(call.end.url.as_deref(), Some("http://host/hooks/b"));
}

#[tokio::test]
async fn a_call_that_is_given_back_is_told() {
    let rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(1).await;
    rig.store.abort(batch).await.unwrap();
    let calls = Calls { operations: vec!["op".into()], command: true, urls: Vec::new() };
    let reply = rig.store.call(StoreRequest::ClaimCall(ClaimCall { lease, calls, known: Vec::new() })).await.unwrap();
    let StoreReply::ClaimCall(ClaimCallReply::Granted { call: Some(call), .. }) = reply else { panic!("{reply:?}") };
    let mut changes = rig.store.changes().await.unwrap();
    let record = RecordCall { lease, key: call.key, outcome: CallOutcome::GivenBack };
    let reply = rig.store.call(StoreRequest::RecordCall(record)).await.unwrap();
    assert_eq!(reply, StoreReply::RecordCall(CallVerdict::Recorded));
    assert!(tokio::time::timeout(STUCK, changes.next()).await.expect("it is told").unwrap().ended);
}

/// An entry of an index has a largest size; what a batch was submitted with must not keep it from ending.
#[tokio::test]
async fn a_batch_ends_whatever_the_length_of_its_url() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(1).await;
    // Not to be compressed.
    let url = "'http://host/hooks/' || (select string_agg(md5(i::text), '') from generate_series(1, 300) i)";
    execute(&mut rig.raw, &format!("update batches set on_done_url = {url} where batch = {}", batch.number())).await;
    rig.store.abort(batch).await.unwrap();
    let calls = Calls { operations: vec!["op".into()], command: false, urls: vec!["http://host/hooks".into()] };
    let reply = rig.store.call(StoreRequest::ClaimCall(ClaimCall { lease, calls, known: Vec::new() })).await.unwrap();
    let StoreReply::ClaimCall(ClaimCallReply::Granted { call: Some(call), .. }) = reply else { panic!("{reply:?}") };
    assert_eq!(call.end.url.map(|url| url.len()), Some(18 + 9600));
}
