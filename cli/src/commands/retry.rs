//! `fencepost retry`

use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{Retried, RetryRows};
use serde_json::json;

use super::args::{Global, RetryArgs};
use super::confirm::{self, Said};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{print, store};
use crate::report::SCHEMA_VERSION;
use crate::say::say;
use crate::store::view::BatchView;
use crate::store::{Operates, Reads};

pub async fn retry(global: &Global, args: RetryArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?;
    if let status @ (BatchStatus::Aborted | BatchStatus::Loading) = batch.status {
        return Err(store::cannot(batch.batch, status, "retried"));
    }
    let meant = meant(global, &store, batch.batch, &args).await?;
    if meant.count == 0 {
        tell(&batch, Done { rows: 0, generation: batch.generation, reopened: false }, meant.none, args.json)?;
        return Ok(Exit::Done);
    }
    if confirm::ask(global, args.yes, &would_retry(&batch, &meant))? == Said::No {
        say!("Nothing was done.");
        return Ok(Exit::Done);
    }
    let done = match store.retry(batch.batch, meant.rows).await? {
        Retried::Rows { freed, generation, reopened } => Done { rows: freed, generation, reopened },
        Retried::Aborted => return Err(store::cannot(batch.batch, BatchStatus::Aborted, "retried")),
        Retried::Loading => return Err(store::cannot(batch.batch, BatchStatus::Loading, "retried")),
        Retried::NotThere => return Err(store::no_batch(global, &batch.batch.to_string())),
    };
    // Others may have retried them since they were counted.
    tell(&batch, done, meant.none, args.json)?;
    Ok(Exit::Done)
}

/// Which rows are meant, and how many they are now.
struct Meant {
    rows: RetryRows,
    count: u64,
    /// What to say where there is none.
    none: &'static str,
    /// The words for them.
    words: String,
    /// And for what they came to, where these do not say it.
    ended: &'static str,
}

async fn meant(global: &Global, store: &impl Reads, batch: BatchId, args: &RetryArgs) -> Result<Meant, Failure> {
    if let Some(line) = args.line {
        return of_line(global, store, batch, line).await;
    }
    let text = args.error_like.as_deref();
    let count = store.failed(batch, text).await?;
    let rows = text.map_or(RetryRows::Failed, |text| RetryRows::FailedWith(text.into()));
    let failed = if count == 1 { "1 failed row".to_owned() } else { format!("{count} failed rows") };
    let (none, words) = match text {
        None => ("no row has failed", failed),
        Some(text) => ("no row has failed with such an error", format!("{failed} whose error contains {text:?}")),
    };
    Ok(Meant { rows, count, none, words, ended: "" })
}

async fn of_line(global: &Global, store: &impl Reads, batch: BatchId, line: u64) -> Result<Meant, Failure> {
    let Some(story) = store.row_story(batch, line).await? else {
        return Err(Failure::new(Exit::NotFound, format!("batch {batch} has no row {line}"))
            .help(format!("`fencepost status {batch}{}` tells how many rows it has", store_option(global))));
    };
    let outcome = story.row.outcome;
    let ended = outcome.as_ref().map_or("", |outcome| if outcome.success { " (it succeeded)" } else { " (it failed)" });
    Ok(Meant {
        count: u64::from(outcome.is_some()),
        // The outcome that was seen, and no later one: whoever repeats this does not run the row twice.
        rows: RetryRows::Line { line, token: outcome.map(|outcome| outcome.token) },
        none: "the row has no outcome, or not the one that it had a moment ago",
        words: format!("row {line}"),
        ended,
    })
}

fn would_retry(batch: &BatchView, meant: &Meant) -> String {
    let opens = if batch.ended_at.is_some() { ", and opens the batch again" } else { "" };
    format!("This runs {} again{}{opens}. Old results give way to new ones.", meant.words, meant.ended)
}

/// What came of it.
struct Done {
    rows: u64,
    generation: u32,
    reopened: bool,
}

fn tell(batch: &BatchView, done: Done, none: &str, as_json: bool) -> Result<(), Failure> {
    let id = batch.batch;
    let Done { rows, generation, reopened } = done;
    if as_json {
        let value = json!({
            "schema_version": SCHEMA_VERSION, "batch": id.to_string(), "rows": rows, "generation": generation,
            "reopened": reopened,
        });
        return print(&format!("{value}\n"));
    }
    print(&match (rows, reopened) {
        (0, _) => format!("Nothing to retry in batch {id}: {none}.\n"),
        (_, false) => format!("{} of batch {id} will run again.\n", confirm::rows(rows)),
        (_, true) => {
            format!(
                "{} of batch {id} will run again; it is open again, as generation {generation}.\n",
                confirm::rows(rows)
            )
        }
    })
}
