//! Faults of links and servers, and outages running out.

use std::collections::BTreeSet;

use fencepost_core::Instant;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::store::StoreFailure;
use fencepost_model::clock::Rate;
use fencepost_model::history::{self, Link};

use super::messages::Cut;
use super::{Event, StoreCall, World};
use crate::coverage::Mark;
use crate::fault::{Away, WitnessLoss};

impl World<'_> {
    pub(super) fn cut_store(&mut self, slot: usize, cut: Cut) {
        let troubles = &mut self.slots[slot].troubles;
        let was = troubles.store_cut;
        troubles.store_cut = Some(cut.and(was));
        if was.is_none() {
            for at in self.of_slot(slot) {
                self.link_trouble(at, Link::Store, true);
            }
        }
        self.end_outages_at(cut.until);
    }

    pub(super) fn heal_links(&mut self, slot: usize, upto: u64) {
        let troubles = &mut self.slots[slot].troubles;
        let store = troubles.store_cut.take_if(|cut| cut.until <= upto).is_some();
        let witness = troubles.witness_cut.take_if(|cut| cut.until <= upto).is_some();
        for at in self.of_slot(slot) {
            if store {
                self.link_trouble(at, Link::Store, false);
            }
            if witness {
                self.link_trouble(at, Link::Liveness, false);
            }
        }
    }

    pub(super) fn cut_witness(&mut self, slot: usize, cut: Cut) {
        let troubles = &mut self.slots[slot].troubles;
        let was = troubles.witness_cut;
        troubles.witness_cut = Some(cut.and(was));
        if was.is_none() {
            for at in self.of_slot(slot) {
                self.link_trouble(at, Link::Liveness, true);
            }
        }
        self.end_outages_at(cut.until);
    }

    pub(super) fn store_away(&mut self, how: Away, until: u64) {
        if self.rows_run() {
            self.coverage.mark(Mark::StoreAwayWhileRunning);
        }
        if !self.store_server.go_away(how, until) {
            self.fact(history::Event::StoreAway);
        }
        self.end_outages_at(until);
    }

    pub(super) fn change_store_clock(&mut self, rate: Rate) -> bool {
        let changes = rate.millionths() != self.store_rate;
        self.store_rate = rate.millionths();
        self.store_clock.set_rate(self.now, rate);
        changes
    }

    pub(super) fn jump_store_clock(&mut self, by: i64) -> bool {
        if by == 0 {
            return false;
        }
        if self.a_lease_lives() {
            self.coverage.mark(Mark::ClockJumpWhileLeased);
        }
        self.store_clock.jump(self.now, by);
        self.fact(history::Event::StoreClockJumped { by });
        true
    }

    /// Its process ends: connections break with what is under way on them, then nobody answers for a while.
    pub(super) fn restart_store(&mut self, until: u64) {
        self.coverage.mark(Mark::StoreRestarted);
        for event in std::mem::take(&mut self.store_server.stalled) {
            let Event::StoreArrives(call) = event else { continue };
            self.end_delay(&call);
            if !call.duplicate {
                self.coverage.mark(Mark::StalledBrokenByRestart);
                self.answer(&call, Err(StoreFailure::Unknown));
            }
        }
        for place in 0..self.events.len() {
            match self.events[place].take() {
                Some(Event::StoreArrives(call)) => {
                    self.end_delay(&call);
                    let StoreCall { process, machine, id, duplicate, .. } = *call;
                    let broken =
                        Event::StoreAnswers { process, machine, id, reply: Box::new(Err(StoreFailure::Unknown)) };
                    self.events[place] = Some(if duplicate { Event::OutagesEnd } else { broken });
                }
                Some(Event::StoreAnswers { process, machine, id, mut reply }) => {
                    if reply.is_ok() {
                        self.coverage.mark(Mark::ReplyLostByRestart);
                        *reply = Err(StoreFailure::Unknown);
                    }
                    self.events[place] = Some(Event::StoreAnswers { process, machine, id, reply });
                }
                other => self.events[place] = other,
            }
        }
        self.store_away(Away::Refuses, until);
    }

    /// What its keys' times and its uptime go by.
    pub(super) fn witness_now(&self) -> Instant {
        let shown = self.witness_clock.now(self.now).as_micros();
        Instant::from_micros(shown.saturating_add_signed(self.witness_offset))
    }

    fn a_lease_lives(&self) -> bool {
        let leases = self.store.view_of(&BTreeSet::new()).leases;
        leases.iter().any(|(_, state)| *state == LeaseState::Live)
    }

    pub(super) fn jump_witness_clock(&mut self, by: i64) -> bool {
        if by == 0 {
            return false;
        }
        self.coverage.mark(Mark::WitnessClockJump);
        self.witness_offset += by;
        if by < 0 {
            self.fact(history::Event::HeartbeatsLinger);
        }
        true
    }

    pub(super) fn witness_away(&mut self, how: Away, until: u64) {
        self.witness_server.go_away(how, until);
        self.end_outages_at(until);
    }

    /// Restarts it now, and so many times less one again.
    pub(super) fn restart_witness(&mut self, left: u8, every_us: u64, keeps_data: bool) {
        if left == 0 || self.healed {
            return;
        }
        let loss = if keeps_data { WitnessLoss::RestartWithData } else { WitnessLoss::RestartEmpty };
        self.lose_witness_data(loss);
        self.push(self.now + every_us, Event::WitnessRestarts { left: left - 1, every_us, keeps_data });
    }

    /// It restarts empty, again and again, twice per ttl.
    pub(super) fn loop_witness_for_ever(&mut self) {
        self.lose_witness_data(WitnessLoss::RestartEmpty);
        self.push(self.now + self.schedule.options.ttl_us / 2, Event::WitnessRestartsForEver);
    }

    pub(super) fn evict_beat(&mut self, worker: u8) -> bool {
        let Some(lease) = self.victim(worker).map(|at| self.processes[at].keeper.lease()) else { return false };
        self.coverage.mark(Mark::BeatEvicted);
        self.witness.evict(lease);
        true
    }

    /// What a replica will have at the failover of this place.
    pub(super) fn copy_witness(&mut self, fault: usize) {
        self.witness_copies.insert(fault, self.witness.clone());
    }

    pub(super) fn fail_over(&mut self, fault: usize) -> bool {
        let Some(copy) = self.witness_copies.remove(&fault) else { return false };
        self.coverage.mark(Mark::WitnessFailedOver);
        self.witness = copy;
        self.fact(history::Event::HeartbeatsLinger);
        true
    }

    pub(super) fn lose_witness_data(&mut self, loss: WitnessLoss) {
        if loss != WitnessLoss::RestartWithData && self.a_lease_lives() {
            self.coverage.mark(Mark::WitnessLostData);
        }
        if self.rows_run() && loss != WitnessLoss::RestartWithData {
            self.coverage.mark(Mark::WitnessWipedWhileRunning);
        }
        let now = self.witness_now();
        match loss {
            WitnessLoss::Flush => self.witness.flush(),
            WitnessLoss::RestartEmpty => self.witness.restart_empty(now),
            WitnessLoss::RestartWithData => self.witness.restart_with_data(now),
        }
    }

    /// An outage that ends never is not on the heap.
    pub(super) fn end_outages_at(&mut self, at: u64) {
        if at < u64::MAX {
            self.push(at, Event::OutagesEnd);
        }
    }

    /// Ends whatever has run out by now.
    pub(super) fn end_outages(&mut self) {
        self.end_outages_upto(self.now);
    }

    fn end_outages_upto(&mut self, upto: u64) {
        self.bring_servers_back(upto);
        for slot in 0..self.slots.len() {
            self.heal_links(slot, upto);
        }
        for at in 0..self.processes.len() {
            let process = &self.processes[at];
            if process.alive && process.paused.is_some_and(|pause| pause.until <= upto) {
                self.resume(at);
            }
        }
        self.end_holds(upto);
        self.end_appends(upto);
    }

    pub(super) fn bring_servers_back(&mut self, upto: u64) {
        if self.store_server.away.take_if(|(_, until)| *until <= upto).is_some() {
            self.fact(history::Event::StoreBack);
            for (nth, event) in std::mem::take(&mut self.store_server.stalled).into_iter().enumerate() {
                self.push(self.now + 10 * nth as u64, event);
            }
        }
        if self.witness_server.away.take_if(|(_, until)| *until <= upto).is_some() {
            for (nth, event) in std::mem::take(&mut self.witness_server.stalled).into_iter().enumerate() {
                self.push(self.now + 10 * nth as u64, event);
            }
        }
    }
}
