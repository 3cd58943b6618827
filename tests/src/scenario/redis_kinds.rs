//! Each kind of Redis used once by real workers, one of which is killed: behind sentinels that fail over, a cluster, TLS.

use std::time::{Duration, Instant};

use super::{STUCK, assert_all_succeeded, is_in_mid_row};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{Process, submit, until};
use crate::redis::Server;
use crate::redis::cluster::Cluster;
use crate::redis::sentinel::Sentinels;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Kinds {
    /// Rows in all.
    pub rows: usize,
    /// Rows that each of the three workers runs at once.
    pub concurrency: u32,
    /// How long a row takes.
    pub row: Duration,
    /// Their ttl.
    pub ttl: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long the failover took by itself.
    pub failover: Option<Duration>,
    /// From its end until all living workers had heartbeats on the new primary.
    pub beating_again: Option<Duration>,
    /// Until the batch ended.
    pub took: Duration,
    /// Lines of the killed worker that ran again.
    pub lines_repeated: usize,
}

const WORKERS: usize = 3;

/// A primary that is killed; a worker is killed after its replica has taken over.
pub fn sentinel(sizes: Kinds) -> Outcome {
    let mut sentinels = Sentinels::start();
    let job = Job::start(&sentinels.url(), sizes);
    job.heartbeats_are(WORKERS, || sentinels.first().heartbeats());
    let failover = sentinels.fail_over();
    let new = Instant::now();
    // Those that were replicated say nothing of the workers: they must be written anew.
    sentinels.second().ask(&["FLUSHALL"]);
    job.heartbeats_are(WORKERS, || sentinels.second().heartbeats());
    let beating_again = new.elapsed();
    Outcome { failover: Some(failover), beating_again: Some(beating_again), ..job.finish() }
}

/// Three primaries: all that is of one store lies on one of them.
pub fn cluster(sizes: Kinds) -> Outcome {
    let cluster = Cluster::start();
    let job = Job::start(&cluster.url(), sizes);
    job.heartbeats_are(WORKERS, || cluster.nodes().iter().map(Server::heartbeats).sum());
    assert_eq!(cluster.with_keys(), 1, "a store's keys share a node");
    job.finish()
}

/// TLS, with a certificate that the system does not know.
pub fn tls(sizes: Kinds) -> Outcome {
    let server = Server::start_tls();
    let url = format!("{}?ca={}", server.url(), server.authority().display());
    let job = Job::start(&url, sizes);
    job.heartbeats_are(WORKERS, || server.heartbeats());
    job.finish()
}

struct Job {
    place: Place,
    batch: String,
    workers: Vec<Process>,
    sizes: Kinds,
    began: Instant,
}

impl Job {
    fn start(redis: &str, sizes: Kinds) -> Self {
        let place = Place::new(StoreKind::Postgres);
        let batch = submit(place.store(), &["--rows", &sizes.rows.to_string()]);
        place.hide_processes();
        let arguments = [
            "--until-done".to_owned(),
            format!("--redis={redis}"),
            format!("--concurrency={}", sizes.concurrency),
            format!("--row-us={}", sizes.row.as_micros()),
            format!("--ttl-ms={}", sizes.ttl.as_millis()),
        ];
        let workers = (0..WORKERS).map(|_| place.worker(&arguments)).collect();
        Self { place, batch, workers, sizes, began: Instant::now() }
    }

    fn heartbeats_are(&self, count: usize, heartbeats: impl Fn() -> usize) {
        until("the workers have heartbeats", STUCK, || {
            assert!(!self.place.look().has_ended(&self.batch), "the job was over before: more rows are needed");
            (heartbeats() == count).then_some(())
        });
    }

    /// Kills a worker, and has the others finish.
    fn finish(mut self) -> Outcome {
        let mut victim = self.workers.remove(0);
        let look = self.place.look();
        let pid = victim.pid();
        until("it is in mid-row", STUCK, || is_in_mid_row(&self.place, &look, pid).then_some(()));
        victim.kill();
        let status: Vec<_> = self.workers.iter_mut().map(|worker| worker.wait(STUCK)).collect();
        let took = self.began.elapsed();
        assert!(status.iter().all(|status| status.success()), "no worker gave up: {status:?}");
        assert_all_succeeded(&self.place, &self.batch, self.sizes.rows);
        assert_eq!(self.place.number("select min(pid) from leases where state = 'dead'"), i64::from(pid));
        for (query, count) in [
            ("select count(*) from leases where state = 'dead'", 1),
            ("select count(*) from leases where state = 'dropped'", WORKERS - 1),
            ("select count(*) from attempts where kind = 'fenced'", 0),
        ] {
            assert_eq!(usize::try_from(self.place.number(query)), Ok(count), "{query}");
        }
        let runs = ledger::read(&self.place.ledger());
        ledger::assert_no_token_ran_twice(&runs);
        let (lines_repeated, _) = ledger::repeats(&runs);
        Outcome { failover: None, beating_again: None, took, lines_repeated }
    }
}
