//! Mistakes that a store might make, most of them put between core and model. The planted bugs ([`crate::planted`]) are more, and need
//! more than these scopes: that one fenced line gives the verdict for its whole group (O1), say, takes two batches in one group, and
//! here there is one.

use fencepost_core::StoreTime;
use fencepost_core::store::{Record, Recorded, Recover, RenewReply, StoreReply, StoreRequest, Verdict};
use fencepost_model::history::{Event, OutcomeStatus, RecordedWhy};
use fencepost_model::store::{Mistake as StoreMistake, ModelStore};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// O1: an answer is recorded although the line is out of its token's hands.
    NoFence,
    /// C2: what a lost claim took is never told.
    NoSettle,
    /// C2: settling leaves the claim's number open.
    SettleLeavesNumberOpen,
    /// R3: the act does not ask whether the lease was renewed since.
    SeenCountIgnored,
    /// L2: a dead lease is renewed as if it lived.
    LeaseStateIgnored,
    /// L4: lines given back stay where they are.
    GiveBackForgotten,
    /// S6: a purge does not ask what may still run.
    PurgeAsksForNothing,
}

impl Mistake {
    /// A scope that shows it.
    pub const fn scope(self) -> &'static str {
        match self {
            Self::NoFence | Self::LeaseStateIgnored => "recovery",
            Self::SeenCountIgnored => "crash",
            Self::NoSettle | Self::SettleLeavesNumberOpen => "late",
            Self::GiveBackForgotten => "lapse",
            Self::PurgeAsksForNothing => "abort",
        }
    }
}

/// The store, with its mistake if it is one of the model's own.
pub(super) fn store(mistake: Option<Mistake>) -> ModelStore {
    match mistake {
        Some(Mistake::PurgeAsksForNothing) => ModelStore::new().with_mistake(StoreMistake::PurgeAsksForNothing),
        _ => ModelStore::new(),
    }
}

/// Those that a search can be told to make.
pub const MISTAKES: [Mistake; 7] = [
    Mistake::NoFence,
    Mistake::PurgeAsksForNothing,
    Mistake::NoSettle,
    Mistake::SettleLeavesNumberOpen,
    Mistake::SeenCountIgnored,
    Mistake::LeaseStateIgnored,
    Mistake::GiveBackForgotten,
];

/// Does a request; what the checkers are told besides.
pub(super) fn apply(
    mistake: Option<Mistake>,
    store: &mut ModelStore,
    now: StoreTime,
    request: &StoreRequest,
) -> (StoreReply, Vec<Event>) {
    let reply = match (mistake, request) {
        (Some(Mistake::NoFence), StoreRequest::Record(record)) => return unfenced(store, now, record),
        (Some(Mistake::NoSettle), StoreRequest::SettleClaim { .. }) => StoreReply::SettleClaim(Vec::new(), Vec::new()),
        (Some(Mistake::SettleLeavesNumberOpen), StoreRequest::SettleClaim { .. }) => store.clone().apply(now, request),
        (Some(Mistake::GiveBackForgotten), StoreRequest::GiveBack { .. }) => StoreReply::GiveBack,
        (Some(Mistake::SeenCountIgnored), StoreRequest::Recover(recover)) => unseen(store, now, recover),
        (Some(Mistake::LeaseStateIgnored), StoreRequest::Renew { .. }) => match store.apply(now, request) {
            StoreReply::Renew(RenewReply::Refused { .. }) => {
                StoreReply::Renew(RenewReply::Renewed { closed: Vec::new() })
            }
            reply => reply,
        },
        (_, request) => store.apply(now, request),
    };
    (reply, Vec::new())
}

/// Every fenced answer is told as if it had been recorded.
fn unfenced(store: &mut ModelStore, now: StoreTime, record: &Record) -> (StoreReply, Vec<Event>) {
    let reply = store.apply(now, &StoreRequest::Record(record.clone()));
    let StoreReply::Record(mut verdicts) = reply else { return (reply, Vec::new()) };
    let mut events = Vec::new();
    for (item, verdict) in record.items.iter().zip(&mut verdicts) {
        if *verdict == Verdict::Fenced {
            *verdict = Verdict::Recorded(Recorded::Success);
            events.push(Event::Recorded {
                batch: item.batch,
                line: item.line,
                token: item.token,
                lease: record.lease,
                status: OutcomeStatus::Success,
                attempts: 1,
                crashes: 0,
                why: RecordedWhy::Answered,
            });
        }
    }
    (StoreReply::Record(verdicts), events)
}

/// The lease is ended whatever was seen of it.
fn unseen(store: &mut ModelStore, now: StoreTime, recover: &Recover) -> StoreReply {
    let leases = match store.apply(now, &StoreRequest::Look) {
        StoreReply::Look(look) => look.leases,
        _ => Vec::new(),
    };
    let seen = leases.iter().find(|view| view.lease == recover.lease);
    let renewals = seen.map_or(recover.renewals, |view| view.renewals);
    store.apply(now, &StoreRequest::Recover(Recover { renewals, seen_at: now, ..recover.clone() }))
}
