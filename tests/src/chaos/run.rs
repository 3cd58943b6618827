//! A run: the plan is applied, all is healed, everything ends, and what happened is checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::checks::{self, Evidence, Look};
use super::disk::Disk;
use super::fleet::{Fleet, now_us};
use super::health::{Spell, Surroundings, begin_spell, end_spell};
use super::kind::Kind;
use super::ledger::{self, CALLS, LEDGER};
use super::link::{Link, Way};
use super::operators::{Operators, Order, Register};
use super::options::{Drawn, On, Options};
use super::plan::{self, Step, What};
use super::probe::Probe;
use super::report::{Applied, Findings, Report};
use super::run_log::{RunLog, told_to_stop};
use super::servers::{Servers, Store};

/// A fault as the plan has it.
#[derive(Debug, Clone, Copy)]
struct Strike {
    kind: Kind,
    worker: usize,
    lasts: Duration,
    pick: u64,
}

/// So much later a fault is tried again that found nothing to strike.
const STRIKE_AGAIN: Duration = Duration::from_millis(500);

/// What is done later to end a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Resume(u32),
    TwinLeaves(usize),
    HealStore(usize),
    HealRedis(usize),
    RedisBack { empty: bool },
    Thaw,
    ClearDisk,
}

/// How often the run looks at what is due, and at who has ended.
const TICK: Duration = Duration::from_millis(10);

/// What a reader sees of a store in a file is whole.
const LAST_CHANGE: &str = "select coalesce(max(number), 0) from journal_changes";

/// Completion calls that are yet to be delivered: of the operation whose workers make any.
const CALLS_TO_MAKE: &str = "select count(*) from completions where operation = 'plain' and delivered_at is null";

/// How often such a reader looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

struct Run {
    options: Options,
    drawn: Drawn,
    folder: PathBuf,
    disk: Disk,
    servers: Servers,
    fleet: Fleet,
    operators: Option<Operators>,
    register: Register,
    due: Vec<(Instant, End)>,
    restarting: Option<JoinHandle<()>>,
    redis_is_away: bool,
    redis_is_frozen: bool,
    counts: BTreeMap<Kind, u64>,
    /// Faults that found nothing to strike (no worker with a name, a server that is away) and are tried again, from when on.
    again: Vec<(Instant, Strike)>,
    complaints: Vec<String>,
    whole_at: Vec<Look>,
    log: RunLog,
    probe: Option<Probe>,
    /// By place: when its way to the store was not what it should be.
    cut: Vec<Vec<Spell>>,
    /// When an SQLite store's disk was full.
    full: Vec<Spell>,
}

/// How often the run says how it goes.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Of a ttl: sleeps and answers later than this excuse everybody.
const LATE: u32 = 8;

/// Runs it in a folder of its own below this one, which stays where something is wrong.
pub fn run(options: Options, below: &Path) -> Report {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let folder = tempfile::Builder::new().prefix("fencepost-chaos.").tempdir_in(below).expect("a folder").keep();
    let log = RunLog::begin(&folder);
    let drawn = Drawn::of(&options);
    // A ledger takes little room, a store in a file with its journal takes more (a twentieth of a megabyte a second). It is memory.
    let seconds = options.faults_for.as_secs();
    let megabytes = if options.on == On::Sqlite { 96 + seconds / 6 } else { 16 + seconds / 60 };
    let disk = Disk::new(&folder.join("disk"), megabytes << 20);
    let servers = Servers::start(&options, disk.file("store.db"), runtime.handle());
    let fleet = Fleet::new(&options, drawn, &servers, &folder, &disk, runtime.handle());
    let not_here = not_here(&options, &disk, &fleet);
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| kind.is_of(options.on) && !not_here.contains_key(kind)).collect();
    let steps = plan::make(&options, &drawn, &kinds);
    log.say(&format!("seed {}, {options:?}, {drawn:?}", options.seed));
    log.say(&format!("{} steps; all is in {}", steps.len(), folder.display()));
    let mut text = format!("{options:#?}\n{drawn:#?}\n");
    for step in &steps {
        let _ = writeln!(text, "{step}");
    }
    std::fs::write(folder.join("plan.txt"), text).expect("the plan can be written");
    let operators = Operators::start(servers.url(), folder.clone(), drawn);
    let probe = servers.probe(drawn.ttl() / LATE);
    let mut run = Run {
        options,
        drawn,
        folder,
        disk,
        servers,
        fleet,
        operators: Some(operators),
        register: Register::default(),
        due: Vec::new(),
        restarting: None,
        redis_is_away: false,
        redis_is_frozen: false,
        counts: BTreeMap::new(),
        again: Vec::new(),
        complaints: Vec::new(),
        whole_at: Vec::new(),
        log,
        probe: Some(probe),
        cut: vec![Vec::new(); options.workers],
        full: Vec::new(),
    };
    run.fleet.start_all(&run.servers);
    run.apply(&steps, &runtime);
    run.log.say("healing");
    run.heal();
    let healing = run.all_ends(&runtime);
    run.finish(&runtime, not_here, healing)
}

