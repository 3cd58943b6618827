//! The driver: performs the core's effects and feeds replies back.
//!
//! Generic over everything outside: store, second witness, clock, spawner, processes, handler. Of tokio it uses only
//! `tokio::sync` and biased `select!`, so that the simulator runs these very loops.
//!
//! | loop | runs |
//! |---|---|
//! | [`keeper::drive`] | on its own thread and connection (L5) |
//! | [`judge::drive`] | beside row work |
//! | [`worker::drive`] | row work |
//! | [`changes::drive`] | beside row work |
//!
//! [`loops`] puts the first three together.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fencepost_core::Instant;
use fencepost_core::calls::CallGrant;
use fencepost_core::judge::JudgeEvent;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::{LeaseView, ProcessIdentity, StoreFailure, StoreReply, StoreRequest};
use fencepost_core::worker::{RunKey, WorkerEvent};

use crate::store::{Store, StoreError};

pub mod changes;
pub mod judge;
pub mod keeper;
pub mod loops;
mod rows;
pub mod worker;

/// The second witness (Redis), or none.
pub trait Liveness: Clone + Send + Sync + 'static {
    /// Whether there is one; without one it is never asked.
    fn is_present(&self) -> bool;
    /// Asks. `None`: no answer. It never waits for long.
    fn call(&self, request: LivenessRequest) -> impl Future<Output = Option<LivenessReply>> + Send;
    /// The same for a worker whose lease has this ttl: no call waits longer than an eighth of it, and troubles are reported.
    #[must_use]
    fn for_worker(&self, ttl: Duration, observer: Observer) -> Self {
        let _ = (ttl, observer);
        self.clone()
    }
    /// L5: the same with a connection of its own. It is made and used in the keeper's own runtime.
    #[must_use]
    fn for_renewals(&self) -> Self {
        self.clone()
    }
}

/// A second witness, if there is one.
impl<L: Liveness> Liveness for Option<L> {
    fn is_present(&self) -> bool {
        self.as_ref().is_some_and(Liveness::is_present)
    }

    async fn call(&self, request: LivenessRequest) -> Option<LivenessReply> {
        self.as_ref()?.call(request).await
    }

    fn for_worker(&self, ttl: Duration, observer: Observer) -> Self {
        self.as_ref().map(|liveness| liveness.for_worker(ttl, observer))
    }

    fn for_renewals(&self) -> Self {
        self.as_ref().map(Liveness::for_renewals)
    }
}

/// No second witness: the store's lease is the only one.
#[derive(Debug, Clone, Copy)]
pub struct NoLiveness;

impl Liveness for NoLiveness {
    fn is_present(&self) -> bool {
        false
    }

    async fn call(&self, _: LivenessRequest) -> Option<LivenessReply> {
        None
    }
}

/// A monotonic clock.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The moment.
    fn now(&self) -> Instant;
    /// Ends at that moment; at once where it is past.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send;
}

/// Starts tasks.
pub trait Spawn: Clone + Send + Sync + 'static {
    /// Starts one; nobody waits for its end.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// How many tasks may run at the same moment.
    fn side_by_side(&self) -> usize;
}

/// The processes of this machine (R1).
pub trait Processes: Clone + Send + Sync + 'static {
    /// Whether that process runs here.
    fn state(&self, process: &ProcessIdentity) -> ProcessState;
}

/// What a worker does, for people: told as it happens.
#[derive(Debug)]
pub enum Report<'a> {
    /// A row is started.
    Started {
        /// Which run.
        key: RunKey,
        /// Which attempt, from 1.
        attempt: u32,
        /// The worker that died or was taken over while it held the line.
        recovered_from: Option<&'a str>,
    },
    /// S7: a completion call is made.
    Calling(&'a CallGrant),
    /// Of the worker.
    Worker(&'a WorkerEvent),
    /// Of its judge.
    Judge(&'a JudgeEvent),
    /// R5: another live lease has the worker's stable name, and its process is not known to be gone. Told once for each
    /// such lease.
    NameHeld {
        /// That lease.
        holder: &'a LeaseView,
        /// Its process, if it is of this machine.
        process: ProcessState,
    },
    /// The store did not answer a request.
    StoreTrouble(&'a StoreError),
    /// The second witness does not answer; not told again before it has answered.
    LivenessTrouble(&'a dyn Error),
    /// It answers again.
    LivenessBack,
}

/// Takes reports; called from the loops, so it must not block.
pub type Observer = Arc<dyn Fn(Report<'_>) + Send + Sync>;

/// Everything outside that a loop needs.
#[derive(Clone)]
pub struct Ports<S, L, C, T, P> {
    /// The row store.
    pub store: S,
    /// The second witness.
    pub liveness: L,
    /// The monotonic clock, the same for all loops of a process.
    pub clock: C,
    /// Starts tasks.
    pub spawn: T,
    /// Looks processes up.
    pub processes: P,
    /// Takes reports.
    pub observer: Observer,
}

/// Asks the store; an unanswered request is reported.
async fn ask<S: Store>(store: &S, observer: &Observer, request: StoreRequest) -> Result<StoreReply, StoreFailure> {
    store.call(request).await.map_err(|error| {
        observer(Report::StoreTrouble(&error));
        error.failure
    })
}

/// Sleeps until a wake-up, or for ever where there is none.
async fn sleep<C: Clock>(clock: &C, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
