//! S6: purging in slices.

use fencepost_core::purge::{PurgeAges, PurgeBegun, Purgeable, PurgeableBatch, PurgedLeases, PurgedSlice};
use fencepost_core::{AppendId, BatchId, LeaseId, StoreTime};
use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_id, int, lease_id, micros_of, natural};
use super::trouble::Trouble;
use crate::store::{Purges, StoreError};

/// A slice of leases looks at so many.
const LEASES_AT_ONCE: i64 = 500;

impl Purges for PostgresStore {
    async fn purgeable(&self, ages: PurgeAges) -> Result<Purgeable, StoreError> {
        let call = Call::new("purgeable")
            .arg(micros_of(ages.ended))
            .arg(micros_of(ages.load))
            .arg(micros_of(ages.append))
            .arg(self.at());
        let rows = self.connections.call(call).await?;
        self.read(|| purgeable(&rows))
    }

    async fn begin_purge(&self, batch: BatchId, ended_before: StoreTime) -> Result<PurgeBegun, StoreError> {
        let call = Call::new("begin_purge").arg(int(batch.number())).arg(ended_before.0).arg(self.at());
        let row = self.connections.call_one(call).await?;
        self.read(|| {
            Ok(match row.try_get("outcome")? {
                "now" => PurgeBegun::Now,
                "before" => PurgeBegun::Before,
                "not_there" => PurgeBegun::NotThere,
                "not_ended" => PurgeBegun::NotEnded,
                "ended_since" => PurgeBegun::EndedSince,
                "busy" => PurgeBegun::Busy,
                _ => return Err(Trouble::damaged("the beginning of a purge comes to what does not exist")),
            })
        })
    }

    async fn purge_slice(&self, batch: BatchId, lines_max: u64) -> Result<PurgedSlice, StoreError> {
        let call = Call::new("purge_slice").arg(int(batch.number())).arg(int(lines_max));
        let since = Instant::now();
        let row = self.connections.call_one(call).await?;
        let took = since.elapsed();
        self.read(|| Ok(PurgedSlice { rows: natural(row.try_get("line_count")?)?, done: row.try_get("done")?, took }))
    }

    async fn purge_leases(&self, ended_before: StoreTime, after: Option<LeaseId>) -> Result<PurgedLeases, StoreError> {
        let after = after.map_or(-1, |after| int(after.number()));
        let call = Call::new("purge_leases").arg(ended_before.0).arg(after).arg(LEASES_AT_ONCE);
        let row = self.connections.call_one(call).await?;
        self.read(|| {
            let next_after: Option<i64> = row.try_get("next_after")?;
            Ok(PurgedLeases {
                removed: natural(row.try_get("removed")?)?,
                next_after: next_after.map(lease_id).transpose()?,
            })
        })
    }
}

fn purgeable(rows: &[PgRow]) -> Result<Purgeable, Trouble> {
    let mut found = Purgeable {
        ended_before: StoreTime(0),
        batches: Vec::new(),
        begun: Vec::new(),
        loads: Vec::new(),
        appends: Vec::new(),
    };
    for row in rows {
        let kind: &str = row.try_get("kind")?;
        if kind == "now" {
            found.ended_before = StoreTime(row.try_get("at_us")?);
            continue;
        }
        let batch = batch_id(row.try_get("batch")?)?;
        let rows = natural(row.try_get("line_count")?)?;
        match kind {
            "batch" => {
                let ended_at = StoreTime(row.try_get("at_us")?);
                found.batches.push(PurgeableBatch { batch, rows, ended_at });
            }
            "begun" => found.begun.push((batch, rows)),
            "load" => found.loads.push((batch, rows)),
            "append" => {
                let append = AppendId::from_random(natural(row.try_get("append")?)?);
                found.appends.push((batch, append, rows));
            }
            _ => return Err(Trouble::damaged("there is something to purge that does not exist")),
        }
    }
    Ok(found)
}
