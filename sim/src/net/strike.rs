//! Faults taking effect, and outages running out.

use std::time::Duration;

use fencepost_core::judge::JudgeInput;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::worker::{RunKey, WorkerInput};
use fencepost_model::history::{self, Link};
use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::NodeId;

use super::coverage::NetMark;
use super::fault::{NetFault, Refusal, Server};
use super::world::{Action, ProcessAt, World};
use crate::fault::{WAYS_FOR_EVER, Way};

impl World {
    pub(super) fn perform(&mut self, action: Action) {
        self.say(|| format!("{action:?}"));
        match action {
            Action::Fault(at) => {
                let fault = self.schedule.faults[at].1;
                self.say(|| format!("  {fault:?}"));
                self.note(7, at as u64, 0);
                let works = self.store.model.has_open_batch() && self.strike(fault);
                self.coverage.mark(if works { NetMark::FaultsOnWork } else { NetMark::FaultsOnNothing });
            }
            Action::OutagesEnd => self.end_outages(self.now()),
            Action::Submit(at) => {
                if self.submit(at) && self.healed {
                    // Workers that leave when nothing is open may have left before this submit.
                    (0..self.workers()).for_each(|slot| self.start_if_none(slot));
                }
            }
            Action::Heal => self.heal(),
            Action::Start { slot } => self.start_if_none(slot),
            Action::RowKills { process, key } => self.row_kills(process, key),
            Action::DeathReported { process, identity } => self.tell_death(process, identity),
            Action::RedisLoops => self.loop_redis_for_ever(),
            Action::Look => {}
        }
    }

    /// Returns whether there was anything to strike.
    fn strike(&mut self, fault: NetFault) -> bool {
        let now = self.now();
        match fault {
            NetFault::Kill { worker, restart_after_us, reported } => {
                let slot = self.slot(worker);
                if let Some(after) = restart_after_us {
                    self.plan(now + after, Action::Start { slot });
                }
                let Some(at) = self.slots[slot].current else { return false };
                self.coverage.mark(NetMark::Kills);
                self.kill(at, None, reported);
            }
            NetFault::Pause { worker, for_us } => {
                let slot = self.slot(worker);
                let Some(at) = self.slots[slot].current else { return false };
                self.pause(at, now + for_us);
            }
            NetFault::Twin { worker } => return self.twin(worker),
            NetFault::Stop { worker, restart_after_us } => {
                let slot = self.slot(worker);
                if let Some(after) = restart_after_us {
                    self.plan(now + after, Action::Start { slot });
                }
                let Some(at) = self.slots[slot].current else { return false };
                return self.stop(at);
            }
            NetFault::Cut { worker, server, way, for_us } => {
                let slot = self.slot(worker);
                self.cut(slot, server, way, now + for_us);
            }
            NetFault::BadNetwork { loss_per_mille, latency_us_max, for_us } => {
                self.bad_network(loss_per_mille, latency_us_max, now + for_us);
            }
            NetFault::StoreRestart { for_us } => self.store_goes(now + for_us, NetMark::StoreRestarted),
            NetFault::StorePause { for_us } => self.store_goes(now + for_us, NetMark::StorePaused),
            NetFault::StoreRefuses { for_us } => {
                self.store_away(|world| prolong(&mut world.store.refuses, now + for_us));
                self.plan(now + for_us, Action::OutagesEnd);
            }
            NetFault::LoseReplies { worker, count } => {
                let slot = self.slot(worker);
                self.slots[slot].lose_replies += u32::from(count);
            }
            NetFault::StoreClockJump { by_us } => {
                self.store.clock.jump(now, by_us);
                self.fact(&history::Event::StoreClockJumped { by: by_us });
            }
            NetFault::RedisRestart { keeps_data, for_us } => self.redis_goes_down(keeps_data, now + for_us),
            NetFault::RedisPause { for_us } => self.redis_stands_still(now + for_us),
            NetFault::RedisFlush => {
                self.redis.model.flush();
                self.redis.forget_scripts();
            }
            NetFault::RedisRefuses { why, for_us } => self.redis_refuses(why, now + for_us),
            NetFault::RedisHangsUp => {
                self.coverage.mark(NetMark::RedisHungUp);
                self.redis.close_connections();
            }
            NetFault::Hold { batch, for_us } => return self.hold(batch, for_us),
            NetFault::Abort { batch } => return self.abort(batch),
        }
        true
    }

