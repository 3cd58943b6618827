//! Small scope, all of it: two workers, four rows, one fault at every event.

use std::collections::BTreeSet;

use sim::explore::quiet_panics;
use sim::fault::{Away, Fault, Server, Way};
use sim::options::Options;
use sim::schedule::Schedule;
use sim::{Moment, run, run_for_moments};

const TTL: u64 = 1_000_000;

/// The small setting, plain and with all that helps or hinders recovery.
fn settings() -> Vec<Options> {
    let small = Options::small();
    let known = Options { identities: true, supervised: true, machines: 1, notify: true, ..small.clone() };
    let named = Options { stable_names: true, liveness: false, claim_lines_max: 4, ..small.clone() };
    let poison = Options { poison_rows: 1, restart_us: 50_000, linger_us: 0, ..known.clone() };
    vec![small, known, named, poison]
}

fn quiet_run(options: &Options) -> Vec<Moment> {
    let schedule = Schedule { seed: 1, options: options.clone(), faults: Vec::new() };
    let run = run_for_moments(&schedule);
    assert_eq!(run.violation, None);
    assert!(run.moments.len() > 100, "{} events", run.moments.len());
    run.moments
}

/// Runs the setting once for each fault; how many runs that were.
fn hold(options: &Options, faults: impl IntoIterator<Item = (u64, Fault)>) -> usize {
    quiet_panics();
    let mut runs = 0;
    for fault in faults {
        let schedule = Schedule { seed: 1, options: options.clone(), faults: vec![fault] };
        if let Some(violation) = run(&schedule).violation {
            panic!("{violation}\n{schedule}");
        }
        runs += 1;
    }
    runs
}

/// A fault of each kind at every moment at which something happens.
fn at_every_event(kinds: impl Fn(u8) -> Vec<Fault>) {
    for options in settings() {
        let moments: BTreeSet<u64> = quiet_run(&options).iter().map(|moment| moment.at_us).collect();
        let at = |at: &u64| (0..2).flat_map(&kinds).map(|fault| (*at, fault)).collect::<Vec<_>>();
        let runs = hold(&options, moments.iter().flat_map(at));
        println!("{runs} runs");
    }
}

#[test]
fn a_crash_at_every_event() {
    at_every_event(|worker| {
        let crash = |restart_after_us, reported| Fault::Crash { worker, restart_after_us, reported };
        vec![crash(Some(TTL / 10), false), crash(Some(TTL * 2), true), crash(None, false)]
    });
}

#[test]
fn a_pause_beyond_the_ttl_at_every_event() {
    at_every_event(|worker| {
        vec![Fault::Pause { worker, for_us: TTL / 8 * 7 }, Fault::Pause { worker, for_us: TTL * 2 }]
    });
}

#[test]
fn a_stop_at_every_event() {
    at_every_event(|worker| vec![Fault::Stop { worker, restart_after_us: Some(TTL / 10) }, Fault::Twin { worker }]);
}

#[test]
fn a_cut_at_every_event() {
    at_every_event(|worker| {
        let cut = |way, for_us| Fault::CutStore { worker, way, loud: false, for_us };
        vec![cut(Way::Replies, TTL / 3), cut(Way::Requests, TTL * 2), cut(Way::Both, TTL * 3)]
    });
}

#[test]
fn an_absent_store_at_every_event() {
    at_every_event(|worker| {
        let how = if worker == 0 { Away::Refuses } else { Away::Stalls };
        vec![Fault::StoreAway { how, for_us: TTL / 2 }, Fault::StoreAway { how, for_us: TTL * 2 }]
    });
}

#[test]
fn an_abort_at_every_event() {
    at_every_event(|worker| match worker {
        0 => vec![Fault::Abort { batch: 0 }],
        _ => vec![Fault::Hold { batch: 0, for_us: TTL }],
    });
}

/// Of every request the reply is lost, of it and of those that follow; it is late; it arrives twice.
#[test]
fn trouble_with_every_request() {
    for options in settings() {
        let mut faults = Vec::new();
        for moment in quiet_run(&options) {
            let Some(worker) = moment.arrival_of else { continue };
            let at = moment.at_us;
            faults.extend([1, 3].map(|count| (at, Fault::LoseReplies { worker, server: Server::Store, count })));
            // Requests are struck where they are sent, just before they arrive.
            let sent = at.saturating_sub(options.latency_us_max);
            for by_us in [options.request_timeout_us * 2, TTL * 2] {
                faults.push((sent, Fault::Delay { worker, server: Server::Store, count: 1, by_us }));
                faults.push((sent, Fault::Duplicate { worker, server: Server::Store, count: 1, after_us: by_us }));
            }
        }
        println!("{} runs", hold(&options, faults));
    }
}
