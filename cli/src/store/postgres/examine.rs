//! Looking at a server, its settings and its sessions, and at the store in it.
//!
//! Each question is a statement of its own that only reads: where one is refused, the others are still asked.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fencepost_core::StoreTime;
use fencepost_core::rules::claim::BatchStatus;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use super::connections::{CONNECTIONS_PER_WORKER, Connections};
use super::open::SCHEMA_VERSION;
use super::options::PostgresOptions;
use super::trouble;
use super::{LOCK_WAIT, PostgresStore};
use crate::store::examine::{SchemaState, WorkFacts};
use crate::store::{OpenMode, Reads, StoreError};

/// A question that takes longer has no answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What was found of a store on Postgres.
#[derive(Debug, Clone)]
pub struct PostgresFacts {
    /// Server, database and schema.
    pub place: String,
    /// The schema's name.
    pub schema_name: String,
    /// What a connection showed, or why there is none.
    pub connected: Result<Connected, String>,
}

/// What a connection shows.
#[derive(Debug, Clone)]
pub struct Connected {
    /// How long it took to connect.
    pub connecting: Duration,
    /// How long a question and its answer take.
    pub round_trip: Result<Duration, String>,
    /// By how many microseconds the server's clock is ahead of this machine's, or behind it, and by how many this may be wrong.
    pub clock_ahead_us: Result<(i64, u64), String>,
    /// The server and its settings.
    pub server: Result<Server, String>,
    /// Whether a pooler that hands connections on is in between, as far as it could be seen.
    pub pooler: Pooler,
    /// The store.
    pub schema: Result<SchemaState, String>,
    /// What other sessions do.
    pub sessions: Result<Sessions, String>,
    /// The store's tables; none where there is no store.
    pub tables: Result<Vec<Table>, String>,
    /// What this role may do; `None` where there is no store.
    pub rights: Option<Result<Rights, String>>,
    /// What is to be done, where this program can read it.
    pub work: Option<Result<WorkFacts, String>>,
}

/// A pooler between here and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooler {
    /// The URL says that there is one.
    pub announced: bool,
    /// Settings of the session did not arrive.
    pub drops_settings: bool,
    /// Two transactions of one connection, or of two connections at once, were in sessions that tell of it.
    pub hands_on: bool,
}

/// A server and its settings.
#[derive(Debug, Clone, FromRow)]
pub struct Server {
    /// Its version, as 150004 for 15.4.
    pub version: i32,
    /// How the database keeps text.
    pub encoding: String,
    /// This role.
    pub role: String,
    /// This database.
    pub database: String,
    /// It is a standby.
    pub recovery: bool,
    /// Transactions cannot write.
    pub read_only: bool,
    /// Whether what is committed is forced to the disk at all.
    pub fsync: bool,
    /// Whether a page that was half written at a crash can be mended.
    pub full_page_writes: bool,
    /// Whether tables are cleaned up.
    pub autovacuum: bool,
    /// How many connections the server has in all.
    pub connections_max: i64,
    /// How many of them are kept for superusers.
    pub connections_reserved: i64,
    /// How many are used.
    pub connections_used: i64,
}

impl Server {
    /// How many connections a worker takes at most.
    pub const CONNECTIONS_PER_WORKER: i64 = CONNECTIONS_PER_WORKER as i64;
}

/// What other sessions of this database do.
#[derive(Debug, Clone, FromRow)]
pub struct Sessions {
    /// How many this role is not shown.
    pub hidden: i64,
    /// How long the oldest transaction has been open, in seconds.
    pub oldest_s: Option<i64>,
    /// Whose it is: a process of the server.
    pub oldest_pid: Option<i32>,
    /// What its program calls itself.
    pub oldest_application: Option<String>,
    /// What it does: `active`, `idle in transaction`.
    pub oldest_state: Option<String>,
    /// How long the oldest prepared transaction has been there, in seconds.
    pub prepared_s: Option<i64>,
    /// Its name.
    pub prepared_name: Option<String>,
    /// How many sessions wait for a lock of this database's.
    pub waiting: i64,
}

/// A table of the store.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// How many records it has, about.
    pub live: i64,
    /// How many versions of records nobody needs any more, about.
    pub dead: i64,
    /// Whether it is never cleaned up by itself.
    pub neglected: bool,
}

/// What this role lacks.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Rights {
    /// It may use the schema.
    pub schema: bool,
    /// The tables that it may not read and write.
    pub tables: Vec<String>,
    /// It may draw tokens.
    pub sequences: bool,
    /// It may call the functions.
    pub functions: bool,
}

