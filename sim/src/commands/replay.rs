//! `sim replay`

use clap::Args;
use sim::schedule::file::{self, FileError};
use sim::trace::Trace;

use super::{End, Which};

#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    which: Which,
    /// Shrink it first, if it fails
    #[arg(long)]
    shrunk: bool,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

impl Replay {
    pub fn run(&self) -> Result<End, FileError> {
        let (schedule, bug) = (self.which.schedule_shrunk(self.shrunk)?, self.which.planted.bug);
        print!("{}", file::to_json(&schedule));
        let mut trace = Trace::with_steps();
        let run = match self.trace {
            true => sim::run_traced(&schedule, bug, &mut trace),
            false => sim::run_planted(&schedule, bug),
        };
        for entry in &trace.entries {
            println!("{entry}");
        }
        print!("{}", run.coverage);
        println!("hash {:016x}, {} events, {} us", run.hash, run.events, run.end_us);
        match &run.violation {
            None => println!("all checks hold"),
            Some(violation) => println!("violates {violation}"),
        }
        Ok(End::of(run.violation.as_ref()))
    }
}
