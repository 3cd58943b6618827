//! `sim model-check [--scope NAME] [--mistakes] [--states N]`.

use std::process::ExitCode;

use super::mistake::MISTAKES;
use super::scope::{Scope, scopes};
use super::search::{Report, search};
use crate::explore::quiet_panics;

/// So many states fit into a few gigabytes.
const STATES_MAX: usize = 20_000_000;

/// A history that only goes on and on is not shown to its end.
const SHOWN: usize = 60;

/// Searches one scope, or all of them.
pub fn model_check(args: &[String]) -> ExitCode {
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let states_max = value("--states").and_then(|value| value.parse().ok()).unwrap_or(STATES_MAX);
    let name = value("--scope");
    let chosen: Vec<Scope> = scopes().into_iter().filter(|scope| name.is_none_or(|name| name == scope.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = scopes().iter().map(|scope| scope.name).collect();
        eprintln!("no scope {}; there are: {}", name.map_or("", String::as_str), names.join(", "));
        return ExitCode::from(2);
    }
    quiet_panics();
    if args.iter().any(|arg| arg == "--mistakes") {
        return mistakes(&chosen, states_max);
    }
    println!("{:>10} {:>11} {:>9} {:>6} {:>8}  scope", "states", "steps", "ends", "depth", "seconds");
    let mut code = ExitCode::SUCCESS;
    for scope in &chosen {
        let report = search(scope, None, states_max);
        println!("{}", line(scope, &report));
        if let Some((violation, steps)) = &report.found {
            println!("{violation}\n  {}", steps.join("\n  "));
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn line(scope: &Scope, report: &Report) -> String {
    let Report { states, steps, ends, depth, seconds, complete, .. } = report;
    let cut = if *complete { "" } else { " (NOT ALL)" };
    format!("{states:>10} {steps:>11} {ends:>9} {depth:>6} {seconds:>8.1}  {}: {}{cut}", scope.name, scope.what)
}

/// For each mistake the shortest history that shows it, among those of the scopes.
fn mistakes(scopes: &[Scope], states_max: usize) -> ExitCode {
    for mistake in MISTAKES {
        let mut shortest: Option<Report> = None;
        for scope in scopes {
            let report = search(scope, Some(mistake), states_max);
            let steps = |report: &Report| report.found.as_ref().map_or(usize::MAX, |(_, steps)| steps.len());
            if report.found.is_some() && shortest.as_ref().is_none_or(|other| steps(&report) < steps(other)) {
                shortest = Some(report);
            }
        }
        match shortest.as_ref().and_then(|report| Some((report, report.found.as_ref()?))) {
            None => println!("{mistake:?}: not found in these scopes\n"),
            Some((report, (violation, steps))) => {
                println!(
                    "{mistake:?}: found in scope {} after {} states, {} steps",
                    report.scope,
                    report.states,
                    steps.len()
                );
                let shown = &steps[..steps.len().min(SHOWN)];
                println!("{violation}\n  {}", shown.join("\n  "));
                println!("  ({} more)\n", steps.len() - shown.len());
            }
        }
    }
    ExitCode::SUCCESS
}
