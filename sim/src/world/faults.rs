//! Faults taking effect, and outages running out.

use fencepost_core::store::Operated;
use fencepost_model::history::{self, Link};

use super::messages::Cut;
use super::process::Pause;
use super::{Event, ProcessAt, World};
use crate::coverage::Mark;
use crate::fault::{Away, Fault, WitnessLoss};
use crate::options::batch_id;
use crate::trace::What;

impl World<'_> {
    pub(super) fn fault(&mut self, at: usize) {
        let fault = self.schedule.faults[at].1;
        let works = self.store.has_open_batch() && self.strike(fault);
        self.trace(|_| What::Fault { fault, struck: works });
        self.coverage.mark(if works { Mark::FaultsOnWork } else { Mark::FaultsOnNothing });
    }

    /// Returns whether there was anything to strike.
    fn strike(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::LoseReplies { worker, count } => {
                let slot = self.slot(worker);
                self.slots[slot].troubles.lose_replies += u32::from(count);
            }
            Fault::Delay { worker, count, by_us } => {
                let slot = self.slot(worker);
                self.slots[slot].troubles.delay = (u32::from(count), by_us);
            }
            Fault::Duplicate { worker, count, after_us } => {
                let slot = self.slot(worker);
                self.slots[slot].troubles.duplicate = (u32::from(count), after_us);
            }
            Fault::CutStore { worker, way, loud, for_us } => {
                let slot = self.slot(worker);
                self.cut_store(slot, Cut { way, loud, until: self.now + for_us });
            }
            Fault::CutWitness { worker, for_us } => {
                let slot = self.slot(worker);
                self.cut_witness(slot, self.now + for_us);
            }
            Fault::Pause { worker, for_us } => return self.pause_slot(worker, for_us),
            Fault::Crash { worker, restart_after_us, reported } => {
                return self.crash_slot(worker, restart_after_us, reported);
            }
            Fault::Twin { worker } => {
                let slot = self.slot(worker);
                self.start(slot);
            }
            Fault::Stop { worker, restart_after_us } => return self.stop_slot(worker, restart_after_us),
            Fault::StoreAway { how, for_us } => self.store_away(how, self.now + for_us),
            Fault::StoreClockJump { by_us } => self.jump_store_clock(by_us),
            Fault::Witness(loss) => self.lose_witness_data(loss),
            Fault::WitnessAway { how, for_us } => {
                self.witness_server.away = Some((how, self.now + for_us));
                self.end_outages_at(self.now + for_us);
            }
            Fault::Hold { batch, for_us } => return self.hold(batch, for_us),
            Fault::Append { batch, rows, for_us } => return self.append(batch, rows.into(), for_us),
            Fault::Abort { batch } => return self.abort(batch),
        }
        true
    }

    fn slot(&self, worker: u8) -> usize {
        usize::from(worker) % self.slots.len()
    }

    /// The process of a slot that faults strike: the newest that lives.
    fn victim(&self, worker: u8) -> Option<ProcessAt> {
        let slot = self.slot(worker);
        (0..self.processes.len()).rev().find(|at| self.processes[*at].slot == slot && self.processes[*at].alive)
    }

    fn of_slot(&self, slot: usize) -> Vec<ProcessAt> {
        let lives = |at: &ProcessAt| self.processes[*at].slot == slot && self.processes[*at].alive;
        (0..self.processes.len()).filter(lives).collect()
    }

    pub(super) fn cut_store(&mut self, slot: usize, cut: Cut) {
        let was = self.slots[slot].troubles.store_cut.replace(cut);
        if was.is_none() {
            for at in self.of_slot(slot) {
                self.link_trouble(at, Link::Store, true);
            }
        }
        self.end_outages_at(cut.until);
    }

    fn cut_witness(&mut self, slot: usize, until: u64) {
        let was = self.slots[slot].troubles.witness_cut_until.replace(until);
        if was.is_none() {
            for at in self.of_slot(slot) {
                self.link_trouble(at, Link::Liveness, true);
            }
        }
        self.end_outages_at(until);
    }

    fn heal_links(&mut self, slot: usize, upto: u64) {
        let troubles = &mut self.slots[slot].troubles;
        let store = troubles.store_cut.take_if(|cut| cut.until <= upto).is_some();
        let witness = troubles.witness_cut_until.take_if(|until| *until <= upto).is_some();
        for at in self.of_slot(slot) {
            if store {
                self.link_trouble(at, Link::Store, false);
            }
            if witness {
                self.link_trouble(at, Link::Liveness, false);
            }
        }
    }

    fn pause_slot(&mut self, worker: u8, for_us: u64) -> bool {
        let Some(at) = self.victim(worker) else { return false };
        self.pause(at, self.now + for_us);
        true
    }

    pub(super) fn pause(&mut self, at: ProcessAt, until: u64) {
        let process = &mut self.processes[at];
        let since = process.paused.map_or(self.now, |pause| pause.since);
        let was = process.paused.replace(Pause { since, until });
        let number = process.number;
        if was.is_none() {
            self.fact(history::Event::WorkerPaused { process: number });
        }
        self.end_outages_at(until);
    }

    /// What reached it meanwhile comes in now; whether before or after its own overdue timers hangs on the seed.
    fn resume(&mut self, at: ProcessAt) {
        let timers_first = self.number_of(&[at as u64, self.now]).is_multiple_of(2);
        let process = &mut self.processes[at];
        let Some(pause) = process.paused.take() else { return };
        let inbox = std::mem::take(&mut process.inbox);
        let number = process.number;
        if self.now - pause.since > self.schedule.options.ttl_us {
            self.coverage.mark(Mark::PausedBeyondTtl);
        }
        self.fact(history::Event::WorkerResumed { process: number });
        for event in inbox.into_iter().filter(|event| !matches!(event, Event::Wake { .. })) {
            self.push(self.now, event);
        }
        if timers_first {
            self.wake_machines(at);
        }
        self.settle_overdue(at);
    }

    fn crash_slot(&mut self, worker: u8, restart_after_us: Option<u64>, reported: bool) -> bool {
        let slot = self.slot(worker);
        if let Some(after) = restart_after_us {
            self.push(self.now + after, Event::Start { slot });
        }
        let Some(at) = self.victim(worker) else { return false };
        self.coverage.mark(Mark::Crashes);
        self.crash(at, None, reported);
        true
    }

    fn stop_slot(&mut self, worker: u8, restart_after_us: Option<u64>) -> bool {
        let slot = self.slot(worker);
        if let Some(after) = restart_after_us {
            self.push(self.now + after, Event::Start { slot });
        }
        let Some(at) = self.victim(worker).filter(|at| !self.processes[*at].stopping) else { return false };
        self.processes[at].stopping = true;
        let process = self.processes[at].number;
        self.fact(history::Event::WorkerStopping { process });
        self.stop(at);
        true
    }

    fn store_away(&mut self, how: Away, until: u64) {
        if self.rows_run() {
            self.coverage.mark(Mark::StoreAwayWhileRunning);
        }
        if self.store_server.away.replace((how, until)).is_none() {
            self.fact(history::Event::StoreAway);
        }
        self.end_outages_at(until);
    }

    fn jump_store_clock(&mut self, by: i64) {
        if self.processes.iter().any(|process| process.alive) {
            self.coverage.mark(Mark::ClockJumpWhileLeased);
        }
        self.store_clock.jump(self.now, by);
        self.fact(history::Event::StoreClockJumped { by });
    }

    fn lose_witness_data(&mut self, loss: WitnessLoss) {
        self.coverage.mark(Mark::WitnessLostData);
        let now = self.witness_clock.now(self.now);
        match loss {
            WitnessLoss::Flush => self.witness.flush(),
            WitnessLoss::RestartEmpty => self.witness.restart_empty(now),
            WitnessLoss::RestartWithData => self.witness.restart_with_data(now),
        }
    }

    fn hold(&mut self, batch: u8, for_us: u64) -> bool {
        let batch = batch_id(usize::from(batch) % self.rows.len());
        if self.store_server.is_away() || !matches!(self.store.hold(batch), Operated::Now | Operated::Before) {
            return false;
        }
        if self.rows_run() {
            self.coverage.mark(Mark::HoldWhileRunning);
        }
        self.holds.insert(batch, self.now + for_us);
        self.end_outages_at(self.now + for_us);
        self.store_changed();
        true
    }

    fn abort(&mut self, batch: u8) -> bool {
        let at = usize::from(batch) % self.rows.len();
        if self.store_server.is_away() {
            return false;
        }
        let now = self.store_clock.now(self.now);
        let aborted = self.store.abort(now, batch_id(at)) == Operated::Now;
        if aborted && self.rows_run() {
            self.coverage.mark(Mark::AbortWhileRunning);
        }
        self.store_changed();
        aborted
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

    pub(super) fn end_holds(&mut self, upto: u64) {
        let over: Vec<_> = self.holds.iter().filter(|(_, until)| **until <= upto).map(|(batch, _)| *batch).collect();
        for batch in over {
            // An operator whose store is away tries again.
            if self.store_server.is_away() {
                self.end_outages_at(self.now + self.schedule.options.ttl_us / 16);
                return;
            }
            self.holds.remove(&batch);
            self.store.resume(batch);
            self.store_changed();
        }
    }

    /// A slot is whole from now on: links, processes, at least one of them.
    pub(super) fn heal_slot(&mut self, slot: usize) {
        self.slots[slot].core = true;
        self.slots[slot].troubles.lose_replies = 0;
        self.slots[slot].troubles.delay = (0, 0);
        self.slots[slot].troubles.duplicate = (0, 0);
        self.heal_links(slot, u64::MAX);
        for at in self.of_slot(slot) {
            self.resume(at);
        }
        self.start_if_none(slot);
    }

    /// A slot stays broken for ever, one way or another.
    pub(super) fn break_slot(&mut self, slot: usize) {
        let how = self.number_of(&[slot as u64, 0xbad]) % 4;
        for at in self.of_slot(slot) {
            match how {
                0 => self.crash(at, None, false),
                1 => self.pause(at, u64::MAX),
                _ => {}
            }
        }
        if how == 2 {
            let way = crate::fault::Way::Both;
            self.cut_store(slot, Cut { way, loud: false, until: u64::MAX });
        }
    }
}
