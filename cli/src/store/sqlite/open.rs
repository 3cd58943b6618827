//! Opening a store's file: what it may be instead, making the tables, and moving them to this program's version.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fencepost_core::LeaseId;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection, SqlitePool};

use super::trouble::{Code, cause, code, describe};
use super::turn::Turn;
use super::{ASK_AGAIN, Clock, LOCK_WAIT, Parts, SqliteStore, SystemClock};
use crate::store::examine::SchemaState;
use crate::store::version::{Migration, StoreVersion};
use crate::store::{OpenMode, StoreError};

/// The version of the tables that this program makes and knows.
pub const SCHEMA_VERSION: i64 = 7;

/// Marks a file as fencepost's (`pragma application_id`): "fpst" in ASCII.
pub const APPLICATION_ID: i64 = 0x6670_7374;

/// How long opening waits for others that open the same file.
const OPEN_WAIT: Duration = Duration::from_secs(30);

/// The migrations; the first makes version 1.
const MIGRATIONS: &[Migration] = &[
    Migration { name: "base", sql: include_str!("migrations/0001_base.sql") },
    Migration { name: "looked_at", sql: include_str!("migrations/0002_looked_at.sql") },
    Migration { name: "appends", sql: include_str!("migrations/0003_appends.sql") },
    Migration { name: "purges", sql: include_str!("migrations/0004_purges.sql") },
    Migration { name: "stopping", sql: include_str!("migrations/0005_stopping.sql") },
    Migration { name: "calls", sql: include_str!("migrations/0006_calls.sql") },
    Migration { name: "calls_due", sql: include_str!("migrations/0007_calls_due.sql") },
];

/// Why a file cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The name is empty.
    #[error("the store's name is empty; name a file")]
    NoName,
    /// A database in memory would be lost, and no other process could see it.
    #[error("{name}: a store is a file; there are none in memory")]
    InMemory {
        /// The name given.
        name: String,
    },
    /// The name leaves no room for the endings of the files that SQLite keeps beside it.
    #[error("{}: the name is too long", path.display())]
    NameTooLong {
        /// The path given.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("{}: there is no such file", path.display())]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// The directory that the file would be in is not there.
    #[error("{}: there is no directory {} to make it in", path.display(), directory.display())]
    NoDirectory {
        /// The path given.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// The path is a directory.
    #[error("{}: is a directory; name a file in it", path.display())]
    IsDirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The file is no SQLite database.
    #[error("{}: the file is not an SQLite database", path.display())]
    NotADatabase {
        /// The path given.
        path: PathBuf,
    },
    /// The file is an SQLite database without anything in it, and no store was to be made.
    #[error("{}: the file is empty or only half made; there is no store in it yet", path.display())]
    Empty {
        /// The path given.
        path: PathBuf,
    },
    /// The file is some other program's SQLite database.
    #[error("{}: this is the database of some other program (it has no fencepost tables, but others); name another file", path.display())]
    Foreign {
        /// The path given.
        path: PathBuf,
    },
    /// A newer program has moved the tables to a version that this one must not touch.
    #[error(
        "{}: the store is at version {schema_version} and wants programs of version {worker_version_min} or later; this one knows {SCHEMA_VERSION}: update fencepost",
        path.display()
    )]
    Newer {
        /// The path given.
        path: PathBuf,
        /// The version of the tables.
        schema_version: i64,
        /// The oldest program that may work on them.
        worker_version_min: i64,
    },
    /// Anything that SQLite or the operating system reports: read-only, locked, full, damaged.
    #[error("{message}")]
    Sql {
        /// In words that name the file.
        message: String,
        /// What SQLite says, where the message does not say it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl OpenError {
    pub(super) fn from_sql(error: sqlx::Error, path: &Path) -> Self {
        match code(&error) {
            Code::NotADatabase => Self::NotADatabase { path: path.to_owned() },
            _ => Self::Sql { message: describe(&error, path), source: cause(&error) },
        }
    }
}

/// Of a store that was open before: one more connection could not be made, so nothing was done over it.
impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Sql { message, source } => Self::not_done(message, source),
            other => Self::not_done(other.to_string(), None),
        }
    }
}

