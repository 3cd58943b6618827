//! What a schedule made by hand may not ask for. Drawn ones are within these limits.

use std::fmt;

use super::Schedule;
use crate::options::Options;

/// A value that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Impossible {
    /// Where: an option or a fault.
    pub place: String,
    /// What is wrong, and what is allowed.
    pub what: String,
}

/// Nearly three hours for an option, four months for a fault: sums of products of these stay within their type.
const US_MAX: u64 = 10_000_000_000;
const FAULT_US_MAX: u64 = 1000 * US_MAX;

/// Of all batches together.
const ROWS_MAX: u64 = 100_000;

impl Schedule {
    /// Tells what cannot be run.
    pub fn validate(&self) -> Result<(), Impossible> {
        self.options.validate()?;
        for (nth, (at_us, fault)) in self.faults.iter().enumerate() {
            let by = match fault {
                crate::fault::Fault::Delay { by_us, .. } => *by_us,
                crate::fault::Fault::Duplicate { after_us, .. } => *after_us,
                crate::fault::Fault::StoreClockJump { by_us } => by_us.unsigned_abs(),
                lasting => lasting.lasts_us(),
            };
            within(
                format!("faults[{nth}], {fault:?}"),
                "its times in microseconds",
                0,
                FAULT_US_MAX,
                (*at_us).max(by),
            )?;
        }
        Ok(())
    }
}

impl Options {
    fn validate(&self) -> Result<(), Impossible> {
        let option = |name: &str, first: u64, last: u64, value: u64| {
            within(format!("option `{name}`"), "it", first, last, value)
        };
        option("workers", 1, 8, self.workers.into())?;
        option("batches", 1, 200, self.batches.len() as u64)?;
        for (nth, batch) in self.batches.iter().enumerate() {
            let place = |name| format!("option `batches[{nth}].{name}`");
            within(place("rows"), "it", 1, ROWS_MAX, batch.rows)?;
            within(place("submit_at_us"), "it", 0, US_MAX, batch.submit_at_us)?;
            within(place("timeout_us"), "it", 1, US_MAX, batch.timeout_us)?;
            within(place("attempts_max"), "it", 1, 1000, batch.attempts_max.into())?;
            within(place("crashes_max"), "it", 1, 1000, batch.crashes_max.into())?;
        }
        within("option `batches`".to_owned(), "the sum of rows", 1, ROWS_MAX, self.rows())?;
        let timing = |error: &dyn fmt::Display| Impossible {
            place: "options `ttl_us`, `renew_us`, `scan_us`, `request_timeout_us`".to_owned(),
            what: error.to_string(),
        };
        self.timing().validate().map_err(|error| timing(&error))?;
        option("run_us_max", 1, US_MAX, self.run_us_max)?;
        option("run_us_min", 0, self.run_us_max, self.run_us_min)?;
        option("latency_us_max", 0, US_MAX, self.latency_us_max)?;
        option("latency_us_min", 0, self.latency_us_max, self.latency_us_min)?;
        let per_mille = [
            ("slow_per_mille", self.slow_per_mille),
            ("failing_per_mille", self.failing_per_mille),
            ("retrying_per_mille", self.retrying_per_mille),
            ("hanging_per_mille", self.hanging_per_mille),
            ("deaf_per_mille", self.deaf_per_mille),
            ("slow_messages_per_mille", self.slow_messages_per_mille),
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
        option("claim_lines_max", 1, u64::MAX, self.claim_lines_max)?;
        option("claim_bytes_max", 1, u64::MAX, self.claim_bytes_max)?;
        option("group_lines_max", 1, u64::MAX, self.group_lines_max as u64)?;
        option("clock_spread", 0, 900_000, self.clock_spread.into())?;
        option("store_rate", 100_000, 10_000_000, self.store_rate.into())
    }
}

fn within(place: String, what: &str, first: u64, last: u64, value: u64) -> Result<(), Impossible> {
    if (first..=last).contains(&value) {
        return Ok(());
    }
    let what = match last {
        u64::MAX => format!("{what} must be at least {first}, not {value}"),
        _ => format!("{what} must be from {first} to {last}, not {value}"),
    };
    Err(Impossible { place, what })
}
