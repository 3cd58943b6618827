//! Effects on Postgres (O7): with the outcome or not at all, whatever goes wrong in between, and whoever else is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fencepost::handler::transactional::{ApplyingStore, TransactionalHandler, transactional};
use fencepost::handler::typed::{Context, RowError};
use fencepost::handler::{Canceller, Handler, HandlerAnswer, Row};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{OpenMode, Store, WorkerStore};
use fencepost_core::store::{Answer, Grant, Record, RecordItem, Recorded, RecoverReply, StoreRequest, Verdict};
use fencepost_core::worker::RunKey;
use fencepost_core::{BatchId, LeaseId};
use fencepost_tests::pooler::Pooler;
use fencepost_tests::postgres::{Schema, own};
use sqlx::{PgConnection, Postgres};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinHandle;

use super::rig::{Rig, claim, died, granted, recovered, verdicts};

/// Each number is written; what else happens depends on it.
#[derive(Clone)]
struct Effect {
    table: String,
    calls: Arc<AtomicUsize>,
    entered: Arc<Semaphore>,
    go: Arc<Semaphore>,
    meet: Arc<Barrier>,
}

const PANICS: i64 = 100;
const NEVER_ENDS: i64 = 101;
const KEEPS_THE_THREAD: i64 = 102;
const TAKES_NO_NOTICE: i64 = 103;
const FAILS_FOR_GOOD: i64 = 104;
const WAITS_IN_A_STATEMENT: i64 = 105;
const WAITS_TO_GO_ON: i64 = 106;
const TOO_LATE: i64 = 107;
/// An account is locked, then the other group has one, too.
const MEETS: i64 = 1000;
/// An account is locked.
const LOCKS: i64 = 2000;

/// Longer than the server waits for a session that has [`SHORT`].
const SLOW: Duration = Duration::from_secs(3);

impl TransactionalHandler for Effect {
    type Database = Postgres;
    type Input = i64;
    type Value = i64;
    type Output = i64;

    async fn run(&self, _: Context, number: i64) -> Result<i64, RowError> {
        Ok(number)
    }

    async fn apply(&self, conn: &mut PgConnection, _: RunKey, number: &i64) -> Result<i64, RowError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let insert = format!("insert into {} (number) values ($1)", self.table);
        // Behind a pooler statements have no names.
        sqlx::query(sqlx::AssertSqlSafe(insert)).bind(number).persistent(false).execute(&mut *conn).await?;
        match *number {
            PANICS => panic!("this number is too much"),
            NEVER_ENDS => std::future::pending().await,
            KEEPS_THE_THREAD => {
                self.entered.add_permits(1);
                std::thread::sleep(SLOW);
                self.go.add_permits(1);
            }
            TAKES_NO_NOTICE => drop(sqlx::query("select 1 / 0").execute(conn).await),
            FAILS_FOR_GOOD => return Err(RowError::failed("no")),
            WAITS_IN_A_STATEMENT => drop(sqlx::query("select pg_sleep(60)").execute(conn).await),
            WAITS_TO_GO_ON => {
                self.entered.add_permits(1);
                self.go.acquire().await?.forget();
            }
            MEETS..LOCKS => {
                self.lock(conn, number - MEETS).await?;
                self.meet.wait().await;
            }
            LOCKS.. => self.lock(conn, number - LOCKS).await?,
            _ => {}
        }
        Ok(*number)
    }
}

impl Effect {
    async fn lock(&self, conn: &mut PgConnection, account: i64) -> Result<(), RowError> {
        let update = format!("update {}_accounts set cents = cents + 1 where account = $1", self.table);
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(account).execute(conn).await?;
        Ok(())
    }
}

/// A worker's part, played by the test.
struct Stage<H> {
    rig: Rig,
    handler: H,
    store: ApplyingStore<PostgresStore>,
    effect: Effect,
    batch: BatchId,
    worker: fn(Effect, PostgresStore) -> (H, ApplyingStore<PostgresStore>),
}

fn worker(effect: Effect, store: PostgresStore) -> (impl Handler, ApplyingStore<PostgresStore>) {
    transactional(effect, store)
}

/// The store's default.
const WAIT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(1);

async fn stage(numbers: impl IntoIterator<Item = i64, IntoIter: Send>, lock_wait: Duration) -> Stage<impl Handler> {
    let rig = Rig::new().await;
    let store = rig.store.clone();
    stage_on(rig, store, numbers, lock_wait).await
}

