//! C1 to C3: claims and their settling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fencepost_core::store::{Claim, ClaimReply, Grant, GrantedRow, StoreFailure};
use fencepost_core::{BatchId, LeaseId, LineSet, Token};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::call::Call;
use super::codec::{batch_id, from_millis, int, lines_of, natural, small, storable};
use super::trouble::Trouble;
use crate::store::StoreError;

impl PostgresStore {
    /// C1: takes lines, then reads their inputs. Where these do not come, the claim's end is unknown to the worker, which
    /// settles it. Where the lines have changed hands meanwhile, it is settled here.
    pub(super) async fn claim(&self, claim: &Claim) -> Result<ClaimReply, StoreError> {
        let call = Call::new("claim")
            .arg(int(claim.lease.number()))
            .arg(int(claim.number))
            .arg(claim.operations.iter().map(|name| storable(name)).collect::<Vec<_>>())
            .arg(int(claim.lines_max))
            .arg(int(claim.bytes_max.min(self.inputs_at_once.bytes())))
            .arg(claim.idle)
            .arg(self.at());
        let row = self.connections.call_one(call).await?;
        let (suspect_waits, next_after, open_lines, taken) = match self.read(|| Ok(row.try_get("outcome")?))? {
            "closed" => return Ok(ClaimReply::Closed),
            "lease_ended" => return Ok(ClaimReply::LeaseEnded),
            _ => self.read(|| {
                let next_after: Option<i64> = row.try_get("next_after_us")?;
                let next_after = next_after.map(natural).transpose()?.map(Duration::from_micros);
                Ok((row.try_get("suspect_waits")?, next_after, row.try_get("open_lines")?, taken(&row)?))
            })?,
        };
        let unknown = |error| StoreError { failure: StoreFailure::Unknown, ..error };
        let grants = match self.with_rows(claim.lease, &taken).await.map_err(unknown)? {
            Some(grants) => grants,
            None => {
                let (grants, stopped) = self.settle_claim(claim.lease, claim.number).await.map_err(unknown)?;
                // S2: nobody was told of these.
                if !stopped.is_empty() {
                    self.give_back(claim.lease, &stopped).await.map_err(unknown)?;
                }
                grants
            }
        };
        Ok(ClaimReply::Granted { grants, suspect_waits, next_after, open_lines })
    }

    /// C2: closes the claim's number, then reads what that claim took and still holds. Where the inputs cannot be read a second
    /// time, what it took goes back: a worker on a slow way to the server would hold for ever what others could do.
    /// And what it took of batches that were aborted since.
    pub(super) async fn settle_claim(
        &self,
        lease: LeaseId,
        number: u64,
    ) -> Result<(Vec<Grant>, Vec<(BatchId, Token, LineSet)>), StoreError> {
        loop {
            let call = Call::new("settle_claim").arg(int(lease.number())).arg(int(number));
            let row = self.connections.call_one(call).await?;
            let (taken, stopped) = self.read(|| Ok((taken(&row)?, stopped(&row)?)))?;
            match self.with_rows(lease, &taken).await {
                Ok(Some(grants)) => return Ok((grants, stopped)),
                // Some changed hands in between. The claim is over: from now on there can only be fewer.
                Ok(None) => {}
                Err(error) => {
                    let back = |taken: &Taken| Ok((taken.grant.batch, taken.grant.token, lines_of(&taken.lines)?));
                    let back = self.read(|| taken.iter().map(back).collect::<Result<Vec<_>, Trouble>>())?;
                    // Where that fails, too, all of it is asked again; else there is nothing left to settle next time.
                    let _ = self.give_back(lease, &back).await;
                    return Err(error);
                }
            }
        }
    }

    /// The spans with their rows, which are read by a request of their own: it holds no lock while megabytes are on the way (T2).
    /// None: the lease does not hold all of them any more.
    async fn with_rows(&self, lease: LeaseId, taken: &[Taken]) -> Result<Option<Vec<Grant>>, StoreError> {
        if taken.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let tokens: Vec<i64> = taken.iter().map(|taken| int(taken.grant.token.0)).collect();
        let call = Call::new("claimed_rows").arg(int(lease.number())).arg(tokens);
        let reply = self.connections.call_one(call).await;
        self.inputs_at_once.came(reply.is_ok());
        let reply = reply?;
        self.read(|| {
            if !reply.try_get::<bool, _>("held")? {
                return Ok(None);
            }
            let rows = rows(&reply, taken.len())?;
            taken.iter().zip(rows).map(|(taken, rows)| filled(taken, rows)).collect::<Result<_, _>>().map(Some)
        })
    }
}

