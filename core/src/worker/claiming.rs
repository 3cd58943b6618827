//! C: claims of a worker. One claim at a time; one whose end is unknown is settled before the next.

use std::sync::Arc;

use super::queue::QueuedSpan;
use super::{RunKey, Worker, WorkerEffect};
use crate::ids::{LeaseId, RequestId};
use crate::keeper::KeeperCommand;
use crate::rules::claim::{c3_claim_bytes, c3_claim_lines, c3_lines_ahead, c3_newcomer_lines};
use crate::store::{Claim, ClaimReply, Grant, StoreFailure, StoreReply, StoreRequest};
use crate::time::Instant;

#[derive(Debug, Clone, Hash)]
pub(super) enum ClaimState {
    Idle,
    Asked {
        id: RequestId,
        lease: LeaseId,
        number: u64,
        /// P2: it was asked by an idle worker that may run a row alone.
        idle: bool,
        sent_at: Instant,
    },
    /// C2: the claim's end is unknown; `asked` is the settling under way, or it is tried again at `next_at`.
    Settling {
        lease: LeaseId,
        number: u64,
        asked: Option<(RequestId, Instant)>,
        next_at: Instant,
    },
}

impl Worker {
    pub(super) fn claim_timeout(&self) -> Option<Instant> {
        match &self.claim {
            ClaimState::Asked { sent_at, .. } => Some(*sent_at + self.request_limit()),
            ClaimState::Settling { asked: Some((_, sent_at)), .. } => Some(*sent_at + self.request_limit()),
            ClaimState::Settling { next_at, .. } => Some(*next_at),
            ClaimState::Idle => {
                let lines = self.wants_lines()?;
                let at = if lines == 0 { self.drain_look_at } else { self.next_claim_at };
                let waits_for_turn = self.refused_while_busy && self.is_idle();
                Some(if waits_for_turn { at.min(self.others_first_until) } else { at })
            }
        }
    }

    /// C3: how many lines to claim now, if any. While it drains for a suspect (P2) a worker asks for none, only whether the
    /// suspect still waits.
    fn wants_lines(&self) -> Option<u64> {
        let lease = self.licensed().filter(|_| self.options.rows)?;
        let runs_of_old_leases = self.runs_of_leases.keys().any(|of| *of != lease);
        if self.leaving.is_leaving() || self.alone.is_some() || runs_of_old_leases || self.recording.is_full() {
            return None;
        }
        if self.is_draining() {
            return Some(0);
        }
        let options = &self.options;
        self.claim_bytes()?;
        let (concurrency, horizon, lines_max) = (options.concurrency, options.horizon, options.claim_lines_max);
        let ahead = c3_lines_ahead(self.mean_run_time, concurrency, horizon).min(lines_max);
        let unstarted = self.queue.rows();
        // The next span is fetched while this one runs, but not line by line.
        let lines = if unstarted == 0 || unstarted * 2 <= ahead {
            c3_claim_lines(self.mean_run_time, concurrency, self.free_slots(), horizon, unstarted, lines_max)
        } else if self.newcomer_waits {
            c3_newcomer_lines(ahead, concurrency, unstarted, lines_max)
        } else {
            0
        };
        (lines > 0).then_some(lines)
    }

    /// C3: how many bytes of inputs to claim now, if any.
    fn claim_bytes(&self) -> Option<u64> {
        c3_claim_bytes(self.held_bytes(), self.options.claim_bytes_max, self.options.held_bytes_max)
    }

    /// P2: waits to be idle, for a suspect that only an idle worker may take. Who would wait for an abandoned run or call to end
    /// might wait for ever: others take the suspect.
    pub(super) fn is_draining(&self) -> bool {
        let given_up = !self.abandoned.is_empty() || self.calling.has_given_up();
        self.draining_for_suspect && !given_up && !self.is_idle()
    }

    /// Puts off both kinds of question.
    fn claim_later(&mut self, at: Instant) {
        self.next_claim_at = at;
        self.drain_look_at = at;
    }

    pub(super) fn claim_lines(&mut self, now: Instant) {
        if let ClaimState::Settling { lease, number, asked: None, next_at } = self.claim
            && now >= next_at
        {
            let id = self.ask(StoreRequest::SettleClaim { lease, number });
            self.claim = ClaimState::Settling { lease, number, asked: Some((id, now)), next_at };
        }
        if !matches!(self.claim, ClaimState::Idle) {
            return;
        }
        let (Some(lines_max), Some(lease)) = (self.wants_lines(), self.licensed()) else { return };
        let idle = self.may_run_alone(now);
        let at = if lines_max == 0 { self.drain_look_at } else { self.next_claim_at };
        if now < at && !(idle && (self.draining_for_suspect || self.refused_while_busy)) {
            return;
        }
        self.draining_for_suspect &= !idle;
        self.refused_while_busy = false;
        self.newcomer_waits &= lines_max == 0;
        self.took_its_turn |= idle;
        self.last_claim_number += 1;
        let number = self.last_claim_number;
        let id = self.ask(StoreRequest::Claim(Claim {
            lease,
            number,
            operations: self.options.operations.clone(),
            lines_max,
            bytes_max: self.claim_bytes().unwrap_or(self.options.claim_bytes_max),
            idle,
        }));
        self.claim = ClaimState::Asked { id, lease, number, idle, sent_at: now };
    }

