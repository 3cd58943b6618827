//! O1 to O5: recording a group of answers; S1, L4: giving lines back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use fencepost_core::rules::outcome::{AfterRetry, Fence, o1_fence, o5_after_retry};
use fencepost_core::rules::poison::p1_crashes;
use fencepost_core::store::{Answer, Record, RecordItem, Recorded, Verdict};
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Token};
use sqlx::{Sqlite, SqliteConnection};

use super::append::{self, Counts, Ending, Entry, EntryKind, Outcome, Used};
use super::batch::{self, BatchFacts};
use super::codec::{json, micros_of, natural};
use super::effects;
use super::lease::log_given_back;
use super::spans::{self, Span, SpanChanges, Tokens};
use super::stopping;
use super::trouble::Trouble;
use crate::handler::transactional::Effects;

/// A dropped answer, or a superseded outcome, is kept in the row's story up to so many bytes.
pub(super) const DROPPED_ANSWER_BYTES_MAX: usize = 4096;

/// O3: records a group in one transaction; one verdict per item, in their order.
pub(super) async fn record(
    conn: &mut SqliteConnection,
    now: StoreTime,
    record: &Record,
) -> Result<Vec<Verdict>, Trouble> {
    let mut fences = Fences::read(conn, record).await?;
    let holds = record.items.iter().map(|item| fences.take_out(item)).collect();
    write(conn, now, record, fences, holds).await
}

/// Records a group with effects (O7): those of the lines that hold are applied before their outcomes are written, in the
/// same transaction. As many verdicts, from the first item on, as fit into the time: one at least.
pub(super) async fn record_with_effects(
    conn: &mut SqliteConnection,
    now: StoreTime,
    record: &Record,
    effects: &dyn Effects<Sqlite>,
    limit: Duration,
) -> Result<Vec<Verdict>, Trouble> {
    let mut fences = Fences::read(conn, record).await?;
    let (applied, holds) = effects::apply(conn, record, &mut fences, effects, limit).await?;
    write(conn, now, &applied, fences, holds).await
}

/// O1: what a group's items are judged by.
pub(super) struct Fences {
    facts: BTreeMap<BatchId, BatchFacts>,
    held: HashMap<Token, Span>,
}

impl Fences {
    async fn read(conn: &mut SqliteConnection, record: &Record) -> Result<Self, Trouble> {
        let facts = batch::facts(conn, record.items.iter().map(|item| item.batch)).await?;
        let held = held_spans(conn, record.lease, record.items.iter().map(|item| item.token)).await?;
        Ok(Self { facts, held })
    }

    /// Whether the line is still held under the token.
    pub(super) fn holds(&self, item: &RecordItem) -> bool {
        self.facts.get(&item.batch).is_some_and(BatchFacts::is_open)
            && self.held.get(&item.token).is_some_and(|span| span.batch == item.batch && span.lines.contains(item.line))
    }

    /// The same; a line that is held leaves its span.
    pub(super) fn take_out(&mut self, item: &RecordItem) -> bool {
        self.holds(item) && self.held.get_mut(&item.token).is_some_and(|span| span.lines.remove(item.line))
    }
}

async fn write(
    conn: &mut SqliteConnection,
    now: StoreTime,
    record: &Record,
    fences: Fences,
    holds: Vec<bool>,
) -> Result<Vec<Verdict>, Trouble> {
    let Fences { facts, held } = fences;
    let not_held = record.items.iter().zip(&holds).filter(|(_, holds)| !**holds);
    stopping::end_lines(conn, record.lease, not_held.map(|(item, _)| (item.token, LineSet::single(item.line)))).await?;
    let before = recorded_before(conn, &record.items, &holds, &facts).await?;
    let used = used_by_tried(conn, &record.items, &holds, &held).await?;

    let mut group = Group::new(record.lease, now, Tokens::load(conn).await?);
    let mut verdicts = Vec::with_capacity(record.items.len());
    for (index, (item, &holds)) in record.items.iter().zip(&holds).enumerate() {
        let (outcome_token, logged) = before.get(&index).copied().unwrap_or_default();
        verdicts.push(match o1_fence(holds, item.token, outcome_token, logged) {
            Fence::Holds => {
                let used = used.get(&(item.batch, item.line)).copied().unwrap_or_default();
                let (Some(facts), Some(span)) = (facts.get(&item.batch), held.get(&item.token)) else {
                    return Err(Trouble::damaged("a held line's batch or span is not there"));
                };
                Verdict::Recorded(group.record(item, span, facts, used))
            }
            Fence::Before => Verdict::RecordedBefore,
            Fence::Fenced => {
                group.fence(conn, item, facts.get(&item.batch)).await?;
                Verdict::Fenced
            }
        });
    }
    group.write(conn, held).await?;
    Ok(verdicts)
}

async fn held_spans(
    conn: &mut SqliteConnection,
    lease: LeaseId,
    tokens: impl Iterator<Item = Token>,
) -> Result<HashMap<Token, Span>, Trouble> {
    let tokens: HashSet<u64> = tokens.map(|token| token.0).collect();
    let tokens: Vec<u64> = tokens.into_iter().collect();
    spans::held_by_tokens(conn, &tokens, lease).await
}