/// How many bytes of inputs a claim takes at most, beside what its worker wants: fewer after inputs did not come in time, more again
/// when they do. Else a worker on a slow way to the server could never receive what it claims.
#[derive(Debug)]
pub(super) struct InputsAtOnce(AtomicU64);

impl InputsAtOnce {
    /// Where it begins and what it returns to; no worker asks for as much.
    const MOST: u64 = 1 << 30;
    /// A single row may always be larger (C3).
    const LEAST: u64 = 1 << 14;

    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(Self::MOST))
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn came(&self, in_time: bool) {
        let bytes = self.bytes();
        // The first failure says nothing of sizes that nobody asks for.
        let next = if in_time { bytes.saturating_mul(2).min(Self::MOST) } else { bytes.min(8 << 20) / 8 };
        self.0.store(next.max(Self::LEAST), Ordering::Relaxed);
    }
}

/// A span as it was taken, still without its rows.
struct Taken {
    grant: Grant,
    lines: String,
}

/// Spans as arrays with one place per span; null where there is none.
fn taken(row: &PgRow) -> Result<Vec<Taken>, Trouble> {
    let Some(tokens): Option<Vec<i64>> = row.try_get("tokens")? else { return Ok(Vec::new()) };
    let batches: Vec<i64> = row.try_get("batches")?;
    let operations: Vec<String> = row.try_get("operations")?;
    let timeouts: Vec<i64> = row.try_get("timeouts_ms")?;
    let suspicions: Vec<i32> = row.try_get("suspicions")?;
    let alone: Vec<bool> = row.try_get("alone")?;
    let recovered_from: Vec<Option<String>> = row.try_get("recovered_from")?;
    let lines: Vec<String> = row.try_get("lines")?;

    let spans = tokens.into_iter().zip(batches.into_iter().zip(operations));
    let spans = spans.zip(timeouts.into_iter().zip(suspicions)).zip(alone.into_iter().zip(recovered_from));
    let taken = |((((token, (batch, operation)), (timeout, suspicion)), (alone, recovered_from)), lines)| {
        let grant = Grant {
            batch: batch_id(batch)?,
            operation,
            token: Token(natural(token)?),
            rows: Vec::new(),
            suspicion: small(i64::from(suspicion))?,
            alone,
            recovered_from,
            timeout: from_millis(timeout)?,
        };
        Ok(Taken { grant, lines })
    };
    spans.zip(lines).map(taken).collect()
}

/// What a claim took of batches that were aborted since.
fn stopped(row: &PgRow) -> Result<Vec<(BatchId, Token, LineSet)>, Trouble> {
    let Some(tokens): Option<Vec<i64>> = row.try_get("stopped_tokens")? else { return Ok(Vec::new()) };
    let batches: Vec<i64> = row.try_get("stopped_batches")?;
    let lines: Vec<String> = row.try_get("stopped_lines")?;
    let stopped = |(token, (batch, lines)): (i64, (i64, String))| {
        Ok((batch_id(batch)?, Token(natural(token)?), lines_of(&lines)?))
    };
    tokens.into_iter().zip(batches.into_iter().zip(lines)).map(stopped).collect()
}

/// The rows of each of so many spans, in the order of lines.
fn rows(row: &PgRow, spans: usize) -> Result<Vec<Vec<GrantedRow>>, Trouble> {
    let mut of_spans = vec![Vec::new(); spans];
    let Some(places): Option<Vec<i64>> = row.try_get("places")? else { return Ok(of_spans) };
    let lines: Vec<i64> = row.try_get("lines")?;
    let inputs: Vec<String> = row.try_get("inputs")?;
    let attempts: Option<Vec<i32>> = row.try_get("attempts")?;
    let attempts = attempts.unwrap_or_default().into_iter().chain(std::iter::repeat(0));
    for (((place, line), input), attempts) in places.into_iter().zip(lines).zip(inputs).zip(attempts) {
        let of_span = usize::try_from(place - 1).ok().and_then(|place| of_spans.get_mut(place));
        let of_span = of_span.ok_or_else(|| Trouble::damaged("a row of a span that was not asked for"))?;
        let line = natural(line)?;
        of_span.push(GrantedRow { line, attempts: small(attempts.into())?, input: input.into_boxed_str() });
    }
    for rows in &mut of_spans {
        rows.sort_unstable_by_key(|row| row.line);
    }
    Ok(of_spans)
}

/// The span with its rows.
fn filled(taken: &Taken, rows: Vec<GrantedRow>) -> Result<Grant, Trouble> {
    let Taken { grant, lines } = taken;
    if !lines_of(lines)?.iter().eq(rows.iter().map(|row| row.line)) {
        return Err(Trouble::damaged(format!("batch {} lacks rows of its lines {lines}", grant.batch)));
    }
    Ok(Grant { rows, ..grant.clone() })
}
