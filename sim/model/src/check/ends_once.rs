//! Invariant 8: ends once.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;

use super::{Checker, Violation, ensure};
use crate::history::{Event, OutcomeStatus};
use crate::view::StoreView;

const NAME: &str = "8 ends once";

/// Asserts that each generation of a batch ends at most once, with `failed` exactly where a row of it failed; that a
/// generation follows the one that ended before and never an abort; that nothing is claimed, freed, recorded or appended while
/// a batch is not open; that snapshots have one completion for each end, and no other; that a completion call is made only
/// for an end, and recorded as delivered once, after a call.
#[derive(Debug, Default)]
pub struct EndsOnce {
    batches: BTreeMap<BatchId, Life>,
    ends: BTreeMap<(BatchId, u32), BatchStatus>,
    called: BTreeSet<(BatchId, u32)>,
    delivered: BTreeSet<(BatchId, u32)>,
}

#[derive(Debug)]
struct Life {
    generation: u32,
    failed: BTreeSet<u64>,
    end: Option<BatchStatus>,
}

impl EndsOnce {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn end(&mut self, at: u64, batch: BatchId, generation: u32, status: BatchStatus) -> Result<(), Violation> {
        let Some(life) = self.batches.get_mut(&batch) else {
            return ensure(false, NAME, at, || format!("unknown batch {batch} ends"));
        };
        let before = life.end.replace(status);
        ensure(before.is_none(), NAME, at, || format!("{batch} ends as {status:?} and was {before:?}"))?;
        ensure(generation == life.generation, NAME, at, || {
            format!("{batch} ends in generation {generation} of {}", life.generation)
        })?;
        let right = if life.failed.is_empty() { BatchStatus::Success } else { BatchStatus::Failed };
        ensure(status == BatchStatus::Aborted || status == right, NAME, at, || format!("{batch} ends as {status:?}"))?;
        self.ends.insert((batch, generation), status);
        Ok(())
    }

    fn open(&mut self, at: u64, batch: BatchId) -> Result<&mut Life, Violation> {
        let life = self.batches.get_mut(&batch).filter(|life| life.end.is_none());
        life.ok_or_else(|| Violation { checker: NAME, at, what: format!("{batch} is not open and changes") })
    }

    fn reopen(
        &mut self,
        at: u64,
        batch: BatchId,
        generation: u32,
        lines: &fencepost_core::LineSet,
    ) -> Result<(), Violation> {
        let Some(life) = self.batches.get_mut(&batch) else {
            return ensure(false, NAME, at, || format!("unknown batch {batch} opens again"));
        };
        let end = life.end.take();
        let ended = matches!(end, Some(BatchStatus::Success | BatchStatus::Failed));
        ensure(ended, NAME, at, || format!("{batch} opens again after {end:?}"))?;
        ensure(generation == life.generation + 1, NAME, at, || {
            format!("{batch} opens as generation {generation} after {}", life.generation)
        })?;
        life.generation = generation;
        life.failed.retain(|line| !lines.contains(*line));
        Ok(())
    }
}

impl Checker for EndsOnce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::BatchLoaded { batch, .. } => {
                let life = Life { generation: 1, failed: BTreeSet::new(), end: None };
                self.batches.insert(*batch, life);
            }
            Event::Claimed { batch, .. } | Event::Freed { batch, .. } | Event::BatchAppended { batch, .. } => {
                self.open(at, *batch)?;
            }
            Event::Recorded { batch, line, status, .. } => {
                let life = self.open(at, *batch)?;
                if *status == OutcomeStatus::Failed {
                    life.failed.insert(*line);
                }
            }
            Event::BatchEnded { batch, generation, status } => self.end(at, *batch, *generation, *status)?,
            Event::BatchAborted { batch, generation } => self.end(at, *batch, *generation, BatchStatus::Aborted)?,
            Event::BatchReopened { batch, generation, lines, .. } => self.reopen(at, *batch, *generation, lines)?,
            Event::CompletionCalled { batch, generation } => {
                let end = (*batch, *generation);
                ensure(self.ends.contains_key(&end), NAME, at, || format!("{end:?} is called for and has not ended"))?;
                self.called.insert(end);
            }
            Event::CompletionDelivered { batch, generation } => {
                let end = (*batch, *generation);
                ensure(self.called.contains(&end), NAME, at, || {
                    format!("{end:?} is delivered and was not called for")
                })?;
                ensure(self.delivered.insert(end), NAME, at, || format!("{end:?} is delivered twice"))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        for completion in &state.completions {
            let end = (completion.batch, completion.generation);
            ensure(seen.insert(end), NAME, at, || format!("{end:?} has two completions"))?;
            let known = self.ends.get(&end);
            let fits = known == Some(&completion.status) || !self.batches.contains_key(&end.0);
            ensure(fits, NAME, at, || format!("{end:?} has a completion {completion:?}, ended as {known:?}"))?;
        }
        ensure(seen.len() >= self.ends.len(), NAME, at, || "an end has no completion".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::view::{CompletionView, RowCounts};

    #[test]
    fn a_good_history_passes() {
        let mut events = good_history();
        let (batch, generation) = (batch(), 1);
        let call = Event::CompletionCalled { batch, generation };
        events.extend([call.clone(), call, Event::CompletionDelivered { batch, generation }]);
        let mut checker = EndsOnce::new();
        passes(&mut checker, &events);
        let status = BatchStatus::Success;
        let counts = RowCounts::default();
        let mut view = good_view();
        checker.on_state(99, &view).unwrap_err();
        view.completions.push(CompletionView { batch, generation, status, counts });
        checker.on_state(99, &view).unwrap();
        view.completions.push(view.completions[0].clone());
        checker.on_state(99, &view).unwrap_err();
    }

    #[test]
    fn broken_histories_are_seen() {
        let (batch, generation) = (batch(), 1);
        let failed = Event::BatchEnded { batch, generation, status: BatchStatus::Failed };
        let delivered = Event::CompletionDelivered { batch, generation };
        let reopened =
            Event::BatchReopened { batch, generation: 2, lines: Default::default(), token: fencepost_core::Token(9) };
        let breaks = [
            vec![ended(), ended()],
            vec![ended(), aborted()],
            vec![failed],
            vec![ended(), claimed(1..=1, 1, None, 1)],
            vec![ended(), appended(2, 2)],
            vec![aborted(), appended(2, 2)],
            vec![aborted(), reopened.clone()],
            vec![reopened],
            vec![ended(), delivered],
        ];
        for broken in breaks {
            let mut events = loaded(1);
            events.extend(broken);
            fails(&mut EndsOnce::new(), &events);
        }
    }
}
