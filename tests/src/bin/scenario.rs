//! Runs a scenario at the size named, and prints what was measured: for `docs/evidence`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use fencepost_tests::chaos;
use fencepost_tests::place::StoreKind;
use fencepost_tests::postgres::{self, Schema};
use fencepost_tests::process;
use fencepost_tests::redis::{Keeps, Server};
use fencepost_tests::scenario::{
    abort, command, completions, cuts, effects, fairness, kills, last_spans, million, partitions, pg_idle, pg_load,
    pg_store, poison, recovery_times, redis_cost, redis_kinds, redis_moods, restart, sigterm, status, stopped, stream,
    stream_speed, walk_through,
};
use fencepost_tests::signals;

#[derive(Debug, Parser)]
#[command(after_help = EXIT_CODES)]
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
    /// Small batches beside a large one
    Fairness {
        #[arg(long, default_value_t = 1_000_000)]
        large: u64,
        #[arg(long, default_value_t = 100)]
        small: u64,
        #[arg(long, default_value_t = 2)]
        workers: usize,
        #[arg(long, default_value_t = 8)]
        concurrency: u32,
        #[arg(long, default_value_t = 10)]
        row_ms: u64,
        #[arg(long, default_value_t = 11)]
        times: usize,
    },
    /// Completion calls of many batches, by workers that are killed in the midst of them
    Completions {
        #[arg(long, default_value_t = 1_000)]
        batches: usize,
        #[arg(long, default_value_t = 3)]
        workers: usize,
        #[arg(long, default_value_t = 100)]
        kills: usize,
        #[arg(long, default_value_t = 50)]
        call_ms: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// SIGTERM in the middle of slow rows
    Sigterm,
    /// Postgres restarted, crashed and away while workers work (always on a server of its own)
    Restart {
        #[arg(long, default_value_t = 60_000)]
        rows: usize,
        #[arg(long, default_value_t = 20_000)]
        ttl_ms: u64,
        #[arg(long, default_value_t = 70_000)]
        away_ms: u64,
        #[arg(long, default_value_t = 50_000)]
        row_us: u64,
    },
    /// Connections to Postgres cut at random, before and after the deed (always on this process's own server)
    Cuts {
        #[arg(long, default_value_t = 20_000)]
        rows: usize,
        #[arg(long, default_value_t = 100)]
        lost_in_1000: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
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
    /// `status BATCH --json` while workers write
    Status {
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        #[arg(long, default_value_t = 4)]
        workers: usize,
        #[arg(long, default_value_t = 200)]
        looks: u64,
    },
    /// The rate of a stream handler in Python through `run`
    StreamSpeed {
        #[arg(long, default_value_t = 50_000)]
        rows: usize,
        #[arg(long, default_value_t = 2)]
        workers: usize,
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
    /// The rate of a command through `run`, with its workers killed at random, against its rate without kills
    CommandRate {
        #[arg(long, required = true)]
        rows: Vec<usize>,
        #[arg(long, default_value_t = 30)]
        kills: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Ten workers on one batch on Postgres: their rate, waits for locks, and the status meanwhile
    PgLoad {
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        #[arg(long, default_value_t = 10)]
        workers: usize,
        #[arg(long, default_value_t = 100)]
        concurrency: u32,
    },
    /// How soon idle workers on Postgres hear of rows, and what they ask meanwhile
    PgIdle {
        #[arg(long, default_value_t = 2)]
        workers: usize,
        #[arg(long, default_value_t = 100)]
        times: u32,
        #[arg(long, default_value_t = 30)]
        counting_s: u64,
    },
    /// Whether the store on Postgres slows down as its tables grow, or beside an old snapshot
    PgStore {
        #[arg(long, default_value_t = 100_000)]
        small: u64,
        #[arg(long, default_value_t = 10_000_000)]
        large: u64,
        #[arg(long, default_value_t = 200_000)]
        rows: u64,
        #[arg(long, default_value_t = 2_000)]
        churn: u64,
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
    /// The README's walk-through on Postgres and Redis, with the original's timings unless told
    WalkThrough {
        /// Postgres, as psql takes it, without a store in its schema `fencepost`; else a server of its own
        #[arg(long, env = "WALK_THROUGH_DATABASE", hide_env_values = true, requires = "redis")]
        database: Option<String>,
        /// Redis; else a server of its own
        #[arg(long, env = "WALK_THROUGH_REDIS", hide_env_values = true, requires = "database")]
        redis: Option<String>,
        #[arg(long, default_value_t = 60_000)]
        ttl_ms: u64,
    },
    /// Flights through 4 workers on Postgres and Redis, killed at random, with a flush and a crash of Redis among the kills
    RedisKills {
        #[arg(long, default_value_t = 50_000)]
        rows: usize,
        #[arg(long, default_value_t = 30)]
        kills: usize,
        #[arg(long, default_value_t = 3_000)]
        row_us: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Redis in a bad mood while a worker dies beside others that run slow rows; by default all moods, one after the other
    RedisMoods {
        #[arg(long, value_enum)]
        mood: Vec<redis_moods::Mood>,
        #[arg(long, default_value_t = 2_000)]
        ttl_ms: u64,
        #[arg(long, default_value_t = 100)]
        rows: usize,
    },
    /// Workers behind sentinels that fail over, on a cluster, through TLS
    RedisKinds {
        #[arg(long, default_value_t = 2_000)]
        ttl_ms: u64,
        #[arg(long, default_value_t = 100)]
        rows: usize,
    },
    /// What Redis costs a worker on Postgres whose handler does nothing
    RedisCost {
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        #[arg(long, default_value_t = 2_000)]
        concurrency: u32,
        #[arg(long, default_value_t = 60_000)]
        ttl_ms: u64,
        #[arg(long, default_value_t = 7)]
        times: usize,
    },
    /// A large batch aborted while workers record its outcomes; then one whose rows run as commands
    Abort {
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        #[arg(long, default_value_t = 4)]
        workers: usize,
    },
    /// From a worker's death until its rows can be claimed, and have run again: silent deaths by ttl, then known ones
    RecoveryTimes {
        /// Silent deaths: the ttl in milliseconds, how many deaths, how many of them at once
        #[arg(long, value_parser = silent_deaths, default_values = ["1000,100,5", "5000,40,5", "60000,20,10"])]
        silent: Vec<(u64, usize, usize)>,
        /// How many known deaths of each kind
        #[arg(long, default_value_t = 20)]
        known: usize,
    },
    /// Workers, Postgres and Redis on hosts of their own, with links that are cut, one way or both; by default all partitions,
    /// one after the other. Told to stop, it says what was done, and leaves nothing behind
    #[command(after_help = EXIT_CODES)]
    Partitions {
        #[arg(long, value_enum)]
        partition: Vec<partitions::Partition>,
        #[arg(long, default_value_t = 4_000)]
        ttl_ms: u64,
        #[arg(long, default_value_t = 150)]
        row_ms: u64,
        #[arg(long, default_value_t = 4)]
        concurrency: u32,
    },
    /// Faults of all kinds by a plan that a seed decides, then everything is healed, and what happened is checked. A run that
    /// fails keeps all that is needed to understand it; so does one that is told to stop, which heals, checks and reports, too
    #[command(after_help = EXIT_CODES)]
    Chaos {
        /// What the workers work on
        #[arg(long, value_enum, default_value_t = chaos::options::On::Redis)]
        on: chaos::options::On,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 2.0)]
        minutes: f64,
        /// How far apart faults are, on average
        #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u64).range(100..))]
        fault_every_ms: u64,
        /// Of four one runs a command per row, one a stream, two have handlers with effects
        #[arg(long, default_value_t = 4, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(3..=64))]
        workers: usize,
        /// Keep everything though nothing is wrong
        #[arg(long)]
        keep: bool,
    },
    /// (a process of last-spans)
    #[command(hide = true)]
    Duel { store: String, rounds: u64, who: u64 },
}

/// The exit code of a scenario that this machine cannot do: no success.
const NOT_RUN: i32 = 77;

/// That of one that was told to stop, and had found nothing wrong until then: no success either.
const STOPPED: i32 = 3;

/// That of a call that cannot be done as it is.
const WRONG_CALL: i32 = 2;

const EXIT_CODES: &str = "\
Exit codes: 0 all holds · 1 it does not · 2 wrong call, or programs of this workspace are missing · 3 told to stop by SIGINT, SIGTERM \
or SIGHUP (chaos, partitions), and what was done until then holds; a second signal ends the process at once, with 128 and its \
number · 77 this machine cannot do it · 101 a panic says why";

/// All that scenarios run.
const PROGRAMS: [&str; 4] = ["fencepost", "ledger-worker", "chaos-worker", "chaos-handler"];

fn main() {
    let Args { on, scenario } = Args::parse();
    // A process of another one's has been here.
    let programs =
        if matches!(scenario, Scenario::Duel { .. }) { Ok(()) } else { process::programs_are_there(&PROGRAMS) };
    if let Err(why) = programs {
        eprintln!("not run: {why}");
        std::process::exit(WRONG_CALL);
    }
    postgres::own_is_durable();
    match scenario {
        Scenario::Kills { rows, kills, row_us, seed } => {
            let sizes = flight_kills(rows, kills, row_us, seed);
            println!("{sizes:#?}\n{:#?}", kills::run(on, sizes));
        }
        Scenario::Command { rows, kills, seed } => {
            let sizes = command_kills(rows, kills, seed);
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
        Scenario::Completions { batches, workers, kills, call_ms, seed } => {
            let call = Duration::from_millis(call_ms);
            let sizes = completions::Completions { batches, workers, kills, call, seed };
            println!("{sizes:#?}\n{:#?}", completions::run(on, sizes));
        }
        Scenario::Sigterm => {
            sigterm::run(on);
            println!("running rows finished, unstarted ones were claimable at once, no attempt was used");
        }
        Scenario::Restart { rows, ttl_ms, away_ms, row_us } => {
            let (ttl, away) = (Duration::from_millis(ttl_ms), Duration::from_millis(away_ms));
            let sizes = restart::Restart { rows, workers: 4, concurrency: 8, row_us, ttl, away };
            println!("{sizes:#?}\n{:#?}", restart::run(sizes));
        }
        Scenario::Cuts { rows, lost_in_1000, seed } => {
            let sizes = cuts::Cuts { rows, workers: 4, row_us: 2_000, lost_in_1000, seed };
            println!("{sizes:#?}\n{:#?}", cuts::run(sizes));
        }
        Scenario::LastSpans { rounds } => {
            last_spans::run(on, rounds, &std::env::current_exe().expect("own file"));
            println!("{rounds} batches, each ended once");
        }
        Scenario::Million { rows, ttl_ms } => {
            println!("{rows} rows: {:#?}", million::run(on, rows, Duration::from_millis(ttl_ms)));
        }
        Scenario::Fairness { large, small, workers, concurrency, row_ms, times } => {
            let row = Duration::from_millis(row_ms);
            let sizes =
                fairness::Fairness { large, small, workers, concurrency, row, horizon: Duration::from_secs(1), times };
            println!("{sizes:#?}\n{:#?}", fairness::run(on, sizes));
        }
        Scenario::Status { rows, workers, looks } => {
            let sizes = status::Looks { rows, workers, looks };
            println!("{sizes:#?}\n{:#?}", status::run(on, sizes));
        }
        Scenario::StreamSpeed { rows, workers, times } => {
            let took = stream_speed::run(on, stream_speed::StreamSpeed { rows, workers, times });
            println!("{rows} rows, {workers} workers: {took:?}");
            println!("median {:.0} rows/s", rows as f64 / took[took.len() / 2].as_secs_f64());
        }
        Scenario::CommandRate { rows, kills, seed } => {
            for rows in rows {
                let sizes = command_kills(rows, kills, seed);
                let (undisturbed, disturbed) =
                    (command::run(on, command::CommandKills { kills: 0, ..sizes }).took, command::run(on, sizes).took);
                let percent = undisturbed.as_secs_f64() / disturbed.as_secs_f64() * 100.0;
                println!(
                    "{rows} rows: {undisturbed:.1?} undisturbed, {disturbed:.1?} with {kills} kills: {percent:.0} % of the rate"
                );
            }
        }
        Scenario::PgLoad { rows, workers, concurrency } => {
            let sizes = pg_load::Load { rows, workers, concurrency };
            println!("{sizes:#?}\n{:#?}", block_on(pg_load::run(sizes)));
        }
        Scenario::PgIdle { workers, times, counting_s } => {
            let sizes = pg_idle::Idle { workers, times, rows: 10, counting: Duration::from_secs(counting_s) };
            println!("{sizes:#?}\ntold by NOTIFY: {:#?}", block_on(pg_idle::listening(sizes)));
            println!("behind a transaction pooler: {:#?}", block_on(pg_idle::polling(sizes)));
        }
        Scenario::PgStore { small, large, rows, churn, times } => {
            let sizes = pg_store::Growth { small, large, rows, churn, times };
            println!("{sizes:#?}\n{:#?}", block_on(pg_store::run(sizes)));
        }
        Scenario::WalkThrough { database, redis, ttl_ms } => {
            let ttl = Duration::from_millis(ttl_ms);
            let row = Duration::from_secs(2);
            let sizes = walk_through::Sizes { rows: 20, kill_after: 4, row, ttl, renew: ttl / 2, scan: ttl };
            let outcome = match (database, redis) {
                (Some(database), Some(redis)) => {
                    walk_through::run(&walk_through::Servers { database, schema: "fencepost".to_owned(), redis }, sizes)
                }
                _ => {
                    let redis = Server::start(Keeps::Nothing);
                    walk_through::run(&walk_through::Servers::with(&Schema::new(), &redis), sizes)
                }
            };
            println!("\n{outcome:#?}");
        }
        Scenario::RedisKills { rows, kills, row_us, seed } => {
            let sizes = flight_kills(rows, kills, row_us, seed);
            println!("{sizes:#?}\n{:#?}", kills::run_beside_redis(StoreKind::Postgres, sizes));
        }
        Scenario::RedisMoods { mood, ttl_ms, rows } => {
            let ttl = Duration::from_millis(ttl_ms);
            let slack = Duration::from_millis(500);
            let sizes = redis_moods::Moods { rows, workers: 3, concurrency: 4, row: ttl * 5 / 4, ttl, slack };
            println!("{sizes:#?}");
            let moods = if mood.is_empty() { redis_moods::Mood::value_variants() } else { &mood[..] };
            for &mood in moods {
                println!("{mood:?}: {:#?}", redis_moods::run(mood, sizes));
            }
        }
        Scenario::RedisKinds { ttl_ms, rows } => {
            let ttl = Duration::from_millis(ttl_ms);
            let sizes = redis_kinds::Kinds { rows, concurrency: 4, row: ttl * 5 / 4, ttl };
            println!("{sizes:#?}\nsentinels: {:#?}", redis_kinds::sentinel(sizes));
            println!("cluster: {:#?}", redis_kinds::cluster(sizes));
            println!("TLS: {:#?}", redis_kinds::tls(sizes));
        }
        Scenario::RedisCost { rows, concurrency, ttl_ms, times } => {
            let sizes = redis_cost::Cost { rows, concurrency, ttl: Duration::from_millis(ttl_ms), times };
            println!("{sizes:#?}\n{:#?}", block_on(redis_cost::run(sizes)));
        }
        Scenario::Abort { rows, workers } => {
            let sizes = abort::Busy { rows, workers, concurrency: 100, done_min: rows / 10 };
            println!("{sizes:#?}\n{:#?}", abort::busy(on, sizes));
            println!("rows that run as commands: {:#?}", abort::handlers(on));
        }
        Scenario::RecoveryTimes { silent, known } => {
            use recovery_times::{Death, Deaths, HEAD};
            println!("min / median / p99\n\n{HEAD}");
            let of =
                |death, (ttl_ms, times, at_once)| Deaths { death, ttl: Duration::from_millis(ttl_ms), times, at_once };
            let silent = silent.into_iter().map(|sizes| of(Death::Silent, sizes));
            let measured =
                silent.chain([of(Death::SeenGone, (60_000, known, 1))]).map(|sizes| recovery_times::run(on, sizes));
            let others =
                [recovery_times::supervised, recovery_times::stable_name].map(|measure| move || measure(on, known));
            let mut holds = true;
            for outcome in measured.chain(others.into_iter().map(|measure| measure())) {
                println!("{outcome}");
                holds &= outcome.holds();
            }
            if !holds {
                println!("rows were claimable later than R4 allows");
                std::process::exit(1);
            }
        }
        Scenario::Partitions { partition, ttl_ms, row_ms, concurrency } => {
            let (ttl, row) = (Duration::from_millis(ttl_ms), Duration::from_millis(row_ms));
            let sizes = partitions::Sizes { ttl, concurrency, row, slack: Duration::from_millis(500) };
            let all = if partition.is_empty() { partitions::Partition::value_variants() } else { &partition[..] };
            signals::heed();
            println!("{sizes:#?}");
            match partitions::run(sizes, all) {
                Ok(outcomes) => {
                    println!("{outcomes:#?}");
                    if outcomes.stopped.is_some() {
                        std::process::exit(STOPPED);
                    }
                }
                Err(why) => {
                    println!("not run: {why}");
                    std::process::exit(NOT_RUN);
                }
            }
        }
        Scenario::Chaos { on, seed, minutes, fault_every_ms, workers, keep } => {
            let faults_for = Duration::from_secs_f64(minutes * 60.0);
            let fault_every = Duration::from_millis(fault_every_ms);
            let (durable, every_kind) = (true, true);
            let options =
                chaos::options::Options { on, seed, faults_for, fault_every, workers, durable, every_kind, keep };
            signals::heed();
            chaos::run_log::heed_panics();
            let report = chaos::run::run(options, &std::env::temp_dir());
            // Where nobody listens any more, the exit code still tells.
            let _ = writeln!(std::io::stdout(), "{report}");
            if !report.holds() {
                std::process::exit(1);
            }
            if report.stopped.is_some() {
                std::process::exit(STOPPED);
            }
        }
        Scenario::Duel { store, rounds, who } => {
            block_on(last_spans::duel(&store, rounds, who));
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(future)
}

fn flight_kills(rows: usize, kills: usize, row_us: u64, seed: u64) -> kills::Kills {
    let kill_every = Duration::from_millis(100);
    kills::Kills { rows, workers: 4, concurrency: 8, row_us, kills, lines_held_min: 100, kill_every, seed }
}

fn command_kills(rows: usize, kills: usize, seed: u64) -> command::CommandKills {
    command::CommandKills { rows, kills, lines_held_min: 100, kill_every: Duration::from_millis(100), seed }
}

/// A ttl, how many deaths, how many of them at once.
fn silent_deaths(text: &str) -> Result<(u64, usize, usize), String> {
    let wrong =
        || format!("{text:?} is not like 5000,40,5: the ttl in milliseconds, how many deaths, how many at once");
    let numbers: Vec<u64> = text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let [ttl_ms, times, at_once] = numbers[..] else { return Err(wrong()) };
    let (Ok(times), Ok(at_once)) = (usize::try_from(times), usize::try_from(at_once)) else { return Err(wrong()) };
    if at_once == 0 || times == 0 || times % at_once != 0 {
        return Err(wrong());
    }
    Ok((ttl_ms, times, at_once))
}
