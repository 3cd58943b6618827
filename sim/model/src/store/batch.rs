//! One batch of the model: rows, outcomes, spans, log, tallies.

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::rules::claim::{BatchStatus, c3_claimable};
use fencepost_core::rules::poison::p2_wants_idle_worker;
use fencepost_core::store::{Grant, GrantedRow};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use super::log::Log;
use crate::history::OutcomeStatus;
use crate::view::{RowCounts, Tally};

/// What a submit says of its batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchSpec {
    /// Its id, chosen by the submitter.
    pub batch: BatchId,
    /// The operation: names the handler.
    pub operation: String,
    /// Higher comes first.
    pub priority: i32,
    /// O5: attempts that a row has.
    pub attempts_max: u32,
    /// P2: with so many crashes a row fails.
    pub crashes_max: u32,
    /// O6: how long a run may take.
    pub timeout: Duration,
    /// S7: where its ends are told.
    pub on_done_url: Option<String>,
}

impl BatchSpec {
    /// Three attempts, three crashes, a minute, priority 0.
    pub fn new(batch: BatchId, operation: &str) -> Self {
        Self {
            batch,
            operation: operation.to_owned(),
            priority: 0,
            attempts_max: 3,
            crashes_max: 3,
            timeout: Duration::from_secs(60),
            on_done_url: None,
        }
    }
}

/// Rows to load.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Rows {
    /// So many rows with empty inputs: they cost no memory.
    Empty(u64),
    /// Rows with these inputs.
    Inputs(Vec<Box<str>>),
}

/// A recorded outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// How the row ended.
    pub status: OutcomeStatus,
    /// The result of a success, the error of a failure.
    pub text: Box<str>,
    /// Under which token.
    pub token: Token,
    /// Under which lease.
    pub lease: LeaseId,
    /// Attempts used.
    pub attempts: u32,
    /// Crashes counted.
    pub crashes: u32,
    /// In which generation.
    pub generation: u32,
    /// How long the run took.
    pub run_time: Duration,
    /// When it was recorded.
    pub recorded_at: StoreTime,
}

/// Who holds a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub lease: LeaseId,
    pub number: u64,
    pub alone: bool,
}

/// A span; its token is the key that it is kept under.
#[derive(Debug, Clone, Hash)]
pub(super) struct Span {
    pub lines: LineSet,
    pub holder: Option<Holder>,
    pub not_before: Option<StoreTime>,
    pub suspicion: u32,
    pub tried: bool,
    pub from_lease: Option<LeaseId>,
}

impl Span {
    pub(super) fn is_due(&self, now: StoreTime) -> bool {
        self.not_before.is_none_or(|not_before| not_before <= now)
    }

    pub(super) fn is_single_suspect(&self) -> bool {
        p2_wants_idle_worker(self.suspicion, self.lines.count())
    }

