//! What an operator does in a run: hold, resume, abort, retry, of batches of every status, each repeated at times.

use std::time::Duration;

use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::Clock;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Operated, Record, RecordItem, Retried, RetryRows, StoreReply, StoreRequest, TakeLease,
};
use fencepost_core::{BatchId, LeaseId, LineSet, Token};
use fencepost_model::history::OutcomeStatus;
use fencepost_model::store::{LogKind, Rows};
use fencepost_model::view::StoppingView;

use super::run::Run;
use super::subjects::Verb;

impl Run {
    pub(super) async fn operate(&mut self) {
        let mut batch = self.some_batch().await;
        if self.one_in(6) {
            let failed = self.batches_of(BatchStatus::Failed);
            batch = self.pick(&failed).unwrap_or(batch);
        }
        let verb = match self.below(20) {
            0..4 => Verb::Hold,
            4..8 => Verb::Resume,
            8..12 => Verb::Abort,
            12..14 => return self.mend().await,
            _ => return self.retry(batch).await,
        };
        let again = self.one_in(3);
        for _ in 0..=u8::from(again) {
            let reply = self.ask_verb(verb, batch).await;
            self.seen.insert(kind_of(verb, reply));
        }
        self.compare().await;
        self.stop_some().await;
    }

    /// Something of an aborted batch does not run any more: a worker gives lines back, or answers one.
    async fn stop_some(&mut self) {
        let stopping = self.model.stopping();
        let Some(StoppingView { token, batch, lease, lines, .. }) = self.pick(&stopping) else { return };
        let Some(line) = lines.first() else { return };
        if self.one_in(2) {
            let lines = if self.one_in(2) { lines } else { LineSet::single(line) };
            self.ask(StoreRequest::GiveBack { lease, lines: vec![(batch, token, lines)] }).await;
        } else {
            let answer = Answer::Success("1".into());
            let items = vec![RecordItem { batch, line, token, answer, run_time: Duration::ZERO }];
            self.record_group(Record { lease, items }).await;
        }
        self.compare().await;
    }

    fn batches_of(&self, status: BatchStatus) -> Vec<BatchId> {
        self.batches.iter().copied().filter(|batch| self.model.status(*batch) == Some(status)).collect()
    }

    /// Mostly one that was submitted, whatever became of it; now and then one that loads, or none.
    pub(super) async fn some_batch(&mut self) -> BatchId {
        match self.below(12) {
            0 => BatchId::from_random(7),
            1 => self.loading().await,
            2 if !self.purging.is_empty() => {
                let purging = self.purging.clone();
                self.pick(&purging).unwrap_or(BatchId::from_random(7))
            }
            _ => {
                let batches = self.batches.clone();
                self.pick(&batches).unwrap_or(BatchId::from_random(7))
            }
        }
    }

    /// A load under way. Its end does not come.
    async fn loading(&mut self) -> BatchId {
        let spec = BatchSpec::new("op");
        let batch = self.subjects.load_without_end(&spec).await;
        self.story.push(format!("load {batch}"));
        self.model.begin_load(self.clock.now(), fencepost_model::store::BatchSpec::new(batch, "op"));
        self.model.load_rows(batch, Rows::Inputs(vec!["1".into()]));
        batch
    }

    async fn ask_verb(&mut self, verb: Verb, batch: BatchId) -> Operated {
        let now = self.clock.now();
        self.story.push(format!("{} {verb:?} {batch}", now.0));
        let expected = match verb {
            Verb::Hold => self.model.hold(batch),
            Verb::Resume => self.model.resume(batch),
            Verb::Abort => self.model.abort(now, batch),
        };
        for (name, got) in self.subjects.operate(verb, batch).await {
            assert_eq!(got.unwrap(), expected, "{name} left, model right, after\n{}", self.told());
        }
        expected
    }

