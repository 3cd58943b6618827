//! S2, S3, S5: an operator's verbs beside requests of workers and other operators, in known orders and at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{Changes, Operates, Reads, Store, StoreError, WorkerStore};
use fencepost_core::random::Stream;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, ClaimReply, Grant, Operated, Recorded, Retried, RetryRows, StoreReply, StoreRequest, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet};
use tokio::task::JoinHandle;

use super::rig::{
    HELD_BY_THE_DEAD, Hasty, NOT_TILED, Rig, STUCK, claim, died, execute, granted, lock_batch, record, success,
    verdicts,
};

type Started<T> = JoinHandle<Result<T, StoreError>>;

impl Rig {
    fn start_abort(&self, batch: BatchId) -> Started<Operated> {
        let store = self.store.clone();
        tokio::spawn(async move { store.abort(batch).await })
    }

    fn start_retry(&self, batch: BatchId, rows: RetryRows) -> Started<Retried> {
        let store = self.store.clone();
        tokio::spawn(async move { store.retry(batch, rows).await })
    }

    /// A batch whose rows have failed, those of the other lines held by the lease.
    async fn failed(&mut self, lease: LeaseId, number: u64, lines: u64, failed: u64) -> (BatchId, Vec<Grant>) {
        let batch = self.batch(lines as usize).await;
        let mut grants = self.grants(lease, number, lines).await;
        let mut lost = grants.clone();
        lost[0].rows.truncate(failed as usize);
        grants[0].rows.drain(..failed as usize);
        verdicts(self.store.call(record(lease, &lost, &Answer::Failed("no".into()))).await);
        (batch, grants)
    }

    async fn spans_of(&mut self, batch: BatchId) -> i64 {
        self.number(&format!("select count(*) from spans where batch = {}", batch.number())).await
    }
}

fn freed(freed: u64, generation: u32, reopened: bool) -> Retried {
    Retried::Rows { freed, generation, reopened }
}

/// S5: one transaction, however many rows it is of: it has a limit of its own.
#[tokio::test]
async fn a_retry_may_take_longer_than_a_workers_request() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let (batch, _) = rig.failed(lease, 1, 4, 4).await;
    // As if there were very many.
    let slow = "create function slow() returns trigger language plpgsql as $$
                begin perform pg_sleep(0.2); return old; end $$;
                create trigger slow before delete on outcomes for each row execute function slow()";
    execute(&mut rig.raw, slow).await;
    let store = rig.store.clone().with_lock_wait(Duration::from_millis(400));
    assert_eq!(store.retry(batch, RetryRows::Failed).await.unwrap(), freed(4, 2, true));
}

/// A batch that somebody holds for long is passed by: a worker gets the lines of another.
#[tokio::test]
async fn a_claim_passes_by_a_batch_that_is_busy_for_long() {
    let rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batches = [rig.batch(3).await, rig.batch(3).await];
    // Of two that nobody has claimed from the lower one comes first.
    let [busy, other] = if batches[0].number() < batches[1].number() { batches } else { [batches[1], batches[0]] };
    let holding = rig.holding(&format!("select from batches where batch = {} for update", busy.number())).await;
    let grants = granted(rig.store.call(claim(lease, 1, 1)).await);
    holding.commit().await;
    assert_eq!(grants[0].batch, other);
}

/// S2: a claim that comes after an abort gets nothing.
#[tokio::test]
async fn a_claim_waits_for_an_abort() {
    let mut rig = Rig::new().await;
    let (lease, other) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(5).await;
    rig.grants(lease, 1, 3).await;
    let mut changes = rig.store.changes().await.unwrap();
    let holding = rig.holding("select from spans for update").await;
    let aborting = rig.start_abort(batch);
    rig.until_waiting(1).await;
    let claiming = rig.start(claim(other, 1, 2));
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(aborting.await.unwrap().unwrap(), Operated::Now);
    assert_eq!(granted(claiming.await.unwrap()), []);
    assert_eq!(rig.spans_of(batch).await, 0);
    // Its end is told as well, before or after it.
    let aborted = async {
        loop {
            let told = changes.next().await.unwrap().aborted;
            if !told.is_empty() {
                return told;
            }
        }
    };
    assert_eq!(tokio::time::timeout(STUCK, aborted).await.expect("an abort is told"), [batch]);
}

