//! Between the program's values and SQLite's: numbers, names, sets of lines as JSON.

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::time::micros;
use fencepost_core::{BatchId, LeaseId, LineSet};
use serde::Serialize;

use super::trouble::Trouble;

/// A number as SQLite keeps it. Lines, tokens and counts never come near the end of its range.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number read back.
pub(super) fn natural(number: i64) -> Result<u64, Trouble> {
    u64::try_from(number).map_err(|_| Trouble::damaged("a negative number stands where there can be none"))
}

/// A small number read back.
pub(super) fn small(number: i64) -> Result<u32, Trouble> {
    u32::try_from(number).map_err(|_| Trouble::damaged("a number is far out of its range"))
}

/// A batch's id read back.
pub(super) fn batch_id(number: i64) -> Result<BatchId, Trouble> {
    natural(number).map(BatchId::from_random)
}

/// A lease's id read back.
pub(super) fn lease_id(number: i64) -> Result<LeaseId, Trouble> {
    natural(number).map(LeaseId::from_random)
}

/// A duration in whole microseconds.
pub(super) fn micros_of(duration: Duration) -> i64 {
    int(micros(duration))
}

/// A duration in whole milliseconds.
pub(super) fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A duration read back.
pub(super) fn from_millis(millis: i64) -> Result<Duration, Trouble> {
    natural(millis).map(Duration::from_millis)
}

/// Values as a JSON array, to hand many of them to one statement.
pub(super) fn json(values: &impl Serialize) -> Result<String, Trouble> {
    serde_json::to_string(values).map_err(Trouble::Json)
}

/// Ranges of lines as they are kept: `[[first,last],...]`.
pub(super) fn ranges(lines: &LineSet) -> Vec<(u64, u64)> {
    lines.ranges().iter().map(|range| (range.first, range.last)).collect()
}

/// Lines read back.
pub(super) fn lines_from_json(text: &str) -> Result<LineSet, Trouble> {
    let ranges: Vec<(u64, u64)> = serde_json::from_str(text).map_err(Trouble::Json)?;
    LineSet::from_ranges(ranges).ok_or_else(|| Trouble::damaged("a span's lines are not ordered ranges"))
}

/// A list of names read back.
pub(super) fn names_from_json(text: &str) -> Result<Vec<String>, Trouble> {
    serde_json::from_str(text).map_err(Trouble::Json)
}

/// A batch's status by its name.
pub(super) fn batch_status(name: &str) -> Result<BatchStatus, Trouble> {
    BatchStatus::from_name(name).ok_or_else(|| Trouble::damaged("a batch has a status that does not exist"))
}

/// A lease's state by its name.
pub(super) fn lease_state(name: &str) -> Result<LeaseState, Trouble> {
    match name {
        "live" => Ok(LeaseState::Live),
        "dead" => Ok(LeaseState::Dead),
        "taken_over" => Ok(LeaseState::TakenOver),
        "dropped" => Ok(LeaseState::Dropped),
        _ => Err(Trouble::damaged("a lease has a state that does not exist")),
    }
}
