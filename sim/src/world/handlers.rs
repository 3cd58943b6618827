//! Simulated handlers.

use fencepost_core::BatchId;
use fencepost_core::worker::{RunAnswer, RunKey, StartRun, WorkerInput};
use fencepost_model::history;

use super::{Event, ProcessAt, World};
use crate::coverage::Mark;
use crate::rows::{Nature, RowPlan};
use crate::trace::What;

/// A handler at work.
#[derive(Debug)]
pub(super) struct Handler {
    deaf: bool,
    /// S2: its worker heard that its batch is closed.
    closed: bool,
}

impl World<'_> {
    fn row(&self, key: RunKey) -> RowPlan {
        let batch = self.batches[&key.batch];
        self.rows[batch][key.line as usize - 1]
    }

    pub(super) fn start_handler(&mut self, at: ProcessAt, start: &StartRun) {
        let key = start.key;
        let row = self.row(key);
        let number = self.processes[at].number;
        self.coverage.mark(Mark::RunsStarted);
        *self.ledger.entry((key.batch, key.line)).or_default() += 1;
        let (batch, line, token) = (key.batch, key.line, key.token);
        self.fact(history::Event::HandlerStarted { process: number, batch, line, token });
        self.processes[at].handlers.insert(key, Handler { deaf: row.deaf, closed: false });
        self.note_run(at, key);
        match (row.nature, row.answer(start.attempt)) {
            (Nature::Poison { at_once }, _) => {
                let after = if at_once { 0 } else { row.run_us / 2 };
                self.push(self.now + after, Event::RowKills { process: at, key });
            }
            (_, Some(answer)) => self.push(self.now + row.run_us, Event::RunEnds { process: at, key, answer }),
            (_, None) => {}
        }
    }

    /// L6: no token is run twice.
    pub(super) fn note_run(&mut self, at: ProcessAt, key: RunKey) {
        if !self.started.insert(key) {
            self.violate("L6", format!("{key:?} is run twice, now by {:?}", self.processes[at].number));
        }
    }

    /// A handler that listens ends a little later; one that had come to its end by then has.
    pub(super) fn cancel_handler(&mut self, at: ProcessAt, key: RunKey) {
        self.trace(|world| What::RunCancelled(world.processes[at].number, key));
        let Some(handler) = self.processes[at].handlers.get(&key) else { return };
        if !handler.deaf {
            let after = self.number_of(&[at as u64, key.token.0, key.line]) % 1000;
            self.push(self.now + after, Event::RunEnds { process: at, key, answer: RunAnswer::Cancelled });
        }
    }

    /// S2: a worker hears that these batches are closed. (Heard of what ended and is open again, it is the same to its runs.)
    pub(super) fn hears_closed(&mut self, at: ProcessAt, batches: &[BatchId]) {
        let handlers = self.processes[at].handlers.iter_mut();
        handlers.filter(|(key, _)| batches.contains(&key.batch)).for_each(|(_, handler)| handler.closed = true);
    }

    /// Given up by its worker: the driver kills what it can, so that in the end it ends. S2: until then the store must know of the
    /// run where the worker knew that the batch is closed; of another, its line is decided with this.
    pub(super) fn abandon_handler(&mut self, at: ProcessAt, key: RunKey) {
        self.coverage.mark(Mark::Abandoned);
        self.trace(|world| What::RunAbandoned(world.processes[at].number, key));
        if self.processes[at].handlers.get(&key).is_some_and(|handler| !handler.closed) {
            self.tell_end(at, key);
        }
        let after = self.number_of(&[at as u64, key.token.0, key.line, 1]) % self.schedule.options.ttl_us;
        self.push(self.now + after, Event::RunEnds { process: at, key, answer: RunAnswer::Cancelled });
    }

    pub(super) fn run_ends(&mut self, at: ProcessAt, key: RunKey, answer: RunAnswer) {
        if !self.receives(at, || Event::RunEnds { process: at, key, answer: answer.clone() }) {
            return;
        }
        if self.processes[at].handlers.remove(&key).is_some() {
            self.trace(|world| What::RunEnded(world.processes[at].number, key, answer.clone()));
            self.tell_end(at, key);
            self.run_again_unasked(at, key, &answer);
            let process = &mut self.processes[at];
            let now = process.clock.now(self.now);
            process.worker.handle_input(now, WorkerInput::RunEnded(key, answer));
            self.settle(at);
        }
    }

    fn tell_end(&mut self, at: ProcessAt, key: RunKey) {
        let RunKey { batch, line, token } = key;
        self.fact(history::Event::HandlerEnded { process: self.processes[at].number, batch, line, token });
    }

    pub(super) fn row_kills(&mut self, at: ProcessAt, key: RunKey) {
        if !self.receives(at, || Event::RowKills { process: at, key }) {
            return;
        }
        let process = &self.processes[at];
        if process.handlers.contains_key(&key) {
            let slot = process.slot;
            self.coverage.mark(Mark::KilledByRow);
            let options = &self.schedule.options;
            let (restart_us, supervised) = (options.restart_us, options.supervised);
            self.crash(at, Some((key.batch, key.line)), supervised);
            self.push(self.now + restart_us, Event::Start { slot });
        }
    }

    /// Whether any handler is at work.
    pub(super) fn rows_run(&self) -> bool {
        self.processes.iter().any(|process| process.alive && !process.handlers.is_empty())
    }
}
