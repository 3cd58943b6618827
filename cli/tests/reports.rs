//! What people and scripts read, as snapshots: from fixed facts to text and JSON.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost::liveness::redis::scripts::Evidence;
use fencepost::report::redis::{RedisReport, RedisView, RedisWorker, json as redis_json};
use fencepost::report::rows::{Story, StoryEntry, row_json, rows_text, story_json, story_text};
use fencepost::report::status::{
    Alive, StatusReport, WorkerSummary, batch_status_json, list_json, list_text, list_workers_text, text, workers_json,
};
use fencepost::report::{BatchSummary, Counts};
use fencepost::results::ResultRow;
use fencepost_core::{BatchId, LeaseId, LineSet};

fn batch(status: &'static str, counts: Counts) -> BatchSummary {
    BatchSummary {
        id: BatchId::from_random(0x0012_3456_789a),
        key: Some("nightly".to_owned()),
        operation: "default".to_owned(),
        status,
        rows: counts.total(),
        source: Some("data/airports.csv".to_owned()),
        created_at_us: 1_795_000_000_000_000,
        ended_at_us: None,
        counts,
        fenced: 0,
    }
}

fn worker(number: u64, alive: Alive, lines: LineSet) -> WorkerSummary {
    let pid = 12_344 + u32::try_from(number).unwrap();
    WorkerSummary {
        id: LeaseId::from_random(number),
        name: format!("hostname-{pid}-abcde"),
        alive,
        lines: vec![(BatchId::from_random(0x0012_3456_789a), lines)],
        operations: vec!["default".to_owned()],
        pid: Some(pid),
        seen_s_ago: 3 * number,
        ttl: Duration::from_secs(60),
    }
}

/// Step 4 of the walk-through: 4 rows done, 1 held by a worker that was killed.
fn after_the_kill() -> StatusReport {
    StatusReport {
        batches: vec![batch("open", Counts { queued: 15, inprog: 1, success: 4, ..Counts::default() })],
        workers: vec![worker(1, Alive::Silent, LineSet::single(5))],
        redis: None,
        calls: BTreeMap::new(),
    }
}

fn busy() -> StatusReport {
    let counts = Counts { queued: 700, inprog: 250, success: 40, failed: 10, aborted: 0 };
    let held = LineSet::range(51, 60).union(&LineSet::range(101, 290));
    let busy = BatchSummary { fenced: 2, ..batch("open", counts) };
    StatusReport {
        batches: vec![busy],
        workers: vec![
            worker(1, Alive::Yes, held),
            worker(2, Alive::ProcessGone, LineSet::range(291, 340)),
            worker(3, Alive::Ended, LineSet::new()),
            worker(4, Alive::Yes, LineSet::new()),
        ],
        redis: None,
        calls: BTreeMap::new(),
    }
}

fn done() -> StatusReport {
    StatusReport {
        batches: vec![batch("success", Counts { success: 20, ..Counts::default() })],
        workers: Vec::new(),
        redis: None,
        calls: BTreeMap::new(),
    }
}

#[test]
fn status_after_a_worker_was_killed() {
    insta::assert_snapshot!(text(&after_the_kill(), ""));
}

#[test]
fn status_while_workers_work() {
    insta::assert_snapshot!(text(&busy(), ""));
}

#[test]
fn status_when_all_is_done() {
    insta::assert_snapshot!(text(&done(), ""));
}

#[test]
fn status_without_an_open_batch() {
    insta::assert_snapshot!(text(
        &StatusReport { batches: Vec::new(), workers: Vec::new(), redis: None, calls: BTreeMap::new() },
        " --store rows.db"
    ));
}

/// What Redis says of the workers of [`after_the_kill`] or [`busy`].
fn redis(said: Result<Evidence, &str>, workers: &[WorkerSummary]) -> Option<RedisReport> {
    let worker = |(at, worker): (usize, &WorkerSummary)| RedisWorker {
        id: worker.id,
        name: worker.name.clone(),
        ttl: worker.ttl,
        heartbeat: (at % 2 == 0).then_some(Duration::from_millis(41_900)),
        running: if at % 2 == 0 { worker.lines.clone() } else { Vec::new() },
    };
    Some(RedisReport {
        url: "redis://:***@redis:6379".to_owned(),
        prefix: "fencepost:{9y2wgqqdzq0c}:".to_owned(),
        said: said.map_err(str::to_owned).map(|evidence| RedisView {
            evidence,
            workers: workers.iter().filter(|worker| worker.alive != Alive::Ended).enumerate().map(worker).collect(),
        }),
    })
}

