//! The commands, one module each, and what they share: which schedule is meant, and exit codes.

mod exhaustive;
mod explore;
mod model_check;
#[cfg(madsim)]
mod net;
mod original;
mod planted;
mod replay;
mod shrink;
mod timeline;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand};
use sim::checks::{Kind, Violation};
use sim::explore::Failure;
use sim::planted::PlantedBug;
use sim::schedule::Schedule;
use sim::schedule::file::{self, FileError};

const EXIT_CODES: &str = "\
Exit codes:
  0  everything holds
  1  a safety check failed: something happened that never may
  2  usage: an argument or a file is wrong
  3  a liveness check failed: something did not happen in time
  4  an assertion of the code itself failed (a panic)";

/// The exit code of wrong arguments and files; clap's own is the same.
pub const USAGE: u8 = 2;

/// Look for schedules of crashes, pauses, cut links and lost replies that break fencepost's rules, and look at those found.
#[derive(Debug, Parser)]
#[command(name = "sim", after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run many schedules, stop at the first that fails, and shrink it
    #[command(after_help = EXIT_CODES)]
    Explore(explore::Explore),
    /// Run one schedule again
    #[command(after_help = EXIT_CODES)]
    Replay(replay::Replay),
    /// Make a failing schedule small, and print or write it
    #[command(after_help = EXIT_CODES)]
    Shrink(shrink::Shrink),
    /// Draw a run as one HTML page
    #[command(after_help = EXIT_CODES)]
    Timeline(timeline::Timeline),
    /// Tell after how many schedules each planted bug is found
    #[command(after_help = EXIT_CODES)]
    Planted(planted::Planted),
    /// Run small settings with every single fault, and every pair of some, at every event
    #[command(after_help = EXIT_CODES)]
    Exhaustive(exhaustive::Exhaustive),
    /// Go through all interleavings of small scopes
    #[command(after_help = EXIT_CODES)]
    ModelCheck(model_check::ModelCheck),
    /// Tell which windows the protocol that ours descends from falls into
    Original(original::Original),
    /// Level 2: run one seed on the simulated network again
    #[cfg(madsim)]
    #[command(after_help = EXIT_CODES)]
    Net(net::Net),
    /// Level 2: run many seeds on the simulated network
    #[cfg(madsim)]
    #[command(after_help = EXIT_CODES)]
    NetExplore(net::NetExplore),
}

impl Command {
    pub fn run(&self) -> Result<End, FileError> {
        match self {
            Self::Explore(explore) => explore.run(),
            Self::Replay(replay) => replay.run(),
            Self::Shrink(shrink) => shrink.run(),
            Self::Timeline(timeline) => timeline.run(),
            Self::Planted(planted) => Ok(planted.run()),
            Self::Exhaustive(exhaustive) => Ok(exhaustive.run()),
            Self::ModelCheck(check) => Ok(check.run()),
            Self::Original(original) => Ok(original.run()),
            #[cfg(madsim)]
            Self::Net(net) => Ok(net.run()),
            #[cfg(madsim)]
            Self::NetExplore(explore) => Ok(explore.run()),
        }
    }
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Holds,
    Violated(Kind),
}

impl End {
    pub fn of(violation: Option<&Violation>) -> Self {
        violation.map_or(Self::Holds, |violation| Self::Violated(violation.kind()))
    }
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Holds => 0,
            End::Violated(Kind::Safety) => 1,
            End::Violated(Kind::Liveness) => 3,
            End::Violated(Kind::Panic) => 4,
        })
    }
}

/// A schedule by its seed, or in a file.
#[derive(Debug, Clone)]
enum Source {
    Seed(u64),
    File(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(seed) => Ok(Self::Seed(seed)),
            Err(_) if is_number => Err(format!("a seed is at most {}; a file of that name is ./{text}", u64::MAX)),
            Err(_) => Ok(Self::File(text.into())),
        }
    }
}

/// Which schedule.
#[derive(Debug, Args)]
struct Which {
    /// A seed, or the file of a schedule (./7 for a file whose name is a number)
    #[arg(value_name = "SEED|FILE")]
    source: Source,
    #[command(flatten)]
    planted: PlantedArg,
}

impl Which {
    fn schedule(&self) -> Result<Schedule, FileError> {
        match &self.source {
            Source::Seed(seed) => Ok(Schedule::from_seed(*seed)),
            Source::File(path) => file::read(path),
        }
    }

    /// The schedule, or where that fails and it is asked for a small one that fails in the same way.
    fn schedule_shrunk(&self, shrunk: bool) -> Result<Schedule, FileError> {
        let schedule = self.schedule()?;
        if shrunk && let Some(violation) = sim::run_planted(&schedule, self.planted.bug).violation {
            return Ok(Failure::of(&schedule, violation, self.planted.bug).shrunk);
        }
        Ok(schedule)
    }

    /// Whether it is in this file, under whatever name.
    fn is_file(&self, path: &Path) -> bool {
        let Source::File(own) = &self.source else { return false };
        own == path || own.canonicalize().is_ok_and(|own| path.canonicalize().is_ok_and(|path| own == path))
    }

    /// For names of files.
    fn name(&self) -> String {
        match &self.source {
            Source::Seed(seed) => format!("seed-{seed}"),
            Source::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// Which bug, if any.
#[derive(Debug, Args)]
struct PlantedArg {
    /// Plant a bug, to see how its failure looks
    #[arg(long = "planted", value_name = "NAME", ignore_case = true, value_parser = bugs())]
    bug: Option<PlantedBug>,
}

fn bugs() -> impl TypedValueParser<Value = PlantedBug> {
    let names = PossibleValuesParser::new(PlantedBug::all().iter().map(ToString::to_string));
    names.try_map(|name| PlantedBug::named(&name).ok_or("no such bug"))
}

/// Half of all numbers may be a first seed, a quarter of them may follow: sums and counters stay within their type.
fn first_seed() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..1 << 63)
}

/// Of none, everything would hold.
fn schedules() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..1 << 62)
}
