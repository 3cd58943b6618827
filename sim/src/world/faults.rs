//! Faults taking effect; those of workers' processes.

use fencepost_model::clock::Rate;
use fencepost_model::history;

use super::messages::{Cut, Troubles};
use super::process::Pause;
use super::{Event, ProcessAt, World};
use crate::coverage::Mark;
use crate::fault::{Fault, WAYS_FOR_EVER};
use crate::trace::What;

impl World<'_> {
    pub(super) fn fault(&mut self, at: usize) {
        let fault = self.schedule.faults[at].1;
        let in_reach = self.store.has_open_batch() || fault.is_for_ended_batches();
        // Without a second witness there is nothing that befalls it.
        let there = self.schedule.options.liveness || !fault.is_of_witness();
        let works = in_reach && there && self.strike(at, fault);
        self.trace(|_| What::Fault { fault, struck: works });
        self.coverage.mark(if works { Mark::FaultsOnWork } else { Mark::FaultsOnNothing });
        if works {
            self.coverage.mark(fault.mark());
        }
    }

    /// Returns whether there was anything to strike.
    fn strike(&mut self, at: usize, fault: Fault) -> bool {
        match fault {
            Fault::LoseReplies { worker, server, count } => {
                self.troubles(worker).next(server).lose_replies += u32::from(count);
            }
            Fault::Delay { worker, server, count, by_us } => {
                self.troubles(worker).next(server).delay = (u32::from(count), by_us);
            }
            Fault::Duplicate { worker, server, count, after_us } => {
                self.troubles(worker).next(server).duplicate = (u32::from(count), after_us);
            }
            Fault::CutStore { worker, way, loud, for_us } => {
                let slot = self.slot(worker);
                self.cut_store(slot, Cut { way, loud, until: self.now + for_us });
            }
            Fault::CutWitness { worker, way, for_us } => {
                let slot = self.slot(worker);
                self.cut_witness(slot, Cut { way, loud: false, until: self.now + for_us });
            }
            Fault::Pause { worker, for_us } => return self.pause_slot(worker, for_us),
            Fault::Crash { worker, restart_after_us, reported } => {
                return self.crash_slot(worker, restart_after_us, reported);
            }
            Fault::CrashAt { worker, effects, restart_after_us } => {
                let Some(at) = self.victim(worker) else { return false };
                self.processes[at].dies_after = Some((effects, restart_after_us));
            }
            Fault::ClockRate { worker, millionths } => {
                return self.change_clock(worker, Rate::from_millionths(millionths));
            }
            Fault::Twin { worker } => {
                let slot = self.slot(worker);
                self.start(slot);
            }
            Fault::Stop { worker, restart_after_us } => return self.stop_slot(worker, restart_after_us),
            Fault::StoreAway { how, for_us } => self.store_away(how, self.now + for_us),
            Fault::StoreRestart { for_us } => self.restart_store(self.now + for_us),
            Fault::StoreClockRate { millionths } => return self.change_store_clock(Rate::from_millionths(millionths)),
            Fault::StoreClockJump { by_us } => return self.jump_store_clock(by_us),
            Fault::Witness(loss) => self.lose_witness_data(loss),
            Fault::WitnessAway { how, for_us } => self.witness_away(how, self.now + for_us),
            Fault::WitnessClockJump { by_us } => return self.jump_witness_clock(by_us),
            Fault::WitnessLoop { times, every_us, keeps_data } => {
                self.restart_witness(times, every_us, keeps_data);
                return times > 0;
            }
            Fault::Evict { worker } => return self.evict_beat(worker),
            Fault::Failover { .. } => return self.fail_over(at),
            Fault::Hold { batch, for_us } => return self.hold(batch, for_us),
            Fault::Append { batch, rows, for_us } => return self.append(batch, rows.into(), for_us),
            Fault::AppendCutOff { batch, rows } => return self.append_cut_off(batch, rows.into()),
            Fault::Abort { batch } => return self.abort(batch),
            Fault::Retry { batch, rows } => return self.retry(batch, rows),
            Fault::Purge { batch } => return self.purge(batch),
        }
        true
    }

    fn slot(&self, worker: u8) -> usize {
        usize::from(worker) % self.slots.len()
    }

    fn troubles(&mut self, worker: u8) -> &mut Troubles {
        let slot = self.slot(worker);
        &mut self.slots[slot].troubles
    }

    /// The process of a slot that faults strike: the newest that lives.
    pub(super) fn victim(&self, worker: u8) -> Option<ProcessAt> {
        let slot = self.slot(worker);
        (0..self.processes.len()).rev().find(|at| self.processes[*at].slot == slot && self.processes[*at].alive)
    }

    pub(super) fn of_slot(&self, slot: usize) -> Vec<ProcessAt> {
        let lives = |at: &ProcessAt| self.processes[*at].slot == slot && self.processes[*at].alive;
        (0..self.processes.len()).filter(lives).collect()
    }

    fn pause_slot(&mut self, worker: u8, for_us: u64) -> bool {
        let Some(at) = self.victim(worker) else { return false };
        self.pause(at, self.now + for_us);
        true
    }

    pub(super) fn pause(&mut self, at: ProcessAt, until: u64) {
        let process = &mut self.processes[at];
        let was = process.paused;
        let since = was.map_or(self.now, |pause| pause.since);
        let until = was.map_or(until, |pause| pause.until.max(until));
        process.paused = Some(Pause { since, until });
        let number = process.number;
        if was.is_none() {
            self.fact(history::Event::WorkerPaused { process: number });
        }
        self.end_outages_at(until);
    }

    /// What reached it meanwhile comes in now; whether before or after its own overdue timers hangs on the seed.
    pub(super) fn resume(&mut self, at: ProcessAt) {
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

    /// A process dies with an effect that it was about to perform.
    pub(super) fn crash_at_effect(&mut self, at: ProcessAt, restart_after_us: Option<u64>, nth: u32) {
        if let Some(after) = restart_after_us {
            let slot = self.processes[at].slot;
            self.push(self.now + after, Event::Start { slot });
        }
        if nth > 0 {
            self.coverage.mark(Mark::CrashBetweenEffects);
        }
        self.crash(at, None, false);
    }

    fn change_clock(&mut self, worker: u8, rate: Rate) -> bool {
        let Some(at) = self.victim(worker).filter(|at| self.processes[*at].clock.rate() != rate) else { return false };
        self.coverage.mark(Mark::ClockRateChanged);
        self.set_rate(at, rate);
        true
    }

    /// What was planned by the old rate is planned anew.
    fn set_rate(&mut self, at: ProcessAt, rate: Rate) {
        let process = &mut self.processes[at];
        process.clock.set_rate(self.now, rate);
        let fact = history::Event::ClockChanged { process: process.number, steady: rate.is_steady() };
        self.fact(fact);
        if self.processes[at].paused.is_none() {
            self.settle_overdue(at);
        }
    }

    /// A clock far beyond the margins makes its worker useless; a whole one is within them.
    fn heal_clock(&mut self, at: ProcessAt) {
        if !self.processes[at].clock.rate().is_steady() {
            self.set_rate(at, Rate::TRUE);
        }
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

    /// A slot is whole from now on: links, processes, at least one of them.
    pub(super) fn heal_slot(&mut self, slot: usize) {
        self.slots[slot].core = true;
        self.slots[slot].troubles.next = Default::default();
        self.heal_links(slot, u64::MAX);
        for at in self.of_slot(slot) {
            self.processes[at].dies_after = None;
            self.heal_clock(at);
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
            let way = WAYS_FOR_EVER[self.number_of(&[slot as u64, 0xca7]) as usize % WAYS_FOR_EVER.len()];
            self.cut_store(slot, Cut { way, loud: false, until: u64::MAX });
        }
    }
}
