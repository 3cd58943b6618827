//! Invariant 11: abort.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost_core::{BatchId, LeaseId, Token};

use super::health::Health;
use super::{Checker, Told, Violation, ensure, micros};
use crate::history::{Event, Process};
use crate::view::{OutcomeView, StoreView};

const NAME: &str = "11 abort";

/// Asserts that once a batch is aborted no line of it is claimed, freed, recorded or retried, and its outcomes stay as they were; and
/// that no handler of it starts
/// - later than `told` says, where there are notifications, on a process that had been well, with the store there, for as long as it
///   says before the abort;
/// - later than `notice` on a process that was well, with the store there, for all of that time; `notice_slow` where its clock is not
///   steady;
/// - later than a ttl and `notice` on any process with a steady clock: its licence has run out.
///
/// And that it is purged (S6) only when no handler of it is at work in a living process under a lease that is live.
#[derive(Debug, Clone, Hash)]
pub struct Abort {
    notice: u64,
    notice_slow: u64,
    told: Option<Told>,
    health: Health,
    aborted: BTreeMap<BatchId, u64>,
    outcomes: BTreeMap<BatchId, Vec<OutcomeView>>,
    live: BTreeSet<LeaseId>,
    /// Whose claim a token is.
    claims: BTreeMap<Token, LeaseId>,
    running: BTreeSet<(Process, BatchId, u64, Token)>,
}

impl Abort {
    /// For an empty store.
    pub fn new(notice: Duration, notice_slow: Duration, told: Option<Told>) -> Self {
        Self {
            notice: micros(notice),
            notice_slow: micros(notice_slow),
            told,
            health: Health::default(),
            aborted: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            live: BTreeSet::new(),
            claims: BTreeMap::new(),
            running: BTreeSet::new(),
        }
    }

    /// Facts of runs and of the leases that they go on under.
    fn run(&mut self, event: &Event) {
        match *event {
            Event::LeaseTaken { lease, .. } => drop(self.live.insert(lease)),
            Event::LeaseEnded { lease, .. } => drop(self.live.remove(&lease)),
            Event::Claimed { token, lease, .. } => drop(self.claims.insert(token, lease)),
            Event::HandlerStarted { process, batch, line, token } => {
                self.running.insert((process, batch, line, token));
            }
            Event::HandlerEnded { process, batch, line, token } => {
                self.running.remove(&(process, batch, line, token));
            }
            Event::WorkerCrashed { process, .. } | Event::WorkerLeft { process } => {
                self.running.retain(|(of, ..)| *of != process);
            }
            _ => {}
        }
    }

    /// S6, S2: what was held at its abort may have ended, or nobody knows of it any more.
    fn purge(&self, at: u64, batch: BatchId) -> Result<(), Violation> {
        let runs = |(_, of, _, token): &&(Process, BatchId, u64, Token)| {
            *of == batch && self.claims.get(token).is_some_and(|lease| self.live.contains(lease))
        };
        let running = self.running.iter().find(runs).filter(|_| self.aborted.contains_key(&batch));
        ensure(running.is_none(), NAME, at, || format!("{batch} is purged while {running:?} is at work"))
    }

    fn starts(&self, at: u64, process: Process, batch: BatchId) -> Result<(), Violation> {
        let (Some(&aborted_at), Some(facts)) = (self.aborted.get(&batch), self.health.process(process)) else {
            return Ok(());
        };
        let late = at.saturating_sub(aborted_at);
        let well_for = if facts.is_well() { at.saturating_sub(facts.since) } else { 0 };
        let store_for = self.health.store_since().map_or(0, |since| at.saturating_sub(since));
        let notice = if facts.steady { self.notice } else { self.notice_slow };
        let connected = well_for.min(store_for) > notice;
        let what = || format!("{process:?} starts a row of {batch} {late} us after its abort");
        ensure(late <= notice || !connected, NAME, at, what)?;
        let since = self.health.store_since().map_or(u64::MAX, |since| since.max(facts.since));
        let told = self.told.is_some_and(|Told { within, connected_for }| {
            let listened = facts.is_well() && since.saturating_add(micros(connected_for)) < aborted_at;
            listened && late > micros(within)
        });
        ensure(!told, NAME, at, what)?;
        let licence = micros(facts.timing.ttl) + self.notice;
        ensure(late <= licence || !facts.steady, NAME, at, what)
    }
}

