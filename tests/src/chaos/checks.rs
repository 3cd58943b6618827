//! The checks after a run, when all is healed and everybody has left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use fencepost_core::{BatchId, LeaseId, Timing};
use fencepost_model::history::{Event, LeaseEnd};

use super::facts::{Facts, OutcomeFacts, read_file_behind};
use super::fleet::{Life, ProcessKey};
use super::health::{self, Asked, Spell, Surroundings};
use super::ledger::Run;
use super::operators::{Batch, Register, Said};
use super::options::{Drawn, On, Options};
use super::report::Findings;
use super::rows::{Does, Op, Row};
use super::servers::{Servers, Store, connect};
use super::verify;
use crate::history::replay::lease_id;
use crate::history::story::{self, Story};
use crate::process::run_fencepost;

mod calls;
mod poison;

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
    /// When it was over, in microseconds since 1970.
    pub at_us: i64,
}

/// Checks all of it.
pub async fn all(evidence: &Evidence<'_>) -> Findings {
    let mut findings = Findings::default();
    let facts = history(evidence, &mut findings).await;
    let mut say = Say { findings: &mut findings };
    for broken in &facts.broken {
        say.wrong("fencing", || broken.clone());
    }
    known_deaths(&facts, evidence.lives, &mut say);
    endurance(&facts, evidence.lives, &mut say);
    leases(&facts, evidence, &mut say);
    calls::check(&facts, &by_line(evidence.calls), &mut say);
    let by_line = by_line(evidence.runs);
    poison::check(&facts, evidence, &mut say);
    strangers(&facts, evidence.register, &mut say);
    for batch in &evidence.register.batches {
        outcomes(&facts, batch, &by_line, &mut say);
    }
    repeats(&facts, &by_line, &mut say);
    effects(&facts, evidence, &mut say).await;
    results(&facts, evidence, &mut say);
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

/// Reads the store's history, and has the model's checkers judge it.
async fn history(evidence: &Evidence<'_>, findings: &mut Findings) -> Facts {
    let mut facts = Facts::default();
    match &evidence.servers.store {
        Store::Schema(schema, _) => {
            let mut conn = schema.connect().await;
            let mut transactions = 0;
            let violations = story::judge_and(&mut conn, |transaction| {
                transactions += 1;
                transaction.changes.iter().for_each(|change| facts.change(change, transaction.at_us));
            })
            .await;
            findings.transactions = transactions;
            findings.violations.extend(violations.iter().map(|violation| format!("history: {violation}")));
        }
        Store::File(file) => {
            let mut conn = connect(file).await;
            let (mut number, mut story) = (0, Story::default());
            let mut whole_at = evidence.whole_at.iter().peekable();
            loop {
                let page = read_file_behind(&mut conn, number).await;
                let Some(last) = page.last() else { break };
                number = last.number;
                for change in &page {
                    // Its own times are by clocks that were stepped.
                    let seen = whole_at.clone().find(|look| look.changes >= change.number);
                    facts.change(change, seen.map_or(i64::MAX, |look| look.at_us));
                    story.changes(change);
                    // Nothing changed between two looks.
                    let mut looked = false;
                    while whole_at.next_if(|look| look.changes <= change.number).is_some() {
                        looked = true;
                    }
                    if looked && findings.violations.len() < TOLD {
                        let violations = story.is_whole(change.number.unsigned_abs());
                        findings.violations.extend(violations.iter().map(|violation| format!("history: {violation}")));
                        findings.snapshots += 1;
                    }
                }
            }
            let violations = story.is_whole(u64::MAX);
            findings.violations.extend(violations.iter().map(|violation| format!("history: {violation}")));
        }
    }
    facts
}

fn number(batch: &str) -> i64 {
    let id: BatchId = batch.parse().expect("an id");
    i64::try_from(id.number()).expect("it fits")
}

/// R1: nobody is declared dead on a known death who lives.
fn known_deaths(facts: &Facts, lives: &BTreeMap<ProcessKey, Life>, say: &mut Say<'_>) {
    for entry in facts.log.values().flatten().filter(|entry| entry.kind == "recovered" && entry.detail == "died") {
        let process = facts.leases.get(&entry.lease).and_then(|lease| lease.process);
        let Some((pid, life)) = process.and_then(|process| Some((process.0, lives.get(&process)?))) else { continue };
        if life.alive_us > entry.at_us + health::DYING_US {
            say.wrong("innocence", || {
                format!(
                    "the lease of process {pid} is ended on its death at {}, and it lives at {}",
                    entry.at_us, life.alive_us
                )
            });
        }
    }
}

/// Invariants 5 and 6: leases end when they should, and only then.
fn leases(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
    let all = facts.log.values().flatten();
    let died: BTreeSet<LeaseId> =
        all.filter(|entry| entry.detail == "died").map(|entry| lease_id(entry.lease)).collect();
    let mut changes = facts.lease_changes.clone();
    // Its record does not tell a death that is known from one that is guessed: the log does, of a lease that held rows.
    for change in &mut changes {
        if let Event::LeaseEnded { lease, how: how @ LeaseEnd::Died, .. } = &mut change.event
            && !died.contains(lease)
        {
            *how = LeaseEnd::Lapsed;
        }
    }
    let asked = Asked {
        timing: Timing::from_ttl(evidence.drawn.ttl()),
        // Of a store in a file the times are those of looks, a fifth of a second apart.
        innocence: evidence.options.on != On::Sqlite,
        heartbeats_linger: evidence.options.on == On::Redis,
    };
    for violation in health::violations(&changes, evidence.lives, evidence.surroundings, asked) {
        say.wrong("leases", || violation);
    }
    let took = health::recoveries_us(&changes, evidence.lives);
    let at = |place: usize| Duration::from_micros(took.get(place).map_or(0, |took| took.unsigned_abs()));
    say.findings.recovered = (took.len() as u64, at(took.len() / 2), at(took.len().saturating_sub(1)));
    let sum = |spells: &[Spell]| spells.iter().map(|spell| (spell.until_us - spell.from_us).unsigned_abs()).sum();
    say.findings.slow = Duration::from_micros(sum(&evidence.surroundings.slow));
    say.findings.away = Duration::from_micros(sum(&evidence.surroundings.away));
}

/// O2: a worker that works does not give up, however long the store is away; one that starts may.
fn endurance(facts: &Facts, lives: &BTreeMap<ProcessKey, Life>, say: &mut Say<'_>) {
    for process in facts.leases.values().filter_map(|lease| lease.process) {
        if lives.get(&process).is_some_and(|life| life.gave_up) {
            say.wrong("endurance", || format!("process {} had a lease, was not told to leave, and gave up", process.0));
        }
    }
}

fn by_line(runs: &[Run]) -> BTreeMap<(i64, u64), Vec<&Run>> {
    let mut by_line: BTreeMap<(i64, u64), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_line.entry((number(&run.batch), run.line)).or_default().push(run);
    }
    by_line.values_mut().for_each(|runs| runs.sort_by_key(|run| run.token));
    by_line
}

