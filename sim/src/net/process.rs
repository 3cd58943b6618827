//! Workers' processes as the world knows them: where they run, whether they live, what keeps them from the servers.

use std::collections::BTreeSet;
use std::sync::Arc;

use fencepost_core::judge::JudgeInput;
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::{ProcessIdentity, StoreRequest};
use fencepost_core::worker::{ExitReason, RunKey, WorkerInput};
use fencepost_core::{BatchId, Instant, LeaseId};
use fencepost_model::clock::{MonotonicClock, Rate};
use fencepost_model::history::{self, Link};
use madsim::task::NodeId;
use tokio::sync::mpsc::UnboundedSender;

use super::coverage::NetMark;
use super::fault::Server;
use super::world::{Action, ProcessAt, World};
use crate::fault::Way;

/// A worker's place: a node of the network, and the processes that ran there.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) node: Option<NodeId>,
    pub(super) incarnations: u32,
    /// The worker whose name is used here, where it is another's.
    pub(super) twin_of: Option<usize>,
    /// The process that runs there now.
    pub(super) current: Option<ProcessAt>,
    /// So many requests that arrive at the store lose their replies.
    pub(super) lose_replies: u32,
    pub(super) store_cut: Option<(Way, u64)>,
    pub(super) redis_cut: Option<(Way, u64)>,
    /// When the link to Redis was last cut or healed.
    pub(super) redis_link_since: u64,
    /// After the faults have stopped: whole, or as broken as it was.
    pub(super) core: bool,
}

impl Slot {
    /// How its link to a server is cut, and until when.
    pub(super) const fn cut_of(&mut self, server: Server) -> &mut Option<(Way, u64)> {
        match server {
            Server::Store => &mut self.store_cut,
            Server::Redis => &mut self.redis_cut,
        }
    }
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: history::Process,
    pub(super) slot: usize,
    pub(super) seed: u64,
    pub(super) name: String,
    pub(super) machine: String,
    pub(super) identity: Option<ProcessIdentity>,
    pub(super) clock: Arc<MonotonicClock>,
    /// Neither dead nor left.
    pub(super) alive: bool,
    pub(super) stopping: bool,
    /// Stands still: since when, until when.
    pub(super) paused: Option<(u64, u64)>,
    /// Since when it runs without a standstill.
    pub(super) awake_since: u64,
    pub(super) running: BTreeSet<RunKey>,
    /// The lease whose choice was told to the checkers.
    chosen: Option<LeaseId>,
    /// Tells it to stop.
    pub(super) inputs: Option<UnboundedSender<WorkerInput>>,
    /// Tells its judge of deaths.
    pub(super) judging: Option<UnboundedSender<JudgeInput>>,
    /// Requests under way, for coverage.
    pub(super) claims_under_way: u32,
    pub(super) records_under_way: u32,
    /// How many troubles its links have; the checkers hear of the first and of the last.
    link_troubles: [u32; 2],
}

impl World {
    /// How many workers there are, twins apart.
    pub(super) fn workers(&self) -> usize {
        usize::from(self.schedule.options.workers.max(1))
    }

    /// A process begins in a slot; its node is started by whoever calls.
    pub(super) fn begin_process(&mut self, slot: usize) {
        let schedule = self.schedule.clone();
        let options = &schedule.options;
        let now = self.now();
        self.slots[slot].incarnations += 1;
        let number = slot as u32 * 1000 + self.slots[slot].incarnations;
        let seed = self.number_of(&[u64::from(number)]);
        let rate = Rate::from_millionths(options.worker_rate(schedule.seed, slot as u8));
        let machine = format!("m{}", slot % usize::from(options.machines.max(1)));
        // Few process ids, so that they are used again.
        let start_ticks = u64::from(number) << 32 | now;
        let identity = ProcessIdentity { machine: machine.clone(), pid: number % 3, start_ticks };
        let named = self.slots[slot].twin_of.unwrap_or(slot);
        let at = self.processes.len();
        self.processes.push(Process {
            number: history::Process(number),
            slot,
            seed,
            name: if options.stable_names { format!("w{named}") } else { format!("w{slot}-{number}") },
            machine,
            identity: (options.identities || options.supervised).then_some(identity),
            clock: Arc::new(MonotonicClock::new(now, Instant::from_micros(seed % 1_000_000_000), rate)),
            alive: true,
            stopping: false,
            paused: None,
            awake_since: now,
            running: BTreeSet::new(),
            chosen: None,
            inputs: None,
            judging: None,
            claims_under_way: 0,
            records_under_way: 0,
            link_troubles: [0; 2],
        });
        self.slots[slot].current = Some(at);
        self.note(2, at as u64, 0);
        let (process, timing) = (history::Process(number), options.timing());
        self.fact(&history::Event::WorkerStarted { process, timing, steady: rate.is_steady() });
        let slot = &self.slots[slot];
        let cut = [(slot.store_cut.is_some(), Link::Store), (slot.redis_cut.is_some(), Link::Liveness)];
        for (_, link) in cut.into_iter().filter(|(is_cut, _)| *is_cut) {
            self.link_trouble(at, link, true);
        }
        if self.bad_network.is_some() {
            self.links_trouble(at, true);
        }
    }

