//! Looking at a store's file and at what is around it: its locks, its folder, its file system.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fencepost_core::StoreTime;
use fencepost_core::rules::claim::BatchStatus;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use sqlx::{Connection, SqliteConnection};

use super::open::{connect_to_look, schema_of};
use super::read;
use super::trouble::describe;
use super::{Clock, SystemClock};
use crate::store::examine::{SchemaState, WorkFacts};
use crate::store::view::WorkersView;

/// How long the write lock is watched before it counts as held. Whoever is at work has it for milliseconds.
pub const LOCK_WATCH: Duration = Duration::from_secs(2);

/// How often it is looked at.
const LOCK_LOOK: Duration = Duration::from_millis(1);

/// What was found of an SQLite store.
#[derive(Debug, Clone)]
pub struct SqliteFacts {
    /// The file.
    pub path: PathBuf,
    /// How many bytes it has, or why it cannot be looked at.
    pub file: Result<u64, String>,
    /// Whether this user may write the file.
    pub may_write_file: bool,
    /// Whether this user may write its folder, where SQLite keeps files beside it.
    pub may_write_folder: bool,
    /// How many bytes its write-ahead log has.
    pub log_bytes: u64,
    /// How many bytes are free on its file system, where that is known.
    pub free_bytes: Option<u64>,
    /// The type of its file system.
    pub file_system: Option<String>,
    /// The write lock.
    pub lock: WriteLock,
    /// What is in it, or why it cannot be read; `None` where there is no file.
    pub inside: Option<Result<Inside, String>>,
}

/// What is in a file that SQLite can read.
#[derive(Debug, Clone)]
pub struct Inside {
    /// Whose it is.
    pub schema: SchemaState,
    /// SQLite's journal mode, `wal` as it should be.
    pub journal_mode: String,
    /// What is to be done, where this program can read it.
    pub work: Option<Result<WorkFacts, String>>,
}

/// Who holds the write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteLock {
    /// Nobody did when it was looked at, after so long.
    Free {
        /// How long it took until it was seen free.
        after: Duration,
    },
    /// It was held whenever it was looked at, by several processes in turn.
    Busy {
        /// For how long it was looked at.
        watched: Duration,
    },
    /// One process held it all the time.
    Held {
        /// For how long it was looked at.
        watched: Duration,
        /// Which process; none where it cannot be seen from here (another container).
        pid: Option<u32>,
        /// Whether that process is stopped.
        stopped: bool,
    },
}

/// Looks at the store in this file.
pub async fn examine(path: &Path) -> SqliteFacts {
    let file = match std::fs::metadata(path) {
        Ok(about) if about.is_dir() => Err(format!("{}: is a directory; name a file in it", path.display())),
        Ok(about) => Ok(about.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("{}: there is no such file", path.display()))
        }
        Err(error) => Err(format!("{}: cannot be looked at: {error}", path.display())),
    };
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned();
    // Before SQLite opens the file in this process: closing any handle to it drops all locks that the process has on it.
    let lock = if file.is_ok() { watch_lock(&beside(&real, "-shm")).await } else { FREE };
    let inside = if file.is_ok() { Some(look_inside(path).await) } else { None };
    SqliteFacts {
        path: path.to_owned(),
        may_write_file: may_write(path),
        may_write_folder: may_write(&folder),
        log_bytes: std::fs::metadata(beside(&real, "-wal")).map_or(0, |log| log.len()),
        free_bytes: free_bytes(&folder),
        file_system: file_system(&folder),
        file,
        lock,
        inside,
    }
}