/// S3: who submits again under the same key gets the same batch, so there is none that nobody knows of, and each is one submit's.
fn strangers(facts: &Facts, register: &Register, say: &mut Say<'_>) {
    let mut known = BTreeSet::new();
    for batch in &register.batches {
        if !known.insert(number(&batch.id)) {
            say.wrong("submitted", || format!("{} is the batch of two submits", batch.id));
        }
    }
    for (number, there) in &facts.batches {
        if there.status != "loading" && !known.contains(number) {
            say.wrong("submitted", || format!("nobody submitted batch {number}, and it is {}", there.status));
        }
    }
}

/// Every row has one outcome, that which it says itself, of a run that its handler noted; in an aborted batch it may have none.
fn outcomes(facts: &Facts, batch: &Batch, by_line: &BTreeMap<(i64, u64), Vec<&Run>>, say: &mut Say<'_>) {
    let (id, number) = (&batch.id, number(&batch.id));
    let Some(there) = facts.batches.get(&number) else {
        return say.wrong("submitted", || format!("{id} was submitted and is not there"));
    };
    let aborted = there.status == "aborted";
    if !aborted && there.status != "success" && there.status != "failed" {
        say.wrong("liveness", || format!("{id} is {}", there.status));
    }
    if aborted && !batch.aborts {
        say.wrong("outcomes", || format!("{id} is aborted and nobody aborted it"));
    }
    let mut behind: HashMap<u64, &Row> =
        batch.appends.iter().flat_map(|append| &append.rows).map(|row| (row.id, row)).collect();
    for line in 1..=there.total {
        let outcomes = facts.outcome(number, line);
        if outcomes.len() != 1 && !(aborted && outcomes.is_empty()) {
            say.wrong("outcomes", || format!("{id} line {line} has outcomes {outcomes:?}"));
            continue;
        }
        let Some(outcome) = outcomes.first() else { continue };
        let at = usize::try_from(line - 1).expect("few");
        let row = batch.rows.get(at).or_else(|| behind.remove(&id_of(outcome)?));
        match row {
            Some(row) if is_of(outcome, row) => {
                let runs = by_line.get(&(number, line)).map_or(&[][..], Vec::as_slice);
                if !runs.iter().any(|run| run.token == outcome.token) {
                    say.wrong("runs", || {
                        format!("{id} line {line} was never run under the token of {outcome:?}: {runs:?}")
                    });
                }
            }
            Some(row) if poison::is_by_crashes(facts, batch, (number, line), outcome, row) => {
                say.findings.failed_by_crashes += 1;
            }
            _ => say.wrong("outcomes", || format!("{id} line {line} is {row:?} and came out as {outcome:?}")),
        }
    }
    if aborted {
        return;
    }
    // All rows of an append or none.
    for append in &batch.appends {
        let missing = append.rows.iter().filter(|row| behind.contains_key(&row.id)).count();
        let right = match append.said {
            Said::Done => missing == 0,
            Said::Not => missing == append.rows.len(),
            Said::Unknown => missing == 0 || missing == append.rows.len(),
        };
        if !right {
            say.wrong("appends", || format!("{id} has not {missing} of {append:?}"));
        }
    }
    if there.total < batch.rows.len() as u64 {
        say.wrong("submitted", || format!("{id} has {} lines of {}", there.total, batch.rows.len()));
    }
}

