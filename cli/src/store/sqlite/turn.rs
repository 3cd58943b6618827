//! Renewals first: while one waits for the write lock, row work does not push in front of it.
//!
//! The sign is an advisory lock on an empty file beside the store (`-turn`). It is a courtesy and guards nothing: where
//! it cannot be had, or whoever holds it was stopped, things go on without it. Measured with three processes that write as
//! fast as they can, the slowest renewals wait for one or two transactions instead of a dozen.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::ASK_AGAIN;

/// Row work gives way at most so long. A renewal is in after a transaction or two, unless its process was stopped.
const GIVE_WAY_MAX: Duration = Duration::from_millis(100);

/// One handle's part in it.
#[derive(Debug)]
pub(super) struct Turn {
    file: Option<File>,
    renewals: bool,
    // Gave way in vain the last time: do not wait again until the sign has been seen down.
    ignored: AtomicBool,
}

impl Turn {
    pub(super) fn open(store: &Path, renewals: bool) -> Self {
        let mut path = store.as_os_str().to_owned();
        path.push("-turn");
        let file = File::options().write(true).create(true).truncate(false).open(path).ok();
        Self { file, renewals, ignored: AtomicBool::new(false) }
    }

    /// Before asking for the write lock: row work lets renewals go first.
    pub(super) async fn give_way(&self) {
        if self.renewals {
            return;
        }
        let until = Instant::now() + GIVE_WAY_MAX;
        while self.renewal_waits() {
            if self.ignored.load(Ordering::Relaxed) {
                return;
            }
            if Instant::now() >= until {
                self.ignored.store(true, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.ignored.store(false, Ordering::Relaxed);
    }

    fn renewal_waits(&self) -> bool {
        let Some(file) = &self.file else { return false };
        match file.try_lock_shared() {
            Ok(()) => {
                self.lower();
                false
            }
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(_)) => false,
        }
    }

    /// A renewal that has to wait puts the sign up; that another has it up already is as good.
    pub(super) fn raise(&self) {
        if self.renewals
            && let Some(file) = &self.file
        {
            let _ = file.try_lock();
        }
    }

    /// In, or given up: the sign comes down.
    pub(super) fn lower(&self) {
        if let Some(file) = &self.file {
            let _ = file.unlock();
        }
    }
}
