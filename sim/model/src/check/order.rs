//! Invariant 12: order and fairness.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use super::{Checker, Violation, ensure};
use crate::history::Event;

const NAME: &str = "12 order";

/// How many given-back spans one claim takes at most.
const FREE_SPANS_MAX: usize = 64;

/// Asserts, of lines that anybody may take at any time (fresh, or free without suspicion and without a not-before time)
/// - within a batch: fresh lines are claimed only when none is left that was given back (unless the claim took its fill of
///   spans), and given-back spans from the first line on;
/// - between batches: while such lines of a batch wait, no batch of lower priority is claimed by a lease that handles its
///   operation, and no other batch of its priority twice.
///
/// And that nothing is claimed from a batch that is held.
///
/// Suspects are left out: they wait for the few who may take them, and invariant 7 sees to their end. For stores that do one
/// transaction at a time; one that skips locked records may pass by a line that is just being claimed.
#[derive(Debug, Clone, Hash, Default)]
pub struct Order {
    batches: BTreeMap<BatchId, Waiting>,
    handles: BTreeMap<LeaseId, Vec<String>>,
    claim: Option<Current>,
}

/// A batch that is open, or that a retry may open again.
#[derive(Debug, Clone, Hash)]
struct Waiting {
    operation: String,
    priority: i32,
    held: bool,
    fresh: u64,
    /// Free spans that anybody may take, by first line.
    free: BTreeMap<u64, Token>,
    /// Who was claimed since lines of this batch wait.
    passed_by: BTreeSet<BatchId>,
}

impl Waiting {
    fn waits(&self) -> bool {
        !self.held && (self.fresh > 0 || !self.free.is_empty())
    }

    /// All its lines have their outcomes. It stays held if it is, and keeps its priority.
    fn end(&mut self) {
        self.fresh = 0;
        self.free.clear();
        self.passed_by.clear();
    }
}

/// The claim under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Current {
    lease: LeaseId,
    number: u64,
    free_spans: usize,
}

/// [`Event::Claimed`]'s fields.
struct Claimed<'a> {
    batch: BatchId,
    lines: &'a LineSet,
    from: Option<Token>,
    lease: LeaseId,
    number: u64,
    alone: bool,
}

impl Order {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn claim(&mut self, at: u64, claimed: &Claimed<'_>) -> Result<(), Violation> {
        let &Claimed { batch, lines, from, lease, number, alone } = claimed;
        let held = self.batches.get(&batch).is_some_and(|waiting| waiting.held);
        ensure(!held, NAME, at, || format!("{lines:?} of {batch} are claimed while it is held"))?;
        let goes_on = self.claim.as_ref().is_some_and(|claim| claim.lease == lease && claim.number == number);
        if !goes_on {
            self.claim = Some(Current { lease, number, free_spans: 0 });
            if !alone {
                self.pass_by(at, batch, lease)?;
            }
            if let Some(waiting) = self.batches.get_mut(&batch) {
                waiting.passed_by.clear();
            }
        }
        let taken = self.claim.as_ref().map_or(0, |claim| claim.free_spans);
        let Some(waiting) = self.batches.get_mut(&batch) else {
            return Ok(());
        };
        let first = waiting.free.first_key_value().map(|(line, token)| (*line, *token));
        match from {
            None => {
                let left = first.filter(|_| taken < FREE_SPANS_MAX);
                waiting.fresh = waiting.fresh.saturating_sub(lines.count());
                ensure(left.is_none(), NAME, at, || format!("{lines:?} of {batch} before {left:?}, which came back"))?;
            }
            Some(from) => {
                let line = lines.first().unwrap_or(0);
                let free = waiting.free.get(&line) == Some(&from);
                if free {
                    waiting.free.remove(&line);
                }
                let earlier = first.filter(|(first, _)| free && *first < line);
                ensure(earlier.is_none(), NAME, at, || format!("{lines:?} of {batch} before {earlier:?}"))?;
                if let Some(claim) = &mut self.claim {
                    claim.free_spans += 1;
                }
            }
        }
        Ok(())
    }

    /// Who waits is passed by at most once by each batch.
    fn pass_by(&mut self, at: u64, claimed: BatchId, lease: LeaseId) -> Result<(), Violation> {
        let priority = self.batches.get(&claimed).map_or(i32::MAX, |batch| batch.priority);
        let Some(handles) = self.handles.get(&lease) else {
            return Ok(());
        };
        for (batch, waiting) in &mut self.batches {
            if *batch == claimed || !waiting.waits() || !handles.contains(&waiting.operation) {
                continue;
            }
            let first = waiting.priority > priority;
            ensure(!first, NAME, at, || format!("{claimed} is claimed while {batch} of higher priority waits"))?;
            let again = waiting.priority == priority && !waiting.passed_by.insert(claimed);
            ensure(!again, NAME, at, || format!("{claimed} is claimed twice while {batch} waits"))?;
        }
        Ok(())
    }

