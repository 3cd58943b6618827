//! The embedded store against its real file: each paragraph of `docs/store.md`, several handles and processes at once,
//! files that are something else, kills.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded, SLICE_ROWS};
use fencepost::store::sqlite::{Clock, SqliteStore, path_of};
use fencepost::store::view::{Resolved, RowStatus};
use fencepost::store::{Changes, Loads, OpenMode, Operates, Reads, Store, WorkerStore};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, LookReply, ProcessIdentity, Record, RecordItem, Recorded, Recover,
    RecoverReply, RenewReply, StoreFailure, StoreReply, StoreRequest, TakeLease, TakeLeaseReply, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

/// A clock that only the test moves.
#[derive(Clone, Default)]
struct StepClock(Arc<AtomicI64>);

impl Clock for StepClock {
    fn now(&self) -> StoreTime {
        StoreTime(self.0.load(Ordering::SeqCst))
    }
}

impl StepClock {
    fn step(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
    clock: StepClock,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let clock = StepClock::default();
        clock.step(Duration::from_secs(1_000_000));
        Self { _directory: directory, path, clock }
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open_with_clock(&self.path, OpenMode::Create, Arc::new(self.clock.clone())).await.unwrap()
    }
}

fn spec() -> BatchSpec {
    BatchSpec {
        operation: "op".to_owned(),
        attempts_max: 3,
        crashes_max: 3,
        timeout: Duration::from_secs(60),
        priority: 0,
        header: Some(vec!["name".to_owned()]),
        source: Some("names.csv".to_owned()),
        on_done_url: None,
    }
}

async fn load(store: &SqliteStore, spec: BatchSpec, rows: u64) -> BatchId {
    let batch = store.begin_load(spec).await.unwrap();
    let inputs: Vec<Box<str>> =
        (1..=rows).map(|line| format!("{{\"line\":{line},\"name\":\"some name here\"}}").into()).collect();
    for (index, slice) in inputs.chunks(SLICE_ROWS).enumerate() {
        store.load_rows(batch, (index * SLICE_ROWS) as u64 + 1, slice).await.unwrap();
    }
    let end = LoadEnd { key: None, digest: "d".to_owned(), total: rows };
    assert_eq!(store.finish_load(batch, end).await.unwrap(), Loaded::New);
    batch
}

fn lease_id(number: u64) -> LeaseId {
    LeaseId::from_random(number)
}

