//! Hold, resume, abort and retry in the model, under all checkers.
#![allow(clippy::unwrap_used)]

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{Answer, Operated, Recorded, RecoverReply, Retried, RetryRows, StoreRequest, Verdict};
use fencepost_core::{LineSet, Token};

use super::tests::{DONE, Rig, batch, lease};
use super::{BatchSpec, LogKind};

const FAILED: Verdict = Verdict::Recorded(Recorded::Failed);

fn rows(freed: u64, generation: u32, reopened: bool) -> Retried {
    Retried::Rows { freed, generation, reopened }
}

impl Rig {
    fn retry_rows(&mut self, rows: RetryRows) -> Retried {
        let retried = self.store.retry(self.now, batch(1), &rows);
        self.check();
        retried
    }

    fn retry_line(&mut self, line: u64) -> Retried {
        self.retry_rows(RetryRows::Line { line, token: None })
    }

    fn fail(&mut self, line: u64, token: u64, error: &str) {
        assert_eq!(self.record(1, 1, line, token, Answer::Failed(error.into())), FAILED);
    }

    /// Lines of the free and held spans with their tokens, in order of these.
    fn spans(&self) -> Vec<(LineSet, u64)> {
        let view = self.store.view();
        view.batches[0].spans.iter().map(|span| (span.lines.clone(), span.token.0)).collect()
    }
}

#[test]
fn an_abort_is_final() {
    let mut rig = Rig::with(2, 4);
    rig.claim(1, 2);
    rig.claim(2, 1);
    rig.succeed(1, 1, 1);
    assert_eq!(rig.store.abort(rig.now, batch(1)), Operated::Now);
    assert_eq!(rig.store.abort(rig.now, batch(1)), Operated::Before);
    assert_eq!(rig.store.abort(rig.now, batch(2)), Operated::NotThere);
    assert_eq!(rig.succeed(1, 1, 1), Verdict::RecordedBefore);
    assert_eq!(rig.succeed(1, 2, 1), Verdict::Fenced);
    assert!(rig.claim(1, 9).is_empty());
    assert_eq!(rig.kill(2), RecoverReply::Recovered { lines: 0, failed: 0 });
    let counts = rig.store.view().batches[0].counts;
    assert_eq!((counts.success, counts.aborted, counts.queued + counts.inprog), (1, 3, 0));
}

#[test]
fn verbs_say_what_they_found() {
    let mut rig = Rig::with(1, 1);
    assert_eq!([rig.store.resume(batch(1)), rig.store.hold(batch(1)), rig.store.hold(batch(1))], {
        [Operated::Before, Operated::Now, Operated::Before]
    });
    assert_eq!([rig.store.hold(batch(9)), rig.store.resume(batch(9))], [Operated::NotThere; 2]);
    rig.store.begin_load(rig.now, BatchSpec::new(batch(2), "op"));
    let all = &RetryRows::Failed;
    assert_eq!([rig.store.hold(batch(2)), rig.store.abort(rig.now, batch(2))], [Operated::Loading; 2]);
    assert_eq!(rig.store.retry(rig.now, batch(2), all), Retried::Loading);
    assert_eq!(rig.store.retry(rig.now, batch(9), all), Retried::NotThere);
    assert_eq!(rig.store.abort(rig.now, batch(1)), Operated::Now);
    assert_eq!(rig.retry_rows(RetryRows::Failed), Retried::Aborted);
    assert_eq!(rig.store.hold(batch(1)), Operated::Ended(BatchStatus::Aborted));
}

