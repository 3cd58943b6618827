//! Waking: an idle worker learns that another process wrote something.
//!
//! SQLite has no notifications between processes. `pragma data_version` tells cheaply and exactly whether anybody else has
//! committed since it was last asked: it reads a counter in shared memory, no page and no lock. Asked every 20 ms it costs
//! a few tenths of a per cent of a core, and only while somebody waits. (The time stamp of the log file would be cheaper still, but
//! two writes within one tick of the kernel's clock look like one.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fencepost_core::BatchId;
use sqlx::SqliteConnection;

use super::OpenError;
use super::codec::batch_id;
use super::open;
use super::trouble::Trouble;
use crate::store::{Change, StoreError};

/// How often an idle worker asks whether anything changed.
pub const CHANGES_EVERY: Duration = Duration::from_millis(20);

const DATA_VERSION: &str = "pragma data_version";

/// Changes whenever a lease is taken or ends, and never with a renewal.
const LEASES: &str = "select coalesce(max(taken_at), 0) + count(*) from leases where state = 'live'";

/// Rises whenever a batch is opened, resumed, appended to or opened again.
const BATCHES: &str = "select coalesce(sum(1 + total + generation), 0) from batches where status = 'open' and held = 0";

/// Rises whenever a completion call comes due.
const CALLS: &str = "select calls_due from store where one = 1";

/// S2: aborted batches of which something may still run. A batch that nobody held when it was aborted is no news to any worker.
const STOPPING: &str = "select distinct batch from stopping";

/// Tells of commits by others: other processes, and other connections of this one.
#[derive(Debug)]
pub struct Changes {
    conn: SqliteConnection,
    seen: i64,
    seen_leases: i64,
    seen_batches: i64,
    seen_calls: i64,
    seen_stopping: BTreeSet<BatchId>,
    path: PathBuf,
}

impl Changes {
    /// Watches from now on, over a connection of its own.
    pub(super) async fn watch(path: &Path) -> Result<Self, OpenError> {
        let mut conn = open::connect_reader(path).await?;
        let mut seen = [0; 4];
        for (query, seen) in [DATA_VERSION, LEASES, BATCHES, CALLS].into_iter().zip(&mut seen) {
            let number = sqlx::query_scalar(query).fetch_one(&mut conn).await;
            *seen = number.map_err(|error| OpenError::from_sql(error, path))?;
        }
        let [seen, seen_leases, seen_batches, seen_calls] = seen;
        // What was aborted before is told as well: a watch may begin anew after an error.
        let seen_stopping = BTreeSet::new();
        Ok(Self { conn, seen, seen_leases, seen_batches, seen_calls, seen_stopping, path: path.to_owned() })
    }
}

impl Changes {
    async fn number(&mut self, query: &'static str) -> Result<i64, StoreError> {
        let number = sqlx::query_scalar(query).fetch_one(&mut self.conn).await;
        number.map_err(|error| Trouble::from(error).not_done(&self.path))
    }
}

impl Changes {
    /// Those of the stopping batches that were not told before.
    async fn aborted(&mut self) -> Result<Vec<BatchId>, StoreError> {
        let numbers: Result<Vec<i64>, _> = sqlx::query_scalar(STOPPING).fetch_all(&mut self.conn).await;
        let batches = numbers.map_err(Trouble::from).and_then(|numbers| numbers.into_iter().map(batch_id).collect());
        let stopping: BTreeSet<BatchId> = batches.map_err(|trouble| trouble.not_done(&self.path))?;
        let new = stopping.difference(&self.seen_stopping).copied().collect();
        self.seen_stopping = stopping;
        Ok(new)
    }
}

impl crate::store::Changes for Changes {
    async fn next(&mut self) -> Result<Change, StoreError> {
        loop {
            let version = self.number(DATA_VERSION).await?;
            if version != self.seen {
                let (leases, batches) = (self.number(LEASES).await?, self.number(BATCHES).await?);
                let calls = self.number(CALLS).await?;
                let aborted = self.aborted().await?;
                self.seen = version;
                let taken = leases != std::mem::replace(&mut self.seen_leases, leases);
                let opened = batches > std::mem::replace(&mut self.seen_batches, batches);
                let ended = calls != std::mem::replace(&mut self.seen_calls, calls);
                return Ok(Change { free_lines: true, leases: taken, batches: opened, ended, aborted });
            }
            tokio::time::sleep(CHANGES_EVERY).await;
        }
    }
}