    /// S2: what may still run of aborted batches; what commands say of it; how many rows failed.
    pub(super) async fn compare_stopping(&mut self) {
        let expected = self.model.stopping();
        for (name, got) in self.subjects.stopping().await {
            assert_eq!(got, expected, "{name} left, model right, after\n{}", self.told());
        }
        // One at a time: over a run each is asked about many times.
        let batches = self.model.view().batches;
        if let Some(batch) = self.pick(&batches) {
            let of_batch = expected.iter().filter(|of| of.batch == batch.batch);
            let running: u64 = of_batch.map(|of| of.lines.count()).sum();
            let failed = batch.counts.failed;
            assert_eq!(self.subjects.compare_reads(batch.batch).await, (running, failed), "model right");
        }
        let before = std::mem::replace(&mut self.stopping, expected);
        let now = |token| self.stopping.iter().find(|of| of.token == token);
        let shrunk = before.iter().any(|of| now(of.token).is_some_and(|now| now.lines.count() < of.lines.count()));
        let gone = before.iter().any(|of| now(of.token).is_none());
        self.see("rows of an aborted batch may still run", !self.stopping.is_empty());
        self.see("some of them do not any more", shrunk);
        self.see("none of a span runs any more", gone);
    }

    async fn retry(&mut self, batch: BatchId) {
        let rows = self.some_rows(batch);
        let again = self.one_in(3);
        self.see("retry of a batch that is being purged", self.purging.contains(&batch));
        for _ in 0..=u8::from(again) {
            self.see_line(batch, &rows);
            match self.ask_retry(batch, &rows).await {
                Retried::Rows { freed: 0, .. } => self.see("retry of nothing", true),
                Retried::Rows { freed, reopened, .. } => {
                    self.see("retry reopened", reopened);
                    self.see("retry of an open batch", !reopened);
                    self.see("retry of several", freed > 1);
                    self.see("retry of failed with", matches!(rows, RetryRows::FailedWith(_)));
                    self.subjects.compare_rows(batch).await;
                }
                Retried::Aborted => self.see("retry of an aborted batch", true),
                Retried::Loading => self.see("retry of a loading batch", true),
                Retried::NotThere => self.see("retry of nothing there", true),
            }
        }
        self.compare().await;
    }

    /// A batch that failed is retried, and this time a worker succeeds with whatever it is given.
    async fn mend(&mut self) {
        let failed = |batch: &BatchId| self.model.status(*batch) == Some(BatchStatus::Failed);
        let failed: Vec<BatchId> = self.batches.iter().copied().filter(failed).collect();
        let Some(batch) = self.pick(&failed) else { return };
        self.ask_retry(batch, &RetryRows::Failed).await;
        self.ask_verb(Verb::Resume, batch).await;
        let lease = LeaseId::from_random(self.random.next_u64());
        let operations = vec!["op".to_owned(), "other".to_owned()];
        let take = TakeLease {
            lease,
            worker: "mender".to_owned(),
            stable_name: false,
            ttl: Duration::from_secs(60),
            renew: Duration::from_secs(30),
            process: None,
            operations: operations.clone(),
            calls: Default::default(),
        };
        self.ask(StoreRequest::TakeLease(take)).await;
        for number in 1..=12 {
            let operations = operations.clone();
            let claim = Claim { lease, number, operations, lines_max: 25, bytes_max: 1 << 20, idle: true };
            let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = self.ask(StoreRequest::Claim(claim)).await
            else {
                panic!("a lease that was just taken is live")
            };
            let items = grants.iter().flat_map(|grant| {
                grant.rows.iter().map(|row| RecordItem {
                    batch: grant.batch,
                    line: row.line,
                    token: grant.token,
                    answer: Answer::Success("1".into()),
                    run_time: Duration::ZERO,
                })
            });
            let items = items.collect();
            self.record_group(Record { lease, items }).await;
        }
        self.ask(StoreRequest::DropLease { lease }).await;
        self.compare().await;
    }

