//! Workers, Postgres and Redis, each on a host of its own.

use std::time::Duration;

use super::Sizes;
use crate::network::{Network, NotHere};
use crate::place::Place;
use crate::postgres::{Durability, Server};
use crate::process::{Process, run_fencepost, submit, until};
use crate::redis::{self, Keeps};
use crate::scenario::STUCK;
use crate::signals::told_to_stop;

/// How many workers there are: hosts 0, 1 and 2.
pub const WORKERS: usize = 3;
/// The host of Postgres.
pub const POSTGRES: usize = WORKERS;
/// The host of Redis.
pub const REDIS: usize = WORKERS + 1;

/// What a run is unwound with that was told to stop, by this signal: so all that it made is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped(pub i32);

fn unless_stopped() {
    if let Some(signal) = told_to_stop() {
        std::panic::resume_unwind(Box::new(Stopped(signal)));
    }
}

/// As many rows wait at least while something is cut.
const WAITING_MIN: u64 = 200;

/// All of it. Parts are dropped in their order, the hosts last.
pub struct Field {
    workers: Vec<Process>,
    /// Redis.
    pub redis: redis::Server,
    /// The store, which this process reaches by Postgres' socket, whatever is cut.
    pub place: Place,
    /// The batch.
    pub batch: String,
    sizes: Sizes,
    /// Hosts and links.
    pub network: Network,
}

impl Field {
    /// Servers, workers and a batch, at work.
    pub fn new(sizes: Sizes) -> Result<Self, NotHere> {
        let network = Network::new(u8::try_from(REDIS + 1).expect("few"))?;
        let place = Place::on_server(Server::start_in(network.host(POSTGRES), Durability::Loose));
        let redis = redis::Server::start_in(network.host(REDIS), Keeps::Nothing);
        let batch = submit(place.store(), &["--rows", &(WAITING_MIN * 2).to_string()]);
        place.hide_processes();
        let mut field = Self { workers: Vec::new(), redis, place, batch, sizes, network };
        field.workers = (0..WORKERS).map(|nth| field.start(nth)).collect();
        Ok(field)
    }

    /// A worker on its host.
    fn start(&self, nth: usize) -> Process {
        let store = self.place.schema().url_at(&self.place.server().url_of_hosts());
        let arguments = [
            format!("--redis={}", self.redis.url()),
            format!("--concurrency={}", self.sizes.concurrency),
            format!("--row-us={}", self.sizes.row.as_micros()),
            format!("--ttl-ms={}", self.sizes.ttl.as_millis()),
            // Little of what waits is in anybody's hands.
            "--horizon-ms=300".to_owned(),
        ];
        Process::start(self.network.host(nth).enter(&self.place.worker_command(&store, &arguments)))
    }

    /// Waits for something; the workers have rows to run meanwhile.
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        self.until_within(what, STUCK, look)
    }

    /// The same with a limit.
    pub fn until_within<T>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        until(what, limit, || {
            unless_stopped();
            self.feed();
            look()
        })
    }

    /// Waits for so long.
    pub fn wait(&self, time: Duration) {
        let began = std::time::Instant::now();
        self.until("time goes by", || (began.elapsed() >= time).then_some(()));
    }

    fn feed(&self) {
        let waiting = self.number("select sum(total)::bigint - (select count(*) from outcomes) from batches");
        if u64::try_from(waiting).expect("no more outcomes than rows") < WAITING_MIN {
            let more = WAITING_MIN.to_string();
            let output = run_fencepost(["append", &self.batch, "--rows", &more, "--store", self.place.store()]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Waits until each of them has recorded outcomes of rows behind this moment.
    pub fn until_recorded_after(&self, workers: &[usize], at_us: i64) {
        self.until("workers record outcomes", || {
            workers.iter().all(|worker| self.recorded(*worker, at_us, i64::MAX) > 0).then_some(())
        });
    }

    /// How many outcomes a worker's leases recorded between two moments.
    pub fn recorded(&self, worker: usize, from_us: i64, to_us: i64) -> i64 {
        let pid = self.pid(worker);
        self.number(&format!(
            "select count(*) from outcomes join leases using (lease) \
             where pid = {pid} and recorded_at > {from_us} and recorded_at < {to_us}"
        ))
    }

    /// The number that a query gives.
    pub fn number(&self, query: &str) -> i64 {
        self.rows::<(i64,)>(query)[0].0
    }

    /// The records that a query gives.
    pub fn rows<T>(&self, query: &str) -> Vec<T>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        self.place.block_on(async {
            let mut conn = self.place.schema().connect().await;
            sqlx::query_as(sqlx::AssertSqlSafe(query.to_owned())).fetch_all(&mut conn).await.expect("it can be asked")
        })
    }

    /// The store's time, in microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        self.number("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
    }

    /// A worker's process id.
    pub fn pid(&self, worker: usize) -> u32 {
        self.workers[worker].pid()
    }

    /// Kills a worker as `kill -9` does.
    pub fn kill(&mut self, worker: usize) {
        self.workers[worker].kill();
    }

    /// Starts another one in the place of one that was killed.
    pub fn replace(&mut self, worker: usize) {
        self.workers[worker] = self.start(worker);
    }

    /// Has all workers leave in order once the batch has ended.
    pub fn end(&mut self) {
        let look = self.place.look();
        until("the batch ends", STUCK, || {
            unless_stopped();
            look.has_ended(&self.batch).then_some(())
        });
        drop(look);
        for worker in &self.workers {
            worker.signal(nix::sys::signal::Signal::SIGTERM);
        }
        for worker in &mut self.workers {
            let status = worker.wait(STUCK);
            assert!(status.success(), "no worker gave up: {status}");
        }
        // What was given up while something was cut, too.
        until("the servers have no connection of a worker", STUCK, || {
            (self.connections_to_postgres() == 0 && self.connections_to_redis() == 0).then_some(())
        });
    }

    /// How many connections of workers Postgres has.
    pub fn connections_to_postgres(&self) -> i64 {
        self.number("select count(*) from pg_stat_activity where client_addr is not null")
    }

    /// How many connections of workers Redis has.
    pub fn connections_to_redis(&self) -> i64 {
        let workers = (0..WORKERS).map(|worker| format!(" addr={}:", self.network.host(worker).address()));
        let workers: Vec<String> = workers.collect();
        let clients = self.redis.ask(&["CLIENT", "LIST"]);
        let of_workers = clients.lines().filter(|client| workers.iter().any(|addr| client.contains(addr)));
        i64::try_from(of_workers.count()).expect("few")
    }
}
