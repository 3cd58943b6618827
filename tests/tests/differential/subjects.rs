//! The stores under test, each with a connection of the test's own beside it.

use std::path::Path;
use std::sync::Arc;

use fencepost::report::verify::code::Code;
use fencepost::report::verify::{Finding, Verification, VerifyReport};
use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::store::sqlite::{Clock, SqliteStore};
use fencepost::store::verify::Verifies;
use fencepost::store::{AnyStore, Appends, Loads, OpenMode, Operates, Purges, Reads, Store, StoreError};
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgedLeases, PurgedSlice};
use fencepost_core::store::{Operated, Retried, RetryRows, StoreReply, StoreRequest};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};
use fencepost_model::view::{StoppingView, StoreView};
use fencepost_tests::postgres::Schema;
use sqlx::{ConnectOptions, PgConnection, SqliteConnection};

use super::views;

/// One store's name and what it answered.
pub type Answered<T> = (&'static str, Result<T, StoreError>);

/// All of them.
pub struct Subjects {
    sqlite: SqliteStore,
    postgres: PostgresStore,
    sqlite_raw: SqliteConnection,
    postgres_raw: PgConnection,
    _schema: Schema,
}

impl Subjects {
    pub async fn new(path: &Path, clock: Arc<dyn Clock>) -> Self {
        let sqlite = SqliteStore::open_with_clock(path, OpenMode::Create, clock.clone()).await.unwrap();
        let schema = Schema::new();
        let options: PostgresOptions = schema.url().parse().unwrap();
        let postgres = PostgresStore::open_with_clock(options, OpenMode::Create, clock).await.unwrap();
        let sqlite_raw = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        Self { sqlite, postgres, sqlite_raw, postgres_raw: schema.connect().await, _schema: schema }
    }

    pub async fn call(&self, request: &StoreRequest) -> [(&'static str, Result<StoreReply, StoreError>); 2] {
        [("SQLite", self.sqlite.call(request.clone()).await), ("Postgres", self.postgres.call(request.clone()).await)]
    }

    pub async fn begin_load(&self, spec: &BatchSpec) -> BatchId {
        let batch = self.sqlite.begin_load(spec.clone()).await.unwrap();
        self.begin_on_postgres(batch, spec).await;
        batch
    }

    pub async fn finish_empty(&self, batch: BatchId) {
        let end = LoadEnd { key: None, digest: String::new(), total: 0 };
        load_into(&self.sqlite, batch, &[], end.clone()).await;
        load_into(&self.postgres, batch, &[], end).await;
    }

    pub async fn load(&self, spec: &BatchSpec, rows: &[Box<str>]) -> BatchId {
        let batch = self.begin_load(spec).await;
        let end = LoadEnd { key: None, digest: String::new(), total: rows.len() as u64 };
        load_into(&self.sqlite, batch, rows, end.clone()).await;
        load_into(&self.postgres, batch, rows, end).await;
        batch
    }

    /// A load under an id that is there already on the other store.
    async fn begin_on_postgres(&self, batch: BatchId, spec: &BatchSpec) {
        let own = self.postgres.begin_load(spec.clone()).await.unwrap();
        let mut conn = self._schema.connect().await;
        sqlx::query("update batches set batch = $1, id = $2 where batch = $3")
            .bind(int(batch.number()))
            .bind(batch.to_string())
            .bind(int(own.number()))
            .execute(&mut conn)
            .await
            .unwrap();
    }

    pub async fn begin_append(&self, batch: BatchId, append: AppendId, key: Option<&str>) -> [Answered<Begun>; 2] {
        [
            ("SQLite", self.sqlite.begin_append(batch, append, key).await),
            ("Postgres", self.postgres.begin_append(batch, append, key).await),
        ]
    }

    pub async fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        rows: &[Box<str>],
    ) -> [Answered<Staged>; 2] {
        [
            ("SQLite", self.sqlite.append_rows(batch, append, first_line, rows).await),
            ("Postgres", self.postgres.append_rows(batch, append, first_line, rows).await),
        ]
    }

    pub async fn finish_append(&self, batch: BatchId, append: AppendId, end: &AppendEnd) -> [Answered<Appended>; 2] {
        [
            ("SQLite", self.sqlite.finish_append(batch, append, end.clone()).await),
            ("Postgres", self.postgres.finish_append(batch, append, end.clone()).await),
        ]
    }

    pub async fn remove_append(&self, batch: BatchId, append: AppendId) {
        self.sqlite.remove_append(batch, append).await.unwrap();
        self.postgres.remove_append(batch, append).await.unwrap();
    }

    /// How many lines of each batch are seen: as inputs, as rows, in the view `row_status`.
    pub async fn lines_seen(&mut self, batches: &[(BatchId, u64)]) -> [(&'static str, Vec<[u64; 3]>); 2] {
        const VIEW: &str = "select count(*) from row_status where batch = $1";
        let (mut of_sqlite, mut of_postgres) = (Vec::new(), Vec::new());
        for (batch, _) in batches {
            let id = batch.to_string();
            let view: i64 = sqlx::query_scalar(VIEW).bind(&id).fetch_one(&mut self.sqlite_raw).await.unwrap();
            of_sqlite.push(lines_read(&self.sqlite, *batch, view).await);
            let view: i64 = sqlx::query_scalar(VIEW).bind(&id).fetch_one(&mut self.postgres_raw).await.unwrap();
            of_postgres.push(lines_read(&self.postgres, *batch, view).await);
        }
        [("SQLite", of_sqlite), ("Postgres", of_postgres)]
    }

    /// How many rows lie beyond the totals, and how many of them appends know of.
    pub async fn rows_beyond_totals(&mut self) -> [(&'static str, i64, i64); 2] {
        const BEYOND: &str = "\
            select (select count(*) from rows r join batches b on b.batch = r.batch where r.line > b.total),
                   cast((select coalesce(sum(a.line_count), 0) from appends a join batches b on b.batch = a.batch
                        where a.status <> 'done') as bigint)";
        let sqlite: (i64, i64) = sqlx::query_as(BEYOND).fetch_one(&mut self.sqlite_raw).await.unwrap();
        let postgres: (i64, i64) = sqlx::query_as(BEYOND).fetch_one(&mut self.postgres_raw).await.unwrap();
        [("SQLite", sqlite.0, sqlite.1), ("Postgres", postgres.0, postgres.1)]
    }

    pub async fn purgeable(&self, ages: PurgeAges) -> [Answered<Purgeable>; 2] {
        [("SQLite", self.sqlite.purgeable(ages).await), ("Postgres", self.postgres.purgeable(ages).await)]
    }

    pub async fn begin_purge(&self, batch: BatchId, ended_before: StoreTime) -> [Answered<PurgeBegun>; 2] {
        [
            ("SQLite", self.sqlite.begin_purge(batch, ended_before).await),
            ("Postgres", self.postgres.begin_purge(batch, ended_before).await),
        ]
    }

    pub async fn purge_slice(&self, batch: BatchId, lines_max: u64) -> [Answered<PurgedSlice>; 2] {
        [
            ("SQLite", self.sqlite.purge_slice(batch, lines_max).await),
            ("Postgres", self.postgres.purge_slice(batch, lines_max).await),
        ]
    }

    pub async fn purge_leases(&self, ended_before: StoreTime, after: Option<LeaseId>) -> [Answered<PurgedLeases>; 2] {
        [
            ("SQLite", self.sqlite.purge_leases(ended_before, after).await),
            ("Postgres", self.postgres.purge_leases(ended_before, after).await),
        ]
    }

    /// How many rows SQLite has of a batch beyond this line.
    pub async fn lines_beyond(&mut self, batch: BatchId, line: u64) -> i64 {
        const BEYOND: &str = "select count(*) from rows where batch = $1 and line > $2";
        let asked = sqlx::query_scalar(BEYOND).bind(int(batch.number())).bind(i64::try_from(line).unwrap_or(i64::MAX));
        asked.fetch_one(&mut self.sqlite_raw).await.unwrap()
    }

    /// What belongs to batches that are neither there nor being purged, and what is seen of those that are being purged.
    pub async fn leftovers(&mut self, purging: &[BatchId]) -> [(&'static str, i64); 2] {
        const ORPHANS: &str = "\
            select count(*) from (
                select batch from rows union all select batch from outcomes union all select batch from attempts
                union all select batch from tallies union all select batch from spans union all select batch from appends
                union all select batch from completions
            ) x
            where not exists (select 1 from batches b where b.batch = x.batch)
              and not exists (select 1 from purges p where p.batch = x.batch)";
        let mut sqlite: i64 = sqlx::query_scalar(ORPHANS).fetch_one(&mut self.sqlite_raw).await.unwrap();
        let mut postgres: i64 = sqlx::query_scalar(ORPHANS).fetch_one(&mut self.postgres_raw).await.unwrap();
        for batch in purging {
            sqlite += seen_of(&self.sqlite, *batch).await;
            postgres += seen_of(&self.postgres, *batch).await;
        }
        [("SQLite", sqlite), ("Postgres", postgres)]
    }

    pub async fn last_token(&mut self) -> u64 {
        let last: i64 =
            sqlx::query_scalar("select last_token from store").fetch_one(&mut self.sqlite_raw).await.unwrap();
        u64::try_from(last).unwrap()
    }

    /// What an operator's hold, resume or abort comes to.
    pub async fn operate(&self, verb: Verb, batch: BatchId) -> [(&'static str, Result<Operated, StoreError>); 2] {
        [
            ("SQLite", operate(&AnyStore::from(self.sqlite.clone()), verb, batch).await),
            ("Postgres", operate(&AnyStore::from(self.postgres.clone()), verb, batch).await),
        ]
    }

    pub async fn retry(&self, batch: BatchId, rows: &RetryRows) -> [(&'static str, Result<Retried, StoreError>); 2] {
        [
            ("SQLite", self.sqlite.retry(batch, rows.clone()).await),
            ("Postgres", self.postgres.retry(batch, rows.clone()).await),
        ]
    }

    /// The rows of a batch, their stories, and what the view says of them: the same on both.
    pub async fn compare_rows(&mut self, batch: BatchId) {
        let (sqlite, postgres) = (&self.sqlite, &self.postgres);
        let rows = sqlite.rows(batch, None, 0, 100).await.unwrap();
        assert_eq!(rows, postgres.rows(batch, None, 0, 100).await.unwrap(), "SQLite left, Postgres right");
        for row in rows.rows {
            let of_sqlite = sqlite.row_story(batch, row.line).await.unwrap();
            assert_eq!(of_sqlite, postgres.row_story(batch, row.line).await.unwrap(), "SQLite left, Postgres right");
        }
        let sql = "select line, status, cast(attempts as bigint), cast(crashes as bigint) from row_status
                   where batch = $1 order by line";
        type Status = (i64, String, i64, i64);
        let of_sqlite: Vec<Status> =
            sqlx::query_as(sql).bind(batch.to_string()).fetch_all(&mut self.sqlite_raw).await.unwrap();
        let of_postgres: Vec<Status> =
            sqlx::query_as(sql).bind(batch.to_string()).fetch_all(&mut self.postgres_raw).await.unwrap();
        assert_eq!(of_sqlite, of_postgres, "SQLite left, Postgres right");
    }

    /// A load of one row that does not end.
    pub async fn load_without_end(&self, spec: &BatchSpec) -> BatchId {
        let batch = self.begin_load(spec).await;
        self.sqlite.load_rows(batch, 1, &["1".into()]).await.unwrap();
        self.postgres.load_rows(batch, 1, &["1".into()]).await.unwrap();
        batch
    }

    /// S2: what may still run of aborted batches.
    pub async fn stopping(&mut self) -> [(&'static str, Vec<StoppingView>); 2] {
        [
            ("SQLite", views::stopping_of_sqlite(&mut self.sqlite_raw).await),
            ("Postgres", views::stopping_of_postgres(&mut self.postgres_raw).await),
        ]
    }

    /// The same as commands read it, and how many rows failed with a text.
    pub async fn compare_reads(&self, batch: BatchId) -> (u64, u64) {
        let (sqlite, postgres) = (&self.sqlite, &self.postgres);
        let stopping = sqlite.stopping(batch).await.unwrap();
        assert_eq!(stopping, postgres.stopping(batch).await.unwrap(), "SQLite left, Postgres right");
        for text in [None, Some("again"), Some("AGAIN"), Some("failed\"")] {
            let failed = sqlite.failed(batch, text).await.unwrap();
            assert_eq!(failed, postgres.failed(batch, text).await.unwrap(), "SQLite left, Postgres right: {text:?}");
        }
        let errors = sqlite.errors(batch, 1, 3).await.unwrap();
        assert_eq!(errors, postgres.errors(batch, 1, 3).await.unwrap(), "SQLite left, Postgres right");
        (stopping.iter().map(|of| of.rows).sum(), sqlite.failed(batch, None).await.unwrap())
    }

    /// What nothing but requests wrote to is found well, whatever they were; and counted alike.
    pub async fn verify(&self, batch: BatchId) {
        let [sqlite, postgres] = [verified(&self.sqlite, batch).await, verified(&self.postgres, batch).await];
        assert_eq!(sqlite, postgres, "SQLite left, Postgres right");
        // Here judges come by chance, and answers under tokens that were never drawn.
        let chance = |finding: &&Finding| !matches!(finding.code, Code::RecoveryOverdue | Code::FencedWrongly);
        let wrong = sqlite.findings.iter().filter(chance);
        assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&Finding>::new(), "{batch}");
    }

    pub async fn views(&mut self) -> [(&'static str, StoreView); 2] {
        [
            ("SQLite", views::of_sqlite(&self.sqlite, &mut self.sqlite_raw).await),
            ("Postgres", views::of_postgres(&self.postgres, &mut self.postgres_raw).await),
        ]
    }
}

async fn verified(store: &impl Verifies, batch: BatchId) -> VerifyReport {
    let mut verification = Verification::default();
    assert!(store.inspect(batch, &mut verification).await.unwrap(), "{batch} is not there");
    verification.finish().unwrap()
}

/// A verb that asks for nothing but its batch.
#[derive(Debug, Clone, Copy)]
pub enum Verb {
    Hold,
    Resume,
    Abort,
}

async fn operate(store: &AnyStore, verb: Verb, batch: BatchId) -> Result<Operated, StoreError> {
    match verb {
        Verb::Hold => store.hold(batch).await,
        Verb::Resume => store.resume(batch).await,
        Verb::Abort => store.abort(batch).await,
    }
}

async fn lines_read(store: &impl Reads, batch: BatchId, view: i64) -> [u64; 3] {
    let inputs = store.inputs(batch, 0, 100_000).await.unwrap().len() as u64;
    let rows = store.rows(batch, None, 0, 100_000).await.unwrap().rows.len() as u64;
    [inputs, rows, u64::try_from(view).unwrap()]
}

/// How much a reader sees of a batch that nobody is to see.
async fn seen_of(store: &impl Reads, batch: BatchId) -> i64 {
    let mut seen = store.inputs(batch, 0, 100).await.unwrap().len();
    seen += store.rows(batch, None, 0, 100).await.unwrap().rows.len();
    seen += store.results(batch, 0, 100, false).await.unwrap().rows.len();
    seen += store.results(batch, 0, 100, true).await.unwrap().rows.len();
    seen += usize::from(store.row_story(batch, 1).await.unwrap().is_some());
    seen += usize::from(store.status(batch).await.unwrap().is_some() || store.batch(batch).await.unwrap().is_some());
    i64::try_from(seen).unwrap()
}

async fn load_into(store: &impl Loads, batch: BatchId, rows: &[Box<str>], end: LoadEnd) {
    if !rows.is_empty() {
        store.load_rows(batch, 1, rows).await.unwrap();
    }
    store.finish_load(batch, end).await.unwrap();
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}
