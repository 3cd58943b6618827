//! The stores under test, each with a connection of the test's own beside it.

use std::path::Path;
use std::sync::Arc;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::store::sqlite::{Clock, SqliteStore};
use fencepost::store::{AnyStore, Loads, OpenMode, Operates, Reads, Store, StoreError};
use fencepost_core::BatchId;
use fencepost_core::store::{Operated, Retried, RetryRows, StoreReply, StoreRequest};
use fencepost_model::view::StoreView;
use fencepost_tests::postgres::Schema;
use sqlx::{ConnectOptions, PgConnection, SqliteConnection};

use super::views;

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

    pub async fn load(&self, spec: &BatchSpec, rows: &[Box<str>]) -> BatchId {
        let batch = self.sqlite.begin_load(spec.clone()).await.unwrap();
        self.begin_on_postgres(batch, spec).await;
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
    pub async fn begin_load(&self, spec: &BatchSpec) -> BatchId {
        let batch = self.sqlite.begin_load(spec.clone()).await.unwrap();
        self.begin_on_postgres(batch, spec).await;
        self.sqlite.load_rows(batch, 1, &["1".into()]).await.unwrap();
        self.postgres.load_rows(batch, 1, &["1".into()]).await.unwrap();
        batch
    }

    pub async fn views(&mut self) -> [(&'static str, StoreView); 2] {
        [
            ("SQLite", views::of_sqlite(&self.sqlite, &mut self.sqlite_raw).await),
            ("Postgres", views::of_postgres(&self.postgres, &mut self.postgres_raw).await),
        ]
    }
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

async fn load_into(store: &impl Loads, batch: BatchId, rows: &[Box<str>], end: LoadEnd) {
    if !rows.is_empty() {
        store.load_rows(batch, 1, rows).await.unwrap();
    }
    store.finish_load(batch, end).await.unwrap();
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}
