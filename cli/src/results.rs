//! Writing results: one line per row of a batch, as JSON lines or CSV.
//!
//! # JSON lines
//!
//! Every line has the same fields in the same order, `null` where there is nothing:
//!
//! ```json
//! {"line":1,"status":"success","result":{"ok":true},"error":null,"attempts":1,"crashes":0,"worker":"w1","token":7}
//! ```
//!
//! The result is the handler's JSON as it is; a line end between its parts becomes a space.
//!
//! # CSV of all rows
//!
//! First the input's columns, then `fencepost_line`, `fencepost_status`, `fencepost_result` (JSON text),
//! `fencepost_error`, `fencepost_attempts`, `fencepost_crashes`, `fencepost_worker`, `fencepost_token`; an empty value
//! where there is nothing. A name that the input has already gets `_2`, `_3` and so on.
//!
//! # CSV of failed rows
//!
//! The input's columns exactly, and then `error`: to be mended and submitted again. An input that has a column `error`
//! gets `fencepost_error` instead (`fencepost_error_2` and so on where it has that as well).
//!
//! # An input's values in CSV
//!
//! Strings are written as they are, `null` and missing values as empty ones, all else (numbers, `true`, lists, objects) as
//! JSON text. For an input that was CSV this gives the same values back; JSON lines lose the types. Inputs that are not
//! all objects have one column `input` with the JSON text.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

mod output;

pub use output::Output;

/// A row and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRow {
    /// Its 1-based place in the batch.
    pub line: u64,
    /// `success`, `failed`, `aborted`, `queued` or `inprog`.
    pub status: &'static str,
    /// What the handler returned, as JSON text.
    pub result: Option<Box<str>>,
    /// What went wrong.
    pub error: Option<String>,
    /// Attempts used.
    pub attempts: u32,
    /// Deaths of workers counted against the row.
    pub crashes: u32,
    /// The worker that recorded the outcome, or runs the row.
    pub worker: Option<String>,
    /// The fencing token under which it did.
    pub token: Option<u64>,
    /// The row's input, as JSON text. Only CSV shows it.
    pub input: Option<Box<str>>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultLayout {
    /// JSON lines.
    Jsonl,
    /// CSV of all rows: the input's columns and what came of them. A result that is a string stands there without quotes.
    Csv {
        /// What stands between two values.
        delimiter: u8,
    },
    /// CSV of failed rows: the input's columns and the error.
    FailedCsv {
        /// What stands between two values.
        delimiter: u8,
    },
}

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The reader of a pipe has gone, as in `fencepost results | head`: no failure, end quietly.
    #[error("{output}: its reader has closed it")]
    ClosedPipe {
        /// The output's name.
        output: String,
    },
    /// The path is a directory.
    #[error("{}: is a directory; name a file in it", path.display())]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// The directory that the file is to be in is not there.
    #[error("{}: there is no such directory to write into; create it or check the path", path.display())]
    NoDirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The file, or its directory, cannot be written.
    #[error(
        "{}: may not be written ({source}); check the permissions of the file and of its directory, or write elsewhere",
        path.display()
    )]
    Denied {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing failed. A file that was at the path before is unchanged.
    #[error("{output}: writing failed: {source}; check the free space there, or write elsewhere")]
    Write {
        /// The output's name.
        output: String,
        /// What the system said.
        source: io::Error,
    },
    /// A row's input is not the JSON it should be.
    #[error("line {line}: its stored input is not valid JSON: {source}; write the results as JSON lines")]
    Input {
        /// The row's line.
        line: u64,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A row's input is no object, and the columns are those of objects.
    #[error("line {line}: its input is no object, so it has no columns; write the results as JSON lines")]
    NoObject {
        /// The row's line.
        line: u64,
    },
    /// A row's input has a key for which there is no column: it would be lost.
    #[error("line {line}: its input has a key {key:?} that is none of the columns; write the results as JSON lines")]
    UnknownKey {
        /// The row's line.
        line: u64,
        /// The key.
        key: String,
    },
}

impl ResultError {
    fn write(output: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe { output: output.into() },
            _ => Self::Write { output: output.into(), source },
        }
    }

    /// Whether the reader of a pipe has gone. That ends a command quietly.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::ClosedPipe { .. })
    }
}