/// The kinds that this machine cannot do, and why.
fn not_here(options: &Options, disk: &Disk, fleet: &Fleet) -> BTreeMap<Kind, &'static str> {
    let mut not_here = BTreeMap::new();
    if !disk.can_be_full() {
        not_here.insert(Kind::DiskFull, "nothing may be mounted here");
    }
    if !fleet.has_clock() {
        for kind in [Kind::ClockForward, Kind::ClockBack] {
            not_here.insert(kind, "there is no libfaketime");
        }
    }
    not_here.retain(|kind, _| kind.is_of(options.on));
    not_here
}

impl Run {
    /// Applies the plan, step by step, and ends what was begun when its time has come.
    fn apply(&mut self, steps: &[Step], runtime: &tokio::runtime::Runtime) {
        let began = Instant::now();
        let mut steps = steps.iter().peekable();
        let end = began + self.options.faults_for;
        let (mut looked, mut said) = (began, began);
        while Instant::now() < end || steps.peek().is_some() {
            if let Some(signal) = told_to_stop() {
                let left = steps.count();
                self.complaints.push(format!("runner: told to stop by signal {signal}; {left} steps were not done"));
                self.log.say(&format!("told to stop by signal {signal}"));
                return;
            }
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                let faults: u64 = self.counts.values().sum();
                let (workers, complaints) = (self.fleet.count(), self.fleet.complaints.len() + self.complaints.len());
                let resident = resident_mb().unwrap_or_default();
                self.log.say(&format!("{faults} faults, {workers} workers, {complaints} complaints, {resident} MB"));
            }
            while let Some(step) = steps.next_if(|step| began.elapsed() >= Duration::from_millis(step.at_ms)) {
                match step.what {
                    What::Submit { op, rows, poison } => {
                        self.order(Order::Submit { op, rows, poison, pick: step.pick });
                    }
                    What::Fault { kind, for_ms, .. } if kind.is_of_operators() => {
                        self.order(Order::Operate { kind, pick: step.pick, for_ms });
                    }
                    What::Fault { kind, worker, for_ms } => {
                        self.fault(Strike { kind, worker, lasts: Duration::from_millis(for_ms), pick: step.pick });
                    }
                }
            }
            let now = Instant::now();
            let (again, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
            self.again = later;
            again.into_iter().for_each(|(_, strike)| self.fault(strike));
            self.tick();
            self.look(&mut looked, runtime);
        }
    }

    fn look(&mut self, looked: &mut Instant, runtime: &tokio::runtime::Runtime) {
        if self.options.on == On::Sqlite && looked.elapsed() >= LOOK_EVERY {
            *looked = Instant::now();
            let changes = runtime.block_on(self.servers.number(LAST_CHANGE));
            self.whole_at.extend(changes.map(|changes| Look { changes, at_us: now_us() }));
        }
    }

    fn order(&self, order: Order) {
        self.operators.as_ref().expect("at work until the plan is over").order(order);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        for (_, end) in due {
            self.end(end);
        }
        if let Some(restarting) = self.restarting.take_if(|restarting| restarting.is_finished()) {
            self.restarted(restarting);
        }
        self.fleet.look(&self.servers);
        std::thread::sleep(TICK);
    }

    fn restarted(&mut self, restarting: JoinHandle<()>) {
        if restarting.join().is_err() {
            self.complaints.push("runner: Postgres does not restart".to_owned());
        }
    }

