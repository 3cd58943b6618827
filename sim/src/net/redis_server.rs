//! Redis' node: the model of the second witness behind RESP. It knows the adapter's scripts by their hashes, and does what the
//! differential test has shown a real server to do with them.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use fencepost::liveness::redis::keys::rows;
use fencepost::liveness::redis::scripts;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::{Instant, LeaseId};
use fencepost_model::clock::{MonotonicClock, Rate};
use fencepost_model::liveness::{ModelLiveness, uptime_s};
use madsim::net::{TcpListener, TcpStream};
use madsim::task::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::coverage::NetMark;
use super::fault::Refusal;
use super::resp;
use super::world::{Shared, World};

/// Where it listens.
pub(super) const REDIS_ADDRESS: &str = "10.0.0.2:6379";

/// Redis' data, and how its server is.
pub(super) struct Redis {
    pub(super) model: ModelLiveness,
    pub(super) clock: MonotonicClock,
    pub(super) node: Option<NodeId>,
    known: BTreeSet<String>,
    /// Killed, until then; then started with or without its data.
    pub(super) down: Option<(u64, bool)>,
    /// Stands still, until then.
    pub(super) paused: Option<u64>,
    /// Refuses, until then.
    pub(super) refuses: Option<(Refusal, u64)>,
    /// When any of this last changed.
    pub(super) since: u64,
    /// All connections are to be closed.
    hang_up: Arc<Notify>,
    /// What was done lately.
    pub(super) done: VecDeque<Done>,
    remembered_us: u64,
}

/// A request that was done.
#[derive(Debug, Clone)]
pub(super) struct Done {
    /// True time.
    pub(super) at: u64,
    /// By the server's own clock.
    pub(super) now: Instant,
    /// As the server understood it; of a check the ttl is not known here.
    pub(super) request: LivenessRequest,
    /// To a check: the leases with a heartbeat.
    pub(super) alive: Vec<LeaseId>,
    pub(super) up_since: Instant,
    pub(super) data_since: Instant,
    pub(super) master: bool,
}

/// What was done is remembered for so long: no request waits longer, but in a process that stands still.
const REMEMBERED_US: u64 = 3_000_000;

impl Redis {
    /// Whoever stands still may hear its answer so much later.
    pub(super) fn new(pauses_us: u64) -> Self {
        let origin = Instant::from_micros(77_000_000);
        Self {
            model: ModelLiveness::new(origin),
            clock: MonotonicClock::new(0, origin, Rate::TRUE),
            node: None,
            known: BTreeSet::new(),
            down: None,
            paused: None,
            refuses: None,
            since: 0,
            hang_up: Arc::default(),
            done: VecDeque::new(),
            remembered_us: REMEMBERED_US + pauses_us,
        }
    }

    pub(super) const fn is_well(&self) -> bool {
        self.down.is_none() && self.paused.is_none() && self.refuses.is_none()
    }

    /// A server that starts knows no script.
    pub(super) fn forget_scripts(&mut self) {
        self.known.clear();
    }

    pub(super) fn close_connections(&self) {
        self.hang_up.notify_waiters();
    }
}

/// Runs on Redis' node.
pub(super) async fn serve(shared: Shared) {
    let Ok(listener) = TcpListener::bind(REDIS_ADDRESS).await else {
        return shared.lock().violate("simulator", "Redis cannot listen".to_owned());
    };
    while let Ok((stream, _)) = listener.accept().await {
        let hang_up = shared.lock().redis.hang_up.clone();
        madsim::task::spawn(talk(shared.clone(), stream, hang_up));
    }
}

