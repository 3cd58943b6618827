//! A worker process of the benchmark: the library's worker with a handler that does nothing. It leaves when
//! its standard input ends, and says then how many rows it ran.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost::liveness::redis::url::RedisUrl;
use fencepost::store::{OpenMode, StoreUrl};
use fencepost::worker::{RunningWorker, WorkerConfig};

use super::limit;
use crate::worker_program;

/// What it is told.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// The store
    #[arg(long)]
    pub store: StoreUrl,
    /// Which rows
    #[arg(long)]
    pub op: String,
    /// How many at once
    #[arg(long)]
    pub concurrency: u32,
    /// How long a row takes, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub run_ms: u64,
    /// The second witness
    #[arg(long)]
    pub redis: Option<RedisUrl>,
}

struct Nothing {
    runs: Arc<AtomicU64>,
    run_time: Duration,
}

/// A row like this has its handler say when it ran: the batch and microseconds since 1970.
pub const PROBE: &str = r#"{"probe":true}"#;

impl Handler for Nothing {
    async fn run(&self, row: Row, _: CancelToken) -> HandlerAnswer {
        self.runs.fetch_add(1, Ordering::Relaxed);
        // The input is there: whoever measures without it measures something else.
        assert!(row.input.len() > 1, "a row without an input");
        if &*row.input == PROBE {
            println!("{} {}", row.batch, now_us());
        }
        if !self.run_time.is_zero() {
            tokio::time::sleep(self.run_time).await;
        }
        HandlerAnswer::Success(limit::RESULT.into())
    }
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is right");
    i64::try_from(since.as_micros()).expect("this century")
}

/// Runs it.
pub fn run(args: WorkerArgs) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let runs = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let store = args.store.open(OpenMode::Existing).await.expect("the store opens");
        let liveness = worker_program::liveness(args.redis, &store);
        let mut config = WorkerConfig::new([args.op]);
        config.options.concurrency = args.concurrency;
        let handler = Nothing { runs: Arc::clone(&runs), run_time: Duration::from_millis(args.run_ms) };
        let worker = RunningWorker::on_store_with(store, liveness, handler, config).expect("the worker starts");
        let stop = worker.stopper();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop();
        });
        worker.left().await.expect("the worker leaves");
    });
    println!("runs {}", runs.load(Ordering::Relaxed));
}
