//! Invariant 7: progress.

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;

use super::{Checker, Violation, ensure, micros};
use crate::history::Event;
use crate::view::StoreView;

const NAME: &str = "7 progress";

/// Asserts that a batch that is open and not held has ended `bound` after the last of: faults stopped; it was loaded,
/// appended to, let go, or rows of it were retried by an operator (a hold outlives the end). (Before faults stop, nothing.)
/// And by each snapshot that no batch is open with all its rows ended.
/// The simulator chooses the bound from the work there is, and leaves somebody whole who can do it.
#[derive(Debug)]
pub struct Progress {
    bound: u64,
    stopped_at: Option<u64>,
    /// Since when a batch is claimable.
    open: BTreeMap<BatchId, u64>,
    held: BTreeMap<BatchId, u64>,
    next: Option<(u64, BatchId)>,
}

impl Progress {
    /// For an empty store.
    pub fn new(bound: Duration) -> Self {
        Self { bound: micros(bound), stopped_at: None, open: BTreeMap::new(), held: BTreeMap::new(), next: None }
    }

    fn in_time(&self, at: u64) -> Result<(), Violation> {
        let Some((deadline, batch)) = self.next else {
            return Ok(());
        };
        ensure(at <= deadline, NAME, at, || format!("{batch} was to end by {deadline} us and is open"))
    }

    fn find_next(&self) -> Option<(u64, BatchId)> {
        let stopped_at = self.stopped_at?;
        self.open.iter().map(|(batch, since)| (stopped_at.max(*since) + self.bound, *batch)).min()
    }
}

impl Checker for Progress {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        self.in_time(at)?;
        match *event {
            Event::BatchLoaded { batch, .. } => {
                self.open.insert(batch, at);
            }
            // More to do. One that is held stays so.
            Event::RowsRetried { batch, .. } | Event::BatchAppended { batch, .. }
                if !self.held.contains_key(&batch) =>
            {
                self.open.insert(batch, at);
            }
            Event::BatchHeld { batch, held: true } => {
                self.open.remove(&batch);
                self.held.insert(batch, at);
            }
            Event::BatchHeld { batch, held: false } => {
                if self.held.remove(&batch).is_some() {
                    self.open.insert(batch, at);
                }
            }
            Event::BatchEnded { batch, .. } | Event::BatchAborted { batch, .. } => {
                self.open.remove(&batch);
            }
            Event::FaultsStopped => self.stopped_at = Some(at),
            _ => return Ok(()),
        }
        self.next = self.find_next();
        Ok(())
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        for view in state.batches.iter().filter(|view| view.status == BatchStatus::Open) {
            let open = !view.spans.is_empty() || view.cursor <= view.total;
            ensure(open, NAME, at, || format!("{} is open and all its rows have ended", view.batch))?;
        }
        Ok(())
    }

    fn at_end(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        self.in_time(at)?;
        self.on_state(at, state)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;

    fn checker() -> Progress {
        Progress::new(Duration::from_secs(10))
    }

    #[test]
    fn a_batch_that_ends_in_time_passes() {
        let mut events = at_ms(0, loaded(1));
        events.extend([(90_000, Event::FaultsStopped), (100_000, ended()), (999_000, Event::Tick)]);
        assert_eq!(first_failure(&mut checker(), &events), None);
    }

    #[test]
    fn a_batch_that_is_stuck_is_seen() {
        let mut events = at_ms(0, loaded(1));
        events.extend([(90_000, Event::FaultsStopped), (100_001, Event::Tick)]);
        assert_eq!(first_failure(&mut checker(), &events), Some(3));
        let held = (1, Event::BatchHeld { batch: batch(), held: true });
        events.insert(2, held);
        assert_eq!(first_failure(&mut checker(), &events), None);
    }

    #[test]
    fn a_batch_that_is_stuck_after_an_append_is_seen() {
        let mut events = at_ms(0, loaded(1));
        events.extend([(90_000, Event::FaultsStopped), (95_000, appended(2, 9)), (105_000, Event::Tick)]);
        assert_eq!(first_failure(&mut checker(), &events), None);
        events.push((105_001, Event::Tick));
        assert_eq!(first_failure(&mut checker(), &events), Some(5));
        // While it is held nothing need come of it.
        events.insert(2, (1, Event::BatchHeld { batch: batch(), held: true }));
        assert_eq!(first_failure(&mut checker(), &events), None);
    }

    #[test]
    fn an_open_batch_without_open_rows_is_seen() {
        let mut view = good_view();
        checker().on_state(0, &view).unwrap();
        view.batches[0].spans.clear();
        view.batches[0].cursor = 4;
        checker().on_state(0, &view).unwrap_err();
    }

    #[test]
    fn a_batch_that_is_open_again_has_to_end_again_unless_it_is_held() {
        let retry = (95_000, retried(2, &[(1..=1, 9)]));
        let mut events = at_ms(0, loaded(1));
        events.extend([(90_000, Event::FaultsStopped), (94_000, ended()), retry.clone(), (105_001, Event::Tick)]);
        assert_eq!(first_failure(&mut checker(), &events), Some(5));
        let held = |at, held| (at, Event::BatchHeld { batch: batch(), held });
        events.insert(2, held(1, true));
        assert_eq!(first_failure(&mut checker(), &events), None, "a hold outlives the end");
        events.extend([held(200_000, false), (210_001, Event::Tick)]);
        assert_eq!(first_failure(&mut checker(), &events), Some(8));
    }

    #[test]
    fn a_batch_that_is_stuck_when_the_run_ends_is_seen() {
        let mut checker = checker();
        let mut events = at_ms(0, loaded(1));
        events.push((90_000, Event::FaultsStopped));
        assert_eq!(first_failure(&mut checker, &events), None);
        checker.at_end(100_000_000, &StoreView::default()).unwrap();
        checker.at_end(100_000_001, &StoreView::default()).unwrap_err();
    }
}
