//! What a run says in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::health::Deaths;
use super::kind::Kind;
use super::options::{Drawn, Options};

/// What became of a kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// So often.
    Times(u64),
    /// This machine cannot do it.
    NotHere(&'static str),
}

/// A run was told to stop in the midst of its plan; all was healed and checked as it is in the end of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// By this signal.
    pub signal: i32,
    /// So many steps of its plan were not done.
    pub steps_left: usize,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "told to stop by signal {}, with {} steps of the plan not done", self.signal, self.steps_left)
    }
}

/// What the checks found out besides violations.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// What must not happen, and did.
    pub violations: Vec<String>,
    /// Batches that were submitted.
    pub batches: u64,
    /// Of those: ended by an operator's abort.
    pub aborted: u64,
    /// Of those: purged by the end.
    pub purged: u64,
    /// Rows that have an outcome, by success or not.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Runs that handlers noted.
    pub runs: u64,
    /// Runs beyond a line's first, by what ended the one before.
    pub repeats: BTreeMap<String, u64>,
    /// Answers that came too late and were dropped.
    pub fenced: u64,
    /// Leases that others ended, by why.
    pub recoveries: BTreeMap<String, u64>,
    /// Poison rows that were submitted.
    pub poison_rows: u64,
    /// Workers that they killed.
    pub killed_by_rows: u64,
    /// Rows that failed by crashes of their own, poison or not.
    pub failed_by_crashes: u64,
    /// Completion calls that commands noted.
    pub calls: u64,
    /// Ends of batches that were told by them.
    pub ends_told: u64,
    /// Calls beyond an end's first, by what ended the one before.
    pub calls_repeated: BTreeMap<&'static str, u64>,
    /// Leases of killed workers that others ended: how many, and how long after the kill, in the middle and at most.
    pub recovered: (u64, Duration, Duration),
    /// Deaths that invariant 6 was asked of, and those that it was not.
    pub deaths: Deaths,
    /// Runs that began after their licence, right after a standstill: they may have been started before it.
    pub after_standstill: u64,
    /// For so long the machine was slower than leases are asked of.
    pub slow: Duration,
    /// For so long the store answered nobody.
    pub away: Duration,
    /// Effects of transactional handlers.
    pub effects: u64,
    /// Transactions that the checkers judged.
    pub transactions: u64,
    /// Snapshots of a store in a file that they judged instead.
    pub snapshots: u64,
}

