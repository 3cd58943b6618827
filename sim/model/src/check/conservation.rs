//! Invariant 1: conservation.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, Token};

use super::{Checker, Violation, ensure, index};
use crate::history::{Event, FreedWhy, OutcomeStatus, RecordedWhy};
use crate::view::{BatchView, RowCounts, StoreView, Tally};

const NAME: &str = "1 conservation";

/// Asserts
/// - by each event: lines are appended right behind the batch's last one; fresh lines are claimed without gaps from the cursor,
///   other lines out of the free span named; lines are freed or recorded out of the held span named; an operator retries
///   lines that are recorded, each into one span; an ended batch has no line that is not recorded; only an ended batch is purged, and
///   then no line of it is told or seen again;
/// - by each snapshot, from scratch: every line of a batch is in exactly one of: an outcome, a span, beyond the cursor; every
///   held span's lease is live; an ended batch has nothing but outcomes, an aborted one no span; the counts and tallies
///   that the store keeps equal the rows and the log; and the snapshot is what the events say.
#[derive(Debug, Clone, Hash, Default)]
pub struct Conservation {
    batches: BTreeMap<BatchId, Mirror>,
    live: BTreeSet<LeaseId>,
    purged: BTreeSet<BatchId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Fresh,
    Free(Token),
    Held(Token, LeaseId),
    Done,
    Aborted,
}

#[derive(Debug, Clone, Hash)]
struct Mirror {
    /// The first line that was never claimed.
    cursor: u64,
    places: Vec<Place>,
    /// How many of the places are not done.
    open: u64,
    ended: bool,
}

impl Conservation {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves lines; each must be where `from` says.
    fn move_lines(
        &mut self,
        at: u64,
        batch: BatchId,
        lines: &LineSet,
        to: Place,
        is_from: impl Fn(Place) -> bool,
    ) -> Result<(), Violation> {
        let mirror = self.batches.get_mut(&batch);
        let Some(mirror) = mirror else {
            return ensure(false, NAME, at, || format!("lines of unknown batch {batch}"));
        };
        ensure(!lines.is_empty(), NAME, at, || format!("no lines of {batch} change hands"))?;
        for line in lines.iter() {
            let place = mirror.places.get(index(line)).copied();
            ensure(place.is_some_and(&is_from), NAME, at, || {
                format!("{batch} line {line} goes to {to:?} from {place:?}")
            })?;
            mirror.open -= u64::from(to == Place::Done);
            mirror.places[index(line)] = to;
        }
        Ok(())
    }

    fn claim_fresh(&mut self, at: u64, batch: BatchId, lines: &LineSet) -> Result<(), Violation> {
        let Some(mirror) = self.batches.get_mut(&batch) else {
            return ensure(false, NAME, at, || format!("lines of unknown batch {batch}"));
        };
        let gapless = lines.ranges().len() == 1 && lines.first() == Some(mirror.cursor);
        let cursor = mirror.cursor;
        mirror.cursor += lines.count();
        ensure(gapless, NAME, at, || format!("fresh lines {lines:?} of {batch} with the cursor at {cursor}"))
    }

    fn append(&mut self, at: u64, batch: BatchId, lines: LineRange) -> Result<(), Violation> {
        let Some(mirror) = self.batches.get_mut(&batch) else {
            return ensure(false, NAME, at, || format!("lines are appended to unknown batch {batch}"));
        };
        let behind = mirror.places.len() as u64 + 1;
        ensure(lines.first == behind, NAME, at, || {
            format!("lines {lines:?} are appended to {batch}, whose next line is {behind}")
        })?;
        let total = usize::try_from(lines.last).unwrap_or(usize::MAX);
        mirror.places.resize(total, Place::Fresh);
        mirror.open += lines.count();
        Ok(())
    }

    fn end(&mut self, at: u64, batch: BatchId, aborted: bool) -> Result<(), Violation> {
        let Some(mirror) = self.batches.get_mut(&batch) else {
            return ensure(false, NAME, at, || format!("unknown batch {batch} ends"));
        };
        mirror.ended = true;
        if aborted {
            for place in mirror.places.iter_mut().filter(|place| **place != Place::Done) {
                *place = Place::Aborted;
            }
            return Ok(());
        }
        ensure(mirror.open == 0, NAME, at, || format!("{batch} ends with {} open lines", mirror.open))
    }

