//! Which store a command works on.

use std::path::Path;

use fencepost_core::BatchId;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::Operated;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::args::Global;
use super::config::default_store_path;
use super::failure::{Exit, Failure};
use super::hint::store_option;
use crate::store::postgres::{self, PostgresOptions};
use crate::store::url::OpenError;
use crate::store::view::{BatchView, Resolved};
use crate::store::{AnyStore, OpenMode, Reads, StoreUrl, sqlite};

/// Which store.
pub fn url(global: &Global) -> Result<StoreUrl, Failure> {
    match &global.store {
        Some(name) => named(name),
        None => default_store_path().map(StoreUrl::Sqlite).ok_or_else(|| {
            Failure::new(Exit::Usage, "no place for the store: neither HOME nor XDG_STATE_HOME is set")
                .help("name a file with --store PATH")
        }),
    }
}

fn named(name: &str) -> Result<StoreUrl, Failure> {
    let url: StoreUrl = name.parse().map_err(|error| cannot_open(Exit::Usage, error))?;
    if let StoreUrl::Postgres(url) = &url {
        let options: Result<PostgresOptions, _> = url.with_password().parse();
        options.map_err(|error| cannot_open(Exit::Usage, postgres::OpenError::Url(error).into()))?;
    }
    Ok(url)
}

/// Opens the store, and makes it where it is not there.
pub async fn open_or_create(global: &Global) -> Result<AnyStore, Failure> {
    let url = url(global)?;
    if let StoreUrl::Sqlite(path) = &url {
        if global.store.is_none()
            && let Some(dir) = path.parent()
        {
            std::fs::create_dir_all(dir).map_err(|error| {
                Failure::new(Exit::Store, format!("cannot make the store's folder {}", dir.display()))
                    .because(error)
                    .help("name a file elsewhere with --store PATH")
            })?;
        }
        check_writable(path)?;
    }
    url.open(OpenMode::Create).await.map_err(|error| cannot_open(Exit::Store, error))
}

/// SQLite opens a file that may not be written, begins to write, and fails with the first change: a worker would ask for
/// ever.
fn check_writable(path: &Path) -> Result<(), Failure> {
    match access(path, AccessFlags::W_OK) {
        Err(error @ (Errno::EACCES | Errno::EPERM | Errno::EROFS)) => {
            Err(Failure::new(Exit::Store, format!("the store {} may not be written", path.display()))
                .because(std::io::Error::from(error))
                .help("mend the permissions of the file and its directory, or name another file with --store PATH"))
        }
        // Whatever else is wrong is told by whoever opens it.
        _ => Ok(()),
    }
}

/// Opens a store that is there.
pub async fn open(global: &Global) -> Result<AnyStore, Failure> {
    open_existing(&url(global)?).await
}

/// The same by a name that did not come with the command.
pub async fn open_named(name: &str) -> Result<AnyStore, Failure> {
    open_existing(&named(name)?).await
}

async fn open_existing(url: &StoreUrl) -> Result<AnyStore, Failure> {
    url.open(OpenMode::Existing).await.map_err(|error| cannot_open(Exit::Store, error))
}

pub fn cannot_open(exit: Exit, error: OpenError) -> Failure {
    let help = match &error {
        OpenError::Sqlite(error) => file_help(error),
        OpenError::Postgres(error) => server_help(error),
        // It says it itself.
        OpenError::Scheme { .. } | OpenError::NotAUrl => None,
    };
    let failure = Failure::from_error(exit, error);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn server_help(error: &postgres::OpenError) -> Option<&'static str> {
    use postgres::OpenError;
    match error {
        OpenError::Missing { .. } => {
            Some("is this the right --store? `fencepost submit FILE` makes one that is not there")
        }
        OpenError::Connect { .. } => Some("put that right and repeat the command; is this the right --store?"),
        OpenError::Sql { .. } => Some("put that right and repeat the command"),
        // They say it themselves.
        _ => None,
    }
}

fn file_help(error: &sqlite::OpenError) -> Option<&'static str> {
    use sqlite::OpenError;
    match error {
        OpenError::InMemory { .. } | OpenError::NameTooLong { .. } => Some("name a file with --store PATH"),
        OpenError::Missing { .. } | OpenError::Empty { .. } => {
            Some("is this the right --store? `fencepost submit FILE` makes one that is not there")
        }
        OpenError::NoDirectory { .. } => Some("make the directory, or name another file with --store PATH"),
        OpenError::NotADatabase { .. } => Some("name another file with --store PATH"),
        OpenError::Sql { .. } => Some("put that right and repeat the command, or name another file with --store PATH"),
        // They say it themselves.
        OpenError::NoName | OpenError::IsDirectory { .. } | OpenError::Foreign { .. } | OpenError::Newer { .. } => None,
    }
}

/// The batch that a person named.
pub async fn batch(global: &Global, store: &impl Reads, name: &str) -> Result<BatchView, Failure> {
    // Else a variable that was never set would mean the only batch there is.
    if name.trim().is_empty() {
        return Err(Failure::new(Exit::Usage, "the batch's id is empty")
            .help(format!("`fencepost list{}` shows all batches", store_option(global))));
    }
    let id = match store.resolve_batch(name).await? {
        Resolved::Found(id) => id,
        Resolved::None => return Err(no_batch(global, name)),
        Resolved::Ambiguous(ids) => {
            let ids: Vec<String> = ids.iter().map(BatchId::to_string).collect();
            return Err(Failure::new(Exit::NotFound, format!("{name:?} names several batches: {}", ids.join(", ")))
                .help("type more of the id"));
        }
    };
    store.batch(id).await?.ok_or_else(|| no_batch(global, name))
}

/// Whether an operator's verb was done now (not before), or why it cannot be. `done`: as in "it cannot be held".
pub fn operated(global: &Global, batch: BatchId, reply: Operated, done: &str) -> Result<bool, Failure> {
    match reply {
        Operated::Now => Ok(true),
        Operated::Before => Ok(false),
        Operated::Ended(status) => Err(cannot(batch, status, done)),
        Operated::Loading => Err(cannot(batch, BatchStatus::Loading, done)),
        Operated::NotThere => Err(no_batch(global, &batch.to_string())),
    }
}

/// Why a batch of this status is not open to a verb.
pub fn cannot(batch: BatchId, status: BatchStatus, done: &str) -> Failure {
    match status {
        BatchStatus::Aborted => {
            Failure::new(Exit::Aborted, format!("batch {batch} is aborted, for good: it cannot be {done}"))
        }
        BatchStatus::Loading => {
            Failure::new(Exit::Usage, format!("batch {batch} is still being submitted: it cannot be {done} yet"))
                .help("try again once its submit has ended")
        }
        BatchStatus::Success | BatchStatus::Failed | BatchStatus::Open => {
            let status = status.name();
            Failure::new(Exit::Usage, format!("batch {batch} has ended ({status}): it cannot be {done} any more"))
        }
    }
}

pub fn no_batch(global: &Global, name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no batch {name:?} in this store"))
        .help(format!("`fencepost list{}` shows all batches; is this the right --store?", store_option(global)))
}
