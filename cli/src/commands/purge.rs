//! `fencepost purge`

use std::fmt::Write;
use std::time::{Duration, Instant};

use fencepost_core::purge::{PurgeBegun, Purgeable};
use serde_json::json;

use super::args::{Global, PurgeArgs};
use super::confirm::{self, Said, rows};
use super::failure::{Exit, Failure};
use super::signals::Signals;
use super::{print, store};
use crate::purge::{self, Purged};
use crate::report::{SCHEMA_VERSION, time_text};
use crate::say::say;
use crate::store::{AnyStore, Purges};

/// Progress is one line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub async fn purge(global: &Global, args: PurgeArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let found = store.purgeable(purge::ages(args.older_than)).await?;
    if args.dry_run {
        print(&if args.json { of_json(&found, None) } else { would(&found) + "Nothing was done: --dry-run.\n" })?;
        return Ok(Exit::Done);
    }
    // Leases that ended are nothing to be asked about.
    if !found.is_empty() && confirm::ask(global, args.yes, would(&found).trim_end())? == Said::No {
        say!("Nothing was done.");
        return Ok(Exit::Done);
    }
    let purged = until_stopped(global, &store, &found).await?;
    print(&if args.json { of_json(&found, Some(&purged)) } else { done(&purged) })?;
    if !global.quiet && purged.rows > 0 && !args.json {
        print(space(&store))?;
    }
    Ok(Exit::Done)
}

async fn until_stopped(global: &Global, store: &AnyStore, found: &Purgeable) -> Result<Purged, Failure> {
    let mut signals = Signals::listen()?;
    let all = to_remove(found);
    let mut so_far = Purged::default();
    let mut next_line = Instant::now() + LINE_EVERY;
    let mut progress = |purged: &Purged| {
        so_far = purged.clone();
        if !global.quiet && Instant::now() >= next_line {
            say!("{} of {} removed", purged.rows, rows(all));
            next_line += LINE_EVERY;
        }
    };
    let ended = tokio::select! {
        biased;
        () = signals.next() => Err(None),
        purged = purge::all(store, found, &mut progress) => purged.map_err(Some),
    };
    let go_on = |so_far: &Purged| format!("{} of {} were removed; the same command goes on", so_far.rows, rows(all));
    ended.map_err(|error| match error {
        None => Failure::new(Exit::Interrupted, format!("interrupted: {}", go_on(&so_far))),
        Some(error) => Failure::from(error).help(go_on(&so_far)),
    })
}

/// All rows that will be gone.
fn to_remove(found: &Purgeable) -> u64 {
    let begun = found.begun.iter().map(|(_, rows)| rows);
    found.batches.iter().map(|batch| batch.rows).sum::<u64>() + begun.sum::<u64>()
}

fn batches(count: usize) -> String {
    if count == 1 { "1 batch".to_owned() } else { format!("{count} batches") }
}

/// What would be removed, in lines of its own.
fn would(found: &Purgeable) -> String {
    let mut out = String::new();
    match found.batches.as_slice() {
        [] => {
            let _ = writeln!(out, "No batch ended before {}.", time_text(found.ended_before.0));
        }
        ended @ [first, .., last] | ended @ [first @ last] => {
            let all = rows(ended.iter().map(|batch| batch.rows).sum());
            let times = match ended {
                [_] => format!("which ended {}", time_text(first.ended_at.0)),
                _ => format!("which ended from {} to {}", time_text(first.ended_at.0), time_text(last.ended_at.0)),
            };
            let _ = writeln!(
                out,
                "This removes {} with {all}, {times}, and their results, for good.",
                batches(ended.len())
            );
        }
    }
    if !found.begun.is_empty() {
        let left = rows(found.begun.iter().map(|(_, rows)| rows).sum());
        let _ =
            writeln!(out, "A purge before this one did not end: {left} of {} are left.", batches(found.begun.len()));
    }
    for (what, stored) in [
        ("submit", found.loads.iter().map(|(_, rows)| *rows).collect::<Vec<u64>>()),
        ("append", found.appends.iter().map(|(_, _, rows)| *rows).collect()),
    ] {
        if !stored.is_empty() {
            let all = rows(stored.iter().sum());
            let many = if stored.len() == 1 {
                format!("1 {what} that was")
            } else {
                format!("{} {what}s that were", stored.len())
            };
            let _ = writeln!(out, "{many} cut off left {all}.");
        }
    }
    out
}

fn done(purged: &Purged) -> String {
    let count = usize::try_from(purged.batches).unwrap_or(usize::MAX);
    let mut out = format!("Removed {} with {}", batches(count), rows(purged.rows));
    for (count, one, several) in [
        (purged.loads, "submit that was cut off", "submits that were cut off"),
        (purged.appends, "append that was cut off", "appends that were cut off"),
        (purged.leases, "lease of a worker that is gone", "leases of workers that are gone"),
    ] {
        if count > 0 {
            let _ = write!(out, ", {count} {}", if count == 1 { one } else { several });
        }
    }
    out.push_str(".\n");
    for (batch, why) in &purged.left {
        let _ = writeln!(out, "Batch {batch} stays: {}.", why_left(*why));
    }
    out
}

fn why_left(why: PurgeBegun) -> &'static str {
    match why {
        PurgeBegun::NotEnded => "it was opened again meanwhile",
        PurgeBegun::EndedSince => "it was opened again, and has ended, meanwhile",
        _ => {
            "a call, an append or an aborted row of it is under way; purge again later (a live worker clears what dead ones left)"
        }
    }
}

/// What becomes of the space.
fn space(store: &AnyStore) -> &'static str {
    match store {
        AnyStore::Sqlite(_) => {
            "The file keeps its size and uses the space for new rows; while nothing else uses it, sqlite3 FILE vacuum makes it smaller.\n"
        }
        AnyStore::Postgres(_) => "Postgres' autovacuum makes the space usable for new rows; nothing is to be done.\n",
    }
}

fn of_json(found: &Purgeable, purged: Option<&Purged>) -> String {
    let ended_at = |batch: Option<&fencepost_core::purge::PurgeableBatch>| batch.map(|batch| batch.ended_at.0);
    let mut value = json!({
        "schema_version": SCHEMA_VERSION,
        "dry_run": purged.is_none(),
        "ended_before_us": found.ended_before.0,
        "oldest_us": ended_at(found.batches.first()),
        "newest_us": ended_at(found.batches.last()),
        "batches": purged.map_or((found.batches.len() + found.begun.len()) as u64, |purged| purged.batches),
        "rows": purged.map_or(to_remove(found), |purged| purged.rows),
        "loads": purged.map_or(found.loads.len() as u64, |purged| purged.loads),
        "appends": purged.map_or(found.appends.len() as u64, |purged| purged.appends),
    });
    if let Some(purged) = purged {
        value["leases"] = purged.leases.into();
        value["left"] = purged.left.iter().map(|(batch, _)| batch.to_string()).collect::<Vec<_>>().into();
    }
    format!("{value}\n")
}
