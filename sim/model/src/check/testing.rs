//! Hand-made histories for the checkers' own tests: one batch, leases by number.

use std::ops::RangeInclusive;
use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LeaseId, LineRange, LineSet, StoreTime, Timing, Token};

use super::Checker;
use crate::history::{Event, FreedWhy, LeaseEnd, OutcomeStatus, Process, RecordedWhy};
use crate::view::{BatchView, LogCounts, OutcomeView, RowCounts, SpanView, StoreView, Tally};

pub fn batch() -> BatchId {
    BatchId::from_random(1)
}

pub fn lease(number: u64) -> LeaseId {
    LeaseId::from_random(number)
}

/// ttl 8 s, renewed every 2 s, scanned every 8 s, requests time out after 1 s.
pub fn timing() -> Timing {
    Timing {
        ttl: Duration::from_secs(8),
        renew: Duration::from_secs(2),
        scan: Duration::from_secs(8),
        request_timeout: Duration::from_secs(1),
    }
}

pub fn lease_taken(number: u64) -> Event {
    Event::LeaseTaken {
        lease: lease(number),
        worker: format!("w{number}"),
        ttl: timing().ttl,
        renew: timing().renew,
        operations: vec!["op".to_owned()],
        expires_at: StoreTime(0),
    }
}

pub fn renewed(number: u64, renewals: u64) -> Event {
    Event::LeaseRenewed { lease: lease(number), renewals, expires_at: StoreTime(0) }
}

pub fn lease_ended(number: u64, how: LeaseEnd) -> Event {
    Event::LeaseEnded { lease: lease(number), how, by: None }
}

pub fn batch_loaded(batch: BatchId, total: u64, priority: i32) -> Event {
    Event::BatchLoaded { batch, total, operation: "op".to_owned(), priority, attempts_max: 3, crashes_max: 2 }
}

/// A batch and a live lease 1.
pub fn loaded(total: u64) -> Vec<Event> {
    vec![lease_taken(1), batch_loaded(batch(), total, 0)]
}

pub fn claimed(lines: RangeInclusive<u64>, token: u64, from: Option<u64>, number: u64) -> Event {
    claimed_by(1, lines, token, from, number, 0, false)
}

pub fn claimed_by(
    by: u64,
    lines: RangeInclusive<u64>,
    token: u64,
    from: Option<u64>,
    number: u64,
    suspicion: u32,
    alone: bool,
) -> Event {
    Event::Claimed {
        batch: batch(),
        lines: LineSet::range(*lines.start(), *lines.end()),
        token: Token(token),
        from: from.map(Token),
        lease: lease(by),
        number,
        suspicion,
        alone,
    }
}

pub fn freed(lines: RangeInclusive<u64>, token: u64, from: u64, why: FreedWhy, suspicion: u32) -> Event {
    Event::Freed {
        batch: batch(),
        lines: LineSet::range(*lines.start(), *lines.end()),
        token: Token(token),
        from: Token(from),
        why,
        suspicion,
        not_before: None,
    }
}

pub fn recorded(line: u64, token: u64, by: u64) -> Event {
    recorded_as(line, token, by, OutcomeStatus::Success, 1, 0, RecordedWhy::Answered)
}

pub fn recorded_as(
    line: u64,
    token: u64,
    by: u64,
    status: OutcomeStatus,
    attempts: u32,
    crashes: u32,
    why: RecordedWhy,
) -> Event {
    Event::Recorded { batch: batch(), line, token: Token(token), lease: lease(by), status, attempts, crashes, why }
}

pub fn appended(first: u64, last: u64) -> Event {
    Event::BatchAppended { batch: batch(), lines: LineRange { first, last } }
}

pub fn purged() -> Event {
    Event::BatchPurged { batch: batch() }
}

pub fn ended() -> Event {
    Event::BatchEnded { batch: batch(), generation: 1, status: BatchStatus::Success }
}

pub fn aborted() -> Event {
    Event::BatchAborted { batch: batch(), generation: 1 }
}

/// An operator's retry: lines with the tokens of their new spans.
pub fn retried(generation: u32, spans: &[(RangeInclusive<u64>, u64)]) -> Event {
    let span =
        |(lines, token): &(RangeInclusive<u64>, u64)| (LineSet::range(*lines.start(), *lines.end()), Token(*token));
    Event::RowsRetried { batch: batch(), generation, spans: spans.iter().map(span).collect() }
}