const FREE: WriteLock = WriteLock::Free { after: Duration::ZERO };

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn may_write(path: &Path) -> bool {
    !matches!(access(path, AccessFlags::W_OK), Err(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

/// Asks the kernel who has the lock, which takes it from nobody. Without the file of locks nobody has the store open.
async fn watch_lock(locks: &Path) -> WriteLock {
    let Ok(locks) = File::open(locks) else { return FREE };
    let began = Instant::now();
    let mut holder = None;
    let mut several = false;
    while let Some(pid) = write_lock_of(&locks) {
        several |= holder.is_some_and(|before| before != pid);
        holder = Some(pid);
        if began.elapsed() >= LOCK_WATCH {
            let watched = began.elapsed();
            let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0);
            let stopped = pid.is_some_and(is_stopped);
            return if several { WriteLock::Busy { watched } } else { WriteLock::Held { watched, pid, stopped } };
        }
        tokio::time::sleep(LOCK_LOOK).await;
    }
    WriteLock::Free { after: began.elapsed() }
}

/// The process that has SQLite's write lock of the write-ahead log: a byte of the `-shm` file, as its file format says.
fn write_lock_of(locks: &File) -> Option<i32> {
    const WRITE_LOCK_AT: libc::off_t = 120;
    let kind = |kind: i32| libc::c_short::try_from(kind).unwrap_or_default();
    let mut lock = libc::flock {
        l_type: kind(libc::F_WRLCK),
        l_whence: kind(libc::SEEK_SET),
        l_start: WRITE_LOCK_AT,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(locks, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 't']))
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let about = statvfs(folder).ok()?;
    about.blocks_available().checked_mul(about.fragment_size())
}

/// The type of the file system that this folder is on: that of the longest mount point above it, the last one of several.
fn file_system(folder: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    file_system_in(&mounts, folder)
}

fn file_system_in(mounts: &str, folder: &Path) -> Option<String> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        // The kernel writes a space in a name so.
        let point = PathBuf::from(fields.next()?.replace("\\040", " "));
        folder.starts_with(&point).then_some((point.as_os_str().len(), fields.next()?.to_owned()))
    };
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

async fn look_inside(path: &Path) -> Result<Inside, String> {
    let failed = |error: sqlx::Error| describe(&error, path);
    let mut conn = connect_to_look(path).await.map_err(failed)?;
    let inside = async {
        let schema = schema_of(&mut conn).await?;
        let journal_mode = sqlx::query_scalar("pragma journal_mode").fetch_one(&mut conn).await?;
        Ok(Inside { schema, journal_mode, work: None })
    };
    let mut inside = inside.await.map_err(failed)?;
    if matches!(inside.schema, SchemaState::Usable { .. }) {
        inside.work = Some(work(&mut conn, path).await);
    }
    // Whatever happens at the close, all was read.
    let _ = conn.close().await;
    Ok(inside)
}

const UNFINISHED_APPENDS: &str = "select moved_at from appends where status <> 'done' order by moved_at";

/// In one snapshot, as everything that people are shown.
async fn work(conn: &mut SqliteConnection, path: &Path) -> Result<WorkFacts, String> {
    let failed = |error: sqlx::Error| describe(&error, path);
    let now = SystemClock.now();
    sqlx::query("begin").execute(&mut *conn).await.map_err(failed)?;
    let found = async {
        let workers = read::workers::workers(conn, StoreTime(i64::MAX)).await?;
        let mut batches = Vec::new();
        for view in read::batches::all_batches(conn).await? {
            if matches!(view.status, BatchStatus::Open | BatchStatus::Loading) {
                batches.extend(read::status::counts(conn, now, view.batch).await?);
            }
        }
        let appends: Vec<i64> = sqlx::query_scalar(UNFINISHED_APPENDS).fetch_all(&mut *conn).await?;
        let appends = appends.into_iter().map(|moved_at| now.since(StoreTime(moved_at))).collect();
        Ok(WorkFacts { workers: WorkersView { now, workers }, batches, appends })
    };
    found.await.map_err(|trouble: super::trouble::Trouble| trouble.not_done(path).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_the_file_system_that_is_mounted_closest_above_it() {
        let mounts = "/dev/sda / ext4 rw 0 0\nnas:/a /data nfs4 rw 0 0\nnas:/b /data/my\\040rows cifs rw 0 0\n\
                      tmpfs /data2 tmpfs rw 0 0\n/dev/sdb /data xfs rw 0 0\n";
        for (folder, kind) in [
            ("/home/x", "ext4"),
            ("/data/x", "xfs"),
            ("/data/my rows/x", "cifs"),
            ("/data2", "tmpfs"),
            ("/data22", "ext4"),
        ] {
            assert_eq!(file_system_in(mounts, Path::new(folder)).as_deref(), Some(kind), "{folder}");
        }
    }
}
