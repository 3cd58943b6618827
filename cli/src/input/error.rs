//! What can be wrong with an input. Every message says where, what, and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::csv_rows::COLUMNS_MAX;
use super::json::DEPTH_MAX;

/// A place in an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The input's name: the path as given, or `standard input`.
    pub input: String,
    /// The physical line, from 1.
    pub line: u64,
    /// Bytes before this place, in the uncompressed text.
    pub offset: u64,
    /// Whether the input is gzipped, so that the offset is not one in the file as it lies on disk.
    pub gzip: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.gzip { "uncompressed byte offset" } else { "byte offset" };
        write!(f, "{}: line {} ({unit} {})", self.input, self.line, self.offset)
    }
}

/// Why an input, or the rest of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// There is no such file.
    #[error("{}: there is no such file; check the path", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("{}: cannot be opened: {source}; check its permissions and its path", path.display())]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is a directory.
    #[error("{}: is a directory; name one file, and submit several one by one", path.display())]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// Neither the options nor the name nor the first line say what the format is.
    #[error(
        "{input}: the format is not clear; give it with --input-format (csv, tsv, jsonl), or name the file .csv, .tsv, .jsonl \
         or .ndjson, each also with .gz"
    )]
    UnknownFormat {
        /// The input's name.
        input: String,
    },
    /// No CSV can be delimited like this.
    #[error("{:?} cannot delimit the values of a CSV; choose an ASCII character other than a quote, line end or NUL", char::from(*delimiter))]
    Delimiter {
        /// The delimiter asked for.
        delimiter: u8,
    },
    /// Standard input was to be read ahead of its loading.
    #[error("standard input can be read only once; put the rows into a file")]
    ReadOnce,
    /// Nothing, or nothing but blank lines.
    #[error("{input}: is empty; it needs at least one row")]
    Empty {
        /// The input's name.
        input: String,
    },
    /// A CSV with a header and no rows.
    #[error(
        "{input}: has a header and no rows; add rows, or, if its one line is a row, put a header with the columns' names \
         above it"
    )]
    HeaderOnly {
        /// The input's name.
        input: String,
    },
    /// UTF-16, by its byte order mark.
    #[error("{input}: is UTF-16; save it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`")]
    Utf16 {
        /// The input's name.
        input: String,
    },
    /// Reading failed on the way.
    #[error("{place}: reading failed here: {source}; try again")]
    Read {
        /// How far reading came.
        place: Place,
        /// What the system said.
        source: io::Error,
    },
    /// The gzip stream ends in the middle.
    #[error("{place}: the gzip stream breaks off here, as if cut short; fetch or compress the file again")]
    GzipTruncated {
        /// How far reading came.
        place: Place,
    },
    /// The gzip stream is damaged.
    #[error("{place}: the gzip stream is damaged after here ({source}); fetch or compress the file again")]
    GzipCorrupt {
        /// How far reading came.
        place: Place,
        /// What the decoder said.
        source: io::Error,
    },
    /// Bytes that are not UTF-8.
    #[error(
        "{place}: is not valid UTF-8 here; save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`"
    )]
    InvalidUtf8 {
        /// The first bad byte.
        place: Place,
    },
    /// The NUL character.
    #[error("{place}: has a NUL character{}, which not every store can keep; remove it", if *escaped { r" (\u0000)" } else { "" })]
    Nul {
        /// The character or its escape.
        place: Place,
        /// Written as an escape in a JSON string.
        escaped: bool,
    },
    /// A quoted CSV value without an end.
    #[error(
        "{place}: the quote that opens here is never closed; close it, or, if it belongs to the value, write the value in \
         quotes with every quote in it doubled"
    )]
    UnclosedQuote {
        /// The opening quote.
        place: Place,
    },
    /// Something between a closing quote and the next delimiter.
    #[error(
        "{place}: there is text after a closing quote; a quoted value ends with its quote, and a quote inside it is \
         written twice"
    )]
    TextAfterQuote {
        /// The first character after the quote.
        place: Place,
    },
    /// Two columns with one name.
    #[error("{place}: columns {first} and {second} are both called {name:?}; give each column its own name")]
    DuplicateColumn {
        /// The header.
        place: Place,
        /// The name.
        name: String,
        /// The first column of that name, from 1.
        first: usize,
        /// The second, from 1.
        second: usize,
    },
    /// A column without a name.
    #[error("{place}: column {column} of the header has no name; name it, or remove the column from all rows")]
    UnnamedColumn {
        /// The header.
        place: Place,
        /// The column, from 1.
        column: usize,
    },
    /// More columns than a CSV may have.
    #[error("{place}: has more than {COLUMNS_MAX} columns; check the delimiter, or submit JSON lines")]
    TooManyColumns {
        /// The row or header.
        place: Place,
    },
    /// A row with more or fewer values than the header has names.
    #[error(
        "{place}: has {found} {}, the header has {expected}; {}",
        if *found == 1 { "value" } else { "values" },
        if found > expected { "put a value that holds the delimiter in quotes" } else { "add the missing values, if need be as empty ones" }
    )]
    UnequalRow {
        /// The row's start.
        place: Place,
        /// Columns in the header.
        expected: u64,
        /// Values in the row.
        found: u64,
    },
    /// A row beyond the limit.
    #[error(
        "{place}: the row is larger than {row_bytes_max} bytes; check for a missing line end or quote, raise the limit (--max-row-bytes), or \
         keep large content in files of its own and put their paths in the rows"
    )]
    RowTooLarge {
        /// The row's start.
        place: Place,
        /// The limit, in bytes.
        row_bytes_max: usize,
    },
    /// A line that is not one JSON value.
    #[error(
        "{place}, column {column}: is not valid JSON: {message}; every line must hold one whole JSON value (`jq -c .` \
         writes values so, `jq -c '.[]'` the items of a list)"
    )]
    Json {
        /// Where the value goes wrong.
        place: Place,
        /// The same as a column of the line, in bytes from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// Half a surrogate pair, as an escape in a JSON string.
    #[error(
        "{place}: has half a surrogate pair (\\ud800 to \\udfff without its partner), which is no character; remove it or \
         complete the pair"
    )]
    LoneSurrogate {
        /// The escape.
        place: Place,
    },
    /// Lists and objects nested too deep.
    #[error("{place}: is nested deeper than {DEPTH_MAX} levels; flatten it, or put the inner part in as a string")]
    TooDeep {
        /// The opening bracket that is too much.
        place: Place,
    },
}
