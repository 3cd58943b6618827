//! Outages that overlap, and what a restart does to those who wait.

use fencepost_core::store::{StoreFailure, StoreRequest};
use sim::fault::{Away, Fault, Way};
use sim::options::Options;
use sim::run_traced;
use sim::schedule::Schedule;
use sim::trace::{Entry, Trace, What};

fn entries(faults: Vec<(u64, Fault)>) -> Vec<Entry> {
    let mut trace = Trace::default();
    let options = Options { clock_spread: 0, linger_us: 5_000_000, ..Options::small() };
    let run = run_traced(&Schedule { seed: 1, options, faults }, None, &mut trace);
    assert_eq!(run.violation, None);
    trace.entries
}

/// Whoever waits for a store that stands still loses its connection when that is restarted, and the request is gone.
#[test]
fn a_restart_breaks_what_waits_for_the_store() {
    let stalls = (100_000, Fault::StoreAway { how: Away::Stalls, for_us: 300_000 });
    let restart = (200_000, Fault::StoreRestart { for_us: 50_000 });
    let entries = entries(vec![stalls, restart]);
    let waited: Vec<_> = entries.iter().filter(|entry| (101_000..199_000).contains(&entry.at_us)).collect();
    let sent: Vec<_> = waited
        .iter()
        .filter_map(|entry| match &entry.what {
            What::StoreSent(message, _) => Some(*message),
            _ => None,
        })
        .collect();
    assert!(!sent.is_empty());
    for message in sent {
        let done =
            entries.iter().any(|entry| matches!(&entry.what, What::StoreDone { message: of, .. } if *of == message));
        let heard = entries.iter().find_map(|entry| match &entry.what {
            What::StoreHeard(of, reply) if *of == message => Some((entry.at_us, reply.clone())),
            _ => None,
        });
        assert!(!done, "{message:?}");
        let (at_us, reply) = heard.expect("a broken connection is told");
        assert!((200_000..210_000).contains(&at_us) && reply == Err(StoreFailure::Unknown), "{at_us} {reply:?}");
    }
}

/// Of two outages at once the longer one tells when it is over.
#[test]
fn a_shorter_outage_does_not_end_a_longer_one() {
    let longer_and_shorter = [
        [Fault::StoreAway { how: Away::Refuses, for_us: 900_000 }, Fault::StoreRestart { for_us: 1000 }],
        [
            Fault::StoreAway { how: Away::Refuses, for_us: 900_000 },
            Fault::StoreAway { how: Away::Refuses, for_us: 1000 },
        ],
        [cut(900_000), cut(1000)],
        [Fault::Pause { worker: 0, for_us: 900_000 }, Fault::Pause { worker: 0, for_us: 1000 }],
    ];
    for [longer, shorter] in longer_and_shorter {
        let entries = entries(vec![(100_000, longer), (200_000, shorter)]);
        let of_first = |entry: &&Entry| match &entry.what {
            What::StoreDone { message, request, .. } => {
                message.process.0 == 1 && !matches!(request, StoreRequest::Look)
            }
            _ => false,
        };
        let between = entries.iter().filter(|entry| (250_000..999_000).contains(&entry.at_us));
        assert_eq!(between.filter(of_first).count(), 0, "{longer:?}, {shorter:?}");
        let later = entries.iter().filter(|entry| entry.at_us >= 1_000_000);
        assert!(later.filter(of_first).count() > 0, "{longer:?}, {shorter:?}");
    }
}

fn cut(for_us: u64) -> Fault {
    Fault::CutStore { worker: 0, way: Way::Both, loud: false, for_us }
}

/// The same of the second witness, and of an operator's hold.
#[test]
fn nor_of_the_second_witness_nor_a_hold() {
    let away = |for_us| Fault::WitnessAway { how: Away::Refuses, for_us };
    let cut = |for_us| Fault::CutWitness { worker: 0, way: Way::Both, for_us };
    for [longer, shorter] in [[away(900_000), away(1000)], [cut(900_000), cut(1000)]] {
        let entries = entries(vec![(100_000, longer), (200_000, shorter)]);
        let heard = |entry: &Entry| match &entry.what {
            What::WitnessHeard(message, reply) => message.process.0 == 1 && reply.is_some(),
            _ => false,
        };
        let between = |entry: &&Entry| (250_000..999_000).contains(&entry.at_us);
        assert_eq!(entries.iter().filter(between).filter(|entry| heard(entry)).count(), 0, "{longer:?}");
        assert!(entries.iter().any(|entry| entry.at_us >= 1_000_000 && heard(entry)), "{longer:?}");
    }
    let hold = |for_us| Fault::Hold { batch: 0, for_us };
    let entries = entries(vec![(10, hold(900_000)), (20_000, hold(1000))]);
    let started = entries.iter().find_map(|entry| match &entry.what {
        What::Fact(fencepost_model::history::Event::HandlerStarted { .. }) => Some(entry.at_us),
        _ => None,
    });
    assert!(started.is_some_and(|at_us| at_us >= 900_000), "{started:?}");
}
