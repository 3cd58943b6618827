//! A worker with a handler inside: it notes each run in a ledger, takes its time, and may be told to die of a row.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use fencepost::driver::Report;
use fencepost::handler::transactional::TransactionalHandler;
use fencepost::handler::typed::{Context, RowError};
use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost::liveness::redis::url::RedisUrl;
use fencepost::store::{OpenMode, StoreUrl};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::worker::RunKey;
use fencepost_core::{Timing, Token, WorkerOptions};
use fencepost_tests::ledger::Ledger;
use fencepost_tests::worker_program;
use sqlx::database::HasStatementCache;
use sqlx::{AssertSqlSafe, Database};

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    store: StoreUrl,
    #[arg(long)]
    ledger: PathBuf,
    /// The operations that it works for.
    #[arg(long, default_values = ["default"])]
    op: Vec<String>,
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
    /// The second witness.
    #[arg(long)]
    redis: Option<RedisUrl>,
    #[arg(long)]
    until_done: bool,
    /// Write an effect into this table of the same database, in the transaction that records the outcome.
    #[arg(long)]
    effects: Option<String>,
    /// Print reports to stderr.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone)]
struct LedgerHandler {
    ledger: Arc<Ledger>,
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
            let began = Instant::now();
            tokio::select! {
                biased;
                // After a standstill both may be due: a row that has had its time has an answer.
                () = cancel.cancelled() => if began.elapsed() < self.row { return HandlerAnswer::Cancelled },
                () = tokio::time::sleep(self.row) => {}
            }
        }
        HandlerAnswer::Success(row.line.to_string().into_boxed_str())
    }
}

/// The same in two steps: the ledger in `run`, the effect in `apply`.
struct EffectHandler<Db> {
    ledger: LedgerHandler,
    table: String,
    database: PhantomData<fn() -> Db>,
}

impl<Db> EffectHandler<Db> {
    fn new(ledger: &LedgerHandler, table: &str) -> Self {
        Self { ledger: ledger.clone(), table: table.to_owned(), database: PhantomData }
    }
}

impl<Db> TransactionalHandler for EffectHandler<Db>
where
    Db: Database + HasStatementCache,
    for<'c> &'c mut Db::Connection: sqlx::Executor<'c, Database = Db>,
    for<'q> i64: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    Db::Arguments: sqlx::IntoArguments<Db>,
{
    type Database = Db;
    type Input = serde_json::Value;
    type Value = u64;
    type Output = u64;

    async fn run(&self, context: Context, _: serde_json::Value) -> Result<u64, RowError> {
        let Context { batch, line, attempt, token, cancel, .. } = context;
        let row = Row { batch, line, attempt, token: Token(token), input: "null".into() };
        match self.ledger.run(row, cancel).await {
            HandlerAnswer::Success(_) => Ok(token),
            _ => Err(RowError::Cancelled),
        }
    }

    async fn apply(&self, conn: &mut Db::Connection, row: RunKey, token: &u64) -> Result<u64, RowError> {
        let insert = format!("insert into {} (line, token) values ($1, $2)", self.table);
        // A name would be in the next client's way behind a transaction pooler.
        let insert = sqlx::query(AssertSqlSafe(insert)).persistent(false);
        let (line, token_number) = (i64::try_from(row.line).expect("few"), i64::try_from(*token).expect("few"));
        insert.bind(line).bind(token_number).execute(conn).await?;
        Ok(row.line)
    }
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let timing = Timing::from_ttl(Duration::from_millis(args.ttl_ms));
    timing.validate().expect("the ttl is sound");
    let store = args.store.open(OpenMode::Create).await.expect("the store opens");
    let handler = LedgerHandler {
        ledger: Arc::new(Ledger::append_to(&args.ledger).expect("the ledger opens")),
        row: Duration::from_micros(args.row_us),
        poison_line: args.poison_line,
    };
    let options = WorkerOptions {
        timing,
        operations: args.op.clone(),
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
    let mut config = WorkerConfig::new(args.op);
    config.options = options;
    config.observer = observer;
    let liveness = worker_program::liveness(args.redis, &store);
    let worker = match args.effects {
        Some(table) => {
            let (on_sqlite, on_postgres) = (EffectHandler::new(&handler, &table), EffectHandler::new(&handler, &table));
            worker_program::start_transactional(store, liveness, on_sqlite, on_postgres, config)
        }
        None => RunningWorker::on_store_with(store, liveness, handler, config),
    };
    let terminate = worker_program::terminate();
    worker_program::left(worker.expect("the worker starts"), terminate).await.expect("the worker leaves");
}
