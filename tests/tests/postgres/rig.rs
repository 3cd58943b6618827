//! A store, sessions of the test's own that hold locks, and a look at who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::store::sqlite::Clock;
use fencepost::store::{Loads, OpenMode, Store, StoreError};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, Record, RecordItem, Recover, RecoverReply, StoreReply, StoreRequest,
    TakeLease, TakeLeaseReply, Verdict,
};
use fencepost_core::{BatchId, LeaseId, StoreTime};
use fencepost_tests::postgres::Schema;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinHandle;

/// How long anything may take before it counts as stuck.
pub const STUCK: Duration = Duration::from_secs(30);

pub struct Rig {
    pub schema: Schema,
    pub store: PostgresStore,
    pub raw: PgConnection,
}

/// A clock that goes on by a second whenever it is asked: backoffs are over soon.
#[derive(Default)]
pub struct Hasty(AtomicI64);

impl Clock for Hasty {
    fn now(&self) -> StoreTime {
        StoreTime(1_000_000_000_000 + self.0.fetch_add(1_000_000, Ordering::SeqCst))
    }
}

impl Rig {
    pub async fn new() -> Self {
        Self::on_clock(None).await
    }

    pub async fn on_clock(clock: Option<Arc<dyn Clock>>) -> Self {
        let schema = Schema::new();
        // Tells this test's sessions from those of the others.
        let options: PostgresOptions = format!("{}&application_name={}", schema.url(), schema.name()).parse().unwrap();
        let store = match clock {
            Some(clock) => PostgresStore::open_with_clock(options, OpenMode::Create, clock).await.unwrap(),
            None => PostgresStore::open(options, OpenMode::Create).await.unwrap(),
        };
        let raw = schema.connect().await;
        Self { schema, store, raw }
    }

    /// A session in a transaction that has done this.
    pub async fn holding(&self, sql: &str) -> Holding {
        let mut conn = self.schema.connect().await;
        execute(&mut conn, &format!("begin; {sql}")).await;
        Holding { conn }
    }

    /// Until so many of the store's sessions wait for a lock.
    pub async fn until_waiting(&mut self, sessions: i64) {
        let sql = format!(
            "select count(*) from pg_stat_activity where application_name = '{}' and wait_event_type = 'Lock'",
            self.schema.name()
        );
        let until = Instant::now() + STUCK;
        while self.number(&sql).await != sessions {
            assert!(Instant::now() < until, "{sessions} sessions never waited: {:?}", self.number(&sql).await);
            tokio::task::yield_now().await;
        }
    }

    pub async fn number(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.raw).await.unwrap()
    }

    pub async fn text(&mut self, sql: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.raw).await.unwrap()
    }

    pub async fn batch(&self, rows: usize) -> BatchId {
        self.batch_of(BatchSpec::new("op"), rows).await
    }

    pub async fn batch_of(&self, spec: BatchSpec, rows: usize) -> BatchId {
        let batch = self.store.begin_load(spec).await.unwrap();
        let inputs: Vec<Box<str>> = (1..=rows).map(|line| line.to_string().into()).collect();
        if rows > 0 {
            self.store.load_rows(batch, 1, &inputs).await.unwrap();
        }
        let end = LoadEnd { key: None, digest: String::new(), total: rows as u64 };
        self.store.finish_load(batch, end).await.unwrap();
        batch
    }

    pub async fn lease(&self, number: u64) -> LeaseId {
        let lease = LeaseId::from_random(number);
        let reply = self.store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
        assert_eq!(reply, StoreReply::TakeLease(TakeLeaseReply::Taken));
        lease
    }

    pub async fn grants(&self, lease: LeaseId, number: u64, lines: u64) -> Vec<Grant> {
        granted(self.store.call(claim(lease, number, lines)).await)
    }

    /// Starts a request that may have to wait.
    pub fn start(&self, request: StoreRequest) -> JoinHandle<Result<StoreReply, StoreError>> {
        let store = self.store.clone();
        tokio::spawn(async move { store.call(request).await })
    }

    /// No held span belongs to a lease that is not live, and outcomes, spans and fresh lines cover every open batch exactly.
    pub async fn assert_tiled(&mut self) {
        assert_eq!(self.number(NOT_TILED).await, 0);
        assert_eq!(self.number(HELD_BY_THE_DEAD).await, 0);
    }
}

