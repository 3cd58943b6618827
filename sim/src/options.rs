//! What a run is like, apart from its faults: all drawn from the seed, all printed, all open to be overridden.

use std::time::Duration;

use fencepost_core::BatchId;
use fencepost_core::calls::Calls;
use fencepost_core::config::{Timing, WorkerOptions};
use serde::{Deserialize, Serialize};

use crate::draw::{Draw, mix};

/// A batch to submit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchPlan {
    /// Its rows.
    pub rows: u64,
    /// When it is submitted.
    #[serde(default)]
    pub submit_at_us: u64,
    /// Higher comes first.
    #[serde(default)]
    pub priority: i32,
    /// O5.
    #[serde(default = "tries")]
    pub attempts_max: u32,
    /// P2.
    #[serde(default = "tries")]
    pub crashes_max: u32,
    /// O6.
    #[serde(default = "hour_us")]
    pub timeout_us: u64,
}

/// Attempts and crashes of a batch in a file that says nothing of them: the command's defaults.
fn tries() -> u32 {
    3
}

/// O6: the same of the time that a row has.
fn hour_us() -> u64 {
    3_600_000_000
}

/// The options of a run. Times are microseconds of true time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Workers at the start.
    pub workers: u8,
    /// They are spread over so many machines.
    pub machines: u8,
    /// Processes can be looked up on their machine (R1).
    pub identities: bool,
    /// A supervisor reports deaths (R1).
    pub supervised: bool,
    /// R5: workers have stable names.
    pub stable_names: bool,
    /// There is a second witness.
    pub liveness: bool,
    /// Idle workers are woken when lines become free.
    pub notify: bool,
    /// Workers leave when nothing is open.
    pub until_done: bool,
    /// S7: whether workers make completion calls.
    pub calls: bool,
    /// The batches.
    pub batches: Vec<BatchPlan>,

    /// The shortest run.
    pub run_us_min: u64,
    /// The longest ordinary run.
    pub run_us_max: u64,
    /// So many rows out of a thousand take ten times as long as the longest.
    pub slow_per_mille: u64,
    /// So many fail.
    pub failing_per_mille: u64,
    /// So many ask to be tried again, some of them for ever.
    pub retrying_per_mille: u64,
    /// So many never end unless cancelled.
    pub hanging_per_mille: u64,
    /// So many do not listen to a cancel.
    pub deaf_per_mille: u64,
    /// So many rows kill their process.
    pub poison_rows: u64,

    /// Rows run at once by a worker.
    pub concurrency: u32,
    /// Lease.
    pub ttl_us: u64,
    /// Lease.
    pub renew_us: u64,
    /// Judge.
    pub scan_us: u64,
    /// Requests.
    pub request_timeout_us: u64,
    /// Claims.
    pub horizon_us: u64,
    /// Claims.
    pub claim_lines_max: u64,
    /// Claims; a row's input has some 10 bytes.
    pub claim_bytes_max: u64,
    /// Outcomes.
    pub group_lines_max: usize,
    /// Outcomes.
    pub flush_age_us: u64,
    /// How often an idle worker asks.
    pub poll_us: u64,
    /// S1.
    pub grace_us: u64,
    /// How long a cancelled handler may take.
    pub cancel_grace_us: u64,

    /// The shortest way of a message.
    pub latency_us_min: u64,
    /// The longest ordinary way.
    pub latency_us_max: u64,
    /// So many messages out of a thousand take up to half a request's timeout.
    pub slow_messages_per_mille: u64,
    /// How long the threads of one process take to hear of each other.
    pub inner_us: u64,
    /// Workers' clocks run at rates off by up to so many millionths.
    pub clock_spread: u32,
    /// The store's clock runs at this rate, in millionths.
    pub store_rate: u32,
    /// After so long a supervisor starts a process again that a row killed or that found its name in use.
    pub restart_us: u64,
    /// Bit n: worker n is whole in the end. At least one is, whatever this says.
    pub core: u8,
    /// How long the run goes on after all batches have ended: late writes.
    pub linger_us: u64,
    /// When further workers join, each in a place of its own.
    pub joins_us: Vec<u64>,
    /// Until faults stop, so many messages out of a thousand are lost.
    pub lost_per_mille: u64,
    /// The second witness's clock runs at this rate, in millionths.
    pub witness_rate: u32,
    /// C3: inputs that a worker holds have at most so many bytes.
    pub held_bytes_max: u64,
}

const PURPOSE_OPTIONS: u64 = 1;
const PURPOSE_RATE: u64 = 2;

