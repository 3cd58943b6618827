//! What all parts stand on: a Postgres server of the benchmark's own, folders for SQLite files, and a runtime to look at stores.

use std::future::Future;

use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded, SLICE_ROWS};
use fencepost::store::view::BatchCounts;
use fencepost::store::{AnyStore, Loads, OpenMode, Reads};
use fencepost_core::BatchId;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::sizes;
use crate::place::{self, StoreKind};
use crate::postgres::{Schema, own, own_is_durable};

/// The benchmark's ground.
pub struct Ground {
    runtime: tokio::runtime::Runtime,
}

/// What the server is told besides its defaults: those are for the smallest machine there is, and would measure its checkpoints.
const SETTINGS: [(&str, &str); 3] =
    [("shared_buffers", "'1GB'"), ("max_wal_size", "'8GB'"), ("checkpoint_timeout", "'15min'")];

/// The same in words.
pub fn settings() -> String {
    let all: Vec<String> =
        SETTINGS.iter().map(|(name, value)| format!("{name} = {}", value.trim_matches('\''))).collect();
    all.join(", ")
}

impl Ground {
    /// Starts the server, whose commits wait for the disk.
    pub fn new() -> Self {
        own_is_durable();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let ground = Self { runtime };
        ground.block_on(async {
            let mut conn = PgConnection::connect(own().url()).await.expect("the server answers");
            for (name, value) in SETTINGS {
                let sql = format!("alter system set {name} = {value}");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.expect("a setting");
            }
        });
        own().restart("fast");
        ground
    }

    /// Does something asynchronous.
    pub fn block_on<F: Future>(&self, what: F) -> F::Output {
        self.runtime.block_on(what)
    }

    /// An empty store of this kind.
    pub fn store(&self, on: StoreKind) -> Site {
        let (place, url) = match on {
            StoreKind::Sqlite => {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let url = format!("sqlite://{}", folder.path().join("rows.db").to_str().expect("UTF-8"));
                (Held::Folder(folder), url)
            }
            StoreKind::Postgres | StoreKind::Pgbouncer => {
                let schema = Schema::on(own().url());
                let url = schema.url();
                (Held::Schema(schema), url)
            }
        };
        let store = self.block_on(place::open(&url, OpenMode::Create));
        Site { place, url, store }
    }
}

impl Default for Ground {
    fn default() -> Self {
        Self::new()
    }
}

/// A store of the benchmark's, gone when it is dropped.
pub struct Site {
    place: Held,
    url: String,
    store: AnyStore,
}

enum Held {
    Folder(#[expect(dead_code, reason = "it is removed with this")] tempfile::TempDir),
    Schema(Schema),
    /// It is another's.
    Lent,
}

impl Site {
    /// A store that another holds.
    pub fn of(url: &str, store: AnyStore) -> Self {
        Self { place: Held::Lent, url: url.to_owned(), store }
    }

    /// The store's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A handle to it.
    pub fn store(&self) -> &AnyStore {
        &self.store
    }

    /// Its schema, where it has one.
    pub fn schema(&self) -> Option<&Schema> {
        match &self.place {
            Held::Schema(schema) => Some(schema),
            Held::Folder(_) | Held::Lent => None,
        }
    }

    /// Stores so many rows of [`sizes::INPUT_BYTES`], which nobody can claim before [`Self::opened`].
    pub async fn load(&self, operation: &str, rows: u64) -> BatchId {
        self.load_of(operation, rows, sizes::input).await
    }

    /// The same with other inputs.
    pub async fn load_of(&self, operation: &str, rows: u64, input: fn(u64) -> Box<str>) -> BatchId {
        let batch = self.store.begin_load(BatchSpec::new(operation)).await.expect("the store answers");
        for first in (1..=rows).step_by(SLICE_ROWS) {
            let slice = first..(first + SLICE_ROWS as u64).min(rows + 1);
            let inputs: Vec<Box<str>> = slice.map(input).collect();
            self.store.load_rows(batch, first, &inputs).await.expect("the rows are stored");
        }
        batch
    }

    /// The same, with nothing left for the server to do.
    pub async fn load_and_settle(&self, operation: &str, rows: u64) -> BatchId {
        let batch = self.load(operation, rows).await;
        self.settle().await;
        batch
    }

    /// From now on its rows can be claimed.
    pub async fn opened(&self, batch: BatchId, rows: u64) {
        let end = LoadEnd { key: None, digest: batch.to_string(), total: rows };
        assert_eq!(self.store.finish_load(batch, end).await.expect("the store answers"), Loaded::New);
    }

    /// What a load leaves the server to do is done, so that it is not done while something else is measured.
    pub async fn settle(&self) {
        let Some(schema) = self.schema() else { return };
        sqlx::raw_sql("checkpoint").execute(&mut schema.connect().await).await.expect("a checkpoint");
    }

    /// A batch's counts.
    pub async fn counts(&self, batch: BatchId) -> BatchCounts {
        self.store.status(batch).await.expect("the store answers").expect("the batch is there")
    }
}