async fn take_lease(store: &SqliteStore, number: u64) -> LeaseId {
    let lease = lease_id(number);
    let take = TakeLease {
        lease,
        worker: format!("w{number}"),
        stable_name: false,
        ttl: Duration::from_secs(60),
        renew: Duration::from_secs(30),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    let reply = store.call(StoreRequest::TakeLease(take)).await.unwrap();
    assert_eq!(reply, StoreReply::TakeLease(TakeLeaseReply::Taken));
    lease
}

fn claim_of(lease: LeaseId, number: u64, lines_max: u64) -> Claim {
    Claim { lease, number, operations: vec!["op".to_owned()], lines_max, bytes_max: 8 << 20, idle: true }
}

async fn claim_reply(store: &SqliteStore, claim: Claim) -> ClaimReply {
    match store.call(StoreRequest::Claim(claim)).await.unwrap() {
        StoreReply::Claim(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn claim(store: &SqliteStore, lease: LeaseId, number: u64, lines_max: u64) -> Vec<Grant> {
    match claim_reply(store, claim_of(lease, number, lines_max)).await {
        ClaimReply::Granted { grants, .. } => grants,
        other => panic!("{other:?}"),
    }
}

fn items(grants: &[Grant], answer: &Answer) -> Vec<RecordItem> {
    let of_grant = |grant: &Grant| {
        let item = |line| RecordItem {
            batch: grant.batch,
            line,
            token: grant.token,
            answer: answer.clone(),
            run_time: Duration::from_millis(5),
        };
        grant.rows.iter().map(|row| item(row.line)).collect::<Vec<_>>()
    };
    grants.iter().flat_map(of_grant).collect()
}

async fn record(store: &SqliteStore, lease: LeaseId, items: Vec<RecordItem>) -> Vec<Verdict> {
    match store.call(StoreRequest::Record(Record { lease, items })).await.unwrap() {
        StoreReply::Record(verdicts) => verdicts,
        other => panic!("{other:?}"),
    }
}

fn success() -> Answer {
    Answer::Success("{\"ok\":true,\"value\":12345}".into())
}

async fn reply(store: &SqliteStore, request: StoreRequest) -> StoreReply {
    store.call(request).await.unwrap()
}

async fn renew(store: &SqliteStore, lease: LeaseId, batches: Vec<BatchId>) -> RenewReply {
    match reply(store, StoreRequest::Renew { lease, batches }).await {
        StoreReply::Renew(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn recover(store: &SqliteStore, lease: LeaseId, renewals: u64, cause: EndCause) -> RecoverReply {
    let seen_at = look(store).await.now;
    let request = Recover { lease, renewals, seen_at, cause, judge: None };
    match reply(store, StoreRequest::Recover(request)).await {
        StoreReply::Recover(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn look(store: &SqliteStore) -> LookReply {
    match reply(store, StoreRequest::Look).await {
        StoreReply::Look(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn lines(grants: &[Grant]) -> Vec<u64> {
    grants.iter().flat_map(|grant| grant.rows.iter().map(|row| row.line)).collect()
}

fn retry(jitter: u64) -> Answer {
    Answer::Retry { error: "again".into(), jitter, timed_out: false }
}

async fn kinds(store: &SqliteStore, batch: BatchId, line: u64) -> Vec<String> {
    let story = store.row_story(batch, line).await.unwrap().unwrap();
    story.entries.into_iter().map(|entry| entry.kind).collect()
}

/// Another connection, for what an operator or another program does to the file.
async fn raw(path: &Path) -> sqlx::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    sqlx::ConnectOptions::connect(&options).await.unwrap()
}

async fn number(path: &Path, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut raw(path).await).await.unwrap()
}

#[tokio::test]
async fn take_lease_is_repeated_as_it_is_and_a_stable_name_is_held_once() {
    let place = Place::new();
    let store = place.open().await;
    let mut take = TakeLease {
        lease: lease_id(1),
        worker: "alpha".to_owned(),
        stable_name: true,
        ttl: Duration::from_secs(60),
        renew: Duration::from_secs(30),
        process: Some(ProcessIdentity { machine: "m".to_owned(), pid: 7, start_ticks: 9 }),
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    };
    for _ in 0..2 {
        let taken = reply(&store, StoreRequest::TakeLease(take.clone())).await;
        assert_eq!(taken, StoreReply::TakeLease(TakeLeaseReply::Taken));
    }
    take.lease = lease_id(2);
    let held = reply(&store, StoreRequest::TakeLease(take.clone())).await;
    let StoreReply::TakeLease(TakeLeaseReply::NameHeld { holder, now }) = held else { panic!("{held:?}") };
    assert_eq!((holder.lease, holder.process), (lease_id(1), take.process.clone()));
    assert_eq!((now, holder.expires_at), (place.clock.now(), place.clock.now() + take.ttl));
    reply(&store, StoreRequest::DropLease { lease: lease_id(1) }).await;
    let taken = reply(&store, StoreRequest::TakeLease(take.clone())).await;
    assert_eq!(taken, StoreReply::TakeLease(TakeLeaseReply::Taken));
    take.lease = lease_id(1);
    let ended = reply(&store, StoreRequest::TakeLease(take)).await;
    assert_eq!(ended, StoreReply::TakeLease(TakeLeaseReply::Ended));
}

#[tokio::test]
async fn renew_extends_names_closed_batches_and_is_refused_for_ever_once_the_lease_ended() {
    let place = Place::new();
    let store = place.open().await;
    let (open, done) = (load(&store, spec(), 3).await, load(&store, spec(), 0).await);
    let nowhere = BatchId::from_random(5);
    let lease = take_lease(&store, 1).await;
    place.clock.step(Duration::from_secs(100));
    let renewed = renew(&store, lease, vec![open, done, nowhere]).await;
    assert_eq!(renewed, RenewReply::Renewed { closed: vec![done, nowhere] }, "even past its time");
    let seen = look(&store).await;
    assert_eq!((seen.leases[0].renewals, seen.leases[0].expires_at), (1, place.clock.now() + Duration::from_secs(60)));
    assert_eq!(recover(&store, lease, 0, EndCause::Lapsed).await, RecoverReply::Spared, "renewed since it was seen");
    recover(&store, lease, 1, EndCause::TakenOver).await;
    assert_eq!(renew(&store, lease, vec![]).await, RenewReply::Refused { taken_over: true });
    assert_eq!(renew(&store, lease_id(9), vec![]).await, RenewReply::Refused { taken_over: false });
}

#[tokio::test]
async fn dropping_a_lease_frees_all_it_holds_without_an_attempt() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 10).await;
    let (one, two) = (take_lease(&store, 1).await, take_lease(&store, 2).await);
    let first = claim(&store, one, 1, 4).await;
    claim(&store, one, 2, 4).await;
    record(&store, one, items(&first[..1], &success())[1..2].to_vec()).await;
    reply(&store, StoreRequest::DropLease { lease: one }).await;
    reply(&store, StoreRequest::DropLease { lease: one }).await;
    assert_eq!(kinds(&store, batch, 1).await, ["given_back"]);
    let back = claim(&store, two, 1, 100).await;
    assert_eq!(lines(&back), [1, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert!(back.iter().all(|grant| grant.token > first[0].token && grant.suspicion == 0));
    assert!(back.iter().all(|grant| grant.recovered_from.is_none() && grant.rows[0].attempts == 0));
    let late = record(&store, one, items(&first[..1], &success())).await;
    assert_eq!(late, [Verdict::Fenced, Verdict::RecordedBefore, Verdict::Fenced, Verdict::Fenced]);
}

#[tokio::test]
async fn a_claim_is_numbered_bounded_and_in_order() {
    let place = Place::new();
    let store = place.open().await;
    let low = load(&store, spec(), 6).await;
    let high = load(&store, BatchSpec { priority: 1, ..spec() }, 2).await;
    let lease = take_lease(&store, 1).await;
    assert_eq!(claim_reply(&store, claim_of(lease_id(7), 1, 1)).await, ClaimReply::LeaseEnded);
    let grants = claim(&store, lease, 1, 100).await;
    assert_eq!((grants[0].batch, lines(&grants)), (high, vec![1, 2]));
    assert_eq!(claim_reply(&store, claim_of(lease, 1, 1)).await, ClaimReply::Closed);
    let small = Claim { bytes_max: 1, ..claim_of(lease, 2, 100) };
    let ClaimReply::Granted { grants, .. } = claim_reply(&store, small).await else { panic!() };
    assert_eq!((grants[0].batch, lines(&grants)), (low, vec![1]), "the first line whatever its size");
    let other = Claim { operations: vec!["other".to_owned()], ..claim_of(lease, 3, 100) };
    let nothing = ClaimReply::Granted { grants: vec![], suspect_waits: false, next_after: None, open_lines: false };
    assert_eq!(claim_reply(&store, other).await, nothing);
    sqlx::query("update batches set held = 1").execute(&mut raw(&place.path).await).await.unwrap();
    let nothing = ClaimReply::Granted { grants: vec![], suspect_waits: false, next_after: None, open_lines: true };
    assert_eq!(claim_reply(&store, claim_of(lease, 4, 100)).await, nothing, "held");
}

#[tokio::test]
async fn a_claim_splits_free_spans_and_takes_them_before_fresh_lines() {
    let place = Place::new();
    let store = place.open().await;
    load(&store, spec(), 10).await;
    let lease = take_lease(&store, 1).await;
    let first = claim(&store, lease, 1, 5).await;
    let given = vec![(first[0].batch, first[0].token, LineSet::range(1, 4))];
    reply(&store, StoreRequest::GiveBack { lease, lines: given }).await;
    let again = claim(&store, lease, 2, 3).await;
    assert_eq!(lines(&again), [1, 2, 3]);
    let rest = claim(&store, lease, 3, 3).await;
    assert_eq!(lines(&rest), [4, 6, 7]);
    assert_eq!(rest.len(), 2, "a free span and a fresh one");
    let tokens: Vec<u64> = again.iter().chain(&rest).map(|grant| grant.token.0).collect();
    assert_eq!(tokens, [3, 5, 6], "the remainder drew the fourth");
}

#[tokio::test]
async fn settling_closes_the_number_and_reads_what_that_claim_took() {
    let place = Place::new();
    let store = place.open().await;
    load(&store, spec(), 10).await;
    let lease = take_lease(&store, 1).await;
    let taken = claim(&store, lease, 1, 3).await;
    claim(&store, lease, 2, 3).await;
    let settle = |number| StoreRequest::SettleClaim { lease, number };
    assert_eq!(reply(&store, settle(1)).await, StoreReply::SettleClaim(taken, vec![]));
    assert_eq!(reply(&store, settle(5)).await, StoreReply::SettleClaim(vec![], vec![]));
    assert_eq!(claim_reply(&store, claim_of(lease, 5, 1)).await, ClaimReply::Closed);
    recover(&store, lease, 0, EndCause::Died).await;
    assert_eq!(reply(&store, settle(2)).await, StoreReply::SettleClaim(vec![], vec![]));
}

/// S2: a settling may arrive twice, the second time when the lines that it granted run and their batch was aborted.
#[tokio::test]
async fn settling_tells_what_was_stopped_and_takes_nothing_back() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 10).await;
    let lease = take_lease(&store, 1).await;
    let taken = claim(&store, lease, 1, 3).await;
    let settle = || StoreRequest::SettleClaim { lease, number: 1 };
    assert_eq!(reply(&store, settle()).await, StoreReply::SettleClaim(taken.clone(), vec![]));
    store.abort(batch).await.unwrap();
    let stopped = vec![(batch, taken[0].token, LineSet::range(1, 3))];
    assert_eq!(reply(&store, settle()).await, StoreReply::SettleClaim(vec![], stopped.clone()));
    assert_eq!(store.stopping(batch).await.unwrap()[0].rows, 3, "they may run");
    assert_eq!(reply(&store, StoreRequest::GiveBack { lease, lines: stopped }).await, StoreReply::GiveBack);
    assert_eq!(store.stopping(batch).await.unwrap(), []);
    assert_eq!(reply(&store, settle()).await, StoreReply::SettleClaim(vec![], vec![]));
}

#[tokio::test]
async fn a_group_is_judged_per_line_and_ends_the_batch() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 4).await;
    let lease = take_lease(&store, 1).await;
    let grants = claim(&store, lease, 1, 4).await;
    let mut group = items(&grants, &success());
    group[2].answer = Answer::Failed("no".into());
    group[3].token = Token(77);
    let verdicts = record(&store, lease, group.clone()).await;
    let (now, before) = (Verdict::Recorded(Recorded::Success), Verdict::RecordedBefore);
    assert_eq!(verdicts, [now, now, Verdict::Recorded(Recorded::Failed), Verdict::Fenced]);
    assert_eq!(record(&store, lease, group.clone()).await, [before, before, before, Verdict::Fenced]);
    let counts = store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.success, counts.failed, counts.inprog, counts.fenced), (2, 1, 1, 1), "fenced once");
    group[3].token = grants[0].token;
    assert_eq!(record(&store, lease, group[3..].to_vec()).await, [now]);
    let view = store.batch(batch).await.unwrap().unwrap();
    assert_eq!((view.status, view.ended_at), (BatchStatus::Failed, Some(place.clock.now())));
    assert_eq!(number(&place.path, "select count(*) from completions where success = 3 and failed = 1").await, 1);
    assert_eq!(number(&place.path, "select count(*) from spans").await, 0);
}

#[tokio::test]
async fn a_retry_backs_off_and_the_last_one_fails_the_row() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, BatchSpec { attempts_max: 2, ..spec() }, 1).await;
    let lease = take_lease(&store, 1).await;
    let grants = claim(&store, lease, 1, 1).await;
    let group = items(&grants, &retry(500));
    assert_eq!(record(&store, lease, group.clone()).await, [Verdict::Recorded(Recorded::GivenBack)]);
    assert_eq!(record(&store, lease, group).await, [Verdict::RecordedBefore]);
    let ClaimReply::Granted { grants, next_after, .. } = claim_reply(&store, claim_of(lease, 2, 1)).await else {
        panic!()
    };
    assert_eq!((grants.len(), next_after), (0, Some(Duration::from_secs(1))));
    assert_eq!(look(&store).await.not_before_max, Some(place.clock.now() + Duration::from_secs(1)));
    place.clock.step(Duration::from_secs(1));
    let grants = claim(&store, lease, 3, 1).await;
    assert_eq!(grants[0].rows[0].attempts, 1);
    assert_eq!(record(&store, lease, items(&grants, &retry(0))).await, [Verdict::Recorded(Recorded::Failed)]);
    let story = store.row_story(batch, 1).await.unwrap().unwrap();
    assert_eq!(story.row.outcome.unwrap().attempts, 2);
    assert_eq!(kinds(&store, batch, 1).await, ["retried"]);
}

#[tokio::test]
async fn a_row_that_kills_its_workers_is_found_by_halves_and_fails_alone() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 4).await;
    let (mut claims, mut recovered) = (0, 0);
    let mut end = RecoverReply::Spared;
    for worker in 1..100 {
        let lease = take_lease(&store, worker).await;
        claims += 1;
        let grants = claim(&store, lease, 1, 100).await;
        if grants.is_empty() {
            break;
        }
        assert!(grants.iter().all(|grant| grant.alone == (grant.rows.len() == 1 && grant.suspicion > 0)));
        if lines(&grants).contains(&3) {
            end = recover(&store, lease, 0, EndCause::Died).await;
            recovered += 1;
        } else {
            record(&store, lease, items(&grants, &success())).await;
            reply(&store, StoreRequest::DropLease { lease }).await;
        }
    }
    assert_eq!(end, RecoverReply::Recovered { lines: 0, failed: 1 });
    let counts = store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.success, counts.failed, counts.crashed), (3, 1, 3), "{claims} claims, {recovered} deaths");
    let view = store.row_story(batch, 3).await.unwrap().unwrap();
    assert_eq!(view.row.outcome.unwrap().crashes, 3);
    assert_eq!(counts.batch.status, BatchStatus::Failed);
}

