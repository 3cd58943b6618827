//! Invariant 9: poison.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::{BatchId, LeaseId, LineSet, Token};

use super::health::Health;
use super::{Checker, Violation, ensure};
use crate::history::{Event, FreedWhy, LeaseEnd, OutcomeStatus, RecordedWhy};

const NAME: &str = "9 poison";

/// Asserts
/// - two counters: a recorded row's attempts are the retries and time-outs told of it since its last operator's retry (and the
///   answer's own run), its crashes those told since then less those of them taken back; retries run out exactly at the batch's limit, crashes at or after theirs;
/// - suspicion survives splits, give-backs, drops and retries, and grows by one at a death; a suspect span that dies comes back in
///   parts of at most half its lines;
/// - a suspect of one line is claimed alone, by a lease that holds nothing else and claims nothing until it is gone; nothing else is
///   claimed alone; suspects are claimed only while fewer than half the live leases (but always one) hold any, or where the
///   batch has no fresh line; a lease holds one suspect span at a time;
/// - only a line that was held alone crashes, and not by its lease's being dropped;
/// - a row that kills its worker never succeeds; no other row fails by crashes of which one was the doing of another row.
#[derive(Debug, Clone, Hash, Default)]
pub struct Poison {
    health: Health,
    kills: BTreeSet<(BatchId, u64)>,
    limits: BTreeMap<BatchId, (u32, u32)>,
    spans: BTreeMap<Token, Span>,
    fresh: BTreeMap<BatchId, u64>,
    live: BTreeMap<LeaseId, BTreeSet<Token>>,
    /// The last lease that ended, and its spans that are yet to be freed.
    ended: Option<(LeaseId, LeaseEnd)>,
    rows: BTreeMap<(BatchId, u64), Counters>,
    many_at_once: bool,
}

#[derive(Debug, Clone, Hash)]
struct Span {
    batch: BatchId,
    lease: Option<LeaseId>,
    suspicion: u32,
    alone: bool,
    /// Open lines.
    lines: u64,
    /// Open lines when its lease ended.
    whole: u64,
}

#[derive(Debug, Clone, Hash, Default)]
struct Counters {
    used: u32,
    crashed: u32,
    withdrawn: u32,
    /// The token that an operator's retry gave it: what was held under older ones does not count.
    since: Option<Token>,
    /// A crash of it was another row's doing.
    by_another: bool,
}

impl Poison {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// For an empty store on which many transactions go on at once. There the quota on suspects is not asked, since leases come
    /// and go between a claim's count and its end, and a record may have missed a crash's withdrawal beside it.
    pub fn of_many_at_once() -> Self {
        Self { many_at_once: true, ..Self::default() }
    }

    fn row(&mut self, batch: BatchId, line: u64) -> &mut Counters {
        self.rows.entry((batch, line)).or_default()
    }

    /// Takes lines out of a span; what it was.
    fn take(&mut self, token: Token, lines: u64) -> Option<Span> {
        let span = self.spans.get_mut(&token)?;
        let was = span.clone();
        span.lines = span.lines.saturating_sub(lines);
        if span.lines == 0 {
            self.spans.remove(&token);
            if let Some(held) = was.lease.and_then(|lease| self.live.get_mut(&lease)) {
                held.remove(&token);
            }
        }
        Some(was)
    }

    fn claim(&mut self, at: u64, event: &Claimed<'_>) -> Result<(), Violation> {
        let &Claimed { batch, lines, token, from, lease, suspicion, alone } = event;
        let count = lines.count();
        let was = from.and_then(|from| self.take(from, count));
        let suspicion_was = was.as_ref().map_or(0, |span| span.suspicion);
        ensure(suspicion == suspicion_was, NAME, at, || {
            format!("{token} has suspicion {suspicion}, was {suspicion_was}")
        })?;
        let single = suspicion > 0 && was.is_some_and(|span| span.lines == 1);
        ensure(alone == single, NAME, at, || {
            format!("{lines:?} of {batch} alone: {alone}, a single suspect: {single}")
        })?;
        let held = self.live.get(&lease);
        let beside = held.is_some_and(|held| held.iter().any(|token| self.spans[token].alone));
        ensure(!beside, NAME, at, || format!("{lease} claims beside a suspect that it runs alone"))?;
        let idle = held.is_none_or(BTreeSet::is_empty);
        ensure(idle || !alone, NAME, at, || format!("{lease} takes a suspect alone and holds more"))?;
        let fresh = self.fresh.entry(batch).or_default();
        *fresh -= if from.is_none() { count.min(*fresh) } else { 0 };
        let nothing_else = *fresh == 0;
        ensure(suspicion == 0 || nothing_else || self.many_at_once || self.within_quota(lease), NAME, at, || {
            format!("{lease} takes suspects, as too many others do")
        })?;
        let held = self.live.get(&lease);
        let second = held.is_some_and(|held| held.iter().any(|token| self.spans[token].suspicion > 0));
        ensure(suspicion == 0 || !second, NAME, at, || format!("{lease} holds suspects and takes more"))?;
        let span = Span { batch, lease: Some(lease), suspicion, alone, lines: count, whole: count };
        self.spans.insert(token, span);
        self.live.entry(lease).or_default().insert(token);
        Ok(())
    }

