//! Messages between processes, store and witness, and what may happen to them on their way.

use std::hash::Hash;

use fencepost_core::judge::JudgeInput;
use fencepost_core::keeper::KeeperInput;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::store::{
    ClaimReply, RecordItem, RecoverReply, RenewReply, StoreFailure, StoreReply, StoreRequest, Verdict,
};
use fencepost_core::worker::WorkerInput;
use fencepost_core::{BatchId, RequestId};
use fencepost_model::history::{self, FreedWhy, LeaseEnd, Link, RecordedWhy};

use super::{Event, Machine, ProcessAt, StoreCall, World};
use crate::coverage::Mark;
use crate::fault::{Away, Server, Way};
use crate::trace::What;

/// Whether a server is there.
#[derive(Debug, Default)]
pub(super) struct Presence {
    pub(super) away: Option<(Away, u64)>,
    /// Requests that wait for it to come back.
    pub(super) stalled: Vec<Event>,
}

impl Presence {
    pub(super) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// At least until then: a longer absence goes on. Returns whether it was away before.
    pub(super) fn go_away(&mut self, how: Away, until: u64) -> bool {
        let was = self.away;
        self.away = Some((how, was.map_or(until, |(_, before)| before.max(until))));
        was.is_some()
    }
}

/// What is wrong with a slot's links.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) store_cut: Option<Cut>,
    pub(super) witness_cut: Option<Cut>,
    /// To either server: what befalls the next messages.
    pub(super) next: [NextMessages; 2],
}

impl Troubles {
    pub(super) fn next(&mut self, server: Server) -> &mut NextMessages {
        &mut self.next[server as usize]
    }

    /// Takes one of so many, if any is left.
    fn take_one(of: &mut (u32, u64)) -> Option<u64> {
        of.0 = of.0.checked_sub(1)?;
        Some(of.1)
    }
}

/// What befalls the next messages between a slot and a server.
#[derive(Debug, Default)]
pub(super) struct NextMessages {
    /// So many requests that arrive lose their replies.
    pub(super) lose_replies: u32,
    /// So many requests that are sent arrive so much later.
    pub(super) delay: (u32, u64),
    /// So many requests that are sent arrive twice.
    pub(super) duplicate: (u32, u64),
}

/// A cut link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) way: Way,
    pub(super) loud: bool,
    pub(super) until: u64,
}

impl Cut {
    /// With what is cut already: neither ends the other early.
    pub(super) fn and(self, was: Option<Self>) -> Self {
        let Some(was) = was else { return self };
        let way = if was.way == self.way { self.way } else { Way::Both };
        Self { way, until: self.until.max(was.until), ..self }
    }
}

/// What the store tells everybody after a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Notice {
    /// Lines may have become free.
    pub(super) freed: bool,
    /// A batch is open for claims.
    pub(super) opened: bool,
    /// Calls may be due.
    pub(super) ended: bool,
    /// Leases were taken.
    pub(super) leases: bool,
    /// S2: these were aborted.
    pub(super) aborted: Vec<BatchId>,
}

