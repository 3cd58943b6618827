//! S4: what a load is made of, and what finishing it comes to; the same for every store.

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::rules::leaving::{KeyBinding, s4_bind_key};

/// A slice has at most about so many rows, where others wait for its transaction: that then takes some 10 ms.
pub const SLICE_ROWS: usize = 4_000;

/// How large the slices of a load or an append are best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSize {
    /// At most so many rows.
    pub rows: usize,
    /// At most so many bytes of inputs, but for the last row.
    pub bytes: usize,
    /// A slice of rows that come slowly is closed by the first one that comes after so long: others are to see that it moves.
    pub reading: Duration,
}

impl SliceSize {
    /// Where there is one writer at a time.
    pub const SMALL: Self = Self { rows: SLICE_ROWS, bytes: 1 << 20, reading: Duration::from_secs(10) };

    /// Where nobody waits for a load.
    pub const LARGE: Self = Self { rows: 4 * SLICE_ROWS, bytes: 4 << 20, reading: Duration::from_secs(10) };
}

/// A load that has not moved for so long was cut off: a later load's start removes it.
pub const CUT_OFF_AFTER: Duration = Duration::from_secs(86_400);

/// What a batch is, besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpec {
    /// Names the handler.
    pub operation: String,
    /// How many attempts a row has.
    pub attempts_max: u32,
    /// How many crashes a row may cause before it fails.
    pub crashes_max: u32,
    /// How long a run may take.
    pub timeout: Duration,
    /// Higher comes first.
    pub priority: i32,
    /// The input's columns, where it had a header.
    pub header: Option<Vec<String>>,
    /// The input's name, for people.
    pub source: Option<String>,
    /// S7: where its ends are told, in the form that parsing gives a URL.
    pub on_done_url: Option<String>,
}

impl BatchSpec {
    /// A batch of this operation with the usual options: 3 attempts, 3 crashes, an hour per run.
    pub fn new(operation: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            attempts_max: 3,
            crashes_max: 3,
            timeout: Duration::from_secs(3600),
            priority: 0,
            header: None,
            source: None,
            on_done_url: None,
        }
    }
}

/// How a load ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadEnd {
    /// The submitter's own name for this input: the same key never makes two batches.
    pub key: Option<String>,
    /// Of the content: what tells a repeat from other content under the same key.
    pub digest: String,
    /// How many rows were loaded.
    pub total: u64,
}

/// What a finished load came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The batch is open.
    New,
    /// A repeat of this batch; if it is another one, the rows just loaded are gone. Of the batch itself: an earlier try
    /// opened it.
    Same(BatchId),
    /// This batch has other content; if it is another one, under the same key, the rows just loaded are gone.
    Differs(BatchId),
}

/// A batch that a store holds, as far as the end of a load asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Which one.
    pub batch: BatchId,
    /// Whether it still loads.
    pub loading: bool,
    /// Of its content; a load has none before its end.
    pub digest: Option<String>,
}

/// What finishing a load comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// The batch is not there any more, and nothing is under its key: refused.
    Gone,
    /// Nothing is to be written. Where the batch named is another one, the rows just loaded are to be removed.
    Known(Loaded),
    /// Key and digest are to be bound, and the batch opened.
    Open,
}

/// S4, with repeats: `own` is the load, `bound` the batch under its key.
pub(super) fn finish(own: Option<&Held>, bound: Option<&Held>, digest: &str) -> Finish {
    // An earlier try opened it.
    if let Some(own) = own.filter(|own| !own.loading) {
        let same = own.digest.as_deref() == Some(digest);
        return Finish::Known(if same { Loaded::Same(own.batch) } else { Loaded::Differs(own.batch) });
    }
    let Some(bound) = bound else {
        return if own.is_some() { Finish::Open } else { Finish::Gone };
    };
    match s4_bind_key(Some(bound.digest.as_deref().unwrap_or_default()), digest) {
        KeyBinding::Same => Finish::Known(Loaded::Same(bound.batch)),
        KeyBinding::Differs => Finish::Known(Loaded::Differs(bound.batch)),
        KeyBinding::Bind => Finish::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(number: u64, loading: bool, digest: Option<&str>) -> Held {
        Held { batch: BatchId::from_random(number), loading, digest: digest.map(str::to_owned) }
    }

    #[test]
    fn a_load_ends_once_and_a_key_names_one_content() {
        let (load, opened) = (held(1, true, None), held(1, false, Some("a")));
        let (same, differs) = (held(2, false, Some("a")), held(2, false, Some("b")));
        let known = |loaded: fn(BatchId) -> Loaded, batch: &Held| Finish::Known(loaded(batch.batch));
        for (own, bound, comes_to) in [
            (Some(&load), None, Finish::Open),
            (Some(&load), Some(&same), known(Loaded::Same, &same)),
            (Some(&load), Some(&differs), known(Loaded::Differs, &differs)),
            // A repeat whose first try opened the batch, or found another and removed this one.
            (Some(&opened), None, known(Loaded::Same, &opened)),
            (Some(&opened), Some(&opened), known(Loaded::Same, &opened)),
            (Some(&held(1, false, Some("b"))), None, known(Loaded::Differs, &opened)),
            (None, Some(&same), known(Loaded::Same, &same)),
            (None, Some(&differs), known(Loaded::Differs, &differs)),
            (None, None, Finish::Gone),
        ] {
            assert_eq!(finish(own, bound, "a"), comes_to, "{own:?} {bound:?}");
        }
    }
}
