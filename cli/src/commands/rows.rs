//! `fencepost rows`

use clap::ValueEnum;
use fencepost_core::BatchId;

use super::args::{Global, ROWS_PER_PAGE, RowStatusArg, RowsArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::status::json;
use super::{overview, print, store};
use crate::report::rows::{Story, StoryEntry, row_json, rows_text, story_json, story_text};
use crate::say::say;
use crate::store::Reads;
use crate::store::view::{RowStatus, RowStory};

pub async fn rows(global: &Global, args: RowsArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?;
    match args.line {
        Some(line) => one(global, &store, batch.batch, line, args.json).await,
        None => page(global, &store, batch.batch, &args).await,
    }
}

async fn one(global: &Global, store: &impl Reads, batch: BatchId, line: u64, as_json: bool) -> Result<Exit, Failure> {
    let Some(story) = store.row_story(batch, line).await? else {
        return Err(Failure::new(Exit::NotFound, format!("batch {batch} has no row {line}"))
            .help(format!("`fencepost status {batch}{}` tells how many rows it has", store_option(global))));
    };
    let story = told(batch, story);
    print(&if as_json { json(&story_json(&story), false) } else { story_text(&story) })?;
    Ok(Exit::Done)
}

/// The log's entries, then who has the row now or how it ended.
fn told(batch: BatchId, story: RowStory) -> Story {
    let mut entries: Vec<StoryEntry> = story
        .entries
        .into_iter()
        .map(|entry| StoryEntry {
            kind: entry.kind,
            worker: entry.worker,
            token: entry.token.0,
            detail: entry.detail,
            run_us: entry.run_time.map(fencepost_core::time::micros),
            at_us: Some(entry.at.0),
        })
        .collect();
    if let Some(outcome) = &story.row.outcome {
        entries.push(StoryEntry {
            kind: "recorded".to_owned(),
            worker: outcome.worker.clone(),
            token: outcome.token.0,
            detail: Some(if outcome.success { "success".to_owned() } else { "failed".to_owned() }),
            run_us: Some(fencepost_core::time::micros(outcome.run_time)),
            at_us: Some(outcome.recorded_at.0),
        });
    }
    entries.sort_by_key(|entry| entry.at_us);
    if let Some(span) = story.span.filter(|span| span.lease.is_some()) {
        entries.push(StoryEntry {
            kind: "held".to_owned(),
            worker: span.worker,
            token: span.token.0,
            detail: None,
            run_us: None,
            at_us: None,
        });
    }
    Story { batch, row: overview::result_row(story.row), entries }
}

async fn page(global: &Global, store: &impl Reads, batch: BatchId, args: &RowsArgs) -> Result<Exit, Failure> {
    let status = args.status.map(|status| match status {
        RowStatusArg::Queued => RowStatus::Queued,
        RowStatusArg::Inprog => RowStatus::InProg,
        RowStatusArg::Success => RowStatus::Success,
        RowStatusArg::Failed => RowStatus::Failed,
        RowStatusArg::Aborted => RowStatus::Aborted,
    });
    let limit = u32::try_from(args.limit).unwrap_or(u32::MAX);
    let page = store.rows(batch, status, args.after, limit).await?;
    let rows: Vec<_> = page.rows.into_iter().map(overview::result_row).collect();
    if args.json {
        let lines: String = rows.iter().map(|row| format!("{}\n", row_json(row))).collect();
        print(&lines)?;
    } else {
        print(&rows_text(&rows))?;
        if let Some(after) = page.next_after {
            let only = args.status.and_then(|status| status.to_possible_value());
            let only = only.map_or(String::new(), |status| format!(" --status {}", status.get_name()));
            let limit = if args.limit == ROWS_PER_PAGE { String::new() } else { format!(" --limit {}", args.limit) };
            say!("more: fencepost rows {batch}{}{only}{limit} --after {after}", store_option(global));
        }
    }
    Ok(Exit::Done)
}
