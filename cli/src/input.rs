//! Reading input files: CSV and JSON lines, plain or gzipped, from a file or from standard input.
//!
//! Every row comes out as one JSON text, whatever the file was:
//!
//! - **CSV**: the first row names the columns. A row becomes an object with the columns in their order and *all values as
//!   strings*: `faa,alt` and `04G,1044` give `{"faa":"04G","alt":"1044"}`. Nothing guesses at numbers or dates, so
//!   nothing loses leading zeros or digits. Rows end with LF, CRLF or CR. Blank lines are skipped; a line of spaces is
//!   not blank. A value that begins with a quote is quoted and must end with one; a quote further inside is a character
//!   like any other (`5" pipe`).
//! - **JSON lines**: a row is the text of its line, byte for byte, without the white space around it. Any JSON value will
//!   do. Numbers stay text, so they keep their digits; an object may have the same key twice. Lines of white space only
//!   are skipped.
//!
//! Skipped lines do not count as rows: the n-th row that comes out is line n of the batch. Errors name the physical line
//! of the file.
//!
//! A byte order mark (UTF-8) is dropped. What a store could not keep or give back is refused: text that is not UTF-8, the
//! NUL character (raw or as `\u0000`), half a surrogate pair (`\ud800`), nesting deeper than [`DEPTH_MAX`].
//!
//! Memory is constant: a row of at most [`InputOptions::row_bytes_max`] and a few buffers, even where a file of many
//! gigabytes has no line end.

use std::fmt;
use std::io::{BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::str::FromStr;

mod csv_rows;
mod digest;
mod error;
mod json;
mod json_rows;
mod source;

use csv_rows::CsvRows;
use json_rows::JsonRows;
use source::{Origin, Source};

pub use csv_rows::COLUMNS_MAX;
pub use digest::{ContentDigest, Digest, content_digest};
pub use error::{InputError, Place};
pub use json::{DEPTH_MAX, JsonFault, check_json};

/// How the rows of an input are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputFormat {
    /// Comma-separated values, or separated by another ASCII character.
    Csv {
        /// What stands between two values: ASCII, and not a quote, line end or NUL.
        delimiter: u8,
    },
    /// One JSON value per line.
    Jsonl,
}

impl InputFormat {
    /// Comma-separated.
    pub const CSV: Self = Self::Csv { delimiter: b',' };
    /// Tab-separated.
    pub const TSV: Self = Self::Csv { delimiter: b'\t' };

    /// What a file's name says: `.csv`, `.tsv`, `.jsonl`, `.ndjson`, each perhaps followed by `.gz`, in any case. `None`
    /// where it says nothing.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (stem, extension) = name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?;
        // ".csv" alone is a hidden file without an extension.
        if stem.is_empty() { None } else { extension.parse().ok() }
    }
}

/// A name that is no [`InputFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the formats are csv, tsv, jsonl and ndjson")]
pub struct UnknownFormatName;

impl FromStr for InputFormat {
    type Err = UnknownFormatName;

    /// Reads `csv`, `tsv`, `jsonl` or `ndjson`.
    fn from_str(name: &str) -> Result<Self, UnknownFormatName> {
        match name {
            "csv" => Ok(Self::CSV),
            "tsv" => Ok(Self::TSV),
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            _ => Err(UnknownFormatName),
        }
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CSV => f.write_str("csv"),
            Self::TSV => f.write_str("tsv"),
            Self::Csv { delimiter } => write!(f, "csv delimited by {:?}", char::from(delimiter)),
            Self::Jsonl => f.write_str("jsonl"),
        }
    }
}

/// How to read an input.
#[derive(Debug, Clone)]
pub struct InputOptions {
    /// The format, where the name or the first bytes are not to decide it.
    pub format: Option<InputFormat>,
    /// The most bytes that a row may have, both in the file and as JSON text. 16 MiB unless told.
    pub row_bytes_max: usize,
}

impl InputOptions {
    /// The default of [`InputOptions::row_bytes_max`]: 16 MiB.
    pub const ROW_BYTES_MAX: usize = 16 << 20;
}

impl Default for InputOptions {
    fn default() -> Self {
        Self { format: None, row_bytes_max: Self::ROW_BYTES_MAX }
    }
}

/// An opened input: a stream of rows, each as JSON text.
///
/// It is read once, front to back, and standard input cannot be read again: to know the content's digest while loading,
/// feed each row to a [`Digest`] on its way. After an error the stream is over.
#[derive(Debug)]
pub struct Input {
    name: String,
    rows: RowReader<Source>,
}