impl Notice {
    fn take(&mut self, event: &history::Event) {
        use history::Event as E;
        match event {
            E::Freed { .. } => self.freed = true,
            E::BatchLoaded { .. } | E::BatchAppended { .. } | E::BatchHeld { .. } | E::RowsRetried { .. } => {
                self.opened = true;
            }
            E::BatchEnded { .. } => (self.freed, self.ended) = (true, true),
            E::BatchAborted { batch, .. } => {
                (self.freed, self.ended) = (true, true);
                self.aborted.push(*batch);
            }
            E::LeaseTaken { .. } => self.leases = true,
            _ => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Leg {
    There = 1,
    Back = 2,
    WitnessThere = 3,
    WitnessBack = 4,
}

impl Leg {
    const fn link(self) -> Link {
        match self {
            Self::There | Self::Back => Link::Store,
            Self::WitnessThere | Self::WitnessBack => Link::Liveness,
        }
    }
}

impl World<'_> {
    /// How long a message is under way: it hangs on which message it is, and on nothing that happened before.
    fn way_us(&self, at: ProcessAt, machine: Machine, id: RequestId, leg: Leg) -> u64 {
        let options = &self.schedule.options;
        let number = u64::from(self.processes[at].number.0);
        let draw = self.number_of(&[number, machine as u64, id.0, leg as u64]);
        if draw % 1000 < options.slow_messages_per_mille {
            return (draw >> 10) % (options.request_timeout_us.min(options.ttl_us / 8) / 3).max(1);
        }
        options.latency_us_min + (draw >> 10) % (options.latency_us_max - options.latency_us_min + 1)
    }

    pub(super) fn ask_store(&mut self, at: ProcessAt, machine: Machine, id: RequestId, request: StoreRequest) {
        self.count_request(at, &request);
        self.trace_sent(at, machine, id, &request);
        let way = self.way_us(at, machine, id, Leg::There);
        let troubles = &mut self.slots[self.processes[at].slot].troubles;
        if let Some(cut) = troubles.store_cut.filter(|cut| cut.way != Way::Replies) {
            if cut.loud {
                let reply = Err(StoreFailure::NotDone);
                self.push(self.now + way, Event::StoreAnswers { process: at, machine, id, reply: Box::new(reply) });
            } else {
                self.pretend_recorded(at, machine, id, &request);
            }
            return;
        }
        if self.is_lost(at, machine, id, Leg::There) {
            self.pretend_recorded(at, machine, id, &request);
            return;
        }
        let next = self.slots[self.processes[at].slot].troubles.next(Server::Store);
        let duplicate = Troubles::take_one(&mut next.duplicate);
        let twice = duplicate.is_some();
        let delay = Troubles::take_one(&mut next.delay);
        if let Some(after) = duplicate {
            let request = request.clone();
            let call = StoreCall { process: at, machine, id, request, duplicate: true, twice, delayed: false };
            self.push(self.now + way + after, Event::StoreArrives(Box::new(call)));
        }
        let delayed = delay.is_some();
        if delayed {
            let process = &mut self.processes[at];
            process.held_up += 1;
            if process.held_up == 1 {
                let process = process.number;
                self.fact(history::Event::MessageHeldUp { process });
            }
        }
        let call = StoreCall { process: at, machine, id, request, duplicate: false, twice, delayed };
        self.push(self.now + way + delay.unwrap_or(0), Event::StoreArrives(Box::new(call)));
    }

    /// Whether this message is lost by chance. A lost one is a trouble of its link.
    fn is_lost(&mut self, at: ProcessAt, machine: Machine, id: RequestId, leg: Leg) -> bool {
        let per_mille = self.schedule.options.lost_per_mille;
        if self.healed || per_mille == 0 {
            return false;
        }
        let number = u64::from(self.processes[at].number.0);
        let lost = self.number_of(&[number, machine as u64, id.0, leg as u64, 0x105e]) % 1000 < per_mille;
        if lost {
            self.coverage.mark(Mark::MessageLost);
            self.blip(at, leg.link());
        }
        lost
    }

    /// A trouble that is over at once.
    fn blip(&mut self, at: ProcessAt, link: Link) {
        self.link_trouble(at, link, true);
        self.link_trouble(at, link, false);
    }

    pub(super) fn store_arrives(&mut self, call: Box<StoreCall>) {
        match self.store_server.away {
            Some((Away::Stalls, _)) => {
                self.store_server.stalled.push(Event::StoreArrives(call));
                return;
            }
            Some((Away::Refuses, _)) => {
                self.end_delay(&call);
                if !call.duplicate {
                    // Of a request that will arrive again nobody can say that it will not happen.
                    let failure = if call.twice { StoreFailure::Unknown } else { StoreFailure::NotDone };
                    self.answer(&call, Err(failure));
                }
                return;
            }
            None => {}
        }
        self.end_delay(&call);
        if !self.processes[call.process].alive {
            self.coverage.mark(Mark::LateWrite);
        }
        let reply = self.apply(&call);
        // A look shows what facts have told.
        if !matches!(reply, StoreReply::Look(_)) {
            (&call.request, &reply).hash(&mut self.hash);
        }
        self.cover_purged(&call.request, &reply);
        self.trace_done(&call, &reply);
        self.store_changed();
        if call.duplicate {
            self.coverage.mark(Mark::DuplicateArrived);
            return;
        }
        let troubles = &mut self.slots[self.processes[call.process].slot].troubles;
        let cut = troubles.store_cut.filter(|cut| cut.way != Way::Requests);
        let next = troubles.next(Server::Store);
        if next.lose_replies > 0 {
            next.lose_replies -= 1;
            self.blip(call.process, Link::Store);
        } else if let Some(cut) = cut {
            if cut.loud {
                self.answer(&call, Err(StoreFailure::Unknown));
                return;
            }
        } else if !self.is_lost(call.process, call.machine, call.id, Leg::Back) {
            self.cover_reply(&reply);
            self.answer(&call, Ok(reply));
            return;
        }
        self.coverage.mark(Mark::ReplyLost);
        self.pretend_recorded(call.process, call.machine, call.id, &call.request);
    }

    pub(super) fn end_delay(&mut self, call: &StoreCall) {
        if call.delayed {
            let process = &mut self.processes[call.process];
            process.held_up -= 1;
            if process.held_up == 0 {
                let process = process.number;
                self.fact(history::Event::MessagesArrived { process });
            }
        }
    }

    pub(super) fn answer(&mut self, call: &StoreCall, reply: Result<StoreReply, StoreFailure>) {
        let &StoreCall { process, machine, id, .. } = call;
        let way = self.way_us(process, machine, id, Leg::Back);
        self.push(self.now + way, Event::StoreAnswers { process, machine, id, reply: Box::new(reply) });
    }

    pub(super) fn store_answers(
        &mut self,
        at: ProcessAt,
        machine: Machine,
        id: RequestId,
        reply: Result<StoreReply, StoreFailure>,
    ) {
        if !self.receives(at, || Event::StoreAnswers { process: at, machine, id, reply: Box::new(reply.clone()) }) {
            return;
        }
        self.trace_heard(at, machine, id, &reply);
        let process = &mut self.processes[at];
        let now = process.clock.now(self.now);
        match &reply {
            Ok(StoreReply::Claim(_)) => process.claims_under_way = process.claims_under_way.saturating_sub(1),
            Ok(StoreReply::Renew(RenewReply::Renewed { .. })) => process.lapsed = false,
            Ok(StoreReply::Record(_)) => process.records_under_way = process.records_under_way.saturating_sub(1),
            _ => {}
        }
        match machine {
            Machine::Keeper => process.keeper.handle_input(now, KeeperInput::Store(id, reply)),
            Machine::Judge => process.judge.handle_input(now, JudgeInput::Store(id, reply)),
            Machine::Worker => process.worker.handle_input(now, WorkerInput::Store(id, reply)),
        }
        self.settle(at);
    }

    fn count_request(&mut self, at: ProcessAt, request: &StoreRequest) {
        let process = &mut self.processes[at];
        match request {
            StoreRequest::Claim(_) => process.claims_under_way = 1,
            StoreRequest::Record(_) => process.records_under_way = 1,
            _ => {}
        }
    }

    pub(super) fn ask_witness(&mut self, at: ProcessAt, machine: Machine, id: RequestId, request: LivenessRequest) {
        self.trace_witness_sent(at, machine, id, &request);
        let troubles = &mut self.slots[self.processes[at].slot].troubles;
        let cut = troubles.witness_cut.is_some_and(|cut| cut.way != Way::Replies);
        if cut || self.is_lost(at, machine, id, Leg::WitnessThere) {
            return;
        }
        let next = self.slots[self.processes[at].slot].troubles.next(Server::SecondWitness);
        let duplicate = Troubles::take_one(&mut next.duplicate);
        let arrives = self.now + Troubles::take_one(&mut next.delay).unwrap_or(0);
        let arrives = arrives + self.way_us(at, machine, id, Leg::WitnessThere);
        if let Some(after) = duplicate {
            let request = request.clone();
            self.push(arrives + after, Event::WitnessArrives { process: at, machine, id, request });
        }
        self.push(arrives, Event::WitnessArrives { process: at, machine, id, request });
    }

    pub(super) fn witness_arrives(&mut self, at: ProcessAt, machine: Machine, id: RequestId, request: LivenessRequest) {
        let reply = match self.witness_server.away {
            Some((Away::Stalls, _)) => {
                let event = Event::WitnessArrives { process: at, machine, id, request };
                self.witness_server.stalled.push(event);
                return;
            }
            Some((Away::Refuses, _)) => None,
            None => {
                let reply = self.witness.apply(self.witness_now(), &request);
                self.note_beat(&request);
                Some(reply)
            }
        };
        (&request, &reply).hash(&mut self.hash);
        self.trace_witness_done(at, machine, id, &request, &reply);
        let troubles = &mut self.slots[self.processes[at].slot].troubles;
        let cut = troubles.witness_cut.is_some_and(|cut| cut.way != Way::Requests);
        let next = troubles.next(Server::SecondWitness);
        if next.lose_replies > 0 {
            next.lose_replies -= 1;
        } else if !cut && !self.is_lost(at, machine, id, Leg::WitnessBack) {
            let way = self.way_us(at, machine, id, Leg::WitnessBack);
            self.push(self.now + way, Event::WitnessAnswers { process: at, machine, id, reply });
        }
    }

    pub(super) fn witness_answers(
        &mut self,
        at: ProcessAt,
        machine: Machine,
        id: RequestId,
        reply: Option<LivenessReply>,
    ) {
        if !self.receives(at, || Event::WitnessAnswers { process: at, machine, id, reply: reply.clone() }) {
            return;
        }
        self.trace_witness_heard(at, machine, id, &reply);
        if let Some(LivenessReply::Check { vouches: true, alive }) = &reply
            && !alive.is_empty()
        {
            self.coverage.mark(Mark::HeartbeatPresent);
        }
        let process = &mut self.processes[at];
        let now = process.clock.now(self.now);
        match machine {
            Machine::Keeper => process.keeper.handle_input(now, KeeperInput::Liveness(id, reply)),
            Machine::Judge => process.judge.handle_input(now, JudgeInput::Liveness(id, reply)),
            Machine::Worker => {}
        }
        self.settle(at);
    }

    /// Troubles of a link may overlap; the checkers hear of the first and of the end of the last.
    pub(super) fn link_trouble(&mut self, at: ProcessAt, link: Link, begins: bool) {
        let process = &mut self.processes[at];
        let count = &mut process.link_troubles[link as usize];
        let (process, tell) = (process.number, if begins { *count == 0 } else { *count == 1 });
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if tell && begins {
            self.fact(history::Event::LinkCut { process, link });
        } else if tell {
            self.fact(history::Event::LinkHealed { process, link });
        }
    }

    /// A new process in a slot whose links are cut already.
    pub(super) fn tell_cuts_of_slot(&mut self, at: ProcessAt) {
        let troubles = &self.slots[self.processes[at].slot].troubles;
        let (store, witness) = (troubles.store_cut.is_some(), troubles.witness_cut.is_some());
        if store {
            self.link_trouble(at, Link::Store, true);
        }
        if witness {
            self.link_trouble(at, Link::Liveness, true);
        }
    }

    /// After a transaction: its events and the state go to the checkers, and idle workers may be woken.
    pub(super) fn store_changed(&mut self) {
        let events: Vec<history::Event> = self.store.drain_events().collect();
        self.cover_step(&events);
        let mut notice = Notice::default();
        for event in &events {
            self.cover_event(event);
            notice.take(event);
            self.trace(|_| What::Fact(event.clone()));
            event.hash(&mut self.hash);
            self.checks.fact(self.now, event);
            if let Some(what) = self.expiry.event(self.store_clock.now(self.now), event) {
                self.violate("R2 expiry", what);
            }
        }
        self.checks.step(self.now, &mut self.store);
        if self.schedule.options.notify && notice != Notice::default() {
            self.notify_all(&notice);
        }
        self.look_for_end();
    }

    fn notify_all(&mut self, notice: &Notice) {
        let arrives = self.now + self.schedule.options.latency_us_max;
        for at in 0..self.processes.len() {
            let process = &self.processes[at];
            if process.alive && self.slots[process.slot].troubles.store_cut.is_none() {
                self.push(arrives, Event::Notified { process: at, notice: notice.clone() });
            }
        }
    }

    /// Situations that take several events of one transaction.
    fn cover_step(&mut self, events: &[history::Event]) {
        use history::Event as E;
        let recovers = events.iter().any(|event| matches!(event, E::LeaseEnded { .. }));
        if recovers && events.iter().any(|event| matches!(event, E::BatchEnded { .. })) {
            self.coverage.mark(Mark::BatchEndedByRecovery);
        }
        for pair in events.windows(2) {
            if let [E::Freed { why: FreedWhy::Recovered, from: first, .. }, E::Freed { from: second, .. }] = pair
                && first == second
            {
                self.coverage.mark(Mark::SuspectHalved);
            }
        }
    }

    fn cover_event(&mut self, event: &history::Event) {
        use history::Event as E;
        let mark = match event {
            E::Claimed { alone: true, .. } => Mark::GrantedAlone,
            E::Freed { why: FreedWhy::Recovered, .. } => Mark::RecoveredSpan,
            E::Freed { why: FreedWhy::Retried, .. } => Mark::RetryGivenBack,
            E::Freed { why: FreedWhy::TimedOut, .. } => Mark::TimedOutRow,
            E::Freed { why: FreedWhy::Dropped, .. } => Mark::DroppedWithSpans,
            E::Recorded { why: RecordedWhy::Exhausted, .. } => Mark::RetryExhausted,
            E::Recorded { why: RecordedWhy::CrashedTooOften, .. } => Mark::PoisonFailed,
            E::LeaseEnded { how: LeaseEnd::Lapsed, .. } => Mark::JudgedLapsed,
            E::LeaseEnded { how: LeaseEnd::Died, .. } => Mark::JudgedDied,
            E::LeaseEnded { how: LeaseEnd::TakenOver, .. } => Mark::TakenOver,
            E::Crashed { .. } => Mark::CrashCounted,
            E::CrashWithdrawn { .. } => Mark::CrashWithdrawn,
            E::LeaseCutBack { .. } => Mark::CutBack,
            E::BatchEnded { .. } if self.healed => Mark::EndedInLiveness,
            _ => return,
        };
        self.coverage.mark(mark);
    }

    fn cover_purged(&mut self, request: &StoreRequest, reply: &StoreReply) {
        if let (StoreRequest::Record(record), StoreReply::Record(verdicts)) = (request, reply) {
            let fenced = |(item, verdict): (&RecordItem, &Verdict)| {
                *verdict == Verdict::Fenced && self.purged.contains(&item.batch)
            };
            if record.items.iter().zip(verdicts).any(fenced) {
                self.coverage.mark(Mark::FencedAfterPurge);
            }
        }
    }

    fn cover_reply(&mut self, reply: &StoreReply) {
        match reply {
            StoreReply::SettleClaim(grants, _) if !grants.is_empty() => self.coverage.mark(Mark::SettledWithGrants),
            StoreReply::Claim(ClaimReply::Closed) => self.coverage.mark(Mark::ClaimClosed),
            StoreReply::Recover(RecoverReply::Spared) => self.coverage.mark(Mark::Spared),
            StoreReply::Record(verdicts) => {
                for verdict in verdicts {
                    match verdict {
                        Verdict::Fenced => self.coverage.mark(Mark::FencedOutcome),
                        Verdict::RecordedBefore => self.coverage.mark(Mark::RecordedBefore),
                        Verdict::Recorded(_) => {}
                    }
                }
            }
            _ => {}
        }
    }
}