    fn slot(&self, worker: u8) -> usize {
        usize::from(worker) % self.workers()
    }

    /// There is one place for twins.
    fn twin(&mut self, worker: u8) -> bool {
        let (spare, of) = (self.workers(), self.slot(worker));
        if self.slots[spare].current.is_some() || self.healed {
            return false;
        }
        self.coverage.mark(NetMark::Twins);
        self.slots[spare].twin_of = Some(of);
        self.start_if_none(spare);
        true
    }

    fn redis_goes_down(&mut self, keeps_data: bool, until: u64) {
        let longest = self.redis.down.map_or(until, |(before, _)| before.max(until));
        self.redis.down = Some((longest, keeps_data));
        self.redis.since = self.now();
        self.on_redis(|handle, node| handle.kill(node));
        self.plan_end(until);
    }

    fn redis_stands_still(&mut self, until: u64) {
        prolong(&mut self.redis.paused, until);
        self.redis.since = self.now();
        self.on_redis(|handle, node| handle.pause(node));
        self.plan_end(until);
    }

    fn redis_refuses(&mut self, why: Refusal, until: u64) {
        let longest = self.redis.refuses.map_or(until, |(_, before)| before.max(until));
        self.redis.refuses = Some((why, longest));
        self.redis.since = self.now();
        self.plan_end(until);
    }

    /// It restarts empty, again and again, twice per ttl.
    fn loop_redis_for_ever(&mut self) {
        let (now, ttl_us) = (self.now(), self.schedule.options.ttl_us);
        self.redis_goes_down(false, now + ttl_us / 8);
        self.plan(now + ttl_us / 2, Action::RedisLoops);
    }

    /// In about half of the schedules Redis stays broken for ever, one way or another: it is optional.
    fn break_redis(&mut self, core: &[usize]) {
        if !self.schedule.options.liveness {
            return;
        }
        let drawn = self.number_of(&[0x3ed15]);
        let pick = |count: usize| (drawn >> 8) as usize % count;
        match drawn % 10 {
            0 => {
                self.coverage.mark(NetMark::RedisRefusesForEver);
                let why = [Refusal::OutOfMemory, Refusal::CannotSave, Refusal::Loading, Refusal::Replica];
                self.redis_refuses(why[pick(why.len())], u64::MAX);
            }
            1 => {
                self.coverage.mark(NetMark::RedisPausedForEver);
                self.redis_stands_still(u64::MAX);
            }
            2 => {
                self.coverage.mark(NetMark::RedisDownForEver);
                self.redis_goes_down(false, u64::MAX);
            }
            3 => {
                self.coverage.mark(NetMark::RedisLoopsForEver);
                self.loop_redis_for_ever();
            }
            4 => {
                self.coverage.mark(NetMark::RedisCutForEver);
                let ways = [Way::Both, Way::Requests, Way::Replies];
                for slot in core {
                    self.cut(*slot, Server::Redis, ways[pick(ways.len())], u64::MAX);
                }
            }
            _ => {}
        }
    }

    fn on_redis(&self, act: impl FnOnce(&Handle, NodeId)) {
        if let Some(node) = self.redis.node {
            act(&Handle::current(), node);
        }
    }

    fn on_store(&self, act: impl FnOnce(&Handle, NodeId)) {
        if let Some(node) = self.store.node {
            act(&Handle::current(), node);
        }
    }

    fn on_slot(&self, slot: usize, act: impl FnOnce(&Handle, NodeId)) {
        if let Some(node) = self.slots[slot].node {
            act(&Handle::current(), node);
        }
    }

