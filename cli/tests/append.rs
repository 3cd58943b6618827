//! Appending whole: in slices, under a key, beside another append, and with a store whose answers are lost.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencepost::append::{self, Append, AppendError, Progress, check_columns};
use fencepost::load;
use fencepost::store::loading::{BatchSpec, SLICE_ROWS};
use fencepost::store::sqlite::{Clock, SqliteStore};
use fencepost::store::{Appends, OpenMode, Reads, StoreError};
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged, lines_of};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::{AppendId, BatchId, StoreTime};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

/// A clock that only the test moves.
#[derive(Clone)]
struct StepClock(Arc<AtomicI64>);

impl Clock for StepClock {
    fn now(&self) -> StoreTime {
        StoreTime(self.0.load(Ordering::SeqCst))
    }
}

struct Place {
    _directory: tempfile::TempDir,
    store: SqliteStore,
    clock: StepClock,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = StepClock(Arc::new(AtomicI64::new(1_000_000_000_000)));
        let path = directory.path().join("store.db");
        let store = SqliteStore::open_with_clock(&path, OpenMode::Create, Arc::new(clock.clone())).await.unwrap();
        Self { _directory: directory, store, clock }
    }

    async fn batch(&self, rows: u32) -> BatchId {
        load::values(&self.store, BatchSpec::new("op"), None, 1..=rows).await.unwrap().batch
    }

    /// How many rows the store has of it, seen or not.
    async fn rows_stored(&self, batch: BatchId) -> i64 {
        let mut raw = SqliteConnectOptions::new().filename(self.store.path()).connect().await.unwrap();
        let count = sqlx::query_scalar("select count(*) from rows where batch = ?").bind(batch.number().cast_signed());
        count.fetch_one(&mut raw).await.unwrap()
    }

    async fn inputs(&self, batch: BatchId) -> Vec<String> {
        let inputs = self.store.inputs(batch, 0, u32::MAX).await.unwrap();
        inputs.into_iter().map(|(_, input)| input.into_string()).collect()
    }
}

#[tokio::test]
async fn rows_are_appended_in_slices_all_at_once() {
    let place = Place::new().await;
    let batch = place.batch(2).await;
    let count = 2 * SLICE_ROWS as u32 + 5;
    let stored = Mutex::new(Vec::new());
    let (mut numbers, store, seen) = (3..3 + count, &place.store, &stored);
    let next = move || Ok::<_, AppendError>(numbers.next().map(|n| n.to_string().into_boxed_str()));
    let progress = |progress: Progress<'_>| match progress {
        Progress::Stored(rows) => seen.lock().unwrap().push(rows),
        Progress::Waiting(busy) => panic!("{busy:?}"),
    };
    let appended = append::rows(store, batch, None, next, progress).await.unwrap();
    assert_eq!(appended, Append { lines: lines_of(3, u64::from(count)), new: true });
    assert_eq!(*stored.lock().unwrap(), [SLICE_ROWS as u64, 2 * SLICE_ROWS as u64, u64::from(count)]);
    assert_eq!(place.inputs(batch).await, (1..3 + count).map(|n| n.to_string()).collect::<Vec<_>>());
    let none = append::values(&place.store, batch, None, Vec::<u32>::new()).await.unwrap();
    assert_eq!(none, Append { lines: None, new: true });
}

#[tokio::test]
async fn a_key_appends_once() {
    let place = Place::new().await;
    let (batch, other) = (place.batch(1).await, place.batch(1).await);
    let first = append::values(&place.store, batch, Some("k"), 5..=6).await.unwrap();
    assert_eq!(first, Append { lines: lines_of(2, 2), new: true });
    let again = append::values(&place.store, batch, Some("k"), 5..=6).await.unwrap();
    assert_eq!(again, Append { new: false, ..first });
    let error = append::values(&place.store, batch, Some("k"), 5..=7).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the key \"k\" is bound to an append of other rows to batch {batch}; append these under another key")
    );
    assert_eq!(place.inputs(batch).await, ["1", "5", "6"]);
    // Keys are each batch's own.
    assert!(append::values(&place.store, other, Some("k"), 9..=9).await.unwrap().new);
}