impl SqliteStore {
    /// Opens the store in this file. Any number of processes may do so at once.
    pub async fn open(path: impl AsRef<Path>, mode: OpenMode) -> Result<Self, OpenError> {
        Self::open_with_clock(path, mode, Arc::new(SystemClock)).await
    }

    /// The same on another clock than the machine's.
    pub async fn open_with_clock(
        path: impl AsRef<Path>,
        mode: OpenMode,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        check_path(&path, mode)?;
        let (conn, store_id) = prepare(&path, mode).await?;
        let readers = reader_pool(&path);
        let turn = Turn::open(&path, false);
        Ok(Self::assemble(conn, turn, Parts { path, store_id, readers, clock }, LOCK_WAIT))
    }
}

/// The version of the store in this file, and what is to be done to it. Changes nothing.
pub async fn version_of(path: &Path) -> Result<StoreVersion, OpenError> {
    check_path(path, OpenMode::Existing)?;
    let failed = |error| OpenError::from_sql(error, path);
    let mut conn = connect_reader(path).await?;
    let found = identify_at_once(&mut conn).await.map_err(failed)?;
    let version = match &found {
        Found::Store { schema_version, .. } => *schema_version,
        Found::Nothing | Found::Foreign => 0,
    };
    let as_number = |version: i64| u32::try_from(version).unwrap_or_default();
    current(found, path, OpenMode::Existing)?;
    Ok(StoreVersion::new(as_number(version), as_number(SCHEMA_VERSION), MIGRATIONS))
}

/// What SQLite and the store keep at and beside this path.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    const ENDINGS: [&str; 5] = ["", "-wal", "-shm", "-journal", "-turn"];
    // SQLite names its files after the file itself, not after a link to it.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let beside = |ending: &&str| {
        [path, &real].map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        })
    };
    ENDINGS.iter().flat_map(beside).collect()
}

/// The path of a store named as a path or in one of the forms that other tools know: `sqlite:PATH`, `sqlite://PATH`, so
/// `sqlite:///PATH` from the root.
pub fn path_of(name: &str) -> Result<PathBuf, OpenError> {
    let path = name.strip_prefix("sqlite:").map_or(name, |rest| rest.strip_prefix("//").unwrap_or(rest));
    check_name(Path::new(path))?;
    Ok(PathBuf::from(path))
}

fn check_name(path: &Path) -> Result<(), OpenError> {
    const LONGEST_ENDING: usize = "-journal".len();
    // Of most file systems, and of SQLite.
    const NAME_BYTES_MAX: usize = 255;
    const PATH_BYTES_MAX: usize = 512;
    if path.as_os_str().is_empty() {
        return Err(OpenError::NoName);
    }
    let name = path.file_name().unwrap_or_default();
    if name == ":memory:" {
        return Err(OpenError::InMemory { name: name.to_string_lossy().into_owned() });
    }
    let whole = std::path::absolute(path).map_or(0, |whole| whole.as_os_str().len());
    if name.len() + LONGEST_ENDING > NAME_BYTES_MAX || whole + LONGEST_ENDING > PATH_BYTES_MAX {
        return Err(OpenError::NameTooLong { path: path.to_owned() });
    }
    Ok(())
}

fn check_path(path: &Path, mode: OpenMode) -> Result<(), OpenError> {
    check_name(path)?;
    if path.is_dir() {
        return Err(OpenError::IsDirectory { path: path.to_owned() });
    }
    if path.exists() {
        return Ok(());
    }
    if mode == OpenMode::Existing {
        return Err(OpenError::Missing { path: path.to_owned() });
    }
    match path.parent() {
        Some(directory) if directory != Path::new("") && !directory.is_dir() => {
            Err(OpenError::NoDirectory { path: path.to_owned(), directory: directory.to_owned() })
        }
        _ => Ok(()),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(false)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
}

fn writer_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .busy_timeout(OPEN_WAIT)
        .row_buffer_size(256)
        .pragma("cache_size", "-16384")
        .pragma("journal_size_limit", "67108864")
}

