//! Effects of transactional handlers (invariant 10).

use std::collections::BTreeSet;

use super::super::facts::Facts;
use super::super::rows::Op;
use super::{Evidence, Say, number};

/// One effect for each success that was ever recorded, of the run whose success it was; no other.
pub async fn check(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
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
