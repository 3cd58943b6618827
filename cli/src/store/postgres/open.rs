//! Opening a store: what the database may be instead, making the schema, and moving it to this program's version.

use std::sync::Arc;
use std::time::Duration;

use fencepost_core::LeaseId;
use sqlx::{AssertSqlSafe, PgConnection};

use super::claim::InputsAtOnce;
use super::connections::Connections;
use super::options::{PostgresOptions, UrlError};
use super::trouble;
use super::{LOCK_WAIT, PostgresStore};
use crate::store::OpenMode;
use crate::store::sqlite::Clock;
use crate::store::version::{Migration, StoreVersion};

/// The version of the tables and functions that this program makes and knows. Whatever changes in `sql/` after a release
/// is a new version: a migration for the tables if they change, and the functions as they are now.
pub const SCHEMA_VERSION: i32 = 5;

/// The oldest server that has what the tables need (multiranges).
const SERVER_VERSION_MIN: i32 = 140_000;

/// Functions that were the store's in versions before this one.
const FORMER_FUNCTIONS: &[&str] = &[
    "due_call",
    "lock_batch_for_a_crash",
    "lock_batch_for_outcomes",
    "may_take_suspect",
    "require_read_committed",
    "stopped_claim",
    "take_outcomes",
    "tell_of_abort",
    "tell_of_free_lines",
    "undelivered_call",
];

/// What drops the store's functions, those of former versions too. Others in the schema (an extension's, somebody's own) stay.
fn drop_functions() -> String {
    let made = FUNCTIONS.iter().flat_map(|text| text.split("create or replace function ").skip(1));
    let made = made.filter_map(|text| text.split('(').next());
    let names: Vec<String> = made.chain(FORMER_FUNCTIONS.iter().copied()).map(|name| format!("'{name}'")).collect();
    format!(
        "do $$
        declare
            v_function regprocedure;
        begin
            for v_function in
                select p.oid::regprocedure from pg_proc p
                where p.pronamespace = current_schema()::regnamespace and p.proname in ({})
            loop
                execute format('drop function %s', v_function);
            end loop;
        end $$",
        names.join(", ")
    )
}

/// The migrations of the tables; the first makes version 1.
const MIGRATIONS: &[Migration] = &[
    Migration { name: "tables", sql: include_str!("sql/0001_tables.sql") },
    Migration { name: "purges", sql: include_str!("sql/0002_purges.sql") },
    Migration { name: "stopping", sql: include_str!("sql/0003_stopping.sql") },
    Migration { name: "calls", sql: include_str!("sql/0004_calls.sql") },
    Migration { name: "calls_due", sql: include_str!("sql/0005_calls_due.sql") },
    Migration { name: "settling", sql: include_str!("sql/0006_settling.sql") },
];

/// The functions, replaced at every change of version.
const FUNCTIONS: &[&str] = &[
    include_str!("sql/functions/01_shared.sql"),
    include_str!("sql/functions/02_lease.sql"),
    include_str!("sql/functions/03_claim.sql"),
    include_str!("sql/functions/03_claimed.sql"),
    include_str!("sql/functions/04_record.sql"),
    include_str!("sql/functions/05_recover.sql"),
    include_str!("sql/functions/06_load.sql"),
    include_str!("sql/functions/07_read.sql"),
    include_str!("sql/functions/08_operate.sql"),
    include_str!("sql/functions/09_append.sql"),
    include_str!("sql/functions/10_purge.sql"),
    include_str!("sql/functions/11_calls.sql"),
    include_str!("sql/functions/99_settings.sql"),
];

/// Why a database cannot be opened as a store. No text of it has a password in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL makes no sense.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No connection came about.
    #[error("{message}")]
    Connect {
        /// Why, with the address.
        message: String,
    },
    /// The server is too old.
    #[error("{place}: the server is Postgres {version}; fencepost needs 14 or later")]
    ServerTooOld {
        /// Which store.
        place: String,
        /// Its version.
        version: i32,
    },
    /// The database keeps text in another encoding.
    #[error(
        "{place}: the database's encoding is {encoding}; fencepost needs one with UTF8 (create database NAME encoding 'UTF8' template template0)"
    )]
    Encoding {
        /// Which store.
        place: String,
        /// Its encoding.
        encoding: String,
    },
    /// There is no store, and none was to be made.
    #[error("{place}: there is no store in this schema yet")]
    Missing {
        /// Which store.
        place: String,
    },
    /// The schema holds tables of something else.
    #[error(
        "{place}: this schema belongs to something else (it has no fencepost tables, but others); name another with ?schema=NAME"
    )]
    Foreign {
        /// Which store.
        place: String,
    },
    /// A newer program has moved the tables to a version that this one must not touch.
    #[error(
        "{place}: the store is at version {schema_version} and wants programs of version {worker_version_min} or later; this one knows {SCHEMA_VERSION}: update fencepost"
    )]
    Newer {
        /// Which store.
        place: String,
        /// The version of the tables.
        schema_version: i32,
        /// The oldest program that may work on them.
        worker_version_min: i32,
    },
    /// An older program made the tables, and they were not to be changed.
    #[error(
        "{place}: the store is at version {schema_version}, older than this program's {SCHEMA_VERSION}: `fencepost migrate` brings it up to date"
    )]
    Older {
        /// Which store.
        place: String,
        /// The version of the tables.
        schema_version: i32,
    },
    /// The server cannot be written, and a store was to be made or worked on.
    #[error("{place}: the server is read-only (a standby, or default_transaction_read_only): name the primary")]
    ReadOnly {
        /// Which store.
        place: String,
    },
    /// Anything else that Postgres reports.
    #[error("{message}")]
    Sql {
        /// In words that name the store.
        message: String,
    },
}

