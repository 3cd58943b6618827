//! The embedded store: one SQLite file, for any number of processes on one machine.
//!
//! | looking for | it is in |
//! |---|---|
//! | opening, migrating, what a file may be instead | [`open`] |
//! | claims and their settling | `claim.rs` |
//! | outcomes, retries, give-back | `record.rs` |
//! | leases and what judges see | `lease.rs`, `recover.rs` |
//! | a batch's end | `batch.rs` |
//! | loading rows in slices | `load.rs` |
//! | hold, resume, abort, retry | `operate.rs` |
//! | removing what has ended | `purge.rs` |
//! | appending rows to a batch | `appending.rs` |
//! | completion calls | `calls.rs` |
//! | what status, rows and results show | `read.rs` |
//! | waking of idle workers | [`changes`] |
//! | renewals before row work | `turn.rs` |
//! | what `doctor` looks at | [`examine`] |
//! | what `verify` reads | `verify.rs` |
//!
//! # One writer at a time
//!
//! SQLite lets one process write at a time. Every transaction that may write starts with `begin immediate`, so it waits
//! before it looks and never fails half-way; the clock is read after that. Waiting is by asking again every millisecond or
//! so: SQLite's own waiting sleeps up to 100 ms and starves whoever came first. A wait is bounded; at its end the request
//! is `NotDone`, with a text that says why.
//!
//! Rows (`claim`, `record`, ...) and renewals use separate connections ([`WorkerStore::for_renewals`]), so that within
//! a process a renewal never queues behind row work; across processes row work lets waiting renewals go first (`turn.rs`),
//! so that a renewal waits for a transaction or two of others (milliseconds, a load's slice included) and not for a queue.
//!
//! A process that is **stopped inside a write** (SIGSTOP, a debugger, a laptop's lid) holds up every other writer of this
//! file until it goes on or dies; readers go on (T2 names this). Killed, it leaves nothing behind: the next process that
//! touches the file rolls its write back. Meanwhile renewals fail as `NotDone`; workers stop at the end of their licence
//! (L4), and judges start their second look again (R2): a look takes the write lock as a renewal does, and writes as one
//! does where some lease is late, so that neither a lock nor a full disk lets judges see what nobody can change.
//!
//! A commit is on the disk when it is acknowledged (`synchronous = full`), so it survives a power cut.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fencepost_core::StoreTime;
use fencepost_core::calls::{ClaimCall, ClaimCallReply};
use fencepost_core::rules::recovery::r2_late_in;
use fencepost_core::store::{Claim, ClaimReply, LookReply, StoreReply, StoreRequest, TakeLease, TakeLeaseReply};
use futures_util::FutureExt;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::claim::Plan;
use self::trouble::{Code, Trouble};
use self::turn::Turn;
use super::{Store, StoreError, WorkerStore};
use crate::driver::worker::panic_message;

mod append;
mod appending;
mod batch;
mod calls;
pub mod changes;
mod claim;
mod codec;
mod effects;
pub mod examine;
mod lease;
mod load;
mod log_writes;
pub mod open;
mod operate;
mod purge;
mod read;
mod record;
mod recover;
mod spans;
mod stopping;
mod trouble;
mod turn;
mod verify;

pub use changes::Changes;
pub use open::{OpenError, files_of, path_of, version_of};

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
    // The connection failed in a way that another one may not: it is replaced.
    broken: bool,
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

impl WorkerStore for SqliteStore {
    type Changes = Changes;

    fn with_lock_wait(mut self, lock_wait: Duration) -> Self {
        self.lock_wait = lock_wait;
        self
    }

    async fn for_renewals(&self) -> Result<Self, StoreError> {
        let conn = open::connect_writer(&self.inner.path).await?;
        let turn = Turn::open(&self.inner.path, true);
        Ok(Self::assemble(conn, turn, self.inner.clone_parts(), self.lock_wait))
    }

    async fn changes(&self) -> Result<Changes, StoreError> {
        Ok(Changes::watch(self.path()).await?)
    }
}

impl SqliteStore {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn assemble(conn: SqliteConnection, turn: Turn, parts: Parts, lock_wait: Duration) -> Self {
        let Parts { path, store_id, readers, clock } = parts;
        let writer = Mutex::new(Writer { conn, unfinished: false, broken: false, turn });
        let inner = Inner { path, store_id, writer, readers, clock, idle: AtomicBool::new(false) };
        Self { inner: Arc::new(inner), lock_wait }
    }

