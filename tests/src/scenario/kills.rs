//! Point 2 of the main job: a file through several worker processes that are killed at random.

use std::time::{Duration, Instant};

use super::{STUCK, assert_all_succeeded, flights};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, submit, until};
use crate::redis::{Keeps, Server};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// Rows of the flights.
    pub rows: usize,
    /// Worker processes.
    pub workers: usize,
    /// Rows that each runs at once.
    pub concurrency: u32,
    /// How long a row takes, in microseconds.
    pub row_us: u64,
    /// How many workers are killed.
    pub kills: usize,
    /// A worker is killed only while it holds so many lines.
    pub lines_held_min: u64,
    /// Kills are at least so far apart.
    pub kill_every: Duration,
    /// Chooses whom to kill.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Without kills.
    pub undisturbed: Duration,
    /// With kills.
    pub disturbed: Duration,
    /// How many workers were killed.
    pub kills: usize,
    /// Lines that ran more than once.
    pub lines_repeated: usize,
    /// Runs beyond a line's first.
    pub runs_repeated: usize,
}

/// Runs it without and with kills, checks rows, results, counts and ledger, and tells what it took.
pub fn run(on: StoreKind, kills: Kills) -> Outcome {
    let undisturbed = once(on, Kills { kills: 0, ..kills }, None, |_| ());
    let disturbed = once(on, kills, None, |_| ());
    compare(undisturbed, disturbed, kills.kills)
}

/// The same beside a Redis that is flushed after a third of the kills, and killed and started again after two thirds.
pub fn run_beside_redis(on: StoreKind, kills: Kills) -> Outcome {
    let mut redis = Server::start(Keeps::EveryWrite);
    let url = redis.url();
    let undisturbed = once(on, Kills { kills: 0, ..kills }, Some(&url), |_| ());
    let (mut flushed, mut restarted) = (false, false);
    let disturbed = once(on, kills, Some(&url), |killed| {
        if killed == kills.kills / 3 {
            assert!(redis.heartbeats() > 0, "the workers use it");
            redis.ask(&["FLUSHALL"]);
            flushed = true;
        } else if killed == kills.kills * 2 / 3 {
            assert!(redis.heartbeats() > 0, "the workers use it after the flush");
            redis.kill();
            redis.start_again();
            restarted = true;
        }
    });
    assert!(flushed && restarted, "both were among the kills");
    compare(undisturbed, disturbed, kills.kills)
}

fn compare((undisturbed, none, _): Run, (disturbed, repeated, killed): Run, kills: usize) -> Outcome {
    assert_eq!(none.lines_repeated, 0, "nothing is repeated without a kill");
    assert_eq!(killed, kills, "the job was over before all kills were done: let rows take longer");
    Outcome { undisturbed, disturbed, kills: killed, ..repeated }
}

type Run = (Duration, Outcome, usize);

fn once(on: StoreKind, kills: Kills, redis: Option<&str>, mut after_kill: impl FnMut(usize)) -> Run {
    let place = Place::new(on);
    let input = place.file("flights.csv");
    flights(kills.rows, &input);
    let batch = submit(place.store(), &[input.to_str().expect("UTF-8")]);
    let mut arguments = vec![
        "--until-done".to_owned(),
        format!("--concurrency={}", kills.concurrency),
        format!("--row-us={}", kills.row_us),
    ];
    arguments.extend(redis.map(|url| format!("--redis={url}")));
    let start = || place.worker(&arguments);
    let look = place.look();
    let began = Instant::now();
    let mut workers: Vec<Process> = (0..kills.workers).map(|_| start()).collect();
    let mut random = fencepost_core::random::Stream::new(kills.seed);
    let (mut killed, mut last_kill) = (0, Instant::now());
    until("the batch ends", STUCK, || {
        let victim = usize::try_from(random.next_u64() % kills.workers as u64).expect("a place");
        if killed < kills.kills
            && last_kill.elapsed() >= kills.kill_every
            && look.holds_at_least(workers[victim].pid(), kills.lines_held_min)
        {
            workers[victim].kill();
            killed += 1;
            // Before its successor's first beat.
            after_kill(killed);
            workers[victim] = start();
            last_kill = Instant::now();
        }
        look.has_ended(&batch).then_some(())
    });
    let took = began.elapsed();
    drop(workers);
    assert_all_succeeded(&place, &batch, kills.rows);
    let runs = ledger::read(&place.ledger());
    assert_eq!(runs.len(), kills.rows, "every row ran");
    ledger::assert_no_token_ran_twice(&runs);
    let (lines_repeated, runs_repeated) = ledger::repeats(&runs);
    let outcome = Outcome { undisturbed: took, disturbed: took, kills: killed, lines_repeated, runs_repeated };
    (took, outcome, killed)
}