    fn fault(&mut self, strike: Strike) {
        let Strike { kind, worker, lasts, pick } = strike;
        if self.begin(kind, worker, lasts, pick).is_some() {
            *self.counts.entry(kind).or_default() += 1;
        } else {
            self.again.push((Instant::now() + STRIKE_AGAIN, strike));
        }
    }

    /// Begins a fault; none where there is nothing to do it to.
    fn begin(&mut self, kind: Kind, worker: usize, lasts: Duration, pick: u64) -> Option<()> {
        let until = Instant::now() + lasts;
        match kind {
            Kind::Kill | Kind::KillAndSameName => {
                let at = self.fleet.fit(worker)?;
                self.fleet.kill(at, lasts, kind == Kind::KillAndSameName);
            }
            Kind::Term | Kind::TermAndSameName => {
                let at = self.fleet.fit(worker)?;
                self.fleet.term(at, lasts, kind == Kind::TermAndSameName);
            }
            Kind::Pause => {
                let at = self.fleet.fit(worker)?;
                let pid = self.fleet.pause(at)?;
                self.due.push((until, End::Resume(pid)));
            }
            Kind::Twin => {
                let at = self.fleet.fit_for_twin(worker)?;
                self.fleet.start_twin(at, &self.servers).then_some(())?;
                self.due.push((until, End::TwinLeaves(at)));
            }
            Kind::StoreDelay | Kind::StoreStall | Kind::StoreHalfOpen | Kind::StoreReset | Kind::StoreCut => {
                let link = self.fleet.places[worker].store.as_ref()?;
                begin_spell(&mut self.cut[worker], now_us());
                disturb(link, kind, pick);
                if kind == Kind::StoreReset {
                    self.fair(worker);
                } else {
                    self.due.push((until, End::HealStore(worker)));
                }
            }
            Kind::RedisDelay | Kind::RedisStall | Kind::RedisHalfOpen | Kind::RedisReset | Kind::RedisCut => {
                let link = self.fleet.places[worker].redis.as_ref()?;
                disturb(link, kind, pick);
                if kind != Kind::RedisReset {
                    self.due.push((until, End::HealRedis(worker)));
                }
            }
            Kind::PostgresFast | Kind::PostgresCrash => {
                let Store::Schema(_, server) = &self.servers.store else { return None };
                if self.restarting.is_some() {
                    return None;
                }
                let (server, mode) =
                    (Arc::clone(server), if kind == Kind::PostgresFast { "fast" } else { "immediate" });
                self.restarting = Some(std::thread::spawn(move || server.restart(mode)));
            }
            Kind::RedisFlush | Kind::RedisKill | Kind::RedisKillAndEmpty | Kind::RedisFreeze => {
                if self.redis_is_away || self.redis_is_frozen {
                    return None;
                }
                let redis = self.servers.redis.as_mut()?;
                match kind {
                    Kind::RedisFlush => drop(redis.try_ask(&["FLUSHALL"]).ok()?),
                    Kind::RedisFreeze => {
                        redis.freeze();
                        self.redis_is_frozen = true;
                        self.due.push((until, End::Thaw));
                    }
                    _ => {
                        redis.kill();
                        self.redis_is_away = true;
                        self.due.push((until, End::RedisBack { empty: kind == Kind::RedisKillAndEmpty }));
                    }
                }
            }
            Kind::DiskFull => {
                begin_spell(&mut self.full, now_us());
                self.disk.fill();
                self.due.push((until, End::ClearDisk));
            }
            Kind::ClockForward | Kind::ClockBack => {
                let by = i64::try_from(pick % 7_200).expect("few") + 2;
                self.fleet.step_clock(if kind == Kind::ClockForward { by } else { -by });
            }
            Kind::Hold | Kind::Append | Kind::Abort | Kind::RetryFailed | Kind::RetryLine | Kind::Purge => return None,
        }
        Some(())
    }

