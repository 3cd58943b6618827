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
        stopping: 0,
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

mod doctor {
    use std::time::Duration;

    use fencepost::liveness::redis::examine::{Info, RedisFacts, Said, Silence, SilenceKind};
    use fencepost::liveness::redis::scripts::{Evidence, Mirrored};
    use fencepost::liveness::redis::url::Kind;
    use fencepost::report::doctor::redis::{LiveWorker, findings as redis_findings};
    use fencepost::report::doctor::work::{OpenBatch, Work, findings as work_findings};
    use fencepost::report::doctor::{DoctorReport, Section, json, postgres, sqlite, text};
    use fencepost::store::examine::SchemaState;
    use fencepost::store::postgres::examine::{Connected, Pooler, PostgresFacts, Rights, Server, Sessions, Table};
    use fencepost::store::sqlite::examine::{Inside, SqliteFacts, WriteLock};

    use super::*;

    fn section(about: &'static str, name: &str, findings: Vec<fencepost::report::doctor::Finding>) -> Section {
        Section { about, name: (!name.is_empty()).then(|| name.to_owned()), findings }
    }

    fn sqlite_facts(ill: bool) -> SqliteFacts {
        let held = WriteLock::Held { watched: Duration::from_secs(2), pid: Some(4_711), stopped: true };
        SqliteFacts {
            path: "/data/rows.db".into(),
            file: Ok(40_960_000),
            may_write_file: true,
            may_write_folder: !ill,
            log_bytes: if ill { 200_000_000 } else { 4_152 },
            free_bytes: Some(if ill { 1_000_000 } else { 50_000_000_000 }),
            file_system: Some(if ill { "nfs4" } else { "ext4" }.to_owned()),
            lock: if ill { held } else { WriteLock::Free { after: Duration::from_micros(40) } },
            inside: Some(Ok(Inside {
                schema: if ill {
                    SchemaState::Older { version: 1 }
                } else {
                    SchemaState::Usable { version: 7, store_id: "9y2wgqqdzq0c".to_owned() }
                },
                journal_mode: if ill { "delete" } else { "wal" }.to_owned(),
                work: None,
            })),
        }
    }

    fn postgres_facts(ill: bool) -> PostgresFacts {
        let tables = if ill { vec!["rows".to_owned(), "spans".to_owned()] } else { Vec::new() };
        PostgresFacts {
            place: "db:5432/rows (schema fencepost)".to_owned(),
            schema_name: "fencepost".to_owned(),
            connected: Ok(Connected {
                connecting: Duration::from_micros(3_210),
                round_trip: Ok(if ill { Duration::from_millis(80) } else { Duration::from_micros(310) }),
                clock_ahead_us: Ok((if ill { -7_500_000 } else { 1_200 }, 155)),
                server: Ok(Server {
                    version: if ill { 130_011 } else { 150_004 },
                    encoding: if ill { "LATIN1" } else { "UTF8" }.to_owned(),
                    role: "jobs".to_owned(),
                    database: "rows".to_owned(),
                    recovery: ill,
                    read_only: ill,
                    fsync: !ill,
                    full_page_writes: !ill,
                    autovacuum: !ill,
                    connections_max: 100,
                    connections_reserved: 3,
                    connections_used: if ill { 95 } else { 12 },
                }),
                pooler: Pooler { announced: false, drops_settings: ill, hands_on: ill },
                schema: Ok(SchemaState::Usable { version: 5, store_id: "9y2wgqqdzq0c".to_owned() }),
                sessions: Ok(Sessions {
                    hidden: if ill { 4 } else { 0 },
                    oldest_s: ill.then_some(4_000),
                    oldest_pid: ill.then_some(812),
                    oldest_application: ill.then(|| "psql".to_owned()),
                    oldest_state: ill.then(|| "idle in transaction".to_owned()),
                    prepared_s: ill.then_some(90),
                    prepared_name: ill.then(|| "two-phase".to_owned()),
                    waiting: if ill { 3 } else { 0 },
                }),
                tables: Ok(vec![Table {
                    name: "spans".to_owned(),
                    live: 12,
                    dead: if ill { 400_000 } else { 20 },
                    neglected: ill,
                }]),
                rights: Some(Ok(Rights { schema: !ill, tables, sequences: !ill, functions: !ill })),
                work: None,
            }),
        }
    }

