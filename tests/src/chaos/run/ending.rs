//! The end of a run: everybody leaves, what happened is checked and told.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::checks::{self, Evidence};
use super::super::health::{Deaths, Surroundings};
use super::super::kind::Kind;
use super::super::ledger::{self, CALLS, LEDGER};
use super::super::link::Link;
use super::super::options::On;
use super::super::probe::Probe;
use super::super::report::{Applied, Findings, Report};
use super::Run;

impl Run {
    /// Everybody leaves; then what happened is checked.
    pub(super) fn finish(
        mut self,
        runtime: &tokio::runtime::Runtime,
        not_here: BTreeMap<Kind, &'static str>,
        healing: Duration,
    ) -> Report {
        self.log.say("all has ended; the workers leave");
        self.fleet.leave();
        if self.options.on == On::Sqlite {
            // All there is was there by now.
            self.look_now(runtime);
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
        let kills = counts.iter().filter(|(kind, _)| kind.kills()).map(|(_, times)| times).sum::<u64>();
        findings.violations.extend(vacuous(kills + findings.killed_by_rows, findings.deaths));
        if self.options.every_kind && self.stopped.is_none() {
            for (kind, _) in faults.iter().filter(|(_, applied)| **applied == Applied::Times(0)) {
                findings.violations.push(format!("runner: {kind:?} was never applied"));
            }
        }
        let links = fleet.places.iter().flat_map(|place| [&place.store, &place.redis]).chain([&self.way]).flatten();
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
            stopped: self.stopped,
            kept: None,
        };
        // Whoever stops a run may want to see why.
        if report.holds() && report.stopped.is_none() && !self.options.keep {
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

/// After so many kills, invariant 6 must have been asked of a death.
const KILLS_MANY: u64 = 10;

/// A run whose machine was too slow, too often, has not asked how soon dead workers' leases ended.
fn vacuous(kills: u64, deaths: Deaths) -> Option<String> {
    let vacuous = kills >= KILLS_MANY && deaths.judged == 0;
    vacuous.then(|| {
        format!("runner: {kills} workers were killed, and of none was it asked how soon its lease ended: {deaths:?}")
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_of_which_none_is_judged_are_a_finding() {
        let deaths = |judged, excused| Deaths { judged, excused };
        assert!(vacuous(10, deaths(0, 10)).is_some_and(|finding| finding.starts_with("runner: 10 workers")));
        assert!(vacuous(10, deaths(0, 0)).is_some(), "nobody saw them");
        assert!(vacuous(9, deaths(0, 9)).is_none(), "too few to tell");
        assert!(vacuous(100, deaths(1, 99)).is_none());
    }
}