    fn free(&mut self, batch: BatchId, lines: &LineSet, token: Token, suspicion: u32, not_before: Option<StoreTime>) {
        let (Some(waiting), Some(first)) = (self.batches.get_mut(&batch), lines.first()) else {
            return;
        };
        if suspicion == 0 && not_before.is_none() {
            if !waiting.waits() {
                waiting.passed_by.clear();
            }
            waiting.free.insert(first, token);
        }
    }
}

impl Checker for Order {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::LeaseTaken { lease, operations, .. } => {
                self.handles.insert(*lease, operations.clone());
            }
            Event::BatchLoaded { batch, total, operation, priority, .. } => {
                let waiting = Waiting {
                    operation: operation.clone(),
                    priority: *priority,
                    held: false,
                    fresh: *total,
                    free: BTreeMap::new(),
                    passed_by: BTreeSet::new(),
                };
                self.batches.insert(*batch, waiting);
            }
            Event::BatchAppended { batch, lines } => {
                if let Some(waiting) = self.batches.get_mut(batch) {
                    if !waiting.waits() {
                        waiting.passed_by.clear();
                    }
                    waiting.fresh += lines.count();
                }
            }
            Event::BatchHeld { batch, held } => {
                if let Some(waiting) = self.batches.get_mut(batch) {
                    waiting.held = *held;
                    waiting.passed_by.clear();
                }
            }
            &Event::Claimed { batch, ref lines, from, lease, number, alone, .. } => {
                self.claim(at, &Claimed { batch, lines, from, lease, number, alone })?;
            }
            Event::Freed { batch, lines, token, suspicion, not_before, .. } => {
                self.free(*batch, lines, *token, *suspicion, *not_before);
            }
            Event::RowsRetried { batch, spans, .. } => {
                spans.iter().for_each(|(lines, token)| self.free(*batch, lines, *token, 0, None));
            }
            // A retry may open it again, as held as it was (S3, S5).
            Event::BatchEnded { batch, .. } => {
                if let Some(waiting) = self.batches.get_mut(batch) {
                    waiting.end();
                }
            }
            Event::BatchAborted { batch, .. } | Event::BatchPurged { batch } => {
                self.batches.remove(batch);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::history::FreedWhy;

    fn other(number: u64) -> BatchId {
        BatchId::from_random(number)
    }

    fn claimed_of(batch: BatchId, line: u64, number: u64) -> Event {
        match claimed(line..=line, number, None, number) {
            Event::Claimed { lines, token, from, lease, number, suspicion, alone, .. } => {
                Event::Claimed { batch, lines, token, from, lease, number, suspicion, alone }
            }
            event => event,
        }
    }

    #[test]
    fn a_good_history_passes() {
        passes(&mut Order::new(), &good_history());
    }

    #[test]
    fn fresh_lines_before_those_given_back_are_seen() {
        let mut events = loaded(4);
        events.extend([claimed(1..=2, 1, None, 1), freed(1..=2, 2, 1, FreedWhy::GivenBack, 0)]);
        events.push(claimed(3..=3, 3, None, 2));
        fails(&mut Order::new(), &events);
        events.pop();
        events.extend([claimed(1..=2, 3, Some(2), 2), claimed(3..=3, 4, None, 2)]);
        passes(&mut Order::new(), &events);
    }

    #[test]
    fn fresh_lines_before_those_retried_are_seen() {
        let mut events = loaded(4);
        events.extend([claimed(1..=2, 1, None, 1), recorded(1, 1, 1), retried(1, &[(1..=1, 2)])]);
        fails(&mut Order::new(), &[events.clone(), vec![claimed(3..=3, 3, None, 2)]].concat());
        passes(&mut Order::new(), &[events, vec![claimed(1..=1, 3, Some(2), 2), claimed(3..=3, 4, None, 2)]].concat());
    }

    #[test]
    fn later_lines_before_earlier_ones_are_seen() {
        let mut events = loaded(2);
        events.extend([claimed(1..=2, 1, None, 1), freed(1..=1, 2, 1, FreedWhy::GivenBack, 0)]);
        events.extend([freed(2..=2, 3, 1, FreedWhy::GivenBack, 0), claimed(2..=2, 4, Some(3), 2)]);
        fails(&mut Order::new(), &events);
    }

    #[test]
    fn a_starved_batch_is_seen() {
        let mut events = vec![lease_taken(1), batch_loaded(other(1), 9, 0), batch_loaded(other(2), 9, 0)];
        events.extend([claimed_of(other(1), 1, 1), claimed_of(other(2), 1, 2), claimed_of(other(1), 2, 3)]);
        passes(&mut Order::new(), &events);
        events.push(claimed_of(other(1), 3, 4));
        fails(&mut Order::new(), &events);
    }

    #[test]
    fn a_batch_whose_appended_lines_are_starved_is_seen() {
        let mut events = vec![lease_taken(1), batch_loaded(batch(), 1, 0), batch_loaded(other(2), 9, 0)];
        // With its one line claimed it waits for nothing.
        events.extend([claimed(1..=1, 1, None, 1), claimed_of(other(2), 1, 2), claimed_of(other(2), 2, 3)]);
        events.extend([appended(2, 3), claimed_of(other(2), 3, 4)]);
        passes(&mut Order::new(), &events);
        events.push(claimed_of(other(2), 4, 5));
        fails(&mut Order::new(), &events);
    }

    #[test]
    fn appended_lines_before_those_given_back_are_seen() {
        let mut events = loaded(1);
        events.extend([claimed(1..=1, 1, None, 1), appended(2, 2), freed(1..=1, 2, 1, FreedWhy::GivenBack, 0)]);
        events.push(claimed(2..=2, 3, None, 2));
        fails(&mut Order::new(), &events);
    }

    #[test]
    fn a_claim_from_a_held_batch_is_seen() {
        let held = |held| Event::BatchHeld { batch: batch(), held };
        let mut events = loaded(2);
        events.extend([held(true), held(false), claimed(1..=1, 1, None, 1)]);
        passes(&mut Order::new(), &events);
        events.extend([held(true), claimed(2..=2, 2, None, 2)]);
        fails(&mut Order::new(), &events);
    }

    /// One line, recorded, and then retried by an operator.
    fn ended_and_retried(between: &[Event]) -> Vec<Event> {
        let first = [loaded(1), vec![claimed(1..=1, 1, None, 1)]].concat();
        [first, between.to_vec(), vec![retried(2, &[(1..=1, 2)])]].concat()
    }

    #[test]
    fn a_hold_that_an_end_and_a_retry_lift_is_seen() {
        let held = |held| Event::BatchHeld { batch: batch(), held };
        let again = vec![claimed(1..=1, 3, Some(2), 2)];
        let before_end = ended_and_retried(&[held(true), recorded(1, 1, 1), ended()]);
        let after_end = ended_and_retried(&[recorded(1, 1, 1), ended(), held(true)]);
        for events in [before_end, after_end] {
            fails_with(Order::new(), &[events.clone(), again.clone()].concat(), "while it is held");
            passes(&mut Order::new(), &[events, vec![held(false)], again.clone()].concat());
        }
        passes(&mut Order::new(), &[ended_and_retried(&[recorded(1, 1, 1), ended()]), again].concat());
    }

    #[test]
    fn a_batch_that_is_open_again_waits_as_the_others_do() {
        let mut events = ended_and_retried(&[recorded(1, 1, 1), ended(), batch_loaded(other(2), 9, -1)]);
        fails_with(Order::new(), &[events.clone(), vec![claimed_of(other(2), 1, 2)]].concat(), "of higher priority");
        events.push(purged());
        passes(&mut Order::new(), &[events, vec![claimed_of(other(2), 1, 2)]].concat());
    }

    #[test]
    fn a_lower_priority_first_is_seen() {
        let mut events = vec![lease_taken(1), batch_loaded(other(1), 9, 0), batch_loaded(other(2), 9, 1)];
        events.push(claimed_of(other(1), 1, 1));
        fails(&mut Order::new(), &events);
    }

    #[test]
    fn each_break_is_told() {
        let back = |lines, token| freed(lines, token, 1, FreedWhy::GivenBack, 0);
        let two = || [loaded(3), vec![claimed(1..=2, 1, None, 1), back(1..=1, 2), back(2..=2, 3)]].concat();
        fails_with(Order::new(), &[two(), vec![claimed(3..=3, 4, None, 2)]].concat(), "which came back");
        fails_with(Order::new(), &[two(), vec![claimed(2..=2, 4, Some(3), 2)]].concat(), "before Some((1");
    }
}
