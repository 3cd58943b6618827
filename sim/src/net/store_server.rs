//! The store's node: the model behind a socket.

use std::hash::Hash;

use fencepost::store::Change;
use fencepost_core::StoreTime;
use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest, Verdict};
use fencepost_model::clock::{Rate, WallClock};
use fencepost_model::history::{self, Event as E, FreedWhy, LeaseEnd, Link, RecordedWhy};
use fencepost_model::store::ModelStore;
use madsim::net::{Endpoint, Receiver, Sender};
use madsim::task::NodeId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::coverage::NetMark;
use super::world::{Action, ProcessAt, Shared, World};
use crate::options::Options;
use crate::world::STORE_EPOCH;

/// Where it listens.
pub(super) const STORE_ADDRESS: &str = "10.0.0.1:5432";

/// What a client sends.
#[derive(Debug)]
pub(super) enum ToStore {
    /// One request; its reply comes before the next is sent.
    Ask { process: ProcessAt, request: StoreRequest },
    /// From now on changes are told, and nothing is asked.
    Watch,
}

/// What a request comes to.
pub(super) type StoreAnswer = Result<StoreReply, StoreFailure>;

/// The store's data, and how its server is.
pub(super) struct Store {
    pub(super) model: ModelStore,
    pub(super) clock: WallClock,
    pub(super) node: Option<NodeId>,
    /// Killed, until then.
    pub(super) down: Option<u64>,
    /// Stands still, until then.
    pub(super) paused: Option<u64>,
    /// Refuses, until then.
    pub(super) refuses: Option<u64>,
    watchers: Vec<UnboundedSender<Change>>,
}

impl Store {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            model: ModelStore::new(),
            clock: WallClock::new(0, StoreTime(STORE_EPOCH), Rate::from_millionths(options.store_rate)),
            node: None,
            down: None,
            paused: None,
            refuses: None,
            watchers: Vec::new(),
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.down.is_some() || self.paused.is_some() || self.refuses.is_some()
    }
}

/// Runs on the store's node.
pub(super) async fn serve(shared: Shared) {
    shared.lock().store.watchers.clear();
    let Ok(endpoint) = Endpoint::bind(STORE_ADDRESS).await else {
        return shared.lock().violate("simulator", "the store cannot listen".to_owned());
    };
    while let Ok((sender, receiver, _)) = endpoint.accept1().await {
        madsim::task::spawn(talk(shared.clone(), sender, receiver));
    }
}

async fn talk(shared: Shared, sender: Sender, mut receiver: Receiver) {
    while let Ok(message) = receiver.recv().await {
        let Ok(message) = message.downcast::<ToStore>() else { return };
        match *message {
            ToStore::Ask { process, request } => {
                let asker_waits = !sender.is_closed();
                let Some(answer) = shared.lock().store_arrives(process, &request, asker_waits) else { return };
                if sender.send(Box::new(answer)).await.is_err() {
                    return;
                }
            }
            ToStore::Watch => {
                let (tell, told) = unbounded_channel();
                shared.lock().store.watchers.push(tell);
                return watched(sender, receiver, told).await;
            }
        }
    }
}

async fn watched(sender: Sender, mut receiver: Receiver, mut told: UnboundedReceiver<Change>) {
    loop {
        tokio::select! {
            biased;
            // Whoever watches says nothing more until it is gone.
            _ = receiver.recv() => return,
            change = told.recv() => match change {
                Some(change) => if sender.send(Box::new(change)).await.is_err() { return },
                None => return,
            },
        }
    }
}

