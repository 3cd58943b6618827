//! Runs of a worker: started while licensed (L4), cancelled at their timeout (O6), at the licence's end (L4), with their
//! lease (L6) or their batch (S2).

use std::collections::btree_map::Entry;
use std::time::Duration;

use super::{CancelCallReason, Licence, RunAnswer, RunKey, Worker, WorkerEffect, WorkerEvent};
use crate::ids::{BatchId, LeaseId};
use crate::rules::outcome::o6_deadline;
use crate::rules::poison::p2_others_first_until;
use crate::store::Answer;
use crate::time::Instant;

#[derive(Debug, Clone, Hash)]
pub(super) struct Run {
    pub(super) lease: LeaseId,
    /// Of its input.
    bytes: u64,
    started_at: Instant,
    deadline: Instant,
    cancelled: Option<CancelReason>,
    /// `deadline` is the end of the patience after a cancel, no longer the row's timeout.
    patience_counts: bool,
}

/// Why a run was cancelled: decides what becomes of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CancelReason {
    /// O6: an attempt.
    Timeout,
    /// L4: the line is given back, with no attempt used.
    Lapse,
    /// L6: the line is in other hands already.
    LeaseEnded,
    /// S2: the batch is over; the line is given back in case it is open again.
    BatchClosed,
    /// S1: dropping the lease frees the line.
    Stop,
}

/// The smoothing of the mean run time: each run counts one eighth.
const MEAN_SHARE: u32 = 8;

impl Worker {
    /// O2: a row's slot is free again once its run has ended and no write with an unknown end has its answer.
    pub(super) fn free_slots(&self) -> u32 {
        let busy = self.runs.len() + self.recording.lines_with_unknown_end();
        self.options.concurrency.saturating_sub(u32::try_from(busy).unwrap_or(u32::MAX))
    }

    pub(super) fn start_rows(&mut self, now: Instant) {
        let Some(lease) = self.licensed() else { return };
        if self.leaving.is_leaving() {
            return;
        }
        let mut slots = self.free_slots();
        while slots > 0 && !self.recording.is_full() {
            let Some((start, timeout)) = self.queue.pop() else { return };
            let (key, deadline) = (start.key, o6_deadline(now, timeout));
            slots -= 1;
            self.deadlines.insert((deadline, key));
            let bytes = start.input.len() as u64;
            let run = Run { lease, bytes, started_at: now, deadline, cancelled: None, patience_counts: false };
            let before = self.runs.insert(key, run);
            debug_assert!(before.is_none(), "L6: no token is run twice");
            if before.is_none() {
                self.running_bytes += bytes;
                *self.runs_of_leases.entry(lease).or_default() += 1;
            }
            self.effects.push_back(WorkerEffect::Start(start));
            self.holding_changed(now);
        }
    }

    /// L4: at the end of its licence a worker starts no more rows and cancels the running ones.
    pub(super) fn l4_end_licence(&mut self, now: Instant) {
        let Some(Licence { lease, ends, lapsed }) = &mut self.licence else { return };
        if *lapsed || now < *ends {
            return;
        }
        *lapsed = true;
        let lease = *lease;
        self.tell(WorkerEvent::Lapsed(lease));
        self.cancel_runs(now, CancelReason::Lapse, |_, run| run.lease == lease);
        // S2: what was not started is given back as well, and a claim under way is asked for anew: a batch may have been
        // aborted meanwhile, and the renewal that extends the licence need not tell.
        self.give_queued_back(lease, |_| true);
        self.doubt_claim(now);
        self.cancel_calls(now, Some(lease), CancelCallReason::Lapse);
    }

    /// L6: the lease is dead: cancel handlers, forget its spans; results in hand are still offered, and fenced.
    pub(super) fn l6_lease_ended(&mut self, now: Instant, lease: LeaseId) {
        if self.licence.as_ref().is_none_or(|licence| licence.lease != lease) {
            return;
        }
        self.licence = None;
        self.queue.clear();
        self.claim = super::ClaimState::Idle;
        self.alone = None;
        self.draining_for_suspect = false;
        if std::mem::take(&mut self.took_its_turn) {
            self.others_first_until = p2_others_first_until(now, self.options.timing.ttl, self.options.poll);
        }
        self.give_back.forget(lease);
        self.tell(WorkerEvent::LeaseEnded(lease));
        self.cancel_runs(now, CancelReason::LeaseEnded, |_, run| run.lease == lease);
        self.calling.forget_claim();
        self.cancel_calls(now, Some(lease), CancelCallReason::LeaseEnds);
    }

    /// S2: batches that are over: nothing of them is started any more, and running rows are cancelled. The news may be
    /// old and the batch open again (S5), so the lines are given back; where it is over, that does nothing.
    pub(super) fn s2_let_go(&mut self, now: Instant, closed: &[BatchId]) {
        if closed.is_empty() {
            return;
        }
        if let Some(lease) = self.licence.as_ref().map(|licence| licence.lease) {
            // What a claim under way is answered may be from before the news.
            self.doubt_claim(now);
            self.give_queued_back(lease, |batch| closed.contains(&batch));
            let of_these = |key: &RunKey, run: &Run| run.lease == lease && closed.contains(&key.batch);
            self.cancel_runs(now, CancelReason::BatchClosed, of_these);
        }
    }

