//! `sim explore`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use sim::coverage::Mark;
use sim::explore::{Failure, explore_planted};
use sim::schedule::file::{self, FileError};

use super::{End, PlantedArg};

#[derive(Debug, Args)]
pub struct Explore {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = super::schedules())]
    schedules: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0, visible_alias = "seed", value_parser = super::first_seed())]
    from: u64,
    /// So many at once [default: one per processor]
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Write a failing schedule, as drawn and shrunk, into this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    #[command(flatten)]
    planted: PlantedArg,
}

impl Explore {
    pub fn run(&self) -> Result<End, FileError> {
        if let Some(folder) = &self.save {
            // Before hours of work, not after.
            std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.clone(), source })?;
        }
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let began = Instant::now();
        let sweep = explore_planted(self.from..self.from + self.schedules, jobs, self.planted.bug);
        let seconds = began.elapsed().as_secs_f64();
        let schedules = sweep.coverage.count(Mark::Schedules) as f64;
        print!("{}", sweep.coverage);
        println!("{schedules} schedules in {seconds:.1} s: {:.0}/s", schedules / seconds);
        if let Some(failure) = &sweep.failure {
            print!("\n{failure}");
            self.save(failure)?;
        }
        Ok(End::of(sweep.failure.as_ref().map(|failure| &failure.violation)))
    }

    fn save(&self, failure: &Failure) -> Result<(), FileError> {
        let Some(folder) = &self.save else { return Ok(()) };
        let seed = failure.schedule.seed;
        let planted = failure.bug.map(|bug| format!("-{bug}")).unwrap_or_default();
        for (schedule, suffix) in [(&failure.schedule, ""), (&failure.shrunk, "-shrunk")] {
            let path = folder.join(format!("seed-{seed}{planted}{suffix}.json"));
            file::write(&path, schedule)?;
            println!("written: {}", path.display());
        }
        Ok(())
    }
}
