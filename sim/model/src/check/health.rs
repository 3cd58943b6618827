//! What the facts say of each process: whether it could do its duty, and since when.

use std::collections::BTreeMap;

use fencepost_core::{LeaseId, Timing};

use crate::history::{Event, Link, Process};

/// Facts about one process.
#[derive(Debug, Clone, Hash)]
pub(super) struct Facts {
    pub timing: Timing,
    pub steady: bool,
    pub dead: bool,
    pub stopping: bool,
    paused: bool,
    cut: bool,
    held_up: bool,
    /// When it last became well or unwell.
    pub since: u64,
    /// When it was last lost or found again.
    pub lost_since: u64,
    /// The row that killed it.
    pub killed_by: Option<(fencepost_core::BatchId, u64)>,
}

impl Facts {
    /// It runs and nothing of its own keeps it from the store.
    pub(super) fn is_well(&self) -> bool {
        !self.is_lost() && !self.held_up
    }

    /// It cannot keep its lease.
    pub(super) fn is_lost(&self) -> bool {
        self.dead || self.paused || self.cut
    }

    /// Whether it may judge others.
    pub(super) fn may_judge(&self) -> bool {
        self.is_well() && self.steady && !self.stopping
    }
}

#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Health {
    processes: BTreeMap<Process, Facts>,
    of_lease: BTreeMap<LeaseId, Process>,
    /// Since when the store answers; none: it is away.
    store_since: Option<u64>,
    began: bool,
}

impl Health {
    /// Takes a fact in; true where anything changed.
    pub(super) fn on_event(&mut self, at: u64, event: &Event) -> bool {
        if !self.began {
            (self.began, self.store_since) = (true, Some(0));
        }
        match *event {
            Event::WorkerStarted { process, timing, steady } => self.start(at, process, timing, steady),
            Event::LeaseChosen { process, lease } => {
                self.of_lease.insert(lease, process);
            }
            Event::WorkerCrashed { process, by_row } => self.change(at, process, |facts| {
                facts.dead = true;
                facts.killed_by = by_row;
            }),
            Event::WorkerLeft { process } => self.change(at, process, |facts| facts.dead = true),
            Event::WorkerStopping { process } => self.change(at, process, |facts| facts.stopping = true),
            Event::WorkerPaused { process } => self.change(at, process, |facts| facts.paused = true),
            Event::WorkerResumed { process } => self.change(at, process, |facts| facts.paused = false),
            Event::LinkCut { process, link: Link::Store } => self.change(at, process, |facts| facts.cut = true),
            Event::LinkHealed { process, link: Link::Store } => self.change(at, process, |facts| facts.cut = false),
            Event::MessageHeldUp { process } => self.change(at, process, |facts| facts.held_up = true),
            Event::MessagesArrived { process } => self.change(at, process, |facts| facts.held_up = false),
            Event::ClockChanged { process, steady } => self.change(at, process, |facts| facts.steady &= steady),
            Event::StoreAway => self.store_since = None,
            Event::StoreBack | Event::StoreClockJumped { .. } => self.store_since = self.store_since_now(at, event),
            _ => return false,
        }
        true
    }

    fn start(&mut self, at: u64, process: Process, timing: Timing, steady: bool) {
        let facts = Facts {
            timing,
            steady,
            dead: false,
            stopping: false,
            paused: false,
            cut: false,
            held_up: false,
            since: at,
            lost_since: at,
            killed_by: None,
        };
        self.processes.insert(process, facts);
    }

    fn change(&mut self, at: u64, process: Process, change: impl FnOnce(&mut Facts)) {
        let Some(facts) = self.processes.get_mut(&process) else {
            return;
        };
        let (was_well, was_lost) = (facts.is_well(), facts.is_lost());
        change(facts);
        // A heal beside a fault that goes on does not count as getting well, nor a second fault as getting worse.
        if facts.is_well() != was_well {
            facts.since = at;
        }
        if facts.is_lost() != was_lost {
            facts.lost_since = at;
        }
    }

    /// A jump of its clock starts a wait for the store anew, but does not bring it back.
    fn store_since_now(&self, at: u64, event: &Event) -> Option<u64> {
        match event {
            Event::StoreBack => Some(at),
            _ => self.store_since.map(|_| at),
        }
    }

    /// The process that chose this lease.
    pub(super) fn of_lease(&self, lease: LeaseId) -> Option<(Process, &Facts)> {
        let process = *self.of_lease.get(&lease)?;
        Some((process, self.processes.get(&process)?))
    }

    pub(super) fn process(&self, process: Process) -> Option<&Facts> {
        self.processes.get(&process)
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = (Process, &Facts)> {
        self.processes.iter().map(|(process, facts)| (*process, facts))
    }

    pub(super) const fn store_since(&self) -> Option<u64> {
        self.store_since
    }
}