const RECORDED_BEFORE: &str = "\
select item.value ->> 0,
       (select o.token from outcomes o where o.batch = item.value ->> 1 and o.line = item.value ->> 2),
       exists (
           select 1 from attempts a
           where a.batch = item.value ->> 1 and a.first_line = item.value ->> 2 and a.token = item.value ->> 3
             and a.kind in ('retried', 'timed_out', 'superseded')
       )
from json_each(?1) as item";

/// O2: of the items that are not held, by their index: the token of the line's outcome, and whether the log has the
/// line's return, or an outcome that was superseded, under the item's token. Of a batch that is being purged (S6), nothing.
async fn recorded_before(
    conn: &mut SqliteConnection,
    items: &[RecordItem],
    holds: &[bool],
    facts: &BTreeMap<BatchId, BatchFacts>,
) -> Result<HashMap<usize, (Option<Token>, bool)>, Trouble> {
    let asked: Vec<(usize, u64, u64, u64)> = items
        .iter()
        .zip(holds)
        .enumerate()
        .filter(|(_, (item, holds))| !**holds && facts.contains_key(&item.batch))
        .map(|(index, (item, _))| (index, item.batch.number(), item.line, item.token.0))
        .collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let records: Vec<(i64, Option<i64>, bool)> =
        sqlx::query_as(RECORDED_BEFORE).bind(json(&asked)?).fetch_all(conn).await?;
    let found = |(index, token, logged): (i64, Option<i64>, bool)| {
        let index = usize::try_from(index).map_err(|_| Trouble::damaged("an index that was not asked for"))?;
        Ok((index, (token.map(natural).transpose()?.map(Token), logged)))
    };
    records.into_iter().map(found).collect()
}

/// What the recorded lines used up before, where the log may have anything of them.
async fn used_by_tried(
    conn: &mut SqliteConnection,
    items: &[RecordItem],
    holds: &[bool],
    held: &HashMap<Token, Span>,
) -> Result<HashMap<(BatchId, u64), Used>, Trouble> {
    let mut tried: BTreeMap<BatchId, Vec<u64>> = BTreeMap::new();
    for (item, _) in items.iter().zip(holds).filter(|(_, holds)| **holds) {
        if held.get(&item.token).is_some_and(|span| span.tried) {
            tried.entry(item.batch).or_default().push(item.line);
        }
    }
    let mut all = HashMap::new();
    for (batch, lines) in tried {
        let used = append::used(conn, batch, &lines.into_iter().collect()).await?;
        all.extend(used.into_iter().map(|(line, used)| ((batch, line), used)));
    }
    Ok(all)
}

/// What a group comes to, gathered before it is written.
struct Group<'a> {
    lease: LeaseId,
    now: StoreTime,
    tokens: Tokens,
    outcomes: Vec<Outcome<'a>>,
    returned: Vec<Entry<'a>>,
    freed: Vec<Span>,
    counts: BTreeMap<BatchId, Counts>,
    recorded_in: HashSet<BatchId>,
}

impl<'a> Group<'a> {
    fn new(lease: LeaseId, now: StoreTime, tokens: Tokens) -> Self {
        Self {
            lease,
            now,
            tokens,
            outcomes: Vec::new(),
            returned: Vec::new(),
            freed: Vec::new(),
            counts: BTreeMap::new(),
            recorded_in: HashSet::new(),
        }
    }

    fn record(&mut self, item: &'a RecordItem, span: &Span, facts: &BatchFacts, used: Used) -> Recorded {
        self.recorded_in.insert(item.batch);
        match &item.answer {
            Answer::Success(result) => {
                self.append(item, Ending::Success(result), facts, used);
                Recorded::Success
            }
            Answer::Failed(error) => {
                self.append(item, Ending::Failed(error), facts, used);
                Recorded::Failed
            }
            Answer::Retry { error, jitter, timed_out } => {
                match o5_after_retry(used.attempts, facts.attempts_max, *jitter) {
                    AfterRetry::Exhausted => {
                        self.append(item, Ending::Failed(error), facts, used);
                        Recorded::Failed
                    }
                    AfterRetry::Again { backoff } => {
                        self.give_back(item, span, facts, *timed_out, error, self.now + backoff);
                        Recorded::GivenBack
                    }
                }
            }
        }
    }

    fn append(&mut self, item: &RecordItem, ending: Ending<'a>, facts: &BatchFacts, used: Used) {
        let counts = self.counts.entry(item.batch).or_default();
        match ending {
            Ending::Success(_) => counts.success += 1,
            Ending::Failed(_) => counts.failed += 1,
        }
        self.outcomes.push(Outcome {
            batch: item.batch,
            line: item.line,
            ending,
            token: item.token,
            attempts: used.attempts.saturating_add(1),
            crashes: p1_crashes(used.crashes, used.withdrawn),
            generation: facts.generation,
            run_us: micros_of(item.run_time),
        });
    }