/// All that a run says.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it was given.
    pub options: Options,
    /// What its seed drew.
    pub drawn: Drawn,
    /// How often each fault was applied.
    pub faults: BTreeMap<Kind, Applied>,
    /// Faults that met nothing that they could have been done to.
    pub missed: u64,
    /// Operators' commands that were refused: the batch had ended meanwhile.
    pub refused: u64,
    /// Operators' commands that were repeated because their end was unknown.
    pub repeated: u64,
    /// Connections that were cut between a request's deed and its answer.
    pub cuts: u64,
    /// Workers that left because their name was in use.
    pub name_in_use: u64,
    /// From the last fault to the last batch's end.
    pub healing: Duration,
    /// What was found.
    pub findings: Findings,
    /// It was told to stop.
    pub stopped: Option<Stopped>,
    /// Where all is kept, of a run that failed or was stopped.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn holds(&self) -> bool {
        self.findings.violations.is_empty()
    }

    /// How many faults were applied, operators' commands not counted.
    pub fn applied(&self) -> u64 {
        let faults = self.faults.iter().filter(|(kind, _)| !kind.is_of_operators());
        faults.map(|(_, applied)| if let Applied::Times(times) = applied { *times } else { 0 }).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, drawn, findings, .. } = self;
        writeln!(f, "seed {}\n{options:?}\n{drawn:?}", options.seed)?;
        let times = |applied: &Applied| if let Applied::Times(times) = applied { *times } else { 0 };
        let (operators, faults): (Vec<_>, Vec<_>) = self.faults.iter().partition(|(kind, _)| kind.is_of_operators());
        for (what, kinds) in [("faults", faults), ("operators' commands", operators)] {
            writeln!(f, "\n{what}: {}", kinds.iter().map(|(_, applied)| times(applied)).sum::<u64>())?;
            for (kind, applied) in kinds {
                match applied {
                    Applied::Times(times) => writeln!(f, "  {:<20}{times:>6}", format!("{kind:?}"))?,
                    Applied::NotHere(why) => writeln!(f, "  {:<20}not applied: {why}", format!("{kind:?}"))?,
                }
            }
        }
        writeln!(f, "  missed their mark     {}", self.missed)?;
        writeln!(f, "  commands refused      {}", self.refused)?;
        writeln!(f, "  commands repeated     {}", self.repeated)?;
        writeln!(f, "\nconnections cut after the deed: {}", self.cuts)?;
        writeln!(f, "workers that left because their name was in use: {}", self.name_in_use)?;
        let Findings { batches, aborted, purged, runs, fenced, effects, transactions, snapshots, .. } = findings;
        writeln!(f, "\nbatches: {batches}, of them aborted {aborted}, purged {purged}")?;
        writeln!(f, "outcomes: {:?}", findings.outcomes)?;
        writeln!(f, "runs: {runs}; repeats by what ended the run before: {:?}", findings.repeats)?;
        writeln!(f, "fenced answers: {fenced}")?;
        writeln!(f, "leases ended by others: {:?}", findings.recoveries)?;
        let (count, middle, longest) = findings.recovered;
        writeln!(
            f,
            "leases of killed workers: {count}, ended {middle:.1?} after the kill in the middle, {longest:.1?} at most"
        )?;
        let Deaths { judged, excused } = findings.deaths;
        writeln!(
            f,
            "deaths whose bound (invariant 6) counted from the death: {judged}; from later, all judges being disturbed: {excused}"
        )?;
        writeln!(f, "runs noted late, right after a standstill: {}", findings.after_standstill)?;
        writeln!(f, "store away: {:.1?}; machine slow: {:.1?}", findings.away, findings.slow)?;
        let Findings { poison_rows, killed_by_rows, failed_by_crashes, calls, ends_told, calls_repeated, .. } =
            findings;
        writeln!(
            f,
            "poison rows: {poison_rows}; workers killed by rows: {killed_by_rows}; rows failed by their crashes: {failed_by_crashes}"
        )?;
        writeln!(
            f,
            "completion calls: {calls}, of {ends_told} ends; repeats by what ended the call before: {calls_repeated:?}"
        )?;
        writeln!(f, "effects: {effects}")?;
        writeln!(f, "judged by the model's checkers: transactions {transactions}, snapshots of a file {snapshots}")?;
        writeln!(f, "all ended {:.1} s after the last fault", self.healing.as_secs_f64())?;
        for violation in &findings.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "kept: {}", kept.display())?;
        }
        match (self.holds(), self.stopped) {
            (true, None) => write!(f, "result: all holds"),
            (true, Some(stopped)) => {
                write!(f, "result: STOPPED: {stopped}; what was done until then is checked, and holds")
            }
            (false, None) => write!(f, "result: FAILED"),
            (false, Some(stopped)) => write!(f, "result: FAILED ({stopped})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::options::On;
    use super::*;

    #[test]
    fn a_run_that_was_stopped_says_so_and_does_not_say_that_it_failed() {
        let options = Options {
            on: On::Sqlite,
            seed: 1,
            faults_for: Duration::ZERO,
            fault_every: Duration::from_secs(1),
            workers: 4,
            durable: false,
            every_kind: true,
            keep: false,
        };
        let result = |violations: &[&str], stopped| {
            let violations = violations.iter().map(|&violation| violation.to_owned()).collect();
            let report = Report {
                options,
                drawn: Drawn::of(&options),
                faults: BTreeMap::new(),
                missed: 0,
                refused: 0,
                repeated: 0,
                cuts: 0,
                name_in_use: 0,
                healing: Duration::ZERO,
                findings: Findings { violations, ..Findings::default() },
                stopped,
                kept: None,
            };
            report.to_string().lines().last().map(str::to_owned).unwrap_or_default()
        };
        let stopped = Some(Stopped { signal: 15, steps_left: 7 });
        assert_eq!(result(&[], None), "result: all holds");
        assert_eq!(result(&["liveness: no"], None), "result: FAILED");
        let said = result(&[], stopped);
        assert!(said.starts_with("result: STOPPED") && said.contains("signal 15, with 7 steps"), "{said}");
        let both = result(&["liveness: no"], stopped);
        assert!(both.starts_with("result: FAILED") && both.contains("signal 15"), "{both}");
    }
}