    pub(super) fn time_out_claim(&mut self, now: Instant) {
        let limit = self.request_limit();
        match &mut self.claim {
            ClaimState::Asked { lease, number, sent_at, .. } if now >= *sent_at + limit => {
                self.claim = ClaimState::Settling { lease: *lease, number: *number, asked: None, next_at: now };
            }
            ClaimState::Settling { asked, next_at, .. } if asked.is_some_and(|(_, sent_at)| now >= sent_at + limit) => {
                *asked = None;
                *next_at = now;
            }
            _ => {}
        }
    }

    /// Returns whether the reply was for a claim; its rows are taken out of it then.
    pub(super) fn claim_answered(
        &mut self,
        now: Instant,
        id: RequestId,
        reply: &mut Result<StoreReply, StoreFailure>,
    ) -> bool {
        match &self.claim {
            ClaimState::Asked { id: asked, lease, number, idle, .. } if *asked == id => {
                let (lease, number, idle) = (*lease, *number, *idle);
                self.claim = ClaimState::Idle;
                match reply {
                    Ok(StoreReply::Claim(reply)) if *reply != ClaimReply::Closed => {
                        self.claimed(now, idle, std::mem::replace(reply, ClaimReply::Closed))
                    }
                    Err(StoreFailure::NotDone) => self.claim_later(now + self.retry_after()),
                    // C2: unknown is never guessed. A number found closed may have taken lines when the same request
                    // arrived before.
                    _ => self.claim = ClaimState::Settling { lease, number, asked: None, next_at: now },
                }
                true
            }
            ClaimState::Settling { lease, number, asked: Some((asked, _)), .. } if *asked == id => {
                let (lease, number) = (*lease, *number);
                if let Ok(StoreReply::SettleClaim(grants, stopped)) = reply {
                    self.claim = ClaimState::Idle;
                    self.accept(now, std::mem::take(grants));
                    self.s2_give_stopped_back(lease, stopped);
                } else {
                    let next_at = now + self.retry_after();
                    self.claim = ClaimState::Settling { lease, number, asked: None, next_at };
                }
                true
            }
            _ => false,
        }
    }

    fn claimed(&mut self, now: Instant, asked_idle: bool, reply: ClaimReply) {
        match reply {
            ClaimReply::Granted { grants, suspect_waits, next_after, open_lines } => {
                let was_draining = self.is_draining();
                // An idle worker that was given nothing, and not the suspect either, asks again like any other.
                let others_first = now < self.others_first_until;
                self.draining_for_suspect = suspect_waits && !others_first && !(asked_idle && grants.is_empty());
                self.drain_look_at = now + self.options.poll.max(CLAIM_AGAIN_MIN);
                // A worker that holds a suspect range gets no other: it asks again as soon as it is idle.
                self.refused_while_busy = grants.is_empty() && !asked_idle;
                if was_draining && !suspect_waits {
                    // Another took it, or it is done with: on with the rest.
                    self.next_claim_at = now;
                } else if grants.is_empty() {
                    let wait = next_after
                        .unwrap_or(self.options.poll)
                        .clamp(CLAIM_AGAIN_MIN, self.options.poll.max(CLAIM_AGAIN_MIN));
                    self.next_claim_at = now + wait;
                    // Runs that were given up and do not end are decided: they keep nobody here.
                    if self.options.until_done && !open_lines && self.owes_nothing() {
                        if self.makes_calls() {
                            // S7: not before they are made, which the store tells together with whether lines are open.
                            self.calling.wake(now);
                        } else {
                            self.s1_stop(now, super::ExitReason::Done);
                        }
                    }
                } else {
                    self.next_claim_at = now;
                }
                self.accept(now, grants);
            }
            // The keeper is to hear of the lease's end: only it can take another.
            ClaimReply::Closed | ClaimReply::LeaseEnded => {
                self.claim_later(now + self.retry_after());
                self.effects.push_back(WorkerEffect::Keeper(KeeperCommand::RenewNow));
            }
        }
    }

    /// C2: whatever a claim under way is answered from now on is old news: it is settled.
    pub(super) fn doubt_claim(&mut self, now: Instant) {
        match &mut self.claim {
            ClaimState::Idle => {}
            ClaimState::Asked { lease, number, .. } => {
                self.claim = ClaimState::Settling { lease: *lease, number: *number, asked: None, next_at: now };
            }
            ClaimState::Settling { asked, next_at, .. } => {
                *asked = None;
                *next_at = now;
            }
        }
    }

    /// Puts granted rows into the queue; a worker that is leaving (S1) or not licensed (L4) gives them back at once.
    fn accept(&mut self, now: Instant, grants: Vec<Grant>) {
        if !grants.is_empty() {
            self.holding_changed(now);
        }
        for grant in grants {
            if grant.alone
                && let [row] = grant.rows.as_slice()
            {
                debug_assert!(self.queue.rows() == 0 && self.runs.is_empty());
                self.alone = Some(RunKey { batch: grant.batch, line: row.line, token: grant.token });
            }
            self.queue.push(QueuedSpan {
                batch: grant.batch,
                token: grant.token,
                operation: Arc::from(grant.operation),
                recovered_from: grant.recovered_from.map(Arc::from),
                timeout: grant.timeout,
                rows: grant.rows.into(),
            });
        }
        if (self.leaving.is_leaving() || self.licensed().is_none())
            && let Some(lease) = self.licence.as_ref().map(|licence| licence.lease)
        {
            self.give_queued_back(lease, |_| true);
        }
    }
}

/// Claims that found nothing are not asked again sooner.
pub(super) const CLAIM_AGAIN_MIN: std::time::Duration = std::time::Duration::from_millis(10);