/// Batches whose lines are not covered exactly once, in one snapshot.
pub const NOT_TILED: &str = "\
select count(*) from batches b
cross join lateral (
    select coalesce(range_agg(int8range(o.line, o.line, '[]')), '{}') as lines, count(*) as count
    from outcomes o where o.batch = b.batch
) o
cross join lateral (
    select coalesce(range_agg(r), '{}') as lines, coalesce(sum(upper(r) - lower(r)), 0) as count
    from spans s cross join lateral unnest(s.lines) r where s.batch = b.batch
) s
cross join lateral (select int8multirange(int8range(b.cursor, b.total + 1)) as lines, b.total + 1 - b.cursor as count) f
where b.status = 'open' and (
    o.lines + s.lines + f.lines <> int8multirange(int8range(1, b.total + 1)) or o.count + s.count + f.count <> b.total
) or b.status in ('success', 'failed') and (s.count > 0 or f.count > 0 or o.count <> b.total)";

/// Spans held by a lease that is not live, in one snapshot.
pub const HELD_BY_THE_DEAD: &str = "\
select count(*) from spans s
where s.lease is not null and not exists (select from leases l where l.lease = s.lease and l.state = 'live')";

/// A session that holds locks until it is told to let go.
pub struct Holding {
    conn: PgConnection,
}

impl Holding {
    pub async fn and(&mut self, sql: &str) {
        execute(&mut self.conn, sql).await;
    }

    pub async fn commit(mut self) {
        execute(&mut self.conn, "commit").await;
    }
}

pub fn lock_batch(batch: BatchId) -> String {
    format!("select from batches where batch = {} for update", batch.number())
}

pub async fn execute(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap();
}

pub fn take(lease: LeaseId) -> TakeLease {
    TakeLease {
        lease,
        worker: format!("worker-{lease}"),
        stable_name: false,
        ttl: Duration::from_secs(60),
        renew: Duration::from_secs(30),
        process: None,
        operations: vec!["op".to_owned()],
        calls: Default::default(),
    }
}

pub fn claim(lease: LeaseId, number: u64, lines_max: u64) -> StoreRequest {
    let operations = vec!["op".to_owned()];
    StoreRequest::Claim(Claim { lease, number, operations, lines_max, bytes_max: 1 << 20, idle: true })
}

pub fn granted(reply: Result<StoreReply, StoreError>) -> Vec<Grant> {
    match reply.unwrap() {
        StoreReply::Claim(ClaimReply::Granted { grants, .. }) => grants,
        other => panic!("{other:?}"),
    }
}

/// The same answer to every row of these grants.
pub fn record(lease: LeaseId, grants: &[Grant], answer: &Answer) -> StoreRequest {
    let items = grants.iter().flat_map(|grant| {
        grant.rows.iter().map(|row| RecordItem {
            batch: grant.batch,
            line: row.line,
            token: grant.token,
            answer: answer.clone(),
            run_time: Duration::from_millis(1),
        })
    });
    StoreRequest::Record(Record { lease, items: items.collect() })
}

pub fn success() -> Answer {
    Answer::Success("1".into())
}

pub fn verdicts(reply: Result<StoreReply, StoreError>) -> Vec<Verdict> {
    match reply.unwrap() {
        StoreReply::Record(verdicts) => verdicts,
        other => panic!("{other:?}"),
    }
}

pub fn died(lease: LeaseId, renewals: u64) -> StoreRequest {
    StoreRequest::Recover(Recover { lease, renewals, seen_at: StoreTime(0), cause: EndCause::Died, judge: None })
}

pub fn recovered(reply: Result<StoreReply, StoreError>) -> RecoverReply {
    match reply.unwrap() {
        StoreReply::Recover(reply) => reply,
        other => panic!("{other:?}"),
    }
}
