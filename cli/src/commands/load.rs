//! What the options say of an input and a batch, and loading the one as the other.

use super::args::{BatchArgs, FileFormat, Global, InputArgs};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use crate::input::{Input, InputError, InputFormat, InputOptions};
use crate::load::{self, Load, LoadError};
use crate::store::Loads;
use crate::store::loading::BatchSpec;

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
            return Err(Failure::new(Exit::Usage, "--delimiter is for CSV, and --input-format says jsonl")
                .help("leave one of them out"));
        }
        (Some(FileFormat::Tsv), Some(delimiter)) if delimiter != b'\t' => {
            return Err(Failure::new(Exit::Usage, "--delimiter contradicts --input-format tsv; use csv with it"));
        }
        (Some(FileFormat::Jsonl), None) => Some(InputFormat::Jsonl),
        (Some(FileFormat::Tsv), None) => Some(InputFormat::TSV),
        (Some(FileFormat::Csv), None) => Some(InputFormat::CSV),
        (_, Some(delimiter)) => Some(InputFormat::Csv { delimiter }),
        (None, None) => None,
    };
    let row_bytes_max = usize::try_from(args.max_row_bytes).unwrap_or(usize::MAX);
    Ok(InputOptions { format, row_bytes_max })
}

/// What is said of a batch besides its rows.
pub struct Terms<'a> {
    /// Names the handler.
    pub operation: &'a str,
    /// How rows are tried.
    pub batch: &'a BatchArgs,
    /// What makes a repeat the same.
    pub key: Option<&'a str>,
    /// S7: where its ends are told.
    pub on_done_url: Option<&'a str>,
}

/// What a batch is made with.
fn spec(terms: &Terms<'_>, header: Option<&[String]>, source: Option<String>) -> BatchSpec {
    let args = terms.batch;
    BatchSpec {
        operation: terms.operation.to_owned(),
        attempts_max: args.max_attempts,
        crashes_max: args.max_crashes,
        timeout: args.timeout,
        priority: args.priority,
        header: header.map(<[String]>::to_vec),
        source,
        on_done_url: terms.on_done_url.map(str::to_owned),
    }
}

/// Loads a file's rows as a batch.
pub async fn file(
    global: &Global,
    store: &impl Loads,
    mut input: Input,
    terms: &Terms<'_>,
    progress: impl Fn(u64),
) -> Result<Load, Failure> {
    let spec = spec(terms, input.columns(), Some(input.name().to_owned()));
    let next = move || input.read_row().map(|row| row.map(Box::from));
    load::rows(store, spec, terms.key, next, progress).await.map_err(|error| failure(global, error))
}

/// Loads numbered rows as a batch.
pub async fn numbered(
    global: &Global,
    store: &impl Loads,
    count: u64,
    terms: &Terms<'_>,
    progress: impl Fn(u64),
) -> Result<Load, Failure> {
    let spec = spec(terms, None, Some(format!("{count} numbered rows")));
    let mut numbers = 1..=count;
    let next = move || Ok::<_, InputError>(numbers.next().map(|n| format!("{{\"n\":{n}}}").into_boxed_str()));
    load::rows(store, spec, terms.key, next, progress).await.map_err(|error| failure(global, error))
}

fn failure(global: &Global, error: LoadError) -> Failure {
    match error {
        LoadError::Input(error) => error.into(),
        LoadError::Store(error) => {
            Failure::from(error).help("nothing was submitted; put that right and try again")
        }
        LoadError::Unknown { .. } => Failure::from_error(Exit::Store, error).help(format!(
            "`fencepost list{}` tells, once the store answers (a batch that is loading there is not submitted); under the same \
             --key it is safe to try again",
            store_option(global)
        )),
        LoadError::KeyBound { .. } => {
            Failure::from_error(Exit::Input, error).help("submit under another --key, or without one")
        }
        LoadError::Row { .. } => Failure::from_error(Exit::Input, error),
    }
}
