//! How rows are started: each in a task of its own, or, while handlers answer at once, many in one.
//!
//! A task for each row costs more than a row that only looks something up. So a task takes several rows, asks each handler once,
//! and takes the answers that are there; a run that waits goes on in a task of its own, and so do those that were not asked
//! yet when some [`QUICK`] are over: a handler that computes keeps nobody waiting for long, and as many of them run side by side
//! as before.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fencepost_core::worker::{RunAnswer, RunKey, StartRun, WorkerInput};
use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedSender;

use super::worker::panic_message;
use super::{Clock, Spawn};
use crate::handler::{CancelToken, Canceller, Handler, HandlerAnswer, Row};

/// So long a task asks handlers one after the other.
const QUICK: Duration = Duration::from_micros(100);

/// So many rows a task takes at most.
const TOGETHER_MAX: usize = 64;

/// Starts rows, and brings their answers to the worker.
pub(super) struct Rows<H, C, T> {
    shared: Arc<Shared<H, C, T>>,
    /// To be started.
    waiting: VecDeque<(StartRun, CancelToken)>,
}

struct Shared<H, C, T> {
    handler: Arc<H>,
    clock: C,
    spawn: T,
    inbox: UnboundedSender<WorkerInput>,
    /// How many rows the next task takes: twice as many after each that was quick, one after another.
    together: AtomicUsize,
}

impl<H: Handler, C: Clock, T: Spawn> Rows<H, C, T> {
    pub(super) fn new(handler: Arc<H>, clock: C, spawn: T, inbox: UnboundedSender<WorkerInput>) -> Self {
        let shared = Shared { handler, clock, spawn, inbox, together: AtomicUsize::new(1) };
        Self { shared: Arc::new(shared), waiting: VecDeque::new() }
    }

    /// Starts a row with the next [`Self::go`].
    pub(super) fn start(&mut self, start: StartRun) -> Canceller {
        let (canceller, cancel) = Canceller::new();
        self.waiting.push_back((start, cancel));
        canceller
    }

    /// Starts what waits.
    pub(super) fn go(&mut self) {
        while !self.waiting.is_empty() {
            let together = self.shared.together.load(Ordering::Relaxed).min(self.waiting.len());
            let rows = self.waiting.drain(..together).collect();
            self.shared.spawn.spawn(Arc::clone(&self.shared).ask(rows));
        }
    }
}

impl<H: Handler, C: Clock, T: Spawn> Shared<H, C, T> {
    /// Asks these rows' handlers once, and tells their answers.
    async fn ask(self: Arc<Self>, mut rows: VecDeque<(StartRun, CancelToken)>) {
        let (began, mut quick) = (self.clock.now(), true);
        while let Some((start, cancel)) = rows.pop_front() {
            if !quick {
                self.spawn.spawn(Arc::clone(&self).wait(start, cancel));
                continue;
            }
            let mut run = Box::pin(Arc::clone(&self).run(start, cancel));
            match futures_util::poll!(run.as_mut()) {
                std::task::Poll::Ready((key, answer)) => self.tell(key, answer),
                std::task::Poll::Pending => {
                    quick = false;
                    let shared = Arc::clone(&self);
                    self.spawn.spawn(async move {
                        let (key, answer) = run.await;
                        shared.tell(key, answer);
                    });
                }
            }
            quick &= self.clock.now().since(began) < QUICK;
        }
        let together = self.together.load(Ordering::Relaxed);
        self.together.store(if quick { (together * 2).min(TOGETHER_MAX) } else { 1 }, Ordering::Relaxed);
    }

    async fn wait(self: Arc<Self>, start: StartRun, cancel: CancelToken) {
        let (key, answer) = Arc::clone(&self).run(start, cancel).await;
        self.tell(key, answer);
    }

    /// Runs a row. A handler that panics takes nothing but its row down.
    async fn run(self: Arc<Self>, start: StartRun, cancel: CancelToken) -> (RunKey, RunAnswer) {
        let StartRun { key, attempt, input, .. } = start;
        let RunKey { batch, line, token } = key;
        let row = Row { batch, line, attempt, token, input };
        let run = AssertUnwindSafe(async move { self.handler.run(row, cancel).await });
        let answer = match run.catch_unwind().await {
            Ok(HandlerAnswer::Success(result)) => RunAnswer::Success(result),
            Ok(HandlerAnswer::Failed(error)) => RunAnswer::Failed(error),
            Ok(HandlerAnswer::Retry(error)) => RunAnswer::Retry(error),
            Ok(HandlerAnswer::Cancelled) => RunAnswer::Cancelled,
            Ok(HandlerAnswer::Interrupted) => RunAnswer::Interrupted,
            Err(panic) => RunAnswer::Retry(format!("the handler {}", panic_message(panic.as_ref())).into()),
        };
        (key, answer)
    }

