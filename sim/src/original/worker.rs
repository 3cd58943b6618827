//! A worker of the original (`JobManager`): its main loop, one step at a time. Names in code font are the original's.

use super::facts::{Fact, NotTracked};
use super::heart::{Heart, Scan, Sweep};
use super::redis::{RedisOp, RedisReply};
use super::store::{Status, StoreOp, StoreReply};
use super::world::{Event, World};
use super::{ProcessAt, RowAt};

/// Its goroutines: `RunWithContext`, `runHeartbeat`, `runPeriodicRecovery`, `runPeriodicSweep`, and the program's
/// `Shutdown`. Each waits for one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Thread {
    Loop,
    Heart,
    Recovery,
    Sweep,
    Leaving,
}

/// What a thread waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum With {
    Timer,
    Store(Result<StoreReply, ()>),
    Redis(Result<RedisReply, ()>),
    RunEnds(Status),
}

/// Where the main loop is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loop {
    Asleep,
    Fetching,
    Committing(Vec<RowAt>),
    /// SADD, then EXPIRE, for one row of the block after the other.
    Tracking {
        at: usize,
        expire: bool,
    },
    Running(usize),
    Writing(usize),
    Untracking {
        at: usize,
        failed: bool,
    },
    /// `updateRowStatusToFailed`: what `handleProcessingError` does of any error.
    FallingBack(usize),
    Summarising {
        batches: Vec<usize>,
        attempt: u32,
    },
    Over,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) slot: usize,
    pub(super) alive: bool,
    /// SIGTERM: its context is cancelled.
    pub(super) stopping: bool,
    pub(super) paused_until: Option<u64>,
    pub(super) inbox: Vec<Event>,
    /// What each thread waits for.
    pub(super) numbers: [u64; 5],
    pub(super) main: Loop,
    /// `blockOfRows`.
    block: Vec<RowAt>,
    pub(super) heart: Heart,
    pub(super) scan: Scan,
    pub(super) sweep: Sweep,
}

impl Process {
    pub(super) fn new(slot: usize) -> Self {
        Self {
            slot,
            alive: true,
            stopping: false,
            paused_until: None,
            inbox: Vec::new(),
            numbers: [0; 5],
            main: Loop::Asleep,
            block: Vec::new(),
            heart: Heart::default(),
            scan: Scan::default(),
            sweep: Sweep::default(),
        }
    }

    pub(super) fn waits_for(&self, thread: Thread, number: u64) -> bool {
        self.numbers[thread as usize] == number
    }

    /// The rows that it will still do something about.
    pub(super) fn in_hand(&self) -> &[RowAt] {
        match &self.main {
            Loop::Committing(rows) => rows,
            Loop::Tracking { .. } => &self.block,
            Loop::Running(at) | Loop::Writing(at) | Loop::Untracking { at, .. } | Loop::FallingBack(at) => {
                &self.block[*at..]
            }
            _ => &[],
        }
    }

    pub(super) fn runs(&self) -> Option<RowAt> {
        if let Loop::Running(at) = self.main { self.block.get(at).copied() } else { None }
    }

    pub(super) fn is_recovering(&self, row: RowAt) -> bool {
        self.scan.resets(row)
    }
}

/// Retries of a summary while rows are in progress.
const SUMMARY_ATTEMPTS: u32 = 5;

