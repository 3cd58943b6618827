//! `verify`: whether the promise was kept for a batch, by the store's own records; and a ledger of what happened. Pure: facts in, findings
//! out.
//!
//! | looking for | it is in |
//! |---|---|
//! | the facts | [`crate::store::verify`] |
//! | what can be wrong, by name | [`code`] |
//! | the judgement of a batch | `audit.rs` |
//! | of one line | `line.rs` |

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use fencepost_core::time::micros;
use fencepost_core::{BatchId, LeaseId, LineSet};
use serde_json::{Value, json};

use self::audit::Audit;
use self::code::Code;
use super::{Counts, RULE, SCHEMA_VERSION, headline, shown};
use crate::store::verify::{BatchFacts, EntryFact, Inspector, OutcomeFact};

mod audit;
pub mod code;
mod line;

/// At most so many tokens are kept of a finding.
const TOKENS_MAX: usize = 100;

/// JSON names at most so many ranges of lines of a finding.
const RANGES_MAX: usize = 1_000;

/// Text shows at most so many ranges, tokens or leases of a finding.
const SHOWN_MAX: usize = 20;

/// A verification under way: the store tells it the facts.
#[derive(Default)]
pub struct Verification(Option<Audit>);

impl Inspector for Verification {
    fn begin(&mut self, facts: BatchFacts) {
        self.0 = Some(Audit::new(facts));
    }

    fn entry(&mut self, entry: EntryFact) {
        if let Some(audit) = &mut self.0 {
            audit.entry(entry);
        }
    }

    fn outcome(&mut self, outcome: OutcomeFact) {
        if let Some(audit) = &mut self.0 {
            audit.outcome(outcome);
        }
    }
}

impl Verification {
    /// What came of it; nothing where the batch was not there.
    pub fn finish(self) -> Option<VerifyReport> {
        self.0.map(Audit::finish)
    }
}

/// What a batch's records show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The batch.
    pub batch: BatchId,
    /// Its key.
    pub key: Option<String>,
    /// Its operation.
    pub operation: String,
    /// `loading`, `open`, `held`, `success`, `failed` or `aborted`.
    pub status: &'static str,
    /// How many rows it has.
    pub rows: u64,
    /// What happened.
    pub ledger: Ledger,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// What happened to a batch's rows, counted from outcomes and log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Rows by status.
    pub counts: Counts,
    /// How many rows have run how often, as far as a run leaves a trace: an answer, a timeout, a crash, a late answer. One that was cut off
    /// with its worker, or cancelled, leaves none.
    pub runs: BTreeMap<u64, u64>,
    /// What else the log has.
    pub log: LogCounts,
    /// What was recovered.
    pub recoveries: Recoveries,
}

/// Entries of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCounts {
    /// Attempts that were tried again.
    pub retried: u64,
    /// Attempts that ran past their time.
    pub timed_out: u64,
    /// Deaths charged to a row.
    pub crashed: u64,
    /// Of these, those that a living worker took back.
    pub crash_withdrawn: u64,
    /// Rows that came back from ended leases.
    pub recovered: u64,
    /// Rows that their workers gave back.
    pub given_back: u64,
    /// Outcomes that operators' retries took away.
    pub superseded: u64,
    /// Late answers that the fence dropped: once for each row and token, however often they came.
    pub fenced: u64,
}

/// Leases that were declared dead with rows of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recoveries {
    /// How many.
    pub leases: usize,
    /// How long after its last sign of life each was declared dead, the shortest first; of those whose records are still there.
    pub delays: Vec<Duration>,
}

impl Recoveries {
    /// The shortest, the middle and the longest delay.
    fn spread(&self) -> Option<[Duration; 3]> {
        let [first, .., last] = self.delays.as_slice() else {
            return self.delays.first().map(|only| [*only; 3]);
        };
        Some([*first, self.delays[(self.delays.len() - 1) / 2], *last])
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// Which lines it is about, where it is about lines.
    pub lines: LineSet,
    /// Under which tokens: some of them, where they are many.
    pub tokens: Vec<u64>,
    /// Of which leases.
    pub leases: Vec<LeaseId>,
    /// More about it.
    pub detail: Option<String>,
}

impl Finding {
    fn found(&self) -> String {
        let detail = self.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
        format!("{}{detail}", self.code.found())
    }

