//! The three loops of a worker and the queues between them.

use fencepost_core::WorkerOptions;
use fencepost_core::judge::{JudgeInput, JudgeOptions};
use fencepost_core::keeper::{KeeperCommand, KeeperInput, KeeperOptions, LeaseEvent};
use fencepost_core::worker::{ExitReason, WorkerInput};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender};

use super::worker::Handlers;
use super::{Clock, Liveness, Ports, Processes, Spawn};
use crate::handler::Handler;
use crate::store::Store;

/// A worker that is put together and does not run yet. Each loop is given its ports when it is started, since the keeper has
/// some of its own (L5).
pub struct Loops {
    /// Keeps the lease.
    pub keeper: KeeperLoop,
    /// Judges others.
    pub judge: JudgeLoop,
    /// Runs rows.
    pub work: WorkLoop,
    /// Tells the worker something.
    pub inputs: UnboundedSender<WorkerInput>,
    /// Tells its judge something. The judge ends when nobody can any more.
    pub judging: UnboundedSender<JudgeInput>,
}

/// The keeper's loop.
pub struct KeeperLoop {
    options: KeeperOptions,
    inbox: WeakUnboundedSender<KeeperInput>,
    queue: UnboundedReceiver<KeeperInput>,
    worker: UnboundedSender<WorkerInput>,
    judge: UnboundedSender<JudgeInput>,
}

/// The judge's loop.
pub struct JudgeLoop {
    options: JudgeOptions,
    inbox: WeakUnboundedSender<JudgeInput>,
    queue: UnboundedReceiver<JudgeInput>,
}

/// The loop of row work.
pub struct WorkLoop {
    options: WorkerOptions,
    seed: u64,
    inbox: UnboundedSender<WorkerInput>,
    queue: UnboundedReceiver<WorkerInput>,
    keeper: UnboundedSender<KeeperInput>,
}

impl Loops {
    /// Puts a worker together; `seed` is for its random numbers.
    pub fn new(keeper: KeeperOptions, judge: JudgeOptions, worker: WorkerOptions, seed: u64) -> Self {
        let (inputs, input_queue) = mpsc::unbounded_channel();
        let (judging, judge_queue) = mpsc::unbounded_channel();
        let (keeping, keeper_queue) = mpsc::unbounded_channel();
        let keeper = KeeperLoop {
            options: keeper,
            inbox: keeping.downgrade(),
            queue: keeper_queue,
            worker: inputs.clone(),
            judge: judging.clone(),
        };
        let judge = JudgeLoop { options: judge, inbox: judging.downgrade(), queue: judge_queue };
        let work = WorkLoop { options: worker, seed, inbox: inputs.clone(), queue: input_queue, keeper: keeping };
        Self { keeper, judge, work, inputs, judging }
    }
}

impl KeeperLoop {
    /// Keeps the lease; both others hear what becomes of it.
    pub async fn run<S: Store, L: Liveness, C: Clock, T: Spawn, P: Processes>(self, ports: Ports<S, L, C, T, P>) {
        let Self { options, inbox, queue, worker, judge } = self;
        let tell = move |event: LeaseEvent| {
            let own = match &event {
                LeaseEvent::Held { lease, .. } => Some(*lease),
                LeaseEvent::Ended { .. } | LeaseEvent::NameInUse { .. } | LeaseEvent::Dropped => None,
            };
            // Either may have ended before the keeper: then nobody needs to know.
            let _ = judge.send(JudgeInput::OwnLease(own));
            let _ = worker.send(WorkerInput::Lease(event));
        };
        super::keeper::drive(options, ports, inbox, queue, tell).await;
    }
}

impl JudgeLoop {
    /// Judges.
    pub async fn run<S: Store, L: Liveness, C: Clock, T: Spawn, P: Processes>(self, ports: Ports<S, L, C, T, P>) {
        super::judge::drive(self.options, ports, self.inbox, self.queue).await;
    }
}

impl WorkLoop {
    /// Runs rows, and says why the worker left.
    pub async fn run<S: Store, L: Liveness, C: Clock, T: Spawn, P: Processes, H: Handler>(
        self,
        ports: Ports<S, L, C, T, P>,
        handlers: Handlers<H>,
    ) -> ExitReason {
        let Self { options, seed, inbox, queue, keeper } = self;
        let command = move |command: KeeperCommand| {
            let _ = keeper.send(KeeperInput::Command(command));
        };
        super::worker::drive(options, seed, ports, handlers, inbox, queue, command).await
    }
}
