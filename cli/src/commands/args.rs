//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fencepost_core::Timing;

use super::values::{age, allowed_url, duration, duration_from_1ms, name, on_done_url, submitted_name, wait_timeout};

/// Process a batch of rows with any number of workers: every row gets exactly one recorded outcome.
#[derive(Debug, Parser)]
#[command(name = "fencepost", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, every row succeeded; 1 unexpected; 2 usage; 3 finished with failed rows; 4 no such batch or row;
5 aborted; 6 wait timed out; 7 store unreachable, or doctor found a problem; 8 input unreadable or changed;
9 verify found the store's records wrong; 130 interrupted.

Options are taken from the command line, else from FENCEPOST_* variables, else from ./fencepost.toml (or --config) or
$XDG_CONFIG_HOME/fencepost/config.toml, else the defaults shown.";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where rows and outcomes are kept: a path (SQLite) or postgres://USER@HOST/DATABASE [default: $XDG_STATE_HOME/fencepost/fencepost.db]
    #[arg(long, global = true, env = "FENCEPOST_STORE", hide_env_values = true, value_name = "STORE")]
    pub store: Option<String>,
    /// Whether it was typed: what file and environment say they say to the next command, too
    #[arg(skip)]
    pub store_is_typed: bool,
    /// A configuration file instead of ./fencepost.toml
    #[arg(long, global = true, env = "FENCEPOST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Less on stderr: no progress, no hints
    #[arg(long, short, global = true, env = "FENCEPOST_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,
    /// Neither a configuration file nor the environment says anything: for processes that fencepost itself starts
    #[arg(long, global = true, hide = true)]
    pub only_flags: bool,
}

/// The second witness.
#[derive(Debug, Clone, Default, Args)]
pub struct RedisArgs {
    /// A Redis that workers show by that they live: redis://HOST, rediss:// (TLS; ?ca=FILE), redis+unix:///PATH,
    /// redis://HOST,HOST?sentinel=NAME, redis://HOST,HOST?cluster=true. Work goes on without it when it is away
    #[arg(long, env = "FENCEPOST_REDIS", hide_env_values = true, value_name = "URL")]
    pub redis: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit a file, work on it, wait, and give the results: all in one, and to be run again after a crash
    Run(RunArgs),
    /// Store a batch of rows for workers
    Submit(SubmitArgs),
    /// Work on batches
    Worker(WorkerArgs),
    /// Show batches, workers, and what a dead worker held
    Status(StatusArgs),
    /// List batches
    List(ListArgs),
    /// List a batch's rows, or tell one row's whole story
    Rows(RowsArgs),
    /// Write a batch's results in input order
    Results(ResultsArgs),
    /// Wait until a batch has ended
    Wait(WaitArgs),
    /// List workers
    Workers(WorkersArgs),
    /// Prove that a batch's rows are all there, each recorded once: check the store's records against each other; changes nothing
    Verify(VerifyArgs),
    /// Say why work does not go on, or what a store and a Redis lack for production; looks, and changes nothing
    Doctor(DoctorArgs),
    /// Remove batches that ended long ago, with their rows and outcomes, for good
    Purge(PurgeArgs),
    /// Stop claims of a batch; rows that run go on
    Hold(HoldArgs),
    /// Allow claims of a held batch again
    Resume(HoldArgs),
    /// Add rows to an open batch, all of them or none
    Append(AppendArgs),
    /// End a batch for good: its rows without an outcome are aborted
    Abort(AbortArgs),
    /// Have rows that have an outcome run again; their old outcomes stay in their stories
    Retry(RetryArgs),
    /// Show what a batch's failed rows died of, by kind of error
    Errors(ErrorsArgs),
    /// Bring a store's tables up to this program's version
    Migrate(MigrateArgs),
    /// Print a script that completes fencepost's command lines in a shell
    Completions(CompletionsArgs),
    /// Print the manual page of fencepost, or of one of its commands
    Man(ManArgs),
    /// See it for yourself: workers are killed and paused, no row is lost or recorded twice; under a minute
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub redis: RedisArgs,
}

