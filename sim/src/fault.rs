//! Faults as plain data; [`draw_faults`] draws them.

mod draw;
mod kind;

use serde::{Deserialize, Serialize};

pub use self::draw::draw_faults;
pub(crate) use self::draw::{draw_jump, draw_outage};

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

/// How a worker that stays broken is cut off from the store.
pub(crate) const WAYS_FOR_EVER: [Way; 3] = [Way::Both, Way::Requests, Way::Replies];

/// How a server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Away {
    /// Requests are refused at once: they did not happen and will not.
    Refuses,
    /// Requests wait, and are done when it is back.
    Stalls,
}

/// A server that workers talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Server {
    /// The store.
    Store,
    /// The second witness.
    SecondWitness,
}

/// Which rows an operator's retry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Again {
    /// All that failed.
    Failed,
    /// One line, taken modulo the batch's rows, whatever its outcome.
    Line(u8),
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
    /// The next requests of this worker to arrive are done, their replies lost.
    LoseReplies {
        /// Whose.
        worker: u8,
        /// To which server.
        server: Server,
        /// How many.
        count: u8,
    },
    /// The next requests that this worker sends arrive so much later, so that later ones overtake them.
    Delay {
        /// Whose.
        worker: u8,
        /// To which server.
        server: Server,
        /// How many.
        count: u8,
        /// By how much.
        by_us: u64,
    },
    /// The next requests that this worker sends arrive a second time, so much later.
    Duplicate {
        /// Whose.
        worker: u8,
        /// To which server.
        server: Server,
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
        /// Which way.
        way: Way,
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
    /// A process ends just before it performs one of its next effects: before what comes, after what came.
    CrashAt {
        /// Whose.
        worker: u8,
        /// So many effects from now on are still performed.
        effects: u16,
        /// When it is started again, if it is.
        restart_after_us: Option<u64>,
    },
    /// A process's clock goes on at another rate.
    ClockRate {
        /// Whose.
        worker: u8,
        /// In millionths of true time.
        millionths: u32,
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
    /// The store's process ends and is started again: what is under way is lost, what is done stays.
    StoreRestart {
        /// How long it is down.
        for_us: u64,
    },
    /// The store's clock goes on at another rate.
    StoreClockRate {
        /// In millionths of true time.
        millionths: u32,
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
    /// The second witness's clock is stepped, by which its keys expire.
    WitnessClockJump {
        /// By so much, either way.
        by_us: i64,
    },
    /// The second witness restarts again and again.
    WitnessLoop {
        /// How many times.
        times: u8,
        /// How long from one to the next.
        every_us: u64,
        /// It has its data each time.
        keeps_data: bool,
    },
    /// The second witness evicts the heartbeats of a worker.
    Evict {
        /// Whose.
        worker: u8,
    },
    /// A replica takes over as second witness, with the data of a while ago.
    Failover {
        /// How old its copy is.
        behind_us: u64,
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
    /// S3: somebody begins to append rows to a batch, and is never heard of again.
    AppendCutOff {
        /// To which.
        batch: u8,
        /// How many rows were stored.
        rows: u8,
    },
    /// S2: an operator aborts a batch.
    Abort {
        /// Which.
        batch: u8,
    },
    /// S5: an operator has rows of a batch run again.
    Retry {
        /// Which.
        batch: u8,
        /// Which rows.
        rows: Again,
    },
    /// S6: an operator purges a batch, if it has ended.
    Purge {
        /// Which.
        batch: u8,
    },
}

impl Fault {
    /// An operator's doing, which means something without an open batch, too.
    pub fn is_for_ended_batches(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Purge { .. })
    }

    /// It befalls the second witness, or the way there.
    pub fn is_of_witness(&self) -> bool {
        match self {
            Self::LoseReplies { server, .. } | Self::Delay { server, .. } | Self::Duplicate { server, .. } => {
                *server == Server::SecondWitness
            }
            Self::CutWitness { .. }
            | Self::Witness(_)
            | Self::WitnessAway { .. }
            | Self::WitnessClockJump { .. }
            | Self::WitnessLoop { .. }
            | Self::Evict { .. }
            | Self::Failover { .. } => true,
            _ => false,
        }
    }

    /// Of a fault that goes on for a while: for how long.
    fn for_us_mut(&mut self) -> Option<&mut u64> {
        match self {
            Self::CutStore { for_us, .. }
            | Self::CutWitness { for_us, .. }
            | Self::Pause { for_us, .. }
            | Self::StoreAway { for_us, .. }
            | Self::StoreRestart { for_us }
            | Self::WitnessAway { for_us, .. }
            | Self::Hold { for_us, .. }
            | Self::Append { for_us, .. } => Some(for_us),
            _ => None,
        }
    }

    /// How long its doing lasts.
    pub fn lasts_us(&self) -> u64 {
        let mut fault = *self;
        if let Some(for_us) = fault.for_us_mut() {
            return *for_us;
        }
        match *self {
            Self::Crash { restart_after_us, .. }
            | Self::CrashAt { restart_after_us, .. }
            | Self::Stop { restart_after_us, .. } => restart_after_us.unwrap_or(0),
            Self::WitnessLoop { times, every_us, .. } => u64::from(times) * every_us,
            _ => 0,
        }
    }

    /// Milder forms of the same fault, mildest first: for shrinking.
    pub fn milder(&self) -> Vec<Self> {
        let halves = |us: u64| [us / 8, us / 2, us - us / 4].into_iter().filter(move |less| *less < us && *less > 0);
        let mut milder = *self;
        if let Some(for_us) = milder.for_us_mut().map(|for_us| *for_us) {
            let with = |less: u64| {
                let mut fault = *self;
                fault.for_us_mut().into_iter().for_each(|for_us| *for_us = less);
                fault
            };
            return halves(for_us).map(with).collect();
        }
        match *self {
            Self::LoseReplies { worker, server, count } if count > 1 => {
                vec![Self::LoseReplies { worker, server, count: count - 1 }]
            }
            Self::Delay { worker, server, by_us, .. } => {
                halves(by_us).map(|by_us| Self::Delay { worker, server, count: 1, by_us }).collect()
            }
            Self::Duplicate { worker, server, after_us, .. } => {
                halves(after_us).map(|after_us| Self::Duplicate { worker, server, count: 1, after_us }).collect()
            }
            Self::WitnessLoop { times, every_us, keeps_data } if times > 1 => {
                vec![Self::WitnessLoop { times: 1, every_us, keeps_data }]
            }
            Self::CrashAt { worker, effects, restart_after_us } if effects > 0 => {
                vec![Self::CrashAt { worker, effects: effects / 2, restart_after_us }]
            }
            Self::StoreClockJump { by_us } => smaller(by_us).map(|by_us| Self::StoreClockJump { by_us }).collect(),
            Self::WitnessClockJump { by_us } => smaller(by_us).map(|by_us| Self::WitnessClockJump { by_us }).collect(),
            Self::Failover { behind_us } => halves(behind_us).map(|behind_us| Self::Failover { behind_us }).collect(),
            _ => Vec::new(),
        }
    }
}

/// Smaller steps of a clock the same way.
fn smaller(by_us: i64) -> impl Iterator<Item = i64> {
    [by_us / 8, by_us / 2].into_iter().filter(|less| *less != 0)
}