    fn work(ill: bool) -> Work {
        let open = |number: u64, status: &'static str, operation: &str, next_row_in| OpenBatch {
            summary: BatchSummary {
                id: BatchId::from_random(number),
                operation: operation.to_owned(),
                ..batch(status, Counts { queued: 15, inprog: 1, success: 4, ..Counts::default() })
            },
            still: Duration::from_secs(7_500),
            next_row_in,
        };
        let (dead, live) = (worker(1, Alive::Silent, LineSet::range(5, 9)), worker(2, Alive::Yes, LineSet::single(3)));
        if !ill {
            let batches = vec![open(1, "open", "default", Some(Duration::from_secs(12)))];
            return Work { batches, workers: vec![live, dead], appends: vec![Duration::from_secs(3)] };
        }
        Work {
            batches: vec![
                open(1, "open", "it's", None),
                open(2, "held", "default", None),
                open(3, "loading", "default", None),
            ],
            workers: vec![dead, worker(3, Alive::ProcessGone, LineSet::new())],
            appends: vec![Duration::from_secs(600)],
        }
    }

    const WELL: Evidence = Evidence { data_age: Some(Duration::from_secs(3_599)), uptime_s: 3_605, master: true };

    fn said(evidence: Evidence) -> Said {
        Said {
            round_trip: Duration::from_micros(180),
            clock_ahead_us: (900, 90),
            info: Info {
                version: "7.0.15".to_owned(),
                role: "master".to_owned(),
                used_bytes: 1_000_000,
                policy: "noeviction".to_owned(),
                ..Info::default()
            },
            evidence,
            refused: Vec::new(),
            workers: vec![Mirrored { heartbeat: Some(Duration::from_secs(40)), running: Vec::new() }],
        }
    }

    fn of_redis(said: Result<Said, Silence>, kind: Kind) -> Vec<fencepost::report::doctor::Finding> {
        let facts = RedisFacts { url: "redis://:***@redis".to_owned(), kind, said };
        let ttl = Duration::from_secs(60);
        redis_findings(&facts, &[LiveWorker { name: "hostname-12346-abcde".to_owned(), ttl }])
    }

    #[test]
    fn a_healthy_store_and_redis() {
        let report = DoctorReport {
            sections: vec![
                section("store", "postgres://jobs:***@db/rows", postgres::findings(&postgres_facts(false))),
                section("work", "", work_findings(&work(false), "")),
                section("redis", "redis://:***@redis", of_redis(Ok(said(WELL)), Kind::One)),
            ],
        };
        insta::assert_snapshot!("doctor_healthy", text(&report));
        let sqlite = section("store", "/data/rows.db", sqlite::findings(&sqlite_facts(false)));
        let report = DoctorReport { sections: vec![sqlite] };
        insta::assert_snapshot!("doctor_healthy_sqlite", text(&report));
        insta::assert_snapshot!("doctor_json", format!("{:#}", json(&report)));
    }

    #[test]
    fn a_store_in_which_nothing_is_well() {
        let report = DoctorReport {
            sections: vec![
                section("store", "postgres://jobs:***@db/rows", postgres::findings(&postgres_facts(true))),
                section("work", "", work_findings(&work(true), " --store rows.db")),
            ],
        };
        insta::assert_snapshot!("doctor_ill_postgres", text(&report));
        let sqlite = section("store", "/data/rows.db", sqlite::findings(&sqlite_facts(true)));
        insta::assert_snapshot!("doctor_ill_sqlite", text(&DoctorReport { sections: vec![sqlite] }));
    }

    /// Every mood of docs/redis.md, "A Redis in trouble".
    #[test]
    fn a_redis_in_trouble() {
        let silent = |why: &str, kind| Err(Silence { why: why.to_owned(), kind });
        let evidence = |uptime_s, data_age_s: Option<u64>| Evidence {
            uptime_s,
            data_age: data_age_s.map(Duration::from_secs),
            master: true,
        };
        let of_info = |change: fn(&mut Info)| {
            let mut said = said(WELL);
            change(&mut said.info);
            Ok(said)
        };
        let refusing = |command, why: &str| Ok(Said { refused: vec![(command, why.to_owned())], ..said(WELL) });
        let moods = [
            ("absent", silent("Connection refused (os error 111)", SilenceKind::Unreachable)),
            ("frozen", silent("no answer within 5s", SilenceKind::Frozen)),
            ("wrong password", silent("WRONGPASS: invalid username-password pair", SilenceKind::Password)),
            (
                "forbidden",
                silent("NOPERM: this user has no permissions to run the 'eval' command", SilenceKind::Forbidden),
            ),
            ("loading", silent("LOADING: Redis is loading the dataset in memory", SilenceKind::Loading)),
            ("slow", Ok(Said { round_trip: Duration::from_millis(1_200), ..said(WELL) })),
            ("rather slow", Ok(Said { round_trip: Duration::from_millis(300), ..said(WELL) })),
            ("restarted with data, or in a crash loop", Ok(said(evidence(14, Some(3_599))))),
            ("restarted empty", Ok(said(evidence(14, None)))),
            ("flushed", Ok(said(evidence(3_605, Some(7))))),
            ("flushed, and not used since", Ok(said(evidence(3_605, None)))),
            ("out of memory", refusing("set", "OOM command not allowed when used memory > 'maxmemory'.")),
            ("cannot save", refusing("set", "MISCONF Redis is configured to save RDB snapshots")),
            ("short of rights", refusing("sadd", "NOPERM this user has no permissions to run the 'sadd' command")),
            (
                "evicting",
                of_info(|info| {
                    (info.policy, info.evicted_keys) = ("allkeys-lru".to_owned(), 12);
                    (info.used_bytes, info.bytes_max) = (99_000_000, 100_000_000);
                }),
            ),
            ("evicted", of_info(|info| info.evicted_keys = 12)),
            ("a replica", {
                let mut replica = said(Evidence { master: false, ..WELL });
                (replica.info.role, replica.info.master_of) = ("slave".to_owned(), Some("redis-1:6379".to_owned()));
                Ok(replica)
            }),
            ("too old", of_info(|info| info.version = "5.0.14".to_owned())),
            (
                "without the worker's heartbeat",
                Ok(Said { workers: vec![Mirrored { heartbeat: None, running: Vec::new() }], ..said(WELL) }),
            ),
        ];
        let mut all = String::new();
        for (mood, said) in moods {
            let mut findings = of_redis(said, Kind::Cluster);
            findings.retain(|finding| finding.level != fencepost::report::doctor::Level::Ok);
            assert!(!findings.is_empty(), "{mood}");
            let report = DoctorReport { sections: vec![section("redis", mood, findings)] };
            all += text(&report).split_once("\n\n").unwrap().1;
        }
        insta::assert_snapshot!("doctor_redis_in_trouble", all);
    }
}