    fn within_quota(&self, lease: LeaseId) -> bool {
        let on_suspects = |held: &BTreeSet<Token>| held.iter().any(|token| self.spans[token].suspicion > 0);
        let others = self.live.iter().filter(|(other, held)| **other != lease && on_suspects(held)).count();
        others < (self.live.len() / 2).max(1)
    }

    fn free(&mut self, at: u64, event: &Freed<'_>) -> Result<(), Violation> {
        let &Freed { batch, lines, token, from, why, suspicion } = event;
        let count = lines.count();
        let Some(was) = self.take(from, count) else {
            return ensure(false, NAME, at, || format!("{lines:?} of {batch} are freed from unknown span {from}"));
        };
        let grown = was.suspicion + u32::from(why == FreedWhy::Recovered);
        ensure(suspicion == grown, NAME, at, || format!("{token} has suspicion {suspicion} and should have {grown}"))?;
        if why == FreedWhy::Recovered && was.suspicion > 0 && was.whole > 1 {
            ensure(count <= was.whole.div_ceil(2), NAME, at, || {
                format!("{count} of {} suspects stay together", was.whole)
            })?;
        }
        if matches!(why, FreedWhy::Retried | FreedWhy::TimedOut) {
            let attempts_max = self.limits.get(&batch).map_or(u32::MAX, |limits| limits.0);
            for line in lines.iter() {
                let row = self.row(batch, line);
                row.used += 1;
                let used = row.used;
                ensure(used < attempts_max, NAME, at, || {
                    format!("{batch} line {line} has used {used} attempts and is free")
                })?;
            }
        }
        let span = Span { batch, lease: None, suspicion, alone: false, lines: count, whole: count };
        self.spans.insert(token, span);
        Ok(())
    }

    fn crash(&mut self, at: u64, batch: BatchId, line: u64, token: Token, lease: LeaseId) -> Result<(), Violation> {
        let alone = self.spans.get(&token).is_some_and(|span| span.alone);
        ensure(alone, NAME, at, || format!("{batch} line {line} crashes and did not run alone"))?;
        let judged = matches!(self.ended, Some((ended, how)) if ended == lease && how != LeaseEnd::Dropped);
        ensure(judged, NAME, at, || format!("{batch} line {line} crashes and {lease} was not judged"))?;
        let killer = self.health.of_lease(lease).and_then(|(_, facts)| facts.killed_by);
        let row = self.row(batch, line);
        row.crashed += 1;
        row.by_another |= killer.is_some_and(|killer| killer != (batch, line));
        Ok(())
    }

    fn record(&mut self, at: u64, event: &Recorded) -> Result<(), Violation> {
        let &Recorded { batch, line, token, lease, status, attempts, crashes, why } = event;
        let (attempts_max, crashes_max) = self.limits.get(&batch).copied().unwrap_or((u32::MAX, 0));
        let row = self.row(batch, line);
        let counted = row.crashed.saturating_sub(row.withdrawn);
        let (used, crashed, by_another) = (row.used, row.crashed, row.by_another);
        let runs = used + u32::from(why != RecordedWhy::CrashedTooOften);
        ensure(attempts == runs, NAME, at, || {
            format!("{batch} line {line} has {attempts} attempts, told were {runs}")
        })?;
        let missed = self.many_at_once && (counted..=crashed).contains(&crashes);
        ensure(crashes == counted || missed, NAME, at, || {
            format!("{batch} line {line} has {crashes} crashes, told were {counted}")
        })?;
        let kills = self.kills.contains(&(batch, line));
        let in_limits = match why {
            RecordedWhy::Answered => true,
            RecordedWhy::Exhausted => attempts >= attempts_max,
            RecordedWhy::CrashedTooOften => crashes >= crashes_max && crashes > 0,
        };
        ensure(in_limits, NAME, at, || format!("{batch} line {line} fails early: {why:?}, {attempts}, {crashes}"))?;
        let by_neighbour = why == RecordedWhy::CrashedTooOften && by_another && !kills;
        ensure(!by_neighbour, NAME, at, || format!("{batch} line {line} fails by another row's crash"))?;
        ensure(!kills || status == OutcomeStatus::Failed, NAME, at, || {
            format!("{batch} line {line} kills and succeeds")
        })?;
        let from = match why {
            RecordedWhy::CrashedTooOften => self.alone_span_of(lease),
            _ => Some(token),
        };
        if let Some(from) = from {
            self.take(from, 1);
        }
        Ok(())
    }

