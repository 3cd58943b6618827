//! A worker of this process: its loops put together on the real outside.

use std::future::Future;
use std::io;
use std::sync::Arc;

use fencepost_core::WorkerOptions;
use fencepost_core::calls::Calls;
use fencepost_core::judge::{JudgeInput, JudgeOptions};
use fencepost_core::keeper::KeeperOptions;
use fencepost_core::rules::transactions::t2_limit;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::worker::{ExitReason, WorkerInput};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use crate::driver::loops::{KeeperLoop, Loops};
use crate::driver::worker::Handlers;
use crate::driver::{self, Liveness, NoLiveness, Observer, Ports};
use crate::handler::Handler;
use crate::handler::call::Caller;
use crate::runtime::{LocalProcesses, TokioClock, TokioSpawn};
use crate::store::{Store, StoreError, WorkerStore};

/// How a worker is called and what it does.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// A stable name (R5), or none: then the worker makes a name of its own.
    pub name: Option<String>,
    /// The options of the protocol's machines.
    pub options: WorkerOptions,
    /// Takes reports.
    pub observer: Observer,
    /// S7: makes the completion calls that the options name. Without one, none is made.
    pub caller: Option<Arc<dyn Caller>>,
}

impl WorkerConfig {
    /// A worker without a stable name that works on these operations and reports nothing.
    pub fn new(operations: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let operations = operations.into_iter().map(Into::into).collect();
        Self {
            name: None,
            options: WorkerOptions { operations, ..WorkerOptions::default() },
            observer: Arc::new(|_| {}),
            caller: None,
        }
    }
}

/// A worker at work.
pub struct RunningWorker {
    name: String,
    inputs: UnboundedSender<WorkerInput>,
    judge: UnboundedSender<JudgeInput>,
    work: JoinHandle<ExitReason>,
    keeper: std::thread::JoinHandle<()>,
}

