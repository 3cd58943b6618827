//! What a worker prints while it works: a line at each row's start and end, on stderr.

use std::io::Write;
use std::sync::Arc;

use fencepost_core::judge::JudgeEvent;
use fencepost_core::store::{EndCause, Recorded};
use fencepost_core::worker::{RunKey, WorkerEvent};
use serde_json::json;

use super::args::LogForm;
use crate::driver::{Observer, Report};

/// The observer that prints in this form. `worker` names the worker once it is known.
pub fn observer(form: LogForm, worker: Arc<std::sync::OnceLock<String>>) -> Observer {
    match form {
        LogForm::Text => Arc::new(move |report| print(text(&report, worker.get().map_or("", String::as_str)))),
        LogForm::Json => Arc::new(move |report| print(Some(json(&report, worker.get().map_or("", String::as_str))))),
        LogForm::Quiet => Arc::new(|report| print(trouble(&report))),
    }
}

fn print(line: Option<String>) {
    if let Some(line) = line {
        // A reader that went away must not stop the work.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

fn clock() -> String {
    jiff::ZonedDateTime::now().strftime("%H:%M:%S").to_string()
}

fn text(report: &Report<'_>, worker: &str) -> Option<String> {
    let line = match report {
        Report::Started { key: RunKey { line, .. }, attempt, recovered_from } => {
            let again = if *attempt > 1 { format!(" attempt {attempt}") } else { String::new() };
            let recovered = recovered_from.map_or(String::new(), |from| format!("  <-- Recovered row (from {from})"));
            format!("Row {line}: START processing (worker: {worker}){again}{recovered}")
        }
        Report::Worker(WorkerEvent::Recorded { key: RunKey { line, .. }, recorded, run_time, error }) => {
            let seconds = run_time.as_secs_f64();
            let error = error.as_deref().map_or("", first_line);
            match recorded {
                Recorded::Success => format!("Row {line}: DONE processing ({seconds:.3} s)"),
                Recorded::Failed => format!("Row {line}: FAILED ({seconds:.3} s): {error}"),
                Recorded::GivenBack => format!("Row {line}: to be tried again ({seconds:.3} s): {error}"),
            }
        }
        Report::Worker(WorkerEvent::Fenced(RunKey { line, token, .. })) => {
            format!("Row {line}: FENCED, its late answer was dropped (token {token}): another worker has it")
        }
        Report::Worker(WorkerEvent::LeaseTaken(lease)) => format!("Lease {lease} taken"),
        Report::Worker(WorkerEvent::LeaseEnded(lease)) => {
            format!("Lease {lease} was declared dead while this worker lived: its rows were given to others")
        }
        Report::Worker(WorkerEvent::Lapsed(lease)) => {
            format!("Lease {lease} ran out without a renewal: running rows are cancelled")
        }
        Report::Judge(JudgeEvent::Recovered { worker, cause, lines, failed, .. }) => {
            let failed = if *failed > 0 { format!(", {failed} failed: they crashed too often") } else { String::new() };
            format!("Worker {worker} is dead ({}): {lines} rows came back{failed}", cause_text(*cause))
        }
        Report::StoreTrouble(error) => trouble_text(error),
    };
    Some(format!("[{}] {line}", clock()))
}

fn trouble(report: &Report<'_>) -> Option<String> {
    match report {
        Report::StoreTrouble(error) => Some(format!("[{}] {}", clock(), trouble_text(error))),
        _ => None,
    }
}

fn trouble_text(error: &crate::store::StoreError) -> String {
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    format!("The store did not answer: {error}{cause}; it is asked again")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

fn cause_text(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Lapsed => "silent past its ttl",
        EndCause::Died => "its process is gone",
        EndCause::TakenOver => "its name was taken over",
    }
}

fn json(report: &Report<'_>, worker: &str) -> String {
    let run = |key: &RunKey| json!({"batch": key.batch.to_string(), "line": key.line, "token": key.token.0});
    let mut event = match report {
        Report::Started { key, attempt, recovered_from } => {
            let mut event = run(key);
            event["event"] = "started".into();
            event["attempt"] = (*attempt).into();
            event["recovered_from"] = (*recovered_from).into();
            event
        }
        Report::Worker(WorkerEvent::Recorded { key, recorded, run_time, error }) => {
            let mut event = run(key);
            event["event"] = match recorded {
                Recorded::Success => "success".into(),
                Recorded::Failed => "failed".into(),
                Recorded::GivenBack => "retry".into(),
            };
            event["run_us"] = fencepost_core::time::micros(*run_time).into();
            event["error"] = error.as_deref().into();
            event
        }
        Report::Worker(WorkerEvent::Fenced(key)) => {
            let mut event = run(key);
            event["event"] = "fenced".into();
            event
        }
        Report::Worker(WorkerEvent::LeaseTaken(lease)) => json!({"event": "lease_taken", "lease": lease.to_string()}),
        Report::Worker(WorkerEvent::LeaseEnded(lease)) => json!({"event": "lease_ended", "lease": lease.to_string()}),
        Report::Worker(WorkerEvent::Lapsed(lease)) => json!({"event": "lapsed", "lease": lease.to_string()}),
        Report::Judge(JudgeEvent::Recovered { lease, worker, cause, lines, failed }) => json!({
            "event": "recovered", "lease": lease.to_string(), "from": worker, "cause": cause_text(*cause),
            "lines": lines, "failed": failed,
        }),
        Report::StoreTrouble(error) => json!({"event": "store_trouble", "message": error.to_string()}),
    };
    event["time"] = jiff::Timestamp::now().to_string().into();
    event["worker"] = worker.into();
    event.to_string()
}
