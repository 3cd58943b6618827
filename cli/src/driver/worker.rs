//! The loop of row work.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use fencepost_core::WorkerOptions;
use fencepost_core::calls::{CallGrant, CallKey};
use fencepost_core::keeper::KeeperCommand;
use fencepost_core::worker::{CallAnswer, ExitReason, RunKey, Worker, WorkerEffect, WorkerInput};
use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::rows::Rows;
use super::{Clock, Liveness, Ports, Processes, Report, Spawn, ask, sleep};
use crate::handler::call::Caller;
use crate::handler::{Canceller, Handler};
use crate::store::Store;

/// What runs rows, and what makes completion calls.
pub struct Handlers<H> {
    /// Runs rows.
    pub rows: Arc<H>,
    /// Makes the calls that the worker's options name.
    pub calls: Option<Arc<dyn Caller>>,
}

/// Works until it has left, and says why. `keeper` hears what the worker wants of it.
pub async fn drive<S: Store, L: Liveness, C: Clock, T: Spawn, P: Processes, H: Handler>(
    options: WorkerOptions,
    seed: u64,
    ports: Ports<S, L, C, T, P>,
    handlers: Handlers<H>,
    inbox: mpsc::UnboundedSender<WorkerInput>,
    mut inputs: mpsc::UnboundedReceiver<WorkerInput>,
    keeper: impl Fn(KeeperCommand),
) -> ExitReason {
    let mut worker = Worker::new(options, seed, ports.clock.now());
    let mut cancellers: HashMap<RunKey, Canceller> = HashMap::new();
    let mut calls: HashMap<CallKey, Canceller> = HashMap::new();
    let mut rows = Rows::new(handlers.rows, ports.clock.clone(), ports.spawn.clone(), inbox.clone());
    let mut batch = Vec::new();
    loop {
        worker.handle_timeout(ports.clock.now());
        while let Some(effect) = worker.poll_effect() {
            match effect {
                WorkerEffect::Store(id, request) => {
                    let (ports, inbox) = (ports.clone(), inbox.clone());
                    ports.spawn.clone().spawn(async move {
                        let reply = ask(&ports.store, &ports.observer, request).await;
                        let _ = inbox.send(WorkerInput::Store(id, reply));
                    });
                }
                WorkerEffect::Start(start) => {
                    let recovered_from = start.recovered_from.as_deref();
                    (ports.observer)(Report::Started { key: start.key, attempt: start.attempt, recovered_from });
                    cancellers.insert(start.key, rows.start(start));
                }
                WorkerEffect::Cancel(key) => {
                    if let Some(canceller) = cancellers.get(&key) {
                        canceller.cancel();
                    }
                }
                WorkerEffect::Abandon(key) => {
                    cancellers.remove(&key);
                }
                WorkerEffect::Call(grant) => {
                    (ports.observer)(Report::Calling(&grant));
                    let canceller = call(&ports.spawn, handlers.calls.clone(), grant, inbox.clone());
                    calls.insert(canceller.0, canceller.1);
                }
                WorkerEffect::CancelCall(key) => {
                    if let Some(canceller) = calls.get(&key) {
                        canceller.cancel();
                    }
                }
                WorkerEffect::AbandonCall(key) => {
                    calls.remove(&key);
                }
                WorkerEffect::Keeper(command) => keeper(command),
                WorkerEffect::Tell(event) => (ports.observer)(Report::Worker(&event)),
                WorkerEffect::Exit(reason) => return reason,
            }
        }
        rows.go();
        tokio::select! {
            biased;
            taken = inputs.recv_many(&mut batch, INPUTS_MAX) => {
                debug_assert!(taken > 0, "this loop holds a sender itself");
                for input in batch.drain(..) {
                    match &input {
                        WorkerInput::RunEnded(key, _) => drop(cancellers.remove(key)),
                        WorkerInput::CallEnded(key, _) => drop(calls.remove(key)),
                        _ => {}
                    }
                    worker.handle_input(ports.clock.now(), input);
                }
            }
            () = sleep(&ports.clock, worker.poll_timeout()) => {}
        }
    }
}

/// So many inputs are taken before effects are performed.
const INPUTS_MAX: usize = 256;

/// Makes a completion call.
fn call<T: Spawn>(
    spawn: &T,
    caller: Option<Arc<dyn Caller>>,
    grant: CallGrant,
    inbox: mpsc::UnboundedSender<WorkerInput>,
) -> (CallKey, Canceller) {
    let key = grant.key;
    let (canceller, cancel) = Canceller::new();
    spawn.spawn(async move {
        let answer = match &caller {
            Some(caller) => match AssertUnwindSafe(caller.call(grant, cancel)).catch_unwind().await {
                Ok(answer) => answer,
                Err(panic) => CallAnswer::Failed(format!("the call {}", panic_message(panic.as_ref())).into()),
            },
            None => CallAnswer::Failed("this worker makes no completion calls".into()),
        };
        // The worker may have left; then the call is in other hands.
        let _ = inbox.send(WorkerInput::CallEnded(key, answer));
    });
    (key, canceller)
}

/// "panicked: " and what the panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", said.unwrap_or("without a message"))
}
