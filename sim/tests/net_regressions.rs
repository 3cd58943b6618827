//! Level 2's schedules that once failed, as the shrinker left them.

#![cfg(madsim)]

use sim::net::fault::NetFault::*;
use sim::net::run::run;
use sim::net::schedule::NetSchedule;
use sim::options::{BatchPlan, Options};

/// S2: each message sleeps for a millisecond here, and the check allowed the latency of level 1 alone.
#[test]
fn news_of_an_abort_are_on_their_way_for_a_while() {
    let schedule = NetSchedule {
        seed: 8345,
        options: Options {
            workers: 3,
            machines: 3,
            identities: false,
            supervised: false,
            stable_names: true,
            liveness: true,
            notify: true,
            until_done: false,
            calls: true,
            batches: vec![BatchPlan {
                rows: 53,
                submit_at_us: 0,
                priority: 1,
                attempts_max: 2,
                crashes_max: 2,
                timeout_us: 5000,
            }],
            run_us_min: 1000,
            run_us_max: 1000,
            slow_per_mille: 50,
            failing_per_mille: 0,
            retrying_per_mille: 200,
            hanging_per_mille: 0,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 3,
            ttl_us: 200000,
            renew_us: 66666,
            scan_us: 100000,
            request_timeout_us: 50000,
            horizon_us: 100000,
            claim_lines_max: 100,
            claim_bytes_max: 10000,
            group_lines_max: 1,
            flush_age_us: 2000,
            poll_us: 200000,
            grace_us: 0,
            cancel_grace_us: 2000,
            latency_us_min: 10,
            latency_us_max: 100,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 100000,
            store_rate: 1000000,
            restart_us: 200000,
            core: 169,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        answer_limit_us: 200000,
        faults: vec![(16618, RedisRestart { keeps_data: true, for_us: 934780 }), (73878, Abort { batch: 0 })],
    };
    assert_eq!(run(&schedule).violation, None);
}

/// S2: a worker whose store was restarted listens again a second later, and hears of an abort before that with a renewal only. The check
/// took it for one that listens.
#[test]
fn who_was_cut_off_listens_again_some_time_later() {
    let schedule = NetSchedule {
        seed: 13236,
        options: Options {
            workers: 2,
            machines: 2,
            identities: false,
            supervised: false,
            stable_names: true,
            liveness: true,
            notify: true,
            until_done: false,
            calls: false,
            batches: vec![
                BatchPlan {
                    rows: 15,
                    submit_at_us: 0,
                    priority: 1,
                    attempts_max: 2,
                    crashes_max: 3,
                    timeout_us: 1770876,
                },
                BatchPlan {
                    rows: 1,
                    submit_at_us: 402096,
                    priority: -1,
                    attempts_max: 2,
                    crashes_max: 1,
                    timeout_us: 1770876,
                },
                BatchPlan {
                    rows: 20,
                    submit_at_us: 454392,
                    priority: -1,
                    attempts_max: 2,
                    crashes_max: 1,
                    timeout_us: 5902920,
                },
            ],
            run_us_min: 295146,
            run_us_max: 295146,
            slow_per_mille: 0,
            failing_per_mille: 0,
            retrying_per_mille: 50,
            hanging_per_mille: 50,
            deaf_per_mille: 1000,
            poison_rows: 1,
            concurrency: 3,
            ttl_us: 590292,
            renew_us: 295146,
            scan_us: 590292,
            request_timeout_us: 295146,
            horizon_us: 590292,
            claim_lines_max: 5,
            claim_bytes_max: 10000,
            group_lines_max: 5,
            flush_age_us: 0,
            poll_us: 295146,
            grace_us: 147573,
            cancel_grace_us: 5902,
            latency_us_min: 100,
            latency_us_max: 1000,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 10000,
            store_rate: 1100000,
            restart_us: 29514,
            core: 135,
            linger_us: 1180584,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        answer_limit_us: 590292,
        faults: vec![(956084, StoreRestart { for_us: 125281 }), (1320112, Abort { batch: 2 })],
    };
    assert_eq!(run(&schedule).violation, None);
}

/// A process that stands still between Redis' answer and its own look at it: the check had forgotten what Redis did.
#[test]
fn who_stands_still_hears_its_answer_later() {
    let schedule = NetSchedule {
        seed: 44973,
        options: Options {
            workers: 4,
            machines: 4,
            identities: false,
            supervised: true,
            stable_names: false,
            liveness: true,
            notify: true,
            until_done: false,
            calls: false,
            batches: vec![BatchPlan {
                rows: 46,
                submit_at_us: 0,
                priority: 0,
                attempts_max: 3,
                crashes_max: 3,
                timeout_us: 32971420,
            }],
            run_us_min: 1648571,
            run_us_max: 1648571,
            slow_per_mille: 200,
            failing_per_mille: 200,
            retrying_per_mille: 50,
            hanging_per_mille: 0,
            deaf_per_mille: 1000,
            poison_rows: 0,
            concurrency: 1,
            ttl_us: 8242858,
            renew_us: 4121429,
            scan_us: 8242858,
            request_timeout_us: 2060714,
            horizon_us: 1000,
            claim_lines_max: 2,
            claim_bytes_max: 10000,
            group_lines_max: 1,
            flush_age_us: 2000,
            poll_us: 824285,
            grace_us: 16485716,
            cancel_grace_us: 1030357,
            latency_us_min: 100,
            latency_us_max: 1000,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 100000,
            store_rate: 1100000,
            restart_us: 24728574,
            core: 224,
            linger_us: 16485716,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        answer_limit_us: 8242856,
        faults: vec![
            (28672245, BadNetwork { loss_per_mille: 10, latency_us_max: 4121429, for_us: 8242858 }),
            (33053538, Pause { worker: 0, for_us: 5979760 }),
        ],
    };
    assert_eq!(run(&schedule).violation, None);
}
