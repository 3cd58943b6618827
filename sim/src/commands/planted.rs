//! `sim planted`

use std::num::NonZero;
use std::thread;

use clap::Args;
use sim::checks::Kind;
use sim::planted::table;

use super::End;

#[derive(Debug, Args)]
pub struct Planted {
    /// At most so many for each
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    schedules: u64,
}

impl Planted {
    /// A bug that is not found counts as a violation: some check is missing.
    pub fn run(&self) -> End {
        let jobs = thread::available_parallelism().map_or(1, NonZero::get);
        if table(self.schedules, jobs, |line| print!("{line}")) { End::Holds } else { End::Violated(Kind::Safety) }
    }
}
