//! Where a scenario happens: a folder, and a store of some kind that goes with it.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use fencepost::store::view::{BatchCounts, WorkersView};
use fencepost::store::{AnyStore, OpenMode, Reads, StoreUrl};
use fencepost_core::{BatchId, StoreTime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::pooler::Pooler;
use crate::postgres::{Durability, Schema, Server, own};
use crate::process::{Process, mortal, until};
use crate::scenario::STUCK;

/// Which kind of store keeps a scenario's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// An SQLite file in the scenario's folder.
    Sqlite,
    /// A schema of the scenario's own on the server that this process shares.
    Postgres,
    /// The same on this process's own server, through PgBouncer in transaction mode.
    Pgbouncer,
}

/// A scenario's folder, and its store.
pub struct Place {
    dir: tempfile::TempDir,
    at: At,
    store: String,
    runtime: tokio::runtime::Runtime,
}

/// Where the store's tables are. Parts are dropped in their order.
enum At {
    File,
    Schema { schema: Schema, _pooler: Option<Pooler>, server: Option<Box<Server>> },
}

impl Place {
    /// An empty place, whose store is made by whoever first submits to it.
    pub fn new(kind: StoreKind) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (at, store) = match kind {
            StoreKind::Sqlite => {
                let file = dir.path().join(STORE_FILE);
                (At::File, format!("sqlite://{}", file.to_str().expect("UTF-8")))
            }
            StoreKind::Postgres => in_schema(Schema::new(), None, None),
            StoreKind::Pgbouncer => in_schema(Schema::on(own().url()), Some(Pooler::start(own())), None),
        };
        Self { dir, at, store, runtime: runtime() }
    }

    /// An empty place in a schema of [`own`].
    pub fn on_own() -> Self {
        let (at, store) = in_schema(Schema::on(own().url()), None, None);
        Self { dir: tempfile::tempdir().expect("a temporary folder"), at, store, runtime: runtime() }
    }

    /// An empty place on a Postgres server of its own, which it may stop.
    pub fn on_own_server(durability: Durability) -> Self {
        Self::on_server(Server::start(durability))
    }

    /// An empty place on this server, which it keeps.
    pub fn on_server(server: Server) -> Self {
        let (at, store) = in_schema(Schema::on(server.url()), None, Some(server));
        Self { dir: tempfile::tempdir().expect("a temporary folder"), at, store, runtime: runtime() }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The store's URL, as `--store` takes it.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// The store's file: of scenarios about files.
    pub fn store_file(&self) -> PathBuf {
        assert!(matches!(self.at, At::File), "a store on a server has no file");
        self.file(STORE_FILE)
    }

    /// The server of its own.
    pub fn server(&self) -> &Server {
        match &self.at {
            At::Schema { server: Some(server), .. } => server,
            _ => panic!("this place has no server of its own"),
        }
    }

    /// The store's schema: of scenarios on a server.
    pub fn schema(&self) -> &Schema {
        match &self.at {
            At::Schema { schema, .. } => schema,
            At::File => panic!("a file has no schema"),
        }
    }

    /// The form of a statement that this kind of store understands.
    pub fn dialect(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.at {
            At::File => sqlite,
            At::Schema { .. } => postgres,
        }
    }

    /// The handlers' ledger.
    pub fn ledger(&self) -> PathBuf {
        self.file("ledger")
    }

    /// Opens the store.
    pub fn open(&self, mode: OpenMode) -> AnyStore {
        self.block_on(open(&self.store, mode))
    }

    /// Opens the store for looking.
    pub fn look(&self) -> Looker<'_> {
        Looker { store: self.open(OpenMode::Existing), place: self }
    }

    /// Starts a worker with the ledger handler.
    pub fn worker(&self, arguments: &[String]) -> Process {
        self.worker_at(&self.store, arguments)
    }

    /// The same over another way to the store.
    pub fn worker_at(&self, store: &str, arguments: &[String]) -> Process {
        Process::start(self.worker_command(store, arguments))
    }

    /// The same, which says what it does in this file.
    pub fn worker_with_log(&self, log: &Path, arguments: &[String]) -> Process {
        let mut command = self.worker_command(&self.store, arguments);
        command.arg("--verbose").stderr(File::create(log).expect("the log can be written"));
        Process::start(command)
    }

    /// The command of [`Self::worker_at`].
    pub fn worker_command(&self, store: &str, arguments: &[String]) -> Command {
        let mut command = mortal("ledger-worker");
        command.arg("--store").arg(store).arg("--ledger").arg(self.ledger()).args(arguments);
        command
    }

    /// Workers that start from now on seem to be on machines of their own, so that no death is known at once (R1): of stores
    /// on Postgres.
    pub fn hide_processes(&self) {
        self.execute(
            "create function on_another_machine() returns trigger language plpgsql as \
             $$ begin new.machine := 'machine of ' || new.pid; return new; end $$; \
             create trigger on_another_machine before insert on leases \
             for each row execute function on_another_machine()",
        );
    }

    /// Runs statements on the store's database, behind the program's back.
    pub fn execute(&self, statements: &'static str) {
        self.block_on(async {
            match &self.at {
                At::File => execute(self.connect_to_file().await, statements).await,
                At::Schema { schema, .. } => execute(schema.connect().await, statements).await,
            }
        });
    }

    /// The number that a query of the store's database gives.
    pub fn number(&self, query: &'static str) -> i64 {
        self.block_on(async {
            match &self.at {
                At::File => number(self.connect_to_file().await, query).await,
                At::Schema { schema, .. } => number(schema.connect().await, query).await,
            }
        })
    }

    /// Stops a worker, but not inside a write of an SQLite store, which would hold up everybody else (T2): while it is
    /// stopped, the write lock is held here. On Postgres a stopped worker holds nothing.
    pub fn stop(&self, pid: u32) {
        let held = matches!(self.at, At::File).then(|| {
            // SQLite's own waiting would starve behind busy writers, and the job be over before the lock is had.
            let options = SqliteConnectOptions::new().filename(self.store_file()).busy_timeout(Duration::ZERO);
            let mut conn = self.block_on(options.connect()).expect("the file opens");
            let mut begin = || self.block_on(sqlx::raw_sql("begin immediate").execute(&mut conn));
            until("the write lock is had", STUCK, || begin().is_ok().then_some(()));
            conn
        });
        signal(pid, Signal::SIGSTOP);
        until("all its threads stand still", STUCK, || stands_still(pid).then_some(()));
        if let Some(conn) = held {
            self.block_on(conn.close()).expect("it closes");
        }
    }

    async fn connect_to_file(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.store_file()).busy_timeout(STUCK);
        options.connect().await.expect("the file opens")
    }

    /// Waits for something asynchronous.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

