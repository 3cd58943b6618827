//! Leases: whether they ended when they should, and only then (invariants 5 and 6, R1), and who gave up (O2).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost_core::{LeaseId, Timing};
use fencepost_model::history::{Event, LeaseEnd};

use super::super::facts::Facts;
use super::super::fleet::{Life, ProcessKey};
use super::super::health::{self, Asked, Spell};
use super::super::options::On;
use super::{Evidence, Say};
use crate::history::replay::lease_id;

/// R1: nobody is declared dead on a known death who lives.
pub fn known_deaths(facts: &Facts, lives: &BTreeMap<ProcessKey, Life>, say: &mut Say<'_>) {
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
pub fn check(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
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
    say.findings.deaths = health::deaths(&changes, evidence.lives, evidence.surroundings);
    let took = health::recoveries_us(&changes, evidence.lives);
    let at = |place: usize| Duration::from_micros(took.get(place).map_or(0, |took| took.unsigned_abs()));
    say.findings.recovered = (took.len() as u64, at(took.len() / 2), at(took.len().saturating_sub(1)));
    let sum = |spells: &[Spell]| spells.iter().map(|spell| (spell.until_us - spell.from_us).unsigned_abs()).sum();
    say.findings.slow = Duration::from_micros(sum(&evidence.surroundings.slow));
    say.findings.away = Duration::from_micros(sum(&evidence.surroundings.away));
}

/// O2: a worker that works does not give up, however long the store is away; one that starts may.
pub fn endurance(facts: &Facts, lives: &BTreeMap<ProcessKey, Life>, say: &mut Say<'_>) {
    for process in facts.leases.values().filter_map(|lease| lease.process) {
        if lives.get(&process).is_some_and(|life| life.gave_up) {
            say.wrong("endurance", || format!("process {} had a lease, was not told to leave, and gave up", process.0));
        }
    }
}
