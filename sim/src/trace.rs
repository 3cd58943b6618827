//! What a run tells of itself, entry by entry: the printed trace and the page ([`crate::timeline`]) are both made of it.

use std::fmt;

use fencepost_core::RequestId;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest};
use fencepost_core::worker::{ExitReason, RunAnswer, RunKey, WorkerEvent};
use fencepost_model::history::{self, Process};

use crate::fault::Fault;
pub use crate::world::Machine;

/// The entries of a run, in order.
#[derive(Debug, Default)]
pub struct Trace {
    /// All of them.
    pub entries: Vec<Entry>,
    steps: bool,
}

impl Trace {
    /// What happened, without the simulator's own events.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with every event that the simulator handles.
    pub fn with_steps() -> Self {
        Self { entries: Vec::new(), steps: true }
    }

    /// Whether the simulator's own events are wanted.
    pub fn has_steps(&self) -> bool {
        self.steps
    }

    pub(crate) fn push(&mut self, at_us: u64, what: What) {
        self.entries.push(Entry { at_us, what });
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When, in true microseconds.
    pub at_us: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// The simulator handles an event, as it has it.
    Step(String),
    /// A change of the store, or a fact about processes and links.
    Fact(history::Event),
    /// A fault struck, or there was nothing to strike.
    Fault {
        /// Which.
        fault: Fault,
        /// Whether it did anything.
        struck: bool,
    },
    /// A request to the store leaves its process.
    StoreSent(Message, StoreRequest),
    /// The store has done a request.
    StoreDone {
        /// Whose.
        message: Message,
        /// It had arrived before: nobody gets this reply.
        duplicate: bool,
        /// What was asked.
        request: StoreRequest,
        /// What it answers; the reply may still be lost.
        reply: StoreReply,
    },
    /// The process has the store's reply, or knows that something is wrong.
    StoreHeard(Message, Result<StoreReply, StoreFailure>),
    /// A request to the second witness leaves its process.
    WitnessSent(Message, LivenessRequest),
    /// The second witness has done a request.
    WitnessDone(Message, LivenessRequest, LivenessReply),
    /// The process has its reply, or knows that there is none.
    WitnessHeard(Message, Option<LivenessReply>),
    /// A worker has something to tell people.
    Told(Process, WorkerEvent),
    /// A run's end reaches its worker.
    RunEnded(Process, RunKey, RunAnswer),
    /// A worker cancels a run.
    RunCancelled(Process, RunKey),
    /// A worker gives up a run that does not end; it may still run.
    RunAbandoned(Process, RunKey),
    /// A process leaves, for this reason.
    Left(Process, ExitReason),
}

/// A request by who asks: its reply has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// Which process.
    pub process: Process,
    /// Which of its machines.
    pub machine: Machine,
    /// The machine's own number.
    pub id: RequestId,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12} ", self.at_us)?;
        match &self.what {
            What::Step(event) => f.write_str(event),
            What::Fact(fact) => write!(f, "  {fact:?}"),
            other => write!(f, "    {other:?}"),
        }
    }
}
