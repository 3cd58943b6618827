//! Faults as plain data, and how they are drawn.

use serde::{Deserialize, Serialize};

use crate::draw::Draw;
use crate::options::Options;

/// Which way a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Way {
    /// Requests and replies are lost.
    Both,
    /// Requests are lost.
    Requests,
    /// The other side acts; its replies are lost.
    Replies,
}

/// How a server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Away {
    /// Requests are refused at once: they did not happen and will not.
    Refuses,
    /// Requests wait, and are done when it is back.
    Stalls,
}

/// What becomes of the second witness's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WitnessLoss {
    /// All keys go; it stays up.
    Flush,
    /// It starts anew with nothing.
    RestartEmpty,
    /// It starts anew with all it had.
    RestartWithData,
}

/// One fault. Workers and batches are given by their place, which is taken modulo their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The next store requests of this worker to arrive are done, their replies lost.
    LoseReplies {
        /// Whose.
        worker: u8,
        /// How many.
        count: u8,
    },
    /// The next store requests that this worker sends arrive so much later.
    Delay {
        /// Whose.
        worker: u8,
        /// How many.
        count: u8,
        /// By how much.
        by_us: u64,
    },
    /// The next store requests that this worker sends arrive a second time, so much later.
    Duplicate {
        /// Whose.
        worker: u8,
        /// How many.
        count: u8,
        /// By how much.
        after_us: u64,
    },
    /// A worker's link to the store is cut.
    CutStore {
        /// Whose.
        worker: u8,
        /// Which way.
        way: Way,
        /// The worker is told that something is wrong, instead of waiting for nothing.
        #[serde(default)]
        loud: bool,
        /// For how long.
        for_us: u64,
    },
    /// A worker's link to the second witness is cut.
    CutWitness {
        /// Whose.
        worker: u8,
        /// For how long.
        for_us: u64,
    },
    /// A process stands still.
    Pause {
        /// Whose.
        worker: u8,
        /// For how long.
        for_us: u64,
    },
    /// A process ends at once; what it sent may still arrive.
    Crash {
        /// Whose.
        worker: u8,
        /// When it is started again, if it is.
        restart_after_us: Option<u64>,
        /// R1: a supervisor tells the others.
        #[serde(default)]
        reported: bool,
    },
    /// Somebody starts a second process in a worker's place (and under its name), whatever the first does.
    Twin {
        /// Whose.
        worker: u8,
    },
    /// S1: SIGTERM.
    Stop {
        /// Whose.
        worker: u8,
        /// When it is started again, if it is.
        restart_after_us: Option<u64>,
    },
    /// The store is away for all.
    StoreAway {
        /// How.
        how: Away,
        /// For how long.
        for_us: u64,
    },
    /// The store's clock is stepped.
    StoreClockJump {
        /// By so much, either way.
        by_us: i64,
    },
    /// The second witness loses data, or restarts.
    Witness(WitnessLoss),
    /// The second witness is away for all.
    WitnessAway {
        /// How.
        how: Away,
        /// For how long.
        for_us: u64,
    },
    /// S3: an operator holds a batch.
    Hold {
        /// Which.
        batch: u8,
        /// For how long.
        for_us: u64,
    },
    /// S3: somebody appends rows to a batch. It is beside the batch's work rather than against it.
    Append {
        /// To which.
        batch: u8,
        /// How many.
        rows: u8,
        /// How long from the rows' storing to the end.
        for_us: u64,
    },
    /// S2: an operator aborts a batch.
    Abort {
        /// Which.
        batch: u8,
    },
}

impl Fault {
    /// How long its doing lasts.
    pub fn lasts_us(&self) -> u64 {
        match *self {
            Self::CutStore { for_us, .. }
            | Self::CutWitness { for_us, .. }
            | Self::Pause { for_us, .. }
            | Self::StoreAway { for_us, .. }
            | Self::WitnessAway { for_us, .. }
            | Self::Hold { for_us, .. }
            | Self::Append { for_us, .. } => for_us,
            Self::Crash { restart_after_us, .. } | Self::Stop { restart_after_us, .. } => restart_after_us.unwrap_or(0),
            _ => 0,
        }
    }

