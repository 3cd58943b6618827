//! `fencepost run`: submit, work, wait, results in one; run again, it goes on where it stopped.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use fencepost_core::BatchId;
use indicatif::{ProgressBar, ProgressStyle};

use self::supervisor::Supervisor;
use super::args::{Global, RunArgs};
use super::failure::{Exit, Failure};
use super::signals::Signals;
use super::{load, overview, results, store, worker};
use crate::input::{Input, InputOptions, content_digest};
use crate::report::BatchSummary;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::read::BatchView;

mod supervisor;

/// How often progress is read while nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Off a terminal, progress is one line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub async fn run(global: &Global, args: RunArgs) -> Result<Exit, Failure> {
    // Everything that can be wrong is found before the first row.
    let input_options = load::input_options(&args.input)?;
    worker::options(Vec::new(), args.work.concurrency(&args.handler), &args.work, &args.timing, true)?;
    drop(worker::prepare(&args.handler, &args.work).await?);
    let base_key = base_key(&args, &input_options)?;
    let store = store::open_or_create(global).await?;
    let path = store::path(global)?;
    let (key, known) = latest(&store, &base_key, args.again).await?;
    let batch = match known {
        Some(view) => found_again(global, view),
        None => submit(global, &args, &input_options, &store, &key).await?,
    };
    let mut exit = None;
    if !has_ended(&store, batch).await? {
        exit = work(global, &args, &store, &path, batch).await?;
    }
    match exit {
        Some(interrupted) => Ok(interrupted),
        None => finish(global, &args, &store, batch).await,
    }
}

/// The key of this run unless named: content, command, and the options that change results.
fn base_key(args: &RunArgs, input: &InputOptions) -> Result<String, Failure> {
    if let Some(key) = &args.key {
        return Ok(key.clone());
    }
    if args.file.as_os_str() == "-" {
        return Err(Failure::new(Exit::Usage, "run cannot read stdin: it could not be run again after a crash")
            .help("give a file, or use submit - and worker"));
    }
    let digest = content_digest(&args.file, input)?;
    let mut parts = vec![
        format!("sleep {:?}", args.handler.sleep),
        format!("attempts {}", args.batch.max_attempts),
        format!("crashes {}", args.batch.max_crashes),
        format!("timeout {:?}", args.batch.timeout),
        format!("result bytes {}", args.work.max_result_bytes),
    ];
    if args.handler.stream {
        parts.push(format!("stream line bytes {}", args.handler.max_line_bytes));
    }
    parts.extend(args.handler.command.iter().map(|part| format!("arg {part}")));
    Ok(digest.key(parts))
}

/// The latest batch under the key, or with `--again` the key of a new one. Each `--again` gets a number of its own, so
/// that it too is gone on with after a crash.
async fn latest(store: &SqliteStore, base: &str, again: bool) -> Result<(String, Option<BatchView>), Failure> {
    let (mut key, mut latest) = (base.to_owned(), store.batch_of_key(base).await?);
    for number in 2.. {
        if latest.is_none() {
            break;
        }
        let next_key = format!("{base}~{number}");
        match store.batch_of_key(&next_key).await? {
            Some(next) => (key, latest) = (next_key, Some(next)),
            None if again => return Ok((next_key, None)),
            None => break,
        }
    }
    Ok((key, latest))
}

fn found_again(global: &Global, view: BatchView) -> BatchId {
    if !global.quiet {
        match view.ended_at {
            Some(_) => eprintln!(
                "This was run before as batch {}: its results follow. --again starts over.",
                view.batch
            ),
            None => eprintln!("Going on with batch {} where it stopped.", view.batch),
        }
    }
    view.batch
}