/// One more connection to write with.
pub(super) async fn connect_writer(path: &Path) -> Result<SqliteConnection, OpenError> {
    let failed = |error| OpenError::from_sql(error, path);
    let mut conn = connect(&writer_options(path)).await.map_err(failed)?;
    identify_at_once(&mut conn).await.map_err(failed)?;
    wait_no_more(&mut conn).await.map_err(failed)?;
    Ok(conn)
}

/// Another process may be closing the store as its last user, or repairing it after a crash: both lock everybody out for
/// a moment.
async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let until = Instant::now() + OPEN_WAIT;
    loop {
        match options.connect().await {
            Err(error) if code(&error) == Code::Locked && Instant::now() < until => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            result => return result,
        }
    }
}

/// Once a connection has read, nobody can lock it out of reading. From then on a writer never sleeps on a lock by itself:
/// whoever begins asks again.
async fn wait_no_more(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const DO_NOT_WAIT: &str = "pragma busy_timeout = 0";
    sqlx::query(DO_NOT_WAIT).execute(conn).await.map(drop)
}

fn reader_options(path: &Path) -> SqliteConnectOptions {
    options(path).busy_timeout(LOCK_WAIT).row_buffer_size(256).pragma("query_only", "on").pragma("cache_size", "-4096")
}

/// A connection that only reads.
pub(super) async fn connect_reader(path: &Path) -> Result<SqliteConnection, OpenError> {
    connect(&reader_options(path)).await.map_err(|error| OpenError::from_sql(error, path))
}

/// A connection that can do nothing but read, not even fold the write-ahead log into the file as the last one that closes.
pub(super) async fn connect_to_look(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    reader_options(path).read_only(true).connect().await
}

/// Whose file it is.
pub(super) async fn schema_of(conn: &mut SqliteConnection) -> Result<SchemaState, sqlx::Error> {
    Ok(match identify_at_once(conn).await? {
        Found::Nothing => SchemaState::Missing,
        Found::Foreign => SchemaState::Foreign,
        Found::Store { schema_version, worker_version_min, store_id } => {
            SchemaState::of(schema_version, worker_version_min, store_id, SCHEMA_VERSION)
        }
    })
}

fn reader_pool(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(3)
        .test_before_acquire(false)
        .acquire_timeout(LOCK_WAIT)
        .connect_lazy_with(reader_options(path))
}

/// What is in the file.
enum Found {
    Nothing,
    Foreign,
    Store { schema_version: i64, worker_version_min: i64, store_id: String },
}

/// Makes or migrates the tables where that is needed: a connection to write with, and the store's id.
async fn prepare(path: &Path, mode: OpenMode) -> Result<(SqliteConnection, String), OpenError> {
    let failed = |error| OpenError::from_sql(error, path);
    let options = writer_options(path).create_if_missing(mode == OpenMode::Create);
    let mut conn = connect(&options).await.map_err(failed)?;
    let found = identify_at_once(&mut conn).await.map_err(failed)?;
    let store_id = match current(found, path, mode)? {
        Some(store_id) => store_id,
        None => {
            write_ahead(&mut conn).await.map_err(failed)?;
            migrate(&mut conn, path, mode).await?
        }
    };
    wait_no_more(&mut conn).await.map_err(failed)?;
    if mode == OpenMode::Create {
        may_write(&mut conn).await.map_err(failed)?;
    }
    Ok((conn, store_id))
}

/// The store's id, if nothing is to be done; an error, if nothing may be done.
fn current(found: Found, path: &Path, mode: OpenMode) -> Result<Option<String>, OpenError> {
    let path = path.to_owned();
    match found {
        Found::Foreign => Err(OpenError::Foreign { path }),
        Found::Nothing if mode == OpenMode::Existing => Err(OpenError::Empty { path }),
        Found::Nothing => Ok(None),
        Found::Store { schema_version, worker_version_min, .. } if worker_version_min > SCHEMA_VERSION => {
            Err(OpenError::Newer { path, schema_version, worker_version_min })
        }
        Found::Store { schema_version, store_id, .. } => Ok((schema_version >= SCHEMA_VERSION).then_some(store_id)),
    }
}

