//! What Redis says of workers' lives, as reports show it.

use std::fmt::Write;
use std::time::Duration;

use fencepost_core::{BatchId, LeaseId, LineSet};
use serde_json::{Value, json};

use super::{RULE, ranges_text, shown};
use crate::liveness::redis::scripts::{Doubt, Evidence};

/// A Redis as reports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisReport {
    /// Its URL without passwords.
    pub url: String,
    /// What all keys of the store begin with.
    pub prefix: String,
    /// What it says, or why it says nothing.
    pub said: Result<RedisView, String>,
}

/// What a Redis says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisView {
    /// Of itself.
    pub evidence: Evidence,
    /// Of workers.
    pub workers: Vec<RedisWorker>,
}

/// What it has of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisWorker {
    /// Its lease.
    pub id: LeaseId,
    /// Its name.
    pub name: String,
    /// Its lease's ttl.
    pub ttl: Duration,
    /// How long its heartbeat lasts yet, or `None` where there is none.
    pub heartbeat: Option<Duration>,
    /// The rows it runs.
    pub running: Vec<(BatchId, LineSet)>,
}

/// As text; rows of one batch, or of all.
pub fn text(report: &RedisReport, only: Option<BatchId>) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "\nRedis {} (keys {}*):\n{RULE}", shown(&report.url), shown(&report.prefix));
    match &report.said {
        Ok(view) => view_text(&mut out, view, only),
        Err(why) => {
            let _ = writeln!(out, "It does not answer: {}", shown(why));
            let _ = writeln!(out, "Work goes on without it; a dead worker is found by its lease alone.");
        }
    }
    out
}

fn view_text(out: &mut String, view: &RedisView, only: Option<BatchId>) {
    let Evidence { uptime_s, data_age, master } = view.evidence;
    let role = if master { "" } else { ", a replica" };
    let data = data_age.map_or("no marker of its data".to_owned(), |age| format!("data kept for {} s", age.as_secs()));
    let _ = writeln!(out, "Up for {uptime_s} s, {data}{role}");
    if view.workers.is_empty() {
        let _ = writeln!(out, "  (no workers)");
    }
    for worker in &view.workers {
        let heartbeat = match worker.heartbeat {
            Some(left) => format!("heartbeat, {} s left", left.as_secs()),
            None => "no heartbeat".to_owned(),
        };
        let doubt = view.evidence.doubt(worker.ttl);
        let doubt = doubt.map_or(String::new(), |doubt| doubt_text(doubt, view.evidence, worker.ttl));
        let _ = writeln!(out, "  {}: {heartbeat}{doubt}", shown(&worker.name));
        for (batch, lines) in rows_of(worker, only) {
            let of = if only.is_some() { String::new() } else { format!(" of {batch}") };
            let _ = writeln!(out, "    Running{of}: {}", ranges_text(lines));
        }
    }
}

fn rows_of(worker: &RedisWorker, only: Option<BatchId>) -> impl Iterator<Item = &(BatchId, LineSet)> {
    worker.running.iter().filter(move |(id, lines)| only.is_none_or(|only| *id == only) && !lines.is_empty())
}

fn doubt_text(doubt: Doubt, evidence: Evidence, ttl: Duration) -> String {
    let why = match (doubt, evidence.data_age) {
        (Doubt::Replica, _) => "it is a replica".to_owned(),
        (Doubt::Restarted, _) => format!("it has been up for only {} s", evidence.uptime_s),
        (Doubt::DataLost, Some(age)) => format!("its data are only {} s old", age.as_secs()),
        (Doubt::DataLost, None) => "its data have no marker".to_owned(),
    };
    format!(" [does not count: {why}, the ttl is {ttl:?}]")
}

/// Why it cannot vouch, as JSON has it.
const fn doubt_name(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Replica => "replica",
        Doubt::Restarted => "restarted",
        Doubt::DataLost => "data_lost",
    }
}

/// As JSON.
pub fn json(report: &RedisReport) -> Value {
    let mut value = json!({ "url": report.url, "prefix": report.prefix, "answers": report.said.is_ok() });
    match &report.said {
        Ok(view) => {
            let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            value["uptime_s"] = view.evidence.uptime_s.into();
            value["data_age_ms"] = view.evidence.data_age.map(milliseconds).into();
            value["master"] = view.evidence.master.into();
            let worker = |worker: &RedisWorker| {
                let running = rows_of(worker, None).map(|(batch, lines)| {
                    let lines: Vec<_> = lines.ranges().iter().map(|range| [range.first, range.last]).collect();
                    json!({ "batch": batch.to_string(), "lines": lines })
                });
                json!({
                    "id": worker.id.to_string(),
                    "name": worker.name,
                    "heartbeat_ms": worker.heartbeat.map(milliseconds),
                    "running": running.collect::<Vec<_>>(),
                    "doubt": view.evidence.doubt(worker.ttl).map(doubt_name),
                })
            };
            value["workers"] = view.workers.iter().map(worker).collect();
        }
        Err(why) => value["error"] = why.clone().into(),
    }
    value
}