#[tokio::test]
async fn a_batch_that_takes_no_rows_says_why() {
    let place = Place::new().await;
    let ended = place.batch(0).await;
    let error = append::values(&place.store, ended, None, 1..=1).await.unwrap_err();
    assert!(matches!(error, AppendError::Closed { status: BatchStatus::Success, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("nothing was appended: batch {ended} has ended; submit the rows as a batch of their own")
    );
    let nobody = BatchId::from_random(7);
    let error = append::values(&place.store, nobody, None, 1..=1).await.unwrap_err();
    assert_eq!(error.to_string(), format!("there is no batch {nobody}"));
}

#[tokio::test]
async fn rows_that_cannot_be_read_leave_nothing_behind() {
    let place = Place::new().await;
    let batch = place.batch(1).await;
    let mut rows = 0;
    let next = move || {
        rows += 1;
        if rows <= SLICE_ROWS + 1 {
            return Ok(Some("1".into()));
        }
        Err(AppendError::Row { row: 9, cause: "unreadable".into() })
    };
    let error = append::rows(&place.store, batch, Some("k"), next, |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "row 9 cannot be kept");
    assert_eq!(place.rows_stored(batch).await, 1);
    // Neither the place nor the key is taken.
    let begun = place.store.begin_append(batch, AppendId::from_random(1), Some("k")).await.unwrap();
    assert_eq!(begun, Begun::Loading { first_line: 2 });
    assert_eq!(place.inputs(batch).await, ["1"]);
}

#[tokio::test]
async fn an_append_waits_for_another_one() {
    let place = Place::new().await;
    let batch = place.batch(1).await;
    let other = AppendId::from_random(1);
    place.store.begin_append(batch, other, Some("theirs")).await.unwrap();
    place.store.append_rows(batch, other, 2, &["7".into()]).await.unwrap();
    let (waits, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let store = place.store.clone();
    let theirs = tokio::spawn(async move {
        assert_eq!(waiting.recv().await, Some((Some("theirs".to_owned()), 1)));
        store.finish_append(batch, other, AppendEnd { digest: "d".to_owned(), rows: 1 }).await.unwrap()
    });
    let mut one = Some("8");
    let next = move || Ok::<_, AppendError>(one.take().map(Box::from));
    let progress = |progress: Progress<'_>| {
        if let Progress::Waiting(busy) = progress {
            let _ = waits.send((busy.key.clone(), busy.rows));
        }
    };
    let ours = append::rows(&place.store, batch, None, next, progress).await.unwrap();
    assert_eq!(theirs.await.unwrap(), Appended::Done { lines: lines_of(2, 1) });
    assert_eq!(ours.lines, lines_of(3, 1));
    assert_eq!(place.inputs(batch).await, ["1", "7", "8"]);
}

/// A store made before appends were built has another table for them, with nothing in it.
#[tokio::test]
async fn a_store_of_version_2_is_brought_up_to_date() {
    let place = Place::new().await;
    let batch = place.batch(1).await;
    let path = place.store.path().to_owned();
    let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::raw_sql(
        "drop table appends; drop table stopping; drop table purges;
         create table appends (append integer primary key, batch integer not null, key text not null, digest text,
             first_line integer, line_count integer not null default 0,
             status text not null check (status in ('loading', 'done', 'refused')), created_at integer not null,
             unique (batch, key)) strict;
         drop index completions_fresh_by_command;
         drop index completions_waiting_by_command;
         drop index completions_fresh_by_url;
         drop index completions_waiting_by_url;
         drop index completions_fresh_under_url;
         drop index completions_waiting_under_url;
         alter table store drop column calls_due;
         drop index completions_held;
         drop index completions_waiting;
         alter table completions drop column operation;
         alter table leases drop column calls;
         alter table batches drop column on_done_url;
         update store set schema_version = 2, worker_version_min = 1",
    )
    .execute(&mut raw)
    .await
    .unwrap();
    let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    assert_eq!(append::values(&store, batch, None, 2..=3).await.unwrap().lines, lines_of(2, 2));
    assert_eq!(place.inputs(batch).await, ["1", "2", "3"]);
}

/// Does what it is asked, but every first answer is lost.
struct LosesFirstAnswers<'a> {
    store: &'a SqliteStore,
    asked: AtomicU32,
}

impl LosesFirstAnswers<'_> {
    fn answer<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if self.asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return Err(StoreError::unknown("cut off", None));
        }
        answer
    }
}

