//! From a trace to what is drawn: pairs beginnings with ends, and puts everything in its lane.

mod messages;
mod processes;

use std::collections::BTreeMap;

use fencepost_core::worker::RunKey;
use fencepost_core::{BatchId, LeaseId, LineSet, Token};
use fencepost_model::history::{Event as Fact, FreedWhy, Process};

use super::data::{Bar, Batch, Broken, Event, Lane, Owner, Rows, Timeline};
use super::words;
use crate::Run;
use crate::options::batch_id;
use crate::planted::PlantedBug;
use crate::schedule::{Schedule, file};
use crate::trace::{self, Trace, What};

/// More than a browser draws well. Of what is beyond, the last is kept, and all that is rare.
const EVENTS_MAX: usize = 30_000;

/// What is frequent, and seldom matters.
const FREQUENT: [&str; 9] = ["renew", "beat", "publish", "ask", "look", "check", "run", "ran", "success"];

/// Makes a traced run ready to be drawn.
pub fn timeline(schedule: &Schedule, bug: Option<PlantedBug>, run: &Run, trace: &Trace) -> Timeline {
    let mut builder = Builder::new(schedule, bug, run);
    for entry in &trace.entries {
        builder.now = entry.at_us;
        builder.entry(&entry.what);
    }
    builder.finish()
}

#[derive(Default)]
struct Builder {
    now: u64,
    out: Timeline,
    owners: BTreeMap<LeaseId, usize>,
    batches: BTreeMap<BatchId, usize>,
    processes: BTreeMap<Process, Known>,
    leases: BTreeMap<LeaseId, Open>,
    lines: BTreeMap<(usize, u64), Open>,
    messages: BTreeMap<trace::Message, usize>,
    away: Option<Open>,
}

/// What is known of a process.
struct Known {
    lane: Lane,
    since: u64,
    /// Neither dead nor left.
    alive: bool,
    leases: usize,
    /// Under which it works.
    owner: Option<(usize, u64)>,
    paused: Option<u64>,
    cut: [Option<u64>; 2],
    runs: BTreeMap<RunKey, (u64, usize)>,
}

/// A bar whose end is not known yet.
struct Open {
    bar: Bar,
    /// Of a line's span.
    token: Option<Token>,
}

/// A process by its number: the simulator counts a place's processes from 1.
fn place(process: Process) -> (usize, u32) {
    (process.0 as usize / 1000, process.0 % 1000)
}

impl Builder {
    fn new(schedule: &Schedule, bug: Option<PlantedBug>, run: &Run) -> Self {
        let options = &schedule.options;
        let batches: Vec<Batch> = (0..options.batches.len())
            .map(|at| Batch {
                id: batch_id(at).to_string(),
                name: format!("batch {at}"),
                lines: options.batches[at].rows,
            })
            .collect();
        let planted = bug.map(|bug| format!(", {bug} planted")).unwrap_or_default();
        let about = [
            format!(
                "{}, {} at once",
                words::count(options.workers.into(), "worker"),
                words::count(options.concurrency.into(), "row")
            ),
            format!("{} of {}", words::count(batches.len() as u64, "batch"), words::count(options.rows(), "row")),
            words::count(schedule.faults.len() as u64, "fault"),
            format!("lease {}, renewed every {}", words::duration(options.ttl_us), words::duration(options.renew_us)),
            format!("judges look every {}", words::duration(options.scan_us)),
            format!("rows take {} to {}", words::duration(options.run_us_min), words::duration(options.run_us_max)),
            (if options.liveness { "with Redis" } else { "without Redis" }).to_owned(),
            format!("{} events", run.events),
        ];
        let argument =
            if *schedule == Schedule::from_seed(schedule.seed) { schedule.seed.to_string() } else { "FILE".to_owned() };
        let flag = bug.map(|bug| format!(" --planted {bug}")).unwrap_or_default();
        Self {
            batches: (0..batches.len()).map(|at| (batch_id(at), at)).collect(),
            out: Timeline {
                title: format!("seed {}{planted}", schedule.seed),
                about: about.to_vec(),
                violation: run.violation.as_ref().map(|violation| Broken {
                    check: violation.check.to_owned(),
                    at: violation.at_us,
                    text: violation.what.clone(),
                }),
                schedule: file::to_json(schedule),
                replay: format!("cargo run -p sim -- replay {argument}{flag}"),
                end_us: run.end_us.max(1),
                workers: usize::from(options.workers.max(1)),
                witness: options.liveness,
                batches,
                ..Timeline::default()
            },
            ..Self::default()
        }
    }

