//! Invariant 2: one outcome.

use std::collections::BTreeMap;

use fencepost_core::{BatchId, Token};

use super::{Checker, Violation, ensure};
use crate::history::{Event, OutcomeStatus};
use crate::view::{BatchView, StoreView};

const NAME: &str = "2 one outcome";

/// Asserts that no line is recorded twice in a generation, that an outcome that was told or seen once is in every later
/// snapshot with the same token and status, and that a snapshot has none that was not told. Only a new generation takes
/// outcomes away, and only those of the lines it names.
#[derive(Debug, Default)]
pub struct OneOutcome {
    batches: BTreeMap<BatchId, Known>,
}

#[derive(Debug, Default)]
struct Known {
    outcomes: BTreeMap<u64, (Token, OutcomeStatus)>,
    generation: u32,
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
        let known = self.batches.entry(batch).or_default();
        if !known.told && known.generation < view.generation {
            known.outcomes.clear();
            known.generation = view.generation;
        }
        let mut seen = BTreeMap::new();
        for outcome in &view.outcomes {
            let twice = seen.insert(outcome.line, (outcome.token, outcome.status));
            ensure(twice.is_none(), NAME, at, || format!("{batch} line {} has two outcomes", outcome.line))?;
        }
        for (line, was) in &known.outcomes {
            let is = seen.get(line);
            ensure(is == Some(was), NAME, at, || format!("{batch} line {line} was {was:?} and is {is:?}"))?;
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
                let known = Known { generation: 1, told: true, ..Known::default() };
                self.batches.insert(*batch, known);
            }
            Event::Recorded { batch, line, token, status, .. } => {
                let outcomes = &mut self.batches.entry(*batch).or_default().outcomes;
                let before = outcomes.insert(*line, (*token, *status));
                ensure(before.is_none(), NAME, at, || format!("{batch} line {line} is recorded twice: {before:?}"))?;
            }
            Event::BatchReopened { batch, lines, generation, .. } => {
                let known = self.batches.entry(*batch).or_default();
                known.generation = *generation;
                for line in lines.iter() {
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
}