/// S2: an abort waits for a claim that splits a free span, and removes both parts.
#[tokio::test]
async fn an_abort_waits_for_a_claim_that_splits_a_span() {
    let mut rig = Rig::new().await;
    let (lease, other) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(5).await;
    rig.grants(lease, 1, 3).await;
    rig.store.call(StoreRequest::DropLease { lease }).await.unwrap();
    let holding = rig.holding("select from spans for update").await;
    let claiming = rig.start(claim(other, 1, 2));
    rig.until_waiting(1).await;
    let aborting = rig.start_abort(batch);
    rig.until_waiting(2).await;
    holding.commit().await;
    let grants = granted(claiming.await.unwrap());
    assert_eq!(aborting.await.unwrap().unwrap(), Operated::Now);
    assert_eq!(rig.spans_of(batch).await, 0);
    // The abort may have come before the claim's rows were read: then it is settled, and grants nothing. Else what was claimed may
    // still run, and cannot be recorded any more.
    if let [grant] = grants.as_slice() {
        assert_eq!(grant.rows.len(), 2);
        assert_eq!(rig.store.stopping(batch).await.unwrap()[0].rows, 2);
        assert_eq!(verdicts(rig.store.call(record(other, &grants, &success())).await), [Verdict::Fenced; 2]);
    }
    assert_eq!(rig.store.stopping(batch).await.unwrap(), []);
}

/// S2: lines that change hands under the batch's shared lock leave nothing behind. An abort that only updates the batch sees the
/// span that goes and not the one that comes.
#[tokio::test]
async fn an_abort_waits_for_lines_that_are_given_back() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(5).await;
    let held = rig.grants(lease, 1, 3).await;
    let holding = rig.holding("select from spans for update").await;
    let lines = vec![(batch, held[0].token, LineSet::range(1, 2))];
    let giving = rig.start(StoreRequest::GiveBack { lease, lines });
    rig.until_waiting(1).await;
    let aborting = rig.start_abort(batch);
    rig.until_waiting(2).await;
    holding.commit().await;
    giving.await.unwrap().unwrap();
    assert_eq!(aborting.await.unwrap().unwrap(), Operated::Now);
    assert_eq!(rig.spans_of(batch).await, 0);
}

/// S2: an outcome that is being recorded comes first, and is in the counts.
#[tokio::test]
async fn an_abort_waits_for_an_outcome() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(5).await;
    let held = rig.grants(lease, 1, 2).await;
    let holding = rig.holding("select from spans for update").await;
    let recording = rig.start(record(lease, &held, &success()));
    rig.until_waiting(1).await;
    let aborting = rig.start_abort(batch);
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(verdicts(recording.await.unwrap()), [Verdict::Recorded(Recorded::Success); 2]);
    assert_eq!(aborting.await.unwrap().unwrap(), Operated::Now);
    let counts = rig.text("select success || ' ' || failed || ' ' || aborted from completions").await;
    assert_eq!(counts, "2 0 3");
    assert_eq!(rig.store.stopping(batch).await.unwrap(), [], "what was recorded does not run");
}

/// S2, R2: an abort and a judge that cuts not-before times back lock the same spans in the same order.
#[tokio::test]
async fn an_abort_beside_a_cut_back() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(4).await;
    let held = rig.grants(lease, 1, 3).await;
    let again = Answer::Retry { error: "no".into(), jitter: 500, timed_out: false };
    verdicts(rig.store.call(record(lease, &held, &again)).await);
    // In the table they stand in the other order; and they wait for longer than this test takes.
    for line in [3, 2, 1] {
        let later = format!("update spans set not_before = not_before + 600000000 where first_line = {line}");
        execute(&mut rig.raw, &later).await;
    }
    // Whatever the planner does: read as they stand there, they would be locked in another one.
    for setting in ["enable_seqscan = on", "enable_indexscan = off"] {
        execute(&mut rig.raw, &format!("alter function abort_batch set {setting}")).await;
    }
    let holding = rig.holding("select from spans where first_line = 2 for update").await;
    let cutting = rig.start(StoreRequest::CutBack { backoff_max: std::time::Duration::ZERO });
    rig.until_waiting(1).await;
    let aborting = rig.start_abort(batch);
    rig.until_waiting(2).await;
    holding.commit().await;
    cutting.await.unwrap().unwrap();
    assert_eq!(aborting.await.unwrap().unwrap(), Operated::Now);
    assert_eq!(rig.spans_of(batch).await, 0);
}

