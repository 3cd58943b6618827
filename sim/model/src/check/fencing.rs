//! Invariant 3: fencing.

use std::collections::BTreeMap;

use fencepost_core::{BatchId, LineSet, Token};

use super::{Checker, Violation, ensure, index};
use crate::history::{Event, RecordedWhy};
use crate::view::StoreView;

const NAME: &str = "3 fencing";

/// Asserts that an answer is recorded under the newest token that its line ever had, that a row which crashed too often is
/// recorded under a newer one, and that in every snapshot each span's and each outcome's token is its lines' newest.
#[derive(Debug, Clone, Hash, Default)]
pub struct Fencing {
    newest: BTreeMap<BatchId, Vec<Token>>,
}

impl Fencing {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn renew(&mut self, batch: BatchId, lines: &LineSet, token: Token) {
        let Some(newest) = self.newest.get_mut(&batch) else {
            return;
        };
        for line in lines.iter() {
            if let Some(newest) = newest.get_mut(index(line)) {
                *newest = token.max(*newest);
            }
        }
    }

    fn newest(&self, batch: BatchId, line: u64) -> Option<Token> {
        self.newest.get(&batch)?.get(index(line)).copied()
    }
}

impl Checker for Fencing {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::BatchLoaded { batch, total, .. } => {
                let lines = usize::try_from(*total).unwrap_or(usize::MAX);
                self.newest.insert(*batch, vec![Token(0); lines]);
            }
            Event::BatchAppended { batch, lines } => {
                if let Some(newest) = self.newest.get_mut(batch) {
                    newest.resize(usize::try_from(lines.last).unwrap_or(usize::MAX), Token(0));
                }
            }
            Event::Claimed { batch, lines, token, .. } | Event::Freed { batch, lines, token, .. } => {
                self.renew(*batch, lines, *token);
            }
            Event::RowsRetried { batch, spans, .. } => {
                spans.iter().for_each(|(lines, token)| self.renew(*batch, lines, *token));
            }
            Event::Recorded { batch, line, token, why, .. } => {
                let newest = self.newest(*batch, *line);
                let fits = match why {
                    RecordedWhy::CrashedTooOften => newest.is_some_and(|newest| newest < *token),
                    RecordedWhy::Answered | RecordedWhy::Exhausted => newest == Some(*token),
                };
                ensure(fits, NAME, at, || {
                    format!("{batch} line {line} is recorded under {token}, newest is {newest:?}")
                })?;
                self.renew(*batch, &LineSet::single(*line), *token);
            }
            _ => {}
        }
        Ok(())
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        for view in state.batches.iter().filter(|view| self.newest.contains_key(&view.batch)) {
            let of_spans = view.spans.iter().flat_map(|span| span.lines.iter().map(|line| (line, span.token)));
            let of_outcomes = view.outcomes.iter().map(|outcome| (outcome.line, outcome.token));
            for (line, token) in of_spans.chain(of_outcomes) {
                let newest = self.newest(view.batch, line);
                let what = || format!("{} line {line} is under {token}, newest is {newest:?}", view.batch);
                ensure(newest == Some(token), NAME, at, what)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::history::{FreedWhy, OutcomeStatus};

    #[test]
    fn a_good_history_passes() {
        passes(&mut Fencing::new(), &good_history());
    }

    #[test]
    fn a_late_write_is_seen() {
        let mut events = loaded(1);
        events.extend([claimed(1..=1, 1, None, 1), freed(1..=1, 2, 1, FreedWhy::Recovered, 1), recorded(1, 1, 1)]);
        fails(&mut Fencing::new(), &events);
    }

    #[test]
    fn an_older_token_in_a_snapshot_is_seen() {
        let mut checker = Fencing::new();
        let mut events = loaded(3);
        events.extend([claimed(1..=2, 1, None, 1), recorded(1, 1, 1)]);
        passes(&mut checker, &events);
        let mut view = good_view();
        checker.on_state(1, &view).unwrap();
        view.batches[0].spans[0].token = Token(0);
        checker.on_state(1, &view).unwrap_err();
    }

    #[test]
    fn a_write_from_before_a_retry_is_seen() {
        let mut events = loaded(1);
        events.extend([claimed(1..=1, 1, None, 1), recorded(1, 1, 1), retried(1, &[(1..=1, 2)])]);
        fails(&mut Fencing::new(), &[events.clone(), vec![recorded(1, 1, 1)]].concat());
        passes(&mut Fencing::new(), &[events, vec![claimed(1..=1, 3, Some(2), 2), recorded(1, 3, 1)]].concat());
    }

    #[test]
    fn a_crash_that_fails_a_row_under_no_newer_token_is_seen() {
        let by_crash = |token| recorded_as(1, token, 1, OutcomeStatus::Failed, 0, 2, RecordedWhy::CrashedTooOften);
        let events = |token| [loaded(1), vec![claimed(1..=1, 4, None, 1), by_crash(token)]].concat();
        passes(&mut Fencing::new(), &events(5));
        fails_with(Fencing::new(), &events(4), "newest is");
        fails_with(Fencing::new(), &events(3), "newest is");
    }

    #[test]
    fn an_outcome_under_an_older_token_in_a_snapshot_is_seen() {
        let mut checker = Fencing::new();
        passes(&mut checker, &[loaded(3), vec![claimed(1..=2, 1, None, 1), recorded(1, 1, 1)]].concat());
        let mut view = good_view();
        view.batches[0].outcomes[0].token = Token(0);
        state_fails_with(&mut checker, &view, "line 1 is under");
    }
}