async fn submit(
    global: &Global,
    args: &RunArgs,
    options: &InputOptions,
    store: &SqliteStore,
    key: &str,
) -> Result<BatchId, Failure> {
    let input = Input::open(&args.file, options)?;
    let operation = operation(key);
    let loaded = load::file(store, input, &operation, &args.batch, Some(key), |_| {}).await?;
    if !global.quiet {
        eprintln!("Batch {}: {} rows from {}", loaded.batch, loaded.rows, args.file.display());
    }
    Ok(loaded.batch)
}

/// A run's operation is its own: no other worker takes its rows.
fn operation(key: &str) -> String {
    format!("run:{key}")
}

async fn has_ended(store: &SqliteStore, batch: BatchId) -> Result<bool, Failure> {
    Ok(summary(store, batch).await?.has_ended())
}

async fn summary(store: &SqliteStore, batch: BatchId) -> Result<BatchSummary, Failure> {
    overview::batch(store, batch)
        .await?
        .ok_or_else(|| Failure::new(Exit::NotFound, format!("batch {batch} was purged meanwhile")))
}

/// Works until the batch has ended. `Some`: it was interrupted before.
async fn work(
    global: &Global,
    args: &RunArgs,
    store: &SqliteStore,
    path: &Path,
    batch: BatchId,
) -> Result<Option<Exit>, Failure> {
    let view = store.batch(batch).await?;
    let operation = view.map(|view| view.operation).unwrap_or_default();
    let mut signals = Signals::listen()?;
    let mut supervisor = Supervisor::start(store, path, args, &operation)?;
    let mut progress = Progress::start(global.quiet);
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                progress.end();
                return interrupted(supervisor, &mut signals, batch).await.map(Some);
            }
            event = supervisor.next() => event?,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = summary(store, batch).await?;
        progress.show(&now);
        if now.has_ended() {
            progress.end();
            supervisor.stop();
            supervisor.all_left().await;
            return Ok(None);
        }
    }
}

async fn interrupted(mut supervisor: Supervisor, signals: &mut Signals, batch: BatchId) -> Result<Exit, Failure> {
    eprintln!("Interrupted: running rows may finish. Once more to leave at once.");
    supervisor.stop();
    tokio::select! {
        biased;
        () = supervisor.all_left() => {}
        () = signals.next() => supervisor.kill(),
    }
    eprintln!("Batch {batch} is kept: the same command goes on where this one stopped.");
    Ok(Exit::Interrupted)
}

async fn finish(global: &Global, args: &RunArgs, store: &SqliteStore, batch: BatchId) -> Result<Exit, Failure> {
    let now = summary(store, batch).await?;
    if let Some(view) = store.batch(batch).await? {
        results::write(store, &view, &args.output, args.format, false).await?;
    }
    if !global.quiet {
        let counts = now.counts;
        eprintln!("Batch {batch}: {} success, {} failed, {} aborted", counts.success, counts.failed, counts.aborted);
        if counts.failed > 0 {
            eprintln!("Failed rows with their errors: fencepost results {batch} --failed --format csv");
        }
    }
    Ok(match now.status {
        "success" => Exit::Done,
        "failed" => Exit::FailedRows,
        _ => Exit::Aborted,
    })
}

/// A bar on a terminal, a line now and then elsewhere, nothing when quiet.
enum Progress {
    Quiet,
    Bar(ProgressBar),
    Lines { next: std::time::Instant },
}

impl Progress {
    fn start(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { next: std::time::Instant::now() + LINE_EVERY };
        }
        let bar = ProgressBar::new(0);
        let template = "{wide_bar} {pos}/{len} rows, {msg}, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    fn show(&mut self, now: &BatchSummary) {
        let (ended, failed) = (now.counts.ended(), now.counts.failed);
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_length(now.rows);
                bar.set_message(format!("{failed} failed"));
                bar.set_position(ended);
            }
            Self::Lines { next } => {
                if std::time::Instant::now() >= *next {
                    eprintln!("{ended} of {} rows, {failed} failed", now.rows);
                    *next += LINE_EVERY;
                }
            }
        }
    }

    fn end(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
