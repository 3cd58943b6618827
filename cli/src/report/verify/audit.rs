//! The judgement: facts in, line by line, findings and ledger out. Pure, and small however large the batch is: what it keeps of lines are
//! ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::rules::outcome::o4_batch_end;
use fencepost_core::rules::recovery::r4_bound;
use fencepost_core::{LeaseId, LineRange, LineSet};

use super::code::Code;
use super::line::Line;
use super::{Finding, Ledger, Recoveries, TOKENS_MAX, VerifyReport};
use crate::report::Counts;
use crate::store::verify::{BatchFacts, EntryFact, EntryKind, LeaseFact, OutcomeFact, Tallies};

/// R4: what a recovery may take beyond its bound before it is overdue: a busy machine, a `scan` that is longer than the ttl.
const RECOVERY_SLACK: Duration = Duration::from_secs(60);

/// An inspection under way.
pub(super) struct Audit {
    facts: BatchFacts,
    found: BTreeMap<(Code, Option<LeaseId>), Found>,
    /// Ranges of lines in spans, by first line; and the token of each.
    open: Vec<(LineRange, u64)>,
    outcomes: LineSet,
    counted: Tallies,
    ledger: Ledger,
    line: Line,
    /// Entries of several lines that may cover the line, or later ones.
    ranges: Vec<EntryFact>,
    /// Lines of the log that count as never claimed.
    fresh_in_log: LineSet,
}

impl Audit {
    pub fn new(facts: BatchFacts) -> Self {
        let spans = facts.spans.iter().filter_map(|span| Some((span.token, span.lines.as_ref().ok()?)));
        let mut open: Vec<(LineRange, u64)> =
            spans.flat_map(|(token, lines)| lines.ranges().iter().map(move |range| (*range, token))).collect();
        open.sort_unstable();
        let held = facts.spans.iter().filter(|span| span.lease.is_some());
        let inprog = held.filter_map(|span| span.lines.as_ref().ok()).map(LineSet::count).sum();
        let ledger = Ledger { counts: Counts { inprog, ..Counts::default() }, ..Ledger::default() };
        Self {
            facts,
            open,
            found: BTreeMap::new(),
            outcomes: LineSet::new(),
            counted: Tallies::default(),
            ledger,
            line: Line::default(),
            ranges: Vec::new(),
            fresh_in_log: LineSet::new(),
        }
    }

    /// What was found of this kind; about this lease, where it is about one.
    fn found(&mut self, code: Code, lease: Option<LeaseId>) -> &mut Found {
        let found = self.found.entry((code, lease)).or_default();
        found.leases.extend(lease);
        found
    }

    fn about_lines(&mut self, code: Code, lines: &LineSet) {
        if !lines.is_empty() {
            self.found(code, None).lines.extend(lines.ranges());
        }
    }

    fn about_token(&mut self, code: Code, line: u64, token: u64) {
        let found = self.found(code, None);
        found.lines.push(LineRange { first: line, last: line });
        found.token(token);
    }

    fn about_span(&mut self, code: Code, lease: Option<LeaseId>, lines: &LineSet, token: u64) {
        let found = self.found(code, lease);
        found.lines.extend(lines.ranges());
        found.token(token);
    }

