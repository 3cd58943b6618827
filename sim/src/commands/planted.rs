//! `sim planted`

use clap::Args;
use sim::explore::find_planted;
use sim::planted::PlantedBug;

use super::End;

#[derive(Debug, Args)]
pub struct Planted {
    /// At most so many for each
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    schedules: u64,
}

impl Planted {
    pub fn run(&self) -> End {
        for bug in PlantedBug::ALL {
            match find_planted(bug, 0..self.schedules) {
                Some((seed, violation)) => println!("{bug}: {} schedules, {violation:.200}", seed + 1),
                None => println!("{bug}: not found in {}", self.schedules),
            }
        }
        End::Holds
    }
}