/// Looks at the store of this URL.
pub async fn examine(url: &str) -> PostgresFacts {
    let options: PostgresOptions = match url.parse() {
        Ok(options) => options,
        Err(error) => {
            let error: super::UrlError = error;
            let (place, schema_name) = ("Postgres".to_owned(), super::options::DEFAULT_SCHEMA.to_owned());
            return PostgresFacts { place, schema_name, connected: Err(error.to_string()) };
        }
    };
    let (place, schema_name) = (options.place(), options.schema.clone());
    let connections = Connections::new(options, LOCK_WAIT);
    let connected = Look { connections: &connections, schema: &schema_name }.all().await;
    PostgresFacts { place, schema_name, connected }
}

struct Look<'a> {
    connections: &'a Connections,
    /// Its name is checked, so it can stand in a text.
    schema: &'a str,
}

const SERVER: &str = "\
select current_setting('server_version_num')::integer as version, current_setting('server_encoding') as encoding,
       current_user::text as role, current_database()::text as database,
       pg_is_in_recovery() as recovery, current_setting('transaction_read_only')::boolean as read_only,
       current_setting('fsync')::boolean as fsync, current_setting('full_page_writes')::boolean as full_page_writes,
       current_setting('autovacuum')::boolean and current_setting('track_counts')::boolean as autovacuum,
       current_setting('max_connections')::bigint as connections_max,
       current_setting('superuser_reserved_connections')::bigint as connections_reserved,
       (select sum(numbackends) from pg_stat_database)::bigint as connections_used";

