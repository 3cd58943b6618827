//! Small scopes, all of them: two workers, a few rows, every fault at every event, and every pair of some at every pair of events.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::checks::Violation;
use crate::explore::{Failure, quiet_panics};
use crate::fault::{Again, Away, Fault, Server, Way, WitnessLoss};
use crate::options::{BatchPlan, Options};
use crate::schedule::Schedule;
use crate::{run, run_for_moments};

const TTL: u64 = 1_000_000;

/// CrashAt: up to so many effects of one event are told apart; with more the process dies in a later event's.
const EFFECTS: u16 = 8;

/// A setting with the faults that strike it, one or two at a time.
#[derive(Debug, Clone)]
pub struct Scope {
    /// What it is called.
    pub name: &'static str,
    /// What is run.
    pub options: Options,
    /// At how many moments something happens when nothing is in the way.
    pub moments: usize,
    kinds: Vec<Fault>,
    strikes: Vec<Strike>,
}

/// What strikes first; what follows, if anything does, strikes at one of these moments.
#[derive(Debug, Clone)]
struct Strike {
    first: (u64, Fault),
    moments: Vec<u64>,
    /// How many runs come before those that begin so.
    before: u64,
}

impl Scope {
    /// # Panics
    ///
    /// Where the setting fails without any fault.
    fn new(name: &'static str, options: Options, kinds: &[Fault], pairs: bool) -> Self {
        let moments = moments_of(name, &options, Vec::new(), !pairs);
        let mut scope = Self { name, options, moments: moments.len(), kinds: kinds.to_vec(), strikes: Vec::new() };
        let mut before = 0;
        for first in moments.iter().flat_map(|at| kinds.iter().map(|kind| (*at, *kind))) {
            // After the first fault other things happen, at other moments.
            let mut moments = Vec::new();
            if pairs {
                moments = moments_of(name, &scope.options, vec![first], false);
                moments.retain(|at| *at >= first.0);
            }
            let runs = if pairs { (moments.len() * kinds.len()) as u64 } else { 1 };
            scope.strikes.push(Strike { first, moments, before });
            before += runs;
        }
        scope
    }

    /// Two faults strike in each run.
    pub fn is_of_pairs(&self) -> bool {
        self.strikes.iter().any(|strike| !strike.moments.is_empty())
    }

    /// How many runs it takes.
    pub fn runs(&self) -> u64 {
        let last = self.strikes.last();
        last.map_or(0, |last| last.before + ((last.moments.len() * self.kinds.len()) as u64).max(1))
    }

    /// One of them.
    pub fn schedule(&self, nth: u64) -> Schedule {
        let at = self.strikes.partition_point(|strike| strike.before <= nth) - 1;
        let strike = &self.strikes[at];
        let mut faults = vec![strike.first];
        if !strike.moments.is_empty() {
            let second = (nth - strike.before) as usize;
            faults.push((strike.moments[second / self.kinds.len()], self.kinds[second % self.kinds.len()]));
        }
        Schedule { seed: 1, options: self.options.clone(), faults }
    }
}

/// At which moments something happens under these faults; with those at which requests are sent, just before they arrive.
fn moments_of(name: &str, options: &Options, faults: Vec<(u64, Fault)>, sent: bool) -> Vec<u64> {
    let run = run_for_moments(&Schedule { seed: 1, options: options.clone(), faults });
    assert_eq!(run.violation, None, "{name}, where one fault at a time strikes");
    let mut moments: BTreeSet<u64> = run.moments.iter().map(|moment| moment.at_us).collect();
    if sent {
        let arrivals = run.moments.iter().filter(|moment| moment.arrival_of.is_some());
        moments.extend(arrivals.map(|moment| moment.at_us.saturating_sub(options.latency_us_max)));
    }
    moments.into_iter().collect()
}

/// All scopes.
pub fn scopes() -> Vec<Scope> {
    [singles(), pairs()].concat()
}

