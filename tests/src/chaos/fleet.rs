//! The worker processes: each place has one, between its own ways to the servers, and gets another when that one ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use super::disk::Disk;
use super::health::{Spell, begin_spell, end_spell};
use super::ledger::{CALLS, LEDGER};
use super::link::Link;
use super::options::{Drawn, Options};
use super::rows::Op;
use super::servers::Servers;
use crate::process::{Process, fencepost, mortal, program};

/// What a worker of a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `fencepost worker` with a command per row.
    Command,
    /// `fencepost worker --stream`.
    Stream,
    /// A program with a transactional handler inside.
    Effects,
}

impl Role {
    fn of(place: usize) -> Self {
        [Self::Stream, Self::Effects, Self::Command, Self::Effects][place % 4]
    }
}

/// A process: its id, and when it started, in the kernel's ticks. An id comes again in a long run.
pub type ProcessKey = (u32, u64);

/// When a process started that was not waited for.
fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it was not waited for");
    // The 22nd field; the second, in parentheses, may have spaces.
    let (_, rest) = stat.rsplit_once(") ").expect("a process's record");
    rest.split(' ').nth(19).and_then(|field| field.parse().ok()).expect("a number")
}

/// What is known of a worker process that is or was. Times are in microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct Life {
    /// Where.
    pub place: usize,
    /// When it was last seen alive.
    pub alive_us: i64,
    /// It was seen to have ended.
    pub ended: bool,
    /// When the runner killed it.
    pub killed_us: Option<i64>,
    /// It was killed, and not by the runner: that is a row's doing.
    pub killed_by_row: bool,
    /// When it stood still.
    pub pauses: Vec<Spell>,
    /// When it was told to leave.
    pub told_us: Option<i64>,
    /// It ended by itself and said that the store cannot be reached.
    pub gave_up: bool,
}

/// A worker that runs.
#[derive(Debug)]
struct Running {
    process: Process,
    key: ProcessKey,
    named: bool,
    paused: bool,
    told: bool,
    log: PathBuf,
}

impl Running {
    fn goes_on(&mut self, lives: &mut BTreeMap<ProcessKey, Life>) {
        self.paused = false;
        self.process.signal(Signal::SIGCONT);
        end_spell(&mut lives.entry(self.key).or_default().pauses, now_us());
    }
}

/// A place of a worker.
#[derive(Debug)]
pub struct Place {
    role: Role,
    name: String,
    /// To the store.
    pub store: Option<Link>,
    /// To Redis.
    pub redis: Option<Link>,
    main: Option<Running>,
    twin: Option<Running>,
    next: Option<Start>,
    started: u32,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    at: Instant,
    named: bool,
}

/// All places.
#[derive(Debug)]
pub struct Fleet {
    folder: PathBuf,
    ledger: PathBuf,
    calls: PathBuf,
    clock: Option<Clock>,
    drawn: Drawn,
    /// Places.
    pub places: Vec<Place>,
    /// What is known of each process.
    pub lives: BTreeMap<ProcessKey, Life>,
    /// What workers did that they should not.
    pub complaints: Vec<String>,
    /// How many ended by themselves because their name was in use.
    pub name_in_use: u64,
}

/// A wall clock that can be stepped: libfaketime's.
#[derive(Debug)]
struct Clock {
    library: PathBuf,
    file: PathBuf,
    place: usize,
}

