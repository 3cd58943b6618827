//! The page of a run shows what there was.

use std::collections::BTreeMap;

use fencepost_model::history::{Event as Fact, FreedWhy, LeaseEnd};
use fencepost_model::store::Mistake;
use sim::coverage::Mark;
use sim::explore::quiet_panics;
use sim::fault::Fault;
use sim::options::Options;
use sim::planted::PlantedBug;
use sim::schedule::Schedule;
use sim::timeline::{data::Lane, page, timeline};
use sim::trace::{Trace, What};
use sim::{Run, run, run_traced};

fn traced(seed: u64, bug: Option<PlantedBug>) -> (Schedule, Run, Trace) {
    let schedule = Schedule::from_seed(seed);
    let mut trace = Trace::new();
    let run = run_traced(&schedule, bug, &mut trace);
    (schedule, run, trace)
}

fn facts(trace: &Trace) -> impl Iterator<Item = &Fact> {
    trace.entries.iter().filter_map(|entry| match &entry.what {
        What::Fact(fact) => Some(fact),
        _ => None,
    })
}

#[test]
fn a_trace_leaves_the_run_as_it_is() {
    for seed in 0..100 {
        let (schedule, traced, _) = traced(seed, None);
        let mut trace = Trace::with_steps();
        let with_steps = run_traced(&schedule, None, &mut trace);
        let plain = run(&schedule);
        assert_eq!((plain.hash, plain.hash), (traced.hash, with_steps.hash), "seed {seed}");
        let steps = trace.entries.iter().filter(|entry| matches!(entry.what, What::Step(_))).count();
        assert_eq!(steps as u64, plain.events, "seed {seed}");
    }
}

/// Recoveries, deaths, fenced writes, crashes: all of them, whatever bug is planted.
#[test]
fn a_page_has_every_recovery_and_every_fenced_write() {
    quiet_panics();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for (seed, bug) in (0..300).map(|seed| (seed, None)).chain([(145, Some(PlantedBug::Store(Mistake::NoTokenCheck)))])
    {
        let (schedule, run, trace) = traced(seed, bug);
        let drawn = timeline(&schedule, bug, &run, &trace);
        let on_page = |kind: &str| drawn.events.iter().filter(|event| event.kind == kind).count() as u64;
        let in_trace = |is: fn(&Fact) -> bool| facts(&trace).filter(|fact| is(fact)).count() as u64;
        let wanted = [
            ("recovered", in_trace(|fact| matches!(fact, Fact::Freed { why: FreedWhy::Recovered, .. }))),
            ("recovered", run.coverage.count(Mark::RecoveredSpan)),
            ("dead", in_trace(|fact| matches!(fact, Fact::LeaseEnded { how, .. } if *how != LeaseEnd::Dropped))),
            ("fenced", in_trace(|fact| matches!(fact, Fact::Fenced { .. }))),
            ("crash", in_trace(|fact| matches!(fact, Fact::WorkerCrashed { .. }))),
            ("lapse", run.coverage.count(Mark::Lapse)),
            ("aborted", in_trace(|fact| matches!(fact, Fact::BatchAborted { .. }))),
        ];
        for (kind, count) in wanted {
            assert_eq!(on_page(kind), count, "seed {seed}, {bug:?}: {kind}");
            *seen.entry(kind).or_default() += count;
        }
    }
    assert!(seen.values().all(|count| *count > 0), "{seen:?}");
}

/// A run's bar is there twice, on its worker and on its row; every held line has one per claim; none is outside of the run.
#[test]
fn bars_begin_and_end_with_what_they_show() {
    for seed in 0..300 {
        let (schedule, run, trace) = traced(seed, None);
        let drawn = timeline(&schedule, None, &run, &trace);
        for bar in &drawn.bars {
            assert!(bar.from <= bar.to && bar.to <= drawn.end_us, "seed {seed}: {bar:?}");
            assert!(bar.owner.is_none_or(|owner| owner < drawn.owners.len()), "seed {seed}: {bar:?}");
        }
        let bars = |kind: &str, on_row: bool| {
            let is = |bar: &&sim::timeline::data::Bar| {
                bar.kind.starts_with(kind) && matches!(bar.lane, Lane::Row(..)) == on_row
            };
            drawn.bars.iter().filter(is).count() as u64
        };
        let started = facts(&trace).filter(|fact| matches!(fact, Fact::HandlerStarted { .. })).count() as u64;
        assert_eq!((bars("run", false), bars("run", true)), (started, started), "seed {seed}");
        let claimed = facts(&trace).map(|fact| if let Fact::Claimed { lines, .. } = fact { lines.count() } else { 0 });
        assert_eq!(bars("held", true), claimed.sum::<u64>(), "seed {seed}");
        let started = facts(&trace).filter(|fact| matches!(fact, Fact::WorkerStarted { .. })).count() as u64;
        assert_eq!(bars("life", false), started, "seed {seed}");
    }
}

#[test]
fn a_page_tells_what_is_violated_and_how_to_have_it_again() {
    let bug = Some(PlantedBug::Store(Mistake::NoTokenCheck));
    let (schedule, run, trace) = traced(145, bug);
    let violation = run.violation.clone().expect("it is planted");
    let drawn = timeline(&schedule, bug, &run, &trace);
    let broken = drawn.violation.clone().expect("it is drawn");
    assert_eq!((broken.check.as_str(), broken.at, broken.text), (violation.check, violation.at_us, violation.what));
    assert_eq!(drawn.events.last().map(|event| event.kind), Some("violation"));
    assert_eq!(drawn.replay, "cargo run -p sim -- replay 145 --planted NoTokenCheck");

    let page = page(&schedule, bug, &run, &trace);
    let data = page.split("<script type=\"application/json\" id=\"data\">").nth(1).expect("the data");
    let data: serde_json::Value = serde_json::from_str(data.split("</script>").next().unwrap()).unwrap();
    assert_eq!(data, serde_json::to_value(&drawn).unwrap());
    assert!(!page.contains("{{") && !page.contains("https://") && !page.contains(" src="), "it needs nothing else");
}

/// A run that goes on for long after its work has very many events; its page has those that tell.
#[test]
fn a_long_run_keeps_what_is_rare() {
    let options = Options { poll_us: 1000, linger_us: 300_000_000, ..Options::small() };
    let crash = Fault::Crash { worker: 0, restart_after_us: None, reported: false };
    let schedule = Schedule { seed: 1, options, faults: vec![(30_000, crash)] };
    let mut trace = Trace::new();
    let run = run_traced(&schedule, None, &mut trace);
    let drawn = timeline(&schedule, None, &run, &trace);
    let count = |kind: &str| drawn.events.iter().filter(|event| event.kind == kind).count() as u64;
    assert_eq!(count("recovered"), run.coverage.count(Mark::RecoveredSpan));
    assert!(count("recovered") > 0 && count("taken") >= 2, "{:?}", run.coverage);
    assert!(drawn.left_out > 10_000, "{}", drawn.left_out);
    assert!(drawn.events.len() < 60_000 && drawn.messages.len() <= 30_000 && drawn.bars.len() <= 60_000);
}
