//! Partial order: which of the possible steps are enough.
//!
//! What goes on inside one process (a timer, a reply, news between threads, a handler's end) touches nothing of others and nothing
//! of the store. So where a process has such a step that may not wait, and no request of its own is under way whose reply could come
//! in between, its steps are taken first: a history in which others act before is the same history with two neighbours swapped, as
//! often as need be, and reaches the same states. All orders of its own steps, and of what reaches the store, are still taken.
//!
//! - Keeper and worker count as one; the judge stands by itself, while its keeper is not about to learn of a lease.
//! - A death or standstill of the process is a step of its own like others. For the judge it is left out: what it has sent may never arrive.
//! - While an operator may still act, nothing is left out, since the news of it reaches the process.
//! - Histories are finite (time only goes on), so no step is put off for ever.

use super::action::Action;
use super::scope::Scope;
use super::state::{Content, Machine, State};

/// Who takes its steps by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agent {
    process: usize,
    judge: bool,
}

impl Agent {
    fn has(self, process: usize, machine: Machine) -> bool {
        self.process == process && self.judge == (machine == Machine::Judge)
    }
}

impl State {
    /// Of all that may happen, what is enough.
    pub(super) fn enough(&self, scope: &Scope, actions: Vec<Action>) -> Vec<Action> {
        if self.operator.done.count_ones() as usize != scope.operations.len() {
            return actions;
        }
        let agents = (0..self.processes.len())
            .flat_map(|process| [Agent { process, judge: false }, Agent { process, judge: true }]);
        for agent in agents {
            if self.is_by_itself(agent) && actions.iter().any(|action| self.may_not_wait(agent, action)) {
                return actions.into_iter().filter(|action| self.is_of(agent, action)).collect();
            }
        }
        actions
    }

    fn is_by_itself(&self, agent: Agent) -> bool {
        let Some(alive) = self.running(agent.process) else { return false };
        let asks = self.network.iter().any(|message| {
            let asks = matches!(message.content, Content::Request(_)) && agent.has(message.process, message.machine);
            let tells = agent.judge && message.process == agent.process && message.machine == Machine::Keeper;
            asks || tells
        });
        let keeper_is_due = alive.timeout(Machine::Keeper).is_some_and(|at| at <= self.now());
        !(asks || agent.judge && keeper_is_due)
    }

    fn may_not_wait(&self, agent: Agent, action: &Action) -> bool {
        match *action {
            Action::Timer(process, machine) => agent.has(process, machine),
            Action::Thread(process, _) => agent.has(process, Machine::Worker),
            Action::Deliver(at) => !self.network[at].late && self.is_of(agent, action),
            _ => false,
        }
    }

    fn is_of(&self, agent: Agent, action: &Action) -> bool {
        match *action {
            Action::Timer(process, machine) => agent.has(process, machine),
            Action::Deliver(at)
            | Action::Lose(at)
            | Action::Fail(at, _)
            | Action::HoldBack(at)
            | Action::Duplicate(at) => {
                let message = &self.network[at];
                agent.has(message.process, message.machine) && !matches!(message.content, Content::Request(_))
            }
            Action::Thread(process, _)
            | Action::HandlerEnds(process, ..)
            | Action::CallEnds(process, ..)
            | Action::Crash(process)
            | Action::Pause(process) => agent.has(process, Machine::Worker),
            Action::Tick(_) | Action::Resume(_) | Action::Operate(_) | Action::Start => false,
        }
    }
}
