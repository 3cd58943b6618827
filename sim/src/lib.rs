//! fencepost's deterministic simulator, level 1: the real core machines against the models, under faults that are plain
//! data.
//!
//! | looking for | it is in |
//! |---|---|
//! | a run as data: seed, options, faults | [`schedule::Schedule`], [`options::Options`], [`fault::Fault`] |
//! | what the simulated handlers do | [`rows`] |
//! | the event loop, processes, network | `world` |
//! | running one schedule | [`run`], [`run_planted`] |
//! | many schedules, and the report of a failure | [`explore`] |
//! | making a failing schedule small | [`shrink`] |
//! | all faults, and pairs of some, in small scopes | [`exhaustive`] |
//! | what was seen | [`coverage`] |
//! | bugs that must be found | [`planted`] |

pub mod checks;
pub mod coverage;
pub mod draw;
pub mod exhaustive;
pub mod explore;
pub mod fault;
pub mod options;
pub mod planted;
pub mod rows;
pub mod schedule;
pub mod shrink;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use world::{Moment, Run};

use crate::checks::Violation;
use crate::coverage::Coverage;
use crate::planted::PlantedBug;
use crate::schedule::Schedule;

/// Runs a schedule.
pub fn run(schedule: &Schedule) -> Run {
    run_planted(schedule, None)
}

/// Runs a schedule against a store or a driver with a bug.
pub fn run_planted(schedule: &Schedule, bug: Option<PlantedBug>) -> Run {
    caught(schedule, bug, false, false)
}

/// Runs a schedule and prints every event.
pub fn run_traced(schedule: &Schedule) -> Run {
    caught(schedule, None, true, false)
}

/// Runs a schedule and notes the moments at which faults might strike.
pub fn run_for_moments(schedule: &Schedule) -> Run {
    caught(schedule, None, false, true)
}

/// A panic, in the core's or the model's assertions, is a violation like any other.
fn caught(schedule: &Schedule, bug: Option<PlantedBug>, trace: bool, moments: bool) -> Run {
    let run = || world::World::new(schedule, bug, trace, moments).run();
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(run) => run,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let violation = Violation { check: "panic", at_us: 0, what: text.unwrap_or_default() };
            Run {
                hash: 0,
                events: 0,
                end_us: 0,
                coverage: Coverage::default(),
                violation: Some(violation),
                moments: Vec::new(),
            }
        }
    }
}
