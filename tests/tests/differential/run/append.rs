//! S3: appends of all kinds, as steps of a run: whole ones, parts of them, repeats, other content under a key, two at once, cut off and
//! taken over, on batches of every status.

use std::time::Duration;

use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::Clock;
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::S3_CUT_OFF_AFTER;
use fencepost_core::{AppendId, BatchId};
use fencepost_model::store::BatchSpec as ModelSpec;

use super::Run;

/// What whoever appends knows of its append.
#[derive(Clone)]
pub(super) struct Appending {
    batch: BatchId,
    append: AppendId,
    key: Option<&'static str>,
    first_line: u64,
    stored: u64,
}

impl Run {
    pub(super) async fn append(&mut self) {
        match self.below(10) {
            0..3 => self.begin_append().await,
            3..6 => self.append_slice().await,
            6..8 => self.finish_append().await,
            8 => self.remove_append().await,
            _ => self.append_while_loading().await,
        }
    }

    /// Batches that ended while rows were stored beyond their totals.
    pub(crate) fn staged_to(&self) -> Vec<BatchId> {
        let staged = self.appends.iter().filter(|append| append.stored > 0).map(|append| append.batch);
        staged.filter(|batch| !matches!(self.model.status(*batch), None | Some(BatchStatus::Open))).collect()
    }

    /// Mostly an open one.
    fn some_open_batch(&mut self) -> BatchId {
        if self.one_in(8) && !self.purging.is_empty() {
            let purging = self.purging.clone();
            return self.pick(&purging).unwrap_or(BatchId::from_random(7));
        }
        let mut from = self.batches.clone();
        if !self.one_in(3) {
            from.retain(|batch| self.model.status(*batch) == Some(BatchStatus::Open));
        }
        if self.one_in(30) { BatchId::from_random(7) } else { self.pick(&from).unwrap_or(BatchId::from_random(7)) }
    }

    /// Mostly a late one.
    fn some_append(&mut self) -> Option<Appending> {
        let late = self.appends.len().saturating_sub(if self.one_in(5) { 20 } else { 3 });
        let from = self.appends[late..].to_vec();
        self.pick(&from)
    }

    async fn begin_append(&mut self) {
        if self.one_in(4) {
            // Just long enough for what loads to be cut off, or not quite.
            self.append_slice().await;
            let short_by = Duration::from_micros(self.below(2));
            self.pass(S3_CUT_OFF_AFTER - short_by);
        }
        let known = self.some_append();
        let (batch, append, key) = match known {
            Some(known) if self.one_in(5) => (known.batch, known.append, known.key),
            _ => {
                let keys = [None, None, Some("a"), Some("b")];
                let append = AppendId::from_random(self.random.next_u64());
                (self.some_open_batch(), append, self.pick(&keys).unwrap())
            }
        };
        let held = self.model.view().batch(batch).is_some_and(|view| view.held);
        self.see("append to a batch that is being purged", self.purging.contains(&batch));
        let begun = self.ask_begin(batch, append, key).await;
        let again = self.appends.iter().any(|known| known.append == append);
        match begun {
            Begun::Loading { first_line } => {
                self.see("append begun", !again);
                self.see("append begun again", again);
                self.see("append to a held batch", held);
                let took_over = self.appends.iter().any(|known| known.batch == batch && known.stored > 0);
                self.see("append behind another", took_over);
                if !again {
                    self.appends.push(Appending { batch, append, key, first_line, stored: 0 });
                }
            }
            Begun::Done { .. } => self.see("append done before", true),
            Begun::Busy(_) => self.see("append busy", true),
            Begun::Refused { status } => self.see(
                match status {
                    None => "append refused, no batch",
                    Some(BatchStatus::Success) => "append refused, success",
                    Some(BatchStatus::Failed) => "append refused, failed",
                    Some(BatchStatus::Aborted) => "append refused, aborted",
                    Some(BatchStatus::Loading | BatchStatus::Open) => panic!("{status:?}"),
                },
                true,
            ),
        }
    }

    async fn ask_begin(&mut self, batch: BatchId, append: AppendId, key: Option<&str>) -> Begun {
        let now = self.clock.now();
        self.story.push(format!("{} begin append {append} to {batch}, key {key:?}", now.0));
        let expected = self.model.begin_append(now, batch, append, key);
        for (name, got) in self.subjects.begin_append(batch, append, key).await {
            assert_eq!(got.unwrap(), expected, "{name} left, model right, after\n{}", self.told());
        }
        expected
    }

