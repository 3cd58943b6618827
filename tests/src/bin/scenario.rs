//! Runs a scenario at the size named, and prints what was measured: for `docs/evidence`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use clap::{Parser, Subcommand};
use fencepost_tests::place::StoreKind;
use fencepost_tests::scenario::{command, effects, kills, last_spans, million, poison, sigterm, stopped, stream};

#[derive(Debug, Parser)]
struct Args {
    /// Which kind of store keeps the rows
    #[arg(long, value_enum, default_value_t = StoreKind::Sqlite)]
    on: StoreKind,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Flights through 4 workers with a handler inside, killed at random
    Kills {
        #[arg(long, default_value_t = 50_000)]
        rows: usize,
        #[arg(long, default_value_t = 30)]
        kills: usize,
        #[arg(long, default_value_t = 3_000)]
        row_us: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Flights through `run` with a command per row, its workers killed at random
    Command {
        #[arg(long, default_value_t = 2_000)]
        rows: usize,
        #[arg(long, default_value_t = 30)]
        kills: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Flights through `run` with a stream handler in Python, its workers killed at random
    Stream {
        #[arg(long, default_value_t = 50_000)]
        rows: usize,
        #[arg(long, default_value_t = 30)]
        kills: usize,
        #[arg(long, default_value_t = 1_000)]
        row_us: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// A worker stopped for longer than its ttl
    Stopped {
        #[arg(long, default_value_t = 2_000)]
        ttl_ms: u64,
    },
    /// A row that kills its worker
    Poison {
        #[arg(long, default_value_t = 20_000)]
        rows: usize,
    },
    /// A transactional handler under kills and pauses
    Effects {
        #[arg(long, default_value_t = 10_000)]
        rows: usize,
        #[arg(long, default_value_t = 20)]
        kills: usize,
        #[arg(long, default_value_t = 5)]
        pauses: usize,
        #[arg(long, default_value_t = 20_000)]
        row_us: u64,
    },
    /// SIGTERM in the middle of slow rows
    Sigterm,
    /// Both last spans of a batch at the same instant
    LastSpans {
        #[arg(long, default_value_t = 10_000)]
        rounds: u64,
    },
    /// A large submit beside a worker that renews
    Million {
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        #[arg(long, default_value_t = 2_000)]
        ttl_ms: u64,
    },
    /// (a process of last-spans)
    #[command(hide = true)]
    Duel { store: String, rounds: u64, who: u64 },
}

fn main() {
    let Args { on, scenario } = Args::parse();
    match scenario {
        Scenario::Kills { rows, kills, row_us, seed } => {
            let sizes = kills::Kills {
                rows,
                workers: 4,
                concurrency: 8,
                row_us,
                kills,
                lines_held_min: 100,
                kill_every: Duration::from_millis(100),
                seed,
            };
            println!("{sizes:#?}\n{:#?}", kills::run(on, sizes));
        }
        Scenario::Command { rows, kills, seed } => {
            let kill_every = Duration::from_millis(100);
            let sizes = command::CommandKills { rows, kills, lines_held_min: 100, kill_every, seed };
            println!("{sizes:#?}\n{:#?}", command::run(on, sizes));
        }
        Scenario::Stream { rows, kills, row_us, seed } => {
            let sizes = stream::StreamKills {
                rows,
                kills,
                lines_held_min: 100,
                kill_every: Duration::from_millis(300),
                row: Duration::from_micros(row_us),
                seed,
            };
            println!("{sizes:#?}\n{:#?}", stream::run(on, sizes));
        }
        Scenario::Stopped { ttl_ms } => {
            let outcome = stopped::run(on, Duration::from_millis(ttl_ms));
            println!("late answers fenced: {}\n\n{}\n{}", outcome.fenced, outcome.story, outcome.status);
        }
        Scenario::Poison { rows } => {
            let line = rows as u64 / 3;
            let sizes = poison::Poison { rows, line, workers: 4, concurrency: 8, row_us: 3_000 };
            println!("{sizes:#?}\n{:#?}", poison::run(on, sizes));
        }
        Scenario::Effects { rows, kills, pauses, row_us } => {
            let sizes = effects::Effects { rows, kills, pauses, ttl: Duration::from_secs(1), row_us, seed: 1 };
            println!("{sizes:#?}\n{:#?}", effects::run(on, sizes));
        }
        Scenario::Sigterm => {
            sigterm::run(on);
            println!("running rows finished, unstarted ones were claimable at once, no attempt was used");
        }
        Scenario::LastSpans { rounds } => {
            last_spans::run(on, rounds, &std::env::current_exe().expect("own file"));
            println!("{rounds} batches, each ended once");
        }
        Scenario::Million { rows, ttl_ms } => {
            println!("{rows} rows: {:#?}", million::run(on, rows, Duration::from_millis(ttl_ms)));
        }
        Scenario::Duel { store, rounds, who } => {
            tokio::runtime::Runtime::new().expect("a runtime").block_on(last_spans::duel(&store, rounds, who));
        }
    }
}