/// How rows are tried; stored with the batch.
#[derive(Debug, Clone, Args)]
pub struct BatchArgs {
    /// How often a row is tried before it fails
    #[arg(long, env = "FENCEPOST_MAX_ATTEMPTS", default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_attempts: u32,
    /// How often a row may kill its worker, running alone, before it fails
    #[arg(long, env = "FENCEPOST_MAX_CRASHES", default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_crashes: u32,
    /// How long a row may run before it is cancelled, which is an attempt
    #[arg(long, env = "FENCEPOST_TIMEOUT", default_value = "1h", value_parser = duration_from_1ms, value_name = "DURATION")]
    pub timeout: Duration,
    /// Batches of higher priority are claimed first
    #[arg(long, env = "FENCEPOST_PRIORITY", default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    pub priority: i32,
}

/// How an input file is read.
#[derive(Debug, Clone, Args)]
pub struct InputArgs {
    /// The input's format [default: by its name, else by its first line]
    #[arg(long, env = "FENCEPOST_INPUT_FORMAT", value_name = "FORMAT")]
    pub input_format: Option<FileFormat>,
    /// The character between CSV fields [default: comma, or tab for .tsv]
    #[arg(long, env = "FENCEPOST_DELIMITER", value_name = "CHAR")]
    pub delimiter: Option<String>,
    /// A row of more bytes is refused
    #[arg(long, env = "FENCEPOST_MAX_ROW_BYTES", default_value_t = 16 << 20, value_name = "BYTES")]
    pub max_row_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    Csv,
    Tsv,
    Jsonl,
}

/// A worker's lease and watch.
#[derive(Debug, Clone, Args)]
pub struct TimingArgs {
    /// A worker that is silent for so long is taken for dead
    #[arg(long, env = "FENCEPOST_TTL", default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub ttl: Duration,
    /// How often a worker shows that it lives [default: half the ttl]
    #[arg(long, env = "FENCEPOST_RENEW", value_parser = duration_from_1ms, value_name = "DURATION")]
    pub renew: Option<Duration>,
    /// How often, at least, a worker looks for dead ones [default: the ttl]
    #[arg(long, env = "FENCEPOST_SCAN", value_parser = duration_from_1ms, value_name = "DURATION")]
    pub scan: Option<Duration>,
    /// How long running rows may go on after SIGTERM or Ctrl-C
    #[arg(long, env = "FENCEPOST_GRACE", default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub grace: Duration,
    /// How long a run, or a worker that is leaving, waits for a store that does not answer
    #[arg(long, env = "FENCEPOST_PATIENCE", default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub patience: Duration,
}

impl TimingArgs {
    /// The timings, with what was left out.
    pub fn timing(&self) -> Timing {
        let from_ttl = Timing::from_ttl(self.ttl);
        Timing { renew: self.renew.unwrap_or(from_ttl.renew), scan: self.scan.unwrap_or(from_ttl.scan), ..from_ttl }
    }
}

/// How much a worker does at once.
#[derive(Debug, Clone, Args)]
pub struct WorkArgs {
    /// How many rows a worker runs at once [default: 1; with --stream, --window times --stream-children]
    #[arg(long, env = "FENCEPOST_CONCURRENCY", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    pub concurrency: Option<u32>,
    /// A worker holds as many rows as it expects to start within this time
    #[arg(long, env = "FENCEPOST_HORIZON", default_value = "1s", value_parser = duration, value_name = "DURATION")]
    pub horizon: Duration,
    /// A result of more bytes fails its row
    #[arg(long, env = "FENCEPOST_MAX_RESULT_BYTES", default_value_t = 1 << 20, value_name = "BYTES")]
    pub max_result_bytes: usize,
}

const CONCURRENCY_MAX: i64 = 100_000;

impl WorkArgs {
    /// How many rows a worker runs at once: as many as its handler has room for, unless said.
    pub fn concurrency(&self, handler: &HandlerArgs) -> u32 {
        let room = if handler.stream { handler.window.saturating_mul(handler.stream_children) } else { 1 };
        self.concurrency.unwrap_or(room.min(CONCURRENCY_MAX as u32))
    }
}