async fn talk(shared: Shared, mut stream: TcpStream, hang_up: Arc<Notify>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = tokio::select! {
            biased;
            () = hang_up.notified() => return,
            read = stream.read(&mut buffer) => read.unwrap_or(0),
        };
        if length == 0 {
            return;
        }
        bytes.extend_from_slice(&buffer[..length]);
        while let Some(command) = resp::take_command(&mut bytes) {
            let answer = shared.lock().redis_arrives(&command);
            if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

impl World {
    /// Since when Redis answers everybody; none: it does not.
    pub(super) fn redis_well_since(&self) -> Option<u64> {
        self.redis.is_well().then_some(self.redis.since)
    }

    fn redis_arrives(&mut self, command: &[String]) -> String {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match (words.as_slice(), self.redis.refuses.map(|(why, _)| why)) {
            (_, Some(Refusal::Loading)) => self.refuse("LOADING Redis is loading the dataset in memory"),
            (["PING"], Some(Refusal::CannotSave)) => self.refuse(CANNOT_SAVE),
            (["PING"], _) => "+PONG\r\n".to_owned(),
            (["CLIENT", ..], _) => "+OK\r\n".to_owned(),
            (["EVALSHA", hash, rest @ ..], _) => match scripts::all().iter().find(|script| script.hash == *hash) {
                Some(script) if self.redis.known.contains(*hash) => self.run_script(script.name, rest),
                _ => "-NOSCRIPT No matching script. Please use EVAL.\r\n".to_owned(),
            },
            (["EVAL", code, rest @ ..], _) => match scripts::all().iter().find(|script| script.code == *code) {
                Some(script) => {
                    self.coverage.mark(NetMark::ScriptSent);
                    self.redis.known.insert(script.hash.clone());
                    self.run_script(script.name, rest)
                }
                None => self.unknown(&words),
            },
            _ => self.unknown(&words),
        }
    }

    /// The adapter and this server were not made for each other.
    fn unknown(&mut self, words: &[&str]) -> String {
        let shown: Vec<&str> = words.iter().take(3).copied().collect();
        self.violate("simulator", format!("the simulated Redis does not know what to do with {shown:.200?}"));
        "-ERR unknown command\r\n".to_owned()
    }

    fn refuse(&mut self, why: &str) -> String {
        self.coverage.mark(NetMark::RedisRefused);
        format!("-{why}\r\n")
    }

    /// `rest`: how many keys, the keys, the arguments.
    fn run_script(&mut self, name: &str, rest: &[&str]) -> String {
        let Some(request) = understood(name, rest) else {
            let shown = format!("{name} with {rest:.500?}");
            return self.unknown(&[&shown]);
        };
        let (now_us, now) = (self.now(), self.redis.clock.now(self.now()));
        if let Some(refusal) = self.refusal_of(now, &request) {
            return self.refuse(refusal);
        }
        self.coverage.mark(NetMark::RedisRequests);
        let reply = self.redis.model.apply(now, &request);
        self.note(6, now.as_micros(), 0);
        (&request, &reply).hash(&mut self.hash);
        self.say(|| format!("redis {request:?} -> {reply:?}"));
        let alive = match reply {
            LivenessReply::Check { alive, .. } => alive,
            LivenessReply::Done => Vec::new(),
        };
        let (up_since, data_since) = (self.redis.model.up_since(), self.redis.model.data_since().unwrap_or(now));
        let master = !matches!(self.redis.refuses, Some((Refusal::Replica, _)));
        let answer = match &request {
            LivenessRequest::Check { leases, .. } => {
                let has = |lease: &LeaseId| u64::from(alive.contains(lease));
                let server = [now.as_micros(), data_since.as_micros(), uptime_s(now, up_since), u64::from(master)];
                resp::numbers(&server.into_iter().chain(leases.iter().map(has)).collect::<Vec<u64>>())
            }
            _ => resp::numbers(&[now.as_micros()]),
        };
        self.redis.done.push_back(Done { at: now_us, now, request, alive, up_since, data_since, master });
        let remembered_us = self.redis.remembered_us;
        while self.redis.done.front().is_some_and(|done| done.at + remembered_us < now_us) {
            self.redis.done.pop_front();
        }
        answer
    }

    /// What a server in this mood answers to a script that writes.
    fn refusal_of(&self, now: Instant, request: &LivenessRequest) -> Option<&'static str> {
        let (refusal, _) = self.redis.refuses?;
        let (adds, writes) = match request {
            LivenessRequest::Beat { .. } => (true, true),
            LivenessRequest::Publish { lease, running } => {
                let there = self.redis.model.has_beat(now, *lease);
                (there && !running.is_empty(), there)
            }
            LivenessRequest::Leave { .. } => (false, true),
            LivenessRequest::Check { .. } => (false, false),
        };
        // The marker, which every script sees to.
        let marks = self.redis.model.data_since().is_none();
        let (adds, writes) = (adds || marks, writes || marks);
        match refusal {
            Refusal::OutOfMemory if adds => Some("OOM command not allowed when used memory > 'maxmemory'."),
            Refusal::CannotSave if writes => Some(CANNOT_SAVE),
            Refusal::Replica if writes => Some("READONLY You can't write against a read only replica."),
            Refusal::Loading | Refusal::OutOfMemory | Refusal::CannotSave | Refusal::Replica => None,
        }
    }
}

const CANNOT_SAVE: &str =
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.";

/// The request that a script's keys and arguments mean.
fn understood(script: &str, rest: &[&str]) -> Option<LivenessRequest> {
    let (count, rest) = rest.split_first()?;
    let (names, arguments) = rest.split_at_checked(count.parse().ok()?)?;
    let (since, names) = names.split_first()?;
    let prefix = since.strip_suffix("since")?;
    let lease_of = |name: &str, what: &str| name.strip_prefix(prefix)?.strip_prefix(what)?.parse::<LeaseId>().ok();
    let mirrored = |members: &[&str]| rows(&members.iter().map(|member| (*member).to_owned()).collect::<Vec<_>>());
    let of_worker = || match names {
        [heartbeat, running] => {
            let lease = lease_of(heartbeat, "heartbeat:")?;
            (lease_of(running, "running:")? == lease).then_some(lease)
        }
        _ => None,
    };
    Some(match (script, arguments) {
        ("beat", [ttl_ms, worker, running @ ..]) => LivenessRequest::Beat {
            lease: of_worker()?,
            worker: (*worker).to_owned(),
            ttl: Duration::from_millis(ttl_ms.parse().ok()?),
            running: mirrored(running),
        },
        ("publish", running) => LivenessRequest::Publish { lease: of_worker()?, running: mirrored(running) },
        ("leave", []) => LivenessRequest::Leave { lease: of_worker()? },
        ("check", []) => {
            let leases = names.iter().map(|name| lease_of(name, "heartbeat:")).collect::<Option<_>>()?;
            LivenessRequest::Check { leases, ttl_max: Duration::ZERO }
        }
        _ => return None,
    })
}
