//! `sim net` and `sim net-explore`: level 2.

use std::time::Instant;

use clap::Args;
use sim::net::coverage::NetMark;
use sim::net::explore::{NetFailure, explore};
use sim::net::run::{run, run_traced};
use sim::net::schedule::NetSchedule;

use super::End;

#[derive(Debug, Args)]
pub struct Net {
    /// Its seed
    seed: u64,
    /// Leave faults out first, as far as it fails without them
    #[arg(long)]
    shrunk: bool,
    /// Print no trace
    #[arg(long)]
    quiet: bool,
}

impl Net {
    pub fn run(&self) -> End {
        let schedule = self.schedule();
        println!("{schedule}");
        let run = if self.quiet { run(&schedule) } else { run_traced(&schedule) };
        print!("{}", run.coverage);
        println!("hash {:016x}", run.hash);
        if let Some(violation) = &run.violation {
            println!("{violation}");
        }
        End::of(run.violation.as_ref())
    }

    fn schedule(&self) -> NetSchedule {
        let schedule = NetSchedule::from_seed(self.seed);
        if self.shrunk
            && let Some(violation) = run(&schedule).violation
        {
            return NetFailure::of(schedule, violation).shrunk;
        }
        schedule
    }
}

#[derive(Debug, Args)]
pub struct NetExplore {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::schedules())]
    schedules: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0, value_parser = super::first_seed())]
    from: u64,
    /// So many at once [default: one per processor]
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
}

impl NetExplore {
    pub fn run(&self) -> End {
        let began = Instant::now();
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let sweep = explore(self.from..self.from + self.schedules, jobs);
        let seconds = began.elapsed().as_secs_f64();
        print!("{}", sweep.coverage);
        let of = |mark| sweep.coverage.count(mark) as f64 / seconds;
        let (seeds, simulated) = (of(NetMark::Runs), of(NetMark::SimulatedSeconds));
        println!("{seconds:.1} s: {seeds:.0} seeds/s, {simulated:.0} simulated seconds/s");
        if let Some(failure) = &sweep.failure {
            println!("\n{failure}");
        }
        End::of(sweep.failure.as_ref().map(|failure| &failure.violation))
    }
}
