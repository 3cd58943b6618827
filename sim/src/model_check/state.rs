//! A state: processes, messages under way, the store, and what the checkers know. Each part keeps its digest, so that a step
//! copies and digests only what it changes.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

use fencepost_core::calls::CallKey;
use fencepost_core::judge::{Judge, JudgeOptions};
use fencepost_core::keeper::{Keeper, KeeperCommand, KeeperOptions, LeaseEvent};
use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest};
use fencepost_core::worker::{RunKey, Worker};
use fencepost_core::{BatchId, Instant, RequestId, StoreTime};
use fencepost_model::store::ModelStore;

use super::invariants::Watch;
use super::scope::{Faults, OPERATION, Scope, UNIT, timing};

/// A part of a state, shared by all states in which it is the same.
#[derive(Debug)]
pub(super) struct Part<T>(Rc<(u64, T)>);

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Part<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T: Hash + Clone> Part<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Rc::new((digest(&value), value)))
    }

    pub(super) fn digest(&self) -> u64 {
        self.0.0
    }

    /// A copy of the part is changed.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.1.clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

/// Equal for equal values; two of 64 bits that meet by chance would hide a state (see the module's documentation).
pub(super) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A machine of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Machine {
    Keeper,
    Worker,
    Judge,
}

impl Machine {
    pub(super) const ALL: [Self; 3] = [Self::Keeper, Self::Worker, Self::Judge];
}

/// A process.
#[derive(Debug, Clone, Hash)]
pub(super) enum Process {
    Alive(Box<Alive>),
    Crashed,
    Left,
}

/// Its machines, and what they have set going.
#[derive(Debug, Clone, Hash)]
pub(super) struct Alive {
    pub(super) paused: bool,
    /// S2: it has heard that the batch is closed.
    pub(super) knows_closed: bool,
    pub(super) keeper: Keeper,
    pub(super) worker: Worker,
    pub(super) judge: Option<Judge>,
    /// Handlers that run; cancelled ones may end as they like.
    pub(super) handlers: BTreeMap<RunKey, Handler>,
    /// Completion calls that are made, cancelled or not.
    pub(super) calls: BTreeMap<CallKey, bool>,
    pub(super) to_worker: VecDeque<LeaseEvent>,
    pub(super) to_keeper: VecDeque<KeeperCommand>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Handler {
    Runs,
    Cancelled,
    /// Its slot is given up.
    Abandoned,
}

impl Alive {
    pub(super) fn start(scope: &Scope, process: usize, now: Instant) -> Self {
        let seed = process as u64 + 1;
        let keeper = KeeperOptions {
            worker: format!("w{process}"),
            stable_name: false,
            timing: timing(),
            process: None,
            operations: vec![OPERATION.to_owned()],
            calls: scope.makes(),
            liveness: false,
            seed,
        };
        let judge = JudgeOptions { timing: timing(), machine: None, liveness: false, local_check: UNIT };
        Self {
            paused: false,
            knows_closed: false,
            keeper: Keeper::new(keeper, now),
            worker: Worker::new(scope.worker(), seed, now),
            judge: (scope.judges)(process).then(|| Judge::new(judge, now)),
            handlers: BTreeMap::new(),
            calls: BTreeMap::new(),
            to_worker: VecDeque::new(),
            to_keeper: VecDeque::new(),
        }
    }

    pub(super) fn timeout(&self, machine: Machine) -> Option<Instant> {
        match machine {
            Machine::Keeper => self.keeper.poll_timeout(),
            Machine::Worker => self.worker.poll_timeout(),
            Machine::Judge => self.judge.as_ref()?.poll_timeout(),
        }
    }
}

/// A message under way.
#[derive(Debug, Clone, Hash)]
pub(super) struct Message {
    pub(super) process: usize,
    pub(super) machine: Machine,
    pub(super) id: RequestId,
    /// It arrives at any time or never; what is not late arrives before time goes on.
    pub(super) late: bool,
    pub(super) content: Content,
}

#[derive(Debug, Clone, Hash)]
pub(super) enum Content {
    Request(StoreRequest),
    Reply(Result<StoreReply, StoreFailure>),
    /// S2: news of an abort, to a worker.
    Closed(BatchId),
    /// C3: news of an opened batch.
    Opened,
}

/// What operators have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Operator {
    /// By place in the scope's list.
    pub(super) done: u16,
    /// A hold that is not yet resumed is, before then.
    pub(super) resume_by: Option<u64>,
}

/// A state.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) now_us: u64,
    pub(super) processes: Vec<Part<Process>>,
    /// In the order of process, machine, request and digest: which was sent first does not matter.
    pub(super) network: Vec<Part<Message>>,
    pub(super) store: Part<ModelStore>,
    pub(super) watch: Part<Watch>,
    pub(super) faults: Faults,
    pub(super) operator: Operator,
}

impl State {
    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(self.now_us)
    }

    pub(super) fn store_now(&self) -> StoreTime {
        StoreTime(i64::try_from(self.now_us).unwrap_or(i64::MAX))
    }

    pub(super) fn digest(&self) -> u64 {
        let processes: Vec<u64> = self.processes.iter().map(Part::digest).collect();
        let network: Vec<u64> = self.network.iter().map(Part::digest).collect();
        let parts = (self.store.digest(), self.watch.digest(), self.faults, self.operator);
        digest(&(self.now_us, processes, network, parts))
    }

    pub(super) fn send(&mut self, message: Message) {
        let message = Part::new(message);
        let place =
            |message: &Part<Message>| (message.process, message.machine, message.id, message.late, message.digest());
        let at = self.network.partition_point(|other| place(other) <= place(&message));
        self.network.insert(at, message);
    }

    pub(super) fn alive(&self, process: usize) -> Option<&Alive> {
        match &**self.processes.get(process)? {
            Process::Alive(alive) => Some(alive),
            Process::Crashed | Process::Left => None,
        }
    }

    /// Neither dead nor standing still.
    pub(super) fn running(&self, process: usize) -> Option<&Alive> {
        self.alive(process).filter(|alive| !alive.paused)
    }

    pub(super) fn anybody_alive(&self) -> bool {
        (0..self.processes.len()).any(|process| self.alive(process).is_some())
    }
}
