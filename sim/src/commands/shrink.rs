//! `sim shrink`

use std::path::PathBuf;

use clap::Args;
use sim::explore::Failure;
use sim::schedule::file::{self, FileError};

use super::{End, Which};

#[derive(Debug, Args)]
pub struct Shrink {
    #[command(flatten)]
    which: Which,
    /// Write it there as a file, instead of printing a test
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Shrink {
    pub fn run(&self) -> Result<End, FileError> {
        let (schedule, bug) = (self.which.schedule()?, self.which.planted.bug);
        let Some(violation) = sim::run_planted(&schedule, bug).violation else {
            println!("all checks hold: there is nothing to shrink");
            return Ok(End::Holds);
        };
        let failure = Failure::of(&schedule, violation, bug);
        match &self.out {
            None => print!("{failure}"),
            Some(path) => {
                file::write(path, &failure.shrunk)?;
                println!("shrunk, it violates {}", failure.shrunk_violation);
                let planted = bug.map(|bug| format!(" --planted {bug}")).unwrap_or_default();
                println!("replay:  cargo run -p sim -- replay {}{planted}", path.display());
                println!("draw:    cargo run -p sim -- timeline {}{planted}", path.display());
            }
        }
        Ok(End::of(Some(&failure.violation)))
    }
}
