//! Hearing of writes to the store's log (`FILE-wal`), from any process of this machine: what comes before every commit. The kernel
//! tells (inotify), so that nobody has to look.

use std::path::Path;
use std::time::Duration;

/// Tells of writes to a store's log, where this system can.
#[derive(Debug)]
pub(super) struct LogWrites {
    #[cfg(target_os = "linux")]
    told: Option<linux::Told>,
}

#[cfg(target_os = "linux")]
impl LogWrites {
    /// Listens from now on. The log is there while a connection is open that has read.
    pub(super) fn of(store: &Path) -> Self {
        Self { told: linux::Told::of(store).ok() }
    }

    /// Whether writes are told of at all; else everybody has to look now and then.
    pub(super) fn are_told(&self) -> bool {
        self.told.is_some()
    }

    /// Whether there were any since the last time.
    pub(super) fn heard(&self) -> bool {
        self.told.as_ref().is_some_and(linux::Told::take)
    }

    /// Waits for the next one, at most so long. Tells whether there was one.
    pub(super) async fn within(&self, limit: Duration) -> bool {
        match &self.told {
            Some(told) => tokio::time::timeout(limit, told.next()).await.is_ok(),
            None => {
                tokio::time::sleep(limit).await;
                false
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl LogWrites {
    pub(super) fn of(_: &Path) -> Self {
        Self {}
    }

    pub(super) fn are_told(&self) -> bool {
        false
    }

    pub(super) fn heard(&self) -> bool {
        false
    }

    pub(super) async fn within(&self, limit: Duration) -> bool {
        tokio::time::sleep(limit).await;
        false
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use tokio::net::unix::pipe::Receiver;

    /// Inotify's descriptor is read like a pipe: it becomes ready when there is something to tell.
    #[derive(Debug)]
    pub(super) struct Told(Receiver);

    impl Told {
        pub(super) fn of(store: &Path) -> io::Result<Self> {
            // SQLite names the log after the file itself, not after a link to it.
            let mut log = std::fs::canonicalize(store)?.into_os_string();
            log.push("-wal");
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            inotify.add_watch(Path::new(&log), AddWatchFlags::IN_MODIFY)?;
            Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify)).map(Self)
        }

        /// Takes all that was told, and tells whether there was anything.
        pub(super) fn take(&self) -> bool {
            // Several are read at once; that there were any is all that counts.
            let mut events = [0; 1 << 12];
            let mut any = false;
            // Where it fails, nothing is told any more: then there is the look that nothing calls for.
            while self.0.try_read(&mut events).is_ok_and(|bytes| bytes > 0) {
                any = true;
            }
            any
        }

        /// Waits until something is told.
        pub(super) async fn next(&self) {
            while self.0.readable().await.is_ok() {
                match self.0.try_read(&mut [0; 1 << 12]) {
                    Ok(1..) => return,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => break,
                }
            }
            std::future::pending().await
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use fencepost_core::BatchId;

    use super::*;
    use crate::store::loading::BatchSpec;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Loads, OpenMode, Reads};

    #[tokio::test]
    async fn a_commit_is_told_of_and_looking_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("store.db"), directory.path().join("link.db"));
        let store = SqliteStore::open(&file, OpenMode::Create).await.unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let writes = LogWrites::of(path);
            assert!(writes.are_told());
            store.inputs(BatchId::from_random(1), 0, 1).await.unwrap();
            assert!(!writes.heard() && !writes.within(Duration::from_millis(5)).await, "nobody has written");
            store.begin_load(BatchSpec::new("op")).await.unwrap();
            assert!(writes.heard());
            assert!(!writes.heard(), "told once");
            let (told, begun) =
                tokio::join!(writes.within(Duration::from_secs(60)), store.begin_load(BatchSpec::new("op")));
            begun.unwrap();
            assert!(told);
        }
    }

    #[tokio::test]
    async fn without_a_log_nobody_tells() {
        let directory = tempfile::tempdir().unwrap();
        let writes = LogWrites::of(&directory.path().join("none.db"));
        assert!(!writes.are_told() && !writes.heard());
        assert!(!writes.within(Duration::from_millis(1)).await);
    }
}