impl Checker for Abort {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        self.run(event);
        match event {
            Event::BatchPurged { batch } => self.purge(at, *batch)?,
            Event::BatchAborted { batch, .. } => {
                self.aborted.insert(*batch, at);
            }
            Event::Claimed { batch, .. }
            | Event::Freed { batch, .. }
            | Event::Recorded { batch, .. }
            | Event::RowsRetried { batch, .. } => {
                let over = self.aborted.contains_key(batch);
                ensure(!over, NAME, at, || format!("{batch} is aborted; {event:?}"))?;
            }
            Event::HandlerStarted { process, batch, .. } => self.starts(at, *process, *batch)?,
            _ => {
                self.health.on_event(at, event);
            }
        }
        Ok(())
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        for view in state.batches.iter().filter(|view| self.aborted.contains_key(&view.batch)) {
            let first = self.outcomes.entry(view.batch).or_insert_with(|| view.outcomes.clone());
            let same = *first == view.outcomes;
            ensure(same, NAME, at, || format!("{} is aborted and its outcomes change", view.batch))?;
            ensure(view.spans.is_empty(), NAME, at, || format!("{} is aborted and has spans", view.batch))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::history::{LeaseEnd, Link};

    fn checker() -> Abort {
        Abort::new(Duration::from_secs(1), Duration::from_secs(2), None)
    }

    fn bears(facts: &[(u64, Event)], at: u64) -> bool {
        let mut events = at_ms(0, started(1, 1));
        events.extend_from_slice(facts);
        events.push((10_000, aborted()));
        let token = fencepost_core::Token(1);
        events.push((at, Event::HandlerStarted { process: Process(1), batch: batch(), line: 1, token }));
        first_failure(&mut checker(), &events).is_none()
    }

    #[test]
    fn starts_end_with_the_notice_or_the_licence() {
        assert!(bears(&[], 11_000));
        assert!(!bears(&[], 11_001));
        let cut = [(9000, Event::LinkCut { process: Process(1), link: Link::Store })];
        assert!(bears(&cut, 19_000));
        assert!(!bears(&cut, 19_001));
    }

    #[test]
    fn who_has_a_slow_clock_notices_later() {
        let clock = |steady| [(9000, Event::ClockChanged { process: Process(1), steady })];
        assert!(bears(&clock(false), 12_000));
        assert!(!bears(&clock(false), 12_001));
        assert!(bears(&clock(true), 11_000));
        assert!(!bears(&clock(true), 11_001));
    }

    #[test]
    fn a_notification_binds_who_was_there_to_hear_it() {
        let bears = |facts: &[(u64, Event)], at: u64| {
            let mut events = at_ms(0, started(1, 1));
            events.extend_from_slice(facts);
            events.push((10_000, aborted()));
            let token = fencepost_core::Token(1);
            events.push((at, Event::HandlerStarted { process: Process(1), batch: batch(), line: 1, token }));
            let told = Some(Told { within: Duration::from_millis(20), connected_for: Duration::from_millis(500) });
            first_failure(&mut Abort::new(Duration::from_secs(1), Duration::from_secs(2), told), &events).is_none()
        };
        assert!(bears(&[], 10_020));
        assert!(!bears(&[], 10_021));
        let link = Link::Store;
        let cut = [
            (9000, Event::LinkCut { process: Process(1), link }),
            (9500, Event::LinkHealed { process: Process(1), link }),
        ];
        assert!(bears(&cut, 10_021), "it was not listening again yet");
        let cut = [(9000, cut[0].1.clone()), (9499, cut[1].1.clone())];
        assert!(!bears(&cut, 10_021));
    }

    #[test]
    fn a_purge_while_a_handler_is_at_work_is_seen() {
        let process = Process(1);
        let (batch, line, token) = (batch(), 1, Token(1));
        let mut events = started(1, 1);
        events.extend([batch_loaded(batch, 1, 0), claimed(1..=1, 1, None, 1)]);
        events.extend([Event::HandlerStarted { process, batch, line, token }, aborted()]);
        fails(&mut checker(), &[events.clone(), vec![purged()]].concat());
        let ends = [
            Event::HandlerEnded { process, batch, line, token },
            Event::WorkerCrashed { process, by_row: None },
            Event::WorkerLeft { process },
            lease_ended(1, LeaseEnd::Lapsed),
        ];
        for end in ends {
            passes(&mut checker(), &[events.clone(), vec![end, purged()]].concat());
        }
    }

    #[test]
    fn changes_after_an_abort_are_seen() {
        let back = freed(1..=1, 2, 1, crate::history::FreedWhy::GivenBack, 0);
        for change in [claimed(1..=1, 1, None, 1), back, recorded(1, 1, 1), retried(2, &[(1..=1, 2)])] {
            let mut events = loaded(1);
            events.extend([aborted(), change]);
            fails(&mut checker(), &events);
        }
        let mut checker = checker();
        passes(&mut checker, &[aborted()]);
        let mut view = good_view();
        checker.on_state(1, &view).unwrap_err();
        view.batches[0].spans.clear();
        checker.on_state(1, &view).unwrap();
        view.batches[0].outcomes.clear();
        checker.on_state(1, &view).unwrap_err();
    }
}
