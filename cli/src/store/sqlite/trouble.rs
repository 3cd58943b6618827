//! What goes wrong with the file, in words that help.

use std::borrow::Cow;
use std::path::Path;

use crate::store::StoreError;

/// An error inside a transaction, before anyone decided what it means for the request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// SQLite's own.
    #[error("{0}")]
    Sql(#[from] sqlx::Error),
    /// JSON that this program wrote does not read back.
    #[error("the store holds JSON that does not read back: {0}")]
    Json(#[source] serde_json::Error),
    /// The records contradict each other.
    #[error("the store contradicts itself: {0}")]
    Damaged(Cow<'static, str>),
    /// The request cannot be done as things are.
    #[error("{0}")]
    Refused(Cow<'static, str>),
}

impl Trouble {
    /// The records contradict each other.
    pub(super) fn damaged(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Damaged(what.into())
    }

    /// The request cannot be done as things are.
    pub(super) fn refused(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(what.into())
    }

    /// As the end of a request that was rolled back.
    pub(super) fn not_done(self, path: &Path) -> StoreError {
        StoreError::not_done(self.describe(path), self.cause())
    }

    /// As the end of a request whose commit failed.
    pub(super) fn unknown(self, path: &Path) -> StoreError {
        StoreError::unknown(self.describe(path), self.cause())
    }

    fn describe(&self, path: &Path) -> String {
        match self {
            Self::Sql(error) => describe(error, path),
            Self::Refused(message) => message.to_string(),
            other => format!("{}: {other}", path.display()),
        }
    }

    fn cause(&self) -> Option<Cause> {
        match self {
            Self::Sql(error) => cause(error),
            Self::Json(_) | Self::Damaged(_) | Self::Refused(_) => None,
        }
    }
}

/// What a result code of SQLite means for whoever uses the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// Another connection holds the lock that was wanted.
    Locked,
    /// The file or its directory cannot be written.
    ReadOnly,
    /// The file cannot be opened.
    CannotOpen,
    /// The file system is full.
    Full,
    /// The file is damaged.
    Corrupt,
    /// The file is no SQLite database.
    NotADatabase,
    /// The operating system reported an error.
    Io,
    /// Anything else.
    Other,
}

/// Reads the (extended) result code.
pub(super) fn code(error: &sqlx::Error) -> Code {
    let number = match error {
        sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<u32>().ok()),
        _ => None,
    };
    match number.map(|number| number & 0xff) {
        // 15: so many others open and close the file at once that a reader finds no place.
        Some(5 | 6 | 15) => Code::Locked,
        Some(8) => Code::ReadOnly,
        Some(10) => Code::Io,
        Some(11) => Code::Corrupt,
        Some(13) => Code::Full,
        Some(14) => Code::CannotOpen,
        Some(26) => Code::NotADatabase,
        _ => Code::Other,
    }
}

/// What SQLite says itself, once, where [`describe`] uses words of its own.
pub(super) fn cause(error: &sqlx::Error) -> Option<Cause> {
    match code(error) {
        Code::Io | Code::CannotOpen | Code::Other => None,
        _ => Some(said(error).into()),
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            format!("SQLite: {} (code {})", error.message(), error.code().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// The error in words that name the file and what can be done.
pub(super) fn describe(error: &sqlx::Error, path: &Path) -> String {
    let path = path.display();
    match code(error) {
        Code::Locked => format!(
            "{path}: another process has held the write lock for too long; is one of them stopped (Ctrl-Z, a debugger) \
             inside a write?"
        ),
        Code::ReadOnly => format!("{path}: the file or its directory is read-only"),
        Code::CannotOpen => format!(
            "{path}: cannot be opened (SQLite keeps files beside it: may this user write in its directory?): {}",
            said(error)
        ),
        Code::Full => format!("{path}: no space is left on its file system"),
        Code::Corrupt => {
            format!("{path}: the file is damaged; restore it from a copy (`sqlite3 FILE .recover` saves what is left)")
        }
        Code::NotADatabase => format!("{path}: the file is not an SQLite database"),
        Code::Io => format!("{path}: reading or writing the file failed: {}", said(error)),
        Code::Other => format!("{path}: {}", said(error)),
    }
}
