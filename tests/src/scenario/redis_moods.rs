//! Redis in a bad mood while workers run rows that take longer than a ttl, and one of them is killed.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use fencepost_core::Timing;
use fencepost_core::rules::recovery::r4_bound;

use super::{STUCK, assert_all_succeeded, is_in_mid_row};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, submit, until};

mod mood;

pub use mood::{Mood, Moody};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Moods {
    /// Rows in all.
    pub rows: usize,
    /// Worker processes; one of them is killed, and not replaced.
    pub workers: usize,
    /// Rows that each runs at once.
    pub concurrency: u32,
    /// How long a row takes: longer than a ttl.
    pub row: Duration,
    /// Their ttl.
    pub ttl: Duration,
    /// What a busy machine adds to the bound on recovery.
    pub slack: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// From the kill until the dead worker's rows could be claimed.
    pub recovered_after: Duration,
    /// R4's bound on that.
    pub bound: Duration,
    /// By how much the dead worker's lease was past its time by then.
    pub past_its_time: Duration,
    /// Lines that the dead worker had begun, and that others ran again.
    pub lines_repeated: usize,
    /// Until the batch ended.
    pub took: Duration,
}

/// Runs it: the dead worker's rows come back in time, in no case before its lease is over; no living worker's lease is
/// declared dead, no row is lost, none runs again but those of the dead, and none gets a second outcome. In the end the
/// living ones' heartbeats are there.
pub fn run(mood: Mood, sizes: Moods) -> Outcome {
    let place = Place::new(StoreKind::Postgres);
    let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
    place.hide_processes();
    let mut redis = Moody::new(mood, sizes.ttl);
    let arguments = [
        "--until-done".to_owned(),
        format!("--redis={}", redis.server().url()),
        format!("--concurrency={}", sizes.concurrency),
        format!("--row-us={}", sizes.row.as_micros()),
        format!("--ttl-ms={}", sizes.ttl.as_millis()),
    ];
    let logs: Vec<PathBuf> = (0..sizes.workers).map(|nth| place.file(&format!("worker-{nth}"))).collect();
    let began = Instant::now();
    let mut workers: Vec<Process> = logs.iter().map(|log| place.worker_with_log(log, &arguments)).collect();
    let look = place.look();
    let runs_rows = |worker: &Process| look.holds_at_least(worker.pid(), u64::from(sizes.concurrency));
    until("all workers run rows", STUCK, || workers.iter().all(runs_rows).then_some(()));
    if mood != Mood::Absent {
        let beat_since = until("all workers have heartbeats", STUCK, || {
            (redis.server().heartbeats() == sizes.workers).then(Instant::now)
        });
        // R2: from then on it can vouch. It counts whole seconds.
        until("Redis can vouch", STUCK, || {
            let up: u64 = redis.server().info("uptime_in_seconds").parse().expect("a number");
            let vouches =
                beat_since.elapsed() > sizes.ttl && Duration::from_secs(up) > sizes.ttl + Duration::from_secs(2);
            vouches.then_some(())
        });
    }

    let mut victim = workers.remove(0);
    let pid = victim.pid();
    until("it is in mid-row", STUCK, || is_in_mid_row(&place, &look, pid).then_some(()));
    let lease = lease_of(&look, pid);
    let killed_at = SystemTime::now();
    victim.kill();
    redis.begin(&lease);
    let timing = Timing::from_ttl(sizes.ttl);
    let bound = r4_bound(timing.ttl, timing.renew, timing.scan, mood.vouches(), sizes.slack);
    // A heartbeat that objects is heard for a ttl.
    let bound = if mood == Mood::Stale { bound + timing.ttl } else { bound };
    until("the dead worker's rows are back", bound * 4, || {
        redis.keep_on();
        (place.number("select count(*) from leases where state = 'dead'") > 0).then_some(())
    });
    let ended_us = place.number("select min(ended_at) from leases where state = 'dead'");
    let killed_us = killed_at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros();
    let recovered_after =
        Duration::from_micros(ended_us as u64).saturating_sub(Duration::from_micros(killed_us as u64));
    let past_its_time = micros(place.number("select min(ended_at - expires_at) from leases where state = 'dead'"));
    assert!(recovered_after <= bound, "{mood:?}: rows were back after {recovered_after:?}, not within {bound:?}");
    if mood == Mood::Stale {
        assert!(past_its_time >= sizes.ttl, "the heartbeat objected in vain: {past_its_time:?} past its time");
    }
    if mood == Mood::StaleAndYoung {
        // R2: one that has just started is not listened to, whatever it has.
        assert!(past_its_time < sizes.ttl, "a Redis that cannot vouch objected: {past_its_time:?} past its time");
    }
    redis.end();
    until("the living have heartbeats", sizes.ttl * 10, || {
        let stale = usize::from(matches!(mood, Mood::Stale | Mood::StaleAndYoung));
        (redis.server().heartbeats() == workers.len() + stale).then_some(())
    });
    assert!(!look.has_ended(&batch), "the job was over before: more rows are needed");
    let status: Vec<_> = workers.iter_mut().map(|worker| worker.wait(STUCK)).collect();
    let took = began.elapsed();
    assert!(status.iter().all(|status| status.success()), "no worker gave up: {status:?}");
    assert_all_succeeded(&place, &batch, sizes.rows);
    assert_only_one_died(&place, pid, sizes.workers);
    let lines_repeated = assert_only_its_rows_ran_again(&place, pid);
    let reports: String = logs.iter().map(|log| std::fs::read_to_string(log).expect("a log")).collect();
    assert_eq!(reports.matches("Recovered {").count(), 1, "one lease was declared dead");
    for lost in ["Worker(LeaseEnded", "Worker(Lapsed", "Worker(Fenced"] {
        assert!(!reports.contains(lost), "{mood:?}: a living worker reports {lost}");
    }
    Outcome { recovered_after, bound, past_its_time, lines_repeated, took }
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).expect("no lease is declared dead before its time"))
}

