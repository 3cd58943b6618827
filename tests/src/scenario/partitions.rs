//! Real partitions: workers, Postgres and Redis on hosts of their own, and links between them that are cut, one way or both.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use fencepost_core::Timing;
use fencepost_core::rules::recovery::r4_bound;

use crate::network::NotHere;
use field::{Field, Stopped, WORKERS};
pub use kind::Partition;

mod checks;
mod field;
mod kind;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The workers' ttl.
    pub ttl: Duration,
    /// Rows that each of the three workers runs at once.
    pub concurrency: u32,
    /// How long a row takes.
    pub row: Duration,
    /// What a busy machine adds to the bound on recovery.
    pub slack: Duration,
}

/// What came of one partition.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which.
    pub partition: Partition,
    /// From its beginning until the leases were declared dead, and R4's bound on that.
    pub dead_after: Vec<(Duration, Duration)>,
    /// How many packets it took; a cable that is out counts none.
    pub packets_lost: u64,
    /// How long it lasted.
    pub lasted: Duration,
    /// From its end until all workers recorded again.
    pub rejoined_after: Duration,
    /// Late answers that the fence dropped.
    pub fenced: i64,
    /// Connections to Postgres and to Redis then, as the servers count them: some are of clients that gave them up meanwhile.
    pub connections: (i64, i64),
}

/// What came of all.
#[derive(Debug, Clone)]
pub struct Outcomes {
    /// In their order.
    pub partitions: Vec<Outcome>,
    /// The signal that told it to stop, in the midst of a partition or of the end: then the end was not checked.
    pub stopped: Option<i32>,
    /// Rows in all, each with one outcome.
    pub rows: usize,
    /// Runs beyond a line's first, by what the log says ended the one before.
    pub repeats: std::collections::BTreeMap<String, usize>,
}

/// Runs partitions one after the other beside a batch that goes on. Each row ends with one outcome, what ran again is explained
/// by the log, nobody is declared dead but who is dead or cut off from a store that answers others, and those within R4's bound;
/// the others go on meanwhile, and all do afterwards.
pub fn run(sizes: Sizes, partitions: &[Partition]) -> Result<Outcomes, NotHere> {
    let mut field = Field::new(sizes)?;
    let mut done = Vec::new();
    let rest = unless_stopped(|| {
        field.until_recorded_after(&[0, 1, 2], 0);
        field.until("Redis can vouch", || {
            let up: u64 = field.redis.info("uptime_in_seconds").parse().expect("a number");
            (Duration::from_secs(up) > sizes.ttl + Duration::from_secs(2)).then_some(())
        });
        assert_eq!(field.redis.heartbeats(), WORKERS, "the workers use Redis");
        // One by one: those that are done stay done.
        for partition in partitions {
            done.push(once(&mut field, sizes, *partition));
        }
        field.end();
    });
    let (stopped, (rows, repeats)) = match rest {
        Ok(()) => (None, checks::in_the_end(&field)),
        Err(Stopped(signal)) => (Some(signal), Default::default()),
    };
    Ok(Outcomes { partitions: done, stopped, rows, repeats })
}

/// Whether something went to its end, or was unwound because it was told to stop.
fn unless_stopped(what: impl FnOnce()) -> Result<(), Stopped> {
    std::panic::catch_unwind(AssertUnwindSafe(what)).or_else(|cause| match cause.downcast::<Stopped>() {
        Ok(stopped) => Err(*stopped),
        Err(other) => std::panic::resume_unwind(other),
    })
}

fn once(field: &mut Field, sizes: Sizes, partition: Partition) -> Outcome {
    let Sizes { ttl, slack, .. } = sizes;
    let timing = Timing::from_ttl(ttl);
    let before = checks::Before::of(field);
    let doomed = partition.ends_leases_of();
    let pids: Vec<u32> = doomed.iter().map(|worker| field.pid(*worker)).collect();
    let begun_us = field.now_us();
    partition.begin(field);
    let bound = |worker: &usize| {
        let dies = partition.kills() == Some(*worker);
        // R4: one that is alive has a ttl more.
        let alive = if dies { Duration::ZERO } else { ttl };
        alive + r4_bound(timing.ttl, timing.renew, timing.scan, partition.redis_vouches() || !dies, slack)
    };
    let mut packets_lost = 0;
    if partition == Partition::Flicker {
        // Shorter than a worker's licence lasts, and long enough for a connection to be given up.
        for _ in 0..4 {
            field.wait(timing.request_timeout);
            packets_lost += field.network.packets_lost();
            field.network.heal();
            field.wait(ttl);
            partition.begin(field);
        }
        field.wait(timing.request_timeout);
    } else if doomed.is_empty() {
        // Long enough for whoever would be declared dead wrongly.
        field.wait(ttl + r4_bound(timing.ttl, timing.renew, timing.scan, false, slack));
    } else {
        let limit = doomed.iter().map(bound).max().expect("there is one") * 4;
        field.until_within("leases are declared dead", limit, || {
            (before.dead_since(field).len() >= doomed.len()).then_some(())
        });
        // Its rows are others' by now, and its own lease is over in its own eyes, too.
        field.wait(ttl);
    }
    let healed_us = field.now_us();
    let dead = before.dead_since(field);
    checks::meanwhile(field, partition, begun_us, healed_us);
    packets_lost += field.network.packets_lost();
    assert!(packets_lost > 0 || partition.unplugs(), "{partition:?}: the cut has taken nothing");
    field.network.heal();
    let after_us = field.now_us();
    if let Some(worker) = partition.kills() {
        field.replace(worker);
    }
    field.until_recorded_after(&[0, 1, 2], after_us);
    let rejoined_after = micros(field.now_us() - after_us);
    let connections = (field.connections_to_postgres(), field.connections_to_redis());
    // What was on its way is there by now.
    field.wait(ttl);
    let mut dead_pids: Vec<u32> = before.dead_since(field).iter().map(|(pid, _)| *pid).collect();
    let mut expected = pids.clone();
    dead_pids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(dead_pids, expected, "{partition:?}: whose leases were declared dead");
    let of = |pid: &u32| dead.iter().find(|(of, _)| of == pid).expect("it is among them").1;
    let dead_after: Vec<(Duration, Duration)> =
        pids.iter().zip(doomed).map(|(pid, worker)| (micros(of(pid) - begun_us), bound(worker))).collect();
    for (after, bound) in &dead_after {
        assert!(after <= bound, "{partition:?}: rows came back after {after:?}, not within {bound:?}");
    }
    let fenced = checks::afterwards(field, partition, &before);
    let lasted = micros(healed_us - begun_us);
    Outcome { partition, dead_after, packets_lost, lasted, rejoined_after, fenced, connections }
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_to_stop_is_no_failure_and_a_failure_is_none_of_that() {
        assert_eq!(unless_stopped(|| ()), Ok(()));
        assert_eq!(unless_stopped(|| std::panic::resume_unwind(Box::new(Stopped(2)))), Err(Stopped(2)));
        let failed = std::panic::catch_unwind(|| unless_stopped(|| std::panic::resume_unwind(Box::new("it fails"))));
        assert!(failed.is_err_and(|cause| cause.is::<&str>()));
    }
}