// Of another role's session only the process is shown.
const SESSIONS: &str = "\
select (select count(*) from pg_stat_activity
        where datname = current_database() and query = '<insufficient privilege>') as hidden,
       extract(epoch from clock_timestamp() - o.xact_start)::bigint as oldest_s, o.pid as oldest_pid,
       o.application_name as oldest_application, o.state as oldest_state,
       extract(epoch from clock_timestamp() - p.prepared)::bigint as prepared_s, p.gid as prepared_name,
       (select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock') as waiting
from (select) one
left join lateral (
    select * from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
      and xact_start is not null
    order by xact_start limit 1
) o on true
left join lateral (
    select * from pg_prepared_xacts where database = current_database() order by prepared limit 1
) p on true";

impl Look<'_> {
    async fn all(&self) -> Result<Connected, String> {
        let began = Instant::now();
        let mut first = self.connections.connect(Connections::probe_limit()).await?;
        let connecting = began.elapsed();
        let conn = &mut first;
        // What the server makes and reads for the first time is not counted.
        let _ = self.rows(conn, "select 1".to_owned()).await;
        let began = Instant::now();
        let round_trip = self.rows(conn, "select 1".to_owned()).await.map(|_| began.elapsed());
        let clock_ahead_us = self.clock(conn).await;
        let server = self.one(conn, SERVER.to_owned()).await;
        let pooler = self.pooler(conn).await;
        let schema = self.schema_state(conn).await;
        let is_there = !matches!(schema, Ok(SchemaState::Missing | SchemaState::Foreign));
        let sessions = self.one(conn, SESSIONS.to_owned()).await;
        let tables = if is_there { self.tables(conn).await } else { Ok(Vec::new()) };
        let rights = if is_there { Some(self.rights(conn).await) } else { None };
        let work = match schema {
            Ok(SchemaState::Usable { .. }) => Some(self.work(conn).await),
            _ => None,
        };
        Ok(Connected { connecting, round_trip, clock_ahead_us, server, pooler, schema, sessions, tables, rights, work })
    }

    /// One text in the simple protocol, which every pooler passes on.
    async fn rows(&self, conn: &mut PgConnection, sql: String) -> Result<Vec<PgRow>, String> {
        let place = self.connections.place();
        match tokio::time::timeout(ANSWER_LIMIT, sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(conn)).await {
            Ok(rows) => rows.map_err(|error| trouble::of_statement(error, place).message),
            Err(_) => Err(format!("{place}: no answer within {ANSWER_LIMIT:?}")),
        }
    }

    async fn all_of<T: for<'r> FromRow<'r, PgRow>>(
        &self,
        conn: &mut PgConnection,
        sql: String,
    ) -> Result<Vec<T>, String> {
        let rows = self.rows(conn, sql).await?;
        let read = rows.iter().map(T::from_row).collect::<Result<_, sqlx::Error>>();
        read.map_err(|error| trouble::of_statement(error, self.connections.place()).message)
    }

    async fn one<T: for<'r> FromRow<'r, PgRow>>(&self, conn: &mut PgConnection, sql: String) -> Result<T, String> {
        let found = self.all_of(conn, sql).await?.pop();
        found.ok_or_else(|| format!("{}: the server's reply has no record", self.connections.place()))
    }

    async fn clock(&self, conn: &mut PgConnection) -> Result<(i64, u64), String> {
        let now_us = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
        };
        let before = now_us();
        let sql = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
        let (there,): (i64,) = self.one(conn, sql.to_owned()).await?;
        let after = now_us();
        let half = after.saturating_sub(before) / 2;
        Ok((there.saturating_sub(before.saturating_add(half)), half.unsigned_abs()))
    }

    /// A direct connection has one session, whose settings are those that it asked for. Behind a pooler that hands sessions on, one
    /// that is free now may be another's, and one that another has may have been this one's: of that much is looked at as one can
    /// see without waiting for others.
    async fn pooler(&self, conn: &mut PgConnection) -> Pooler {
        let announced = self.connections.options().transaction_pooler;
        let mut pooler = Pooler { announced, drops_settings: false, hands_on: false };
        if announced {
            return pooler;
        }
        let sql = "select current_setting('idle_in_transaction_session_timeout')::interval = '0'::interval";
        if let Ok((dropped,)) = self.one(conn, sql.to_owned()).await {
            pooler.drops_settings = dropped;
        }
        let pid = || "select pg_backend_pid()".to_owned();
        let Ok((before,)) = self.one::<(i32,)>(conn, pid()).await else { return pooler };
        let Ok(mut other) = self.connections.connect(Connections::probe_limit()).await else { return pooler };
        // Its transaction keeps the session that it got; dropped, it ends.
        if self.rows(&mut other, "begin read only".to_owned()).await.is_err() {
            return pooler;
        }
        let (Ok((others,)), Ok((after,))) =
            (self.one::<(i32,)>(&mut other, pid()).await, self.one::<(i32,)>(conn, pid()).await)
        else {
            return pooler;
        };
        pooler.hands_on = others == before || after != before;
        let _ = self.rows(&mut other, "rollback".to_owned()).await;
        pooler
    }

    async fn schema_state(&self, conn: &mut PgConnection) -> Result<SchemaState, String> {
        let schema = self.schema;
        let sql = format!(
            "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                            join pg_attribute a on a.attrelid = c.oid and a.attname = 'worker_version_min'
                            where n.nspname = '{schema}' and c.relname = 'store') as store,
                    (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname = '{schema}' and c.relkind in ('r', 'p', 'v', 'm', 'f')) as tables"
        );
        let (store, tables): (bool, i64) = self.one(conn, sql).await?;
        if !store {
            return Ok(if tables == 0 { SchemaState::Missing } else { SchemaState::Foreign });
        }
        let sql = format!("select schema_version, worker_version_min, store_id from \"{schema}\".store where one = 1");
        let (version, wants, store_id): (i32, i32, String) = self.one(conn, sql).await?;
        Ok(SchemaState::of(version.into(), wants.into(), store_id, SCHEMA_VERSION.into()))
    }

    async fn tables(&self, conn: &mut PgConnection) -> Result<Vec<Table>, String> {
        let sql = format!(
            "select s.relname::text as name, s.n_live_tup as live, s.n_dead_tup as dead,
                    coalesce('autovacuum_enabled=false' = any (c.reloptions), false) as neglected
             from pg_stat_user_tables s join pg_class c on c.oid = s.relid
             where s.schemaname = '{}' order by s.relname",
            self.schema
        );
        self.all_of(conn, sql).await
    }

    async fn rights(&self, conn: &mut PgConnection) -> Result<Rights, String> {
        let sql = format!(
            "select has_schema_privilege(n.oid, 'usage') as schema,
                    coalesce((
                        select array_agg(c.relname::text order by c.relname) from pg_class c
                        where c.relnamespace = n.oid and c.relkind = 'r' and not (
                            has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
                            and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))
                    ), array[]::text[]) as tables,
                    (select coalesce(bool_and(has_sequence_privilege(c.oid, 'usage')), true)
                     from pg_class c where c.relnamespace = n.oid and c.relkind = 'S') as sequences,
                    (select coalesce(bool_and(has_function_privilege(p.oid, 'execute')), true)
                     from pg_proc p where p.pronamespace = n.oid) as functions
             from pg_namespace n where n.nspname = '{}'",
            self.schema
        );
        self.one(conn, sql).await
    }

    async fn work(&self, conn: &mut PgConnection) -> Result<WorkFacts, String> {
        let said = |error: StoreError| error.to_string();
        let options = self.connections.options().clone();
        let store = PostgresStore::open(options, OpenMode::Existing).await.map_err(|error| error.to_string())?;
        let workers = store.workers(StoreTime(i64::MAX)).await.map_err(said)?;
        let mut batches = Vec::new();
        for view in store.batches().await.map_err(said)? {
            if matches!(view.status, BatchStatus::Open | BatchStatus::Loading) {
                batches.extend(store.status(view.batch).await.map_err(said)?);
            }
        }
        let sql = format!("select moved_at from \"{}\".appends where status <> 'done' order by moved_at", self.schema);
        let appends: Vec<(i64,)> = self.all_of(conn, sql).await?;
        let appends = appends.into_iter().map(|(moved_at,)| workers.now.since(StoreTime(moved_at))).collect();
        Ok(WorkFacts { workers, batches, appends })
    }
}
