//! `fencepost errors`

use super::args::{ErrorsArgs, Global};
use super::failure::{Exit, Failure};
use super::status::json;
use super::{print, store};
use crate::report::errors::{self, ErrorsReport, Kinds};
use crate::store::Reads;

/// Errors are read so many at a time.
const PAGE_ROWS: u32 = 500;

pub async fn errors(global: &Global, args: ErrorsArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?.batch;
    let (mut kinds, mut after) = (Kinds::default(), 0);
    loop {
        let page = store.errors(batch, after, PAGE_ROWS).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for (line, error) in page {
            kinds.add(line, error);
        }
    }
    let (kinds, other) = kinds.finish();
    let report = ErrorsReport { batch, kinds, other };
    print(&if args.json { json(&errors::json(&report), false) } else { errors::text(&report) })?;
    Ok(Exit::Done)
}
