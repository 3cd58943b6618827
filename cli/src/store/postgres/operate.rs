//! S2, S3, S5: what an operator does to a batch.

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::store::{Operated, Retried, RetryRows};
use sqlx::Row;

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_status, int, natural, small};
use super::record::DROPPED_ANSWER_BYTES_MAX;
use super::trouble::Trouble;
use crate::store::{Operates, StoreError};

/// S5: how long a retry may take, however many rows it is of: it is one transaction, so that what is removed and what is free is
/// never seen apart. It holds the lock of its batch; who wants that of others with it waits [137].
const RETRY_LIMIT: Duration = Duration::from_secs(600);

impl Operates for PostgresStore {
    async fn hold(&self, batch: BatchId) -> Result<Operated, StoreError> {
        self.operate(Call::new("hold_batch").arg(int(batch.number())).arg(true)).await
    }

    async fn resume(&self, batch: BatchId) -> Result<Operated, StoreError> {
        self.operate(Call::new("hold_batch").arg(int(batch.number())).arg(false)).await
    }

    async fn abort(&self, batch: BatchId) -> Result<Operated, StoreError> {
        self.operate(Call::new("abort_batch").arg(int(batch.number())).arg(self.at())).await
    }

    async fn retry(&self, batch: BatchId, rows: RetryRows) -> Result<Retried, StoreError> {
        let (line, token, text) = match &rows {
            RetryRows::Failed => (None, None, None),
            RetryRows::FailedWith(text) => (None, None, Some(&**text)),
            RetryRows::Line { line, token } => (Some(int(*line)), token.map(|token| int(token.0)), None),
        };
        let call = Call::new("retry_rows")
            .arg(int(batch.number()))
            .arg(line)
            .arg(token)
            .arg(text)
            .arg(DROPPED_ANSWER_BYTES_MAX)
            .arg(self.at());
        // A connection of its own, whose limits are others.
        let row = self.connections.another(RETRY_LIMIT).call_one(call).await?;
        self.read(|| {
            Ok(match row.try_get("outcome")? {
                "rows" => Retried::Rows {
                    freed: natural(row.try_get("freed")?)?,
                    generation: small(row.try_get::<i32, _>("generation")?.into())?,
                    reopened: row.try_get("reopened")?,
                },
                "aborted" => Retried::Aborted,
                "loading" => Retried::Loading,
                "not_there" => Retried::NotThere,
                _ => return Err(Trouble::damaged("a retry comes to what does not exist")),
            })
        })
    }
}

impl PostgresStore {
    async fn operate(&self, call: Call<'_>) -> Result<Operated, StoreError> {
        let row = self.connections.call_one(call).await?;
        self.read(|| {
            Ok(match row.try_get("outcome")? {
                "now" => Operated::Now,
                "before" => Operated::Before,
                "not_there" => Operated::NotThere,
                "loading" => Operated::Loading,
                ended => Operated::Ended(batch_status(ended)?),
            })
        })
    }
}
