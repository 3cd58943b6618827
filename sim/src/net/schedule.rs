//! A run of level 2 as plain data.

use std::fmt;

use super::fault::{NetFault, draw_faults};
use crate::draw::Draw;
use crate::fault::Fault;
use crate::options::Options;
use crate::schedule::Schedule;

/// Everything that decides a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSchedule {
    /// Decides rows, latencies, clocks, and which task runs first.
    pub seed: u64,
    /// What the run is like.
    pub options: Options,
    /// A store request is waited for so long, whoever asks may give up sooner.
    pub answer_limit_us: u64,
    /// What goes wrong, in order of time (microseconds from the start).
    pub faults: Vec<(u64, NetFault)>,
}

const PURPOSE_NET: u64 = 6;

impl NetSchedule {
    /// The schedule of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut draw = Draw::new(seed, PURPOSE_NET);
        let mut options = Options::from_seed(seed);
        options.liveness = draw.chance(750);
        // Connections have no slow messages of their own: that is a fault here.
        options.slow_messages_per_mille = 0;
        // What this level does not do is not drawn, either.
        options.joins_us = Vec::new();
        options.lost_per_mille = 0;
        options.witness_rate = 1_000_000;
        options.inner_us = 0;
        let answer_limit_us = options.request_timeout_us * draw.pick(&[1, 2, 4]);
        let faults = draw_faults(seed, &options);
        Self { seed, options, answer_limit_us, faults }
    }

    /// The same as far as level 1 knows it: for the bounds of what may take how long.
    pub(super) fn as_level_one(&self) -> Schedule {
        let jump = |(at, fault): &(u64, NetFault)| match *fault {
            NetFault::StoreClockJump { by_us } => Some((*at, Fault::StoreClockJump { by_us })),
            _ => None,
        };
        let faults = self.faults.iter().filter_map(jump).collect();
        Schedule { seed: self.seed, options: self.options.clone(), faults }
    }

    /// For how long processes stand still, all in all.
    pub(super) fn pauses_us(&self) -> u64 {
        let pauses = self.faults.iter().map(|(_, fault)| match fault {
            NetFault::Pause { for_us, .. } => *for_us,
            _ => 0,
        });
        pauses.sum()
    }

    /// When faults stop: they are placed where the work is, so this hardly ever cuts work short.
    pub(super) fn heal_at_us(&self) -> u64 {
        let ends = self.faults.iter().map(|(at, fault)| at + fault.lasts_us()).max().unwrap_or(0);
        let submitted = self.options.batches.iter().map(|batch| batch.submit_at_us).max().unwrap_or(0);
        ends.max(submitted).max(self.options.expected_us()) + 1
    }
}

impl fmt::Display for NetSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lists are the only thing that Debug prints otherwise than source.
        f.write_str(&format!("{self:#?}").replace(": [", ": vec!["))
    }
}
