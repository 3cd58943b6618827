//! S2: what may still run of aborted batches: lines that were held at the abort, until their end is told.

use std::collections::HashMap;

use fencepost_core::rules::leaving::s2_still_runs;
use fencepost_core::{BatchId, LeaseId, LineSet, Token};
use sqlx::SqliteConnection;

use super::codec::{batch_id, int, json, lines_from_json, natural, ranges};
use super::trouble::Trouble;

const BEGIN: &str = "\
insert into stopping (token, batch, lease, claim_number, lines, line_count)
select token, batch, lease, claim_number, lines, line_count from spans indexed by spans_batch
where batch = ?1 and lease is not null";

/// Keeps what is held of a batch that is aborted, before its spans go.
pub(super) async fn begin(conn: &mut SqliteConnection, batch: BatchId) -> Result<(), Trouble> {
    sqlx::query(BEGIN).bind(int(batch.number())).execute(conn).await?;
    Ok(())
}

const OF_TOKENS: &str = "\
select token, lines from stopping
where token in (select value from json_each(?1)) and lease = ?2";

const END: &str = "delete from stopping where token = ?1";

const SHRINK: &str = "update stopping set lines = ?2, line_count = ?3 where token = ?1";

/// Lines that a lease gave back, or answered, and that no span of it has.
pub(super) async fn end_lines(
    conn: &mut SqliteConnection,
    lease: LeaseId,
    lines: impl Iterator<Item = (Token, LineSet)>,
) -> Result<(), Trouble> {
    let mut ended: HashMap<Token, LineSet> = HashMap::new();
    for (token, lines) in lines {
        let of_token = ended.entry(token).or_default();
        *of_token = of_token.union(&lines);
    }
    if ended.is_empty() {
        return Ok(());
    }
    let tokens: Vec<u64> = ended.keys().map(|token| token.0).collect();
    let records: Vec<(i64, String)> =
        sqlx::query_as(OF_TOKENS).bind(json(&tokens)?).bind(int(lease.number())).fetch_all(&mut *conn).await?;
    for (number, lines) in records {
        let Some(ended) = ended.get(&Token(natural(number)?)) else { continue };
        let running = s2_still_runs(&lines_from_json(&lines)?, ended);
        if running.is_empty() {
            sqlx::query(END).bind(number).execute(&mut *conn).await?;
        } else {
            let (lines, count) = (json(&ranges(&running))?, int(running.count()));
            sqlx::query(SHRINK).bind(number).bind(lines).bind(count).execute(&mut *conn).await?;
        }
    }
    Ok(())
}

const OF_CLAIM: &str = "\
select batch, token, lines from stopping where lease = ?1 and claim_number = ?2 order by token";

/// What a claim took of batches that were aborted since.
pub(super) async fn of_claim(
    conn: &mut SqliteConnection,
    lease: LeaseId,
    number: u64,
) -> Result<Vec<(BatchId, Token, LineSet)>, Trouble> {
    let records: Vec<(i64, i64, String)> =
        sqlx::query_as(OF_CLAIM).bind(int(lease.number())).bind(int(number)).fetch_all(conn).await?;
    let stopped = |(batch, token, lines): (i64, i64, String)| {
        Ok((batch_id(batch)?, Token(natural(token)?), lines_from_json(&lines)?))
    };
    records.into_iter().map(stopped).collect()
}

const END_LEASE: &str = "delete from stopping where lease = ?1";

/// The lease has ended.
pub(super) async fn end_lease(conn: &mut SqliteConnection, lease: LeaseId) -> Result<(), Trouble> {
    sqlx::query(END_LEASE).bind(int(lease.number())).execute(conn).await?;
    Ok(())
}
