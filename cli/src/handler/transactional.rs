//! Effects exactly once (O7): a handler in two steps, `run` with no transaction open, then `apply` inside the transaction
//! that records the outcome. On each store whose rows are in a database: [`TransactionalStore`].

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fencepost_core::LeaseId;
use fencepost_core::store::{Record, StoreReply, StoreRequest};
use fencepost_core::worker::RunKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Database;

use super::typed::{Context, RowError, answer_of, read_row, write_result};
use super::{CancelToken, Handler, HandlerAnswer, Row};
use crate::store::{Store, StoreError, WorkerStore};

/// A handler whose effects are rows of the same database.
///
/// What `apply` writes is committed together with the row's outcome, or not at all: only for a line that its worker
/// still holds, and once. The effects of a run that comes too late never happen.
pub trait TransactionalHandler: Send + Sync + 'static {
    /// The database that the store and the effects are in: [`sqlx::Sqlite`] or [`sqlx::Postgres`].
    type Database: Database;
    /// The row's input: CSV rows are objects of strings.
    type Input: DeserializeOwned + Send;
    /// What `run` finds out and `apply` writes.
    type Value: Send + Sync + 'static;
    /// The row's result.
    type Output: Serialize + Send;

    /// Does the work that takes time. No transaction is open meanwhile; it may be repeated.
    fn run(&self, context: Context, input: Self::Input) -> impl Future<Output = Result<Self::Value, RowError>> + Send;

    /// Writes the effects, on the connection of the open transaction: quickly, since others may wait for its locks, and
    /// without ending the transaction. Where it fails, what it wrote is undone and the row fails or is tried again.
    ///
    /// It may be called again with the same value, after an attempt of which nothing was kept: it panicked, it took longer
    /// than half the time that others wait for a lock (2.5 s unless set otherwise), the transaction failed, or (on
    /// Postgres) it wanted another try while effects of other rows were in the transaction, whose locks may have been in its way.
    ///
    /// On Postgres the session belongs to fencepost, under READ COMMITTED, with the user's own search path: what is set, is
    /// set by `set local`. Behind a transaction pooler (`?pooler=transaction`) queries say `.persistent(false)`, unless the
    /// pooler itself deals with prepared statements (PgBouncer from 1.21 on, if told to).
    fn apply(
        &self,
        transaction: &mut <Self::Database as Database>::Connection,
        row: RunKey,
        value: &Self::Value,
    ) -> impl Future<Output = Result<Self::Output, RowError>> + Send;
}

/// A store that applies effects inside its own transactions: [`SqliteStore`](crate::store::sqlite::SqliteStore) and
/// [`PostgresStore`](crate::store::postgres::PostgresStore), and no other.
pub trait TransactionalStore: WorkerStore + sealed::Sealed {
    /// The database it is in.
    type Database: Database;

    /// Records a group of answers, and applies the effects of those that are recorded now, in the same transaction.
    fn record_with_effects(
        &self,
        record: Record,
        effects: Arc<dyn Effects<Self::Database>>,
    ) -> impl Future<Output = Result<StoreReply, StoreError>> + Send;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// Effects being applied: the row's result as JSON.
pub type Applying<'a> = Pin<Box<dyn Future<Output = Result<Box<str>, RowError>> + Send + 'a>>;

/// Effects that wait for their rows' outcomes, as the store sees them.
pub trait Effects<Db: Database>: Send + Sync + 'static {
    /// Applies the effects of a run inside the open transaction.
    fn apply<'a>(&'a self, transaction: &'a mut Db::Connection, row: RunKey) -> Applying<'a>;
    /// A run's line is recorded or in other hands: its effects are not applied any more.
    fn forget(&self, row: &RunKey);
    /// The same for all runs so far.
    fn forget_all(&self);
}

struct Pending<H: TransactionalHandler> {
    handler: H,
    /// Values of runs that succeeded and are not recorded yet.
    values: Mutex<Values<H>>,
}

type Values<H> = HashMap<RunKey, Arc<<H as TransactionalHandler>::Value>>;

impl<H: TransactionalHandler> Pending<H> {
    fn values(&self) -> MutexGuard<'_, Values<H>> {
        // Each access is one operation on the map: a panic leaves it whole.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: TransactionalHandler> Effects<H::Database> for Pending<H> {
    fn apply<'a>(&'a self, transaction: &'a mut <H::Database as Database>::Connection, row: RunKey) -> Applying<'a> {
        Box::pin(async move {
            // Should not happen; recorded without its effects, the row would be lost.
            let Some(value) = self.values().get(&row).cloned() else {
                return Err(RowError::Retry("what the row's run found out is gone".to_owned()));
            };
            let output = self.handler.apply(transaction, row, &value).await?;
            write_result(&output)
        })
    }

