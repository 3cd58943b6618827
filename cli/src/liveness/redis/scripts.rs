//! The requests as scripts: each is one round trip, atomic, on one node, and safe to repeat.
//!
//! Generic over the connection, so that the simulator can bring its own.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::{BatchId, LeaseId, LineSet};
use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ServerErrorKind};

use super::keys::{Keys, members, rows};

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Text> = LazyLock::new(|| {
            let code = concat!(include_str!("scripts/since.lua"), include_str!(concat!("scripts/", $file, ".lua")));
            Text::new($file, code)
        });
    };
}

script!(BEAT, "beat");
script!(PUBLISH, "publish");
script!(LEAVE, "leave");
script!(CHECK, "check");
script!(VIEW, "view");

/// A script and its hash.
#[derive(Debug)]
pub struct Text {
    /// Its file's name.
    pub name: &'static str,
    /// Its text.
    pub code: &'static str,
    /// By which a server that has met it knows it.
    pub hash: String,
}

impl Text {
    fn new(name: &'static str, code: &'static str) -> Self {
        Self { name, code, hash: Script::new(code).get_hash().to_owned() }
    }
}

/// All scripts that requests are made of: for whoever plays the server.
pub fn all() -> [&'static Text; 5] {
    [&BEAT, &PUBLISH, &LEAVE, &CHECK, &VIEW]
}

/// What a script answered, and when that was by Redis' own clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// To the request.
    pub reply: LivenessReply,
}

/// R2: what a server says of itself, which decides whether it can vouch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// How long its data have been there, or `None` where there is no marker of it.
    pub data_age: Option<Duration>,
    /// Its uptime in whole seconds: the difference of two moments that were both cut to seconds, so that it may be too large by
    /// almost one.
    pub uptime_s: u64,
    /// Whether it is a master: a replica may be behind.
    pub master: bool,
}

impl Evidence {
    /// R2: whether it was surely up, with its data, for longer than so long.
    pub fn vouches_for(&self, ttl: Duration) -> bool {
        self.doubt(ttl).is_none()
    }

    /// R2: why it cannot vouch for a lease of this ttl; `None` where it can.
    pub fn doubt(&self, ttl: Duration) -> Option<Doubt> {
        let surely_up = self.uptime_s.checked_sub(1).map(Duration::from_secs);
        if !self.master {
            Some(Doubt::Replica)
        } else if surely_up.is_none_or(|up| up < ttl) {
            Some(Doubt::Restarted)
        } else if self.data_age.is_none_or(|age| age <= ttl) {
            Some(Doubt::DataLost)
        } else {
            None
        }
    }
}

/// R2: why a Redis that answers cannot vouch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It is a replica, which may be behind its master.
    Replica,
    /// It has not surely been up for longer than the ttl.
    Restarted,
    /// Its data have not been there for longer than the ttl.
    DataLost,
}

/// What Redis has of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// How long the heartbeat lasts yet, or `None` where there is none.
    pub heartbeat: Option<Duration>,
    /// The running rows.
    pub running: Vec<(BatchId, LineSet)>,
}

/// What people are shown of a Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// When, by its own clock, in microseconds since 1970.
    pub at_us: u64,
    /// What it says of itself.
    pub evidence: Evidence,
    /// Of the workers that were asked for, in that order.
    pub workers: Vec<Mirrored>,
}

/// What can be asked of a Redis.
pub trait Request: Sync {
    /// What is answered.
    type Answer: Send;
    /// Asks it: one round trip. Fails where there is no answer, or the script failed.
    fn make(
        &self,
        connection: &mut (impl ConnectionLike + Send),
        keys: &Keys,
    ) -> impl Future<Output = RedisResult<Self::Answer>> + Send;
}

impl Request for LivenessRequest {
    type Answer = Answer;

    async fn make(&self, connection: &mut (impl ConnectionLike + Send), keys: &Keys) -> RedisResult<Answer> {
        ask(connection, keys, self).await
    }
}

/// What people are shown of these workers; nothing is written.
#[derive(Debug, Clone, Copy)]
pub struct ViewOf<'a>(pub &'a [LeaseId]);

impl Request for ViewOf<'_> {
    type Answer = View;

    async fn make(&self, connection: &mut (impl ConnectionLike + Send), keys: &Keys) -> RedisResult<View> {
        view(connection, keys, self.0).await
    }
}

