//! Batches inside a transaction: what a write must know of them, and how they end.

use std::collections::BTreeMap;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::outcome::o4_batch_end;
use fencepost_core::rules::transactions::t1_lock_order;
use fencepost_core::{BatchId, StoreTime};
use sqlx::SqliteConnection;

use super::calls;
use super::codec::{batch_id, batch_status, int, json, natural, small};
use super::trouble::Trouble;

/// What a write must know of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchFacts {
    pub status: BatchStatus,
    pub generation: u32,
    pub attempts_max: u32,
    pub crashes_max: u32,
}

impl BatchFacts {
    /// Whether outcomes and changes of hands may land.
    pub(super) fn is_open(&self) -> bool {
        self.status == BatchStatus::Open
    }
}

const BATCH_FACTS: &str = "\
select batch, status, generation, attempts_max, crashes_max
from batches
where batch in (select value from json_each(?1))";

/// Those of the batches that are there.
pub(super) async fn facts(
    conn: &mut SqliteConnection,
    batches: impl IntoIterator<Item = BatchId>,
) -> Result<BTreeMap<BatchId, BatchFacts>, Trouble> {
    let ids: Vec<u64> = t1_lock_order(batches).into_iter().map(BatchId::number).collect();
    let records: Vec<(i64, String, i64, i64, i64)> =
        sqlx::query_as(BATCH_FACTS).bind(json(&ids)?).fetch_all(conn).await?;
    let facts = |(batch, status, generation, attempts_max, crashes_max): (i64, String, i64, i64, i64)| {
        let facts = BatchFacts {
            status: batch_status(&status)?,
            generation: small(generation)?,
            attempts_max: small(attempts_max)?,
            crashes_max: small(crashes_max)?,
        };
        Ok((batch_id(batch)?, facts))
    };
    records.into_iter().map(facts).collect()
}

const OPEN_WORK: &str = "\
select b.cursor <= b.total,
       exists (select 1 from spans s where s.batch = b.batch),
       (select coalesce(sum(t.failed), 0) from tallies t where t.batch = b.batch)
from batches b
where b.batch = ?1 and b.status = 'open'";

const END_BATCH: &str = "\
update batches set status = ?2, ended_at = ?3
where batch = ?1 and status = 'open' and cursor > total
  and not exists (select 1 from spans s where s.batch = ?1)";

const ADD_COMPLETION: &str = "\
insert into completions (batch, generation, operation, url, status, success, failed, aborted, ended_at)
select b.batch, b.generation, b.operation, b.on_done_url, b.status, coalesce(sum(t.success), 0), coalesce(sum(t.failed), 0),
       b.total - coalesce(sum(t.success + t.failed), 0), b.ended_at
from batches b left join tallies t on t.batch = b.batch
where b.batch = ?1
group by b.batch";

/// S7: a generation is over: what its end came to. Rows without an outcome are aborted.
pub(super) async fn add_completion(conn: &mut SqliteConnection, batch: BatchId) -> Result<(), Trouble> {
    sqlx::query(ADD_COMPLETION).bind(int(batch.number())).execute(&mut *conn).await?;
    calls::tell_due(conn).await
}

/// O4: ends the batches that have no open line left, in lock order.
pub(super) async fn end_finished(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batches: impl IntoIterator<Item = BatchId>,
) -> Result<(), Trouble> {
    for batch in t1_lock_order(batches) {
        let number = int(batch.number());
        let open: Option<(bool, bool, i64)> = sqlx::query_as(OPEN_WORK).bind(number).fetch_optional(&mut *conn).await?;
        let Some((fresh_lines, spans, failed)) = open else { continue };
        let Some(status) = o4_batch_end(fresh_lines, spans, natural(failed)?) else { continue };
        let ended = sqlx::query(END_BATCH).bind(number).bind(status.name()).bind(now.0).execute(&mut *conn).await?;
        if ended.rows_affected() != 1 {
            return Err(Trouble::damaged("a batch without open lines cannot end"));
        }
        add_completion(conn, batch).await?;
    }
    Ok(())
}
