//! Workers whose connections to Postgres are cut at random: before the server hears of a request, after it has done it and
//! before the worker hears of that, and with no answer at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fencepost_core::random::Stream;

use super::{STUCK, assert_all_succeeded};
use crate::ledger;
use crate::place::Place;
use crate::postgres::own;
use crate::process::{Process, submit, until};
use crate::proxy::{Fate, Proxy};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Cuts {
    /// Rows in all.
    pub rows: usize,
    /// Worker processes.
    pub workers: usize,
    /// How long a row takes, in microseconds.
    pub row_us: u64,
    /// How many of a thousand statements do not pass.
    pub lost_in_1000: u64,
    /// Chooses which.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// How many statements did not pass, or their answers.
    pub lost: u64,
    /// Claims that were done and not heard of.
    pub claims_unheard: u64,
    /// Groups of outcomes that were recorded and not heard of.
    pub groups_unheard: u64,
    /// Lines that ran more than once: those whose licence ended (L4).
    pub lines_repeated: usize,
}

const TTL: Duration = Duration::from_secs(4);

/// Calls whose lost answers are counted: claims, groups of outcomes.
const UNHEARD: [&str; 2] = [".claim(", ".record_answers("];

fn choose(random: &mut Stream, lost_in_1000: u64) -> Fate {
    if random.next_u64() % 1000 >= lost_in_1000 {
        return Fate::Pass;
    }
    match random.next_u64() % 8 {
        0..3 => Fate::LoseRequest,
        3..6 => Fate::LoseAnswer,
        6 => Fate::Silence,
        _ => Fate::Delay(Duration::from_millis(random.next_u64() % 200)),
    }
}

/// Runs it: every row has one outcome, nothing is stuck, nothing runs twice under one token.
pub fn run(sizes: Cuts) -> Outcome {
    let place = Place::on_own();
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    let random = Mutex::new(Stream::new(sizes.seed));
    let unheard = Arc::new([const { AtomicU64::new(0) }; UNHEARD.len()]);
    let counted = unheard.clone();
    let proxy = Proxy::start(own(), move |statement| {
        let fate = choose(&mut random.lock().expect("nobody panics with it"), sizes.lost_in_1000);
        if let Some(at) = UNHEARD.iter().position(|function| statement.contains(function))
            && matches!(fate, Fate::LoseAnswer | Fate::Silence)
        {
            counted[at].fetch_add(1, Ordering::SeqCst);
        }
        fate
    });
    let arguments = [
        "--until-done".to_owned(),
        "--concurrency=8".to_owned(),
        // So that there are many claims.
        "--horizon-ms=50".to_owned(),
        format!("--row-us={}", sizes.row_us),
        format!("--ttl-ms={}", TTL.as_millis()),
    ];
    let way = place.schema().url_at(&proxy.url());
    let began = Instant::now();
    let mut workers: Vec<Process> = (0..sizes.workers).map(|_| place.worker_at(&way, &arguments)).collect();
    let look = place.look();
    until("the batch ends", STUCK, || {
        for worker in &mut workers {
            // One that could not even open its store says so and ends; a person would start it again.
            if worker.ended().is_some_and(|status| !status.success()) {
                *worker = place.worker_at(&way, &arguments);
            }
        }
        look.has_ended(&batch).then_some(())
    });
    let took = began.elapsed();
    for worker in &mut workers {
        until("the worker leaves", STUCK, || worker.ended());
    }
    assert_all_succeeded(&place, &batch, sizes.rows);
    let runs = ledger::read(&place.ledger());
    assert_eq!(runs.len(), sizes.rows, "every row ran");
    ledger::assert_no_token_ran_twice(&runs);
    assert_eq!(place.number("select count(*) from spans"), 0, "no span is left");
    // O2: a repeat of what is recorded is no late answer.
    let twice = "select count(*) from attempts a join outcomes o on o.batch = a.batch and o.line = a.first_line and o.token = a.token
                 where a.kind = 'fenced'";
    assert_eq!(place.number(twice), 0, "an answer was recorded, and fenced under the same token");
    let [claims_unheard, groups_unheard] = [0, 1].map(|at: usize| unheard[at].load(Ordering::SeqCst));
    let lines_repeated = ledger::repeats(&runs).0;
    Outcome { took, lost: proxy.lost(), claims_unheard, groups_unheard, lines_repeated }
}
