//! Messages that are late and cannot change anything any more are as good as lost: states with and without them are the same.
//!
//! A reply that its machine does not wait for is ignored, now and later: request ids are never used twice. A request changes nothing,
//! now and later, where the store stays as it is and the reply is ignored: leases, tokens and claim numbers never come back. Claims and
//! records of completion calls are left alone, and so is what has no such argument.

use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest};

use super::state::{Content, Message, Part, Process, State, digest};
use super::step::Setting;

impl Setting<'_> {
    /// Drops late messages that are past.
    pub(super) fn forget_what_is_past(&self, state: &mut State) {
        let mut at = 0;
        while let Some(message) = state.network.get(at) {
            if message.late && self.is_past(state, message) {
                state.network.remove(at);
            } else {
                at += 1;
            }
        }
    }

    fn is_past(&self, state: &State, message: &Part<Message>) -> bool {
        match &message.content {
            Content::Reply(reply) => self.is_ignored(state, message, reply.clone()),
            Content::Request(request) if stays_so(request) => {
                let mut store = (*state.store).clone();
                let (reply, untrue) = super::mistake::apply(self.mistake, &mut store, state.store_now(), request);
                let same = digest(&store) == state.store.digest();
                same && untrue.is_empty() && self.is_ignored(state, message, Ok(reply))
            }
            _ => false,
        }
    }

    fn is_ignored(&self, state: &State, message: &Message, reply: Result<StoreReply, StoreFailure>) -> bool {
        let before = &state.processes[message.process];
        match &**before {
            Process::Crashed | Process::Left => true,
            Process::Alive(alive) => {
                let mut after = alive.clone();
                after.hear(state.now(), message.machine, message.id, reply);
                digest(&Process::Alive(after)) == before.digest()
            }
        }
    }
}

fn stays_so(request: &StoreRequest) -> bool {
    !matches!(
        request,
        StoreRequest::ClaimCall(_)
            | StoreRequest::RecordCall(_)
            | StoreRequest::WithdrawCrashes { .. }
            | StoreRequest::CutBack { .. }
    )
}
