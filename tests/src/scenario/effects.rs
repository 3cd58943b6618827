//! Effects exactly once (O7): a transactional handler under kills and pauses.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{STUCK, assert_all_succeeded};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, submit, until};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Effects {
    /// Rows in all.
    pub rows: usize,
    /// How many workers are killed.
    pub kills: usize,
    /// How many workers are stopped for longer than their ttl, then continued.
    pub pauses: usize,
    /// Their ttl.
    pub ttl: Duration,
    /// How long a row takes, in microseconds.
    pub row_us: u64,
    /// Chooses whom.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// Rows that ran more than once, by the handlers' own ledger.
    pub lines_repeated: usize,
    /// Late answers that were dropped, and their effects with them.
    pub fenced: u64,
}

/// Runs it: the table of effects has exactly one entry per row, of the run whose outcome was recorded.
pub fn run(on: StoreKind, sizes: Effects) -> Outcome {
    let place = Place::new(on);
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    place.execute("create table effects (line bigint not null, token bigint not null)");
    let table = match on {
        StoreKind::Sqlite => "effects".to_owned(),
        StoreKind::Postgres | StoreKind::Pgbouncer => format!("{}.effects", place.schema().name()),
    };
    let arguments = [
        format!("--effects={table}"),
        "--concurrency=8".to_owned(),
        format!("--row-us={}", sizes.row_us),
        format!("--ttl-ms={}", sizes.ttl.as_millis()),
    ];
    let mut workers: Vec<Process> = (0..4).map(|_| place.worker(&arguments)).collect();
    let mut random = fencepost_core::random::Stream::new(sizes.seed);
    let look = place.look();
    let (began, mut acted) = (Instant::now(), Instant::now());
    let (mut kills, mut pauses) = (0, 0);
    let mut asleep: Option<(usize, Instant)> = None;
    until("the batch ends", STUCK, || {
        if let Some((who, since)) = asleep
            && since.elapsed() > sizes.ttl * 3
        {
            workers[who].signal(Signal::SIGCONT);
            asleep = None;
        }
        let who = usize::try_from(random.next_u64() % 4).expect("a place");
        let busy = asleep.is_none_or(|(other, _)| other != who) && look.holds_at_least(workers[who].pid(), 8);
        if busy && acted.elapsed() > Duration::from_millis(150) {
            acted = Instant::now();
            if pauses < sizes.pauses && asleep.is_none() {
                place.stop(workers[who].pid());
                asleep = Some((who, Instant::now()));
                pauses += 1;
            } else if kills < sizes.kills {
                workers[who].kill();
                workers[who] = place.worker(&arguments);
                kills += 1;
            }
        }
        look.has_ended(&batch).then_some(())
    });
    let took = began.elapsed();
    assert_eq!((kills, pauses), (sizes.kills, sizes.pauses), "the job was over before all was done");
    if let Some((who, _)) = asleep {
        workers[who].signal(Signal::SIGCONT);
        // What it still offers is dropped, with its effects.
        workers[who].signal(Signal::SIGTERM);
        workers[who].wait(STUCK);
    }
    drop(workers);
    assert_all_succeeded(&place, &batch, sizes.rows);
    assert_eq!(place.number("select count(*) from effects"), sizes.rows as i64, "one effect per row");
    assert_eq!(place.number("select count(distinct line) from effects"), sizes.rows as i64, "of each row");
    let agree = "select count(*) from effects join outcomes using (line, token)";
    assert_eq!(place.number(agree), sizes.rows as i64, "of the run that was recorded");
    let runs = ledger::read(&place.ledger());
    ledger::assert_no_token_ran_twice(&runs);
    let fenced = look.counts(&batch).fenced;
    Outcome { took, lines_repeated: ledger::repeats(&runs).0, fenced }
}