impl Input {
    /// Opens a file, or standard input for `-` (a file of that name is `./-`).
    ///
    /// Gzip is recognised by the first bytes, not by the name. The format is that of the options, else that of the name;
    /// where that says nothing (standard input, pipes, `rows.txt`), the first line decides: text that begins with `{` or `[`
    /// or is a JSON number, `true`, `false` or `null` is JSON lines, anything else CSV, delimited by tabs where it has
    /// tabs and no comma.
    ///
    /// # Errors
    ///
    /// Where the file cannot be opened or read, its format is unknown, it is empty, or its CSV header is not usable.
    pub fn open(path: impl AsRef<Path>, options: &InputOptions) -> Result<Self, InputError> {
        let path = path.as_ref();
        let (source, origin, format) = source::open(path, options)?;
        let name = origin.name.to_string();
        let rows = RowReader::with_origin(source, origin, format, options.row_bytes_max)?;
        Ok(Self { name, rows })
    }

    /// The input's name as messages show it: the path as given, or `standard input`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The format that is being read.
    pub fn format(&self) -> InputFormat {
        self.rows.format()
    }

    /// The columns of a CSV in their order; `None` for JSON lines.
    pub fn columns(&self) -> Option<&[String]> {
        self.rows.columns()
    }

    /// The next row, without an allocation per row; see [`RowReader::read_row`].
    ///
    /// # Errors
    ///
    /// Where the input breaks off or is not as it should be; the stream is over then.
    pub fn read_row(&mut self) -> Result<Option<&str>, InputError> {
        self.rows.read_row()
    }
}

impl Iterator for Input {
    type Item = Result<Box<str>, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()
    }
}

/// The reader below both formats: buffered, with the bytes that were looked at beforehand put back.
type Text<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// Reads rows from uncompressed bytes. An iterator of JSON texts; after an error or the last row it is over.
#[derive(Debug)]
pub struct RowReader<R: Read> {
    rows: Rows<R>,
    format: InputFormat,
    over: bool,
}

// One exists per input, so the difference in size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Rows<R: Read> {
    Csv(CsvRows<Text<R>>),
    Jsonl(JsonRows<Text<R>>),
}

impl<R: Read> RowReader<R> {
    /// Starts to read; `name` is what messages call the input. Reads a CSV's header at once.
    ///
    /// # Errors
    ///
    /// Where reading fails, the text is UTF-16, the delimiter is not usable, or a CSV is empty or its header not usable.
    pub fn new(reader: R, name: &str, format: InputFormat, row_bytes_max: usize) -> Result<Self, InputError> {
        Self::with_origin(reader, Origin::new(name), format, row_bytes_max)
    }

    fn with_origin(
        mut reader: R,
        origin: Origin,
        format: InputFormat,
        row_bytes_max: usize,
    ) -> Result<Self, InputError> {
        let mut head = source::peek(&mut reader, |head| head.len() >= 3).map_err(|error| origin.read(1, 0, error))?;
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Err(InputError::Utf16 { input: origin.name.to_string() });
        }
        let mut offset = 0;
        if head.starts_with(b"\xef\xbb\xbf") {
            head.drain(..3);
            offset = 3;
        }
        let text = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(reader));
        let rows = match format {
            InputFormat::Csv { delimiter } => Rows::Csv(CsvRows::new(text, origin, offset, delimiter, row_bytes_max)?),
            InputFormat::Jsonl => Rows::Jsonl(JsonRows::new(text, origin, offset, row_bytes_max)),
        };
        Ok(Self { rows, format, over: false })
    }

    /// The format that is being read.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// The columns of a CSV in their order; `None` for JSON lines.
    pub fn columns(&self) -> Option<&[String]> {
        match &self.rows {
            Rows::Csv(rows) => Some(rows.columns()),
            Rows::Jsonl(_) => None,
        }
    }

    /// The next row as JSON text, valid until the next call; `None` after the last. This spares the allocation that the
    /// iterator makes per row.
    ///
    /// # Errors
    ///
    /// Where the input breaks off or is not as it should be; also where it ends without a single row. The stream is over
    /// then.
    pub fn read_row(&mut self) -> Result<Option<&str>, InputError> {
        if self.over {
            return Ok(None);
        }
        let row = match &mut self.rows {
            Rows::Csv(rows) => rows.read_row(),
            Rows::Jsonl(rows) => rows.read_row(),
        };
        self.over = !matches!(row, Ok(Some(_)));
        row
    }
}

impl<R: Read> Iterator for RowReader<R> {
    type Item = Result<Box<str>, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_row().map(|row| row.map(Box::from)).transpose()
    }
}
