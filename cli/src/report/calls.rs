//! Completion calls in reports: who was called, who is to be called, and who waits for a worker that calls.

use std::fmt::Write;
use std::time::Duration;

use fencepost_core::calls::Calls;
use fencepost_core::rules::calls::s7_makes;
use serde_json::{Value, json};

use super::shown;
use crate::masked::without_query;

/// A batch's completion calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallsReport {
    /// Where its ends are told, if it says so.
    pub url: Option<String>,
    /// One per generation that has ended.
    pub calls: Vec<CallSummary>,
    /// What the workers that live make.
    pub makers: Vec<Calls>,
}

/// The call of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSummary {
    /// Which.
    pub generation: u32,
    /// How it ended.
    pub status: &'static str,
    /// Where the call goes; none: the operation's command.
    pub url: Option<String>,
    /// How many tries count.
    pub attempts: u32,
    /// What the last try that failed came to.
    pub error: Option<String>,
    /// For how long it waits yet.
    pub due_in: Option<Duration>,
    /// The worker that makes it now.
    pub worker: Option<String>,
    /// When it was recorded as delivered, in microseconds since 1970.
    pub delivered_at_us: Option<i64>,
}

/// The lines of a batch. A batch that asks for no call, and that nobody calls for, has none.
pub fn text(report: &CallsReport, operation: &str, ended: bool) -> String {
    let mut out = String::new();
    for call in &report.calls {
        let is_made = is_made(report, operation, call.url.as_deref());
        let was_tried = call.attempts > 0 || call.delivered_at_us.is_some();
        if call.url.is_none() && !is_made && !was_tried {
            continue;
        }
        let whom = call.url.as_deref().map_or_else(|| "by command".to_owned(), called);
        let _ = writeln!(
            out,
            "Completion call (generation {}, {}, {whom}): {}",
            call.generation,
            call.status,
            state(call, is_made)
        );
    }
    if let Some(url) = report.url.as_deref().filter(|_| !ended) {
        let nobody = if is_made(report, operation, Some(url)) { "" } else { NOBODY };
        let _ = writeln!(out, "Completion call at its end: {}{nobody}", called(url));
    }
    out
}

fn called(url: &str) -> String {
    shown(&without_query(url)).into_owned()
}

const NOBODY: &str = "; no live worker makes it (--allow-url)";

fn is_made(report: &CallsReport, operation: &str, url: Option<&str>) -> bool {
    report.makers.iter().any(|calls| s7_makes(calls, operation, url))
}

fn state(call: &CallSummary, is_made: bool) -> String {
    let tries = match call.attempts {
        1 => "1 try".to_owned(),
        tries => format!("{tries} tries"),
    };
    if call.delivered_at_us.is_some() {
        return format!("delivered after {tries}");
    }
    if let Some(worker) = &call.worker {
        return format!("being made by {} ({tries})", shown(worker));
    }
    let mut state = match (call.attempts, call.due_in) {
        (0, _) => "due".to_owned(),
        (_, Some(wait)) => format!("failed so far ({tries}), again in {} s", wait.as_secs()),
        (_, None) => format!("failed so far ({tries}), due again"),
    };
    if let Some(error) = call.error.as_deref().filter(|_| call.attempts > 0) {
        let _ = write!(state, ": {}", shown(error.lines().next().unwrap_or_default()));
    }
    if !is_made {
        let option = if call.url.is_some() { "--allow-url" } else { "--on-done" };
        let _ = write!(state, "; no live worker makes this call ({option})");
    }
    state
}

/// As `status BATCH --json` has them.
pub fn json(report: &CallsReport) -> Value {
    let call = |call: &CallSummary| {
        json!({
            "generation": call.generation, "status": call.status, "url": call.url.as_deref().map(without_query), "attempts": call.attempts,
            "error": call.error, "due_in_ms": call.due_in.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            "worker": call.worker, "delivered_at_us": call.delivered_at_us,
        })
    };
    Value::Array(report.calls.iter().map(call).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(url: Option<&str>) -> CallSummary {
        CallSummary {
            generation: 1,
            status: "success",
            url: url.map(str::to_owned),
            attempts: 0,
            error: None,
            due_in: None,
            worker: None,
            delivered_at_us: None,
        }
    }

    fn said(call: CallSummary, made: bool) -> String {
        let makers = Calls { operations: vec!["op".into()], command: true, urls: vec!["http://host/".into()] };
        let makers = if made { vec![makers] } else { Vec::new() };
        text(&CallsReport { url: None, calls: vec![call], makers }, "op", true)
    }

    #[test]
    fn a_batch_that_nobody_calls_for_says_nothing_and_all_else_says_where_it_stands() {
        assert_eq!(said(call(None), false), "");
        assert_eq!(said(call(None), true), "Completion call (generation 1, success, by command): due\n");
        let url = Some("http://host/a");
        assert_eq!(
            said(call(url), false),
            "Completion call (generation 1, success, http://host/a): due; no live worker makes this call (--allow-url)\n"
        );
        let failed = CallSummary { attempts: 2, error: Some("exit code 1\nmore".into()), ..call(url) };
        let waits = CallSummary { due_in: Some(Duration::from_secs(3)), ..failed.clone() };
        assert!(said(waits, true).ends_with(": failed so far (2 tries), again in 3 s: exit code 1\n"));
        assert!(said(failed.clone(), true).ends_with(": failed so far (2 tries), due again: exit code 1\n"));
        let held = CallSummary { worker: Some("w\u{7}".into()), ..failed.clone() };
        assert!(said(held, true).ends_with(": being made by w\\u{7} (2 tries)\n"));
        let delivered = CallSummary { delivered_at_us: Some(1), attempts: 1, ..failed };
        assert!(said(delivered, false).ends_with(": delivered after 1 try\n"));
    }

    #[test]
    fn a_batch_that_is_open_says_who_will_be_called() {
        let report = CallsReport { url: Some("http://host/a".into()), ..CallsReport::default() };
        assert!(text(&report, "op", false).contains("at its end: http://host/a; no live worker makes it"));
        assert_eq!(text(&report, "op", true), "");
    }
}