#[tokio::test]
async fn a_living_worker_takes_its_crash_back_once() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 1).await;
    for worker in 1..=2 {
        let lease = take_lease(&store, worker).await;
        claim(&store, lease, 1, 1).await;
        recover(&store, lease, 0, EndCause::Lapsed).await;
    }
    let withdraw = StoreRequest::WithdrawCrashes { lease: lease_id(2) };
    assert_eq!(store.status(batch).await.unwrap().unwrap().crashed, 1);
    for _ in 0..2 {
        reply(&store, withdraw.clone()).await;
    }
    assert_eq!(store.status(batch).await.unwrap().unwrap().crashed, 0);
    assert_eq!(kinds(&store, batch, 1).await, ["recovered", "crashed", "recovered", "crash_withdrawn"]);
}

#[tokio::test]
async fn what_lies_too_far_ahead_is_cut_back() {
    let place = Place::new();
    let store = place.open().await;
    load(&store, spec(), 1).await;
    let lease = take_lease(&store, 1).await;
    let grants = claim(&store, lease, 1, 1).await;
    record(&store, lease, items(&grants, &retry(0))).await;
    place.clock.0.fetch_sub(3_600_000_000, Ordering::SeqCst);
    let backoff_max = Duration::from_secs(600);
    assert_eq!(reply(&store, StoreRequest::CutBack { backoff_max }).await, StoreReply::CutBack);
    let seen = look(&store).await;
    assert_eq!(seen.leases[0].expires_at, place.clock.now() + Duration::from_secs(60));
    assert_eq!(seen.not_before_max, Some(place.clock.now() + backoff_max));
}

