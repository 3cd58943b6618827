//! L, S1, R2: taking, renewing and dropping a lease; what judges see of leases.

use std::time::Duration;

use fencepost_core::store::{LeaseView, LookReply, RenewReply, TakeLease, TakeLeaseReply};
use fencepost_core::{BatchId, LeaseId, StoreTime};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_id, from_millis, int, lease_id, micros_of, millis_of, names_to_json, natural, process};
use super::trouble::Trouble;
use crate::store::{StoreError, called};

impl PostgresStore {
    /// Reads a reply: what it says has been done.
    pub(super) fn read<T>(&self, read: impl FnOnce() -> Result<T, Trouble>) -> Result<T, StoreError> {
        read().map_err(|trouble| trouble.after_the_deed(self.place()))
    }

    /// L1: takes a lease, once per id.
    pub(super) async fn take_lease(&self, take: &TakeLease) -> Result<TakeLeaseReply, StoreError> {
        let process = take.process.as_ref();
        let calls = called::to_json(&take.calls);
        let call = Call::new("take_lease")
            .arg(int(take.lease.number()))
            .arg(take.lease.to_string())
            .arg(take.worker.as_str())
            .arg(take.stable_name)
            .arg(millis_of(take.ttl))
            .arg(millis_of(take.renew))
            .arg(process.map(|process| process.machine.as_str()))
            .arg(process.map(|process| i64::from(process.pid)))
            .arg(process.map(|process| int(process.start_ticks)))
            .arg(names_to_json(&take.operations))
            .arg(self.at())
            .arg(calls.as_deref());
        let row = self.connections.call_one(call).await?;
        self.read(|| match row.try_get("outcome")? {
            "taken" => Ok(TakeLeaseReply::Taken),
            "ended" => Ok(TakeLeaseReply::Ended),
            _ => Ok(TakeLeaseReply::NameHeld { holder: lease_view(&row)?, now: StoreTime(row.try_get("now_us")?) }),
        })
    }

    /// L2: extends the lease while it is live.
    pub(super) async fn renew(&self, lease: LeaseId, batches: &[BatchId]) -> Result<RenewReply, StoreError> {
        let batches: Vec<i64> = batches.iter().map(|batch| int(batch.number())).collect();
        let call = Call::new("renew").arg(int(lease.number())).arg(batches).arg(self.at());
        let row = self.connections.call_one(call).await?;
        self.read(|| {
            if !row.try_get::<bool, _>("renewed")? {
                return Ok(RenewReply::Refused { taken_over: row.try_get("taken_over")? });
            }
            let closed: Vec<i64> = row.try_get("closed")?;
            Ok(RenewReply::Renewed { closed: closed.into_iter().map(batch_id).collect::<Result<_, _>>()? })
        })
    }

    /// S1: frees whatever the lease holds, and drops it.
    pub(super) async fn drop_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let call = Call::new("drop_lease").arg(int(lease.number())).arg(self.at());
        self.connections.call(call).await.map(drop)
    }

    /// R2: all live leases as they are now.
    pub(super) async fn look(&self) -> Result<LookReply, StoreError> {
        let row = self.connections.call_one(Call::new("look").arg(self.at())).await?;
        self.read(|| {
            let not_before_max: Option<i64> = row.try_get("not_before_max")?;
            Ok(LookReply {
                now: StoreTime(row.try_get("now_us")?),
                leases: lease_views(&row)?,
                not_before_max: not_before_max.map(StoreTime),
            })
        })
    }

    /// R2: cuts back what lies further ahead than it ever may.
    pub(super) async fn cut_back(&self, backoff_max: Duration) -> Result<(), StoreError> {
        let call = Call::new("cut_back").arg(micros_of(backoff_max)).arg(self.at());
        self.connections.call(call).await.map(drop)
    }
}

fn lease_view(row: &PgRow) -> Result<LeaseView, Trouble> {
    Ok(LeaseView {
        lease: lease_id(row.try_get("lease")?)?,
        worker: row.try_get("worker")?,
        ttl: from_millis(row.try_get("ttl_ms")?)?,
        renew: from_millis(row.try_get("renew_ms")?)?,
        expires_at: StoreTime(row.try_get("expires_at")?),
        renewals: natural(row.try_get("renewals")?)?,
        process: process(row.try_get("machine")?, row.try_get("pid")?, row.try_get("start_ticks")?)?,
    })
}

/// Leases as arrays with one place per lease; null where there is none.
fn lease_views(row: &PgRow) -> Result<Vec<LeaseView>, Trouble> {
    let Some(leases): Option<Vec<i64>> = row.try_get("leases")? else { return Ok(Vec::new()) };
    let workers: Vec<String> = row.try_get("workers")?;
    let (ttls, renews): (Vec<i64>, Vec<i64>) = (row.try_get("ttl_ms")?, row.try_get("renew_ms")?);
    let (expiries, renewals): (Vec<i64>, Vec<i64>) = (row.try_get("expires_at")?, row.try_get("renewals")?);
    let machines: Vec<Option<String>> = row.try_get("machines")?;
    let (pids, ticks): (Vec<Option<i64>>, Vec<Option<i64>>) = (row.try_get("pids")?, row.try_get("start_ticks")?);
    let named = leases.into_iter().zip(workers);
    let timed = named.zip(ttls.into_iter().zip(renews)).zip(expiries.into_iter().zip(renewals));
    let whole = timed.zip(machines.into_iter().zip(pids.into_iter().zip(ticks)));
    let view = |((((lease, worker), (ttl, renew)), (expires_at, renewals)), (machine, (pid, ticks)))| {
        Ok(LeaseView {
            lease: lease_id(lease)?,
            worker,
            ttl: from_millis(ttl)?,
            renew: from_millis(renew)?,
            expires_at: StoreTime(expires_at),
            renewals: natural(renewals)?,
            process: process(machine, pid, ticks)?,
        })
    };
    whole.map(view).collect()
}