    /// Runs to its end whatever becomes of the caller: a transaction is never left open by a dropped future, nor by a
    /// panic.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let work = async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(result) => result,
                Err(panic) => {
                    store.roll_back_unfinished().await;
                    let message = format!("the request {}", panic_message(panic.as_ref()));
                    Err(StoreError::unknown(message, None))
                }
            }
        };
        match tokio::spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::unknown("the request was cut off inside this process", Some(error.into()))),
        }
    }

    /// Lets go of the write lock at once, for the others: this handle's next write may be a long time off.
    async fn roll_back_unfinished(&self) {
        let mut writer = self.inner.writer.lock().await;
        if writer.unfinished {
            // Where that fails, the next write tries again.
            let _ = writer.roll_back().await;
        }
    }

    async fn perform(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::Claim(claim) => self.claim(&claim).await.map(StoreReply::Claim),
            StoreRequest::ClaimCall(claim) => self.claim_call(&claim).await.map(StoreReply::ClaimCall),
            request => {
                let mut write = self.begin().await?;
                let now = write.now;
                let reply = dispatch(write.conn(), now, &request).await;
                write.end(reply).await
            }
        }
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

    /// Looks before it locks: mostly nobody is to be called. What comes with the reply is asked for once.
    async fn claim_call(&self, claim: &ClaimCall) -> Result<ClaimCallReply, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let plan = calls::plan(&mut read, now, claim).await;
        if let calls::Plan::Nothing(reply) = self.end_read(read, plan).await? {
            return Ok(reply);
        }
        let mut write = self.begin().await?;
        let now = write.now;
        let reply = calls::claim(write.conn(), now, claim).await;
        write.end(reply).await
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
        if writer.broken {
            let conn = open::connect_writer(&self.inner.path).await;
            writer.replace(conn?);
        }
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
    /// Goes on with another connection. What was open on the old one is rolled back as it closes.
    fn replace(&mut self, conn: SqliteConnection) {
        self.conn = conn;
        self.unfinished = false;
        self.broken = false;
    }

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
                    let locked = trouble::code(&error) == Code::Locked;
                    self.broken |= !locked;
                    if !locked || Instant::now() >= until {
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
        let rolled_back = match sqlx::query(ROLLBACK).execute(&mut self.conn).await {
            Err(error) if trouble::code(&error) != Code::Other => Err(error),
            _ => self.conn.ping().await,
        };
        self.unfinished = rolled_back.is_err();
        self.broken |= rolled_back.is_err();
        rolled_back
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

/// R2: answered only where a renewal could have been. No lease is late most of the time: then the lock alone will do.
async fn look(conn: &mut SqliteConnection, now: StoreTime) -> Result<LookReply, Trouble> {
    let reply = lease::look(conn, now).await?;
    if reply.leases.iter().any(|lease| r2_late_in(lease, now).is_none()) {
        lease::leave_mark(conn, now).await?;
    }
    Ok(reply)
}

/// R5, R2: a take that finds its name held is a look at the holder, and answered as one.
async fn take_lease(conn: &mut SqliteConnection, now: StoreTime, take: &TakeLease) -> Result<TakeLeaseReply, Trouble> {
    let reply = lease::take(conn, now, take).await?;
    if let TakeLeaseReply::NameHeld { holder, .. } = &reply
        && r2_late_in(holder, now).is_none()
    {
        lease::leave_mark(conn, now).await?;
    }
    Ok(reply)
}

async fn dispatch(conn: &mut SqliteConnection, now: StoreTime, request: &StoreRequest) -> Result<StoreReply, Trouble> {
    Ok(match request {
        StoreRequest::TakeLease(take) => StoreReply::TakeLease(take_lease(conn, now, take).await?),
        StoreRequest::Renew { lease, batches } => StoreReply::Renew(lease::renew(conn, now, *lease, batches).await?),
        StoreRequest::DropLease { lease } => {
            lease::drop(conn, now, *lease).await?;
            StoreReply::DropLease
        }
        StoreRequest::Claim(claim) => StoreReply::Claim(claim::claim(conn, now, claim).await?),
        StoreRequest::SettleClaim { lease, number } => {
            let (grants, stopped) = claim::settle(conn, *lease, *number).await?;
            StoreReply::SettleClaim(grants, stopped)
        }
        StoreRequest::Record(record) => StoreReply::Record(record::record(conn, now, record).await?),
        StoreRequest::GiveBack { lease, lines } => {
            record::give_back(conn, now, *lease, lines).await?;
            StoreReply::GiveBack
        }
        StoreRequest::Look => StoreReply::Look(look(conn, now).await?),
        StoreRequest::Recover(recover) => StoreReply::Recover(recover::recover(conn, now, recover).await?),
        StoreRequest::CutBack { backoff_max } => {
            lease::cut_back(conn, now, *backoff_max).await?;
            StoreReply::CutBack
        }
        StoreRequest::WithdrawCrashes { lease } => {
            recover::withdraw_crashes(conn, now, *lease).await?;
            StoreReply::WithdrawCrashes
        }
        StoreRequest::ClaimCall(claim) => StoreReply::ClaimCall(calls::claim(conn, now, claim).await?),
        StoreRequest::RecordCall(record) => StoreReply::RecordCall(calls::record(conn, now, record).await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenMode;

    async fn store() -> (tempfile::TempDir, SqliteStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("store.db"), OpenMode::Create).await.unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn a_panic_inside_a_write_lets_go_of_the_lock_at_once() {
        let (_directory, store) = store().await;
        let other = store.for_renewals().await.unwrap().with_lock_wait(Duration::ZERO);
        let writer = store.clone();
        let work = async move {
            let _write = writer.begin().await?;
            if writer.lock_wait > Duration::ZERO {
                panic!("in the midst of it");
            }
            Ok(())
        };
        let error = store.detached(work).await.unwrap_err();
        assert!(error.message.contains("panicked: in the midst of it"), "{error}");
        other.call(StoreRequest::Look).await.unwrap();
    }

    #[tokio::test]
    async fn a_broken_connection_is_replaced() {
        let (_directory, store) = store().await;
        // Interrupts all that it is asked to do.
        store.inner.writer.lock().await.conn.lock_handle().await.unwrap().set_progress_handler(1, || false);
        let error = store.call(StoreRequest::Look).await.unwrap_err();
        assert!(error.message.contains("interrupted"), "{error}");
        store.call(StoreRequest::Look).await.unwrap();
    }
}
