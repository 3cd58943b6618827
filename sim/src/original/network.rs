//! Messages between workers, store and Redis, and what may happen to them on their way.

use super::ProcessAt;
use super::facts::Fact;
use super::redis::{RedisOp, RedisReply};
use super::store::{StoreOp, StoreReply};
use super::worker::{Thread, With};
use super::world::{Event, Resume, World};
use crate::fault::{Away, Way};

impl World<'_> {
    /// Sends a request to the store. Over TCP a silent cut delays, a loud one breaks the connection.
    pub(super) fn ask_store(&mut self, process: ProcessAt, thread: Thread, op: StoreOp) {
        let number = self.next_number(process, thread);
        let way = self.way_us(process, thread, number, 1);
        let slot = &mut self.slots[self.processes[process].slot];
        let mut arrives = self.now + way;
        if let Some(cut) = slot.cut.filter(|cut| cut.way != Way::Replies) {
            if cut.loud {
                self.fail_store(process, thread, number, &op);
                return;
            }
            arrives = arrives.max(cut.until);
        }
        if slot.delay.0 > 0 {
            slot.delay.0 -= 1;
            arrives += slot.delay.1;
        }
        self.push(arrives, Event::ToStore { process, thread, number, op });
    }

    /// It was not done, and the connection is gone.
    fn fail_store(&mut self, process: ProcessAt, thread: Thread, number: u64, op: &StoreOp) {
        if matches!(op, StoreOp::Fetch { .. } | StoreOp::Commit) {
            self.store.roll_back(process);
        }
        self.answer(process, thread, number, With::Store(Err(())));
    }

    pub(super) fn store_arrives(&mut self, process: ProcessAt, thread: Thread, number: u64, op: StoreOp) {
        match self.store_away {
            Some((Away::Stalls, until)) => {
                self.push(until.max(self.now + 1), Event::ToStore { process, thread, number, op });
                return;
            }
            Some((Away::Refuses, _)) => {
                self.fail_store(process, thread, number, &op);
                return;
            }
            None => {}
        }
        let waits = self.processes[process].alive && self.processes[process].waits_for(thread, number);
        if matches!(op, StoreOp::Fetch { .. }) && !waits {
            // Its connection is closed: what it locks is free at once.
            return;
        }
        let Some(reply) = self.store.apply(process, &op) else {
            let later = self.now + self.schedule.options.latency_us_max.max(1);
            self.push(later, Event::ToStore { process, thread, number, op });
            return;
        };
        self.tell(process, &reply);
        let slot = &mut self.slots[self.processes[process].slot];
        let reply = With::Store(if reply == StoreReply::RolledBack { Err(()) } else { Ok(reply) });
        if slot.lose_replies > 0 {
            slot.lose_replies -= 1;
            self.lose_reply(process, thread, number);
        } else if let Some(cut) = slot.cut.filter(|cut| cut.way != Way::Requests) {
            if cut.loud {
                self.lose_reply(process, thread, number);
            } else {
                self.push(cut.until, Event::Resume(Resume { process, thread, number, with: reply }));
            }
        } else {
            self.answer(process, thread, number, reply);
        }
    }

    /// It was done; the connection breaks before the answer is there.
    fn lose_reply(&mut self, process: ProcessAt, thread: Thread, number: u64) {
        if thread == Thread::Loop {
            self.store.roll_back(process);
        }
        self.answer(process, thread, number, With::Store(Err(())));
    }

    fn answer(&mut self, process: ProcessAt, thread: Thread, number: u64, with: With) {
        let way = self.way_us(process, thread, number, 2);
        self.push(self.now + way, Event::Resume(Resume { process, thread, number, with }));
    }

    /// Tells the checkers what the store did.
    fn tell(&mut self, process: ProcessAt, reply: &StoreReply) {
        match reply {
            StoreReply::Claimed(rows) => {
                rows.iter().for_each(|row| self.fact(Fact::Claimed { process, row: *row }));
            }
            StoreReply::Written { row, before, status, fallback } => {
                let batch = self.store.batch_of(*row);
                let differ = |recorded| recorded != self.store.count(batch);
                let counts_differ = before != status && self.store.recorded(batch).is_some_and(differ);
                let (row, before, status, fallback) = (*row, *before, *status, *fallback);
                self.fact(Fact::Written { process, row, before, status, fallback, counts_differ });
            }
            StoreReply::Reset { rows, of } => {
                self.expire_keys();
                let beats = self.redis.beats(*of);
                for row in rows {
                    self.fact(Fact::Reset { row: *row, of: *of, by: process, beats });
                }
            }
            _ => {}
        }
    }

    pub(super) fn ask_redis(&mut self, process: ProcessAt, thread: Thread, op: RedisOp) {
        let number = self.next_number(process, thread);
        let arrives = self.now + self.way_us(process, thread, number, 3);
        self.push(arrives, Event::ToRedis { process, thread, number, op, sent_us: self.now });
    }

    /// The client tries a command four times with three seconds' patience: a fifth of the TTL; where it is refused, it
    /// gives up after a second.
    pub(super) fn redis_arrives(&mut self, process: ProcessAt, thread: Thread, number: u64, op: RedisOp, sent_us: u64) {
        let ttl = self.schedule.options.ttl_us;
        let cut = self.slots[self.processes[process].slot].redis_cut_until.map(|until| (until, ttl / 5));
        let away = self.redis_away.map(|(how, until)| (until, if how == Away::Refuses { ttl / 60 } else { ttl / 5 }));
        if let Some((until, patience)) = cut.or(away) {
            let dead = !self.processes[process].alive;
            if !dead && until <= sent_us + patience {
                let back = until.max(self.now + 1);
                self.push(back, Event::ToRedis { process, thread, number, op, sent_us });
            } else {
                let with = With::Redis(Err(()));
                let at = (sent_us + patience).max(self.now);
                self.push(at, Event::Resume(Resume { process, thread, number, with }));
            }
            return;
        }
        self.expire_keys();
        let reply: RedisReply = self.redis.apply(self.now, process, &op, ttl);
        self.fact(Fact::Redis { by: process, op });
        let way = self.way_us(process, thread, number, 4);
        let with = With::Redis(Ok(reply));
        self.push(self.now + way, Event::Resume(Resume { process, thread, number, with }));
    }

    pub(super) fn expire_keys(&mut self) {
        for expired in self.redis.expire(self.now) {
            let rows = expired.rows.into_iter().collect();
            self.fact(Fact::SetExpired { of: expired.of, at_us: expired.at_us, rows });
        }
    }

    /// Hangs on the message, and on nothing that happened before.
    fn way_us(&self, process: ProcessAt, thread: Thread, number: u64, leg: u64) -> u64 {
        let options = &self.schedule.options;
        let draw = self.number_of(&[process as u64, thread as u64, number, leg]);
        if draw % 1000 < options.slow_messages_per_mille {
            return (draw >> 10) % (options.request_timeout_us.min(options.ttl_us / 8) / 3).max(1);
        }
        options.latency_us_min + (draw >> 10) % (options.latency_us_max - options.latency_us_min + 1)
    }
}
