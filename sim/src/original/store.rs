//! The row store of the original: `batches` and `batchrows` with a status each, row locks, transactions.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ProcessAt, RowAt};

/// `status_enum` of the schema (`pg/migrations/001_batch.sql`), less `wait`: no batch is submitted held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Queued,
    Inprog,
    Success,
    Failed,
    Aborted,
}

impl Status {
    pub(super) fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Inprog)
    }
}

/// The three numbers that a batch gets when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Counts {
    pub(super) success: u64,
    pub(super) failed: u64,
    pub(super) aborted: u64,
}

#[derive(Debug)]
struct Row {
    batch: usize,
    status: Status,
    /// When its newest version was written: a scan of the table meets the oldest versions first.
    version: u64,
    locked_by: Option<ProcessAt>,
}

#[derive(Debug)]
struct Batch {
    rows: Range<RowAt>,
    status: Status,
    /// `doneat` and the counters.
    ended: Option<Counts>,
    locked_by: Option<ProcessAt>,
}

/// What a worker asks the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum StoreOp {
    /// `FetchBlockOfRows`: begins the claim's transaction and locks what it finds.
    Fetch { limit: u64 },
    /// `UpdateBatchesStatusBulk`, `UpdateBatchRowsStatusBulk` and the commit.
    Commit,
    /// `UpdateBatchRowsBatchJob`: by the row's id and by nothing else.
    Write { row: RowAt, status: Status, fallback: bool },
    /// `ResetRowsToQueued`: what a recoverer does with the rows of an instance.
    Reset { rows: Vec<RowAt>, of: ProcessAt },
    /// `summarizeBatch`, all in one step.
    Summarise { batch: usize },
    /// `GetUnsummarizedBatches`.
    Unsummarised,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum StoreReply {
    Fetched(Vec<RowAt>),
    /// The transaction was no more.
    RolledBack,
    Claimed(Vec<RowAt>),
    Written {
        row: RowAt,
        before: Status,
        status: Status,
        fallback: bool,
    },
    Reset {
        rows: Vec<RowAt>,
        of: ProcessAt,
    },
    /// Rows in progress: worth another attempt.
    Pending,
    Summarised(Option<(usize, Counts)>),
    Batches(Vec<usize>),
}

#[derive(Debug, Default)]
pub(super) struct Store {
    rows: Vec<Row>,
    batches: Vec<Batch>,
    version: u64,
    /// The claims' transactions.
    open: BTreeMap<ProcessAt, Vec<RowAt>>,
}

impl Store {
    /// `BatchSubmit`. Returns the batch.
    pub(super) fn submit(&mut self, rows: u64) -> usize {
        let first = self.rows.len();
        for _ in 0..rows {
            self.version += 1;
            let batch = self.batches.len();
            self.rows.push(Row { batch, status: Status::Queued, version: self.version, locked_by: None });
        }
        let rows = first..self.rows.len();
        self.batches.push(Batch { rows, status: Status::Queued, ended: None, locked_by: None });
        self.batches.len() - 1
    }

    /// `None`: it waits for a lock.
    pub(super) fn apply(&mut self, by: ProcessAt, op: &StoreOp) -> Option<StoreReply> {
        match op {
            StoreOp::Fetch { limit } => Some(StoreReply::Fetched(self.fetch(by, *limit))),
            StoreOp::Commit => Some(self.commit(by)),
            StoreOp::Write { row, status, fallback } => {
                let (row, status, fallback) = (*row, *status, *fallback);
                let before = self.set(row, status)?;
                Some(StoreReply::Written { row, before, status, fallback })
            }
            StoreOp::Reset { rows, of } => self.reset(rows).map(|rows| StoreReply::Reset { rows, of: *of }),
            StoreOp::Summarise { batch } => self.summarise(*batch),
            StoreOp::Unsummarised => Some(StoreReply::Batches(self.unsummarised())),
        }
    }

    /// `FOR UPDATE OF batchrows, batches SKIP LOCKED`, in no order: what was given back comes last.
    fn fetch(&mut self, by: ProcessAt, limit: u64) -> Vec<RowAt> {
        let free = |row: &Row| row.locked_by.is_none() && self.batches[row.batch].locked_by.is_none();
        let queued = (0..self.rows.len()).filter(|at| self.rows[*at].status == Status::Queued);
        let mut rows: Vec<RowAt> = queued.filter(|at| free(&self.rows[*at])).collect();
        rows.sort_by_key(|at| self.rows[*at].version);
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        if !rows.is_empty() {
            for row in &rows {
                self.rows[*row].locked_by = Some(by);
                let batch = self.rows[*row].batch;
                self.batches[batch].locked_by = Some(by);
            }
            self.open.insert(by, rows.clone());
        }
        rows
    }

