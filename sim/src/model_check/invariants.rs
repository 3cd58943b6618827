//! What must hold after every step: the simulator's checkers, and what only a search of all histories can ask for.

use fencepost_core::worker::RunKey;
use fencepost_core::{LeaseId, StoreTime};
use fencepost_model::check::{
    Abort, Checker, Conservation, EndsOnce, Fencing, OneOutcome, Order, Ownership, Poison, Violation as Found,
};
use fencepost_model::history::{Event, LeaseEnd};
use fencepost_model::view::StoreView;
use std::collections::{BTreeMap, BTreeSet};

use super::scope::timing;
use crate::checks::Violation;

/// Checkers and what they know, which is part of the state: two histories meet only where they know the same.
#[derive(Debug, Clone, Hash)]
pub(super) struct Watch {
    conservation: Conservation,
    one_outcome: OneOutcome,
    fencing: Fencing,
    ownership: Ownership,
    ends_once: EndsOnce,
    poison: Poison,
    order: Order,
    abort: Abort,
    /// Until when live leases last.
    live: BTreeMap<LeaseId, StoreTime>,
    /// Whose they are.
    owners: BTreeMap<LeaseId, usize>,
    started: BTreeSet<RunKey>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            conservation: Conservation::new(),
            one_outcome: OneOutcome::new(),
            fencing: Fencing::new(),
            ownership: Ownership::new(),
            ends_once: EndsOnce::new(),
            poison: Poison::new(),
            order: Order::new(),
            abort: Abort::new(timing().ttl, timing().ttl, None),
            live: BTreeMap::new(),
            owners: BTreeMap::new(),
            started: BTreeSet::new(),
        }
    }

    fn checkers(&mut self) -> [&mut dyn Checker; 8] {
        [
            &mut self.conservation,
            &mut self.one_outcome,
            &mut self.fencing,
            &mut self.ownership,
            &mut self.ends_once,
            &mut self.poison,
            &mut self.order,
            &mut self.abort,
        ]
    }

    /// A request to take this lease was sent.
    pub(super) fn chosen(&mut self, lease: LeaseId, process: usize) {
        self.owners.insert(lease, process);
    }

    /// Something happened in the store. `quiet`: nothing went wrong so far, so nobody is judged and nothing fenced.
    pub(super) fn event(&mut self, at_us: u64, event: &Event, quiet: bool) -> Result<(), Violation> {
        for checker in self.checkers() {
            checker.on_event(at_us, event).map_err(violation)?;
        }
        match event {
            Event::LeaseTaken { lease, expires_at, .. }
            | Event::LeaseRenewed { lease, expires_at, .. }
            | Event::LeaseCutBack { lease, expires_at } => {
                self.live.insert(*lease, *expires_at);
            }
            Event::LeaseEnded { lease, how, .. } => {
                let expires_at = self.live.remove(lease).unwrap_or_default();
                let early = i64::try_from(at_us).is_ok_and(|at| at < expires_at.0);
                if *how != LeaseEnd::Dropped && (early || quiet) {
                    let what = format!(
                        "a lease that lasts until {expires_at:?} is ended as {how:?}; nothing went wrong: {quiet}"
                    );
                    return Err(Violation { check: "5 innocence", at_us, what });
                }
            }
            Event::Fenced { .. } if quiet => {
                let what = format!("nothing went wrong, and {event:?}");
                return Err(Violation { check: "3 fencing", at_us, what });
            }
            _ => {}
        }
        Ok(())
    }

    /// A fact of which the stores' checkers need to know nothing.
    pub(super) fn of_processes(&mut self, at_us: u64, event: &Event) -> Result<(), Violation> {
        self.abort.on_event(at_us, event).map_err(violation)
    }

    /// A transaction is over.
    pub(super) fn state(&mut self, at_us: u64, view: &StoreView) -> Result<(), Violation> {
        self.checkers().into_iter().try_for_each(|checker| checker.on_state(at_us, view)).map_err(violation)
    }

    /// L6: no token is run twice, by whomever.
    pub(super) fn starts(&mut self, at_us: u64, key: RunKey) -> Result<(), Violation> {
        if self.started.insert(key) {
            return Ok(());
        }
        let what = format!("line {} is run twice under token {}", key.line, key.token);
        Err(Violation { check: "L6 once per token", at_us, what })
    }

    /// Nothing happens any more: only dead processes leave leases behind.
    pub(super) fn end(
        &mut self,
        at_us: u64,
        view: &StoreView,
        crashed: impl Fn(usize) -> bool,
    ) -> Result<(), Violation> {
        self.checkers().into_iter().try_for_each(|checker| checker.at_end(at_us, view)).map_err(violation)?;
        let left = self.live.keys().find(|lease| !self.owners.get(lease).is_some_and(|process| crashed(*process)));
        match left {
            None => Ok(()),
            Some(lease) => {
                let what = format!("the lease {lease} of a process that left is live");
                Err(Violation { check: "S1 leaving", at_us, what })
            }
        }
    }
}

fn violation(found: Found) -> Violation {
    Violation { check: found.checker, at_us: found.at, what: found.what }
}