#[tokio::test]
async fn a_load_binds_its_key_once_and_leaves_nothing_when_it_is_cut_off() {
    let place = Place::new();
    let store = place.open().await;
    let end = |digest: &str| LoadEnd { key: Some("k".to_owned()), digest: digest.to_owned(), total: 2 };
    let rows: Vec<Box<str>> = vec!["\"a\"".into(), "{\"b\": [1, 2.50, \"\\u00e9\"]}".into()];
    let mut loads = Vec::new();
    for _ in 0..3 {
        let batch = store.begin_load(spec()).await.unwrap();
        store.load_rows(batch, 1, &rows).await.unwrap();
        store.load_rows(batch, 1, &rows).await.unwrap();
        loads.push(batch);
    }
    assert!(store.load_rows(loads[0], 4, &rows).await.is_err(), "a gap");
    assert!(store.finish_load(loads[0], LoadEnd { total: 5, ..end("x") }).await.is_err(), "rows are missing");
    assert_eq!(store.status(loads[0]).await.unwrap().unwrap().queued, 0, "still loading");
    assert_eq!(store.finish_load(loads[0], end("x")).await.unwrap(), Loaded::New);
    assert_eq!(store.finish_load(loads[0], end("x")).await.unwrap(), Loaded::Same(loads[0]), "repeated");
    assert_eq!(store.finish_load(loads[0], end("y")).await.unwrap(), Loaded::Differs(loads[0]), "of other rows");
    assert_eq!(
        number(&place.path, "select count(*) from rows where batch = (select min(batch) from batches where key = 'k')")
            .await,
        2
    );
    assert_eq!(store.finish_load(loads[1], end("x")).await.unwrap(), Loaded::Same(loads[0]));
    assert_eq!(store.finish_load(loads[1], end("x")).await.unwrap(), Loaded::Same(loads[0]), "repeated");
    assert_eq!(store.finish_load(loads[2], end("y")).await.unwrap(), Loaded::Differs(loads[0]));
    let inputs = store.inputs(loads[0], 0, 10).await.unwrap();
    assert_eq!(inputs, [(1, rows[0].clone()), (2, rows[1].clone())], "byte by byte");

    let cut_off = store.begin_load(spec()).await.unwrap();
    store.load_rows(cut_off, 1, &rows).await.unwrap();
    place.clock.step(Duration::from_secs(86_401));
    store.begin_load(spec()).await.unwrap();
    assert_eq!(store.batch(cut_off).await.unwrap(), None);
    assert!(store.load_rows(cut_off, 3, &rows).await.is_err());
    assert_eq!(number(&place.path, "select count(*) from rows").await, 2);
    let empty = load(&store, spec(), 0).await;
    assert_eq!(store.batch(empty).await.unwrap().unwrap().status, BatchStatus::Success);
    assert_eq!(number(&place.path, "select count(*) from completions").await, 1);
}

