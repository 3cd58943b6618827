//! The plan: what is done when, as plain data that the seed decides.

use std::fmt;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::kind::Kind;
use super::options::{Drawn, Options};
use super::rows::Op;

/// Something that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A batch is submitted.
    Submit {
        /// For which workers.
        op: Op,
        /// How many rows.
        rows: u64,
        /// One of them is poison.
        poison: bool,
    },
    /// A fault, or an operator's command.
    Fault {
        /// Which.
        kind: Kind,
        /// At which worker, where it is about one and that one is fit for it; else the next that is.
        worker: usize,
        /// For how long, or until a successor starts.
        for_ms: u64,
    },
}

/// What is done when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// In milliseconds since the start.
    pub at_ms: u64,
    /// What.
    pub what: What,
    /// Decides what is left to decide: rows, the batch that is meant, the direction that is lost.
    pub pick: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, what, pick } = self;
        write!(f, "{at_ms:>8} ms  {what:?} pick {pick}")
    }
}

/// Rows of a batch with a poison row, at most: each halving of them costs a worker.
const POISON_ROWS_MAX: u64 = 8;

/// Makes the plan: batches, and faults of these kinds, dealt like cards, so that each comes as often as the others.
pub fn make(options: &Options, drawn: &Drawn, kinds: &[Kind]) -> Vec<Step> {
    // Apart from what was drawn before.
    let mut random = StdRng::seed_from_u64(options.seed ^ 0x9e37_79b9_7f4a_7c15);
    let mut steps = Vec::new();
    let end_ms = u64::try_from(options.faults_for.as_millis()).expect("it fits");
    let mut step = |at_ms, what, random: &mut StdRng| steps.push(Step { at_ms, what, pick: random.random() });
    for op in [Op::Plain, Op::Effects] {
        let mut at_ms = 0;
        while at_ms < end_ms {
            let rows = drawn.long_rows / 2;
            step(at_ms, What::Submit { op, rows, poison: false }, &mut random);
            at_ms += drawn.long_every_ms;
        }
    }
    let mut at_ms = 300;
    while at_ms < end_ms {
        let op = if random.random_bool(0.6) { Op::Plain } else { Op::Effects };
        step(
            at_ms,
            What::Submit { op, rows: random.random_range(1..=drawn.small_rows_max), poison: false },
            &mut random,
        );
        at_ms += random.random_range(drawn.small_every_ms / 2..=drawn.small_every_ms * 3 / 2);
    }
    // For workers with a handler inside: it takes them with it.
    let mut at_ms = drawn.poison_every_ms / 5;
    while at_ms < end_ms {
        let rows = random.random_range(1..=POISON_ROWS_MAX);
        step(at_ms, What::Submit { op: Op::Effects, rows, poison: true }, &mut random);
        at_ms += drawn.poison_every_ms;
    }
    let every_ms = u64::try_from(options.fault_every.as_millis()).expect("it fits");
    let mut at_ms = 1_000;
    let mut hand: Vec<Kind> = Vec::new();
    while at_ms < end_ms {
        if hand.is_empty() {
            hand = kinds.to_vec();
            hand.shuffle(&mut random);
        }
        let Some(kind) = hand.pop() else { break };
        let worker = random.random_range(0..options.workers);
        let for_ms = lasts_ms(kind, drawn, &mut random);
        step(at_ms, What::Fault { kind, worker, for_ms }, &mut random);
        at_ms += random.random_range(every_ms / 2..=every_ms * 3 / 2);
    }
    steps.sort_by_key(|step| step.at_ms);
    steps
}

fn lasts_ms(kind: Kind, drawn: &Drawn, random: &mut StdRng) -> u64 {
    let ttl = drawn.ttl_ms;
    match kind {
        // Beyond the ttl, and beyond what a judge takes to see it.
        Kind::Pause => random.random_range(ttl * 11 / 10..=ttl * 7 / 2),
        Kind::Kill | Kind::KillAndSameName | Kind::Term | Kind::TermAndSameName => random.random_range(0..=ttl * 2),
        Kind::Twin => random.random_range(ttl..=ttl * 4),
        // Around the time that requests and renewals have.
        Kind::StoreDelay | Kind::RedisDelay => random.random_range(ttl / 4..=ttl * 3),
        Kind::StoreStall | Kind::StoreHalfOpen | Kind::RedisStall | Kind::RedisHalfOpen => {
            random.random_range(ttl / 4..=ttl * 3)
        }
        // A command whose append was cut off has the next one wait for a minute: not too often.
        Kind::OperatorsDelay | Kind::OperatorsStall | Kind::OperatorsHalfOpen => random.random_range(ttl / 4..=ttl * 2),
        // Between two commands there is nothing to cut.
        Kind::OperatorsCut => random.random_range(ttl..=ttl * 4),
        Kind::RedisKill | Kind::RedisKillAndEmpty => random.random_range(0..=ttl * 2),
        Kind::RedisFreeze => random.random_range(ttl / 2..=ttl * 3),
        Kind::DiskFull => random.random_range(ttl / 2..=ttl * 3),
        // So long is waited for requests to cut.
        Kind::StoreCut | Kind::RedisCut => random.random_range(ttl / 2..=ttl * 2),
        Kind::Hold => random.random_range(500..=4_000),
        _ => 0,
    }
}
