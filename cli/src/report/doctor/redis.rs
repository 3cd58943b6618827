//! What is found of a Redis, for workers of these leases.

use std::time::Duration;

use super::{Finding, bytes, clock, time};
use crate::liveness::redis::LIMIT_MAX;
use crate::liveness::redis::examine::{Info, RedisFacts, Said, Silence, SilenceKind, is_forbidden};
use crate::liveness::redis::scripts::{Doubt, Evidence};
use crate::liveness::redis::url::Kind;

/// The oldest server whose scripts may do what these do.
const MAJOR_MIN: u32 = 6;

/// A live worker, as Redis is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveWorker {
    /// Its name.
    pub name: String,
    /// Its lease's ttl.
    pub ttl: Duration,
}

/// The ttl of a worker that was not told another.
const TTL_USUAL: Duration = Duration::from_secs(60);

/// What it all means. `workers` are those that the facts tell of, in the same order.
pub fn findings(facts: &RedisFacts, workers: &[LiveWorker]) -> Vec<Finding> {
    let said = match &facts.said {
        Ok(said) => said,
        Err(silence) => return vec![silent(silence, &facts.kind)],
    };
    let ttls = workers.iter().map(|worker| worker.ttl);
    let (ttl_min, ttl_max) = (ttls.clone().min().unwrap_or(TTL_USUAL), ttls.max().unwrap_or(TTL_USUAL));
    let mut found = vec![
        reachable(said, ttl_min),
        clock(said.clock_ahead_us.0, said.clock_ahead_us.1, "harmless: its times are compared only with its own"),
    ];
    found.push(match said.info.major() {
        Some(major) if major < MAJOR_MIN => Finding::problem(
            "version",
            said.info.version.clone(),
            "fencepost needs Redis 6 or later: update the server",
        ),
        _ => Finding::ok("version", said.info.version.clone()),
    });
    found.push(role(&said.info));
    found.extend(writes(said, &facts.kind));
    found.push(policy(&said.info));
    found.extend(memory(&said.info));
    found.push(vouching(said.evidence, ttl_max, workers.is_empty()));
    found.extend(heartbeats(said, workers));
    found
}

/// The rights that workers need.
fn rights(kind: &Kind) -> String {
    let more = match kind {
        Kind::One => "",
        Kind::Sentinel { .. } => " +role",
        Kind::Cluster => " +cluster",
    };
    format!(
        "ACL SETUSER NAME ~fencepost:* +ping +info +time +eval +evalsha +get +set +del +pttl +pexpire +sadd +smembers{more} (with a \
         database other than 0 in the URL also +select)"
    )
}

fn silent(silence: &Silence, kind: &Kind) -> Finding {
    const CHECK: &str = "reachable";
    const GOES_ON: &str = "; until then work goes on without it";
    let to_do = match silence.kind {
        SilenceKind::Unreachable => format!("start it, or mend --redis (host, port, TLS){GOES_ON}"),
        SilenceKind::Frozen => {
            format!(
                "it is there and says nothing: is its process stopped, or its machine out of memory (swap)?{GOES_ON}"
            )
        }
        SilenceKind::Password => {
            format!("give user and password as redis://USER:PASSWORD@HOST, with @ / ? written %40 %2F %3F{GOES_ON}")
        }
        SilenceKind::Forbidden => format!("give the user what workers need: {}{GOES_ON}", rights(kind)),
        SilenceKind::Loading => format!("wait until it has read its data{GOES_ON}"),
        SilenceKind::Other => format!("put that right{GOES_ON}"),
    };
    Finding::problem(CHECK, silence.why.clone(), to_do)
}

fn reachable(said: &Said, ttl_min: Duration) -> Finding {
    const CHECK: &str = "reachable";
    let limit = LIMIT_MAX.min(ttl_min / 8);
    let found = format!("a round trip takes {}; workers wait {} at most", time(said.round_trip), time(limit));
    if said.round_trip >= limit {
        return Finding::problem(
            CHECK,
            format!("{found}: to them it does not answer"),
            "see SLOWLOG GET and LATENCY DOCTOR on it, or put it nearer; a longer --ttl of the workers lets them wait longer",
        );
    }
    if said.round_trip * 4 >= limit {
        return Finding::advice(
            CHECK,
            found,
            "see SLOWLOG GET and LATENCY DOCTOR on it: when it gets slower, it does not count",
        );
    }
    Finding::ok(CHECK, found)
}

fn role(info: &Info) -> Finding {
    if info.role == "master" {
        return Finding::ok("role", "a master");
    }
    let of = info.master_of.as_ref().map_or(String::new(), |master| format!(" of {master}"));
    Finding::problem(
        "role",
        format!("a replica{of}: it may be behind, so it does not count"),
        "name the master in --redis, or the Sentinels: redis://HOST,HOST?sentinel=NAME",
    )
}

