//! `fencepost migrate`

use std::fmt::Write;

use serde_json::{Value, json};

use super::args::{Global, MigrateArgs};
use super::failure::{Exit, Failure};
use super::{print, store};
use crate::report::SCHEMA_VERSION;
use crate::store::OpenMode;
use crate::store::version::StoreVersion;

pub async fn migrate(global: &Global, args: MigrateArgs) -> Result<Exit, Failure> {
    let url = store::url(global)?;
    // Finds out first that there is a store, so that none is made.
    let version = url.version().await.map_err(|error| store::cannot_open(Exit::Store, error))?;
    if !args.dry_run && !version.pending.is_empty() {
        url.open(OpenMode::Create).await.map_err(|error| store::cannot_open(Exit::Store, error))?;
    }
    print(&if args.json { as_json(&version, args.dry_run) } else { as_text(&version, args.dry_run) })?;
    Ok(Exit::Done)
}

fn as_text(version: &StoreVersion, dry_run: bool) -> String {
    let StoreVersion { store, program, pending } = version;
    let mut out = format!("Store: version {store}. This program: version {program}.\n");
    if pending.is_empty() {
        out.push_str("Nothing to do.\n");
    }
    for (number, name) in pending {
        let _ = writeln!(out, "  {} {number}: {name}", if dry_run { "to apply" } else { "applied" });
    }
    out
}

fn as_json(version: &StoreVersion, dry_run: bool) -> String {
    let migrations: Vec<Value> =
        version.pending.iter().map(|(number, name)| json!({ "version": number, "name": name })).collect();
    let value = json!({
        "schema_version": SCHEMA_VERSION, "store_version": version.store, "program_version": version.program,
        "migrations": migrations, "applied": !dry_run && !version.pending.is_empty(),
    });
    format!("{value}\n")
}
