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
    if aborted && batch.aborts == Said::Not {
        say.wrong("outcomes", || format!("{id} is aborted and nobody aborted it"));
    }
    if !aborted && batch.aborts == Said::Done {
        say.wrong("outcomes", || format!("{id} was aborted, as its operator was told, and is {}", there.status));
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

#[cfg(test)]
mod tests {
    use fencepost_core::BatchId;

    use super::super::super::facts::BatchFacts;
    use super::super::super::operators::Appended;
    use super::super::super::report::Findings;
    use super::super::super::rows::Op;
    use super::*;

    fn row(id: u64, does: Does) -> Row {
        Row { id, ms: 1, does }
    }

    fn success(token: u64, row: Row) -> OutcomeFacts {
        OutcomeFacts { token, success: true, text: row.result().to_string(), superseded: false }
    }

    /// What is found of a batch of two rows, the second of which fails; each is run under the token of its outcome, 10 and 20.
    fn found(change: impl FnOnce(&mut Facts, &mut Batch, &mut Vec<Run>)) -> Vec<String> {
        let (one, two) = (row(1, Does::Succeed), row(2, Does::Fail));
        let id = BatchId::from_random(1).to_string();
        let mut batch = Batch {
            id: id.clone(),
            op: Op::Plain,
            rows: vec![one, two],
            appends: Vec::new(),
            crashes_max: 1000,
            aborts: Said::Not,
        };
        let mut facts = Facts::default();
        let there = BatchFacts { status: "failed".to_owned(), total: 2, ..BatchFacts::default() };
        facts.batches.insert(1, there);
        facts.outcomes.insert((1, 1), vec![success(10, one)]);
        let failed = OutcomeFacts { token: 20, success: false, text: two.error(), superseded: false };
        facts.outcomes.insert((1, 2), vec![failed]);
        let run = |line, token| Run { batch: id.clone(), line, token, attempt: 1, pid: 1, at_us: 0 };
        let mut runs = vec![run(1, 10), run(2, 20)];
        change(&mut facts, &mut batch, &mut runs);
        let mut by_line: BTreeMap<(i64, u64), Vec<&Run>> = BTreeMap::new();
        for run in &runs {
            by_line.entry((1, run.line)).or_default().push(run);
        }
        let mut findings = Findings::default();
        check(&facts, &batch, &by_line, &mut Say { findings: &mut findings });
        findings.violations
    }

    fn finds(what: &str, change: impl FnOnce(&mut Facts, &mut Batch, &mut Vec<Run>)) {
        let found = found(change);
        assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
    }

    #[test]
    fn each_row_has_the_outcome_that_it_says_of_a_run_that_was_noted() {
        assert_eq!(found(|_, _, _| ()), [""; 0]);
        finds("line 2 was never run", |_, _, runs| drop(runs.pop()));
        finds("line 2 was never run", |_, _, runs| runs[1].token = 19);
        finds("line 2 has outcomes []", |facts, _, _| drop(facts.outcomes.remove(&(1, 2))));
        finds("line 1 has outcomes [", |facts, batch, _| {
            let more = success(11, batch.rows[0]);
            facts.outcomes.entry((1, 1)).or_default().push(more);
        });
        finds("came out as", |facts, batch, _| {
            facts.outcomes.insert((1, 2), vec![success(20, batch.rows[1])]);
        });
        finds("is not there", |facts, _, _| facts.batches.clear());
        finds("is open", |facts, _, _| facts.batches.entry(1).or_default().status = "open".to_owned());
    }

    #[test]
    fn an_aborted_batch_may_lack_outcomes_if_somebody_aborted_it() {
        let abort = |facts: &mut Facts| {
            facts.batches.entry(1).or_default().status = "aborted".to_owned();
            facts.outcomes.remove(&(1, 2));
        };
        finds("nobody aborted it", |facts, _, _| abort(facts));
        assert_eq!(
            found(|facts, batch, _| {
                abort(facts);
                batch.aborts = Said::Unknown;
            }),
            [""; 0]
        );
        finds("as its operator was told, and is failed", |_, batch, _| batch.aborts = Said::Done);
        assert_eq!(found(|_, batch, _| batch.aborts = Said::Unknown), [""; 0]);
    }

    #[test]
    fn an_append_is_there_whole_or_not_at_all_as_its_command_said() {
        let append = |batch: &mut Batch, said| {
            batch.appends.push(Appended { rows: vec![row(3, Does::Succeed), row(4, Does::Succeed)], said });
        };
        let there = |facts: &mut Facts, runs: &mut Vec<Run>, lines: u64| {
            for line in 3..3 + lines {
                facts.outcomes.insert((1, line), vec![success(line * 10, row(line, Does::Succeed))]);
                runs.push(Run { line, token: line * 10, ..runs[0].clone() });
            }
            facts.batches.entry(1).or_default().total = 2 + lines;
        };
        for (said, lines) in [(Said::Done, 2), (Said::Not, 0), (Said::Unknown, 0), (Said::Unknown, 2)] {
            let found = found(|facts, batch, runs| {
                append(batch, said);
                there(facts, runs, lines);
            });
            assert_eq!(found, [""; 0], "{said:?} {lines}");
        }
        for (said, lines) in [(Said::Done, 0), (Said::Done, 1), (Said::Not, 2), (Said::Not, 1), (Said::Unknown, 1)] {
            finds("appends: ", |facts, batch, runs| {
                append(batch, said);
                there(facts, runs, lines);
            });
        }
    }
}