impl Clock {
    fn find(folder: &Path, place: usize) -> Option<Self> {
        let dirs = std::fs::read_dir("/usr/lib").ok()?.flatten();
        let library = dirs.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())?;
        let file = folder.join("clock");
        std::fs::write(&file, "+0\n").expect("a file can be written");
        Some(Self { library, file, place })
    }

    fn apply(&self, command: &mut Command) {
        // The monotonic clock goes on as it is: nobody can step that.
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

/// How long a worker may take to leave when nothing is in its way.
const LEAVES: Duration = Duration::from_secs(60);

impl Fleet {
    /// Places without workers.
    pub fn new(
        options: &Options,
        drawn: Drawn,
        servers: &Servers,
        folder: &Path,
        disk: &Disk,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let places = (0..options.workers).map(|at| {
            let store = servers.way_to_store(runtime);
            let redis = servers.redis.as_ref().map(|server| Link::start(runtime, server.port()));
            let (role, name) = (Role::of(at), format!("place-{at}"));
            Place { role, name, store, redis, main: None, twin: None, next: None, started: 0 }
        });
        Self {
            folder: folder.to_owned(),
            ledger: disk.file(LEDGER),
            calls: disk.file(CALLS),
            clock: Clock::find(folder, drawn.stepped),
            drawn,
            places: places.collect(),
            lives: BTreeMap::new(),
            complaints: Vec::new(),
            name_in_use: 0,
        }
    }

    /// Whether a worker's clock can be stepped.
    pub fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Starts a worker at every place.
    pub fn start_all(&mut self, servers: &Servers) {
        for at in 0..self.places.len() {
            // Half of them under stable names.
            self.places[at].main = Some(self.start(at, at % 4 >= 2, servers));
        }
    }

    fn start(&mut self, at: usize, named: bool, servers: &Servers) -> Running {
        let place = &mut self.places[at];
        place.started += 1;
        let log = self.folder.join(format!("worker-{at}-{}.log", place.started));
        let name = named.then(|| format!("--name={}", place.name));
        let store = servers.url_over(place.store.as_ref().map(Link::port));
        let redis = place.redis.as_ref().map(|link| format!("--redis=redis://127.0.0.1:{}", link.port()));
        let concurrency = format!("--concurrency={}", self.drawn.concurrency);
        let handler = program("chaos-handler");
        let mut command = match place.role {
            Role::Effects => {
                let mut command = mortal("chaos-worker");
                command.arg(format!("--ttl-ms={}", self.drawn.ttl_ms));
                command.arg("--ledger").arg(&self.ledger).arg(format!("--effects={}", servers.effects()));
                command
            }
            Role::Command | Role::Stream => {
                let mut command = fencepost();
                command.args(["worker", "--log=json", "--grace=2s", "--patience=10s"]);
                command.arg(format!("--ttl={}ms", self.drawn.ttl_ms));
                let called = format!("'{}' --call '{}'", handler.display(), self.calls.display());
                command.arg(format!("--on-done={called}"));
                command
            }
        };
        let op = if place.role == Role::Effects { Op::Effects } else { Op::Plain };
        command.arg(format!("--store={store}")).arg(format!("--op={}", op.name())).arg(concurrency);
        command.args(redis).args(name);
        match place.role {
            Role::Effects => {}
            Role::Command => drop(command.arg("--").arg(&handler).arg(&self.ledger)),
            Role::Stream => drop(command.arg("--stream").arg("--").arg(&handler).arg(&self.ledger).arg("--stream")),
        }
        if let Some(clock) = self.clock.as_ref().filter(|clock| clock.place == at) {
            clock.apply(&mut command);
        }
        let file = File::create(&log).expect("a log can be made");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file);
        let process = Process::start(command);
        let key = (process.pid(), start_ticks(process.pid()));
        self.lives.insert(key, Life { place: at, alive_us: now_us(), ..Life::default() });
        Running { process, key, named, paused: false, told: false, log }
    }

    /// Looks who has ended, and starts those whose time has come.
    pub fn look(&mut self, servers: &Servers) {
        for at in 0..self.places.len() {
            let now = now_us();
            for twin in [false, true] {
                let place = &mut self.places[at];
                let who = if twin { &mut place.twin } else { &mut place.main };
                let Some(running) = who else { continue };
                let key = running.key;
                match running.process.ended() {
                    None => {
                        if let Some(life) = self.lives.get_mut(&key) {
                            life.alive_us = now;
                        }
                    }
                    Some(status) => {
                        let (told, log) = (running.told, std::mem::take(&mut running.log));
                        *who = None;
                        self.ended(at, key, status, told, &log);
                    }
                }
            }
            let place = &mut self.places[at];
            if place.main.is_none() && place.twin.is_some() {
                place.main = place.twin.take();
                place.next = None;
            }
            if place.main.is_some() {
                continue;
            }
            match place.next {
                // It ended by itself.
                None => place.next = Some(Start { at: Instant::now() + self.drawn.ttl() / 2, named: false }),
                Some(start) if Instant::now() >= start.at => {
                    place.next = None;
                    self.places[at].main = Some(self.start(at, start.named, servers));
                }
                Some(_) => {}
            }
        }
    }

    fn ended(&mut self, at: usize, key: ProcessKey, status: std::process::ExitStatus, told: bool, log: &Path) {
        use std::os::unix::process::ExitStatusExt;
        let life = self.lives.entry(key).or_default();
        life.ended = true;
        // 7: the store was away for longer than a leaving, or a starting, worker waits; 15 where nobody listened to the signal yet.
        let left_in_order = told && (matches!(status.code(), Some(0 | 7)) || status.signal() == Some(15));
        if status.code() == Some(7) && !told {
            // Whether it was starting only, the store knows.
            life.gave_up = true;
            return;
        }
        if status.signal() == Some(9) {
            // Whether a row did it, the ledger knows.
            life.killed_by_row = life.killed_us.is_none();
            return;
        }
        if left_in_order {
            return;
        }
        let says_in_use = || std::fs::read_to_string(log).is_ok_and(|log| log.contains("is in use"));
        if status.code() == Some(1) && says_in_use() {
            self.name_in_use += 1;
            return;
        }
        self.complaints.push(format!("the worker at place {at}, process {}, ended by itself: {status}", key.0));
    }

    /// The first place from this one on whose worker is fit for a fault: it runs, stands not still, and was not told to leave.
    pub fn fit(&self, from: usize) -> Option<usize> {
        let count = self.places.len();
        let fit = |at: &usize| {
            let main = self.places[*at].main.as_ref();
            main.is_some_and(|running| !running.paused && !running.told)
        };
        (from..from + count).map(|at| at % count).find(fit)
    }

    /// Kills the worker of a place.
    pub fn kill(&mut self, at: usize, next_in: Duration, named: bool) {
        let place = &mut self.places[at];
        place.next = Some(Start { at: Instant::now() + next_in, named });
        if let Some(running) = &mut place.main {
            self.lives.entry(running.key).or_default().killed_us = Some(now_us());
            running.process.signal(Signal::SIGKILL);
        }
    }

    /// Tells the worker of a place to leave.
    pub fn term(&mut self, at: usize, next_in: Duration, named: bool) {
        let place = &mut self.places[at];
        place.next = Some(Start { at: Instant::now() + next_in, named });
        if let Some(running) = &mut place.main {
            running.told = true;
            self.lives.entry(running.key).or_default().told_us = Some(now_us());
            running.process.signal(Signal::SIGTERM);
        }
    }

    /// Stops the worker of a place; the process that is stopped.
    pub fn pause(&mut self, at: usize) -> Option<u32> {
        let running = self.places[at].main.as_mut()?;
        running.paused = true;
        begin_spell(&mut self.lives.entry(running.key).or_default().pauses, now_us());
        running.process.signal(Signal::SIGSTOP);
        Some(running.process.pid())
    }

    /// Lets a stopped process go on, if it is still there.
    pub fn resume(&mut self, pid: u32) {
        for place in &mut self.places {
            for running in [&mut place.main, &mut place.twin].into_iter().flatten() {
                if running.process.pid() == pid && running.paused {
                    running.goes_on(&mut self.lives);
                }
            }
        }
    }

    /// The same whose worker has a stable name, and no second one.
    pub fn fit_for_twin(&self, from: usize) -> Option<usize> {
        let count = self.places.len();
        let fit = |at: &usize| {
            let place = &self.places[*at];
            place.twin.is_none() && place.main.as_ref().is_some_and(|running| running.named && !running.told)
        };
        (from..from + count).map(|at| at % count).find(fit)
    }

    /// Starts a second worker under the stable name of a place; false where there is one.
    pub fn start_twin(&mut self, at: usize, servers: &Servers) -> bool {
        if self.places[at].twin.is_some() {
            return false;
        }
        let twin = self.start(at, true, servers);
        self.places[at].twin = Some(twin);
        true
    }

    /// Ends the second worker of a place, if both are still there.
    pub fn end_twin(&mut self, at: usize) {
        let place = &mut self.places[at];
        if let (Some(_), Some(twin)) = (&place.main, &mut place.twin) {
            twin.told = true;
            self.lives.entry(twin.key).or_default().told_us = Some(now_us());
            twin.process.signal(Signal::SIGTERM);
        }
    }

    /// Steps the clock that can be stepped to so many seconds off the machine's.
    pub fn step_clock(&self, off_s: i64) {
        if let Some(clock) = &self.clock {
            // Renamed into place: it is read at every look at the clock.
            let new = clock.file.with_extension("new");
            std::fs::write(&new, format!("{off_s:+}\n")).expect("a file can be written");
            std::fs::rename(new, &clock.file).expect("it can be renamed");
        }
    }

    /// Everybody goes on, over fair ways.
    pub fn heal(&mut self) {
        for place in &mut self.places {
            for link in [&place.store, &place.redis].into_iter().flatten() {
                link.heal();
            }
            for running in [&mut place.main, &mut place.twin].into_iter().flatten() {
                if running.paused {
                    running.goes_on(&mut self.lives);
                }
            }
        }
    }

    /// How many workers run.
    pub fn count(&self) -> usize {
        self.places.iter().map(|place| usize::from(place.main.is_some()) + usize::from(place.twin.is_some())).sum()
    }

    /// Everybody leaves: nothing is in their way.
    pub fn leave(&mut self) {
        let mut all: Vec<Running> = Vec::new();
        for place in &mut self.places {
            all.extend(place.main.take());
            all.extend(place.twin.take());
        }
        for running in &all {
            self.lives.entry(running.key).or_default().told_us = Some(now_us());
            running.process.signal(Signal::SIGTERM);
        }
        let end = Instant::now() + LEAVES;
        for mut running in all {
            let pid = running.process.pid();
            let left = end.saturating_duration_since(Instant::now());
            // One that stays is a finding, not the end of the run.
            let status = std::panic::catch_unwind(AssertUnwindSafe(|| running.process.wait(left)));
            if !status.as_ref().is_ok_and(ExitStatus::success) {
                self.complaints.push(format!("process {pid} does not leave in order: {:?}", status.ok()));
            }
        }
    }
}

/// Now, in microseconds since 1970.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
