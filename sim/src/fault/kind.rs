//! Each kind of fault, in each of its forms, has a mark of its own: a sweep must have seen all of them strike.

use super::{Again, Away, Fault, Server, Way, WitnessLoss};
use crate::coverage::Mark;

impl Fault {
    /// Counts those of its kind and form that struck.
    pub const fn mark(&self) -> Mark {
        match *self {
            Self::LoseReplies { server: Server::Store, .. } => Mark::StruckLoseReplies,
            Self::LoseReplies { server: Server::SecondWitness, .. } => Mark::StruckLoseWitnessReplies,
            Self::Delay { server: Server::Store, .. } => Mark::StruckDelay,
            Self::Delay { server: Server::SecondWitness, .. } => Mark::StruckDelayToWitness,
            Self::Duplicate { server: Server::Store, .. } => Mark::StruckDuplicate,
            Self::Duplicate { server: Server::SecondWitness, .. } => Mark::StruckDuplicateToWitness,
            Self::CutStore { way: Way::Both, loud: false, .. } => Mark::StruckCutStore,
            Self::CutStore { way: Way::Both, loud: true, .. } => Mark::StruckCutStoreLoud,
            Self::CutStore { way: Way::Requests, loud: false, .. } => Mark::StruckCutStoreRequests,
            Self::CutStore { way: Way::Requests, loud: true, .. } => Mark::StruckCutStoreRequestsLoud,
            Self::CutStore { way: Way::Replies, loud: false, .. } => Mark::StruckCutStoreReplies,
            Self::CutStore { way: Way::Replies, loud: true, .. } => Mark::StruckCutStoreRepliesLoud,
            Self::CutWitness { way: Way::Both, .. } => Mark::StruckCutWitness,
            Self::CutWitness { way: Way::Requests, .. } => Mark::StruckCutWitnessRequests,
            Self::CutWitness { way: Way::Replies, .. } => Mark::StruckCutWitnessReplies,
            Self::Pause { .. } => Mark::StruckPause,
            Self::Crash { reported: false, .. } => Mark::StruckCrash,
            Self::Crash { reported: true, .. } => Mark::StruckCrashReported,
            Self::CrashAt { .. } => Mark::StruckCrashAt,
            Self::ClockRate { .. } => Mark::StruckClockRate,
            Self::Twin { .. } => Mark::StruckTwin,
            Self::Stop { .. } => Mark::StruckStop,
            Self::StoreAway { how: Away::Refuses, .. } => Mark::StruckStoreRefuses,
            Self::StoreAway { how: Away::Stalls, .. } => Mark::StruckStoreStalls,
            Self::StoreRestart { .. } => Mark::StruckStoreRestart,
            Self::StoreClockRate { .. } => Mark::StruckStoreClockRate,
            Self::StoreClockJump { by_us: 0.. } => Mark::StruckStoreClockForward,
            Self::StoreClockJump { .. } => Mark::StruckStoreClockBack,
            Self::Witness(WitnessLoss::Flush) => Mark::StruckWitnessFlush,
            Self::Witness(WitnessLoss::RestartEmpty) => Mark::StruckWitnessRestartEmpty,
            Self::Witness(WitnessLoss::RestartWithData) => Mark::StruckWitnessRestartWithData,
            Self::WitnessAway { how: Away::Refuses, .. } => Mark::StruckWitnessRefuses,
            Self::WitnessAway { how: Away::Stalls, .. } => Mark::StruckWitnessStalls,
            Self::WitnessClockJump { by_us: 0.. } => Mark::StruckWitnessClockForward,
            Self::WitnessClockJump { .. } => Mark::StruckWitnessClockBack,
            Self::WitnessLoop { keeps_data: false, .. } => Mark::StruckWitnessLoopEmpty,
            Self::WitnessLoop { keeps_data: true, .. } => Mark::StruckWitnessLoopWithData,
            Self::Evict { .. } => Mark::StruckEvict,
            Self::Failover { .. } => Mark::StruckFailover,
            Self::Hold { .. } => Mark::StruckHold,
            Self::Append { .. } => Mark::StruckAppend,
            Self::AppendCutOff { .. } => Mark::StruckAppendCutOff,
            Self::Abort { .. } => Mark::StruckAbort,
            Self::Retry { rows: Again::Failed, .. } => Mark::StruckRetryFailed,
            Self::Retry { rows: Again::Line(_), .. } => Mark::StruckRetryLine,
            Self::Purge { .. } => Mark::StruckPurge,
        }
    }
}