fn is_of(outcome: &OutcomeFacts, row: &Row) -> bool {
    match row.does {
        // By its crashes alone.
        Does::KillItsWorker => false,
        Does::Fail => !outcome.success && outcome.text.contains(&row.error()),
        _ => {
            let result = row.result().to_string();
            outcome.success && outcome.text == result
        }
    }
}

/// The row's id that an outcome tells.
fn id_of(outcome: &OutcomeFacts) -> Option<u64> {
    if outcome.success {
        return serde_json::from_str::<serde_json::Value>(&outcome.text).ok()?["id"].as_u64();
    }
    // A command's exit code comes before it.
    let (_, told) = outcome.text.split_once("row ")?;
    told.strip_suffix(" fails")?.parse().ok()
}

/// Each run was claimed, no token ran twice (L6), and for each run after a line's first the log says what ended the one before.
fn repeats(facts: &Facts, by_line: &BTreeMap<(i64, u64), Vec<&Run>>, say: &mut Say<'_>) {
    for (&(batch, line), runs) in by_line {
        for run in runs {
            let claim = facts.claims.get(&run.token);
            if !claim.is_some_and(|claim| claim.batch == batch && claim.lines.contains(line)) {
                say.wrong("runs", || format!("{run:?} was never claimed: {claim:?}"));
            }
        }
        for pair in runs.windows(2) {
            if pair[0].token == pair[1].token {
                say.wrong("runs", || format!("one token ran twice: {pair:?}"));
                continue;
            }
            match ended_by(facts, batch, line, pair[0].token) {
                Some(cause) => *say.findings.repeats.entry(cause).or_default() += 1,
                None => say.wrong("repeats", || format!("nothing tells why {pair:?}")),
            }
        }
    }
}