/// The columns under which CSV shows inputs.
///
/// Those of a CSV are known ([`crate::input::Input::columns`]); those of JSON lines are found by a look at every row.
#[derive(Debug, Clone, Default)]
pub struct InputColumns {
    names: Vec<String>,
    places: HashMap<String, usize>,
    /// Some input is not an object: inputs are shown whole.
    whole: bool,
}

impl InputColumns {
    /// The name of the one column for inputs that are not all objects.
    pub const WHOLE: &str = "input";

    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the keys of one more input that are new; `line` is the row's, for the error.
    ///
    /// # Errors
    ///
    /// Where the input is not valid JSON.
    pub fn see(&mut self, line: u64, input: &str) -> Result<(), ResultError> {
        match InputValue::parse(line, input)? {
            InputValue::Object(entries) => entries.into_iter().for_each(|(key, _)| self.add(key)),
            InputValue::Other => self.whole = true,
        }
        Ok(())
    }

    /// The names, in order of appearance.
    pub fn names(&self) -> Vec<&str> {
        if self.whole { vec![Self::WHOLE] } else { self.names.iter().map(String::as_str).collect() }
    }

    fn add(&mut self, name: String) {
        if !self.places.contains_key(&name) {
            self.places.insert(name.clone(), self.names.len());
            self.names.push(name);
        }
    }

    /// The values of a row's input, one per column.
    fn values(&self, row: &ResultRow) -> Result<Vec<String>, ResultError> {
        let Some(input) = &row.input else { return Ok(vec![String::new(); self.names().len()]) };
        if self.whole {
            return Ok(vec![input.to_string()]);
        }
        let InputValue::Object(entries) = InputValue::parse(row.line, input)? else {
            return Err(ResultError::NoObject { line: row.line });
        };
        let mut values = vec![String::new(); self.names.len()];
        for (key, value) in entries {
            match self.places.get(&key) {
                Some(place) => values[*place] = plain(row.line, value)?,
                None => return Err(ResultError::UnknownKey { line: row.line, key }),
            }
        }
        Ok(values)
    }
}

impl<S: Into<String>> FromIterator<S> for InputColumns {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let mut columns = Self::default();
        names.into_iter().for_each(|name| columns.add(name.into()));
        columns
    }
}

