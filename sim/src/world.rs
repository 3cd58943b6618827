//! The simulated world: processes that run the real core machines, a network, a store, a second witness, one heap of
//! events.
//!
//! | part | module |
//! |---|---|
//! | a process: keeper, judge, worker, clock | `process` |
//! | its simulated handlers | `handlers` |
//! | messages to store and witness | `messages` |
//! | the store with what a planted bug makes of it | `planted` |
//! | faults taking effect, and those of processes | `faults` |
//! | faults of links and servers | `outages` |
//! | what operators do | `operators` |
//! | no lease lapses before its time | `expiry` |
//! | faults stop, everything must end | `ending` |
//! | what is noted for a trace | `tracing` |

mod calls;
pub(crate) mod ending;
mod expiry;
mod faults;
mod handlers;
mod messages;
mod operators;
mod outages;
mod planted;
mod process;
mod tracing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{Hash, Hasher};

use fencepost_core::calls::CallKey;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::store::{ProcessIdentity, StoreFailure, StoreReply, StoreRequest};
use fencepost_core::worker::{CallAnswer, RunAnswer, RunKey};
use fencepost_core::{BatchId, Instant, LeaseId, RequestId, StoreTime};
use fencepost_model::clock::{MonotonicClock, Rate, WallClock};
use fencepost_model::history;
use fencepost_model::liveness::ModelLiveness;
use fencepost_model::store::{BatchSpec, ModelStore, Rows};

use self::messages::{Notice, Presence, Troubles};
use self::process::{Inner, Process};
use crate::checks::{Checks, PANIC, Violation};
use crate::coverage::{Coverage, Mark};
use crate::digest::Digest;
use crate::draw::mix;
use crate::fault::Fault;
use crate::options::{OPERATION, batch_id};
use crate::planted::PlantedBug;
use crate::rows::{RowPlan, plan_rows};
use crate::schedule::Schedule;
use crate::trace::{Trace, What};

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Run {
    /// Over time and order of every event, and all that requests, replies, answers and facts say.
    pub hash: u64,
    /// How many events there were.
    pub events: u64,
    /// When it ended.
    pub end_us: u64,
    /// What was seen.
    pub coverage: Coverage,
    /// What went wrong, if anything.
    pub violation: Option<Violation>,
    /// When each event happened, and whether it was a request arriving at the store, of which worker.
    pub moments: Vec<Moment>,
}

/// A moment at which a fault might strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub at_us: u64,
    /// A store request of this worker arrived.
    pub arrival_of: Option<u8>,
}

/// The machines of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// Takes and renews the lease.
    Keeper,
    /// Finds the dead.
    Judge,
    /// Claims, runs, records.
    Worker,
}

/// A process by its index in the world.
type ProcessAt = usize;

#[derive(Debug)]
enum Event {
    Fault(usize),
    /// The end of an outage, whichever has run out by now.
    OutagesEnd,
    Submit(usize),
    Heal,
    Start {
        slot: usize,
    },
    Wake {
        process: ProcessAt,
    },
    Inner {
        process: ProcessAt,
        inner: Inner,
    },
    /// Boxed, as the answer is: events are moved about more often than anything else.
    StoreArrives(Box<StoreCall>),
    StoreAnswers {
        process: ProcessAt,
        machine: Machine,
        id: RequestId,
        reply: Box<Result<StoreReply, StoreFailure>>,
    },
    WitnessArrives {
        process: ProcessAt,
        machine: Machine,
        id: RequestId,
        request: LivenessRequest,
    },
    WitnessAnswers {
        process: ProcessAt,
        machine: Machine,
        id: RequestId,
        reply: Option<LivenessReply>,
    },
    RunEnds {
        process: ProcessAt,
        key: RunKey,
        answer: RunAnswer,
    },
    RowKills {
        process: ProcessAt,
        key: RunKey,
    },
    DeathReported {
        process: ProcessAt,
        identity: ProcessIdentity,
    },
    CallEnds {
        process: ProcessAt,
        key: CallKey,
        answer: CallAnswer,
    },
    Notified {
        process: ProcessAt,
        notice: Notice,
    },
    /// For the failover of this place: the replica has what there is now.
    WitnessCopied(usize),
    /// Of a second witness that restarts again and again, so many more times.
    WitnessRestarts {
        left: u8,
        every_us: u64,
        keeps_data: bool,
    },
    /// The same with no end.
    WitnessRestartsForEver,
    PurgeGoesOn(BatchId),
    Stop {
        process: ProcessAt,
    },
}

