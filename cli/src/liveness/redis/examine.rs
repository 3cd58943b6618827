//! Looking at a Redis: whether it answers, what it says of itself, and whether it would take a worker's writes. Nothing is
//! written, not even the marker.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fencepost_core::LeaseId;
use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind};

use super::connecting::{Connect, RedisServer};
use super::keys::Keys;
use super::scripts::{Evidence, Mirrored, Request, ViewOf};
use super::url::{Kind, RedisUrl};

/// Connecting, and each answer, may take so long: longer than a worker waits, so that a slow one is told from a silent one.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What was found of a Redis.
#[derive(Debug, Clone)]
pub struct RedisFacts {
    /// Its URL without passwords.
    pub url: String,
    /// How its servers are used.
    pub kind: Kind,
    /// What it says, or why it says nothing.
    pub said: Result<Said, Silence>,
}

/// Why a Redis cannot be examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// In the words of the library or the server.
    pub why: String,
    /// What that means.
    pub kind: SilenceKind,
}

/// What the lack of an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilenceKind {
    /// Nobody is there, or it cannot be reached.
    Unreachable,
    /// It is there and says nothing.
    Frozen,
    /// User or password are wrong, or there is none and one is wanted.
    Password,
    /// This user may not do what workers do.
    Forbidden,
    /// It is reading its data.
    Loading,
    /// Anything else.
    Other,
}

/// What a Redis says.
#[derive(Debug, Clone)]
pub struct Said {
    /// How long a question and its answer take.
    pub round_trip: Duration,
    /// By how many microseconds its clock is ahead of this machine's, or behind it, and by how many this may be wrong.
    pub clock_ahead_us: (i64, u64),
    /// What it says of itself.
    pub info: Info,
    /// R2: what decides whether it can vouch.
    pub evidence: Evidence,
    /// Why it would refuse a worker's writes: a worker's commands, each with the error that it meets.
    pub refused: Vec<(&'static str, String)>,
    /// What it has of the workers that were asked for, in that order.
    pub workers: Vec<Mirrored>,
}

/// The fields of `INFO` that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// Its version.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// Of a replica: its master's host and port.
    pub master_of: Option<String>,
    /// How many bytes it uses.
    pub used_bytes: u64,
    /// How many it may use; 0 is no bound.
    pub bytes_max: u64,
    /// What it does when it may use no more.
    pub policy: String,
    /// How many keys it has thrown away for want of memory since it was started.
    pub evicted_keys: u64,
    /// The last snapshot could not be written.
    pub snapshot_failed: bool,
    /// The last write of its append-only file failed.
    pub log_failed: bool,
}

impl Info {
    /// Reads the text that `INFO` gives. What is not said is as if it were well.
    pub fn read(text: &str) -> Self {
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let word = |name: &str| field(name).unwrap_or_default().to_owned();
        let number = |name: &str| field(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let master_of = field("master_host").map(|host| format!("{host}:{}", field("master_port").unwrap_or_default()));
        Self {
            version: word("redis_version"),
            role: word("role"),
            master_of,
            used_bytes: number("used_memory"),
            bytes_max: number("maxmemory"),
            policy: word("maxmemory_policy"),
            evicted_keys: number("evicted_keys"),
            snapshot_failed: field("rdb_last_bgsave_status") == Some("err"),
            log_failed: field("aof_last_write_status") == Some("err"),
        }
    }

    /// The major version, where it can be read.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// Looks at this Redis on behalf of the store with this id, and of these leases. It never fails: what cannot be looked at is told.
pub async fn examine(url: &RedisUrl, store_id: Option<&str>, leases: &[LeaseId]) -> RedisFacts {
    let said = look(url, store_id, leases).await;
    RedisFacts { url: url.to_string(), kind: url.kind().clone(), said }
}

async fn look(url: &RedisUrl, store_id: Option<&str>, leases: &[LeaseId]) -> Result<Said, Silence> {
    let server = RedisServer::new(url.clone()).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        Silence { why: format!("{error}{cause}"), kind: SilenceKind::Other }
    })?;
    let mut connection = within(server.connect()).await?;
    ping(&mut connection).await?;
    let began = Instant::now();
    ping(&mut connection).await?;
    let round_trip = began.elapsed();
    // Without a store there are no keys of it; those of another name answer as well.
    let keys = Keys::new(store_id.unwrap_or("none"));
    let before = now_us();
    let found = within(ask(&mut connection, &keys)).await?;
    let after = now_us();
    let half = after.saturating_sub(before) / 2;
    let at_us = i64::try_from(found.at_us).unwrap_or(i64::MAX);
    let clock_ahead_us = (at_us.saturating_sub(before.saturating_add(half)), half.unsigned_abs());
    let view = within(ViewOf(leases).make(&mut connection, &keys)).await?;
    Ok(Said {
        round_trip,
        clock_ahead_us,
        info: found.info,
        evidence: view.evidence,
        refused: found.refused,
        workers: view.workers,
    })
}

