//! What the journal says about batches, claims, outcomes and leases: for the checks that are not the model's.

use std::collections::{BTreeMap, HashMap};

use fencepost_core::{LineRange, LineSet};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::fleet::ProcessKey;
use super::health::LeaseChange;
use crate::history::journal::{Change, Columns, TABLES};
use crate::history::replay::{lease_id, lines};
use crate::history::story;

/// A batch.
#[derive(Debug, Clone, Default)]
pub struct BatchFacts {
    /// Its status now, or when it was purged.
    pub status: String,
    /// How many lines it has.
    pub total: u64,
    /// Its record is gone.
    pub purged: bool,
    /// An operator holds it (S3).
    pub held: bool,
    /// When it was aborted at the latest, in microseconds since 1970.
    pub aborted_us: Option<i64>,
}

/// An outcome that is or was there.
#[derive(Debug, Clone)]
pub struct OutcomeFacts {
    /// Its token.
    pub token: u64,
    /// Whether it is a success.
    pub success: bool,
    /// The result or the error.
    pub text: String,
    /// An operator's retry took it away.
    pub superseded: bool,
}

/// What the log says of lines under a token.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which lines.
    pub lines: LineRange,
    /// What befell them.
    pub kind: String,
    /// More of it.
    pub detail: String,
    /// Whose they were.
    pub lease: i64,
    /// When it was there at the latest, in microseconds since 1970 by the machine's clock, which no fault steps.
    pub at_us: i64,
}

/// A claim: lines under a token.
#[derive(Debug, Clone)]
pub struct ClaimFacts {
    /// Of which batch.
    pub batch: i64,
    /// Which lines.
    pub lines: LineSet,
    /// By which lease.
    pub lease: i64,
    /// When it was not there yet, in microseconds since 1970.
    pub after_us: i64,
}

/// A lease.
#[derive(Debug, Clone, Default)]
pub struct LeaseFacts {
    /// Its worker's process.
    pub process: Option<ProcessKey>,
    /// Its state now.
    pub state: String,
}

/// A crash that was charged to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashFacts {
    /// The token that it ran under.
    pub token: u64,
    /// Whose it was.
    pub lease: i64,
    /// Its worker lived, and took it back.
    pub withdrawn: bool,
}

/// What became of a completion call that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// It was recorded as delivered.
    Delivered,
    /// It failed, or was not made, and is to be tried again.
    Freed(&'static str),
}

