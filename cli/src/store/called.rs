//! S7: which completion calls a worker makes, as its lease's record keeps it.

use fencepost_core::calls::Calls;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Record {
    operations: Vec<String>,
    command: bool,
    urls: Vec<String>,
}

/// As JSON; nothing for a worker that makes none.
pub(super) fn to_json(calls: &Calls) -> Option<String> {
    let Calls { operations, command, urls } = calls.clone();
    let record = Record { operations, command, urls };
    calls.makes_any().then(|| serde_json::to_string(&record).unwrap_or_default())
}

/// Read back; what does not read back was written by a later program, and is not known to make any.
pub(super) fn from_json(text: Option<&str>) -> Calls {
    let record = text.and_then(|text| serde_json::from_str(text).ok());
    record.map_or_else(Calls::default, |Record { operations, command, urls }| Calls { operations, command, urls })
}