    fn entry(&mut self, what: &What) {
        match what {
            What::Step(_) => {}
            What::Fact(fact) => self.fact(fact),
            What::Fault { fault, struck } => self.fault(fault, *struck),
            What::StoreSent(message, request) => {
                let (kind, text) = words::request(request);
                self.sent(*message, Lane::Store, kind, text);
            }
            What::StoreDone { message, duplicate, request, reply } => {
                if *duplicate {
                    self.arrived_again(*message);
                } else if let Some(at) = self.messages.get(message) {
                    self.out.messages[*at].done = Some(self.now);
                }
                if let Some((kind, text)) = words::done(request, reply) {
                    let again = if *duplicate { " (the request's second arrival)" } else { "" };
                    let owner = self.works_under(message.process);
                    self.event(Lane::Store, kind, owner, format!("{text}{again}"));
                }
            }
            What::StoreHeard(message, reply) => {
                let (ok, text) = match reply {
                    Ok(reply) => (true, format!("reply: {}", words::reply(reply))),
                    Err(failure) => (false, words::failure(*failure).to_owned()),
                };
                self.heard(*message, ok, text);
            }
            What::WitnessSent(message, request) => {
                let (kind, text) = words::witness_request(request);
                self.sent(*message, Lane::Redis, kind, text);
            }
            What::WitnessDone(message, request, reply) => {
                if let Some(at) = self.messages.get(message) {
                    self.out.messages[*at].done = Some(self.now);
                }
                let (kind, text) = words::witness_request(request);
                let owner = self.works_under(message.process);
                self.event(Lane::Redis, kind, owner, format!("{text}{}", words::witness_reply(reply)));
            }
            What::WitnessHeard(message, reply) => {
                let text = reply.as_ref().map(words::witness_reply).unwrap_or_else(|| ": no reply".to_owned());
                self.heard(*message, reply.is_some(), format!("reply{text}"));
            }
            What::Told(process, event) => self.told(*process, event),
            What::RunEnded(process, key, answer) => {
                self.run_over(*process, *key, words::answer(answer));
                let text = format!("row {} of {} ends: {}", key.line, key.batch, words::answer(answer));
                self.of_run(*process, *key, "ran", text);
            }
            What::RunCancelled(process, key) => {
                self.of_run(*process, *key, "cancel", format!("cancels row {} of {}", key.line, key.batch));
            }
            What::RunAbandoned(process, key) => {
                let text = format!("gives up row {} of {}, which does not end; it may still run", key.line, key.batch);
                self.of_run(*process, *key, "abandon", text);
            }
            What::Left(process, reason) => {
                self.at_process(*process, "left", words::exit(reason));
                self.process_over(*process, "leaves");
            }
        }
    }

    fn event(&mut self, lane: Lane, kind: &'static str, owner: Option<usize>, text: String) {
        self.out.events.push(Event { at: self.now, lane, kind, owner, rows: None, text });
    }

    fn at_process(&mut self, process: Process, kind: &'static str, text: String) {
        let lane = self.processes.get(&process).map_or(Lane::Worker(place(process).0, 0), |known| known.lane);
        self.event(lane, kind, self.works_under(process), text);
    }

    fn of_run(&mut self, process: Process, key: RunKey, kind: &'static str, text: String) {
        self.at_process(process, kind, text);
        let rows = self.row(key.batch, key.line);
        if let Some(event) = self.out.events.last_mut() {
            event.rows = rows;
        }
    }

