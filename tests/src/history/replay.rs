//! A store's records as its journal makes them, transaction by transaction, and as the checkers want to see them.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use fencepost_model::history::OutcomeStatus;
use fencepost_model::view::{
    BatchView, CallView, CompletionView, LogCounts, OutcomeView, RowCounts, SpanView, StoreView, Tally,
};

use super::journal::{Change, Columns};

/// Records by table and key.
#[derive(Debug, Default)]
pub struct Replay {
    tables: BTreeMap<String, BTreeMap<(i64, i64), Columns>>,
    /// What the log has of each batch: counted as it comes, since nothing leaves it.
    logged: BTreeMap<i64, LogCounts>,
}

/// What tells a table's records apart: two numbers at most.
fn key(relation: &str, columns: &Columns) -> (i64, i64) {
    match relation {
        "leases" => (columns.int("lease"), 0),
        "batches" => (columns.int("batch"), 0),
        "spans" => (columns.int("batch"), columns.int("token")),
        "outcomes" => (columns.int("batch"), columns.int("line")),
        "tallies" => (columns.int("batch"), columns.int("lease")),
        "completions" => (columns.int("batch"), columns.int("generation")),
        "attempts" => (columns.int("attempt"), 0),
        other => panic!("no such table: {other}"),
    }
}

impl Replay {
    /// Makes a change.
    pub fn change(&mut self, change: &Change) {
        let records = self.tables.entry(change.relation.clone()).or_default();
        if let Some(was) = &change.was {
            records.remove(&key(&change.relation, was));
        }
        if let Some(becomes) = &change.becomes {
            records.insert(key(&change.relation, becomes), becomes.clone());
            if change.relation == "attempts" {
                let logged = self.logged.entry(becomes.int("batch")).or_default();
                match becomes.text("kind") {
                    "retried" => logged.retried += 1,
                    "timed_out" => logged.timed_out += 1,
                    "crashed" => logged.crashed += 1,
                    "crash_withdrawn" => logged.crash_withdrawn += 1,
                    "fenced" => logged.fenced += 1,
                    "superseded" => logged.superseded += 1,
                    _ => {}
                }
            }
        }
    }

    fn records(&self, relation: &str) -> impl Iterator<Item = &Columns> {
        self.tables.get(relation).into_iter().flat_map(BTreeMap::values)
    }

    fn of_batch(&self, relation: &str, batch: i64) -> impl Iterator<Item = &Columns> {
        let records = self.tables.get(relation).into_iter();
        records.flat_map(move |records| records.range((batch, i64::MIN)..=(batch, i64::MAX))).map(|(_, record)| record)
    }

    /// Whether this table's records are exactly these: else the journal has missed something.
    pub fn is(&self, relation: &str, records: &[Columns]) -> bool {
        let ours = self.records(relation);
        let theirs: BTreeMap<_, _> = records.iter().map(|record| (key(relation, record), record)).collect();
        ours.eq(theirs.into_values())
    }

    /// A batch's generation.
    pub fn generation(&self, batch: i64) -> u32 {
        self.of_batch("batches", batch).next().unwrap().int("generation").try_into().unwrap()
    }

    /// All batches that are loaded.
    pub fn batches(&self) -> Vec<i64> {
        let loaded = self.records("batches").filter(|batch| batch.text("status") != "loading");
        loaded.map(|batch| batch.int("batch")).collect()
    }

    /// The batches that have a span.
    pub fn with_spans(&self) -> BTreeSet<i64> {
        self.records("spans").map(|span| span.int("batch")).collect()
    }

    /// These batches, as far as they are loaded; all leases and completions.
    pub fn view(&self, batches: impl IntoIterator<Item = i64>, whole: bool) -> StoreView {
        let batches = batches.into_iter().filter_map(|batch| self.batch(batch)).collect();
        let lease = |record: &Columns| (lease_id(record.int("lease")), lease_state(record.text("state")));
        StoreView {
            batches,
            leases: self.records("leases").map(lease).collect(),
            completions: self.records("completions").map(completion).collect(),
            whole,
        }
    }

