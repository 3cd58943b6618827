//! Submitting rows: in slices and constant memory, under a key that makes a repeat harmless (S4).

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::store::StoreFailure;
use tokio::time::Instant;

use crate::input::InputError;
use crate::slices::{Ahead, Content, InPlace, Part, Source};
use crate::store::loading::{BatchSpec, LoadEnd, Loaded};
use crate::store::{Loads, StoreError};

/// What a load came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The batch with these rows.
    pub batch: BatchId,
    /// How many rows.
    pub rows: u64,
    /// Whether it was made now; else a load under the same key with the same rows was there before.
    pub new: bool,
}

/// Why rows were not submitted. Nothing of them can be claimed, but for [`LoadError::Unknown`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The rows could not be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A row is no JSON that every store can keep.
    #[error("row {line} cannot be kept")]
    Row {
        /// Its place.
        line: u64,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store did not take them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows are stored, but the store did not say whether they are submitted, however often it was asked.
    #[error("it is not known whether batch {batch} was submitted: the store does not answer any more")]
    Unknown {
        /// The batch, which is there with all its rows or will never be claimable.
        batch: BatchId,
        /// The store's last error.
        #[source]
        cause: StoreError,
    },
    /// The key is bound to a batch with other rows.
    #[error("the key {key:?} is bound to batch {batch}, which has other content")]
    KeyBound {
        /// The key.
        key: String,
        /// The batch under it.
        batch: BatchId,
    },
}

/// Submits rows given as JSON texts, one by one, by `next`, which a thread of its own calls while the store takes the rows before.
/// `progress` hears how many are stored.
///
/// # Errors
///
/// Where the rows cannot be read or stored, or the key is bound to other rows: then nothing was submitted. Where the store
/// falls silent at the very end: then that is not known.
pub async fn rows<E: Into<LoadError> + Send + 'static>(
    store: &impl Loads,
    spec: BatchSpec,
    key: Option<&str>,
    next: impl FnMut() -> Result<Option<Box<str>>, E> + Send + 'static,
    progress: impl Fn(u64),
) -> Result<Load, LoadError> {
    submit(store, spec, key, Ahead::start(store.slice_size(), next), progress).await
}

async fn submit<E: Into<LoadError>>(
    store: &impl Loads,
    spec: BatchSpec,
    key: Option<&str>,
    mut source: impl Source<E>,
    progress: impl Fn(u64),
) -> Result<Load, LoadError> {
    let batch = store.begin_load(spec).await?;
    let loaded = load(store, batch, key, &mut source, progress).await;
    if loaded.is_err() {
        // What cannot be removed now is not claimable and goes with a later load; the first error is the one to tell.
        let _ = store.remove_load(batch).await;
    }
    loaded
}

/// Submits rows that serialize to JSON: what a program has in memory.
///
/// # Errors
///
/// As [`rows`].
pub async fn values<T: serde::Serialize + Send>(
    store: &impl Loads,
    spec: BatchSpec,
    key: Option<&str>,
    values: impl IntoIterator<Item = T, IntoIter: Send>,
) -> Result<Load, LoadError> {
    let (mut values, mut line) = (values.into_iter(), 0);
    let next = move || {
        line += 1;
        values.next().map(|value| row_text(&value)).transpose().map_err(|cause| LoadError::Row { line, cause })
    };
    submit(store, spec, key, InPlace::new(store.slice_size(), next), |_| {}).await
}

/// A value as a row's JSON text, where every store can keep it.
pub(crate) fn row_text<T: serde::Serialize>(value: &T) -> Result<Box<str>, Box<dyn std::error::Error + Send + Sync>> {
    let text = serde_json::to_string(value)?;
    crate::input::check_json(&text)?;
    Ok(text.into_boxed_str())
}

async fn load<E: Into<LoadError>>(
    store: &impl Loads,
    batch: BatchId,
    key: Option<&str>,
    source: &mut impl Source<E>,
    progress: impl Fn(u64),
) -> Result<Load, LoadError> {
    let Content { rows, digest } = loop {
        match source.next().await.map_err(Into::into)? {
            Part::Slice(slice) => {
                until_known(SLICE_PATIENCE, || store.load_rows(batch, slice.before + 1, &slice.inputs)).await?;
                progress(slice.rows());
            }
            Part::End(content) => break content,
        }
    };
    let end = LoadEnd { key: key.map(str::to_owned), digest, total: rows };
    let loaded = until_known(END_PATIENCE, || store.finish_load(batch, end.clone())).await;
    let loaded = loaded.map_err(|error| match error.failure {
        StoreFailure::NotDone => LoadError::Store(error),
        StoreFailure::Unknown => LoadError::Unknown { batch, cause: error },
    })?;
    match loaded {
        Loaded::New => Ok(Load { batch, rows, new: true }),
        // Opened by a try whose reply was lost.
        Loaded::Same(own) if own == batch => Ok(Load { batch, rows, new: true }),
        Loaded::Same(batch) => Ok(Load { batch, rows, new: false }),
        Loaded::Differs(batch) => Err(LoadError::KeyBound { key: key.unwrap_or_default().to_owned(), batch }),
    }
}

/// How long a slice that may have been stored is asked for, from then on: without it nothing is submitted, and that is known.
pub(crate) const SLICE_PATIENCE: Duration = Duration::from_secs(5);
/// How long an end that may have happened is asked for, from then on: nothing else tells.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(60);
/// How soon it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// O2: a write of a load or an append whose answer was lost is repeated as it is until its end is known; ids and the slice's first
/// line make that harmless. What certainly did not happen is an error at once.
pub(crate) async fn until_known<T, F: Future<Output = Result<T, StoreError>>>(
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut until = None;
    loop {
        let mut error = match ask().await {
            Ok(known) => return Ok(known),
            Err(error) => error,
        };
        if error.settled {
            return Err(error);
        }
        if error.failure == StoreFailure::Unknown {
            until.get_or_insert_with(|| Instant::now() + patience);
        }
        let Some(until) = until else { return Err(error) };
        if Instant::now() >= until {
            // An earlier try may have happened all the same.
            error.failure = StoreFailure::Unknown;
            return Err(error);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a request after a try whose end is not known, and how often it was asked.
    async fn said_after_an_unknown_try(then: fn() -> Result<(), StoreError>) -> (Result<(), StoreFailure>, u32) {
        let mut asked = 0;
        let patience = Duration::from_millis(1);
        let said = until_known(patience, || {
            asked += 1;
            let reply = if asked == 1 { Err(StoreError::unknown("cut off", None)) } else { then() };
            async { reply }
        });
        (said.await.map_err(|error| error.failure), asked)
    }

    /// A server that failed and has lost a load's rows will never open it: neither does an earlier try.
    #[tokio::test]
    async fn an_answer_about_all_tries_ends_the_asking() {
        let settled = || Err(StoreError::settled("its rows are gone"));
        assert_eq!(said_after_an_unknown_try(settled).await, (Err(StoreFailure::NotDone), 2));
        let refused = || Err(StoreError::not_done("no connection", None));
        assert_eq!(said_after_an_unknown_try(refused).await, (Err(StoreFailure::Unknown), 2));
        assert_eq!(said_after_an_unknown_try(|| Ok(())).await, (Ok(()), 2));
    }
}