#[tokio::test]
async fn reads_tell_rows_results_workers_and_prefixes() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 6).await;
    let lease = take_lease(&store, 1).await;
    let grants = claim(&store, lease, 1, 4).await;
    let mut group = items(&grants, &success());
    group[1].answer = Answer::Failed("no".into());
    group[2].answer = retry(0);
    record(&store, lease, group[..3].to_vec()).await;
    let status_lines = |status| {
        let store = store.clone();
        async move {
            let page = store.rows(batch, status, 0, 10).await.unwrap();
            assert_eq!(page.next_after, None);
            page.rows.iter().map(|row| row.line).collect::<Vec<_>>()
        }
    };
    assert_eq!(status_lines(Some(RowStatus::Success)).await, [1]);
    assert_eq!(status_lines(Some(RowStatus::Failed)).await, [2]);
    assert_eq!(status_lines(Some(RowStatus::InProg)).await, [4]);
    assert_eq!(status_lines(Some(RowStatus::Queued)).await, [3, 5, 6]);
    assert_eq!(status_lines(Some(RowStatus::Aborted)).await, [0; 0]);
    let page = store.rows(batch, None, 2, 2).await.unwrap();
    let statuses: Vec<_> = page.rows.iter().map(|row| (row.line, row.status)).collect();
    assert_eq!(statuses, [(3, RowStatus::Queued), (4, RowStatus::InProg)]);
    assert_eq!(page.next_after, Some(4));
    assert_eq!(store.results(batch, 0, 10, false).await.unwrap().rows.len(), 2);
    let failed = store.results(batch, 0, 10, true).await.unwrap().rows;
    assert_eq!(failed[0].outcome.as_ref().unwrap().error.as_deref(), Some("no"));

    let id = batch.to_string();
    assert_eq!(store.resolve_batch(&id[..6]).await.unwrap(), Resolved::Found(batch));
    assert_eq!(store.resolve_batch("").await.unwrap(), Resolved::Found(batch));
    load(&store, spec(), 1).await;
    assert!(matches!(store.resolve_batch("").await.unwrap(), Resolved::Ambiguous(all) if all.len() == 2));
    assert_eq!(store.resolve_batch("%").await.unwrap(), Resolved::None);

    let workers = store.workers(StoreTime(0)).await.unwrap().workers;
    assert_eq!(workers[0].holds, [(batch, LineSet::single(4))]);
    let story = store.row_story(batch, 4).await.unwrap().unwrap();
    assert_eq!(story.span.unwrap().worker.as_deref(), Some("w1"));
    assert_eq!(number(&place.path, "select count(*) from row_status where status = 'inprog'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_at_once_never_overlap_and_the_last_spans_end_the_batch_once() {
    let place = Place::new();
    for _ in 0..10 {
        let store = place.open().await;
        let batch = load(&store, spec(), 200).await;
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let store = place.open().await;
            let lease =
                take_lease(&store, fencepost_core::random::Stream::new(tasks.len() as u64 + batch.number()).next_u64())
                    .await;
            tasks.push(tokio::spawn(async move {
                let mut mine = Vec::new();
                for number in 1.. {
                    let grants = claim(&store, lease, number, 7).await;
                    if grants.is_empty() {
                        return mine;
                    }
                    mine.extend(lines(&grants));
                    let verdicts = record(&store, lease, items(&grants, &success())).await;
                    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Recorded(Recorded::Success)));
                }
                mine
            }));
        }
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all.sort_unstable();
        assert_eq!(all, (1..=200).collect::<Vec<_>>());
        assert_eq!(store.batch(batch).await.unwrap().unwrap().status, BatchStatus::Success);
    }
    assert_eq!(number(&place.path, "select count(*) from completions").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn recovery_against_claims_of_the_same_lease_leaves_no_span_with_the_dead() {
    let place = Place::new();
    let (claimer, judge) = (place.open().await, place.open().await);
    load(&judge, spec(), 1_000).await;
    for worker in 1..=30 {
        let lease = take_lease(&claimer, worker).await;
        let claimer = claimer.clone();
        let (tell, mut claimed) = tokio::sync::watch::channel(0);
        let claims = tokio::spawn(async move {
            for number in 1.. {
                if claim_reply(&claimer, claim_of(lease, number, 3)).await == ClaimReply::LeaseEnded {
                    return;
                }
                let _ = tell.send(number);
            }
        });
        // The next claim is under way.
        claimed.wait_for(|number| *number >= worker % 5).await.unwrap();
        assert!(matches!(recover(&judge, lease, 0, EndCause::Lapsed).await, RecoverReply::Recovered { .. }));
        claims.await.unwrap();
        let sql = "select count(*) from spans s join leases l on l.lease = s.lease where l.state <> 'live'";
        assert_eq!(number(&place.path, sql).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_renewal_is_never_late_while_another_loads() {
    let place = Place::new();
    let store = place.open().await;
    let lease = take_lease(&store, 1).await;
    let loader = place.open().await;
    let long_load = tokio::spawn(async move { load(&loader, spec(), 60_000).await });
    let renewals = store.for_renewals().await.unwrap();
    let mut slowest = Duration::ZERO;
    // Renewals are rare: so frequent ones, without a pause, would keep the load from the lock instead.
    let mut due = tokio::time::interval(Duration::from_millis(5));
    while !long_load.is_finished() {
        due.tick().await;
        let begun = Instant::now();
        assert!(matches!(renew(&renewals, lease, vec![]).await, RenewReply::Renewed { .. }));
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest renewal: {slowest:?}");
    // Wide for machines that run other things; a starved renewal takes seconds.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test]
async fn an_idle_claim_takes_no_lock_and_a_held_lock_is_waited_for_only_so_long() {
    let place = Place::new();
    let store = place.open().await.with_lock_wait(Duration::from_millis(100));
    let lease = take_lease(&store, 1).await;
    assert!(claim(&store, lease, 1, 1).await.is_empty());
    let mut other = raw(&place.path).await;
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    assert!(claim(&store, lease, 2, 1).await.is_empty(), "nothing there: read, not locked");
    let error = store.call(StoreRequest::DropLease { lease }).await.unwrap_err();
    assert_eq!(error.failure, StoreFailure::NotDone);
    assert!(error.message.contains("held the write lock for too long"), "{error}");
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    store.call(StoreRequest::DropLease { lease }).await.unwrap();
}

#[tokio::test]
async fn a_waiter_is_woken_by_what_others_write() {
    let place = Place::new();
    let store = place.open().await;
    let mut changes = store.changes().await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(100), changes.next()).await;
    assert!(quiet.is_err(), "nothing was written");
    let other = place.open().await;
    take_lease(&other, 1).await;
    tokio::time::timeout(Duration::from_secs(5), changes.next()).await.unwrap().unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(100), changes.next()).await;
    assert!(quiet.is_err(), "told once");
}

/// The error and its causes, as a command shows them.
async fn open_error(path: &Path, mode: OpenMode) -> String {
    let error = SqliteStore::open(path, mode).await.unwrap_err();
    let mut text = error.to_string();
    let mut below = std::error::Error::source(&error);
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}

#[tokio::test]
async fn names_that_name_no_file_are_refused_and_leave_none() {
    let directory = tempfile::tempdir().unwrap();
    let error = open_error(Path::new(""), OpenMode::Create).await;
    assert!(error.contains("name is empty"), "{error}");
    let error = open_error(Path::new(":memory:"), OpenMode::Create).await;
    assert!(error.contains("none in memory"), "{error}");
    let long = directory.path().join("x".repeat(250));
    let error = open_error(&long, OpenMode::Create).await;
    assert!(error.contains("too long") && !long.exists(), "{error}");
    for (name, path) in [
        ("rel/store.db", "rel/store.db"),
        ("sqlite:rel/store.db", "rel/store.db"),
        ("sqlite://rel/store.db", "rel/store.db"),
        ("sqlite:///abs/store.db", "/abs/store.db"),
        ("sqlite:/abs/store.db", "/abs/store.db"),
    ] {
        assert_eq!(path_of(name).unwrap(), Path::new(path), "{name}");
    }
    for name in ["", "sqlite:", "sqlite://", ":memory:", "sqlite::memory:", "sqlite://:memory:"] {
        path_of(name).unwrap_err();
    }
}

#[tokio::test]
async fn what_sqlite_says_is_told_once() {
    let place = Place::new();
    let store = place.open().await;
    sqlx::query("drop table completions").execute(&mut raw(&place.path).await).await.unwrap();
    let batch = store.begin_load(spec()).await.unwrap();
    let end = LoadEnd { key: None, digest: "d".to_owned(), total: 0 };
    let error = store.finish_load(batch, end).await.unwrap_err();
    assert_eq!(error.message.matches("no such table").count(), 1, "{error}");
    assert!(error.cause.is_none(), "{:?}", error.cause);
}

/// Opens, looks and closes, so often and so many at once that many of them close last.
fn open_and_close(path: &Path, times: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..times {
            let store = SqliteStore::open(path, OpenMode::Create).await.unwrap();
            let renewals = store.for_renewals().await.unwrap();
            renewals.call(StoreRequest::Look).await.unwrap();
            store.batches().await.unwrap();
            store.changes().await.unwrap();
        }
    });
}

#[test]
fn any_number_of_processes_opens_and_closes_at_once() {
    let place = Place::new();
    open_and_close(&place.path, 1);
    // Two: the store is without any user most often. Eight: they get in each other's way.
    for at_once in [2, 8] {
        let processes: Vec<_> = (0..at_once).map(|_| child(&place.path, "cycle")).collect();
        for process in processes {
            let out = process.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success() && text.contains("cycled"), "{text}");
        }
    }
}

/// One lease, whose renewal is late, and another to judge it.
async fn late_lease(place: &Place) -> SqliteStore {
    let store = place.open().await;
    take_lease(&store, 1).await;
    place.clock.step(Duration::from_secs(40));
    store
}

#[tokio::test]
async fn a_look_is_answered_only_where_a_renewal_could_have_been() {
    let place = Place::new();
    let store = late_lease(&place).await.with_lock_wait(Duration::from_millis(100));
    let mut other = raw(&place.path).await;
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    let error = store.call(StoreRequest::Look).await.unwrap_err();
    assert_eq!(error.failure, StoreFailure::NotDone);
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    look(&store).await;
}

#[tokio::test]
async fn a_look_at_a_late_lease_writes_and_others_do_not() {
    let place = Place::new();
    let store = place.open().await;
    take_lease(&store, 1).await;
    let mut other = raw(&place.path).await;
    let mut seen = async || sqlx::query_scalar::<_, i64>("pragma data_version").fetch_one(&mut other).await.unwrap();
    let before = seen().await;
    look(&store).await;
    assert_eq!(seen().await, before, "none is late");
    place.clock.step(Duration::from_secs(40));
    look(&store).await;
    let after = seen().await;
    assert_ne!(after, before);
    look(&store).await;
    assert_ne!(seen().await, after, "at the same moment too");
}

#[tokio::test]
async fn a_look_fails_where_nothing_can_be_written() {
    let place = Place { clock: StepClock::default(), ..Place::new() };
    // Past its time by the real clock, which the child goes by.
    let store = late_lease(&place).await;
    load(&store, spec(), 2_000).await;
    let log = std::fs::metadata(place.path.with_extension("db-wal")).unwrap().len();
    let blocks_of_512 = (log - 4096) / 512;
    assert!(blocks_of_512 > 64 * 2, "the other files fit in the limit");
    // As on a full disk, the log cannot grow; the file can be read.
    let script = format!("trap '' XFSZ; ulimit -f {blocks_of_512}; exec \"$0\" --exact child_process --nocapture");
    let child = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, format!("look:{}", place.path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains("acknowledged NotDone") || said.contains("acknowledged Unknown"), "{said} {child:?}");
}

#[tokio::test]
async fn files_that_are_something_else_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let error = open_error(directory.path(), OpenMode::Create).await;
    assert!(error.contains("is a directory"), "{error}");
    let error = open_error(&at("missing"), OpenMode::Existing).await;
    assert!(error.contains("no such file"), "{error}");
    let error = open_error(&at("no/such/place"), OpenMode::Create).await;
    assert!(error.contains("there is no directory"), "{error}");
    for (name, text) in [("short", "name,code\n".to_owned()), ("long", "name,code\n".repeat(1000))] {
        std::fs::write(at(name), text).unwrap();
        let error = open_error(&at(name), OpenMode::Create).await;
        assert!(error.contains("not an SQLite database"), "{error}");
    }
    std::fs::write(at("nothing"), "").unwrap();
    let error = open_error(&at("nothing"), OpenMode::Existing).await;
    assert!(error.contains("empty"), "{error}");
    sqlx::query("create table store (x)").execute(&mut raw(&at("foreign")).await).await.unwrap();
    let error = open_error(&at("foreign"), OpenMode::Create).await;
    assert!(error.contains("some other program"), "{error}");
    assert_eq!(number(&at("foreign"), "select count(*) from pragma_journal_mode where journal_mode = 'wal'").await, 0);
    SqliteStore::open(at("nothing"), OpenMode::Create).await.unwrap();
}

