//! Mistakes that a store might make: each breaks one rule. The checkers must find each of them, or they prove nothing.
//!
//! The model is linked into tests and the simulator only, never into what is shipped. Where a transaction has one line for a
//! mistake, what the mistake does is here.

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{Answer, RecordItem, StoreRequest};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use super::batch::{LeftSpan, Span};
use super::log::LogKind;
use super::{FreedWhy, ModelStore, freed};

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// O1: an answer is recorded whoever holds its line.
    NoTokenCheck,
    /// O1: the fence is asked of the state before the last transaction.
    FenceOfAMomentAgo,
    /// L4, S1: whoever holds a line that somebody gives back loses it.
    GiveBackWithoutToken,
    /// O4: the end comes in a second transaction, with the process's next request.
    EndApart,
    /// P1: a crash uses an attempt.
    CrashUsesAttempt,
    /// P2: every line of a dead lease is charged a crash.
    WholeLeaseBlamed,
    /// P2: suspect ranges come back whole.
    SuspectsNotHalved,
    /// T3, R3: recovered lines keep their token.
    RecoveryKeepsTokens,
    /// S2: what was held at an abort is still recorded.
    LateOutcomesAfterAbort,
    /// S3: an append's end does not ask whether the batch is open.
    AppendToEnded,
    /// S5: a batch that a retry opens again is in the same generation.
    RetryKeepsGeneration,
    /// S6: a purge does not ask what may still run.
    PurgeAsksForNothing,
    /// O4, S7: the record of an end comes in a transaction of its own.
    CompletionApart,
    /// R2: leases that are far ahead stay so.
    NoCutBack,
    /// L2: a lease that ended is renewed.
    RenewsTheDead,
    /// L2: a live lease that is past its time is not renewed.
    RefusesTheLate,
    /// C1: two claims at the same moment read the same cursor.
    LinesGrantedTwice,
    /// S7: a call's answer is recorded whoever makes it.
    CallWithoutToken,
    /// P2: any number of workers work on suspects.
    QuotaIgnored,
    /// S3: a batch that is held is claimed from.
    ClaimsFromHeld,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::NoTokenCheck,
        Self::FenceOfAMomentAgo,
        Self::GiveBackWithoutToken,
        Self::EndApart,
        Self::CrashUsesAttempt,
        Self::WholeLeaseBlamed,
        Self::SuspectsNotHalved,
        Self::RecoveryKeepsTokens,
        Self::LateOutcomesAfterAbort,
        Self::AppendToEnded,
        Self::RetryKeepsGeneration,
        Self::PurgeAsksForNothing,
        Self::CompletionApart,
        Self::NoCutBack,
        Self::RenewsTheDead,
        Self::RefusesTheLate,
        Self::LinesGrantedTwice,
        Self::CallWithoutToken,
        Self::QuotaIgnored,
        Self::ClaimsFromHeld,
    ];

    /// The rule that it breaks, and how.
    pub const fn breaks(self) -> (&'static str, &'static str) {
        match self {
            Self::NoTokenCheck => ("O1", "an answer is recorded whoever holds its line"),
            Self::FenceOfAMomentAgo => ("O1", "the fence is asked of the state before the last transaction"),
            Self::GiveBackWithoutToken => ("L4", "whoever holds a line that somebody gives back loses it"),
            Self::EndApart => ("O4", "the end comes with the process's next request, if there is one"),
            Self::CrashUsesAttempt => ("P1", "a crash uses an attempt"),
            Self::WholeLeaseBlamed => ("P2", "every line of a dead lease is charged a crash"),
            Self::SuspectsNotHalved => ("P2", "suspect ranges come back whole"),
            Self::RecoveryKeepsTokens => ("T3", "recovered lines keep their token"),
            Self::LateOutcomesAfterAbort => ("S2", "what was held at an abort is still recorded"),
            Self::AppendToEnded => ("S3", "an append's end does not ask whether the batch is open"),
            Self::RetryKeepsGeneration => ("S5", "a batch that opens again is in the same generation"),
            Self::PurgeAsksForNothing => ("S6", "a purge does not ask what may still run"),
            Self::CompletionApart => ("S7", "the record of an end comes in a transaction of its own"),
            Self::NoCutBack => ("R2", "leases that are far ahead stay so"),
            Self::RenewsTheDead => ("L2", "a lease that ended is renewed"),
            Self::RefusesTheLate => ("L2", "a live lease that is past its time is not renewed"),
            Self::LinesGrantedTwice => ("C1", "two claims at the same moment read the same cursor"),
            Self::CallWithoutToken => ("S7", "a call's answer is recorded whoever makes it"),
            Self::QuotaIgnored => ("P2", "any number of workers work on suspects"),
            Self::ClaimsFromHeld => ("S3", "a batch that is held is claimed from"),
        }
    }
}

