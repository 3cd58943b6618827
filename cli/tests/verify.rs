//! `verify` on the embedded store: a store that nothing but fencepost wrote to is clean, whatever happened in it, and each of many
//! corruptions is named with its rows.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Child;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{Loads, OpenMode, Store};
use fencepost_core::store::StoreRequest;
use fencepost_core::{BatchId, LeaseId};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use self::support::corruptions::{
    CORRUPTIONS, Dialect, Scene, assert_all_codes_occur, claim, die, load, named, record, success, take, verified,
};
use self::support::place::{Place, code, stderr};

#[allow(dead_code)]
mod support {
    pub mod corruptions;
    pub mod place;
}

/// Does this to the file behind the store's back.
async fn execute(path: &Path, sql: &str) {
    let mut conn = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path.to_owned(), OpenMode::Create).await.unwrap()
}

/// A file of its own with a scene.
struct Stage {
    directory: tempfile::TempDir,
    scene: Scene,
}

impl Stage {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("scene.db")).await;
        let scene = Scene::play(&store, 1).await;
        drop(store);
        execute(&directory.path().join("scene.db"), "pragma wal_checkpoint(truncate)").await;
        Self { directory, scene }
    }

    /// A copy of it.
    fn copy(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::copy(self.directory.path().join("scene.db"), &path).unwrap();
        path
    }
}

#[tokio::test]
async fn every_corruption_is_named_with_its_rows() {
    let stage = Stage::new().await;
    let mut missed = Vec::new();
    for (at, corruption) in CORRUPTIONS.iter().enumerate() {
        let path = stage.copy(&format!("{at}.db"));
        execute(&path, &corruption.statements(&stage.scene, Dialect::Sqlite)).await;
        let report = verified(&open(&path).await, corruption.batch(&stage.scene)).await;
        missed.extend(corruption.missed(&report));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_all_codes_occur(&["two-outcomes"]);
}

#[tokio::test]
async fn a_second_outcome_of_a_row_is_named_where_the_table_let_it_in() {
    let stage = Stage::new().await;
    let path = stage.copy("unguarded.db");
    let batch = stage.scene.open.number();
    let sql = format!(
        "create table unguarded as select * from outcomes; drop view row_status; drop table outcomes;
         alter table unguarded rename to outcomes;
         insert into outcomes select * from outcomes where batch = {batch} and line = 2"
    );
    execute(&path, &sql).await;
    let report = verified(&open(&path).await, stage.scene.open).await;
    assert_eq!(named(&report), [("two-outcomes", "{2}".to_owned()), ("count-differs", "{}".to_owned())]);
}

#[tokio::test]
async fn what_only_fencepost_wrote_to_is_clean() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.db")).await;
    let scene = Scene::play(&store, 1).await;
    for batch in [scene.open, scene.ended, scene.aborted] {
        assert_eq!(named(&verified(&store, batch).await), []);
    }
    let loading = store.begin_load(BatchSpec::new("loading")).await.unwrap();
    store.load_rows(loading, 1, &["1".into(), "2".into()]).await.unwrap();
    assert_eq!(named(&verified(&store, loading).await), []);
    for rows in [0, 3] {
        let fresh = load(&store, "fresh", rows).await;
        let report = verified(&store, fresh).await;
        assert_eq!((named(&report), report.ledger.counts.queued), (Vec::new(), rows));
    }
}

/// What was counted, for a batch whose story is known.
#[tokio::test]
async fn the_ledger_counts_what_happened() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.db")).await;
    let scene = Scene::play(&store, 1).await;
    let ledger = verified(&store, scene.open).await.ledger;
    let counts = ledger.counts;
    let by_status = (counts.queued, counts.inprog, counts.success, counts.failed, counts.aborted);
    assert_eq!(by_status, (4, 3, 4, 1, 0));
    // Lines 7 to 12 left no trace of a run; line 4 was answered late as well.
    assert_eq!(ledger.runs.into_iter().collect::<Vec<_>>(), [(0, 6), (1, 5), (2, 1)]);
    let log = ledger.log;
    assert_eq!((log.retried, log.fenced, log.recovered, log.given_back, log.superseded), (1, 1, 2, 1, 0));
    assert_eq!((ledger.recoveries.leases, ledger.recoveries.delays.len()), (1, 1));
    let ledger = verified(&store, scene.ended).await.ledger;
    assert_eq!((ledger.log.superseded, ledger.runs.into_iter().collect::<Vec<_>>()), (2, vec![(1, 4), (2, 2)]));
    let counts = verified(&store, scene.aborted).await.ledger.counts;
    assert_eq!((counts.success, counts.aborted), (1, 5));
}

