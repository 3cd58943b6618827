//! Random requests and mishaps for the model and for a real Redis: both answer the same, each at the moment that Redis itself
//! names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost::liveness::RedisLiveness;
use fencepost::liveness::redis::scripts::Answer;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::{BatchId, Instant, LeaseId, LineSet};
use fencepost_model::liveness::ModelLiveness;
use fencepost_tests::redis::{Keeps, Server};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const STEPS: usize = 150;
/// Redis expires keys by the millisecond, and by the time at which a script began; the script then looks at the clock. So
/// close to the end of a heartbeat either answer is right.
const BLUR: Duration = Duration::from_millis(5);
/// A server that was started again answers within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a run must have seen at least once; see [`Both`].
const KINDS: [&str; 11] = [
    "vouches, alive",
    "vouches, none alive",
    "vouches not, alive",
    "vouches not, none alive",
    "up too briefly, data old enough",
    "data too young",
    "rows mirrored",
    "no rows mirrored",
    "published without heartbeat",
    "heartbeat ran out",
    "heartbeat survived a restart",
];

struct Both {
    server: Server,
    keeps: Keeps,
    redis: RedisLiveness,
    model: ModelLiveness,
    random: StdRng,
    seen: BTreeSet<&'static str>,
    /// Answers that were right only close to the end of a heartbeat.
    blurred: usize,
    /// The heartbeats that were set and not taken away, with how often the server had been restarted by then.
    beaten: BTreeMap<LeaseId, usize>,
    restarts: usize,
    restarted: bool,
}

fn moment(at_us: u64) -> Instant {
    Instant::from_micros(at_us)
}

/// When the server says that it started: whole seconds.
fn up_since(server: &Server) -> Instant {
    // Both fields are of one answer, and Redis' own clock is in it.
    let info = server.ask(&["INFO", "server"]);
    let field = |name: &str| -> u64 {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.expect("a field of INFO").trim().parse().expect("a number")
    };
    moment((field("server_time_usec") / 1_000_000 - field("uptime_in_seconds")) * 1_000_000)
}

impl Both {
    fn new(seed: u64, keeps: Keeps) -> Self {
        let server = Server::start(keeps);
        let model = ModelLiveness::new(up_since(&server));
        let redis = RedisLiveness::new(server.url().parse().expect("a URL"), "store").expect("no file is read");
        let (random, beaten) = (StdRng::seed_from_u64(seed), BTreeMap::new());
        Self {
            server,
            keeps,
            redis,
            model,
            random,
            seen: BTreeSet::new(),
            blurred: 0,
            beaten,
            restarts: 0,
            restarted: false,
        }
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId::from_random(self.random.random_range(1..=3))
    }

