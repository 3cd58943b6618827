//! Rows of CSV.
//!
//! The csv crate takes any bytes for some CSV and grows its buffers with the row. [`Feed`] stands before it and hands it
//! one row at a time, after a look at what the crate would let pass: quotes, size, encoding.

use std::collections::HashMap;
use std::io::{self, BufRead, ErrorKind, Read, Write};

use csv::{ReaderBuilder, StringRecord};

use super::source::Origin;
use super::{BUFFER_BYTES, InputError, Place};

/// How many columns a CSV may have. This bounds the memory for a row's structure, which comes on top of its text.
pub const COLUMNS_MAX: usize = 65_536;

/// Reads CSV rows as JSON objects.
#[derive(Debug)]
pub(super) struct CsvRows<R> {
    reader: csv::Reader<Feed<R>>,
    record: StringRecord,
    columns: Vec<String>,
    /// What stands before each value in a row's JSON text.
    keys: Vec<Vec<u8>>,
    json: Vec<u8>,
    row_bytes_max: usize,
    any_row: bool,
}

impl<R: BufRead> CsvRows<R> {
    /// Reads the header.
    pub(super) fn new(
        source: R,
        origin: Origin,
        offset: u64,
        delimiter: u8,
        row_bytes_max: usize,
    ) -> Result<Self, InputError> {
        if !delimiter.is_ascii() || matches!(delimiter, b'"' | b'\n' | b'\r' | 0) {
            return Err(InputError::Delimiter { delimiter });
        }
        let look = Look::new(origin, offset, delimiter, row_bytes_max);
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(Feed { source, look, begun: false, fault: None });
        let (record, columns, keys, json) = Default::default();
        let mut rows = Self { reader, record, columns, keys, json, row_bytes_max, any_row: false };
        rows.read_header()?;
        Ok(rows)
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    fn look(&self) -> &Look {
        &self.reader.get_ref().look
    }

    fn read_header(&mut self) -> Result<(), InputError> {
        if !self.read_record()? {
            return Err(InputError::Empty { input: self.look().origin.name.to_string() });
        }
        let mut keys = Vec::with_capacity(self.record.len());
        let mut seen = HashMap::with_capacity(self.record.len());
        for (index, name) in self.record.iter().enumerate() {
            let place = || self.look().row_place();
            if name.trim().is_empty() {
                return Err(InputError::UnnamedColumn { place: place(), column: index + 1 });
            }
            if let Some(first) = seen.insert(name, index) {
                let (first, second) = (first + 1, index + 1);
                return Err(InputError::DuplicateColumn { place: place(), name: name.to_string(), first, second });
            }
            let mut key = vec![if index == 0 { b'{' } else { b',' }];
            serde_json::to_writer(&mut key, name).map_err(|error| self.look().read_error(error.into()))?;
            key.push(b':');
            keys.push(key);
        }
        self.columns = self.record.iter().map(str::to_string).collect();
        self.keys = keys;
        Ok(())
    }

    pub(super) fn read_row(&mut self) -> Result<Option<&str>, InputError> {
        if !self.read_record()? {
            if self.any_row {
                return Ok(None);
            }
            return Err(InputError::HeaderOnly { input: self.look().origin.name.to_string() });
        }
        self.any_row = true;
        let look = &self.reader.get_ref().look;
        self.json.clear();
        let mut json = Bounded { text: &mut self.json, bytes_max: self.row_bytes_max };
        write_object(&mut json, &self.keys, &self.record).map_err(|_| look.row_too_large())?;
        let text = std::str::from_utf8(&self.json);
        text.map(Some).map_err(|_| InputError::InvalidUtf8 { place: look.row_place() })
    }

    fn read_record(&mut self) -> Result<bool, InputError> {
        self.reader.read_record(&mut self.record).map_err(|error| {
            let feed = self.reader.get_mut();
            if let Some(fault) = feed.fault.take() {
                return fault;
            }
            let place = feed.look.row_place();
            match error.into_kind() {
                csv::ErrorKind::UnequalLengths { expected_len: expected, len: found, .. } => {
                    InputError::UnequalRow { place, expected, found }
                }
                csv::ErrorKind::Utf8 { .. } => InputError::InvalidUtf8 { place },
                csv::ErrorKind::Io(error) => feed.look.read_error(error),
                other => feed.look.read_error(io::Error::other(format!("{other:?}"))),
            }
        })
    }
}

fn write_object(json: &mut Bounded<'_>, keys: &[Vec<u8>], values: &StringRecord) -> io::Result<()> {
    for (key, value) in keys.iter().zip(values) {
        json.write_all(key)?;
        serde_json::to_writer(&mut *json, value)?;
    }
    json.write_all(b"}")
}

/// Takes bytes up to a limit: escapes and the columns' names can make a row's text much larger than the row in the file.
struct Bounded<'a> {
    text: &'a mut Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max.saturating_sub(self.text.len()) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hands out one row at a time, looked at before.
#[derive(Debug)]
struct Feed<R> {
    source: R,
    look: Look,
    /// Something was handed out before.
    begun: bool,
    /// Why the last read failed; the I/O error that goes through the csv crate only says that it did.
    fault: Option<InputError>,
}

impl<R: BufRead> Feed<R> {
    /// Up to `into.len()` bytes of the current row, or of the next one; 0 at the end of the input.
    fn feed(&mut self, into: &mut [u8]) -> Result<usize, InputError> {
        loop {
            let bytes = match self.source.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.look.read_error(error)),
            };
            if bytes.is_empty() {
                self.look.at_end()?;
                return Ok(0);
            }
            let skipped = self.look.skip_line_ends(bytes);
            if skipped == bytes.len() {
                self.source.consume(skipped);
                continue;
            }
            let row = &bytes[skipped..];
            // The csv crate drops a byte order mark from what it gets first, where that is long enough. The file's own is
            // gone already, and another belongs to the text.
            let most = if self.begun { into.len() } else { into.len().min(1) };
            let row = &row[..row.len().min(most).min(self.look.row_bytes_left())];
            self.begun = true;
            let count = self.look.at_row(row)?;
            into[..count].copy_from_slice(&row[..count]);
            self.source.consume(skipped + count);
            return Ok(count);
        }
    }
}

