//! The checks after a run, when all is healed and everybody has left.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::BatchId;

use super::facts::Facts;
use super::fleet::{Life, ProcessKey};
use super::health::Surroundings;
use super::ledger::Run;
use super::operators::Register;
use super::options::{Drawn, Options};
use super::report::Findings;
use super::servers::Servers;

mod attempts;
mod begins;
mod calls;
mod effects;
mod history;
mod leases;
mod outcomes;
mod poison;
mod repeats;
mod results;
mod submitted;

/// How many violations of one check are told.
const TOLD: usize = 5;

/// What is checked.
pub struct Evidence<'a> {
    /// What the run was given.
    pub options: &'a Options,
    /// What its seed drew.
    pub drawn: &'a Drawn,
    /// The store.
    pub servers: &'a Servers,
    /// What was submitted.
    pub register: &'a Register,
    /// The handlers' runs.
    pub runs: &'a [Run],
    /// The completion calls; the line of each is its generation.
    pub calls: &'a [Run],
    /// What was around the workers.
    pub surroundings: &'a Surroundings,
    /// The worker processes.
    pub lives: &'a BTreeMap<ProcessKey, Life>,
    /// Of a store in a file: the changes that were there when somebody looked, and when that was.
    pub whole_at: &'a [Look],
}

/// A look at a store in a file: no transaction is under way for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// How many changes there were.
    pub changes: i64,
    /// When it began, in microseconds since 1970.
    pub from_us: i64,
    /// When it was over.
    pub at_us: i64,
}

/// Checks all of it.
pub async fn all(evidence: &Evidence<'_>) -> Findings {
    let mut findings = Findings::default();
    let facts = history::read(evidence, &mut findings).await;
    let mut say = Say { findings: &mut findings };
    for (check, what) in &facts.broken {
        say.wrong(check, || what.clone());
    }
    leases::known_deaths(&facts, evidence.lives, &mut say);
    leases::endurance(&facts, evidence.lives, &mut say);
    leases::check(&facts, evidence, &mut say);
    calls::check(&facts, &by_line(evidence.calls), &mut say);
    let by_line = by_line(evidence.runs);
    poison::check(&facts, evidence, &mut say);
    submitted::strangers(&facts, evidence.register, &mut say);
    for batch in &evidence.register.batches {
        outcomes::check(&facts, batch, &by_line, &mut say);
    }
    repeats::check(&facts, &by_line, &mut say);
    attempts::check(&facts, &by_line, &mut say);
    begins::check(&facts, evidence, &mut say);
    effects::check(&facts, evidence, &mut say).await;
    results::check(&facts, evidence, &mut say);
    count(&facts, evidence, &mut findings);
    findings
}

struct Say<'a> {
    findings: &'a mut Findings,
}

impl Say<'_> {
    fn wrong(&mut self, check: &str, what: impl FnOnce() -> String) {
        let told = self.findings.violations.iter().filter(|told| told.starts_with(check)).count();
        if told < TOLD {
            self.findings.violations.push(format!("{check}: {}", what()));
        }
    }
}

fn number(batch: &str) -> i64 {
    let id: BatchId = batch.parse().expect("an id");
    i64::try_from(id.number()).expect("it fits")
}

fn by_line(runs: &[Run]) -> BTreeMap<(i64, u64), Vec<&Run>> {
    let mut by_line: BTreeMap<(i64, u64), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_line.entry((number(&run.batch), run.line)).or_default().push(run);
    }
    by_line.values_mut().for_each(|runs| runs.sort_by_key(|run| run.token));
    by_line
}

fn count(facts: &Facts, evidence: &Evidence<'_>, findings: &mut Findings) {
    findings.batches = evidence.register.batches.len() as u64;
    let among =
        |is: fn(&super::facts::BatchFacts) -> bool| facts.batches.values().filter(|batch| is(batch)).count() as u64;
    findings.aborted = among(|batch| batch.status == "aborted");
    findings.purged = among(|batch| batch.purged);
    for outcome in facts.outcomes.values().flatten().filter(|outcome| !outcome.superseded) {
        *findings.outcomes.entry(if outcome.success { "success" } else { "failed" }).or_default() += 1;
    }
    findings.runs = evidence.runs.len() as u64;
    findings.fenced = facts.count("fenced");
    for lease in facts.leases.values().filter(|lease| lease.state != "live" && lease.state != "dropped") {
        *findings.recoveries.entry(lease.state.clone()).or_default() += 1;
    }
    let details: BTreeSet<(i64, &str)> = facts
        .log
        .values()
        .flatten()
        .filter(|entry| entry.kind == "recovered")
        .map(|entry| (entry.lease, entry.detail.as_str()))
        .collect();
    for (_, detail) in details {
        *findings.recoveries.entry(format!("with rows: {detail}")).or_default() += 1;
    }
}
