//! `fencepost run`: submit, work, wait, results in one; run again, it goes on where it stopped.

use std::path::Path;
use std::time::Duration;

use fencepost_core::{BatchId, WorkerOptions};
use tokio::sync::oneshot;

use self::patience::Patience;
use self::progress::Progress;
use self::supervisor::Supervisor;
use self::worker_command::WorkerCommand;
use super::args::{Global, RunArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::signals::Signals;
use super::worker::Prepared;
use super::{load, outlet, overview, redis, results, store, worker};
use crate::input::{ContentDigest, Input, InputOptions, content_digest};
use crate::liveness::RedisLiveness;
use crate::liveness::redis::url::RedisUrl;
use crate::report::BatchSummary;
use crate::say::say;
use crate::store::view::BatchView;
use crate::store::{AnyStore, Reads, StoreUrl};

mod identity;
mod patience;
mod progress;
mod supervisor;
mod worker_command;

/// How often progress is read while nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Workers have so much longer to leave than their rows have to end.
const LEAVING: Duration = Duration::from_secs(3);
/// How long a write of results may take to notice that it is to stop.
const DROPPING: Duration = Duration::from_millis(500);

pub async fn run(global: &Global, args: RunArgs) -> Result<Exit, Failure> {
    let checked = check(global, &args).await?;
    let store = store::open_or_create(global).await?;
    let batch = find_or_submit(global, &args, &checked, &store).await?;
    let mut signals = Signals::listen()?;
    let liveness = redis::liveness(checked.redis.clone(), store.store_id())?;
    let run = Run { global, args: &args, store: &store, liveness, checked: &checked, batch };
    if !run.summary().await?.has_ended()
        && let Some(interrupted) = run.work(&mut signals).await?
    {
        return Ok(interrupted);
    }
    run.finish(&mut signals).await
}

/// What was found out before the first row.
struct Checked {
    url: StoreUrl,
    redis: Option<RedisUrl>,
    input_options: InputOptions,
    content: ContentDigest,
}

/// Everything that can be wrong is found before anything is made.
async fn check(global: &Global, args: &RunArgs) -> Result<Checked, Failure> {
    let input_options = load::input_options(&args.input)?;
    worker::options(Vec::new(), args.work.concurrency(&args.handler), &args.work, &args.timing, true)?;
    let url = store::url(global)?;
    let redis = redis::url(&args.redis)?;
    check_rereadable(&args.file)?;
    outlet::check(&args.output, &url.files(), Some(&args.file))?;
    let handler = worker::prepare(&args.handler, &args.work).await?;
    check_columns(&handler, &args.file, &input_options)?;
    drop(handler);
    let content = content_digest(&args.file, &input_options)?;
    Ok(Checked { url, redis, input_options, content })
}

/// A run reads its input again when it is run again.
fn check_rereadable(file: &Path) -> Result<(), Failure> {
    let is_pipe = || std::fs::metadata(file).is_ok_and(|about| !about.is_file() && !about.is_dir());
    let what = match file {
        file if file.as_os_str() == "-" => "stdin".to_owned(),
        file if is_pipe() => format!("{}, which is no regular file", file.display()),
        _ => return Ok(()),
    };
    Err(Failure::new(Exit::Usage, format!("run cannot read {what}: it could not be run again after a crash"))
        .help("give a file, or use submit - and worker"))
}

/// A CSV's header tells whether the command's placeholders are columns.
fn check_columns(handler: &Prepared, file: &Path, options: &InputOptions) -> Result<(), Failure> {
    let Prepared::Command(handler) = handler else { return Ok(()) };
    let input = Input::open(file, options)?;
    let Some(columns) = input.columns() else { return Ok(()) };
    match handler.columns().into_iter().find(|name| !columns.iter().any(|column| column == name)) {
        None => Ok(()),
        Some(name) => {
            let has = columns.join(", ");
            let message = format!("the command names the column {{{name}}}, which {} does not have", input.name());
            Err(Failure::new(Exit::Usage, message)
                .help(format!("its columns are: {has}; {{{{{name}}}}} is plain text")))
        }
    }
}

async fn find_or_submit(
    global: &Global,
    args: &RunArgs,
    checked: &Checked,
    store: &AnyStore,
) -> Result<BatchId, Failure> {
    let key = identity::base_key(args, &checked.content);
    let (bound, known) = identity::latest(store, &key, args.again).await?;
    if let Some(view) = known {
        identity::check_same(&key, &view, &checked.content, args)?;
        return Ok(found_again(global, &view));
    }
    let input = Input::open(&args.file, &checked.input_options)?;
    let operation = identity::operation(&bound);
    let terms = load::Terms { operation: &operation, batch: &args.batch, key: Some(&bound), on_done_url: None };
    let loaded = load::file(global, store, input, &terms, |_| {}).await?;
    if !global.quiet {
        say!("Batch {}: {} rows from {}", loaded.batch, loaded.rows, args.file.display());
    }
    Ok(loaded.batch)
}

fn found_again(global: &Global, view: &BatchView) -> BatchId {
    if !global.quiet {
        match view.ended_at {
            Some(_) => say!("This was run before as batch {}: its results follow. --again starts over.", view.batch),
            None => say!("Going on with batch {} where it stopped.", view.batch),
        }
    }
    view.batch
}

/// A batch that is worked on.
struct Run<'a> {
    global: &'a Global,
    args: &'a RunArgs,
    store: &'a AnyStore,
    liveness: Option<RedisLiveness>,
    checked: &'a Checked,
    batch: BatchId,
}

