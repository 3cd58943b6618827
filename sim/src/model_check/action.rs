//! What may happen next in a state.

use fencepost_core::Instant;
use fencepost_core::calls::CallKey;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::StoreFailure;
use fencepost_core::time::micros;
use fencepost_core::worker::RunKey;

use super::scope::{Begins, End, Operation, Scope, batch};
use super::state::{Content, Handler, Machine, Process, State};

/// One step. Messages are named by their place in the state's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// A machine's timer that is due.
    Timer(usize, Machine),
    /// The oldest news from one thread of a process to another: to its worker, else to its keeper.
    Thread(usize, bool),
    Deliver(usize),
    /// A handler ends; none: it was cancelled and says so.
    HandlerEnds(usize, RunKey, Option<End>),
    /// A completion call ends: heard or cancelled.
    CallEnds(usize, CallKey, bool),
    /// Time goes on to this moment.
    Tick(Instant),
    /// Nobody hears of it.
    Lose(usize),
    /// The asking machine hears at once that something failed.
    Fail(usize, StoreFailure),
    HoldBack(usize),
    Duplicate(usize),
    Crash(usize),
    Pause(usize),
    Resume(usize),
    /// By its place in the scope's list.
    Operate(usize),
    /// Everybody is gone, and rows are open again: another worker starts.
    Start,
}

impl State {
    /// What may happen, as far as it is needed to reach every state that matters.
    pub(super) fn actions(&self, scope: &Scope) -> Vec<Action> {
        let all = self.all_actions(scope);
        if scope.reduced { self.enough(scope, all) } else { all }
    }

    pub(super) fn all_actions(&self, scope: &Scope) -> Vec<Action> {
        let mut actions = Vec::new();
        self.machines(&mut actions);
        self.deliveries(&mut actions);
        // What has been counted so far does not wait; the rest may.
        let urgent = actions.len() - self.late();
        self.handlers(scope, &mut actions);
        self.faults(scope, &mut actions);
        self.operations(scope, &mut actions);
        if urgent == 0
            && let Some(next) = self.next_timeout().into_iter().chain(self.goes_on_at(scope)).min()
            && self.operator.resume_by.is_none_or(|by| next.as_micros() <= by)
            && self.may_be(scope, next)
        {
            actions.push(Action::Tick(next));
        }
        let open = self.store.has_open_batch();
        let starts = !scope.operations.is_empty() || scope.faults.crashes > 0;
        if open && starts && !self.anybody_alive() {
            actions.push(Action::Start);
        }
        actions
    }

    /// Nothing happens any more unless an operator acts or a message comes that may as well be lost.
    pub(super) fn is_quiet(&self, actions: &[Action]) -> bool {
        let waits_for_nobody = self.operator.resume_by.is_none();
        waits_for_nobody
            && actions.iter().all(|action| match action {
                Action::Deliver(at) => self.network[*at].late,
                Action::Operate(_)
                | Action::Lose(_)
                | Action::HoldBack(_)
                | Action::Duplicate(_)
                | Action::Fail(..) => true,
                _ => false,
            })
    }

    fn machines(&self, actions: &mut Vec<Action>) {
        let now = self.now();
        for process in 0..self.processes.len() {
            let Some(alive) = self.running(process) else { continue };
            let due = |machine: &Machine| alive.timeout(*machine).is_some_and(|at| at <= now);
            actions.extend(Machine::ALL.into_iter().filter(due).map(|machine| Action::Timer(process, machine)));
            if !alive.to_worker.is_empty() {
                actions.push(Action::Thread(process, true));
            }
            if !alive.to_keeper.is_empty() {
                actions.push(Action::Thread(process, false));
            }
        }
    }

    fn deliveries(&self, actions: &mut Vec<Action>) {
        let heard = |at: &usize| match self.network[*at].content {
            Content::Request(_) => true,
            _ => self.running(self.network[*at].process).is_some(),
        };
        actions.extend((0..self.network.len()).filter(|at| self.is_first(*at)).filter(heard).map(Action::Deliver));
    }

    fn late(&self) -> usize {
        let late = |at: &usize| {
            let message = &self.network[*at];
            let request = matches!(message.content, Content::Request(_));
            message.late && (request || self.running(message.process).is_some())
        };
        (0..self.network.len()).filter(|at| self.is_first(*at)).filter(late).count()
    }