    fn end(&mut self, end: End) {
        match end {
            End::Resume(pid) => self.fleet.resume(pid),
            End::TwinLeaves(at) => self.fleet.end_twin(at),
            End::HealStore(at) => {
                self.fleet.places[at].store.iter().for_each(Link::heal);
                self.fair(at);
            }
            End::HealRedis(at) => self.fleet.places[at].redis.iter().for_each(Link::heal),
            End::RedisBack { empty } => {
                if let Some(redis) = &mut self.servers.redis {
                    if empty {
                        redis.forget();
                    }
                    redis.start_again();
                }
                self.redis_is_away = false;
            }
            End::Thaw => {
                self.servers.redis.iter().for_each(crate::redis::Server::thaw);
                self.redis_is_frozen = false;
            }
            End::ClearDisk => {
                self.disk.clear();
                end_spell(&mut self.full, now_us());
            }
        }
    }

    /// A place's way to the store is fair once its worker has noticed that the connections that it has are none any more.
    fn fair(&mut self, at: usize) {
        let notices = i64::try_from(self.drawn.ttl().as_micros()).expect("short");
        if !self.due.iter().any(|(_, end)| *end == End::HealStore(at)) {
            end_spell(&mut self.cut[at], now_us() + notices);
        }
    }

    /// Ends everything that was begun.
    fn heal(&mut self) {
        for (_, end) in std::mem::take(&mut self.due) {
            self.end(end);
        }
        if let Some(restarting) = self.restarting.take() {
            self.restarted(restarting);
        }
        self.fleet.heal();
        for at in 0..self.cut.len() {
            self.fair(at);
        }
    }

    /// Until all batches have ended and no lease lives whose worker does not; how long that took.
    fn all_ends(&mut self, runtime: &tokio::runtime::Runtime) -> Duration {
        let began = Instant::now();
        let mut bound = Duration::from_secs(90);
        let number = |run: &Self, query| runtime.block_on(run.servers.number(query));
        // What they still have to do, they do first; in the end they resume all that is held.
        let operators = self.operators.take().expect("at work until now");
        let ending = std::thread::spawn(move || operators.end());
        let mut looked = began;
        while !ending.is_finished() {
            self.tick();
            self.look(&mut looked, runtime);
        }
        self.log.say("the operators are done");
        match ending.join() {
            Ok(register) => self.register = register,
            Err(_) => self.complaints.push("runner: the operators' thread panicked".to_owned()),
        }
        let open = number(self, "select cast(coalesce(sum(total), 0) as bigint) from batches where status = 'open'");
        let longest = u64::try_from(open.unwrap_or_default()).unwrap_or_default() * self.drawn.row_ms_max;
        bound += Duration::from_millis(longest);
        loop {
            self.tick();
            self.look(&mut looked, runtime);
            let open = number(self, "select count(*) from batches where status = 'open'");
            let live = number(self, "select count(*) from leases where state = 'live'");
            let calls = number(self, CALLS_TO_MAKE);
            if open == Some(0) && calls == Some(0) && live == i64::try_from(self.fleet.count()).ok() {
                break;
            }
            if began.elapsed() > bound {
                self.complaints.push(format!("liveness: {bound:?} after the last fault {open:?} batches are open, {calls:?} calls to make, {live:?} leases live, of {} workers", self.fleet.count()));
                break;
            }
        }
        began.elapsed()
    }