#[tokio::test]
async fn a_newer_store_is_refused_unless_it_accepts_this_program() {
    let place = Place::new();
    place.open().await;
    sqlx::query("update store set schema_version = 9").execute(&mut raw(&place.path).await).await.unwrap();
    SqliteStore::open(&place.path, OpenMode::Existing).await.unwrap();
    sqlx::query("update store set worker_version_min = 8").execute(&mut raw(&place.path).await).await.unwrap();
    let error = open_error(&place.path, OpenMode::Existing).await;
    assert!(error.contains("version 9") && error.contains("update fencepost"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 2_000).await;
    drop(store);
    let mut other = raw(&place.path).await;
    sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut other).await.unwrap();
    drop(other);
    let mut bytes = std::fs::read(&place.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    std::fs::write(&place.path, bytes).unwrap();
    let error = match SqliteStore::open(&place.path, OpenMode::Existing).await {
        Err(error) => error.to_string(),
        Ok(store) => store.rows(batch, None, 0, 5_000).await.unwrap_err().to_string(),
    };
    assert!(error.contains("damaged") || error.contains("malformed"), "{error}");
}

/// What a child process of these tests is to do, and where.
const CHILD: &str = "FENCEPOST_TEST_CHILD";

fn child(path: &Path, what: &str) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .env(CHILD, format!("{what}:{}", path.display()))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Does nothing unless a test starts it in a process of its own.
#[tokio::test]
async fn child_process() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (what, path) = what.split_once(':').unwrap();
    if what == "cycle" {
        let path = PathBuf::from(path);
        std::thread::spawn(move || open_and_close(&path, 80)).join().unwrap();
        println!("cycled");
        return;
    }
    let store = SqliteStore::open(path, OpenMode::Create).await.unwrap();
    match what {
        "open" => println!("opened {}", store.store_id()),
        "load" => loop {
            let batch = load(&store, spec(), 20_000).await;
            println!("acknowledged {batch}");
        },
        "record" => record_for_ever(&store).await,
        "look" => match store.call(StoreRequest::Look).await {
            Ok(_) => println!("acknowledged look"),
            Err(error) => println!("acknowledged {:?}: {error}", error.failure),
        },
        other => panic!("{other}"),
    }
}

