//! What the product itself says of its batches.

use super::super::facts::Facts;
use super::super::operators::Batch;
use super::super::verify;
use super::{Evidence, Say, number};
use crate::process::run_fencepost;

/// What the command gives as results of the batches that are still there.
pub fn check(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
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
