//! What is noted of a run where somebody asked for its trace.

use fencepost_core::RequestId;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest};

use super::{Event, Machine, ProcessAt, StoreCall, World};
use crate::trace::{Message, What};

impl World<'_> {
    /// Notes an entry; without a trace it is not even made.
    pub(super) fn trace(&mut self, what: impl FnOnce(&Self) -> What) {
        if self.trace.is_some() {
            let what = what(self);
            if let Some(trace) = &mut self.trace {
                trace.push(self.now, what);
            }
        }
    }

    pub(super) fn trace_step(&mut self, event: &Event) {
        if self.trace.as_ref().is_some_and(|trace| trace.has_steps()) {
            self.trace(|_| What::Step(format!("{event:?}")));
        }
    }

    pub(super) fn trace_sent(&mut self, at: ProcessAt, machine: Machine, id: RequestId, request: &StoreRequest) {
        self.trace(|world| What::StoreSent(world.message(at, machine, id), request.clone()));
    }

    pub(super) fn trace_done(&mut self, call: &StoreCall, reply: &StoreReply) {
        self.trace(|world| What::StoreDone {
            message: world.message(call.process, call.machine, call.id),
            duplicate: call.duplicate,
            request: call.request.clone(),
            reply: reply.clone(),
        });
    }

    pub(super) fn trace_heard(
        &mut self,
        at: ProcessAt,
        machine: Machine,
        id: RequestId,
        reply: &Result<StoreReply, StoreFailure>,
    ) {
        self.trace(|world| What::StoreHeard(world.message(at, machine, id), reply.clone()));
    }

    pub(super) fn trace_witness_sent(
        &mut self,
        at: ProcessAt,
        machine: Machine,
        id: RequestId,
        request: &LivenessRequest,
    ) {
        self.trace(|world| What::WitnessSent(world.message(at, machine, id), request.clone()));
    }

    pub(super) fn trace_witness_done(
        &mut self,
        at: ProcessAt,
        machine: Machine,
        id: RequestId,
        request: &LivenessRequest,
        reply: &Option<LivenessReply>,
    ) {
        if let Some(reply) = reply {
            self.trace(|world| What::WitnessDone(world.message(at, machine, id), request.clone(), reply.clone()));
        }
    }

    pub(super) fn trace_witness_heard(
        &mut self,
        at: ProcessAt,
        machine: Machine,
        id: RequestId,
        reply: &Option<LivenessReply>,
    ) {
        self.trace(|world| What::WitnessHeard(world.message(at, machine, id), reply.clone()));
    }

    fn message(&self, at: ProcessAt, machine: Machine, id: RequestId) -> Message {
        Message { process: self.processes[at].number, machine, id }
    }
}
