//! The connections of one handle: opened when needed, at most a few, reused only when they are known to be idle.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::call::{Call, reply_bytes};
use super::options::PostgresOptions;
use super::trouble;
use crate::store::StoreError;

/// A handle has at most so many connections. A worker has one claim, two or three groups of outcomes and a look under way.
const CONNECTIONS_MAX: usize = 4;

/// A worker has at most so many: those of its rows, its keeper's one, and one that listens.
pub(super) const CONNECTIONS_PER_WORKER: usize = CONNECTIONS_MAX + 2;

/// How long connecting may take: less, and a server that is merely busy counts as gone.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection's buffers stay as large as the largest message yet has made them. After a larger one than this, which no claim and no
/// group of several rows is, they are given up: a few connections that have each had a huge row would else keep them all.
const BUFFERS_MAX_BYTES: usize = 9 << 20;

/// A connection that was idle for so long is asked whether it is alive before a request is entrusted to it.
const PING_AFTER: Duration = Duration::from_secs(2);

/// Connections to one store, with the same limits.
pub(super) struct Connections {
    options: PostgresOptions,
    place: String,
    lock_wait: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    conn: PgConnection,
    since: Instant,
}

/// A connection in use. Dropped, it is closed: only [`Connections::keep`] makes it idle again.
pub(super) struct InUse<'c> {
    pub(super) conn: PgConnection,
    _permit: SemaphorePermit<'c>,
}

impl Connections {
    pub(super) fn new(options: PostgresOptions, lock_wait: Duration) -> Self {
        let place = options.place();
        Self { options, place, lock_wait, permits: Semaphore::new(CONNECTIONS_MAX), idle: Mutex::default() }
    }

    /// As many again, with this limit.
    pub(super) fn another(&self, lock_wait: Duration) -> Self {
        Self::new(self.options.clone(), lock_wait)
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn lock_wait(&self) -> Duration {
        self.lock_wait
    }

    pub(super) fn options(&self) -> &PostgresOptions {
        &self.options
    }

    /// What the driver connects with: limits are part of it, unless a pooler would refuse them.
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        if self.options.transaction_pooler {
            return self.options.connect.clone().statement_cache_capacity(0);
        }
        let limit = millis(self.lock_wait).to_string();
        self.listen_options().options([
            ("statement_timeout", limit.as_str()),
            ("lock_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
            ("default_transaction_isolation", "read committed"),
        ])
    }

    /// What a connection to listen on is made with. The server gives up on a client that a network has swallowed after half a minute,
    /// not after two hours: else each cut of a link would leave connections that count towards its limit.
    pub(super) fn listen_options(&self) -> PgConnectOptions {
        self.options.connect.clone().options([
            ("tcp_keepalives_idle", "15"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "30000"),
        ])
    }

    /// How long the client waits for an answer to an ordinary request.
    pub(super) fn answer_limit(&self) -> Duration {
        answer_limit(self.lock_wait)
    }

    /// Calls a function as a request of its own, which commits by itself.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Vec<PgRow>, StoreError> {
        let until = Instant::now() + self.answer_limit();
        let mut used = self.take(until).await?;
        let prepared = !self.options.transaction_pooler;
        let sent_bytes = call.text_bytes();
        match timeout_at(until, call.run(&mut used.conn, &self.options.schema, prepared)).await {
            Ok(Ok(rows)) => {
                if sent_bytes + reply_bytes(&rows) <= BUFFERS_MAX_BYTES {
                    self.keep(used);
                } else {
                    used.conn.shrink_buffers();
                    // The buffer that the reply came in goes when the next one is read.
                    if matches!(timeout_at(until, used.conn.ping()).await, Ok(Ok(()))) {
                        self.keep(used);
                    }
                }
                Ok(rows)
            }
            Ok(Err(error)) => {
                self.keep_if_sound(used, &error);
                Err(trouble::of_statement(error, &self.place))
            }
            Err(_) => Err(self.no_answer()),
        }
    }

