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