impl<R: BufRead> Read for Feed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.feed(into).map_err(|fault| {
            self.fault = Some(fault);
            io::Error::other("the input is refused")
        })
    }
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No row yet: line ends are skipped.
    Between,
    /// The first byte of a value.
    ValueStart,
    /// A value without quotes.
    Plain,
    /// A quoted value.
    Quoted,
    /// After a quote in a quoted value: its end, or the first half of a doubled quote.
    AfterQuote,
}

/// Looks at bytes on their way: finds where rows begin and end, and what is wrong with them.
#[derive(Debug)]
struct Look {
    origin: Origin,
    delimiter: u8,
    row_bytes_max: usize,
    state: State,
    /// Of the next byte.
    line: u64,
    /// Of the next byte.
    offset: u64,
    /// The last row ended with a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    /// Where the current row, or else the last one, begins.
    row_line: u64,
    row_offset: u64,
    /// How many values of the row have begun.
    row_values: usize,
    /// Line and offset of the last opening quote.
    quote: (u64, u64),
    utf8: Utf8Check,
}

impl Look {
    fn new(origin: Origin, offset: u64, delimiter: u8, row_bytes_max: usize) -> Self {
        Self {
            origin,
            delimiter,
            row_bytes_max,
            state: State::Between,
            line: 1,
            offset,
            after_cr: false,
            row_line: 1,
            row_offset: offset,
            row_values: 0,
            quote: (1, offset),
            utf8: Utf8Check::default(),
        }
    }

    fn row_place(&self) -> Place {
        self.origin.place(self.row_line, self.row_offset)
    }

    fn row_too_large(&self) -> InputError {
        InputError::RowTooLarge { place: self.row_place(), row_bytes_max: self.row_bytes_max }
    }

    fn read_error(&self, error: io::Error) -> InputError {
        self.origin.read(self.line, self.offset, error)
    }

