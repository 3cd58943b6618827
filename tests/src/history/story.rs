//! A journal's transactions as the model's events, judged by the model's checkers.

use std::collections::BTreeSet;
use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{BatchId, LineRange, LineSet, StoreTime, Token};
use fencepost_model::check::{
    Abort, Checker, Conservation, EndsOnce, Fencing, OneOutcome, Ownership, Poison, Progress, Violation,
};
use fencepost_model::history::{Event, FreedWhy, LeaseEnd, RecordedWhy};

use sqlx::PgConnection;

use super::journal::{self, Change, Columns, Transaction};
use super::replay::{Replay, batch_id, lease_id, lines, outcome_status};

/// The error of a retry, by which an outcome shows that it was the last one.
pub const AGAIN: &str = "again";

/// Judges all that the store did since its journal began: what each checker saw first. (Order is not asked: it is
/// of stores that do one transaction at a time, where what a claim looked at is never old.)
pub async fn judge(conn: &mut PgConnection) -> Vec<Violation> {
    judge_and(conn, |_| {}).await
}

/// The same, with somebody else who sees each transaction.
pub async fn judge_and(conn: &mut PgConnection, mut see: impl FnMut(&Transaction)) -> Vec<Violation> {
    assert_eq!(journal::without_place(conn).await, 0, "changes of a transaction without a place");
    let mut story = Story::default();
    let mut place = 0;
    loop {
        let page = journal::read_behind(conn, place).await;
        let Some(last) = page.last() else { break };
        place = last.place;
        for transaction in &page {
            story.goes_on(transaction);
            see(transaction);
        }
    }
    for relation in journal::TABLES {
        let records = journal::table(conn, relation).await;
        assert!(story.replay.is(relation, &records), "{relation} are not what the journal says");
    }
    story.end()
}

/// The checkers, and the store as it is so far.
#[derive(Default)]
pub struct Story {
    bench: Bench,
    replay: Replay,
}

impl Story {
    /// The next transaction.
    pub fn goes_on(&mut self, transaction: &Transaction) {
        let Self { bench, replay } = self;
        let at = transaction.place;
        for event in events(transaction, replay) {
            bench.ask(|checker| checker.on_event(at, &event));
        }
        transaction.changes.iter().for_each(|change| replay.change(change));
        let mut seen = touched(transaction);
        if transaction.changes.iter().any(|change| end_of_lease(change).is_some()) {
            // The end of a lease is about all that it held: no batch may have any of it.
            seen.extend(replay.with_spans());
        }
        let view = replay.view(seen, false);
        bench.ask(|checker| checker.on_state(at, &view));
    }

    /// Some changes, of transactions that nobody can tell apart.
    pub fn changes(&mut self, change: &Change) {
        self.replay.change(change);
    }

    /// After changes that are not told as transactions: what a store must be between any two of them.
    pub fn is_whole(&self, at: u64) -> Vec<Violation> {
        let view = self.replay.view(self.replay.batches(), true);
        // They have heard of no event, and judge the snapshot from scratch.
        let mut bench = Bench::of(vec![Box::new(Conservation::new()), Box::new(Progress::new(Duration::MAX))]);
        bench.ask(|checker| checker.on_state(at, &view));
        bench.violations
    }

    /// Nothing more happens.
    pub fn end(mut self) -> Vec<Violation> {
        let view = self.replay.view(self.replay.batches(), true);
        self.bench.ask(|checker| checker.at_end(u64::MAX, &view));
        self.bench.violations
    }
}

struct Bench {
    checkers: Vec<Box<dyn Checker>>,
    violations: Vec<Violation>,
}