async fn record_for_ever(store: &SqliteStore) {
    let lease = take_lease(store, 1).await;
    for number in 1.. {
        let grants = claim(store, lease, number, 10).await;
        record(store, lease, items(&grants, &success())).await;
        for line in lines(&grants) {
            println!("acknowledged {line}");
        }
    }
}

/// Lets the child acknowledge so many things, kills it, and tells what it had acknowledged.
fn kill_after(mut child: std::process::Child, count: usize) -> Vec<String> {
    use std::io::BufRead;
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if let Some((_, what)) = line.split_once("acknowledged ") {
            acknowledged.push(what.trim().to_owned());
        }
        if acknowledged.len() == count {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let place = Place::new();
    let store = place.open().await;
    let batch = load(&store, spec(), 5_000).await;
    let recorded = kill_after(child(&place.path, "record"), 500);
    assert!(recorded.len() >= 500);
    let page = store.results(batch, 0, 5_000, false).await.unwrap();
    let there: std::collections::HashSet<String> = page.rows.iter().map(|row| row.line.to_string()).collect();
    assert!(recorded.iter().all(|line| there.contains(line)), "an acknowledged outcome is lost");
    let counts = store.status(batch).await.unwrap().unwrap();
    assert_eq!(counts.success, there.len() as u64, "counts are exact whenever it was killed");
    assert_eq!(counts.success + counts.inprog + counts.queued, 5_000);

    let loaded = kill_after(child(&place.path, "load"), 1);
    for id in loaded {
        let counts = store.status(id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(counts.queued, 20_000);
    }
    let others = store.batches().await.unwrap();
    assert!(others.iter().all(|batch| batch.status == BatchStatus::Loading || batch.total >= 5_000));
    assert_eq!(
        sqlx::query_scalar::<_, String>("pragma integrity_check").fetch_one(&mut raw(&place.path).await).await.unwrap(),
        "ok"
    );
}

#[tokio::test]
async fn eight_processes_make_one_store() {
    let place = Place::new();
    for _ in 0..3 {
        let path = place.path.with_extension(format!(
            "{}",
            fencepost_core::random::Stream::new(place.clock.0.fetch_add(1, Ordering::SeqCst) as u64).next_u64()
        ));
        let children: Vec<_> = (0..8).map(|_| child(&path, "open")).collect();
        let mut ids = std::collections::HashSet::new();
        for child in children {
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{out:?}");
            let out = String::from_utf8(out.stdout).unwrap();
            let (_, id) = out.split_once("opened ").unwrap();
            ids.insert(id.split_whitespace().next().unwrap().to_owned());
        }
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
}