impl RunningWorker {
    /// Starts a worker on the current tokio runtime. `renewal_store` opens a second handle to the same store, on
    /// connections of its own, inside the keeper's thread (L5).
    pub fn start<S, L, H, F>(
        store: S,
        liveness: L,
        handler: H,
        mut config: WorkerConfig,
        renewal_store: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        S: Store,
        L: Liveness,
        H: Handler,
        F: Future<Output = Result<S, StoreError>>,
    {
        let processes = LocalProcesses::new();
        let process = processes.identity(std::process::id());
        let seed = rand::random();
        if config.caller.is_none() {
            config.options.calls = Calls::default();
        }
        let stable_name = config.name.is_some();
        let name = config.name.unwrap_or_else(own_name);
        let liveness = liveness.for_worker(config.options.timing.ttl, config.observer.clone());
        let keeper_options = KeeperOptions {
            worker: name.clone(),
            stable_name,
            timing: config.options.timing,
            process,
            // A worker that runs no rows has no handler for any.
            operations: if config.options.rows { config.options.operations.clone() } else { Vec::new() },
            calls: config.options.calls.clone(),
            liveness: liveness.is_present(),
            seed,
        };
        let judge_options = JudgeOptions {
            timing: config.options.timing,
            machine: processes.machine().map(str::to_owned),
            liveness: liveness.is_present(),
            local_check: LOCAL_CHECK,
        };
        let clock = TokioClock::start();
        let observer = config.observer;
        let ports = Ports { store, liveness, clock, spawn: TokioSpawn, processes, observer };
        let Loops { keeper, judge, work, inputs, judging } =
            Loops::new(keeper_options, judge_options, config.options, seed.rotate_left(32));
        let keeper = keep(keeper, ports.clone(), renewal_store)?;
        tokio::spawn(judge.run(ports.clone()));
        let handlers = Handlers { rows: Arc::new(handler), calls: config.caller };
        let work = tokio::spawn(work.run(ports, handlers));
        Ok(Self { name, inputs, judge: judging, work, keeper })
    }

    /// Starts a worker on a store: its waits are bounded by the ttl (T2), renewals get connections of their own (L5), and
    /// what others commit wakes the worker.
    ///
    /// # Errors
    ///
    /// Where the keeper's thread cannot be started.
    pub fn on_store<S: WorkerStore, H: Handler>(store: S, handler: H, config: WorkerConfig) -> io::Result<Self> {
        Self::on_store_with(store, NoLiveness, handler, config)
    }

    /// The same with a second witness: [`crate::liveness::RedisLiveness`], or none.
    ///
    /// # Errors
    ///
    /// Where the keeper's thread cannot be started.
    pub fn on_store_with<S: WorkerStore, L: Liveness, H: Handler>(
        store: S,
        liveness: L,
        handler: H,
        config: WorkerConfig,
    ) -> io::Result<Self> {
        let store = store.with_lock_wait(t2_limit(config.options.timing.ttl));
        let renewals = store.clone();
        let renewal_store = move || async move { renewals.for_renewals().await };
        let running = Self::start(store.clone(), liveness, handler, config, renewal_store)?;
        let (inputs, judge) = (running.inputs.clone(), running.judge.downgrade());
        tokio::spawn(driver::changes::drive(store, TokioClock::start(), inputs, judge));
        Ok(running)
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the worker to leave (S1).
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let inputs = self.inputs.clone();
        move || {
            // One that has left needs no asking.
            let _ = inputs.send(WorkerInput::Stop);
        }
    }

    /// R1: a process ended that may have held a lease.
    pub fn process_ended(&self, process: ProcessIdentity) {
        let _ = self.judge.send(JudgeInput::ProcessEnded(process));
    }

    /// Waits until the worker has left.
    pub async fn left(self) -> Result<ExitReason, WorkerError> {
        let reason = self.work.await.map_err(|cause| WorkerError::Crashed { cause })?;
        drop(self.judge);
        // The keeper ends with its worker: it was told to drop the lease, or told the worker that it is gone.
        let keeper = self.keeper;
        tokio::task::spawn_blocking(move || keeper.join())
            .await
            .map_err(|cause| WorkerError::Crashed { cause })?
            .map_err(|_| WorkerError::KeeperCrashed)?;
        Ok(reason)
    }
}

/// A worker that ended other than by leaving: a bug in fencepost.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Row work panicked.
    #[error("the worker's loop crashed; its lease will be recovered by others")]
    Crashed {
        /// How.
        #[source]
        cause: tokio::task::JoinError,
    },
    /// The keeper panicked.
    #[error("the keeper of the worker's lease crashed; the lease will be recovered by others")]
    KeeperCrashed,
}

/// Processes of the same machine are looked up this often.
const LOCAL_CHECK: std::time::Duration = std::time::Duration::from_secs(1);

/// L5: the keeper's own thread, runtime and connection.
fn keep<S, L, F>(
    keeper: KeeperLoop,
    mut ports: Ports<S, L, TokioClock, TokioSpawn, LocalProcesses>,
    renewal_store: impl FnOnce() -> F + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>>
where
    S: Store,
    L: Liveness,
    F: Future<Output = Result<S, StoreError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        runtime.block_on(async move {
            // Without connections of its own, the keeper shares those of row work: slower to renew, never wrong.
            if let Ok(store) = renewal_store().await.map_err(|error| {
                (ports.observer)(driver::Report::StoreTrouble(&error));
            }) {
                ports.store = store;
            }
            ports.liveness = ports.liveness.for_renewals();
            keeper.run(ports).await;
        });
    })
}

/// A name that no other process has: host, process id, and some random characters.
fn own_name() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let host = if host.is_empty() { "worker" } else { host.as_str() };
    let random = fencepost_core::BatchId::from_random(rand::random()).to_string();
    format!("{host}-{}-{}", std::process::id(), &random[..5])
}
