//! Which Redis a command works with, if any.

use super::args::RedisArgs;
use super::failure::{Exit, Failure};
use crate::liveness::RedisLiveness;
use crate::liveness::redis::connecting::{CaError, RedisServer};
use crate::liveness::redis::url::RedisUrl;

const HELP: &str = "see --redis in `fencepost worker --help`";

/// The Redis that the options name; what its URL says can be used.
pub fn url(args: &RedisArgs) -> Result<Option<RedisUrl>, Failure> {
    let Some(url) = args.redis.as_deref().map(named).transpose()? else { return Ok(None) };
    RedisServer::new(url.clone()).map_err(unusable)?;
    Ok(Some(url))
}

/// The same by a name that did not come with the command.
pub fn named(name: &str) -> Result<RedisUrl, Failure> {
    name.parse().map_err(|error| Failure::from_error(Exit::Usage, error).help(HELP))
}

/// The second witness for the store with this id. Whether it is there is not asked: work goes on without it.
pub fn liveness(url: Option<RedisUrl>, store_id: &str) -> Result<Option<RedisLiveness>, Failure> {
    url.map(|url| RedisLiveness::new(url, store_id).map_err(unusable)).transpose()
}

fn unusable(error: CaError) -> Failure {
    Failure::from_error(Exit::Usage, error).help(HELP)
}
