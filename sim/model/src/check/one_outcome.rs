//! Invariant 2: one outcome.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::{BatchId, Token};

use super::{Checker, Violation, ensure};
use crate::history::{Event, OutcomeStatus};
use crate::view::{BatchView, StoreView};

const NAME: &str = "2 one outcome";

/// Asserts that no line is recorded twice, that an outcome that was told or seen once is in every later snapshot with the same
/// token and status, and that a snapshot has none that was not told. Only an operator's retry takes outcomes away, and only
/// those of the lines it names (of a batch whose events are not told, as many as its log has superseded since), and a purge, which
/// takes all of a batch; after it none is recorded.
#[derive(Debug, Clone, Hash, Default)]
pub struct OneOutcome {
    batches: BTreeMap<BatchId, Known>,
    purged: BTreeSet<BatchId>,
}

#[derive(Debug, Clone, Hash, Default)]
struct Known {
    outcomes: BTreeMap<u64, (Token, OutcomeStatus)>,
    superseded: u64,
    /// Its events are told, not just its snapshots.
    told: bool,
}

impl OneOutcome {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn look(&mut self, at: u64, view: &BatchView) -> Result<(), Violation> {
        let batch = view.batch;
        ensure(!self.purged.contains(&batch), NAME, at, || format!("{batch} is purged and has outcomes"))?;
        let known = self.batches.entry(batch).or_default();
        let superseded = view.logged.superseded.saturating_sub(known.superseded);
        let mut may_go = if known.told { 0 } else { superseded };
        known.superseded = view.logged.superseded;
        let mut seen = BTreeMap::new();
        for outcome in &view.outcomes {
            let twice = seen.insert(outcome.line, (outcome.token, outcome.status));
            ensure(twice.is_none(), NAME, at, || format!("{batch} line {} has two outcomes", outcome.line))?;
        }
        for (line, was) in &known.outcomes {
            let is = seen.get(line);
            let gone = is != Some(was);
            ensure(!gone || may_go > 0, NAME, at, || format!("{batch} line {line} was {was:?} and is {is:?}"))?;
            may_go -= u64::from(gone);
        }
        let untold = known.told && seen.len() > known.outcomes.len();
        ensure(!untold, NAME, at, || format!("{batch} has outcomes that were not told"))?;
        known.outcomes = seen;
        Ok(())
    }
}

impl Checker for OneOutcome {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::BatchLoaded { batch, .. } => {
                let known = Known { told: true, ..Known::default() };
                self.batches.insert(*batch, known);
            }
            Event::BatchPurged { batch } => {
                self.batches.remove(batch);
                self.purged.insert(*batch);
            }
            Event::Recorded { batch, line, token, status, .. } => {
                ensure(!self.purged.contains(batch), NAME, at, || format!("{batch} is purged, line {line} recorded"))?;
                let outcomes = &mut self.batches.entry(*batch).or_default().outcomes;
                let before = outcomes.insert(*line, (*token, *status));
                ensure(before.is_none(), NAME, at, || format!("{batch} line {line} is recorded twice: {before:?}"))?;
            }
            Event::RowsRetried { batch, spans, .. } => {
                let known = self.batches.entry(*batch).or_default();
                for line in spans.iter().flat_map(|(lines, _)| lines.iter()) {
                    let was = known.outcomes.remove(&line);
                    ensure(was.is_some(), NAME, at, || format!("{batch} line {line} runs again without an outcome"))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        state.batches.iter().try_for_each(|view| self.look(at, view))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::view::OutcomeView;

    #[test]
    fn a_good_history_passes() {
        passes(&mut OneOutcome::new(), &good_history());
    }

    #[test]
    fn a_second_outcome_is_seen() {
        let mut events = loaded(1);
        events.extend([claimed(1..=1, 1, None, 1), recorded(1, 1, 1), recorded(1, 1, 1)]);
        fails(&mut OneOutcome::new(), &events);
    }

    #[test]
    fn an_outcome_that_changes_or_goes_is_seen() {
        let breaks: [fn(&mut StoreView); 2] =
            [|view| view.batches[0].outcomes[0].token = Token(9), |view| view.batches[0].outcomes.clear()];
        for break_it in breaks {
            let mut checker = OneOutcome::new();
            let mut view = good_view();
            checker.on_state(1, &view).unwrap();
            checker.on_state(2, &view).unwrap();
            break_it(&mut view);
            checker.on_state(3, &view).unwrap_err();
        }
    }

    #[test]
    fn only_what_an_operator_retries_may_go() {
        let mut history = good_history();
        history.extend([retried(2, &[(2..=2, 7)]), claimed_by(2, 2..=2, 8, Some(7), 2, 0, false), recorded(2, 8, 2)]);
        passes(&mut OneOutcome::new(), &history);
        // The same line again without an outcome in between.
        fails(&mut OneOutcome::new(), &[&history[..15], &[retried(2, &[(2..=2, 8)])]].concat());
        // Another line's outcome goes with it.
        let mut checker = OneOutcome::new();
        let mut view = good_view();
        passes(&mut checker, &[batch_loaded(batch(), 3, 0), recorded(1, 1, 1), recorded(2, 1, 1)]);
        passes(&mut checker, &[retried(1, &[(2..=2, 7)])]);
        checker.on_state(1, &view).unwrap();
        view.batches[0].outcomes.clear();
        checker.on_state(2, &view).unwrap_err();
    }

    #[test]
    fn a_purge_takes_all_outcomes_and_none_comes_after_it() {
        let mut checker = OneOutcome::new();
        passes(&mut checker, &[good_history(), vec![purged()]].concat());
        checker.on_state(98, &StoreView::default()).unwrap();
        checker.on_state(98, &good_view()).unwrap_err();
        checker.on_event(99, &recorded(1, 9, 1)).unwrap_err();
    }

    #[test]
    fn where_events_are_not_told_the_log_says_how_many_went() {
        let mut checker = OneOutcome::new();
        let mut view = good_view();
        checker.on_state(1, &view).unwrap();
        view.batches[0].outcomes[0].token = Token(9);
        view.batches[0].logged.superseded = 1;
        checker.on_state(2, &view).unwrap();
        let mut two = view.batches[0].outcomes[0].clone();
        two.line = 2;
        view.batches[0].outcomes.push(two);
        checker.on_state(3, &view).unwrap();
        view.batches[0].logged.superseded = 2;
        view.batches[0].outcomes.clear();
        checker.on_state(4, &view).unwrap_err();
    }

    #[test]
    fn outcomes_that_were_not_told_twins_and_other_statuses_are_seen() {
        let told = || {
            let mut checker = OneOutcome::new();
            passes(&mut checker, &[batch_loaded(batch(), 3, 0), recorded(1, 1, 1)]);
            checker.on_state(1, &good_view()).unwrap();
            checker
        };
        let breaks: [Break; 3] = [
            (|view| view.outcomes.push(view.outcomes[0].clone()), "has two outcomes"),
            (|view| view.outcomes[0].status = OutcomeStatus::Failed, "was (t1, Success) and is"),
            (|view| view.outcomes.push(OutcomeView { line: 2, ..view.outcomes[0].clone() }), "were not told"),
        ];
        for (break_it, words) in breaks {
            let mut view = good_view();
            break_it(&mut view.batches[0]);
            state_fails_with(&mut told(), &view, words);
        }
    }
}
