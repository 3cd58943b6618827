//! S4: loading a batch in slices, by COPY.

use std::time::Duration;

use fencepost_core::BatchId;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::{Instant, timeout_at};

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_id, int, micros_of, millis_of, names_to_json};
use super::connections::{answer_limit, begin_within};
use super::trouble;
use crate::store::loading::{BatchSpec, CUT_OFF_AFTER, LoadEnd, Loaded, SLICE_ROWS, SliceSize};
use crate::store::{Loads, StoreError};

impl Loads for PostgresStore {
    async fn begin_load(&self, spec: BatchSpec) -> Result<BatchId, StoreError> {
        let batch = BatchId::from_random(rand::random());
        let header = spec.header.as_deref().map(names_to_json);
        let call = Call::new("begin_load")
            .arg(int(batch.number()))
            .arg(batch.to_string())
            .arg(spec.operation.as_str())
            .arg(spec.priority)
            .arg(i64::from(spec.attempts_max))
            .arg(i64::from(spec.crashes_max))
            .arg(millis_of(spec.timeout))
            .arg(header.as_deref())
            .arg(spec.source.as_deref())
            .arg(micros_of(CUT_OFF_AFTER))
            .arg(self.at())
            .arg(spec.on_done_url.as_deref());
        let row = self.connections.call_one(call).await?;
        let cut_off: Vec<i64> = self.read(|| Ok(row.try_get("cut_off")?))?;
        for batch in cut_off {
            // Another's: where it cannot be removed now, a later load tries again.
            let _ = self.remove_load(self.read(|| batch_id(batch))?).await;
        }
        Ok(batch)
    }

    fn slice_size(&self) -> SliceSize {
        SliceSize::LARGE
    }

    async fn load_rows(&self, batch: BatchId, first_line: u64, inputs: &[Box<str>]) -> Result<(), StoreError> {
        let limit = answer_limit(slice_limit(self.connections.lock_wait(), inputs));
        let until = Instant::now() + limit;
        let mut used = self.connections.take(until).await?;
        match timeout_at(until, self.copy_slice(&mut used.conn, batch, first_line, inputs)).await {
            Ok(Ok(true)) => {
                self.connections.keep(used);
                Ok(())
            }
            // The connection is closed, and the server rolls back.
            Ok(Ok(false)) => {
                let message = format!(
                    "batch {batch} takes no rows from line {first_line} on: it is not loading (cut off for a day?), or lines before are missing"
                );
                Err(StoreError::not_done(message, None))
            }
            Ok(Err(error)) => Err(trouble::of_statement(error, self.place())),
            Err(_) => Err(self.connections.no_answer_within(limit)),
        }
    }

    async fn finish_load(&self, batch: BatchId, end: LoadEnd) -> Result<Loaded, StoreError> {
        let call = Call::new("finish_load")
            .arg(int(batch.number()))
            .arg(end.key.as_deref())
            .arg(end.digest.as_str())
            .arg(int(end.total))
            .arg(self.at());
        let row = self.connections.call_one(call).await?;
        let (outcome, there) = self.read(|| {
            let there: Option<i64> = row.try_get("there")?;
            Ok((row.try_get::<String, _>("outcome")?, there.map(batch_id).transpose()?))
        })?;
        let loaded = match (outcome.as_str(), there) {
            ("new", _) => Loaded::New,
            ("same", Some(there)) => Loaded::Same(there),
            ("differs", Some(there)) => Loaded::Differs(there),
            ("gone", _) => return Err(StoreError::not_done(format!("batch {batch} is not there any more"), None)),
            _ => {
                // Slices do not wait for the disk; the end does.
                let message = format!(
                    "batch {batch} does not have the {} rows that were loaded (a server that fails loses those that are not on its disk yet); it is not submitted",
                    end.total
                );
                return Err(StoreError::settled(message));
            }
        };
        match loaded {
            Loaded::Same(there) | Loaded::Differs(there) if there != batch => {
                // It is not claimable and goes with a later load: what is known of the end is the answer.
                let _ = self.remove_load(batch).await;
            }
            _ => {}
        }
        Ok(loaded)
    }

    async fn remove_load(&self, batch: BatchId) -> Result<(), StoreError> {
        let slice = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
        loop {
            let call = Call::new("remove_load_slice").arg(int(batch.number())).arg(slice);
            let row = self.connections.call_one(call).await?;
            let gone: i64 = self.read(|| Ok(row.try_get(0)?))?;
            if gone == 0 {
                return Ok(());
            }
        }
    }
}

