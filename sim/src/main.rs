//! `sim explore --schedules N --jobs J --seed S`, `sim replay SEED [--shrunk]`, `sim planted`, `sim exhaustive`.

use std::process::ExitCode;
use std::time::Instant;

use sim::coverage::Mark;
use sim::explore::{Failure, explore};
use sim::planted::table;
use sim::run_traced;
use sim::schedule::Schedule;

const USAGE: &str = "usage: sim explore [--schedules N] [--jobs J] [--seed FIRST] | sim replay SEED [--shrunk] | sim planted [--schedules N] | sim exhaustive";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("explore") => explore_all(&args),
        Some("replay") => match args.get(1).and_then(|seed| seed.parse().ok()) {
            Some(seed) => replay(seed, args.iter().any(|arg| arg == "--shrunk")),
            None => usage(),
        },
        Some("exhaustive") => exhaustive(),
        Some("planted") => planted(number(&args, "--schedules", 100_000)),
        _ => usage(),
    }
}

/// Prints after how many schedules each planted bug is found, and how.
fn planted(schedules: u64) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if table(schedules, threads, |line| print!("{line}")) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn exhaustive() -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if sim::exhaustive::all(threads, |line| print!("{line}")) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn number(args: &[String], name: &str, otherwise: u64) -> u64 {
    let at = args.iter().position(|arg| arg == name);
    at.and_then(|at| args.get(at + 1)).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn explore_all(args: &[String]) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let (first, count) = (number(args, "--seed", 0), number(args, "--schedules", 100_000));
    let jobs = usize::try_from(number(args, "--jobs", threads)).unwrap_or(1);
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
