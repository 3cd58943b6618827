//! The end of a run: everybody leaves, what happened is checked and told.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::checks::{self, Evidence, Look};
use super::super::fleet::now_us;
use super::super::health::Surroundings;
use super::super::kind::Kind;
use super::super::ledger::{self, CALLS, LEDGER};
use super::super::link::Link;
use super::super::options::On;
use super::super::probe::Probe;
use super::super::report::{Applied, Findings, Report};
use super::super::run_log::told_to_stop;
use super::{LAST_CHANGE, Run};

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
