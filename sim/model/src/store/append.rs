//! S3: appends.

use fencepost_core::append::{AppendEnd, Appended, Begun, Busy, Staged, lines_of};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::{
    AppendBeginning, AppendEnding, AppendStaging, AppendState, UnfinishedAppend, s3_begin_append, s3_finish_append,
    s3_moved_at, s3_stage,
};
use fencepost_core::{AppendId, BatchId, LineRange, StoreTime};

use super::{Event, Mistake, ModelStore};

/// An append's record, with what it staged.
#[derive(Debug, Clone, Hash)]
pub(super) struct Append {
    pub batch: BatchId,
    key: Option<Box<str>>,
    digest: Option<Box<str>>,
    first_line: u64,
    pub rows: u64,
    /// Empty once it is done: they are the batch's then.
    staged: Vec<Box<str>>,
    pub state: AppendState,
    pub moved_at: StoreTime,
}

impl Append {
    fn lines(&self) -> Option<LineRange> {
        lines_of(self.first_line, self.rows)
    }
}

impl ModelStore {
    fn status_of(&self, batch: BatchId) -> Option<BatchStatus> {
        self.batches.get(&batch).map(|batch| batch.status)
    }

    fn append_of(&self, batch: BatchId, append: AppendId) -> Option<&Append> {
        self.appends.get(&append).filter(|found| found.batch == batch)
    }

    /// S3: begins an append, behind what is left of one that was cut off.
    pub fn begin_append(&mut self, now: StoreTime, batch: BatchId, append: AppendId, key: Option<&str>) -> Begun {
        let under_key = |found: &&Append| found.batch == batch && key.is_some() && found.key.as_deref() == key;
        let known = self.append_of(batch, append).or_else(|| self.appends.values().find(under_key));
        let done = known.filter(|known| known.state == AppendState::Done).cloned();
        let status = self.status_of(batch);
        let unfinished = |(_, found): &(&AppendId, &Append)| found.batch == batch && found.state != AppendState::Done;
        let unfinished = self.appends.iter().find(unfinished).map(|(id, found)| (*id, found.clone()));
        let as_seen = unfinished.as_ref().map(|(id, found)| UnfinishedAppend {
            own: *id == append,
            state: found.state,
            moved_at: found.moved_at,
        });
        match (s3_begin_append(done.is_some(), status, as_seen, now), done, unfinished) {
            (AppendBeginning::Done, Some(done), _) => {
                Begun::Done { digest: done.digest.clone().unwrap_or_default().into(), lines: done.lines() }
            }
            (AppendBeginning::Begun, _, Some((_, own))) => Begun::Loading { first_line: own.first_line },
            (AppendBeginning::Busy, _, Some((id, other))) => {
                let moved_at = s3_moved_at(other.moved_at, now);
                self.appends.insert(id, Append { moved_at, ..other.clone() });
                Begun::Busy(Busy { key: other.key.map(Into::into), rows: other.rows, unmoved_for: now.since(moved_at) })
            }
            (AppendBeginning::Remove, _, Some((id, _))) => {
                self.appends.remove(&id);
                self.begin_append(now, batch, append, key)
            }
            (AppendBeginning::Begin, ..) => {
                let first_line = self.batches.get(&batch).map_or(0, |batch| batch.total) + 1;
                let begun = Append {
                    batch,
                    key: key.map(Into::into),
                    digest: None,
                    first_line,
                    rows: 0,
                    staged: Vec::new(),
                    state: AppendState::Loading,
                    moved_at: now,
                };
                self.appends.insert(append, begun);
                Begun::Loading { first_line }
            }
            _ => Begun::Refused { status },
        }
    }

    /// S3: stores rows beyond the total. None: lines before are missing.
    pub fn append_rows(
        &mut self,
        now: StoreTime,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        rows: &[Box<str>],
    ) -> Option<Staged> {
        let status = self.status_of(batch);
        let own = self.append_of(batch, append).map(|own| own.state);
        match s3_stage(own, status) {
            AppendStaging::Refused => return Some(Staged::Refused { status }),
            AppendStaging::TakenOver => return Some(Staged::TakenOver),
            AppendStaging::Store => {}
        }
        let own = self.appends.get_mut(&append)?;
        let before = first_line.checked_sub(own.first_line).filter(|before| *before <= own.rows)?;
        let there = usize::try_from(own.rows - before).unwrap_or(usize::MAX);
        own.staged.extend(rows.iter().skip(there).cloned());
        own.rows = own.staged.len() as u64;
        own.moved_at = now;
        Some(Staged::Stored)
    }

    /// S3: makes the rows the batch's. None: it has not so many.
    pub fn finish_append(&mut self, batch: BatchId, append: AppendId, end: &AppendEnd) -> Option<Appended> {
        let anyhow = self.makes(Mistake::AppendToEnded);
        let status = self.status_of(batch).map(|status| if anyhow { BatchStatus::Open } else { status });
        let own = self.append_of(batch, append).cloned();
        let lines = own.as_ref().and_then(Append::lines);
        let seen = own.as_ref().map(|own| (own.state, own.digest.as_deref()));
        match (s3_finish_append(seen, status, &end.digest), own) {
            (AppendEnding::Raise, Some(own)) => {
                if own.rows != end.rows {
                    return None;
                }
                self.raise_total(batch, own.staged.clone());
                let digest = Some(end.digest.as_str().into());
                let done = Append { digest, staged: Vec::new(), state: AppendState::Done, ..own };
                self.appends.insert(append, done);
                Some(Appended::Done { lines })
            }
            (AppendEnding::Same, _) => Some(Appended::Same { lines }),
            (AppendEnding::Differs, _) => Some(Appended::Differs { lines }),
            (AppendEnding::Refused, _) => {
                self.remove_append(batch, append);
                Some(Appended::Refused { status })
            }
            (AppendEnding::TakenOver | AppendEnding::Raise, _) => Some(Appended::TakenOver),
        }
    }

    fn raise_total(&mut self, batch: BatchId, rows: Vec<Box<str>>) {
        let anyhow = self.makes(Mistake::AppendToEnded);
        let Some(found) = self.batches.get_mut(&batch).filter(|_| !rows.is_empty()) else { return };
        let first = found.total + 1;
        if anyhow {
            found.append_anyhow(rows);
        } else {
            found.append(rows);
        }
        self.events.push(Event::BatchAppended { batch, lines: LineRange { first, last: found.total } });
        self.touched.insert(batch);
    }

    /// S3: removes an append that is not done.
    pub fn remove_append(&mut self, batch: BatchId, append: AppendId) {
        if self.append_of(batch, append).is_some_and(|own| own.state != AppendState::Done) {
            self.appends.remove(&append);
        }
    }
}
