//! Appending rows to a batch: in slices and constant memory, all of them or none, under a key that makes a repeat harmless (S3).

use std::time::Duration;

use fencepost_core::append::{AppendEnd, Appended, Begun, Busy, Staged};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::StoreFailure;
use fencepost_core::{AppendId, BatchId, LineRange};

use crate::input::InputError;
use crate::load::{END_PATIENCE, SLICE_PATIENCE, row_text, until_known};
use crate::slices::{Ahead, Content, InPlace, Part, Source};
use crate::store::{Appends, StoreError};

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Append {
    /// The rows' lines in the batch; none, where there were no rows.
    pub lines: Option<LineRange>,
    /// Whether they were appended now; else an append under the same key with the same rows was there before.
    pub new: bool,
}

/// How far an append is.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// Another one of the batch loads; this one waits for it.
    Waiting(&'a Busy),
    /// So many rows are stored; none of them is the batch's yet.
    Stored(u64),
}

/// Why rows were not appended. Nothing of them can be claimed, but for [`AppendError::Unknown`].
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The rows could not be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A row is no JSON that every store can keep.
    #[error("row {row} cannot be kept")]
    Row {
        /// Its place among the rows to append.
        row: u64,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store did not take them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such batch.
    #[error("there is no batch {batch}")]
    NoBatch {
        /// Which.
        batch: BatchId,
    },
    /// The batch takes no rows.
    #[error("nothing was appended: batch {batch} {}", takes_none(*.status))]
    Closed {
        /// The batch.
        batch: BatchId,
        /// Why it takes none.
        status: BatchStatus,
    },
    /// Another append did without this one's rows.
    #[error(
        "nothing was appended: another append to batch {batch} took over, since this one had not moved for too long; append \
         again, under the same key if there is one"
    )]
    TakenOver {
        /// The batch.
        batch: BatchId,
    },
    /// The rows are stored, but the store did not say whether they are the batch's, however often it was asked.
    #[error("it is not known whether the rows were appended to batch {batch}: the store does not answer any more")]
    Unknown {
        /// The batch, which has all of the rows or none.
        batch: BatchId,
        /// The store's last error.
        #[source]
        cause: StoreError,
    },
    /// The key is bound to an append of other rows.
    #[error("the key {key:?} is bound to an append of other rows to batch {batch}; append these under another key")]
    KeyBound {
        /// The key.
        key: String,
        /// The batch.
        batch: BatchId,
    },
    /// The input has other columns than the batch.
    #[error("the input does not have the columns of batch {batch}{}; give it the same header", difference(.missing, .unknown))]
    Columns {
        /// The batch.
        batch: BatchId,
        /// Columns that the batch has, and the input has not.
        missing: Vec<String>,
        /// The other way round.
        unknown: Vec<String>,
    },
    /// The batch has columns, and the input has none.
    #[error("nothing was appended: batch {batch} has columns, and these rows have none")]
    NoColumns {
        /// The batch.
        batch: BatchId,
        /// Its columns.
        header: Vec<String>,
    },
}

fn takes_none(status: BatchStatus) -> &'static str {
    match status {
        BatchStatus::Loading => "is still being submitted; wait until it is open",
        BatchStatus::Aborted => "is aborted; submit the rows as a batch of their own",
        BatchStatus::Success | BatchStatus::Failed => "has ended; submit the rows as a batch of their own",
        BatchStatus::Open => "is open, yet took no rows; append again",
    }
}

fn difference(missing: &[String], unknown: &[String]) -> String {
    let named = |what, columns: &[String]| {
        let columns: Vec<String> = columns.iter().map(|column| format!("{column:?}")).collect();
        if columns.is_empty() { String::new() } else { format!("; {what} {}", columns.join(", ")) }
    };
    named("missing:", missing) + &named("not in the batch:", unknown)
}

/// Whether an input with these columns goes with a batch of this header: the same columns, in any order, since rows carry their
/// names. To a batch without columns (JSON lines) anything goes; to one with columns nothing without, since its results could not be
/// written as CSV any more.
///
/// # Errors
///
/// [`AppendError::Columns`], which names what differs, and [`AppendError::NoColumns`].
pub fn check_columns(batch: BatchId, header: Option<&[String]>, columns: Option<&[String]>) -> Result<(), AppendError> {
    let Some(header) = header else { return Ok(()) };
    let Some(columns) = columns else { return Err(AppendError::NoColumns { batch, header: header.to_vec() }) };
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|column| !those.contains(column)).cloned().collect()
    };
    let (missing, unknown) = (without(header, columns), without(columns, header));
    if missing.is_empty() && unknown.is_empty() {
        return Ok(());
    }
    Err(AppendError::Columns { batch, missing, unknown })
}

/// Appends rows given as JSON texts, one by one, by `next`, which a thread of its own calls while the store takes the rows before:
/// to a batch that is open, held or not. Waits for another append that loads, for as long as it moves. `progress` hears of that, and
/// how many rows are stored.
///
/// # Errors
///
/// Where the rows cannot be read or stored, the batch has ended, or the key is bound to other rows: then nothing was appended. Where
/// the store falls silent at the very end: then that is not known, and a repeat under the same key tells.
pub async fn rows<E: Into<AppendError> + Send + 'static>(
    store: &impl Appends,
    batch: BatchId,
    key: Option<&str>,
    next: impl FnMut() -> Result<Option<Box<str>>, E> + Send + 'static,
    progress: impl Fn(Progress<'_>),
) -> Result<Append, AppendError> {
    append(store, batch, key, Ahead::start(store.slice_size(), next), progress).await
}