/// Whether workers could write; a replica is told of by its role.
fn writes(said: &Said, kind: &Kind) -> Vec<Finding> {
    const CHECK: &str = "writes";
    let (forbidden, refused): (Vec<_>, Vec<_>) = said.refused.iter().partition(|(_, why)| is_forbidden(why));
    let mut found = Vec::new();
    if !forbidden.is_empty() {
        let commands: Vec<_> = forbidden.iter().map(|(command, _)| format!("+{command}")).collect();
        let what = format!("the user may not do what workers do: it lacks {} on the store's keys", commands.join(" "));
        found.push(Finding::problem("permission", what, rights(kind)));
    }
    if let Some((_, why)) = refused.first() {
        let to_do = if why.contains("OOM") {
            "CONFIG SET maxmemory to more, there and in redis.conf, or remove other keys; meanwhile heartbeats are refused"
        } else if why.contains("MISCONF") {
            "mend what keeps it from saving (disk, rights of its folder; see its log), or CONFIG SET stop-writes-on-bgsave-error no, \
             there and in redis.conf: fencepost needs nothing saved"
        } else if why.contains("READONLY") {
            "name the master in --redis"
        } else if why.contains("NOREPLICAS") {
            "bring its replicas back, or CONFIG SET min-replicas-to-write 0, there and in redis.conf"
        } else {
            "put that right; meanwhile heartbeats are refused"
        };
        found.push(Finding::problem(CHECK, format!("it refuses them: {why}"), to_do));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, "it takes them"));
    }
    if said.info.snapshot_failed && refused.is_empty() {
        found.push(Finding::advice(
            "saving",
            "its last snapshot failed",
            "mend that (see its log): with stop-writes-on-bgsave-error yes it refuses heartbeats. Fencepost needs nothing saved: CONFIG SET save ''",
        ));
    }
    if said.info.log_failed {
        found.push(Finding::advice(
            "saving",
            "the last write of its append-only file failed",
            "make room on its disk (see its log)",
        ));
    }
    found
}

fn policy(info: &Info) -> Finding {
    const CHECK: &str = "maxmemory_policy";
    let to_do = "CONFIG SET maxmemory-policy noeviction, and in redis.conf: maxmemory-policy noeviction";
    let evicted = match info.evicted_keys {
        0 => String::new(),
        count => format!("; {count} keys were evicted since it was started"),
    };
    if info.policy.is_empty() || info.policy == "noeviction" {
        return match info.evicted_keys {
            0 => Finding::ok(CHECK, "noeviction"),
            count => Finding::advice(
                CHECK,
                format!("noeviction now, but {count} keys were evicted since it was started"),
                "keep it so in redis.conf, too: maxmemory-policy noeviction",
            ),
        };
    }
    if info.bytes_max == 0 && info.evicted_keys == 0 {
        // Without a bound nothing is thrown away.
        return Finding::advice(CHECK, format!("{}; nothing is thrown away while maxmemory is 0", info.policy), to_do);
    }
    Finding::problem(
        CHECK,
        format!(
            "{}: short of memory, it throws heartbeats away, and then has no say on whether a worker lives{evicted}",
            info.policy
        ),
        to_do,
    )
}

fn memory(info: &Info) -> Option<Finding> {
    const CHECK: &str = "memory";
    if info.bytes_max == 0 {
        return Some(Finding::ok(CHECK, format!("{} used, no bound", bytes(info.used_bytes))));
    }
    let found = format!("{} of {} used", bytes(info.used_bytes), bytes(info.bytes_max));
    if info.used_bytes.saturating_mul(10) < info.bytes_max.saturating_mul(9) {
        return Some(Finding::ok(CHECK, found));
    }
    Some(Finding::advice(CHECK, found, "CONFIG SET maxmemory to more, there and in redis.conf, or remove other keys"))
}

/// R2: whether it counts now, and if not until when.
fn vouching(evidence: Evidence, ttl: Duration, usual: bool) -> Finding {
    const CHECK: &str = "vouches";
    let whose = if usual { "the usual ttl" } else { "the live workers' ttl" };
    let ttl_s = ttl.as_secs_f64();
    let up = Duration::from_secs(evidence.uptime_s);
    match evidence.doubt(ttl) {
        None => Finding::ok(CHECK, format!("for a ttl of {ttl:?} ({whose}): up for {}, nothing lost since", time(up))),
        Some(Doubt::Replica) => Finding::problem(CHECK, "not: it is a replica", "name the master in --redis"),
        Some(Doubt::Restarted) => {
            let left = ttl_s + 1.0 - evidence.uptime_s as f64;
            Finding::advice(
                CHECK,
                format!(
                    "not yet: up for only {} s, {whose} is {ttl:?}; it counts in {:.0} s",
                    evidence.uptime_s,
                    left.max(1.0)
                ),
                "wait; judges decide by the store alone until then. If it is always so, it restarts again and again: see its log",
            )
        }
        Some(Doubt::DataLost) => match evidence.data_age {
            Some(age) => {
                let left = (ttl_s - age.as_secs_f64()).max(0.0).ceil().max(1.0);
                Finding::advice(
                    CHECK,
                    format!(
                        "not yet: its data are only {} s old although it has been up for {}; {whose} is {ttl:?}; it counts in {left:.0} s",
                        age.as_secs(),
                        time(up)
                    ),
                    "wait; judges decide by the store alone until then. If no worker was the first to use it just then, it was emptied (FLUSHALL) or it evicts keys: \
                     leave it to fencepost, or give it a database of its own",
                )
            }
            None => Finding::advice(
                CHECK,
                "not yet: its data have no marker: no worker has used it since it was started or emptied",
                format!("start a worker with --redis; it counts {ttl:?} later"),
            ),
        },
    }
}

fn heartbeats(said: &Said, workers: &[LiveWorker]) -> Option<Finding> {
    const CHECK: &str = "heartbeats";
    if workers.is_empty() {
        return None;
    }
    let pairs = workers.iter().zip(&said.workers);
    let without: Vec<_> =
        pairs.filter(|(_, mirrored)| mirrored.heartbeat.is_none()).map(|(worker, _)| &worker.name).collect();
    let there = workers.len() - without.len();
    let found = format!("{there} of {} live workers have one", workers.len());
    match without.as_slice() {
        [] => Some(Finding::ok(CHECK, found)),
        [first, ..] => Some(Finding::advice(
            CHECK,
            format!("{found}; {first} has none"),
            "start workers with this --redis (or FENCEPOST_REDIS); after trouble the next beat writes it, within --renew",
        )),
    }
}
