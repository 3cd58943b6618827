//! Runs: each was claimed, and each beyond a line's first has a known cause.

use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::Facts;
use super::super::ledger::Run;
use super::Say;

/// Each run was claimed, no token ran twice (L6), and for each run after a line's first the log says what ended the one before.
pub fn check(facts: &Facts, by_line: &BTreeMap<(i64, u64), Vec<&Run>>, say: &mut Say<'_>) {
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