    fn tell(&self, key: RunKey, answer: RunAnswer) {
        // The worker may have left; then the line is in other hands.
        let _ = self.inbox.send(WorkerInput::RunEnded(key, answer));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::atomic::AtomicU64;

    use fencepost_core::{BatchId, Instant, Token};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// Time passes when a handler says so.
    #[derive(Clone, Default)]
    struct HandClock(Arc<AtomicU64>);

    impl Clock for HandClock {
        fn now(&self) -> Instant {
            Instant::from_micros(self.0.load(Ordering::SeqCst))
        }

        async fn sleep_until(&self, _: Instant) {
            std::future::pending().await
        }
    }

    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl Spawn for Counting {
        fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(task);
        }
    }

    /// Its input says how long a row computes, in microseconds; `waits` never ends.
    struct Takes(HandClock);

    impl Handler for Takes {
        async fn run(&self, row: Row, _: CancelToken) -> HandlerAnswer {
            match row.input.parse() {
                Ok(us) => {
                    self.0.0.fetch_add(us, Ordering::SeqCst);
                    HandlerAnswer::Success("1".into())
                }
                Err(_) if &*row.input == "panics" => panic!("as it was told"),
                Err(_) => std::future::pending().await,
            }
        }
    }

    struct Rig {
        rows: Rows<Takes, HandClock, Counting>,
        tasks: Counting,
        told: UnboundedReceiver<WorkerInput>,
        /// They must not be dropped.
        cancellers: Vec<Canceller>,
        line: u64,
    }

    impl Rig {
        fn new() -> Self {
            let (inbox, told) = unbounded_channel();
            let (clock, tasks) = (HandClock::default(), Counting::default());
            let rows = Rows::new(Arc::new(Takes(clock.clone())), clock, tasks.clone(), inbox);
            Self { rows, tasks, told, cancellers: Vec::new(), line: 0 }
        }

        /// Starts rows like these together, and tells how many tasks that took.
        async fn run(&mut self, inputs: impl IntoIterator<Item = &'static str>) -> usize {
            let (before, mut answers) = (self.tasks.0.load(Ordering::SeqCst), 0);
            for input in inputs {
                self.line += 1;
                let key = RunKey { batch: BatchId::from_random(1), line: self.line, token: Token(1) };
                let start =
                    StartRun { key, operation: "op".into(), attempt: 1, input: input.into(), recovered_from: None };
                self.cancellers.push(self.rows.start(start));
                answers += usize::from(input != "waits");
            }
            self.rows.go();
            for _ in 0..answers {
                assert!(matches!(self.told.recv().await, Some(WorkerInput::RunEnded(..))));
            }
            // On one thread, a task that has told its last answer comes to its end before another's turn.
            tokio::task::yield_now().await;
            self.tasks.0.load(Ordering::SeqCst) - before
        }
    }

    #[tokio::test]
    async fn rows_that_answer_at_once_share_tasks() {
        let mut rig = Rig::new();
        let mut tasks = Vec::new();
        for _ in 0..8 {
            tasks.push(rig.run(["1"; 64]).await);
        }
        assert_eq!((tasks[0], tasks[7]), (64, 1), "{tasks:?}");
    }

    #[tokio::test]
    async fn a_row_that_waits_keeps_nobody_waiting() {
        let mut rig = Rig::new();
        while rig.run(["1"; 64]).await > 1 {}
        // One that waits, those behind it: a task for each.
        assert_eq!(rig.run(["1", "waits", "1", "1", "1"]).await, 1 + 4);
        assert_eq!(rig.run(["1"; 4]).await, 4, "and now it is not known whether rows answer at once");
    }

    #[tokio::test]
    async fn rows_that_compute_run_side_by_side() {
        let mut rig = Rig::new();
        while rig.run(["1"; 64]).await > 1 {}
        assert_eq!(rig.run(["5000"; 10]).await, 1 + 9);
        assert_eq!(rig.run(["5000"; 10]).await, 10);
    }

    #[tokio::test]
    async fn a_panic_takes_its_row_down_alone() {
        let mut rig = Rig::new();
        while rig.run(["1"; 64]).await > 1 {}
        assert_eq!(rig.run(["1", "panics", "1"]).await, 1);
    }
}
