//! A history as people read it: one line per step.

use std::collections::HashMap;

use fencepost_core::store::{ClaimReply, Grant, StoreFailure, StoreReply, StoreRequest, TakeLeaseReply};

use super::action::Action;
use super::state::{Content, Message, State};
use super::step::Setting;

/// The steps to a state, and one more that has no state behind it.
pub(super) fn steps(
    setting: Setting<'_>,
    initial: &State,
    ways: &HashMap<u64, (u64, u16)>,
    to: u64,
    last: Option<Action>,
) -> Vec<String> {
    let mut numbers = Vec::new();
    let (mut at, first) = (to, initial.digest());
    while at != first
        && let Some((from, number)) = ways.get(&at)
    {
        numbers.push(usize::from(*number));
        at = *from;
    }
    let (mut state, mut lines) = (initial.clone(), Vec::new());
    for number in numbers.into_iter().rev() {
        let Some(action) = state.actions(setting.scope).get(number).copied() else { break };
        lines.push(told(setting, &state, action));
        let Ok(after) = setting.step(&state, action) else { break };
        state = after;
    }
    lines.extend(last.map(|action| told(setting, &state, action)));
    lines
}

fn told(setting: Setting<'_>, state: &State, action: Action) -> String {
    format!("{:4.1} s  {}", state.now_us as f64 / 1e6, tell(setting, state, action))
}

fn tell(setting: Setting<'_>, state: &State, action: Action) -> String {
    let message = |at: usize| of_message(&state.network[at]);
    match action {
        Action::Timer(process, machine) => format!("w{process}'s {machine:?} is woken"),
        Action::Thread(process, true) => format!("w{process}'s worker hears its keeper"),
        Action::Thread(process, false) => format!("w{process}'s keeper hears its worker"),
        Action::Deliver(at) => format!("arrives: {}", message(at)),
        Action::HandlerEnds(process, key, Some(end)) => {
            format!("w{process}'s handler of line {}, token {}, ends: {end:?}", key.line, key.token)
        }
        Action::HandlerEnds(process, key, None) => {
            format!("w{process}'s handler of line {}, token {}, ends, cancelled", key.line, key.token)
        }
        Action::CallEnds(process, _, heard) => format!("w{process}'s completion call ends, heard: {heard}"),
        Action::Tick(to) => format!("time goes on to {:.1} s", to.as_micros() as f64 / 1e6),
        Action::Lose(at) => format!("is lost: {}", message(at)),
        Action::Fail(at, StoreFailure::Unknown) => format!("is cut off, which is heard of: {}", message(at)),
        Action::Fail(at, StoreFailure::NotDone) => format!("is refused: {}", message(at)),
        Action::HoldBack(at) => format!("is held back: {}", message(at)),
        Action::Duplicate(at) => format!("is sent twice: {}", message(at)),
        Action::Crash(process) => format!("w{process} dies"),
        Action::Pause(process) => format!("w{process} stands still"),
        Action::Resume(process) => format!("w{process} goes on"),
        Action::Operate(at) => format!("operator: {:?}", setting.scope.operations[at]),
        Action::Start => format!("w{} starts", state.processes.len()),
    }
}

fn of_message(message: &Message) -> String {
    let (process, late) = (message.process, if message.late { ", late" } else { "" });
    match &message.content {
        Content::Request(request) => format!("w{process} -> store: {}{late}", of_request(request)),
        Content::Reply(reply) => format!("store -> w{process}: {}{late}", of_reply(reply)),
        Content::Closed(_) => format!("news for w{process}: the batch is closed"),
        Content::Opened => format!("news for w{process}: the batch is open"),
    }
}

fn of_request(request: &StoreRequest) -> String {
    match request {
        StoreRequest::TakeLease(_) => "TakeLease".to_owned(),
        StoreRequest::Renew { .. } => "Renew".to_owned(),
        StoreRequest::DropLease { .. } => "DropLease".to_owned(),
        StoreRequest::Claim(claim) => format!("Claim number {}, {} lines", claim.number, claim.lines_max),
        StoreRequest::SettleClaim { number, .. } => format!("SettleClaim number {number}"),
        StoreRequest::Record(record) => {
            let items =
                record.items.iter().map(|item| format!(" line {} token {} {:?};", item.line, item.token, item.answer));
            format!("Record{}", items.collect::<String>())
        }
        StoreRequest::GiveBack { lines, .. } => {
            let lines = lines.iter().map(|(_, token, lines)| format!(" {lines:?} token {token}"));
            format!("GiveBack{}", lines.collect::<String>())
        }
        StoreRequest::Look => "Look".to_owned(),
        StoreRequest::Recover(recover) => {
            format!("Recover, seen with {} renewals, {:?}", recover.renewals, recover.cause)
        }
        StoreRequest::CutBack { .. } => "CutBack".to_owned(),
        StoreRequest::WithdrawCrashes { .. } => "WithdrawCrashes".to_owned(),
        StoreRequest::ClaimCall(_) => "ClaimCall".to_owned(),
        StoreRequest::RecordCall(record) => format!("RecordCall {:?}", record.outcome),
    }
}

fn of_reply(reply: &Result<StoreReply, StoreFailure>) -> String {
    let grants = |grants: &[Grant]| {
        let of = |grant: &Grant| {
            let lines: Vec<String> = grant.rows.iter().map(|row| row.line.to_string()).collect();
            format!(" lines {} token {}", lines.join(","), grant.token)
        };
        if grants.is_empty() { " nothing".to_owned() } else { grants.iter().map(of).collect() }
    };
    match reply {
        Err(failure) => format!("{failure:?}"),
        Ok(StoreReply::TakeLease(TakeLeaseReply::NameHeld { .. })) => "NameHeld".to_owned(),
        Ok(StoreReply::Claim(ClaimReply::Granted { grants: granted, .. })) => format!("Granted{}", grants(granted)),
        Ok(StoreReply::SettleClaim(granted, _)) => format!("Settled{}", grants(granted)),
        Ok(StoreReply::Look(look)) => {
            let leases = look.leases.iter().map(|view| format!(" {} with {} renewals", view.worker, view.renewals));
            format!("Look:{}", leases.collect::<String>())
        }
        Ok(reply) => format!("{reply:?}"),
    }
}