/// The completion call of one end of a batch.
#[derive(Debug, Clone, Default)]
pub struct CallFacts {
    /// The batch's operation.
    pub operation: String,
    /// Its claims in their order: the token, and what became of it.
    pub claims: Vec<(u64, Option<CallEnd>)>,
    /// Its record went with its batch.
    pub purged: bool,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Batches by number.
    pub batches: BTreeMap<i64, BatchFacts>,
    /// The outcomes of each line, in their order.
    pub outcomes: BTreeMap<(i64, u64), Vec<OutcomeFacts>>,
    /// Claims by token.
    pub claims: HashMap<u64, ClaimFacts>,
    /// What the log says, by batch and token.
    pub log: HashMap<(i64, u64), Vec<Entry>>,
    /// Leases by number.
    pub leases: HashMap<i64, LeaseFacts>,
    /// The changes of leases, in their order.
    pub lease_changes: Vec<LeaseChange>,
    /// Crashes of each line, in their order.
    pub crashes: BTreeMap<(i64, u64), Vec<CrashFacts>>,
    /// The tokens under which each line was to be tried again: it asked for that, or timed out.
    pub tries: BTreeMap<(i64, u64), Vec<u64>>,
    /// Completion calls by batch and generation.
    pub calls: BTreeMap<(i64, u64), CallFacts>,
    /// The newest token that each line had in a span.
    newest: HashMap<(i64, u64), u64>,
    /// What a change by itself shows to be wrong, and which check that is: outcomes that an older token wrote, or that changed; claims
    /// from a batch that is not to be claimed from.
    pub broken: Vec<(&'static str, String)>,
}

impl Facts {
    /// Takes a change in that was not there yet at one time, and there by another.
    pub fn change(&mut self, change: &Change, after_us: i64, at_us: i64) {
        match (change.relation.as_str(), &change.was, &change.becomes) {
            ("batches", _, Some(batch)) => {
                let facts = self.batches.entry(batch.int("batch")).or_default();
                batch.text("status").clone_into(&mut facts.status);
                facts.total = batch.natural("total");
                facts.held = batch.is("held");
                if facts.status == "aborted" {
                    facts.aborted_us.get_or_insert(at_us);
                }
            }
            ("batches", Some(batch), None) => self.batches.entry(batch.int("batch")).or_default().purged = true,
            ("outcomes", None, Some(outcome)) => {
                let text = outcome.text_or_null("result").or(outcome.text_or_null("error")).unwrap_or_default();
                let facts = OutcomeFacts {
                    token: outcome.natural("token"),
                    success: outcome.text("status") == "success",
                    text: text.to_owned(),
                    superseded: false,
                };
                let at = line_of(outcome, "line");
                if self.newest.get(&at).is_some_and(|newest| *newest > facts.token) {
                    let what = format!("batch {} line {} is recorded under an old token: {facts:?}", at.0, at.1);
                    self.broken.push(("fencing", what));
                }
                self.outcomes.entry(at).or_default().push(facts);
            }
            ("outcomes", Some(was), Some(becomes)) => {
                self.broken.push(("fencing", format!("an outcome changes: {was:?} becomes {becomes:?}")));
            }
            ("spans", None, Some(span)) => {
                let (batch, token) = (span.int("batch"), span.natural("token"));
                self.newest.extend(lines(span).iter().map(|line| ((batch, line), token)));
                if let Some(lease) = span.int_or_null("lease") {
                    self.claim(token, ClaimFacts { batch, lines: lines(span), lease, after_us });
                }
            }
            ("attempts", None, Some(entry)) => self.entry(entry, at_us),
            ("completions", was, becomes) => self.call(was.as_ref(), becomes.as_ref()),
            ("leases", _, Some(lease)) => {
                let pid = lease.int_or_null("pid").and_then(|pid| u32::try_from(pid).ok());
                let started = lease.int_or_null("start_ticks").and_then(|ticks| u64::try_from(ticks).ok());
                let process = pid.zip(started);
                let facts = LeaseFacts { process, state: lease.text("state").to_owned() };
                self.leases.insert(lease.int("lease"), facts);
                let event = story::lease_event(change);
                let lease = lease_id(lease.int("lease"));
                self.lease_changes.extend(event.map(|event| LeaseChange { after_us, at_us, lease, process, event }));
            }
            _ => {}
        }
    }

    /// C3, S3, S2: of a batch that is held, or not open, nothing is claimed.
    fn claim(&mut self, token: u64, claim: ClaimFacts) {
        let closed = self.batches.get(&claim.batch).filter(|batch| batch.held || batch.status != "open");
        if let Some(batch) = closed {
            let what = format!("token {token}: {claim:?} of a batch that is not to be claimed from: {batch:?}");
            self.broken.push(("claims", what));
        }
        self.claims.insert(token, claim);
    }

    fn entry(&mut self, entry: &Columns, at_us: i64) {
        let lines = LineRange { first: entry.natural("first_line"), last: entry.natural("last_line") };
        let token = entry.natural("token");
        if entry.text("kind") == "superseded" {
            let outcomes = self.outcomes.entry(line_of(entry, "first_line")).or_default();
            outcomes.iter_mut().filter(|outcome| outcome.token == token).for_each(|outcome| outcome.superseded = true);
        }
        let at = line_of(entry, "first_line");
        match entry.text("kind") {
            "retried" | "timed_out" => {
                for line in lines.first..=lines.last {
                    self.tries.entry((at.0, line)).or_default().push(token);
                }
            }
            "crashed" => {
                let crash = CrashFacts { token, lease: entry.int("lease"), withdrawn: false };
                self.crashes.entry(at).or_default().push(crash);
            }
            "crash_withdrawn" => {
                let crashes = self.crashes.entry(at).or_default().iter_mut();
                crashes.filter(|crash| crash.token == token).for_each(|crash| crash.withdrawn = true);
            }
            _ => {}
        }
        let facts = Entry {
            lines,
            kind: entry.text("kind").to_owned(),
            detail: entry.text_or_null("detail").unwrap_or_default().to_owned(),
            lease: entry.int("lease"),
            at_us,
        };
        self.log.entry((entry.int("batch"), token)).or_default().push(facts);
    }

