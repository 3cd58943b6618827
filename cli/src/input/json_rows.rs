//! Rows of JSON lines.

use std::io::{BufRead, Read};

use super::source::Origin;
use super::{InputError, JsonFault, check_json};

/// Reads one JSON value per line.
#[derive(Debug)]
pub(super) struct JsonRows<R> {
    reader: R,
    origin: Origin,
    row_bytes_max: usize,
    line: Vec<u8>,
    /// Of the line in `line`, from 1; 0 before the first.
    line_number: u64,
    /// Where the next line begins.
    offset: u64,
    any_row: bool,
}

impl<R: BufRead> JsonRows<R> {
    pub(super) fn new(reader: R, origin: Origin, offset: u64, row_bytes_max: usize) -> Self {
        Self { reader, origin, row_bytes_max, line: Vec::new(), line_number: 0, offset, any_row: false }
    }

    pub(super) fn read_row(&mut self) -> Result<Option<&str>, InputError> {
        let (start, end) = loop {
            let line_offset = self.offset;
            if !self.read_line()? {
                if self.any_row {
                    return Ok(None);
                }
                return Err(InputError::Empty { input: self.origin.name.to_string() });
            }
            if let Some(start) = self.line.iter().position(|byte| !is_space(*byte)) {
                let end = self.line.iter().rposition(|byte| !is_space(*byte)).map_or(start, |last| last + 1);
                self.check(line_offset, start, end)?;
                break (start, end);
            }
        };
        self.any_row = true;
        // `check` has found it valid.
        let row = std::str::from_utf8(&self.line[start..end]);
        row.map(Some).map_err(|_| InputError::InvalidUtf8 { place: self.origin.place(self.line_number, self.offset) })
    }

    /// Reads the next line with its end; `false` where there is none.
    fn read_line(&mut self) -> Result<bool, InputError> {
        self.line.clear();
        // Room for the line end, CRLF at most; a longer line is not read any further.
        let line_max = (self.row_bytes_max as u64).saturating_add(2);
        let read = self.reader.by_ref().take(line_max).read_until(b'\n', &mut self.line);
        let start = self.offset;
        self.offset += self.line.len() as u64;
        if let Err(error) = read {
            return Err(self.origin.read(self.line_number + 1, self.offset, error));
        }
        if self.line.is_empty() {
            return Ok(false);
        }
        self.line_number += 1;
        let text = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.len() > self.row_bytes_max {
            let place = self.origin.place(self.line_number, start);
            return Err(InputError::RowTooLarge { place, row_bytes_max: self.row_bytes_max });
        }
        Ok(true)
    }

    /// Checks the value at `start..end` of the line.
    fn check(&self, line_offset: u64, start: usize, end: usize) -> Result<(), InputError> {
        let place = |at: usize| self.origin.place(self.line_number, line_offset + (start + at) as u64);
        let text = std::str::from_utf8(&self.line[start..end])
            .map_err(|error| InputError::InvalidUtf8 { place: place(error.valid_up_to()) })?;
        check_json(text).map_err(|fault| match fault {
            JsonFault::Syntax { offset, message } => {
                InputError::Json { place: place(offset), column: (start + offset) as u64 + 1, message }
            }
            JsonFault::Nul { offset, escaped } => InputError::Nul { place: place(offset), escaped },
            JsonFault::LoneSurrogate { offset } => InputError::LoneSurrogate { place: place(offset) },
            JsonFault::TooDeep { offset } => InputError::TooDeep { place: place(offset) },
        })
    }
}

/// White space as JSON has it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
