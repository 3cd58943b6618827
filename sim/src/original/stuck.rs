//! What nobody will ever finish, as the whole state of a run says.

use super::checks::CONSERVATION;
use super::facts::Fact;
use super::redis::RedisOp;
use super::store::StoreOp;
use super::worker::Process;
use super::world::{Event, World};
use super::{ProcessAt, RowAt};
use crate::rows::Nature;

impl World<'_> {
    pub(super) fn look(&mut self) {
        self.expire_keys();
        let rows: Vec<RowAt> = self.store.in_progress().collect();
        for row in rows {
            if self.is_stuck(row) {
                self.tell_stuck(row);
            }
        }
        self.push(self.now + self.schedule.options.ttl_us, Event::Look);
    }

    fn tell_stuck(&mut self, row: RowAt) {
        let registered = self.redis.trackers(row).any(|of| self.redis.is_registered(of));
        self.fact(Fact::Stuck { row, registered });
    }

    fn is_in_hand(&self, row: RowAt) -> bool {
        self.processes.iter().any(|process| process.alive && process.in_hand().contains(&row))
    }

    /// Nobody has it in hand, no message says anything of it, and no set that will be looked at has it. A live worker
    /// registers again and again, so its set counts.
    pub(super) fn is_stuck(&self, row: RowAt) -> bool {
        let will_be_seen = |of: ProcessAt| self.processes[of].alive || self.redis.is_registered(of);
        let under_way = |event: &Event| match event {
            Event::ToStore { op: StoreOp::Write { row: at, .. }, .. } => *at == row,
            Event::ToStore { op: StoreOp::Reset { rows, .. }, .. } => rows.contains(&row),
            Event::ToRedis { op: RedisOp::Track(at), .. } => *at == row,
            _ => false,
        };
        !self.is_in_hand(row)
            && !self.redis.trackers(row).any(will_be_seen)
            && !self.events.iter().flatten().any(under_way)
            && !self.processes.iter().any(|process| process.alive && process.is_recovering(row))
    }

    /// The end has come, and batches are open. What a living worker has in its set, and no more in hand, is stuck for as
    /// long as it lives.
    pub(super) fn still_open(&mut self) {
        let rows: Vec<RowAt> = self.store.in_progress().collect();
        for row in rows {
            if !self.is_in_hand(row) {
                self.tell_stuck(row);
            }
        }
        if self.checks.has(CONSERVATION) {
            return;
        }
        for batch in 0..self.plan_of.len() {
            if self.store.recorded(batch).is_none() {
                let running = self.processes.iter().filter(|process| process.alive).filter_map(Process::runs);
                let hangs = running.into_iter().any(|row| self.plan_of_row(row).nature == Nature::Hangs);
                self.fact(Fact::Open { batch, hangs });
            }
        }
    }
}
