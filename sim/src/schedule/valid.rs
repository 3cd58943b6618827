//! What a schedule made by hand may not ask for. Drawn ones are within these limits.

use super::Schedule;
use crate::fault::Fault;
use crate::options::Options;

/// A value that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(String);

/// Nearly three hours for an option, four months for a fault: sums of products of these stay within their type.
const US_MAX: u64 = 10_000_000_000;
const FAULT_US_MAX: u64 = 1000 * US_MAX;

/// Of clocks, in millionths.
const RATE_MIN: u64 = 100_000;
const RATE_MAX: u64 = 10_000_000;

/// Workers at the start and those that join.
const PLACES_MAX: u64 = 8;

/// Of all batches together.
const ROWS_MAX: u64 = 100_000;

impl Schedule {
    /// Tells what cannot be run.
    pub fn validate(&self) -> Result<(), Impossible> {
        self.options.validate()?;
        for (nth, (at_us, fault)) in self.faults.iter().enumerate() {
            within(format!("faults[{nth}], {fault:?}: its times"), 0, FAULT_US_MAX, (*at_us).max(longest_us(fault)))?;
            if let Fault::ClockRate { millionths, .. } | Fault::StoreClockRate { millionths } = fault {
                let what = format!("faults[{nth}], {fault:?}: `millionths`");
                within(what, RATE_MIN, RATE_MAX, u64::from(*millionths))?;
            }
        }
        Ok(())
    }
}

/// The longest of a fault's times, whichever those are.
fn longest_us(fault: &Fault) -> u64 {
    let value = serde_json::to_value(fault).unwrap_or_default();
    let fields = value.as_object().and_then(|kind| kind.values().next()?.as_object());
    let times = fields.into_iter().flatten().filter(|(name, _)| name.ends_with("_us"));
    let us = times.filter_map(|(_, time)| time.as_u64().or_else(|| time.as_i64().map(i64::unsigned_abs)));
    us.max().unwrap_or(0)
}

impl Options {
    /// Tells what cannot be run.
    pub(super) fn validate(&self) -> Result<(), Impossible> {
        let option =
            |name: &str, first: u64, last: u64, value: u64| within(format!("option `{name}`"), first, last, value);
        option("workers", 1, PLACES_MAX, self.workers.into())?;
        let joins = self.joins_us.len() as u64;
        within("option `joins_us`: its length".to_owned(), 0, PLACES_MAX - u64::from(self.workers), joins)?;
        for (nth, join_us) in self.joins_us.iter().enumerate() {
            within(format!("option `joins_us[{nth}]`"), 0, US_MAX, *join_us)?;
        }
        option("batches", 1, 200, self.batches.len() as u64)?;
        for (nth, batch) in self.batches.iter().enumerate() {
            let place = |name| format!("option `batches[{nth}].{name}`");
            within(place("rows"), 1, ROWS_MAX, batch.rows)?;
            within(place("submit_at_us"), 0, US_MAX, batch.submit_at_us)?;
            within(place("timeout_us"), 1, US_MAX, batch.timeout_us)?;
            within(place("attempts_max"), 1, 1000, batch.attempts_max.into())?;
            within(place("crashes_max"), 1, 1000, batch.crashes_max.into())?;
        }
        within("option `batches`: the sum of rows".to_owned(), 1, ROWS_MAX, self.rows())?;
        self.timing().validate().map_err(|error| {
            Impossible(format!("options `ttl_us`, `renew_us`, `scan_us`, `request_timeout_us`: {error}"))
        })?;
        option("run_us_max", 1, US_MAX, self.run_us_max)?;
        option("run_us_min", 0, self.run_us_max, self.run_us_min)?;
        // Otherwise no request would ever have its reply in time.
        option("latency_us_max", 0, self.request_timeout_us / 2, self.latency_us_max)?;
        option("latency_us_min", 0, self.latency_us_max, self.latency_us_min)?;
        let per_mille = [
            ("slow_per_mille", self.slow_per_mille),
            ("failing_per_mille", self.failing_per_mille),
            ("retrying_per_mille", self.retrying_per_mille),
            ("hanging_per_mille", self.hanging_per_mille),
            ("deaf_per_mille", self.deaf_per_mille),
            ("slow_messages_per_mille", self.slow_messages_per_mille),
            ("lost_per_mille", self.lost_per_mille),
        ];
        for (name, value) in per_mille {
            option(name, 0, 1000, value)?;
        }
        let times = [
            ("horizon_us", 0, self.horizon_us),
            ("flush_age_us", 0, self.flush_age_us),
            ("poll_us", 1, self.poll_us),
            ("grace_us", 0, self.grace_us),
            ("cancel_grace_us", 0, self.cancel_grace_us),
            ("inner_us", 0, self.inner_us),
            ("restart_us", 1, self.restart_us),
            ("linger_us", 0, self.linger_us),
        ];
        for (name, first, value) in times {
            option(name, first, US_MAX, value)?;
        }
        option("poison_rows", 0, ROWS_MAX, self.poison_rows)?;
        option("concurrency", 1, 10_000, self.concurrency.into())?;
        option("claim_lines_max", 1, 10 * ROWS_MAX, self.claim_lines_max)?;
        option("claim_bytes_max", 1, US_MAX, self.claim_bytes_max)?;
        option("held_bytes_max", 1, US_MAX, self.held_bytes_max)?;
        option("group_lines_max", 1, 10 * ROWS_MAX, self.group_lines_max as u64)?;
        option("clock_spread", 0, 900_000, self.clock_spread.into())?;
        option("store_rate", RATE_MIN, RATE_MAX, self.store_rate.into())?;
        option("witness_rate", RATE_MIN, RATE_MAX, self.witness_rate.into())
    }
}

/// The words for a value that is out of its limits.
fn within(what: String, first: u64, last: u64, value: u64) -> Result<(), Impossible> {
    if (first..=last).contains(&value) {
        return Ok(());
    }
    Err(Impossible(format!("{what} must be from {first} to {last}, not {value}")))
}
