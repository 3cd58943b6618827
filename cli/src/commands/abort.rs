//! `fencepost abort`

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;
use serde_json::json;

use super::args::{AbortArgs, Global};
use super::confirm::{self, Said};
use super::failure::{Exit, Failure};
use super::{overview, print, store};
use crate::report::SCHEMA_VERSION;
use crate::report::status::counts_json;
use crate::say::say;
use crate::store::view::BatchCounts;
use crate::store::{AnyStore, Operates, Reads};

pub async fn abort(global: &Global, args: AbortArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?.batch;
    let counts = store.status(batch).await?.ok_or_else(|| store::no_batch(global, &batch.to_string()))?;
    // What is asked is what would be done: of any other batch the store tells why it does nothing.
    if counts.batch.status == BatchStatus::Open && confirm::ask(global, args.yes, &would_end(&counts))? == Said::No {
        say!("Nothing was done.");
        return Ok(Exit::Done);
    }
    let new = store::operated(global, batch, store.abort(batch).await?, "aborted")?;
    if args.wait {
        until_nothing_runs(&store, batch).await?;
    }
    tell(&store, batch, new, args.json).await?;
    Ok(Exit::Done)
}

fn would_end(counts: &BatchCounts) -> String {
    let BatchCounts { queued, inprog, .. } = counts;
    let queued = if *queued == 1 { "1 queued row".to_owned() } else { format!("{queued} queued rows") };
    // Claimed is not begun: a worker's queue is its own affair, and not in the store.
    let held = if *inprog == 1 {
        "1 that a worker holds (it runs, or is to)".to_owned()
    } else {
        format!("{inprog} that workers hold (they run, or are to)")
    };
    format!("This ends {queued} and {held} as aborted, for good.")
}

/// How often is looked whether something still runs. Workers hear of an abort within a second and cancel what runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);

async fn until_nothing_runs(store: &AnyStore, batch: BatchId) -> Result<(), Failure> {
    while overview::stopping(store, batch).await? > 0 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn tell(store: &AnyStore, batch: BatchId, new: bool, as_json: bool) -> Result<(), Failure> {
    let Some(summary) = overview::batch(store, batch).await? else {
        // It was purged meanwhile, by somebody who saw it end.
        return print(&format!("Batch {batch} is aborted.\n"));
    };
    if as_json {
        let value = json!({
            "schema_version": SCHEMA_VERSION, "batch": batch.to_string(), "new": new, "counts": counts_json(&summary),
            "stopping": summary.stopping,
        });
        return print(&format!("{value}\n"));
    }
    let aborted = confirm::rows(summary.counts.aborted);
    let runs = match summary.stopping {
        0 => "Nothing of it runs.".to_owned(),
        running => format!("{} may still run until their workers have cancelled them.", confirm::rows(running)),
    };
    print(&if new {
        format!("Batch {batch} is aborted: {aborted} without an outcome. {runs}\n")
    } else {
        format!("Batch {batch} was aborted before ({aborted} without an outcome): nothing to do. {runs}\n")
    })
}