    pub fn entry(&mut self, entry: EntryFact) {
        self.turn_to(entry.first);
        let lines = LineRange { first: entry.first, last: entry.last.max(entry.first) };
        let count = lines.count();
        let log = &mut self.ledger.log;
        match entry.kind {
            EntryKind::Retried => log.retried += 1,
            EntryKind::TimedOut => log.timed_out += 1,
            EntryKind::Crashed => log.crashed += 1,
            EntryKind::CrashWithdrawn => log.crash_withdrawn += 1,
            EntryKind::Fenced => log.fenced += 1,
            EntryKind::Recovered => log.recovered += count,
            EntryKind::GivenBack => log.given_back += count,
            EntryKind::Superseded => log.superseded += 1,
        }
        // Of a late answer the token is what its sender says.
        let [issued, newest] = match entry.kind {
            EntryKind::Fenced => [Code::FencedWrongly; 2],
            _ => [Code::TokenNotIssued, Code::TokenNotNewest],
        };
        self.stamped(entry.first, entry.token, entry.generation, issued);
        // T3: whoever has the line now has it under a newer token.
        let first = self.open.partition_point(|(range, _)| range.last < lines.first);
        let overlapping: Vec<(LineRange, u64)> = self.open[first..]
            .iter()
            .take_while(|(range, _)| range.first <= lines.last)
            .filter(|(_, token)| *token <= entry.token)
            .copied()
            .collect();
        for (range, token) in overlapping {
            let both = LineSet::range(range.first.max(lines.first), range.last.min(lines.last));
            self.about_lines(newest, &both);
            self.found(newest, None).token(token);
            self.found(newest, None).token(entry.token);
        }
        if lines.last >= self.facts.batch.cursor {
            let fresh = LineSet::range(lines.first.max(self.facts.batch.cursor), lines.last);
            self.fresh_in_log = self.fresh_in_log.union(&fresh);
        }
        if lines.first == lines.last { self.line.entries.push(entry) } else { self.ranges.push(entry) }
    }

    pub fn outcome(&mut self, outcome: OutcomeFact) {
        self.turn_to(outcome.line);
        if outcome.success {
            self.counted.success += 1;
        } else {
            self.counted.failed += 1;
        }
        self.stamped(outcome.line, outcome.token, outcome.generation, Code::TokenNotIssued);
        if !outcome.whole {
            self.about_token(Code::OutcomeIncomplete, outcome.line, outcome.token);
        }
        if !self.outcomes.insert(outcome.line) {
            self.about_token(Code::TwoOutcomes, outcome.line, outcome.token);
        }
        self.line.outcome = Some(outcome);
    }

    fn stamped(&mut self, line: u64, token: u64, generation: i64, issued: Code) {
        if token == 0 || token > self.facts.last_token {
            self.about_token(issued, line, token);
        }
        if !(1..=i64::from(self.facts.batch.generation)).contains(&generation) {
            self.about_token(Code::GenerationUnknown, line, token);
        }
    }

    fn turn_to(&mut self, line: u64) {
        if line == self.line.line {
            return;
        }
        self.settle();
        self.line = Line::new(line);
        self.ranges.retain(|range| range.last >= line);
    }

    fn settle(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let covering = self.ranges.iter().filter(|range| (range.first..=range.last).contains(&line.line));
        let settled = line.settle(covering, self.facts.batch.crashes_max);
        for (code, token) in settled.wrong {
            self.about_token(code, line.line, token);
        }
        if settled.runs > 0 {
            *self.ledger.runs.entry(settled.runs).or_default() += 1;
        }
    }

    pub fn finish(mut self) -> VerifyReport {
        self.settle();
        self.rows();
        let open = self.tiling();
        self.spans();
        self.counts();
        self.batch_end(&open);
        self.calls();
        self.stopping();
        self.appends();
        self.shared_tokens();
        let counts = self.row_counts();
        let ran: u64 = self.ledger.runs.values().sum();
        let never = self.facts.batch.total.saturating_sub(ran);
        if never > 0 {
            self.ledger.runs.insert(0, never);
        }
        let recoveries = self.recoveries();
        let findings = self.found.into_iter().map(|((code, _), found)| found.finding(code)).collect();
        let batch = &self.facts.batch;
        let held = batch.held && batch.status == BatchStatus::Open;
        VerifyReport {
            batch: batch.batch,
            key: batch.key.clone(),
            operation: batch.operation.clone(),
            status: if held { "held" } else { batch.status.name() },
            rows: batch.total,
            ledger: Ledger { counts, recoveries, ..self.ledger },
            findings,
        }
    }

    fn rows(&mut self) {
        let missing = self.facts.missing.clone();
        self.about_lines(Code::RowMissing, &missing);
        // S3: what an append has stored so far lies beyond the total.
        let staged = self.facts.appends.iter().filter(|append| !append.done);
        let staged =
            LineSet::covering(staged.filter_map(|append| append_lines(append.first_line, append.line_count)).collect());
        let beyond = self.facts.beyond.difference(&staged);
        self.about_lines(Code::RowBeyond, &beyond);
        if self.facts.purge_begun {
            self.found(Code::PurgeBegun, None);
        }
    }

