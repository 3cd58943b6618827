//! What a sweep of level 2 has seen.

use crate::coverage::{Counts, marks};

/// What runs of this level have seen.
pub type NetCoverage = Counts<NetMark>;

marks! {
    NetMark:
    /// Runs.
    Runs,
    /// Seconds of simulated time.
    SimulatedSeconds,
    /// Messages on the network.
    Messages,
    /// Rows submitted.
    Rows,
    /// Handlers started.
    RunsStarted,
    /// Rows of which more than one run was started.
    RowsRunAgain,
    /// Store requests that arrived.
    StoreRequests,
    /// Requests that Redis did.
    RedisRequests,
    /// Faults that did something while a batch was open.
    FaultsOnWork,
    /// Faults that hit nothing.
    FaultsOnNothing,
    /// A process was killed.
    Kills,
    /// Killed with a claim under way.
    KilledWithClaim,
    /// Killed with a group of outcomes under way.
    KilledWithRecord,
    /// A row killed its process.
    KilledByRow,
    /// A process stood still for longer than its ttl.
    PausedBeyondTtl,
    /// A process was told to stop, and left.
    LeftStopped,
    /// R5: a process left since its name is in use.
    NameInUse,
    /// A store request was done after its process had died.
    LateWrite,
    /// A store request was done after whoever asked had stopped waiting.
    LateForAsker,
    /// The store hung up instead of answering, after it had acted.
    ReplyLost,
    /// The driver was told that a request was not done.
    ToldNotDone,
    /// The driver was told that a request's end is unknown.
    ToldUnknown,
    /// A request waited for a connection across a cut.
    ConnectedThroughCut,
    /// The store was restarted while rows ran.
    StoreRestarted,
    /// The store stood still while rows ran.
    StorePaused,
    /// A link to the store was cut one way only.
    StoreCutOneWay,
    /// The network lost or delayed messages of everybody.
    BadNetwork,
    /// Redis was restarted with nothing.
    RedisRestartedEmpty,
    /// Redis was restarted with its data.
    RedisRestartedWithData,
    /// Redis' connections were closed.
    RedisHungUp,
    /// Redis refused a request.
    RedisRefused,
    /// Redis was sent a script's text, since it did not know its hash.
    ScriptSent,
    /// A liveness request was answered.
    WitnessAnswered,
    /// A liveness request got no answer.
    WitnessSilent,
    /// A liveness request that Redis did got no answer.
    WitnessAnswerLost,
    /// A worker reported that Redis does not answer.
    WitnessTroubleTold,
    /// And that it answers again.
    WitnessBackTold,
    /// R2: Redis vouched for nobody, being young.
    YoungRedis,
    /// R2: a heartbeat delayed a recovery.
    HeartbeatPresent,
    /// A handler answered without waiting.
    AnsweredAtOnce,
    /// A worker heard of a change.
    ChangeHeard,
    /// S7: completion calls made.
    CallsMade,
    /// S7: recorded as delivered, as their worker learned.
    CallDelivered,
    /// O1.
    FencedOutcome,
    /// O1.
    RecordedBefore,
    /// C2: a settled claim had taken spans.
    SettledWithGrants,
    /// L4: a licence ran out.
    Lapse,
    /// L6: a living worker's lease was declared dead.
    LeaseEndedAlive,
    /// R2: a lease judged after a second look.
    JudgedLapsed,
    /// R1: a lease judged on a known death.
    JudgedDied,
    /// R5.
    TakenOver,
    /// R5: a second process was started under a name.
    Twins,
    /// R3: spans freed by recovery.
    RecoveredSpan,
    /// P2.
    PoisonFailed,
    /// O6.
    TimedOutRow,
    /// S2: abort while rows ran.
    AbortWhileRunning,
    /// S3: hold while rows ran.
    HoldWhileRunning,
    /// After all faults had stopped, Redis refused for ever.
    RedisRefusesForEver,
    /// It stood still for ever.
    RedisPausedForEver,
    /// It was down for ever.
    RedisDownForEver,
    /// It restarted empty again and again, for ever.
    RedisLoopsForEver,
    /// Whole workers were cut off from it for ever.
    RedisCutForEver,
    /// Batches that ended after all faults had stopped.
    EndedInLiveness,
}
