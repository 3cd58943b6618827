//! C1 to C3: claims and their settling.

use std::time::Duration;

use fencepost_core::store::{Claim, ClaimReply, Grant, GrantedRow};
use fencepost_core::{LeaseId, Token};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_id, from_millis, int, natural, small, storable};
use super::trouble::Trouble;
use crate::store::StoreError;

impl PostgresStore {
    /// C1: takes lines.
    pub(super) async fn claim(&self, claim: &Claim) -> Result<ClaimReply, StoreError> {
        let call = Call::new("claim")
            .arg(int(claim.lease.number()))
            .arg(int(claim.number))
            .arg(claim.operations.iter().map(|name| storable(name)).collect::<Vec<_>>())
            .arg(int(claim.lines_max))
            .arg(int(claim.bytes_max))
            .arg(claim.idle)
            .arg(self.at());
        let row = self.connections.call_one(call).await?;
        self.read(|| match row.try_get("outcome")? {
            "closed" => Ok(ClaimReply::Closed),
            "lease_ended" => Ok(ClaimReply::LeaseEnded),
            _ => {
                let next_after: Option<i64> = row.try_get("next_after_us")?;
                Ok(ClaimReply::Granted {
                    grants: grants(&row)?,
                    suspect_waits: row.try_get("suspect_waits")?,
                    next_after: next_after.map(natural).transpose()?.map(Duration::from_micros),
                    open_lines: row.try_get("open_lines")?,
                })
            }
        })
    }

    /// C2: closes the claim's number, then reads what that claim took and still holds.
    pub(super) async fn settle_claim(&self, lease: LeaseId, number: u64) -> Result<Vec<Grant>, StoreError> {
        let call = Call::new("settle_claim").arg(int(lease.number())).arg(int(number));
        let row = self.connections.call_one(call).await?;
        self.read(|| grants(&row))
    }
}

/// Spans as arrays with one place per span, and their rows with one place per row; null where there is none.
fn grants(row: &PgRow) -> Result<Vec<Grant>, Trouble> {
    let Some(tokens): Option<Vec<i64>> = row.try_get("tokens")? else { return Ok(Vec::new()) };
    let batches: Vec<i64> = row.try_get("batches")?;
    let operations: Vec<String> = row.try_get("operations")?;
    let timeouts: Vec<i64> = row.try_get("timeouts_ms")?;
    let suspicions: Vec<i32> = row.try_get("suspicions")?;
    let alone: Vec<bool> = row.try_get("alone")?;
    let recovered_from: Vec<Option<String>> = row.try_get("recovered_from")?;
    let counts: Vec<i64> = row.try_get("line_counts")?;
    let mut rows = rows(row)?.into_iter();

    let spans = tokens.into_iter().zip(batches.into_iter().zip(operations));
    let spans = spans.zip(timeouts.into_iter().zip(suspicions)).zip(alone.into_iter().zip(recovered_from)).zip(counts);
    let mut grants = Vec::new();
    for ((((token, (batch, operation)), (timeout, suspicion)), (alone, recovered_from)), count) in spans {
        let count = usize::try_from(count).map_err(|_| Trouble::damaged("a span of no lines"))?;
        let rows: Vec<GrantedRow> = rows.by_ref().take(count).collect();
        if rows.len() != count {
            return Err(Trouble::damaged(format!("span {token} lacks rows")));
        }
        grants.push(Grant {
            batch: batch_id(batch)?,
            operation,
            token: Token(natural(token)?),
            rows,
            suspicion: small(suspicion.into())?,
            alone,
            recovered_from,
            timeout: from_millis(timeout)?,
        });
    }
    Ok(grants)
}

fn rows(row: &PgRow) -> Result<Vec<GrantedRow>, Trouble> {
    let lines: Vec<i64> = row.try_get("lines")?;
    let inputs: Vec<String> = row.try_get("inputs")?;
    let attempts: Option<Vec<i32>> = row.try_get("attempts")?;
    let attempts = attempts.unwrap_or_default().into_iter().chain(std::iter::repeat(0));
    let granted = |((line, input), attempts): ((i64, String), i32)| {
        Ok(GrantedRow { line: natural(line)?, attempts: small(attempts.into())?, input: input.into_boxed_str() })
    };
    lines.into_iter().zip(inputs).zip(attempts).map(granted).collect()
}
