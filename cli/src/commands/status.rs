//! `fencepost status`

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::LeaseId;

use super::args::{Global, StatusArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{overview, print, redis, store};
use crate::liveness::RedisLiveness;
use crate::liveness::redis::scripts::{Mirrored, View};
use crate::liveness::redis::url::RedisUrl;
use crate::report;
use crate::report::redis::{RedisReport, RedisView, RedisWorker};
use crate::report::status::{self, Alive, StatusReport, WorkerSummary};
use crate::store::Reads;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub async fn status(global: &Global, args: StatusArgs) -> Result<Exit, Failure> {
    let url = redis::url(&args.redis)?;
    let store = store::open(global).await?;
    let witness = Witness::new(url, store.store_id())?;
    loop {
        let mut report = read(global, &store, args.batch.as_deref(), args.json).await?;
        if let Some(witness) = &witness {
            report.redis = Some(witness.report(&report.workers).await);
        }
        let text = match (args.json, report.batches.as_slice()) {
            (true, [batch]) if args.batch.is_some() => {
                let mut value = status::batch_status_json(batch, &report.workers);
                value["calls"] = report.calls.get(&batch.id).map_or(serde_json::Value::Null, report::calls::json);
                json(&with_redis(value, &report), args.watch)
            }
            (true, batches) => json(&with_redis(status::list_json(batches), &report), args.watch),
            (false, _) => status::text(&report, &store_option(global)),
        };
        print(&text)?;
        let ended = report.batches.iter().all(crate::report::BatchSummary::has_ended);
        if !args.watch || ended {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// A Redis that is asked about workers.
struct Witness {
    url: String,
    liveness: RedisLiveness,
}

impl Witness {
    fn new(url: Option<RedisUrl>, store_id: &str) -> Result<Option<Self>, Failure> {
        let shown = url.as_ref().map(RedisUrl::to_string);
        let liveness = redis::liveness(url, store_id)?.map(|liveness| liveness.for_people());
        Ok(shown.zip(liveness).map(|(url, liveness)| Self { url, liveness }))
    }

    async fn report(&self, workers: &[WorkerSummary]) -> RedisReport {
        let asked: Vec<&WorkerSummary> = workers.iter().filter(|worker| worker.alive != Alive::Ended).collect();
        let leases: Vec<LeaseId> = asked.iter().map(|worker| worker.id).collect();
        let of_worker = |(worker, mirrored): (&WorkerSummary, Mirrored)| RedisWorker {
            id: worker.id,
            name: worker.name.clone(),
            ttl: worker.ttl,
            heartbeat: mirrored.heartbeat,
            running: mirrored.running,
        };
        let said = self.liveness.view(&leases).await.map(|View { evidence, workers, .. }| RedisView {
            evidence,
            workers: asked.into_iter().zip(workers).map(of_worker).collect(),
        });
        let said = said.map_err(|error| error.to_string());
        RedisReport { url: self.url.clone(), prefix: self.liveness.keys().prefix().to_owned(), said }
    }
}

/// `redis` is there where a Redis was named.
fn with_redis(mut value: serde_json::Value, report: &StatusReport) -> serde_json::Value {
    if let Some(redis) = &report.redis {
        value["redis"] = report::redis::json(redis);
    }
    value
}

/// One object, on one line where more follow.
pub fn json(value: &serde_json::Value, one_line: bool) -> String {
    if one_line { format!("{value}\n") } else { format!("{value:#}\n") }
}

async fn read(global: &Global, store: &impl Reads, name: Option<&str>, json: bool) -> Result<StatusReport, Failure> {
    let workers = overview::workers(store).await?;
    let batches = match name {
        Some(name) => {
            let view = store::batch(global, store, name).await?;
            overview::batch(store, view.batch).await?.into_iter().collect()
        }
        None => {
            let mut batches = overview::batches(store).await?;
            let newest = batches.iter().find(|batch| batch.has_ended()).cloned();
            batches.retain(|batch| matches!(batch.status, "open" | "held"));
            if batches.is_empty() { newest.into_iter().collect() } else { batches }
        }
    };
    let mut calls = BTreeMap::new();
    // The list as JSON has none.
    for batch in batches.iter().filter(|_| name.is_some() || !json) {
        calls.insert(batch.id, overview::calls(store, batch.id, &workers).await?);
    }
    Ok(StatusReport { batches, workers, calls, redis: None })
}