    fn give_back(
        &mut self,
        item: &RecordItem,
        span: &Span,
        facts: &BatchFacts,
        timed_out: bool,
        error: &'a str,
        not_before: StoreTime,
    ) {
        let counts = self.counts.entry(item.batch).or_default();
        let kind = if timed_out { EntryKind::TimedOut } else { EntryKind::Retried };
        if timed_out {
            counts.timed_out += 1
        } else {
            counts.retried += 1
        }
        self.returned.push(entry(item, self.lease, facts, kind, error));
        let freed = span.freed(self.tokens.draw(), LineSet::single(item.line));
        self.freed.push(Span { not_before: Some(not_before), tried: true, ..freed });
    }

    /// O1: drops the answer, and keeps it in the row's story; counted once.
    async fn fence(
        &mut self,
        conn: &mut SqliteConnection,
        item: &RecordItem,
        facts: Option<&BatchFacts>,
    ) -> Result<(), Trouble> {
        let Some(facts) = facts else { return Ok(()) };
        let dropped = dropped_answer(&item.answer);
        let entry = entry(item, self.lease, facts, EntryKind::Fenced, &dropped);
        if append::fenced(conn, self.now, &entry).await? {
            self.counts.entry(item.batch).or_default().fenced += 1;
        }
        Ok(())
    }

    async fn write(self, conn: &mut SqliteConnection, held: HashMap<Token, Span>) -> Result<(), Trouble> {
        let mut changes = SpanChanges::of(Some(self.lease));
        for span in held.values().filter(|span| self.recorded_in.contains(&span.batch)) {
            changes.keep(span);
        }
        for span in self.freed {
            changes.begin(span);
        }
        changes.write(conn).await?;
        append::outcomes(conn, self.now, self.lease, &self.outcomes).await?;
        append::entries(conn, self.now, &self.returned).await?;
        append::count(conn, Some(self.lease), &self.counts).await?;
        self.tokens.write(conn).await?;
        batch::end_finished(conn, self.now, self.recorded_in).await
    }
}

fn entry<'d>(item: &RecordItem, lease: LeaseId, facts: &BatchFacts, kind: EntryKind, detail: &'d str) -> Entry<'d> {
    Entry {
        batch: item.batch,
        generation: facts.generation,
        lines: LineRange { first: item.line, last: item.line },
        token: item.token,
        kind,
        lease,
        judge: None,
        detail: Some(detail),
        run_us: Some(micros_of(item.run_time)),
    }
}

fn dropped_answer(answer: &Answer) -> String {
    let (kind, text) = match answer {
        Answer::Success(result) => ("success", result),
        Answer::Failed(error) => ("failed", error),
        Answer::Retry { error, timed_out: false, .. } => ("retry", error),
        Answer::Retry { error, timed_out: true, .. } => ("timed out", error),
    };
    told(kind, text)
}

/// What is kept of a dropped answer, or of a superseded outcome.
pub(super) fn told(kind: &str, text: &str) -> String {
    let end = text.floor_char_boundary(DROPPED_ANSWER_BYTES_MAX);
    let cut = if end < text.len() { "..." } else { "" };
    format!("{kind}: {}{cut}", &text[..end])
}

/// S1, L4: lines go back as they were, with no attempt used.
pub(super) async fn give_back(
    conn: &mut SqliteConnection,
    now: StoreTime,
    lease: LeaseId,
    given: &[(BatchId, Token, LineSet)],
) -> Result<(), Trouble> {
    let facts = batch::facts(conn, given.iter().map(|(batch, _, _)| *batch)).await?;
    let mut held = held_spans(conn, lease, given.iter().map(|(_, token, _)| *token)).await?;
    let mut tokens = Tokens::load(conn).await?;
    let mut changes = SpanChanges::of(Some(lease));
    let mut log = Vec::new();
    let mut changed = HashSet::new();
    let not_held = given.iter().filter(|(_, token, _)| !held.contains_key(token));
    stopping::end_lines(conn, lease, not_held.map(|(_, token, lines)| (*token, lines.clone()))).await?;
    for (batch, token, lines) in given {
        let Some(facts) = facts.get(batch).filter(|facts| facts.is_open()) else { continue };
        let Some(span) = held.get_mut(token).filter(|span| span.batch == *batch) else { continue };
        let lines = span.lines.intersection(lines);
        if lines.is_empty() {
            continue;
        }
        span.lines = span.lines.difference(&lines);
        log_given_back(&mut log, span, &lines, facts.generation, lease);
        changes.begin(span.freed(tokens.draw(), lines));
        changed.insert(*token);
    }
    for span in held.values().filter(|span| changed.contains(&span.token)) {
        changes.keep(span);
    }
    changes.write(conn).await?;
    append::entries(conn, now, &log).await?;
    tokens.write(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_answer_is_cut_at_a_character() {
        let long = "é".repeat(DROPPED_ANSWER_BYTES_MAX);
        let kept = dropped_answer(&Answer::Failed(long.into()));
        assert!(kept.starts_with("failed: é") && kept.ends_with("é..."));
        assert_eq!(dropped_answer(&Answer::Success("1".into())), "success: 1");
    }
}
