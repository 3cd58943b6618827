//! S3: appending to a batch: rows beyond its total in slices, by COPY, then one call that raises the total.

use std::time::Duration;

use fencepost_core::append::{AppendEnd, Appended, Begun, Busy, Staged, lines_of};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::S3_CUT_OFF_AFTER;
use fencepost_core::{AppendId, BatchId};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tokio::time::{Instant, timeout_at};

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_status, int, micros_of, natural};
use super::connections::answer_limit;
use super::load::{longest, slice_limit};
use super::trouble::{self, Trouble};
use crate::store::loading::{SLICE_ROWS, SliceSize};
use crate::store::{Appends, StoreError};

impl Appends for PostgresStore {
    async fn begin_append(&self, batch: BatchId, append: AppendId, key: Option<&str>) -> Result<Begun, StoreError> {
        loop {
            let call = Call::new("begin_append")
                .arg(int(batch.number()))
                .arg(int(append.number()))
                .arg(key)
                .arg(micros_of(S3_CUT_OFF_AFTER))
                .arg(self.at());
            let row = self.connections.call_one(call).await?;
            match self.read(|| begun(&row))? {
                Beginning::Known(begun) => return Ok(begun),
                Beginning::Remove(cut_off) => self.remove_append(batch, cut_off).await?,
            }
        }
    }

    fn slice_size(&self) -> SliceSize {
        SliceSize::LARGE
    }

    async fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> Result<Staged, StoreError> {
        let limit = answer_limit(slice_limit(self.connections.lock_wait(), inputs));
        let until = Instant::now() + limit;
        let mut used = self.connections.take(until).await?;
        let slice = Slice { batch, append, first_line, inputs };
        match timeout_at(until, self.copy_append_slice(&mut used.conn, &slice)).await {
            Ok(Ok(Ok(()))) => {
                self.connections.keep(used);
                Ok(Staged::Stored)
            }
            // The connection is closed, and the server rolls back.
            Ok(Ok(Err(row))) => self.read(|| not_staged(&row))?.ok_or_else(|| {
                let message = format!(
                    "batch {batch}: the append takes no rows from line {first_line} on, since lines before are missing"
                );
                StoreError::not_done(message, None)
            }),
            Ok(Err(error)) => Err(trouble::of_statement(error, self.place())),
            Err(_) => Err(self.connections.no_answer_within(limit)),
        }
    }

    async fn finish_append(&self, batch: BatchId, append: AppendId, end: AppendEnd) -> Result<Appended, StoreError> {
        let call = Call::new("finish_append")
            .arg(int(batch.number()))
            .arg(int(append.number()))
            .arg(end.digest.as_str())
            .arg(int(end.rows));
        let row = self.connections.call_one(call).await?;
        let appended = self.read(|| appended(&row))?.ok_or_else(|| {
            let message = format!(
                "batch {batch}: the append does not have the {} rows that were stored (a server that fails loses those that are not on its disk yet); nothing is appended",
                end.rows
            );
            StoreError::settled(message)
        })?;
        if let Appended::Refused { .. } = appended {
            // Nobody sees them where they are: what is known of the end is the answer.
            let _ = self.remove_append(batch, append).await;
        }
        Ok(appended)
    }

    async fn remove_append(&self, batch: BatchId, append: AppendId) -> Result<(), StoreError> {
        let slice = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
        loop {
            let call = Call::new("remove_append_slice").arg(int(batch.number())).arg(int(append.number())).arg(slice);
            let row = self.connections.call_one(call).await?;
            let gone: i64 = self.read(|| Ok(row.try_get(0)?))?;
            if gone == 0 {
                return Ok(());
            }
        }
    }
}

/// Rows to store.
struct Slice<'a> {
    batch: BatchId,
    append: AppendId,
    first_line: u64,
    inputs: &'a [Box<str>],
}

impl PostgresStore {
    /// One transaction, as a load's slice is one: the append's record is locked, the rows that are not there yet are copied in. What
    /// speaks against it comes as the function's answer.
    async fn copy_append_slice(
        &self,
        conn: &mut PgConnection,
        slice: &Slice<'_>,
    ) -> Result<Result<(), PgRow>, sqlx::Error> {
        let options = self.connections.options();
        self.begin_slice(conn, slice.inputs).await?;
        let rows = i64::try_from(slice.inputs.len()).unwrap_or(i64::MAX);
        let call = Call::new("advance_append")
            .arg(int(slice.batch.number()))
            .arg(int(slice.append.number()))
            .arg(int(slice.first_line))
            .arg(rows)
            .arg(longest(slice.inputs))
            .arg(self.at());
        let row = call.run(conn, &options.schema, !options.transaction_pooler).await?.pop();
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        let there: Option<i64> = row.try_get("there")?;
        let Some(there) = there else { return Ok(Err(row)) };
        self.copy_missing(&mut *conn, slice.batch, slice.first_line, slice.inputs, there).await?;
        self.commit_slice(conn).await?;
        Ok(Ok(()))
    }
}

/// What a call of `begin_append` came to.
enum Beginning {
    /// The answer.
    Known(Begun),
    /// This append is to be removed; then it is asked again.
    Remove(AppendId),
}

fn begun(row: &PgRow) -> Result<Beginning, Trouble> {
    let number = |column: &str| natural(row.try_get(column)?);
    let known = match outcome(row)?.as_str() {
        "loading" => Begun::Loading { first_line: number("first_line")? },
        "done" => Begun::Done {
            digest: row.try_get("digest")?,
            lines: lines_of(number("first_line")?, number("line_count")?),
        },
        "busy" => Begun::Busy(Busy {
            key: row.try_get("key")?,
            rows: number("line_count")?,
            unmoved_for: Duration::from_micros(number("unmoved_us")?),
        }),
        "refused" => Begun::Refused { status: status(row)? },
        "remove" => return Ok(Beginning::Remove(AppendId::from_random(number("cut_off")?))),
        other => return Err(unknown(other)),
    };
    Ok(Beginning::Known(known))
}

/// None: lines before are missing.
fn not_staged(row: &PgRow) -> Result<Option<Staged>, Trouble> {
    match outcome(row)?.as_str() {
        "refused" => Ok(Some(Staged::Refused { status: status(row)? })),
        "taken_over" => Ok(Some(Staged::TakenOver)),
        "gap" => Ok(None),
        other => Err(unknown(other)),
    }
}

/// None: it does not have the rows that were stored.
fn appended(row: &PgRow) -> Result<Option<Appended>, Trouble> {
    let lines = || {
        let (first_line, rows) = (natural(row.try_get("first_line")?)?, natural(row.try_get("line_count")?)?);
        Ok::<_, Trouble>(lines_of(first_line, rows))
    };
    Ok(Some(match outcome(row)?.as_str() {
        "done" => Appended::Done { lines: lines()? },
        "same" => Appended::Same { lines: lines()? },
        "differs" => Appended::Differs { lines: lines()? },
        "refused" => Appended::Refused { status: status(row)? },
        "taken_over" => Appended::TakenOver,
        "incomplete" => return Ok(None),
        other => return Err(unknown(other)),
    }))
}

fn outcome(row: &PgRow) -> Result<String, Trouble> {
    Ok(row.try_get("outcome")?)
}

fn status(row: &PgRow) -> Result<Option<BatchStatus>, Trouble> {
    let status: Option<String> = row.try_get("status")?;
    status.as_deref().map(batch_status).transpose()
}

fn unknown(outcome: &str) -> Trouble {
    Trouble::damaged(format!("an append is answered as {outcome:?}"))
}