async fn stage_on(
    mut rig: Rig,
    store: PostgresStore,
    numbers: impl IntoIterator<Item = i64, IntoIter: Send>,
    lock_wait: Duration,
) -> Stage<impl Handler> {
    // Beside the store's tables, so that they go with it. Whether a number is too late is checked at the very end.
    let table = format!("{}.effects", rig.schema.name());
    let sql = format!(
        "create table {table} (number bigint not null);
         create table {table}_accounts (account bigint primary key, cents bigint not null);
         insert into {table}_accounts values (1, 0), (2, 0);
         create function {table}_check() returns trigger language plpgsql as $$ begin
             if new.number = {TOO_LATE} then raise exception 'too late'; end if;
             return null;
         end $$;
         create constraint trigger effects_check after insert on {table} deferrable initially deferred
             for each row execute function {table}_check();"
    );
    super::rig::execute(&mut rig.raw, &sql).await;
    let batch = load::values(&store, BatchSpec::new("op"), None, numbers).await.unwrap().batch;
    let effect = Effect {
        table,
        calls: Arc::default(),
        entered: Arc::new(Semaphore::new(0)),
        go: Arc::new(Semaphore::new(0)),
        meet: Arc::new(Barrier::new(2)),
    };
    let (handler, store) = worker(effect.clone(), store.with_lock_wait(lock_wait));
    Stage { rig, handler, store, effect, batch, worker }
}

impl<H: Handler> Stage<H> {
    /// Another worker in this one's place: what runs found out is kept for one lease at a time.
    fn change_worker(&mut self) {
        (self.handler, self.store) = (self.worker)(self.effect.clone(), self.rig.store.clone());
    }

    /// Claims and runs so many rows.
    async fn run(&self, lease: LeaseId, number: u64, lines: u64) -> StoreRequest {
        let grants = granted(self.store.call(claim(lease, number, lines)).await);
        let mut items = Vec::new();
        for row in rows(&grants) {
            let (_canceller, cancel) = Canceller::new();
            let (batch, line, token) = (row.batch, row.line, row.token);
            let HandlerAnswer::Success(result) = self.handler.run(row, cancel).await else { panic!() };
            let run_time = Duration::from_millis(1);
            items.push(RecordItem { batch, line, token, answer: Answer::Success(result), run_time });
        }
        StoreRequest::Record(Record { lease, items })
    }

    async fn run_all(&self) -> (LeaseId, StoreRequest) {
        let lease = self.rig.lease(1).await;
        (lease, self.run(lease, 1, 100).await)
    }

    async fn record(&self, request: StoreRequest) -> Vec<Verdict> {
        verdicts(self.store.call(request).await)
    }

    fn start(&self, request: StoreRequest) -> JoinHandle<Vec<Verdict>> {
        let store = self.store.clone();
        tokio::spawn(async move { verdicts(store.call(request).await) })
    }

    async fn written(&mut self) -> Vec<i64> {
        let select = format!("select number from {} order by number", self.effect.table);
        sqlx::query_scalar(sqlx::AssertSqlSafe(select)).fetch_all(&mut self.rig.raw).await.unwrap()
    }

    async fn errors(&mut self) -> Vec<String> {
        let select = "select detail from attempts where detail is not null order by first_line";
        sqlx::query_scalar(select).fetch_all(&mut self.rig.raw).await.unwrap()
    }

    async fn assert_one_is_given_back(&mut self, request: StoreRequest, error: &str) {
        assert_eq!(self.record(request).await, [RECORDED, GIVEN_BACK, RECORDED]);
        assert_eq!(self.written().await, [1, 3]);
        let errors = self.errors().await;
        assert!(errors.len() == 1 && errors[0].contains(error), "{errors:?}");
        self.rig.assert_tiled().await;
    }
}

fn rows(grants: &[Grant]) -> Vec<Row> {
    let mut rows = Vec::new();
    for grant in grants {
        let (batch, token) = (grant.batch, grant.token);
        let row = |row: &fencepost_core::store::GrantedRow| Row {
            batch,
            line: row.line,
            attempt: 1,
            token,
            input: row.input.clone(),
        };
        rows.extend(grant.rows.iter().map(row));
    }
    rows
}

const RECORDED: Verdict = Verdict::Recorded(Recorded::Success);
const GIVEN_BACK: Verdict = Verdict::Recorded(Recorded::GivenBack);

#[tokio::test]
async fn a_panic_takes_nothing_but_its_row_down() {
    let mut stage = stage([1, PANICS, 3], WAIT).await;
    let (_, request) = stage.run_all().await;
    stage.assert_one_is_given_back(request, "panicked: this number is too much").await;
}

