//! Mistakes that a store might make: put between core and model, as in [`crate::planted`].

use fencepost_core::StoreTime;
use fencepost_core::store::{Record, Recorded, Recover, RenewReply, StoreReply, StoreRequest, Verdict};
use fencepost_model::history::{Event, OutcomeStatus, RecordedWhy};
use fencepost_model::store::ModelStore;

use crate::planted::PlantedBug;

/// Those that a search can be told to make.
pub const MISTAKES: [PlantedBug; 7] = [
    PlantedBug::NoFence,
    PlantedBug::FenceForGroup,
    PlantedBug::NoSettle,
    PlantedBug::SettleLeavesNumberOpen,
    PlantedBug::SeenCountIgnored,
    PlantedBug::LeaseStateIgnored,
    PlantedBug::GiveBackForgotten,
];

/// Does a request; what the checkers are told besides.
pub(super) fn apply(
    mistake: Option<PlantedBug>,
    store: &mut ModelStore,
    now: StoreTime,
    request: &StoreRequest,
) -> (StoreReply, Vec<Event>) {
    let reply = match (mistake, request) {
        (Some(PlantedBug::NoFence), StoreRequest::Record(record)) => return unfenced(store, now, record),
        (Some(PlantedBug::FenceForGroup), StoreRequest::Record(record)) => match store.clone().apply(now, request) {
            StoreReply::Record(verdicts) if verdicts.contains(&Verdict::Fenced) => {
                StoreReply::Record(vec![Verdict::Fenced; record.items.len()])
            }
            _ => store.apply(now, request),
        },
        (Some(PlantedBug::NoSettle), StoreRequest::SettleClaim { .. }) => StoreReply::SettleClaim(Vec::new()),
        (Some(PlantedBug::SettleLeavesNumberOpen), StoreRequest::SettleClaim { .. }) => {
            store.clone().apply(now, request)
        }
        (Some(PlantedBug::GiveBackForgotten), StoreRequest::GiveBack { .. }) => StoreReply::GiveBack,
        (Some(PlantedBug::SeenCountIgnored), StoreRequest::Recover(recover)) => unseen(store, now, recover),
        (Some(PlantedBug::LeaseStateIgnored), StoreRequest::Renew { .. }) => match store.apply(now, request) {
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
