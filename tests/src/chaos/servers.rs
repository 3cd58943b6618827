//! The servers of a run, and the store on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fencepost::store::OpenMode;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};
use tokio::runtime::Handle;

use super::link::Link;
use super::options::{On, Options};
use super::probe::{self, Probe};
use crate::history::journal;
use crate::place;
use crate::postgres::{self, Durability, Schema};
use crate::process::apart;
use crate::redis::{self, Keeps};

/// Where the store is.
#[derive(Debug)]
pub enum Store {
    /// In a file.
    File(PathBuf),
    /// In a schema of a server. (The schema goes with the server.)
    Schema(Schema, Arc<postgres::Server>),
}

/// The store's transactional handler writes there.
pub const EFFECTS: &str = "effects";

/// The servers.
#[derive(Debug)]
pub struct Servers {
    /// The store.
    pub store: Store,
    /// The second witness.
    pub redis: Option<redis::Server>,
}

impl Servers {
    /// Starts them, with an empty store that keeps a journal.
    pub fn start(options: &Options, file: PathBuf, runtime: &Handle) -> Self {
        let store = if options.on == On::Sqlite {
            Store::File(file)
        } else {
            let durability = if options.durable { Durability::Durable } else { Durability::Loose };
            let server = Arc::new(postgres::Server::start(durability));
            Store::Schema(Schema::on(server.url()), server)
        };
        // What it keeps at each write, it also has after a kill.
        let redis = (options.on == On::Redis).then(|| redis::Server::start(Keeps::EveryWrite));
        let servers = Self { store, redis };
        runtime.block_on(async {
            drop(place::open(&servers.url(), OpenMode::Create).await);
            let effects =
                format!("create table {EFFECTS} (batch bigint not null, line bigint not null, token bigint not null);");
            match &servers.store {
                Store::File(file) => {
                    let mut conn = connect(file).await;
                    sqlx::raw_sql(AssertSqlSafe(effects + probe::TABLE)).execute(&mut conn).await.expect("tables");
                    super::facts::keep_in_file(&mut conn).await;
                    conn.close().await.expect("it closes");
                }
                Store::Schema(schema, _) => {
                    let mut conn = schema.connect().await;
                    sqlx::raw_sql(AssertSqlSafe(effects + probe::TABLE)).execute(&mut conn).await.expect("tables");
                    journal::keep(&mut conn).await;
                }
            }
        });
        servers
    }

    /// Begins to probe the store; later by this much is too late.
    pub fn probe(&self, late: Duration) -> Probe {
        match &self.store {
            Store::File(file) => Probe::start::<SqliteConnection>(SqliteConnectOptions::new().filename(file), late),
            Store::Schema(schema, server) => {
                let options: PgConnectOptions = server.url().parse().expect("a URL");
                Probe::start::<sqlx::PgConnection>(options.options([("search_path", schema.name())]), late)
            }
        }
    }

    /// The store's URL.
    pub fn url(&self) -> String {
        match &self.store {
            Store::File(file) => format!("sqlite://{}", file.to_str().expect("UTF-8")),
            Store::Schema(schema, _) => schema.url(),
        }
    }

    /// A way to the store's server, if it has one.
    pub fn way_to_store(&self, runtime: &Handle) -> Option<Link> {
        match &self.store {
            Store::File(_) => None,
            Store::Schema(_, server) => Some(Link::start(runtime, server.port())),
        }
    }

    /// The store's URL over a port.
    pub fn url_over(&self, port: Option<u16>) -> String {
        match (&self.store, port) {
            (Store::Schema(schema, _), Some(port)) => {
                schema.url_at(&format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable"))
            }
            _ => self.url(),
        }
    }

    /// Where the transactional handler finds its table.
    pub fn effects(&self) -> String {
        match &self.store {
            Store::File(_) => EFFECTS.to_owned(),
            Store::Schema(schema, _) => format!("{}.{EFFECTS}", schema.name()),
        }
    }

    /// The number that a query gives; none while the store does not answer.
    pub async fn number(&self, query: &'static str) -> Option<i64> {
        match &self.store {
            Store::File(file) => {
                let options = SqliteConnectOptions::new().filename(file);
                let mut conn = options.connect().await.ok()?;
                sqlx::query_scalar(query).fetch_one(&mut conn).await.ok()
            }
            Store::Schema(schema, server) => {
                let mut conn = sqlx::PgConnection::connect(server.url()).await.ok()?;
                let path = format!("set search_path to \"{}\", pg_temp", schema.name());
                sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut conn).await.ok()?;
                sqlx::query_scalar(query).fetch_one(&mut conn).await.ok()
            }
        }
    }

    /// Batch, line and token of each effect.
    pub async fn effects_there(&self) -> Vec<(i64, i64, i64)> {
        let query = "select batch, line, token from effects";
        match &self.store {
            Store::File(file) => sqlx::query_as(query).fetch_all(&mut connect(file).await).await,
            Store::Schema(schema, _) => sqlx::query_as(query).fetch_all(&mut schema.connect().await).await,
        }
        .expect("the effects can be read")
    }

    /// Writes what the store holds to a file of this folder: one on the disk of a run is kept with that.
    pub fn dump(&self, folder: &Path) {
        if let Store::Schema(schema, server) = &self.store {
            let dump = std::fs::File::create(folder.join("store.sql")).expect("a file can be made");
            let mut command = Command::new(server.program("pg_dump"));
            command.args(["-d", server.url(), "-n", schema.name()]).stdout(dump);
            // Without it the rest is still worth keeping.
            let _ = apart(&mut command).status();
        }
    }
}

/// A connection to a store's file.
pub async fn connect(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).connect().await.expect("the file opens")
}