impl Default for Bench {
    fn default() -> Self {
        let checkers: Vec<Box<dyn Checker>> = vec![
            Box::new(Conservation::new()),
            Box::new(OneOutcome::new()),
            Box::new(Fencing::new()),
            Box::new(Ownership::of_many_at_once()),
            // No times are known: it is asked of its snapshots alone.
            Box::new(Progress::new(Duration::MAX)),
            Box::new(EndsOnce::new()),
            Box::new(Poison::of_many_at_once()),
            // No runs are known: it is asked of what the store does.
            Box::new(Abort::new(Duration::MAX, Duration::MAX, None)),
        ];
        Self::of(checkers)
    }
}

impl Bench {
    fn of(checkers: Vec<Box<dyn Checker>>) -> Self {
        Self { checkers, violations: Vec::new() }
    }

    /// Who has seen something is not asked again: what follows would be of the same.
    fn ask(&mut self, mut what: impl FnMut(&mut dyn Checker) -> Result<(), Violation>) {
        let violations = &mut self.violations;
        self.checkers.retain_mut(|checker| what(checker.as_mut()).map_err(|seen| violations.push(seen)).is_ok());
    }
}

fn touched(transaction: &Transaction) -> BTreeSet<i64> {
    let of_batches = transaction.changes.iter().filter(|change| change.relation != "leases");
    let records = of_batches.flat_map(|change| change.was.iter().chain(&change.becomes));
    records.map(|record| record.int("batch")).collect()
}

/// What a transaction did to what was there: leases first, ends of batches last, as the model tells it.
fn events(transaction: &Transaction, before: &Replay) -> Vec<Event> {
    let mut events: Vec<Event> = of(transaction, "leases").filter_map(lease_event).collect();
    events.extend(of(transaction, "batches").filter_map(loaded));
    events.extend(of(transaction, "batches").filter_map(held));
    events.extend(of(transaction, "batches").filter_map(appended));
    events.extend(of(transaction, "attempts").filter_map(log_event));
    let retried = retried(transaction, before);
    for change in &transaction.changes {
        match (change.relation.as_str(), &change.was, &change.becomes) {
            ("spans", None, Some(_)) if retried.is_some() => {}
            ("spans", None, Some(span)) => events.push(span_event(transaction, span)),
            ("outcomes", None, Some(outcome)) => events.push(recorded(transaction, outcome)),
            _ => {}
        }
    }
    events.extend(retried);
    events.extend(of(transaction, "batches").filter_map(ended));
    events.extend(of(transaction, "batches").filter_map(purged));
    events
}

fn of<'a>(transaction: &'a Transaction, relation: &'a str) -> impl Iterator<Item = &'a Change> {
    transaction.changes.iter().filter(move |change| change.relation == relation)
}

fn end_of_lease(change: &Change) -> Option<&Columns> {
    let becomes = change.becomes.as_ref().filter(|_| change.relation == "leases")?;
    let was_live = change.was.as_ref().is_some_and(|was| was.text("state") == "live");
    (was_live && becomes.text("state") != "live").then_some(becomes)
}

/// What a change of a lease is.
pub fn lease_event(change: &Change) -> Option<Event> {
    let becomes = change.becomes.as_ref()?;
    let (lease, expires_at) = (lease_id(becomes.int("lease")), StoreTime(becomes.int("expires_at")));
    let Some(was) = &change.was else {
        return Some(Event::LeaseTaken {
            lease,
            worker: becomes.text("worker").to_owned(),
            ttl: Duration::from_millis(becomes.natural("ttl_ms")),
            renew: Duration::from_millis(becomes.natural("renew_ms")),
            operations: serde_json::from_str(becomes.text("operations")).unwrap(),
            expires_at,
        });
    };
    if was.text("state") != becomes.text("state") {
        let how = match becomes.text("state") {
            "dropped" => LeaseEnd::Dropped,
            "taken_over" => LeaseEnd::TakenOver,
            _ => LeaseEnd::Died,
        };
        return Some(Event::LeaseEnded { lease, how, by: becomes.int_or_null("ended_by").map(lease_id) });
    }
    if was.int("renewals") != becomes.int("renewals") {
        return Some(Event::LeaseRenewed { lease, renewals: becomes.natural("renewals"), expires_at });
    }
    Some(Event::LeaseCutBack { lease, expires_at })
}