    /// A worker left by itself.
    pub(super) fn exited(&mut self, at: ProcessAt, reason: &ExitReason) {
        let now = self.now();
        let slot = self.processes[at].slot;
        let process = self.end(at);
        let restart_us = self.schedule.options.restart_us;
        match reason {
            ExitReason::Stopped => {
                self.coverage.mark(NetMark::LeftStopped);
                if self.healed {
                    // Told to stop while faults were about; a core is whole.
                    self.plan(now + restart_us, Action::Start { slot });
                }
            }
            // A batch was submitted while it was on its way out.
            ExitReason::Done if self.healed && (self.store.model.has_open_batch() || self.owes_calls()) => {
                self.plan(now + restart_us, Action::Start { slot });
            }
            ExitReason::Done => {}
            ExitReason::NameInUse(_) => {
                self.coverage.mark(NetMark::NameInUse);
                if slot < self.workers() {
                    self.plan(now + restart_us, Action::Start { slot });
                }
            }
        }
        self.note(3, at as u64, 0);
        self.fact(&history::Event::WorkerLeft { process });
    }

    /// A process ends without a word. What it sent may still arrive.
    pub(super) fn crashed(&mut self, at: ProcessAt, by_row: Option<(BatchId, u64)>, reported: bool) {
        if self.processes[at].claims_under_way > 0 {
            self.coverage.mark(NetMark::KilledWithClaim);
        }
        if self.processes[at].records_under_way > 0 {
            self.coverage.mark(NetMark::KilledWithRecord);
        }
        let identity = self.processes[at].identity.clone();
        let process = self.end(at);
        self.note(4, at as u64, 0);
        self.fact(&history::Event::WorkerCrashed { process, by_row });
        if let Some(identity) = identity.filter(|_| reported) {
            self.report_death(&identity);
        }
    }

    fn end(&mut self, at: ProcessAt) -> history::Process {
        let process = &mut self.processes[at];
        process.alive = false;
        process.running.clear();
        (process.inputs, process.judging) = (None, None);
        let (number, slot) = (process.number, process.slot);
        if self.slots[slot].current == Some(at) {
            self.slots[slot].current = None;
        }
        number
    }

    /// A supervisor tells every living worker, some of them twice.
    fn report_death(&mut self, identity: &ProcessIdentity) {
        let now = self.now();
        for at in (0..self.processes.len()).filter(|at| self.processes[*at].alive).collect::<Vec<_>>() {
            let spread = self.number_of(&[identity.start_ticks, at as u64]);
            let report = || Action::DeathReported { process: at, identity: identity.clone() };
            self.plan(now + 100 + spread % 10_000, report());
            if spread.is_multiple_of(4) {
                self.plan(now + self.schedule.options.ttl_us, report());
            }
        }
    }

    /// R1: what a process of that machine sees.
    pub(super) fn look_up(&self, from_machine: &str, identity: &ProcessIdentity) -> ProcessState {
        if identity.machine != from_machine {
            return ProcessState::Unknown;
        }
        let runs = self.processes.iter().any(|process| process.alive && process.identity.as_ref() == Some(identity));
        if runs { ProcessState::Running } else { ProcessState::Gone }
    }

    /// A request leaves a process. L1: the checkers know whose a lease is from before its first take.
    pub(super) fn store_request_begins(&mut self, at: ProcessAt, request: &StoreRequest) {
        let process = &mut self.processes[at];
        match request {
            StoreRequest::Claim(_) => process.claims_under_way += 1,
            StoreRequest::Record(_) => process.records_under_way += 1,
            StoreRequest::TakeLease(take) if process.chosen != Some(take.lease) => {
                process.chosen = Some(take.lease);
                let fact = history::Event::LeaseChosen { process: process.number, lease: take.lease };
                self.fact(&fact);
            }
            _ => {}
        }
    }

    /// Troubles of a link may overlap; the checkers hear of the first and of the end of the last.
    pub(super) fn link_trouble(&mut self, at: ProcessAt, link: Link, begins: bool) {
        let process = &mut self.processes[at];
        let count = &mut process.link_troubles[link as usize];
        let (process, tell) = (process.number, if begins { *count == 0 } else { *count == 1 });
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        match (tell, begins) {
            (true, true) => self.fact(&history::Event::LinkCut { process, link }),
            (true, false) => self.fact(&history::Event::LinkHealed { process, link }),
            (false, _) => {}
        }
    }

    /// The same for both links of a process.
    pub(super) fn links_trouble(&mut self, at: ProcessAt, begins: bool) {
        self.link_trouble(at, Link::Store, begins);
        self.link_trouble(at, Link::Liveness, begins);
    }
}