    /// A reply of exactly one record.
    pub(super) async fn call_one(&self, call: Call<'_>) -> Result<PgRow, StoreError> {
        let row = self.call(call).await?.pop();
        row.ok_or_else(|| StoreError::unknown(format!("{}: the server's reply has no record", self.place), None))
    }

    /// The end of an ordinary request that was sent and not answered.
    pub(super) fn no_answer(&self) -> StoreError {
        self.no_answer_within(self.answer_limit())
    }

    /// The same of one with a limit of its own.
    pub(super) fn no_answer_within(&self, limit: Duration) -> StoreError {
        StoreError::unknown(format!("{}: no answer within {limit:?}", self.place), None)
    }

    /// A connection that is ready for a request. Nothing is sent that matters, so an error is a request not done.
    pub(super) async fn take(&self, until: Instant) -> Result<InUse<'_>, StoreError> {
        let Ok(permit) = timeout_at(until, self.permits.acquire()).await else {
            let message = format!("{}: this process's own requests are queueing for too long", self.place);
            return Err(StoreError::not_done(message, None));
        };
        let permit = permit.map_err(|error| StoreError::not_done("the connections are closed", Some(error.into())))?;
        loop {
            let Some(Idle { mut conn, since }) = self.idle().pop() else { break };
            if since.elapsed() < PING_AFTER || matches!(timeout_at(until, conn.ping()).await, Ok(Ok(()))) {
                return Ok(InUse { conn, _permit: permit });
            }
            // Where one is broken the others, idle for longer, are most likely so.
            self.idle().clear();
        }
        let limit = until.saturating_duration_since(Instant::now()).min(CONNECT_LIMIT);
        let conn = self.connect(limit).await.map_err(|message| StoreError::not_done(message, None))?;
        Ok(InUse { conn, _permit: permit })
    }

    /// Connects, or says why not.
    pub(super) async fn connect(&self, limit: Duration) -> Result<PgConnection, String> {
        let address = self.options.address();
        match timeout(limit, self.connect_options().connect()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(trouble::of_connecting(&error, &address, &self.place)),
            Err(_) => Err(format!("no answer from {address} within {limit:?}")),
        }
    }

    /// Opens a first connection, so that what is wrong is told at once.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let used = self.take(Instant::now() + CONNECT_LIMIT).await?;
        self.keep(used);
        Ok(())
    }

    /// How long opening waits for the server.
    pub(super) fn probe_limit() -> Duration {
        CONNECT_LIMIT
    }

    /// The connection is idle: its last request was answered to the end.
    pub(super) fn keep(&self, used: InUse<'_>) {
        self.keep_connection(used.conn);
    }

    pub(super) fn keep_connection(&self, conn: PgConnection) {
        self.idle().push(Idle { conn, since: Instant::now() });
    }

    /// The same after an error, where the server goes on with the session.
    pub(super) fn keep_if_sound(&self, used: InUse<'_>, error: &sqlx::Error) {
        if trouble::is_plain_error(error) {
            self.keep(used);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // Each access is one operation on the list: a panic leaves it whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the client waits for an answer: longer than the server's own limit, so that this is heard of.
pub(super) fn answer_limit(servers: Duration) -> Duration {
    servers + servers / 4
}

/// Begins a transaction of several round trips (T2): behind a pooler the session has no limits of its own.
pub(super) fn begin_within(limit: Duration, idle_limit: Duration) -> String {
    let (statement, limit, idle) = (statement_limit(limit), millis(limit), millis(idle_limit));
    format!(
        "begin isolation level read committed; {statement}; set local lock_timeout = {limit}; \
         set local idle_in_transaction_session_timeout = {idle}"
    )
}

/// Limits each statement of the rest of the transaction.
pub(super) fn statement_limit(limit: Duration) -> String {
    format!("set local statement_timeout = {}", millis(limit))
}

/// Nothing at all would be no limit.
fn millis(limit: Duration) -> u128 {
    limit.as_millis().max(1)
}