    fn call(&mut self, was: Option<&Columns>, becomes: Option<&Columns>) {
        let Some(record) = becomes.or(was) else { return };
        let call = self.calls.entry((record.int("batch"), record.natural("generation"))).or_default();
        let Some(becomes) = becomes else {
            call.purged = true;
            return;
        };
        record.text_or_null("operation").unwrap_or_default().clone_into(&mut call.operation);
        let held = |record: &Columns| record.int_or_null("lease").and(record.int_or_null("token"));
        let (held_before, held_now) = (was.and_then(held), held(becomes));
        if held_before == held_now {
            return;
        }
        if let (Some(was), Some(last)) = (was.filter(|_| held_before.is_some()), call.claims.last_mut()) {
            let counts = becomes.int("attempts") == was.int("attempts");
            let end = match (becomes.int_or_null("delivered_at"), becomes.int_or_null("token"), counts) {
                (Some(_), ..) => CallEnd::Delivered,
                (None, None, true) => CallEnd::Freed("lease ended"),
                (None, None, false) => CallEnd::Freed("worker left"),
                (None, Some(_), true) => CallEnd::Freed("failed"),
                (None, Some(_), false) => CallEnd::Freed("given back"),
            };
            last.1 = Some(end);
        }
        call.claims.extend(held_now.and_then(|token| u64::try_from(token).ok()).map(|token| (token, None)));
    }

    /// The crashes of a line that an outcome of it may count: since the last operator's retry before it.
    pub fn crashes_of(&self, at: (i64, u64), outcome: &OutcomeFacts) -> Vec<CrashFacts> {
        let counted = self.since_retry(at, outcome.token);
        let all = self.crashes.get(&at).into_iter().flatten().copied();
        all.filter(|crash| counted.contains(&crash.token)).collect()
    }

    /// Which attempt a run under this token is (P1, O5): one more than what asked for another try since the last operator's retry.
    pub fn attempt(&self, at: (i64, u64), token: u64) -> u64 {
        let counted = self.since_retry(at, token);
        let tries = self.tries.get(&at).into_iter().flatten();
        1 + tries.filter(|token| counted.contains(token)).count() as u64
    }

    /// The tokens of a line from its last operator's retry on, before this one. (An outcome is in the way of newer tokens until such
    /// a retry takes it away.)
    fn since_retry(&self, at: (i64, u64), token: u64) -> std::ops::Range<u64> {
        let outcomes = self.outcomes.get(&at).into_iter().flatten();
        let since = outcomes.map(|other| other.token).filter(|other| *other < token).max().unwrap_or_default();
        since + 1..token
    }

    /// The outcome that a line has.
    pub fn outcome(&self, batch: i64, line: u64) -> Vec<&OutcomeFacts> {
        let all = self.outcomes.get(&(batch, line));
        all.into_iter().flatten().filter(|outcome| !outcome.superseded).collect()
    }

    /// What the log says of a line under a token.
    pub fn told_of(&self, batch: i64, line: u64, token: u64) -> impl Iterator<Item = &Entry> {
        let entries = self.log.get(&(batch, token)).into_iter().flatten();
        entries.filter(move |entry| (entry.lines.first..=entry.lines.last).contains(&line))
    }

