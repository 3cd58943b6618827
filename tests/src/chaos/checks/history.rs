//! The store's history: what is known from it, and what the model's checkers say of it.

use super::super::facts::{Facts, read_file_behind};
use super::super::report::Findings;
use super::super::servers::{Store, connect};
use super::{Evidence, TOLD};
use crate::history::story::{self, Story};

/// Reads the store's history, and has the model's checkers judge it.
pub async fn read(evidence: &Evidence<'_>, findings: &mut Findings) -> Facts {
    let mut facts = Facts::default();
    match &evidence.servers.store {
        Store::Schema(schema, _) => {
            let mut conn = schema.connect().await;
            let mut transactions = 0;
            let violations = story::judge_and(&mut conn, |transaction| {
                transactions += 1;
                transaction
                    .changes
                    .iter()
                    .for_each(|change| facts.change(change, transaction.at_us, transaction.at_us));
            })
            .await;
            findings.transactions = transactions;
            findings.violations.extend(violations.iter().map(|violation| format!("history: {violation}")));
        }
        Store::File(file) => {
            let mut conn = connect(file).await;
            let (mut number, mut story, mut after_us) = (0, Story::default(), i64::MIN);
            let mut whole_at = evidence.whole_at.iter().peekable();
            loop {
                let page = read_file_behind(&mut conn, number).await;
                let Some(last) = page.last() else { break };
                number = last.number;
                for change in &page {
                    // Its own times are by clocks that were stepped.
                    let seen = whole_at.clone().find(|look| look.changes >= change.number);
                    facts.change(change, after_us, seen.map_or(i64::MAX, |look| look.at_us));
                    story.changes(change);
                    // Nothing changed between two looks.
                    let mut looked = false;
                    while let Some(look) = whole_at.next_if(|look| look.changes <= change.number) {
                        (looked, after_us) = (true, look.from_us);
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
