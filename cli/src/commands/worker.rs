//! `fencepost worker`

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fencepost_core::WorkerOptions;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::worker::ExitReason;
use tokio::io::AsyncReadExt;

use super::args::{Global, HandlerArgs, LogForm, TimingArgs, WorkArgs, WorkerArgs};
use super::calling::{self, NoRows};
use super::failure::{Exit, Failure};
use super::handover::read_names;
use super::hint::store_option;
use super::row_log;
use super::signals::Signals;
use super::{redis, store};
use crate::handler::Handler;
use crate::handler::call::Caller;
use crate::handler::command::{CommandHandler, CommandOptions};
use crate::handler::guard;
use crate::handler::sleep::SleepHandler;
use crate::handler::stream::{StreamHandler, StreamOptions};
use crate::liveness::RedisLiveness;
use crate::report::headline;
use crate::say::say;
use crate::store::{Reads, StoreError, WorkerStore};
use crate::worker::{RunningWorker, WorkerConfig};

pub async fn worker(global: &Global, args: WorkerArgs) -> Result<Exit, Failure> {
    let mut options =
        options(args.op.clone(), args.work.concurrency(&args.handler), &args.work, &args.timing, args.until_done)?;
    let calls = calling::prepare(&args).await?;
    let caller = calls.apply(&mut options);
    let handler = if options.rows { prepare(&args.handler, &args.work).await? } else { Prepared::None(NoRows) };
    let (store, redis) = if args.supervised {
        // A run's store is there; where it is not any more, an empty one in its place would have nothing to do.
        let names = read_names(&mut tokio::io::stdin()).await?;
        let redis = names.redis.as_deref().map(redis::named).transpose()?;
        (store::open_named(&names.store).await?, redis)
    } else {
        let redis = redis::url(&args.redis)?;
        (store::open_or_create(global).await?, redis)
    };
    let liveness = redis::liveness(redis, store.store_id())?;
    match handler {
        Prepared::Command(handler) => work(global, &args, store, liveness, *handler, options, caller).await,
        Prepared::Stream(mut handler) => {
            let closer = handler.closer();
            let exit = work(global, &args, store, liveness, handler, options, caller).await;
            closer.close().await;
            exit
        }
        Prepared::None(handler) => work(global, &args, store, liveness, handler, options, caller).await,
        Prepared::Sleep(handler) => work(global, &args, store, liveness, handler, options, caller).await,
    }
}

/// What runs rows, found and checked before the first one.
pub enum Prepared {
    Command(Box<CommandHandler>),
    Stream(StreamHandler),
    Sleep(SleepHandler),
    /// The worker only makes completion calls.
    None(NoRows),
}

/// Finds the handler that the options name.
pub async fn prepare(args: &HandlerArgs, work: &WorkArgs) -> Result<Prepared, Failure> {
    if let Some(each) = args.sleep {
        return Ok(Prepared::Sleep(SleepHandler { each }));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::new(Exit::Usage, "nothing to run for each row")
            .help("end the command line with -- CMD ARG..., or use --sleep 2s to try things out"));
    };
    let own = guard::own_program()
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot find this program's own file").because(error))?;
    if args.stream {
        let handler = StreamHandler::new(program, arguments, stream_options(args, work, own))
            .map_err(|error| Failure::from_error(Exit::Usage, error))?;
        handler.ready().await.map_err(|error| Failure::from_error(Exit::Unexpected, error))?;
        return Ok(Prepared::Stream(handler));
    }
    let options = CommandOptions { result_limit: work.max_result_bytes, ..CommandOptions::new(own) };
    let handler =
        CommandHandler::new(program, arguments, options).map_err(|error| Failure::from_error(Exit::Usage, error))?;
    handler.ready().await.map_err(|error| Failure::from_error(Exit::Unexpected, error))?;
    Ok(Prepared::Command(Box::new(handler)))
}

fn stream_options(args: &HandlerArgs, work: &WorkArgs, guard: PathBuf) -> StreamOptions {
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    StreamOptions {
        children: size(args.stream_children),
        window: size(args.window),
        line_limit: size(args.max_line_bytes),
        result_limit: work.max_result_bytes,
        ..StreamOptions::new(guard)
    }
}

/// The protocol's options, checked.
pub fn options(
    operations: Vec<String>,
    concurrency: u32,
    work: &WorkArgs,
    timing: &TimingArgs,
    until_done: bool,
) -> Result<WorkerOptions, Failure> {
    let lease = timing.timing();
    lease.validate().map_err(|error| {
        Failure::from_error(Exit::Usage, error).help("see --ttl, --renew and --scan in `fencepost worker --help`")
    })?;
    Ok(WorkerOptions {
        timing: lease,
        operations,
        concurrency,
        horizon: work.horizon,
        grace: timing.grace,
        until_done,
        ..WorkerOptions::default()
    })
}