/// How long making or migrating the tables may take, with the wait for others who do so.
const MAKING_LIMIT: Duration = Duration::from_secs(120);

impl PostgresStore {
    /// Opens the store. Any number of processes may do so at once.
    ///
    /// # Errors
    ///
    /// Where the server cannot be reached, or there is no store that this program can use.
    pub async fn open(options: PostgresOptions, mode: OpenMode) -> Result<Self, OpenError> {
        Self::open_on_clock(options, mode, None).await
    }

    /// The same on another clock than the database's: for tests. Each request carries its time then, so that nothing of it
    /// stays in the database or in a session.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_with_clock(
        options: PostgresOptions,
        mode: OpenMode,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        Self::open_on_clock(options, mode, Some(clock)).await
    }

    /// The version of the store, and what is to be done to it. Changes nothing.
    ///
    /// # Errors
    ///
    /// Where the server cannot be reached, or there is no store that this program can use or bring up to date.
    pub async fn version(options: PostgresOptions) -> Result<StoreVersion, OpenError> {
        let connections = Connections::new(options, LOCK_WAIT);
        let connecting = connections.connect(Connections::probe_limit()).await;
        let mut conn = connecting.map_err(|message| OpenError::Connect { message })?;
        let opening = Opening { options: connections.options(), place: connections.place() };
        let identifying = opening.identify(&mut conn, OpenMode::Existing);
        let found = opening.within(Connections::probe_limit(), identifying).await?;
        let version = match &found {
            Found::Store { schema_version, .. } => *schema_version,
            Found::Nothing { .. } | Found::Foreign => 0,
        };
        match opening.current(found, OpenMode::Existing) {
            Ok(_) | Err(OpenError::Older { .. }) => {
                let as_number = |version: i32| u32::try_from(version).unwrap_or_default();
                Ok(StoreVersion::new(as_number(version), as_number(SCHEMA_VERSION), MIGRATIONS))
            }
            Err(error) => Err(error),
        }
    }

    async fn open_on_clock(
        options: PostgresOptions,
        mode: OpenMode,
        clock: Option<Arc<dyn Clock>>,
    ) -> Result<Self, OpenError> {
        let connections = Connections::new(options, LOCK_WAIT);
        let connecting = connections.connect(Connections::probe_limit()).await;
        let mut conn = connecting.map_err(|message| OpenError::Connect { message })?;
        let opening = Opening { options: connections.options(), place: connections.place() };
        let store_id = opening.prepare(&mut conn, mode).await?;
        connections.keep_connection(conn);
        Ok(Self {
            connections: Arc::new(connections),
            store_id: store_id.into(),
            clock,
            inputs_at_once: Arc::new(InputsAtOnce::new()),
        })
    }
}

/// A store being opened.
struct Opening<'a> {
    options: &'a PostgresOptions,
    place: &'a str,
}

/// What is in the schema.
enum Found {
    Nothing { schema: bool },
    Foreign,
    Store { schema_version: i32, worker_version_min: i32, store_id: String },
}

#[derive(sqlx::FromRow)]
struct Server {
    version: i32,
    encoding: String,
    read_only: bool,
    schema: bool,
    tables: i64,
    store: bool,
}

