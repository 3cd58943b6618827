//! What `fencepost verify` reads of a batch, of any store: facts as they are recorded, whatever is wrong with them. What they mean is
//! said by [`crate::report::verify`].
//!
//! All facts of one inspection are of one snapshot: workers may go on meanwhile. Outcomes and the log come line by line, so that a
//! batch of any size fits into memory.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime};

use super::StoreError;
use super::view::BatchView;

/// At most so many outcomes, or entries of the log, are read at once.
pub const PAGE: usize = 10_000;

/// At most so many tokens that two leases have are told.
pub const SHARED_TOKENS_MAX: u32 = 100;

/// A store whose batches can be inspected.
pub trait Verifies: Send + Sync {
    /// Tells the inspector all of a batch, in one snapshot, writing nothing. False: there is no such batch.
    fn inspect(
        &self,
        batch: BatchId,
        inspector: &mut impl Inspector,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// Who is told the facts.
pub trait Inspector: Send {
    /// First, what is told at once.
    fn begin(&mut self, facts: BatchFacts);
    /// An entry of the log. Entries and outcomes come by line (an entry's is its first), entries of a line before its outcome.
    fn entry(&mut self, entry: EntryFact);
    /// An outcome.
    fn outcome(&mut self, outcome: OutcomeFact);
}

/// A batch and all that belongs to it but its outcomes and its log.
#[derive(Debug, Clone)]
pub struct BatchFacts {
    /// The store's clock.
    pub now: StoreTime,
    /// The batch.
    pub batch: BatchView,
    /// T3: the last token drawn.
    pub last_token: u64,
    /// S6: whether there is a note that its purge has begun.
    pub purge_begun: bool,
    /// Lines of the batch that have no input.
    pub missing: LineSet,
    /// Lines outside of the batch that have an input.
    pub beyond: LineSet,
    /// Its spans, by token.
    pub spans: Vec<SpanFact>,
    /// S2: what may still run of it.
    pub stopping: Vec<StoppingFact>,
    /// The live leases, and all that its spans, its calls and what may still run name.
    pub leases: Vec<LeaseFact>,
    /// The sums of its tallies.
    pub tallies: Tallies,
    /// S7: its completion calls, by generation.
    pub calls: Vec<CallFact>,
    /// S3: its appends.
    pub appends: Vec<AppendFact>,
    /// Tokens that two leases, or a lease and a free span, have: the first so many.
    pub shared_tokens: Vec<SharedToken>,
    /// The leases whose ends gave lines of it back, or charged crashes.
    pub recovered_from: Vec<RecoveredFrom>,
}

/// A span.
#[derive(Debug, Clone)]
pub struct SpanFact {
    /// Its token.
    pub token: u64,
    /// Its lines, or the text that is no set of lines.
    pub lines: Result<LineSet, String>,
    /// How many it says it has.
    pub line_count: i64,
    /// Where it began.
    pub first_line: i64,
    /// Who holds it.
    pub lease: Option<LeaseId>,
    /// C2: which claim took it.
    pub claim_number: Option<i64>,
}

/// Lines of an aborted batch that were held when it was aborted.
#[derive(Debug, Clone)]
pub struct StoppingFact {
    /// The token under which they were held.
    pub token: u64,
    /// By which lease.
    pub lease: LeaseId,
    /// The lines, or the text that is no set of lines.
    pub lines: Result<LineSet, String>,
}

/// A lease.
#[derive(Debug, Clone)]
pub struct LeaseFact {
    /// Its id.
    pub lease: LeaseId,
    /// Its state.
    pub state: LeaseState,
    /// How long it lasts without a renewal.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// Until when it lasts.
    pub expires_at: StoreTime,
    /// When it was taken.
    pub taken_at: StoreTime,
    /// C2: its largest claim number.
    pub claims: i64,
}

/// Sums of a batch's tallies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tallies {
    /// Rows that succeeded.
    pub success: i64,
    /// Rows that failed.
    pub failed: i64,
    /// Attempts that were retried.
    pub retried: i64,
    /// Attempts that ran past their time.
    pub timed_out: i64,
    /// Late answers.
    pub fenced: i64,
}

/// The completion call of one generation.
#[derive(Debug, Clone)]
pub struct CallFact {
    /// Which.
    pub generation: i64,
    /// How it ended.
    pub status: String,
    /// Rows that succeeded.
    pub success: i64,
    /// Rows that failed.
    pub failed: i64,
    /// Rows without an outcome.
    pub aborted: i64,
    /// When it ended.
    pub ended_at: StoreTime,
    /// Under which token it is, or was last, made.
    pub token: Option<u64>,
    /// Who makes it now.
    pub lease: Option<LeaseId>,
    /// Whether it is recorded as delivered.
    pub delivered: bool,
}

/// An append.
#[derive(Debug, Clone)]
pub struct AppendFact {
    /// Whether its rows are the batch's.
    pub done: bool,
    /// Its first line.
    pub first_line: i64,
    /// How many rows of it are stored.
    pub line_count: i64,
}

/// A token that is not one lease's.
#[derive(Debug, Clone)]
pub struct SharedToken {
    /// Which.
    pub token: u64,
    /// Two of those that have it; `None`: a free span.
    pub leases: [Option<LeaseId>; 2],
    /// Lines that are, or were, under it: the first and the last.
    pub lines: [u64; 2],
}

/// A lease that was recovered from.
#[derive(Debug, Clone)]
pub struct RecoveredFrom {
    /// Which.
    pub lease: LeaseId,
    /// Its ttl, until when it would have lasted, when it was declared dead; where its record is still there.
    pub ended: Option<(Duration, StoreTime, StoreTime)>,
}

/// What an entry of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// An attempt that is tried again.
    Retried,
    /// One that ran past its time.
    TimedOut,
    /// A death that counts against the line.
    Crashed,
    /// One that a living worker took back.
    CrashWithdrawn,
    /// A late answer was dropped.
    Fenced,
    /// Lines came back from an ended lease.
    Recovered,
    /// Lines were given back.
    GivenBack,
    /// An outcome was taken away by an operator's retry.
    Superseded,
}