const READ_APPLICATION_ID: &str = "pragma application_id";
const TABLES: &str = "select count(*), coalesce(sum(name = 'store'), 0) from sqlite_schema where type = 'table'";
const READ_STORE: &str = "select schema_version, worker_version_min, store_id from store where one = 1";

/// In one snapshot: else a store that another process is just making looks like another program's database.
async fn identify_at_once(conn: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    sqlx::query(BEGIN_READ).execute(&mut *conn).await?;
    let found = identify(conn).await?;
    sqlx::query(ROLLBACK).execute(conn).await?;
    Ok(found)
}

async fn identify(conn: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    let application: i64 = sqlx::query_scalar(READ_APPLICATION_ID).fetch_one(&mut *conn).await?;
    let (tables, stores): (i64, i64) = sqlx::query_as(TABLES).fetch_one(&mut *conn).await?;
    match (application, tables, stores) {
        (0, 0, _) => Ok(Found::Nothing),
        (APPLICATION_ID, _, 1) => {
            let (schema_version, worker_version_min, store_id) = sqlx::query_as(READ_STORE).fetch_one(conn).await?;
            Ok(Found::Store { schema_version, worker_version_min, store_id })
        }
        _ => Ok(Found::Foreign),
    }
}

const BEGIN_READ: &str = "begin";
const BEGIN: &str = "begin immediate";
const ROLLBACK: &str = "rollback";
const COMMIT: &str = "commit";

/// Tells a read-only file now, rather than at the first claim. A lock held by another says nothing.
async fn may_write(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    match sqlx::query(BEGIN).execute(&mut *conn).await {
        Ok(_) => sqlx::query(ROLLBACK).execute(conn).await.map(drop),
        Err(error) if code(&error) == Code::Locked => Ok(()),
        Err(error) => Err(error),
    }
}

/// Turns the write-ahead log on, which the file remembers. SQLite does not wait for others here, so this does.
async fn write_ahead(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const WRITE_AHEAD: &str = "pragma journal_mode = wal";
    let until = Instant::now() + OPEN_WAIT;
    loop {
        match sqlx::query(WRITE_AHEAD).execute(&mut *conn).await {
            Err(error) if code(&error) == Code::Locked && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            result => return result.map(drop),
        }
    }
}

/// Under the write lock: looks again, since another process may have been faster, then moves version by version.
async fn migrate(conn: &mut SqliteConnection, path: &Path, mode: OpenMode) -> Result<String, OpenError> {
    let failed = |error| OpenError::from_sql(error, path);
    sqlx::query(BEGIN).execute(&mut *conn).await.map_err(failed)?;
    let found = identify(conn).await.map_err(failed)?;
    let version = match &found {
        Found::Store { schema_version, .. } => *schema_version,
        _ => 0,
    };
    if let Some(store_id) = current(found, path, mode)? {
        sqlx::query(ROLLBACK).execute(conn).await.map_err(failed)?;
        return Ok(store_id);
    }
    let store_id = apply_from(conn, version).await.map_err(failed)?;
    sqlx::query(COMMIT).execute(conn).await.map_err(failed)?;
    Ok(store_id)
}

const MARK_FILE: &str = "pragma application_id = 1718645620";

const INSERT_STORE: &str = "\
insert into store (one, store_id, schema_version, worker_version_min, last_token)
values (1, ?1, 1, 1, 0)";

const SET_VERSION: &str = "update store set schema_version = ?1 where one = 1 and schema_version < ?1";

const READ_ID: &str = "select store_id from store where one = 1";

async fn apply_from(conn: &mut SqliteConnection, version: i64) -> Result<String, sqlx::Error> {
    for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > version) {
        sqlx::raw_sql(migration.sql).execute(&mut *conn).await?;
        if number == 1 {
            let store_id = LeaseId::from_random(rand::random()).to_string();
            sqlx::query(MARK_FILE).execute(&mut *conn).await?;
            sqlx::query(INSERT_STORE).bind(store_id).execute(&mut *conn).await?;
        } else {
            sqlx::query(SET_VERSION).bind(number).execute(&mut *conn).await?;
        }
    }
    sqlx::query_scalar(READ_ID).fetch_one(conn).await
}
