//! The protocol that ours descends from, as a model: batch recovery of the `jobs` package of Alya (Go, Postgres, Redis;
//! github.com/remiges-tech/alya at 8f4a536, `jobs/`), run under the same schedules as ours. `docs/original.md` has what
//! comes of it.
//!
//! | what it does | there | here |
//! |---|---|---|
//! | claim: fetch and lock, mark, commit | `jobmanager.go`, `RunOneIterationWithContext` | `worker`, `store` |
//! | tracking of claimed rows in a set with a TTL | `recovery.go`, `trackRowProcessing` | `worker`, `redis` |
//! | run, write the outcome, untrack, fall back | `jobmanager.go`, `processRow`, `handleProcessingError` | `worker` |
//! | registry and heartbeat | `recovery.go`, `runHeartbeat` | `heart` |
//! | recovery scan | `recovery.go`, `recoverAbandonedRows` | `heart` |
//! | end of a batch, and the sweep for those missed | `batchsummary.go`, `recovery.go` | `store`, `heart` |
//! | abort | `batch.go`, `BatchAbort` | `store` |
//! | shutdown | `recovery.go`, `Shutdown` | `worker` |
//!
//! Around it: events and processes in `world`, messages in `network`, `faults`; what happened in `facts`, which `checks` judges;
//! `windows`, the search for them, and their `table`.
//!
//! Its constants are in proportion to the TTL of its heartbeat, 60 s there: it is renewed every half of it, scans come every
//! TTL, the set has three of them, the sweep comes after five to ten. Size of a claim and poll are a schedule's own. Left out, as none of the windows below needs them: several steps inside a summary, files and callbacks,
//! slow queries, the cache of statuses.

mod checks;
mod facts;
mod faults;
mod heart;
mod network;
mod redis;
mod small;
mod store;
mod stuck;
mod table;
mod windows;
mod worker;
mod world;

pub use self::checks::{Cause, Finding};
pub use self::small::{plain, rows, smallest};
pub use self::table::{ours, source, table, tell};
pub use self::windows::{Found, Search, WINDOWS, Window, schedule, search};
use crate::schedule::Schedule;

/// A process by its place in the world: `instanceID`.
type ProcessAt = usize;

/// A row by its place in the store: `rowid`.
type RowAt = usize;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Over time and content of every event.
    pub hash: u64,
    /// How many events there were.
    pub events: u64,
    /// When it ended.
    pub end_us: u64,
    /// What went wrong: the first of each kind.
    pub findings: Vec<Finding>,
}

/// Runs a schedule on the original.
pub fn run(schedule: &Schedule) -> Run {
    world::World::new(schedule, false).run()
}

/// Runs a schedule on the original and prints every event.
pub fn run_traced(schedule: &Schedule) -> Run {
    world::World::new(schedule, true).run()
}
