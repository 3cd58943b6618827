//! `fencepost status`

use std::time::Duration;

use super::args::{Global, StatusArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{overview, print, store};
use crate::report::status::{self, StatusReport};
use crate::store::Reads;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub async fn status(global: &Global, args: StatusArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    loop {
        let report = read(global, &store, args.batch.as_deref()).await?;
        let text = match (args.json, report.batches.as_slice()) {
            (true, [batch]) if args.batch.is_some() => {
                json(&status::batch_status_json(batch, &report.workers), args.watch)
            }
            (true, batches) => json(&status::list_json(batches), args.watch),
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

/// One object, on one line where more follow.
pub fn json(value: &serde_json::Value, one_line: bool) -> String {
    if one_line { format!("{value}\n") } else { format!("{value:#}\n") }
}

async fn read(global: &Global, store: &impl Reads, name: Option<&str>) -> Result<StatusReport, Failure> {
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
    Ok(StatusReport { batches, workers })
}