    /// Whether outcomes, spans and lines past the cursor cover the batch exactly once. Returns the lines in spans.
    fn tiling(&mut self) -> LineSet {
        let batch = &self.facts.batch;
        let all = LineSet::range(1, batch.total);
        let ended = !matches!(batch.status, BatchStatus::Open | BatchStatus::Loading);
        let fresh = if ended { LineSet::new() } else { LineSet::range(batch.cursor, batch.total) };
        let aborted = batch.status == BatchStatus::Aborted;
        let open = LineSet::covering(self.open.iter().map(|(range, _)| *range).collect());
        let recorded = self.outcomes.clone();

        let mut twice = Vec::new();
        let mut last = 0;
        for (range, _) in &self.open {
            if range.first <= last {
                twice.push(LineRange { first: range.first, last: range.last.min(last) });
            }
            last = last.max(range.last);
        }
        self.about_lines(Code::TwoSpans, &LineSet::covering(twice));
        self.about_lines(Code::OutcomeAndOpen, &recorded.intersection(&open));
        let claimed = recorded.union(&open).union(&self.fresh_in_log);
        self.about_lines(Code::BeyondCursor, &claimed.intersection(&fresh));
        self.about_lines(Code::OutsideBatch, &recorded.union(&open).difference(&all));
        if !aborted {
            self.about_lines(Code::RowLost, &all.difference(&recorded).difference(&open).difference(&fresh));
        }
        if ended {
            self.about_lines(Code::SpanInEndedBatch, &open);
            for token in self.facts.spans.iter().map(|span| span.token).collect::<Vec<_>>() {
                self.found(Code::SpanInEndedBatch, None).token(token);
            }
        }
        open
    }

    fn spans(&mut self) {
        let leases: BTreeMap<LeaseId, LeaseFact> =
            self.facts.leases.iter().map(|lease| (lease.lease, lease.clone())).collect();
        for span in std::mem::take(&mut self.facts.spans) {
            let token = span.token;
            let lines = match span.lines {
                Ok(lines) => lines,
                Err(text) => {
                    let found = self.found(Code::SpanUnreadable, None);
                    found.token(token);
                    found.detail = Some(format!("it says {text:?}"));
                    continue;
                }
            };
            let first = lines.first().unwrap_or_default();
            let counted = i64::try_from(lines.count()).unwrap_or(i64::MAX);
            if span.line_count != counted || span.first_line > i64::try_from(first).unwrap_or(i64::MAX) {
                self.about_span(Code::SpanMiscounted, None, &lines, token);
            }
            if token == 0 || token > self.facts.last_token {
                self.about_span(Code::TokenNotIssued, None, &lines, token);
            }
            let Some(id) = span.lease else { continue };
            let Some(lease) = leases.get(&id) else {
                self.about_span(Code::HeldByUnknownLease, Some(id), &lines, token);
                continue;
            };
            if lease.state != LeaseState::Live {
                self.about_span(Code::HeldByEndedLease, Some(id), &lines, token);
            } else if self.is_overdue(lease, &leases) {
                self.about_span(Code::RecoveryOverdue, Some(id), &lines, token);
            }
            if !span.claim_number.is_some_and(|number| (1..=lease.claims).contains(&number)) {
                self.about_span(Code::ClaimUnknown, Some(id), &lines, token);
            }
        }
    }

    /// R4: silent for so long that somebody who was there all the time would have recovered it. Without such a one it waits, for days if need be.
    fn is_overdue(&self, lease: &LeaseFact, leases: &BTreeMap<LeaseId, LeaseFact>) -> bool {
        let now = self.facts.now;
        let bound = |watcher: &LeaseFact| {
            r4_bound(lease.ttl * 2, lease.renew, lease.ttl.max(watcher.ttl), false, RECOVERY_SLACK)
        };
        let watches = |watcher: &LeaseFact| {
            watcher.lease != lease.lease
                && watcher.state == LeaseState::Live
                && now < watcher.expires_at
                && now.since(watcher.taken_at.max(lease.expires_at)) > bound(watcher)
        };
        leases.values().any(watches)
    }

