//! The worker processes of a run: replaced when they end before the batch does, their rows put back at once (R1).

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use fencepost_core::Timing;
use fencepost_core::judge::{JudgeInput, JudgeOptions};
use fencepost_core::store::ProcessIdentity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::super::failure::{Exit, Failure};
use super::super::signals::Signals;
use super::worker_command::WorkerCommand;
use crate::driver::{self, Liveness, Observer, Ports};
use crate::runtime::{LocalProcesses, TokioClock, TokioSpawn};
use crate::store::Store;

/// A place whose workers end by themselves this often within [`ENDS_WITHIN`] ends the run.
const ENDS_MAX: usize = 10;
/// See [`ENDS_MAX`].
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// A worker that ends within this time of its start has hardly worked: the next of its place waits before it starts.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// The longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long killed processes may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// The workers of a run.
pub struct Supervisor {
    command: WorkerCommand,
    processes: LocalProcesses,
    judge: UnboundedSender<JudgeInput>,
    ended: UnboundedSender<End>,
    ends: UnboundedReceiver<End>,
    places: Vec<Place>,
}

/// A worker's end.
struct End {
    place: usize,
    status: std::io::Result<ExitStatus>,
}

/// Where one worker works at a time.
struct Place {
    worker: Option<Worker>,
    /// When the next worker may start.
    due: Instant,
    short_lives: u32,
    /// When workers ended by themselves, lately.
    ends: Vec<Instant>,
}

struct Worker {
    identity: Option<ProcessIdentity>,
    since: Instant,
    signals: UnboundedSender<Signal>,
}

impl Supervisor {
    /// Starts a judge that hears of workers' deaths, and no worker yet: see [`Self::fill`].
    pub fn start(
        store: &impl Store,
        liveness: &impl Liveness,
        command: WorkerCommand,
        workers: u32,
        timing: Timing,
    ) -> Self {
        let processes = LocalProcesses::new();
        let (judge, queue) = mpsc::unbounded_channel();
        // The workers report their store's and their Redis' troubles; the supervisor's are the same.
        let observer: Observer = Arc::new(|_| {});
        let liveness = liveness.for_worker(timing.ttl, observer.clone());
        let options = JudgeOptions {
            timing,
            machine: processes.machine().map(str::to_owned),
            liveness: liveness.is_present(),
            local_check: Duration::from_secs(1),
        };
        let ports = Ports {
            store: store.clone(),
            liveness,
            clock: TokioClock::start(),
            spawn: TokioSpawn,
            processes: processes.clone(),
            observer,
        };
        tokio::spawn(driver::judge::drive(options, ports, judge.downgrade(), queue));
        let (ended, ends) = mpsc::unbounded_channel();
        let now = Instant::now();
        let places = (0..workers).map(|_| Place { worker: None, due: now, short_lives: 0, ends: Vec::new() }).collect();
        Self { command, processes, judge, ended, ends, places }
    }

    /// Starts a worker in every place that is empty and due.
    pub fn fill(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        for (number, place) in self.places.iter_mut().enumerate() {
            if place.worker.is_some() || place.due > now {
                continue;
            }
            let child = self.command.spawn()?;
            // Looked up before anybody waits for it: until then its number is its own, even if it has ended.
            let identity = child.id().and_then(|pid| self.processes.identity(pid));
            let (signals, queue) = mpsc::unbounded_channel();
            place.worker = Some(Worker { identity, since: now, signals });
            tokio::spawn(own(number, child, self.command.handover(), queue, self.ended.clone()));
        }
        Ok(())
    }

