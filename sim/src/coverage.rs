//! What a sweep has seen: a simulator that never gets into a situation proves nothing about it.

use std::fmt;
use std::marker::PhantomData;

macro_rules! marks {
    ($of:ident: $($(#[$doc:meta])* $name:ident,)*) => {
        /// A situation worth counting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $of { $($(#[$doc])* $name,)* }

        impl $crate::coverage::Marks for $of {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            fn place(self) -> usize {
                self as usize
            }
        }
    };
}
#[cfg(madsim)]
pub(crate) use marks;

/// Situations worth counting.
pub trait Marks: Copy + fmt::Debug + 'static {
    /// All of them.
    const ALL: &'static [Self];
    /// Its place among them.
    fn place(self) -> usize;
}

/// What schedules of this level have seen.
pub type Coverage = Counts<Mark>;

marks! {
    Mark:
    /// Runs.
    Schedules,
    /// Events of all runs.
    Events,
    /// Seconds of simulated time.
    SimulatedSeconds,
    /// Rows submitted.
    Rows,
    /// Handlers started.
    RunsStarted,
    /// S7: completion calls made.
    CallsMade,
    /// S7: made again, after a failure or a death.
    CallsMadeAgain,
    /// S7: recorded as delivered, as their worker learned.
    CallDelivered,
    /// S7: what came of a call was dropped.
    CallFenced,
    /// S7: a crash in the midst of a call.
    CrashWithCall,
    /// Rows of which more than one run was started.
    RowsRunAgain,
    /// Faults that did something while a batch was open.
    FaultsOnWork,
    /// Faults that hit nothing.
    FaultsOnNothing,
    /// A process crashed by a fault.
    Crashes,
    /// A process crashed with a claim under way.
    CrashWithClaim,
    /// A process crashed with a group of outcomes under way.
    CrashWithRecord,
    /// A request was done after its process had died.
    LateWrite,
    /// A request arrived a second time.
    DuplicateArrived,
    /// A reply was lost after the store had acted.
    ReplyLost,
    /// C2: a settled claim had taken spans.
    SettledWithGrants,
    /// C2: a late claim found its number closed.
    ClaimClosed,
    /// O1.
    FencedOutcome,
    /// O1.
    RecordedBefore,
    /// L4: a licence ran out.
    Lapse,
    /// L4: lines were given back after a lapse, before another renewal was granted.
    GiveBackAfterLapse,
    /// L6: a living worker's lease was declared dead.
    LeaseEndedAlive,
    /// R3: spans freed by recovery.
    RecoveredSpan,
    /// R2: a lease judged after a second look.
    JudgedLapsed,
    /// R1: a lease judged on a known death.
    JudgedDied,
    /// R5.
    TakenOver,
    /// R5: a worker left since its name is in use.
    NameInUse,
    /// R5: it left although no other process of that name lived: a dead one's renewal had still been under way.
    NameInUseByTheDead,
    /// R3: a second judge came too late.
    Spared,
    /// P2.
    SuspectHalved,
    /// P2.
    GrantedAlone,
    /// P2.
    CrashCounted,
    /// P1.
    CrashWithdrawn,
    /// P2.
    PoisonFailed,
    /// A row killed its process.
    KilledByRow,
    /// O5.
    RetryGivenBack,
    /// O5.
    RetryExhausted,
    /// O6.
    TimedOutRow,
    /// A handler that did not end in time was given up.
    Abandoned,
    /// The store's clock was stepped while a lease was live.
    ClockJumpWhileLeased,
    /// R2: a lease too far ahead was cut back.
    CutBack,
    /// O4: a recovery ended a batch.
    BatchEndedByRecovery,
    /// S2: abort while rows ran.
    AbortWhileRunning,
    /// S3: hold while rows ran.
    HoldWhileRunning,
    /// S3: rows were appended.
    Appended,
    /// S3: the batch had ended before an append did, or another append had taken over.
    AppendRefused,
    /// S1: a lease was dropped while it still held spans.
    DroppedWithSpans,
    /// S1: a stopped worker left.
    LeftStopped,
    /// The second witness lost its data while a lease was live.
    WitnessLostData,
    /// R2: a judge was told of a heartbeat, which delays a recovery.
    HeartbeatPresent,
    /// A process stood still for longer than its ttl.
    PausedBeyondTtl,
    /// The store was away while rows ran.
    StoreAwayWhileRunning,
    /// A process crashed between two effects of one input.
    CrashBetweenEffects,
    /// A process's clock went on at another rate.
    ClockRateChanged,
    /// A worker joined later.
    Joined,
    /// A message was lost by chance.
    MessageLost,
    /// The store's process was restarted.
    StoreRestarted,
    /// A restart of the store took a reply along.
    ReplyLostByRestart,
    /// A restart of the store broke a request that waited for it.
    StalledBrokenByRestart,
    /// The second witness was wiped while rows ran.
    WitnessWipedWhileRunning,
    /// The second witness's clock was stepped.
    WitnessClockJump,
    /// The second witness evicted a living worker's heartbeat.
    BeatEvicted,
    /// A replica with older data took over as second witness.
    WitnessFailedOver,
    /// S2: a worker was told of an abort while it ran rows of that batch.
    ToldOfAbort,
    /// S3: an append was cut off.
    AppendCutOff,
    /// S5: an operator had rows run again.
    RowsRetried,
    /// S5: which opened an ended batch again.
    Reopened,
    /// S6: a batch was purged.
    Purged,
    /// S6: a purge was refused since something of the batch might still run.
    PurgeBusy,
    /// S6: an answer came for a batch that was purged.
    FencedAfterPurge,
    /// After all faults had stopped, the second witness refused for ever.
    WitnessRefusesForEver,
    /// It stood still for ever.
    WitnessStallsForEver,
    /// It restarted empty again and again, for ever.
    WitnessLoopsForEver,
    /// Whole workers were cut off from it for ever.
    WitnessCutForEver,
    /// A fault on work: replies of the store were to be lost.
    StruckLoseReplies,
    /// A fault on work: replies of the second witness were to be lost.
    StruckLoseWitnessReplies,
    /// A fault on work: requests to the store were delayed.
    StruckDelay,
    /// A fault on work: requests to the second witness were delayed.
    StruckDelayToWitness,
    /// A fault on work: requests to the store were to arrive twice.
    StruckDuplicate,
    /// A fault on work: requests to the second witness were to arrive twice.
    StruckDuplicateToWitness,
    /// A fault on work: a link to the store was cut both ways, in silence.
    StruckCutStore,
    /// A fault on work: the same, and the worker was told.
    StruckCutStoreLoud,
    /// A fault on work: only requests to the store were lost.
    StruckCutStoreRequests,
    /// A fault on work: the same, and the worker was told.
    StruckCutStoreRequestsLoud,
    /// A fault on work: only replies of the store were lost.
    StruckCutStoreReplies,
    /// A fault on work: the same, and the worker was told.
    StruckCutStoreRepliesLoud,
    /// A fault on work: a link to the second witness was cut both ways.
    StruckCutWitness,
    /// A fault on work: only requests to it were lost.
    StruckCutWitnessRequests,
    /// A fault on work: only its replies were lost.
    StruckCutWitnessReplies,
    /// A fault on work: a process stood still.
    StruckPause,
    /// A fault on work: a process died.
    StruckCrash,
    /// A fault on work: a process died, and a supervisor told.
    StruckCrashReported,
    /// A fault on work: a process was to die at an effect.
    StruckCrashAt,
    /// A fault on work: a process got another clock rate.
    StruckClockRate,
    /// A fault on work: a second process in a place.
    StruckTwin,
    /// A fault on work: a process was told to stop.
    StruckStop,
    /// A fault on work: the store refused.
    StruckStoreRefuses,
    /// A fault on work: the store stood still.
    StruckStoreStalls,
    /// A fault on work: the store was restarted.
    StruckStoreRestart,
    /// A fault on work: the store's clock got another rate.
    StruckStoreClockRate,
    /// A fault on work: the store's clock was stepped forward.
    StruckStoreClockForward,
    /// A fault on work: the store's clock was stepped back.
    StruckStoreClockBack,
    /// A fault on work: the second witness was flushed.
    StruckWitnessFlush,
    /// A fault on work: it restarted empty.
    StruckWitnessRestartEmpty,
    /// A fault on work: it restarted with its data.
    StruckWitnessRestartWithData,
    /// A fault on work: it refused.
    StruckWitnessRefuses,
    /// A fault on work: it stood still.
    StruckWitnessStalls,
    /// A fault on work: its clock was stepped forward.
    StruckWitnessClockForward,
    /// A fault on work: its clock was stepped back.
    StruckWitnessClockBack,
    /// A fault on work: it restarted empty again and again.
    StruckWitnessLoopEmpty,
    /// A fault on work: it restarted with its data again and again.
    StruckWitnessLoopWithData,
    /// A fault on work: it evicted a heartbeat.
    StruckEvict,
    /// A fault on work: a replica took over.
    StruckFailover,
    /// A fault on work: a batch was held.
    StruckHold,
    /// A fault on work: rows were staged for an append.
    StruckAppend,
    /// A fault on work: an append was cut off.
    StruckAppendCutOff,
    /// A fault on work: a batch was aborted.
    StruckAbort,
    /// A fault on work: all failed rows were run again.
    StruckRetryFailed,
    /// A fault on work: one line was run again.
    StruckRetryLine,
    /// A fault on work: a batch was purged.
    StruckPurge,
    /// Batches that ended after all faults had stopped.
    EndedInLiveness,
}

/// Counts by mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts<M> {
    counts: Vec<u64>,
    of: PhantomData<M>,
}

impl<M: Marks> Default for Counts<M> {
    fn default() -> Self {
        Self { counts: vec![0; M::ALL.len()], of: PhantomData }
    }
}

impl<M: Marks> Counts<M> {
    /// Counts one.
    pub fn mark(&mut self, mark: M) {
        self.add(mark, 1);
    }

    /// Counts several.
    pub fn add(&mut self, mark: M, count: u64) {
        self.counts[mark.place()] += count;
    }

    /// How often it was seen.
    pub fn count(&self, mark: M) -> u64 {
        self.counts[mark.place()]
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// What was never seen.
    pub fn missing(&self) -> Vec<M> {
        M::ALL.iter().copied().filter(|mark| self.count(*mark) == 0).collect()
    }
}

impl<M: Marks> fmt::Display for Counts<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mark in M::ALL {
            writeln!(f, "{:>14}  {mark:?}", self.count(*mark))?;
        }
        Ok(())
    }
}
