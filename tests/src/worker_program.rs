//! What the worker programs of these tests share: they start on either store, with or without effects, and leave at SIGTERM.

use std::io;

use fencepost::handler::transactional::{TransactionalHandler, transactional};
use fencepost::liveness::RedisLiveness;
use fencepost::liveness::redis::url::RedisUrl;
use fencepost::store::{AnyStore, Reads};
use fencepost::worker::{RunningWorker, WorkerConfig, WorkerError};
use fencepost_core::worker::ExitReason;
use sqlx::{Postgres, Sqlite};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGTERM from now on.
pub fn terminate() -> Signal {
    signal(SignalKind::terminate()).expect("signals can be listened to")
}

/// The second witness of a store's workers.
pub fn liveness(redis: Option<RedisUrl>, store: &AnyStore) -> Option<RedisLiveness> {
    redis.map(|url| RedisLiveness::new(url, store.store_id()).expect("its certificates can be read"))
}

/// Starts a worker with a transactional handler: the one of these two that is for this store.
pub fn start_transactional<S, P>(
    store: AnyStore,
    liveness: Option<RedisLiveness>,
    on_sqlite: S,
    on_postgres: P,
    config: WorkerConfig,
) -> io::Result<RunningWorker>
where
    S: TransactionalHandler<Database = Sqlite>,
    P: TransactionalHandler<Database = Postgres>,
{
    match store {
        AnyStore::Sqlite(store) => {
            let (handler, store) = transactional(on_sqlite, store);
            RunningWorker::on_store_with(store, liveness, handler, config)
        }
        AnyStore::Postgres(store) => {
            let (handler, store) = transactional(on_postgres, store);
            RunningWorker::on_store_with(store, liveness, handler, config)
        }
    }
}

/// Until it has left: by itself, or as SIGTERM says.
pub async fn left(worker: RunningWorker, mut terminate: Signal) -> Result<ExitReason, WorkerError> {
    let stop = worker.stopper();
    tokio::spawn(async move {
        terminate.recv().await;
        stop();
    });
    worker.left().await
}
