//! Reading an input into the store, in slices and constant memory.

use fencepost_core::BatchId;

use super::args::{BatchArgs, FileFormat, InputArgs};
use super::failure::{Exit, Failure};
use crate::input::{Digest, Input, InputError, InputFormat, InputOptions};
use crate::store::sqlite::load::{SLICE_BYTES, SLICE_ROWS};
use crate::store::sqlite::{BatchSpec, LoadEnd, Loaded, SqliteStore};

/// What a load came to.
pub struct Load {
    /// The batch with these rows.
    pub batch: BatchId,
    /// How many rows.
    pub rows: u64,
    /// Whether it was made now.
    pub new: bool,
}

/// How the options say an input is read.
pub fn input_options(args: &InputArgs) -> Result<InputOptions, Failure> {
    let delimiter = match args.delimiter.as_deref().map(str::as_bytes) {
        None => None,
        Some(b"\\t") => Some(b'\t'),
        Some([byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => Some(*byte),
        Some(_) => {
            return Err(Failure::new(Exit::Usage, "--delimiter takes one ASCII character, or \\t"));
        }
    };
    let format = match (args.input_format, delimiter) {
        (Some(FileFormat::Jsonl), Some(_)) => {
            return Err(Failure::new(Exit::Usage, "--delimiter is for CSV, and --input-format says jsonl"));
        }
        (Some(FileFormat::Jsonl), None) => Some(InputFormat::Jsonl),
        (Some(FileFormat::Csv), None) => Some(InputFormat::CSV),
        (_, Some(delimiter)) => Some(InputFormat::Csv { delimiter }),
        (None, None) => None,
    };
    let row_bytes_max = usize::try_from(args.max_row_bytes).unwrap_or(usize::MAX);
    Ok(InputOptions { format, row_bytes_max })
}

/// What a batch is made with.
pub fn spec(operation: &str, args: &BatchArgs, header: Option<&[String]>, source: Option<String>) -> BatchSpec {
    BatchSpec {
        operation: operation.to_owned(),
        attempts_max: args.max_attempts,
        crashes_max: args.max_crashes,
        timeout: args.timeout,
        priority: args.priority,
        header: header.map(<[String]>::to_vec),
        source,
    }
}

/// Loads a file's rows as a batch.
pub async fn file(
    store: &SqliteStore,
    mut input: Input,
    operation: &str,
    args: &BatchArgs,
    key: Option<&str>,
    progress: impl Fn(u64),
) -> Result<Load, Failure> {
    let spec = spec(operation, args, input.columns(), Some(input.name().to_owned()));
    let mut next = move || input.read_row().map(|row| row.map(Box::from));
    rows(store, spec, key, &mut next, progress).await
}

/// Loads numbered rows as a batch.
pub async fn numbered(
    store: &SqliteStore,
    count: u64,
    operation: &str,
    args: &BatchArgs,
    key: Option<&str>,
    progress: impl Fn(u64),
) -> Result<Load, Failure> {
    let spec = spec(operation, args, None, Some(format!("{count} numbered rows")));
    let mut numbers = 1..=count;
    let mut next = move || Ok(numbers.next().map(|n| format!("{{\"n\":{n}}}").into_boxed_str()));
    rows(store, spec, key, &mut next, progress).await
}

async fn rows(
    store: &SqliteStore,
    spec: BatchSpec,
    key: Option<&str>,
    next: &mut (impl FnMut() -> Result<Option<Box<str>>, InputError> + Send),
    progress: impl Fn(u64),
) -> Result<Load, Failure> {
    let batch = store.begin_load(spec).await?;
    let loaded = load(store, batch, key, next, progress).await;
    if loaded.is_err() {
        // What cannot be removed now is not claimable and goes with a later load; the first error is the one to tell.
        let _ = store.remove_load(batch).await;
    }
    loaded
}

async fn load(
    store: &SqliteStore,
    batch: BatchId,
    key: Option<&str>,
    next: &mut (impl FnMut() -> Result<Option<Box<str>>, InputError> + Send),
    progress: impl Fn(u64),
) -> Result<Load, Failure> {
    let mut digest = Digest::new();
    let (mut slice, mut bytes, mut first_line) = (Vec::new(), 0, 1);
    while let Some(row) = next()? {
        digest.add(&row);
        bytes += row.len();
        slice.push(row);
        if slice.len() >= SLICE_ROWS || bytes >= SLICE_BYTES {
            store.load_rows(batch, first_line, &slice).await?;
            first_line += slice.len() as u64;
            progress(first_line - 1);
            slice.clear();
            bytes = 0;
        }
    }
    if !slice.is_empty() {
        store.load_rows(batch, first_line, &slice).await?;
    }
    let rows = digest.rows();
    progress(rows);
    let end = LoadEnd { key: key.map(str::to_owned), digest: digest.finish().to_string(), total: rows };
    match store.finish_load(batch, end).await? {
        Loaded::New => Ok(Load { batch, rows, new: true }),
        Loaded::Same(batch) => Ok(Load { batch, rows, new: false }),
        Loaded::Differs(other) => Err(Failure::new(
            Exit::Input,
            format!("the key {:?} is bound to batch {other}, which has other content", key.unwrap_or_default()),
        )
        .help("submit under another --key, or without one")),
    }
}
