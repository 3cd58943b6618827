//! `fencepost demo`: workers that are killed and paused, and a ledger that shows what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use fencepost_core::BatchId;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::args::{BatchArgs, DemoArgs, Global};
use super::failure::{Exit, Failure};
use super::handover::handover;
use super::{load, overview, redis};
use crate::handler::guard;
use crate::report::BatchSummary;
use crate::store::sqlite::SqliteStore;
use crate::store::{OpenMode, Reads, StoreUrl};

/// Rows of the demo.
const ROWS: u64 = 24;
/// The workers' ttl: short, so that a silent one is found out while one watches.
const TTL: &str = "2s";
/// What runs a row: it notes the run in the ledger, takes half a second, and says under which token it ran.
const SCRIPT: &str = "echo \"$FENCEPOST_LINE $FENCEPOST_TOKEN\" >>\"$LEDGER\"; sleep 0.5; echo \"$FENCEPOST_TOKEN\"";
/// The ledger's name in the demo's folder.
const LEDGER: &str = "ledger";
/// Nothing in the demo takes longer.
const LIMIT: Duration = Duration::from_secs(50);

/// As `anstream::println!`, without its panic: nobody needs to watch to the end.
macro_rules! show {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut anstream::stdout(), format_args!("{}\n", format_args!($($text)*)));
    }};
}

pub async fn demo(global: &Global, args: DemoArgs) -> Result<Exit, Failure> {
    let redis = redis::url(&args.redis)?;
    // Read now, so that a file of certificates that is missing is told once.
    redis::liveness(redis.clone(), "")?;
    let place = Place::new()?;
    let store = SqliteStore::open(place.path("store.db"), OpenMode::Create)
        .await
        .map_err(|error| Failure::from_error(Exit::Store, error))?;
    let args = BatchArgs { max_attempts: 3, max_crashes: 3, timeout: Duration::from_secs(3600), priority: 0 };
    let terms = load::Terms { operation: "demo", batch: &args, key: None, on_done_url: None };
    let batch = load::numbered(global, &store, ROWS, &terms, |_| {}).await?.batch;
    let names = handover(&StoreUrl::Sqlite(place.path("store.db")), redis.as_ref());
    let mut stage = Stage::new(&place, store, &names, batch).await?;
    stage.say(&format!("{ROWS} rows submitted as batch {batch}. Three workers, ttl {TTL}, half a second per row."));
    let acted = tokio::time::timeout(LIMIT, stage.act()).await;
    let acted = acted.unwrap_or_else(|_| Err(Failure::new(Exit::Unexpected, format!("the demo took over {LIMIT:?}"))));
    stage.end().await;
    acted?;
    let proved = prove(&place, &stage.store, batch).await?;
    if !global.quiet {
        show!("\nTry it on a file of yours: fencepost run FILE.csv -- your-command '{{column}}'");
    }
    Ok(proved)
}

/// A folder that goes with the demo.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self, Failure> {
        let random = BatchId::from_random(rand::random());
        let dir = std::env::temp_dir().join(format!("fencepost-demo-{random}"));
        std::fs::create_dir(&dir).map_err(|error| {
            Failure::new(Exit::Unexpected, format!("cannot make a folder {}", dir.display())).because(error)
        })?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A folder that stays in the temporary folder is no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One of the workers.
struct Actor {
    letter: char,
    style: Style,
    child: Child,
    pid: i32,
    /// Rows that it runs now, each with its token.
    running: Vec<(u64, u64)>,
}

/// What a worker reported: its place among the actors, and the event.
type Heard = (usize, Value);

struct Stage {
    store: SqliteStore,
    batch: BatchId,
    actors: Vec<Actor>,
    heard: mpsc::UnboundedReceiver<Heard>,
    ledger: PathBuf,
    began: Instant,
}

impl Stage {
    async fn new(place: &Place, store: SqliteStore, names: &[u8], batch: BatchId) -> Result<Self, Failure> {
        let (tell, heard) = mpsc::unbounded_channel();
        let colours = [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Magenta];
        let mut actors = Vec::new();
        for (at, (letter, colour)) in ('A'..).zip(colours).enumerate() {
            let mut child = start_worker(place, letter)?;
            if let Some(stdin) = &mut child.stdin {
                // One that cannot be told has ended, which the demo sees.
                let _ = stdin.write_all(names).await;
            }
            if let Some(stderr) = child.stderr.take() {
                tokio::spawn(listen(at, stderr, tell.clone()));
            }
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
            actors.push(Actor { letter, style: colour.on_default(), child, pid, running: Vec::new() });
        }
        Ok(Self { store, batch, actors, heard, ledger: place.path(LEDGER), began: Instant::now() })
    }

