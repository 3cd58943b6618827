//! `fencepost append`

use serde_json::json;

use super::args::{AppendArgs, Global};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{load, print, store};
use crate::append::{self, Append, AppendError, Progress, check_columns};
use crate::input::{Input, InputError};
use crate::report::SCHEMA_VERSION;
use crate::say::say;
use crate::store::AnyStore;
use crate::store::view::BatchView;

pub async fn append(global: &Global, args: AppendArgs) -> Result<Exit, Failure> {
    let options = load::input_options(&args.input)?;
    let input = match &args.file {
        Some(file) => Some(Input::open(file, &options)?),
        None => None,
    };
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?;
    let id = batch.batch;
    let columns = input.as_ref().and_then(|input| input.columns());
    check_columns(id, batch.header.as_deref(), columns).map_err(|error| failure(global, error))?;
    let appended = rows(global, &store, &batch, &args, input).await.map_err(|error| failure(global, error))?;
    let Append { lines, new } = appended;
    let count = lines.map_or(0, |lines| lines.last - lines.first + 1);
    if args.json {
        let lines = lines.map(|lines| [lines.first, lines.last]);
        let value = json!({
            "schema_version": SCHEMA_VERSION, "batch": id.to_string(), "rows": count, "lines": lines, "new": new,
        });
        print(&format!("{value}\n"))?;
        return Ok(Exit::Done);
    }
    let lines = lines.map_or_else(String::new, |lines| format!(": lines {} to {}", lines.first, lines.last));
    print(&if new {
        format!("{} appended to batch {id}{lines}\n", super::confirm::rows(count))
    } else {
        format!("Appended before, nothing added: {} of batch {id}{lines}\n", super::confirm::rows(count))
    })?;
    Ok(Exit::Done)
}

async fn rows(
    global: &Global,
    store: &AnyStore,
    batch: &BatchView,
    args: &AppendArgs,
    input: Option<Input>,
) -> Result<Append, AppendError> {
    let key = args.key.as_deref();
    // A wait is told once, not at every look.
    let told = std::sync::atomic::AtomicBool::new(false);
    let progress = |progress: Progress<'_>| {
        if let Progress::Waiting(busy) = progress
            && !global.quiet
            && !told.swap(true, std::sync::atomic::Ordering::Relaxed)
        {
            let key = busy.key.as_deref().map_or_else(String::new, |key| format!(" (key {key:?})"));
            say!("Waiting for another append to this batch{key}, which has stored {} rows so far.", busy.rows);
        }
    };
    match input {
        Some(mut input) => {
            let next = move || input.read_row().map(|row| row.map(Box::from));
            append::rows(store, batch.batch, key, next, progress).await
        }
        None => {
            let mut numbers = 1..=args.rows.unwrap_or(0);
            let next = move || Ok::<_, InputError>(numbers.next().map(|n| format!("{{\"n\":{n}}}").into()));
            append::rows(store, batch.batch, key, next, progress).await
        }
    }
}

fn failure(global: &Global, error: AppendError) -> Failure {
    match error {
        AppendError::Input(error) => Failure::from(error).help("nothing was appended"),
        AppendError::Store(error) => {
            Failure::from(error).help("nothing was appended; put that right and try again")
        }
        AppendError::Unknown { batch, .. } => Failure::from_error(Exit::Store, error).help(format!(
            "`fencepost status {batch}{}` tells by the count of its rows, once the store answers; under the same --key it is safe to \
             try again",
            store_option(global)
        )),
        AppendError::NoBatch { batch } => store::no_batch(global, &batch.to_string()),
        AppendError::Closed { status, .. } => {
            let exit = if status == fencepost_core::rules::claim::BatchStatus::Aborted { Exit::Aborted } else { Exit::Usage };
            Failure::from_error(exit, error)
        }
        AppendError::NoColumns { ref header, .. } => {
            let header = header.join(",");
            Failure::from_error(Exit::Input, error).help(format!("append CSV with the header {header}"))
        }
        AppendError::TakenOver { .. } => Failure::from_error(Exit::Unexpected, error),
        AppendError::KeyBound { .. } | AppendError::Columns { .. } | AppendError::Row { .. } => {
            Failure::from_error(Exit::Input, error)
        }
    }
}