/// What ended a line's hold under a token, so that it was free again.
fn ended_by(facts: &Facts, batch: i64, line: u64, token: u64) -> Option<String> {
    let causes: BTreeSet<String> = facts
        .told_of(batch, line, token)
        .filter_map(|entry| match entry.kind.as_str() {
            // With the last of them it has an outcome, until an operator takes that away.
            "recovered" | "crashed" => Some(format!("lease ended: {}", entry.detail)),
            "given_back" => Some("given back".to_owned()),
            "retried" if entry.detail.contains("ledger") => Some("no room for its ledger".to_owned()),
            "retried" => Some("asked for another try".to_owned()),
            "timed_out" => Some("timed out".to_owned()),
            "superseded" => Some("operator's retry".to_owned()),
            _ => None,
        })
        .collect();
    causes.into_iter().next()
}

/// One effect for each success that was ever recorded, of the run whose success it was; no other.
async fn effects(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
    let theirs: BTreeSet<i64> = evidence
        .register
        .batches
        .iter()
        .filter(|batch| batch.op == Op::Effects)
        .map(|batch| number(&batch.id))
        .collect();
    let there = evidence.servers.effects_there().await;
    say.findings.effects = there.len() as u64;
    let mut left = BTreeSet::new();
    for effect in there {
        if !left.insert(effect) {
            say.wrong("effects", || format!("{effect:?} is there twice"));
        }
    }
    for (&(batch, line), outcomes) in facts.outcomes.iter().filter(|((batch, _), _)| theirs.contains(batch)) {
        for outcome in outcomes.iter().filter(|outcome| outcome.success) {
            let (line, token) = (i64::try_from(line).expect("it fits"), i64::try_from(outcome.token).expect("it fits"));
            if !left.remove(&(batch, line, token)) {
                say.wrong("effects", || format!("batch {batch} line {line} succeeded under {token} and has no effect"));
            }
        }
    }
    for effect in left {
        say.wrong("effects", || format!("{effect:?} is there and no success was recorded"));
    }
}

/// What the command gives as results of the batches that are still there.
fn results(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
    let store = evidence.servers.url();
    let there = |batch: &&Batch| facts.batches.get(&number(&batch.id)).is_some_and(|there| !there.purged);
    // Enough of them: each is a process.
    for batch in evidence.register.batches.iter().rev().filter(there).take(20) {
        let number = number(&batch.id);
        let total = facts.batches[&number].total;
        let output = run_fencepost(["results", &batch.id, "--store", &store, "--format=jsonl"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = 0;
        for (at, told) in text.lines().enumerate() {
            let line = at as u64 + 1;
            lines = line;
            let told: serde_json::Value = serde_json::from_str(told).unwrap_or_default();
            let right = match facts.outcome(number, line).first() {
                Some(outcome) if outcome.success => {
                    let result = told["result"].to_string();
                    told["status"] == "success" && result == outcome.text
                }
                Some(outcome) => told["status"] == "failed" && told["error"] == outcome.text.as_str(),
                None => told["status"] == "aborted",
            };
            if told["line"] != line || !right {
                say.wrong("results", || format!("{} line {line}: {told}", batch.id));
            }
        }
        if lines != total {
            say.wrong("results", || format!("{} gives {lines} of {total} lines: {output:?}", batch.id));
        }
        for complaint in verify::complaints(&store, &batch.id) {
            say.wrong("verify", || complaint);
        }
    }
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
