//! `verify` on Postgres: what only fencepost wrote to is clean, beside workers too, and each of many corruptions is named with its rows.

use fencepost::store::Loads;
use fencepost::store::loading::BatchSpec;
use fencepost_tests::postgres::Schema;
use fencepost_tests::process::{Process, fencepost, run_fencepost, submit};
use serde_json::Value;

use self::corruptions::{CORRUPTIONS, Dialect, Scene, assert_all_codes_occur, load, named, verified};
use super::rig::{Rig, execute};

// The same scene and corruptions as on SQLite.
#[path = "../../../cli/tests/support/corruptions.rs"]
#[allow(dead_code)]
mod corruptions;

#[tokio::test(flavor = "multi_thread")]
async fn every_corruption_is_named_with_its_rows() {
    let mut rig = Rig::new().await;
    let mut missed = Vec::new();
    for (number, corruption) in (1..).zip(CORRUPTIONS) {
        let scene = Scene::play(&rig.store, number).await;
        execute(&mut rig.raw, &corruption.statements(&scene, Dialect::Postgres)).await;
        missed.extend(corruption.missed(&verified(&rig.store, corruption.batch(&scene)).await));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_all_codes_occur(&["two-outcomes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_outcome_of_a_row_is_named_where_the_table_let_it_in() {
    let mut rig = Rig::new().await;
    let scene = Scene::play(&rig.store, 1).await;
    let sql = format!(
        "alter table outcomes drop constraint outcomes_pkey;
         insert into outcomes select * from outcomes where batch = {} and line = 2",
        scene.open.number()
    );
    execute(&mut rig.raw, &sql).await;
    let report = verified(&rig.store, scene.open).await;
    assert_eq!(named(&report), [("two-outcomes", "{2}".to_owned()), ("count-differs", "{}".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_fencepost_wrote_to_is_clean() {
    let rig = Rig::new().await;
    let scene = Scene::play(&rig.store, 1).await;
    for batch in [scene.open, scene.ended, scene.aborted] {
        assert_eq!(named(&verified(&rig.store, batch).await), []);
    }
    let loading = rig.store.begin_load(BatchSpec::new("loading")).await.unwrap();
    rig.store.load_rows(loading, 1, &["1".into(), "2".into()]).await.unwrap();
    assert_eq!(named(&verified(&rig.store, loading).await), []);
    for rows in [0, 3] {
        let fresh = load(&rig.store, "fresh", rows).await;
        let report = verified(&rig.store, fresh).await;
        assert_eq!((named(&report), report.ledger.counts.queued), (Vec::new(), rows));
    }
}

/// What `verify --json` says, and its exit code.
fn verify(url: &str, batch: &str) -> (Value, Option<i32>) {
    let output = run_fencepost(["verify", batch, "--json", "--store", url]);
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_workers_one_of_which_is_killed_nothing_is_wrong_and_then_a_lost_row_is() {
    let schema = Schema::new();
    let url = schema.url();
    let batch = submit(&url, &["--rows", "300"]);
    let worker = || {
        let mut command = fencepost();
        // Every tenth row fails, and is tried again before it does.
        let handler = "test $((FENCEPOST_LINE % 10)) -ne 0 || { test $FENCEPOST_ATTEMPT -eq 1 && exit 75; exit 65; }";
        command.args([
            "worker",
            "--until-done",
            "--quiet",
            "--concurrency",
            "2",
            "--store",
            &url,
            "--",
            "sh",
            "-c",
            handler,
        ]);
        Process::start(command)
    };
    let (first, counts) = verify(&url, &batch);
    assert_eq!((counts, &first["counts"]["queued"]), (Some(0), &300.into()), "{first}");
    let (mut killed, _others) = (worker(), [worker(), worker()]);
    loop {
        let (report, exit) = verify(&url, &batch);
        assert_eq!(exit, Some(0), "{report:#}");
        if report["counts"]["success"].as_u64() > Some(20) {
            killed.kill();
        }
        if report["batch"]["status"] == "failed" {
            assert_eq!(report["counts"]["failed"], 30, "{report:#}");
            break;
        }
    }
    let mut conn = schema.connect().await;
    execute(&mut conn, "delete from outcomes where line in (4, 5, 9)").await;
    let (report, exit) = verify(&url, &batch);
    let lost = &report["findings"][0];
    assert_eq!((exit, &lost["code"], &lost["rows"]), (Some(9), &"row-lost".into(), &3.into()), "{report:#}");
    assert_eq!(lost["lines"], serde_json::json!([[4, 5], [9, 9]]));
}