impl Opening<'_> {
    fn place(&self) -> String {
        self.place.to_owned()
    }

    fn failed(&self, error: sqlx::Error) -> OpenError {
        OpenError::Sql { message: trouble::of_statement(error, self.place).message }
    }

    /// The store's id, after whatever had to be made.
    async fn prepare(&self, conn: &mut PgConnection, mode: OpenMode) -> Result<String, OpenError> {
        let found = self.within(Connections::probe_limit(), self.identify(conn, mode)).await?;
        if let Some(store_id) = self.current(found, mode)? {
            return Ok(store_id);
        }
        // On an error the connection is closed, which rolls back.
        let making = async {
            self.execute(conn, "begin isolation level read committed".to_owned()).await?;
            let store_id = self.migrate(conn, mode).await?;
            self.execute(conn, "commit".to_owned()).await?;
            Ok(store_id)
        };
        self.within(MAKING_LIMIT, making).await
    }

    /// A connection may stay open although nothing comes over it any more.
    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<T, OpenError> {
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            Err(OpenError::Connect { message: format!("no answer from {} within {limit:?}", self.options.address()) })
        })
    }

    /// The store's id, if nothing is to be done; an error, if nothing may be done.
    fn current(&self, found: Found, mode: OpenMode) -> Result<Option<String>, OpenError> {
        let place = self.place();
        match found {
            Found::Foreign => Err(OpenError::Foreign { place }),
            Found::Nothing { .. } if mode == OpenMode::Existing => Err(OpenError::Missing { place }),
            Found::Nothing { .. } => Ok(None),
            Found::Store { schema_version, worker_version_min, .. } if worker_version_min > SCHEMA_VERSION => {
                Err(OpenError::Newer { place, schema_version, worker_version_min })
            }
            Found::Store { schema_version, .. } if schema_version < SCHEMA_VERSION && mode == OpenMode::Existing => {
                Err(OpenError::Older { place, schema_version })
            }
            Found::Store { schema_version, store_id, .. } => Ok((schema_version >= SCHEMA_VERSION).then_some(store_id)),
        }
    }

    /// Looks at the server and the schema. The name of the schema is checked, so it can stand in the text.
    async fn identify(&self, conn: &mut PgConnection, mode: OpenMode) -> Result<Found, OpenError> {
        let schema = &self.options.schema;
        let sql = format!(
            "select current_setting('server_version_num')::integer as version,
                    current_setting('server_encoding') as encoding,
                    current_setting('transaction_read_only')::boolean as read_only,
                    exists (select from pg_namespace where nspname = '{schema}') as schema,
                    (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname = '{schema}' and c.relkind in ('r', 'p', 'v', 'm', 'f')) as tables,
                    exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                            join pg_attribute a on a.attrelid = c.oid and a.attname = 'worker_version_min'
                            where n.nspname = '{schema}' and c.relname = 'store') as store"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *conn).await;
        let server = rows.and_then(|row| sqlx::FromRow::from_row(&row)).map_err(|error| self.failed(error))?;
        let Server { version, encoding, read_only, schema: has_schema, tables, store } = server;
        if version < SERVER_VERSION_MIN {
            return Err(OpenError::ServerTooOld { place: self.place(), version: version / 10_000 });
        }
        if encoding != "UTF8" {
            return Err(OpenError::Encoding { place: self.place(), encoding });
        }
        if read_only && mode == OpenMode::Create {
            return Err(OpenError::ReadOnly { place: self.place() });
        }
        if !store {
            return Ok(if tables == 0 { Found::Nothing { schema: has_schema } } else { Found::Foreign });
        }
        let sql = format!("select schema_version, worker_version_min, store_id from \"{schema}\".store where one = 1");
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(conn).await;
        let (schema_version, worker_version_min, store_id) =
            row.and_then(|row| sqlx::FromRow::from_row(&row)).map_err(|error| self.failed(error))?;
        Ok(Found::Store { schema_version, worker_version_min, store_id })
    }

    /// Alone among all that open this schema: looks again, since another process may have been faster, then moves version
    /// by version.
    async fn migrate(&self, conn: &mut PgConnection, mode: OpenMode) -> Result<String, OpenError> {
        let schema = &self.options.schema;
        // Others may have much to do before it is this one's turn.
        self.execute(conn, "set local statement_timeout = 0; set local lock_timeout = '30s'".to_owned()).await?;
        self.execute(conn, format!("select pg_advisory_xact_lock(hashtextextended('fencepost schema {schema}', 0))"))
            .await?;
        let found = self.identify(conn, mode).await?;
        let (version, made) = match &found {
            Found::Store { schema_version, .. } => (*schema_version, true),
            Found::Nothing { schema } => (0, *schema),
            Found::Foreign => (0, true),
        };
        if let Some(store_id) = self.current(found, mode)? {
            return Ok(store_id);
        }
        if !made {
            self.execute(conn, format!("create schema \"{schema}\"")).await?;
        }
        self.execute(conn, format!("set local search_path to \"{schema}\", pg_temp")).await?;
        for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > version) {
            self.execute(conn, migration.sql.to_owned()).await?;
            if number == 1 {
                let store_id = LeaseId::from_random(rand::random());
                let insert = format!(
                    "insert into store (one, store_id, schema_version, worker_version_min) values (1, '{store_id}', 1, 1)"
                );
                self.execute(conn, insert).await?;
            }
        }
        // Replacing one cannot change what it gives, nor does it take away those of another version.
        self.execute(conn, drop_functions()).await?;
        for functions in FUNCTIONS {
            self.execute(conn, (*functions).to_owned()).await?;
        }
        self.execute(
            conn,
            format!("update store set schema_version = {SCHEMA_VERSION} where schema_version < {SCHEMA_VERSION}"),
        )
        .await?;
        let read = "select store_id from store where one = 1";
        let row = sqlx::raw_sql(read).fetch_one(conn).await;
        let (store_id,) = row.and_then(|row| sqlx::FromRow::from_row(&row)).map_err(|error| self.failed(error))?;
        Ok(store_id)
    }

    async fn execute(&self, conn: &mut PgConnection, sql: String) -> Result<(), OpenError> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop).map_err(|error| self.failed(error))
    }
}
