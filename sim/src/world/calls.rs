//! S7: simulated completion calls.

use fencepost_core::calls::{CallGrant, CallKey};
use fencepost_core::worker::{CallAnswer, WorkerInput};
use fencepost_model::history;

use super::{Event, ProcessAt, World};
use crate::coverage::Mark;

impl World<'_> {
    /// A call takes a while; now and then it fails, but not for ever.
    pub(super) fn start_call(&mut self, at: ProcessAt, grant: &CallGrant) {
        let key = grant.key;
        let CallKey { batch, generation, token } = key;
        self.coverage.mark(Mark::CallsMade);
        if grant.attempt > 1 {
            self.coverage.mark(Mark::CallsMadeAgain);
        }
        self.fact(history::Event::CompletionCalled { batch, generation });
        self.processes[at].calls.insert(key);
        let drawn = self.number_of(&[0xca11, batch.number(), token.0]);
        let fails = grant.attempt < 3 && drawn.is_multiple_of(4);
        let answer = if fails { CallAnswer::Failed("not now".into()) } else { CallAnswer::Delivered };
        let takes = 1000 + (drawn >> 8) % self.schedule.options.run_us_max.max(1);
        self.push(self.now + takes, Event::CallEnds { process: at, key, answer });
    }

    /// One that listens ends a little later; one that does not ends by itself.
    pub(super) fn cancel_call(&mut self, at: ProcessAt, key: CallKey) {
        let drawn = self.number_of(&[0xca12, at as u64, key.token.0]);
        if !drawn.is_multiple_of(8) {
            self.push(
                self.now + (drawn >> 8) % 1000,
                Event::CallEnds { process: at, key, answer: CallAnswer::Cancelled },
            );
        }
    }

    pub(super) fn call_ends(&mut self, at: ProcessAt, key: CallKey, answer: CallAnswer) {
        if !self.receives(at, || Event::CallEnds { process: at, key, answer: answer.clone() }) {
            return;
        }
        let process = &mut self.processes[at];
        if process.calls.remove(&key) {
            let now = process.clock.now(self.now);
            process.worker.handle_input(now, WorkerInput::CallEnded(key, answer));
            self.settle(at);
        }
    }

    /// Whether an end is yet to be told.
    pub(super) fn owes_calls(&self) -> bool {
        self.schedule.options.calls && self.store.has_undelivered_call()
    }
}