async fn append<E: Into<AppendError>>(
    store: &impl Appends,
    batch: BatchId,
    key: Option<&str>,
    mut source: impl Source<E>,
    progress: impl Fn(Progress<'_>),
) -> Result<Append, AppendError> {
    let append = AppendId::from_random(rand::random());
    let appended = match begin(store, batch, append, key, &progress).await {
        Ok(Begin::Load { first_line }) => {
            load(store, Place { batch, append, first_line }, key, &mut source, &progress).await
        }
        Ok(Begin::Compare { digest, lines }) => return compare(batch, key, &mut source, &digest, lines).await,
        Err(error) => Err(error),
    };
    match &appended {
        // It may be under way yet, and whole.
        Err(AppendError::Unknown { .. }) | Ok(_) => {}
        Err(_) => {
            // What cannot be removed now nobody sees, and goes with a later append; the first error is the one to tell.
            let _ = store.remove_append(batch, append).await;
        }
    }
    appended
}

/// Appends rows that serialize to JSON: what a program has in memory.
///
/// # Errors
///
/// As [`rows`].
pub async fn values<T: serde::Serialize + Send>(
    store: &impl Appends,
    batch: BatchId,
    key: Option<&str>,
    values: impl IntoIterator<Item = T, IntoIter: Send>,
) -> Result<Append, AppendError> {
    let (mut values, mut row) = (values.into_iter(), 0);
    let next = move || {
        row += 1;
        let text = values.next().map(|value| row_text(&value)).transpose();
        text.map_err(|cause| AppendError::Row { row, cause })
    };
    append(store, batch, key, InPlace::new(store.slice_size(), next), |_| {}).await
}

/// How an append goes on.
enum Begin {
    /// Its rows are to be stored.
    Load { first_line: u64 },
    /// Its rows are to be compared with those that were appended under its key.
    Compare { digest: String, lines: Option<LineRange> },
}

async fn begin(
    store: &impl Appends,
    batch: BatchId,
    append: AppendId,
    key: Option<&str>,
    progress: &impl Fn(Progress<'_>),
) -> Result<Begin, AppendError> {
    loop {
        match until_known(SLICE_PATIENCE, || store.begin_append(batch, append, key)).await? {
            Begun::Loading { first_line } => return Ok(Begin::Load { first_line }),
            Begun::Done { digest, lines } => return Ok(Begin::Compare { digest, lines }),
            Begun::Refused { status } => return Err(closed(batch, status)),
            Begun::Busy(busy) => progress(Progress::Waiting(&busy)),
        }
        tokio::time::sleep(BUSY_AGAIN).await;
    }
}

fn closed(batch: BatchId, status: Option<BatchStatus>) -> AppendError {
    match status {
        Some(status) => AppendError::Closed { batch, status },
        None => AppendError::NoBatch { batch },
    }
}

/// Reads all the rows, and stores none.
async fn compare<E: Into<AppendError>>(
    batch: BatchId,
    key: Option<&str>,
    source: &mut impl Source<E>,
    there: &str,
    lines: Option<LineRange>,
) -> Result<Append, AppendError> {
    let content = loop {
        if let Part::End(content) = source.next().await.map_err(Into::into)? {
            break content;
        }
    };
    if content.digest == there {
        return Ok(Append { lines, new: false });
    }
    Err(AppendError::KeyBound { key: key.unwrap_or_default().to_owned(), batch })
}

/// Where the rows go.
#[derive(Clone, Copy)]
struct Place {
    batch: BatchId,
    append: AppendId,
    first_line: u64,
}

async fn load<E: Into<AppendError>>(
    store: &impl Appends,
    place: Place,
    key: Option<&str>,
    source: &mut impl Source<E>,
    progress: &impl Fn(Progress<'_>),
) -> Result<Append, AppendError> {
    let Place { batch, append, first_line } = place;
    let Content { rows, digest } = loop {
        match source.next().await.map_err(Into::into)? {
            Part::Slice(slice) => {
                stage(store, place, first_line + slice.before, &slice.inputs).await?;
                progress(Progress::Stored(slice.rows()));
            }
            Part::End(content) => break content,
        }
    };
    let end = AppendEnd { digest, rows };
    let appended = until_known(END_PATIENCE, || store.finish_append(batch, append, end.clone())).await;
    let appended = appended.map_err(|error| match error.failure {
        StoreFailure::NotDone => AppendError::Store(error),
        StoreFailure::Unknown => AppendError::Unknown { batch, cause: error },
    })?;
    match appended {
        // Same: by a try whose reply was lost.
        Appended::Done { lines } | Appended::Same { lines } => Ok(Append { lines, new: true }),
        Appended::Differs { .. } => Err(AppendError::KeyBound { key: key.unwrap_or_default().to_owned(), batch }),
        Appended::TakenOver => Err(AppendError::TakenOver { batch }),
        Appended::Refused { status } => Err(closed(batch, status)),
    }
}

async fn stage(store: &impl Appends, place: Place, first_line: u64, slice: &[Box<str>]) -> Result<(), AppendError> {
    let Place { batch, append, .. } = place;
    match until_known(SLICE_PATIENCE, || store.append_rows(batch, append, first_line, slice)).await? {
        Staged::Stored => Ok(()),
        Staged::TakenOver => Err(AppendError::TakenOver { batch }),
        Staged::Refused { status } => Err(closed(batch, status)),
    }
}

/// How soon an append that has to wait for another one asks again.
const BUSY_AGAIN: Duration = Duration::from_secs(1);
