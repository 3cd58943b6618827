//! The same facts from three sides: `status`, `psql` and `redis-cli`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::{Command, Stdio};

use super::Servers;

/// What all three said at one time.
#[derive(Debug)]
pub struct Views {
    /// Rows by status.
    counts: BTreeMap<String, u64>,
    /// Who holds which line.
    pub held: BTreeSet<(String, u64)>,
    /// The workers with a heartbeat in Redis.
    pub heartbeats: BTreeSet<String>,
    /// The commands and what they printed.
    pub shown: String,
}

impl Views {
    /// How many rows have this status.
    pub fn count(&self, status: &str) -> u64 {
        self.counts.get(status).copied().unwrap_or(0)
    }
}

/// What they say if they say the same, with nothing having happened in between.
pub fn agreed(servers: &Servers, batch: &str) -> Option<Views> {
    let json = status_json(servers, batch);
    let mut shown = String::new();
    let text = output(servers.fencepost(&["status", batch]));
    let _ = writeln!(shown, "$ fencepost status {batch}\n{text}");
    let (counts, held) = of_status(&json);
    let schema = &servers.schema;
    let by_status =
        psql_shown(servers, &mut shown, &format!("select status, count(*) from {schema}.row_status group by status"));
    let in_progress = format!("select worker, line from {schema}.row_status where status = 'inprog' order by line");
    let in_progress = psql_shown(servers, &mut shown, &in_progress);
    let redis = of_redis(&servers.redis, batch, &mut shown);
    let of_those = |(name, _): &&(String, u64)| redis.heartbeats.contains(name);
    if redis != redis_of_status(&json)
        || held.iter().filter(of_those).ne(&redis.running)
        || names_alive(&json) != redis.heartbeats
    {
        return None;
    }
    let psql_held: BTreeSet<(String, u64)> = pairs(&in_progress).collect();
    let same = pairs(&by_status).eq(counts.clone())
        && psql_held == held
        && of_status(&status_json(servers, batch)) == (counts.clone(), held.clone());
    same.then_some(Views { counts, held, heartbeats: redis.heartbeats, shown })
}

fn status_json(servers: &Servers, batch: &str) -> serde_json::Value {
    serde_json::from_str(&output(servers.fencepost(&["status", batch, "--json"]))).expect("JSON")
}

fn of_status(json: &serde_json::Value) -> (BTreeMap<String, u64>, BTreeSet<(String, u64)>) {
    let counts = json["counts"].as_object().expect("counts").iter();
    let counts = counts.map(|(status, count)| (status.clone(), count.as_u64().expect("a count")));
    let mut held = BTreeSet::new();
    for worker in json["workers"].as_array().expect("workers") {
        let name = worker["name"].as_str().expect("a name");
        held.extend(lines(&worker["lines"]).map(|line| (name.to_owned(), line)));
    }
    (counts.filter(|(_, count)| *count > 0).collect(), held)
}

/// What `status` says of Redis.
fn redis_of_status(json: &serde_json::Value) -> OfRedis {
    let redis = &json["redis"];
    assert_eq!(redis["answers"], true, "{redis}");
    let mut of = OfRedis { heartbeats: BTreeSet::new(), running: BTreeSet::new() };
    for worker in
        redis["workers"].as_array().expect("workers").iter().filter(|worker| !worker["heartbeat_ms"].is_null())
    {
        let name = worker["name"].as_str().expect("a name");
        for rows in worker["running"].as_array().expect("rows") {
            of.running.extend(lines(&rows["lines"]).map(|line| (name.to_owned(), line)));
        }
        of.heartbeats.insert(name.to_owned());
    }
    of
}

/// `[[first, last], ...]`
fn lines(ranges: &serde_json::Value) -> impl Iterator<Item = u64> {
    ranges.as_array().expect("ranges").iter().flat_map(|range| {
        let [first, last] = [0, 1].map(|end| range[end].as_u64().expect("a line"));
        first..=last
    })
}

/// The workers that `status` calls alive.
fn names_alive(json: &serde_json::Value) -> BTreeSet<String> {
    let workers = json["workers"].as_array().expect("workers").iter();
    let alive = workers.filter(|worker| worker["alive"] == true);
    alive.map(|worker| worker["name"].as_str().expect("a name").to_owned()).collect()
}

/// Asks Postgres, and gives bare values.
pub fn psql(servers: &Servers, query: &str) -> String {
    let mut command = Command::new("psql");
    output_of(command.arg(&servers.database).args(["--no-psqlrc", "--no-align", "--tuples-only", "--command", query]))
}

/// The same, and notes it down as a person would see it.
fn psql_shown(servers: &Servers, shown: &mut String, query: &str) -> String {
    let values = psql(servers, query);
    let _ = writeln!(shown, "$ psql -At -c \"{query}\"\n{values}");
    values
}

/// `name|number` per line, sorted.
fn pairs(said: &str) -> impl Iterator<Item = (String, u64)> {
    let pair = |line: &str| {
        let (name, number) = line.split_once('|').expect("two columns");
        (name.to_owned(), number.parse().expect("a number"))
    };
    said.lines().filter(|line| !line.is_empty()).map(pair).collect::<BTreeSet<_>>().into_iter()
}

/// What Redis has, or what `status` says it has.
#[derive(Debug, PartialEq, Eq)]
struct OfRedis {
    heartbeats: BTreeSet<String>,
    running: BTreeSet<(String, u64)>,
}

/// The tracking keys. A key may run out between being listed and being read.
fn of_redis(url: &str, batch: &str, shown: &mut String) -> OfRedis {
    let mut ask = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        let said = output_of(command.args(["--no-auth-warning", "-u", url]).args(words));
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        let _ = writeln!(shown, "$ redis-cli {}\n{}", words.join(" "), lines.join("\n"));
        lines
    };
    let mut of = OfRedis { heartbeats: BTreeSet::new(), running: BTreeSet::new() };
    for key in ask(&["--scan", "--pattern", "fencepost:*"]) {
        if !key.contains(":heartbeat:") {
            continue;
        }
        let Some(name) = ask(&["get", &key]).into_iter().next().filter(|name| !name.is_empty()) else { continue };
        ask(&["pttl", &key]);
        for row in ask(&["smembers", &key.replace(":heartbeat:", ":running:")]) {
            let Some((of_batch, lines)) = row.split_once(':') else { continue };
            assert_eq!(of_batch, batch, "there is one batch");
            let (first, last) = lines.split_once('-').unwrap_or((lines, lines));
            let [first, last]: [u64; 2] = [first, last].map(|line| line.parse().expect("a line"));
            of.running.extend((first..=last).map(|line| (name.clone(), line)));
        }
        of.heartbeats.insert(name);
    }
    of
}

fn output(mut command: Command) -> String {
    output_of(&mut command)
}

fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
