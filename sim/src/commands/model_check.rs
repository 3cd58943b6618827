//! `sim model-check`

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use sim::checks::Kind;
use sim::model_check::mistake::MISTAKES;
use sim::model_check::scope::{Scope, scopes};
use sim::model_check::search::{Report, search};

use super::End;

#[derive(Debug, Args)]
pub struct ModelCheck {
    /// One scope only
    #[arg(long, value_name = "NAME", value_parser = names())]
    scope: Option<String>,
    /// Show instead, for each of some mistakes of a store, the shortest history that shows it in its scope; all must be found
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
            return if mistakes(&chosen, self.states) { End::Holds } else { End::Violated(Kind::Safety) };
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

/// For each mistake the shortest history that shows it in its scope. True: all were found.
fn mistakes(scopes: &[Scope], states_max: usize) -> bool {
    let mut all = true;
    for mistake in MISTAKES {
        for scope in scopes.iter().filter(|scope| scope.name == mistake.scope()) {
            let report = search(scope, Some(mistake), states_max);
            let Some((violation, steps)) = &report.found else {
                all = false;
                println!("{mistake:?}: NOT FOUND in scope {}, {} states\n", scope.name, report.states);
                continue;
            };
            let steps_taken = steps.len();
            println!("{mistake:?}: found in scope {} after {} states, {steps_taken} steps", scope.name, report.states);
            println!("{violation}\n  {}\n", steps.join("\n  "));
        }
    }
    all
}
