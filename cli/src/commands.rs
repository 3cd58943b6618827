//! The commands of `fencepost`: one module each.

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};

use self::args::{Cli, Command};
use self::failure::{Exit, Failure};
use crate::say::say;

mod abort;
mod append;
mod args;
mod calling;
mod completions;
mod config;
mod confirm;
mod demo;
mod doctor;
mod errors;
mod failure;
mod handover;
mod hint;
mod hold;
mod list;
mod load;
mod man;
mod migrate;
mod outlet;
mod overview;
mod purge;
mod redis;
mod results;
mod retry;
mod row_log;
mod rows;
mod run;
mod signals;
mod status;
mod store;
mod submit;
mod values;
mod verify;
mod wait;
mod worker;
mod workers;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let command = match config::configured(Cli::command(), &args) {
        Ok(command) => command,
        Err(error) => return end(Err(Failure::from_error(Exit::Usage, error)), false),
    };
    let cli = command.clone().try_get_matches_from(&args).and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.global.store_is_typed = matches.value_source("store") == Some(ValueSource::CommandLine);
        Ok(cli)
    });
    let cli = match cli {
        Ok(cli) => cli,
        Err(mut error) => {
            config::name_variable(&mut error, &command, &args);
            config::name_on_done(&mut error, &args);
            config::mask_value(&mut error);
            // Help and version go to stdout with code 0, mistakes to stderr with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let json = cli.command.wants_json();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Exit::Unexpected, "cannot start the async runtime").because(error);
            return end(Err(failure), json);
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    // Handlers that did not end when told are not waited for.
    runtime.shutdown_background();
    end(outcome, json)
}

async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => run::run(&global, args).await,
        Command::Submit(args) => submit::submit(&global, args).await,
        Command::Worker(args) => worker::worker(&global, args).await,
        Command::Status(args) => status::status(&global, args).await,
        Command::List(args) => list::list(&global, args).await,
        Command::Rows(args) => rows::rows(&global, args).await,
        Command::Results(args) => results::results(&global, args).await,
        Command::Wait(args) => wait::wait(&global, args).await,
        Command::Workers(args) => workers::workers(&global, args).await,
        Command::Verify(args) => verify::verify(&global, args).await,
        Command::Doctor(args) => doctor::doctor(&global, args).await,
        Command::Purge(args) => purge::purge(&global, args).await,
        Command::Hold(args) => hold::hold(&global, args, true).await,
        Command::Resume(args) => hold::hold(&global, args, false).await,
        Command::Append(args) => append::append(&global, args).await,
        Command::Abort(args) => abort::abort(&global, args).await,
        Command::Retry(args) => retry::retry(&global, args).await,
        Command::Errors(args) => errors::errors(&global, args).await,
        Command::Migrate(args) => migrate::migrate(&global, args).await,
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args),
        Command::Demo(args) => demo::demo(&global, args).await,
    }
}

impl Command {
    fn wants_json(&self) -> bool {
        match self {
            Self::Submit(args) => args.json,
            Self::Status(args) => args.json,
            Self::List(args) => args.json,
            Self::Rows(args) => args.json,
            Self::Workers(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Purge(args) => args.json,
            Self::Hold(args) | Self::Resume(args) => args.json,
            Self::Append(args) => args.json,
            Self::Abort(args) => args.json,
            Self::Retry(args) => args.json,
            Self::Errors(args) => args.json,
            Self::Migrate(args) => args.json,
            Self::Run(_) | Self::Worker(_) | Self::Results(_) | Self::Wait(_) => false,
            Self::Completions(_) | Self::Man(_) | Self::Demo(_) => false,
        }
    }
}

fn end(outcome: Result<Exit, Failure>, json: bool) -> ExitCode {
    let exit = match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            if json {
                crate::say::json(&failure.to_json().to_string());
            } else {
                say!("{failure}");
            }
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

/// Writes to stdout. A reader that has gone away (`| head`) ends the command quietly.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Unexpected, "cannot write to stdout").because(error))
        }
        _ => Ok(()),
    }
}
