//! O: answers are written in groups (O3) and repeated until their end is known (O2).

use std::collections::VecDeque;
use std::time::Duration;

use super::{RunKey, Worker, WorkerEvent};
use crate::ids::{LeaseId, RequestId};
use crate::rules::outcome::o3_flush_due;
use crate::store::{Answer, Record, RecordItem, StoreFailure, StoreReply, StoreRequest, Verdict};
use crate::time::Instant;

/// Answers on their way to the store.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Recording {
    /// Answers that wait for a group, oldest first.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// At most one group is under way; it is repeated as it is until its end is known.
    group: Option<Group>,
    /// So many waiting answers stop new rows from starting.
    full_lines: usize,
    full_bytes: usize,
}

#[derive(Debug, Clone, Hash)]
struct Waiting {
    lease: LeaseId,
    since: Instant,
    item: RecordItem,
}

#[derive(Debug, Clone, Hash)]
struct Group {
    record: Record,
    asked: Option<(RequestId, Instant)>,
    next_at: Instant,
    /// A try of it has an unknown end.
    unknown: bool,
}

impl Recording {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.group.is_none()
    }

    /// Whether so many answers wait that no more rows are to be started.
    pub(super) fn is_full(&self) -> bool {
        self.full_lines > 0 && (self.waiting.len() >= self.full_lines || self.waiting_bytes >= self.full_bytes)
    }

    /// O2: rows whose slots stay taken.
    pub(super) fn lines_with_unknown_end(&self) -> usize {
        self.group.as_ref().filter(|group| group.unknown).map_or(0, |group| group.record.items.len())
    }
}

impl Worker {
    /// Takes an answer in; it is written with the next group.
    pub(super) fn offer(&mut self, now: Instant, lease: LeaseId, key: RunKey, answer: Answer, run_time: Duration) {
        let RunKey { batch, line, token } = key;
        let recording = &mut self.recording;
        recording.full_lines = self.options.group_lines_max.saturating_mul(2);
        recording.full_bytes = self.options.group_bytes_max.saturating_mul(2);
        recording.waiting_bytes += answer_bytes(&answer);
        let item = RecordItem { batch, line, token, answer, run_time };
        recording.waiting.push_back(Waiting { lease, since: now, item });
    }

    pub(super) fn recording_timeout(&self) -> Option<Instant> {
        let recording = &self.recording;
        match &recording.group {
            Some(Group { asked: Some((_, sent_at)), .. }) => Some(*sent_at + self.request_limit()),
            Some(Group { next_at, .. }) => Some(*next_at),
            None => recording.waiting.front().map(|oldest| oldest.since + self.options.flush_age),
        }
    }

    /// O3: forms a group when one is due; O2: repeats the one under way when that is due.
    pub(super) fn record_what_is_due(&mut self, now: Instant) {
        if self.recording.group.is_none() && self.group_is_due(now) {
            self.form_group(now);
        }
        let Some(Group { record, asked: None, next_at, .. }) = &self.recording.group else { return };
        if now < *next_at {
            return;
        }
        let request = StoreRequest::Record(record.clone());
        let id = self.ask(request);
        if let Some(group) = &mut self.recording.group {
            group.asked = Some((id, now));
        }
    }

    fn group_is_due(&self, now: Instant) -> bool {
        let (recording, options) = (&self.recording, &self.options);
        let Some(oldest) = recording.waiting.front() else { return false };
        // Nothing else can join once nothing runs.
        let age_max = if self.runs.is_empty() { Duration::ZERO } else { options.flush_age };
        o3_flush_due(
            recording.waiting.len(),
            options.group_lines_max,
            recording.waiting_bytes,
            options.group_bytes_max,
            now.since(oldest.since),
            age_max,
        )
    }

    /// Takes the oldest answers of one lease into a group; no two of the same row.
    fn form_group(&mut self, now: Instant) {
        let recording = &mut self.recording;
        let Some(lease) = recording.waiting.front().map(|waiting| waiting.lease) else { return };
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(next) = recording.waiting.front() {
            let size = answer_bytes(&next.item.answer);
            let full = items.len() >= self.options.group_lines_max
                || (!items.is_empty() && bytes + size > self.options.group_bytes_max);
            if next.lease != lease || full {
                break;
            }
            if let Some(waiting) = recording.waiting.pop_front() {
                recording.waiting_bytes -= size;
                bytes += size;
                items.push(waiting.item);
            }
        }
        debug_assert!(!items.is_empty());
        recording.group = Some(Group { record: Record { lease, items }, asked: None, next_at: now, unknown: false });
    }

    pub(super) fn time_out_record(&mut self, now: Instant) {
        let limit = self.request_limit();
        if let Some(group) = &mut self.recording.group
            && group.asked.is_some_and(|(_, sent_at)| now >= sent_at + limit)
        {
            group.asked = None;
            group.unknown = true;
            group.next_at = now;
        }
    }

    /// Returns whether the reply was for a group.
    pub(super) fn record_answered(
        &mut self,
        now: Instant,
        id: RequestId,
        reply: &Result<StoreReply, StoreFailure>,
    ) -> bool {
        let retry_at = now + self.retry_after();
        let Some(group) = &mut self.recording.group else { return false };
        if group.asked.is_none_or(|(asked, _)| asked != id) {
            return false;
        }
        group.asked = None;
        match reply {
            Ok(StoreReply::Record(verdicts)) if verdicts.len() == group.record.items.len() => {
                if let Some(group) = self.recording.group.take() {
                    self.recorded(group.record.items, verdicts);
                }
            }
            failed => {
                group.unknown |= *failed != Err(StoreFailure::NotDone);
                group.next_at = retry_at;
            }
        }
        true
    }

    /// O1: the verdict is per line.
    fn recorded(&mut self, items: Vec<RecordItem>, verdicts: &[Verdict]) {
        for (item, verdict) in items.into_iter().zip(verdicts) {
            let key = RunKey::of(&item);
            if self.alone == Some(key) {
                self.alone = None;
            }
            match verdict {
                Verdict::Recorded(recorded) => {
                    let error = match item.answer {
                        Answer::Success(_) => None,
                        Answer::Failed(error) | Answer::Retry { error, .. } => Some(error),
                    };
                    let (recorded, run_time) = (*recorded, item.run_time);
                    self.tell(WorkerEvent::Recorded { key, recorded, run_time, error });
                }
                Verdict::RecordedBefore => {}
                Verdict::Fenced => self.tell(WorkerEvent::Fenced(key)),
            }
        }
    }
}

fn answer_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Success(text) | Answer::Failed(text) | Answer::Retry { error: text, .. } => text.len(),
    }
}
