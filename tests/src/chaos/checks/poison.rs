//! Poison rows (invariant 9): each fails by its crashes, and takes no other row with it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::{Facts, OutcomeFacts};
use super::super::operators::Batch;
use super::super::rows::{Does, Row};
use super::{Evidence, Say, number};

/// The lines that are poison.
fn poison_lines(batches: &[Batch]) -> BTreeSet<(i64, u64)> {
    let of_batch = |batch: &Batch| -> Vec<(i64, u64)> {
        let lines = (1..).zip(&batch.rows).filter(|(_, row)| row.does == Does::KillItsWorker);
        lines.map(|(line, _)| (number(&batch.id), line)).collect()
    };
    batches.iter().flat_map(of_batch).collect()
}

/// Whether this outcome is the failure of a row by its crashes: as many as it says were charged to it since an operator last had it
/// run again, and at least as many as its batch allows. (That a poison row has no other outcome is [`super::outcomes`]'s to see.)
pub fn is_by_crashes(facts: &Facts, batch: &Batch, at: (i64, u64), outcome: &OutcomeFacts, row: &Row) -> bool {
    let told = outcome.text.strip_prefix("its worker died ");
    let told = told.and_then(|text| text.strip_suffix(" times while it ran this row and no other"));
    let Some(told) = told.and_then(|count| count.parse::<usize>().ok()) else { return false };
    let crashes = facts.crashes_of(at, outcome);
    let counted = crashes.iter().filter(|crash| !crash.withdrawn).count();
    // One may have been taken back beside the outcome, or after it. A poison row's worker is dead and takes nothing back.
    let right =
        if row.does == Does::KillItsWorker { counted == told } else { (counted..=crashes.len()).contains(&told) };
    !outcome.success && right && told >= usize::try_from(batch.crashes_max).unwrap_or(usize::MAX)
}

/// Whoever was killed, and not by the runner, ran a poison row; and no crash of another row is that death's.
pub fn check(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
    let poison = poison_lines(&evidence.register.batches);
    say.findings.poison_rows = poison.len() as u64;
    // The poison that each process ran, with the lease that it ran it under.
    let mut ran: BTreeMap<u32, BTreeSet<Option<i64>>> = BTreeMap::new();
    for run in evidence.runs.iter().filter(|run| poison.contains(&(number(&run.batch), run.line))) {
        let lease = facts.claims.get(&run.token).map(|claim| claim.lease);
        ran.entry(run.pid).or_default().insert(lease);
    }
    for (key, _) in evidence.lives.iter().filter(|(_, life)| life.killed_by_row) {
        if ran.contains_key(&key.0) {
            say.findings.killed_by_rows += 1;
        } else {
            say.wrong("poison", || format!("process {} was killed, and neither the runner nor a row did it", key.0));
        }
    }
    for (at, crashes) in facts.crashes.iter().filter(|(at, _)| !poison.contains(at)) {
        for crash in crashes {
            let process = facts.leases.get(&crash.lease).and_then(|lease| lease.process);
            let by_row = process.filter(|process| evidence.lives.get(process).is_some_and(|life| life.killed_by_row));
            if by_row.is_some_and(|(pid, _)| ran.get(&pid).is_some_and(|leases| leases.contains(&Some(crash.lease)))) {
                say.wrong("poison", || {
                    format!("batch {} line {} is charged another row's crash: {crash:?}", at.0, at.1)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::CrashFacts;
    use super::super::super::operators::Said;
    use super::super::super::rows::Op;
    use super::*;

    #[test]
    fn a_row_fails_by_as_many_crashes_as_it_says_and_its_batch_allows() {
        let row = |does| Row { id: 1, ms: 1, does };
        let batch = |crashes_max| Batch {
            id: String::new(),
            op: Op::Effects,
            rows: Vec::new(),
            appends: Vec::new(),
            crashes_max,
            aborts: Said::Not,
        };
        let crash = |token, withdrawn| CrashFacts { token, lease: 1, withdrawn };
        let outcome = |token, times: u64, superseded| OutcomeFacts {
            token,
            success: false,
            text: format!("its worker died {times} times while it ran this row and no other"),
            superseded,
        };
        let is = |crashes: Vec<CrashFacts>, before: Option<OutcomeFacts>, times, crashes_max, does| {
            let last = outcome(100, times, false);
            let mut facts = Facts::default();
            facts.crashes.insert((1, 1), crashes);
            facts.outcomes.insert((1, 1), before.into_iter().chain([last.clone()]).collect());
            is_by_crashes(&facts, &batch(crashes_max), (1, 1), &last, &row(does))
        };
        let three = || vec![crash(10, false), crash(20, false), crash(30, false)];
        for does in [Does::KillItsWorker, Does::Succeed] {
            assert!(is(three(), None, 3, 3, does));
            assert!(!is(three()[1..].to_vec(), None, 3, 3, does), "one crash is not its own");
            assert!(!is(three(), None, 3, 4, does), "too early");
            assert!(!is(three(), None, 2, 2, does), "it says less");
            let retried = Some(outcome(15, 1, true));
            assert!(!is(three(), retried.clone(), 3, 3, does), "one is from before the operator's retry");
            assert!(is(three(), retried, 2, 2, does));
        }
        let withdrawn = || vec![crash(10, true), crash(20, false), crash(30, false)];
        assert!(is(withdrawn(), None, 3, 3, Does::Succeed));
        assert!(!is(withdrawn(), None, 3, 3, Does::KillItsWorker));
    }
}
