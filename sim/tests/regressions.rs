//! Schedules that once failed, as the shrinker left them.

use sim::fault::Fault::*;
#[allow(unused_imports)]
use sim::fault::{Again, Away::*, Server::*, Way::*, WitnessLoss::*};
use sim::options::{BatchPlan, Options};
use sim::run;
use sim::schedule::Schedule;

fn assert_holds(schedule: &Schedule) {
    sim::explore::quiet_panics();
    if let Some(violation) = run(schedule).violation {
        panic!("{violation}\n{schedule}");
    }
}

/// C2: a claim that arrived twice, of which the second arrival's reply came: `Closed` was taken for "nothing taken", and
/// what the first arrival took was never run. A closed number is settled now.
#[test]
fn a_claim_that_arrives_twice_is_settled() {
    let schedule = Schedule {
        seed: 338708,
        options: Options {
            workers: 2,
            machines: 1,
            identities: false,
            supervised: false,
            stable_names: false,
            liveness: false,
            notify: true,
            until_done: false,
            calls: false,
            batches: vec![
                BatchPlan {
                    rows: 1,
                    submit_at_us: 0,
                    priority: 1,
                    attempts_max: 3,
                    crashes_max: 1,
                    timeout_us: 500000,
                },
                BatchPlan {
                    rows: 3,
                    submit_at_us: 54476,
                    priority: 0,
                    attempts_max: 2,
                    crashes_max: 2,
                    timeout_us: 600000,
                },
            ],
            run_us_min: 100000,
            run_us_max: 100000,
            slow_per_mille: 0,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 1,
            ttl_us: 200000,
            renew_us: 40000,
            scan_us: 100000,
            request_timeout_us: 50000,
            horizon_us: 1000000,
            claim_lines_max: 1,
            claim_bytes_max: 10000,
            group_lines_max: 1,
            flush_age_us: 0,
            poll_us: 200000,
            grace_us: 400000,
            cancel_grace_us: 200000,
            latency_us_min: 312,
            latency_us_max: 3125,
            slow_messages_per_mille: 50,
            inner_us: 0,
            clock_spread: 0,
            store_rate: 1000000,
            restart_us: 600000,
            core: 255,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        faults: vec![
            (44838, Pause { worker: 1, for_us: 159520 }),
            (51298, Delay { worker: 1, server: Store, count: 1, by_us: 1 }),
            (172129, Duplicate { worker: 1, server: Store, count: 1, after_us: 1 }),
        ],
    };
    assert_holds(&schedule);
}

/// P2: a handler that was given up still ran, while its worker took a suspect alone; it killed the process, and the
/// suspect, an innocent row, failed for it. A worker whose given-up handlers have not ended is not idle now.
#[test]
fn a_row_that_was_given_up_kills_its_worker_and_not_a_suspect() {
    let schedule = Schedule {
        seed: 61009,
        options: Options {
            workers: 3,
            machines: 1,
            identities: false,
            supervised: true,
            stable_names: false,
            liveness: false,
            notify: true,
            until_done: false,
            calls: false,
            batches: vec![BatchPlan {
                rows: 16,
                submit_at_us: 0,
                priority: 1,
                attempts_max: 3,
                crashes_max: 1,
                timeout_us: 253590,
            }],
            run_us_min: 5071,
            run_us_max: 50718,
            slow_per_mille: 200,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            deaf_per_mille: 1000,
            poison_rows: 2,
            concurrency: 1,
            ttl_us: 1014375,
            renew_us: 507187,
            scan_us: 2028750,
            request_timeout_us: 253593,
            horizon_us: 1014375,
            claim_lines_max: 20,
            claim_bytes_max: 50,
            group_lines_max: 1,
            flush_age_us: 50718,
            poll_us: 1000000,
            grace_us: 2028750,
            cancel_grace_us: 10143,
            latency_us_min: 500,
            latency_us_max: 5000,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 100000,
            store_rate: 1000000,
            restart_us: 3043125,
            core: 34,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        faults: vec![(282647, CutWitness { worker: 0, way: Both, for_us: 3201912 })],
    };
    assert_holds(&schedule);
}

/// Invariant 5: a judge's act stalled with the store for longer than a ttl, its reasons grown old. The worker, that had stood
/// still and went on meanwhile, could not renew either; where the act was done first, the worker was judged although it
/// could not renew because the store was away. An act now says when its lease was seen, and the store refuses old ones (R3).
#[test]
fn an_act_that_stalled_with_the_store_judges_nobody() {
    let schedule = Schedule {
        seed: 528274,
        options: Options {
            workers: 3,
            machines: 1,
            identities: false,
            supervised: false,
            stable_names: false,
            liveness: true,
            notify: false,
            until_done: false,
            calls: false,
            batches: vec![BatchPlan {
                rows: 3,
                submit_at_us: 0,
                priority: 0,
                attempts_max: 3,
                crashes_max: 3,
                timeout_us: 180000000,
            }],
            run_us_min: 30000000,
            run_us_max: 30000000,
            slow_per_mille: 50,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 1,
            ttl_us: 60000000,
            renew_us: 30000000,
            scan_us: 120000000,
            request_timeout_us: 10000000,
            horizon_us: 1000,
            claim_lines_max: 1,
            claim_bytes_max: 10000,
            group_lines_max: 1,
            flush_age_us: 0,
            poll_us: 30000000,
            grace_us: 15000000,
            cancel_grace_us: 600000,
            latency_us_min: 10,
            latency_us_max: 100,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 0,
            store_rate: 1000000,
            restart_us: 3000000,
            core: 255,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        faults: vec![
            (100936579, CutWitness { worker: 1, way: Both, for_us: 70429061 }),
            (114132138, Pause { worker: 0, for_us: 64606768 }),
            (120866418, Pause { worker: 2, for_us: 17083299 }),
            (174576943, StoreAway { how: Stalls, for_us: 66334355 }),
        ],
    };
    assert_holds(&schedule);
}

/// R4: an act on silence must be fresh (R3), and a judge that waited for its cut-off witness as long as for the store always
/// came too late. A silent witness is waited for shorter than a look stays fresh.
#[test]
fn a_silent_witness_does_not_put_recovery_off_for_ever() {
    let schedule = Schedule {
        seed: 15449,
        options: Options {
            workers: 3,
            machines: 1,
            identities: false,
            supervised: false,
            stable_names: false,
            liveness: true,
            notify: false,
            until_done: false,
            calls: false,
            batches: vec![BatchPlan {
                rows: 3,
                submit_at_us: 0,
                priority: 0,
                attempts_max: 2,
                crashes_max: 3,
                timeout_us: 60000000,
            }],
            run_us_min: 12000000,
            run_us_max: 12000000,
            slow_per_mille: 0,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 50,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 1,
            ttl_us: 60000000,
            renew_us: 20000000,
            scan_us: 30000000,
            request_timeout_us: 10000000,
            horizon_us: 1000000,
            claim_lines_max: 1,
            claim_bytes_max: 1,
            group_lines_max: 1,
            flush_age_us: 2000,
            poll_us: 6000000,
            grace_us: 0,
            cancel_grace_us: 60000000,
            latency_us_min: 500,
            latency_us_max: 5000,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 0,
            store_rate: 1000000,
            restart_us: 60000000,
            core: 255,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        faults: vec![
            (31363825, Crash { worker: 2, restart_after_us: None, reported: false }),
            (45465799, CutWitness { worker: 0, way: Both, for_us: 181132005 }),
            (51155331, Pause { worker: 1, for_us: 140995218 }),
        ],
    };
    assert_holds(&schedule);
}

/// S2: a worker that stood still beyond its licence renewed its lease, was not told of an abort meanwhile, and started what
/// it had claimed before. What is not started at the licence's end is given back now.
#[test]
fn a_worker_that_slept_starts_no_row_of_an_aborted_batch() {
    let schedule = Schedule {
        seed: 2087942,
        options: Options {
            workers: 1,
            machines: 1,
            identities: false,
            supervised: false,
            stable_names: false,
            liveness: false,
            notify: true,
            until_done: false,
            calls: false,
            batches: vec![
                BatchPlan {
                    rows: 7,
                    submit_at_us: 0,
                    priority: 0,
                    attempts_max: 3,
                    crashes_max: 1,
                    timeout_us: 400000,
                },
                BatchPlan {
                    rows: 13,
                    submit_at_us: 256019,
                    priority: 1,
                    attempts_max: 2,
                    crashes_max: 1,
                    timeout_us: 100000,
                },
                BatchPlan {
                    rows: 1,
                    submit_at_us: 9098347,
                    priority: 0,
                    attempts_max: 2,
                    crashes_max: 2,
                    timeout_us: 400000,
                },
            ],
            run_us_min: 2000,
            run_us_max: 20000,
            slow_per_mille: 50,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 8,
            ttl_us: 14875621,
            renew_us: 7437810,
            scan_us: 7437810,
            request_timeout_us: 3718905,
            horizon_us: 1000,
            claim_lines_max: 100,
            claim_bytes_max: 50,
            group_lines_max: 1,
            flush_age_us: 0,
            poll_us: 1000000,
            grace_us: 3718905,
            cancel_grace_us: 14875621,
            latency_us_min: 10,
            latency_us_max: 100,
            slow_messages_per_mille: 50,
            inner_us: 0,
            clock_spread: 0,
            store_rate: 1000000,
            restart_us: 743781,
            core: 255,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 0,
            witness_rate: 1000000,
        },
        faults: vec![(690785, Pause { worker: 0, for_us: 70706296 }), (2377616, Abort { batch: 1 })],
    };
    assert_holds(&schedule);
}

/// C2, S2: a settling that arrived twice, the second time after the batch's abort, took back the note that its lines might run,
/// while they ran: a purge did not wait for them. Settling takes nothing back now; the worker gives back what it was not granted.
#[test]
fn a_settling_that_arrives_again_after_an_abort_takes_nothing_back() {
    let schedule = Schedule {
        seed: 423040,
        options: Options {
            workers: 2,
            machines: 1,
            identities: false,
            supervised: false,
            stable_names: false,
            liveness: false,
            notify: false,
            until_done: false,
            calls: false,
            batches: vec![BatchPlan {
                rows: 1,
                submit_at_us: 0,
                priority: 0,
                attempts_max: 2,
                crashes_max: 3,
                timeout_us: 4268274,
            }],
            run_us_min: 711379,
            run_us_max: 711379,
            slow_per_mille: 0,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 1,
            ttl_us: 1422758,
            renew_us: 474252,
            scan_us: 2845516,
            request_timeout_us: 355689,
            horizon_us: 1422758,
            claim_lines_max: 1,
            claim_bytes_max: 10000,
            group_lines_max: 1,
            flush_age_us: 0,
            poll_us: 1000000,
            grace_us: 0,
            cancel_grace_us: 14227,
            latency_us_min: 500,
            latency_us_max: 5000,
            slow_messages_per_mille: 0,
            inner_us: 0,
            clock_spread: 0,
            store_rate: 1000000,
            restart_us: 71137,
            core: 255,
            linger_us: 0,
            joins_us: vec![],
            lost_per_mille: 100,
            witness_rate: 1000000,
        },
        faults: vec![
            (267033, Duplicate { worker: 1, server: Store, count: 1, after_us: 305865 }),
            (636016, Abort { batch: 0 }),
            (909076, Purge { batch: 0 }),
        ],
    };
    assert_holds(&schedule);
}
