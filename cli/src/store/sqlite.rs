//! The embedded store: one SQLite file, for any number of processes on one machine.
//!
//! | looking for | it is in |
//! |---|---|
//! | opening, migrating, what a file may be instead | [`open`] |
//! | claims and their settling | `claim.rs` |
//! | outcomes, retries, give-back | `record.rs` |
//! | leases and what judges see | `lease.rs`, `recover.rs` |
//! | a batch's end | `batch.rs` |
//! | loading rows in slices | [`load`] |
//! | what status, rows and results show | [`read`] |
//! | waking of idle workers | [`changes`] |
//! | renewals before row work | `turn.rs` |
//!
//! # One writer at a time
//!
//! SQLite lets one process write at a time. Every transaction that may write starts with `begin immediate`, so it waits
//! before it looks and never fails half-way; the clock is read after that. Waiting is by asking again every millisecond or
//! so: SQLite's own waiting sleeps up to 100 ms and starves whoever came first. A wait is bounded; at its end the request
//! is `NotDone`, with a text that says why.
//!
//! Rows (`claim`, `record`, ...) and renewals use separate connections ([`SqliteStore::for_renewals`]), so that within
//! a process a renewal never queues behind row work; across processes row work lets waiting renewals go first (`turn.rs`),
//! so that a renewal waits for a transaction or two of others (milliseconds, a load's slice included) and not for a queue.
//!
//! A process that is **stopped inside a write** (SIGSTOP, a debugger, a laptop's lid) holds up every other writer of this
//! file until it goes on or dies; readers go on (T2 names this). Killed, it leaves nothing behind: the next process that
//! touches the file rolls its write back. Meanwhile renewals fail as `NotDone`; workers stop at the end of their licence
//! (L4), and judges start their second look again (R2), since the store did not answer them either.
//!
//! A commit is on the disk when it is acknowledged (`synchronous = full`), so it survives a power cut.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fencepost_core::StoreTime;
use fencepost_core::store::{Claim, ClaimReply, StoreReply, StoreRequest};
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::claim::Plan;
use self::trouble::{Code, Trouble};
use self::turn::Turn;
use super::{Store, StoreError};

mod append;
mod batch;
pub mod changes;
mod claim;
mod codec;
mod effects;
mod lease;
pub mod load;
pub mod open;
pub mod read;
mod record;
mod recover;
mod spans;
mod trouble;
mod turn;

pub use changes::Changes;
pub use load::{BatchSpec, LoadEnd, Loaded};
pub use open::{OpenError, OpenMode};

/// How long a write waits for the lock unless told otherwise; T2's limit for the default ttl.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How often a waiting writer asks again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// A write-ahead log longer than this is folded into the file at once. SQLite does that by itself (`wal_autocheckpoint`), unless
/// writers of other processes leave it no gap.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// The store's clock.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> StoreTime;
}

/// This machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> StoreTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        StoreTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A handle to the embedded store. Clones share its connections.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
    lock_wait: Duration,
}

struct Inner {
    path: PathBuf,
    store_id: String,
    writer: Mutex<Writer>,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    // The last claim found nothing: look before locking.
    idle: AtomicBool,
}

/// The one connection that this handle writes with.
struct Writer {
    conn: SqliteConnection,
    // A transaction was begun and its end is not known: its task was cancelled with the runtime, or panicked.
    unfinished: bool,
    turn: Turn,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store for SqliteStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let store = self.clone();
        self.detached(async move { store.perform(request).await }).await
    }
}

impl SqliteStore {
    /// The store's own id: prefixes every Redis key.
    pub fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The same handle with another bound on how long a write waits for the lock; a worker's is `t2_limit` of its ttl.
    #[must_use]
    pub fn with_lock_wait(mut self, lock_wait: Duration) -> Self {
        self.lock_wait = lock_wait;
        self
    }

    /// A handle whose writes have a connection of their own (L5).
    pub async fn for_renewals(&self) -> Result<Self, OpenError> {
        let conn = open::connect_writer(&self.inner.path).await?;
        let turn = Turn::open(&self.inner.path, true);
        Ok(Self::assemble(conn, turn, self.inner.clone_parts(), self.lock_wait))
    }

