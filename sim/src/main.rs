//! `sim explore --schedules N --jobs J --seed S`, `sim replay SEED [--shrunk]`, `sim planted`; of level 2 `sim net SEED [--quiet]` and
//! `sim net-explore`.

use std::process::ExitCode;
use std::time::Instant;

use sim::coverage::Mark;
use sim::explore::{Failure, explore, find_planted};
use sim::planted::PlantedBug;
use sim::run_traced;
use sim::schedule::Schedule;

const USAGE: &str = "usage: sim explore [--schedules N] [--jobs J] [--seed FIRST] | sim replay SEED [--shrunk] | sim planted [--schedules N] | sim net SEED [--quiet] | sim net-explore [--schedules N] [--jobs J] [--seed FIRST]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("explore") => explore_all(&args),
        Some("replay") => match args.get(1).and_then(|seed| seed.parse().ok()) {
            Some(seed) => replay(seed, args.iter().any(|arg| arg == "--shrunk")),
            None => usage(),
        },
        #[cfg(madsim)]
        Some("net") => match args.get(1).and_then(|seed| seed.parse().ok()) {
            Some(seed) => net(seed, args.iter().any(|arg| arg == "--quiet")),
            None => usage(),
        },
        #[cfg(madsim)]
        Some("net-explore") => net_explore(&args),
        Some("planted") => planted(number(&args, "--schedules", 10_000)),
        _ => usage(),
    }
}

/// Prints after how many schedules each planted bug is found.
fn planted(schedules: u64) -> ExitCode {
    for bug in PlantedBug::ALL {
        match find_planted(bug, 0..schedules) {
            Some((seed, violation)) => println!("{bug:?}: {} schedules, {violation:.200}", seed + 1),
            None => println!("{bug:?}: not found in {schedules}"),
        }
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn number(args: &[String], name: &str, otherwise: u64) -> u64 {
    let at = args.iter().position(|arg| arg == name);
    at.and_then(|at| args.get(at + 1)).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn jobs(args: &[String]) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    usize::try_from(number(args, "--jobs", threads)).unwrap_or(1)
}

/// Level 2: runs one seed with its trace.
#[cfg(madsim)]
fn net(seed: u64, quiet: bool) -> ExitCode {
    use sim::net::run::{run, run_traced};
    let schedule = sim::net::schedule::NetSchedule::from_seed(seed);
    println!("{schedule}");
    let run = if quiet { run(&schedule) } else { run_traced(&schedule) };
    print!("{}", run.coverage);
    println!("hash {:016x}", run.hash);
    match run.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// Level 2: runs many seeds.
#[cfg(madsim)]
fn net_explore(args: &[String]) -> ExitCode {
    use sim::net::coverage::NetMark;
    let (first, count) = (number(args, "--seed", 0), number(args, "--schedules", 10_000));
    let began = Instant::now();
    let sweep = sim::net::explore::explore(first..first + count, jobs(args));
    let seconds = began.elapsed().as_secs_f64();
    print!("{}", sweep.coverage);
    let of = |mark| sweep.coverage.count(mark) as f64 / seconds;
    let (seeds, simulated) = (of(NetMark::Runs), of(NetMark::SimulatedSeconds));
    println!("{seconds:.1} s: {seeds:.0} seeds/s, {simulated:.0} simulated seconds/s");
    match sweep.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("\n{failure}");
            ExitCode::FAILURE
        }
    }
}

fn explore_all(args: &[String]) -> ExitCode {
    let (first, count) = (number(args, "--seed", 0), number(args, "--schedules", 100_000));
    let jobs = jobs(args);
    let began = Instant::now();
    let sweep = explore(first..first + count, jobs);
    let seconds = began.elapsed().as_secs_f64();
    let schedules = sweep.coverage.count(Mark::Schedules) as f64;
    print!("{}", sweep.coverage);
    println!("{schedules} schedules in {seconds:.1} s: {:.0}/s", schedules / seconds);
    match sweep.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("\n{failure}");
            ExitCode::FAILURE
        }
    }
}

fn replay(seed: u64, shrunk: bool) -> ExitCode {
    let mut schedule = Schedule::from_seed(seed);
    if shrunk && let Some(violation) = sim::run(&schedule).violation {
        schedule = Failure::of(&schedule, violation, None).shrunk;
    }
    println!("{schedule}");
    let run = run_traced(&schedule);
    print!("{}", run.coverage);
    println!("hash {:016x}, {} events, {} us", run.hash, run.events, run.end_us);
    match run.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}