    pub(super) fn cancel_runs(&mut self, now: Instant, why: CancelReason, which: impl Fn(&RunKey, &Run) -> bool) {
        let keys: Vec<RunKey> = self.runs.iter().filter(|(key, run)| which(key, run)).map(|(key, _)| *key).collect();
        for key in keys {
            self.cancel(key, why);
            self.wait_for_end(now, key);
        }
    }

    /// Cancels a run; a later reason replaces an earlier one, since it says what has become of the line since.
    fn cancel(&mut self, key: RunKey, why: CancelReason) {
        let Some(run) = self.runs.get_mut(&key) else { return };
        let why = match (run.cancelled, why) {
            // Its line is given back in either case, of a closed batch only once the run has ended.
            (Some(CancelReason::BatchClosed), CancelReason::Lapse) => CancelReason::BatchClosed,
            _ => why,
        };
        if run.cancelled.replace(why).is_none() {
            self.effects.push_back(WorkerEffect::Cancel(key));
        }
    }

    /// From its first cancel on, a run's patience counts.
    fn wait_for_end(&mut self, now: Instant, key: RunKey) {
        let Some(run) = self.runs.get_mut(&key).filter(|run| !run.patience_counts) else { return };
        run.patience_counts = true;
        self.deadlines.remove(&(run.deadline, key));
        run.deadline = now + self.options.cancel_grace;
        self.deadlines.insert((run.deadline, key));
    }

    /// O6, and runs that do not end although cancelled.
    pub(super) fn end_deadlines(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.deadlines.first()
            && at <= now
        {
            let patience_is_over = self.runs.get(&key).is_some_and(|run| run.patience_counts);
            self.deadlines.remove(&(at, key));
            if patience_is_over {
                self.effects.push_back(WorkerEffect::Abandon(key));
                self.abandon(now, key);
            } else {
                self.cancel(key, CancelReason::Timeout);
                self.wait_for_end(now, key);
            }
        }
    }

    /// A run did not end although it was cancelled: its slot is given up. S2: the line of a closed batch is given back only once its
    /// run has ended, since that is what tells the store so.
    fn abandon(&mut self, now: Instant, key: RunKey) {
        let of_closed = |run: &&Run| run.cancelled == Some(CancelReason::BatchClosed);
        let owes_line = self.runs.get(&key).filter(of_closed).map(|run| run.lease);
        if owes_line.is_some() {
            self.remove_run(key);
            // Nothing of the batch holds this worker up.
            self.alone.take_if(|alone| *alone == key);
            self.holding_changed(now);
        } else {
            self.run_ended(now, key, RunAnswer::Cancelled);
        }
        self.abandoned.insert(key, owes_line);
    }

    /// A run ended: its answer is offered, or its line given back or forgotten.
    pub(super) fn run_ended(&mut self, now: Instant, key: RunKey, answer: RunAnswer) {
        let Some(run) = self.remove_run(key) else {
            // An abandoned run's late end: its line is long decided, unless its batch was closed.
            if let Some(Some(lease)) = self.abandoned.remove(&key) {
                self.give_back.add(lease, key);
            }
            return;
        };
        self.holding_changed(now);
        let run_time = now.since(run.started_at);
        let jitter = self.random.next_u64();
        let answer = match (answer, run.cancelled) {
            (RunAnswer::Success(result), _) => Answer::Success(result),
            (RunAnswer::Failed(error), _) => Answer::Failed(error),
            (RunAnswer::Retry(error), _) => Answer::Retry { error, jitter, timed_out: false },
            (RunAnswer::Cancelled | RunAnswer::Interrupted, Some(CancelReason::Timeout)) => {
                let error = format!("timed out after {:.3} s", run_time.as_secs_f64()).into_boxed_str();
                Answer::Retry { error, jitter, timed_out: true }
            }
            (RunAnswer::Interrupted, None) => {
                self.give_back.add(run.lease, key);
                return;
            }
            (RunAnswer::Cancelled, None) => {
                let error = Box::from("the handler gave the row up without being asked to");
                Answer::Retry { error, jitter, timed_out: false }
            }
            (RunAnswer::Cancelled | RunAnswer::Interrupted, Some(CancelReason::Lapse | CancelReason::BatchClosed)) => {
                self.give_back.add(run.lease, key);
                return;
            }
            (RunAnswer::Cancelled | RunAnswer::Interrupted, Some(CancelReason::LeaseEnded | CancelReason::Stop)) => {
                if self.alone == Some(key) {
                    self.alone = None;
                }
                return;
            }
        };
        self.measure(run_time);
        self.offer(now, run.lease, key, answer, run_time);
    }

    fn remove_run(&mut self, key: RunKey) -> Option<Run> {
        let run = self.runs.remove(&key)?;
        self.running_bytes -= run.bytes;
        if let Entry::Occupied(mut of_lease) = self.runs_of_leases.entry(run.lease) {
            *of_lease.get_mut() -= 1;
            if *of_lease.get() == 0 {
                of_lease.remove();
            }
        }
        self.deadlines.remove(&(run.deadline, key));
        Some(run)
    }

    fn measure(&mut self, run_time: Duration) {
        self.mean_run_time = Some(match self.mean_run_time {
            None => run_time,
            Some(mean) => (mean * (MEAN_SHARE - 1) + run_time) / MEAN_SHARE,
        });
    }
}