async fn work(
    global: &Global,
    args: &WorkerArgs,
    store: impl WorkerStore + Reads,
    liveness: Option<RedisLiveness>,
    handler: impl Handler,
    options: WorkerOptions,
    caller: Option<Arc<dyn Caller>>,
) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let name = Arc::new(OnceLock::new());
    let form = if global.quiet { LogForm::Quiet } else { args.log };
    let observer = row_log::observer(form, name.clone());
    let mut config = WorkerConfig::new([""; 0]);
    config.name.clone_from(&args.name);
    config.options = options;
    config.observer = observer;
    config.caller = caller;
    let only_calls = !config.options.rows;
    // A store or an operation with a slip in its name has nothing to do: said, since that is no error. A store in trouble
    // is told by whoever asks it something.
    let nothing_open =
        form == LogForm::Text && !only_calls && has_open_batch(&store, &args.op).await.is_ok_and(|open| !open);
    let running = RunningWorker::on_store_with(store, liveness, handler, config)
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot start the worker").because(error))?;
    // Set once: nothing reads it before the first row.
    let _ = name.set(running.name().to_owned());
    if form == LogForm::Text {
        announce(running.name(), only_calls);
        if nothing_open {
            say!("{}", nothing_to_do(global, args));
        }
    }
    let left = wait_for_end(running, &mut signals, args, form).await?;
    match left {
        ExitReason::Stopped | ExitReason::Done => Ok(Exit::Done),
        ExitReason::NameInUse(name) => {
            Err(Failure::new(Exit::Unexpected, format!("the name {name:?} is in use by another worker that lives"))
                .help("give each worker a --name of its own, or none"))
        }
    }
}

fn announce(name: &str, only_calls: bool) {
    let pid = std::process::id();
    let what = if only_calls { "Waiting for batches to end" } else { "Processing rows" };
    say!("{}Instance ID: {name}\nPID:         {pid}\n", headline("Worker started"));
    say!("To simulate a crash, kill this process:\n  kill -9 {pid}\n\n{what}...");
    say!("-------------------------------------------------");
}

async fn has_open_batch(store: &impl Reads, operations: &[String]) -> Result<bool, StoreError> {
    let batches = store.batches().await?;
    Ok(batches.iter().any(|batch| batch.status == BatchStatus::Open && operations.contains(&batch.operation)))
}

fn nothing_to_do(global: &Global, args: &WorkerArgs) -> String {
    let plural = if args.op.len() > 1 { "s" } else { "" };
    let operations = args.op.join(", ");
    let at = store::url(global).map_or(String::new(), |url| format!(" in {url}"));
    let what = format!("no open batch of operation{plural} {operations}{at}");
    let list = format!("`fencepost list{}` shows all", store_option(global));
    if args.until_done { format!("Nothing to do: {what}; {list}.") } else { format!("Waiting: {what} yet; {list}.") }
}

/// The first signal asks the worker to leave (S1); the second leaves at once, which is a crash to the others.
async fn wait_for_end(
    running: RunningWorker,
    signals: &mut Signals,
    args: &WorkerArgs,
    form: LogForm,
) -> Result<ExitReason, Failure> {
    let limit = args.timing.grace.saturating_add(args.timing.patience);
    let stop = running.stopper();
    let mut leaving = std::pin::pin!(running.left());
    let mut left = tokio::select! {
        biased;
        left = &mut leaving => Some(left),
        () = signals.next() => None,
        () = stdin_ends(args.supervised) => None,
    };
    if left.is_none() {
        if form == LogForm::Text {
            say!("Leaving: running rows may finish, the others go back. Once more to leave at once.");
        }
        stop();
        left = tokio::select! {
            biased;
            left = &mut leaving => Some(left),
            () = signals.next() => None,
            () = tokio::time::sleep(limit) => return Err(not_left(limit)),
        };
    }
    match left {
        Some(left) => left.map_err(|error| Failure::from_error(Exit::Unexpected, error)),
        None => std::process::exit(i32::from(Exit::Interrupted as u8)),
    }
}

fn not_left(limit: Duration) -> Failure {
    Failure::new(
        Exit::Store,
        format!("the worker could not leave in order within {limit:?}: the store does not answer"),
    )
    .help("it leaves all the same; when its lease has run out, others take what it held")
}

/// Ends when stdin does, if asked to watch it: the parent that holds its other end is gone.
async fn stdin_ends(watch: bool) {
    if !watch {
        std::future::pending::<()>().await;
    }
    let mut rest = [0; 64];
    let mut stdin = tokio::io::stdin();
    while matches!(stdin.read(&mut rest).await, Ok(read) if read > 0) {}
}
