//! Postgres restarted fast, crashed, and stopped for longer than the ttl, in the middle of a run.

use std::time::{Duration, Instant};

use super::{STUCK, assert_all_succeeded};
use crate::ledger;
use crate::place::Place;
use crate::postgres::Durability;
use crate::process::{Process, submit, until};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// Rows in all.
    pub rows: usize,
    /// Worker processes; none is replaced.
    pub workers: usize,
    /// Rows that each runs at once.
    pub concurrency: u32,
    /// How long a row takes, in microseconds.
    pub row_us: u64,
    /// Their ttl.
    pub ttl: Duration,
    /// How long the server stays away the third time.
    pub away: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// Lines whose first run was cancelled when the licence ended (L4), and that ran again.
    pub lines_repeated: usize,
    /// Runs whose answer was waiting while the server was away, and was recorded afterwards.
    pub kept: usize,
}

/// Runs it: workers keep their results and go on by themselves, every row has one outcome, and no living worker's lease is
/// declared dead when the server returns.
pub fn run(sizes: Restart) -> Outcome {
    let place = Place::on_own_server(Durability::Durable);
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    let arguments = [
        "--until-done".to_owned(),
        format!("--concurrency={}", sizes.concurrency),
        format!("--row-us={}", sizes.row_us),
        format!("--ttl-ms={}", sizes.ttl.as_millis()),
    ];
    let began = Instant::now();
    let mut workers: Vec<Process> = (0..sizes.workers).map(|_| place.worker(&arguments)).collect();
    let recorded = || usize::try_from(place.number("select count(*) from outcomes")).expect("a count");
    let after = |parts: usize| {
        until("rows are recorded", STUCK, || (recorded() >= sizes.rows * parts / 4).then_some(()));
    };
    after(1);
    place.server().restart("fast");
    after(2);
    place.server().restart("immediate");
    after(3);
    let recorded_before = recorded();
    place.server().stop("immediate");
    let gone = Instant::now();
    until("it was away for so long", STUCK, || (gone.elapsed() >= sizes.away).then_some(()));
    // Runs that began before the server went: what they came to is in the workers' memory.
    let runs_before = ledger::read(&place.ledger());
    place.server().start_again();
    // Workers may have recorded what they kept by the time that this is asked.
    let left = place.number(
        "select count(*) from outcomes where recorded_at < extract(epoch from pg_postmaster_start_time()) * 1000000",
    );
    let left = usize::try_from(left).expect("a count");
    assert!((recorded_before..sizes.rows).contains(&left), "{left} rows were recorded: the job was over before");
    let status: Vec<_> = workers.iter_mut().map(|worker| worker.wait(STUCK)).collect();
    let took = began.elapsed();
    assert!(status.iter().all(|status| status.success()), "no worker gave up: {status:?}");
    assert_all_succeeded(&place, &batch, sizes.rows);
    let runs = ledger::read(&place.ledger());
    ledger::assert_no_token_ran_twice(&runs);
    // A run is repeated only where it was cancelled in the middle: no worker had more than these under way.
    let (lines_repeated, runs_repeated) = ledger::repeats(&runs);
    let under_way = sizes.workers * usize::try_from(sizes.concurrency).expect("few");
    assert!(lines_repeated <= under_way, "{lines_repeated} lines ran again: results were not kept");
    assert_eq!(runs_repeated, lines_repeated);
    let again = |line: &u64| runs[line].len() > 1;
    let kept = runs_before.keys().filter(|line| !again(line)).count().saturating_sub(left);
    assert!(kept > 0, "no answer was waiting for the server: rows are too slow for this");
    for (what, query) in [
        ("no lease is dead", "select count(*) from leases where state in ('dead', 'taken_over')"),
        ("every worker left in order", "select count(*) from leases where state <> 'dropped'"),
        ("nothing was recovered", "select count(*) from attempts where kind in ('recovered', 'crashed', 'fenced')"),
        ("no span is left", "select count(*) from spans"),
    ] {
        assert_eq!(place.number(query), 0, "{what}");
    }
    Outcome { took, lines_repeated, kept }
}
