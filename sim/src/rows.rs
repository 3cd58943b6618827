//! What the simulated handlers do with each row.

use fencepost_core::worker::RunAnswer;

use crate::draw::Draw;
use crate::options::Options;

/// A row's nature: the same on every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// It succeeds.
    Succeeds,
    /// It fails for good.
    Fails,
    /// It asks to be tried again so many times, then succeeds.
    Retries(u32),
    /// It ends only when cancelled.
    Hangs,
    /// It kills its process, at once or half way.
    Poison {
        /// At its very start.
        at_once: bool,
    },
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlan {
    /// What it does.
    pub nature: Nature,
    /// How long it takes.
    pub run_us: u64,
    /// It does not listen to a cancel.
    pub deaf: bool,
}

impl RowPlan {
    /// An appended row: nothing odd.
    pub fn plain(options: &Options) -> Self {
        Self { nature: Nature::Succeeds, run_us: options.run_us_max.max(1), deaf: false }
    }

    /// What a run that goes to its end answers.
    pub fn answer(&self, attempt: u32) -> Option<RunAnswer> {
        match self.nature {
            Nature::Succeeds | Nature::Poison { .. } => Some(RunAnswer::Success("1".into())),
            Nature::Fails => Some(RunAnswer::Failed("no".into())),
            Nature::Retries(times) if attempt <= times => Some(RunAnswer::Retry("again".into())),
            Nature::Retries(_) => Some(RunAnswer::Success("2".into())),
            Nature::Hangs => None,
        }
    }

    /// Whether it kills its process.
    pub fn kills(&self) -> bool {
        matches!(self.nature, Nature::Poison { .. })
    }
}

const PURPOSE_ROWS: u64 = 3;

/// The plans of all rows, by batch and line.
pub fn plan_rows(seed: u64, options: &Options) -> Vec<Vec<RowPlan>> {
    let mut draw = Draw::new(seed, PURPOSE_ROWS);
    let plan = |draw: &mut Draw| plan_row(draw, options);
    let mut plans: Vec<Vec<RowPlan>> =
        options.batches.iter().map(|batch| (0..batch.rows).map(|_| plan(&mut draw)).collect()).collect();
    for _ in 0..options.poison_rows {
        poison_one(&mut draw, &mut plans);
    }
    plans
}

fn poison_one(draw: &mut Draw, plans: &mut [Vec<RowPlan>]) {
    let batch = draw.below(plans.len() as u64) as usize;
    let line = draw.below(plans[batch].len() as u64) as usize;
    let at_once = draw.chance(500);
    if let Some(row) = plans[batch].get_mut(line) {
        row.nature = Nature::Poison { at_once };
    }
}

fn plan_row(draw: &mut Draw, options: &Options) -> RowPlan {
    let ordinary = draw.between(options.run_us_min, options.run_us_max);
    let run_us = if draw.chance(options.slow_per_mille) { options.run_us_max * 10 } else { ordinary };
    let kind = draw.below(1000);
    let times = draw.pick(&[1, 1, 2, u32::MAX]);
    let (fails, retries) = (options.failing_per_mille, options.retrying_per_mille);
    let nature = match kind {
        _ if kind < fails => Nature::Fails,
        _ if kind < fails + retries => Nature::Retries(times),
        _ if kind < fails + retries + options.hanging_per_mille => Nature::Hangs,
        _ => Nature::Succeeds,
    };
    RowPlan { nature, run_us: run_us.max(1), deaf: draw.chance(options.deaf_per_mille) }
}
