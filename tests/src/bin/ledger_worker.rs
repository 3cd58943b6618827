//! A worker with a handler inside: it notes each run in a ledger, takes its time, and may be told to die of a row.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fencepost::driver::Report;
use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost::store::sqlite::{OpenMode, SqliteStore};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::{Timing, WorkerOptions};
use fencepost_tests::ledger::Ledger;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    store: PathBuf,
    #[arg(long)]
    ledger: PathBuf,
    #[arg(long, default_value_t = 8)]
    concurrency: u32,
    #[arg(long, default_value_t = 60_000)]
    ttl_ms: u64,
    #[arg(long, default_value_t = 1_000)]
    horizon_ms: u64,
    /// How long a row takes.
    #[arg(long, default_value_t = 0)]
    row_us: u64,
    /// The row that kills its process.
    #[arg(long)]
    poison_line: Option<u64>,
    #[arg(long)]
    until_done: bool,
    /// Print reports to stderr.
    #[arg(long)]
    verbose: bool,
}

struct LedgerHandler {
    ledger: Ledger,
    row: Duration,
    poison_line: Option<u64>,
}

impl Handler for LedgerHandler {
    async fn run(&self, row: Row, mut cancel: CancelToken) -> HandlerAnswer {
        self.ledger.note(row.line, row.token.0).expect("the ledger can be written");
        if self.poison_line == Some(row.line) {
            // As the kernel's OOM killer does: nothing more of this process runs.
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("a process can end itself");
        }
        if !self.row.is_zero() {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return HandlerAnswer::Cancelled,
                () = tokio::time::sleep(self.row) => {}
            }
        }
        HandlerAnswer::Success(row.line.to_string().into_boxed_str())
    }
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let timing = Timing::from_ttl(Duration::from_millis(args.ttl_ms));
    timing.validate().expect("the ttl is sound");
    let store = SqliteStore::open(&args.store, OpenMode::Create).await.expect("the store opens");
    let handler = LedgerHandler {
        ledger: Ledger::append_to(&args.ledger).expect("the ledger opens"),
        row: Duration::from_micros(args.row_us),
        poison_line: args.poison_line,
    };
    let options = WorkerOptions {
        timing,
        operations: vec!["default".to_owned()],
        concurrency: args.concurrency,
        horizon: Duration::from_millis(args.horizon_ms),
        until_done: args.until_done,
        ..WorkerOptions::default()
    };
    let verbose = args.verbose;
    let observer = Arc::new(move |report: Report<'_>| {
        if verbose {
            eprintln!("{report:?}");
        }
    });
    let mut config = WorkerConfig::new(["default"]);
    config.options = options;
    config.observer = observer;
    let worker = RunningWorker::on_embedded(store, handler, config).expect("the worker starts");
    let stop = worker.stopper();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    tokio::spawn(async move {
        terminate.recv().await;
        stop();
    });
    worker.left().await.expect("the worker leaves");
}
