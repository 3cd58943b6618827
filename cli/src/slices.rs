//! Rows on their way into a store, cut into slices: of a load (S4) and of an append (S3).

use crate::input::Digest;
use crate::store::loading::{SLICE_BYTES, SLICE_ROWS};

/// Cuts rows into slices, and computes their digest meanwhile. One slice is in memory at a time.
#[derive(Default)]
pub(crate) struct Slices {
    digest: Digest,
    slice: Vec<Box<str>>,
}

/// Some rows that are to be stored together.
pub(crate) struct Slice<'a> {
    /// How many rows came before them.
    pub(crate) before: u64,
    /// The rows.
    pub(crate) inputs: &'a [Box<str>],
}

impl Slices {
    /// Reads the next slice from `next`; none at the end.
    pub(crate) fn read<E>(
        &mut self,
        next: &mut impl FnMut() -> Result<Option<Box<str>>, E>,
    ) -> Result<Option<Slice<'_>>, E> {
        let (before, mut bytes) = (self.rows(), 0);
        self.slice.clear();
        while self.slice.len() < SLICE_ROWS && bytes < SLICE_BYTES {
            let Some(row) = next()? else { break };
            self.digest.add(&row);
            bytes += row.len();
            self.slice.push(row);
        }
        Ok((!self.slice.is_empty()).then_some(Slice { before, inputs: &self.slice }))
    }

    /// How many rows were read.
    pub(crate) fn rows(&self) -> u64 {
        self.digest.rows()
    }

    /// The digest of the rows that were read.
    pub(crate) fn digest(self) -> String {
        self.digest.finish().to_string()
    }
}
