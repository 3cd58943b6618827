//! Between the program's values and Postgres': numbers, names, sets of lines as multiranges in text form.

use std::borrow::Cow;
use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::time::micros;
use fencepost_core::{BatchId, LeaseId, LineSet};

use super::trouble::Trouble;

/// A number as Postgres keeps it. Lines, tokens and counts never come near the end of its range.
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

/// A list of names as JSON text.
pub(super) fn names_to_json(names: &[String]) -> String {
    serde_json::Value::from(names).to_string()
}

/// A list of names read back.
pub(super) fn names_from_json(text: &str) -> Result<Vec<String>, Trouble> {
    serde_json::from_str(text).map_err(|error| Trouble::damaged(format!("a list of names does not read back: {error}")))
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

/// A process's identity as it is kept: all of it or nothing.
pub(super) fn process(
    machine: Option<String>,
    pid: Option<i64>,
    start_ticks: Option<i64>,
) -> Result<Option<ProcessIdentity>, Trouble> {
    match (machine, pid, start_ticks) {
        (Some(machine), Some(pid), Some(ticks)) => {
            Ok(Some(ProcessIdentity { machine, pid: small(pid)?, start_ticks: natural(ticks)? }))
        }
        _ => Ok(None),
    }
}

/// Lines as a multirange's text: `{[first,end),...}`.
pub(super) fn multirange(lines: &LineSet) -> String {
    let ranges: Vec<String> =
        lines.ranges().iter().map(|range| format!("[{},{})", range.first, range.last + 1)).collect();
    format!("{{{}}}", ranges.join(","))
}

/// Lines read back from a multirange's text.
pub(super) fn lines_of(text: &str) -> Result<LineSet, Trouble> {
    let damaged = || Trouble::damaged(format!("a span's lines do not read back: {text}"));
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(damaged)?;
    let mut ranges = Vec::new();
    for range in inner.split_terminator(')') {
        let range = range.trim_start_matches(',').strip_prefix('[').ok_or_else(damaged)?;
        let (first, end) = range.split_once(',').ok_or_else(damaged)?;
        let (first, end): (u64, u64) = (first.parse().map_err(|_| damaged())?, end.parse().map_err(|_| damaged())?);
        ranges.push((first, end.checked_sub(1).ok_or_else(damaged)?));
    }
    LineSet::from_ranges(ranges).ok_or_else(damaged)
}

/// Postgres' text has no U+0000, which valid JSON never holds unescaped; in an error's text it becomes U+FFFD.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_as_written() {
        for ranges in [vec![], vec![(1, 1)], vec![(1, 5), (7, 9)], vec![(3, 3), (5, 5), (100, 2000)]] {
            let lines = LineSet::from_ranges(ranges).unwrap();
            assert_eq!(lines_of(&multirange(&lines)).unwrap(), lines);
        }
        assert_eq!(multirange(&LineSet::from_ranges([(1, 5), (7, 9)]).unwrap()), "{[1,6),[7,10)}");
        for damaged in ["", "{", "{[1,2)", "{(1,2]}", "{[2,2)}", "{[a,b)}", "{[5,6),[1,2)}"] {
            assert!(lines_of(damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn text_without_u_0000_stays_as_it_is() {
        assert_eq!(storable("\\u0000 é"), "\\u0000 é");
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }
}
