//! A run: the plan is applied, all is healed, everything ends, and what happened is checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::checks::Look;
use super::disk::Disk;
use super::fleet::{Fleet, now_us};
use super::health::Spell;
use super::kind::Kind;
use super::link::Link;
use super::operators::{Operators, Order, Register};
use super::options::{Drawn, On, Options};
use super::plan::{self, Step, What};
use super::probe::{self, Probe};
use super::report::{Report, Stopped};
use super::run_log::RunLog;
use super::servers::Servers;
use crate::signals::told_to_stop;
use faults::{End, Strike};

mod ending;
mod faults;

/// How often the run looks at what is due, and at who has ended.
const TICK: Duration = Duration::from_millis(10);

/// What a reader sees of a store in a file is whole.
const LAST_CHANGE: &str = "select coalesce(max(number), 0) from journal_changes";

/// Completion calls that are yet to be delivered: of the operation whose workers make any.
const CALLS_TO_MAKE: &str = "select count(*) from completions where operation = 'plain' and delivered_at is null";

/// Lines of open batches without an outcome.
const LINES_LEFT: &str = "select cast(coalesce(sum(total), 0) as bigint) - (select count(*) from outcomes join batches using (batch) where batches.status = 'open') from batches where status = 'open'";

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
    /// The operators' to the store.
    way: Option<Link>,
    register: Register,
    due: Vec<(Instant, End)>,
    restarting: Option<JoinHandle<()>>,
    redis_is_away: bool,
    redis_is_frozen: bool,
    counts: BTreeMap<Kind, u64>,
    /// Faults that found nothing to strike (no worker with a name, a server that is away) and are tried again, from when on.
    again: Vec<(Instant, Strike)>,
    complaints: Vec<String>,
    /// In the midst of its plan.
    stopped: Option<Stopped>,
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
    let way = servers.way_to_store(runtime.handle());
    let operators = Operators::start(servers.url_over(way.as_ref().map(Link::port)), folder.clone(), drawn);
    let probe = servers.probe(probe::late(drawn.ttl()));
    let mut run = Run {
        options,
        drawn,
        folder,
        disk,
        servers,
        fleet,
        operators: Some(operators),
        way,
        register: Register::default(),
        due: Vec::new(),
        restarting: None,
        redis_is_away: false,
        redis_is_frozen: false,
        counts: BTreeMap::new(),
        again: Vec::new(),
        complaints: Vec::new(),
        stopped: None,
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
                let stopped = Stopped { signal, steps_left: steps.count() };
                self.log.say(&format!("{stopped}"));
                self.stopped = Some(stopped);
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
            self.look_now(runtime);
        }
    }

    fn look_now(&mut self, runtime: &tokio::runtime::Runtime) {
        let from_us = now_us();
        let changes = runtime.block_on(self.servers.number(LAST_CHANGE));
        self.whole_at.extend(changes.map(|changes| Look { changes, from_us, at_us: now_us() }));
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
        let quiet = Instant::now();
        self.log.say("the operators are done");
        match ending.join() {
            Ok(register) => self.register = register,
            Err(_) => self.complaints.push("runner: the operators' thread panicked".to_owned()),
        }
        let left = u64::try_from(number(self, LINES_LEFT).unwrap_or_default()).unwrap_or_default();
        // There is one worker at least for each.
        bound += Duration::from_millis(left * self.drawn.row_ms_max / u64::from(self.drawn.concurrency));
        loop {
            self.tick();
            self.look(&mut looked, runtime);
            let open = number(self, "select count(*) from batches where status = 'open'");
            let live = number(self, "select count(*) from leases where state = 'live'");
            let calls = number(self, CALLS_TO_MAKE);
            if open == Some(0) && calls == Some(0) && live == i64::try_from(self.fleet.count()).ok() {
                break;
            }
            if quiet.elapsed() > bound {
                self.complaints.push(format!("liveness: {bound:?} after the operators' last command {open:?} batches are open, {calls:?} calls to make, {live:?} leases live, of {} workers", self.fleet.count()));
                break;
            }
        }
        began.elapsed()
    }
}

/// How much memory this process has, in megabytes.
fn resident_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes / 1024)
}
