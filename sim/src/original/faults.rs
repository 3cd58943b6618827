//! The faults of a schedule, as they strike the original.

use super::ProcessAt;
use super::facts::Fact;
use super::world::{Cut, Event, World};
use crate::fault::{Fault, Server, WitnessLoss};

impl World<'_> {
    /// What means nothing to the original does nothing: it has no clock in its store, TCP delivers once, and a batch that
    /// runs can neither be held nor appended to.
    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::LoseReplies { worker, server: Server::Store, count } => {
                let slot = self.slot(worker);
                self.slots[slot].lose_replies += u32::from(count);
            }
            Fault::Delay { worker, server: Server::Store, count, by_us } => {
                let slot = self.slot(worker);
                self.slots[slot].delay = (u32::from(count), by_us);
            }
            Fault::CutStore { worker, way, loud, for_us } => {
                let slot = self.slot(worker);
                self.slots[slot].cut = Some(Cut { way, loud, until: self.now + for_us });
                if loud {
                    // Connections are reset, and with them a claim's transaction.
                    self.of_slot(slot).into_iter().for_each(|at| self.reset_idle_claim(at));
                }
                self.ends_at(self.now + for_us);
            }
            Fault::CutWitness { worker, for_us, .. } => {
                let slot = self.slot(worker);
                self.slots[slot].redis_cut_until = Some(self.now + for_us);
                self.of_slot(slot).into_iter().for_each(|at| self.fact(Fact::Absent(at)));
                self.ends_at(self.now + for_us);
            }
            Fault::Pause { worker, for_us } => self.pause(worker, for_us),
            Fault::Crash { worker, restart_after_us, .. } => {
                self.start_later(worker, restart_after_us);
                if let Some(at) = self.victim(worker) {
                    self.end(at, Fact::Died { process: at, by_row: None });
                }
            }
            Fault::Twin { worker } => {
                let slot = self.slot(worker);
                self.start(slot);
            }
            Fault::Stop { worker, restart_after_us } => {
                self.start_later(worker, restart_after_us);
                if let Some(at) = self.victim(worker) {
                    self.stop(at);
                }
            }
            Fault::StoreAway { how, for_us } => {
                self.store_away = Some((how, self.now + for_us));
                if how == crate::fault::Away::Refuses {
                    self.store.roll_back_all();
                }
                self.ends_at(self.now + for_us);
            }
            Fault::Witness(WitnessLoss::Flush | WitnessLoss::RestartEmpty) => {
                self.expire_keys();
                self.redis.flush();
                self.fact(Fact::RedisLost);
            }
            Fault::WitnessAway { how, for_us } => {
                self.redis_away = Some((how, self.now + for_us));
                self.fact(Fact::RedisAway);
                self.ends_at(self.now + for_us);
            }
            Fault::Abort { batch } => {
                let batch = usize::from(batch) % self.schedule.options.batches.len().max(1);
                self.push(self.now, Event::Abort(batch));
            }
            _ => {}
        }
    }

    fn slot(&self, worker: u8) -> usize {
        usize::from(worker) % self.slots.len()
    }

    /// The newest process of a slot that lives.
    fn victim(&self, worker: u8) -> Option<ProcessAt> {
        let slot = self.slot(worker);
        (0..self.processes.len()).rev().find(|at| self.processes[*at].slot == slot && self.processes[*at].alive)
    }

    fn of_slot(&self, slot: usize) -> Vec<ProcessAt> {
        let lives = |at: &ProcessAt| self.processes[*at].slot == slot && self.processes[*at].alive;
        (0..self.processes.len()).filter(lives).collect()
    }

    fn start_later(&mut self, worker: u8, after_us: Option<u64>) {
        let slot = self.slot(worker);
        if let Some(after) = after_us {
            self.push(self.now + after, Event::Start { slot });
        }
    }

    /// Its transaction is rolled back unless its commit is on the way.
    fn reset_idle_claim(&mut self, at: ProcessAt) {
        if !matches!(self.processes[at].main, super::worker::Loop::Committing(_)) {
            self.store.roll_back(at);
        }
    }

    fn pause(&mut self, worker: u8, for_us: u64) {
        let Some(at) = self.victim(worker) else { return };
        let until = self.now + for_us;
        let process = &mut self.processes[at];
        process.paused_until = Some(process.paused_until.map_or(until, |before| before.max(until)));
        self.fact(Fact::Absent(at));
        self.ends_at(until);
    }

    fn resume(&mut self, at: ProcessAt) {
        let process = &mut self.processes[at];
        process.paused_until = None;
        let slot = process.slot;
        for event in std::mem::take(&mut process.inbox) {
            self.push(self.now, event);
        }
        if self.slots[slot].redis_cut_until.is_none() {
            self.fact(Fact::Present(at));
        }
    }

    fn ends_at(&mut self, at: u64) {
        self.push(at, Event::OutagesEnd);
    }

    /// Ends whatever has run out by then.
    pub(super) fn end_outages(&mut self, upto: u64) {
        self.store_away.take_if(|(_, until)| *until <= upto);
        if self.redis_away.take_if(|(_, until)| *until <= upto).is_some() {
            self.fact(Fact::RedisBack);
        }
        for slot in 0..self.slots.len() {
            self.slots[slot].cut.take_if(|cut| cut.until <= upto);
            if self.slots[slot].redis_cut_until.take_if(|until| *until <= upto).is_some() {
                for at in self.of_slot(slot) {
                    if self.processes[at].paused_until.is_none() {
                        self.fact(Fact::Present(at));
                    }
                }
            }
        }
        for at in 0..self.processes.len() {
            let process = &self.processes[at];
            if process.alive && process.paused_until.is_some_and(|until| until <= upto) {
                self.resume(at);
            }
        }
    }
}
