//! Batches: those that were submitted, and no others.

use std::collections::BTreeSet;

use super::super::facts::Facts;
use super::super::operators::Register;
use super::{Say, number};

/// S3: who submits again under the same key gets the same batch, so there is none that nobody knows of, and each is one submit's.
pub fn strangers(facts: &Facts, register: &Register, say: &mut Say<'_>) {
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

#[cfg(test)]
mod tests {
    use fencepost_core::BatchId;

    use super::super::super::facts::BatchFacts;
    use super::super::super::operators::{Batch, Said};
    use super::super::super::report::Findings;
    use super::super::super::rows::Op;
    use super::*;

    fn found(submitted: &[u64], there: &[(i64, &str)]) -> Vec<String> {
        let batch = |number: &u64| Batch {
            id: BatchId::from_random(*number).to_string(),
            op: Op::Plain,
            rows: Vec::new(),
            appends: Vec::new(),
            crashes_max: 1,
            aborts: Said::Not,
        };
        let register = Register { batches: submitted.iter().map(batch).collect(), ..Register::default() };
        let mut facts = Facts::default();
        for &(number, status) in there {
            facts.batches.insert(number, BatchFacts { status: status.to_owned(), ..BatchFacts::default() });
        }
        let mut findings = Findings::default();
        strangers(&facts, &register, &mut Say { findings: &mut findings });
        findings.violations
    }

    #[test]
    fn a_batch_that_nobody_submitted_and_one_of_two_submits_are_seen() {
        let all = [(1, "success"), (2, "aborted")];
        assert_eq!(found(&[1, 2], &all), [""; 0]);
        assert_eq!(found(&[1, 2], &[all[0], all[1], (3, "loading")]), [""; 0], "a load that was cut off is no batch");
        let stranger = found(&[1], &all);
        assert!(stranger.len() == 1 && stranger[0].contains("nobody submitted batch 2"), "{stranger:?}");
        let twice = found(&[1, 1, 2], &all);
        assert!(twice.len() == 1 && twice[0].contains("two submits"), "{twice:?}");
    }
}
