//! One line: whether its outcome and its log fit together. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::Token;
use fencepost_core::rules::poison::{p1_counts, p1_crashes, p2_after_crash};

use super::code::Code;
use crate::store::verify::{EntryFact, EntryKind, OutcomeFact};

/// Everything that is recorded of one line.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub line: u64,
    pub outcome: Option<OutcomeFact>,
    /// Entries of this line alone.
    pub entries: Vec<EntryFact>,
}

/// What a line's records come to.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// What is wrong, and under which token.
    pub wrong: Vec<(Code, u64)>,
    /// How often the row is known to have run.
    pub runs: u64,
}

impl Line {
    pub fn new(line: u64) -> Self {
        Self { line, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.outcome.is_none() && self.entries.is_empty()
    }

    /// Judges the line. `ranges`: entries that cover several lines, this one too; `crashes_max`: the batch's.
    pub fn settle<'e>(&'e self, ranges: impl Iterator<Item = &'e EntryFact> + Clone, crashes_max: u32) -> Settled {
        let mut settled = Settled::default();
        // Most rows run once, and nothing befalls them.
        if self.entries.is_empty() && ranges.clone().next().is_none() {
            if let Some(outcome) = &self.outcome {
                let used = Used::default();
                used.compare(outcome, crashes_max, &mut settled.wrong);
                settled.runs = u64::from(!used.died_of_crashes(outcome, crashes_max));
            }
            return settled;
        }
        let used = Used::of(&self.entries);
        self.tokens(ranges, &mut settled.wrong);
        for entry in self.of_kind(EntryKind::CrashWithdrawn) {
            if !self.of_kind(EntryKind::Crashed).any(|crash| crash.token == entry.token) {
                settled.wrong.push((Code::WithdrawnWithoutCrash, entry.token));
            }
        }
        if let Some(outcome) = &self.outcome {
            used.compare(outcome, crashes_max, &mut settled.wrong);
        }
        settled.runs = self.runs(&used, crashes_max);
        settled
    }

    fn of_kind(&self, kind: EntryKind) -> impl Iterator<Item = &EntryFact> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    /// T3, O1: a token records a line once at most, never after the line was taken from it, and the outcome's is the newest.
    fn tokens<'e>(&'e self, ranges: impl Iterator<Item = &'e EntryFact>, wrong: &mut Vec<(Code, u64)>) {
        let mut by_token: BTreeMap<u64, Under> = BTreeMap::new();
        for entry in self.entries.iter().chain(ranges) {
            let under = by_token.entry(entry.token).or_default();
            match entry.kind {
                EntryKind::Retried | EntryKind::TimedOut | EntryKind::Superseded => under.recorded += 1,
                EntryKind::Recovered | EntryKind::GivenBack | EntryKind::Crashed => under.taken = true,
                EntryKind::Fenced => under.fenced = true,
                EntryKind::CrashWithdrawn => {}
            }
        }
        if let Some(outcome) = &self.outcome {
            by_token.entry(outcome.token).or_default().recorded += 1;
        }
        for (token, under) in by_token {
            if under.recorded > 1 {
                wrong.push((Code::RecordedTwice, token));
            }
            if under.recorded > 0 && under.taken {
                wrong.push((Code::RecordedAfterLoss, token));
            }
            let newest = self.outcome.is_none_or(|outcome| outcome.token >= token);
            if under.held() && !newest {
                wrong.push((Code::TokenNotNewest, token));
            }
            // Whoever sends an answer names its token: a line need not have been held under it, but must not have been held since.
            let current = under.recorded > 0 || self.outcome.is_some_and(|outcome| outcome.token <= token);
            if under.fenced && current {
                wrong.push((Code::FencedWrongly, token));
            }
        }
    }

    /// Runs that left a trace: an answer, a timeout, a crash, a late answer. One that was cut off with its worker, or given up, leaves none.
    fn runs(&self, used: &Used, crashes_max: u32) -> u64 {
        let ran = |entry: &&EntryFact| {
            !matches!(entry.kind, EntryKind::Recovered | EntryKind::GivenBack | EntryKind::CrashWithdrawn)
        };
        let mut tokens: BTreeSet<u64> = self.entries.iter().filter(ran).map(|entry| entry.token).collect();
        let outcome = self.outcome.filter(|outcome| !used.died_of_crashes(outcome, crashes_max));
        tokens.extend(outcome.map(|outcome| outcome.token));
        u64::try_from(tokens.len()).unwrap_or(u64::MAX)
    }
}

/// What the log says of one token.
#[derive(Default)]
struct Under {
    recorded: u32,
    taken: bool,
    fenced: bool,
}

impl Under {
    /// Whether the line was held under it.
    fn held(&self) -> bool {
        self.recorded > 0 || self.taken
    }
}

/// P1: what a line has used up since its last operator's retry.
#[derive(Debug, Default)]
struct Used {
    attempts: i64,
    crashed: u32,
    withdrawn: u32,
}

impl Used {
    fn of(entries: &[EntryFact]) -> Self {
        let superseded = entries.iter().filter(|entry| entry.kind == EntryKind::Superseded);
        let superseded = superseded.map(|entry| Token(entry.token)).max();
        let mut used = Self::default();
        for entry in entries.iter().filter(|entry| p1_counts(Token(entry.token), superseded)) {
            match entry.kind {
                EntryKind::Retried | EntryKind::TimedOut => used.attempts += 1,
                EntryKind::Crashed => used.crashed += 1,
                EntryKind::CrashWithdrawn => used.withdrawn += 1,
                _ => {}
            }
        }
        used
    }