    fn alone_span_of(&self, lease: LeaseId) -> Option<Token> {
        let found = self.spans.iter().find(|(_, span)| span.lease == Some(lease) && span.alone);
        found.map(|(token, _)| *token)
    }

    fn end_lease(&mut self, lease: LeaseId, how: LeaseEnd) {
        for token in self.live.remove(&lease).unwrap_or_default() {
            if let Some(span) = self.spans.get_mut(&token) {
                span.whole = span.lines;
            }
        }
        self.ended = Some((lease, how));
    }

    fn drop_batch(&mut self, batch: BatchId) {
        let gone: Vec<Token> =
            self.spans.iter().filter(|(_, span)| span.batch == batch).map(|(token, _)| *token).collect();
        for token in gone {
            let lease = self.spans.remove(&token).and_then(|span| span.lease);
            if let Some(held) = lease.and_then(|lease| self.live.get_mut(&lease)) {
                held.remove(&token);
            }
        }
    }
}

/// [`Event::Claimed`]'s fields.
struct Claimed<'a> {
    batch: BatchId,
    lines: &'a LineSet,
    token: Token,
    from: Option<Token>,
    lease: LeaseId,
    suspicion: u32,
    alone: bool,
}

/// [`Event::Freed`]'s fields.
struct Freed<'a> {
    batch: BatchId,
    lines: &'a LineSet,
    token: Token,
    from: Token,
    why: FreedWhy,
    suspicion: u32,
}

/// [`Event::Recorded`]'s fields.
struct Recorded {
    batch: BatchId,
    line: u64,
    token: Token,
    lease: LeaseId,
    status: OutcomeStatus,
    attempts: u32,
    crashes: u32,
    why: RecordedWhy,
}

