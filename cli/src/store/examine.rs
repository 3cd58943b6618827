//! What `fencepost doctor` looks at, of any store. Plain values: what they mean is said by [`crate::report::doctor`].
//!
//! Looking changes nothing: no store is made, none is moved to another version, and nobody waits for the one who looks.

use std::time::Duration;

use super::postgres::examine::PostgresFacts;
use super::sqlite::examine::SqliteFacts;
use super::view::{BatchCounts, WorkersView};

/// What was found of a store.
#[derive(Debug, Clone)]
pub enum StoreFacts {
    /// Of an SQLite file.
    Sqlite(Box<SqliteFacts>),
    /// Of a schema on a Postgres server.
    Postgres(Box<PostgresFacts>),
}

impl StoreFacts {
    /// The store's own id, where there is one.
    pub fn store_id(&self) -> Option<&str> {
        match self.schema()? {
            SchemaState::Usable { store_id, .. } => Some(store_id),
            _ => None,
        }
    }

    /// What is in the store, where it could be read.
    pub fn work(&self) -> Option<&Result<WorkFacts, String>> {
        match self {
            Self::Sqlite(facts) => facts.inside.as_ref()?.as_ref().ok()?.work.as_ref(),
            Self::Postgres(facts) => facts.connected.as_ref().ok()?.work.as_ref(),
        }
    }

    fn schema(&self) -> Option<&SchemaState> {
        match self {
            Self::Sqlite(facts) => Some(&facts.inside.as_ref()?.as_ref().ok()?.schema),
            Self::Postgres(facts) => facts.connected.as_ref().ok()?.schema.as_ref().ok(),
        }
    }
}

/// Whether there is a store, and whether this program can use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// There is none.
    Missing,
    /// There is something else.
    Foreign,
    /// An older program made it.
    Older {
        /// The version of its tables.
        version: i64,
    },
    /// A newer program has moved it to a version that this one must not touch.
    Newer {
        /// The version of its tables.
        version: i64,
        /// The oldest program that may work on it.
        wants: i64,
    },
    /// This program can use it.
    Usable {
        /// The version of its tables.
        version: i64,
        /// Its own id.
        store_id: String,
    },
}

impl SchemaState {
    /// Of tables at this version, for a program that knows this one.
    pub(super) fn of(version: i64, wants: i64, store_id: String, known: i64) -> Self {
        if wants > known {
            Self::Newer { version, wants }
        } else if version < known {
            Self::Older { version }
        } else {
            Self::Usable { version, store_id }
        }
    }
}

/// What is to be done, and who does it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkFacts {
    /// The live leases.
    pub workers: WorkersView,
    /// The batches that are open or loading.
    pub batches: Vec<BatchCounts>,
    /// How long each append that is not done has not moved.
    pub appends: Vec<Duration>,
}
