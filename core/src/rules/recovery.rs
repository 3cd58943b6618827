//! R: recovery.

use std::time::Duration;

use crate::ids::LeaseId;
use crate::rules::lease::LeaseState;
use crate::store::{EndCause, LeaseView, ProcessIdentity};
use crate::time::{Instant, StoreTime};

/// What a machine says of a process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessState {
    /// A process of that id and start time runs (stopped ones too).
    Running,
    /// None does.
    Gone,
    /// This machine cannot tell.
    Unknown,
}

/// R1: whether a death is known: the judge is on the lease's own machine and finds no such process.
pub fn r1_death_known(judge_machine: &str, process: Option<&ProcessIdentity>, state: ProcessState) -> bool {
    process.is_some_and(|process| process.machine == judge_machine) && state == ProcessState::Gone
}

/// R2: how long a lease must be seen unchanged: its own renewal interval and a margin. The margin covers a store that was
/// away just then, for so short a time that it fell between two looks (up to half an interval), the time until the worker
/// tries again (an eighth of the ttl, L2), and clocks of unequal rates.
pub fn r2_watch_for(renew: Duration, ttl: Duration) -> Duration {
    renew + ttl * 3 / 8
}

/// R2: how late a renewal is before its lease is watched closely.
pub fn r2_margin(ttl: Duration) -> Duration {
    ttl / 8
}

/// R2: looks never lie closer together than this.
pub const LOOK_EVERY_MIN: Duration = Duration::from_millis(20);

/// R2: how far looks lie apart while a lease is watched: several per interval.
pub fn r2_look_every(renew: Duration) -> Duration {
    (renew / 4).max(LOOK_EVERY_MIN)
}

/// R2: a lease whose renewal is late is watched closely, even before it is past its time. `None`: it is late already;
/// else how long until it would be.
pub fn r2_late_in(lease: &LeaseView, now: StoreTime) -> Option<Duration> {
    let late_at = lease.renew + r2_margin(lease.ttl);
    let left = lease.expires_at.since(now);
    let since_renewal = lease.ttl.saturating_sub(left);
    if since_renewal >= late_at { None } else { Some(late_at - since_renewal) }
}

/// R2: how long the second witness may take to answer: less than a look stays fresh (R3), else a silent witness would put
/// recovery off for ever.
pub fn r2_witness_limit(renew: Duration, request_timeout: Duration) -> Duration {
    request_timeout.min(r2_look_every(renew))
}

/// R2: what the second witness says of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// It was up, with its data, for longer than a ttl, and the heartbeat is there.
    Present,
    /// The same, and the heartbeat is gone.
    Absent,
    /// It cannot vouch (silent, young, wiped, looping), or there is none.
    NoWitness,
}

/// R2: whether a lease past its time may be declared dead as far as the second witness goes: a heartbeat delays it, until
/// the lease is a whole ttl past its time.
pub fn r2_heartbeat_allows(heartbeat: Heartbeat, lease: &LeaseView, now: StoreTime) -> bool {
    heartbeat != Heartbeat::Present || now.since(lease.expires_at) >= lease.ttl
}

/// R2: whether the lease is past its time by the store's clock.
pub fn r2_past_its_time(lease: &LeaseView, now: StoreTime) -> bool {
    now >= lease.expires_at
}

/// R2: a lease further ahead than its own ttl is cut back by whoever sees it.
pub fn r2_too_far_ahead(lease: &LeaseView, now: StoreTime) -> bool {
    lease.expires_at.since(now) > lease.ttl
}

/// R2: a judge's own watch over one lease: since when it has been seen unchanged, on the judge's monotonic clock.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct SecondLook {
    /// Which lease.
    pub lease: LeaseId,
    renewals: u64,
    unchanged_since: Instant,
    looked_at: Instant,
}

impl SecondLook {
    /// Starts with the first look; `sent_at` is when it was asked for, `now` when it was answered.
    pub fn begin(lease: &LeaseView, sent_at: Instant, now: Instant) -> Self {
        Self { lease: lease.lease, renewals: lease.renewals, unchanged_since: now, looked_at: sent_at }
    }

    /// One more look that the store answered. `sent_at` is when it was asked for: what it shows is at least that new.
    /// Looks too far apart, or a renewal seen, start the count again.
    pub fn look(&mut self, lease: &LeaseView, sent_at: Instant, now: Instant) {
        let gap_max = r2_look_every(lease.renew) * 2;
        if lease.renewals != self.renewals || sent_at.since(self.looked_at) > gap_max {
            *self = Self::begin(lease, sent_at, now);
        } else {
            self.looked_at = sent_at;
        }
    }

    /// Whether the lease was seen unchanged for long enough, by looks that the store answered.
    pub fn complete(&self, lease: &LeaseView, sent_at: Instant) -> bool {
        debug_assert_eq!(self.lease, lease.lease);
        sent_at.since(self.unchanged_since) >= r2_watch_for(lease.renew, lease.ttl)
    }

    /// The count of renewals that the act is conditional on (R3).
    pub fn renewals(&self) -> u64 {
        self.renewals
    }
}

/// R3: the act takes effect only on a lease that is live and at the count that was seen.
pub fn r3_may_act(state: LeaseState, renewals: u64, seen_renewals: u64) -> bool {
    state == LeaseState::Live && renewals == seen_renewals
}

/// R3: an act on silence takes effect only while what was seen is fresh: within half a renewal interval of the look, by
/// the store's clock. An act that was held up with the store for longer would be judged by a time in which nobody could
/// renew. A known death does not grow old.
pub fn r3_still_fresh(cause: EndCause, seen_at: StoreTime, now: StoreTime, renew: Duration) -> bool {
    match cause {
        EndCause::Died => true,
        EndCause::Lapsed | EndCause::TakenOver => {
            now >= seen_at && now.since(seen_at) <= (r2_look_every(renew) * 2).max(FRESH_MIN)
        }
    }
}

/// R3: an act is fresh for at least so long, since a store that is merely busy takes as long.
const FRESH_MIN: Duration = Duration::from_millis(250);

/// R4: the bound on recovery of a dead worker's rows while the store answers: `ttl + scan`, one renewal interval more
/// where nobody had watched, and the slack of looks and margins.
pub fn r4_bound(ttl: Duration, renew: Duration, scan: Duration, watched: bool, slack: Duration) -> Duration {
    let newcomer = if watched { Duration::ZERO } else { renew };
    ttl + scan + newcomer + r2_look_every(renew) * 2 + slack
}

/// R5: what a newcomer does about a live lease under its stable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameHeld {
    /// The holder is dead for certain: take over now.
    TakeOverDead,
    /// The second look is complete: take over.
    TakeOverSilent,
    /// Go on looking.
    Watch,
    /// The holder renewed while it was watched: the name is in use.
    InUse,
}

/// R5: decides about a live lease under the same stable name.
pub fn r5_name_held(
    death_known: bool,
    past_its_time: bool,
    look_complete: bool,
    renewed_while_watched: bool,
) -> NameHeld {
    match (death_known, renewed_while_watched, past_its_time && look_complete) {
        (true, _, _) => NameHeld::TakeOverDead,
        (false, true, _) => NameHeld::InUse,
        (false, false, true) => NameHeld::TakeOverSilent,
        (false, false, false) => NameHeld::Watch,
    }
}