    fn assemble(conn: SqliteConnection, turn: Turn, parts: Parts, lock_wait: Duration) -> Self {
        let Parts { path, store_id, readers, clock } = parts;
        let writer = Mutex::new(Writer { conn, unfinished: false, turn });
        let inner = Inner { path, store_id, writer, readers, clock, idle: AtomicBool::new(false) };
        Self { inner: Arc::new(inner), lock_wait }
    }

    /// Runs to its end whatever becomes of the caller: a transaction is never left open by a dropped future.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        match tokio::spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::unknown("the request was cut off inside this process", Some(error.into()))),
        }
    }

    async fn perform(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::Look => self.look().await,
            StoreRequest::Claim(claim) => self.claim(&claim).await.map(StoreReply::Claim),
            request => {
                let mut write = self.begin().await?;
                let now = write.now;
                let reply = dispatch(write.conn(), now, &request).await;
                write.end(reply).await
            }
        }
    }

    async fn look(&self) -> Result<StoreReply, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let reply = lease::look(&mut read, now).await;
        self.end_read(read, reply).await.map(StoreReply::Look)
    }

    /// A claim by a worker whose last one found nothing looks before it locks. What it finds so is only ever that there is
    /// nothing; no number is used up by that, and nothing can come of it later.
    async fn claim(&self, claim: &Claim) -> Result<ClaimReply, StoreError> {
        if self.inner.idle.load(Ordering::Relaxed) {
            let mut read = self.begin_read().await?;
            let now = self.inner.clock.now();
            let plan = claim::plan(&mut read, now, claim).await;
            if let Plan::Nothing(reply) = self.end_read(read, plan).await? {
                return Ok(reply);
            }
        }
        let mut write = self.begin().await?;
        let now = write.now;
        let reply = claim::claim(write.conn(), now, claim).await;
        let reply = write.end(reply).await?;
        let nothing = matches!(&reply, ClaimReply::Granted { grants, .. } if grants.is_empty());
        self.inner.idle.store(nothing, Ordering::Relaxed);
        Ok(reply)
    }

    /// A snapshot to read from.
    async fn begin_read(&self) -> Result<Read, StoreError> {
        self.inner.readers.begin().await.map_err(|error| self.not_done(error))
    }

    /// Ends a snapshot, whatever came of it.
    async fn end_read<T>(&self, read: Read, result: Result<T, Trouble>) -> Result<T, StoreError> {
        let value = result.map_err(|trouble| trouble.not_done(&self.inner.path))?;
        read.rollback().await.map_err(|error| self.not_done(error))?;
        Ok(value)
    }

    fn not_done(&self, error: sqlx::Error) -> StoreError {
        Trouble::from(error).not_done(&self.inner.path)
    }

    /// Takes the write lock.
    async fn begin(&self) -> Result<Write<'_>, StoreError> {
        let until = Instant::now() + self.lock_wait;
        let Ok(mut writer) = tokio::time::timeout_at(until, self.inner.writer.lock()).await else {
            let message = format!("{}: this process's own writes are queueing for too long", self.inner.path.display());
            return Err(StoreError::not_done(message, None));
        };
        writer.begin(until).await.map_err(|error| self.not_done(error))?;
        Ok(Write { writer, now: self.inner.clock.now(), path: &self.inner.path })
    }
}

/// What the handles of one process share.
struct Parts {
    path: PathBuf,
    store_id: String,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
}

impl Inner {
    fn clone_parts(&self) -> Parts {
        Parts {
            path: self.path.clone(),
            store_id: self.store_id.clone(),
            readers: self.readers.clone(),
            clock: self.clock.clone(),
        }
    }
}

/// A read transaction.
type Read = sqlx::Transaction<'static, sqlx::Sqlite>;

/// A write transaction: the lock is held, the clock is read.
struct Write<'s> {
    writer: MutexGuard<'s, Writer>,
    now: StoreTime,
    path: &'s Path,
}