fn loaded(change: &Change) -> Option<Event> {
    let (was, becomes) = (change.was.as_ref()?, change.becomes.as_ref()?);
    let opens = was.text("status") == "loading" && becomes.text("status") != "loading";
    opens.then(|| Event::BatchLoaded {
        batch: batch_id(becomes.int("batch")),
        total: becomes.natural("total"),
        operation: becomes.text("operation").to_owned(),
        priority: becomes.int("priority").try_into().unwrap(),
        attempts_max: becomes.int("attempts_max").try_into().unwrap(),
        crashes_max: becomes.int("crashes_max").try_into().unwrap(),
    })
}

fn ended(change: &Change) -> Option<Event> {
    let (was, becomes) = (change.was.as_ref()?, change.becomes.as_ref()?);
    let status = BatchStatus::from_name(becomes.text("status")).unwrap();
    let generation = becomes.int("generation").try_into().unwrap();
    let batch = batch_id(becomes.int("batch"));
    match status {
        _ if was.text("status") == status.name() => None,
        BatchStatus::Success | BatchStatus::Failed => Some(Event::BatchEnded { batch, generation, status }),
        BatchStatus::Aborted => Some(Event::BatchAborted { batch, generation }),
        _ => None,
    }
}

/// S3: a batch is held, or let go.
fn held(change: &Change) -> Option<Event> {
    let (was, becomes) = (change.was.as_ref()?, change.becomes.as_ref()?);
    let held = becomes.is("held");
    (was.is("held") != held).then(|| Event::BatchHeld { batch: batch_id(becomes.int("batch")), held })
}

/// S3: a batch's total is raised. While it loads, it is no batch yet.
fn appended(change: &Change) -> Option<Event> {
    let (was, becomes) = (change.was.as_ref()?, change.becomes.as_ref()?);
    let (first, last) = (was.natural("total") + 1, becomes.natural("total"));
    let raised = was.text("status") != "loading" && last >= first;
    raised.then(|| Event::BatchAppended { batch: batch_id(becomes.int("batch")), lines: LineRange { first, last } })
}

/// An operator's retry: outcomes are superseded, and all spans that are new are those of their lines.
fn retried(transaction: &Transaction, before: &Replay) -> Option<Event> {
    let entries = of(transaction, "attempts").filter_map(|change| change.becomes.as_ref());
    let number = entries.filter(|entry| entry.text("kind") == "superseded").map(|entry| entry.int("batch")).next()?;
    let opened = of(transaction, "batches").filter_map(|change| change.becomes.as_ref()).next();
    let generation = opened.map(|batch| batch.int("generation").try_into().unwrap());
    let new =
        of(transaction, "spans").filter(|change| change.was.is_none()).filter_map(|change| change.becomes.as_ref());
    Some(Event::RowsRetried {
        batch: batch_id(number),
        generation: generation.unwrap_or_else(|| before.generation(number)),
        spans: new.map(|span| (lines(span), Token(span.natural("token")))).collect(),
    })
}

/// A batch whose record goes; a load that was cut off was none yet.
fn purged(change: &Change) -> Option<Event> {
    let was = change.was.as_ref().filter(|was| change.becomes.is_none() && was.text("status") != "loading")?;
    Some(Event::BatchPurged { batch: batch_id(was.int("batch")) })
}

fn log_event(change: &Change) -> Option<Event> {
    let entry = change.becomes.as_ref()?;
    let (batch, line) = (batch_id(entry.int("batch")), entry.natural("first_line"));
    let (token, lease) = (Token(entry.natural("token")), lease_id(entry.int("lease")));
    match entry.text("kind") {
        "fenced" => Some(Event::Fenced { batch, line, token, lease }),
        "crashed" => Some(Event::Crashed { batch, line, token, lease }),
        "crash_withdrawn" => Some(Event::CrashWithdrawn { batch, line, token, lease }),
        _ => None,
    }
}