    /// Between two rows: passes the line ends at the front of `bytes`, answers how many bytes they are, and starts a row
    /// where there are more. In a row: 0.
    fn skip_line_ends(&mut self, bytes: &[u8]) -> usize {
        if self.state != State::Between {
            return 0;
        }
        let mut count = 0;
        for byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' => self.line += 1,
                b'\r' => {
                    self.line += 1;
                    self.after_cr = true;
                }
                _ => {
                    self.state = State::ValueStart;
                    self.after_cr = false;
                    self.row_line = self.line;
                    self.row_offset = self.offset;
                    self.row_values = 1;
                    break;
                }
            }
            count += 1;
            self.offset += 1;
        }
        count
    }

    /// How many bytes of the row may come yet, its line end among them: no more are looked at, so that what is found first
    /// does not hang on how the bytes arrive.
    fn row_bytes_left(&self) -> usize {
        let seen = usize::try_from(self.offset - self.row_offset).unwrap_or(usize::MAX);
        self.row_bytes_max.saturating_add(1).saturating_sub(seen)
    }

    /// Looks at the row's bytes at the front of `bytes`, answers how many they are: up to its line end, or all.
    fn at_row(&mut self, bytes: &[u8]) -> Result<usize, InputError> {
        let line = self.line;
        let (count, fault) = self.walk(bytes);
        let bytes = &bytes[..count];
        if let Err(offset) = self.utf8.check(bytes, self.offset) {
            let before = usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(0);
            let line = line + bytes[..before].iter().filter(|byte| **byte == b'\n').count() as u64;
            return Err(InputError::InvalidUtf8 { place: self.origin.place(line, offset) });
        }
        self.offset += count as u64;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let line_end = u64::from(self.state == State::Between);
        if self.offset - self.row_offset - line_end > self.row_bytes_max as u64 {
            return Err(self.row_too_large());
        }
        Ok(count)
    }

    /// Steps through bytes until the row ends, they do, or one is refused; answers how many are good.
    fn walk(&mut self, bytes: &[u8]) -> (usize, Option<InputError>) {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Between {
            let rest = &bytes[at..];
            let run = match self.state {
                State::Plain => rest.iter().position(|byte| self.ends_value(*byte) || *byte == 0),
                State::Quoted => rest.iter().position(|byte| matches!(byte, b'"' | b'\n' | 0)),
                _ => Some(0),
            };
            let Some(run) = run else { return (bytes.len(), None) };
            at += run;
            let byte = bytes[at];
            let place = || self.origin.place(self.line, self.offset + at as u64);
            if byte == 0 {
                return (at, Some(InputError::Nul { place: place(), escaped: false }));
            }
            match self.state {
                State::Quoted if byte == b'"' => self.state = State::AfterQuote,
                State::Quoted => self.line += 1,
                State::AfterQuote if byte == b'"' => self.state = State::Quoted,
                State::AfterQuote if !self.ends_value(byte) => {
                    return (at, Some(InputError::TextAfterQuote { place: place() }));
                }
                State::ValueStart if byte == b'"' => {
                    self.quote = (self.line, self.offset + at as u64);
                    self.state = State::Quoted;
                }
                _ if byte == self.delimiter => {
                    self.row_values += 1;
                    if self.row_values > COLUMNS_MAX {
                        return (at, Some(InputError::TooManyColumns { place: self.row_place() }));
                    }
                    self.state = State::ValueStart;
                }
                _ if self.ends_value(byte) => {
                    self.line += 1;
                    self.after_cr = byte == b'\r';
                    self.state = State::Between;
                }
                _ => self.state = State::Plain,
            }
            at += 1;
        }
        (at, None)
    }

    fn ends_value(&self, byte: u8) -> bool {
        byte == self.delimiter || byte == b'\n' || byte == b'\r'
    }

    /// At the end of the input.
    fn at_end(&self) -> Result<(), InputError> {
        if self.state == State::Quoted {
            let (line, offset) = self.quote;
            return Err(InputError::UnclosedQuote { place: self.origin.place(line, offset) });
        }
        if let Some(offset) = self.utf8.unfinished(self.offset) {
            return Err(InputError::InvalidUtf8 { place: self.origin.place(self.line, offset) });
        }
        Ok(())
    }
}

/// Checks UTF-8 that comes in pieces.
#[derive(Debug, Default)]
struct Utf8Check {
    /// The start of a character whose rest is in the next piece.
    split: [u8; 4],
    split_len: usize,
}

impl Utf8Check {
    /// Checks the next piece, which begins at `offset`. The error is the offset of the first bad byte; it can lie in the
    /// piece before.
    fn check(&mut self, mut bytes: &[u8], mut offset: u64) -> Result<(), u64> {
        while self.split_len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            self.split[self.split_len] = byte;
            self.split_len += 1;
            match std::str::from_utf8(&self.split[..self.split_len]) {
                Ok(_) => self.split_len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(offset + 1 - self.split_len as u64),
            }
            bytes = rest;
            offset += 1;
        }
        let Err(error) = std::str::from_utf8(bytes) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(offset + error.valid_up_to() as u64);
        }
        let split = &bytes[error.valid_up_to()..];
        self.split[..split.len()].copy_from_slice(split);
        self.split_len = split.len();
        Ok(())
    }

    /// Where a character begins that has no end yet; `offset` is that of the next byte.
    fn unfinished(&self, offset: u64) -> Option<u64> {
        (self.split_len > 0).then(|| offset - self.split_len as u64)
    }
}
