//! What a run is given, and what its seed draws before anything starts.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What the workers work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// An SQLite file.
    Sqlite,
    /// Postgres.
    Postgres,
    /// Postgres, and Redis as the second witness.
    Redis,
}

/// What a run is given.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What the workers work on.
    pub on: On,
    /// Decides the plan.
    pub seed: u64,
    /// How long faults are applied.
    pub faults_for: Duration,
    /// How far apart faults are, on average.
    pub fault_every: Duration,
    /// How many workers.
    pub workers: usize,
    /// Whether Postgres waits for the disk.
    pub durable: bool,
    /// Whether every kind of fault that this machine can do must have been applied.
    pub every_kind: bool,
    /// Whether everything is kept though nothing is wrong.
    pub keep: bool,
}

/// What the seed draws.
#[derive(Debug, Clone, Copy)]
pub struct Drawn {
    /// The workers' ttl, in milliseconds. Renewal interval and scan are what `fencepost` makes of it.
    pub ttl_ms: u64,
    /// How many rows a worker runs at once.
    pub concurrency: u32,
    /// How long the shortest row takes.
    pub row_ms_min: u64,
    /// How long the longest row takes.
    pub row_ms_max: u64,
    /// Rows of a small batch, at most.
    pub small_rows_max: u64,
    /// How far apart small batches are, on average.
    pub small_every_ms: u64,
    /// Rows of a long batch.
    pub long_rows: u64,
    /// How far apart long batches are.
    pub long_every_ms: u64,
    /// How far apart batches with a poison row are.
    pub poison_every_ms: u64,
    /// The worker whose wall clock is stepped.
    pub stepped: usize,
}

impl Drawn {
    /// Draws all of it.
    pub fn of(options: &Options) -> Self {
        let mut random = StdRng::seed_from_u64(options.seed);
        let (row_ms_min, row_ms_max) = (random.random_range(20..=60), random.random_range(150..=400));
        let concurrency = random.random_range(2..=4);
        // What the workers would do undisturbed, in rows per second; two fifths of it are asked of them.
        let workers = u64::try_from(options.workers).expect("few");
        let rate = u64::from(concurrency) * workers * 2_000 / (row_ms_min + row_ms_max);
        let long_every_ms = random.random_range(15_000..=30_000);
        Self {
            ttl_ms: random.random_range(10..=20) * 100,
            concurrency,
            row_ms_min,
            row_ms_max,
            small_rows_max: 20,
            small_every_ms: random.random_range(2_000..=3_000),
            long_rows: (rate * long_every_ms / 5_000).clamp(50, 800),
            long_every_ms,
            poison_every_ms: 15_000,
            stepped: random.random_range(0..options.workers),
        }
    }

    /// The workers' ttl.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}
