//! Invariant 8: ends once.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LineSet, Token};

use super::{Checker, Violation, ensure};
use crate::history::{Event, OutcomeStatus};
use crate::view::StoreView;

const NAME: &str = "8 ends once";

/// Asserts that each generation of a batch ends at most once, with `failed` exactly where a row of it failed; that a
/// generation follows the one that ended before, opened by an operator's retry, and never an abort; that a retry of an open
/// batch opens none; that nothing is claimed, freed, recorded or appended while a batch is not open; that snapshots have one
/// completion for each end, and no other; that a completion call is made only
/// for an end, and recorded as delivered once, after a call; that a call is held by live leases only, and by nobody once it is
/// delivered, which it then stays; that only an ended batch is purged, and that nothing is noted of it afterwards.
#[derive(Debug, Clone, Hash, Default)]
pub struct EndsOnce {
    batches: BTreeMap<BatchId, Life>,
    ends: BTreeMap<(BatchId, u32), BatchStatus>,
    called: BTreeSet<(BatchId, u32)>,
    delivered: BTreeSet<(BatchId, u32)>,
    purged: BTreeSet<BatchId>,
    delivered_in_state: BTreeSet<(BatchId, u32)>,
}

#[derive(Debug, Clone, Hash)]
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

    fn retry(&mut self, at: u64, batch: BatchId, generation: u32, spans: &[(LineSet, Token)]) -> Result<(), Violation> {
        let Some(life) = self.batches.get_mut(&batch) else {
            return ensure(false, NAME, at, || format!("rows of unknown batch {batch} are retried"));
        };
        let end = life.end.take();
        ensure(end != Some(BatchStatus::Aborted), NAME, at, || format!("{batch} is aborted and opens again"))?;
        let next = life.generation + u32::from(end.is_some());
        ensure(generation == next, NAME, at, || {
            format!("{batch} is in generation {generation} by a retry after {}, {end:?}", life.generation)
        })?;
        life.generation = generation;
        life.failed.retain(|line| !spans.iter().any(|(lines, _)| lines.contains(*line)));
        Ok(())
    }
}

impl EndsOnce {
    /// Its ends are gone with it: there is nothing to call for any more.
    fn purge(&mut self, at: u64, batch: BatchId) -> Result<(), Violation> {
        let ended = self.batches.remove(&batch).is_some_and(|life| life.end.is_some());
        ensure(ended, NAME, at, || format!("{batch} is purged and had not ended"))?;
        self.ends.retain(|(of, _), _| *of != batch);
        self.purged.insert(batch);
        Ok(())
    }

    fn is_there(&self, at: u64, batch: BatchId, event: &Event) -> Result<(), Violation> {
        ensure(!self.purged.contains(&batch), NAME, at, || format!("{batch} is purged; {event:?}"))
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
            Event::RowsRetried { batch, generation, spans } => self.retry(at, *batch, *generation, spans)?,
            Event::BatchPurged { batch } => self.purge(at, *batch)?,
            Event::Fenced { batch, .. }
            | Event::Crashed { batch, .. }
            | Event::CrashWithdrawn { batch, .. }
            | Event::BatchHeld { batch, .. } => self.is_there(at, *batch, event)?,
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
            ensure(!self.purged.contains(&end.0), NAME, at, || format!("{end:?} has a completion and is purged"))?;
            let known = self.ends.get(&end);
            let fits = known == Some(&completion.status) || !self.batches.contains_key(&end.0);
            ensure(fits, NAME, at, || format!("{end:?} has a completion {completion:?}, ended as {known:?}"))?;
            let call = &completion.call;
            let live = |holder| state.leases.contains(&(holder, LeaseState::Live));
            ensure(call.lease.is_none_or(|holder| live(holder) && !call.delivered), NAME, at, || {
                format!("the call for {end:?} is in nobody's hands: {call:?}")
            })?;
            ensure(call.delivered || !self.delivered_in_state.contains(&end), NAME, at, || {
                format!("the call for {end:?} was delivered and is not any more")
            })?;
            if call.delivered {
                self.delivered_in_state.insert(end);
            }
        }
        ensure(seen.len() >= self.ends.len(), NAME, at, || "an end has no completion".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::history::RecordedWhy;
    use crate::view::{CallView, CompletionView, RowCounts};

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
        view.completions.push(CompletionView { batch, generation, status, counts, call: CallView::default() });
        checker.on_state(99, &view).unwrap();
        view.completions.push(view.completions[0].clone());
        checker.on_state(99, &view).unwrap_err();
        view.completions.pop();
        for (holder, right) in [(lease(1), true), (lease(2), false)] {
            view.completions[0].call.lease = Some(holder);
            assert_eq!(checker.on_state(99, &view).is_ok(), right);
        }
        view.completions[0].call = CallView { delivered: true, ..CallView::default() };
        checker.on_state(99, &view).unwrap();
        view.completions[0].call.lease = Some(lease(1));
        checker.on_state(99, &view).unwrap_err();
        view.completions[0].call = CallView::default();
        checker.on_state(99, &view).unwrap_err();
    }

