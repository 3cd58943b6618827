//! The stores under test, each with a connection of the test's own beside it.

use std::path::Path;
use std::sync::Arc;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::store::sqlite::{Clock, SqliteStore};
use fencepost::store::{Loads, OpenMode, Store, StoreError};
use fencepost_core::store::{StoreReply, StoreRequest};
use fencepost_core::{BatchId, StoreTime};
use fencepost_model::view::StoreView;
use fencepost_tests::postgres::Schema;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, SqliteConnection};

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

    pub async fn hold(&mut self, batch: BatchId, held: bool) {
        self.execute(&[format!("update batches set held = {held} where batch = {}", batch.number())]).await;
    }

    /// S2, as the verb will do it: lock, end, remove the spans in a later statement.
    pub async fn abort(&mut self, batch: BatchId, now: StoreTime) {
        let batch = batch.number();
        self.execute(&[
            format!(
                "update batches set status = 'aborted', ended_at = {} where batch = {batch} and status = 'open'",
                now.0
            ),
            format!(
                "insert into completions (batch, generation, status, success, failed, aborted, ended_at)
                 select b.batch, b.generation, b.status, coalesce(sum(t.success), 0), coalesce(sum(t.failed), 0),
                        b.total - coalesce(sum(t.success + t.failed), 0), b.ended_at
                 from batches b left join tallies t on t.batch = b.batch
                 where b.batch = {batch}
                 group by b.batch"
            ),
            format!("delete from spans where batch = {batch}"),
        ])
        .await;
    }

    async fn execute(&mut self, statements: &[String]) {
        for sql in statements {
            sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut self.sqlite_raw).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut self.postgres_raw).await.unwrap();
        }
    }

    pub async fn views(&mut self) -> [(&'static str, StoreView); 2] {
        [
            ("SQLite", views::of_sqlite(&self.sqlite, &mut self.sqlite_raw).await),
            ("Postgres", views::of_postgres(&self.postgres, &mut self.postgres_raw).await),
        ]
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
