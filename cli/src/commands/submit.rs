//! `fencepost submit`

use serde_json::json;

use super::args::{Global, SubmitArgs};
use super::failure::{Exit, Failure};
use super::hint::{quoted, store_option};
use super::{load, print, store};
use crate::input::Input;
use crate::report::{SCHEMA_VERSION, headline};
use crate::say::say;

pub async fn submit(global: &Global, args: SubmitArgs) -> Result<Exit, Failure> {
    let options = load::input_options(&args.input)?;
    // The input is opened first: a file that is not there must not leave a store behind.
    let input = match &args.file {
        Some(file) => Some(Input::open(file, &options)?),
        None => None,
    };
    let store = store::open_or_create(global).await?;
    let terms = load::Terms {
        operation: &args.op,
        batch: &args.batch,
        key: args.key.as_deref(),
        on_done_url: args.on_done_url.as_deref(),
    };
    let loaded = match input {
        Some(input) => load::file(global, &store, input, &terms, |_| {}).await?,
        None => load::numbered(global, &store, args.rows.unwrap_or(0), &terms, |_| {}).await?,
    };
    let crate::load::Load { batch, rows, new } = loaded;
    // The rows are in, whoever was told: without the id they would be lost to whoever submitted them.
    let submitted = |failure: Failure| failure.help(format!("the rows were submitted: they are batch {batch}"));
    if args.json {
        let value = json!({ "schema_version": SCHEMA_VERSION, "batch": batch.to_string(), "rows": rows, "new": new });
        print(&format!("{value}\n")).map_err(submitted)?;
        return Ok(Exit::Done);
    }
    let title = if new { "Batch submitted" } else { "Batch was submitted before: nothing added" };
    print(&format!("{}Batch ID: {batch}\nRows:     {rows}\n", headline(title))).map_err(submitted)?;
    if !global.quiet {
        let op = if args.op == "default" { String::new() } else { format!(" --op {}", quoted(&args.op)) };
        let at = store_option(global);
        let calls = args.on_done_url.as_deref().map(|url| format!(" --allow-url {}", quoted(prefix(url))));
        let calls = calls.unwrap_or_default();
        say!(
            "\nNext steps:\n  1. Start a worker: fencepost worker{op}{at}{calls} -- CMD\n  \
             2. Check status:   fencepost status {batch}{at}\n  \
             3. Get results:    fencepost results {batch}{at} -o results.jsonl"
        );
    }
    Ok(Exit::Done)
}

/// What a worker must allow to make the call: a prefix has no query.
fn prefix(url: &str) -> &str {
    url.split_once('?').map_or(url, |(prefix, _)| prefix)
}
