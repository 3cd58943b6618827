//! `sim exhaustive`

use std::num::NonZero;
use std::thread;

use clap::Args;

use super::End;

#[derive(Debug, Args)]
pub struct Exhaustive {
    /// So many at once [default: one per processor]
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
}

impl Exhaustive {
    pub fn run(&self) -> End {
        let jobs = self.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get));
        End::of(sim::exhaustive::all(jobs, |line| print!("{line}")).as_ref())
    }
}