/// S3: a claim that comes after a hold gets nothing. Neither waits for outcomes that are being recorded.
#[tokio::test]
async fn a_claim_waits_for_a_hold_and_a_hold_for_no_outcome() {
    let mut rig = Rig::new().await;
    let (lease, other) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(5).await;
    let held = rig.grants(lease, 1, 2).await;
    let spans = rig.holding("select from spans for update").await;
    let recording = rig.start(record(lease, &held, &success()));
    rig.until_waiting(1).await;
    assert_eq!(rig.store.hold(batch).await.unwrap(), Operated::Now);
    assert_eq!(rig.store.resume(batch).await.unwrap(), Operated::Now);

    let holding = rig.holding(&format!("select from batches where batch = {} for key share", batch.number())).await;
    let mut first =
        rig.holding(&format!("select from batches where batch = {} for no key update", batch.number())).await;
    let store = rig.store.clone();
    let held_back = tokio::spawn(async move { store.hold(batch).await });
    rig.until_waiting(2).await;
    let claiming = rig.start(claim(other, 1, 2));
    rig.until_waiting(3).await;
    first.and("select 1").await;
    first.commit().await;
    assert_eq!(held_back.await.unwrap().unwrap(), Operated::Now);
    assert_eq!(granted(claiming.await.unwrap()), []);
    holding.commit().await;
    spans.commit().await;
    verdicts(recording.await.unwrap());
    rig.assert_tiled().await;
}

/// S3: of two that hold a batch at once one is told that it did, and a hold that waited for an abort that it came too late.
#[tokio::test]
async fn of_two_holds_at_once_one_holds() {
    let mut rig = Rig::new().await;
    let start_hold = |rig: &Rig, batch| {
        let store = rig.store.clone();
        tokio::spawn(async move { store.hold(batch).await })
    };
    let batch = rig.batch(1).await;
    let holding = rig.holding(&lock_batch(batch)).await;
    let (a, b) = (start_hold(&rig, batch), start_hold(&rig, batch));
    rig.until_waiting(2).await;
    holding.commit().await;
    let mut replies = [a.await.unwrap().unwrap(), b.await.unwrap().unwrap()];
    replies.sort_by_key(|reply| *reply == Operated::Before);
    assert_eq!(replies, [Operated::Now, Operated::Before]);

    let batch = rig.batch(1).await;
    let holding = rig.holding(&lock_batch(batch)).await;
    let aborting = rig.start_abort(batch);
    rig.until_waiting(1).await;
    let late = start_hold(&rig, batch);
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(aborting.await.unwrap().unwrap(), Operated::Now);
    assert_eq!(late.await.unwrap().unwrap(), Operated::Ended(BatchStatus::Aborted));
}

/// S5: the same rows retried twice at once are in one span each; of an ended batch one retry opens a generation.
#[tokio::test]
async fn of_two_retries_at_once_one_frees_the_rows() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    for (round, lines) in [(1, 4), (2, 3)] {
        let (batch, _) = rig.failed(lease, round, lines, 3).await;
        let reopened = lines == 3;
        let holding = rig.holding("select from outcomes for update").await;
        let a = rig.start_retry(batch, RetryRows::Failed);
        rig.until_waiting(1).await;
        let b = rig.start_retry(batch, RetryRows::FailedWith("no".into()));
        rig.until_waiting(2).await;
        holding.commit().await;
        let generation = 1 + u32::from(reopened);
        assert_eq!(a.await.unwrap().unwrap(), freed(3, generation, reopened));
        assert_eq!(b.await.unwrap().unwrap(), freed(0, generation, false));
        rig.assert_tiled().await;
        assert_eq!(rig.spans_of(batch).await, 2 - i64::from(reopened));
    }
}

/// S5: two retries of different rows of an ended batch: one of them opens it, the other finds it open.
#[tokio::test]
async fn of_two_retries_of_an_ended_batch_one_opens_it() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let (batch, rest) = rig.failed(lease, 1, 3, 2).await;
    verdicts(rig.store.call(record(lease, &rest, &success())).await);
    let holding = rig.holding("select from outcomes where line = 1 for update").await;
    let a = rig.start_retry(batch, RetryRows::Failed);
    rig.until_waiting(1).await;
    let b = rig.start_retry(batch, RetryRows::Line { line: 3, token: Some(rest[0].token) });
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(a.await.unwrap().unwrap(), freed(2, 2, true));
    assert_eq!(b.await.unwrap().unwrap(), freed(1, 2, false));
    rig.assert_tiled().await;
}