/// Claims of different leases that are less apart read the same cursor.
const SAME_MOMENT: Duration = Duration::from_millis(5);

/// A mistake, and what it needs to know of before.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Mistaken {
    makes: Option<Mistake>,
    now: StoreTime,
    /// Ends that are yet to be decided, with whose answers they came.
    ends: Vec<(LeaseId, BatchId)>,
    /// Ends that are yet to be recorded.
    completions: Vec<(StoreTime, BatchId, BatchStatus)>,
    /// What was held when the last transaction began, and when this one did.
    before: [Vec<HeldThen>; 2],
    /// The last claim of fresh lines: when, whose, of which batch, from where.
    cursor: Option<(StoreTime, LeaseId, BatchId, u64)>,
}

/// A held span of an open batch at some moment.
#[derive(Debug, Clone, Hash)]
struct HeldThen {
    batch: BatchId,
    token: Token,
    lease: LeaseId,
    lines: LineSet,
}

impl ModelStore {
    /// A store that makes a mistake.
    #[must_use]
    pub fn with_mistake(self, mistake: Mistake) -> Self {
        let mistaken = Mistaken { makes: Some(mistake), ..Mistaken::default() };
        Self { mistaken, ..self }
    }

    pub(super) fn makes(&self, mistake: Mistake) -> bool {
        self.mistaken.makes == Some(mistake)
    }

    /// At the beginning of each request.
    pub(super) fn begin_mistaken(&mut self, now: StoreTime, request: Option<&StoreRequest>) {
        self.mistaken.now = now;
        match self.mistaken.makes {
            Some(Mistake::FenceOfAMomentAgo) => self.note_held(),
            Some(Mistake::CompletionApart) => {
                for (at, batch, status) in std::mem::take(&mut self.mistaken.completions) {
                    self.add_completion(at, batch, status);
                }
            }
            Some(Mistake::EndApart) => {
                let whose = request.and_then(lease_of);
                let (due, later) =
                    std::mem::take(&mut self.mistaken.ends).into_iter().partition(|(lease, _)| Some(*lease) == whose);
                self.mistaken.ends = later;
                let due: Vec<(LeaseId, BatchId)> = due;
                for (_, batch) in due {
                    self.end_if_done(now, batch);
                }
            }
            _ => {}
        }
    }

    pub(super) fn end_later(&mut self, lease: LeaseId, batches: Vec<BatchId>) {
        self.mistaken.ends.extend(batches.into_iter().map(|batch| (lease, batch)));
    }

    pub(super) fn complete_later(&mut self, now: StoreTime, batch: BatchId, status: BatchStatus) {
        self.mistaken.completions.push((now, batch, status));
    }

    fn note_held(&mut self) {
        let open = self.open.iter().filter_map(|id| Some((*id, self.batches.get(id)?)));
        let held = open.flat_map(|(batch, found)| {
            found.spans().iter().filter_map(move |(token, span)| {
                Some(HeldThen { batch, token: *token, lease: span.holder?.lease, lines: span.lines.clone() })
            })
        });
        let held = held.collect();
        let [before, this] = &mut self.mistaken.before;
        *before = std::mem::replace(this, held);
    }