impl PostgresStore {
    /// One transaction: the batch's record is locked, the rows that are not there yet are copied in. False: the batch takes no
    /// such rows. A slice that is committed but not on the disk when the server's machine fails is missed by the next one;
    /// the end of the load waits for the disk.
    async fn copy_slice(
        &self,
        conn: &mut PgConnection,
        batch: BatchId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> Result<bool, sqlx::Error> {
        let options = self.connections.options();
        self.begin_slice(conn, inputs).await?;
        let rows = i64::try_from(inputs.len()).unwrap_or(i64::MAX);
        let call = Call::new("advance_load")
            .arg(int(batch.number()))
            .arg(int(first_line))
            .arg(rows)
            .arg(longest(inputs))
            .arg(self.at());
        let place = call.run(conn, &options.schema, !options.transaction_pooler).await?;
        let there: Option<i64> = place.first().map(|row| row.try_get(0)).transpose()?.flatten();
        let Some(there) = there else { return Ok(false) };
        self.copy_missing(&mut *conn, batch, first_line, inputs, there).await?;
        self.commit_slice(conn).await?;
        Ok(true)
    }

    /// T2: a process that stops in the middle of a slice holds its locks no longer than this, behind a pooler too.
    pub(super) async fn begin_slice(&self, conn: &mut PgConnection, inputs: &[Box<str>]) -> Result<(), sqlx::Error> {
        let idle_limit = self.connections.lock_wait();
        let begin = begin_within(slice_limit(idle_limit, inputs), idle_limit);
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(conn).await.map(drop)
    }

    /// Without waiting for the disk: the end of the load or append does, and finds out what is missing.
    pub(super) async fn commit_slice(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("set local synchronous_commit = off; commit").execute(conn).await.map(drop)
    }

    /// Copies in a slice's rows but the first so many, which are there.
    pub(super) async fn copy_missing(
        &self,
        conn: &mut PgConnection,
        batch: BatchId,
        first_line: u64,
        inputs: &[Box<str>],
        there: i64,
    ) -> Result<(), sqlx::Error> {
        let there = usize::try_from(there).unwrap_or(0);
        if let Some(missing) = inputs.get(there..).filter(|missing| !missing.is_empty()) {
            let first_missing = first_line.saturating_add(u64::try_from(there).unwrap_or(0));
            let schema = &self.connections.options().schema;
            let copy = format!("copy \"{schema}\".rows (batch, line, input) from stdin (format binary)");
            let mut copying = conn.copy_in_raw(&copy).await?;
            copying.send(binary_rows(batch, first_missing, missing)).await?;
            copying.finish().await?;
        }
        Ok(())
    }
}

/// How long storing these inputs may take: a link that carries a MiB in the time of an ordinary request is fast enough for many, too.
pub(super) fn slice_limit(request_limit: Duration, inputs: &[Box<str>]) -> Duration {
    const MORE_MAX: usize = 3;
    let bytes: usize = inputs.iter().map(|input| BESIDE_INPUT + input.len()).sum();
    let more = u32::try_from((bytes >> 20).min(MORE_MAX)).unwrap_or(0);
    request_limit * (1 + more)
}

/// The length of the longest input in bytes: claims count with it (C3).
pub(super) fn longest(inputs: &[Box<str>]) -> i64 {
    let longest = inputs.iter().map(|input| input.len()).max();
    longest.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// What COPY's binary format has for a row besides its input, in bytes: how many values, their lengths, batch and line.
const BESIDE_INPUT: usize = 2 + 3 * 4 + 2 * 8;

/// Rows in COPY's binary format.
fn binary_rows(batch: BatchId, first_line: u64, inputs: &[Box<str>]) -> Vec<u8> {
    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    let bytes: usize = inputs.iter().map(|input| BESIDE_INPUT + input.len()).sum();
    let mut out = Vec::with_capacity(HEADER.len() + bytes + 2);
    out.extend_from_slice(HEADER);
    for (line, input) in (int(first_line)..).zip(inputs) {
        out.extend_from_slice(&3i16.to_be_bytes());
        for number in [int(batch.number()), line] {
            out.extend_from_slice(&8i32.to_be_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
        // Longer ones than a field's length can say are refused by the server.
        out.extend_from_slice(&i32::try_from(input.len()).unwrap_or(i32::MAX).to_be_bytes());
        out.extend_from_slice(input.as_bytes());
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_slice_has_more_time_than_a_small_one() {
        let limit = |bytes: &[usize]| {
            let inputs: Vec<Box<str>> = bytes.iter().map(|bytes| "x".repeat(*bytes).into()).collect();
            slice_limit(Duration::from_secs(5), &inputs).as_secs()
        };
        assert_eq!(limit(&[]), 5);
        assert_eq!(limit(&[1 << 19, 1 << 18]), 5);
        assert_eq!(limit(&[1 << 19, 1 << 19]), 10);
        assert_eq!((limit(&[10; 16_000]), limit(&[50; 16_000])), (5, 10), "small rows");
        assert_eq!(limit(&[1 << 21, 1 << 21]), 20);
        assert_eq!(limit(&[16 << 20]), 20);
    }
}
