//! `doctor` on real servers: what it finds, and that it makes nothing.

use std::collections::BTreeMap;

use fencepost::store::OpenMode;
use fencepost::store::postgres::PostgresStore;
use fencepost_tests::pooler::Pooler;
use fencepost_tests::postgres::{Durability, Schema, Server, own};
use fencepost_tests::process::run_fencepost;
use serde_json::Value;

use super::rig::{Rig, execute};

/// What `doctor` finds of this store, by check, and its exit code.
fn doctor(url: &str) -> (BTreeMap<String, Value>, Option<i32>) {
    let output = run_fencepost(["doctor", "--json", "--store", url]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains("sesame"), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings = report["findings"].as_array().expect("a list").iter();
    let found = findings.map(|finding| (finding["check"].as_str().expect("a word").to_owned(), finding.clone()));
    (found.collect(), output.status.code())
}

fn of_level<'a>(findings: &'a BTreeMap<String, Value>, level: &str) -> Vec<&'a str> {
    let found = findings.iter().filter(|(_, finding)| finding["level"] == level);
    found.map(|(check, _)| check.as_str()).collect()
}

fn says(findings: &BTreeMap<String, Value>, check: &str) -> String {
    format!("{} {}", findings[check]["found"], findings[check]["do"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_server_has_no_problem_and_one_without_a_store_gets_none() {
    let server = Server::start(Durability::Durable);
    let schema = Schema::on(server.url());
    let (findings, exit) = doctor(&schema.url());
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["schema"], Some(7)), "{findings:?}");
    let mut conn = schema.connect().await;
    let schemas = "select count(*) from pg_namespace where nspname like 'test%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(schemas).fetch_one(&mut conn).await.unwrap(), 0);

    PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    let (findings, exit) = doctor(&schema.url());
    let ill = (of_level(&findings, "problem"), of_level(&findings, "advice"), exit);
    assert_eq!(ill, (Vec::new(), Vec::new(), Some(0)), "{findings:?}");
    for check in ["connections", "permission", "transactions", "batches", "workers"] {
        assert!(findings.contains_key(check), "{check} is not in {findings:?}");
    }
    assert!(says(&findings, "reachable").contains("a round trip takes"), "{findings:?}");
    execute(&mut conn, "alter system set autovacuum = off").await;
    execute(&mut conn, "select pg_reload_conf()").await;
    execute(&mut conn, "alter table spans set (autovacuum_enabled = false)").await;
    execute(&mut conn, "alter database postgres set default_transaction_read_only = on").await;
    let (findings, exit) = doctor(&schema.url());
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["role"], Some(7)), "{findings:?}");
    assert_eq!(of_level(&findings, "advice"), ["autovacuum"], "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_lose_what_it_acknowledged_is_a_problem() {
    let (findings, exit) = doctor(&Schema::on(own().url()).url());
    assert_eq!(of_level(&findings, "problem"), ["fsync", "full_page_writes", "schema"], "{findings:?}");
    assert_eq!(exit, Some(7));
    assert!(says(&findings, "fsync").contains("alter system set fsync = on"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_transaction_is_told_with_its_age() {
    let server = Server::start(Durability::Loose);
    let schema = Schema::on(server.url());
    PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    let (findings, _) = doctor(&schema.url());
    assert!(says(&findings, "transactions").contains("none is open"), "{findings:?}");
    let mut conn = schema.connect().await;
    execute(&mut conn, "begin; select 1").await;
    let (findings, _) = doctor(&schema.url());
    assert!(says(&findings, "transactions").contains("the oldest has been open for "), "{findings:?}");
    // A role without that right is told that it is not shown all.
    let mut other = schema.connect().await;
    let grants = format!("create role blind login; grant usage on schema {} to blind", schema.name());
    execute(&mut other, &grants).await;
    let (findings, _) = doctor(&schema.url().replace("postgres@", "blind@"));
    assert!(says(&findings, "transactions").contains("sessions of other roles are not shown"), "{findings:?}");
    execute(&mut conn, "commit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_what_it_lacks() {
    let server = Server::start(Durability::Loose);
    let schema = Schema::on(server.url());
    PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    let mut conn = schema.connect().await;
    execute(&mut conn, "create role locked login password 'sesame'").await;
    let url = schema.url().replace("postgres@", "locked:sesame@");
    let (findings, exit) = doctor(&url);
    assert_eq!(of_level(&findings, "problem"), ["fsync", "full_page_writes", "permission", "schema"], "{findings:?}");
    assert_eq!(exit, Some(7));
    // What it says will do.
    let to_do = findings["permission"]["do"].as_str().expect("grants").to_owned();
    execute(&mut conn, &to_do).await;
    let (findings, _) = doctor(&url);
    assert_eq!(of_level(&findings, "problem"), ["fsync", "full_page_writes"], "{findings:?}");
    assert!(findings.contains_key("batches"), "{findings:?}");
    execute(&mut conn, "revoke delete on rows from locked").await;
    let (findings, _) = doctor(&url);
    assert!(findings["permission"]["found"].as_str().unwrap().ends_with("tables rows"), "{findings:?}");
    let (findings, exit) = doctor(&url.replace("sesame", "sesame2"));
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["reachable"], Some(7)), "{findings:?}");
    assert!(says(&findings, "reachable").contains("password authentication failed"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_or_newer_schema_is_told_and_left_alone() {
    let mut rig = Rig::new().await;
    for (versions, level) in
        [("schema_version = 0", "advice"), ("schema_version = 99, worker_version_min = 99", "problem")]
    {
        execute(&mut rig.raw, &format!("update store set {versions}")).await;
        let (findings, _) = doctor(&rig.schema.url());
        assert_eq!(findings["schema"]["level"], level, "{findings:?}");
        assert!(!findings.contains_key("workers"), "{findings:?}");
    }
    assert_eq!(rig.number("select schema_version::bigint from store").await, 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_was_not_announced_is_a_problem() {
    let schema = Schema::on(own().url());
    PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    // One that refuses a session's settings.
    let pooler = Pooler::start(own());
    let unannounced = pooler.url().split('?').next().unwrap();
    let (findings, exit) = doctor(&schema.url_at(unannounced));
    assert_eq!((of_level(&findings, "problem"), exit), (vec!["reachable"], Some(7)), "{findings:?}");
    assert!(says(&findings, "reachable").contains("pooler=transaction"), "{findings:?}");
    let (findings, _) = doctor(&schema.url_at(pooler.url()));
    assert_eq!(findings["pooler"]["level"], "ok", "{findings:?}");
    // One that drops them.
    let pooler = Pooler::start_with(own(), "ignore_startup_parameters=options\n");
    let unannounced = pooler.url().split('?').next().unwrap();
    let (findings, _) = doctor(&schema.url_at(unannounced));
    assert!(of_level(&findings, "problem").contains(&"pooler"), "{findings:?}");
    assert!(says(&findings, "pooler").contains("hands sessions on"), "{findings:?}");
}