const STORE_FILE: &str = "store.db";

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
}

/// A store in this schema, over the pooler if there is one.
fn in_schema(schema: Schema, pooler: Option<Pooler>, server: Option<Server>) -> (At, String) {
    let url = pooler.as_ref().map_or_else(|| schema.url(), |pooler| schema.url_at(pooler.url()));
    (At::Schema { schema, _pooler: pooler, server: server.map(Box::new) }, url)
}

async fn execute<C: Connection>(mut conn: C, statements: &'static str)
where
    for<'c> &'c mut C: sqlx::Executor<'c, Database = C::Database>,
{
    sqlx::raw_sql(statements).execute(&mut conn).await.expect("it can be done");
    conn.close().await.expect("it closes");
}

async fn number<C: Connection>(mut conn: C, query: &'static str) -> i64
where
    for<'c> &'c mut C: sqlx::Executor<'c, Database = C::Database>,
    for<'r> i64: sqlx::Decode<'r, C::Database> + sqlx::Type<C::Database>,
    usize: sqlx::ColumnIndex<<C::Database as sqlx::Database>::Row>,
{
    let row = sqlx::raw_sql(query).fetch_one(&mut conn).await.expect("a record");
    conn.close().await.expect("it closes");
    sqlx::Row::get(&row, 0)
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("it runs");
}

/// Whether no thread of a process runs: a signal stops them one after the other.
fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['T', 'Z', 'X']))
    })
}

/// Opens the store with this URL.
pub async fn open(url: &str, mode: OpenMode) -> AnyStore {
    let url: StoreUrl = url.parse().expect("a store's URL");
    url.open(mode).await.expect("the store opens")
}

/// Looks at a store.
pub struct Looker<'p> {
    store: AnyStore,
    place: &'p Place,
}

impl Looker<'_> {
    /// A batch's counts.
    pub fn counts(&self, batch: &str) -> BatchCounts {
        let batch: BatchId = batch.parse().expect("an id");
        self.place.block_on(self.store.status(batch)).expect("the store answers").expect("the batch is there")
    }

    /// All workers that ever were.
    pub fn workers(&self) -> WorkersView {
        self.place.block_on(self.store.workers(StoreTime(0))).expect("the store answers")
    }

    /// How many lines the live lease of a process holds.
    pub fn lines_held_by(&self, pid: u32) -> u64 {
        let workers = self.workers().workers;
        let of_pid = workers.iter().filter(|worker| worker.process.as_ref().is_some_and(|process| process.pid == pid));
        of_pid.flat_map(|worker| &worker.holds).map(|(_, lines)| lines.count()).sum()
    }

    /// The longest span that the live lease of a process holds lines of.
    pub fn holds_at_least(&self, pid: u32, lines: u64) -> bool {
        self.lines_held_by(pid) >= lines
    }

    /// Whether the batch has ended.
    pub fn has_ended(&self, batch: &str) -> bool {
        self.counts(batch).batch.ended_at.is_some()
    }
}
