//! `sim timeline`

use std::path::PathBuf;

use clap::Args;
use sim::schedule::file::FileError;
use sim::timeline;
use sim::trace::Trace;

use super::{End, Which};

#[derive(Debug, Args)]
pub struct Timeline {
    #[command(flatten)]
    which: Which,
    /// Shrink it first, if it fails
    #[arg(long)]
    shrunk: bool,
    /// Where to write the page [default: SEED or FILE's name with .html, here]
    #[arg(long, value_name = "PAGE")]
    out: Option<PathBuf>,
}

impl Timeline {
    pub fn run(&self) -> Result<End, FileError> {
        let path = self.out.clone().unwrap_or_else(|| format!("{}.html", self.which.name()).into());
        if self.which.is_file(&path) {
            return Err(FileError::Own { path });
        }
        let (schedule, bug) = (self.which.schedule_shrunk(self.shrunk)?, self.which.planted.bug);
        let mut trace = Trace::new();
        let run = sim::run_traced(&schedule, bug, &mut trace);
        let page = timeline::page(&schedule, bug, &run, &trace);
        std::fs::write(&path, page).map_err(|source| FileError::Write { path: path.clone(), source })?;
        println!("written: {}", path.display());
        match &run.violation {
            None => println!("all checks hold"),
            Some(violation) => println!("violates {violation}"),
        }
        Ok(End::of(run.violation.as_ref()))
    }
}
