//! Waking: an idle worker learns that another process wrote something.
//!
//! SQLite has no notifications between processes. `pragma data_version` tells cheaply and exactly whether anybody else has
//! committed since it was last asked: it reads a counter in shared memory, no page and no lock. Asked every 20 ms it costs more than
//! a hundredth of a core all the same, most of it for waking up; so it is asked when the kernel tells of a write to the log [208]: soon
//! after, since a commit is its last write, then less and less often for as long as there are writes. (The time stamp of the log file
//! would not do: two writes within one tick of the kernel's clock look like one.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fencepost_core::BatchId;
use sqlx::SqliteConnection;
use tokio::time::Instant;

use super::OpenError;
use super::codec::batch_id;
use super::log_writes::LogWrites;
use super::open;
use super::trouble::Trouble;
use crate::store::{Change, StoreError};

/// How often it is asked whether anything changed, while others write or where the kernel does not tell of it.
pub const CHANGES_EVERY: Duration = Duration::from_millis(20);

/// How soon after a write that nobody expected it is asked first; then after twice the time, and so on to [`CHANGES_EVERY`].
const FIRST_LOOK: Duration = Duration::from_micros(500);

/// After so long without a write nobody is at work any more. Longer than it takes from a commit's last write to its being seen.
const CALM_AFTER: Duration = Duration::from_millis(200);

/// How often it is asked though no write was told of.
const UNCALLED_EVERY: Duration = Duration::from_millis(250);

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
    writes: LogWrites,
    /// How long the next pause is, while others write; none while nobody does.
    pause: Option<Duration>,
    heard_at: Instant,
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
        let writes = LogWrites::of(path);
        let path = path.to_owned();
        let (pause, heard_at) = (Some(FIRST_LOOK), Instant::now());
        Ok(Self { conn, seen, seen_leases, seen_batches, seen_calls, seen_stopping, path, writes, pause, heard_at })
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

impl Changes {
    /// Until it is worth asking again.
    async fn rest(&mut self) {
        if !self.writes.are_told() {
            return tokio::time::sleep(CHANGES_EVERY).await;
        }
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
            self.pause = Some((pause * 2).min(CHANGES_EVERY));
            if self.writes.heard() {
                self.heard_at = Instant::now();
            } else if self.heard_at.elapsed() >= CALM_AFTER {
                self.pause = None;
            }
        } else if self.writes.within(UNCALLED_EVERY).await {
            (self.pause, self.heard_at) = (Some(FIRST_LOOK), Instant::now());
        }
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
            self.rest().await;
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::loading::BatchSpec;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Changes as _, Loads as _, OpenMode};

    /// Runs a watch until it would wait for the kernel.
    async fn calm(changes: &mut Changes) {
        while changes.pause.is_some() {
            changes.rest().await;
        }
    }

    #[tokio::test]
    async fn a_watch_calms_down_and_looks_soon_after_a_write() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("store.db");
        let store = SqliteStore::open(&file, OpenMode::Create).await.unwrap();
        let mut changes = Changes::watch(&file).await.unwrap();
        assert!(changes.writes.are_told(), "this test is for systems that tell");
        calm(&mut changes).await;
        store.begin_load(BatchSpec::new("op")).await.unwrap();
        changes.rest().await;
        assert_eq!(changes.pause, Some(FIRST_LOOK), "the write was heard of");
        // What goes on being written is not looked at more and more often.
        let mut pauses = Vec::new();
        for _ in 0..8 {
            store.begin_load(BatchSpec::new("op")).await.unwrap();
            pauses.extend(changes.pause);
            changes.rest().await;
        }
        assert!(pauses.is_sorted() && pauses.len() == 8, "{pauses:?}");
        assert_eq!(pauses.last(), Some(&CHANGES_EVERY));
        assert!(tokio::time::timeout(Duration::from_secs(60), changes.next()).await.unwrap().unwrap().free_lines);
        calm(&mut changes).await;
    }
}