/// S5, O4: a retry and the record that ends the batch, in either order: the batch is open afterwards, and ends again.
#[tokio::test]
async fn a_retry_beside_the_batchs_end() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    for round in 1..=6 {
        let (batch, last) = rig.failed(lease, round * 2, 2, 1).await;
        let holding = rig.holding(&lock_batch(batch)).await;
        let end_first = round % 2 == 0;
        let (recording, retrying) = if end_first {
            let recording = rig.start(record(lease, &last, &success()));
            rig.until_waiting(1).await;
            (recording, rig.start_retry(batch, RetryRows::Failed))
        } else {
            let retrying = rig.start_retry(batch, RetryRows::Failed);
            rig.until_waiting(1).await;
            (rig.start(record(lease, &last, &success())), retrying)
        };
        rig.until_waiting(2).await;
        holding.commit().await;
        assert_eq!(verdicts(recording.await.unwrap()), [Verdict::Recorded(Recorded::Success)]);
        assert_eq!(retrying.await.unwrap().unwrap(), freed(1, 1 + u32::from(end_first), end_first));
        rig.assert_tiled().await;
        assert_ends_well(&mut rig, lease, round * 2 + 1, batch).await;
    }
}

/// The same without anybody who sets the order.
#[tokio::test]
async fn retries_and_ends_at_once() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    for round in 1..=40 {
        let (batch, last) = rig.failed(lease, round * 2, 2, 1).await;
        let recording = rig.start(record(lease, &last, &success()));
        let retrying = rig.start_retry(batch, RetryRows::Failed);
        verdicts(recording.await.unwrap());
        assert!(matches!(retrying.await.unwrap().unwrap(), Retried::Rows { freed: 1, .. }));
        rig.assert_tiled().await;
        assert_ends_well(&mut rig, lease, round * 2 + 1, batch).await;
    }
}

/// The one row that was retried succeeds: the batch ends as a success, once per generation.
async fn assert_ends_well(rig: &mut Rig, lease: LeaseId, number: u64, batch: BatchId) {
    let grants = rig.grants(lease, number, 9).await;
    assert_eq!((grants[0].batch, grants[0].rows.len()), (batch, 1));
    verdicts(rig.store.call(record(lease, &grants, &success())).await);
    let counts = rig.store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.batch.status, counts.success, counts.failed), (BatchStatus::Success, 2, 0));
    let ends = format!("select count(*) from completions where batch = {}", batch.number());
    assert_eq!(rig.number(&ends).await, i64::from(counts.batch.generation));
}

/// A worker that does whatever, until it is told that all is over.
async fn work(store: PostgresStore, seed: u64, done: Arc<AtomicBool>) -> u64 {
    let mut random = Stream::new(seed);
    let mut lease = LeaseId::from_random(0);
    let (mut number, mut holds, mut before) = (0, Vec::<Grant>::new(), 0);
    let mut sent: Option<StoreRequest> = None;
    while !done.load(Ordering::Relaxed) {
        let request = match random.next_u64() % 12 {
            0..5 => {
                number += 1;
                claim(lease, number, 1 + random.next_u64() % 6)
            }
            5 if !holds.is_empty() => {
                let grant = holds.swap_remove(0);
                let lines = grant.rows.iter().map(|row| row.line).collect();
                StoreRequest::GiveBack { lease, lines: vec![(grant.batch, grant.token, lines)] }
            }
            6 if random.next_u64().is_multiple_of(8) => died(lease, 0),
            7 if sent.is_some() => sent.take().unwrap(),
            _ if holds.is_empty() => continue,
            _ => {
                let grant = holds.swap_remove(random.next_u64() as usize % holds.len());
                let answer = match random.next_u64() % 6 {
                    0 | 1 => Answer::Failed("no".into()),
                    2 => Answer::Retry { error: "again".into(), jitter: 0, timed_out: false },
                    _ => success(),
                };
                let request = record(lease, &[grant], &answer);
                sent = Some(request.clone());
                request
            }
        };
        match store.call(request).await.unwrap() {
            StoreReply::Claim(ClaimReply::Granted { grants, .. }) => holds.extend(grants),
            StoreReply::Claim(ClaimReply::LeaseEnded) => {
                lease = LeaseId::from_random(random.next_u64());
                number = 0;
                holds.clear();
                store.call(StoreRequest::TakeLease(super::rig::take(lease))).await.unwrap();
            }
            StoreReply::Record(verdicts) => {
                before += verdicts.iter().filter(|verdict| **verdict == Verdict::RecordedBefore).count() as u64;
            }
            _ => {}
        }
    }
    before
}