/// Settings in which every kind of fault strikes once.
pub fn singles() -> Vec<Scope> {
    let small = Options::small();
    let known = Options { identities: true, supervised: true, machines: 1, notify: true, ..small.clone() };
    let named = Options { stable_names: true, liveness: false, claim_lines_max: 4, ..small.clone() };
    let poison = Options { poison_rows: 1, restart_us: 50_000, linger_us: 0, ..known.clone() };
    let calls = Options { calls: true, failing_per_mille: 500, notify: true, ..small.clone() };
    let settings =
        [("plain", small), ("deaths known", known), ("stable names", named), ("poison", poison), ("calls", calls)];
    settings.map(|(name, options)| Scope::new(name, options, &all_kinds(), false)).to_vec()
}

/// Smaller settings in which two strike.
pub fn pairs() -> Vec<Scope> {
    let rows = |rows: u64| vec![BatchPlan { rows, ..Options::small().batches[0].clone() }];
    let small = Options {
        batches: rows(2),
        run_us_min: 20_000,
        run_us_max: 30_000,
        claim_lines_max: 1,
        poll_us: 1_000_000,
        linger_us: 0,
        ..Options::small()
    };
    let named = Options { stable_names: true, identities: true, machines: 1, batches: rows(3), ..small.clone() };
    let alone = Options { liveness: false, batches: rows(3), claim_lines_max: 3, ..small.clone() };
    let settings = [("pairs", small), ("pairs, stable names", named), ("pairs, no witness", alone)];
    settings.map(|(name, options)| Scope::new(name, options, &few_kinds(), true)).to_vec()
}

/// Crash, lost reply, pause past the ttl, Redis wipe.
fn few_kinds() -> Vec<Fault> {
    let of = |worker| {
        [
            Fault::Crash { worker, restart_after_us: Some(TTL / 10), reported: false },
            Fault::LoseReplies { worker, server: Server::Store, count: 1 },
            Fault::Pause { worker, for_us: TTL * 2 },
        ]
    };
    (0..2).flat_map(of).chain([Fault::Witness(WitnessLoss::Flush)]).collect()
}

/// Every kind there is, in a few forms each.
pub fn all_kinds() -> Vec<Fault> {
    let of_workers = (0..2).flat_map(|worker| [of_process(worker), of_messages(worker), of_links(worker)].concat());
    of_workers.chain(of_servers()).chain(of_operators()).collect()
}

fn of_process(worker: u8) -> Vec<Fault> {
    let crash = |restart_after_us, reported| Fault::Crash { worker, restart_after_us, reported };
    let stop = |restart_after_us| Fault::Stop { worker, restart_after_us };
    let mut kinds = vec![
        crash(Some(TTL / 10), false),
        crash(Some(TTL * 2), true),
        crash(None, false),
        Fault::Pause { worker, for_us: TTL / 8 * 7 },
        Fault::Pause { worker, for_us: TTL * 2 },
        Fault::Twin { worker },
        stop(Some(TTL / 10)),
        stop(None),
        Fault::Evict { worker },
    ];
    kinds.extend([500_000, 900_000, 1_100_000, 2_000_000].map(|millionths| Fault::ClockRate { worker, millionths }));
    let crash_at = |effects| Fault::CrashAt { worker, effects, restart_after_us: Some(TTL / 10) };
    kinds.extend((0..EFFECTS).map(crash_at));
    kinds
}

fn of_messages(worker: u8) -> Vec<Fault> {
    let to = |server| {
        let lost = [1, 3].map(|count| Fault::LoseReplies { worker, server, count });
        let late = [TTL / 2, TTL * 2].map(|by_us| Fault::Delay { worker, server, count: 1, by_us });
        let twice = [TTL / 2, TTL * 2].map(|after_us| Fault::Duplicate { worker, server, count: 1, after_us });
        [lost, late, twice].concat()
    };
    [to(Server::Store), to(Server::SecondWitness)].concat()
}