    /// How many log entries of a kind there are.
    pub fn count(&self, kind: &str) -> u64 {
        self.log.values().flatten().filter(|entry| entry.kind == kind).count() as u64
    }
}

fn line_of(record: &Columns, column: &str) -> (i64, u64) {
    (record.int("batch"), record.natural(column))
}

/// Has a store in a file keep a journal of all changes from now on. There is one writer at a time, so their numbers are their
/// order; where transactions begin and end it does not say.
pub async fn keep_in_file(conn: &mut SqliteConnection) {
    let mut sql =
        "create table journal_changes (number integer primary key, relation text, was text, becomes text);".to_owned();
    for table in TABLES {
        let columns = format!("select name from pragma_table_info('{table}')");
        let columns: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(columns)).fetch_all(&mut *conn).await.expect("a table's columns");
        let object = |record: &str| {
            let fields: Vec<String> = columns.iter().map(|column| format!("'{column}', {record}.{column}")).collect();
            format!("json_object({})", fields.join(", "))
        };
        for (event, was, becomes) in [
            ("insert", "null".to_owned(), object("new")),
            ("update", object("old"), object("new")),
            ("delete", object("old"), "null".to_owned()),
        ] {
            sql += &format!(
                "create trigger journal_{table}_{event} after {event} on {table} begin \
                 insert into journal_changes (relation, was, becomes) values ('{table}', {was}, {becomes}); end;"
            );
        }
    }
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.expect("a journal");
}

/// The next changes of a store in a file behind a number; none: that was all.
pub async fn read_file_behind(conn: &mut SqliteConnection, number: i64) -> Vec<Change> {
    let sql = "select number, relation, was, becomes from journal_changes where number > $1 order by number limit 5000";
    let rows: Vec<(i64, String, Option<String>, Option<String>)> =
        sqlx::query_as(sql).bind(number).fetch_all(conn).await.expect("the journal can be read");
    let parse = |text: Option<String>| text.map(|text| Columns::parse(&text));
    let change =
        |(number, relation, was, becomes)| Change { number, relation, was: parse(was), becomes: parse(becomes) };
    rows.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn change(relation: &str, becomes: &Value) -> Change {
        let becomes = Some(Columns::parse(&becomes.to_string()));
        Change { number: 1, relation: relation.to_owned(), was: None, becomes }
    }

    fn span(token: u64) -> Change {
        change("spans", &json!({ "batch": 1, "token": token, "lease": 7, "lines": "[[1,4]]" }))
    }

    #[test]
    fn a_claim_of_a_batch_that_is_held_or_over_is_seen() {
        let found = |status: &str, held: bool| {
            let mut facts = Facts::default();
            let batch = json!({ "batch": 1, "status": status, "total": 9, "held": held });
            facts.change(&change("batches", &batch), 0, 10);
            facts.change(&span(5), 20, 30);
            assert_eq!(facts.claims[&5].after_us, 20);
            facts.broken
        };
        assert_eq!(found("open", false), []);
        for (status, held) in [("open", true), ("aborted", false), ("success", false), ("loading", false)] {
            let broken = found(status, held);
            assert!(broken.len() == 1 && broken[0].0 == "claims", "{status} {held}: {broken:?}");
        }
    }

    #[test]
    fn an_abort_is_as_old_as_its_first_sight() {
        let mut facts = Facts::default();
        for (status, at_us) in [("open", 10), ("aborted", 20), ("aborted", 30)] {
            let batch = json!({ "batch": 1, "status": status, "total": 9, "held": false });
            facts.change(&change("batches", &batch), 0, at_us);
        }
        assert_eq!(facts.batches[&1].aborted_us, Some(20));
    }

    #[test]
    fn what_asked_for_another_try_is_an_attempt_and_nothing_else_is() {
        let mut facts = Facts::default();
        for (token, kind) in [(1, "retried"), (2, "given_back"), (3, "timed_out"), (4, "crashed"), (5, "recovered")] {
            let entry = json!({
                "batch": 1, "first_line": 2, "last_line": 2, "token": token, "kind": kind, "lease": 7, "detail": null
            });
            facts.change(&change("attempts", &entry), 0, 0);
        }
        assert_eq!(facts.tries, BTreeMap::from([((1, 2), vec![1, 3])]));
        assert_eq!(facts.attempt((1, 2), 6), 3);
    }
}