    /// Starts a process unless one lives in the slot.
    pub(super) fn start_if_none(&mut self, slot: usize) {
        let wanted = !self.healed || self.slots[slot].core;
        if self.slots[slot].current.is_none() && wanted {
            self.begin_process(slot);
            // Without the kill its old sockets stay.
            self.on_slot(slot, |handle, node| {
                handle.kill(node);
                handle.restart(node);
            });
        }
    }

    fn kill(&mut self, at: ProcessAt, by_row: Option<(fencepost_core::BatchId, u64)>, reported: bool) {
        self.on_slot(self.processes[at].slot, |handle, node| handle.kill(node));
        self.crashed(at, by_row, reported);
    }

    fn row_kills(&mut self, at: ProcessAt, key: RunKey) {
        let process = &self.processes[at];
        if !process.alive {
            return;
        }
        let slot = process.slot;
        self.coverage.mark(NetMark::KilledByRow);
        let supervised = self.schedule.options.supervised;
        self.kill(at, Some((key.batch, key.line)), supervised);
        let restart_at = self.now() + self.schedule.options.restart_us;
        self.plan(restart_at, Action::Start { slot });
    }

    fn stop(&mut self, at: ProcessAt) -> bool {
        let process = &mut self.processes[at];
        let Some(inputs) = process.inputs.as_ref().filter(|_| !process.stopping) else { return false };
        // It hears of it when it goes on, if it stands still.
        let _ = inputs.send(WorkerInput::Stop);
        process.stopping = true;
        let process = process.number;
        self.fact(&history::Event::WorkerStopping { process });
        true
    }

    fn tell_death(&mut self, at: ProcessAt, identity: ProcessIdentity) {
        if let Some(judging) = &self.processes[at].judging {
            let _ = judging.send(JudgeInput::ProcessEnded(identity));
        }
    }

    pub(super) fn pause(&mut self, at: ProcessAt, until: u64) {
        let now = self.now();
        self.on_slot(self.processes[at].slot, |handle, node| handle.pause(node));
        let process = &mut self.processes[at];
        let was = process.paused;
        let since = was.map_or(now, |(since, _)| since);
        let until = was.map_or(until, |(_, before)| before.max(until));
        process.paused = Some((since, until));
        let process = process.number;
        if was.is_none() {
            self.fact(&history::Event::WorkerPaused { process });
        }
        self.plan_end(until);
    }

    fn resume(&mut self, at: ProcessAt) {
        let now = self.now();
        let process = &mut self.processes[at];
        let Some((since, _)) = process.paused.take() else { return };
        process.awake_since = now;
        let (number, slot) = (process.number, process.slot);
        if now - since > self.schedule.options.ttl_us {
            self.coverage.mark(NetMark::PausedBeyondTtl);
        }
        self.fact(&history::Event::WorkerResumed { process: number });
        self.on_slot(slot, |handle, node| handle.resume(node));
    }

    /// An outage that ends never is not planned.
    fn plan_end(&mut self, at: u64) {
        if at < u64::MAX {
            self.plan(at, Action::OutagesEnd);
        }
    }

    pub(super) fn cut(&mut self, slot: usize, server: Server, way: Way, until: u64) {
        let was = *self.slots[slot].cut_of(server);
        let (way, until) = match was {
            Some((before, longer)) => (if before == way { way } else { Way::Both }, until.max(longer)),
            None => (way, until),
        };
        *self.slots[slot].cut_of(server) = Some((way, until));
        if let Some((was, _)) = was {
            self.set_clogs(slot, server, was, false);
        }
        self.set_clogs(slot, server, way, true);
        self.link_changes(slot, server);
        if server == Server::Store && way != Way::Both {
            self.coverage.mark(NetMark::StoreCutOneWay);
        }
        if let Some(at) = self.slots[slot].current.filter(|_| was.is_none()) {
            self.link_trouble(at, link_of(server), true);
        }
        self.plan_end(until);
    }

