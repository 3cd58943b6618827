//! S3: what appending asks of a store, and what it is answered.
//!
//! An append is begun, its rows are stored beyond the batch's total in slices, and one short transaction raises the total over
//! them. Each of these may be repeated as it is until its end is known. The decisions are in
//! [`rules::leaving`](crate::rules::leaving), `s3_...`.

use std::time::Duration;

use crate::lines::LineRange;
use crate::rules::claim::BatchStatus;

/// What the beginning of an append is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Rows can be stored.
    Loading {
        /// The line of its first row.
        first_line: u64,
    },
    /// An append under this key is done already.
    Done {
        /// Of its content.
        digest: String,
        /// Its lines; none, where it had no rows.
        lines: Option<LineRange>,
    },
    /// Another append of the batch loads: one does at a time. To be asked again.
    Busy(Busy),
    /// The batch takes no rows: it has ended or loads.
    Refused {
        /// Its status; none, where there is no such batch.
        status: Option<BatchStatus>,
    },
}

/// The append that stands in the way of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Its key, if it has one.
    pub key: Option<String>,
    /// How many rows it has stored so far.
    pub rows: u64,
    /// For how long it has not moved, by the store's clock.
    pub unmoved_for: Duration,
}

/// What became of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// It is stored, now or by an earlier try.
    Stored,
    /// The append was given up, or did not move for so long that another one removed it.
    TakenOver,
    /// The batch has ended meanwhile.
    Refused {
        /// Its status; none, where there is no such batch any more.
        status: Option<BatchStatus>,
    },
}

/// How an append ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendEnd {
    /// Of its content: what tells a repeat from other content under the same key.
    pub digest: String,
    /// How many rows were stored.
    pub rows: u64,
}

/// What the end of an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The rows are the batch's.
    Done {
        /// Their lines; none, where there are no rows.
        lines: Option<LineRange>,
    },
    /// They were before: the reply to an earlier try was lost.
    Same {
        /// Their lines.
        lines: Option<LineRange>,
    },
    /// This append has ended with other content.
    Differs {
        /// Its lines.
        lines: Option<LineRange>,
    },
    /// The append was given up, or did not move for so long that another one removed it. Nothing was appended.
    TakenOver,
    /// The batch has ended meanwhile. Nothing was appended; the rows are removed.
    Refused {
        /// Its status; none, where there is no such batch any more.
        status: Option<BatchStatus>,
    },
}

/// The lines of an append of so many rows.
pub fn lines_of(first_line: u64, rows: u64) -> Option<LineRange> {
    (rows > 0).then(|| LineRange { first: first_line, last: first_line + rows - 1 })
}