    /// Not the second of two equal messages.
    fn is_first(&self, at: usize) -> bool {
        at == 0 || self.network[at - 1].digest() != self.network[at].digest()
    }

    fn handlers(&self, scope: &Scope, actions: &mut Vec<Action>) {
        for process in 0..self.processes.len() {
            let Some(alive) = self.running(process) else { continue };
            for (key, handler) in &alive.handlers {
                let ends = scope.ends.iter().map(|end| Action::HandlerEnds(process, *key, Some(*end)));
                actions.extend(ends);
                if *handler != Handler::Runs {
                    actions.push(Action::HandlerEnds(process, *key, None));
                }
            }
            for (key, cancelled) in &alive.calls {
                actions.push(Action::CallEnds(process, *key, true));
                if *cancelled {
                    actions.push(Action::CallEnds(process, *key, false));
                }
            }
        }
    }

    fn faults(&self, scope: &Scope, actions: &mut Vec<Action>) {
        for (at, message) in self.network.iter().enumerate().filter(|(at, _)| self.is_first(*at)) {
            let request = match message.content {
                Content::Request(_) => true,
                Content::Reply(Ok(_)) => false,
                Content::Reply(Err(_)) | Content::Closed(_) | Content::Opened => continue,
            };
            if message.late || message.process != 0 {
                continue;
            }
            if self.faults.losses > 0 {
                actions.push(Action::Lose(at));
                if self.alive(message.process).is_some() {
                    actions.push(Action::Fail(at, StoreFailure::Unknown));
                    if request {
                        actions.push(Action::Fail(at, StoreFailure::NotDone));
                    }
                }
            }
            if self.faults.late > 0 {
                actions.push(Action::HoldBack(at));
            }
            if self.faults.duplicates > 0 && request {
                actions.push(Action::Duplicate(at));
            }
        }
        if self.faults.crashes > 0 && self.alive(0).is_some() {
            actions.push(Action::Crash(0));
        }
        if self.faults.pauses > 0 && self.running(0).is_some() {
            actions.push(Action::Pause(0));
        }
        let from = match scope.begins {
            Begins::StandsStill { from, .. } => micros(from),
            Begins::Cold | Begins::Warm => 0,
        };
        let paused = |process: &usize| self.now_us >= from && self.alive(*process).is_some_and(|alive| alive.paused);
        actions.extend((0..self.processes.len()).filter(paused).map(Action::Resume));
    }

    fn operations(&self, scope: &Scope, actions: &mut Vec<Action>) {
        let done = |operation| {
            let at = scope.operations.iter().position(|other| *other == operation);
            at.is_some_and(|at| self.operator.done & 1 << at != 0)
        };
        for (at, operation) in scope.operations.iter().enumerate() {
            let may = match operation {
                Operation::Abort | Operation::Hold | Operation::BeginAppend => true,
                Operation::Resume => done(Operation::Hold),
                Operation::StageRow => done(Operation::BeginAppend),
                Operation::FinishAppend => done(Operation::StageRow),
                Operation::RetryLine => self.store.outcome(batch(), 1).is_some(),
                Operation::Purge => self
                    .store
                    .status(batch())
                    .is_some_and(|status| !matches!(status, BatchStatus::Open | BatchStatus::Loading)),
            };
            if may && self.operator.done & 1 << at == 0 {
                actions.push(Action::Operate(at));
            }
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let of = |process| {
            let alive = self.running(process)?;
            Machine::ALL.into_iter().filter_map(|machine| alive.timeout(machine)).min()
        };
        (0..self.processes.len()).filter_map(of).min()
    }

    /// When a process that stands still from the start may go on, if that is to come.
    fn goes_on_at(&self, scope: &Scope) -> Option<Instant> {
        let Begins::StandsStill { from, .. } = scope.begins else { return None };
        let at = Instant::from_micros(micros(from));
        (self.now() < at).then_some(at)
    }

    /// Time does not pass by the moment until which a process may stand still.
    fn may_be(&self, scope: &Scope, at: Instant) -> bool {
        let Begins::StandsStill { to, .. } = scope.begins else { return true };
        at.as_micros() <= micros(to) || self.alive(0).is_none_or(|alive| !alive.paused)
    }

    pub(super) fn has_crashed(&self, process: usize) -> bool {
        matches!(self.processes.get(process).map(|process| &**process), Some(Process::Crashed))
    }
}