    /// Everybody leaves; then what happened is checked.
    fn finish(
        mut self,
        runtime: &tokio::runtime::Runtime,
        not_here: BTreeMap<Kind, &'static str>,
        healing: Duration,
    ) -> Report {
        self.log.say("all has ended; the workers leave");
        self.fleet.leave();
        if self.options.on == On::Sqlite {
            // All there is was there by now.
            let changes = runtime.block_on(self.servers.number(LAST_CHANGE));
            self.whole_at.extend(changes.map(|changes| Look { changes, at_us: now_us() }));
        }
        let seen = self.probe.take().and_then(Probe::end);
        if seen.is_none() {
            self.complaints.push("runner: the probe panicked".to_owned());
        }
        let seen = seen.unwrap_or_default();
        let [runs, calls] =
            [LEDGER, CALLS].map(|name| ledger::read(&self.disk.file(name)).expect("a ledger can be read"));
        let full = std::mem::take(&mut self.full);
        let surroundings = Surroundings {
            cut: std::mem::take(&mut self.cut),
            away: seen.away,
            // A server's disk is not full.
            slow: if self.options.on == On::Sqlite { [seen.slow, full].concat() } else { seen.slow },
            stepped: (self.options.on == On::Sqlite).then_some(self.drawn.stepped),
        };
        let Self { options, drawn, register, fleet, servers, whole_at, .. } = &self;
        let (runs, calls, lives) = (&runs, &calls, &fleet.lives);
        let evidence =
            Evidence { options, drawn, servers, register, runs, calls, lives, surroundings: &surroundings, whole_at };
        self.log.say("the checks begin");
        // A check that cannot go on says why by panicking: all is kept then, too.
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(checks::all(&evidence))));
        let mut findings = checked.unwrap_or_else(|cause| {
            let cause = cause.downcast::<String>().map_or_else(|_| "see above".to_owned(), |text| *text);
            Findings { violations: vec![format!("a check gave up: {cause}")], ..Findings::default() }
        });
        self.log.say("the checks are done");
        findings.violations.extend(self.complaints.iter().cloned());
        findings.violations.extend(fleet.complaints.iter().map(|what| format!("workers: {what}")));
        findings.violations.extend(register.complaints.iter().map(|what| format!("operators: {what}")));
        findings.violations.extend(panics(&self.folder));
        let counts = self.counts.iter().chain(&register.done).map(|(kind, times)| (*kind, *times));
        let counts: BTreeMap<Kind, u64> = counts.collect();
        let of_store = Kind::ALL.into_iter().filter(|kind| kind.is_of(self.options.on));
        let faults: BTreeMap<Kind, Applied> = of_store
            .map(|kind| match not_here.get(&kind) {
                Some(why) => (kind, Applied::NotHere(why)),
                None => (kind, Applied::Times(counts.get(&kind).copied().unwrap_or_default())),
            })
            .collect();
        if self.options.every_kind && told_to_stop().is_none() {
            for (kind, _) in faults.iter().filter(|(_, applied)| **applied == Applied::Times(0)) {
                findings.violations.push(format!("runner: {kind:?} was never applied"));
            }
        }
        let links = fleet.places.iter().flat_map(|place| [&place.store, &place.redis]).flatten();
        let mut report = Report {
            options: self.options,
            drawn: self.drawn,
            faults,
            missed: self.again.len() as u64,
            refused: register.refused.values().sum(),
            repeated: register.repeated,
            cuts: links.map(Link::cuts).sum(),
            name_in_use: fleet.name_in_use,
            healing,
            findings,
            kept: None,
        };
        if report.holds() && !self.options.keep {
            self.remove();
        } else {
            report.kept = Some(self.keep(&report));
        }
        report
    }

    fn keep(self, report: &Report) -> PathBuf {
        self.servers.dump(&self.folder);
        std::fs::write(self.folder.join("report.txt"), format!("{report}\n")).expect("a report can be written");
        let Self { folder, disk, log, .. } = self;
        // What is on it stays.
        drop(disk);
        log.over();
        folder
    }

    fn remove(self) {
        let Self { folder, disk, log, .. } = self;
        // Its mount goes first.
        disk.forget();
        log.over();
        std::fs::remove_dir_all(folder).expect("the run's folder can be removed");
    }
}

/// How much memory this process has, in megabytes.
fn resident_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes / 1024)
}

/// What panicked, by the workers' logs.
fn panics(folder: &Path) -> Vec<String> {
    let logs = std::fs::read_dir(folder).expect("the run's folder").flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let panicked = logs.filter_map(|path| {
        let text = String::from_utf8_lossy(&std::fs::read(&path).ok()?).into_owned();
        let line = text.lines().find(|line| line.contains("panicked at"))?.to_owned();
        Some(format!("panic: {}: {line}", path.display()))
    });
    panicked.collect()
}

fn disturb(link: &Link, kind: Kind, pick: u64) {
    match kind {
        Kind::StoreDelay | Kind::RedisDelay => {
            link.change(|weather| weather.delay = Duration::from_millis(50 + pick % 750));
        }
        Kind::StoreStall | Kind::RedisStall => link.change(|weather| weather.stalled = true),
        Kind::StoreHalfOpen | Kind::RedisHalfOpen => {
            let way = if pick.is_multiple_of(2) { Way::There } else { Way::Back };
            link.change(|weather| weather.loses = Some(way));
        }
        Kind::StoreReset | Kind::RedisReset => link.reset(),
        _ => link.cut_after(1 + pick % 8),
    }
}
