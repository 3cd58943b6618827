//! A worker with a transactional handler inside: it notes each run in a ledger, takes its time, and writes an effect in the
//! transaction that records the outcome. A row may tell it to die.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use fencepost::driver::Report;
use fencepost::handler::transactional::TransactionalHandler;
use fencepost::handler::typed::{Context, RowError};
use fencepost::liveness::redis::url::RedisUrl;
use fencepost::store::{OpenMode, StoreUrl};
use fencepost::worker::WorkerConfig;
use fencepost_core::worker::{ExitReason, RunKey};
use fencepost_core::{Timing, WorkerOptions};
use fencepost_tests::chaos::ledger::Ledger;
use fencepost_tests::chaos::rows::{Answer, Does, Row};
use fencepost_tests::worker_program;
use sqlx::database::HasStatementCache;
use sqlx::{AssertSqlSafe, Database};

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    store: StoreUrl,
    #[arg(long)]
    ledger: PathBuf,
    #[arg(long)]
    op: String,
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    concurrency: u32,
    #[arg(long)]
    ttl_ms: u64,
    /// The second witness.
    #[arg(long)]
    redis: Option<RedisUrl>,
    /// The table of effects, in the store's database.
    #[arg(long)]
    effects: String,
}

struct EffectHandler<Db> {
    ledger: PathBuf,
    table: String,
    database: PhantomData<fn() -> Db>,
}

impl<Db> EffectHandler<Db> {
    fn new(ledger: &Path, table: &str) -> Self {
        Self { ledger: ledger.to_owned(), table: table.to_owned(), database: PhantomData }
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
    type Value = (u64, serde_json::Value);
    type Output = serde_json::Value;

    async fn run(&self, context: Context, input: Self::Input) -> Result<Self::Value, RowError> {
        let Context { batch, line, attempt, token, mut cancel, .. } = context;
        let began = Instant::now();
        let ledger = Ledger::append_to(&self.ledger);
        ledger.and_then(|ledger| ledger.note(&batch.to_string(), line, token, attempt.into()))?;
        let row = Row::of_input(&input).ok_or_else(|| RowError::failed("no row"))?;
        let takes = Duration::from_millis(row.ms);
        if row.does == Does::KillItsWorker {
            // As the kernel's OOM killer does: nothing more of this process runs.
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("a process can end itself");
        }
        tokio::select! {
            biased;
            // After a standstill both may be due: a row that has had its time has an answer.
            () = cancel.cancelled() => if began.elapsed() < takes { return Err(RowError::Cancelled) },
            () = tokio::time::sleep(takes) => {}
        }
        match row.answer(attempt.into()) {
            Answer::Success(result) => Ok((token, result)),
            Answer::Failed(error) => Err(RowError::Failed(error)),
            Answer::Retry(error) => Err(RowError::Retry(error)),
        }
    }

    async fn apply(
        &self,
        conn: &mut Db::Connection,
        row: RunKey,
        value: &Self::Value,
    ) -> Result<Self::Output, RowError> {
        let insert = format!("insert into {} (batch, line, token) values ($1, $2, $3)", self.table);
        let number = |number: u64| i64::try_from(number).expect("it fits");
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(number(row.batch.number())).bind(number(row.line));
        insert.bind(number(value.0)).execute(conn).await?;
        Ok(value.1.clone())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let timing = Timing::from_ttl(Duration::from_millis(args.ttl_ms));
    timing.validate().expect("the ttl is sound");
    let terminate = worker_program::terminate();
    let store = match args.store.open(OpenMode::Create).await {
        Ok(store) => store,
        Err(error) => {
            eprintln!("the store does not open: {error}");
            // As `fencepost worker` says it.
            return ExitCode::from(7);
        }
    };
    let mut config = WorkerConfig::new([args.op.clone()]);
    config.name = args.name;
    config.options = WorkerOptions {
        timing,
        operations: vec![args.op],
        concurrency: args.concurrency,
        grace: Duration::from_secs(2),
        ..WorkerOptions::default()
    };
    config.observer = Arc::new(|report: Report<'_>| eprintln!("{report:?}"));
    let liveness = worker_program::liveness(args.redis, &store);
    let (ledger, table) = (&args.ledger, &args.effects);
    let (on_sqlite, on_postgres) = (EffectHandler::new(ledger, table), EffectHandler::new(ledger, table));
    let worker = worker_program::start_transactional(store, liveness, on_sqlite, on_postgres, config);
    match worker_program::left(worker.expect("the worker starts"), terminate).await {
        Ok(ExitReason::NameInUse(name)) => {
            eprintln!("the name {name:?} is in use");
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
