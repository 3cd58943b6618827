//! What a worker of the original does beside its main loop: heartbeat, recovery of the rows of others, sweep.

use super::redis::{RedisOp, RedisReply};
use super::store::{StoreOp, StoreReply};
use super::worker::{Thread, With};
use super::world::World;
use super::{ProcessAt, RowAt};

/// `runHeartbeat`: it never ends, and every error is only logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Heart {
    #[default]
    Registers,
    Beats,
    KeepsSet,
    Sleeps,
}

/// `recoverAbandonedRows`.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    began_us: u64,
    /// Still to be looked at.
    instances: Vec<ProcessAt>,
    state: ScanState,
}

#[derive(Debug, Clone, Default)]
enum ScanState {
    #[default]
    ReadsRegistry,
    AsksFor(ProcessAt),
    ReadsSet(ProcessAt),
    Resets(ProcessAt, Vec<RowAt>),
    DeletesSet(ProcessAt),
    StrikesOff,
    Sleeps,
}

impl Scan {
    /// It has read this row in a set and is to reset it.
    pub(super) fn resets(&self, row: RowAt) -> bool {
        matches!(&self.state, ScanState::Resets(_, rows) if rows.contains(&row))
    }
}

/// `sweepUnsummarizedBatches`.
#[derive(Debug, Clone, Default)]
pub(super) struct Sweep {
    batches: Vec<usize>,
    looks: bool,
}

impl World<'_> {
    pub(super) fn begin_heart(&mut self, at: ProcessAt) {
        self.processes[at].heart = Heart::Registers;
        self.ask_redis(at, Thread::Heart, RedisOp::Register);
    }

    pub(super) fn step_heart(&mut self, at: ProcessAt) {
        let next = match self.processes[at].heart {
            Heart::Registers => Heart::Beats,
            Heart::Beats => Heart::KeepsSet,
            Heart::KeepsSet => Heart::Sleeps,
            Heart::Sleeps => Heart::Registers,
        };
        self.processes[at].heart = next;
        match next {
            Heart::Registers => self.ask_redis(at, Thread::Heart, RedisOp::Register),
            Heart::Beats => self.ask_redis(at, Thread::Heart, RedisOp::Beat),
            Heart::KeepsSet => self.ask_redis(at, Thread::Heart, RedisOp::KeepSet),
            // `heartbeatInterval`.
            Heart::Sleeps => self.sleep(at, Thread::Heart, self.schedule.options.ttl_us / 2),
        }
    }

    pub(super) fn begin_scan(&mut self, at: ProcessAt) {
        self.processes[at].scan = Scan { began_us: self.now, ..Scan::default() };
        self.ask_redis(at, Thread::Recovery, RedisOp::Registry);
    }

    pub(super) fn scan_is_cancelled(&mut self, at: ProcessAt) {
        self.processes[at].scan.state = ScanState::Sleeps;
    }

    /// No step is fenced: neither against the instance, should it live, nor against another recoverer.
    pub(super) fn step_scan(&mut self, at: ProcessAt, with: With) {
        let scan = &mut self.processes[at].scan;
        match (scan.state.clone(), with) {
            (ScanState::Sleeps, _) => self.begin_scan(at),
            (ScanState::ReadsRegistry, With::Redis(Ok(RedisReply::Members(members)))) => {
                scan.instances = members.into_iter().filter(|member| *member != at).collect();
                self.scan_next(at);
            }
            (ScanState::AsksFor(of), With::Redis(Ok(RedisReply::Exists(false)))) => {
                scan.state = ScanState::ReadsSet(of);
                self.ask_redis(at, Thread::Recovery, RedisOp::Set(of));
            }
            (ScanState::ReadsSet(of), With::Redis(Ok(RedisReply::Members(rows)))) if !rows.is_empty() => {
                scan.state = ScanState::Resets(of, rows.clone());
                self.ask_store(at, Thread::Recovery, StoreOp::Reset { rows, of });
            }
            (ScanState::ReadsSet(of), With::Redis(Ok(_)))
            | (ScanState::Resets(of, _), With::Store(Ok(StoreReply::Reset { .. }))) => {
                scan.state = ScanState::DeletesSet(of);
                self.ask_redis(at, Thread::Recovery, RedisOp::DeleteSet(of));
            }
            (ScanState::DeletesSet(of), _) => {
                scan.state = ScanState::StrikesOff;
                self.ask_redis(at, Thread::Recovery, RedisOp::StrikeOff(of));
            }
            // Struck off, alive, or an error that is logged: the next one.
            _ => self.scan_next(at),
        }
    }

    fn scan_next(&mut self, at: ProcessAt) {
        let scan = &mut self.processes[at].scan;
        if scan.instances.is_empty() {
            scan.state = ScanState::Sleeps;
            // `recoveryInterval`.
            let next = scan.began_us + self.schedule.options.ttl_us;
            self.sleep(at, Thread::Recovery, next.saturating_sub(self.now));
        } else {
            let of = scan.instances.remove(0);
            scan.state = ScanState::AsksFor(of);
            self.ask_redis(at, Thread::Recovery, RedisOp::Beats(of));
        }
    }

    /// Every five to ten minutes: five to ten TTLs.
    pub(super) fn begin_sweep(&mut self, at: ProcessAt) {
        self.processes[at].sweep = Sweep::default();
        let ttl = self.schedule.options.ttl_us;
        let draw = self.number_of(&[at as u64, self.processes[at].numbers[Thread::Sweep as usize], 0x53ee9]);
        self.sleep(at, Thread::Sweep, 5 * ttl + draw % (5 * ttl));
    }

    pub(super) fn step_sweep(&mut self, at: ProcessAt, with: With) {
        let sweep = &mut self.processes[at].sweep;
        if !sweep.looks {
            sweep.looks = true;
            self.ask_store(at, Thread::Sweep, StoreOp::Unsummarised);
            return;
        }
        if let With::Store(Ok(StoreReply::Batches(batches))) = with {
            sweep.batches = batches;
        }
        match sweep.batches.pop() {
            Some(batch) => self.ask_store(at, Thread::Sweep, StoreOp::Summarise { batch }),
            None => self.begin_sweep(at),
        }
    }
}