    /// Milder forms of the same fault, mildest first: for shrinking.
    pub fn milder(&self) -> Vec<Self> {
        let halves = |us: u64| [us / 8, us / 2, us - us / 4].into_iter().filter(move |less| *less < us && *less > 0);
        match *self {
            Self::LoseReplies { worker, count } if count > 1 => vec![Self::LoseReplies { worker, count: count - 1 }],
            Self::Delay { worker, count, by_us } => {
                halves(by_us).map(|by_us| Self::Delay { worker, count: 1.min(count), by_us }).collect()
            }
            Self::Duplicate { worker, count, after_us } => {
                halves(after_us).map(|after_us| Self::Duplicate { worker, count: 1.min(count), after_us }).collect()
            }
            Self::CutStore { worker, way, loud, for_us } => {
                halves(for_us).map(|for_us| Self::CutStore { worker, way, loud, for_us }).collect()
            }
            Self::CutWitness { worker, for_us } => {
                halves(for_us).map(|for_us| Self::CutWitness { worker, for_us }).collect()
            }
            Self::Pause { worker, for_us } => halves(for_us).map(|for_us| Self::Pause { worker, for_us }).collect(),
            Self::StoreAway { how, for_us } => halves(for_us).map(|for_us| Self::StoreAway { how, for_us }).collect(),
            Self::WitnessAway { how, for_us } => {
                halves(for_us).map(|for_us| Self::WitnessAway { how, for_us }).collect()
            }
            Self::Hold { batch, for_us } => halves(for_us).map(|for_us| Self::Hold { batch, for_us }).collect(),
            Self::Append { batch, rows, for_us } => {
                halves(for_us).map(|for_us| Self::Append { batch, rows, for_us }).collect()
            }
            Self::StoreClockJump { by_us } => [by_us / 8, by_us / 2]
                .into_iter()
                .filter(|less| *less != 0)
                .map(|by_us| Self::StoreClockJump { by_us })
                .collect(),
            _ => Vec::new(),
        }
    }
}

const PURPOSE_FAULTS: u64 = 4;
const KINDS: u64 = 16;

/// Draws a run's faults: some kinds only (a swarm), placed where the work is.
pub fn draw_faults(seed: u64, options: &Options) -> Vec<(u64, Fault)> {
    let mut draw = Draw::new(seed, PURPOSE_FAULTS);
    let enabled: Vec<u64> = (0..KINDS).filter(|_| draw.chance(500)).collect();
    let count = if enabled.is_empty() { 0 } else { draw.below(11) };
    let horizon = options.expected_us() + draw.pick(&[0, 0, options.ttl_us, options.ttl_us * 3]);
    let one = |draw: &mut Draw| {
        let kind = draw.pick(&enabled);
        (draw.below(horizon), draw_fault(draw, kind, options))
    };
    let mut faults: Vec<(u64, Fault)> = (0..count).map(|_| one(&mut draw)).collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn draw_fault(draw: &mut Draw, kind: u64, options: &Options) -> Fault {
    let worker = draw.below(u64::from(options.workers)) as u8;
    let batch = draw.below(options.batches.len() as u64) as u8;
    let count = draw.pick(&[1, 1, 2, 3, 8]);
    let for_us = draw_outage(draw, options.ttl_us);
    match kind {
        0 => Fault::LoseReplies { worker, count },
        1 => Fault::Delay { worker, count, by_us: for_us },
        2 => Fault::Duplicate { worker, count, after_us: for_us },
        3 | 4 => {
            let way = draw.pick(&[Way::Both, Way::Requests, Way::Replies]);
            Fault::CutStore { worker, way, loud: draw.chance(400), for_us }
        }
        5 => Fault::CutWitness { worker, for_us },
        6 | 7 => Fault::Pause { worker, for_us },
        8 | 9 => {
            let restart_after_us = if draw.chance(700) { Some(for_us) } else { None };
            Fault::Crash { worker, restart_after_us, reported: options.supervised && draw.chance(700) }
        }
        10 => Fault::Twin { worker },
        11 => Fault::Stop { worker, restart_after_us: if draw.chance(700) { Some(for_us) } else { None } },
        12 => Fault::StoreAway { how: draw.pick(&[Away::Refuses, Away::Stalls]), for_us },
        13 => Fault::StoreClockJump { by_us: draw_jump(draw, options.ttl_us) },
        14 if draw.chance(300) => Fault::WitnessAway { how: draw.pick(&[Away::Refuses, Away::Stalls]), for_us },
        14 => {
            let losses = [WitnessLoss::Flush, WitnessLoss::RestartEmpty, WitnessLoss::RestartWithData];
            Fault::Witness(draw.pick(&losses))
        }
        _ if draw.chance(300) => Fault::Abort { batch },
        _ if draw.chance(500) => {
            Fault::Append { batch, rows: draw.pick(&[1, 2, 10]), for_us: draw.pick(&[1, for_us / 4, for_us]).max(1) }
        }
        _ => Fault::Hold { batch, for_us },
    }
}

/// Outages straddle the ttl on purpose.
fn draw_outage(draw: &mut Draw, ttl_us: u64) -> u64 {
    match draw.below(4) {
        0 => draw.between(1, ttl_us / 4),
        1 => draw.between(ttl_us / 2, ttl_us),
        2 => draw.between(ttl_us - ttl_us / 8, ttl_us * 2),
        _ => draw.between(ttl_us * 2, ttl_us * 5),
    }
}

fn draw_jump(draw: &mut Draw, ttl_us: u64) -> i64 {
    let size = draw.pick(&[ttl_us / 3, ttl_us, ttl_us * 3, 7_200_000_000]);
    let by = i64::try_from(draw.between(size / 2, size)).unwrap_or(1);
    if draw.chance(500) { by } else { -by }
}