    /// Takes an answered line that the answer's token does not hold.
    pub(super) fn take_by_mistake(&mut self, lease: LeaseId, item: &RecordItem) -> Option<LeftSpan> {
        let batch = self.batches.get_mut(&item.batch)?;
        let whatever = LeftSpan { suspicion: 0, alone: false, gone: false };
        let makes = self.mistaken.makes?;
        let retry = matches!(item.answer, Answer::Retry { .. });
        let again = retry && (makes != Mistake::NoTokenCheck || batch.log().has_recorded(item.line, item.token));
        if batch.outcome(item.line).is_some() || again {
            return None;
        }
        match makes {
            Mistake::NoTokenCheck if batch.status == BatchStatus::Open => {
                let of_line = |(_, span): &(&Token, &Span)| span.lines.contains(item.line);
                let (token, holder) = batch.spans().iter().find(of_line).map(|(token, span)| (*token, span.holder))?;
                let Some(holder) = holder else {
                    let mut span = batch.take_span(token)?;
                    span.lines.remove(item.line);
                    if !span.lines.is_empty() {
                        batch.put_span_back(token, span);
                    }
                    return Some(whatever);
                };
                let left = batch.take_line(holder.lease, token, item.line)?;
                if left.gone {
                    self.detach(holder.lease, token, left.suspicion, left.alone);
                }
                Some(whatever)
            }
            Mistake::FenceOfAMomentAgo => {
                let held = |then: &HeldThen| {
                    (then.batch, then.token, then.lease) == (item.batch, item.token, lease)
                        && then.lines.contains(item.line)
                };
                self.mistaken.before[0].iter().any(held).then_some(whatever)
            }
            Mistake::LateOutcomesAfterAbort if batch.status == BatchStatus::Aborted => {
                let mut views = self.stopping.views().into_iter();
                let held = views.any(|of_token| {
                    (of_token.token, of_token.lease) == (item.token, lease) && of_token.lines.contains(item.line)
                });
                held.then_some(whatever)
            }
            _ => None,
        }
    }

    /// Lines go back out of whichever spans hold them.
    pub(super) fn give_back_anyhow(
        &mut self,
        now: StoreTime,
        lease: LeaseId,
        id: BatchId,
        said: Token,
        lines: &LineSet,
    ) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        let overlaps = |(token, span): (&Token, &Span)| {
            let back = span.lines.intersection(lines);
            (span.holder.is_some() && !back.is_empty()).then(|| (*token, span.clone(), back))
        };
        let overlapping: Vec<(Token, Span, LineSet)> = batch.spans().iter().filter_map(overlaps).collect();
        for (token, span, back) in overlapping {
            let Some((batch, holder)) = self.batches.get_mut(&id).zip(span.holder) else { return };
            let gone = batch.take_lines(token, &back);
            if gone {
                self.detach(holder.lease, token, span.suspicion, holder.alone);
            }
            self.log_ranges(id, &back, said, lease, None, LogKind::GivenBack, now);
            self.free(id, said, Span { lines: back, ..freed(&span, None) }, FreedWhy::GivenBack);
        }
    }

    /// Where a claim of fresh lines begins.
    pub(super) fn cursor_by_mistake(&mut self, lease: LeaseId, id: BatchId, cursor: u64) -> u64 {
        let now = self.mistaken.now;
        let read = self.mistaken.cursor.filter(|(at, by, of, _)| {
            *of == id && *by != lease && now.since(*at) < SAME_MOMENT && at.since(now).is_zero()
        });
        let read = read.map_or(cursor, |(.., cursor)| cursor);
        self.mistaken.cursor = Some((now, lease, id, read));
        read
    }
}

fn lease_of(request: &StoreRequest) -> Option<LeaseId> {
    match request {
        StoreRequest::Renew { lease, .. } | StoreRequest::DropLease { lease } => Some(*lease),
        StoreRequest::Claim(claim) => Some(claim.lease),
        StoreRequest::Record(record) => Some(record.lease),
        _ => None,
    }
}
