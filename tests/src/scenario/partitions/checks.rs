//! What must hold while something is cut, after it, and in the end.

use std::collections::{BTreeMap, HashMap};

use super::field::{Field, WORKERS};
use super::kind::Partition;
use crate::chaos::verify;
use crate::ledger;
use crate::scenario::assert_all_succeeded;

/// How the log and the leases were before a partition.
pub struct Before {
    dead: i64,
    repeats: i64,
    attempt: i64,
}

/// A request that had arrived may end a moment later, in microseconds.
const UNDER_WAY_US: i64 = 250_000;

impl Before {
    /// How they are now.
    pub fn of(field: &Field) -> Self {
        let dead = "select count(*) from leases where state not in ('live', 'dropped')";
        let last = "select coalesce(max(attempt), 0) from attempts";
        Self { dead: field.number(dead), repeats: repeated(field), attempt: field.number(last) }
    }

    /// The process ids of those whose leases were ended by others since then, and when.
    pub fn dead_since(&self, field: &Field) -> Vec<(u32, i64)> {
        let query = format!(
            "select pid, ended_at from leases where state not in ('live', 'dropped') order by ended_at offset {}",
            self.dead
        );
        let dead: Vec<(i64, i64)> = field.rows(&query);
        dead.into_iter().map(|(pid, at)| (u32::try_from(pid).expect("a pid"), at)).collect()
    }
}

/// How many runs there were beyond a line's first.
fn repeated(field: &Field) -> i64 {
    i64::try_from(ledger::repeats(&ledger::read(&field.place.ledger())).1).expect("few")
}

/// Before it is healed.
pub fn meanwhile(field: &Field, partition: Partition, begun_us: i64, now_us: i64) {
    for worker in partition.silences() {
        let recorded = field.recorded(*worker, begun_us + UNDER_WAY_US, now_us);
        assert_eq!(recorded, 0, "{partition:?}: worker {worker} is cut off and recorded outcomes");
    }
    // In the latter half of it.
    let late_us = begun_us.midpoint(now_us);
    for worker in partition.leaves_at_work() {
        let recorded = field.recorded(*worker, late_us, now_us);
        assert!(recorded > 0, "{partition:?}: worker {worker} did not go on meanwhile");
    }
}

/// After it; tells how many late answers were fenced.
pub fn afterwards(field: &Field, partition: Partition, before: &Before) -> i64 {
    let logged = |kinds: &str| {
        let attempt = before.attempt;
        field.number(&format!("select count(*) from attempts where attempt > {attempt} and kind in ({kinds})"))
    };
    if partition.repeats_nothing() {
        assert_eq!(repeated(field), before.repeats, "{partition:?}: rows ran again");
    }
    if partition.ends_leases_of().is_empty() {
        assert_eq!(logged("'recovered', 'crashed', 'fenced'"), 0, "{partition:?}: something was taken from the living");
    } else {
        assert!(logged("'recovered', 'crashed'") > 0, "{partition:?}: nothing was taken over");
    }
    let fenced = logged("'fenced'");
    // They had answers that they could not send.
    if partition.silences().iter().any(|worker| partition.ends_leases_of().contains(worker)) {
        assert!(fenced > 0, "{partition:?}: no late answer came");
    }
    fenced
}

/// In the end; tells how many rows there were, and how many runs beyond a line's first for which reason.
pub fn in_the_end(field: &Field) -> (usize, BTreeMap<String, usize>) {
    let (place, batch) = (&field.place, &field.batch);
    assert_eq!(verify::complaints(place.store(), batch), Vec::<String>::new());
    let rows = usize::try_from(field.number("select total from batches")).expect("a count");
    assert_all_succeeded(place, batch, rows);
    let runs = ledger::read(&place.ledger());
    assert_eq!(runs.len(), rows, "every row ran");
    ledger::assert_no_token_ran_twice(&runs);
    for (what, query) in [
        ("no span is left", "select count(*) from spans"),
        ("no lease is left", "select count(*) from leases where state = 'live'"),
        (
            "no lease recorded anything after its end",
            "select count(*) from outcomes join leases using (lease) where recorded_at > ended_at",
        ),
    ] {
        assert_eq!(field.number(query), 0, "{what}");
    }
    let left = "select count(*) from leases where state = 'dropped'";
    assert_eq!(field.number(left), i64::try_from(WORKERS).expect("few"), "all workers left in order");
    (rows, explained(field, &runs))
}

/// Why runs were not the ones that count: the outcome has one token, and of each other the log says what ended it.
fn explained(field: &Field, runs: &BTreeMap<u64, Vec<(u64, u32)>>) -> BTreeMap<String, usize> {
    let recorded: Vec<(i64, i64)> = field.rows("select line, token from outcomes");
    let recorded: HashMap<u64, u64> =
        recorded.into_iter().map(|(line, token)| (line.cast_unsigned(), token.cast_unsigned())).collect();
    let log: Vec<(i64, i64, i64, String)> = field.rows(
        "select token, first_line, last_line, kind from attempts where kind in ('recovered', 'given_back', 'crashed')",
    );
    let mut log_of: HashMap<u64, Vec<(u64, u64, String)>> = HashMap::new();
    for (token, first, last, kind) in log {
        let of = log_of.entry(token.cast_unsigned()).or_default();
        of.push((first.cast_unsigned(), last.cast_unsigned(), kind));
    }
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for (line, runs) in runs {
        let counts = runs.iter().filter(|(token, _)| recorded[line] == *token).count();
        assert_eq!(counts, 1, "line {line} has an outcome of one of its runs: {runs:?}");
        for (token, _) in runs.iter().filter(|(token, _)| recorded[line] != *token) {
            let of = log_of.get(token).into_iter().flatten();
            let cause = of.filter(|(first, last, _)| (first..=last).contains(&line)).map(|(.., kind)| kind).next();
            let cause = cause.unwrap_or_else(|| panic!("nothing tells what ended line {line} under {token}: {runs:?}"));
            *causes.entry(cause.clone()).or_default() += 1;
        }
    }
    causes
}