/// A request on its way to the store.
#[derive(Debug)]
struct StoreCall {
    process: ProcessAt,
    machine: Machine,
    id: RequestId,
    request: StoreRequest,
    /// A second arrival: nobody gets its reply.
    duplicate: bool,
    /// One of two arrivals of the same request.
    twice: bool,
    /// It was delayed, which counts as trouble on the link until it arrives.
    delayed: bool,
}

/// A worker's place: its machine, its links, the processes that ran there.
#[derive(Debug, Default)]
struct Slot {
    incarnations: u32,
    troubles: Troubles,
    /// After the faults have stopped: whole, or as broken as it was.
    core: bool,
}

/// The world.
pub(crate) struct World<'a> {
    schedule: &'a Schedule,
    bug: Option<PlantedBug>,
    rows: Vec<Vec<RowPlan>>,
    batches: BTreeMap<BatchId, usize>,
    trace: Option<&'a mut Trace>,

    now: u64,
    next_seq: u64,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,

    store: ModelStore,
    store_clock: WallClock,
    /// Its rate, in millionths.
    store_rate: u32,
    store_server: Presence,
    witness: ModelLiveness,
    witness_clock: MonotonicClock,
    witness_server: Presence,
    /// What its clock was stepped by.
    witness_offset: i64,
    /// Replicas' data, by the failover that they are for.
    witness_copies: BTreeMap<usize, ModelLiveness>,
    /// For a planted bug: heartbeats that were accepted.
    beats: BTreeMap<LeaseId, Option<Instant>>,

    slots: Vec<Slot>,
    processes: Vec<Process>,
    /// How many runs of each row were started.
    ledger: BTreeMap<(BatchId, u64), u32>,
    /// L6: all runs; no token is ever run twice.
    started: BTreeSet<RunKey>,
    expiry: expiry::Expiry,
    holds: BTreeMap<BatchId, u64>,
    stagings: Vec<operators::Staging>,
    /// How many appends there were: no two have one id.
    appends: u64,
    purged: BTreeSet<BatchId>,
    submitted: usize,
    ended_at: Option<u64>,
    healed: bool,
    deadline: u64,
    /// When the last operator comes to ended batches.
    operators_until: u64,

    checks: Checks,
    hash: Digest,
    handled: u64,
    coverage: Coverage,
    moments: Option<Vec<Moment>>,
}

/// A run with more events has got into a loop.
const EVENTS_MAX: u64 = 4_000_000;

/// Where the second witness's clock stands at the start: it has been up for long, and can be stepped back.
const WITNESS_EPOCH: Instant = Instant::from_micros(77_000_000_000_000);

/// Where the store's clock stands at the start: a moment in 2026.
pub(crate) const STORE_EPOCH: i64 = 1_780_000_000_000_000;

impl<'a> World<'a> {
    pub(crate) fn new(
        schedule: &'a Schedule,
        bug: Option<PlantedBug>,
        trace: Option<&'a mut Trace>,
        moments: bool,
    ) -> Self {
        let options = &schedule.options;
        let batches = (0..options.batches.len()).map(|at| (batch_id(at), at)).collect();
        let slots = (0..options.places()).map(|_| Slot::default()).collect();
        let rows = plan_rows(schedule.seed, options);
        let mut world = Self {
            schedule,
            bug,
            checks: Checks::new(ending::bounds(schedule, rows.iter().flatten().copied())),
            rows,
            batches,
            trace,
            now: 0,
            next_seq: 0,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            store: planted::store(bug),
            store_clock: WallClock::new(0, StoreTime(STORE_EPOCH), Rate::from_millionths(options.store_rate)),
            store_rate: options.store_rate,
            store_server: Presence::default(),
            witness: ModelLiveness::new(Instant::from_micros(0)),
            witness_clock: MonotonicClock::new(0, WITNESS_EPOCH, Rate::from_millionths(options.witness_rate)),
            witness_server: Presence::default(),
            witness_offset: 0,
            witness_copies: BTreeMap::new(),
            beats: BTreeMap::new(),
            slots,
            processes: Vec::new(),
            ledger: BTreeMap::new(),
            started: BTreeSet::new(),
            expiry: expiry::Expiry::default(),
            holds: BTreeMap::new(),
            stagings: Vec::new(),
            appends: 0,
            purged: BTreeSet::new(),
            submitted: 0,
            ended_at: None,
            healed: false,
            deadline: u64::MAX,
            operators_until: operators_until(schedule),
            hash: Digest::new(),
            handled: 0,
            coverage: Coverage::default(),
            moments: moments.then(Vec::new),
        };
        world.plan();
        world
    }

