//! `fencepost list`

use super::args::{Global, ListArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::status::json;
use super::{overview, print, store};
use crate::report::status;

pub async fn list(global: &Global, args: ListArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batches = overview::batches(&store).await?;
    print(&if args.json {
        json(&status::list_json(&batches), false)
    } else {
        status::list_text(&batches, &store_option(global))
    })?;
    Ok(Exit::Done)
}
