//! A batch's log of attempts: what befell its rows besides their outcomes.

use std::collections::BTreeMap;

use fencepost_core::rules::poison::{p1_counts, p1_crashes};
use fencepost_core::{LeaseId, LineRange, LineSet, StoreTime, Token};

use crate::view::LogCounts;

/// A kind of entry in the log of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// O5: one attempt used.
    Retried,
    /// O6: one attempt used.
    TimedOut,
    /// P2: one crash.
    Crashed,
    /// P1: that crash taken back.
    CrashWithdrawn,
    /// O1: an answer dropped.
    Fenced,
    /// R3: lines came back from an ended lease.
    Recovered,
    /// S1, L4: lines were given back.
    GivenBack,
    /// S5: an outcome taken away by an operator's retry.
    Superseded,
}

/// An entry in the log of attempts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogEntry {
    /// In which generation; of a superseded outcome: its own.
    pub generation: u32,
    /// The lines.
    pub lines: LineRange,
    /// Under which token they were held; of a superseded outcome: its token.
    pub token: Token,
    /// What happened.
    pub kind: LogKind,
    /// The lease that held them.
    pub lease: LeaseId,
    /// The judge that recovered them.
    pub judge: Option<LeaseId>,
    /// When.
    pub at: StoreTime,
}

/// The log of one batch.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Log {
    entries: Vec<LogEntry>,
    /// Entries of the kinds that count per line.
    of_line: BTreeMap<u64, Vec<u32>>,
}

impl Log {
    pub(super) fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    pub(super) fn counts(&self) -> LogCounts {
        let count = |kind| self.entries.iter().filter(|entry| entry.kind == kind).count() as u64;
        LogCounts {
            retried: count(LogKind::Retried),
            timed_out: count(LogKind::TimedOut),
            crashed: count(LogKind::Crashed),
            crash_withdrawn: count(LogKind::CrashWithdrawn),
            fenced: count(LogKind::Fenced),
            superseded: count(LogKind::Superseded),
        }
    }

    /// Appends an entry of one line; false where its unique key (line, token, kind) is there already.
    pub(super) fn append(&mut self, line: u64, entry: LogEntry) -> bool {
        debug_assert_eq!((entry.lines.first, entry.lines.last), (line, line));
        if self.has(line, entry.token, entry.kind) {
            return false;
        }
        let place = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.of_line.entry(line).or_default().push(place);
        self.entries.push(entry);
        true
    }

    /// Appends an entry that may cover several lines.
    pub(super) fn append_ranges(&mut self, lines: &LineSet, entry: &LogEntry) {
        debug_assert!(matches!(entry.kind, LogKind::Recovered | LogKind::GivenBack));
        let entries = lines.ranges().iter().map(|&lines| LogEntry { lines, ..entry.clone() });
        self.entries.extend(entries);
    }

    pub(super) fn has(&self, line: u64, token: Token, kind: LogKind) -> bool {
        self.of_line(line).any(|entry| entry.token == token && entry.kind == kind)
    }

    /// O1: whether something was recorded under this token besides the outcome that the line has now.
    pub(super) fn has_recorded(&self, line: u64, token: Token) -> bool {
        let kinds = [LogKind::Retried, LogKind::TimedOut, LogKind::Superseded];
        kinds.into_iter().any(|kind| self.has(line, token, kind))
    }

    /// O5: attempts used since the line's last operator's retry.
    pub(super) fn used(&self, line: u64) -> u32 {
        self.count(line, LogKind::Retried) + self.count(line, LogKind::TimedOut)
    }

    /// P1: crashes since the line's last operator's retry.
    pub(super) fn crashes(&self, line: u64) -> u32 {
        p1_crashes(self.count(line, LogKind::Crashed), self.count(line, LogKind::CrashWithdrawn))
    }

    fn count(&self, line: u64, kind: LogKind) -> u32 {
        let superseded = self.of_line(line).filter(|entry| entry.kind == LogKind::Superseded);
        let superseded = superseded.map(|entry| entry.token).max();
        let counts = |entry: &&LogEntry| entry.kind == kind && p1_counts(entry.token, superseded);
        u32::try_from(self.of_line(line).filter(counts).count()).unwrap_or(u32::MAX)
    }

    fn of_line(&self, line: u64) -> impl Iterator<Item = &LogEntry> {
        let places = self.of_line.get(&line).map_or(&[][..], |places| places);
        places.iter().filter_map(|place| self.entries.get(*place as usize))
    }
}