impl Write<'_> {
    fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.writer.conn
    }

    /// Commits what went well, rolls back what did not.
    async fn end<T>(mut self, result: Result<T, Trouble>) -> Result<T, StoreError> {
        let value = match result {
            Ok(value) => value,
            Err(trouble) => {
                self.writer.roll_back().await.map_err(|error| Trouble::from(error).not_done(self.path))?;
                return Err(trouble.not_done(self.path));
            }
        };
        if let Err(error) = self.writer.commit().await {
            // Whether the rollback works or not, nobody knows what became of the commit.
            let _ = self.writer.roll_back().await;
            return Err(Trouble::from(error).unknown(self.path));
        }
        self.writer.bound_log(self.path).await;
        Ok(value)
    }
}

const BEGIN: &str = "begin immediate";
const COMMIT: &str = "commit";
const ROLLBACK: &str = "rollback";
const FOLD_LOG: &str = "pragma wal_checkpoint(passive)";
const RESTART_LOG: &str = "pragma wal_checkpoint(truncate)";

impl Writer {
    async fn begin(&mut self, until: Instant) -> Result<(), sqlx::Error> {
        if self.unfinished {
            self.roll_back().await?;
        }
        self.turn.give_way().await;
        let begun = self.ask_for_lock(until).await;
        self.turn.lower();
        begun
    }

    async fn ask_for_lock(&mut self, until: Instant) -> Result<(), sqlx::Error> {
        loop {
            self.unfinished = true;
            match sqlx::query(BEGIN).execute(&mut self.conn).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    self.unfinished = false;
                    if trouble::code(&error) != Code::Locked || Instant::now() >= until {
                        return Err(error);
                    }
                }
            }
            self.turn.raise();
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn commit(&mut self) -> Result<(), sqlx::Error> {
        sqlx::query(COMMIT).execute(&mut self.conn).await?;
        self.unfinished = false;
        Ok(())
    }

    /// Some errors end the transaction by themselves: that none is open is no error here.
    async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        match sqlx::query(ROLLBACK).execute(&mut self.conn).await {
            Err(error) if trouble::code(&error) != Code::Other => Err(error),
            _ => {
                self.unfinished = false;
                self.conn.ping().await
            }
        }
    }

    /// Keeps the write-ahead log from growing without end. That it does not work now is no harm: the next write tries again.
    async fn bound_log(&mut self, path: &Path) {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        if std::fs::metadata(&log).is_ok_and(|log| log.len() > WAL_BYTES_MAX) {
            // First without the lock, so that little is left to do under it.
            let _ = sqlx::query(FOLD_LOG).execute(&mut self.conn).await;
            let _ = sqlx::query(RESTART_LOG).execute(&mut self.conn).await;
        }
    }
}

async fn dispatch(conn: &mut SqliteConnection, now: StoreTime, request: &StoreRequest) -> Result<StoreReply, Trouble> {
    Ok(match request {
        StoreRequest::TakeLease(take) => StoreReply::TakeLease(lease::take(conn, now, take).await?),
        StoreRequest::Renew { lease, batches } => StoreReply::Renew(lease::renew(conn, now, *lease, batches).await?),
        StoreRequest::DropLease { lease } => {
            lease::drop(conn, now, *lease).await?;
            StoreReply::DropLease
        }
        StoreRequest::Claim(claim) => StoreReply::Claim(claim::claim(conn, now, claim).await?),
        StoreRequest::SettleClaim { lease, number } => {
            StoreReply::SettleClaim(claim::settle(conn, *lease, *number).await?)
        }
        StoreRequest::Record(record) => StoreReply::Record(record::record(conn, now, record).await?),
        StoreRequest::GiveBack { lease, lines } => {
            record::give_back(conn, now, *lease, lines).await?;
            StoreReply::GiveBack
        }
        StoreRequest::Look => StoreReply::Look(lease::look(conn, now).await?),
        StoreRequest::Recover(recover) => StoreReply::Recover(recover::recover(conn, now, recover).await?),
        StoreRequest::CutBack { backoff_max } => {
            lease::cut_back(conn, now, *backoff_max).await?;
            StoreReply::CutBack
        }
        StoreRequest::WithdrawCrashes { lease } => {
            recover::withdraw_crashes(conn, now, *lease).await?;
            StoreReply::WithdrawCrashes
        }
    })
}