    fn counts(&mut self) {
        let log = &self.ledger.log;
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (stored, counted) = (self.facts.tallies, self.counted);
        let differing: Vec<String> = [
            ("success", stored.success, counted.success),
            ("failed", stored.failed, counted.failed),
            ("retried", stored.retried, count(log.retried)),
            ("timed_out", stored.timed_out, count(log.timed_out)),
            ("fenced", stored.fenced, count(log.fenced)),
        ]
        .into_iter()
        .filter(|(_, stored, counted)| stored != counted)
        .map(|(name, stored, counted)| format!("{name} is stored as {stored} and is {counted}"))
        .collect();
        if !differing.is_empty() {
            self.found(Code::CountDiffers, None).detail = Some(differing.join(", "));
        }
    }

    /// O4: whether the batch's status is what its spans and outcomes make it.
    fn batch_end(&mut self, open: &LineSet) {
        let batch = &self.facts.batch;
        let fresh = batch.cursor <= batch.total;
        let failed = u64::try_from(self.counted.failed).unwrap_or(0);
        let (status, cursor, ended_at) = (batch.status, batch.cursor, batch.ended_at);
        let is_open = !open.is_empty() || self.found.contains_key(&(Code::SpanUnreadable, None));
        match status {
            BatchStatus::Loading | BatchStatus::Aborted => {}
            BatchStatus::Open => {
                if o4_batch_end(fresh, is_open, failed).is_some() {
                    self.found(Code::BatchNotEnded, None);
                }
            }
            BatchStatus::Success | BatchStatus::Failed => {
                if o4_batch_end(false, false, failed) != Some(status) {
                    let detail = format!("it is {}, and {failed} rows have failed", status.name());
                    self.found(Code::BatchStatus, None).detail = Some(detail);
                }
                if fresh {
                    self.found(Code::CursorBehind, None).detail = Some(format!("it is at line {cursor}"));
                }
            }
        }
        if ended_at.is_some() != matches!(status, BatchStatus::Success | BatchStatus::Failed | BatchStatus::Aborted) {
            self.found(Code::BatchEndTime, None);
        }
    }

    /// S7: one call for the end of each generation.
    fn calls(&mut self) {
        let batch = &self.facts.batch;
        let ended = matches!(batch.status, BatchStatus::Success | BatchStatus::Failed | BatchStatus::Aborted);
        let (generation, total) = (i64::from(batch.generation), i64::try_from(batch.total).unwrap_or(i64::MAX));
        let (status, ended_at) = (batch.status.name(), batch.ended_at);
        let due: BTreeSet<i64> = (1..=if ended { generation } else { generation - 1 }).collect();
        let calls = std::mem::take(&mut self.facts.calls);
        let there: BTreeSet<i64> = calls.iter().map(|call| call.generation).collect();
        let named = |generations: Vec<&i64>| {
            let named: Vec<String> = generations.into_iter().map(i64::to_string).collect();
            (!named.is_empty()).then(|| format!("generation {}", named.join(", ")))
        };
        if let Some(detail) = named(due.difference(&there).collect()) {
            self.found(Code::CallMissing, None).detail = Some(detail);
        }
        if let Some(detail) = named(there.difference(&due).collect()) {
            self.found(Code::CallWithoutEnd, None).detail = Some(detail);
        }
        let Tallies { success, failed, .. } = self.counted;
        for call in calls {
            let of_itself = match call.status.as_str() {
                "success" => call.failed == 0 && call.aborted == 0,
                "failed" => call.failed > 0 && call.aborted == 0,
                // Those that an operator retried later are counted as they were.
                "aborted" => true,
                _ => false,
            } && call.success >= 0
                && call.failed >= 0
                && call.aborted >= 0
                && call.success.saturating_add(call.failed).saturating_add(call.aborted) <= total;
            let is_last = ended && call.generation == generation;
            let of_batch = !is_last
                || (call.status == status
                    && (call.success, call.failed, call.aborted) == (success, failed, total - success - failed)
                    && ended_at.is_none_or(|ended_at| ended_at == call.ended_at));
            if !of_itself || !of_batch {
                self.found(Code::CallDiffers, None).detail = Some(format!("generation {}", call.generation));
            }
            let live = |id: LeaseId| {
                self.facts.leases.iter().any(|lease| lease.lease == id && lease.state == LeaseState::Live)
            };
            if call.lease.is_some_and(|id| call.delivered || call.token.is_none() || !live(id)) {
                let detail = format!("generation {}", call.generation);
                self.found(Code::CallHeldWrongly, call.lease).detail = Some(detail);
            }
            if call.token.is_some_and(|token| token > self.facts.last_token) {
                self.found(Code::TokenNotIssued, None).token(call.token.unwrap_or_default());
            }
        }
    }