impl World {
    /// Does a request. `None`: the connection is closed instead of an answer.
    fn store_arrives(&mut self, at: ProcessAt, request: &StoreRequest, asker_waits: bool) -> Option<StoreAnswer> {
        self.coverage.mark(NetMark::StoreRequests);
        self.note(5, at as u64, 0);
        request.hash(&mut self.hash);
        if self.store.refuses.is_some() {
            return Some(Err(StoreFailure::NotDone));
        }
        if !self.processes[at].alive {
            self.coverage.mark(NetMark::LateWrite);
        } else if !asker_waits {
            self.coverage.mark(NetMark::LateForAsker);
        }
        let store_now = self.store.clock.now(self.now());
        self.say(|| format!("store {:?} {request:?}", self.processes[at].number));
        let reply = self.store.model.apply(store_now, request);
        reply.hash(&mut self.hash);
        self.say(|| format!("store answers {reply:?}"));
        self.store_changed();
        let slot = &mut self.slots[self.processes[at].slot];
        if slot.lose_replies > 0 {
            slot.lose_replies -= 1;
            self.coverage.mark(NetMark::ReplyLost);
            self.link_trouble(at, Link::Store, true);
            self.link_trouble(at, Link::Store, false);
            return None;
        }
        self.cover_reply(&reply);
        Some(Ok(reply))
    }

    /// After a transaction: its events and the state go to the checkers, and what changed to those that watch.
    pub(super) fn store_changed(&mut self) {
        let now = self.now();
        let events: Vec<history::Event> = self.store.model.drain_events().collect();
        let mut change = Change::default();
        for event in &events {
            self.cover_event(event);
            event.hash(&mut self.hash);
            self.say(|| format!("    {event:?}"));
            self.checks.fact(now, event);
            self.compare_answer(event);
            match event {
                E::Freed { .. } => change.free_lines = true,
                E::BatchLoaded { .. } | E::BatchHeld { held: false, .. } => change.batches = true,
                E::BatchEnded { .. } => change.ended = true,
                E::BatchAborted { batch, .. } => {
                    change.ended = true;
                    change.aborted.push(*batch);
                }
                E::LeaseTaken { .. } => change.leases = true,
                _ => {}
            }
        }
        self.checks.step(now, &mut self.store.model);
        self.stop_on_violation();
        if change != Change::default() && self.schedule.options.notify {
            self.store.watchers.retain(|watcher| watcher.send(change.clone()).is_ok());
        }
        self.look_for_end();
    }

    /// Notes when the last batch ended.
    pub(super) fn look_for_end(&mut self) {
        let over = self.submitted == self.rows.len() && !self.store.model.has_open_batch() && !self.owes_calls();
        if over && self.ended_at.is_none() {
            let now = self.now();
            self.ended_at = Some(now);
            self.plan(now + self.schedule.options.linger_us, Action::Look);
        }
    }

    /// Whether an end is yet to be told.
    pub(super) fn owes_calls(&self) -> bool {
        self.schedule.options.calls && self.store.model.has_undelivered_call()
    }

    fn cover_event(&mut self, event: &history::Event) {
        let mark = match event {
            E::Freed { why: FreedWhy::Recovered, .. } => NetMark::RecoveredSpan,
            E::Freed { why: FreedWhy::TimedOut, .. } => NetMark::TimedOutRow,
            E::Recorded { why: RecordedWhy::CrashedTooOften, .. } => NetMark::PoisonFailed,
            E::LeaseEnded { how: LeaseEnd::Lapsed, .. } => NetMark::JudgedLapsed,
            E::LeaseEnded { how: LeaseEnd::Died, .. } => NetMark::JudgedDied,
            E::LeaseEnded { how: LeaseEnd::TakenOver, .. } => NetMark::TakenOver,
            E::BatchEnded { .. } if self.healed => NetMark::EndedInLiveness,
            _ => return,
        };
        self.coverage.mark(mark);
    }

    fn cover_reply(&mut self, reply: &StoreReply) {
        match reply {
            StoreReply::SettleClaim(grants, _) if !grants.is_empty() => self.coverage.mark(NetMark::SettledWithGrants),
            StoreReply::Record(verdicts) => {
                for verdict in verdicts {
                    match verdict {
                        Verdict::Fenced => self.coverage.mark(NetMark::FencedOutcome),
                        Verdict::RecordedBefore => self.coverage.mark(NetMark::RecordedBefore),
                        Verdict::Recorded(_) => {}
                    }
                }
            }
            _ => {}
        }
    }
}
