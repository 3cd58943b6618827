//! The handlers' ledger: a line per run, appended to a file that may lie on a disk that fills up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The name of the ledger of rows' runs.
pub const LEDGER: &str = "ledger";

/// The name of the ledger of completion calls. In its entries, the line is the generation that ended.
pub const CALLS: &str = "calls";

/// A run, as its handler noted it when it began.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The batch's id.
    pub batch: String,
    /// The line.
    pub line: u64,
    /// The run's token.
    pub token: u64,
    /// Which attempt, from 1.
    pub attempt: u64,
    /// The process that noted it.
    pub pid: u32,
    /// When, in microseconds since 1970 by that process's clock.
    pub at_us: u64,
}

/// The end of every whole entry: a full disk takes a part of one.
const WHOLE: &str = "whole";

/// Appends runs.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// Opens a ledger to append to.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Notes a run: one write. It begins a line of its own, so that what a full disk left of another one spoils nothing.
    pub fn note(&self, batch: &str, line: u64, token: u64, attempt: u64) -> io::Result<()> {
        let pid = std::process::id();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = format!("\n{batch} {line} {token} {attempt} {pid} {} {WHOLE}", since.as_micros());
        let written = (&self.file).write(entry.as_bytes())?;
        if written == entry.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::StorageFull)) }
    }
}

/// All whole entries.
pub fn read(path: &Path) -> io::Result<Vec<Run>> {
    let text = match std::fs::read_to_string(path) {
        // No handler ever ran.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(entry: &str) -> Option<Run> {
    let mut fields = entry.split(' ');
    let mut field = || fields.next();
    let run = Run {
        batch: field()?.to_owned(),
        line: field()?.parse().ok()?,
        token: field()?.parse().ok()?,
        attempt: field()?.parse().ok()?,
        pid: field()?.parse().ok()?,
        at_us: field()?.parse().ok()?,
    };
    (field() == Some(WHOLE)).then_some(run)
}
