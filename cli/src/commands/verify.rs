//! `fencepost verify`: whether the promise was kept for a batch, by the store's own records. Reads one snapshot, and changes nothing.

use super::args::{Global, VerifyArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{print, status, store};
use crate::report::verify::{self, Verification};
use crate::store::verify::Verifies;

pub async fn verify(global: &Global, args: VerifyArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?.batch;
    let mut verification = Verification::default();
    store.inspect(batch, &mut verification).await?;
    // It was purged a moment ago.
    let Some(report) = verification.finish() else { return Err(store::no_batch(global, &args.batch)) };
    let option = store_option(global);
    let text =
        if args.json { status::json(&verify::json(&report, &option), false) } else { verify::text(&report, &option) };
    print(&text)?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Broken })
}