    fn link_changes(&mut self, slot: usize, server: Server) {
        if server == Server::Redis {
            self.slots[slot].redis_link_since = self.now();
        }
    }

    fn set_clogs(&self, slot: usize, server: Server, way: Way, clogged: bool) {
        let server = match server {
            Server::Store => self.store.node,
            Server::Redis => self.redis.node,
        };
        let (Some(worker), Some(server)) = (self.slots[slot].node, server) else { return };
        let net = NetSim::current();
        let set = |from, to| if clogged { net.clog_link(from, to) } else { net.unclog_link(from, to) };
        if way != Way::Replies {
            set(worker, server);
        }
        if way != Way::Requests {
            set(server, worker);
        }
    }

    /// Ends a cut that has run out.
    fn heal_link(&mut self, slot: usize, server: Server, upto: u64) {
        let Some((way, _)) = self.slots[slot].cut_of(server).take_if(|(_, until)| *until <= upto) else { return };
        self.set_clogs(slot, server, way, false);
        self.link_changes(slot, server);
        if let Some(at) = self.slots[slot].current {
            self.link_trouble(at, link_of(server), false);
        }
    }

    fn bad_network(&mut self, loss_per_mille: u16, latency_us_max: u64, until: u64) {
        self.coverage.mark(NetMark::BadNetwork);
        NetSim::current().update_config(|config| {
            config.packet_loss_rate = f64::from(loss_per_mille) / 1000.0;
            config.send_latency.end = Duration::from_micros(latency_us_max).max(config.send_latency.end);
        });
        self.network_since = self.now();
        let was_bad = self.bad_network.is_some();
        prolong(&mut self.bad_network, until);
        if !was_bad {
            for at in self.living() {
                self.links_trouble(at, true);
            }
        }
        self.plan(until, Action::OutagesEnd);
    }

    fn mend_network(&mut self, upto: u64) {
        if self.bad_network.take_if(|until| *until <= upto).is_none() {
            return;
        }
        let usual = usual_latency(self.schedule.options.latency_us_min, self.schedule.options.latency_us_max);
        NetSim::current().update_config(|config| {
            config.packet_loss_rate = 0.0;
            config.send_latency = usual;
        });
        self.network_since = self.now();
        for at in self.living() {
            self.links_trouble(at, false);
        }
    }

    fn living(&self) -> Vec<ProcessAt> {
        (0..self.processes.len()).filter(|at| self.processes[*at].alive).collect()
    }

    /// Whether messages between this process and that server may be lost.
    pub(super) fn loses_messages(&mut self, at: ProcessAt, server: Server) -> bool {
        let slot = self.processes[at].slot;
        let cut = *self.slots[slot].cut_of(server);
        cut.is_some() || self.bad_network.is_some()
    }

    fn store_goes(&mut self, until: u64, mark: NetMark) {
        if self.rows_run() {
            self.coverage.mark(mark);
        }
        if mark == NetMark::StoreRestarted {
            self.on_store(|handle, node| handle.kill(node));
            self.store_away(|world| prolong(&mut world.store.down, until));
        } else {
            self.on_store(|handle, node| handle.pause(node));
            self.store_away(|world| prolong(&mut world.store.paused, until));
        }
        self.plan(until, Action::OutagesEnd);
    }

    fn store_away(&mut self, goes: impl FnOnce(&mut Self)) {
        let was = self.store.is_away();
        goes(self);
        if !was {
            self.fact(&history::Event::StoreAway);
        }
    }

    /// Ends whatever has run out by then.
    pub(super) fn end_outages(&mut self, upto: u64) {
        self.bring_servers_back(upto);
        self.mend_network(upto);
        for slot in 0..self.slots.len() {
            self.heal_link(slot, Server::Store, upto);
            self.heal_link(slot, Server::Redis, upto);
        }
        for at in self.living() {
            if self.processes[at].paused.is_some_and(|(_, until)| until <= upto) {
                self.resume(at);
            }
        }
        self.end_holds(upto);
    }

