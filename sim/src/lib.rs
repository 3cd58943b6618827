//! fencepost's deterministic simulator, under faults that are plain data. Level 1: the real core machines against the models.
//! Level 2 (`net`, with `--cfg madsim`): the real driver and the real Redis adapter on a simulated network.
//!
//! | looking for | it is in |
//! |---|---|
//! | a run as data: seed, options, faults | [`schedule::Schedule`], [`options::Options`], [`fault::Fault`] |
//! | what the simulated handlers do | [`rows`] |
//! | the event loop, processes, network | `world` |
//! | a schedule as a file | [`schedule::file`] |
//! | running one schedule | [`run`], [`run_planted`] |
//! | what a run tells of itself, and a page that draws it | [`trace`], [`timeline`] |
//! | many schedules, and the report of a failure | [`explore`] |
//! | making a failing schedule small | [`shrink`] |
//! | all faults, and pairs of some, in small scopes | [`exhaustive`] |
//! | what was seen | [`coverage`] |
//! | bugs that must be found | [`planted`] |
//! | level 2 | `net` |
//! | the protocol that ours descends from, under the same faults | [`original`] |

pub mod checks;
pub mod coverage;
mod digest;
pub mod draw;
pub mod exhaustive;
pub mod explore;
pub mod fault;
pub mod model_check;
#[cfg(madsim)]
pub mod net;
pub mod options;
pub mod original;
pub mod planted;
pub mod rows;
pub mod schedule;
pub mod shrink;
pub mod timeline;
pub mod trace;
mod world;

pub use world::{Moment, Run};

use crate::checks::{PANIC, Violation};
use crate::coverage::Coverage;
use crate::planted::PlantedBug;
use crate::schedule::Schedule;
use crate::trace::Trace;

/// Runs a schedule.
pub fn run(schedule: &Schedule) -> Run {
    run_planted(schedule, None)
}

/// Runs a schedule against a store or a driver with a bug.
pub fn run_planted(schedule: &Schedule, bug: Option<PlantedBug>) -> Run {
    caught(schedule, bug, None, false)
}

/// Runs a schedule and notes what happens.
pub fn run_traced(schedule: &Schedule, bug: Option<PlantedBug>, trace: &mut Trace) -> Run {
    caught(schedule, bug, Some(trace), false)
}

/// Runs a schedule and notes the moments at which faults might strike.
pub fn run_for_moments(schedule: &Schedule) -> Run {
    caught(schedule, None, None, true)
}

/// A panic, in the core's or the model's assertions, is a violation like any other.
fn caught(schedule: &Schedule, bug: Option<PlantedBug>, trace: Option<&mut Trace>, moments: bool) -> Run {
    // It outlives a panic, which tells how far it came.
    let mut world = None;
    let play = || world.insert(world::World::new(schedule, bug, trace, moments)).play();
    let panicked = explore::catch(play).err().map(|panic| panic_text(panic.as_ref()));
    match world {
        Some(world) => world.into_run(panicked),
        None => Run {
            hash: 0,
            events: 0,
            end_us: 0,
            coverage: Coverage::default(),
            violation: panicked.map(|what| Violation { check: PANIC, at_us: 0, what }),
            moments: Vec::new(),
        },
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
