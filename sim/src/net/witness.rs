//! A worker's way to Redis: the real adapter over simulated TCP, and a watch over what it answers.
//!
//! Redis can cause no death, so the checkers of the store would not notice an adapter that is wrong. Here every answer is
//! compared with what the server did: it must be an answer to that very request, done between question and answer; it must
//! come in time; and there must be one once all has been well for long enough.

use std::time::Duration;

use fencepost::driver::{Clock, Liveness, Observer};
use fencepost::liveness::RedisLiveness;
use fencepost::liveness::redis::LIMIT_MAX;
use fencepost::liveness::redis::connecting::Connect;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::time::micros;
use fencepost_model::liveness::kept_longer_than;
use madsim::net::TcpStream;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisResult};

use super::coverage::NetMark;
use super::fault::Server;
use super::node::{SimClock, SimSpawn};
use super::redis_server::{Done, REDIS_ADDRESS};
use super::world::{ProcessAt, Shared, World};

/// Opens connections from a worker's node.
#[derive(Clone)]
pub(super) struct RedisNode {
    shared: Shared,
    process: ProcessAt,
}

impl Connect for RedisNode {
    type Connection = MultiplexedConnection;

    /// Across a cut nobody answers, and it is tried again, as TCP does.
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut pause = Duration::from_millis(5);
        let stream = loop {
            match TcpStream::connect(REDIS_ADDRESS).await {
                Ok(stream) => break stream,
                Err(error) => {
                    let mut world = self.shared.lock();
                    if !world.loses_messages(self.process, Server::Redis) {
                        return Err(error.into());
                    }
                    world.coverage.mark(NetMark::ConnectedThroughCut);
                }
            }
            madsim::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        };
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let info = RedisConnectionInfo::default();
        let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        madsim::task::spawn(driver);
        Ok(connection)
    }
}

/// The second witness of a worker, watched.
#[derive(Clone)]
pub(super) struct Witness {
    shared: Shared,
    process: ProcessAt,
    clock: SimClock,
    redis: RedisLiveness<RedisNode, SimClock, SimSpawn>,
    limit: Duration,
}

/// After so long without trouble there must be answers: an attempt to connect may take 5 s, the pause after it 5 s, on a clock that is a
/// tenth slow.
const SETTLED_US: u64 = 12_000_000;

/// What timers may add to a wait.
const BLUR: Duration = Duration::from_millis(3);

impl Witness {
    pub(super) fn new(shared: &Shared, process: ProcessAt, clock: SimClock, seed: u64) -> Self {
        let node = RedisNode { shared: shared.clone(), process };
        let redis = RedisLiveness::with(node, clock.clone(), SimSpawn, "store", seed);
        Self { shared: shared.clone(), process, clock, redis, limit: LIMIT_MAX }
    }

    fn over(&self, redis: RedisLiveness<RedisNode, SimClock, SimSpawn>, limit: Duration) -> Self {
        Self { redis, limit, ..self.clone() }
    }
}

impl Liveness for Witness {
    fn is_present(&self) -> bool {
        self.redis.is_present()
    }

    fn for_worker(&self, ttl: Duration, observer: Observer) -> Self {
        self.over(self.redis.for_worker(ttl, observer), LIMIT_MAX.min(ttl / 8))
    }

    fn for_renewals(&self) -> Self {
        self.over(self.redis.for_renewals(), self.limit)
    }

    async fn call(&self, request: LivenessRequest) -> Option<LivenessReply> {
        let (asked_at, asked) = (self.shared.lock().now(), self.clock.now());
        let reply = self.redis.call(request.clone()).await;
        let took = self.clock.now().since(asked);
        let mut world = self.shared.lock();
        if world.processes[self.process].awake_since <= asked_at && took > self.limit + BLUR {
            world.violate("witness in time", format!("{request:?} took {took:?}, the limit is {:?}", self.limit));
        }
        match &reply {
            Some(reply) => {
                world.coverage.mark(NetMark::WitnessAnswered);
                world.judge_answer(asked_at, &request, reply);
            }
            None => {
                world.coverage.mark(NetMark::WitnessSilent);
                if world.done_since(asked_at, &request).next().is_some() {
                    world.coverage.mark(NetMark::WitnessAnswerLost);
                }
                self.judge_silence(&mut world, asked_at, &request);
            }
        }
        reply
    }
}

