//! `doctor --redis` on real servers in each mood: what it finds, and that it changes nothing.

use std::collections::BTreeMap;

use fencepost_tests::process::run_fencepost;
use fencepost_tests::redis::cluster::Cluster;
use fencepost_tests::redis::sentinel::Sentinels;
use fencepost_tests::redis::{Keeps, Server};
use serde_json::Value;

/// What `doctor` finds of this Redis, by check, and its exit code. There is no store beside it.
fn doctor(url: &str) -> (BTreeMap<String, Value>, Option<i32>) {
    let output = run_fencepost(["doctor", "--json", "--store", "/nowhere/rows.db", "--redis", url]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains("sesame"), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings = report["findings"].as_array().expect("a list").iter();
    let of_redis = findings.filter(|finding| finding["about"] == "redis");
    let found = of_redis.map(|finding| (finding["check"].as_str().expect("a word").to_owned(), finding.clone()));
    (found.collect(), output.status.code())
}

/// The checks of Redis with this level.
fn of_level<'a>(findings: &'a BTreeMap<String, Value>, level: &str) -> Vec<&'a str> {
    let found = findings.iter().filter(|(_, finding)| finding["level"] == level);
    found.map(|(check, _)| check.as_str()).collect()
}

fn says(findings: &BTreeMap<String, Value>, check: &str) -> String {
    format!("{} {}", findings[check]["found"], findings[check]["do"])
}

#[test]
fn a_healthy_redis_has_no_problem_and_is_not_changed() {
    let server = Server::start(Keeps::Nothing);
    let (findings, _) = doctor(&server.url());
    // Just started; nobody has used it.
    assert_eq!(of_level(&findings, "problem"), [""; 0], "{findings:?}");
    assert_eq!(of_level(&findings, "advice"), ["vouches"], "{findings:?}");
    assert!(says(&findings, "vouches").contains("not yet: "), "{findings:?}");
    assert_eq!(server.ask(&["DBSIZE"]), "0");
    server.ask(&["SET", "fencepost:{none}:since", "1"]);
    doctor(&server.url());
    assert_eq!((server.ask(&["DBSIZE"]), server.ask(&["GET", "fencepost:{none}:since"])), ("1".into(), "1".into()));
}

#[test]
fn an_evicting_redis_is_a_problem_and_is_told_what_to_set() {
    let server = Server::start(Keeps::Nothing);
    server.evict_when_full();
    server.crowd();
    let (findings, exit) = doctor(&server.url());
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["maxmemory_policy"], Some(7)), "{findings:?}");
    let says = says(&findings, "maxmemory_policy");
    for part in ["allkeys-lru", "keys were evicted", "CONFIG SET maxmemory-policy noeviction"] {
        assert!(says.contains(part), "{says}");
    }
}

#[test]
fn a_full_redis_refuses_writes_and_says_why() {
    let server = Server::start(Keeps::Nothing);
    server.refuse_writes();
    let (findings, exit) = doctor(&server.url());
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["writes"], Some(7)), "{findings:?}");
    assert!(says(&findings, "writes").contains("OOM") && says(&findings, "writes").contains("CONFIG SET maxmemory"));
    assert!(of_level(&findings, "advice").contains(&"memory"), "{findings:?}");
}

#[test]
fn a_redis_that_cannot_save_refuses_writes_and_says_why() {
    let server = Server::start(Keeps::Nothing);
    server.ask(&["CONFIG", "SET", "save", "3600 1"]);
    // A folder that is not empty stands where the snapshot is to be.
    let dir = server.ask(&["CONFIG", "GET", "dir"]).lines().last().expect("a folder").to_owned();
    std::fs::create_dir_all(format!("{dir}/dump.rdb/in-the-way")).expect("it can be made");
    let _ = server.try_ask(&["BGSAVE"]);
    fencepost_tests::process::until("the snapshot has failed", std::time::Duration::from_secs(60), || {
        (server.info("rdb_last_bgsave_status") == "err").then_some(())
    });
    let (findings, exit) = doctor(&server.url());
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["writes"], Some(7)), "{findings:?}");
    assert!(says(&findings, "writes").contains("stop-writes-on-bgsave-error"), "{findings:?}");
}