    /// Puts what is known beforehand on the heap. Faults come first: at equal times they strike before the event.
    fn plan(&mut self) {
        for (at, (time, fault)) in self.schedule.faults.iter().enumerate() {
            self.push(*time, Event::Fault(at));
            if let Fault::Failover { behind_us } = fault {
                self.push(time.saturating_sub(*behind_us), Event::WitnessCopied(at));
            }
        }
        for (at, batch) in self.schedule.options.batches.iter().enumerate() {
            self.push(batch.submit_at_us, Event::Submit(at));
        }
        let joins = &self.schedule.options.joins_us;
        let first = self.slots.len() - joins.len();
        for slot in 0..self.slots.len() {
            let at = slot.checked_sub(first).map_or(0, |late| joins[late]);
            self.push(at, Event::Start { slot });
        }
        self.push(self.heal_at(), Event::Heal);
    }

    /// Runs to the end.
    pub(crate) fn play(&mut self) {
        while self.checks.violation().is_none() && !self.is_over() {
            let Some((at, event)) = self.pop() else {
                if self.ended_at.is_some() {
                    break;
                }
                self.violate("progress", "nothing is left to happen, yet a batch is open".to_owned());
                break;
            };
            debug_assert!(at >= self.now, "time does not run back");
            self.now = at;
            if at > self.deadline && self.ended_at.is_none() {
                self.violate("progress", self.what_is_open());
                break;
            }
            self.handled += 1;
            if self.handled > EVENTS_MAX {
                self.violate("progress", format!("{EVENTS_MAX} events and no end"));
                break;
            }
            self.note(at, &event);
            self.handle(event);
        }
        if self.checks.violation().is_none() {
            self.checks.finish(self.now, &self.store);
        }
    }

    /// What it came to; a panic, in the core's or the model's assertions, is a violation like any other.
    pub(crate) fn into_run(mut self, panicked: Option<String>) -> Run {
        if let Some(what) = panicked {
            self.violate(PANIC, what);
        }
        let again = self.ledger.values().filter(|runs| **runs > 1).count();
        self.coverage.add(Mark::RowsRunAgain, again as u64);
        self.coverage.mark(Mark::Schedules);
        self.coverage.add(Mark::Events, self.handled);
        self.coverage.add(Mark::SimulatedSeconds, self.now / 1_000_000);
        Run {
            hash: self.hash.finish(),
            events: self.handled,
            end_us: self.now,
            coverage: self.coverage,
            violation: self.checks.into_violation(),
            moments: self.moments.unwrap_or_default(),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Fault(at) => self.fault(at),
            Event::OutagesEnd => self.end_outages(),
            Event::Submit(at) => self.submit(at),
            Event::Heal => self.heal(),
            Event::Start { slot } => self.start_if_none(slot),
            Event::Wake { process } => self.wake(process),
            Event::Inner { process, inner } => self.inner(process, inner),
            Event::StoreArrives(call) => self.store_arrives(call),
            Event::StoreAnswers { process, machine, id, reply } => self.store_answers(process, machine, id, *reply),
            Event::WitnessArrives { process, machine, id, request } => {
                self.witness_arrives(process, machine, id, request);
            }
            Event::WitnessAnswers { process, machine, id, reply } => {
                self.witness_answers(process, machine, id, reply);
            }
            Event::RunEnds { process, key, answer } => self.run_ends(process, key, answer),
            Event::RowKills { process, key } => self.row_kills(process, key),
            Event::DeathReported { process, identity } => self.death_reported(process, identity),
            Event::CallEnds { process, key, answer } => self.call_ends(process, key, answer),
            Event::Notified { process, notice } => self.notified(process, notice),
            Event::WitnessCopied(at) => self.copy_witness(at),
            Event::WitnessRestarts { left, every_us, keeps_data } => self.restart_witness(left, every_us, keeps_data),
            Event::WitnessRestartsForEver => self.loop_witness_for_ever(),
            Event::PurgeGoesOn(batch) => self.go_on_purging(batch),
            Event::Stop { process } => self.stop(process),
        }
    }