    fn to_do(&self, batch: BatchId, store_option: &str) -> String {
        self.code.to_do(batch, self.lines.first(), store_option)
    }
}

/// The report as text. `store_option` stands behind the commands that it names: ` --store rows.db`, or nothing.
pub fn text(report: &VerifyReport, store_option: &str) -> String {
    let mut out = headline("Verification");
    let (id, operation) = (report.batch, shown(&report.operation));
    let _ = writeln!(out, "\nBatch: {id} ({}, {} rows, operation {operation})\n{RULE}", report.status, report.rows);
    ledger_text(&mut out, &report.ledger);
    let _ = writeln!(out, "\nFindings:\n{RULE}");
    if report.findings.is_empty() {
        let _ =
            writeln!(out, "ok       every row is accounted for exactly once, and all that is recorded of it agrees");
    }
    for finding in &report.findings {
        let _ = writeln!(out, "problem  {}: {}", finding.code.name(), shown(&finding.found()));
        if !finding.lines.is_empty() {
            let ranges = finding.lines.ranges();
            let listed = listed(ranges.iter().map(|range| format!("{range:?}")));
            let _ = writeln!(out, "         rows ({}): {listed}", finding.lines.count());
        }
        if !finding.tokens.is_empty() {
            let _ = writeln!(out, "         tokens: {}", listed(finding.tokens.iter()));
        }
        if !finding.leases.is_empty() {
            let _ = writeln!(out, "         leases: {}", listed(finding.leases.iter()));
        }
        let _ = writeln!(out, "         -> {}", finding.to_do(id, store_option));
    }
    let _ = writeln!(out, "\nproblems: {}", report.findings.len());
    out
}

fn ledger_text(out: &mut String, ledger: &Ledger) {
    let _ = writeln!(out, "Rows by outcome:");
    for (name, count) in ledger.counts.named() {
        let _ = writeln!(out, "  {:<10} {count}", format!("{name}:"));
    }
    let _ = writeln!(out, "\nRuns per row (those that left a trace):");
    for (runs, rows) in &ledger.runs {
        let _ = writeln!(out, "  {:<10} {rows} rows", format!("{runs}:"));
    }
    let log = &ledger.log;
    let _ = writeln!(
        out,
        "\nAttempts tried again: {} (ran past their time: {})",
        log.retried + log.timed_out,
        log.timed_out
    );
    let _ = writeln!(out, "Crashes charged to rows: {} (taken back: {})", log.crashed, log.crash_withdrawn);
    let _ = writeln!(out, "Rows given back by their workers: {}", log.given_back);
    let _ = writeln!(out, "Outcomes taken away by retries: {}", log.superseded);
    let _ = writeln!(out, "Late answers dropped by the fence: {} (each counted once)", log.fenced);
    let spread = ledger.recoveries.spread().map_or(String::new(), |[least, median, most]| {
        let seconds = |delay: Duration| format!("{:.3} s", delay.as_secs_f64());
        let (least, median, most) = (seconds(least), seconds(median), seconds(most));
        format!(", after their last sign of life: min {least}, median {median}, max {most}")
    });
    let _ = writeln!(
        out,
        "Rows recovered from dead workers: {} (dead workers: {}{spread})",
        log.recovered, ledger.recoveries.leases
    );
}

/// The first of them, and how many more there are.
fn listed<T: ToString>(all: impl ExactSizeIterator<Item = T>) -> String {
    let more = all.len().saturating_sub(SHOWN_MAX);
    let mut text = all.take(SHOWN_MAX).map(|one| one.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// As JSON.
pub fn json(report: &VerifyReport, store_option: &str) -> Value {
    let Ledger { counts, runs, log, recoveries } = &report.ledger;
    let finding = |finding: &Finding| {
        let ranges = finding.lines.ranges();
        let lines: Vec<Value> = ranges.iter().take(RANGES_MAX).map(|range| json!([range.first, range.last])).collect();
        json!({
            "code": finding.code.name(),
            "found": finding.found(),
            "rows": finding.lines.count(),
            "lines": lines,
            "more_ranges": ranges.len().saturating_sub(RANGES_MAX),
            "tokens": finding.tokens,
            "leases": finding.leases.iter().map(LeaseId::to_string).collect::<Vec<_>>(),
            "do": finding.to_do(report.batch, store_option),
        })
    };
    let spread = recoveries.spread().map(|spread| spread.map(micros));
    let us = |at: usize| spread.map(|spread| spread[at]);
    json!({
        "schema_version": SCHEMA_VERSION,
        "batch": {
            "id": report.batch.to_string(), "key": report.key, "op": report.operation, "status": report.status,
            "rows": report.rows,
        },
        "counts": Value::Object(counts.named().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect()),
        "runs": runs.iter().map(|(runs, rows)| json!({ "runs": runs, "rows": rows })).collect::<Vec<_>>(),
        "log": {
            "retried": log.retried, "timed_out": log.timed_out, "crashed": log.crashed,
            "crash_withdrawn": log.crash_withdrawn, "recovered": log.recovered, "given_back": log.given_back,
            "superseded": log.superseded, "fenced": log.fenced,
        },
        "recoveries": { "leases": recoveries.leases, "min_us": us(0), "median_us": us(1), "max_us": us(2) },
        "problems": report.findings.len(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_a_middle_and_lists_are_cut_with_what_is_left() {
        let spread = |delays: &[u64]| {
            let delays = delays.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
            Recoveries { leases: 9, delays }.spread().map(|spread| spread.map(|delay| delay.as_secs()))
        };
        assert_eq!(
            [&[][..], &[4], &[1, 7], &[1, 2, 9]].map(spread),
            [None, Some([4; 3]), Some([1, 1, 7]), Some([1, 2, 9])]
        );
        assert_eq!(listed([1, 2].iter()), "1, 2");
        let many: Vec<usize> = (0..SHOWN_MAX + 2).collect();
        assert!(listed(many.iter()).ends_with(", 19 and 2 more"), "{}", listed(many.iter()));
    }
}