    /// Ends when a worker has ended, whose rows are put back at once, or when a place becomes due.
    pub async fn next(&mut self) -> Result<(), Failure> {
        // What was due before is in the caller's hands.
        let now = Instant::now();
        let empty = self.places.iter().filter(|place| place.worker.is_none());
        let due = empty.map(|place| place.due).filter(|due| *due > now).min();
        let end = tokio::select! {
            biased;
            end = self.ends.recv() => end,
            () = until(due) => None,
        };
        let Some(End { place, status }) = end else { return Ok(()) };
        let Some(worker) = self.places[place].worker.take() else { return Ok(()) };
        if !status.as_ref().is_ok_and(ExitStatus::success)
            && let Some(identity) = worker.identity
        {
            // The judge ends with this supervisor only.
            let _ = self.judge.send(JudgeInput::ProcessEnded(identity));
        }
        self.places[place].vacated(worker.since, &status)
    }

    /// Asks all workers to leave and waits for it: at most so long, or until a signal, which it tells. Whoever is there
    /// then is killed.
    pub async fn dismiss(&mut self, signals: &mut Signals, limit: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        let signalled = tokio::select! {
            biased;
            () = self.all_left() => return false,
            () = signals.next() => true,
            () = tokio::time::sleep(limit) => false,
        };
        self.signal(Signal::SIGKILL);
        // One that the kernel does not let go is nobody's to wait for.
        let _ = tokio::time::timeout(DYING, self.all_left()).await;
        signalled
    }

    fn signal(&self, signal: Signal) {
        for worker in self.places.iter().filter_map(|place| place.worker.as_ref()) {
            // One that has ended meanwhile needs no signal.
            let _ = worker.signals.send(signal);
        }
    }

    async fn all_left(&mut self) {
        while self.places.iter().any(|place| place.worker.is_some()) {
            match self.ends.recv().await {
                Some(End { place, .. }) => self.places[place].worker = None,
                None => return,
            }
        }
    }
}

impl Place {
    /// Notes an end, and gives up where workers do not stay. One that was killed is replaced for ever. One that ends by
    /// itself, or leaves although rows are open, says why on stderr; when that goes on, more of the same help nobody.
    fn vacated(&mut self, since: Instant, status: &std::io::Result<ExitStatus>) -> Result<(), Failure> {
        let now = Instant::now();
        self.short_lives = if now - since < SHORT_LIFE { self.short_lives.saturating_add(1) } else { 0 };
        self.due = now + pause(self.short_lives);
        let Some(code) = status.as_ref().ok().and_then(ExitStatus::code) else { return Ok(()) };
        self.ends.retain(|at| now - *at < ENDS_WITHIN);
        self.ends.push(now);
        if self.ends.len() < ENDS_MAX {
            return Ok(());
        }
        Err(Failure::new(Exit::Unexpected, format!("workers end by themselves again and again, with exit code {code}"))
            .help("their own messages are above; the batch is kept, the same command goes on with it"))
    }
}

/// How long a place stays empty after so many short lives in a row. The first is forgiven: a row that kills its worker is
/// to be found out soon.
fn pause(short_lives: u32) -> Duration {
    match short_lives {
        0 | 1 => Duration::ZERO,
        lives => Duration::from_millis(50).saturating_mul(1 << (lives - 2).min(10)).min(PAUSE_MAX),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Owns a worker's process: only who waits for it knows that its number is still its own.
async fn own(
    place: usize,
    mut child: Child,
    handover: Arc<[u8]>,
    mut signals: UnboundedReceiver<Signal>,
    ended: UnboundedSender<End>,
) {
    // `wait` would close the child's stdin, which tells it that this process is gone.
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin {
        // The pipe has room for it; one that has ended already is waited for below.
        let _ = stdin.write_all(&handover).await;
    }
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status,
            Some(signal) = signals.recv() => send(&child, signal),
        }
    };
    drop(stdin);
    let _ = ended.send(End { place, status });
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // One that has ended by itself is about to be waited for.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_short_lives_up_to_a_second() {
        let pauses = [0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX].map(|lives| pause(lives).as_millis());
        assert_eq!(pauses, [0, 0, 50, 100, 200, 400, 800, 1000, 1000, 1000]);
    }
}
