//! Taking a step: an action done to a copy of a state, with everything that must hold looked at.

use fencepost_core::append::AppendEnd;
use fencepost_core::judge::{JudgeEffect, JudgeInput};
use fencepost_core::keeper::{KeeperEffect, KeeperInput, LeaseEvent};
use fencepost_core::store::{Answer, RetryRows, StoreFailure, StoreReply, StoreRequest};
use fencepost_core::worker::{CallAnswer, ExitReason, RunAnswer, RunKey, StartRun, WorkerEffect, WorkerInput};
use fencepost_core::{AppendId, BatchId, Instant, RequestId};
use fencepost_model::history;
use fencepost_model::store::{BatchSpec, ModelStore, Rows};

use super::action::Action;
use super::invariants::Watch;
use super::mistake::Mistake;
use super::mistake::apply;
use super::scope::{Begins, End, Operation, Scope, UNIT, batch, timing};
use super::state::{Alive, Content, Handler, Machine, Message, Operator, Part, Process, State};
use crate::checks::Violation;

/// What a search is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) scope: &'a Scope,
    pub(super) mistake: Option<Mistake>,
}

/// A middling backoff, so that few moments matter: the jitter that o5_backoff makes one second of, or two, or four.
const JITTER: u64 = 500;

const APPEND: u64 = 1;