impl Witness {
    fn judge_silence(&self, world: &mut World, asked_at: u64, request: &LivenessRequest) {
        let well = world.redis_reachable_since(self.process).is_some_and(|since| since + SETTLED_US <= asked_at);
        // Where a few messages take as long as a request may, none may be heard of.
        let roomy = micros(self.limit) > 8 * world.schedule.options.latency_us_max + 10_000;
        if well && roomy {
            world.violate("witness answers", format!("no answer to {request:?}, though all is well for long"));
        }
    }
}

impl World {
    /// Since when nothing is between this process and Redis; none: something is.
    fn redis_reachable_since(&self, at: ProcessAt) -> Option<u64> {
        let process = &self.processes[at];
        let slot = &self.slots[process.slot];
        if slot.redis_cut.is_some() || self.bad_network.is_some() || process.paused.is_some() {
            return None;
        }
        let since = process.awake_since.max(slot.redis_link_since).max(self.network_since);
        Some(since.max(self.redis_well_since()?))
    }

    /// What Redis has done since then for this request.
    fn done_since(&self, asked_at: u64, request: &LivenessRequest) -> impl Iterator<Item = &Done> {
        self.redis
            .done
            .iter()
            .rev()
            .take_while(move |done| done.at >= asked_at)
            .filter(|done| same(&done.request, request))
    }

    fn judge_answer(&mut self, asked_at: u64, request: &LivenessRequest, reply: &LivenessReply) {
        let mut done = self.done_since(asked_at, request).peekable();
        if done.peek().is_none() {
            let what = format!("{reply:?} is no answer to {request:?}: Redis did nothing of the kind");
            drop(done);
            return self.violate("witness answers", what);
        }
        let (LivenessRequest::Check { ttl_max, .. }, LivenessReply::Check { vouches, alive }) = (request, reply) else {
            let fits =
                matches!((request, reply), (LivenessRequest::Check { .. }, _) | (_, LivenessReply::Check { .. }));
            drop(done);
            if fits {
                self.violate("witness answers", format!("{reply:?} is no answer to {request:?}"));
            }
            return;
        };
        let may_vouch =
            |done: &Done| done.master && kept_longer_than(*ttl_max, done.now, done.up_since, done.data_since);
        let right = done.any(|done| done.alive == *alive && may_vouch(done) == *vouches);
        drop(done);
        if !right {
            self.violate("witness answers", format!("{reply:?} to {request:?} is not what Redis knew"));
        }
        if !vouches {
            self.coverage.mark(NetMark::YoungRedis);
        } else if !alive.is_empty() {
            self.coverage.mark(NetMark::HeartbeatPresent);
        }
    }
}

/// Whether these are one request, as far as its keys and arguments tell.
fn same(done: &LivenessRequest, asked: &LivenessRequest) -> bool {
    use LivenessRequest as R;
    match (done, asked) {
        (R::Check { leases: done, .. }, R::Check { leases: asked, .. }) => done == asked,
        (
            R::Beat { lease, worker, ttl, running },
            R::Beat { lease: asked_lease, worker: asked_worker, ttl: asked_ttl, running: asked_running },
        ) => {
            let ttl_fits = ttl.as_millis() == asked_ttl.as_millis();
            lease == asked_lease && worker == asked_worker && ttl_fits && same_rows(running, asked_running)
        }
        (R::Publish { lease, running }, R::Publish { lease: asked_lease, running: asked_running }) => {
            lease == asked_lease && same_rows(running, asked_running)
        }
        (R::Leave { lease }, R::Leave { lease: asked }) => lease == asked,
        _ => false,
    }
}

type Running = [(fencepost_core::BatchId, fencepost_core::LineSet)];

/// In any order, and without batches of which nothing runs: Redis keeps rows as a set.
fn same_rows(done: &Running, asked: &Running) -> bool {
    let some: Vec<_> = asked.iter().filter(|(_, lines)| !lines.is_empty()).collect();
    done.len() == some.len() && done.iter().all(|batch| some.contains(&batch))
}