    fn matches_events(&self, at: u64, view: &BatchView) -> Result<(), Violation> {
        let Some(mirror) = self.batches.get(&view.batch) else {
            return Ok(());
        };
        let total = mirror.places.len() as u64;
        ensure(view.total == total, NAME, at, || {
            format!("{} has {} lines, by its events {total}", view.batch, view.total)
        })?;
        let mut seen = vec![
            match view.status {
                BatchStatus::Aborted => Place::Aborted,
                _ => Place::Fresh,
            };
            mirror.places.len()
        ];
        for span in &view.spans {
            let place = span.lease.map_or(Place::Free(span.token), |lease| Place::Held(span.token, lease));
            span.lines.iter().for_each(|line| seen[index(line)] = place);
        }
        for outcome in &view.outcomes {
            seen[index(outcome.line)] = Place::Done;
        }
        let other = (0..seen.len()).find(|&line| seen[line] != mirror.places[line]);
        ensure(other.is_none(), NAME, at, || {
            let line = other.unwrap_or(0);
            format!("{} line {} is {:?}, by its events {:?}", view.batch, line + 1, seen[line], mirror.places[line])
        })
    }
}

impl Checker for Conservation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::LeaseTaken { lease, .. } => {
                self.live.insert(*lease);
            }
            Event::LeaseEnded { lease, .. } => {
                self.live.remove(lease);
            }
            Event::BatchLoaded { batch, total, .. } => {
                let places = vec![Place::Fresh; usize::try_from(*total).unwrap_or(usize::MAX)];
                let before = self.batches.insert(*batch, Mirror { cursor: 1, places, open: *total, ended: false });
                ensure(before.is_none(), NAME, at, || format!("{batch} is loaded twice"))?;
            }
            Event::BatchAppended { batch, lines } => self.append(at, *batch, *lines)?,
            Event::Claimed { batch, lines, token, from, lease, .. } => {
                ensure(self.live.contains(lease), NAME, at, || format!("{lease} claims and is not live"))?;
                if from.is_none() {
                    self.claim_fresh(at, *batch, lines)?;
                }
                let source = from.map_or(Place::Fresh, Place::Free);
                self.move_lines(at, *batch, lines, Place::Held(*token, *lease), |place| place == source)?;
            }
            Event::Freed { batch, lines, token, from, why, .. } => {
                let is_from = |place| match why {
                    FreedWhy::Split => place == Place::Free(*from),
                    _ => matches!(place, Place::Held(held, _) if held == *from),
                };
                self.move_lines(at, *batch, lines, Place::Free(*token), is_from)?;
            }
            Event::Recorded { batch, line, token, lease, why, .. } => {
                let is_from = |place| match (why, place) {
                    (RecordedWhy::CrashedTooOften, Place::Held(_, holder)) => holder == *lease,
                    (_, place) => place == Place::Held(*token, *lease),
                };
                self.move_lines(at, *batch, &LineSet::single(*line), Place::Done, is_from)?;
            }
            Event::BatchEnded { batch, .. } => self.end(at, *batch, false)?,
            Event::BatchAborted { batch, .. } => self.end(at, *batch, true)?,
            Event::RowsRetried { batch, spans, .. } => {
                ensure(!spans.is_empty(), NAME, at, || format!("no rows of {batch} are retried"))?;
                for (lines, token) in spans {
                    self.move_lines(at, *batch, lines, Place::Free(*token), |place| place == Place::Done)?;
                    if let Some(mirror) = self.batches.get_mut(batch) {
                        mirror.open += lines.count();
                        mirror.ended = false;
                    }
                }
            }
            Event::BatchPurged { batch } => {
                let was = self.batches.remove(batch);
                let ended = was.is_some_and(|was| was.ended);
                ensure(ended, NAME, at, || format!("{batch} is purged and had not ended"))?;
                self.purged.insert(*batch);
            }
            _ => {}
        }
        Ok(())
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        for view in &state.batches {
            ensure(!self.purged.contains(&view.batch), NAME, at, || format!("{} is purged and there", view.batch))?;
            tiling(view).map_err(|what| Violation { checker: NAME, at, what })?;
            counted(view).map_err(|what| Violation { checker: NAME, at, what })?;
            for lease in view.spans.iter().filter_map(|span| span.lease) {
                let live = state.lease_state(lease) == Some(LeaseState::Live);
                ensure(live, NAME, at, || format!("{lease} holds lines of {} and is not live", view.batch))?;
            }
            self.matches_events(at, view)?;
        }
        Ok(())
    }

    fn at_end(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        self.on_state(at, state)?;
        let lost = self.batches.keys().find(|batch| state.whole && state.batch(**batch).is_none());
        ensure(lost.is_none(), NAME, at, || format!("batch {lost:?} is gone"))
    }
}