fn of_links(worker: u8) -> Vec<Fault> {
    let ways = [Way::Both, Way::Requests, Way::Replies];
    let store = ways.into_iter().flat_map(|way| {
        let cut = move |(loud, for_us)| Fault::CutStore { worker, way, loud, for_us };
        [(false, TTL / 3), (false, TTL * 2), (true, TTL * 3)].map(cut)
    });
    let witness = ways.map(|way| Fault::CutWitness { worker, way, for_us: TTL * 2 });
    store.chain(witness).collect()
}

fn of_servers() -> Vec<Fault> {
    let mut kinds = Vec::new();
    for how in [Away::Refuses, Away::Stalls] {
        kinds.extend([TTL / 2, TTL * 2].map(|for_us| Fault::StoreAway { how, for_us }));
        kinds.push(Fault::WitnessAway { how, for_us: TTL * 2 });
    }
    kinds.extend([TTL / 8, TTL * 2].map(|for_us| Fault::StoreRestart { for_us }));
    kinds.extend([900_000, 1_100_000].map(|millionths| Fault::StoreClockRate { millionths }));
    let steps = [TTL as i64 / 3, TTL as i64 * 3].into_iter().flat_map(|by_us| [by_us, -by_us]);
    for by_us in steps {
        kinds.extend([Fault::StoreClockJump { by_us }, Fault::WitnessClockJump { by_us }]);
    }
    let losses = [WitnessLoss::Flush, WitnessLoss::RestartEmpty, WitnessLoss::RestartWithData];
    kinds.extend(losses.map(Fault::Witness));
    let again = |keeps_data| Fault::WitnessLoop { times: 4, every_us: TTL / 2, keeps_data };
    kinds.extend([again(false), again(true)]);
    kinds.extend([TTL / 2, TTL * 2].map(|behind_us| Fault::Failover { behind_us }));
    kinds
}

fn of_operators() -> Vec<Fault> {
    let batch = 0;
    vec![
        Fault::Hold { batch, for_us: TTL },
        Fault::Append { batch, rows: 2, for_us: 1 },
        Fault::Append { batch, rows: 2, for_us: TTL },
        Fault::AppendCutOff { batch, rows: 2 },
        Fault::Abort { batch },
        Fault::Retry { batch, rows: Again::Failed },
        Fault::Retry { batch, rows: Again::Line(0) },
        Fault::Purge { batch },
    ]
}

/// Does every `every`-th run of a scope. The first run that fails, made small; and how many runs there were.
pub fn check(scope: &Scope, every: u64, jobs: usize) -> (u64, Option<Failure>) {
    quiet_panics();
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(scope.runs().div_ceil(every)));
    let failed: Mutex<Option<u64>> = Mutex::default();
    let done = AtomicU64::new(0);
    let job = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= end.load(Ordering::Relaxed) {
                return;
            }
            done.fetch_add(1, Ordering::Relaxed);
            if run(&scope.schedule(at * every)).violation.is_some() {
                end.fetch_min(at, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                *failed = Some(failed.map_or(at, |before| before.min(at)));
            }
        }
    };
    thread::scope(|threads| (0..jobs.max(1)).for_each(|_| drop(threads.spawn(job))));
    let failed = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let failure = failed.and_then(|at| {
        let schedule = scope.schedule(at * every);
        let violation = run(&schedule).violation?;
        Some(Failure::of(&schedule, violation, None))
    });
    (done.into_inner(), failure)
}

/// Does all runs of all scopes, and prints how many they were. What the first of those that fail violates.
pub fn all(jobs: usize, mut print: impl FnMut(&str)) -> Option<Violation> {
    let mut total = 0;
    let mut violated = None;
    for scope in scopes() {
        let (runs, failure) = check(&scope, 1, jobs);
        let what = if scope.is_of_pairs() { "pairs of faults" } else { "faults" };
        let Scope { name, moments, .. } = &scope;
        print(&format!("{name}: {moments} moments, {runs} of {} runs, {what}\n", scope.runs()));
        if let Some(failure) = failure {
            print(&format!("{failure}\n"));
            violated.get_or_insert(failure.violation);
        }
        total += runs;
    }
    print(&format!("{total} runs\n"));
    violated
}
