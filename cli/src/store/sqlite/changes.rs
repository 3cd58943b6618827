//! Waking: an idle worker learns that another process wrote something.
//!
//! SQLite has no notifications between processes. `pragma data_version` tells cheaply and exactly whether anybody else has
//! committed since it was last asked: it reads a counter in shared memory, no page and no lock. Asked every 20 ms it costs
//! a few tenths of a per cent of a core, and only while somebody waits. (The time stamp of the log file would be cheaper still, but
//! two writes within one tick of the kernel's clock look like one.)

use std::time::Duration;

use sqlx::SqliteConnection;

use super::open;
use super::trouble::Trouble;
use super::{OpenError, SqliteStore};
use crate::store::StoreError;

/// How often an idle worker asks whether anything changed.
pub const CHANGES_EVERY: Duration = Duration::from_millis(20);

const DATA_VERSION: &str = "pragma data_version";

/// Tells of commits by others: other processes, and other connections of this one.
#[derive(Debug)]
pub struct Changes {
    conn: SqliteConnection,
    seen: i64,
    path: std::path::PathBuf,
}

impl SqliteStore {
    /// Watches from now on, over a connection of its own.
    pub async fn changes(&self) -> Result<Changes, OpenError> {
        let mut conn = open::connect_reader(self.path()).await?;
        let seen = sqlx::query_scalar(DATA_VERSION).fetch_one(&mut conn).await;
        let seen = seen.map_err(|error| OpenError::from_sql(error, self.path()))?;
        Ok(Changes { conn, seen, path: self.path().to_owned() })
    }
}

impl Changes {
    /// Ends when something was committed since the last call ended. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<(), StoreError> {
        loop {
            let version: i64 = sqlx::query_scalar(DATA_VERSION)
                .fetch_one(&mut self.conn)
                .await
                .map_err(|error| Trouble::from(error).not_done(&self.path))?;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            tokio::time::sleep(CHANGES_EVERY).await;
        }
    }
}
