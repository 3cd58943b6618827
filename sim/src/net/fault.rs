//! Faults of the network simulation as plain data, and how they are drawn.

use crate::draw::Draw;
use crate::fault::{Way, draw_jump, draw_outage};
use crate::options::Options;

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The row store.
    Store,
    /// The second witness.
    Redis,
}

/// Why Redis refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It may use no more memory: what adds data is refused.
    OutOfMemory,
    /// It cannot save its data: what writes is refused, and a PING.
    CannotSave,
    /// It reads its data: everything is refused.
    Loading,
    /// It has become a replica: what writes is refused.
    Replica,
}

/// One fault. Workers and batches are given by their place, which is taken modulo their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetFault {
    /// A process ends at once; what it sent may still arrive.
    Kill {
        /// Whose.
        worker: u8,
        /// When it is started again, if it is.
        restart_after_us: Option<u64>,
        /// R1: a supervisor tells the others.
        reported: bool,
    },
    /// A process stands still.
    Pause {
        /// Whose.
        worker: u8,
        /// For how long.
        for_us: u64,
    },
    /// Somebody starts a second process under a worker's name, on another machine, whatever the first does.
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
    /// A link is cut: what is on its way there waits, as TCP does.
    Cut {
        /// Whose.
        worker: u8,
        /// To which server.
        server: Server,
        /// Which way.
        way: Way,
        /// For how long.
        for_us: u64,
    },
    /// The network loses messages (which TCP sends again) and delays them.
    BadNetwork {
        /// So many out of a thousand are lost.
        loss_per_mille: u16,
        /// The longest way.
        latency_us_max: u64,
        /// For how long.
        for_us: u64,
    },
    /// The store is killed, and started again with all it had.
    StoreRestart {
        /// For how long it is away.
        for_us: u64,
    },
    /// The store stands still.
    StorePause {
        /// For how long.
        for_us: u64,
    },
    /// The store answers that it did not do what it is asked.
    StoreRefuses {
        /// For how long.
        for_us: u64,
    },
    /// The next store requests of this worker to arrive are done; then the store hangs up.
    LoseReplies {
        /// Whose.
        worker: u8,
        /// How many.
        count: u8,
    },
    /// The store's clock is stepped.
    StoreClockJump {
        /// By so much, either way.
        by_us: i64,
    },
    /// Redis is killed and started again.
    RedisRestart {
        /// With the data it had.
        keeps_data: bool,
        /// For how long it is away.
        for_us: u64,
    },
    /// Redis stands still.
    RedisPause {
        /// For how long.
        for_us: u64,
    },
    /// Redis loses all keys and scripts, and stays up.
    RedisFlush,
    /// Redis answers with errors.
    RedisRefuses {
        /// Why.
        why: Refusal,
        /// For how long.
        for_us: u64,
    },
    /// Redis closes all connections.
    RedisHangsUp,
    /// S3: an operator holds a batch.
    Hold {
        /// Which.
        batch: u8,
        /// For how long.
        for_us: u64,
    },
    /// S2: an operator aborts a batch.
    Abort {
        /// Which.
        batch: u8,
    },
}

impl NetFault {
    /// How long its doing lasts.
    pub const fn lasts_us(&self) -> u64 {
        match *self {
            Self::Pause { for_us, .. }
            | Self::Cut { for_us, .. }
            | Self::BadNetwork { for_us, .. }
            | Self::StoreRestart { for_us }
            | Self::StorePause { for_us }
            | Self::StoreRefuses { for_us }
            | Self::RedisRestart { for_us, .. }
            | Self::RedisPause { for_us }
            | Self::RedisRefuses { for_us, .. }
            | Self::Hold { for_us, .. } => for_us,
            Self::Kill { restart_after_us: Some(after), .. } | Self::Stop { restart_after_us: Some(after), .. } => {
                after
            }
            _ => 0,
        }
    }
}

const PURPOSE_NET_FAULTS: u64 = 5;
const KINDS: u64 = 18;

/// Draws a run's faults: some kinds only (a swarm), placed where the work is.
pub fn draw_faults(seed: u64, options: &Options) -> Vec<(u64, NetFault)> {
    let mut draw = Draw::new(seed, PURPOSE_NET_FAULTS);
    let enabled: Vec<u64> = (0..KINDS).filter(|_| draw.chance(500)).collect();
    let count = if enabled.is_empty() { 0 } else { draw.below(11) };
    let horizon = options.expected_us() + draw.pick(&[0, 0, options.ttl_us, options.ttl_us * 3]);
    let mut faults = Vec::new();
    for _ in 0..count {
        let kind = draw.pick(&enabled);
        let at = draw.below(horizon);
        faults.push((at, draw_fault(&mut draw, kind, options)));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn draw_fault(draw: &mut Draw, kind: u64, options: &Options) -> NetFault {
    let worker = draw.below(u64::from(options.workers)) as u8;
    let batch = draw.below(options.batches.len() as u64) as u8;
    let for_us = draw_outage(draw, options.ttl_us);
    let again = |draw: &mut Draw| if draw.chance(700) { Some(for_us) } else { None };
    match kind {
        0 | 1 => {
            let restart_after_us = again(draw);
            NetFault::Kill { worker, restart_after_us, reported: options.supervised && draw.chance(700) }
        }
        2 => NetFault::Pause { worker, for_us },
        3 => NetFault::Stop { worker, restart_after_us: again(draw) },
        4 | 5 => {
            let server = draw.pick(&[Server::Store, Server::Store, Server::Redis]);
            NetFault::Cut { worker, server, way: draw.pick(&[Way::Both, Way::Requests, Way::Replies]), for_us }
        }
        6 => NetFault::BadNetwork {
            loss_per_mille: draw.pick(&[0, 10, 100, 300]),
            latency_us_max: draw.pick(&[options.latency_us_max, options.request_timeout_us / 2, options.ttl_us / 2]),
            for_us: for_us.min(options.ttl_us),
        },
        7 => NetFault::StoreRestart { for_us },
        8 => NetFault::StorePause { for_us },
        9 => NetFault::StoreRefuses { for_us: for_us.min(options.ttl_us) },
        10 => NetFault::LoseReplies { worker, count: draw.pick(&[1, 1, 2, 3, 8]) },
        11 => NetFault::RedisRestart { keeps_data: draw.chance(500), for_us },
        12 => NetFault::RedisPause { for_us },
        13 if draw.chance(500) => NetFault::RedisHangsUp,
        13 => NetFault::RedisFlush,
        14 => {
            let why = [Refusal::OutOfMemory, Refusal::CannotSave, Refusal::Loading, Refusal::Replica];
            NetFault::RedisRefuses { why: draw.pick(&why), for_us }
        }
        15 => NetFault::StoreClockJump { by_us: draw_jump(draw, options.ttl_us) },
        16 => NetFault::Twin { worker },
        _ if draw.chance(300) => NetFault::Abort { batch },
        _ => NetFault::Hold { batch, for_us },
    }
}