    /// P2: whether the outcome is that of no run: the row failed for its crashes, and used no attempt.
    fn died_of_crashes(&self, outcome: &OutcomeFact, crashes_max: u32) -> bool {
        let crashes = u32::try_from(outcome.crashes).unwrap_or(0);
        !outcome.success && outcome.attempts == self.attempts && p2_after_crash(crashes, crashes_max)
    }

    /// A crash may be withdrawn after the outcome: then the outcome keeps it.
    fn compare(&self, outcome: &OutcomeFact, crashes_max: u32, wrong: &mut Vec<(Code, u64)>) {
        if outcome.attempts != self.attempts + 1 && !self.died_of_crashes(outcome, crashes_max) {
            wrong.push((Code::AttemptsDiffer, outcome.token));
        }
        let least = i64::from(p1_crashes(self.crashed, self.withdrawn));
        if !(least..=i64::from(self.crashed)).contains(&outcome.crashes) {
            wrong.push((Code::CrashesDiffer, outcome.token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, token: u64) -> EntryFact {
        EntryFact { first: 5, last: 5, token, kind, generation: 1 }
    }

    fn outcome(token: u64, attempts: i64, crashes: i64) -> Option<OutcomeFact> {
        Some(OutcomeFact { line: 5, success: false, whole: true, token, attempts, crashes, generation: 1 })
    }

    /// With 3 crashes at most.
    fn settled(outcome: Option<OutcomeFact>, entries: &[EntryFact], ranges: &[EntryFact]) -> (Vec<(Code, u64)>, u64) {
        let line = Line { line: 5, outcome, entries: entries.to_vec() };
        let Settled { wrong, runs } = line.settle(ranges.iter(), 3);
        (wrong, runs)
    }

    #[test]
    fn stories_that_can_be_are_well_and_their_runs_are_counted() {
        use EntryKind::*;
        let crash = |token| entry(Crashed, token);
        let back = [entry(Recovered, 2), entry(GivenBack, 4)];
        for (outcome, entries, ranges, runs) in [
            (outcome(1, 1, 0), vec![], vec![], 1),
            (None, vec![entry(Retried, 1), entry(TimedOut, 3)], vec![], 2),
            (outcome(9, 3, 0), vec![entry(Retried, 1), entry(TimedOut, 3)], vec![], 3),
            // Held by a dead worker whose answer came late, and given back: the last two left no trace of a run.
            (outcome(9, 1, 0), vec![entry(Fenced, 2)], back.to_vec(), 2),
            // What was before an operator's retry counts no more.
            (outcome(9, 1, 0), vec![entry(Retried, 1), crash(3), entry(Superseded, 5)], vec![], 4),
            (outcome(9, 1, 1), vec![crash(1), entry(Recovered, 1)], vec![], 2),
            // Withdrawn before the outcome, or after it.
            (outcome(9, 1, 0), vec![crash(1), entry(CrashWithdrawn, 1)], vec![], 2),
            (outcome(9, 1, 1), vec![crash(1), entry(CrashWithdrawn, 1)], vec![], 2),
            // P2: the outcome is that of no run.
            (outcome(9, 0, 3), vec![crash(1), crash(3), crash(5)], vec![], 3),
        ] {
            assert_eq!(settled(outcome, &entries, &ranges), (Vec::new(), runs), "{outcome:?} {entries:?} {ranges:?}");
        }
    }

    #[test]
    fn stories_that_cannot_be_are_named_with_their_token() {
        use EntryKind::*;
        for (outcome, entries, ranges, wrong) in [
            (outcome(1, 2, 0), vec![], vec![], vec![(Code::AttemptsDiffer, 1)]),
            (outcome(1, 0, 2), vec![], vec![], vec![(Code::AttemptsDiffer, 1), (Code::CrashesDiffer, 1)]),
            (outcome(9, 1, 2), vec![entry(Crashed, 1)], vec![], vec![(Code::CrashesDiffer, 9)]),
            (outcome(9, 1, 0), vec![entry(Crashed, 1)], vec![], vec![(Code::CrashesDiffer, 9)]),
            (None, vec![entry(Retried, 1), entry(TimedOut, 1)], vec![], vec![(Code::RecordedTwice, 1)]),
            (outcome(1, 1, 0), vec![entry(Superseded, 1)], vec![], vec![(Code::RecordedTwice, 1)]),
            (outcome(2, 1, 0), vec![], vec![entry(Recovered, 2)], vec![(Code::RecordedAfterLoss, 2)]),
            (outcome(2, 1, 0), vec![], vec![entry(GivenBack, 3)], vec![(Code::TokenNotNewest, 3)]),
            (outcome(2, 1, 0), vec![entry(Fenced, 2)], vec![], vec![(Code::FencedWrongly, 2)]),
            (outcome(2, 1, 0), vec![entry(Fenced, 3)], vec![], vec![(Code::FencedWrongly, 3)]),
            (None, vec![entry(Fenced, 2), entry(Retried, 2)], vec![], vec![(Code::FencedWrongly, 2)]),
            (None, vec![entry(CrashWithdrawn, 2)], vec![], vec![(Code::WithdrawnWithoutCrash, 2)]),
        ] {
            assert_eq!(settled(outcome, &entries, &ranges).0, wrong, "{outcome:?} {entries:?} {ranges:?}");
        }
    }
}