/// The lease of a process.
fn lease_of(look: &crate::place::Looker<'_>, pid: u32) -> String {
    let workers = look.workers().workers;
    let worker = workers.iter().find(|worker| worker.process.as_ref().is_some_and(|process| process.pid == pid));
    worker.expect("it has a lease").lease.to_string()
}

/// The killed worker's lease was declared dead once, and the others' have all been dropped in order.
fn assert_only_one_died(place: &Place, pid: u32, workers: usize) {
    assert_eq!(place.number("select min(pid) from leases where state = 'dead'"), i64::from(pid), "the dead one is it");
    for (what, query, count) in [
        ("one lease per worker", "select count(*) from leases", workers),
        ("one died", "select count(*) from leases where state = 'dead'", 1),
        ("every other left in order", "select count(*) from leases where state = 'dropped'", workers - 1),
        ("nothing is late or charged", "select count(*) from attempts where kind in ('crashed', 'fenced')", 0),
        (
            "nothing was taken from the living",
            "select count(*) from attempts join leases using (lease) where kind = 'recovered' and state <> 'dead'",
            0,
        ),
        ("no span is left", "select count(*) from spans", 0),
    ] {
        assert_eq!(usize::try_from(place.number(query)), Ok(count), "{what}");
    }
}

/// No line ran again but those that the dead worker had begun; tells how many did.
fn assert_only_its_rows_ran_again(place: &Place, pid: u32) -> usize {
    let runs = ledger::read(&place.ledger());
    ledger::assert_no_token_ran_twice(&runs);
    for (line, runs) in &runs {
        let of_others = runs.iter().filter(|(_, of)| *of != pid).count();
        assert!(of_others <= 1, "line {line} was run twice by the living: {runs:?}");
    }
    let (lines, _) = ledger::repeats(&runs);
    assert!(lines > 0, "the dead worker ran nothing that was left");
    lines
}