#[tokio::test]
async fn behind_a_transaction_pooler_too() {
    let pooler = Pooler::start(own());
    let schema = Schema::on(own().url());
    let store = PostgresStore::open(schema.url_at(pooler.url()).parse().unwrap(), OpenMode::Create).await.unwrap();
    let raw = schema.connect().await;
    let mut stage = stage_on(Rig { schema, store: store.clone(), raw }, store, [1, NEVER_ENDS, 3], SHORT).await;
    let (_, request) = stage.run_all().await;
    stage.assert_one_is_given_back(request, "took longer than 500ms").await;
}

#[tokio::test]
async fn effects_that_take_too_long_fail_their_own_row() {
    for number in [NEVER_ENDS, WAITS_IN_A_STATEMENT] {
        let mut stage = stage([1, number, 3], SHORT).await;
        let (_, request) = stage.run_all().await;
        stage.assert_one_is_given_back(request, "applying the row's effects took longer than 500ms").await;
    }
}

/// The server has ended the session by the time that the handler comes back.
#[tokio::test]
async fn effects_that_keep_the_thread_fail_their_own_row() {
    let mut stage = stage([1, KEEPS_THE_THREAD, 3], SHORT).await;
    let (_, request) = stage.run_all().await;
    stage.assert_one_is_given_back(request, "took longer than 500ms").await;
}

/// T2: the others do not wait for it. They are in a thread with a runtime of its own, since this one stands still.
#[tokio::test]
async fn a_process_that_stands_still_in_its_effects_loses_them() {
    let mut stage = stage([KEEPS_THE_THREAD], SHORT).await;
    let (lease, request) = stage.run_all().await;
    let (judge, effect) = (stage.rig.store.clone(), stage.effect.clone());
    let judging = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let judge = judge.for_renewals().await.unwrap();
            effect.entered.acquire().await.unwrap().forget();
            let reply = recovered(judge.call(died(lease, 0)).await);
            (reply, effect.go.available_permits())
        })
    });
    let verdicts = stage.record(request).await;
    let (reply, came_back) = judging.join().unwrap();
    assert_eq!(
        (reply, came_back),
        (RecoverReply::Recovered { lines: 1, failed: 0 }, 0),
        "before the handler came back"
    );
    assert_eq!(verdicts, [Verdict::Fenced]);
    assert_eq!(stage.written().await, [0i64; 0]);
}

#[tokio::test]
async fn a_statement_that_failed_unnoticed_fails_its_row() {
    let mut stage = stage([1, TAKES_NO_NOTICE, 3], WAIT).await;
    let (_, request) = stage.run_all().await;
    stage.assert_one_is_given_back(request, "current transaction is aborted").await;
}

#[tokio::test]
async fn effects_that_the_end_refuses_fail_their_own_row() {
    let mut stage = stage([1, TOO_LATE, 3], WAIT).await;
    let (_, request) = stage.run_all().await;
    stage.assert_one_is_given_back(request, "too late").await;
}

#[tokio::test]
async fn effects_that_fail_for_good_fail_their_row() {
    let mut stage = stage([1, FAILS_FOR_GOOD, 3], WAIT).await;
    let (_, request) = stage.run_all().await;
    assert_eq!(stage.record(request).await, [RECORDED, Verdict::Recorded(Recorded::Failed), RECORDED]);
    assert_eq!(stage.written().await, [1, 3]);
    assert_eq!(stage.rig.text("select status from batches").await, "failed");
}

/// More than fit into one transaction, in order, once each; said again, nothing more happens.
#[tokio::test]
async fn a_repeated_group_has_its_effects_once() {
    let mut stage = stage((1..=100).map(|number| number % 50), WAIT).await;
    let (_, request) = stage.run_all().await;
    assert_eq!(stage.record(request.clone()).await, [RECORDED; 100]);
    assert_eq!(stage.record(request).await, [Verdict::RecordedBefore; 100]);
    assert_eq!(stage.written().await.len(), 100);
    assert_eq!(stage.effect.calls.load(Ordering::SeqCst), 100);
    assert_eq!(stage.rig.number("select count(distinct recorded_at) from outcomes").await, 2, "transactions");
    stage.rig.assert_tiled().await;
}

/// The worker was taken for dead, and its lines are run by another.
#[tokio::test]
async fn what_comes_too_late_has_no_effects() {
    let mut stage = stage([1, 2], WAIT).await;
    let (lease, request) = stage.run_all().await;
    let reply = recovered(stage.store.call(died(lease, 0)).await);
    assert_eq!(reply, RecoverReply::Recovered { lines: 2, failed: 0 });
    assert_eq!(stage.record(request).await, [Verdict::Fenced; 2]);
    assert_eq!(stage.written().await, [0i64; 0]);
    assert_eq!(stage.effect.calls.load(Ordering::SeqCst), 0, "the fence was asked first");
}