    #[test]
    fn broken_histories_are_seen() {
        let (batch, generation) = (batch(), 1);
        let failed = Event::BatchEnded { batch, generation, status: BatchStatus::Failed };
        let delivered = Event::CompletionDelivered { batch, generation };
        let breaks = [
            vec![ended(), ended()],
            vec![ended(), aborted()],
            vec![failed],
            vec![ended(), claimed(1..=1, 1, None, 1)],
            vec![ended(), appended(2, 2)],
            vec![aborted(), appended(2, 2)],
            // A retry of an aborted batch; of an open one that opens a generation, of an ended one that opens none.
            vec![aborted(), retried(2, &[(1..=1, 9)])],
            vec![retried(2, &[(1..=1, 9)])],
            vec![ended(), retried(1, &[(1..=1, 9)])],
            // A second end of the first generation after a retry.
            vec![ended(), retried(2, &[(1..=1, 9)]), ended()],
            vec![ended(), delivered],
        ];
        for broken in breaks {
            let mut events = loaded(1);
            events.extend(broken);
            fails(&mut EndsOnce::new(), &events);
        }
    }

    #[test]
    fn a_batch_is_purged_after_its_end_and_nothing_is_noted_of_it_then() {
        let (batch, generation) = (batch(), 1);
        let call = Event::CompletionCalled { batch, generation };
        let purge = |before: &[Event], after: &[Event]| [&loaded(1), before, &[purged()], after].concat();
        let mut checker = EndsOnce::new();
        passes(&mut checker, &purge(&[ended(), call.clone()], &[]));
        let mut view = StoreView::default();
        checker.on_state(99, &view).unwrap();
        view.completions.push(CompletionView {
            batch,
            generation,
            status: BatchStatus::Success,
            counts: RowCounts::default(),
            call: CallView::default(),
        });
        checker.on_state(99, &view).unwrap_err();
        fails(&mut EndsOnce::new(), &purge(&[], &[]));
        fails(&mut EndsOnce::new(), &purge(&[ended(), retried(2, &[(1..=1, 9)])], &[]));
        let (line, token, lease) = (1, Token(1), lease(1));
        let late = [
            Event::Fenced { batch, line, token, lease },
            Event::Crashed { batch, line, token, lease },
            Event::CrashWithdrawn { batch, line, token, lease },
            Event::BatchHeld { batch, held: true },
            call,
            retried(2, &[(1..=1, 9)]),
            recorded(1, 1, 1),
        ];
        for late in late {
            fails(&mut EndsOnce::new(), &purge(&[aborted()], &[late]));
        }
    }

    #[test]
    fn a_retried_batch_ends_again_by_what_its_rows_are_then() {
        let batch = batch();
        let end = |generation, status| Event::BatchEnded { batch, generation, status };
        let failed = |line| recorded_as(line, 1, 1, OutcomeStatus::Failed, 1, 0, RecordedWhy::Answered);
        let mut events = loaded(2);
        events.extend([failed(1), failed(2), retried(1, &[(2..=2, 5)]), recorded(2, 6, 1)]);
        events.extend([end(1, BatchStatus::Failed), retried(2, &[(1..=1, 7)]), recorded(1, 8, 1)]);
        fails(&mut EndsOnce::new(), &[events.clone(), vec![end(2, BatchStatus::Failed)]].concat());
        passes(&mut EndsOnce::new(), &[events, vec![end(2, BatchStatus::Success)]].concat());
    }

    #[test]
    fn each_break_is_told() {
        let (batch, generation) = (batch(), 1);
        let call = || Event::CompletionCalled { batch, generation };
        let delivered = || Event::CompletionDelivered { batch, generation };
        let end = |generation| Event::BatchEnded { batch, generation, status: BatchStatus::Success };
        let breaks = [
            (vec![end(2)], "ends in generation 2"),
            (vec![call()], "is called for and has not ended"),
            (vec![end(1), delivered()], "was not called for"),
            (vec![end(1), call(), delivered(), delivered()], "is delivered twice"),
            (vec![end(1), recorded(1, 1, 1)], "is not open and changes"),
            (vec![end(1), freed(1..=1, 2, 1, crate::history::FreedWhy::GivenBack, 0)], "is not open and changes"),
        ];
        for (broken, words) in breaks {
            fails_with(EndsOnce::new(), &[loaded(1), broken].concat(), words);
        }
        fails_with(EndsOnce::new(), &[end(1)], "unknown batch");
        fails_with(EndsOnce::new(), &[retried(1, &[(1..=1, 9)])], "unknown batch");
    }

    #[test]
    fn a_completion_of_another_end_or_of_none_is_seen() {
        let of = |generation, status| {
            let (counts, call) = (RowCounts::default(), CallView::default());
            let completion = CompletionView { batch: batch(), generation, status, counts, call };
            StoreView { completions: vec![completion], ..StoreView::default() }
        };
        let mut checker = EndsOnce::new();
        passes(&mut checker, &loaded(1));
        state_fails_with(&mut checker, &of(1, BatchStatus::Success), "ended as None");
        passes(&mut checker, &[ended()]);
        checker.on_state(99, &of(1, BatchStatus::Success)).unwrap();
        state_fails_with(&mut checker, &of(1, BatchStatus::Failed), "ended as Some(Success)");
    }
}
