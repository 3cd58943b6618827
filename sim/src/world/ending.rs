//! Faults stop; a random core of workers is whole; everything must end.

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::outcome::BACKOFF_MAX;
use fencepost_core::rules::recovery::r2_witness_limit;
use fencepost_model::check::{Bounds, Told};
use fencepost_model::history;

use super::World;
use super::messages::Cut;
use crate::coverage::Mark;
use crate::fault::{Away, Fault, Way};
use crate::options::Options;
use crate::rows::{Nature, RowPlan};
use crate::schedule::Schedule;

impl World<'_> {
    /// When faults stop: they are placed where the work is, so this hardly ever cuts work short.
    pub(super) fn heal_at(&self) -> u64 {
        let submitted = self.schedule.options.batches.iter().map(|batch| batch.submit_at_us).max().unwrap_or(0);
        let joined = self.schedule.options.joins_us.iter().copied().max().unwrap_or(0);
        let faults = self.schedule.faults_end_us().max(joined);
        faults.max(submitted).max(self.schedule.options.expected_us()) + 1
    }

    /// From now on nothing more breaks. Some workers are whole, at least one; the others stay as broken as they are, or get
    /// a last fault that is never mended.
    pub(super) fn heal(&mut self) {
        self.bring_servers_back(u64::MAX);
        let is_core = |slot: usize| self.schedule.options.core >> slot & 1 == 1;
        let mut core: Vec<usize> = (0..self.slots.len()).filter(|slot| is_core(*slot)).collect();
        if core.is_empty() {
            core.push(self.number_of(&[0xc0de]) as usize % self.slots.len());
        }
        for slot in 0..self.slots.len() {
            if !core.contains(&slot) {
                self.break_slot(slot);
            }
        }
        self.healed = true;
        for slot in &core {
            self.heal_slot(*slot);
        }
        self.break_witness(&core);
        self.end_holds(u64::MAX);
        self.end_appends(u64::MAX);
        self.deadline = self.now + progress_bound_us(self.schedule, self.rows.iter().flatten().copied());
        self.fact(history::Event::FaultsStopped);
        self.look_for_end();
    }

    /// In about half of the schedules the second witness stays broken for ever, one way or another: it is optional.
    fn break_witness(&mut self, core: &[usize]) {
        if !self.schedule.options.liveness {
            return;
        }
        let drawn = self.number_of(&[0x3ed15]);
        match drawn % 8 {
            0 => {
                self.coverage.mark(Mark::WitnessRefusesForEver);
                self.witness_away(Away::Refuses, u64::MAX);
            }
            1 => {
                self.coverage.mark(Mark::WitnessStallsForEver);
                self.witness_away(Away::Stalls, u64::MAX);
            }
            2 => {
                self.coverage.mark(Mark::WitnessLoopsForEver);
                self.loop_witness_for_ever();
            }
            3 => {
                self.coverage.mark(Mark::WitnessCutForEver);
                let ways = [Way::Both, Way::Requests, Way::Replies];
                let way = ways[(drawn >> 8) as usize % ways.len()];
                for slot in core {
                    self.cut_witness(*slot, Cut { way, loud: false, until: u64::MAX });
                }
            }
            _ => {}
        }
    }

    /// Notes when the last batch ended.
    pub(super) fn look_for_end(&mut self) {
        if self.submitted == self.rows.len() && !self.store.has_open_batch() && !self.owes_calls() {
            self.ended_at.get_or_insert(self.now);
        } else {
            // A retry may have opened one again.
            self.ended_at = None;
        }
    }

    /// All batches have ended, for as long as the run lingers, and no operator is to come.
    pub(super) fn is_over(&self) -> bool {
        let lingered = self.ended_at.is_some_and(|ended| self.now >= ended + self.schedule.options.linger_us);
        lingered && self.now >= self.operators_until
    }

    /// For the report of a run that does not end.
    pub(super) fn what_is_open(&self) -> String {
        let view = self.store.view();
        let open = view.batches.iter().filter(|batch| batch.status == BatchStatus::Open);
        let spans: Vec<String> = open.map(|batch| format!("{} {:?}", batch.batch, batch.spans)).collect();
        format!("open long after all faults stopped: {}", spans.join("; "))
    }
}

