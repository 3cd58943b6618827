//! `rows`: a page of rows, or one row's whole story.

use std::fmt::Write;

use fencepost_core::BatchId;
use serde_json::{Value, json};

use super::{SCHEMA_VERSION, shown, time_text};
use crate::results::ResultRow;

/// One thing that happened to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryEntry {
    /// `retried`, `timed_out`, `crashed`, `crash_withdrawn`, `fenced`, `recovered`, `given_back`, `superseded`,
    /// `held` (by a worker now) or `recorded` (the outcome).
    pub kind: String,
    /// The worker that held the row then.
    pub worker: Option<String>,
    /// The token under which it did.
    pub token: u64,
    /// The error, the dropped answer, the cause.
    pub detail: Option<String>,
    /// How long the run took, in microseconds.
    pub run_us: Option<u64>,
    /// When, in microseconds since 1970.
    pub at_us: Option<i64>,
}

/// A row and everything that happened to it, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The batch.
    pub batch: BatchId,
    /// The row as it is now.
    pub row: ResultRow,
    /// What happened.
    pub entries: Vec<StoryEntry>,
}

/// A row's story as text.
pub fn story_text(story: &Story) -> String {
    let Story { batch, row, entries } = story;
    let mut out = format!("Row {} of batch {batch}: {}\n", row.line, row.status);
    let _ = writeln!(out, "  attempts: {}, crashes: {}", row.attempts, row.crashes);
    if let Some(input) = &row.input {
        let _ = writeln!(out, "  input:  {}", cut(input));
    }
    if let Some(result) = &row.result {
        let _ = writeln!(out, "  result: {}", cut(result));
    }
    if let Some(error) = &row.error {
        for (at, line) in error.lines().enumerate() {
            let _ = writeln!(out, "  {} {}", if at == 0 { "error: " } else { "       " }, shown(line));
        }
    }
    out.push_str("Story:\n");
    if entries.is_empty() {
        out.push_str("  (nothing yet)\n");
    }
    for entry in entries {
        let at = entry.at_us.map_or_else(|| "now".to_owned(), time_text);
        let worker = shown(entry.worker.as_deref().unwrap_or("-"));
        let _ = write!(out, "  {at:<19}  {:<15}  token {:<6} worker {worker}", kind_text(&entry.kind), entry.token);
        if let Some(run_us) = entry.run_us {
            let _ = write!(out, ", ran {:.3} s", std::time::Duration::from_micros(run_us).as_secs_f64());
        }
        if let Some(detail) = &entry.detail {
            let _ = write!(out, ": {}", cut(detail.lines().next().unwrap_or("")));
        }
        out.push('\n');
    }
    out
}

fn kind_text(kind: &str) -> &str {
    match kind {
        "timed_out" => "timed out",
        "crash_withdrawn" => "crash withdrawn",
        "given_back" => "given back",
        other => other,
    }
}

/// A row's story as JSON.
pub fn story_json(story: &Story) -> Value {
    let entries: Vec<Value> = story
        .entries
        .iter()
        .map(|entry| {
            json!({
                "kind": entry.kind, "worker": entry.worker, "token": entry.token, "detail": entry.detail,
                "run_us": entry.run_us, "at_us": entry.at_us,
            })
        })
        .collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "batch": story.batch.to_string(),
        "row": row_json(&story.row),
        "story": entries,
    })
}

/// A row as `rows --json` prints it: a line of `results`, and its input.
pub fn row_json(row: &ResultRow) -> Value {
    let embed = |text: &Option<Box<str>>| {
        text.as_ref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| text.as_ref().into()))
    };
    json!({
        "line": row.line, "status": row.status, "result": embed(&row.result), "error": row.error,
        "attempts": row.attempts, "crashes": row.crashes, "worker": row.worker, "token": row.token,
        "input": embed(&row.input),
    })
}

/// A page of rows as text.
pub fn rows_text(rows: &[ResultRow]) -> String {
    let mut out = format!(
        "{:>9}  {:<8}  {:>8}  {:>7}  {:<28}  {}\n",
        "LINE", "STATUS", "ATTEMPTS", "CRASHES", "WORKER", "DETAIL"
    );
    for row in rows {
        let detail = row.error.as_deref().or(row.result.as_deref()).unwrap_or("");
        let _ = writeln!(
            out,
            "{:>9}  {:<8}  {:>8}  {:>7}  {:<28}  {}",
            row.line,
            row.status,
            row.attempts,
            row.crashes,
            shown(row.worker.as_deref().unwrap_or("-")),
            cut(detail.lines().next().unwrap_or("")),
        );
    }
    out
}

/// At most so many characters of a text are shown in a report.
const SHOWN_CHARS: usize = 160;

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", shown(&text[..end])),
        None => shown(text).into_owned(),
    }
}