    /// Kills A in mid-row, stops B past its ttl, lets C find out, wakes B, waits for the end.
    async fn act(&mut self) -> Result<(), Failure> {
        self.until(|stage, _| stage.actors[0].running.len() == 2).await?;
        self.kill_first();
        self.until(|_, heard| is_recovery_of("worker-A", heard)).await?;
        self.until(|stage, _| stage.actors[1].running.len() == 2).await?;
        self.until_commands_run(1).await?;
        self.stop_second().await?;
        self.until(|_, heard| is_recovery_of("worker-B", heard)).await?;
        self.wake_second();
        self.until(|_, (at, event)| *at == 1 && event["event"] == "fenced").await?;
        while !self.summary().await?.has_ended() {
            // Reports keep coming meanwhile; the last one is followed by the end.
            let _ = tokio::time::timeout(Duration::from_millis(50), self.hear()).await;
        }
        Ok(())
    }

    fn kill_first(&mut self) {
        let rows = rows_text(&self.actors[0].running);
        self.say(&format!("kill -9 worker A, in the middle of rows {rows}"));
        self.signal(0, Signal::SIGKILL);
    }

    /// A row is reported as started just before its command is; a worker that stops in between has no late answer to offer.
    async fn until_commands_run(&self, at: usize) -> Result<(), Failure> {
        let until = Instant::now() + LIMIT;
        loop {
            let ledger = std::fs::read_to_string(&self.ledger).unwrap_or_default();
            let has = |(line, token): &(u64, u64)| ledger.lines().any(|entry| entry == format!("{line} {token}"));
            if self.actors[at].running.iter().all(has) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Failure::new(Exit::Unexpected, "the commands of the demo's workers do not start"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops B while nobody writes: stopped inside a write, it would keep all others from writing (T2).
    async fn stop_second(&mut self) -> Result<(), Failure> {
        let rows = rows_text(&self.actors[1].running);
        self.say(&format!("pause worker B (SIGSTOP), in the middle of rows {rows}, for longer than its ttl"));
        let failed = |error| Failure::new(Exit::Store, "cannot wait for the end of a write").because(error);
        let options = SqliteConnectOptions::new().filename(self.store.path()).busy_timeout(LIMIT);
        let mut lock = SqliteConnection::connect_with(&options).await.map_err(failed)?;
        sqlx::raw_sql("begin immediate").execute(&mut lock).await.map_err(failed)?;
        self.signal(1, Signal::SIGSTOP);
        // It stands still before the lock is free again.
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let _ = waitid(Id::Pid(Pid::from_raw(self.actors[1].pid)), stopped);
        lock.close().await.map_err(failed)
    }

    fn wake_second(&mut self) {
        self.say("worker B goes on (SIGCONT), believes that it still has its rows, and offers what it has");
        self.signal(1, Signal::SIGCONT);
    }

    fn signal(&self, at: usize, signal: Signal) {
        // It is a child that was not waited for: the pid is still its own.
        let _ = kill(Pid::from_raw(self.actors[at].pid), signal);
    }

    /// Hears reports until one fits.
    async fn until(&mut self, fits: impl Fn(&Self, &Heard) -> bool) -> Result<(), Failure> {
        loop {
            let Some(heard) = self.hear().await else {
                return Err(Failure::new(Exit::Unexpected, "all workers of the demo ended before its end"));
            };
            if fits(self, &heard) {
                return Ok(());
            }
        }
    }

    async fn hear(&mut self) -> Option<Heard> {
        let (at, event) = self.heard.recv().await?;
        let line = event["line"].as_u64().unwrap_or(0);
        let running = &mut self.actors[at].running;
        match event["event"].as_str() {
            Some("started") => running.push((line, event["token"].as_u64().unwrap_or(0))),
            Some("success" | "failed" | "retry" | "fenced") => running.retain(|(other, _)| *other != line),
            _ => {}
        }
        if let Some(text) = told(&event) {
            let Actor { letter, style, .. } = &self.actors[at];
            let seconds = self.began.elapsed().as_secs_f64();
            show!("[{seconds:5.1} s] {style}{letter}{style:#}  {text}");
        }
        Some((at, event))
    }

    fn say(&self, text: &str) {
        let bold = Style::new().bold();
        let seconds = self.began.elapsed().as_secs_f64();
        show!("[{seconds:5.1} s] {bold}>> {text}{bold:#}");
    }

    async fn summary(&self) -> Result<BatchSummary, Failure> {
        overview::batch(&self.store, self.batch)
            .await?
            .ok_or_else(|| Failure::new(Exit::Unexpected, "the demo's batch is gone"))
    }

    async fn end(&mut self) {
        for at in 0..self.actors.len() {
            self.signal(at, Signal::SIGCONT);
            self.signal(at, Signal::SIGTERM);
        }
        for actor in &mut self.actors {
            let left = tokio::time::timeout(Duration::from_secs(5), actor.child.wait()).await;
            if left.is_err() {
                // It is only a demo's worker; the guard takes its commands along.
                let _ = actor.child.kill().await;
            }
        }
    }
}

fn start_worker(place: &Place, letter: char) -> Result<Child, Failure> {
    let program = guard::own_program()
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot find this program's own file").because(error))?;
    Command::new(program)
        .args([
            "worker",
            "--only-flags",
            "--op",
            "demo",
            "--log",
            "json",
            "--concurrency",
            "2",
            "--ttl",
            TTL,
            "--supervised",
        ])
        .args(["--name", &format!("worker-{letter}"), "--", "sh", "-c", SCRIPT])
        .env("LEDGER", place.path(LEDGER))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot start a worker process").because(error))
}

async fn listen(at: usize, stderr: tokio::process::ChildStderr, tell: mpsc::UnboundedSender<Heard>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(event) = serde_json::from_str(&line)
            && tell.send((at, event)).is_err()
        {
            return;
        }
    }
}

/// Where the reply to a recovery was lost nobody tells of it; the rows that come back do.
fn is_recovery_of(worker: &str, (_, event): &Heard) -> bool {
    let recovered = event["event"] == "recovered" && event["from"] == worker;
    recovered || event["recovered_from"] == worker
}

fn told(event: &Value) -> Option<String> {
    let (line, token) = (&event["line"], &event["token"]);
    let text = match event["event"].as_str()? {
        "started" => match event["recovered_from"].as_str() {
            Some(from) => format!("row {line:>2} started under token {token}  <-- recovered from {from}"),
            None => format!("row {line:>2} started under token {token}"),
        },
        "success" => format!("row {line:>2} recorded"),
        "fenced" => format!("row {line:>2} FENCED: token {token} is out of date, the late answer was dropped"),
        "recovered" => format!(
            "declared {} dead ({}): {} rows came back",
            event["from"].as_str()?,
            event["cause"].as_str()?,
            event["lines"]
        ),
        "lease_ended" => "learns that it was declared dead, takes a new lease".to_owned(),
        "lapsed" => "its licence has run out: it starts nothing more".to_owned(),
        _ => return None,
    };
    Some(text)
}

fn rows_text(rows: &[(u64, u64)]) -> String {
    rows.iter().map(|(line, _)| line.to_string()).collect::<Vec<_>>().join(" and ")
}

/// Compares the ledger of runs with the outcomes.
async fn prove(place: &Place, store: &SqliteStore, batch: BatchId) -> Result<Exit, Failure> {
    let runs = ledger(&place.path(LEDGER))?;
    let page = store.rows(batch, None, 0, u32::try_from(ROWS).unwrap_or(u32::MAX)).await?;
    let mut wrong = Vec::new();
    let (mut recorded, mut repeated) = (0, Vec::new());
    for row in &page.rows {
        let tokens = runs.get(&row.line).cloned().unwrap_or_default();
        let outcome = row.outcome.as_ref().filter(|outcome| outcome.success);
        let newest = tokens.iter().max().copied();
        match outcome {
            // The result is the token of the run that it came from.
            Some(outcome)
                if newest == Some(outcome.token.0) && outcome.result.as_deref() == Some(&outcome.token.to_string()) =>
            {
                recorded += 1;
            }
            _ => wrong.push(row.line),
        }
        if tokens.len() > 1 {
            repeated.push(format!("row {} under tokens {tokens:?}", row.line));
        }
    }
    let all_runs: usize = runs.values().map(Vec::len).sum();
    let fenced = overview::batch(store, batch).await?.map_or(0, |summary| summary.fenced);
    show!("\nThe handlers' own ledger has {all_runs} runs of {} rows.", runs.len());
    show!(
        "Run more than once, since a worker died or was silent (a run killed at its very start may not be in the ledger): {}",
        repeated.join(", ")
    );
    show!("Late answers dropped by the fence: {fenced}");
    if wrong.is_empty() && recorded == ROWS && runs.len() as u64 == ROWS {
        let green = AnsiColor::Green.on_default().bold();
        show!("{green}{ROWS} rows, {recorded} outcomes: none lost, none twice, each from the newest run.{green:#}");
        Ok(Exit::Done)
    } else {
        Err(Failure::new(Exit::Unexpected, format!("rows {wrong:?} do not agree with the ledger: a bug in fencepost")))
    }
}

/// The tokens of each row's runs.
fn ledger(path: &Path) -> Result<BTreeMap<u64, Vec<u64>>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Unexpected, "cannot read the demo's ledger").because(error))?;
    let mut runs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (line, token) in text.lines().filter_map(|entry| entry.split_once(' ')) {
        if let (Ok(line), Ok(token)) = (line.parse(), token.parse()) {
            runs.entry(line).or_default().push(token);
        }
    }
    Ok(runs)
}
