//! What commands show: pure functions from what was read to text or JSON.
//!
//! JSON is for scripts: its form is documented in `docs/json.md` and changes only with `schema_version`.

use std::borrow::Cow;
use std::fmt::Write;

use fencepost_core::{BatchId, LineSet};

use crate::visible::visible as shown;

pub mod calls;
pub mod doctor;
pub mod errors;
pub mod redis;
pub mod rows;
pub mod status;
pub mod verify;

/// The version of the JSON that every command prints.
pub const SCHEMA_VERSION: u32 = 1;

/// How many rows of a batch are in each status; always shown in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Not held by anyone.
    pub queued: u64,
    /// Held by a worker.
    pub inprog: u64,
    /// Recorded as success.
    pub success: u64,
    /// Recorded as failed.
    pub failed: u64,
    /// Without an outcome when their batch was aborted.
    pub aborted: u64,
}

impl Counts {
    /// Names and numbers in order.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("queued", self.queued),
            ("inprog", self.inprog),
            ("success", self.success),
            ("failed", self.failed),
            ("aborted", self.aborted),
        ]
    }

    /// All rows.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }

    /// Rows with an outcome, or aborted.
    pub fn ended(&self) -> u64 {
        self.success + self.failed + self.aborted
    }
}

/// A batch as reports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSummary {
    /// Its id.
    pub id: BatchId,
    /// What makes a repeated submit the same.
    pub key: Option<String>,
    /// Its operation.
    pub operation: String,
    /// `loading`, `open`, `held`, `success`, `failed` or `aborted`.
    pub status: &'static str,
    /// How many rows it has.
    pub rows: u64,
    /// Where its rows came from.
    pub source: Option<String>,
    /// When it was submitted, in microseconds since 1970.
    pub created_at_us: i64,
    /// When it ended.
    pub ended_at_us: Option<i64>,
    /// Its rows by status.
    pub counts: Counts,
    /// How many late answers were dropped.
    pub fenced: u64,
    /// Of an aborted batch: how many rows live workers may still run.
    pub stopping: u64,
}

impl BatchSummary {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.status, "success" | "failed" | "aborted")
    }
}

const DOUBLE_RULE: &str = "=================================================";
const RULE: &str = "-------------------------------------------------";

/// A headline as in the original's reports.
pub fn headline(title: &str) -> String {
    format!("{DOUBLE_RULE}\n{title}\n{DOUBLE_RULE}\n")
}

/// Ranges as people read them: `[3, 5-9]`, cut after some.
fn ranges_text(lines: &LineSet) -> String {
    let mut text = String::from("[");
    for (at, range) in lines.ranges().iter().enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        if at == RANGES_SHOWN {
            let _ = write!(text, "... {} ranges in all", lines.ranges().len());
            break;
        }
        let _ = write!(text, "{range:?}");
    }
    text.push(']');
    text
}

const RANGES_SHOWN: usize = 20;

/// A moment in local time, to the second.
pub(crate) fn time_text(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(
        |_| format!("{micros} us"),
        |at| at.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// As a shell reads it as one word.
pub fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}
