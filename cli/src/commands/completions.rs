//! `fencepost completions`

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use super::failure::{Exit, Failure};
use super::print;

pub fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fencepost", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
