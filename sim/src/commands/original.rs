//! `sim original`

use clap::Args;

use super::End;

#[derive(Debug, Args)]
pub struct Original {
    /// At most so many schedules for each window
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    schedules: u64,
    /// Print the shrunk schedules as source for the tests instead
    #[arg(long, conflicts_with = "replay")]
    source: bool,
    /// Run one schedule again instead, and print what happens
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
}

impl Original {
    pub fn run(&self) -> End {
        if let Some(seed) = self.replay {
            let schedule = sim::original::schedule(seed);
            println!("{schedule}");
            sim::original::run_traced(&schedule).findings.iter().for_each(|finding| println!("{finding}"));
        } else if self.source {
            print!("{}", sim::original::source(self.schedules));
        } else {
            print!("{}", sim::original::table(self.schedules));
        }
        End::Holds
    }
}