impl World<'_> {
    /// `RunWithContext` starts the others, then loops.
    pub(super) fn begin(&mut self, at: ProcessAt) {
        self.begin_heart(at);
        self.begin_scan(at);
        self.begin_sweep(at);
        self.iterate(at);
    }

    pub(super) fn step(&mut self, at: ProcessAt, thread: Thread, with: With) {
        match thread {
            Thread::Loop => self.step_loop(at, with),
            Thread::Heart => self.step_heart(at),
            Thread::Recovery => self.step_scan(at, with),
            Thread::Sweep => self.step_sweep(at, with),
            Thread::Leaving => self.step_leaving(at, &with),
        }
    }

    /// `RunOneIterationWithContext`.
    fn iterate(&mut self, at: ProcessAt) {
        if self.processes[at].stopping {
            self.leave(at);
            return;
        }
        self.processes[at].main = Loop::Fetching;
        let limit = self.schedule.options.claim_lines_max.max(1);
        self.ask_store(at, Thread::Loop, StoreOp::Fetch { limit });
    }

    /// `getRandomSleepDuration`: two to four thirds of the interval.
    fn sleep_idle(&mut self, at: ProcessAt) {
        self.processes[at].main = Loop::Asleep;
        let poll = self.schedule.options.poll_us;
        let draw = self.number_of(&[at as u64, self.processes[at].numbers[Thread::Loop as usize], 0x51ee]);
        self.sleep(at, Thread::Loop, poll * 2 / 3 + draw % (poll * 2 / 3 + 1));
    }

    fn step_loop(&mut self, at: ProcessAt, with: With) {
        match (self.processes[at].main.clone(), with) {
            (Loop::Asleep, _) => self.iterate(at),
            (Loop::Fetching, With::Store(Ok(StoreReply::Fetched(rows)))) if !rows.is_empty() => {
                self.processes[at].main = Loop::Committing(rows);
                self.ask_store(at, Thread::Loop, StoreOp::Commit);
            }
            (Loop::Committing(_), With::Store(Ok(StoreReply::Claimed(rows)))) => {
                self.processes[at].block = rows;
                self.track(at, 0);
            }
            // No rows, or an error: either way nothing was had.
            (Loop::Fetching | Loop::Committing(_), _) => self.sleep_idle(at),
            (Loop::Tracking { at: row, expire: false }, With::Redis(Ok(_))) => {
                self.processes[at].main = Loop::Tracking { at: row, expire: true };
                self.ask_redis(at, Thread::Loop, RedisOp::KeepSet);
            }
            (Loop::Tracking { at: row, expire }, _) => {
                if !expire {
                    self.not_tracked(at, row, NotTracked::Unreachable);
                }
                self.track(at, row + 1);
            }
            (Loop::Running(row), With::RunEnds(status)) => {
                self.fact(Fact::RunEnded { process: at, row: self.processes[at].block[row] });
                self.processes[at].main = Loop::Writing(row);
                let row = self.processes[at].block[row];
                self.ask_store(at, Thread::Loop, StoreOp::Write { row, status, fallback: false });
            }
            (Loop::Writing(row), answer) => self.untrack(at, row, matches!(answer, With::Store(Err(())))),
            (Loop::Untracking { at: row, failed: true }, _) => {
                self.processes[at].main = Loop::FallingBack(row);
                let row = self.processes[at].block[row];
                self.ask_store(at, Thread::Loop, StoreOp::Write { row, status: Status::Failed, fallback: true });
            }
            (Loop::Untracking { at: row, failed: false } | Loop::FallingBack(row), _) => self.run_row(at, row + 1),
            (Loop::Summarising { batches, attempt }, answer) => self.summarised(at, batches, attempt, &answer),
            (Loop::Running(_) | Loop::Over, _) => {}
        }
    }

    /// `trackRowProcessing` for a row of the block, with the loop's own context: cancelled, it does nothing. An error is
    /// logged, no more.
    fn track(&mut self, at: ProcessAt, row: usize) {
        let process = &self.processes[at];
        if row == process.block.len() {
            self.run_row(at, 0);
        } else if process.stopping {
            self.not_tracked(at, row, NotTracked::Cancelled);
            self.track(at, row + 1);
        } else {
            let id = process.block[row];
            self.processes[at].main = Loop::Tracking { at: row, expire: false };
            self.ask_redis(at, Thread::Loop, RedisOp::Track(id));
        }
    }

    fn not_tracked(&mut self, at: ProcessAt, row: usize, why: NotTracked) {
        let row = self.processes[at].block[row];
        self.fact(Fact::NotTracked { process: at, row, why });
    }

    /// `processRow`, one row after the other, stopping or not.
    fn run_row(&mut self, at: ProcessAt, row: usize) {
        let Some(id) = self.processes[at].block.get(row).copied() else {
            self.summarise_block(at);
            return;
        };
        self.processes[at].main = Loop::Running(row);
        self.start_run(at, id);
    }

    /// `untrackRowProcessing`: whatever became of the outcome write.
    fn untrack(&mut self, at: ProcessAt, row: usize, failed: bool) {
        let id = self.processes[at].block[row];
        if failed {
            self.fact(Fact::WriteFailed { process: at, row: id });
        }
        self.processes[at].main = Loop::Untracking { at: row, failed };
        self.ask_redis(at, Thread::Loop, RedisOp::Untrack(id));
    }

    /// `summarizeCompletedBatches`, which a cancelled context leaves out.
    fn summarise_block(&mut self, at: ProcessAt) {
        let block = std::mem::take(&mut self.processes[at].block);
        let mut batches: Vec<usize> = block.iter().map(|row| self.store.batch_of(*row)).collect();
        batches.sort_unstable();
        batches.dedup();
        self.summarise_next(at, batches, 1);
    }

    fn summarise_next(&mut self, at: ProcessAt, batches: Vec<usize>, attempt: u32) {
        let Some(batch) = batches.first().copied().filter(|_| !self.processes[at].stopping) else {
            self.iterate(at);
            return;
        };
        self.processes[at].main = Loop::Summarising { batches, attempt };
        self.ask_store(at, Thread::Loop, StoreOp::Summarise { batch });
    }

    /// While rows are in progress, five attempts at 50 ms of a TTL of 60 s.
    fn summarised(&mut self, at: ProcessAt, mut batches: Vec<usize>, attempt: u32, answer: &With) {
        match answer {
            With::Timer => self.summarise_next(at, batches, attempt),
            With::Store(Ok(StoreReply::Pending)) if attempt < SUMMARY_ATTEMPTS => {
                self.processes[at].main = Loop::Summarising { batches, attempt: attempt + 1 };
                self.sleep(at, Thread::Loop, self.schedule.options.ttl_us / 1200);
            }
            _ => {
                batches.remove(0);
                self.summarise_next(at, batches, 1);
            }
        }
    }

    /// SIGTERM: the context is cancelled. What runs goes on to the end of its block, for as long as the program waits.
    pub(super) fn stop(&mut self, at: ProcessAt) {
        let process = &mut self.processes[at];
        if !process.alive || process.stopping {
            return;
        }
        if process.paused_until.is_some() {
            process.inbox.push(Event::Stop { process: at });
            return;
        }
        process.stopping = true;
        self.fact(Fact::Stopping(at));
        self.push(self.now + self.schedule.options.grace_us, Event::GraceOver { process: at });
        self.next_number(at, Thread::Recovery);
        self.next_number(at, Thread::Sweep);
        self.scan_is_cancelled(at);
        match self.processes[at].main.clone() {
            Loop::Fetching => {
                self.store.roll_back(at);
                self.leave(at);
            }
            // A commit under way goes its way; nobody hears of it.
            Loop::Asleep | Loop::Committing(_) | Loop::Summarising { .. } => self.leave(at),
            Loop::Tracking { at: row, expire } => {
                self.next_number(at, Thread::Loop);
                self.track(at, if expire { row + 1 } else { row });
            }
            _ => {}
        }
    }

    /// The loop has returned; the program calls `Shutdown`.
    fn leave(&mut self, at: ProcessAt) {
        self.next_number(at, Thread::Loop);
        if !matches!(self.processes[at].main, Loop::Committing(_)) {
            self.processes[at].main = Loop::Over;
        }
        self.shut_down(at);
    }

    pub(super) fn grace_over(&mut self, at: ProcessAt) {
        let process = &mut self.processes[at];
        if process.alive && process.paused_until.is_some() {
            process.inbox.push(Event::GraceOver { process: at });
        } else if process.alive && process.numbers[Thread::Leaving as usize] == 0 {
            self.shut_down(at);
        }
    }

    /// `Shutdown`: ends the heartbeat and leaves the registry. The set of rows stays.
    fn shut_down(&mut self, at: ProcessAt) {
        self.ask_redis(at, Thread::Leaving, RedisOp::EndBeat);
    }

    fn step_leaving(&mut self, at: ProcessAt, with: &With) {
        let first = self.processes[at].numbers[Thread::Leaving as usize] == 1;
        if first && matches!(with, With::Redis(Ok(_))) {
            self.ask_redis(at, Thread::Leaving, RedisOp::Deregister);
        } else {
            self.end(at, Fact::Left(at));
        }
    }
}