/// Whoever judges the worker meanwhile waits, and finds only what is not recorded.
#[tokio::test]
async fn recovery_waits_for_effects_under_way() {
    let mut stage = stage([WAITS_TO_GO_ON, 2], WAIT).await;
    let lease = stage.rig.lease(1).await;
    let request = stage.run(lease, 1, 1).await;
    stage.run(lease, 2, 1).await;
    let recording = stage.start(request);
    stage.effect.entered.acquire().await.unwrap().forget();
    let recovering = stage.rig.start(died(lease, 0));
    stage.rig.until_waiting(1).await;
    stage.effect.go.add_permits(1);
    assert_eq!(recording.await.unwrap(), [RECORDED]);
    let reply = recovered(recovering.await.unwrap());
    assert_eq!(reply, RecoverReply::Recovered { lines: 1, failed: 0 });
    assert_eq!(stage.written().await, [WAITS_TO_GO_ON]);
    stage.rig.assert_tiled().await;
}

/// O4: two groups found fresh lines and share the batch; the last of those is claimed and recorded while their effects are
/// applied. Whoever asks for the exclusive lock then, waits for both, and ends the batch.
#[tokio::test]
async fn the_end_waits_for_effects_under_way() {
    let mut stage = stage([WAITS_TO_GO_ON, WAITS_TO_GO_ON, 3], WAIT).await;
    let mut recording = Vec::new();
    for number in 1..=2 {
        let lease = stage.rig.lease(number).await;
        stage.change_worker();
        let request = stage.run(lease, 1, 1).await;
        recording.push(stage.start(request));
        stage.effect.entered.acquire().await.unwrap().forget();
    }
    let lease = stage.rig.lease(3).await;
    stage.change_worker();
    // Neither the claim nor the renewal waits.
    let last = stage.run(lease, 1, 1).await;
    stage.store.call(StoreRequest::Renew { lease, batches: vec![stage.batch] }).await.unwrap();
    recording.push(stage.start(last));
    stage.rig.until_waiting(1).await;
    stage.effect.go.add_permits(2);
    for recording in recording {
        assert_eq!(recording.await.unwrap(), [RECORDED]);
    }
    assert_eq!(stage.rig.text("select status from batches").await, "success");
    assert_eq!(stage.rig.number("select count(*) from completions").await, 1);
    stage.rig.assert_tiled().await;
}

/// Effects of two groups lock the same records in opposite order. The one that the server cuts off is tried again with
/// nothing else in its transaction: no attempt is used.
#[tokio::test]
async fn groups_whose_effects_deadlock_are_both_recorded() {
    // With a line that stays fresh: at a batch's end such groups follow one another.
    let mut stage = stage([MEETS + 1, LOCKS + 2, MEETS + 2, LOCKS + 1, 5], WAIT).await;
    let mut recording = Vec::new();
    for number in 1..=2 {
        let lease = stage.rig.lease(number).await;
        stage.change_worker();
        let request = stage.run(lease, 1, 2).await;
        recording.push(stage.start(request));
    }
    let (first, second) = (recording.remove(0).await.unwrap(), recording.remove(0).await.unwrap());
    assert_eq!(stage.errors().await, [""; 0]);
    assert_eq!((first, second), (vec![RECORDED; 2], vec![RECORDED; 2]));
    assert_eq!(stage.effect.calls.load(Ordering::SeqCst), 5, "one of them was cut off");
    let cents = format!("select sum(cents)::bigint from {}_accounts", stage.effect.table);
    assert_eq!(stage.rig.number(&cents).await, 4);
}

/// The caller is gone in the midst of it: nothing is kept, and the lines are still the worker's.
#[tokio::test]
async fn a_dropped_record_keeps_nothing() {
    let mut stage = stage([1, WAITS_TO_GO_ON], WAIT).await;
    let (_, request) = stage.run_all().await;
    let recording = stage.start(request.clone());
    stage.effect.entered.acquire().await.unwrap().forget();
    recording.abort();
    assert!(recording.await.unwrap_err().is_cancelled());
    assert_eq!(stage.written().await, [0i64; 0]);
    stage.effect.go.add_permits(1);
    assert_eq!(stage.record(request).await, [RECORDED; 2]);
    assert_eq!(stage.written().await, [1, WAITS_TO_GO_ON]);
}