/// Whether spans, outcomes and the lines beyond the cursor tile a batch; else what is wrong.
pub fn tiling(view: &BatchView) -> Result<(), String> {
    let batch = view.batch;
    if !(1..=view.total + 1).contains(&view.cursor) {
        return Err(format!("{batch}: cursor {} of {} lines", view.cursor, view.total));
    }
    let mut covered = vec![0u8; usize::try_from(view.total).map_err(|error| error.to_string())?];
    let of_spans = view.spans.iter().flat_map(|span| span.lines.iter());
    let of_outcomes = view.outcomes.iter().map(|outcome| outcome.line);
    for line in of_spans.chain(of_outcomes).chain(view.cursor..=view.total) {
        let Some(count) = covered.get_mut(index(line)) else {
            return Err(format!("{batch} has no line {line}"));
        };
        *count += 1;
        if *count > 1 {
            return Err(format!("{batch} line {line} is in two places"));
        }
    }
    if let Some(empty) = view.spans.iter().find(|span| span.lines.is_empty()) {
        return Err(format!("{batch}: span {} has no lines", empty.token));
    }
    let gap = covered.iter().position(|count| *count == 0);
    let spans = view.spans.len();
    match (view.status, gap) {
        (BatchStatus::Loading, _) => Err(format!("{batch} is loading")),
        (BatchStatus::Aborted, _) if spans > 0 => Err(format!("{batch} is aborted and has {spans} spans")),
        (BatchStatus::Aborted, _) => Ok(()),
        (_, Some(line)) => Err(format!("{batch} line {} is nowhere", line + 1)),
        (BatchStatus::Success | BatchStatus::Failed, None) if spans > 0 || view.cursor <= view.total => {
            Err(format!("{batch} has ended and has open lines"))
        }
        (_, None) => Ok(()),
    }
}

