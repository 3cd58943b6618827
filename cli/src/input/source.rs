//! Where the bytes come from: files and standard input, gzipped or not.

use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::value::RawValue;

use super::{BUFFER_BYTES, InputError, InputFormat, InputOptions, Place};

/// Uncompressed bytes from wherever.
pub(super) struct Source(Box<dyn Read + Send>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

/// What messages call an input, and how to read the errors of its reader.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) name: Arc<str>,
    gzip: bool,
}

impl Origin {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), gzip: false }
    }

    pub(super) fn place(&self, line: u64, offset: u64) -> Place {
        Place { input: self.name.to_string(), line, offset, gzip: self.gzip }
    }

    /// The error for a failed read.
    pub(super) fn read(&self, line: u64, offset: u64, source: io::Error) -> InputError {
        let place = self.place(line, offset);
        match source.kind() {
            ErrorKind::UnexpectedEof if self.gzip => InputError::GzipTruncated { place },
            ErrorKind::InvalidData | ErrorKind::InvalidInput if self.gzip => InputError::GzipCorrupt { place, source },
            _ => InputError::Read { place, source },
        }
    }
}

/// Reads the first bytes, until they are enough or the input ends; they are gone from the reader.
pub(super) fn peek(reader: &mut impl Read, enough: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut block = [0; 512];
    while !enough(&head) {
        match reader.read(&mut block) {
            Ok(0) => break,
            Ok(count) => head.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

pub(super) fn open(path: &Path, options: &InputOptions) -> Result<(Source, Origin, InputFormat), InputError> {
    let (raw, name, format): (Box<dyn Read + Send>, _, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), "standard input".to_string(), options.format)
    } else {
        let format = options.format.or_else(|| InputFormat::from_path(path));
        (Box::new(open_file(path)?), path.display().to_string(), format)
    };
    let mut origin = Origin::new(&name);
    let mut source = unpack(raw, &mut origin)?;
    let format = match format {
        Some(format) => format,
        None => {
            let first_line = |head: &[u8]| head.len() >= BUFFER_BYTES || first_line(head).is_some();
            let head = peek(&mut source, first_line).map_err(|error| origin.read(1, 0, error))?;
            let format = sniff(&head, &origin)?;
            source = Source(Box::new(Cursor::new(head).chain(source)));
            format
        }
    };
    Ok((source, origin, format))
}

fn open_file(path: &Path) -> Result<File, InputError> {
    let unreadable = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => InputError::Missing { path: path.into() },
        ErrorKind::IsADirectory => InputError::Directory { path: path.into() },
        _ => InputError::Unreadable { path: path.into(), source },
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(InputError::Directory { path: path.into() });
    }
    Ok(file)
}

/// Uncompresses what begins with gzip's magic bytes, and notes it in the origin.
fn unpack(mut raw: Box<dyn Read + Send>, origin: &mut Origin) -> Result<Source, InputError> {
    let head = peek(&mut raw, |head| head.len() >= 2).map_err(|error| origin.read(1, 0, error))?;
    origin.gzip = head.starts_with(b"\x1f\x8b");
    let raw = Cursor::new(head).chain(raw);
    Ok(Source(if origin.gzip {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, raw)))
    } else {
        Box::new(raw)
    }))
}

/// The first line that is not blank, where the head holds all of it.
fn first_line(head: &[u8]) -> Option<&[u8]> {
    let start = head.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let length = head[start..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
    Some(&head[start..start + length])
}

/// Decides the format by the first line that is not blank.
fn sniff(head: &[u8], origin: &Origin) -> Result<InputFormat, InputError> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii();
    let line = first_line(text).unwrap_or(text).trim_ascii();
    match line.first() {
        None if head.len() < BUFFER_BYTES => Err(InputError::Empty { input: origin.name.to_string() }),
        None => Err(InputError::UnknownFormat { input: origin.name.to_string() }),
        Some(b'{' | b'[') => Ok(InputFormat::Jsonl),
        Some(first) => match serde_json::from_slice::<&RawValue>(line) {
            // A quoted text alone on its line is as likely the header of a CSV with one column.
            Ok(_) if *first == b'"' => Err(InputError::UnknownFormat { input: origin.name.to_string() }),
            Ok(_) => Ok(InputFormat::Jsonl),
            Err(_) if line.contains(&b'\t') && !line.contains(&b',') => Ok(InputFormat::TSV),
            Err(_) => Ok(InputFormat::CSV),
        },
    }
}