    /// S2: what may still run of an aborted batch: lines without an outcome, of live leases.
    fn stopping(&mut self) {
        let aborted = self.facts.batch.status == BatchStatus::Aborted;
        for stopping in std::mem::take(&mut self.facts.stopping) {
            let live = |lease: &LeaseFact| lease.lease == stopping.lease && lease.state == LeaseState::Live;
            let live = self.facts.leases.iter().any(live);
            let lines = stopping.lines.unwrap_or_default();
            let possible = aborted && live && !lines.is_empty() && lines.intersection(&self.outcomes).is_empty();
            if !possible {
                self.about_span(Code::StoppingWrong, Some(stopping.lease), &lines, stopping.token);
            }
        }
    }

    fn appends(&mut self) {
        let total = self.facts.batch.total;
        let done = self.facts.appends.iter().filter(|append| append.done);
        let lines =
            LineSet::covering(done.filter_map(|append| append_lines(append.first_line, append.line_count)).collect());
        self.about_lines(Code::AppendDiffers, &lines.difference(&LineSet::range(1, total)));
    }

    fn shared_tokens(&mut self) {
        for shared in std::mem::take(&mut self.facts.shared_tokens) {
            let found = self.found(Code::TokenShared, None);
            found.token(shared.token);
            found.leases.extend(shared.leases.into_iter().flatten());
            found.lines.extend(shared.lines.map(|line| LineRange { first: line, last: line }));
        }
    }

    fn row_counts(&self) -> Counts {
        let batch = &self.facts.batch;
        let natural = |count: i64| u64::try_from(count).unwrap_or(0);
        let (success, failed) = (natural(self.counted.success), natural(self.counted.failed));
        let rest = batch.total.saturating_sub(success + failed);
        if batch.status == BatchStatus::Aborted {
            return Counts { success, failed, aborted: rest, ..Counts::default() };
        }
        let inprog = self.ledger.counts.inprog.min(rest);
        Counts { queued: rest - inprog, inprog, success, failed, aborted: 0 }
    }

    /// How long it took from the last sign of life of each lease to the end that it was given.
    fn recoveries(&self) -> Recoveries {
        let known = self.facts.recovered_from.iter().filter_map(|lease| lease.ended);
        let mut delays: Vec<Duration> =
            known.map(|(ttl, expires_at, ended_at)| ended_at.since(expires_at - ttl)).collect();
        delays.sort_unstable();
        Recoveries { leases: self.facts.recovered_from.len(), delays }
    }
}

/// What was found of one kind.
#[derive(Default)]
struct Found {
    lines: Vec<LineRange>,
    tokens: BTreeSet<u64>,
    leases: BTreeSet<LeaseId>,
    detail: Option<String>,
}

impl Found {
    fn token(&mut self, token: u64) {
        if self.tokens.len() < TOKENS_MAX {
            self.tokens.insert(token);
        }
    }

    fn finding(self, code: Code) -> Finding {
        Finding {
            code,
            lines: LineSet::covering(self.lines),
            tokens: self.tokens.into_iter().collect(),
            leases: self.leases.into_iter().collect(),
            detail: self.detail,
        }
    }
}

fn append_lines(first_line: i64, line_count: i64) -> Option<LineRange> {
    let (first, count) = (u64::try_from(first_line).ok()?, u64::try_from(line_count).ok()?);
    (count > 0).then(|| LineRange { first, last: first.saturating_add(count - 1) })
}
