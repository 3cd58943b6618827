//! A witness of the machine's own troubles: a thread that sleeps a little and writes a little, and notes when either took too
//! long. What it saw excuses everybody; what it did not see excuses nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sqlx::{Connection, Executor};

use super::fleet::now_us;
use super::health::{Spell, begin_spell, end_spell};

/// The table that it writes to.
pub const TABLE: &str = "create table probe (n bigint not null); insert into probe values (0);";

const WRITE: &str = "update probe set n = n + 1";

/// How often.
const EVERY: Duration = Duration::from_millis(100);

/// After so long without an answer the store is away.
const LIMIT: Duration = Duration::from_secs(2);

/// Sleeps and answers that are later than this excuse everybody: what any single step may take without being noted.
pub fn late(ttl: Duration) -> Duration {
    ttl / 8
}

/// What it saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The store answered nobody.
    pub away: Vec<Spell>,
    /// Sleep or answer came late.
    pub slow: Vec<Spell>,
}

/// The thread.
#[derive(Debug)]
pub struct Probe {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Probe {
    /// Starts it, on a store's options to connect; later by this much is too late.
    pub fn start<C: Connection>(options: C::Options, late: Duration) -> Self
    where
        for<'c> &'c mut C: Executor<'c, Database = C::Database>,
    {
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = over.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let late_us = i64::try_from(late.as_micros()).expect("short");
                let (mut conn, mut notes) = (None::<C>, Notes::new(late_us, now_us()));
                while !over.load(Ordering::SeqCst) {
                    let slept_us = now_us();
                    std::thread::sleep(EVERY);
                    let asked_us = now_us();
                    let asking = async { tokio::time::timeout(LIMIT, ask(&options, &mut conn)).await };
                    let answered = runtime.block_on(asking);
                    if answered.is_err() {
                        conn = None;
                    }
                    notes.take(slept_us, asked_us, now_us(), answered == Ok(true));
                }
                notes.seen
            }
        });
        Self { over, thread }
    }

    /// Ends it; what it saw, unless it panicked.
    pub fn end(self) -> Option<Seen> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().ok()
    }
}

async fn ask<C: Connection>(options: &C::Options, conn: &mut Option<C>) -> bool
where
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
{
    let mut there = match conn.take() {
        Some(there) => there,
        None => match C::connect_with(options).await {
            Ok(there) => there,
            Err(_) => return false,
        },
    };
    if there.execute(WRITE).await.is_err() {
        return false;
    }
    *conn = Some(there);
    true
}

struct Notes {
    late_us: i64,
    /// When the last good answer was asked for.
    good_us: i64,
    seen: Seen,
}

impl Notes {
    fn new(late_us: i64, now_us: i64) -> Self {
        Self { late_us, good_us: now_us, seen: Seen::default() }
    }

    fn take(&mut self, slept_us: i64, asked_us: i64, answered_us: i64, good: bool) {
        let every_us = i64::try_from(EVERY.as_micros()).expect("short");
        if asked_us - slept_us > every_us + self.late_us {
            self.seen.slow.push(Spell { from_us: slept_us, until_us: asked_us });
        }
        if !good {
            return begin_spell(&mut self.seen.away, self.good_us);
        }
        if answered_us - asked_us > self.late_us {
            self.seen.slow.push(Spell { from_us: asked_us, until_us: answered_us });
        }
        end_spell(&mut self.seen.away, answered_us);
        self.good_us = asked_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_sleeps_late_answers_and_none_are_noted() {
        let spell = |from_us, until_us| Spell { from_us, until_us };
        let mut notes = Notes::new(50_000, 0);
        notes.take(0, 100_000, 101_000, true);
        assert!(notes.seen.away.is_empty() && notes.seen.slow.is_empty());
        notes.take(101_000, 260_000, 261_000, true);
        notes.take(261_000, 361_000, 461_000, true);
        assert_eq!(notes.seen.slow, [spell(101_000, 260_000), spell(361_000, 461_000)]);
        notes.take(461_000, 561_000, 561_000, false);
        notes.take(561_000, 661_000, 661_000, false);
        notes.take(661_000, 761_000, 762_000, true);
        assert_eq!(notes.seen.away, [spell(361_000, 762_000)]);
    }
}