impl EntryKind {
    /// Reads a name back.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "retried" => Self::Retried,
            "timed_out" => Self::TimedOut,
            "crashed" => Self::Crashed,
            "crash_withdrawn" => Self::CrashWithdrawn,
            "fenced" => Self::Fenced,
            "recovered" => Self::Recovered,
            "given_back" => Self::GivenBack,
            "superseded" => Self::Superseded,
            _ => return None,
        })
    }
}

/// An entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryFact {
    /// The first line it is about.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// The token under which they were held.
    pub token: u64,
    /// What it is.
    pub kind: EntryKind,
    /// In which generation.
    pub generation: i64,
}

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeFact {
    /// Of which line.
    pub line: u64,
    /// Whether it is a success.
    pub success: bool,
    /// Whether it has what such an outcome has, and nothing else: a result, or an error.
    pub whole: bool,
    /// Under which token.
    pub token: u64,
    /// Attempts used, this one included.
    pub attempts: i64,
    /// Crashes counted.
    pub crashes: i64,
    /// In which generation.
    pub generation: i64,
}

/// After which entry a page of the log begins.
#[derive(Debug, Clone)]
pub(super) struct EntryKey {
    pub line: i64,
    pub token: i64,
    pub kind: String,
}

impl EntryKey {
    const START: Self = Self { line: i64::MIN, token: i64::MIN, kind: String::new() };
}

/// A snapshot, read a page at a time.
pub(super) trait Pages: Send {
    type Error: Send;

    /// Outcomes with a line behind this one, in the order of lines, [`PAGE`] at most.
    fn outcomes(&mut self, after_line: i64) -> impl Future<Output = Result<Vec<OutcomeFact>, Self::Error>> + Send;

    /// Entries by first line, token and kind, behind this one, [`PAGE`] at most; and the key of the last.
    fn entries(
        &mut self,
        after: &EntryKey,
    ) -> impl Future<Output = Result<(Vec<EntryFact>, Option<EntryKey>), Self::Error>> + Send;
}

/// Tells outcomes and log in the order that [`Inspector`] promises.
pub(super) async fn tell<P: Pages>(pages: &mut P, inspector: &mut impl Inspector) -> Result<(), P::Error> {
    let (mut outcomes, mut entries) = (VecDeque::new(), VecDeque::new());
    let (mut outcomes_after, mut entries_after) = (Some(i64::MIN), Some(EntryKey::START));
    loop {
        if let (true, Some(after)) = (outcomes.is_empty(), outcomes_after) {
            let mut page = pages.outcomes(after).await?;
            outcomes_after = rest_after(&mut page);
            outcomes = page.into();
        }
        if let (true, Some(after)) = (entries.is_empty(), &entries_after) {
            let (page, last) = pages.entries(after).await?;
            entries_after = last.filter(|_| page.len() == PAGE);
            entries = page.into();
        }
        let entry_first = match (entries.front(), outcomes.front()) {
            (Some(entry), Some(outcome)) => entry.first <= outcome.line,
            (entry, _) => entry.is_some(),
        };
        if entry_first && let Some(entry) = entries.pop_front() {
            inspector.entry(entry);
        } else if let Some(outcome) = outcomes.pop_front() {
            inspector.outcome(outcome);
        } else if outcomes_after.is_none() && entries_after.is_none() {
            return Ok(());
        }
    }
}