async fn ask(
    connection: &mut (impl ConnectionLike + Send),
    keys: &Keys,
    request: &LivenessRequest,
) -> RedisResult<Answer> {
    match request {
        LivenessRequest::Beat { lease, worker, ttl, running } => {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            let arguments = [ttl_ms.to_string(), worker.clone()].into_iter().chain(members(running)).collect();
            done(run(connection, &BEAT, of_worker(keys, *lease), arguments).await?)
        }
        LivenessRequest::Publish { lease, running } => {
            done(run(connection, &PUBLISH, of_worker(keys, *lease), members(running).collect()).await?)
        }
        LivenessRequest::Leave { lease } => done(run(connection, &LEAVE, of_worker(keys, *lease), Vec::new()).await?),
        LivenessRequest::Check { leases, ttl_max } => {
            let names = std::iter::once(keys.since()).chain(leases.iter().map(|lease| keys.heartbeat(*lease)));
            let numbers: Vec<u64> = run(connection, &CHECK, names.collect(), Vec::new()).await?;
            let [now, since, uptime_s, master, heartbeats @ ..] = &numbers[..] else { return Err(not_ours()) };
            if heartbeats.len() != leases.len() {
                return Err(not_ours());
            }
            let vouches = evidence(*now, *since, *uptime_s, *master).vouches_for(*ttl_max);
            let alive = leases.iter().zip(heartbeats).filter(|(_, there)| **there == 1).map(|(lease, _)| *lease);
            Ok(Answer { at_us: *now, reply: LivenessReply::Check { vouches, alive: alive.collect() } })
        }
    }
}

async fn view(connection: &mut (impl ConnectionLike + Send), keys: &Keys, leases: &[LeaseId]) -> RedisResult<View> {
    let of_workers = leases.iter().flat_map(|lease| [keys.heartbeat(*lease), keys.running(*lease)]);
    let names = std::iter::once(keys.since()).chain(of_workers).collect();
    let values: Vec<redis::Value> = run(connection, &VIEW, names, Vec::new()).await?;
    let [now, since, uptime_s, master, of_workers @ ..] = &values[..] else { return Err(not_ours()) };
    let number = |value: &redis::Value| u64::from_redis_value_ref(value).map_err(RedisError::from);
    let at_us = number(now)?;
    let evidence = evidence(at_us, number(since)?, number(uptime_s)?, number(master)?);
    let mut workers = Vec::new();
    for pair in of_workers.chunks(2) {
        let [left_ms, set] = pair else { return Err(not_ours()) };
        let left_ms = i64::from_redis_value_ref(left_ms)?;
        let heartbeat = u64::try_from(left_ms).ok().filter(|left| *left > 0).map(Duration::from_millis);
        workers.push(Mirrored { heartbeat, running: rows(&Vec::from_redis_value_ref(set)?) });
    }
    Ok(View { at_us, evidence, workers })
}

fn of_worker(keys: &Keys, lease: LeaseId) -> Vec<String> {
    vec![keys.since(), keys.heartbeat(lease), keys.running(lease)]
}

fn done(numbers: Vec<u64>) -> RedisResult<Answer> {
    let [at_us] = numbers[..] else { return Err(not_ours()) };
    Ok(Answer { at_us, reply: LivenessReply::Done })
}

fn evidence(now_us: u64, since_us: u64, uptime_s: u64, master: u64) -> Evidence {
    let data_age = (since_us > 0).then(|| Duration::from_micros(now_us.saturating_sub(since_us)));
    Evidence { data_age, uptime_s, master: master == 1 }
}

fn not_ours() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "fencepost's script gave what it does not give").into()
}

/// Runs a script by its hash; a server that does not know it is sent its text.
async fn run<A: FromRedisValue>(
    connection: &mut (impl ConnectionLike + Send),
    script: &Text,
    names: Vec<String>,
    arguments: Vec<String>,
) -> RedisResult<A> {
    let command = |verb, text: &str| {
        let mut command = Cmd::new();
        command.arg(verb).arg(text).arg(names.len()).arg(&names).arg(&arguments);
        command
    };
    match command("EVALSHA", &script.hash).query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            command("EVAL", script.code).query_async(connection).await
        }
        answered => answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_master_that_surely_kept_its_data_vouches() {
        let ttl = Duration::from_secs(60);
        let good = Evidence { data_age: Some(Duration::from_micros(60_000_001)), uptime_s: 61, master: true };
        assert!(good.vouches_for(ttl));
        for bad in [
            Evidence { data_age: Some(ttl), ..good },
            Evidence { data_age: None, ..good },
            Evidence { uptime_s: 60, ..good },
            Evidence { uptime_s: 0, ..good },
            Evidence { master: false, ..good },
        ] {
            assert!(!bad.vouches_for(ttl), "{bad:?}");
        }
    }
}
