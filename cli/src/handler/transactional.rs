//! Effects exactly once (O7): a handler in two steps, `run` with no transaction open, then `apply` inside the transaction
//! that records the outcome.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use fencepost_core::store::{StoreReply, StoreRequest};
use fencepost_core::worker::RunKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::SqliteConnection;

use super::typed::{Context, RowError, answer_of, read_row, write_result};
use super::{CancelToken, Handler, HandlerAnswer, Row};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::worker::EmbeddedStore;

/// A handler whose effects are rows of the same database.
///
/// What `apply` writes is committed together with the row's outcome, or not at all: only for a line that its worker
/// still holds, and once. The effects of a run that comes too late never happen.
pub trait TransactionalHandler: Send + Sync + 'static {
    /// The row's input: CSV rows are objects of strings.
    type Input: DeserializeOwned + Send;
    /// What `run` finds out and `apply` writes.
    type Value: Send + Sync + 'static;
    /// The row's result.
    type Output: Serialize + Send;

    /// Does the work that takes time. No transaction is open meanwhile; it may be repeated.
    fn run(&self, context: Context, input: Self::Input) -> impl Future<Output = Result<Self::Value, RowError>> + Send;

    /// Writes the effects, on the connection of the open transaction: quickly, since other writers wait, and without
    /// ending the transaction. Where it fails, what it wrote is undone and the row fails or is tried again. It may be
    /// called again with the same value, after an attempt of which nothing was kept.
    fn apply(
        &self,
        transaction: &mut SqliteConnection,
        row: RunKey,
        value: &Self::Value,
    ) -> impl Future<Output = Result<Self::Output, RowError>> + Send;
}

/// Effects that wait for their rows' outcomes, as the store sees them.
pub trait Effects: Send + Sync + 'static {
    /// Applies the effects of a run inside the open transaction. `None`: it has none.
    fn apply<'a>(
        &'a self,
        transaction: &'a mut SqliteConnection,
        row: RunKey,
    ) -> Pin<Box<dyn Future<Output = Option<Result<Box<str>, RowError>>> + Send + 'a>>;
}

struct Pending<H: TransactionalHandler> {
    handler: H,
    /// Values of runs that succeeded and are not recorded yet.
    values: Mutex<HashMap<RunKey, Arc<H::Value>>>,
}

impl<H: TransactionalHandler> Pending<H> {
    fn values(&self) -> std::sync::MutexGuard<'_, HashMap<RunKey, Arc<H::Value>>> {
        // Each access is one operation on the map: a panic leaves it whole.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: TransactionalHandler> Effects for Pending<H> {
    fn apply<'a>(
        &'a self,
        transaction: &'a mut SqliteConnection,
        row: RunKey,
    ) -> Pin<Box<dyn Future<Output = Option<Result<Box<str>, RowError>>> + Send + 'a>> {
        Box::pin(async move {
            let value = self.values().get(&row).cloned()?;
            let output = self.handler.apply(transaction, row, &value).await;
            Some(output.and_then(|output| write_result(&output)))
        })
    }
}

/// A [`TransactionalHandler`] as a worker takes it: run rows with this handler, on the store that goes with it.
pub fn transactional<H: TransactionalHandler>(handler: H, store: SqliteStore) -> (impl Handler, ApplyingStore) {
    let pending = Arc::new(Pending { handler, values: Mutex::default() });
    let forget = {
        let pending = pending.clone();
        Arc::new(move |row: &RunKey| {
            pending.values().remove(row);
        })
    };
    (Running(pending.clone()), ApplyingStore { store, effects: pending, forget })
}

struct Running<H: TransactionalHandler>(Arc<Pending<H>>);

impl<H: TransactionalHandler> Handler for Running<H> {
    async fn run(&self, row: Row, cancel: CancelToken) -> HandlerAnswer {
        let key = RunKey { batch: row.batch, line: row.line, token: row.token };
        let (context, input) = match read_row(row, cancel) {
            Ok(read) => read,
            Err(error) => return answer_of(error),
        };
        match self.0.handler.run(context, input).await {
            Ok(value) => {
                self.0.values().insert(key, Arc::new(value));
                // The result comes with the effects.
                HandlerAnswer::Success("null".into())
            }
            Err(error) => answer_of(error),
        }
    }
}

/// A store that applies a transactional handler's effects with the outcomes it records.
#[derive(Clone)]
pub struct ApplyingStore {
    store: SqliteStore,
    effects: Arc<dyn Effects>,
    forget: Arc<dyn Fn(&RunKey) + Send + Sync>,
}

impl EmbeddedStore for ApplyingStore {
    fn sqlite(&self) -> &SqliteStore {
        &self.store
    }

    fn over(&self, store: SqliteStore) -> Self {
        Self { store, ..self.clone() }
    }
}

impl Store for ApplyingStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let StoreRequest::Record(record) = request else { return self.store.call(request).await };
        let rows: Vec<RunKey> = record
            .items
            .iter()
            .map(|item| RunKey { batch: item.batch, line: item.line, token: item.token })
            .collect();
        // With an unknown end the group is repeated as it is, and needs its values again.
        let reply = self.store.record_with_effects(record, self.effects.clone()).await?;
        rows.iter().for_each(|row| (self.forget)(row));
        Ok(reply)
    }
}
