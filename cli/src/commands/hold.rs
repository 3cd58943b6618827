//! `fencepost hold` and `fencepost resume`

use serde_json::json;

use super::args::{Global, HoldArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{print, store};
use crate::report::SCHEMA_VERSION;
use crate::say::say;
use crate::store::Operates;

pub async fn hold(global: &Global, args: HoldArgs, hold: bool) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?.batch;
    let done = if hold { store.hold(batch).await? } else { store.resume(batch).await? };
    let new = store::operated(global, batch, done, if hold { "held" } else { "resumed" })?;
    if args.json {
        let value = json!({ "schema_version": SCHEMA_VERSION, "batch": batch.to_string(), "held": hold, "new": new });
        print(&format!("{value}\n"))?;
        return Ok(Exit::Done);
    }
    print(&match (hold, new) {
        (true, true) => format!("Batch {batch} is held: nothing of it is claimed, what runs goes on.\n"),
        (true, false) => format!("Batch {batch} was held before: nothing to do.\n"),
        (false, true) => format!("Batch {batch} is resumed: its rows are claimed again.\n"),
        (false, false) => format!("Batch {batch} is not held: nothing to do.\n"),
    })?;
    if hold && new && !global.quiet {
        say!("`fencepost resume {batch}{}` lets it go on.", store_option(global));
    }
    Ok(Exit::Done)
}