    fn batch(&self, number: i64) -> Option<BatchView> {
        let record = self.of_batch("batches", number).next().filter(|batch| batch.text("status") != "loading")?;
        let spans: Vec<&Columns> = self.of_batch("spans", number).collect();
        let tallies: Vec<_> = self.of_batch("tallies", number).map(tally).collect();
        let (total, cursor) = (record.natural("total"), record.natural("cursor"));
        // As a status tells it: by the counts of lines and the tallies, which the checkers hold against the lines and outcomes.
        let lines_of = |held: bool| -> u64 {
            let those = spans.iter().filter(|span| span.int_or_null("lease").is_some() == held);
            those.map(|span| span.natural("line_count")).sum()
        };
        let sum = tallies.iter().fold(Tally::default(), |sum, (_, tally)| sum.plus(*tally));
        let open = (total + 1).saturating_sub(cursor) + lines_of(false);
        let (success, failed) = (sum.success.try_into().unwrap(), sum.failed.try_into().unwrap());
        let is_aborted = record.text("status") == "aborted";
        let counts = RowCounts {
            queued: if is_aborted { 0 } else { open },
            inprog: lines_of(true),
            success,
            failed,
            aborted: if is_aborted { total.saturating_sub(success + failed) } else { 0 },
        };
        Some(BatchView {
            batch: batch_id(number),
            status: BatchStatus::from_name(record.text("status")).unwrap(),
            held: record.is("held"),
            total,
            cursor,
            generation: record.int("generation").try_into().unwrap(),
            spans: spans.into_iter().map(span).collect(),
            outcomes: self.of_batch("outcomes", number).map(outcome).collect(),
            tallies,
            logged: self.logged.get(&number).copied().unwrap_or_default(),
            counts,
        })
    }
}

fn span(record: &Columns) -> SpanView {
    SpanView {
        token: Token(record.natural("token")),
        lines: lines(record),
        lease: record.int_or_null("lease").map(lease_id),
        number: record.int_or_null("claim_number").map(|number| number.try_into().unwrap()),
        not_before: record.int_or_null("not_before").map(StoreTime),
        suspicion: record.int("suspicion").try_into().unwrap(),
        alone: record.is("alone"),
        tried: record.is("tried"),
        from_lease: record.int_or_null("from_lease").map(lease_id),
    }
}

fn outcome(record: &Columns) -> OutcomeView {
    OutcomeView {
        line: record.natural("line"),
        status: outcome_status(record),
        token: Token(record.natural("token")),
        lease: lease_id(record.int("lease")),
        attempts: record.int("attempts").try_into().unwrap(),
        crashes: record.int("crashes").try_into().unwrap(),
        generation: record.int("generation").try_into().unwrap(),
    }
}

fn tally(record: &Columns) -> (LeaseId, Tally) {
    let tally = Tally {
        success: record.int("success"),
        failed: record.int("failed"),
        retried: record.natural("retried"),
        timed_out: record.natural("timed_out"),
        fenced: record.natural("fenced"),
    };
    (lease_id(record.int("lease")), tally)
}

fn completion(record: &Columns) -> CompletionView {
    CompletionView {
        batch: batch_id(record.int("batch")),
        generation: record.int("generation").try_into().unwrap(),
        status: BatchStatus::from_name(record.text("status")).unwrap(),
        counts: RowCounts {
            success: record.natural("success"),
            failed: record.natural("failed"),
            // Below zero where a broken store has more outcomes than rows, which other checkers name.
            aborted: record.int("aborted").max(0).cast_unsigned(),
            ..RowCounts::default()
        },
        call: CallView {
            token: record.int_or_null("token").map(|token| Token(token.try_into().unwrap())),
            lease: record.int_or_null("lease").map(lease_id),
            not_before: record.int_or_null("not_before").map(StoreTime),
            attempts: record.int("attempts").try_into().unwrap(),
            error: record.text_or_null("error").map(Into::into),
            delivered: record.int_or_null("delivered_at").is_some(),
        },
    }
}

/// An outcome's status.
pub fn outcome_status(record: &Columns) -> OutcomeStatus {
    if record.text("status") == "success" { OutcomeStatus::Success } else { OutcomeStatus::Failed }
}

/// A span's lines: a multirange's text, `{[1,5),[6,7)}`, or SQLite's JSON, `[[1,4],[6,6]]`.
pub fn lines(record: &Columns) -> LineSet {
    let text = record.text("lines");
    let beyond = u64::from(text.starts_with('{'));
    let numbers: Vec<u64> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    LineSet::from_ranges(numbers.chunks(2).map(|range| (range[0], range[1] - beyond))).unwrap()
}

/// A batch's id by its number.
pub fn batch_id(number: i64) -> BatchId {
    BatchId::from_random(number.try_into().unwrap())
}

/// A lease's id by its number.
pub fn lease_id(number: i64) -> LeaseId {
    LeaseId::from_random(number.try_into().unwrap())
}

fn lease_state(name: &str) -> LeaseState {
    match name {
        "live" => LeaseState::Live,
        "dead" => LeaseState::Dead,
        "taken_over" => LeaseState::TakenOver,
        "dropped" => LeaseState::Dropped,
        other => panic!("{other}"),
    }
}
