//! From records to a page of rows: what each came to, and where to go on.

use std::time::Duration;

use fencepost_core::{LineSet, StoreTime, Token};

use super::super::codec::{lease_id, natural, small};
use super::super::trouble::Trouble;
use crate::store::view::{OutcomeView, RowPage, RowStatus, RowView};

#[derive(sqlx::FromRow)]
pub(super) struct RowRecord {
    line: i64,
    input: String,
    status: Option<String>,
    result: Option<String>,
    error: Option<String>,
    token: Option<i64>,
    lease: Option<i64>,
    worker: Option<String>,
    attempts: Option<i64>,
    crashes: Option<i64>,
    run_us: Option<i64>,
    recorded_at: Option<i64>,
}

impl RowRecord {
    fn outcome(self) -> Result<Option<OutcomeView>, Trouble> {
        let (Some(status), Some(token), Some(lease)) = (self.status, self.token, self.lease) else { return Ok(None) };
        Ok(Some(OutcomeView {
            success: status == "success",
            result: self.result.map(String::into_boxed_str),
            error: self.error.map(String::into_boxed_str),
            token: Token(natural(token)?),
            lease: lease_id(lease)?,
            worker: self.worker,
            attempts: small(self.attempts.unwrap_or_default())?,
            crashes: small(self.crashes.unwrap_or_default())?,
            run_time: Duration::from_micros(natural(self.run_us.unwrap_or_default())?),
            recorded_at: StoreTime(self.recorded_at.unwrap_or_default()),
        }))
    }
}

/// What tells the status of rows without an outcome.
pub(super) struct Derive {
    pub(super) aborted: bool,
    pub(super) held: LineSet,
}

impl Derive {
    fn view(&self, mut record: RowRecord) -> Result<RowView, Trouble> {
        let line = natural(record.line)?;
        let input = std::mem::take(&mut record.input).into_boxed_str();
        let outcome = record.outcome()?;
        let status = match &outcome {
            Some(outcome) if outcome.success => RowStatus::Success,
            Some(_) => RowStatus::Failed,
            None if self.aborted => RowStatus::Aborted,
            None if self.held.contains(line) => RowStatus::InProg,
            None => RowStatus::Queued,
        };
        Ok(RowView { line, status, input, outcome })
    }
}

pub(super) fn whole_page(derive: &Derive, records: Vec<RowRecord>, limit: u32) -> Result<RowPage, Trouble> {
    let rows: Vec<RowView> = records.into_iter().map(|record| derive.view(record)).collect::<Result<_, _>>()?;
    let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next_after = rows.last().filter(|_| full).map(|row| row.line);
    Ok(RowPage { rows, next_after })
}
