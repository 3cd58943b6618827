//! Recognising the same content again.

use std::fmt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Input, InputError, InputOptions};

/// Computes the digest of rows on their way: of their texts, their order and their count.
///
/// The same rows give the same digest from CSV and JSON lines, gzipped or not, with any line ends.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    hash: Sha256,
    rows: u64,
}

impl Digest {
    /// Of no rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next row.
    pub fn add(&mut self, row: &str) {
        // The length first, so that no two different lists of rows run together to the same bytes.
        self.hash.update((row.len() as u64).to_le_bytes());
        self.hash.update(row);
        self.rows += 1;
    }

    /// How many rows were added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The digest of the rows added.
    pub fn finish(mut self) -> ContentDigest {
        self.hash.update(self.rows.to_le_bytes());
        ContentDigest(self.hash.finalize().into())
    }
}

/// A SHA-256 of rows; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A short key of this content and of what is to be done with it, such as the command and its options: 16
    /// hexadecimal digits. The order of the strings matters.
    pub fn key<S: AsRef<str>>(&self, extra: impl IntoIterator<Item = S>) -> String {
        let mut hash = Sha256::new_with_prefix(self.0);
        for text in extra {
            let text = text.as_ref();
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest of a file's rows; reads the file once, front to back.
///
/// # Errors
///
/// Those of reading all rows, and [`InputError::ReadOnce`] for `-`: standard input would be used up.
pub fn content_digest(path: impl AsRef<Path>, options: &InputOptions) -> Result<ContentDigest, InputError> {
    let path = path.as_ref();
    if path == Path::new("-") {
        return Err(InputError::ReadOnce);
    }
    let mut input = Input::open(path, options)?;
    let mut digest = Digest::new();
    while let Some(row) = input.read_row()? {
        digest.add(row);
    }
    Ok(digest.finish())
}