impl Appends for LosesFirstAnswers<'_> {
    async fn begin_append(&self, batch: BatchId, append: AppendId, key: Option<&str>) -> Result<Begun, StoreError> {
        self.answer(self.store.begin_append(batch, append, key).await)
    }

    async fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> Result<Staged, StoreError> {
        self.answer(self.store.append_rows(batch, append, first_line, inputs).await)
    }

    async fn finish_append(&self, batch: BatchId, append: AppendId, end: AppendEnd) -> Result<Appended, StoreError> {
        self.answer(self.store.finish_append(batch, append, end).await)
    }

    async fn remove_append(&self, _: BatchId, _: AppendId) -> Result<(), StoreError> {
        panic!("nothing failed")
    }
}

#[tokio::test]
async fn lost_answers_are_asked_for_until_they_are_known() {
    let place = Place::new().await;
    let batch = place.batch(1).await;
    let store = LosesFirstAnswers { store: &place.store, asked: AtomicU32::new(0) };
    let appended = append::values(&store, batch, None, 2..=4).await.unwrap();
    assert_eq!(appended, Append { lines: lines_of(2, 3), new: true }, "no key is needed for that");
    assert_eq!(store.asked.load(Ordering::SeqCst), 6, "each was asked twice");
    assert_eq!(place.inputs(batch).await, ["1", "2", "3", "4"]);
}

/// Before the end of an append, another one takes over.
struct Overtaken<'a>(&'a Place);

impl Appends for Overtaken<'_> {
    async fn begin_append(&self, batch: BatchId, append: AppendId, key: Option<&str>) -> Result<Begun, StoreError> {
        self.0.store.begin_append(batch, append, key).await
    }

    async fn append_rows(
        &self,
        batch: BatchId,
        append: AppendId,
        first_line: u64,
        inputs: &[Box<str>],
    ) -> Result<Staged, StoreError> {
        self.0.store.append_rows(batch, append, first_line, inputs).await
    }

    async fn finish_append(&self, batch: BatchId, append: AppendId, end: AppendEnd) -> Result<Appended, StoreError> {
        let minute = i64::try_from(Duration::from_secs(60).as_micros()).unwrap();
        self.0.clock.0.fetch_add(minute, Ordering::SeqCst);
        let other = AppendId::from_random(1);
        assert_eq!(self.0.store.begin_append(batch, other, None).await?, Begun::Loading { first_line: 2 });
        self.0.store.append_rows(batch, other, 2, &["9".into()]).await?;
        let ours = self.0.store.finish_append(batch, append, end).await;
        self.0.store.finish_append(batch, other, AppendEnd { digest: "d".to_owned(), rows: 1 }).await?;
        ours
    }

    async fn remove_append(&self, batch: BatchId, append: AppendId) -> Result<(), StoreError> {
        self.0.store.remove_append(batch, append).await
    }
}

#[tokio::test]
async fn an_append_that_was_taken_over_adds_nothing() {
    let place = Place::new().await;
    let batch = place.batch(1).await;
    // More than a slice, so that they are removed in several.
    let error = append::values(&Overtaken(&place), batch, None, 0..9000).await.unwrap_err();
    assert!(matches!(error, AppendError::TakenOver { .. }), "{error:?}");
    assert!(error.to_string().starts_with("nothing was appended: another append to batch"), "{error}");
    assert_eq!(place.inputs(batch).await, ["1", "9"]);
    assert_eq!(place.rows_stored(batch).await, 2);
}

#[test]
fn columns_are_those_of_the_batch_in_any_order() {
    let batch = BatchId::from_random(7);
    let columns = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let check = |header: &Option<Vec<String>>, input: &Option<Vec<String>>| {
        check_columns(batch, header.as_deref(), input.as_deref())
    };
    let header = columns(&["name", "town"]);
    check(&header, &header).unwrap();
    check(&header, &columns(&["town", "name"])).unwrap();
    check(&None, &header).unwrap();
    check(&None, &None).unwrap();
    let none = check(&header, &None).unwrap_err().to_string();
    assert_eq!(none, format!("nothing was appended: batch {batch} has columns, and these rows have none"));
    let error = check(&header, &columns(&["name", "city", "zip"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the input does not have the columns of batch {batch}; missing: \"town\"; not in the batch: \"city\", \"zip\"; give it \
             the same header"
        )
    );
    let error = check(&header, &columns(&["name"])).unwrap_err();
    assert!(error.to_string().contains("; missing: \"town\"; give it"), "{error}");
}
