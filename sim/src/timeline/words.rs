//! What happened, in words. Leases and batches stand in them by their ids, for which the page puts names and colours.

use fencepost_core::calls::ClaimCallReply;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::store::{
    Answer, ClaimReply, Grant, Recorded, RecoverReply, RenewReply, StoreFailure, StoreReply, StoreRequest,
    TakeLeaseReply, Verdict,
};
use fencepost_core::worker::{ExitReason, RunAnswer};
use fencepost_core::{BatchId, LineSet};
use fencepost_model::history::{Event as Fact, FreedWhy, LeaseEnd, Link, OutcomeStatus, RecordedWhy};
use serde_json::Value;

use crate::fault::Fault;

/// A span of time, three digits of it.
pub(super) fn duration(us: u64) -> String {
    let (value, unit) = match us {
        0..1000 => return format!("{us} us"),
        1000..1_000_000 => (us as f64 / 1e3, "ms"),
        _ => (us as f64 / 1e6, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// `1 row`, `2 rows`.
pub(super) fn count(number: u64, word: &str) -> String {
    match (number, word) {
        (1, _) => format!("1 {word}"),
        (_, "batch") => format!("{number} batches"),
        _ => format!("{number} {word}s"),
    }
}

/// `row 3`, `rows 3-5, 9`.
pub(super) fn rows(batch: BatchId, lines: &LineSet) -> String {
    let ranges: Vec<String> = lines
        .ranges()
        .iter()
        .map(|range| {
            if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
        })
        .collect();
    let word = if lines.count() == 1 { "row" } else { "rows" };
    format!("{word} {} of {batch}", ranges.join(", "))
}

/// A fault, by its data: new ones need no words of their own here.
pub(super) fn fault(fault: &Fault) -> String {
    let Ok(Value::Object(map)) = serde_json::to_value(fault) else { return format!("{fault:?}") };
    let Some((name, value)) = map.into_iter().next() else { return format!("{fault:?}") };
    let name = name.replace('_', " ").replace("witness", "Redis");
    let value = match value {
        Value::Object(fields) => {
            fields.iter().filter_map(|(name, value)| field(name, value)).collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text.replace('_', " "),
        _ => String::new(),
    };
    if value.is_empty() { name } else { format!("{name}: {value}") }
}

fn field(name: &str, value: &Value) -> Option<String> {
    let words = name.replace('_', " ");
    Some(match (value, words.strip_suffix(" us")) {
        (Value::Null | Value::Bool(false), _) => return None,
        (Value::Bool(true), _) => words,
        (Value::Number(number), Some(words)) => match (number.as_u64(), number.as_i64()) {
            (Some(us), _) => format!("{words} {}", duration(us)),
            (_, Some(us)) => format!("{words} -{}", duration(us.unsigned_abs())),
            _ => format!("{words} {number}"),
        },
        (Value::String(text), _) => text.clone(),
        (other, _) => format!("{words} {other}"),
    })
}

/// What a fact is for the page, and its words; none: it shows otherwise.
pub(super) fn fact(fact: &Fact) -> Option<(&'static str, String)> {
    Some(match fact {
        Fact::LeaseTaken { lease, .. } => ("taken", format!("lease {lease} is taken")),
        Fact::LeaseRenewed { lease, renewals, .. } => {
            ("renew", format!("lease {lease} is renewed, {} so far", count(*renewals, "time")))
        }
        Fact::LeaseEnded { lease, how, by } => {
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            match how {
                LeaseEnd::Dropped => ("dropped", format!("lease {lease} is dropped by its own worker")),
                LeaseEnd::Lapsed => {
                    ("dead", format!("lease {lease} is declared dead{by}: past its time through a second look"))
                }
                LeaseEnd::Died => {
                    ("dead", format!("lease {lease} is declared dead{by}: its process is known to have ended"))
                }
                LeaseEnd::TakenOver => {
                    ("dead", format!("lease {lease} is ended{by}: another process takes over its worker's name"))
                }
            }
        }
        Fact::LeaseCutBack { lease, .. } => ("cutback", format!("lease {lease} lay too far ahead and is cut back")),
        Fact::Claimed { batch, lines, token, from, lease, number, suspicion, alone } => {
            let from = from.map_or_else(|| "fresh ones".to_owned(), |from| format!("free under token {from} before"));
            let suspect = if *suspicion > 0 {
                format!(", suspect: in {}", count((*suspicion).into(), "death"))
            } else {
                String::new()
            };
            let alone = if *alone { ", alone" } else { "" };
            (
                "claim",
                format!(
                    "{lease} claims {} under token {token} by its claim {number} ({from}{suspect}{alone})",
                    rows(*batch, lines)
                ),
            )
        }
        Fact::Freed { why: FreedWhy::Split, .. } => return None,
        Fact::Freed { batch, lines, token, from, why, suspicion, not_before } => {
            let suspect = if *suspicion > 0 {
                format!(", suspect now: in {}", count((*suspicion).into(), "death"))
            } else {
                String::new()
            };
            let later = if not_before.is_some() { ", to be claimed after a while" } else { "" };
            let (kind, why) = match why {
                FreedWhy::GivenBack => ("freed", "given back"),
                FreedWhy::Dropped => ("freed", "free since the lease is dropped"),
                FreedWhy::Retried => ("retried", "free for another try"),
                FreedWhy::TimedOut => ("retried", "timed out, free for another try"),
                FreedWhy::Recovered => ("recovered", "recovered from the dead lease"),
                FreedWhy::Split => return None,
            };
            (kind, format!("{}: {why}; token {from} is void, {token} is new{suspect}{later}", rows(*batch, lines)))
        }
        Fact::Recorded { batch, line, token, lease, status, why, .. } => {
            let (kind, status) = match status {
                OutcomeStatus::Success => ("success", "success"),
                OutcomeStatus::Failed => ("failed", "failed"),
            };
            let why = match why {
                RecordedWhy::Answered => "",
                RecordedWhy::Exhausted => ", no attempt is left",
                RecordedWhy::CrashedTooOften => ", it crashed too often",
            };
            (kind, format!("row {line} of {batch}: {status} is recorded for {lease} under token {token}{why}"))
        }
        Fact::Fenced { batch, line, token, lease } => {
            ("fenced", format!("row {line} of {batch}: the answer of {lease} under token {token} is fenced"))
        }
        Fact::Crashed { batch, line, token, lease } => (
            "crashed",
            format!("row {line} of {batch}: a crash is counted, it ran alone under token {token} with {lease}"),
        ),
        Fact::CrashWithdrawn { batch, line, lease, .. } => {
            ("withdrawn", format!("row {line} of {batch}: {lease} lives and takes the crash back"))
        }
        Fact::BatchLoaded { batch, total, .. } => ("loaded", format!("batch {batch} of {total} rows is submitted")),
        Fact::BatchAppended { batch, lines } => {
            ("appended", format!("rows {}-{} are appended to {batch}", lines.first, lines.last))
        }
        Fact::BatchHeld { batch, held: true } => {
            ("held", format!("batch {batch} is held: nothing more of it is claimed"))
        }
        Fact::BatchHeld { batch, held: false } => ("resumed-batch", format!("batch {batch} is let go")),
        Fact::BatchEnded { batch, status, .. } => ("ended", format!("batch {batch} ends: {status:?}")),
        Fact::BatchAborted { batch, .. } => ("aborted", format!("batch {batch} is aborted")),
        Fact::CompletionCalled { batch, .. } => ("call", format!("a completion call is made for {batch}")),
        Fact::CompletionDelivered { batch, .. } => {
            ("called", format!("the completion call for {batch} is recorded as delivered"))
        }
        Fact::WorkerStarted { .. } => ("start", "the process starts".to_owned()),
        Fact::LeaseChosen { lease, .. } => ("chosen", format!("asks for a lease of its own, {lease}")),
        Fact::HandlerStarted { batch, line, token, .. } => {
            ("run", format!("starts row {line} of {batch} under token {token}"))
        }
        Fact::RowKills { batch, line } => ("poison", format!("row {line} of {batch} is one that kills its worker")),
        Fact::WorkerCrashed { by_row: None, .. } => ("crash", "the process crashes".to_owned()),
        Fact::WorkerCrashed { by_row: Some((batch, line)), .. } => {
            ("crash", format!("the process crashes: row {line} of {batch} kills it"))
        }
        Fact::WorkerStopping { .. } => ("stop", "the process is told to stop".to_owned()),
        Fact::WorkerPaused { .. } => ("pause", "the process stands still".to_owned()),
        Fact::WorkerResumed { .. } => ("resume", "the process goes on".to_owned()),
        Fact::LinkCut { link, .. } => ("cut", format!("trouble on the link to {}", server(*link))),
        Fact::MessageHeldUp { .. } => ("held-up", "a message to the store is held up".into()),
        Fact::MessagesArrived { .. } => ("arrived", "no message to the store is held up any more".into()),
        Fact::LinkHealed { link, .. } => ("healed", format!("the link to {} works again", server(*link))),
        Fact::StoreAway => ("away", "the store is away".to_owned()),
        Fact::StoreBack => ("back", "the store is back".to_owned()),
        Fact::StoreClockJumped { by } => {
            let way = if *by < 0 { "back" } else { "ahead" };
            ("clock", format!("the store's clock is stepped {way} by {}", duration(by.unsigned_abs())))
        }
        Fact::FaultsStopped => ("calm", "from here on nothing more breaks: what is whole must finish".to_owned()),
        Fact::WorkerLeft { .. } | Fact::Tick => return None,
        other => ("other", format!("{other:?}")),
    })
}

pub(super) fn server(link: Link) -> &'static str {
    match link {
        Link::Store => "the store",
        Link::Liveness => "Redis",
    }
}

/// What a request is for the page, and its words.
pub(super) fn request(request: &StoreRequest) -> (&'static str, String) {
    match request {
        StoreRequest::TakeLease(take) => ("take", format!("take lease {}", take.lease)),
        StoreRequest::Renew { lease, .. } => ("renew", format!("renew lease {lease}")),
        StoreRequest::DropLease { lease } => ("drop", format!("drop lease {lease}")),
        StoreRequest::Claim(claim) => {
            ("claim", format!("claim {} for {}, up to {} rows", claim.number, claim.lease, claim.lines_max))
        }
        StoreRequest::SettleClaim { lease, number } => ("settle", format!("settle claim {number} of {lease}")),
        StoreRequest::Record(record) => {
            let answers: Vec<String> = record
                .items
                .iter()
                .map(|item| {
                    let answer = match item.answer {
                        Answer::Success(_) => "success",
                        Answer::Failed(_) => "failed",
                        Answer::Retry { timed_out: true, .. } => "timed out",
                        Answer::Retry { .. } => "try again",
                    };
                    format!("row {} of {} under token {}: {answer}", item.line, item.batch, item.token)
                })
                .collect();
            ("record", format!("record for {}: {}", record.lease, answers.join("; ")))
        }
        StoreRequest::GiveBack { lease, lines } => {
            let lines: Vec<String> = lines.iter().map(|(batch, _, lines)| rows(*batch, lines)).collect();
            ("give", format!("give back for {lease}: {}", lines.join("; ")))
        }
        StoreRequest::Look => ("look", "look at all live leases".to_owned()),
        StoreRequest::Recover(recover) => {
            ("recover", format!("declare {} dead, seen with {} renewals", recover.lease, recover.renewals))
        }
        StoreRequest::CutBack { .. } => ("cutback", "cut back what lies too far ahead".to_owned()),
        StoreRequest::WithdrawCrashes { lease } => ("withdraw", format!("withdraw the crashes of {lease}")),
        StoreRequest::ClaimCall(_) => ("call", "take a completion call".to_owned()),
        StoreRequest::RecordCall(_) => ("call", "record what came of a completion call".to_owned()),
    }
}

/// What a request came to, where no fact tells of it.
pub(super) fn done(asked: &StoreRequest, reply: &StoreReply) -> Option<(&'static str, String)> {
    Some(match (asked, reply) {
        (StoreRequest::Claim(claim), StoreReply::Claim(reply)) => match reply {
            ClaimReply::Granted { grants, .. } if !grants.is_empty() => return None,
            ClaimReply::Granted { suspect_waits: true, .. } => {
                ("ask", format!("{} asks for rows: none, but a suspect row waits for an idle worker", claim.lease))
            }
            ClaimReply::Granted { .. } => ("ask", format!("{} asks for rows: there are none to give", claim.lease)),
            ClaimReply::Closed => {
                ("closed", format!("claim {} of {} is closed: it takes nothing", claim.number, claim.lease))
            }
            ClaimReply::LeaseEnded => {
                ("refused", format!("claim {} of {} is refused: the lease is dead", claim.number, claim.lease))
            }
        },
        (StoreRequest::SettleClaim { lease, number }, StoreReply::SettleClaim(grants, _)) => {
            let taken: Vec<String> = grants.iter().map(grant).collect();
            let taken = if taken.is_empty() { "nothing that it still holds".to_owned() } else { taken.join("; ") };
            ("settled", format!("claim {number} of {lease} is settled: it took {taken}"))
        }
        (StoreRequest::Renew { lease, .. }, StoreReply::Renew(RenewReply::Refused { .. })) => {
            ("refused", format!("renewal of {lease} is refused: the lease is dead"))
        }
        (StoreRequest::TakeLease(take), StoreReply::TakeLease(TakeLeaseReply::NameHeld { holder, .. })) => {
            ("refused", format!("lease {} is not taken: {} has the worker's name", take.lease, holder.lease))
        }
        (StoreRequest::TakeLease(take), StoreReply::TakeLease(TakeLeaseReply::Ended)) => {
            ("refused", format!("lease {} is over already", take.lease))
        }
        (StoreRequest::Look, StoreReply::Look(look)) => {
            let leases: Vec<String> = look.leases.iter().map(|view| view.lease.to_string()).collect();
            ("look", format!("a judge looks at the live leases: {}", list(&leases)))
        }
        (StoreRequest::Recover(recover), StoreReply::Recover(RecoverReply::Spared)) => {
            ("spared", format!("{} is spared: renewed since it was seen, or ended already", recover.lease))
        }
        (StoreRequest::Record(record), StoreReply::Record(verdicts)) => {
            let before = record.items.iter().zip(verdicts).filter(|(_, verdict)| **verdict == Verdict::RecordedBefore);
            let before: Vec<String> = before.map(|(item, _)| format!("row {} of {}", item.line, item.batch)).collect();
            if before.is_empty() {
                return None;
            }
            ("before", format!("recorded before for {}: {}", record.lease, before.join(", ")))
        }
        (_, StoreReply::ClaimCall(ClaimCallReply::Granted { call: Some(grant), .. })) => {
            let key = grant.key;
            ("call", format!("a completion call for {} is taken under token {}", key.batch, key.token))
        }
        (StoreRequest::RecordCall(record), StoreReply::RecordCall(verdict)) => {
            ("call", format!("the end of the completion call for {} is told: {verdict:?}", record.key.batch))
        }
        _ => return None,
    })
}

fn grant(grant: &Grant) -> String {
    let lines: LineSet = grant.rows.iter().map(|row| row.line).collect();
    format!("{} under token {}", rows(grant.batch, &lines), grant.token)
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// What the sender learns when it gets something else than a reply.
pub(super) fn failure(failure: StoreFailure) -> &'static str {
    match failure {
        StoreFailure::NotDone => "is told that it did not happen",
        StoreFailure::Unknown => "is told that nobody knows whether it happened",
    }
}

/// The end of a reply in words.
pub(super) fn reply(reply: &StoreReply) -> String {
    match reply {
        StoreReply::Record(verdicts) => {
            let words = verdicts.iter().map(|verdict| match verdict {
                Verdict::Recorded(Recorded::Success) => "success".to_owned(),
                Verdict::Recorded(Recorded::Failed) => "failed".to_owned(),
                Verdict::Recorded(Recorded::GivenBack) => "to be tried again".to_owned(),
                Verdict::RecordedBefore => "recorded before".to_owned(),
                Verdict::Fenced => "fenced".to_owned(),
            });
            words.collect::<Vec<_>>().join(", ")
        }
        StoreReply::Claim(ClaimReply::Granted { grants, .. }) | StoreReply::SettleClaim(grants, _) => {
            list(&grants.iter().map(grant).collect::<Vec<_>>())
        }
        StoreReply::Renew(RenewReply::Refused { .. }) => "refused".to_owned(),
        StoreReply::Look(look) => count(look.leases.len() as u64, "live lease"),
        StoreReply::Recover(RecoverReply::Recovered { lines, .. }) => format!("{} recovered", count(*lines, "row")),
        StoreReply::Recover(RecoverReply::Spared) => "spared".to_owned(),
        _ => "done".to_owned(),
    }
}

/// What a request to Redis is, and its words.
pub(super) fn witness_request(request: &LivenessRequest) -> (&'static str, String) {
    match request {
        LivenessRequest::Beat { lease, .. } => ("beat", format!("heartbeat of {lease}")),
        LivenessRequest::Publish { lease, .. } => ("publish", format!("running rows of {lease}")),
        LivenessRequest::Leave { lease } => ("leave", format!("{lease} leaves")),
        LivenessRequest::Check { leases, .. } => {
            let leases: Vec<String> = leases.iter().map(ToString::to_string).collect();
            ("check", format!("a judge asks for the heartbeats of {}", list(&leases)))
        }
    }
}

pub(super) fn witness_reply(reply: &LivenessReply) -> String {
    match reply {
        LivenessReply::Done => String::new(),
        LivenessReply::Check { vouches: false, .. } => ": Redis cannot vouch".to_owned(),
        LivenessReply::Check { vouches: true, alive } => {
            format!(": there is one of {}", list(&alive.iter().map(ToString::to_string).collect::<Vec<_>>()))
        }
    }
}

pub(super) fn answer(answer: &RunAnswer) -> &'static str {
    match answer {
        RunAnswer::Success(_) => "success",
        RunAnswer::Failed(_) => "failed",
        RunAnswer::Retry(_) => "try again",
        RunAnswer::Cancelled => "cancelled",
        RunAnswer::Interrupted => "interrupted",
    }
}

pub(super) fn exit(reason: &ExitReason) -> String {
    match reason {
        ExitReason::Stopped => "the process leaves: it was told to".to_owned(),
        ExitReason::Done => "the process leaves: nothing is open".to_owned(),
        ExitReason::NameInUse(_) => "the process leaves: its name is in use".to_owned(),
    }
}