impl Options {
    /// Draws all options.
    pub fn from_seed(seed: u64) -> Self {
        let mut draw = Draw::new(seed, PURPOSE_OPTIONS);
        let d = &mut draw;
        let ttl_us = d.log_between(200_000, 60_000_000);
        let request_timeout_us = d.pick(&[ttl_us / 4, ttl_us / 4, ttl_us / 8, ttl_us / 2]).min(10_000_000);
        let run_us_max = d.pick(&[1000, 20_000, ttl_us / 20, ttl_us / 5, ttl_us / 2]);
        let latency_us_max = d.pick(&[100, 1000, 5000]).min(request_timeout_us / 16);
        let workers = d.pick(&[1, 2, 2, 3, 3, 4]);
        let stable_names = d.chance(400);
        Self {
            workers,
            machines: d.pick(&[1, 2, workers]),
            identities: d.chance(400),
            supervised: d.chance(400),
            stable_names,
            liveness: d.chance(500),
            notify: d.chance(500),
            until_done: d.chance(150),
            batches: Self::draw_batches(d, ttl_us, run_us_max),
            run_us_min: run_us_max / d.pick(&[1, 2, 10]),
            run_us_max,
            slow_per_mille: d.pick(&[0, 0, 50, 200]),
            failing_per_mille: d.pick(&[0, 0, 50, 200]),
            retrying_per_mille: d.pick(&[0, 0, 50, 200]),
            hanging_per_mille: d.pick(&[0, 0, 0, 50]),
            deaf_per_mille: d.pick(&[0, 0, 100, 1000]),
            poison_rows: d.pick(&[0, 0, 0, 0, 0, 1, 1, 2]),
            concurrency: d.pick(&[1, 1, 2, 3, 8]),
            ttl_us,
            renew_us: ttl_us / d.pick(&[2, 2, 2, 3, 5]),
            scan_us: d.pick(&[ttl_us / 2, ttl_us, ttl_us, ttl_us * 2]),
            request_timeout_us,
            horizon_us: d.pick(&[1000, 100_000, 1_000_000, ttl_us]),
            claim_lines_max: d.pick(&[1, 2, 5, 20, 100]),
            claim_bytes_max: d.pick(&[1, 50, 10_000, 10_000]),
            group_lines_max: d.pick(&[1, 2, 5, 100]),
            flush_age_us: d.pick(&[0, 2000, 2000, ttl_us / 20]),
            poll_us: d.pick(&[ttl_us / 10, ttl_us / 2, 1_000_000.min(ttl_us)]),
            grace_us: d.pick(&[0, ttl_us / 4, ttl_us * 2]),
            cancel_grace_us: d.pick(&[ttl_us / 100, ttl_us / 8, ttl_us]),
            latency_us_min: latency_us_max / 10,
            latency_us_max,
            slow_messages_per_mille: d.pick(&[0, 0, 10, 50]),
            inner_us: d.pick(&[0, 0, 50, 2000]),
            clock_spread: d.pick(&[0, 10_000, 100_000]),
            store_rate: d.pick(&[1_000_000, 1_000_000, 900_000, 1_100_000, 999_000]),
            restart_us: d.pick(&[ttl_us / 20, ttl_us / 20, ttl_us, ttl_us * 3]),
            core: d.below(256) as u8,
            linger_us: if d.chance(250) { ttl_us * 2 } else { 0 },
            // Last: what is drawn before stays what it was.
            calls: d.chance(300),
            joins_us: (0..d.pick(&[0, 0, 0, 1, 2])).map(|_| d.below(ttl_us * 2)).collect(),
            lost_per_mille: d.pick(&[0, 0, 0, 10, 100]),
            witness_rate: d.pick(&[1_000_000, 900_000, 1_100_000]),
            held_bytes_max: d.pick(&[1_000_000, 1_000_000, 100, 20]),
        }
    }

    /// Places for workers: those at the start and those that join.
    pub fn places(&self) -> u64 {
        u64::from(self.workers.max(1)) + self.joins_us.len() as u64
    }

    fn draw_batches(d: &mut Draw, ttl_us: u64, run_us_max: u64) -> Vec<BatchPlan> {
        let count = d.pick(&[1, 1, 1, 2, 3]);
        let one = |d: &mut Draw, at: u64| BatchPlan {
            rows: d.log_between(1, 60 / count),
            submit_at_us: if at == 0 { 0 } else { d.below(ttl_us) },
            priority: d.pick(&[0, 0, 0, 1, -1]),
            attempts_max: d.pick(&[1, 2, 3, 3]),
            crashes_max: d.pick(&[1, 2, 3, 3]),
            timeout_us: d.pick(&[run_us_max * 5, run_us_max * 20, ttl_us * 3]).max(2000),
        };
        (0..count).map(|at| one(d, at)).collect()
    }