    fn commit(&mut self, by: ProcessAt) -> StoreReply {
        let Some(rows) = self.open.get(&by).cloned() else { return StoreReply::RolledBack };
        self.roll_back(by);
        for row in &rows {
            let batch = &mut self.batches[self.rows[*row].batch];
            if batch.status == Status::Queued {
                batch.status = Status::Inprog;
            }
            self.set(*row, Status::Inprog);
        }
        StoreReply::Claimed(rows)
    }

    /// Ends the claim's transaction of a process, if it has one.
    pub(super) fn roll_back(&mut self, by: ProcessAt) {
        for row in self.open.remove(&by).unwrap_or_default() {
            self.rows[row].locked_by = None;
            let batch = self.rows[row].batch;
            self.batches[batch].locked_by = None;
        }
    }

    /// All connections end.
    pub(super) fn roll_back_all(&mut self) {
        while let Some(by) = self.open.keys().next().copied() {
            self.roll_back(by);
        }
    }

    /// An update by id. Returns the status before.
    fn set(&mut self, row: RowAt, status: Status) -> Option<Status> {
        let row = self.rows.get_mut(row).filter(|row| row.locked_by.is_none())?;
        self.version += 1;
        row.version = self.version;
        Some(std::mem::replace(&mut row.status, status))
    }

    fn reset(&mut self, rows: &[RowAt]) -> Option<Vec<RowAt>> {
        if rows.iter().any(|row| self.rows[*row].locked_by.is_some()) {
            return None;
        }
        let rows: Vec<RowAt> = rows.iter().copied().filter(|row| self.rows[*row].status == Status::Inprog).collect();
        for row in &rows {
            self.set(*row, Status::Queued);
        }
        Some(rows)
    }

    fn summarise(&mut self, at: usize) -> Option<StoreReply> {
        let batch = &self.batches[at];
        if batch.locked_by.is_some() {
            return None;
        }
        let has = |status: Status| self.rows[batch.rows.clone()].iter().any(|row| row.status == status);
        if batch.ended.is_some() || has(Status::Queued) {
            return Some(StoreReply::Summarised(None));
        }
        if has(Status::Inprog) {
            return Some(StoreReply::Pending);
        }
        let counts = self.count(at);
        let batch = &mut self.batches[at];
        batch.ended = Some(counts);
        batch.status = match counts {
            Counts { aborted: 1.., .. } => Status::Aborted,
            Counts { failed: 1.., .. } => Status::Failed,
            _ => Status::Success,
        };
        Some(StoreReply::Summarised(Some((at, counts))))
    }

    fn unsummarised(&self) -> Vec<usize> {
        let ended = |batch: &Batch| self.rows[batch.rows.clone()].iter().all(|row| row.status.is_final());
        let missed = |batch: &Batch| batch.status == Status::Inprog && batch.ended.is_none() && ended(batch);
        (0..self.batches.len()).filter(|at| missed(&self.batches[*at])).collect()
    }

    /// `BatchAbort`: locks batch and rows, aborts what is open, counts. `None`: it waits for a lock.
    pub(super) fn abort(&mut self, at: usize) -> Option<Vec<RowAt>> {
        let Some(batch) = self.batches.get(at) else { return Some(Vec::new()) };
        let rows = batch.rows.clone();
        if batch.locked_by.is_some() || rows.clone().any(|row| self.rows[row].locked_by.is_some()) {
            return None;
        }
        if batch.status.is_final() {
            return Some(Vec::new());
        }
        let open: Vec<RowAt> = rows.filter(|row| !self.rows[*row].status.is_final()).collect();
        if !open.is_empty() {
            for row in &open {
                self.set(*row, Status::Aborted);
            }
            let counts = self.count(at);
            self.batches[at].status = Status::Aborted;
            self.batches[at].ended = Some(counts);
        }
        Some(open)
    }

    /// What the rows say now.
    pub(super) fn count(&self, batch: usize) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows[self.batches[batch].rows.clone()] {
            match row.status {
                Status::Success => counts.success += 1,
                Status::Failed => counts.failed += 1,
                Status::Aborted => counts.aborted += 1,
                Status::Queued | Status::Inprog => {}
            }
        }
        counts
    }

    /// What the batch says, if it has ended.
    pub(super) fn recorded(&self, batch: usize) -> Option<Counts> {
        self.batches[batch].ended
    }

    pub(super) fn batch_of(&self, row: RowAt) -> usize {
        self.rows[row].batch
    }

    /// Its place in its batch, from 1.
    pub(super) fn line_of(&self, row: RowAt) -> u64 {
        (row - self.batches[self.rows[row].batch].rows.start) as u64 + 1
    }

    pub(super) fn in_progress(&self) -> impl Iterator<Item = RowAt> {
        (0..self.rows.len()).filter(|at| self.rows[*at].status == Status::Inprog)
    }

    pub(super) fn has_queued(&self) -> bool {
        self.rows.iter().any(|row| row.status == Status::Queued)
    }

    pub(super) fn open_batches(&self) -> usize {
        self.batches.iter().filter(|batch| batch.ended.is_none()).count()
    }
}
