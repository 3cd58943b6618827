//! Effects against the store itself (O7): panics, slow groups, and values that nobody wants any more.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fencepost::handler::transactional::{ApplyingStore, TransactionalHandler, transactional};
use fencepost::handler::typed::{Context, RowError};
use fencepost::handler::{Canceller, Handler, HandlerAnswer, Row};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{OpenMode, Store, WorkerStore};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Record, RecordItem, Recorded, StoreReply, StoreRequest, TakeLease, Verdict,
};
use fencepost_core::worker::RunKey;
use fencepost_core::{LeaseId, LineSet};
use sqlx::{Sqlite, SqliteConnection};

use self::support::until::until;

mod support {
    pub mod until;
}

/// What a run found out: counted while it is kept.
struct Value {
    number: u64,
    kept: Arc<AtomicUsize>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.kept.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Each number is written; what else happens depends on it.
#[derive(Clone, Default)]
struct Effect {
    kept: Arc<AtomicUsize>,
    applied: Arc<AtomicUsize>,
}

const STORE: &str = "store.db";
const PANICS: u64 = 2;
const SLOW: u64 = 100;
const ENDLESS: u64 = 200;
const TAKES: Duration = Duration::from_millis(120);

impl TransactionalHandler for Effect {
    type Database = Sqlite;
    type Input = u64;
    type Value = Value;
    type Output = u64;

    async fn run(&self, _: Context, number: u64) -> Result<Value, RowError> {
        self.kept.fetch_add(1, Ordering::SeqCst);
        Ok(Value { number, kept: self.kept.clone() })
    }

    async fn apply(&self, conn: &mut SqliteConnection, _: RunKey, value: &Value) -> Result<u64, RowError> {
        sqlx::query("insert into effects (number) values (?1)")
            .bind(i64::try_from(value.number).unwrap())
            .execute(conn)
            .await?;
        assert_ne!(value.number, PANICS, "this number is too much");
        match value.number {
            SLOW..ENDLESS => tokio::time::sleep(TAKES).await,
            ENDLESS.. => std::future::pending().await,
            _ => {}
        }
        self.applied.fetch_add(1, Ordering::SeqCst);
        Ok(value.number)
    }
}

/// A worker's part, played by the test.
struct Stage<H> {
    directory: tempfile::TempDir,
    raw: SqliteConnection,
    handler: H,
    store: ApplyingStore<SqliteStore>,
    effect: Effect,
    lease: LeaseId,
    grants: Vec<Grant>,
}

async fn stage(numbers: impl IntoIterator<Item = u64, IntoIter: Send>, lock_wait: Duration) -> Stage<impl Handler> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STORE);
    let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut raw = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query("create table effects (number integer)").execute(&mut raw).await.unwrap();
    load::values(&store, BatchSpec::new("op"), None, numbers).await.unwrap();
    let effect = Effect::default();
    let (handler, store) = transactional(effect.clone(), store.with_lock_wait(lock_wait));
    let mut stage =
        Stage { directory, raw, handler, store, effect, lease: LeaseId::from_random(1), grants: Vec::new() };
    stage.take_lease(1).await;
    stage
}

impl<H: Handler> Stage<H> {
    /// Takes a lease and claims everything there is.
    async fn take_lease(&mut self, number: u64) {
        self.lease = LeaseId::from_random(number);
        let take = TakeLease {
            lease: self.lease,
            worker: format!("w{number}"),
            stable_name: false,
            ttl: Duration::from_secs(60),
            renew: Duration::from_secs(30),
            process: None,
            operations: vec!["op".to_owned()],
            calls: Default::default(),
        };
        self.store.call(StoreRequest::TakeLease(take)).await.unwrap();
        let operations = vec!["op".to_owned()];
        let claim = Claim { lease: self.lease, number: 1, operations, lines_max: 100, bytes_max: 1 << 20, idle: true };
        let reply = self.store.call(StoreRequest::Claim(claim)).await.unwrap();
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = reply else { panic!("{reply:?}") };
        self.grants = grants;
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for grant in &self.grants {
            rows.extend(grant.rows.iter().map(|row| Row {
                batch: grant.batch,
                line: row.line,
                attempt: 1,
                token: grant.token,
                input: row.input.clone(),
            }));
        }
        rows
    }

    async fn run_all(&self) -> Vec<RecordItem> {
        let mut items = Vec::new();
        for row in self.rows() {
            let (_canceller, cancel) = Canceller::new();
            let (batch, line, token) = (row.batch, row.line, row.token);
            let HandlerAnswer::Success(result) = self.handler.run(row, cancel).await else { panic!() };
            items.push(RecordItem {
                batch,
                line,
                token,
                answer: Answer::Success(result),
                run_time: Duration::from_millis(1),
            });
        }
        items
    }

    async fn record(&self, items: Vec<RecordItem>) -> Vec<Verdict> {
        let request = StoreRequest::Record(Record { lease: self.lease, items });
        match self.store.call(request).await.unwrap() {
            StoreReply::Record(verdicts) => verdicts,
            other => panic!("{other:?}"),
        }
    }

