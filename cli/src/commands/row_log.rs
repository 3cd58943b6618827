//! What a worker prints while it works: a line at each row's start and end, on stderr.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fencepost_core::calls::CallKey;
use fencepost_core::judge::JudgeEvent;
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::{EndCause, LeaseView, Recorded};
use fencepost_core::worker::{RunKey, WorkerEvent};
use serde_json::json;

use super::args::LogForm;
use crate::driver::{Observer, Report};
use crate::masked::without_query;
use crate::say::say;
use crate::visible::visible;

/// The observer that prints in this form. `worker` names the worker once it is known.
pub fn observer(form: LogForm, worker: Arc<std::sync::OnceLock<String>>) -> Observer {
    match form {
        LogForm::Text => {
            limited(say_text, move |report, untold| Some(text(report, untold, worker.get().map_or("", String::as_str))))
        }
        LogForm::Json => limited(crate::say::json, move |report, untold| {
            Some(json(report, untold, worker.get().map_or("", String::as_str)))
        }),
        LogForm::Quiet => limited(say_text, trouble),
    }
}

/// Prints what the form makes of reports; of a store in trouble only so much that it is known, with the number of those
/// that were not told before.
fn limited(say: fn(&str), form: impl Fn(&Report<'_>, u64) -> Option<String> + Send + Sync + 'static) -> Observer {
    let troubles = Mutex::new(Troubles::default());
    Arc::new(move |report| {
        let mut untold = 0;
        if let Report::StoreTrouble(_) = report {
            let mut troubles = troubles.lock().unwrap_or_else(PoisonError::into_inner);
            match troubles.tell(Instant::now()) {
                Some(count) => untold = count,
                None => return,
            }
        }
        if let Some(line) = form(&report, untold) {
            say(&line);
        }
    })
}

fn say_text(line: &str) {
    say!("{line}");
}

/// At most one trouble of the store is told in this time.
const TROUBLE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Troubles {
    told: Option<Instant>,
    untold: u64,
}

impl Troubles {
    /// Whether to tell the trouble of now; if so, how many were not told before it.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TROUBLE_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

fn clock() -> String {
    jiff::ZonedDateTime::now().strftime("%H:%M:%S").to_string()
}

fn text(report: &Report<'_>, untold: u64, worker: &str) -> String {
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
        Report::Calling(grant) => {
            let again = if grant.attempt > 1 { format!(" attempt {}", grant.attempt) } else { String::new() };
            let whom = grant.end.url.as_ref().map_or(String::new(), |url| format!(" {}", without_query(url)));
            format!("Batch {}: ended as {}, CALLING{whom}{again}", grant.key.batch, grant.end.status.name())
        }
        Report::Worker(WorkerEvent::CallDelivered(key)) => format!("Batch {}: call DELIVERED", key.batch),
        Report::Worker(WorkerEvent::CallFailed { key, error }) => {
            format!("Batch {}: call to be tried again: {}", key.batch, first_line(error))
        }
        Report::Worker(WorkerEvent::CallFenced(key)) => {
            format!("Batch {}: call FENCED (token {}): another worker makes it", key.batch, key.token)
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
        Report::NameHeld { holder, process } => name_held_text(holder, *process),
        Report::StoreTrouble(error) => trouble_text(error, untold),
        Report::LivenessTrouble(error) => liveness_text(error),
        Report::LivenessBack => LIVENESS_BACK.to_owned(),
    };
    format!("[{}] {}", clock(), visible(&line))
}

fn trouble(report: &Report<'_>, untold: u64) -> Option<String> {
    match report {
        Report::StoreTrouble(error) => Some(format!("[{}] {}", clock(), visible(&trouble_text(error, untold)))),
        Report::LivenessTrouble(error) => Some(format!("[{}] {}", clock(), visible(&liveness_text(error)))),
        Report::LivenessBack => Some(format!("[{}] {LIVENESS_BACK}", clock())),
        _ => None,
    }
}

fn liveness_text(error: &dyn Error) -> String {
    format!("Redis does not answer: {error}; rows are worked on without it, and it is asked again")
}

const LIVENESS_BACK: &str = "Redis answers again";

fn trouble_text(error: &crate::store::StoreError, untold: u64) -> String {
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    let more = if untold > 0 { format!(" ({untold} such lines were left out before)") } else { String::new() };
    format!("Trouble with the store: {error}{cause}; it is asked again{more}")
}

fn name_held_text(holder: &LeaseView, process: ProcessState) -> String {
    let who = match (&holder.process, process) {
        (Some(process), ProcessState::Running) => format!(" (process {} of this machine)", process.pid),
        (Some(process), _) => format!(" (process {}, not seen from here)", process.pid),
        (None, _) => String::new(),
    };
    format!(
        "The name {} is held by another worker{who}: waiting to see whether it lives. If it does, this one leaves; if \
         not, this one takes its name over",
        holder.worker
    )
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

fn json(report: &Report<'_>, untold: u64, worker: &str) -> String {
    let run = |key: &RunKey| json!({"batch": key.batch.to_string(), "line": key.line, "token": key.token.0});
    let call = |event: &str, key: &CallKey| {
        json!({
            "event": event, "batch": key.batch.to_string(), "generation": key.generation, "token": key.token.0,
        })
    };
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
        Report::Calling(grant) => {
            let mut event = call("call_started", &grant.key);
            event["attempt"] = grant.attempt.into();
            event["status"] = grant.end.status.name().into();
            event["url"] = grant.end.url.as_deref().map(without_query).into();
            event
        }
        Report::Worker(WorkerEvent::CallDelivered(key)) => call("call_delivered", key),
        Report::Worker(WorkerEvent::CallFailed { key, error }) => {
            let mut event = call("call_failed", key);
            event["error"] = (**error).into();
            event
        }
        Report::Worker(WorkerEvent::CallFenced(key)) => call("call_fenced", key),
        Report::Worker(WorkerEvent::LeaseTaken(lease)) => json!({"event": "lease_taken", "lease": lease.to_string()}),
        Report::Worker(WorkerEvent::LeaseEnded(lease)) => json!({"event": "lease_ended", "lease": lease.to_string()}),
        Report::Worker(WorkerEvent::Lapsed(lease)) => json!({"event": "lapsed", "lease": lease.to_string()}),
        Report::Judge(JudgeEvent::Recovered { lease, worker, cause, lines, failed }) => json!({
            "event": "recovered", "lease": lease.to_string(), "from": worker, "cause": cause_text(*cause),
            "lines": lines, "failed": failed,
        }),
        Report::NameHeld { holder, process } => json!({
            "event": "name_held", "lease": holder.lease.to_string(),
            "pid": holder.process.as_ref().map(|process| process.pid), "local": *process == ProcessState::Running,
        }),
        Report::StoreTrouble(error) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            json!({"event": "store_trouble", "message": error.to_string(), "cause": cause, "left_out": untold})
        }
        Report::LivenessTrouble(error) => json!({"event": "redis_trouble", "message": error.to_string()}),
        Report::LivenessBack => json!({"event": "redis_back"}),
    };
    event["time"] = jiff::Timestamp::now().to_string().into();
    event["worker"] = worker.into();
    event.to_string()
}

#[cfg(test)]
mod tests {
    use fencepost_core::calls::{BatchEnd, CallGrant};
    use fencepost_core::rules::claim::BatchStatus;
    use fencepost_core::store::ProcessIdentity;
    use fencepost_core::{BatchId, LeaseId, StoreTime, Token};

    use super::*;
    use crate::liveness::redis::trouble::LivenessError;

    /// Every report there is, in each form.
    #[test]
    fn all_reports() {
        let key = RunKey { batch: BatchId::from_random(0x0012_3456_789a), line: 5, token: Token(31) };
        let lease = LeaseId::from_random(7);
        let recorded = |recorded, error: Option<&str>| WorkerEvent::Recorded {
            key,
            recorded,
            run_time: Duration::from_micros(2_001_000),
            error: error.map(Into::into),
        };
        let of_worker = [
            WorkerEvent::LeaseTaken(lease),
            recorded(Recorded::Success, None),
            recorded(Recorded::Failed, Some("exit code 65\nno such thing")),
            recorded(Recorded::GivenBack, Some("exit code 75")),
            WorkerEvent::Fenced(key),
            WorkerEvent::Lapsed(lease),
            WorkerEvent::LeaseEnded(lease),
        ];
        let recovered =
            |cause, failed| JudgeEvent::Recovered { lease, worker: "first".into(), cause, lines: 3, failed };
        let of_judge =
            [recovered(EndCause::Died, 0), recovered(EndCause::Lapsed, 1), recovered(EndCause::TakenOver, 0)];
        let trouble = crate::store::StoreError::not_done("cannot record", Some("the disk is full".into()));
        let mut reports = vec![
            Report::Started { key, attempt: 1, recovered_from: None },
            Report::Started { key, attempt: 2, recovered_from: Some("first") },
        ];
        reports.extend(of_worker.iter().map(Report::Worker));
        reports.extend(of_judge.iter().map(Report::Judge));
        let process = ProcessIdentity { machine: "boot".into(), pid: 12_345, start_ticks: 1 };
        let holder = |process| LeaseView {
            lease,
            worker: "second".into(),
            ttl: Duration::from_secs(60),
            renew: Duration::from_secs(30),
            expires_at: StoreTime(0),
            renewals: 1,
            process,
        };
        let (here, unknown) = (holder(Some(process)), holder(None));
        let call = CallKey { batch: key.batch, generation: 2, token: Token(32) };
        let grant = |attempt, url: Option<&str>| CallGrant {
            key: call,
            attempt,
            end: BatchEnd {
                key: None,
                operation: "default".into(),
                url: url.map(str::to_owned),
                status: BatchStatus::Failed,
                success: 2,
                failed: 1,
                aborted: 0,
                ended_at: StoreTime(0),
            },
        };
        let (first, third) = (grant(1, None), grant(3, Some("https://host/hook")));
        reports.extend([Report::Calling(&first), Report::Calling(&third)]);
        let of_calls = [
            WorkerEvent::CallDelivered(call),
            WorkerEvent::CallFailed { key: call, error: "exit code 3\nno answer".into() },
            WorkerEvent::CallFenced(call),
        ];
        reports.extend(of_calls.iter().map(Report::Worker));
        reports.push(Report::NameHeld { holder: &here, process: ProcessState::Running });
        reports.push(Report::NameHeld { holder: &here, process: ProcessState::Unknown });
        reports.push(Report::NameHeld { holder: &unknown, process: ProcessState::Unknown });
        reports.push(Report::StoreTrouble(&trouble));
        let silent = LivenessError::Silent { limit: Duration::from_secs(1) };
        reports.extend([Report::LivenessTrouble(&silent), Report::LivenessBack]);
        let said = |form: &dyn Fn(&Report<'_>) -> Option<String>| -> String {
            reports.iter().filter_map(form).map(|line| format!("{line}\n")).collect()
        };
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../tests/snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.add_filter(r"\[\d\d:\d\d:\d\d\]", "[hh:mm:ss]");
        settings.add_filter(r#""time":"[^"]+""#, r#""time":"[TIME]""#);
        settings.bind(|| {
            insta::assert_snapshot!("row_log_text", said(&|report| Some(text(report, 0, "second"))));
            insta::assert_snapshot!("row_log_json", said(&|report| Some(json(report, 0, "second"))));
            insta::assert_snapshot!("row_log_quiet", said(&|report| super::trouble(report, 2)));
        });
    }

    #[test]
    fn a_store_in_trouble_is_told_once_per_second_with_a_count() {
        let (mut troubles, begin) = (Troubles::default(), Instant::now());
        let tell = |millis| begin + Duration::from_millis(millis);
        let told: Vec<_> = [0, 1, 999, 1000, 1500, 2001].map(|at| troubles.tell(tell(at))).into();
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
