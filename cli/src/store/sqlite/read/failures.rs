//! Failed rows: how many there are, and their errors.

use fencepost_core::BatchId;
use sqlx::SqliteConnection;

use super::super::codec::{int, natural};
use super::super::trouble::Trouble;

const COUNT: &str = "\
select count(*) from outcomes indexed by outcomes_failed
where batch = ?1 and status = 'failed' and (?2 is null or instr(error, ?2) > 0)";

/// All, or those whose error contains a text, as a retry finds them.
pub(super) async fn count(conn: &mut SqliteConnection, batch: BatchId, with: Option<&str>) -> Result<u64, Trouble> {
    natural(sqlx::query_scalar(COUNT).bind(int(batch.number())).bind(with).fetch_one(conn).await?)
}

const ERRORS: &str = "\
select line, coalesce(error, '') from outcomes indexed by outcomes_failed
where batch = ?1 and line > ?2 and status = 'failed'
order by line
limit ?3";

pub(super) async fn errors(
    conn: &mut SqliteConnection,
    batch: BatchId,
    after_line: u64,
    limit: u32,
) -> Result<Vec<(u64, Box<str>)>, Trouble> {
    let records: Vec<(i64, String)> =
        sqlx::query_as(ERRORS).bind(int(batch.number())).bind(int(after_line)).bind(limit).fetch_all(conn).await?;
    records.into_iter().map(|(line, error)| Ok((natural(line)?, error.into_boxed_str()))).collect()
}
