//! The shrunk schedules: `sim original --source`.

use sim::fault::Fault::*;
#[allow(unused_imports)]
use sim::fault::{Away::*, Server::*, Way::*, WitnessLoss::*};
use sim::options::Options;
use sim::original::{plain, rows};
use sim::schedule::Schedule;

/// By the window's number.
pub fn schedules() -> Vec<(u8, Schedule)> {
    vec![
        (
            1,
            Schedule {
                seed: 1,
                options: Options { batches: rows(2), workers: 1, run_us_min: 199999, run_us_max: 199999, ..plain() },
                faults: vec![(340000, StoreAway { how: Refuses, for_us: 1000000 })],
            },
        ),
        (
            2,
            Schedule {
                seed: 1,
                options: Options {
                    batches: rows(2),
                    workers: 1,
                    claim_lines_max: 2,
                    slow_messages_per_mille: 50,
                    ..plain()
                },
                faults: vec![(10000, Crash { worker: 0, restart_after_us: Some(1000000), reported: true })],
            },
        ),
        (
            3,
            Schedule {
                seed: 739,
                options: Options { batches: rows(1), workers: 1, latency_us_min: 9, latency_us_max: 92, ..plain() },
                faults: vec![(163, Stop { worker: 0, restart_after_us: Some(1000000) })],
            },
        ),
        (
            4,
            Schedule {
                seed: 1,
                options: Options { batches: rows(2), workers: 1, ..plain() },
                faults: vec![(100000, Crash { worker: 0, restart_after_us: Some(4000000), reported: false })],
            },
        ),
        (
            5,
            Schedule {
                seed: 67,
                options: Options {
                    batches: rows(1),
                    workers: 1,
                    run_us_min: 500000,
                    run_us_max: 500000,
                    slow_per_mille: 200,
                    ..plain()
                },
                faults: vec![
                    (1000000, Witness(Flush)),
                    (2000000, Crash { worker: 0, restart_after_us: Some(1000000), reported: true }),
                ],
            },
        ),
        (
            6,
            Schedule {
                seed: 1,
                options: Options {
                    batches: rows(4),
                    run_us_min: 500000,
                    run_us_max: 500000,
                    grace_us: 250000,
                    ..plain()
                },
                faults: vec![(800000, Stop { worker: 1, restart_after_us: Some(1000000) })],
            },
        ),
        (
            7,
            Schedule {
                seed: 19648,
                options: Options { batches: rows(2), claim_lines_max: 2, slow_messages_per_mille: 50, ..plain() },
                faults: vec![
                    (1000, Twin { worker: 1 }),
                    (100000, Crash { worker: 0, restart_after_us: Some(1000000), reported: false }),
                ],
            },
        ),
        (
            8,
            Schedule {
                seed: 60,
                options: Options {
                    batches: rows(1),
                    workers: 1,
                    failing_per_mille: 50,
                    hanging_per_mille: 50,
                    ..plain()
                },
                faults: vec![],
            },
        ),
        (
            11,
            Schedule {
                seed: 1,
                options: Options { batches: rows(1), ..plain() },
                faults: vec![(100000, Pause { worker: 0, for_us: 1500000 })],
            },
        ),
        (
            12,
            Schedule {
                seed: 3570,
                options: Options { batches: rows(5), ..plain() },
                faults: vec![
                    (300000, Crash { worker: 0, restart_after_us: Some(600000), reported: true }),
                    (1000000, CutStore { worker: 1, way: Both, loud: false, for_us: 1000000 }),
                ],
            },
        ),
        (
            13,
            Schedule {
                seed: 1,
                options: Options {
                    batches: rows(4),
                    run_us_min: 500000,
                    run_us_max: 500000,
                    slow_per_mille: 200,
                    ..plain()
                },
                faults: vec![(1000000, WitnessAway { how: Stalls, for_us: 1000000 })],
            },
        ),
        (
            14,
            Schedule {
                seed: 1,
                options: Options { batches: rows(2), claim_lines_max: 2, ..plain() },
                faults: vec![
                    (9356, WitnessAway { how: Refuses, for_us: 1100000 }),
                    (100000, StoreAway { how: Stalls, for_us: 2000000 }),
                ],
            },
        ),
        (
            15,
            Schedule {
                seed: 1,
                options: Options { batches: rows(1), workers: 1, ..plain() },
                faults: vec![(100000, Abort { batch: 0 })],
            },
        ),
        (
            17,
            Schedule {
                seed: 1,
                options: Options { batches: rows(1), workers: 1, ..plain() },
                faults: vec![(100000, LoseReplies { worker: 0, server: Store, count: 1 })],
            },
        ),
        (
            18,
            Schedule {
                seed: 1,
                options: Options { batches: rows(1), workers: 1, poison_rows: 1, ..plain() },
                faults: vec![],
            },
        ),
    ]
}
