//! `fencepost man`

use clap::CommandFactory;

use super::args::{Cli, ManArgs};
use super::failure::{Exit, Failure};
use super::print;

pub fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    // Gives each command the options that all have.
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone().name(format!("fencepost-{name}")),
            None => return Err(Failure::new(Exit::Usage, format!("there is no command {name:?}")).help("see --help")),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot make the manual page").because(error))?;
    print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