#[test]
fn a_redis_that_is_down_or_frozen_is_a_problem() {
    let mut server = Server::start(Keeps::Nothing);
    let url = server.url().replace("redis://", "redis://:sesame@");
    server.freeze();
    let (findings, exit) = doctor(&server.url());
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["reachable"], Some(7)));
    assert!(says(&findings, "reachable").contains("it is there and says nothing"), "{findings:?}");
    server.thaw();
    server.ask(&["CONFIG", "SET", "requirepass", "other"]);
    let (findings, _) = doctor(&url);
    assert!(says(&findings, "reachable").contains("USER:PASSWORD@HOST"), "{findings:?}");
    server.kill();
    let (findings, exit) = doctor(&url);
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["reachable"], Some(7)));
    assert!(says(&findings, "reachable").contains("refused"), "{findings:?}");
}

/// The user of docs/redis.md will do, also in another database; without one of its rights that one is told.
#[test]
fn rights_that_a_user_lacks_are_told() {
    let server = Server::start(Keeps::Nothing);
    let rights = "+ping +info +time +eval +evalsha +get +set +del +pttl +pexpire +sadd +smembers +select";
    let user = |rights: &str| {
        let rule = ["ACL", "SETUSER", "worker", "reset", "on", ">sesame", "~fencepost:*"];
        server.ask(&[&rule[..], &rights.split(' ').collect::<Vec<_>>()].concat());
    };
    let url = format!("{}/3", server.url().replace("redis://", "redis://worker:sesame@"));
    user(rights);
    let (findings, _) = doctor(&url);
    assert_eq!(of_level(&findings, "problem"), [""; 0], "{findings:?}");
    for (lacking, check) in
        [("+set", "permission"), ("+pexpire", "permission"), ("+sadd", "permission"), ("+eval", "reachable")]
    {
        server.ask(&["-n", "3", "SET", "fencepost:{none}:since", "1"]);
        user(&rights.replace(&format!("{lacking} "), ""));
        let (findings, _) = doctor(&url);
        assert_eq!(of_level(&findings, "problem"), [check], "{lacking}: {findings:?}");
        assert!(says(&findings, check).contains("ACL SETUSER"), "{findings:?}");
        assert!(check == "reachable" || says(&findings, check).contains(&format!("lacks {lacking} ")), "{findings:?}");
    }
}

#[test]
fn every_way_to_a_redis_is_looked_at() {
    let tls = Server::start_tls();
    let url = format!("{}?ca={}", tls.url(), tls.authority().display());
    let cluster = Cluster::start();
    let sentinels = Sentinels::start();
    for url in [url, cluster.url(), sentinels.url()] {
        let (findings, _) = doctor(&url);
        assert_eq!(of_level(&findings, "problem"), [""; 0], "{url}: {findings:?}");
        assert!(findings.len() > 6, "{url}: {findings:?}");
    }
    let (findings, exit) = doctor(&sentinels.second().url());
    assert_eq!((of_level(&findings, "problem").contains(&"role"), exit), (true, Some(7)), "{findings:?}");
    let (findings, exit) = doctor("rediss://localhost:1?ca=/nowhere.pem");
    assert!(exit == Some(7) && says(&findings, "reachable").contains("/nowhere.pem"), "{findings:?}");
}

#[test]
fn a_redis_is_looked_at_for_the_workers_of_the_store() {
    let server = Server::start(Keeps::Nothing);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = dir.path().join("rows.db").to_str().expect("UTF-8").to_owned();
    fencepost_tests::process::submit(&store, &["--rows", "1"]);
    let mut command = fencepost_tests::process::fencepost();
    command.args(["worker", "--store", &store, "--sleep", "1h", "--quiet", "--ttl", "1200s"]);
    let _worker = fencepost_tests::process::Process::start(command);
    let found = fencepost_tests::process::until("its lease is there", std::time::Duration::from_secs(60), || {
        let output = run_fencepost(["doctor", "--store", &store, "--redis", &server.url()]);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.contains("1 live").then_some(text)
    });
    // It was started without --redis.
    assert!(found.contains("advice   heartbeats: 0 of 1 live workers have one"), "{found}");
    assert!(found.contains("the live workers' ttl is 1200s"), "{found}");
}