/// An operator's acts on some batch, until so many rows were freed and so many batches opened again; how many rows were.
async fn operate(store: PostgresStore, batches: Vec<BatchId>, seed: u64, rows_min: u64, opened_min: u64) -> u64 {
    let mut random = Stream::new(seed);
    let (mut rows, mut opened) = (0, 0);
    while rows < rows_min || opened < opened_min {
        let batch = batches[random.next_u64() as usize % batches.len()];
        let which = match random.next_u64() % 8 {
            0 => {
                store.hold(batch).await.unwrap();
                continue;
            }
            1 | 2 => {
                store.resume(batch).await.unwrap();
                continue;
            }
            3 => RetryRows::FailedWith("aga".into()),
            4 | 5 => RetryRows::Line { line: 1 + random.next_u64() % 30, token: None },
            _ => RetryRows::Failed,
        };
        match store.retry(batch, which).await.unwrap() {
            Retried::Rows { freed, reopened, .. } => {
                rows += freed;
                opened += u64::from(reopened);
            }
            other => panic!("{other:?}"),
        }
    }
    rows
}

/// Workers, deaths, and two operators at once: every snapshot is whole, and in the end each generation has ended once, and the
/// counts are those of the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_beside_workers() {
    const BATCHES: usize = 5;
    let mut rig = Rig::on_clock(Some(Arc::new(Hasty::default()))).await;
    let mut batches = Vec::new();
    for number in 0..BATCHES {
        let spec = BatchSpec { crashes_max: 2, ..BatchSpec::new("op") };
        batches.push(rig.batch_of(spec, 10 + number * 10).await);
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for seed in 1..=4 {
        workers.push(tokio::spawn(work(rig.store.for_renewals().await.unwrap(), seed, done.clone())));
    }
    let operators: Vec<_> = [11, 12]
        .into_iter()
        .map(|seed| tokio::spawn(operate(rig.store.clone(), batches.clone(), seed, 60, 3)))
        .collect();
    let until = Instant::now() + STUCK * 6;
    let mut over = false;
    while !over || rig.number("select count(*) from batches where status = 'open'").await > 0 {
        assert_eq!(rig.number(NOT_TILED).await, 0, "lines are lost or in two places");
        assert_eq!(rig.number(HELD_BY_THE_DEAD).await, 0, "a span is held by a lease that is not live");
        assert!(Instant::now() < until, "the batches never end");
        assert!(!workers.iter().any(JoinHandle::is_finished), "a worker has failed");
        if !over && operators.iter().all(JoinHandle::is_finished) {
            over = true;
            for batch in &batches {
                rig.store.resume(*batch).await.unwrap();
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    let (mut rows, mut before) = (0, 0);
    for operator in operators {
        rows += operator.await.unwrap();
    }
    for worker in workers {
        before += worker.await.unwrap();
    }
    let superseded = "select count(*) from attempts where kind = 'superseded'";
    assert_eq!(rig.number(superseded).await, i64::try_from(rows).unwrap(), "each row that was freed is told of once");
    let mut generations = 0;
    for batch in batches {
        let counts = rig.store.status(batch).await.unwrap().unwrap();
        let number = batch.number();
        generations += counts.batch.generation;
        for (status, counted) in [("success", counts.success), ("failed", counts.failed)] {
            let sql = format!("select count(*) from outcomes where batch = {number} and status = '{status}'");
            assert_eq!(rig.number(&sql).await, counted as i64);
        }
        let sql = format!(
            "select string_agg(generation::text, ' ' order by generation) from completions where batch = {number}"
        );
        let ends = rig.text(&sql).await;
        let all: Vec<String> = (1..=counts.batch.generation).map(|generation| generation.to_string()).collect();
        assert_eq!(ends, all.join(" "));
    }
    println!("{rows} rows retried, {generations} generations, {before} answers recorded before");
    assert!(generations >= BATCHES as u32 + 6 && before > 0, "a history in which something happens");
}