pub fn started(process: u32, lease_number: u64) -> Vec<Event> {
    let process = Process(process);
    vec![
        Event::WorkerStarted { process, timing: timing(), steady: true },
        Event::LeaseChosen { process, lease: lease(lease_number) },
        lease_taken(lease_number),
    ]
}

/// Three lines: one recorded, one retried and recorded, one recovered as a suspect, run alone and recorded.
pub fn good_history() -> Vec<Event> {
    let mut events = loaded(3);
    events.extend([
        claimed(1..=2, 1, None, 1),
        claimed(3..=3, 2, None, 2),
        recorded(1, 1, 1),
        freed(2..=2, 3, 1, FreedWhy::Retried, 0),
        claimed(2..=2, 4, Some(3), 3),
        recorded_as(2, 4, 1, OutcomeStatus::Success, 2, 0, RecordedWhy::Answered),
        lease_taken(2),
        lease_ended(1, LeaseEnd::Lapsed),
        freed(3..=3, 5, 2, FreedWhy::Recovered, 1),
        claimed_by(2, 3..=3, 6, Some(5), 1, 1, true),
        recorded(3, 6, 2),
        ended(),
    ]);
    events
}

/// Three lines: 1 recorded, 2 held by lease 1, 3 fresh.
pub fn good_view() -> StoreView {
    let span = SpanView {
        token: Token(1),
        lines: LineSet::single(2),
        lease: Some(lease(1)),
        number: Some(1),
        not_before: None,
        suspicion: 0,
        alone: false,
        tried: false,
        from_lease: None,
    };
    let outcome = OutcomeView {
        line: 1,
        status: OutcomeStatus::Success,
        token: Token(1),
        lease: lease(1),
        attempts: 1,
        crashes: 0,
        generation: 1,
    };
    let view = BatchView {
        batch: batch(),
        status: BatchStatus::Open,
        held: false,
        total: 3,
        cursor: 3,
        generation: 1,
        spans: vec![span],
        outcomes: vec![outcome],
        tallies: vec![(lease(1), Tally { success: 1, ..Tally::default() })],
        logged: LogCounts::default(),
        counts: RowCounts { queued: 1, inprog: 1, success: 1, failed: 0, aborted: 0 },
    };
    StoreView { batches: vec![view], leases: vec![(lease(1), LeaseState::Live)], completions: vec![], whole: true }
}

/// One event a microsecond.
pub fn passes(checker: &mut dyn Checker, events: &[Event]) {
    for (at, event) in events.iter().enumerate() {
        if let Err(violation) = checker.on_event(at as u64, event) {
            panic!("{violation}, by {event:?}");
        }
    }
}

/// All but the last pass.
pub fn fails(checker: &mut dyn Checker, events: &[Event]) {
    let Some((last, before)) = events.split_last() else { panic!("no events") };
    passes(checker, before);
    let seen = checker.on_event(before.len() as u64, last);
    assert!(seen.is_err(), "{last:?} passes");
}

/// All but the last pass, and what is seen of the last is told in these words.
pub fn fails_with(mut checker: impl Checker, events: &[Event], words: &str) {
    let Some((last, before)) = events.split_last() else { panic!("no events") };
    passes(&mut checker, before);
    let seen = checker.on_event(before.len() as u64, last);
    assert!(seen.as_ref().is_err_and(|seen| seen.what.contains(words)), "{last:?}: {seen:?} and not {words:?}");
}

/// What breaks a batch's snapshot, and words of what is then seen.
pub type Break = (fn(&mut BatchView), &'static str);

/// What is seen of a snapshot is told in these words.
pub fn state_fails_with(checker: &mut dyn Checker, view: &StoreView, words: &str) {
    let seen = checker.on_state(99, view);
    assert!(seen.as_ref().is_err_and(|seen| seen.what.contains(words)), "{seen:?} and not {words:?}");
}

/// Events with their times in milliseconds; whether and where they fail.
pub fn first_failure(checker: &mut dyn Checker, events: &[(u64, Event)]) -> Option<usize> {
    events.iter().position(|(at_ms, event)| checker.on_event(at_ms * 1000, event).is_err())
}

/// The same events at the same time.
pub fn at_ms(at_ms: u64, events: Vec<Event>) -> Vec<(u64, Event)> {
    events.into_iter().map(|event| (at_ms, event)).collect()
}
