//! `sim`: the simulator's command, for looking for failing schedules and at them.

mod commands;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = commands::Cli::parse().command;
    sim::explore::quiet_panics();
    match command.run() {
        Ok(end) => end.into(),
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::from(commands::USAGE)
        }
    }
}