/// What the checkers allow.
pub(crate) fn bounds(schedule: &Schedule, rows: impl Iterator<Item = RowPlan>) -> Bounds {
    let options = &schedule.options;
    // A request on its way, and clocks that are a tenth slow.
    let slack = options.request_timeout_us + (2 * options.ttl_us + options.scan_us + options.renew_us) / 8;
    // A silent second witness is waited for once for all that lapsed together: those who come meanwhile wait for two answers, and
    // a look that grew too old by that is had anew.
    let (renew, limit) = (Duration::from_micros(options.renew_us), Duration::from_micros(options.request_timeout_us));
    let unheard = if options.liveness {
        u64::try_from(r2_witness_limit(renew, limit).as_micros()).unwrap_or(u64::MAX)
    } else {
        0
    };
    let slack = slack + unheard * 3 * 9 / 8;
    Bounds {
        recovery_slack: Duration::from_micros(slack),
        progress: Duration::from_micros(progress_bound_us(schedule, rows)),
        abort_notice: Duration::from_micros(abort_notice_us(options)),
        abort_notice_slow: Duration::from_micros(abort_notice_us(options) * 1_000_000 / slowest_millionths(schedule)),
        abort_told: options
            .notify
            .then(|| Told { within: Duration::from_micros(options.latency_us_max + 2), connected_for: Duration::ZERO }),
    }
}

/// The rate of the slowest clock of a process.
fn slowest_millionths(schedule: &Schedule) -> u64 {
    let drawn = 1_000_000 - schedule.options.clock_spread;
    let rates = schedule.faults.iter().filter_map(|(_, fault)| match fault {
        Fault::ClockRate { millionths, .. } => Some(*millionths),
        _ => None,
    });
    rates.fold(drawn, u32::min).into()
}

/// S2 without a notification: the core hears of an abort with the first renewal after its keeper was told what it holds.
fn abort_notice_us(options: &Options) -> u64 {
    (options.renew_us + options.ttl_us / 8) * 5 / 4 + 500_000 + 4 * options.request_timeout_us + options.inner_us * 2
}

/// Far more than anything should take, and still an end: one worker does everything, every death waits for its judge.
pub(crate) fn progress_bound_us(schedule: &Schedule, rows: impl Iterator<Item = RowPlan>) -> u64 {
    let options = &schedule.options;
    let longest = options.batches.iter().map(|batch| batch.timeout_us).max().unwrap_or(0) + options.cancel_grace_us;
    let retries = schedule.faults.iter().filter(|(_, fault)| matches!(fault, Fault::Retry { .. })).count() as u64;
    let attempts = u64::from(options.batches.iter().map(|batch| batch.attempts_max).max().unwrap_or(1)) * (1 + retries);
    let (mut work, mut deaths) = (0, 8);
    let appended = schedule.faults.iter().map(|(_, fault)| match fault {
        Fault::Append { rows, .. } => usize::from(*rows),
        _ => 0,
    });
    let appended = std::iter::repeat_n(RowPlan::plain(options), appended.sum());
    for row in rows.chain(appended) {
        let run = if row.nature == Nature::Hangs { longest } else { row.run_us.min(longest) };
        work += (run + options.poll_us) * attempts;
        if matches!(row.nature, Nature::Retries(_) | Nature::Hangs) || row.run_us >= longest {
            work += 4_000_000 * attempts;
        }
        deaths += if row.kills() { 16 * (1 + retries) } else { 0 };
    }
    let recovery = 4 * options.ttl_us + 2 * options.scan_us + options.restart_us + options.poll_us;
    let jumped = schedule.faults.iter().any(|(_, fault)| matches!(fault, Fault::StoreClockJump { .. }));
    let backoff = if jumped { BACKOFF_MAX.as_micros() as u64 } else { 0 };
    // A call that was in many deaths waits long.
    let calls = if options.calls { 2 * BACKOFF_MAX.as_micros() as u64 } else { 0 };
    2 * (work + deaths * recovery) + backoff + calls + 60_000_000
}