    fn some_rows(&mut self, batch: BatchId) -> RetryRows {
        // Crashed rows have other errors in the model: only what all have of them is looked for.
        let texts = ["again", "failed\"", "worker", "AGAIN", ""];
        match self.below(4) {
            0 => RetryRows::Failed,
            1 => RetryRows::FailedWith(self.pick(&texts).unwrap().into()),
            _ => {
                // Mostly one that has an outcome, failed ones first.
                let failed = self.one_in(2);
                let ended = (1..=26).filter(|line| {
                    let outcome = self.model.outcome(batch, *line);
                    outcome.is_some_and(|outcome| !failed || outcome.status == OutcomeStatus::Failed)
                });
                let ended: Vec<u64> = ended.collect();
                let any = 1 + self.below(26);
                let line = if self.one_in(4) { any } else { self.pick(&ended).unwrap_or(any) };
                let token = self.model.outcome(batch, line).map_or(Token(1), |outcome| outcome.token);
                let token = [None, Some(token), Some(Token(self.below(100)))][self.below(3) as usize];
                RetryRows::Line { line, token }
            }
        }
    }

    /// What a retry of this line is about to find.
    fn see_line(&mut self, batch: BatchId, rows: &RetryRows) {
        let RetryRows::Line { line, token } = rows else { return };
        let aborted = self.model.status(batch) == Some(BatchStatus::Aborted);
        let Some(outcome) = self.model.outcome(batch, *line).filter(|_| !aborted) else { return };
        let kind = match (token, outcome.status) {
            (Some(token), _) if *token != outcome.token => "retry of a line under another token",
            (_, OutcomeStatus::Success) => "retry of a success",
            (_, OutcomeStatus::Failed) => "retry of a failed line",
        };
        self.see(kind, true);
    }

    async fn ask_retry(&mut self, batch: BatchId, rows: &RetryRows) -> Retried {
        let now = self.clock.now();
        self.story.push(format!("{} retry {batch} {rows:?}", now.0));
        let expected = self.model.retry(now, batch, rows);
        for (name, got) in self.subjects.retry(batch, rows).await {
            assert_eq!(got.unwrap(), expected, "{name} left, model right, after\n{}", self.told());
        }
        expected
    }

    /// Whether an operator took an outcome of the line away (under this token).
    pub(super) fn is_superseded(&self, batch: BatchId, line: u64, token: Option<Token>) -> bool {
        self.model.log(batch).iter().any(|entry| {
            entry.kind == LogKind::Superseded
                && entry.lines.first == line
                && token.is_none_or(|token| token == entry.token)
        })
    }
}

fn kind_of(verb: Verb, reply: Operated) -> &'static str {
    match (verb, reply) {
        (Verb::Hold, Operated::Now) => "batch held",
        (Verb::Hold, Operated::Before) => "held before",
        (Verb::Hold, Operated::Ended(BatchStatus::Aborted)) => "hold of an aborted batch",
        (Verb::Hold, Operated::Ended(_)) => "hold of an ended batch",
        (Verb::Hold, Operated::Loading) => "hold of a loading batch",
        (Verb::Hold, Operated::NotThere) => "hold of nothing there",
        (Verb::Resume, Operated::Now) => "batch resumed",
        (Verb::Resume, Operated::Before) => "resumed before",
        (Verb::Resume, Operated::Ended(BatchStatus::Aborted)) => "resume of an aborted batch",
        (Verb::Resume, Operated::Ended(_)) => "resume of an ended batch",
        (Verb::Resume, Operated::Loading) => "resume of a loading batch",
        (Verb::Resume, Operated::NotThere) => "resume of nothing there",
        (Verb::Abort, Operated::Now) => "batch aborted",
        (Verb::Abort, Operated::Before) => "aborted before",
        (Verb::Abort, Operated::Ended(BatchStatus::Success)) => "abort of a success",
        (Verb::Abort, Operated::Ended(_)) => "abort of a failed batch",
        (Verb::Abort, Operated::Loading) => "abort of a loading batch",
        (Verb::Abort, Operated::NotThere) => "abort of nothing there",
    }
}