    /// S4, in one go; an absent store is asked again a little later.
    fn submit(&mut self, at: usize) {
        if self.store_server.is_away() {
            self.push(self.now + self.schedule.options.ttl_us / 16, Event::Submit(at));
            return;
        }
        let plan = &self.schedule.options.batches[at];
        let spec = BatchSpec {
            on_done_url: None,
            priority: plan.priority,
            attempts_max: plan.attempts_max,
            crashes_max: plan.crashes_max,
            timeout: std::time::Duration::from_micros(plan.timeout_us),
            ..BatchSpec::new(batch_id(at), OPERATION)
        };
        let inputs = (1..=plan.rows).map(|line| format!("{{\"n\":{line}}}").into_boxed_str()).collect();
        self.coverage.add(Mark::Rows, plan.rows);
        self.submitted += 1;
        for (line, row) in self.rows[at].iter().enumerate() {
            if row.kills() {
                let fact = history::Event::RowKills { batch: batch_id(at), line: line as u64 + 1 };
                self.checks.fact(self.now, &fact);
            }
        }
        let now = self.store_clock.now(self.now);
        self.store.submit(now, spec, Rows::Inputs(inputs));
        self.store_changed();
        if self.healed {
            // Workers that leave when nothing is open may have left before this submit.
            (0..self.slots.len()).for_each(|slot| self.start_if_none(slot));
        }
    }

    fn push(&mut self, at: u64, event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.next_seq += 1;
        self.heap.push(Reverse((at, self.next_seq, place)));
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }

    /// Takes the event into the run's hash.
    fn note(&mut self, at: u64, event: &Event) {
        let (kind, who, what) = fingerprint(event);
        for value in [at, kind, who, what] {
            self.hash.take(value);
        }
        match event {
            Event::RunEnds { answer, .. } => answer.hash(&mut self.hash),
            Event::CallEnds { answer, .. } => answer.hash(&mut self.hash),
            _ => {}
        }
        self.trace_step(event);
        if let Some(moments) = &mut self.moments {
            let arrival_of = match event {
                Event::StoreArrives(call) => u8::try_from(self.processes[call.process].slot).ok(),
                _ => None,
            };
            moments.push(Moment { at_us: at, arrival_of });
        }
    }

    fn violate(&mut self, check: &'static str, what: String) {
        self.checks.violate(self.now, check, what);
    }

    fn fact(&mut self, fact: history::Event) {
        self.trace(|_| What::Fact(fact.clone()));
        fact.hash(&mut self.hash);
        self.checks.fact(self.now, &fact);
    }

    /// A number that hangs on the seed and on these values only, so that other faults leave it as it is.
    fn number_of(&self, values: &[u64]) -> u64 {
        mix(&[self.schedule.seed, mix(values)])
    }
}

fn operators_until(schedule: &Schedule) -> u64 {
    let late = schedule.faults.iter().filter(|(_, fault)| fault.is_for_ended_batches());
    late.map(|(at, _)| *at).max().unwrap_or(0)
}

fn fingerprint(event: &Event) -> (u64, u64, u64) {
    let run = |key: &RunKey| key.token.0 << 20 | key.line;
    match event {
        Event::Fault(at) => (1, *at as u64, 0),
        Event::OutagesEnd => (2, 0, 0),
        Event::Submit(at) => (3, *at as u64, 0),
        Event::Heal => (4, 0, 0),
        Event::Start { slot } => (5, *slot as u64, 0),
        Event::Wake { process } => (6, *process as u64, 0),
        Event::Inner { process, inner } => (7, *process as u64, inner.kind()),
        Event::StoreArrives(call) => (8 + call.machine as u64, call.process as u64, call.id.0),
        Event::StoreAnswers { process, machine, id, reply } => {
            (11 + *machine as u64, *process as u64, id.0 << 1 | u64::from(reply.is_ok()))
        }
        Event::WitnessArrives { process, machine, id, .. } => (14 + *machine as u64, *process as u64, id.0),
        Event::WitnessAnswers { process, machine, id, .. } => (17 + *machine as u64, *process as u64, id.0),
        Event::RunEnds { process, key, .. } => (20, *process as u64, run(key)),
        Event::RowKills { process, key } => (21, *process as u64, run(key)),
        Event::DeathReported { process, identity } => (22, *process as u64, identity.start_ticks),
        Event::Notified { process, notice } => (23, *process as u64, u64::from(notice.opened)),
        Event::Stop { process } => (24, *process as u64, 0),
        Event::CallEnds { process, key, .. } => (25, *process as u64, key.token.0),
        Event::WitnessCopied(at) => (26, *at as u64, 0),
        Event::WitnessRestarts { left, .. } => (27, u64::from(*left), 0),
        Event::PurgeGoesOn(batch) => (28, batch.number(), 0),
        Event::WitnessRestartsForEver => (29, 0, 0),
    }
}