    async fn written(&mut self) -> Vec<i64> {
        sqlx::query_scalar("select number from effects order by number").fetch_all(&mut self.raw).await.unwrap()
    }

    async fn errors(&mut self) -> Vec<String> {
        sqlx::query_scalar("select detail from attempts where detail is not null")
            .fetch_all(&mut self.raw)
            .await
            .unwrap()
    }

    fn kept(&self) -> usize {
        self.effect.kept.load(Ordering::SeqCst)
    }

    fn store_path(&self) -> std::path::PathBuf {
        self.directory.path().join(STORE)
    }

    /// A claim for another lease.
    async fn forget_values(&self) {
        let lease = LeaseId::from_random(99);
        let claim = Claim { lease, number: 1, operations: vec![], lines_max: 1, bytes_max: 1, idle: true };
        self.store.call(StoreRequest::Claim(claim)).await.unwrap();
    }
}

const RECORDED: Verdict = Verdict::Recorded(Recorded::Success);
const GIVEN_BACK: Verdict = Verdict::Recorded(Recorded::GivenBack);
const WAIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_panic_in_apply_takes_nothing_but_its_row_down() {
    let mut stage = stage(1..=3, WAIT).await;
    let items = stage.run_all().await;
    assert_eq!(stage.record(items).await, [RECORDED, GIVEN_BACK, RECORDED]);
    assert_eq!(stage.written().await, [1, 3]);
    let errors = stage.errors().await;
    assert!(errors[0].contains("panicked: ") && errors[0].contains("too much"), "{errors:?}");
    assert_eq!(stage.kept(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_get_the_lock_in_the_midst_of_a_group_of_slow_effects() {
    // Half of the time is for effects: three of them.
    let mut stage = stage(SLOW..SLOW + 5, 7 * TAKES).await;
    let items = stage.run_all().await;
    let other = SqliteStore::open(stage.store_path(), OpenMode::Existing).await.unwrap();
    let renewals = other.for_renewals().await.unwrap();
    let lease = stage.lease;
    let applied = stage.effect.applied.clone();
    let others = async {
        until("the group has begun", || applied.load(Ordering::SeqCst) > 0).await;
        renewals.call(StoreRequest::Renew { lease, batches: vec![] }).await.unwrap();
        applied.load(Ordering::SeqCst)
    };
    let (verdicts, applied_before) = tokio::join!(stage.record(items), others);
    assert_eq!(verdicts, [RECORDED; 5]);
    assert!(applied_before < 5, "the renewal waited for the whole group");
    assert_eq!(stage.written().await, [100, 101, 102, 103, 104], "once each");
    assert_eq!(stage.kept(), 0);
}

#[tokio::test]
async fn an_effect_that_takes_too_long_fails_its_own_row() {
    let mut stage = stage([1, ENDLESS, 3], 2 * TAKES).await;
    let items = stage.run_all().await;
    assert_eq!(stage.record(items).await, [RECORDED, GIVEN_BACK, RECORDED]);
    assert_eq!(stage.written().await, [1, 3]);
    let errors = stage.errors().await;
    assert!(errors[0].contains("took longer than 120ms"), "{errors:?}");
}

#[tokio::test]
async fn values_that_nobody_wants_any_more_are_dropped() {
    let mut stage = stage([1], WAIT).await;
    let row = stage.rows().remove(0);
    let (canceller, cancel) = Canceller::new();
    drop(canceller);
    stage.handler.run(row, cancel).await;
    assert_eq!(stage.kept(), 0, "of a run that was given up");

    let items = stage.run_all().await;
    assert_eq!(stage.kept(), 1);
    let lines = vec![(items[0].batch, items[0].token, LineSet::single(1))];
    stage.store.call(StoreRequest::GiveBack { lease: stage.lease, lines }).await.unwrap();
    assert_eq!(stage.kept(), 0, "of a line given back");

    stage.take_lease(2).await;
    let items = stage.run_all().await;
    assert_eq!(stage.kept(), 1);
    stage.store.call(StoreRequest::DropLease { lease: stage.lease }).await.unwrap();
    stage.take_lease(3).await;
    assert_eq!(stage.kept(), 0, "of a lease that is over");
    assert_eq!(stage.record(items).await, [Verdict::Fenced]);

    let items = stage.run_all().await;
    assert_eq!(stage.record(items).await, [RECORDED]);
    assert_eq!(stage.kept(), 0, "of a line that is recorded");
    assert_eq!(stage.written().await, [1]);
}

#[tokio::test]
async fn a_line_whose_value_is_gone_is_not_recorded_without_its_effects() {
    let mut stage = stage([1], WAIT).await;
    let items = stage.run_all().await;
    stage.forget_values().await;
    assert_eq!(stage.record(items).await, [GIVEN_BACK]);
    assert_eq!(stage.written().await, [0; 0]);
}