impl Checker for Poison {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::RowKills { batch, line } => {
                self.kills.insert((*batch, *line));
            }
            Event::LeaseTaken { lease, .. } => {
                self.live.insert(*lease, BTreeSet::new());
            }
            Event::LeaseEnded { lease, how, .. } => self.end_lease(*lease, *how),
            Event::BatchLoaded { batch, total, attempts_max, crashes_max, .. } => {
                self.fresh.insert(*batch, *total);
                self.limits.insert(*batch, (*attempts_max, *crashes_max));
            }
            Event::BatchAppended { batch, lines } => *self.fresh.entry(*batch).or_default() += lines.count(),
            &Event::Claimed { batch, ref lines, token, from, lease, suspicion, alone, .. } => {
                self.claim(at, &Claimed { batch, lines, token, from, lease, suspicion, alone })?;
            }
            &Event::Freed { batch, ref lines, token, from, why, suspicion, .. } => {
                self.free(at, &Freed { batch, lines, token, from, why, suspicion })?;
            }
            Event::Crashed { batch, line, token, lease } => self.crash(at, *batch, *line, *token, *lease)?,
            Event::CrashWithdrawn { batch, line, token, .. } => {
                let row = self.row(*batch, *line);
                row.withdrawn += u32::from(row.since.is_none_or(|since| since < *token));
            }
            &Event::Recorded { batch, line, token, lease, status, attempts, crashes, why } => {
                self.record(at, &Recorded { batch, line, token, lease, status, attempts, crashes, why })?;
            }
            Event::BatchAborted { batch, .. } => self.drop_batch(*batch),
            Event::RowsRetried { batch, spans, .. } => {
                for (lines, token) in spans {
                    for line in lines.iter() {
                        *self.row(*batch, line) = Counters { since: Some(*token), ..Counters::default() };
                    }
                    let count = lines.count();
                    let span =
                        Span { batch: *batch, lease: None, suspicion: 0, alone: false, lines: count, whole: count };
                    self.spans.insert(*token, span);
                }
            }
            _ => {
                self.health.on_event(at, event);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::history::Process;

    #[test]
    fn a_good_history_passes() {
        passes(&mut Poison::new(), &good_history());
    }

    fn crashed(line: u64, token: u64, by: u64) -> Event {
        Event::Crashed { batch: batch(), line, token: Token(token), lease: lease(by) }
    }

    /// Leases 1 and 2 die with line 1, the second time alone; `killer` is the row that killed the second.
    fn two_deaths(killer: Option<u64>) -> Vec<Event> {
        let died = LeaseEnd::Died;
        let mut events = started(1, 1);
        events.extend([batch_loaded(batch(), 2, 0), claimed(1..=2, 1, None, 1), lease_ended(1, died)]);
        events.extend([freed(1..=2, 2, 1, FreedWhy::Recovered, 1)]);
        events.extend(started(2, 2));
        events.extend([claimed_by(2, 1..=2, 3, Some(2), 1, 1, false), lease_ended(2, died)]);
        events.extend([freed(1..=1, 4, 3, FreedWhy::Recovered, 2), freed(2..=2, 5, 3, FreedWhy::Recovered, 2)]);
        for (by, token, from) in [(3, 6, 4), (4, 8, 7)] {
            events.extend(started(by, u64::from(by)));
            let by_row = killer.map(|line| (batch(), line));
            events.push(claimed_by(u64::from(by), 1..=1, token, Some(from), 1, by - 1, true));
            events.extend([
                Event::WorkerCrashed { process: Process(by), by_row },
                lease_ended(u64::from(by), died),
                crashed(1, token, u64::from(by)),
            ]);
            if by == 3 {
                events.push(freed(1..=1, 7, 6, FreedWhy::Recovered, 3));
            }
        }
        events
    }

    fn failed(attempts: u32, crashes: u32) -> Event {
        recorded_as(1, 9, 4, OutcomeStatus::Failed, attempts, crashes, RecordedWhy::CrashedTooOften)
    }

    #[test]
    fn a_killer_fails_and_its_neighbour_does_not() {
        let mut events = two_deaths(Some(1));
        events.push(failed(0, 2));
        passes(&mut Poison::new(), &events);
        let mut events = two_deaths(Some(2));
        events.push(failed(0, 2));
        fails(&mut Poison::new(), &events);
        let mut events = two_deaths(None);
        events.push(failed(0, 2));
        passes(&mut Poison::new(), &events);
    }

    #[test]
    fn mixed_up_counters_are_seen() {
        for wrong in [failed(1, 2), failed(0, 3)] {
            let mut events = two_deaths(None);
            events.push(wrong);
            fails(&mut Poison::new(), &events);
        }
        let mut events = two_deaths(None);
        events.pop();
        events.push(failed(0, 1));
        fails(&mut Poison::new(), &events);
    }

    #[test]
    fn many_at_once_may_miss_a_withdrawal_and_count_no_crash_that_was_none() {
        let mut events = two_deaths(None);
        events.push(Event::CrashWithdrawn { batch: batch(), line: 1, token: Token(6), lease: lease(3) });
        for (crashes, alone, many) in [(1, true, true), (2, false, true), (0, false, false), (3, false, false)] {
            let mut events = events.clone();
            events.push(recorded_as(1, 9, 4, OutcomeStatus::Failed, 1, crashes, RecordedWhy::Answered));
            let bears = |mut checker| first_failure(&mut checker, &at_ms(0, events.clone())).is_none();
            assert_eq!(bears(Poison::new()), alone, "{crashes} crashes, one after the other");
            assert_eq!(bears(Poison::of_many_at_once()), many, "{crashes} crashes, many at once");
        }
    }

    #[test]
    fn broken_suspicion_is_seen() {
        let suspect = || {
            let mut events = loaded(5);
            events.extend([claimed(1..=4, 1, None, 1), lease_ended(1, LeaseEnd::Died)]);
            events.extend([freed(1..=4, 2, 1, FreedWhy::Recovered, 1), lease_taken(2)]);
            events
        };
        let breaks = [
            // Forgotten.
            vec![claimed_by(2, 1..=4, 3, Some(2), 1, 0, false)],
            // Not halved.
            vec![
                claimed_by(2, 1..=4, 3, Some(2), 1, 1, false),
                lease_ended(2, LeaseEnd::Died),
                freed(1..=4, 4, 3, FreedWhy::Recovered, 2),
            ],
            // Not grown.
            vec![
                claimed_by(2, 1..=4, 3, Some(2), 1, 1, false),
                lease_ended(2, LeaseEnd::Died),
                freed(1..=2, 4, 3, FreedWhy::Recovered, 1),
            ],
            // Two of two on suspects, and there is a fresh line.
            vec![
                lease_taken(3),
                claimed_by(2, 1..=2, 3, Some(2), 1, 1, false),
                freed(3..=4, 4, 2, FreedWhy::Split, 1),
                claimed_by(3, 3..=4, 5, Some(4), 1, 1, false),
            ],
            // A second suspect span.
            vec![
                claimed_by(2, 1..=2, 3, Some(2), 1, 1, false),
                freed(3..=4, 4, 2, FreedWhy::Split, 1),
                claimed_by(2, 3..=4, 5, Some(4), 2, 1, false),
            ],
            // A single suspect, not alone.
            vec![
                claimed_by(2, 1..=3, 3, Some(2), 1, 1, false),
                freed(4..=4, 4, 2, FreedWhy::Split, 1),
                claimed_by(2, 4..=4, 5, Some(4), 2, 1, false),
            ],
            // Alone, beside others.
            vec![
                claimed_by(2, 1..=3, 3, Some(2), 1, 1, false),
                freed(4..=4, 4, 2, FreedWhy::Split, 1),
                claimed_by(2, 4..=4, 5, Some(4), 2, 1, true),
            ],
            // A crash that did not run alone.
            vec![claimed_by(2, 1..=4, 3, Some(2), 1, 1, false), lease_ended(2, LeaseEnd::Died), crashed(1, 3, 2)],
        ];
        for (which, broken) in breaks.into_iter().enumerate() {
            let mut events = suspect();
            events.extend(broken);
            fails(&mut Poison::new(), &events);
            // The quota, the fourth, is the one that many at once may pass.
            let bears = first_failure(&mut Poison::of_many_at_once(), &at_ms(0, events)).is_none();
            assert_eq!(bears, which == 3, "break {which}");
        }
    }

    #[test]
    fn a_quota_passed_over_beside_appended_lines_is_seen() {
        let mut events = loaded(4);
        events.extend([claimed(1..=4, 1, None, 1), lease_ended(1, LeaseEnd::Died)]);
        events.extend([freed(1..=4, 2, 1, FreedWhy::Recovered, 1), lease_taken(2), lease_taken(3)]);
        events.extend([claimed_by(2, 1..=2, 3, Some(2), 1, 1, false), freed(3..=4, 4, 2, FreedWhy::Split, 1)]);
        let second = claimed_by(3, 3..=4, 5, Some(4), 1, 1, false);
        passes(&mut Poison::new(), &[&events[..], std::slice::from_ref(&second)].concat());
        events.extend([appended(5, 5), second]);
        fails(&mut Poison::new(), &events);
    }

    #[test]
    fn a_killer_that_succeeds_is_seen() {
        let mut events = loaded(1);
        events.extend([Event::RowKills { batch: batch(), line: 1 }, claimed(1..=1, 1, None, 1), recorded(1, 1, 1)]);
        fails(&mut Poison::new(), &events);
    }

    #[test]
    fn a_retried_row_starts_anew_and_its_neighbour_does_not() {
        let retry_of = |line, token, from| freed(line..=line, token, from, FreedWhy::Retried, 0);
        let failed = |line, token, attempts| {
            recorded_as(line, token, 1, OutcomeStatus::Failed, attempts, 0, RecordedWhy::Answered)
        };
        let mut events = loaded(2);
        events.extend([claimed(1..=2, 1, None, 1), retry_of(1, 2, 1), retry_of(2, 3, 1)]);
        events.extend([claimed(1..=1, 4, Some(2), 2), failed(1, 4, 2), retried(1, &[(1..=1, 5)])]);
        events.extend([claimed(1..=1, 6, Some(5), 3), claimed(2..=2, 7, Some(3), 4)]);
        passes(&mut Poison::new(), &[events.clone(), vec![failed(1, 6, 1), failed(2, 7, 2)]].concat());
        fails(&mut Poison::new(), &[events.clone(), vec![failed(1, 6, 2)]].concat());
        fails(&mut Poison::new(), &[events, vec![failed(2, 7, 1)]].concat());
    }

    #[test]
    fn a_crash_from_before_a_retry_is_taken_back_for_nothing() {
        let mut events = two_deaths(Some(1));
        events.extend([failed(0, 2), retried(1, &[(1..=1, 10)])]);
        events.push(Event::CrashWithdrawn { batch: batch(), line: 1, token: Token(6), lease: lease(3) });
        // A death in which it comes under suspicion, then one alone.
        events.extend(started(5, 5));
        events.extend([claimed_by(5, 1..=1, 11, Some(10), 1, 0, false), lease_ended(5, LeaseEnd::Died)]);
        events.push(freed(1..=1, 12, 11, FreedWhy::Recovered, 1));
        events.extend(started(6, 6));
        events.extend([claimed_by(6, 1..=1, 13, Some(12), 1, 1, true), lease_ended(6, LeaseEnd::Died)]);
        events.extend([crashed(1, 13, 6), freed(1..=1, 14, 13, FreedWhy::Recovered, 2)]);
        events.extend(started(7, 7));
        events.push(claimed_by(7, 1..=1, 15, Some(14), 1, 2, true));
        let at = |crashes| recorded_as(1, 15, 7, OutcomeStatus::Failed, 1, crashes, RecordedWhy::Answered);
        fails(&mut Poison::new(), &[events.clone(), vec![at(3)]].concat());
        fails(&mut Poison::new(), &[events.clone(), vec![at(0)]].concat());
        passes(&mut Poison::new(), &[events, vec![at(1)]].concat());
    }

    #[test]
    fn rows_that_run_out_early_late_or_by_no_death_are_seen() {
        let retry_of = |token, from| freed(1..=1, token, from, FreedWhy::Retried, 0);
        let exhausted =
            |token, attempts| recorded_as(1, token, 1, OutcomeStatus::Failed, attempts, 0, RecordedWhy::Exhausted);
        // Attempts: three at most.
        let two = vec![claimed(1..=1, 1, None, 1), retry_of(2, 1), claimed(1..=1, 3, Some(2), 2)];
        fails_with(Poison::new(), &[loaded(1), two.clone(), vec![exhausted(3, 2)]].concat(), "fails early");
        let three = [loaded(1), two, vec![retry_of(4, 3), claimed(1..=1, 5, Some(4), 3)]].concat();
        passes(&mut Poison::new(), &[three.clone(), vec![exhausted(5, 3)]].concat());
        fails_with(Poison::new(), &[three, vec![retry_of(6, 5)]].concat(), "has used 3 attempts and is free");
        // Crashes: two at least.
        let mut one_crash = two_deaths(None);
        let second = one_crash.iter().rposition(|event| matches!(event, Event::WorkerCrashed { .. })).unwrap_or(0);
        one_crash.truncate(second);
        fails_with(Poison::new(), &[one_crash.clone(), vec![failed(0, 1)]].concat(), "fails early");
        // By an orderly exit, and by none.
        let dropped = [lease_ended(4, LeaseEnd::Dropped), crashed(1, 8, 4)].to_vec();
        fails_with(Poison::new(), &[one_crash.clone(), dropped].concat(), "was not judged");
        fails_with(Poison::new(), &[one_crash, vec![crashed(1, 8, 4)]].concat(), "was not judged");
    }

    #[test]
    fn who_runs_a_suspect_alone_claims_nothing_and_nothing_else_is_claimed_alone() {
        let mut events = loaded(3);
        events.extend([claimed(1..=1, 1, None, 1), lease_ended(1, LeaseEnd::Died)]);
        events.extend([freed(1..=1, 2, 1, FreedWhy::Recovered, 1), lease_taken(2)]);
        let alone = claimed_by(2, 1..=1, 3, Some(2), 1, 1, true);
        let more = claimed_by(2, 2..=2, 4, None, 2, 0, false);
        passes(&mut Poison::new(), &[events.clone(), vec![alone.clone()]].concat());
        fails_with(Poison::new(), &[events.clone(), vec![alone, more]].concat(), "claims beside a suspect");
        let fresh = claimed_by(2, 2..=2, 4, None, 2, 0, true);
        fails_with(Poison::new(), &[events.clone(), vec![fresh]].concat(), "a single suspect: false");
        let unknown = freed(1..=1, 4, 9, FreedWhy::GivenBack, 0);
        fails_with(Poison::new(), &[events, vec![unknown]].concat(), "unknown span");
    }
}