/// A span that is new: its lines were claimed or freed.
fn span_event(transaction: &Transaction, span: &Columns) -> Event {
    let (batch, token, lines) = (batch_id(span.int("batch")), Token(span.natural("token")), lines(span));
    let suspicion = span.int("suspicion").try_into().unwrap();
    let source = source(transaction, batch, &lines);
    let was_free = source.is_some_and(|source| source.int_or_null("lease").is_none());
    let from = source.map(|source| Token(source.natural("token")));
    if let Some(lease) = span.int_or_null("lease") {
        let number = span.natural("claim_number");
        let (from, lease, alone) = (from.filter(|_| was_free), lease_id(lease), span.is("alone"));
        return Event::Claimed { batch, lines, token, from, lease, number, suspicion, alone };
    }
    let from = from.unwrap_or(Token(0));
    let why = if was_free { FreedWhy::Split } else { freed_why(transaction, span, from, &lines) };
    let not_before = span.int_or_null("not_before").map(StoreTime);
    Event::Freed { batch, lines, token, from, why, suspicion, not_before }
}

/// The span, as it was, that lost these lines to the new one.
fn source<'a>(transaction: &'a Transaction, batch: BatchId, wanted: &LineSet) -> Option<&'a Columns> {
    let loses = |change: &&Change| {
        let Some(was) = &change.was else { return false };
        let kept = change.becomes.as_ref().map(lines).unwrap_or_default();
        let lost = lines(was).difference(&kept);
        batch_id(was.int("batch")) == batch && wanted.difference(&lost).is_empty()
    };
    of(transaction, "spans").find(loses)?.was.as_ref()
}

/// By what the log says in the same transaction.
fn freed_why(transaction: &Transaction, span: &Columns, from: Token, lines: &LineSet) -> FreedWhy {
    let entries = of(transaction, "attempts").filter_map(|change| change.becomes.as_ref());
    let about = |entry: &&Columns| {
        let covers = |line| (entry.natural("first_line")..=entry.natural("last_line")).contains(&line);
        entry.int("batch") == span.int("batch")
            && Token(entry.natural("token")) == from
            && lines.first().is_some_and(covers)
    };
    let dropped = transaction.changes.iter().any(|change| end_of_lease(change).is_some());
    let kinds: BTreeSet<&str> = entries.filter(about).map(|entry| entry.text("kind")).collect();
    for (kind, why) in [
        ("recovered", FreedWhy::Recovered),
        ("retried", FreedWhy::Retried),
        ("timed_out", FreedWhy::TimedOut),
        ("given_back", if dropped { FreedWhy::Dropped } else { FreedWhy::GivenBack }),
    ] {
        if kinds.contains(kind) {
            return why;
        }
    }
    panic!("{lines:?} of {} are free and the log does not say why", batch_id(span.int("batch")));
}

fn recorded(transaction: &Transaction, outcome: &Columns) -> Event {
    let lease = lease_id(outcome.int("lease"));
    let of_an_end = transaction.changes.iter().filter_map(end_of_lease).any(|end| lease_id(end.int("lease")) == lease);
    let status = outcome_status(outcome);
    let exhausted = outcome.text_or_null("error") == Some(AGAIN);
    let why = match (of_an_end, exhausted) {
        (true, _) => RecordedWhy::CrashedTooOften,
        (_, true) => RecordedWhy::Exhausted,
        _ => RecordedWhy::Answered,
    };
    Event::Recorded {
        batch: batch_id(outcome.int("batch")),
        line: outcome.natural("line"),
        token: Token(outcome.natural("token")),
        lease,
        status,
        attempts: outcome.int("attempts").try_into().unwrap(),
        crashes: outcome.int("crashes").try_into().unwrap(),
        why,
    }
}
