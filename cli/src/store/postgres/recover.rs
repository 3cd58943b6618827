//! R3, P1: declaring a lease dead; taking crashes back.

use fencepost_core::LeaseId;
use fencepost_core::store::{EndCause, Recover, RecoverReply};
use sqlx::Row;

use super::PostgresStore;
use super::call::Call;
use super::codec::{int, natural};
use crate::store::StoreError;

impl PostgresStore {
    /// R3: declares the lease dead where it is as it was seen, then frees its spans.
    pub(super) async fn recover(&self, recover: &Recover) -> Result<RecoverReply, StoreError> {
        let cause = match recover.cause {
            EndCause::Lapsed => "lapsed",
            EndCause::Died => "died",
            EndCause::TakenOver => "taken_over",
        };
        let call = Call::new("recover")
            .arg(int(recover.lease.number()))
            .arg(int(recover.renewals))
            .arg(recover.seen_at.0)
            .arg(cause)
            .arg(recover.judge.map(|judge| int(judge.number())))
            .arg(self.at());
        let row = self.connections.call_one(call).await?;
        self.read(|| {
            if !row.try_get::<bool, _>("recovered")? {
                return Ok(RecoverReply::Spared);
            }
            Ok(RecoverReply::Recovered {
                lines: natural(row.try_get("lines")?)?,
                failed: natural(row.try_get("failed")?)?,
            })
        })
    }

    /// P1: a worker that was declared dead while alive takes its crashes back.
    pub(super) async fn withdraw_crashes(&self, lease: LeaseId) -> Result<(), StoreError> {
        let call = Call::new("withdraw_crashes").arg(int(lease.number())).arg(self.at());
        self.connections.call(call).await.map(drop)
    }
}