/// Whether the counts that the store keeps equal its rows; else what is wrong.
fn counted(view: &BatchView) -> Result<(), String> {
    let with = |status| view.outcomes.iter().filter(|outcome| outcome.status == status).count() as u64;
    let (success, failed) = (with(OutcomeStatus::Success), with(OutcomeStatus::Failed));
    let held = view.spans.iter().filter(|span| span.lease.is_some());
    let inprog = held.map(|span| span.lines.count()).sum();
    let rest = view.total - success - failed - inprog;
    let aborted = view.status == BatchStatus::Aborted;
    let (queued, aborted) = if aborted { (0, rest) } else { (rest, 0) };
    let rows = RowCounts { queued, inprog, success, failed, aborted };
    if rows != view.counts {
        return Err(format!("{} counts {:?} and has {rows:?}", view.batch, view.counts));
    }
    let sum = view.tallies.iter().fold(Tally::default(), |sum, (_, tally)| sum.plus(*tally));
    let as_rows = u64::try_from(sum.success) == Ok(success) && u64::try_from(sum.failed) == Ok(failed);
    let logged = view.logged;
    let as_log = sum.retried == logged.retried && sum.timed_out == logged.timed_out && sum.fenced == logged.fenced;
    if as_rows && as_log {
        return Ok(());
    }
    Err(format!("{} tallies {sum:?} and has {rows:?}, {logged:?}", view.batch))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::history::LeaseEnd;

    #[test]
    fn a_good_history_passes() {
        passes(&mut Conservation::new(), &good_history());
    }

    #[test]
    fn a_line_recorded_out_of_nowhere_is_seen() {
        let mut events = loaded(3);
        events.push(claimed(1..=2, 1, None, 1));
        events.push(recorded(3, 1, 1));
        fails(&mut Conservation::new(), &events);
    }

    #[test]
    fn a_gap_after_the_cursor_is_seen() {
        let mut events = loaded(3);
        events.push(claimed(2..=3, 1, None, 1));
        fails(&mut Conservation::new(), &events);
    }

    #[test]
    fn an_early_end_is_seen() {
        let mut events = loaded(2);
        events.extend([claimed(1..=1, 1, None, 1), recorded(1, 1, 1), ended()]);
        fails(&mut Conservation::new(), &events);
    }

    #[test]
    fn an_append_that_leaves_a_gap_or_takes_lines_twice_is_seen() {
        for first in [2, 3, 5] {
            let mut events = loaded(3);
            events.push(appended(first, 6));
            fails(&mut Conservation::new(), &events);
        }
        let mut events = loaded(3);
        events.extend([claimed(1..=3, 1, None, 1), appended(4, 5), appended(6, 6), claimed(4..=6, 2, None, 2)]);
        passes(&mut Conservation::new(), &events);
    }

    #[test]
    fn an_end_without_the_appended_lines_is_seen() {
        let mut events = loaded(1);
        events.extend([claimed(1..=1, 1, None, 1), appended(2, 2), recorded(1, 1, 1), ended()]);
        fails(&mut Conservation::new(), &events);
    }

    #[test]
    fn a_total_that_was_raised_unsaid_or_not_at_all_is_seen() {
        let mut checker = Conservation::new();
        let mut events = loaded(3);
        events.extend([claimed(1..=2, 1, None, 1), recorded(1, 1, 1)]);
        passes(&mut checker, &events);
        let mut view = good_view();
        checker.on_state(9, &view).unwrap();
        view.batches[0].total = 4;
        view.batches[0].counts.queued = 2;
        checker.on_state(9, &view).unwrap_err();
        checker.on_event(10, &appended(4, 4)).unwrap();
        checker.on_state(11, &view).unwrap();
        checker.on_state(11, &good_view()).unwrap_err();
    }

    #[test]
    fn broken_snapshots_are_seen() {
        let good = good_view();
        let at_end = |view: &StoreView| {
            let mut checker = Conservation::new();
            checker.on_event(0, &lease_taken(1)).unwrap();
            checker.on_state(1, view)
        };
        at_end(&good).unwrap();
        let breaks: [fn(&mut StoreView); 7] = [
            |view| view.batches[0].cursor = 4,
            |view| view.batches[0].outcomes[0].line = 2,
            |view| view.batches[0].status = BatchStatus::Success,
            |view| view.batches[0].counts.queued = 2,
            |view| view.batches[0].tallies.clear(),
            |view| view.leases[0].1 = LeaseState::Dead,
            |view| view.batches[0].spans[0].lines = LineSet::range(2, 3),
        ];
        for (which, break_it) in breaks.iter().enumerate() {
            let mut view = good.clone();
            break_it(&mut view);
            assert!(at_end(&view).is_err(), "break {which} is not seen");
        }
    }

    #[test]
    fn a_retry_frees_what_is_recorded_each_line_once() {
        let retry = |spans: &[(std::ops::RangeInclusive<u64>, u64)]| [good_history(), vec![retried(2, spans)]].concat();
        passes(&mut Conservation::new(), &retry(&[(1..=1, 7), (3..=3, 8)]));
        fails(&mut Conservation::new(), &retry(&[(1..=2, 7), (2..=3, 8)]));
        fails(&mut Conservation::new(), &retry(&[]));
        let open = [loaded(2), vec![claimed(1..=1, 1, None, 1), retried(1, &[(1..=1, 7)])]].concat();
        fails(&mut Conservation::new(), &open);
        let early = [retry(&[(1..=1, 7)]), vec![ended()]].concat();
        fails(&mut Conservation::new(), &early);
    }

    #[test]
    fn only_ended_batches_may_be_purged_and_stay_so() {
        let after = |events: &[Event]| [good_history(), events.to_vec()].concat();
        passes(&mut Conservation::new(), &after(&[purged()]));
        passes(&mut Conservation::new(), &[loaded(1), vec![aborted(), purged()]].concat());
        fails(&mut Conservation::new(), &[loaded(1), vec![purged()]].concat());
        fails(&mut Conservation::new(), &after(&[purged(), purged()]));
        fails(&mut Conservation::new(), &after(&[retried(2, &[(1..=1, 7)]), purged()]));
        for late in [retried(2, &[(1..=1, 7)]), recorded(1, 1, 1), claimed(1..=1, 9, Some(7), 9), appended(4, 4)] {
            fails(&mut Conservation::new(), &after(&[purged(), late]));
        }
        // It is no batch that was lost; seen again it is one that came back.
        let mut checker = Conservation::new();
        passes(&mut checker, &after(&[purged()]));
        let empty = StoreView { whole: true, ..StoreView::default() };
        checker.at_end(99, &empty).unwrap();
        let mut view = good_view();
        view.leases.clear();
        view.batches[0].spans.clear();
        view.batches[0].status = BatchStatus::Aborted;
        view.batches[0].counts = RowCounts { queued: 0, inprog: 0, aborted: 2, ..view.batches[0].counts };
        Conservation::new().on_state(99, &view).unwrap();
        checker.on_state(99, &view).unwrap_err();
    }

    #[test]
    fn tallies_equal_rows_after_a_retry_too() {
        let mut view = good_view();
        let batch = &mut view.batches[0];
        batch.generation = 2;
        batch.tallies = vec![
            (lease(0), Tally { success: -2, ..Tally::default() }),
            (lease(1), Tally { success: 3, ..Tally::default() }),
        ];
        let mut checker = Conservation::new();
        checker.on_event(0, &lease_taken(1)).unwrap();
        checker.on_state(1, &view).unwrap();
        view.batches[0].tallies[0].1.success = -3;
        checker.on_state(2, &view).unwrap_err();
    }

    #[test]
    fn each_event_that_does_not_fit_is_seen() {
        let died = lease_ended(1, LeaseEnd::Died);
        let none = Event::Claimed {
            batch: batch(),
            lines: LineSet::new(),
            token: Token(2),
            from: Some(Token(1)),
            lease: lease(1),
            number: 1,
            suspicion: 0,
            alone: false,
        };
        let by_crash = |by| recorded_as(1, 9, by, OutcomeStatus::Failed, 0, 2, RecordedWhy::CrashedTooOften);
        let back = |from| freed(1..=1, 2, from, FreedWhy::GivenBack, 0);
        let one = || claimed(1..=1, 1, None, 1);
        let breaks = [
            (vec![batch_loaded(batch(), 3, 0)], "is loaded twice"),
            (vec![died, one()], "claims and is not live"),
            (vec![none], "change hands"),
            // Out of a span that does not hold them, or is not free.
            (vec![one(), back(1), claimed(1..=1, 3, Some(1), 2)], "line 1 goes to Held"),
            (vec![one(), back(7)], "line 1 goes to Free"),
            (vec![one(), freed(1..=1, 2, 1, FreedWhy::Split, 0)], "line 1 goes to Free"),
            (vec![one(), recorded(1, 2, 1)], "line 1 goes to Done"),
            (vec![one(), recorded(1, 1, 2)], "line 1 goes to Done"),
            (vec![one(), by_crash(2)], "line 1 goes to Done"),
            (vec![claimed(1..=4, 1, None, 1)], "line 4 goes to Held"),
        ];
        for (broken, words) in breaks {
            fails_with(Conservation::new(), &[loaded(3), broken].concat(), words);
        }
        for (unknown, words) in [
            (one(), "lines of unknown batch"),
            (back(1), "lines of unknown batch"),
            (appended(1, 1), "appended to unknown batch"),
            (ended(), "unknown batch"),
        ] {
            fails_with(Conservation::new(), &[lease_taken(1), unknown], words);
        }
    }

    #[test]
    fn each_break_of_a_snapshot_is_told() {
        let breaks: [Break; 9] = [
            (|view| view.cursor = 0, "cursor 0"),
            (|view| view.cursor = 5, "cursor 5"),
            (|view| view.spans[0].lines = LineSet::range(2, 3), "in two places"),
            (|view| view.outcomes[0].line = 9, "has no line 9"),
            (|view| view.spans[0].lines = LineSet::new(), "has no lines"),
            (|view| view.status = BatchStatus::Loading, "is loading"),
            (|view| view.status = BatchStatus::Aborted, "is aborted and has 1 spans"),
            (|view| view.status = BatchStatus::Success, "has ended and has open lines"),
            (|view| view.tallies[0].1.retried = 1, "tallies"),
        ];
        for (break_it, words) in breaks {
            let mut view = good_view();
            break_it(&mut view.batches[0]);
            state_fails_with(&mut Conservation::new(), &view, words);
        }
        let mut view = good_view();
        view.batches[0].outcomes.clear();
        state_fails_with(&mut Conservation::new(), &view, "line 1 is nowhere");
    }

    #[test]
    fn a_snapshot_that_is_not_what_was_told_and_a_batch_that_is_gone_are_seen() {
        let mut checker = Conservation::new();
        let told = [claimed(1..=2, 1, None, 1), recorded(1, 1, 1)];
        passes(&mut checker, &[loaded(3), told.to_vec()].concat());
        let mut view = good_view();
        checker.on_state(9, &view).unwrap();
        view.batches[0].spans[0].token = Token(4);
        state_fails_with(&mut checker, &view, "by its events");
        let empty = StoreView { whole: true, ..StoreView::default() };
        checker.at_end(9, &empty).unwrap_err();
        checker.at_end(9, &StoreView { whole: false, ..empty }).unwrap();
    }
}