    pub(super) fn held_by(&self, lease: LeaseId) -> bool {
        self.holder.is_some_and(|holder| holder.lease == lease)
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Batch {
    pub spec: BatchSpec,
    pub status: BatchStatus,
    pub held: bool,
    pub total: u64,
    /// First line that was never claimed.
    pub cursor: u64,
    pub last_claim: Token,
    pub generation: u32,
    pub key: Option<Box<str>>,
    pub digest: Box<str>,
    pub created_at: StoreTime,
    pub ended_at: Option<StoreTime>,
    /// By line less one; empty where all inputs are.
    inputs: Vec<Box<str>>,
    spans: BTreeMap<Token, Span>,
    /// Free spans by first line: they are disjoint, so it tells them apart.
    free: BTreeMap<u64, Token>,
    single_suspects: usize,
    /// By line less one.
    outcomes: Vec<Option<Outcome>>,
    success: u64,
    failed: u64,
    inprog: u64,
    log: Log,
    tallies: BTreeMap<LeaseId, Tally>,
}

impl Batch {
    pub(super) fn new(now: StoreTime, spec: BatchSpec) -> Self {
        Self {
            spec,
            status: BatchStatus::Loading,
            held: false,
            total: 0,
            cursor: 1,
            last_claim: Token(0),
            generation: 1,
            key: None,
            digest: Box::default(),
            created_at: now,
            ended_at: None,
            inputs: Vec::new(),
            spans: BTreeMap::new(),
            free: BTreeMap::new(),
            single_suspects: 0,
            outcomes: Vec::new(),
            success: 0,
            failed: 0,
            inprog: 0,
            log: Log::default(),
            tallies: BTreeMap::new(),
        }
    }

    pub(super) fn load(&mut self, rows: Rows) {
        debug_assert_eq!(self.status, BatchStatus::Loading);
        match rows {
            Rows::Empty(count) => {
                self.total += count;
                if !self.inputs.is_empty() {
                    self.inputs.resize(index(self.total) + 1, Box::default());
                }
            }
            Rows::Inputs(inputs) => {
                self.inputs.resize(self.total as usize, Box::default());
                self.total += inputs.len() as u64;
                self.inputs.extend(inputs);
            }
        }
    }

    /// S3: the total is raised over these rows.
    pub(super) fn append(&mut self, rows: Vec<Box<str>>) {
        debug_assert_eq!(self.status, BatchStatus::Open);
        self.append_anyhow(rows);
    }

    /// Whatever its status.
    pub(super) fn append_anyhow(&mut self, rows: Vec<Box<str>>) {
        self.inputs.resize(self.total as usize, Box::default());
        self.total += rows.len() as u64;
        self.inputs.extend(rows);
        self.outcomes.resize(self.total as usize, None);
    }

    /// S4: the loading ends.
    pub(super) fn open(&mut self) {
        debug_assert_eq!(self.status, BatchStatus::Loading);
        self.status = BatchStatus::Open;
        self.outcomes.resize(self.total as usize, None);
    }

    pub(super) fn input(&self, line: u64) -> &str {
        self.inputs.get(index(line)).map_or("", |input| input)
    }

    pub(super) fn is_claimable(&self, operations: &[String]) -> bool {
        c3_claimable(self.status, self.held, &self.spec.operation, operations.iter().map(String::as_str))
    }

    pub(super) fn fresh_lines(&self) -> u64 {
        self.total + 1 - self.cursor
    }

    // Spans.

    pub(super) fn spans(&self) -> &BTreeMap<Token, Span> {
        &self.spans
    }

    pub(super) fn span(&self, token: Token) -> Option<&Span> {
        self.spans.get(&token)
    }

    /// Free spans by first line.
    pub(super) fn free_spans(&self) -> impl Iterator<Item = (Token, &Span)> {
        self.free.values().filter_map(|token| Some((*token, self.spans.get(token)?)))
    }

    /// P2: a due free suspect of one line, the first by line.
    pub(super) fn due_single_suspect(&self, now: StoreTime) -> Option<Token> {
        if self.single_suspects == 0 {
            return None;
        }
        let found = self.free_spans().find(|(_, span)| span.is_due(now) && span.is_single_suspect());
        found.map(|(token, _)| token)
    }

    pub(super) fn put_span(&mut self, token: Token, span: Span) {
        debug_assert!(self.spans.last_key_value().is_none_or(|(last, _)| *last < token), "tokens only grow");
        self.put_span_back(token, span);
    }

    /// Under a token that may be an old one.
    pub(super) fn put_span_back(&mut self, token: Token, span: Span) {
        let Some(first) = span.lines.first() else {
            unreachable!("a finished span is gone");
        };
        if span.holder.is_some() {
            self.inprog += span.lines.count();
        } else {
            let before = self.free.insert(first, token);
            debug_assert!(before.is_none(), "free spans are disjoint");
            self.single_suspects += usize::from(span.is_single_suspect());
        }
        self.spans.insert(token, span);
    }

    pub(super) fn take_span(&mut self, token: Token) -> Option<Span> {
        let span = self.spans.remove(&token)?;
        if span.holder.is_some() {
            self.inprog -= span.lines.count();
        } else if let Some(first) = span.lines.first() {
            self.free.remove(&first);
            self.single_suspects -= usize::from(span.is_single_suspect());
        }
        Some(span)
    }

    /// O1: takes a line out of the span that holds it under this token and lease. None: no span does.
    pub(super) fn take_line(&mut self, lease: LeaseId, token: Token, line: u64) -> Option<LeftSpan> {
        let span = self.spans.get_mut(&token)?;
        if !span.held_by(lease) || !span.lines.remove(line) {
            return None;
        }
        let left = LeftSpan {
            suspicion: span.suspicion,
            alone: span.holder.is_some_and(|holder| holder.alone),
            gone: span.lines.is_empty(),
        };
        self.inprog -= 1;
        if left.gone {
            self.spans.remove(&token);
        }
        Some(left)
    }

    /// Takes these lines out of a held span; true where it is gone now.
    pub(super) fn take_lines(&mut self, token: Token, lines: &LineSet) -> bool {
        let Some(span) = self.spans.get_mut(&token) else {
            return false;
        };
        debug_assert!(span.holder.is_some());
        let before = span.lines.count();
        span.lines = span.lines.difference(lines);
        self.inprog -= before - span.lines.count();
        let gone = span.lines.is_empty();
        if gone {
            self.spans.remove(&token);
        }
        gone
    }

    /// R2: cuts not-before times back.
    pub(super) fn cut_back(&mut self, latest: StoreTime) {
        for span in self.spans.values_mut().filter(|span| span.holder.is_none()) {
            span.not_before = span.not_before.map(|not_before| not_before.min(latest));
        }
    }

    /// S2: no span is left.
    pub(super) fn drop_spans(&mut self) -> BTreeMap<Token, Span> {
        self.free.clear();
        self.single_suspects = 0;
        self.inprog = 0;
        std::mem::take(&mut self.spans)
    }

    pub(super) fn grant(&self, token: Token, span: &Span, recovered_from: Option<String>) -> Grant {
        let row = |line| GrantedRow { line, attempts: self.log.used(line), input: self.input(line).into() };
        Grant {
            batch: self.spec.batch,
            operation: self.spec.operation.clone(),
            token,
            rows: span.lines.iter().map(row).collect(),
            suspicion: span.suspicion,
            alone: span.holder.is_some_and(|holder| holder.alone),
            recovered_from,
            timeout: self.spec.timeout,
        }
    }

    // Outcomes.

    pub(super) fn outcome(&self, line: u64) -> Option<&Outcome> {
        self.outcomes.get(index(line))?.as_ref()
    }

    /// The primary key (batch, line) refuses a second outcome.
    pub(super) fn append_outcome(&mut self, line: u64, outcome: Outcome) {
        let place = &mut self.outcomes[index(line)];
        assert!(place.is_none(), "an outcome of line {line} is there already");
        match outcome.status {
            OutcomeStatus::Success => self.success += 1,
            OutcomeStatus::Failed => self.failed += 1,
        }
        *place = Some(outcome);
    }

    /// S5: takes an outcome away.
    pub(super) fn take_outcome(&mut self, line: u64) -> Option<Outcome> {
        let outcome = self.outcomes.get_mut(index(line))?.take()?;
        match outcome.status {
            OutcomeStatus::Success => self.success -= 1,
            OutcomeStatus::Failed => self.failed -= 1,
        }
        Some(outcome)
    }

    /// Outcomes by line.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (u64, &Outcome)> {
        (1..).zip(&self.outcomes).filter_map(|(line, outcome)| Some((line, outcome.as_ref()?)))
    }

    pub(super) fn failed_rows(&self) -> u64 {
        self.failed
    }

    pub(super) fn tally(&mut self, lease: LeaseId) -> &mut Tally {
        self.tallies.entry(lease).or_default()
    }

    pub(super) fn tallies(&self) -> &BTreeMap<LeaseId, Tally> {
        &self.tallies
    }

    pub(super) fn counts(&self) -> RowCounts {
        let ended = self.success + self.failed;
        let open = self.total - ended;
        let aborted = self.status == BatchStatus::Aborted;
        RowCounts {
            queued: if aborted { 0 } else { open - self.inprog },
            inprog: self.inprog,
            success: self.success,
            failed: self.failed,
            aborted: if aborted { open } else { 0 },
        }
    }

    // Log.

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }
}

/// The span that a line was taken out of.
pub(super) struct LeftSpan {
    pub suspicion: u32,
    pub alone: bool,
    pub gone: bool,
}

fn index(line: u64) -> usize {
    usize::try_from(line).map_or(usize::MAX, |line| line.wrapping_sub(1))
}
