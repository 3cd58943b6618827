//! A worker's node: the real driver on simulated time, tasks, processes and network.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fencepost::driver::loops::Loops;
use fencepost::driver::worker::Handlers;
use fencepost::driver::{Clock, Liveness, Observer, Ports, Processes, Report, Spawn, changes};
use fencepost::handler::call::Caller;
use fencepost::store::WorkerStore;
use fencepost_core::Instant;
use fencepost_core::judge::JudgeOptions;
use fencepost_core::keeper::KeeperOptions;
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::worker::WorkerEvent;
use fencepost_model::clock::MonotonicClock;
use fencepost_model::history;
use madsim::time::TimeHandle;

use super::coverage::NetMark;
use super::handlers::{CallsOf, RowsOf};
use super::store_client::NetStore;
use super::witness::Witness;
use super::world::{ProcessAt, Shared};
use crate::options::OPERATION;

/// A process's monotonic clock, at a rate of its own.
#[derive(Clone)]
pub(super) struct SimClock {
    clock: Arc<MonotonicClock>,
    time: TimeHandle,
}

/// Nobody sleeps longer: for ever, in a run.
const SLEEP_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

impl SimClock {
    fn true_now(&self) -> u64 {
        u64::try_from(self.time.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.clock.now(self.true_now())
    }

    async fn sleep_until(&self, at: Instant) {
        let ahead = self.clock.true_at(at).saturating_sub(self.true_now());
        if ahead > 0 {
            self.time.sleep(Duration::from_micros(ahead).min(SLEEP_MAX)).await;
        }
    }
}

/// Tasks of the node that it is used on: they end with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SimSpawn;

impl Spawn for SimSpawn {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(madsim::task::spawn(task));
    }

    /// They run one after the other, in any order.
    fn side_by_side(&self) -> usize {
        2
    }
}

/// The processes of a simulated machine.
#[derive(Clone)]
pub(super) struct SimProcesses {
    shared: Shared,
    machine: String,
}

impl Processes for SimProcesses {
    fn state(&self, process: &ProcessIdentity) -> ProcessState {
        self.shared.lock().look_up(&self.machine, process)
    }
}

/// The process that runs in this slot now: its whole life.
pub(super) async fn work(shared: Shared, slot: usize) {
    let (at, schedule, clock, time, seed, name, machine, identity) = {
        let world = shared.lock();
        let Some(at) = world.slots[slot].current else { return };
        let process = &world.processes[at];
        let (clock, time) = (process.clock.clone(), world.time().clone());
        let (name, machine) = (process.name.clone(), process.machine.clone());
        (at, world.schedule.clone(), clock, time, process.seed, name, machine, process.identity.clone())
    };
    let options = &schedule.options;
    let clock = SimClock { clock, time };
    let observer = observer(shared.clone(), at);
    let liveness = options.liveness.then(|| Witness::new(&shared, at, clock.clone(), seed));
    let liveness = liveness.for_worker(options.timing().ttl, observer.clone());
    let limit = Duration::from_micros(schedule.answer_limit_us);
    let store = NetStore::new(shared.clone(), at, clock.clone(), limit);
    let keeper = KeeperOptions {
        worker: name,
        stable_name: options.stable_names,
        timing: options.timing(),
        process: identity,
        operations: vec![OPERATION.to_owned()],
        calls: options.calls(),
        liveness: options.liveness,
        seed,
    };
    let judge = JudgeOptions {
        timing: options.timing(),
        machine: options.identities.then(|| machine.clone()),
        liveness: options.liveness,
        local_check: Duration::from_micros(options.ttl_us / 4),
    };
    let Loops { keeper, judge, work, inputs, judging } = Loops::new(keeper, judge, options.worker(), seed ^ 1);
    let processes = SimProcesses { shared: shared.clone(), machine };
    let ports = Ports { store: store.clone(), liveness, clock: clock.clone(), spawn: SimSpawn, processes, observer };
    SimSpawn.spawn(changes::drive(store, clock, inputs.clone(), judging.downgrade()));
    {
        let process = &mut shared.lock().processes[at];
        (process.inputs, process.judging) = (Some(inputs), Some(judging));
    }
    let keeper = madsim::task::spawn({
        let mut ports = ports.clone();
        async move {
            // L5: connections of its own.
            if let Ok(store) = ports.store.for_renewals().await {
                ports.store = store;
            }
            ports.liveness = ports.liveness.for_renewals();
            keeper.run(ports).await;
        }
    });
    SimSpawn.spawn(judge.run(ports.clone()));
    let calls: Option<Arc<dyn Caller>> =
        if options.calls { Some(Arc::new(CallsOf::new(shared.clone()))) } else { None };
    let rows = Arc::new(RowsOf::new(shared.clone(), at));
    let reason = work.run(ports, Handlers { rows, calls }).await;
    // The process stays until its keeper has ended, too.
    let _ = keeper.await;
    shared.lock().exited(at, &reason);
}

fn observer(shared: Shared, at: ProcessAt) -> Observer {
    Arc::new(move |report| {
        let mut world = shared.lock();
        world.say(|| format!("{:?} {report:?}", world.processes[at].number));
        let mark = match &report {
            Report::Started { key, .. } => return world.order(at, *key),
            Report::Calling(grant) => {
                let (batch, generation) = (grant.key.batch, grant.key.generation);
                world.fact(&history::Event::CompletionCalled { batch, generation });
                NetMark::CallsMade
            }
            Report::Worker(WorkerEvent::LeaseEnded(_)) => NetMark::LeaseEndedAlive,
            Report::Worker(WorkerEvent::Lapsed(_)) => NetMark::Lapse,
            Report::Worker(WorkerEvent::CallDelivered(_)) => NetMark::CallDelivered,
            Report::LivenessTrouble(_) => NetMark::WitnessTroubleTold,
            Report::LivenessBack => NetMark::WitnessBackTold,
            _ => return,
        };
        world.coverage.mark(mark);
    })
}
