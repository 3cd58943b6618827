//! The loop that hears what others commit.

use std::time::Duration;

use fencepost_core::judge::JudgeInput;
use fencepost_core::worker::WorkerInput;
use tokio::sync::mpsc::{UnboundedSender, WeakUnboundedSender};

use super::Clock;
use crate::store::{Changes, WorkerStore};

/// After changes could not be watched, they are watched again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells a worker and its judge what others commit: a submit, a recovery, a line given back; a lease; an abort. A worker that has left
/// is not kept by its watch, nor the watch by a worker that has left.
pub async fn drive<S: WorkerStore, C: Clock>(
    store: S,
    clock: C,
    worker: UnboundedSender<WorkerInput>,
    judge: WeakUnboundedSender<JudgeInput>,
) {
    tokio::select! {
        biased;
        () = worker.closed() => {}
        () = watch(store, &clock, &worker, &judge) => {}
    }
}

/// Does not end.
async fn watch<S: WorkerStore, C: Clock>(
    store: S,
    clock: &C,
    worker: &UnboundedSender<WorkerInput>,
    judge: &WeakUnboundedSender<JudgeInput>,
) {
    let again = || async { clock.sleep_until(clock.now() + AGAIN).await };
    let mut changes = loop {
        match store.changes().await {
            Ok(changes) => break changes,
            // Polling stays; a store in trouble is reported by whoever asks it something.
            Err(_) => again().await,
        }
    };
    drop(store);
    loop {
        let Ok(change) = changes.next().await else {
            again().await;
            continue;
        };
        if change.leases
            && let Some(judge) = judge.upgrade()
        {
            let _ = judge.send(JudgeInput::LeasesTaken);
        }
        if !change.aborted.is_empty() {
            let _ = worker.send(WorkerInput::BatchesClosed(change.aborted));
        }
        if change.ended {
            let _ = worker.send(WorkerInput::CallsDue);
        }
        if change.batches {
            let _ = worker.send(WorkerInput::BatchOpened);
        } else if change.free_lines {
            let _ = worker.send(WorkerInput::Wake);
        }
    }
}