/// S7: the completion calls that a worker makes.
#[derive(Debug, Clone, Args)]
pub struct CallArgs {
    /// When a batch of these operations has ended (success, failed or aborted), run this command, at least once: one JSON
    /// object on stdin, exit code 0 is delivered, any other is tried again later, without end. Without a value the command
    /// after -- is meant, and the worker runs no rows: --on-done -- CMD; with one (--on-done='CMD ARG') it does both
    #[arg(long, value_name = "CMD", num_args = 0..=1, require_equals = true)]
    pub on_done: Option<Option<String>>,
    /// Make the calls of batches whose --on-done-url lies under this one: same scheme, host and port, path below this one.
    /// May be given several times. Without a command after -- the worker runs no rows
    #[arg(long, env = "FENCEPOST_ALLOW_URL", value_name = "PREFIX", value_parser = allowed_url)]
    pub allow_url: Vec<String>,
    /// How long a completion call may take before it is cancelled, to be made again later
    #[arg(long, env = "FENCEPOST_ON_DONE_TIMEOUT", default_value = "5m", value_parser = duration_from_1ms, value_name = "DURATION")]
    pub on_done_timeout: Duration,
}

/// What runs a row.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct HandlerArgs {
    /// Instead of a command: let each row take so long and succeed
    #[arg(long, value_parser = duration, value_name = "DURATION", conflicts_with = "command")]
    pub sleep: Option<Duration>,
    /// The command is started once and gets all rows: one JSON object {"batch","line","attempt","token","key","input"} per
    /// line on stdin; it answers each with {"line","token","status","result"} on stdout, in any order, where status is
    /// "success", or "failed" or "retry" with an "error" instead of a result
    #[arg(long, requires = "command")]
    pub stream: bool,
    /// With --stream: how many such commands a worker runs at once
    #[arg(long, env = "FENCEPOST_STREAM_CHILDREN", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub stream_children: u32,
    /// With --stream: how many rows a command has at most without having answered them
    #[arg(long, env = "FENCEPOST_WINDOW", default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    pub window: u32,
    /// With --stream: a command that writes a line of more bytes is killed
    #[arg(long, env = "FENCEPOST_MAX_LINE_BYTES", default_value_t = 16 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_line_bytes: u32,
    /// The command for each row: its JSON on stdin, {column} replaced by that column's value (inside sh -c text that would be code: use sh -c 'echo "$1"' sh '{column}'); stdout is the result. Exit
    /// code 0 is success, 75 try again, 65 failed for good, any other try again up to --max-attempts
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// CSV or JSONL, also .gz
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How many worker processes
    #[arg(long, env = "FENCEPOST_WORKERS", default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub workers: u32,
    /// Where the results go; - is stdout
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    pub output: PathBuf,
    /// The results' format [default: by the name of the output, csv or tsv; else jsonl, also for .json]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FileFormat>,
    /// What makes a repeat the same run [default: hash of the content, the command and the options that change results]
    #[arg(long, value_name = "KEY", value_parser = name)]
    pub key: Option<String>,
    /// Start over although this was run before
    #[arg(long)]
    pub again: bool,
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub timing: TimingArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub handler: HandlerArgs,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// CSV or JSONL, also .gz; - is stdin
    #[arg(value_name = "FILE", required_unless_present = "rows")]
    pub file: Option<PathBuf>,
    /// Instead of a file: so many rows {"n":1}, {"n":2}, ...
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub rows: Option<u64>,
    /// A repeat under the same key adds nothing; other content under it is refused
    #[arg(long, env = "FENCEPOST_KEY", value_name = "KEY", value_parser = submitted_name)]
    pub key: Option<String>,
    /// The operation: which workers take the rows
    #[arg(long, env = "FENCEPOST_OP", default_value = "default", value_name = "NAME", value_parser = submitted_name)]
    pub op: String,
    /// When the batch has ended, POST its counts as JSON there: by a worker of this operation that has this URL under its
    /// --allow-url, at least once. A repeat under the same --key changes nothing
    #[arg(long, env = "FENCEPOST_ON_DONE_URL", value_name = "URL", value_parser = on_done_url)]
    pub on_done_url: Option<String>,
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub batch: BatchArgs,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The operation to work on; may be given several times
    #[arg(long, env = "FENCEPOST_OP", default_value = "default", value_name = "NAME", value_parser = name)]
    pub op: Vec<String>,
    /// A stable name: a worker that starts under it takes over what its predecessor held
    #[arg(long, env = "FENCEPOST_NAME", value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Leave when no batch of these operations has open rows
    #[arg(long)]
    pub until_done: bool,
    /// What is printed for each row
    #[arg(long, env = "FENCEPOST_LOG", default_value = "text", value_name = "FORM")]
    pub log: LogForm,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub timing: TimingArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub calls: CallArgs,
    #[command(flatten)]
    pub handler: HandlerArgs,
    /// A worker of a run: is told its store and Redis through stdin, makes no store, leaves when stdin ends, since the run is gone then
    #[arg(long, hide = true)]
    pub supervised: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// A line for people at each row's start and end
    Text,
    /// One JSON object per event
    Json,
    /// Only what goes wrong
    Quiet,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// A batch's id, or an unambiguous beginning of it [default: all open batches, else the newest]
    pub batch: Option<String>,
    /// Show it again and again until the batch has ended
    #[arg(long, short)]
    pub watch: bool,
    /// JSON instead of text; with --watch one object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub redis: RedisArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// So many rows make a page unless told.
