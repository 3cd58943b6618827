//! `fencepost workers`

use super::args::{Global, WorkersArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::status::json;
use super::{overview, print, store};
use crate::report::status;

pub async fn workers(global: &Global, args: WorkersArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let workers = overview::workers(&store).await?;
    let text = if args.json {
        json(&status::workers_json(&workers), false)
    } else {
        status::list_workers_text(&workers, &store_option(global))
    };
    print(&text)?;
    Ok(Exit::Done)
}