/// An input, parsed one level deep: what is inside stays text, so numbers keep their digits.
enum InputValue<'a> {
    Object(Vec<(String, &'a RawValue)>),
    Other,
}

impl<'a> InputValue<'a> {
    fn parse(line: u64, input: &'a str) -> Result<Self, ResultError> {
        let invalid = |source| ResultError::Input { line, source };
        if input.trim_start().starts_with('{') {
            serde_json::from_str(input).map(|Entries(entries)| Self::Object(entries)).map_err(invalid)
        } else {
            serde_json::from_str::<&RawValue>(input).map(|_| Self::Other).map_err(invalid)
        }
    }
}

/// An object's entries in their order.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// A value as CSV shows it.
fn plain(line: u64, value: &RawValue) -> Result<String, ResultError> {
    match value.get() {
        "null" => Ok(String::new()),
        text if text.starts_with('"') => {
            serde_json::from_str(text).map_err(|source| ResultError::Input { line, source })
        }
        text => Ok(text.into()),
    }
}

/// Writes results: [`ResultWriter::begin`], [`ResultWriter::write`] for every row, [`ResultWriter::finish`].
pub struct ResultWriter<W: Write> {
    output: String,
    form: Form<W>,
}

enum Form<W: Write> {
    Jsonl { out: W, text: Vec<u8> },
    Csv { out: Box<csv::Writer<W>>, columns: InputColumns, failed: bool },
}

/// What the CSV of all rows adds to the input's columns.
const RESULT_COLUMNS: [&str; 8] = [
    "fencepost_line",
    "fencepost_status",
    "fencepost_result",
    "fencepost_error",
    "fencepost_attempts",
    "fencepost_crashes",
    "fencepost_worker",
    "fencepost_token",
];

impl<W: Write> ResultWriter<W> {
    /// Starts, with the header where there is one. `output` is what messages call the output, which should be buffered;
    /// JSON lines do not look at the columns.
    ///
    /// # Errors
    ///
    /// Where writing fails.
    pub fn begin(out: W, output: &str, layout: ResultLayout, columns: &InputColumns) -> Result<Self, ResultError> {
        let (delimiter, failed) = match layout {
            ResultLayout::Jsonl => {
                return Ok(Self { output: output.into(), form: Form::Jsonl { out, text: Vec::new() } });
            }
            ResultLayout::Csv { delimiter } => (delimiter, false),
            ResultLayout::FailedCsv { delimiter } => (delimiter, true),
        };
        let mut out = Box::new(csv::WriterBuilder::new().delimiter(delimiter).from_writer(out));
        let mut header: Vec<String> = columns.names().into_iter().map(String::from).collect();
        if failed {
            let name = if header.iter().any(|name| name == "error") { "fencepost_error" } else { "error" };
            header.push(free_name(name, &header));
        } else {
            for name in RESULT_COLUMNS {
                header.push(free_name(name, &header));
            }
        }
        out.write_record(&header).map_err(|error| csv_error(output, error))?;
        Ok(Self { output: output.into(), form: Form::Csv { out, columns: columns.clone(), failed } })
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// Where writing fails, or CSV cannot show the row's input.
    pub fn write(&mut self, row: &ResultRow) -> Result<(), ResultError> {
        match &mut self.form {
            Form::Jsonl { out, text } => {
                text.clear();
                json_line(text, row)
                    .and_then(|()| out.write_all(text))
                    .map_err(|error| ResultError::write(&self.output, error))
            }
            Form::Csv { out, columns, failed } => {
                let mut values = columns.values(row)?;
                let error = row.error.clone().unwrap_or_default();
                if *failed {
                    values.push(error);
                } else {
                    values.extend([
                        row.line.to_string(),
                        row.status.to_string(),
                        row.result.as_deref().map(cell_of).unwrap_or_default(),
                        error,
                        row.attempts.to_string(),
                        row.crashes.to_string(),
                        row.worker.clone().unwrap_or_default(),
                        row.token.map(|token| token.to_string()).unwrap_or_default(),
                    ]);
                }
                out.write_record(&values).map_err(|error| csv_error(&self.output, error))
            }
        }
    }

    /// Writes out what is buffered here and hands the output back.
    ///
    /// # Errors
    ///
    /// Where writing fails.
    pub fn finish(self) -> Result<W, ResultError> {
        let flushed = match self.form {
            Form::Jsonl { mut out, .. } => out.flush().map(|()| out),
            Form::Csv { out, .. } => out.into_inner().map_err(csv::IntoInnerError::into_error),
        };
        flushed.map_err(|error| ResultError::write(&self.output, error))
    }
}

/// The first of `name`, `name_2`, `name_3` and so on that is not taken.
fn free_name(name: &str, taken: &[String]) -> String {
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    let mut names = std::iter::once(name.to_string()).chain(numbered);
    // The names never run out.
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// A result in a cell: a string is its text, as a spreadsheet shows it, anything else is JSON.
fn cell_of(result: &str) -> String {
    serde_json::from_str(result).unwrap_or_else(|_| result.to_owned())
}

fn csv_error(output: &str, error: csv::Error) -> ResultError {
    let source = match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    };
    ResultError::write(output, source)
}

fn json_line(text: &mut Vec<u8>, row: &ResultRow) -> io::Result<()> {
    write!(text, r#"{{"line":{},"status":"#, row.line)?;
    serde_json::to_writer(&mut *text, row.status)?;
    text.extend_from_slice(br#","result":"#);
    match &row.result {
        // In JSON a line end can stand only between the parts, where a space does as well.
        Some(result) => text.extend(result.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte })),
        None => text.extend_from_slice(b"null"),
    }
    text.extend_from_slice(br#","error":"#);
    serde_json::to_writer(&mut *text, &row.error)?;
    write!(text, r#","attempts":{},"crashes":{},"worker":"#, row.attempts, row.crashes)?;
    serde_json::to_writer(&mut *text, &row.worker)?;
    text.extend_from_slice(br#","token":"#);
    serde_json::to_writer(&mut *text, &row.token)?;
    text.extend_from_slice(b"}\n");
    Ok(())
}