    /// Two workers, four rows, nothing odd: for exhaustive runs.
    pub fn small() -> Self {
        let batch =
            BatchPlan { rows: 4, submit_at_us: 0, priority: 0, attempts_max: 3, crashes_max: 3, timeout_us: 3_000_000 };
        Self {
            workers: 2,
            machines: 2,
            identities: false,
            supervised: false,
            stable_names: false,
            liveness: true,
            notify: false,
            until_done: false,
            calls: false,
            batches: vec![batch],
            run_us_min: 60_000,
            run_us_max: 120_000,
            slow_per_mille: 0,
            failing_per_mille: 0,
            retrying_per_mille: 0,
            hanging_per_mille: 0,
            deaf_per_mille: 0,
            poison_rows: 0,
            concurrency: 1,
            ttl_us: 1_000_000,
            renew_us: 500_000,
            scan_us: 1_000_000,
            request_timeout_us: 250_000,
            horizon_us: 200_000,
            claim_lines_max: 2,
            claim_bytes_max: 10_000,
            group_lines_max: 10,
            flush_age_us: 2000,
            poll_us: 100_000,
            grace_us: 500_000,
            cancel_grace_us: 100_000,
            latency_us_min: 100,
            latency_us_max: 1000,
            slow_messages_per_mille: 0,
            inner_us: 50,
            clock_spread: 10_000,
            store_rate: 1_000_000,
            restart_us: 300_000,
            core: 0b11,
            linger_us: 2_500_000,
            joins_us: Vec::new(),
            lost_per_mille: 0,
            witness_rate: 1_000_000,
            held_bytes_max: 1_000_000,
        }
    }

    /// The worker machines' timings.
    pub fn timing(&self) -> Timing {
        Timing {
            ttl: Duration::from_micros(self.ttl_us),
            renew: Duration::from_micros(self.renew_us),
            scan: Duration::from_micros(self.scan_us),
            request_timeout: Duration::from_micros(self.request_timeout_us),
        }
    }

    /// The worker machine's options.
    pub fn worker(&self) -> WorkerOptions {
        WorkerOptions {
            timing: self.timing(),
            operations: vec![OPERATION.to_owned()],
            concurrency: self.concurrency,
            horizon: Duration::from_micros(self.horizon_us),
            claim_lines_max: self.claim_lines_max,
            claim_bytes_max: self.claim_bytes_max,
            held_bytes_max: self.held_bytes_max,
            group_lines_max: self.group_lines_max,
            group_bytes_max: 1 << 20,
            flush_age: Duration::from_micros(self.flush_age_us),
            poll: Duration::from_micros(self.poll_us),
            grace: Duration::from_micros(self.grace_us),
            cancel_grace: Duration::from_micros(self.cancel_grace_us),
            until_done: self.until_done,
            calls: self.calls(),
            call_timeout: Duration::from_micros(self.ttl_us * 3),
            ..WorkerOptions::default()
        }
    }

    /// S7: the completion calls that workers make.
    pub fn calls(&self) -> Calls {
        let operations = vec![OPERATION.to_owned()];
        if self.calls { Calls { operations, command: true, urls: Vec::new() } } else { Calls::default() }
    }

    /// A worker's clock rate in millionths.
    pub fn worker_rate(&self, seed: u64, slot: u8) -> u32 {
        let spread = u64::from(self.clock_spread);
        let off = mix(&[seed, PURPOSE_RATE, u64::from(slot)]) % (2 * spread + 1);
        u32::try_from(1_000_000 - spread + off).unwrap_or(1_000_000)
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.rows).sum()
    }

    /// How long the work takes when nothing is in its way, roughly: faults are placed within.
    pub fn expected_us(&self) -> u64 {
        let mean = (self.run_us_min + self.run_us_max) / 2;
        let mean = mean + mean * self.slow_per_mille / 100 + 4 * self.latency_us_max;
        let lanes = u64::from(self.workers) * u64::from(self.concurrency).min(4);
        let last = self.batches.iter().map(|batch| batch.submit_at_us).max().unwrap_or(0);
        self.rows() * mean / lanes.max(1) + last + 20 * self.latency_us_max
    }
}

/// The only operation.
pub const OPERATION: &str = "row";

/// The id of the batch with this place in the options.
pub fn batch_id(at: usize) -> BatchId {
    BatchId::from_random(mix(&[0xba7c4, at as u64]))
}