const KEPT: Evidence = Evidence { data_age: Some(Duration::from_secs(3_599)), uptime_s: 3_605, master: true };

#[test]
fn status_with_a_redis_that_vouches() {
    let busy = busy();
    let report = StatusReport { redis: redis(Ok(KEPT), &busy.workers), ..busy };
    insta::assert_snapshot!(text(&report, ""));
    insta::assert_snapshot!("redis_json", redis_json(report.redis.as_ref().unwrap()));
}

#[test]
fn status_with_a_redis_that_cannot_vouch() {
    let redis_text = |said| {
        let report = after_the_kill();
        let report = StatusReport { redis: redis(said, &report.workers), ..report };
        let text = text(&report, "");
        text[text.find("\nRedis ").unwrap()..].to_owned()
    };
    let all = [
        Ok(Evidence { uptime_s: 12, ..KEPT }),
        Ok(Evidence { data_age: Some(Duration::from_secs(7)), ..KEPT }),
        Ok(Evidence { data_age: None, ..KEPT }),
        Ok(Evidence { master: false, ..KEPT }),
        Err("Connection refused (os error 111)"),
    ];
    insta::assert_snapshot!(all.map(redis_text).concat());
    let silent = redis(Err("no answer within 1s"), &[]).unwrap();
    insta::assert_snapshot!("redis_silent_json", redis_json(&silent));
}

#[test]
fn status_of_many_ranges_is_cut() {
    let mut report = after_the_kill();
    report.workers[0].lines[0].1 = (1..100).step_by(2).collect();
    let text = text(&report, "");
    assert!(text.contains("39, ... 50 ranges in all]"), "{text}");
}

#[test]
fn status_json_always_has_every_count() {
    let report = busy();
    insta::assert_json_snapshot!(batch_status_json(&report.batches[0], &report.workers));
}

#[test]
fn lists() {
    let batches = [batch("open", Counts { queued: 15, inprog: 1, success: 4, ..Counts::default() })];
    insta::assert_json_snapshot!("list_json", list_json(&batches));
    insta::with_settings!({filters => vec![(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD hh:mm:ss")]}, {
        insta::assert_snapshot!("list_text", list_text(&batches, ""));
    });
    insta::assert_snapshot!("list_text_empty", list_text(&[], " --store rows.db"));
    insta::assert_json_snapshot!("workers_json", workers_json(&busy().workers));
    insta::assert_snapshot!("workers_text", list_workers_text(&busy().workers, ""));
}

fn row() -> ResultRow {
    ResultRow {
        line: 5,
        status: "success",
        result: Some("{\"sum\":12345678901234567890}".into()),
        error: None,
        attempts: 1,
        crashes: 0,
        worker: Some("hostname-67890-fghjk".to_owned()),
        token: Some(7),
        input: Some("{\"n\":\"5\"}".into()),
    }
}

fn story() -> Story {
    let entry = |kind: &str, worker: &str, token, detail: Option<&str>, run_us, at_us| StoryEntry {
        kind: kind.to_owned(),
        worker: Some(worker.to_owned()),
        token,
        detail: detail.map(str::to_owned),
        run_us,
        at_us,
    };
    let entries = vec![
        entry("recovered", "hostname-12345-abcde", 3, Some("died"), None, Some(1_795_000_000_000_000)),
        entry("recorded", "hostname-67890-fghjk", 7, Some("success"), Some(2_001_000), Some(1_795_000_002_000_000)),
        entry("fenced", "hostname-12345-abcde", 3, Some("success"), Some(61_000_000), Some(1_795_000_061_000_000)),
    ];
    Story { batch: BatchId::from_random(0x0012_3456_789a), row: row(), entries }
}

#[test]
fn a_row_s_story() {
    insta::with_settings!({filters => vec![(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD hh:mm:ss")]}, {
        insta::assert_snapshot!("story_text", story_text(&story()));
    });
    insta::assert_snapshot!("story_json", format!("{:#}", story_json(&story())));
    insta::assert_snapshot!("rows_text", rows_text(&[row()]));
    insta::assert_snapshot!("row_json", row_json(&row()).to_string());
}