    fn works_under(&self, process: Process) -> Option<usize> {
        self.processes.get(&process)?.owner.map(|(owner, _)| owner)
    }

    fn owner(&self, lease: LeaseId) -> Option<usize> {
        self.owners.get(&lease).copied()
    }

    fn bar(&mut self, lane: Lane, kind: &'static str, from: u64, owner: Option<usize>, track: usize, words: [&str; 2]) {
        let [label, text] = words.map(str::to_owned);
        self.out.bars.push(Bar { lane, kind, from, to: self.now, owner, track, label, text });
    }

    // --- facts

    fn fact(&mut self, fact: &Fact) {
        self.before(fact);
        if let Some((kind, text)) = words::fact(fact) {
            let (lane, owner) = self.whereabouts(fact);
            let rows = self.rows_of(fact);
            self.out.events.push(Event { at: self.now, lane, kind, owner, rows, text });
        }
        self.after(fact);
    }

    /// Lane and owner of a fact.
    fn whereabouts(&self, fact: &Fact) -> (Lane, Option<usize>) {
        match fact {
            Fact::LeaseTaken { lease, .. }
            | Fact::LeaseRenewed { lease, .. }
            | Fact::LeaseEnded { lease, .. }
            | Fact::LeaseCutBack { lease, .. }
            | Fact::Claimed { lease, .. }
            | Fact::Recorded { lease, .. }
            | Fact::Fenced { lease, .. }
            | Fact::Crashed { lease, .. }
            | Fact::CrashWithdrawn { lease, .. } => (Lane::Store, self.owner(*lease)),
            Fact::Freed { batch, lines, .. } => {
                let held = self.numbers(*batch, lines).first().and_then(|line| self.lines.get(line));
                (Lane::Store, held.and_then(|held| held.bar.owner))
            }
            Fact::BatchLoaded { .. }
            | Fact::BatchAppended { .. }
            | Fact::BatchHeld { .. }
            | Fact::BatchEnded { .. }
            | Fact::BatchAborted { .. }
            | Fact::RowKills { .. }
            | Fact::FaultsStopped => (Lane::Faults, None),
            Fact::WorkerStarted { process, .. }
            | Fact::LeaseChosen { process, .. }
            | Fact::HandlerStarted { process, .. }
            | Fact::WorkerCrashed { process, .. }
            | Fact::WorkerStopping { process }
            | Fact::WorkerLeft { process }
            | Fact::WorkerPaused { process }
            | Fact::WorkerResumed { process }
            | Fact::LinkCut { process, .. }
            | Fact::MessageHeldUp { process }
            | Fact::MessagesArrived { process }
            | Fact::LinkHealed { process, .. } => {
                let lane = self.processes.get(process).map_or(Lane::Worker(place(*process).0, 0), |known| known.lane);
                (lane, self.works_under(*process))
            }
            _ => (Lane::Store, None),
        }
    }

    fn rows_of(&self, fact: &Fact) -> Option<Rows> {
        match fact {
            Fact::Claimed { batch, lines, .. } | Fact::Freed { batch, lines, .. } => {
                let lines = lines.ranges().iter().map(|range| (range.first, range.last)).collect();
                Some(Rows { batch: *self.batches.get(batch)?, lines })
            }
            Fact::Recorded { batch, line, .. }
            | Fact::Fenced { batch, line, .. }
            | Fact::Crashed { batch, line, .. }
            | Fact::CrashWithdrawn { batch, line, .. }
            | Fact::HandlerStarted { batch, line, .. }
            | Fact::RowKills { batch, line }
            | Fact::WorkerCrashed { by_row: Some((batch, line)), .. } => self.row(*batch, *line),
            _ => None,
        }
    }

    fn row(&self, batch: BatchId, line: u64) -> Option<Rows> {
        Some(Rows { batch: *self.batches.get(&batch)?, lines: vec![(line, line)] })
    }

