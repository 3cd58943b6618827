//! A run as plain data.

pub mod file;
mod valid;

use std::fmt;

pub use self::valid::Impossible;

use crate::fault::{Fault, draw_faults};
use crate::options::Options;

/// Everything that decides a run. Debug-printed by [`fmt::Display`] as Rust source for a regression test;
/// [`file`] has it as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Decides rows, latencies, clocks.
    pub seed: u64,
    /// What the run is like.
    pub options: Options,
    /// What goes wrong, in order of time (microseconds from the start).
    pub faults: Vec<(u64, Fault)>,
}

impl Schedule {
    /// The schedule of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let options = Options::from_seed(seed);
        let faults = draw_faults(seed, &options);
        Self { seed, options, faults }
    }

    /// When the last fault's doing is over.
    pub fn faults_end_us(&self) -> u64 {
        self.faults.iter().map(|(at, fault)| at + fault.lasts_us()).max().unwrap_or(0)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lists are the only thing that Debug prints otherwise than source.
        f.write_str(&format!("{self:#?}").replace(": [", ": vec!["))
    }
}