#[test]
fn a_retry_frees_exactly_what_it_names_and_an_ended_batch_ends_again() {
    let mut rig = Rig::with(1, 6);
    rig.claim(1, 6);
    for (line, error) in [(1, "full disk"), (2, "no"), (3, "full"), (5, "disk full")] {
        rig.fail(line, 1, error);
    }
    assert_eq!((rig.succeed(1, 4, 1), rig.succeed(1, 6, 1)), (DONE, DONE));
    assert_eq!(rig.status(), BatchStatus::Failed);
    assert_eq!(rig.retry_rows(RetryRows::FailedWith("Full".into())), rows(0, 1, false), "as it is written");
    assert_eq!(rig.retry_line(7), rows(0, 1, false));
    assert_eq!((rig.status(), rig.spans()), (BatchStatus::Failed, vec![]));

    assert_eq!(rig.retry_rows(RetryRows::FailedWith("full".into())), rows(3, 2, true));
    assert_eq!(rig.status(), BatchStatus::Open);
    let single = LineSet::single;
    assert_eq!(rig.spans(), [(single(1), 2), (single(3), 3), (single(5), 4)]);
    assert_eq!(rig.retry_rows(RetryRows::FailedWith("full".into())), rows(0, 2, false), "a repeat");
    // Adjacent lines come back as one span; a success is run again where it is named, here by its token.
    assert_eq!(rig.retry_line(2), rows(1, 2, false));
    assert_eq!(rig.retry_rows(RetryRows::Line { line: 6, token: Some(Token(9)) }), rows(0, 2, false));
    assert_eq!(rig.retry_rows(RetryRows::Line { line: 6, token: Some(Token(1)) }), rows(1, 2, false));
    assert_eq!(rig.retry_rows(RetryRows::Line { line: 6, token: Some(Token(1)) }), rows(0, 2, false), "a repeat");

    // The late repeat of an answer that was recorded and superseded is told so; another's is fenced.
    assert_eq!(rig.record(1, 1, 3, 1, Answer::Failed("full".into())), Verdict::RecordedBefore);
    rig.claim(1, 9);
    for (line, token) in [(1, 7), (2, 8), (3, 9), (5, 10), (6, 11)] {
        assert_eq!(rig.succeed(1, line, token), DONE);
    }
    assert_eq!(rig.status(), BatchStatus::Success, "by what its rows are now");
    let ends: Vec<_> =
        rig.store.completions().iter().map(|end| (end.generation, end.status, end.counts.failed)).collect();
    assert_eq!(ends, [(1, BatchStatus::Failed, 4), (2, BatchStatus::Success, 0)]);
    let superseded = rig.store.log(batch(1)).iter().filter(|entry| entry.kind == LogKind::Superseded);
    assert_eq!(superseded.map(|entry| (entry.lines.first, entry.token.0)).collect::<Vec<_>>(), {
        [(1, 1), (3, 1), (5, 1), (2, 1), (6, 1)]
    });
}

#[test]
fn adjacent_lines_come_back_as_one_span() {
    let mut rig = Rig::with(1, 5);
    rig.claim(1, 4);
    [1, 2, 4].into_iter().for_each(|line| rig.fail(line, 1, "no"));
    assert_eq!(rig.retry_rows(RetryRows::Failed), rows(3, 1, false));
    assert_eq!(rig.spans(), [(LineSet::single(3), 1), (LineSet::range(1, 2), 2), (LineSet::single(4), 3)]);
}

#[test]
fn a_retried_row_has_all_its_attempts_and_its_neighbour_what_is_left() {
    let mut rig = Rig::with(1, 2);
    rig.claim(1, 2);
    rig.retry(1, 1, 1);
    rig.retry(1, 2, 1);
    rig.now = rig.now + std::time::Duration::from_secs(600);
    rig.claim(1, 2);
    rig.fail(1, 4, "no");
    assert_eq!(rig.retry_line(1), rows(1, 1, false));
    let attempts = |rig: &mut Rig| {
        let grants = rig.grants(1, 1, true);
        (grants[0].rows[0].attempts, grants[0].token.0)
    };
    let (used, mut token) = attempts(&mut rig);
    assert_eq!(used, 0, "the retry before does not count");
    for used_after in 1..=2 {
        assert_eq!(rig.retry(1, 1, token), Verdict::Recorded(Recorded::GivenBack));
        rig.now = rig.now + std::time::Duration::from_secs(600);
        let (used, next) = attempts(&mut rig);
        assert_eq!(used, used_after);
        token = next;
    }
    assert_eq!(rig.retry(1, 1, token), FAILED, "three attempts since");
    assert_eq!(rig.store.outcome(batch(1), 1).unwrap().attempts, 3);
    rig.fail(2, 5, "no");
    assert_eq!(rig.store.outcome(batch(1), 2).unwrap().attempts, 2);
}

#[test]
fn crashes_from_before_a_retry_do_not_count_nor_does_taking_them_back() {
    let mut rig = Rig::with_single_suspect();
    for by in 2..=4 {
        rig.grants(by, 1, true);
        rig.kill(by);
        rig.take(by + 1);
    }
    assert_eq!(rig.store.outcome(batch(1), 1).unwrap().crashes, 3);
    assert_eq!(rig.retry_line(1), rows(1, 2, true));
    rig.ask(&StoreRequest::WithdrawCrashes { lease: lease(2) });
    // Not suspect any more: two deaths until it runs alone, and three alone until it fails.
    for by in 5..=8 {
        let alone = rig.grants(by, 1, true)[0].alone;
        assert_eq!(alone, by > 5);
        let failed = u64::from(by == 8);
        assert_eq!(rig.kill(by), RecoverReply::Recovered { lines: 1 - failed, failed });
        rig.take(by + 1);
    }
    assert_eq!(rig.store.outcome(batch(1), 1).unwrap().crashes, 3);
}