#[tokio::test]
async fn a_row_that_killed_its_workers_is_clean_and_ran_as_often_as_it_crashed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.db")).await;
    let batch = store.begin_load(BatchSpec { crashes_max: 2, ..BatchSpec::new("op") }).await.unwrap();
    store.load_rows(batch, 1, &["1".into()]).await.unwrap();
    let end = LoadEnd { key: None, digest: String::new(), total: 1 };
    store.finish_load(batch, end).await.unwrap();
    // The first death makes the row a suspect; each of the others is its crash, and the first of these is taken back.
    for lease in (1..=4).map(LeaseId::from_random) {
        take(&store, lease).await;
        assert_eq!(claim(&store, lease, 1, "op", 1).await.len(), 1);
        die(&store, lease).await;
        if lease == LeaseId::from_random(2) {
            store.call(StoreRequest::WithdrawCrashes { lease }).await.unwrap();
        }
    }
    let report = verified(&store, batch).await;
    assert_eq!((named(&report), report.status), (Vec::new(), "failed"));
    assert_eq!((report.ledger.log.crashed, report.ledger.log.crash_withdrawn), (3, 1));
    assert_eq!(report.ledger.runs.into_iter().collect::<Vec<_>>(), [(3, 1)]);
}

#[test]
fn a_batch_that_was_purged_is_not_there_and_the_others_are_clean() {
    let place = Place::new();
    let submit = || place.json(&["submit", "--rows", "3", "--json"])["batch"].as_str().unwrap().to_owned();
    let purged = submit();
    place.ok(&["worker", "--until-done", "--sleep", "0s", "--quiet"]);
    place.ok(&["verify", &purged]);
    let kept = submit();
    place.ok(&["purge", "--older-than", "0s", "--yes", "--quiet"]);
    let output = place.run(&["verify", &purged]);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    place.ok(&["verify", &kept]);
}

/// The text with what differs from run to run taken out.
fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.add_filter(r"(Batch: |verify |rows |status |abort )[0-9a-z]{8}\b", "$1[BATCH]");
    settings.add_filter(r"\d+\.\d{3} s", "[TIME] s");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[tokio::test]
async fn a_clean_and_a_broken_batch_are_printed_and_tell_their_exit_codes() {
    let place = Place::new();
    let store = open(&place.file("rows.db")).await;
    let scene = Scene::play(&store, 1).await;
    let many = load(&store, "many", 100).await;
    take(&store, LeaseId::from_random(99)).await;
    let grants = claim(&store, LeaseId::from_random(99), 1, "many", 100).await;
    record(&store, LeaseId::from_random(99), &grants, |_| success()).await;
    drop(store);
    let verify = |batch: BatchId, more: &[&str]| {
        let batch = batch.to_string();
        let output = place.run(&[&["verify", &batch, "--store", "rows.db"], more].concat());
        (String::from_utf8(output.stdout.clone()).unwrap(), code(&output))
    };
    for batch in [scene.open, scene.ended, scene.aborted, many] {
        assert_eq!(verify(batch, &[]).1, 0);
    }
    check("verify_clean", &verify(scene.open, &[]).0);

    let sql = format!(
        "delete from outcomes where batch = {} and line % 2 = 0;
         update leases set state = 'dead', ended_at = 1 where lease = {};
         update outcomes set attempts = 7, token = 1000000 where batch = {open} and line in (4, 5)",
        many.number(),
        scene.first.number(),
        open = scene.open.number()
    );
    execute(&place.file("rows.db"), &sql).await;
    let (broken, exit) = verify(scene.open, &[]);
    assert_eq!(exit, 9);
    check("verify_broken", &broken);
    let (lost, exit) = verify(many, &[]);
    assert_eq!(exit, 9);
    assert!(
        lost.contains(
            "rows (50): 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40 and 30 more\n"
        ),
        "{lost}"
    );
    let (json, exit) = verify(scene.open, &["--json"]);
    assert_eq!(exit, 9);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["schema_version"], &json["problems"], &json["batch"]["rows"]),
        (&1.into(), &3.into(), &12.into())
    );
    let held = &json["findings"][0];
    let lines = serde_json::json!([[7, 8]]);
    assert_eq!((&held["code"], &held["lines"], &held["rows"]), (&"held-by-ended-lease".into(), &lines, &2.into()));
    assert_eq!(held["leases"], serde_json::json!([scene.first.to_string()]));
    assert!(
        held["do"].as_str().unwrap().contains(&format!("fencepost abort {} --store rows.db", scene.open)),
        "{held}"
    );
}

#[test]
fn beside_workers_one_of_which_is_killed_nothing_is_wrong() {
    let place = Place::new();
    let batch = place.json(&["submit", "--rows", "300", "--json"])["batch"].as_str().unwrap().to_owned();
    let worker = || {
        // Every tenth row fails, and is tried again before it does.
        let handler = "test $((FENCEPOST_LINE % 10)) -ne 0 || { test $FENCEPOST_ATTEMPT -eq 1 && exit 75; exit 65; }";
        let arguments = ["worker", "--until-done", "--quiet", "--concurrency", "2", "--", "sh", "-c", handler];
        Worker(place.command(&arguments, &[]).spawn().unwrap())
    };
    // Before any of it runs, and until it has ended.
    let verify = || place.json(&["verify", &batch, "--json"]);
    assert_eq!(verify()["counts"]["queued"], 300);
    let (mut killed, _others) = (worker(), [worker(), worker()]);
    loop {
        let report = verify();
        assert_eq!(report["problems"], 0, "{report:#}");
        if report["counts"]["success"].as_u64() > Some(20) {
            let _ = killed.0.kill();
        }
        if report["batch"]["status"] == "failed" {
            assert_eq!((&report["counts"]["success"], &report["counts"]["failed"]), (&270.into(), &30.into()));
            break;
        }
    }
}

/// Killed at the latest when it is dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
