//! `sim model-check`

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use sim::model_check::mistake::MISTAKES;
use sim::model_check::scope::{Scope, scopes};
use sim::model_check::search::{Report, search};

use super::End;

#[derive(Debug, Args)]
pub struct ModelCheck {
    /// One scope only
    #[arg(long, value_name = "NAME", value_parser = names())]
    scope: Option<String>,
    /// Show instead the shortest history that shows each of some mistakes of a store
    #[arg(long)]
    mistakes: bool,
    /// Stop at so many states; 20 million fit into a few gigabytes
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    states: usize,
}

fn names() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(scopes().into_iter().map(|scope| scope.name))
}

impl ModelCheck {
    pub fn run(&self) -> End {
        let name = self.scope.as_deref();
        let chosen: Vec<Scope> =
            scopes().into_iter().filter(|scope| name.is_none_or(|name| name == scope.name)).collect();
        if self.mistakes {
            mistakes(&chosen, self.states);
            return End::Holds;
        }
        println!("{:>10} {:>11} {:>9} {:>6} {:>8}  scope", "states", "steps", "ends", "depth", "seconds");
        let mut end = End::Holds;
        for scope in &chosen {
            let report = search(scope, None, self.states);
            println!("{}", line(scope, &report));
            if let Some((violation, steps)) = &report.found {
                println!("{violation}\n  {}", steps.join("\n  "));
                end = End::of(Some(violation));
            }
        }
        end
    }
}

fn line(scope: &Scope, report: &Report) -> String {
    let Report { states, steps, ends, depth, seconds, complete, .. } = report;
    let cut = if *complete { "" } else { " (NOT ALL)" };
    format!("{states:>10} {steps:>11} {ends:>9} {depth:>6} {seconds:>8.1}  {}: {}{cut}", scope.name, scope.what)
}

/// For each mistake the shortest history that shows it, among those of the scopes.
fn mistakes(scopes: &[Scope], states_max: usize) {
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
                println!("{violation}\n  {}\n", steps.join("\n  "));
            }
        }
    }
}
