//! The table of windows: what the original falls into, and that ours holds.

use std::fmt::Write;

use super::Finding;
use super::small::{plain, rows, smallest};
use super::windows::{Found, Search, WINDOWS, search};
use crate::fault::{Away, Fault, Server, Way, WitnessLoss};
use crate::options::Options;
use crate::schedule::Schedule;

/// Searches the first so many schedules, shrinks what it finds, and returns the table.
pub fn table(schedules: u64) -> String {
    let Search { found, others } = search(0..schedules, &WINDOWS);
    let mut text = String::from(
        "| # | what happens to the original | check | schedules | faults | the shrunk schedule | ours |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|\n");
    for found in &found {
        text.push_str(&row(found));
    }
    for window in WINDOWS {
        if !found.iter().any(|found| found.window == window) {
            let _ =
                writeln!(text, "| {} | {} | {} | not in {schedules} | | | |", window.number, window.what, window.check);
        }
    }
    text.push_str("\nNot on the list:\n\n| what happens to the original | check | schedules |\n|---|---|---|\n");
    for (at, (schedules, first)) in others.iter().enumerate() {
        let same = |(_, other): &&(u64, Finding)| other.cause == first.cause;
        if !others[..at].iter().any(|other| same(&other)) {
            let checks: Vec<&str> = others.iter().filter(same).map(|(_, other)| other.check).collect();
            let _ = writeln!(text, "| {} | {} | {schedules} |", first.cause, checks.join(", "));
        }
    }
    text
}

/// The shrunk schedules as Rust source, for the tests.
pub fn source(schedules: u64) -> String {
    let mut text = String::new();
    for found in search(0..schedules, &WINDOWS).found {
        let shrunk = smallest(&found);
        let _ = writeln!(text, "({}, {}),", found.window.number, schedule_source(&shrunk));
    }
    text
}

fn row(found: &Found) -> String {
    let shrunk = smallest(found);
    let window = found.window;
    let ours = match ours(&shrunk) {
        None => format!("holds: {}", window.closed_by),
        Some(violation) => format!("fails: {violation}"),
    };
    let (schedules, faults) = (found.schedules, shrunk.faults.len());
    let told = tell(&shrunk);
    format!("| {} | {} | {} | {schedules} | {faults} | {told} | {ours} |\n", window.number, window.what, window.check)
}

/// What our own protocol violates under this schedule, with the second witness or without.
pub fn ours(schedule: &Schedule) -> Option<crate::checks::Violation> {
    let with = |liveness: bool| {
        let options = Options { liveness, ..schedule.options.clone() };
        crate::run(&Schedule { options, ..schedule.clone() }).violation
    };
    with(true).or_else(|| with(false))
}

/// A schedule in words: how many there are, what goes wrong and when.
pub fn tell(schedule: &Schedule) -> String {
    let options = &schedule.options;
    let count = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut text = format!("{}, {}", count(options.workers.into(), "worker"), count(options.rows(), "row"));
    if options.ttl_us != Options::small().ttl_us {
        let _ = write!(text, ", TTL {}", seconds(options.ttl_us));
    }
    if options.poison_rows > 0 {
        let _ = write!(text, ", {} of them deadly", options.poison_rows);
    }
    if options.hanging_per_mille > 0 {
        text.push_str(", some hang");
    }
    if schedule.faults.iter().any(|(_, fault)| matches!(fault, Fault::Stop { .. })) {
        let _ = write!(text, ", grace {}", seconds(options.grace_us));
    }
    for (at, fault) in &schedule.faults {
        let _ = write!(text, "; {}: {}", seconds(*at), tell_fault(fault, options.workers));
    }
    text
}

fn seconds(us: u64) -> String {
    format!("{} s", us as f64 / 1e6)
}

fn tell_fault(fault: &Fault, workers: u8) -> String {
    let place = |worker: u8| worker % workers.max(1);
    let back = |after: Option<u64>| match after {
        Some(after) => format!(", back after {}", seconds(after)),
        None => String::new(),
    };
    let away = |how: Away| if how == Away::Refuses { "refuses all" } else { "stalls" };
    match *fault {
        Fault::LoseReplies { worker, server: Server::Store, count: 1 } => {
            format!("the store's next reply to worker {} is lost", place(worker))
        }
        Fault::LoseReplies { worker, server: Server::Store, count } => {
            format!("the store's next {count} replies to worker {} are lost", place(worker))
        }
        Fault::Delay { worker, server: Server::Store, count, by_us } => {
            format!("the next {count} store requests of worker {} come {} late", place(worker), seconds(by_us))
        }
        Fault::CutStore { worker, way, loud, for_us } => {
            let way = match way {
                Way::Both => "",
                Way::Requests => " (requests)",
                Way::Replies => " (replies)",
            };
            let how = if loud { "breaks" } else { "is silent" };
            format!("worker {}'s link to the store {how}{way} for {}", place(worker), seconds(for_us))
        }
        Fault::CutWitness { worker, for_us, .. } => {
            format!("worker {} cannot reach Redis for {}", place(worker), seconds(for_us))
        }
        Fault::Pause { worker, for_us } => format!("worker {} stands still for {}", place(worker), seconds(for_us)),
        Fault::Crash { worker, restart_after_us, .. } => {
            format!("worker {} crashes{}", place(worker), back(restart_after_us))
        }
        Fault::Twin { worker } => format!("a second process for worker {}", place(worker)),
        Fault::Stop { worker, restart_after_us } => {
            format!("SIGTERM to worker {}{}", place(worker), back(restart_after_us))
        }
        Fault::StoreAway { how, for_us } => format!("the store {} for {}", away(how), seconds(for_us)),
        Fault::Witness(WitnessLoss::Flush) => "Redis is flushed".to_owned(),
        Fault::Witness(WitnessLoss::RestartEmpty) => "Redis restarts empty".to_owned(),
        Fault::WitnessAway { how, for_us } => format!("Redis {} for {}", away(how), seconds(for_us)),
        Fault::Abort { .. } => "abort".to_owned(),
        ref other => format!("{other:?}"),
    }
}

/// Only what differs from [`plain`].
fn schedule_source(schedule: &Schedule) -> String {
    let options = &schedule.options;
    // Batches are told apart from the rest: they take several lines.
    let without = |options: &Options| format!("{:#?}", Options { batches: Vec::new(), ..options.clone() });
    let (changed, plain) = (without(options), without(&plain()));
    let mut fields: Vec<String> = match &options.batches[..] {
        [one] if rows(one.rows) == options.batches => vec![format!("batches: rows({}),", one.rows)],
        batches => vec![format!("batches: vec!{batches:?},")],
    };
    fields.extend(
        changed.lines().zip(plain.lines()).filter(|(line, plain)| line != plain).map(|(line, _)| line.to_owned()),
    );
    let fields = fields.join(" ");
    let faults = &schedule.faults;
    format!("Schedule {{ seed: {}, options: Options {{ {fields} ..plain() }}, faults: vec!{faults:?} }}", schedule.seed)
}