impl Run<'_> {
    async fn view(&self) -> Result<BatchView, Failure> {
        self.store.batch(self.batch).await?.ok_or_else(|| self.purged())
    }

    async fn summary(&self) -> Result<BatchSummary, Failure> {
        overview::batch(self.store, self.batch).await?.ok_or_else(|| self.purged())
    }

    fn purged(&self) -> Failure {
        Failure::new(Exit::NotFound, format!("batch {} was purged meanwhile", self.batch))
    }

    /// Works until the batch has ended. `Some`: it was interrupted before. No worker is left in either case, nor after an
    /// error.
    async fn work(&self, signals: &mut Signals) -> Result<Option<Exit>, Failure> {
        let operation = self.view().await?.operation;
        let command = WorkerCommand::new(&self.checked.url, self.checked.redis.as_ref(), self.args, &operation)?;
        let mut supervisor =
            Supervisor::start(self.store, &self.liveness, command, self.args.workers, self.args.timing.timing());
        let mut progress = Progress::start(self.global.quiet);
        let ended = tokio::select! {
            biased;
            () = signals.next() => None,
            ended = self.watch(&mut supervisor, &mut progress) => Some(ended),
        };
        progress.end();
        if ended.is_none() {
            say!("Interrupted: running rows may finish. Once more to leave at once.");
        }
        let limit =
            self.args.timing.grace.saturating_add(WorkerOptions::default().cancel_grace).saturating_add(LEAVING);
        let signalled = supervisor.dismiss(signals, limit).await;
        match ended {
            Some(Err(failure)) => Err(failure),
            Some(Ok(())) if !signalled => Ok(None),
            _ => Ok(Some(self.interrupted())),
        }
    }

    /// Ends when the batch has: until then, workers that end are replaced.
    async fn watch(&self, supervisor: &mut Supervisor, progress: &mut Progress) -> Result<(), Failure> {
        let mut patience = Patience::new(self.args.timing.patience);
        loop {
            if let Some(now) = patience.bear(self.summary().await)? {
                progress.show(&now);
                if now.has_ended() {
                    return Ok(());
                }
                supervisor.fill()?;
            }
            tokio::select! {
                biased;
                event = supervisor.next() => event?,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn interrupted(&self) -> Exit {
        say!("Batch {} is kept: the same command goes on where this one stopped.", self.batch);
        Exit::Interrupted
    }

    /// Writes the results and tells how the batch ended.
    async fn finish(&self, signals: &mut Signals) -> Result<Exit, Failure> {
        let mut patience = Patience::new(self.args.timing.patience);
        let (view, now) = loop {
            let both = async { Ok((self.view().await?, self.summary().await?)) };
            match patience.bear(both.await)? {
                Some(both) => break both,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        if !self.write(view, signals).await? {
            return Ok(self.interrupted());
        }
        if !self.global.quiet {
            let (batch, counts) = (self.batch, now.counts);
            say!("Batch {batch}: {} success, {} failed, {} aborted", counts.success, counts.failed, counts.aborted);
            if counts.failed > 0 {
                let at = store_option(self.global);
                say!("Failed rows with their errors: fencepost results {batch}{at} --failed --format csv");
            }
        }
        Ok(match now.status {
            "success" => Exit::Done,
            "failed" => Exit::FailedRows,
            _ => Exit::Aborted,
        })
    }

    /// Whether the results were written; a signal stops it. They are written on a thread of their own, which may be stuck
    /// in a pipe that nobody reads.
    async fn write(&self, view: BatchView, signals: &mut Signals) -> Result<bool, Failure> {
        let (store, output, format) = (self.store.clone(), self.args.output.clone(), self.args.format);
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Handle::current();
        let mut writing = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                tokio::select! {
                    biased;
                    _ = stopped => Ok(()),
                    written = results::write(&store, &view, &output, format, false) => written,
                }
            })
        });
        tokio::select! {
            biased;
            () = signals.next() => {}
            written = &mut writing => {
                return match written {
                    Ok(written) => written.map(|()| true),
                    Err(error) => Err(Failure::new(Exit::Unexpected, "writing results crashed").because(error)),
                };
            }
        }
        drop(stop);
        // What was begun beside the output's place is removed, if it can be done in this time.
        let _ = tokio::time::timeout(DROPPING, writing).await;
        Ok(false)
    }
}