/// A server that cannot save its data refuses even this, with an error of its own; the rest can be asked all the same.
async fn ping(connection: &mut (impl ConnectionLike + Send)) -> Result<(), Silence> {
    match within(Cmd::new().arg("PING").query_async::<()>(connection)).await {
        Err(silence) if silence.why.contains("MISCONF") => Ok(()),
        answered => answered,
    }
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

async fn within<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, Silence> {
    match tokio::time::timeout(ANSWER_LIMIT, answer).await {
        Ok(answered) => answered.map_err(|error| silence(&error)),
        Err(_) => Err(Silence { why: format!("no answer within {ANSWER_LIMIT:?}"), kind: SilenceKind::Frozen }),
    }
}

fn silence(error: &RedisError) -> Silence {
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    let says = |code: &str| error.code() == Some(code) || why.contains(code);
    let kind = if error.kind() == ErrorKind::AuthenticationFailed || says("WRONGPASS") || says("NOAUTH") {
        SilenceKind::Password
    } else if is_forbidden(&why) {
        SilenceKind::Forbidden
    } else if error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) || says("LOADING") {
        SilenceKind::Loading
    } else if error.is_timeout() {
        SilenceKind::Frozen
    } else if error.is_io_error() || error.is_connection_refusal() || error.is_connection_dropped() {
        SilenceKind::Unreachable
    } else {
        SilenceKind::Other
    };
    Silence { why, kind }
}

/// Whether a user lacks a right for this; servers say it in different words, inside scripts and outside.
pub fn is_forbidden(why: &str) -> bool {
    ["NOPERM", "no permissions", "ACL failure", "can't run this command"].iter().any(|words| why.contains(words))
}

/// What the script for this found.
struct Found {
    at_us: u64,
    info: Info,
    refused: Vec<(&'static str, String)>,
}

/// In the order of the script's answer.
const TRIED: [&str; 6] = ["set", "del", "pexpire", "pttl", "smembers", "sadd"];

/// A script, so that a cluster is asked at the node that has the store's keys.
async fn ask(connection: &mut (impl ConnectionLike + Send), keys: &Keys) -> RedisResult<Found> {
    const EXAMINE: &str = include_str!("scripts/examine.lua");
    let mut command = Cmd::new();
    command.arg("EVAL").arg(EXAMINE).arg(2).arg(keys.since()).arg(format!("{}doctor", keys.prefix()));
    let values: Vec<redis::Value> = command.query_async(connection).await?;
    let [now, info, _, tried @ ..] = &values[..] else {
        return Err((ErrorKind::UnexpectedReturnType, "fencepost's script gave what it does not give").into());
    };
    let mut refused = Vec::new();
    for (command, error) in TRIED.into_iter().zip(tried) {
        let error = String::from_redis_value_ref(error)?;
        // The marker is a text, to which nothing can be added.
        if !error.is_empty() && !error.contains("WRONGTYPE") {
            refused.push((command, error));
        }
    }
    let info = Info::read(&String::from_redis_value_ref(info)?);
    Ok(Found { at_us: u64::from_redis_value_ref(now)?, info, refused })
}
