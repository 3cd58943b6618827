//! How rows are started: each in a task of its own, or, while handlers answer at once, many in one.
//!
//! A task for each row costs more than a row that only looks something up. So a task takes one row after the other from those that
//! wait, asks its handler once, and takes the answer if it is there; a run that waits goes on in a task of its own. There are as
//! many such tasks as the runtime can run side by side, and they share what waits: a handler that blocks or computes holds up nobody whom
//! it would not have held up in a task of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fencepost_core::worker::{RunAnswer, RunKey, StartRun, WorkerInput};
use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedSender;

use super::worker::panic_message;
use super::{Clock, Spawn};
use crate::handler::{CancelToken, Canceller, Handler, HandlerAnswer, Row};

/// So long a task asks handlers before it lets others have their turn.
const QUICK: Duration = Duration::from_micros(100);

/// So many rows there are at least for each further task, while handlers answer at once.
const TOGETHER_MAX: usize = 64;

/// Starts rows, and brings their answers to the worker.
pub(super) struct Rows<H, C, T> {
    shared: Arc<Shared<H, C, T>>,
}

struct Shared<H, C, T> {
    handler: Arc<H>,
    clock: C,
    spawn: T,
    inbox: UnboundedSender<WorkerInput>,
    /// To be started.
    waiting: Mutex<VecDeque<(StartRun, CancelToken)>>,
    /// How many rows there are for each task: twice as many after each task that was quick, and one again after any that was not.
    together: AtomicUsize,
}

impl<H: Handler, C: Clock, T: Spawn> Rows<H, C, T> {
    pub(super) fn new(handler: Arc<H>, clock: C, spawn: T, inbox: UnboundedSender<WorkerInput>) -> Self {
        let (waiting, together) = (Mutex::default(), AtomicUsize::new(1));
        Self { shared: Arc::new(Shared { handler, clock, spawn, inbox, waiting, together }) }
    }

    /// Starts a row with the next [`Self::go`].
    pub(super) fn start(&mut self, start: StartRun) -> Canceller {
        let (canceller, cancel) = Canceller::new();
        self.shared.waiting().push_back((start, cancel));
        canceller
    }

    /// Starts what waits.
    pub(super) fn go(&mut self) {
        let shared = &self.shared;
        let rows = shared.waiting().len();
        if rows == 0 {
            return;
        }
        let side_by_side = rows.min(shared.spawn.side_by_side());
        let tasks = rows.div_ceil(shared.together.load(Ordering::Relaxed)).max(side_by_side);
        for _ in 0..tasks {
            shared.spawn.spawn(Arc::clone(shared).ask());
        }
    }
}

impl<H: Handler, C: Clock, T: Spawn> Shared<H, C, T> {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<(StartRun, CancelToken)>> {
        // Every change is whole in itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(StartRun, CancelToken)> {
        self.waiting().pop_front()
    }

    /// Asks handlers once, until no row waits, and tells their answers.
    async fn ask(self: Arc<Self>) {
        let (mut began, mut quick, mut any) = (self.clock.now(), true, false);
        while let Some((start, cancel)) = self.next() {
            any = true;
            let mut run = Box::pin(Arc::clone(&self).run(start, cancel));
            match futures_util::poll!(run.as_mut()) {
                Poll::Ready((key, answer)) => self.tell(key, answer),
                Poll::Pending => {
                    quick = false;
                    let shared = Arc::clone(&self);
                    self.spawn.spawn(async move {
                        let (key, answer) = run.await;
                        shared.tell(key, answer);
                    });
                }
            }
            if self.clock.now().since(began) >= QUICK {
                quick = false;
                let_others().await;
                began = self.clock.now();
            }
        }
        // Others were faster: that says nothing.
        if !any {
            return;
        }
        let together = self.together.load(Ordering::Relaxed);
        self.together.store(if quick { (together * 2).min(TOGETHER_MAX) } else { 1 }, Ordering::Relaxed);
    }

