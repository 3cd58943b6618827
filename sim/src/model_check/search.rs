//! Breadth first through all states: the first violation found is one of the shortest there are.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::action::Action;
use super::mistake::Mistake;
use super::scope::Scope;
use super::state::State;
use super::step::Setting;
use super::trace;
use crate::checks::Violation;

/// What a search came to.
#[derive(Debug)]
pub struct Report {
    /// The scope's name.
    pub scope: &'static str,
    /// Different states.
    pub states: usize,
    /// Steps taken, to new states and to known ones.
    pub steps: u64,
    /// States in which nothing happens any more.
    pub ends: u64,
    /// What they are, as digests.
    pub end_states: BTreeSet<u64>,
    /// Of the longest shortest way to a state, in steps.
    pub depth: usize,
    /// How long the search took.
    pub seconds: f64,
    /// Whether all states were seen.
    pub complete: bool,
    /// What was found, with the steps that lead to it.
    pub found: Option<(Violation, Vec<String>)>,
}

/// Searches all states of a scope, or so many.
pub fn search(scope: &Scope, mistake: Option<Mistake>, states_max: usize) -> Report {
    let began = Instant::now();
    let setting = Setting { scope, mistake };
    let mut report = Report {
        scope: scope.name,
        states: 1,
        steps: 0,
        ends: 0,
        end_states: BTreeSet::new(),
        depth: 0,
        seconds: 0.0,
        complete: false,
        found: None,
    };
    match setting.initial() {
        Ok(initial) => explore(setting, initial, states_max, &mut report),
        Err(violation) => report.found = Some((violation, Vec::new())),
    }
    report.seconds = began.elapsed().as_secs_f64();
    report
}

/// By which step, numbered as among all of its state, each state was reached first.
type Ways = HashMap<u64, (u64, u16)>;

fn explore(setting: Setting<'_>, initial: State, states_max: usize, report: &mut Report) {
    let mut ways = Ways::new();
    let first = initial.digest();
    ways.insert(first, (first, 0));
    let mut level = vec![(first, initial.clone())];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (from, state) in level {
            let actions = state.actions(setting.scope);
            let over = if state.is_quiet(&actions) {
                report.ends += 1;
                report.end_states.insert(from);
                setting.over(&state)
            } else {
                Ok(())
            };
            if let Err(violation) = over {
                let steps = trace::steps(setting, &initial, &ways, from, None);
                report.found = Some((violation, steps));
                return;
            }
            for (number, action) in (0..).zip(actions) {
                report.steps += 1;
                match caught(setting, &state, action) {
                    Ok(after) => {
                        let to = after.digest();
                        if let std::collections::hash_map::Entry::Vacant(way) = ways.entry(to) {
                            way.insert((from, number));
                            next.push((to, after));
                        }
                    }
                    Err(violation) => {
                        let steps = trace::steps(setting, &initial, &ways, from, Some(action));
                        report.states = ways.len();
                        report.found = Some((violation, steps));
                        return;
                    }
                }
            }
        }
        report.states = ways.len();
        if report.states > states_max {
            return;
        }
        report.depth += usize::from(!next.is_empty());
        level = next;
    }
    report.complete = true;
}

/// A panic, in the core's or the model's assertions, is a violation like any other.
pub(super) fn caught(setting: Setting<'_>, state: &State, action: Action) -> Result<State, Violation> {
    crate::explore::catch(|| setting.step(state, action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation { check: "panic", at_us: state.now_us, what: text.unwrap_or_default() })
    })
}
