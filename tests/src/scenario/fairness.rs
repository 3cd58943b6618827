//! C3: how long a small batch takes while a large one is worked on, beside how long it takes alone.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::STUCK;
use crate::place::{Looker, Place, StoreKind};
use crate::process::{Process, fencepost, submit, until};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Fairness {
    /// Rows of the large batch.
    pub large: u64,
    /// Rows of a small one.
    pub small: u64,
    /// How many workers.
    pub workers: usize,
    /// How many rows each runs at once.
    pub concurrency: u32,
    /// How long a row runs.
    pub row: Duration,
    /// For how long each holds rows ahead.
    pub horizon: Duration,
    /// How many small batches, one after the other, alone and beside the large one.
    pub times: usize,
}

/// What was measured, in medians; times are from a batch's opening to its end, by the store's clock.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// A small batch with all workers to itself.
    pub alone: Duration,
    /// A small batch beside the large one.
    pub beside: Duration,
    /// How many times as long it takes beside it.
    pub ratio: f64,
    /// How many rows of the large batch were recorded between the opening of a small one and its end.
    pub large_rows_meanwhile: i64,
}

/// Rows of other batches that were recorded during the life of the newest one.
const MEANWHILE: &str = "with newest as (select * from batches order by loaded_at desc limit 1) \
    select count(*) from outcomes o, newest n where o.batch <> n.batch and o.recorded_at between n.loaded_at and n.ended_at";

/// Runs it. The large batch is open from before the first small one beside it until after the last one.
pub fn run(on: StoreKind, sizes: Fairness) -> Outcome {
    let place = Place::new(on);
    let first = submit(place.store(), &["--rows", "1"]);
    let _workers: Vec<Process> = (0..sizes.workers).map(|_| Process::start(worker(&place, sizes))).collect();
    let look = place.look();
    until("the workers are ready", STUCK, || {
        let live = look.workers().workers.iter().filter(|worker| worker.ended_at.is_none()).count();
        (look.has_ended(&first) && live == sizes.workers).then_some(())
    });
    // The first one tells the workers how long rows take.
    small(&place, &look, sizes);
    let alone = (0..sizes.times).map(|_| small(&place, &look, sizes)).collect();
    let large = submit(place.store(), &["--rows", &sizes.large.to_string()]);
    let mut begun = 0;
    let mut beside = Vec::new();
    let mut meanwhile = Vec::new();
    for _ in 0..sizes.times {
        // It is under way, and goes on between two small ones.
        let more = begun + u64::from(sizes.concurrency) * 4;
        until("the large batch goes on", STUCK, || (look.counts(&large).success >= more).then_some(()));
        beside.push(small(&place, &look, sizes));
        meanwhile.push(place.number(MEANWHILE));
        begun = look.counts(&large).success;
    }
    assert!(begun < sizes.large, "the large batch was over too soon: it needs more rows");
    let (alone, beside) = (median(alone), median(beside));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    Outcome { alone, beside, ratio, large_rows_meanwhile: median(meanwhile) }
}

/// Submits a small batch, and tells how long it took.
fn small(place: &Place, look: &Looker<'_>, sizes: Fairness) -> Duration {
    let batch = submit(place.store(), &["--rows", &sizes.small.to_string()]);
    until("the small batch ends", STUCK, || look.has_ended(&batch).then_some(()));
    let counts = look.counts(&batch);
    assert_eq!(counts.success, sizes.small);
    let (opened, ended) = (counts.batch.loaded_at.expect("it was loaded"), counts.batch.ended_at.expect("it ended"));
    ended.since(opened)
}

fn worker(place: &Place, sizes: Fairness) -> Command {
    let mut command = fencepost();
    command.args(["worker", "--quiet", "--log", "quiet", "--store", place.store()]);
    command.args(["--horizon", &format!("{}ms", sizes.horizon.as_millis())]);
    command.args(["--sleep", &format!("{}ms", sizes.row.as_millis())]);
    command.args(["--concurrency", &sizes.concurrency.to_string()]).stdin(Stdio::null());
    command
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
