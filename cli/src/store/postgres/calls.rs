//! S7: completion calls.

use std::borrow::Cow;
use std::time::Duration;

use fencepost_core::calls::{
    BatchEnd, CallGrant, CallKey, CallOutcome, CallVerdict, ClaimCall, ClaimCallReply, RecordCall,
};
use fencepost_core::{StoreTime, Token};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_id, batch_status, int, lease_id, natural, small};
use super::record::spread;
use super::trouble::Trouble;
use crate::store::view::{CallView, CallsView};
use crate::store::{StoreError, called};

impl PostgresStore {
    /// S7: takes a call under a fresh token.
    pub(super) async fn claim_call(&self, claim: &ClaimCall) -> Result<ClaimCallReply, StoreError> {
        let names = |names: &[String]| names.iter().map(|name| Cow::Owned(name.clone())).collect::<Vec<Cow<'_, str>>>();
        let known: Vec<i64> = claim.known.iter().map(|token| int(token.0)).collect();
        let call = Call::new("claim_call")
            .arg(int(claim.lease.number()))
            .arg(names(&claim.calls.operations))
            .arg(claim.calls.command)
            .arg(names(&claim.calls.urls))
            .arg(known)
            .arg(self.at());
        let row = self.connections.call_one(call).await?;
        self.read(|| match row.try_get("outcome")? {
            "granted" => {
                let next_after: Option<i64> = row.try_get("next_after_us")?;
                Ok(ClaimCallReply::Granted {
                    call: grant(&row)?,
                    next_after: next_after.map(natural).transpose()?.map(Duration::from_micros),
                    open_lines: row.try_get("open_lines")?,
                    undelivered: row.try_get("undelivered")?,
                })
            }
            _ => Ok(ClaimCallReply::LeaseEnded),
        })
    }

    /// S7: what came of a call, once.
    pub(super) async fn record_call(&self, record: &RecordCall) -> Result<CallVerdict, StoreError> {
        let (outcome, error, jitter) = match &record.outcome {
            CallOutcome::Delivered => ("delivered", None, 0),
            CallOutcome::Retry { error, jitter } => ("retry", Some(&**error), *jitter),
            CallOutcome::GivenBack => ("given_back", None, 0),
        };
        let CallKey { batch, generation, token } = record.key;
        let call = Call::new("record_call")
            .arg(int(record.lease.number()))
            .arg(int(batch.number()))
            .arg(i32::try_from(generation).unwrap_or(i32::MAX))
            .arg(int(token.0))
            .arg(outcome)
            .arg(error)
            .arg(spread(jitter))
            .arg(self.at());
        let row = self.connections.call_one(call).await?;
        self.read(|| match row.try_get(0)? {
            "recorded" => Ok(CallVerdict::Recorded),
            "recorded_before" => Ok(CallVerdict::RecordedBefore),
            "fenced" => Ok(CallVerdict::Fenced),
            _ => Err(Trouble::damaged("a call's record comes to what does not exist")),
        })
    }
}

fn grant(row: &PgRow) -> Result<Option<CallGrant>, Trouble> {
    let Some(batch): Option<i64> = row.try_get("batch")? else { return Ok(None) };
    let key = CallKey {
        batch: batch_id(batch)?,
        generation: small(row.try_get::<i32, _>("generation")?.into())?,
        token: Token(natural(row.try_get("token")?)?),
    };
    let end = BatchEnd {
        key: row.try_get("key")?,
        operation: row.try_get("operation")?,
        url: row.try_get("url")?,
        status: batch_status(row.try_get("status")?)?,
        success: natural(row.try_get("success")?)?,
        failed: natural(row.try_get("failed")?)?,
        aborted: natural(row.try_get("aborted")?)?,
        ended_at: StoreTime(row.try_get("ended_at")?),
    };
    Ok(Some(CallGrant { key, attempt: small(row.try_get::<i32, _>("attempts")?.into())?, end }))
}

/// A batch's calls, as arrays with one place per call; then those who make calls.
pub(super) fn calls(row: &PgRow) -> Result<CallsView, Trouble> {
    let generations: Vec<i32> = row.try_get("generations")?;
    let statuses: Vec<String> = row.try_get("statuses")?;
    let urls: Vec<Option<String>> = row.try_get("urls")?;
    let attempts: Vec<i32> = row.try_get("attempts")?;
    let errors: Vec<Option<String>> = row.try_get("errors")?;
    let not_before: Vec<Option<i64>> = row.try_get("not_before")?;
    let workers: Vec<Option<String>> = row.try_get("workers")?;
    let delivered_at: Vec<Option<i64>> = row.try_get("delivered_at")?;
    let damaged = || Trouble::damaged("the calls of a batch are not all there");
    let mut calls = Vec::with_capacity(generations.len());
    for (at, generation) in generations.into_iter().enumerate() {
        calls.push(CallView {
            generation: small(generation.into())?,
            status: batch_status(statuses.get(at).ok_or_else(damaged)?)?,
            url: urls.get(at).cloned().flatten(),
            attempts: small(attempts.get(at).copied().ok_or_else(damaged)?.into())?,
            error: errors.get(at).cloned().flatten(),
            not_before: not_before.get(at).copied().flatten().map(StoreTime),
            worker: workers.get(at).cloned().flatten(),
            delivered_at: delivered_at.get(at).copied().flatten().map(StoreTime),
        });
    }
    let (makers, makes): (Vec<i64>, Vec<String>) = (row.try_get("makers")?, row.try_get("makes")?);
    let maker = |(lease, calls): (i64, String)| Ok((lease_id(lease)?, called::from_json(Some(&calls))));
    Ok(CallsView {
        now: StoreTime(row.try_get("now_us")?),
        url: row.try_get("url")?,
        calls,
        makers: makers.into_iter().zip(makes).map(maker).collect::<Result<_, Trouble>>()?,
    })
}