    fn rows(&mut self) -> Vec<(BatchId, LineSet)> {
        let mut rows = Vec::new();
        for batch in 1..=self.random.random_range(0..3) {
            let lines: LineSet = (1..30).filter(|_| self.random.random_bool(0.5)).collect();
            if !lines.is_empty() {
                rows.push((BatchId::from_random(batch), lines));
            }
        }
        rows
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..25 => {
                let (lease, running) = (self.lease(), self.rows());
                let ttl = Duration::from_millis(self.random.random_range(300..2_500));
                self.ask(LivenessRequest::Beat { lease, worker: "w".into(), ttl, running }).await;
                self.beaten.insert(lease, self.restarts);
            }
            25..35 => {
                let (lease, running) = (self.lease(), self.rows());
                self.ask(LivenessRequest::Publish { lease, running }).await;
            }
            35..40 => {
                let lease = self.lease();
                self.beaten.remove(&lease);
                self.ask(LivenessRequest::Leave { lease }).await;
            }
            40..65 => {
                let leases = (1..=3).filter(|_| self.random.random_bool(0.7)).map(LeaseId::from_random).collect();
                let ttl_max = Duration::from_millis([200, 1_000, 2_000, 3_000][self.random.random_range(0..4)]);
                self.ask(LivenessRequest::Check { leases, ttl_max }).await;
            }
            65..75 => self.look().await,
            75..78 => self.flush(),
            78..82 => {
                let lease = self.lease();
                self.beaten.remove(&lease);
                // The mirror with it: alone it would be shown for what is left of its time.
                let keys = self.redis.keys();
                self.server.ask(&["DEL", &keys.heartbeat(lease), &keys.running(lease)]);
                self.model.evict(lease);
            }
            82..85 => self.restart(),
            _ => {
                let wait = Duration::from_millis(self.random.random_range(0..1_500));
                tokio::time::sleep(wait).await;
            }
        }
    }

    fn flush(&mut self) {
        self.server.ask(&["FLUSHALL"]);
        self.model.flush();
        self.beaten.clear();
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.start_again();
        let since = up_since(&self.server);
        match self.keeps {
            Keeps::EveryWrite => self.model.restart_with_data(since),
            Keeps::Nothing | Keeps::Snapshot => {
                self.model.restart_empty(since);
                self.beaten.clear();
            }
        }
        self.restarts += 1;
        self.restarted = true;
    }

    /// Asks Redis, then the model for the same moment.
    async fn ask(&mut self, request: LivenessRequest) {
        let Answer { at_us, reply } = self.answered(&request).await;
        let now = moment(at_us);
        self.note_before(now, &request);
        let expected = self.model.clone().apply(now, &request);
        if reply != expected {
            let near = [moment(at_us - blur_us()), moment(at_us + blur_us())];
            let blurred = near.map(|near| self.model.clone().apply(near, &request));
            assert!(blurred.contains(&reply), "{request:?} at {at_us}: {reply:?}, not {expected:?}\n{:?}", self.model);
            self.blurred += 1;
        }
        self.model.apply(now, &request);
        if let LivenessReply::Check { vouches, alive } = &reply {
            self.note_check(now, *vouches, alive, &request);
        }
    }

    /// Only a server that was started again may leave a request unanswered: the connection is made anew meanwhile.
    async fn answered(&mut self, request: &LivenessRequest) -> Answer {
        let asking = std::time::Instant::now();
        loop {
            match self.redis.ask(request).await {
                Ok(answer) => {
                    self.restarted = false;
                    return answer;
                }
                Err(error) => {
                    assert!(self.restarted && asking.elapsed() < PATIENCE, "{request:?}: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Compares the mirror and the heartbeats with the model's.
    async fn look(&mut self) {
        // A connection that was lost with its server is made anew by a request that the model knows of.
        self.ask(LivenessRequest::Check { leases: Vec::new(), ttl_max: Duration::from_secs(1) }).await;
        let leases = [1, 2, 3].map(LeaseId::from_random);
        let view = self.redis.view(&leases).await.expect("it answered just now");
        for (lease, found) in leases.into_iter().zip(view.workers) {
            let near = [view.at_us - blur_us(), view.at_us, view.at_us + blur_us()].map(moment);
            let there = near.map(|now| self.model.has_beat(now, lease));
            assert!(there.contains(&found.heartbeat.is_some()), "{lease} at {}: {found:?}", view.at_us);
            // Without a heartbeat neither has rows.
            if there[0] == there[1] && there[1] == there[2] {
                assert_eq!(found.running, self.model.running(near[1], lease), "{lease} at {}", view.at_us);
                self.seen.insert(if found.running.is_empty() { "no rows mirrored" } else { "rows mirrored" });
            }
        }
    }

    fn note_before(&mut self, now: Instant, request: &LivenessRequest) {
        if let LivenessRequest::Publish { lease, .. } = request
            && !self.model.has_beat(now, *lease)
        {
            self.seen.insert("published without heartbeat");
        }
    }

    fn note_check(&mut self, now: Instant, vouches: bool, alive: &[LeaseId], request: &LivenessRequest) {
        let LivenessRequest::Check { leases, ttl_max } = request else { return };
        self.seen.insert(match (vouches, alive.is_empty()) {
            (true, false) => "vouches, alive",
            (true, true) => "vouches, none alive",
            (false, false) => "vouches not, alive",
            (false, true) => "vouches not, none alive",
        });
        if !vouches {
            let data_age = self.model.data_since().map_or(Duration::ZERO, |since| now.since(since));
            let old_enough = data_age > *ttl_max;
            self.seen.insert(if old_enough { "up too briefly, data old enough" } else { "data too young" });
        }
        for (lease, restarts) in leases.iter().filter_map(|lease| self.beaten.get_key_value(lease)) {
            if !alive.contains(lease) {
                self.seen.insert("heartbeat ran out");
            } else if *restarts < self.restarts {
                self.seen.insert("heartbeat survived a restart");
            }
        }
    }
}

fn blur_us() -> u64 {
    fencepost_core::time::micros(BLUR)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_as_the_model_does() {
    let seeds = [(1, Keeps::Nothing), (2, Keeps::EveryWrite), (3, Keeps::EveryWrite), (4, Keeps::Nothing)];
    let runs = seeds.map(|(seed, keeps)| {
        tokio::spawn(async move {
            let mut both = Both::new(seed, keeps);
            for _ in 0..STEPS {
                both.step().await;
            }
            (both.seen, both.blurred)
        })
    });
    let mut all = BTreeSet::new();
    for run in runs {
        let (seen, blurred) = run.await.expect("both agree");
        assert!(blurred <= STEPS / 20, "{blurred} answers were right only by a hair");
        all.extend(seen);
    }
    let missing: Vec<_> = KINDS.iter().filter(|kind| !all.contains(*kind)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}
