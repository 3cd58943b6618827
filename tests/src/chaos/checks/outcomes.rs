//! Outcomes: one of each row, and the one that the row says itself.

use std::collections::{BTreeMap, HashMap};

use super::super::facts::{Facts, OutcomeFacts};
use super::super::ledger::Run;
use super::super::operators::{Batch, Said};
use super::super::rows::{Does, Row};
use super::{Say, number, poison};

/// Every row has one outcome, that which it says itself, of a run that its handler noted; in an aborted batch it may have none.
pub fn check(facts: &Facts, batch: &Batch, by_line: &BTreeMap<(i64, u64), Vec<&Run>>, say: &mut Say<'_>) {
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