impl Setting<'_> {
    /// The batch is there, all processes have just started.
    pub(super) fn initial(&self) -> Result<State, Violation> {
        let mut state = State {
            now_us: 0,
            processes: Vec::new(),
            network: Vec::new(),
            store: Part::new(super::mistake::store(self.mistake)),
            watch: Part::new(Watch::new()),
            faults: self.scope.faults,
            operator: Operator::default(),
        };
        let spec = BatchSpec {
            attempts_max: self.scope.attempts_max,
            timeout: self.scope.timeout,
            ..BatchSpec::new(batch(), super::scope::OPERATION)
        };
        self.transaction(&mut state, |store, now| {
            store.submit(now, spec, Rows::Empty(self.scope.rows));
            Vec::new()
        })?;
        for _ in 0..self.scope.processes {
            self.start(&mut state)?;
        }
        if self.scope.begins == Begins::Cold {
            return Ok(state);
        }
        // The keepers take their leases, before anybody else does anything.
        let mut state = self.go_ahead(state, |(_, machine)| machine == Machine::Keeper)?;
        if let Begins::StandsStill { .. } = self.scope.begins {
            state = self.go_ahead(state, |whose| whose == (0, Machine::Worker))?;
            pause(&mut state, 0, true);
        }
        Ok(state)
    }

    /// What these machines may do now is done, in one order.
    fn go_ahead(&self, mut state: State, whose: impl Fn((usize, Machine)) -> bool) -> Result<State, Violation> {
        let of_them = |state: &State, action: &Action| match *action {
            Action::Timer(process, machine) => whose((process, machine)),
            Action::Deliver(at) => whose((state.network[at].process, state.network[at].machine)),
            _ => false,
        };
        while let Some(action) = state.all_actions(self.scope).into_iter().find(|action| of_them(&state, action)) {
            state = self.step(&state, action)?;
        }
        Ok(state)
    }

    fn start(&self, state: &mut State) -> Result<(), Violation> {
        let process = state.processes.len();
        let alive = Alive::start(self.scope, process, state.now());
        state.processes.push(Part::new(Process::Alive(Box::new(alive))));
        let process = number(process);
        self.tell(state, &history::Event::WorkerStarted { process, timing: timing(), steady: true })
    }

    /// A fact of a process. Only what is asked of an abort hangs on them: elsewhere they would only tell states apart.
    fn tell(&self, state: &mut State, fact: &history::Event) -> Result<(), Violation> {
        if !self.scope.has_abort() {
            return Ok(());
        }
        let at = state.now_us;
        state.watch.change(|watch| watch.of_processes(at, fact))
    }

    /// The state after the action.
    pub(super) fn step(&self, before: &State, action: Action) -> Result<State, Violation> {
        let mut state = before.clone();
        match action {
            Action::Timer(process, machine) => self.timer(&mut state, process, machine)?,
            Action::Thread(process, to_worker) => self.thread(&mut state, process, to_worker)?,
            Action::Deliver(at) => {
                let message = state.network.remove(at);
                self.deliver(&mut state, &message)?;
            }
            Action::HandlerEnds(process, key, end) => self.handler_ends(&mut state, process, key, end)?,
            Action::CallEnds(process, key, heard) => {
                let answer = if heard { CallAnswer::Delivered } else { CallAnswer::Cancelled };
                self.with(&mut state, process, |alive, now| {
                    alive.calls.remove(&key);
                    alive.worker.handle_input(now, WorkerInput::CallEnded(key, answer));
                })?;
            }
            Action::Tick(to) => {
                state.now_us = to.as_micros();
                let by = fencepost_core::time::micros(self.scope.over_by);
                let what = || format!("not over after {} s", self.scope.over_by.as_secs());
                ensure(&state, state.now_us <= by, "7 progress", what)?;
            }
            Action::Lose(at) => {
                state.faults.losses -= 1;
                state.network.remove(at);
            }
            Action::Fail(at, failure) => {
                state.faults.losses -= 1;
                self.fail(&mut state, at, failure);
            }
            Action::HoldBack(at) => {
                state.faults.late -= 1;
                let message = state.network.remove(at);
                state.send(Message { late: true, ..(*message).clone() });
            }
            Action::Duplicate(at) => {
                state.faults.duplicates -= 1;
                let copy = Message { late: true, ..(*state.network[at]).clone() };
                state.send(copy);
            }
            Action::Crash(process) => {
                state.faults.crashes -= 1;
                self.gone(&mut state, process, Process::Crashed)?;
            }
            Action::Pause(process) => {
                state.faults.pauses -= 1;
                pause(&mut state, process, true);
            }
            Action::Resume(process) => pause(&mut state, process, false),
            Action::Operate(at) => self.operate(&mut state, at)?,
            Action::Start => self.start(&mut state)?,
        }
        self.forget_what_is_past(&mut state);
        Ok(state)
    }

    /// Nothing happens any more: all are gone and nothing is open.
    pub(super) fn over(&self, state: &State) -> Result<(), Violation> {
        ensure(state, !state.anybody_alive(), "7 progress", || "a process waits for ever".to_owned())?;
        ensure(state, !state.store.has_open_batch(), "7 progress", || {
            "all processes are gone, rows are open".to_owned()
        })?;
        let mut watch = (*state.watch).clone();
        watch.end(state.now_us, &state.store.view(), |process| state.has_crashed(process))
    }

    fn timer(&self, state: &mut State, process: usize, machine: Machine) -> Result<(), Violation> {
        self.with(state, process, |alive, now| match machine {
            Machine::Keeper => alive.keeper.handle_timeout(now),
            Machine::Worker => alive.worker.handle_timeout(now),
            Machine::Judge => {
                if let Some(judge) = &mut alive.judge {
                    judge.handle_timeout(now);
                }
            }
        })?;
        let now = state.now();
        let busy = state.alive(process).and_then(|alive| alive.timeout(machine)).is_some_and(|at| at <= now);
        ensure(state, !busy, "busy", || format!("{machine:?} of w{process} wants to be woken at once, again"))
    }

    fn thread(&self, state: &mut State, process: usize, to_worker: bool) -> Result<(), Violation> {
        self.with(state, process, |alive, now| {
            if to_worker {
                if let Some(event) = alive.to_worker.pop_front() {
                    alive.hear_of_closed(&event);
                    alive.worker.handle_input(now, WorkerInput::Lease(event));
                }
            } else if let Some(command) = alive.to_keeper.pop_front() {
                alive.keeper.handle_input(now, KeeperInput::Command(command));
            }
        })
    }

    fn deliver(&self, state: &mut State, message: &Message) -> Result<(), Violation> {
        let &Message { process, machine, id, .. } = message;
        match &message.content {
            Content::Request(request) => {
                let mut answer = None;
                self.transaction(state, |store, now| {
                    let (reply, events) = apply(self.mistake, store, now, request);
                    answer = Some(reply);
                    events
                })?;
                if let Some(reply) = answer {
                    reply_to(state, message, Ok(reply), false);
                }
                Ok(())
            }
            Content::Reply(reply) => {
                self.with(state, process, |alive, now| alive.hear(now, machine, id, reply.clone()))
            }
            Content::Closed(batch) => self.with(state, process, |alive, now| {
                alive.knows_closed = true;
                alive.worker.handle_input(now, WorkerInput::BatchesClosed(vec![*batch]));
            }),
            Content::Opened => self.with(state, process, |alive, now| {
                alive.worker.handle_input(now, WorkerInput::BatchOpened);
            }),
        }
    }

    fn fail(&self, state: &mut State, at: usize, failure: StoreFailure) {
        let message = state.network.remove(at);
        if let (Content::Request(_), StoreFailure::Unknown) = (&message.content, failure) {
            state.send(Message { late: true, ..(*message).clone() });
        }
        reply_to(state, &message, Err(failure), false);
    }

    fn handler_ends(&self, state: &mut State, process: usize, key: RunKey, end: Option<End>) -> Result<(), Violation> {
        let answer = match end {
            Some(End::Success) => RunAnswer::Success("1".into()),
            Some(End::Failed) => RunAnswer::Failed("no".into()),
            Some(End::Retry) => RunAnswer::Retry("later".into()),
            None => RunAnswer::Cancelled,
        };
        self.tell(state, &ended(process, key))?;
        self.with(state, process, |alive, now| {
            alive.handlers.remove(&key);
            alive.worker.handle_input(now, WorkerInput::RunEnded(key, answer));
        })
    }

    /// Something is done to a process; then whatever its machines want is done.
    fn with(
        &self,
        state: &mut State,
        process: usize,
        input: impl FnOnce(&mut Alive, Instant),
    ) -> Result<(), Violation> {
        let now = state.now();
        let mut outbox = Outbox::default();
        let mut part = state.processes[process].clone();
        part.change(|of| {
            if let Process::Alive(alive) = of {
                input(alive, now);
                alive.settle(now, self.scope.threads, &mut outbox);
            }
        });
        state.processes[process] = part;
        for (machine, id, request) in outbox.requests {
            if let StoreRequest::TakeLease(take) = &request {
                state.watch.change(|watch| watch.chosen(take.lease, process));
            }
            let content = Content::Request(without_jitter(request));
            state.send(Message { process, machine, id, late: false, content });
        }
        for start in outbox.starts {
            self.starts(state, process, start.key)?;
        }
        for key in outbox.given_up {
            self.tell(state, &ended(process, key))?;
        }
        for (batch, generation) in outbox.called {
            let event = history::Event::CompletionCalled { batch, generation };
            let (at, quiet) = (state.now_us, self.is_quiet(state));
            state.watch.change(|watch| watch.event(at, &event, quiet))?;
        }
        if let Some(reason) = outbox.exit {
            let early = reason == ExitReason::Done && state.store.has_open_batch() && self.scope.operations.is_empty();
            ensure(state, !early, "7 progress", || format!("w{process} leaves, rows are open"))?;
            self.gone(state, process, Process::Left)?;
        }
        Ok(())
    }

    /// L4, L6: a line is run once at a time, except by those who stood still and do not know yet.
    fn starts(&self, state: &mut State, process: usize, key: RunKey) -> Result<(), Violation> {
        let at = state.now_us;
        state.watch.change(|watch| watch.starts(at, key))?;
        let RunKey { batch, line, token } = key;
        self.tell(state, &history::Event::HandlerStarted { process: number(process), batch, line, token })?;
        let now = state.now();
        let runs_it = |other: &usize| {
            *other != process
                && state.running(*other).is_some_and(|alive| {
                    let woken = alive.worker.poll_timeout().is_none_or(|at| at > now);
                    let runs = |(run, handler): (&RunKey, &Handler)| {
                        (run.batch, run.line) == (key.batch, key.line) && *handler == Handler::Runs
                    };
                    woken && alive.handlers.iter().any(runs)
                })
        };
        let other = (0..state.processes.len()).find(runs_it);
        ensure(state, other.is_none(), "4 ownership", || {
            format!("w{process} starts line {} that w{} runs", key.line, other.unwrap_or_default())
        })
    }

    /// What it has sent may arrive; nobody hears the replies.
    fn gone(&self, state: &mut State, process: usize, how: Process) -> Result<(), Violation> {
        let fact = match how {
            Process::Left => history::Event::WorkerLeft { process: number(process) },
            _ => history::Event::WorkerCrashed { process: number(process), by_row: None },
        };
        state.processes[process] = Part::new(how);
        let of_it: Vec<Part<Message>> = state.network.extract_if(.., |message| message.process == process).collect();
        for message in of_it {
            if matches!(message.content, Content::Request(_)) {
                state.send(Message { late: true, ..(*message).clone() });
            }
        }
        self.tell(state, &fact)
    }

    /// Does a transaction and has it looked at.
    fn transaction(
        &self,
        state: &mut State,
        transact: impl FnOnce(&mut ModelStore, fencepost_core::StoreTime) -> Vec<history::Event>,
    ) -> Result<(), Violation> {
        let (now, at, quiet) = (state.store_now(), state.now_us, self.is_quiet(state));
        let (events, view) = state.store.change(|store| {
            let untrue = transact(store, now);
            let events: Vec<history::Event> = store.drain_events().chain(untrue).collect();
            let touched = store.take_touched();
            (events, (!touched.is_empty()).then(|| store.view_of(&touched)))
        });
        if events.is_empty() && view.is_none() {
            return Ok(());
        }
        state.watch.change(|watch| {
            events.iter().try_for_each(|event| watch.event(at, event, quiet))?;
            view.iter().try_for_each(|view| watch.state(at, view))
        })
    }

    /// Nothing went wrong so far, and no operator did anything.
    fn is_quiet(&self, state: &State) -> bool {
        let stood_still = matches!(self.scope.begins, Begins::StandsStill { .. });
        !stood_still && state.faults == self.scope.faults && state.operator == Operator::default()
    }

    fn operate(&self, state: &mut State, at: usize) -> Result<(), Violation> {
        state.operator.done |= 1 << at;
        let operation = self.scope.operations[at];
        let append = AppendId::from_random(APPEND);
        self.transaction(state, |store, now| {
            match operation {
                Operation::Abort => drop(store.abort(now, batch())),
                Operation::Hold => drop(store.hold(batch())),
                Operation::Resume => drop(store.resume(batch())),
                Operation::BeginAppend => drop(store.begin_append(now, batch(), append, None)),
                Operation::StageRow => {
                    let line = self.scope.rows + 1;
                    let _ = store.append_rows(now, batch(), append, line, &["1".into()]);
                }
                Operation::FinishAppend => {
                    let end = AppendEnd { digest: String::new(), rows: 1 };
                    let _ = store.finish_append(batch(), append, &end);
                }
                Operation::RetryLine => drop(store.retry(now, batch(), &RetryRows::Line { line: 1, token: None })),
                Operation::Purge => drop(store.begin_purge(batch(), now)),
            }
            Vec::new()
        })?;
        let hold_ends = state.now_us + fencepost_core::time::micros(UNIT * 4);
        match operation {
            Operation::Hold => state.operator.resume_by = Some(hold_ends),
            Operation::Resume => state.operator.resume_by = None,
            _ => {}
        }
        let news = match operation {
            Operation::Abort => Content::Closed(batch()),
            Operation::Resume | Operation::FinishAppend | Operation::RetryLine => Content::Opened,
            _ => return Ok(()),
        };
        for process in 0..state.processes.len() {
            if state.alive(process).is_some() {
                let (machine, id, content) = (Machine::Worker, RequestId(0), news.clone());
                state.send(Message { process, machine, id, late: true, content });
            }
        }
        Ok(())
    }
}

