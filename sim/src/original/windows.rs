//! The windows that the model must fall into, and the search for them.

use std::collections::BTreeSet;
use std::ops::Range;

use super::checks::{CONSERVATION, INNOCENCE, ONE_OUTCOME, OWNERSHIP, POISON, PROGRESS};
use super::{Cause, Finding, Run, run};
use crate::schedule::Schedule;

/// A window of failure, and the check that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its number in the list that the design started from.
    pub number: u8,
    /// The check.
    pub check: &'static str,
    /// What happens there.
    pub what: &'static str,
    /// The rules of ours that close it.
    pub closed_by: &'static str,
    /// It is found within so many schedules: several times what it took when this was written.
    pub within: u64,
}

const fn window(number: u8, check: &'static str, within: u64, closed_by: &'static str, what: &'static str) -> Window {
    Window { number, check, what, closed_by, within }
}

/// All that the model has. The others of the list are about the end of a batch, callbacks, missing handlers and speed.
pub const WINDOWS: [Window; 15] = [
    window(1, CONSERVATION, 500, "O2", "the outcome cannot be written, and the row is untracked all the same"),
    window(
        2,
        CONSERVATION,
        1000,
        "C1, C2",
        "a crash between the claim's commit and its tracking, or the commit's answer is lost",
    ),
    window(
        3,
        CONSERVATION,
        3000,
        "S1",
        "SIGTERM between claim and tracking: rows in progress, in no set, and the grace is over",
    ),
    window(4, CONSERVATION, 2000, "C1, R4", "nobody is there until the dead worker's set has run out"),
    window(5, CONSERVATION, 1000, "C1, R2", "Redis loses its data, then the owner dies"),
    window(
        6,
        CONSERVATION,
        1000,
        "S1",
        "an orderly shutdown with rows left: scans go by the registry, which it has left",
    ),
    window(
        7,
        CONSERVATION,
        100_000,
        "C1, R3",
        "a recoverer deletes a set while its owner, who lives, puts new rows into it",
    ),
    window(8, PROGRESS, 500, "O6", "a handler hangs, and its worker's heartbeat goes on"),
    window(
        11,
        ONE_OUTCOME,
        1000,
        "O1",
        "a worker that was given up comes back and writes over the new owner's outcome",
    ),
    window(12, OWNERSHIP, 8000, "R3", "two recoverers read one set: the second takes the row from its new owner"),
    window(13, INNOCENCE, 8000, "R2", "Redis is away until heartbeats have run out: the sets are still there"),
    window(14, INNOCENCE, 8000, "R3", "the heartbeat is renewed between a scan's look and its reset"),
    window(15, CONSERVATION, 1000, "S2", "abort while rows run: late outcomes replace `aborted`, counts stay"),
    window(17, ONE_OUTCOME, 500, "O2", "the write of a success fails, its fallback does not: recorded as failed"),
    window(18, POISON, 500, "P2", "a row kills its process, and nobody counts"),
];

impl Window {
    /// The finding of a schedule's run that shows it. Deadly and hanging rows are left to their own windows.
    pub fn shown_by<'run>(self, schedule: &Schedule, run: &'run Run) -> Option<&'run Finding> {
        let options = &schedule.options;
        if options.poison_rows > 0 && self.number != 18 || options.hanging_per_mille > 0 && self.number != 8 {
            return None;
        }
        run.findings.iter().find(|finding| finding.check == self.check && finding.cause == Cause::Window(self.number))
    }
}

/// The schedule of a seed, with the second witness, which the original cannot do without.
pub fn schedule(seed: u64) -> Schedule {
    let mut schedule = Schedule::from_seed(seed);
    schedule.options.liveness = true;
    schedule
}

/// A window, and the schedules that showed it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which.
    pub window: Window,
    /// How many schedules it took.
    pub schedules: u64,
    /// The last of them, and a few more, as one may shrink better than another.
    pub failing: Vec<Schedule>,
}

/// So many are kept.
const FAILING_MAX: usize = 6;

/// What a search came to.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Windows of the list.
    pub found: Vec<Found>,
    /// What else failed, with the number of schedules it took.
    pub others: Vec<(u64, Finding)>,
}

/// Runs the schedules of these seeds until all the wanted windows are found.
pub fn search(seeds: Range<u64>, wanted: &[Window]) -> Search {
    let mut search = Search::default();
    let mut seen = BTreeSet::new();
    let first = seeds.start;
    for seed in seeds {
        if search.found.len() == wanted.len() {
            break;
        }
        let (schedule, schedules) = (schedule(seed), seed - first + 1);
        let run = run(&schedule);
        for window in wanted {
            if window.shown_by(&schedule, &run).is_some() {
                search.note(*window, schedules, &schedule);
            }
        }
        for finding in run.findings {
            if matches!(finding.cause, Cause::Other(_)) && seen.insert((finding.check, finding.cause)) {
                search.others.push((schedules, finding));
            }
        }
    }
    search.found.sort_by_key(|found| found.window.number);
    search
}

impl Search {
    fn note(&mut self, window: Window, schedules: u64, schedule: &Schedule) {
        match self.found.iter_mut().find(|found| found.window == window) {
            None => self.found.push(Found { window, schedules, failing: vec![schedule.clone()] }),
            Some(found) if found.failing.len() < FAILING_MAX => found.failing.push(schedule.clone()),
            Some(_) => {}
        }
    }
}