/// After which line the next page begins. A line at the end of a full page may have more outcomes than one, where that can be: it is
/// read again with them.
fn rest_after(page: &mut Vec<OutcomeFact>) -> Option<i64> {
    if page.len() < PAGE {
        return None;
    }
    let last = page.last()?.line;
    let kept = page.partition_point(|outcome| outcome.line < last);
    if kept > 0 {
        page.truncate(kept);
    }
    page.last().map(|outcome| i64::try_from(outcome.line).unwrap_or(i64::MAX))
}

/// A number that is never below zero where all is well; one that is, is nothing that exists.
pub(super) fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A lease's id, whatever stands there.
pub(super) fn lease(value: i64) -> LeaseId {
    LeaseId::from_random(value.cast_unsigned())
}

/// Ranges as they come from a query: ordered, of any numbers.
pub(super) fn lines(ranges: impl IntoIterator<Item = (i64, i64)>) -> LineSet {
    let range = |(first, last)| fencepost_core::LineRange { first: number(first), last: number(last) };
    LineSet::covering(ranges.into_iter().map(range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(line: u64, token: u64) -> OutcomeFact {
        OutcomeFact { line, success: true, whole: true, token, attempts: 1, crashes: 0, generation: 1 }
    }

    fn entry(first: u64, token: u64) -> EntryFact {
        EntryFact { first, last: first, token, kind: EntryKind::Retried, generation: 1 }
    }

    /// A store of so many outcomes and entries, in their order.
    struct Kept(Vec<OutcomeFact>, Vec<EntryFact>);

    impl Pages for Kept {
        type Error = ();

        async fn outcomes(&mut self, after_line: i64) -> Result<Vec<OutcomeFact>, ()> {
            let behind = |outcome: &&OutcomeFact| i64::try_from(outcome.line).unwrap() > after_line;
            Ok(self.0.iter().filter(behind).take(PAGE).copied().collect())
        }

        async fn entries(&mut self, after: &EntryKey) -> Result<(Vec<EntryFact>, Option<EntryKey>), ()> {
            let key = |entry: &EntryFact| (i64::try_from(entry.first).unwrap(), i64::try_from(entry.token).unwrap());
            let behind = |entry: &&EntryFact| key(entry) > (after.line, after.token);
            let page: Vec<EntryFact> = self.1.iter().filter(behind).take(PAGE).copied().collect();
            let last =
                page.last().map(|entry| EntryKey { line: key(entry).0, token: key(entry).1, kind: "retried".into() });
            Ok((page, last))
        }
    }

    /// What was told: lines and tokens, and whether it was an entry.
    #[derive(Default)]
    struct Told(Vec<(u64, bool, u64)>);

    impl Inspector for Told {
        fn begin(&mut self, _: BatchFacts) {}

        fn entry(&mut self, entry: EntryFact) {
            self.0.push((entry.first, false, entry.token));
        }

        fn outcome(&mut self, outcome: OutcomeFact) {
            self.0.push((outcome.line, true, outcome.token));
        }
    }

    /// Pages end anywhere: in the midst of a line's entries, and of its outcomes, if it has several.
    #[tokio::test]
    async fn all_is_told_once_by_line_with_entries_before_outcomes() {
        let last = u64::try_from(PAGE).unwrap() + 7;
        let mut outcomes: Vec<OutcomeFact> = (1..=last).map(|line| outcome(line, 1)).collect();
        outcomes.insert(PAGE, outcome(PAGE as u64, 2));
        let entries: Vec<EntryFact> =
            (1..=last).step_by(2).flat_map(|line| (1..=3).map(move |token| entry(line, token))).collect();
        let mut expected: Vec<(u64, bool, u64)> =
            outcomes.iter().map(|outcome| (outcome.line, true, outcome.token)).collect();
        expected.extend(entries.iter().map(|entry| (entry.first, false, entry.token)));
        expected.sort_unstable();
        let mut told = Told::default();
        tell(&mut Kept(outcomes, entries), &mut told).await.unwrap();
        assert!(told.0 == expected, "{} were told, not {}", told.0.len(), expected.len());
    }
}