pub const ROWS_PER_PAGE: u64 = 100;

#[derive(Debug, Args)]
pub struct RowsArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// Only rows of this status
    #[arg(long, value_name = "STATUS")]
    pub status: Option<RowStatusArg>,
    /// One row's whole story
    #[arg(long, value_name = "N", conflicts_with = "status", value_parser = clap::value_parser!(u64).range(1..))]
    pub line: Option<u64>,
    /// At most so many rows
    #[arg(long, default_value_t = ROWS_PER_PAGE, value_name = "N")]
    pub limit: u64,
    /// Only rows behind this line
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub after: u64,
    /// JSON lines instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowStatusArg {
    Queued,
    Inprog,
    Success,
    Failed,
    Aborted,
}

#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// Where they go; - is stdout
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    pub output: PathBuf,
    /// Their format [default: by the name of the output, csv or tsv; else jsonl, also for .json]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FileFormat>,
    /// Only failed rows; as CSV with the input's columns and the error, to be mended and submitted again
    #[arg(long)]
    pub failed: bool,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// Give up after so long
    #[arg(long, value_parser = wait_timeout, value_name = "DURATION")]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct WorkersArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Of `hold` and of `resume`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AppendArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// CSV with the batch's columns, or JSONL, also .gz; - is stdin
    #[arg(value_name = "FILE", required_unless_present = "rows")]
    pub file: Option<PathBuf>,
    /// Instead of a file: so many rows {"n":1}, {"n":2}, ...
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub rows: Option<u64>,
    /// A repeat under the same key adds nothing; other rows under it are refused. Of this batch alone
    #[arg(long, value_name = "KEY", value_parser = name)]
    pub key: Option<String>,
    #[command(flatten)]
    pub input: InputArgs,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AbortArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// Return once no row of it runs any more
    #[arg(long)]
    pub wait: bool,
    /// Do not ask whether to go on
    #[arg(long, short)]
    pub yes: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// All failed rows, which is what is done unless told otherwise
    #[arg(long, conflicts_with_all = ["line", "error_like"])]
    pub failed: bool,
    /// This row, failed or succeeded
    #[arg(long, value_name = "N", conflicts_with = "error_like", value_parser = clap::value_parser!(u64).range(1..))]
    pub line: Option<u64>,
    /// The rows that failed with an error that contains this text, as it is
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub error_like: Option<String>,
    /// Do not ask whether to go on
    #[arg(long, short)]
    pub yes: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ErrorsArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all is as it should be, 9 something is not: it is named.")]
pub struct VerifyArgs {
    /// The batch's id, or an unambiguous beginning of it
    pub batch: String,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 no problem (there may be advice), 7 a problem, of the store or of Redis.")]
pub struct DoctorArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub redis: RedisArgs,
}

#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Batches that ended longer ago than this, by the store's clock
    #[arg(long, env = "FENCEPOST_OLDER_THAN", value_parser = age, value_name = "DURATION")]
    pub older_than: Duration,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Remove it without being asked
    #[arg(long, short)]
    pub yes: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command, such as run [default: fencepost as a whole]
    pub command: Option<String>,
}