    /// What must be known for the fact's own event.
    fn before(&mut self, fact: &Fact) {
        match fact {
            Fact::WorkerStarted { process, .. } => {
                let slot = place(*process).0;
                let taken = |nth: usize| {
                    self.processes.values().any(|known| known.alive && known.lane == Lane::Worker(slot, nth))
                };
                let nth = (0..).find(|nth| !taken(*nth)).unwrap_or(0);
                let known = Known {
                    lane: Lane::Worker(slot, nth),
                    since: self.now,
                    alive: true,
                    leases: 0,
                    owner: None,
                    paused: None,
                    cut: [None; 2],
                    runs: BTreeMap::new(),
                };
                self.processes.insert(*process, known);
            }
            Fact::LeaseChosen { process, lease } => {
                let (slot, nth) = place(*process);
                let known = self.processes.get_mut(process);
                let leases = known.map_or(1, |known| {
                    known.leases += 1;
                    known.leases
                });
                let again = if leases > 1 { format!("/{leases}") } else { String::new() };
                self.owners.insert(*lease, self.out.owners.len());
                let label = format!("w{slot}·{nth}{again}");
                self.out.owners.push(Owner { lease: lease.to_string(), label });
            }
            _ => {}
        }
    }

    fn after(&mut self, fact: &Fact) {
        match fact {
            Fact::LeaseTaken { lease, worker, .. } => {
                let owner = self.owner(*lease);
                let track = (0..).find(|track| self.leases.values().all(|open| open.bar.track != *track)).unwrap_or(0);
                let label = owner.map_or_else(String::new, |owner| self.out.owners[owner].label.clone());
                let text = format!("lease {lease} of {worker} is live in the store");
                let bar = Bar { lane: Lane::Store, kind: "lease", from: self.now, to: 0, owner, track, label, text };
                self.leases.insert(*lease, Open { bar, token: None });
            }
            Fact::LeaseEnded { lease, .. } => {
                if let Some(open) = self.leases.remove(lease) {
                    self.close(open);
                }
            }
            Fact::Claimed { batch, lines, token, lease, suspicion, .. } => {
                let owner = self.owner(*lease);
                let text = format!("held by {lease} under token {token}");
                let kind = if *suspicion > 0 { "held-suspect" } else { "held" };
                self.span(*batch, lines, *token, kind, owner, &text);
            }
            Fact::Freed { why: FreedWhy::Split, batch, lines, token, .. } => {
                for (at, line) in self.numbers(*batch, lines) {
                    if let Some(open) = self.lines.get_mut(&(at, line)) {
                        open.token = Some(*token);
                    }
                }
            }
            Fact::Freed { batch, lines, token, why, .. } => {
                let kind = if *why == FreedWhy::Recovered { "free-recovered" } else { "free" };
                self.span(*batch, lines, *token, kind, None, &format!("free under token {token}"));
            }
            Fact::Recorded { batch, line, .. } => self.close_line(*batch, *line),
            Fact::BatchAborted { batch, .. } | Fact::BatchEnded { batch, .. } => {
                let Some(at) = self.batches.get(batch).copied() else { return };
                let open: Vec<_> = self.lines.keys().filter(|(batch, _)| *batch == at).copied().collect();
                for key in open {
                    if let Some(open) = self.lines.remove(&key) {
                        self.close(open);
                    }
                }
            }
            Fact::BatchAppended { batch, lines } => {
                if let Some(at) = self.batches.get(batch) {
                    self.out.batches[*at].lines = self.out.batches[*at].lines.max(lines.last);
                }
            }
            Fact::HandlerStarted { process, batch, line, token } => {
                if let Some(known) = self.processes.get_mut(process) {
                    let free = |track: usize| known.runs.values().all(|(_, taken)| *taken != track);
                    let track = (0..).find(|track| free(*track)).unwrap_or(0);
                    let key = RunKey { batch: *batch, line: *line, token: *token };
                    known.runs.insert(key, (self.now, track));
                }
            }
            Fact::WorkerCrashed { process, .. } => self.process_over(*process, "crashes"),
            Fact::WorkerPaused { process } => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.paused = Some(self.now);
                }
            }
            Fact::WorkerResumed { process } => self.pause_over(*process),
            Fact::LinkCut { process, link } => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.cut[*link as usize] = Some(self.now);
                }
            }
            Fact::LinkHealed { process, link } => self.cut_over(*process, *link),
            Fact::StoreAway => {
                self.away = Some(self.open(Lane::Store, "away", "store away", "the store is away for all"))
            }
            Fact::StoreBack => {
                if let Some(open) = self.away.take() {
                    self.close(open);
                }
            }
            _ => {}
        }
    }

    // --- spans

    fn numbers(&self, batch: BatchId, lines: &LineSet) -> Vec<(usize, u64)> {
        let at = self.batches.get(&batch).copied();
        at.map(|at| lines.iter().map(|line| (at, line)).collect()).unwrap_or_default()
    }

    fn span(
        &mut self,
        batch: BatchId,
        lines: &LineSet,
        token: Token,
        kind: &'static str,
        owner: Option<usize>,
        text: &str,
    ) {
        for (at, line) in self.numbers(batch, lines) {
            self.close_line(batch, line);
            let label = format!("t{token}");
            let text = format!("row {line} of {batch}: {text}");
            let lane = Lane::Row(at, line);
            let bar = Bar { lane, kind, from: self.now, to: 0, owner, track: 0, label, text };
            self.lines.insert((at, line), Open { bar, token: Some(token) });
        }
    }

    fn close_line(&mut self, batch: BatchId, line: u64) {
        let at = self.batches.get(&batch).copied();
        if let Some(open) = at.and_then(|at| self.lines.remove(&(at, line))) {
            self.close(open);
        }
    }

    fn open(&self, lane: Lane, kind: &'static str, label: &str, text: &str) -> Open {
        let (label, text) = (label.to_owned(), text.to_owned());
        Open { bar: Bar { lane, kind, from: self.now, to: 0, owner: None, track: 0, label, text }, token: None }
    }

    fn close(&mut self, open: Open) {
        let took = words::duration(self.now - open.bar.from);
        self.out.bars.push(Bar { to: self.now, text: format!("{} ({took})", open.bar.text), ..open.bar });
    }

    // --- the end

    fn finish(mut self) -> Timeline {
        self.now = self.out.end_us;
        let processes: Vec<Process> = self.processes.keys().copied().collect();
        for process in processes {
            self.process_over(process, "meets the end of the run");
        }
        let open = std::mem::take(&mut self.lines).into_values().chain(std::mem::take(&mut self.leases).into_values());
        for open in open.chain(self.away.take()) {
            self.close(open);
        }
        if let Some(violation) = self.out.violation.clone() {
            self.now = violation.at;
            self.event(Lane::Faults, "violation", None, format!("{} is violated: {}", violation.check, violation.text));
        }
        self.out.bars.sort_by_key(|bar| (bar.lane, bar.from));
        self.leave_out();
        self.out
    }

    fn leave_out(&mut self) {
        let before = self.out.events.len();
        let late = before.saturating_sub(EVENTS_MAX);
        let mut nth = 0;
        self.out.events.retain(|event| {
            nth += 1;
            nth > late || !FREQUENT.contains(&event.kind)
        });
        let rare = self.out.events.len().saturating_sub(2 * EVENTS_MAX);
        self.out.events.drain(..rare);
        self.out.left_out = before - self.out.events.len();
        let messages = self.out.messages.len().saturating_sub(EVENTS_MAX);
        self.out.messages.drain(..messages);
        let bars = self.out.bars.len().saturating_sub(2 * EVENTS_MAX);
        if bars > 0 {
            self.out.bars.sort_by_key(|bar| bar.from);
            self.out.bars.drain(..bars);
        }
    }
}