    fn bring_servers_back(&mut self, upto: u64) {
        let was_away = self.store.is_away();
        if self.store.down.take_if(|until| *until <= upto).is_some() {
            self.on_store(|handle, node| handle.restart(node));
            // A server that starts does not stand still.
            self.store.paused = None;
        }
        if self.store.paused.take_if(|until| *until <= upto).is_some() && self.store.down.is_none() {
            self.on_store(|handle, node| handle.resume(node));
        }
        self.store.refuses.take_if(|until| *until <= upto);
        if was_away && !self.store.is_away() {
            self.fact(&history::Event::StoreBack);
        }
        self.bring_redis_back(upto);
    }

    fn bring_redis_back(&mut self, upto: u64) {
        let now = self.now();
        let redis_now = self.redis.clock.now(now);
        if let Some((_, keeps_data)) = self.redis.down.take_if(|(until, _)| *until <= upto) {
            if keeps_data {
                self.coverage.mark(NetMark::RedisRestartedWithData);
                self.redis.model.restart_with_data(redis_now);
            } else {
                self.coverage.mark(NetMark::RedisRestartedEmpty);
                self.redis.model.restart_empty(redis_now);
            }
            self.redis.forget_scripts();
            self.on_redis(|handle, node| handle.restart(node));
            self.redis.paused = None;
            self.redis.since = now;
        }
        if self.redis.paused.take_if(|until| *until <= upto).is_some() {
            if self.redis.down.is_none() {
                self.on_redis(|handle, node| handle.resume(node));
            }
            self.redis.since = now;
        }
        if self.redis.refuses.take_if(|(_, until)| *until <= upto).is_some() {
            self.redis.since = now;
        }
    }

    /// A slot is whole from now on: links, processes, at least one of them.
    pub(super) fn heal_slot(&mut self, slot: usize) {
        self.slots[slot].core = true;
        self.slots[slot].lose_replies = 0;
        self.heal_link(slot, Server::Store, u64::MAX);
        self.heal_link(slot, Server::Redis, u64::MAX);
        if let Some(at) = self.slots[slot].current {
            self.resume(at);
        }
        self.start_if_none(slot);
    }

    /// A slot stays broken for ever, one way or another.
    pub(super) fn break_slot(&mut self, slot: usize) {
        let how = self.number_of(&[slot as u64, 0xbad]) % 4;
        match (how, self.slots[slot].current) {
            (0, Some(at)) => self.kill(at, None, false),
            (1, Some(at)) => self.pause(at, u64::MAX),
            (2, _) => {
                let way = WAYS_FOR_EVER[self.number_of(&[slot as u64, 0xca7]) as usize % WAYS_FOR_EVER.len()];
                self.cut(slot, Server::Store, way, u64::MAX);
            }
            _ => {}
        }
    }

    pub(super) fn heal(&mut self) {
        self.bring_servers_back(u64::MAX);
        self.mend_network(u64::MAX);
        let core = self.core();
        for slot in (0..self.slots.len()).filter(|slot| !core.contains(slot)) {
            self.break_slot(slot);
        }
        self.healed = true;
        core.iter().for_each(|slot| self.heal_slot(*slot));
        self.break_redis(&core);
        self.end_holds(u64::MAX);
        self.deadline = self.now() + self.progress_bound_us();
        self.fact(&history::Event::FaultsStopped);
        self.look_for_end();
        self.news.notify_one();
    }
}

/// An outage lasts at least until then: a longer one goes on.
fn prolong(outage: &mut Option<u64>, until: u64) {
    *outage = Some(outage.map_or(until, |before| before.max(until)));
}

const fn link_of(server: Server) -> Link {
    match server {
        Server::Store => Link::Store,
        Server::Redis => Link::Liveness,
    }
}

/// How long a message is under way.
pub(super) fn usual_latency(min_us: u64, max_us: u64) -> std::ops::Range<Duration> {
    Duration::from_micros(min_us)..Duration::from_micros(max_us + 1)
}