    /// Runs a row. A handler that panics takes nothing but its row down.
    async fn run(self: Arc<Self>, start: StartRun, cancel: CancelToken) -> (RunKey, RunAnswer) {
        let StartRun { key, attempt, input, .. } = start;
        let RunKey { batch, line, token } = key;
        // S2, L4: its line may be in other hands by now.
        if cancel.is_cancelled() || cancel.is_abandoned() {
            return (key, RunAnswer::Cancelled);
        }
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

/// Ends at this task's next turn.
async fn let_others() {
    let mut had_theirs = false;
    poll_fn(|context| {
        if std::mem::replace(&mut had_theirs, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::Future;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;

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

        fn side_by_side(&self) -> usize {
            2
        }
    }

    /// Its input says how long a row computes, in microseconds; `waits` never ends, `blocks` blocks its thread until it is released.
    struct Takes(HandClock, Mutex<mpsc::Receiver<()>>);

    impl Handler for Takes {
        async fn run(&self, row: Row, _: CancelToken) -> HandlerAnswer {
            match row.input.parse() {
                Ok(us) => {
                    self.0.0.fetch_add(us, Ordering::SeqCst);
                    HandlerAnswer::Success("1".into())
                }
                Err(_) if &*row.input == "blocks" => {
                    self.1.lock().expect("one at a time").recv().expect("it is released");
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
        release: mpsc::Sender<()>,
    }

    impl Rig {
        fn new() -> Self {
            let (inbox, told) = unbounded_channel();
            let (clock, tasks) = (HandClock::default(), Counting::default());
            let (release, released) = mpsc::channel();
            let handler = Takes(clock.clone(), Mutex::new(released));
            let rows = Rows::new(Arc::new(handler), clock, tasks.clone(), inbox);
            Self { rows, tasks, told, cancellers: Vec::new(), line: 0, release }
        }

        fn start(&mut self, input: &'static str) -> RunKey {
            self.line += 1;
            let key = RunKey { batch: BatchId::from_random(1), line: self.line, token: Token(1) };
            let start = StartRun { key, operation: "op".into(), attempt: 1, input: input.into(), recovered_from: None };
            self.cancellers.push(self.rows.start(start));
            key
        }

        /// The answers of these rows, each once.
        async fn answers(&mut self, of: &[RunKey]) -> BTreeMap<RunKey, RunAnswer> {
            let mut answers = BTreeMap::new();
            for _ in of {
                let Some(WorkerInput::RunEnded(key, answer)) = self.told.recv().await else { panic!("an answer") };
                assert!(of.contains(&key) && answers.insert(key, answer).is_none(), "{key:?}");
            }
            // On one thread, a task that has told its last answer comes to its end before another's turn.
            tokio::task::yield_now().await;
            answers
        }

        /// Starts rows like these together, and tells how many tasks that took.
        async fn run(&mut self, inputs: impl IntoIterator<Item = &'static str>) -> usize {
            let before = self.tasks.0.load(Ordering::SeqCst);
            let started: Vec<_> = inputs.into_iter().map(|input| (input, self.start(input))).collect();
            self.rows.go();
            let answering: Vec<RunKey> =
                started.into_iter().filter(|(input, _)| *input != "waits").map(|(_, key)| key).collect();
            self.answers(&answering).await;
            self.tasks.0.load(Ordering::SeqCst) - before
        }

        /// Until rows share tasks.
        async fn warm_up(&mut self) {
            while self.run(["1"; 64]).await > 2 {}
        }
    }

    #[tokio::test]
    async fn rows_that_answer_at_once_share_tasks() {
        let mut rig = Rig::new();
        let mut tasks = Vec::new();
        for _ in 0..8 {
            tasks.push(rig.run(["1"; 64]).await);
        }
        assert_eq!((tasks[0], tasks[7]), (64, 2), "{tasks:?}");
    }

    #[tokio::test]
    async fn a_row_that_waits_keeps_nobody_waiting() {
        let mut rig = Rig::new();
        rig.warm_up().await;
        // Two that ask, and one for the row that waits.
        assert_eq!(rig.run(["1", "waits", "1", "1", "1"]).await, 2 + 1);
    }

    #[tokio::test]
    async fn after_one_that_computes_each_row_has_a_task_again() {
        let mut rig = Rig::new();
        rig.warm_up().await;
        assert_eq!(rig.run(["5000"; 10]).await, 2);
        assert_eq!(rig.run(["5000"; 10]).await, 10);
    }

    /// In a task of their own they would not have been held up.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_handler_that_blocks_holds_up_no_other_row() {
        let mut rig = Rig::new();
        for _ in 0..8 {
            rig.run(["1"; 64]).await;
        }
        let blocked = rig.start("blocks");
        let others: Vec<RunKey> = (0..63).map(|_| rig.start("1")).collect();
        rig.rows.go();
        assert_eq!(rig.answers(&others).await.len(), 63);
        rig.release.send(()).expect("it still blocks");
        rig.answers(&[blocked]).await;
    }

    #[tokio::test]
    async fn who_is_cancelled_before_its_turn_is_not_run() {
        let mut rig = Rig::new();
        let rows: Vec<RunKey> = (0..3).map(|_| rig.start("1")).collect();
        rig.cancellers[0].cancel();
        // Given up: nobody waits for its answer.
        drop(rig.cancellers.remove(1));
        rig.rows.go();
        let answers = rig.answers(&rows).await;
        let ran = RunAnswer::Success("1".into());
        assert_eq!(
            [rows[0], rows[1], rows[2]].map(|row| answers[&row].clone()),
            [RunAnswer::Cancelled, RunAnswer::Cancelled, ran]
        );
    }

    #[tokio::test]
    async fn a_panic_takes_its_row_down_alone() {
        let mut rig = Rig::new();
        rig.warm_up().await;
        let rows = ["1", "panics", "1"].map(|input| rig.start(input));
        rig.rows.go();
        let answers = rig.answers(&rows).await;
        let ran = RunAnswer::Success("1".into());
        let panicked = RunAnswer::Retry("the handler panicked: as it was told".into());
        assert_eq!(rows.map(|row| answers[&row].clone()), [ran.clone(), panicked, ran]);
    }
}