    async fn append_slice(&mut self) {
        let Some(known) = self.some_append() else { return };
        let (before, count) = match self.below(8) {
            0 => (known.stored + 1, self.below(6)),
            1 => (self.below(known.stored + 1), self.below(6)),
            2 => (0, known.stored),
            _ => (known.stored, self.below(6)),
        };
        let first_line = known.first_line + before;
        let rows: Vec<Box<str>> = (0..count).map(|n| format!("{}", first_line + n).into()).collect();
        let now = self.clock.now();
        self.story.push(format!(
            "{} append {} to {}: {} rows from {first_line}",
            now.0,
            known.append,
            known.batch,
            rows.len()
        ));
        let expected = self.model.append_rows(now, known.batch, known.append, first_line, &rows);
        for (name, got) in self.subjects.append_rows(known.batch, known.append, first_line, &rows).await {
            let got = self.known_or_refused(name, got);
            assert_eq!(got, expected, "{name} left, model right, after\n{}", self.told());
        }
        match expected {
            Some(Staged::Stored) => {
                let stored = (first_line - known.first_line + rows.len() as u64).max(known.stored);
                self.see("slice stored", stored > known.stored);
                self.see("slice repeated", stored == known.stored && !rows.is_empty());
                for one in &mut self.appends {
                    one.stored = if one.append == known.append { stored } else { one.stored };
                }
            }
            Some(Staged::TakenOver) => self.see("slice taken over", true),
            Some(Staged::Refused { .. }) => self.see("slice refused", true),
            None => self.see("slice with a gap", true),
        }
    }

    /// Where the model has no answer, a store has an error that says that nothing was done.
    fn known_or_refused<T>(&self, name: &str, got: Result<T, fencepost::store::StoreError>) -> Option<T> {
        match got {
            Ok(got) => Some(got),
            Err(error) => {
                let refused = error.failure == fencepost_core::store::StoreFailure::NotDone && error.cause.is_none();
                assert!(refused && error.message.contains("the append"), "{name}: {error}\n{}", self.told());
                None
            }
        }
    }

    async fn finish_append(&mut self) {
        let Some(known) = self.some_append() else { return };
        let digest = if self.one_in(4) { "other" } else { "this" }.to_owned();
        let end = AppendEnd { digest, rows: known.stored + u64::from(self.one_in(10)) };
        let now = self.clock.now();
        self.story.push(format!("{} end append {} to {}: {end:?}", now.0, known.append, known.batch));
        let expected = self.model.finish_append(known.batch, known.append, &end);
        for (name, got) in self.subjects.finish_append(known.batch, known.append, &end).await {
            let got = self.known_or_refused(name, got);
            assert_eq!(got, expected, "{name} left, model right, after\n{}", self.told());
        }
        let kind = match expected {
            Some(Appended::Done { lines: Some(_) }) => "appended",
            Some(Appended::Done { lines: None }) => "appended nothing",
            Some(Appended::Same { .. }) => "appended, same",
            Some(Appended::Differs { .. }) => "appended, differs",
            Some(Appended::TakenOver) => "append taken over",
            Some(Appended::Refused { .. }) => "append refused at its end",
            None => "append incomplete",
        };
        self.see(kind, true);
    }

    async fn remove_append(&mut self) {
        let Some(known) = self.some_append() else { return };
        self.story.push(format!("remove append {} to {}", known.append, known.batch));
        self.model.remove_append(known.batch, known.append);
        self.subjects.remove_append(known.batch, known.append).await;
        self.see("append removed", true);
    }

    /// The batch is opened afterwards, empty: it ends at once.
    async fn append_while_loading(&mut self) {
        if !self.one_in(3) {
            return;
        }
        let spec = BatchSpec::new("op");
        let batch = self.subjects.begin_load(&spec).await;
        let of_model = ModelSpec { timeout: spec.timeout, ..ModelSpec::new(batch, "op") };
        self.model.begin_load(self.clock.now(), of_model);
        let append = AppendId::from_random(self.random.next_u64());
        let status = Some(BatchStatus::Loading);
        assert_eq!(self.ask_begin(batch, append, None).await, Begun::Refused { status });
        self.see("append refused, loading", true);
        self.model.finish_load(self.clock.now(), batch, None, "");
        self.subjects.finish_empty(batch).await;
        self.batches.push(batch);
    }

    /// Nobody sees a row beyond a total, and all of those that are there belong to an append that is not done.
    pub(super) async fn compare_lines(&mut self) {
        let totals: Vec<(BatchId, u64)> =
            self.model.view().batches.iter().map(|view| (view.batch, view.total)).collect();
        for (name, seen) in self.subjects.lines_seen(&totals).await {
            for ((batch, total), lines) in totals.iter().zip(seen) {
                assert_eq!(
                    lines,
                    [*total; 3],
                    "{name}: inputs, rows, row_status of {batch} with {total} lines\n{}",
                    self.told()
                );
            }
        }
        for (name, beyond, of_appends) in self.subjects.rows_beyond_totals().await {
            assert_eq!(beyond, of_appends, "{name}\n{}", self.told());
        }
    }
}