    fn forget(&self, row: &RunKey) {
        self.values().remove(row);
    }

    fn forget_all(&self) {
        self.values().clear();
    }
}

/// A [`TransactionalHandler`] as a worker takes it: run rows with this handler, on the store that goes with it.
pub fn transactional<H, S>(handler: H, store: S) -> (impl Handler + use<H, S>, ApplyingStore<S>)
where
    H: TransactionalHandler,
    S: TransactionalStore<Database = H::Database>,
{
    let pending = Arc::new(Pending { handler, values: Mutex::default() });
    (Running(pending.clone()), ApplyingStore { store, effects: pending, claims_for: Arc::default() })
}

struct Running<H: TransactionalHandler>(Arc<Pending<H>>);

impl<H: TransactionalHandler> Handler for Running<H> {
    async fn run(&self, row: Row, cancel: CancelToken) -> HandlerAnswer {
        let key = RunKey { batch: row.batch, line: row.line, token: row.token };
        let (context, input) = match read_row(row, cancel.clone()) {
            Ok(read) => read,
            Err(error) => return answer_of(error),
        };
        match self.0.handler.run(context, input).await {
            Ok(value) => {
                self.0.values().insert(key, Arc::new(value));
                // Given up already: then no outcome comes that would take the value away. Asked after the insertion, since
                // a run that is given up from here on is either recorded or given back, or its lease is over.
                if cancel.is_abandoned() {
                    self.0.forget(&key);
                }
                // The result comes with the effects.
                HandlerAnswer::Success("null".into())
            }
            Err(error) => answer_of(error),
        }
    }
}

/// A store that applies a transactional handler's effects with the outcomes it records.
pub struct ApplyingStore<S: TransactionalStore> {
    store: S,
    effects: Arc<dyn Effects<S::Database>>,
    /// The lease of the last claim.
    claims_for: Arc<Mutex<Option<LeaseId>>>,
}

// Derived, it would ask that of the database's type, too.
impl<S: TransactionalStore> Clone for ApplyingStore<S> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), effects: self.effects.clone(), claims_for: self.claims_for.clone() }
    }
}

impl<S: TransactionalStore> ApplyingStore<S> {
    async fn record(&self, record: Record) -> Result<StoreReply, StoreError> {
        let rows: Vec<RunKey> =
            record.items.iter().map(|item| RunKey { batch: item.batch, line: item.line, token: item.token }).collect();
        // With an unknown end the group is repeated as it is, and needs its values again.
        let reply = self.store.record_with_effects(record, self.effects.clone()).await?;
        rows.iter().for_each(|row| self.effects.forget(row));
        Ok(reply)
    }

    /// L6: the first claim for another lease comes when the one before is dead and nothing of it can be recorded any more.
    fn forget_other_leases(&self, lease: LeaseId) {
        let before = self.claims_for.lock().unwrap_or_else(PoisonError::into_inner).replace(lease);
        if before != Some(lease) {
            self.effects.forget_all();
        }
    }
}

impl<S: TransactionalStore> WorkerStore for ApplyingStore<S> {
    type Changes = S::Changes;

    fn with_lock_wait(self, lock_wait: Duration) -> Self {
        Self { store: self.store.with_lock_wait(lock_wait), ..self }
    }

    async fn for_renewals(&self) -> Result<Self, StoreError> {
        Ok(Self { store: self.store.for_renewals().await?, ..self.clone() })
    }

    async fn changes(&self) -> Result<S::Changes, StoreError> {
        self.store.changes().await
    }
}

impl<S: TransactionalStore> Store for ApplyingStore<S> {
    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::Record(record) => self.record(record).await,
            StoreRequest::GiveBack { lease, lines } => {
                let reply = self.store.call(StoreRequest::GiveBack { lease, lines: lines.clone() }).await?;
                for (batch, token, lines) in lines {
                    lines.iter().for_each(|line| self.effects.forget(&RunKey { batch, line, token }));
                }
                Ok(reply)
            }
            StoreRequest::Claim(claim) => {
                self.forget_other_leases(claim.lease);
                self.store.call(StoreRequest::Claim(claim)).await
            }
            request => self.store.call(request).await,
        }
    }
}