/// What a process's machines want done outside.
#[derive(Default)]
struct Outbox {
    requests: Vec<(Machine, RequestId, StoreRequest)>,
    starts: Vec<StartRun>,
    /// Given up by a worker that does not know that the batch is closed: of the others the store must know until they end (S2).
    given_up: Vec<RunKey>,
    called: Vec<(BatchId, u32)>,
    exit: Option<ExitReason>,
}

impl Alive {
    /// A machine hears of its request.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        machine: Machine,
        id: RequestId,
        reply: Result<StoreReply, StoreFailure>,
    ) {
        match machine {
            Machine::Keeper => self.keeper.handle_input(now, KeeperInput::Store(id, reply)),
            Machine::Worker => self.worker.handle_input(now, WorkerInput::Store(id, reply)),
            Machine::Judge => {
                if let Some(judge) = &mut self.judge {
                    judge.handle_input(now, JudgeInput::Store(id, reply));
                }
            }
        }
    }

    fn hear_of_closed(&mut self, event: &LeaseEvent) {
        self.knows_closed |= matches!(event, LeaseEvent::Held { closed, .. } if !closed.is_empty());
    }

    fn settle(&mut self, now: Instant, threads: bool, outbox: &mut Outbox) {
        while outbox.exit.is_none() {
            if let Some(effect) = self.keeper.poll_effect() {
                self.keeper_effect(now, effect, threads, outbox);
            } else if let Some(effect) = self.worker.poll_effect() {
                self.worker_effect(now, effect, threads, outbox);
            } else if let Some(effect) = self.judge.as_mut().and_then(fencepost_core::judge::Judge::poll_effect) {
                if let JudgeEffect::Store(id, request) = effect {
                    outbox.requests.push((Machine::Judge, id, request));
                }
            } else {
                return;
            }
        }
    }

    fn keeper_effect(&mut self, now: Instant, effect: KeeperEffect, threads: bool, outbox: &mut Outbox) {
        match effect {
            KeeperEffect::Store(id, request) => outbox.requests.push((Machine::Keeper, id, request)),
            KeeperEffect::Tell(event) => {
                let own = match &event {
                    LeaseEvent::Held { lease, .. } => Some(*lease),
                    _ => None,
                };
                if let Some(judge) = &mut self.judge {
                    judge.handle_input(now, JudgeInput::OwnLease(own));
                }
                if threads {
                    self.to_worker.push_back(event);
                } else {
                    self.hear_of_closed(&event);
                    self.worker.handle_input(now, WorkerInput::Lease(event));
                }
            }
            KeeperEffect::Liveness(..) | KeeperEffect::CheckProcess(..) => {}
        }
    }

    fn worker_effect(&mut self, now: Instant, effect: WorkerEffect, threads: bool, outbox: &mut Outbox) {
        match effect {
            WorkerEffect::Store(id, request) => outbox.requests.push((Machine::Worker, id, request)),
            WorkerEffect::Start(start) => {
                self.handlers.insert(start.key, Handler::Runs);
                outbox.starts.push(start);
            }
            WorkerEffect::Cancel(key) => {
                if let Some(handler) = self.handlers.get_mut(&key) {
                    *handler = Handler::Cancelled;
                }
            }
            WorkerEffect::Abandon(key) => {
                if let Some(handler) = self.handlers.get_mut(&key) {
                    *handler = Handler::Abandoned;
                }
                if !self.knows_closed {
                    outbox.given_up.push(key);
                }
            }
            WorkerEffect::Call(grant) => {
                outbox.called.push((grant.key.batch, grant.key.generation));
                self.calls.insert(grant.key, false);
            }
            WorkerEffect::CancelCall(key) => {
                if let Some(cancelled) = self.calls.get_mut(&key) {
                    *cancelled = true;
                }
            }
            WorkerEffect::Keeper(command) if threads => self.to_keeper.push_back(command),
            WorkerEffect::Keeper(command) => self.keeper.handle_input(now, KeeperInput::Command(command)),
            WorkerEffect::Exit(reason) => outbox.exit = Some(reason),
            WorkerEffect::AbandonCall(_) | WorkerEffect::Tell(_) => {}
        }
    }
}

fn number(process: usize) -> history::Process {
    history::Process(u32::try_from(process).unwrap_or(u32::MAX))
}

fn ended(process: usize, key: RunKey) -> history::Event {
    let RunKey { batch, line, token } = key;
    history::Event::HandlerEnded { process: number(process), batch, line, token }
}

fn pause(state: &mut State, process: usize, paused: bool) {
    state.processes[process].change(|of| {
        if let Process::Alive(alive) = of {
            alive.paused = paused;
        }
    });
}

/// Nobody hears what is said to the dead.
fn reply_to(state: &mut State, request: &Message, reply: Result<StoreReply, StoreFailure>, late: bool) {
    let &Message { process, machine, id, .. } = request;
    if state.alive(process).is_some() {
        state.send(Message { process, machine, id, late, content: Content::Reply(reply) });
    }
}

fn without_jitter(mut request: StoreRequest) -> StoreRequest {
    if let StoreRequest::Record(record) = &mut request {
        for item in &mut record.items {
            if let Answer::Retry { jitter, .. } = &mut item.answer {
                *jitter = JITTER;
            }
        }
    }
    request
}

fn ensure(state: &State, holds: bool, check: &'static str, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { check, at_us: state.now_us, what: what() }) }
}
