//! S3: an append beside what ends its batch, and beside other appends, in every order that the locks allow. In a form without the
//! batch's lock, or without its status tested under it, rows are appended to a batch that has ended, and lost.

use fencepost::store::loading::BatchSpec;
use fencepost::store::{Appends, Reads, Store, StoreError, WorkerStore};
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged, lines_of};
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{Grant, Recorded, Verdict};
use fencepost_core::{AppendId, BatchId, LeaseId};
use tokio::task::JoinHandle;

use super::rig::{Rig, record, success, verdicts};

const SECOND: AppendId = AppendId::from_random(2);

fn rows(count: usize) -> Vec<Box<str>> {
    vec![Box::from("1"); count]
}

fn lock_batch(batch: BatchId) -> String {
    format!("select from batches where batch = {} for update", batch.number())
}

fn lock_append(append: AppendId) -> String {
    format!("select from appends where append = {} for update", append.number())
}

/// Two rows behind the total, ready to become the batch's.
async fn staged(rig: &Rig, batch: BatchId, number: u64) -> AppendId {
    let append = AppendId::from_random(number);
    let begun = rig.store.begin_append(batch, append, None).await.unwrap();
    let Begun::Loading { first_line } = begun else { panic!("{begun:?}") };
    assert_eq!(rig.store.append_rows(batch, append, first_line, &rows(2)).await.unwrap(), Staged::Stored);
    append
}

fn start_end(rig: &Rig, batch: BatchId, append: AppendId) -> JoinHandle<Result<Appended, StoreError>> {
    let store = rig.store.clone();
    tokio::spawn(async move { store.finish_append(batch, append, AppendEnd { digest: "d".to_owned(), rows: 2 }).await })
}

fn start_begin(rig: &Rig, batch: BatchId, append: AppendId) -> JoinHandle<Result<Begun, StoreError>> {
    let store = rig.store.clone();
    tokio::spawn(async move { store.begin_append(batch, append, None).await })
}

async fn assert_recorded(recording: JoinHandle<Result<fencepost_core::store::StoreReply, StoreError>>) {
    assert_eq!(verdicts(recording.await.unwrap()), [Verdict::Recorded(Recorded::Success)]);
}

/// The batch ended with its one row: the append is refused, and nothing of it is left.
async fn assert_refused(rig: &mut Rig, batch: BatchId, appended: Appended, status: BatchStatus) {
    assert_eq!(appended, Appended::Refused { status: Some(status) });
    let number = batch.number();
    assert_eq!(rig.number(&format!("select count(*) from rows where batch = {number}")).await, 1);
    assert_eq!(rig.number(&format!("select count(*) from appends where batch = {number}")).await, 0);
    assert_eq!(rig.number(&format!("select count(*) from completions where batch = {number}")).await, 1);
    rig.assert_tiled().await;
}

/// The rows are the batch's: it goes on, and ends once, with all of them.
async fn assert_appended(rig: &mut Rig, batch: BatchId, appended: Appended, lease: LeaseId, claim_number: u64) {
    assert_eq!(appended, Appended::Done { lines: lines_of(2, 2) });
    rig.assert_tiled().await;
    let counts = rig.store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.batch.status, counts.batch.total, counts.queued), (BatchStatus::Open, 3, 2));
    let grants = rig.grants(lease, claim_number, 9).await;
    assert_eq!(verdicts(rig.store.call(record(lease, &grants, &success())).await).len(), 2);
    let number = batch.number();
    assert_eq!(rig.text(&format!("select status from batches where batch = {number}")).await, "success");
    assert_eq!(rig.number(&format!("select count(*) from completions where batch = {number}")).await, 1);
    rig.assert_tiled().await;
}

async fn one_row_in_hand(rig: &Rig, lease: LeaseId, claim_number: u64) -> (BatchId, Vec<Grant>, AppendId) {
    let batch = rig.batch(1).await;
    let grants = rig.grants(lease, claim_number, 1).await;
    let append = staged(rig, batch, 100 + claim_number).await;
    (batch, grants, append)
}

/// The record has the batch's lock when the append comes.
#[tokio::test]
async fn an_append_waits_for_the_record_of_the_last_row() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let (batch, held, append) = one_row_in_hand(&rig, lease, 1).await;
    let holding = rig.holding(&format!("select from spans where token = {} for update", held[0].token.0)).await;
    let recording = rig.start(record(lease, &held, &success()));
    rig.until_waiting(1).await;
    let ending = start_end(&rig, batch, append);
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_recorded(recording).await;
    assert_refused(&mut rig, batch, ending.await.unwrap().unwrap(), BatchStatus::Success).await;
}

/// Both wait for the lock. Whoever records has seen the batch at its end already.
#[tokio::test]
async fn a_record_of_the_last_row_and_an_append_at_once() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    for round in 1..=10 {
        let (batch, held, append) = one_row_in_hand(&rig, lease, 2 * round).await;
        let holding = rig.holding(&lock_batch(batch)).await;
        if round % 2 == 0 {
            let recording = rig.start(record(lease, &held, &success()));
            rig.until_waiting(1).await;
            let ending = start_end(&rig, batch, append);
            rig.until_waiting(2).await;
            holding.commit().await;
            assert_recorded(recording).await;
            assert_refused(&mut rig, batch, ending.await.unwrap().unwrap(), BatchStatus::Success).await;
        } else {
            let ending = start_end(&rig, batch, append);
            rig.until_waiting(1).await;
            let recording = rig.start(record(lease, &held, &success()));
            rig.until_waiting(2).await;
            holding.commit().await;
            let appended = ending.await.unwrap().unwrap();
            assert_recorded(recording).await;
            assert_appended(&mut rig, batch, appended, lease, 2 * round + 1).await;
        }
    }
}

/// A record that found fresh lines shares the batch: the append waits for it, and it for nothing.
#[tokio::test]
async fn an_append_waits_for_records_that_share_the_batch() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(2).await;
    let first = rig.grants(lease, 1, 1).await;
    let append = staged(&rig, batch, 1).await;
    let holding = rig.holding(&format!("select from spans where token = {} for update", first[0].token.0)).await;
    let recording = rig.start(record(lease, &first, &success()));
    rig.until_waiting(1).await;
    let ending = start_end(&rig, batch, append);
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_recorded(recording).await;
    assert_eq!(ending.await.unwrap().unwrap(), Appended::Done { lines: lines_of(3, 2) });
    rig.assert_tiled().await;
}

/// O7: between the fence and the outcomes of a group with effects nothing is appended.
#[tokio::test]
async fn an_append_waits_for_effects_of_the_last_row() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let (batch, held, append) = one_row_in_hand(&rig, lease, 1).await;
    let (l, b, t) = (lease.number(), batch.number(), held[0].token.0);
    let mut group = rig.holding(&format!("select fence({l}, array[{b}], array[1], array[{t}])")).await;
    let ending = start_end(&rig, batch, append);
    rig.until_waiting(1).await;
    group
        .and(&format!(
            "select record_answers({l}, array[{b}], array[1], array[{t}], array[0]::smallint[], array['1'], array[0],
                                   array[1], array[{b}], array[{t}], array['{{[1,2)}}'], array[1], 1000, null, array[{b}])"
        ))
        .await;
    group.commit().await;
    assert_refused(&mut rig, batch, ending.await.unwrap().unwrap(), BatchStatus::Success).await;
}

/// S2: an append that comes behind an abort is refused; one before it is aborted with the rest.
#[tokio::test]
async fn an_append_beside_an_abort() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let (batch, _, append) = one_row_in_hand(&rig, lease, 1).await;
    let mut abort = rig.holding(&lock_batch(batch)).await;
    let ending = start_end(&rig, batch, append);
    rig.until_waiting(1).await;
    let number = batch.number();
    abort.and(&format!("update batches set status = 'aborted' where batch = {number}")).await;
    abort.and(&format!("delete from spans where batch = {number}")).await;
    abort
        .and(&format!(
            "insert into completions values ({number}, 1, 'aborted', 0, 0, 1, null, null, null, null, 0, null, null, 1)"
        ))
        .await;
    abort.commit().await;
    assert_refused(&mut rig, batch, ending.await.unwrap().unwrap(), BatchStatus::Aborted).await;
}

/// Lines are given out once: of two beginnings at once one loads, the other hears of it.
#[tokio::test]
async fn of_two_appends_that_begin_at_once_one_loads() {
    let mut rig = Rig::new().await;
    for round in 1..=10 {
        let batch = rig.batch(1).await;
        let holding = rig.holding(&lock_batch(batch)).await;
        let a = start_begin(&rig, batch, AppendId::from_random(2 * round));
        let b = start_begin(&rig, batch, AppendId::from_random(2 * round + 1));
        rig.until_waiting(2).await;
        holding.commit().await;
        let (a, b) = (a.await.unwrap().unwrap(), b.await.unwrap().unwrap());
        let (loading, other) = if matches!(a, Begun::Loading { .. }) { (a, b) } else { (b, a) };
        assert_eq!(loading, Begun::Loading { first_line: 2 });
        assert!(matches!(other, Begun::Busy(_)), "{other:?}");
        assert_eq!(rig.number(&format!("select count(*) from appends where batch = {}", batch.number())).await, 1);
    }
}

/// A beginning waits for the end of the append before it, and begins behind the new total.
#[tokio::test]
async fn an_append_begins_behind_the_one_that_just_ends() {
    let mut rig = Rig::new().await;
    let batch = rig.batch(1).await;
    let append = staged(&rig, batch, 1).await;
    let holding = rig.holding(&lock_batch(batch)).await;
    let ending = start_end(&rig, batch, append);
    rig.until_waiting(1).await;
    let beginning = start_begin(&rig, batch, SECOND);
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(ending.await.unwrap().unwrap(), Appended::Done { lines: lines_of(2, 2) });
    assert_eq!(beginning.await.unwrap().unwrap(), Begun::Loading { first_line: 4 });
}

/// Whoever has an append's record locked is moving it, however late: nobody takes over, and nobody waits.
#[tokio::test]
async fn an_append_whose_slice_is_under_way_is_not_cut_off() {
    let mut rig = Rig::new().await;
    let batch = rig.batch(1).await;
    let append = staged(&rig, batch, 1).await;
    super::rig::execute(&mut rig.raw, "update appends set moved_at = moved_at - 61000000").await;
    let holding = rig.holding(&lock_append(append)).await;
    let begun = rig.store.begin_append(batch, SECOND, None).await.unwrap();
    assert!(matches!(&begun, Begun::Busy(busy) if busy.rows == 2 && busy.unmoved_for.as_secs() >= 61), "{begun:?}");
    holding.commit().await;
    assert_eq!(rig.store.begin_append(batch, SECOND, None).await.unwrap(), Begun::Loading { first_line: 2 });
    assert_eq!(rig.number(&format!("select count(*) from rows where batch = {}", batch.number())).await, 1);
}

/// A slice and a removal follow one another, in either order: no row is left that no append knows of.
#[tokio::test]
async fn a_slice_beside_the_removal_of_its_append() {
    let mut rig = Rig::new().await;
    for round in 1..=4 {
        let batch = rig.batch_of(BatchSpec::new("op"), 1).await;
        let append = staged(&rig, batch, round).await;
        let holding = rig.holding(&lock_append(append)).await;
        let (slicing, removing) = (rig.store.clone(), rig.store.clone());
        let slice = async move { slicing.append_rows(batch, append, 4, &rows(2)).await };
        let removal = async move { removing.remove_append(batch, append).await };
        let (slice, removal) = if round % 2 == 0 {
            let slice = tokio::spawn(slice);
            rig.until_waiting(1).await;
            (slice, tokio::spawn(removal))
        } else {
            let removal = tokio::spawn(removal);
            rig.until_waiting(1).await;
            (tokio::spawn(slice), removal)
        };
        rig.until_waiting(2).await;
        holding.commit().await;
        let expected = if round % 2 == 0 { Staged::Stored } else { Staged::TakenOver };
        assert_eq!(slice.await.unwrap().unwrap(), expected);
        removal.await.unwrap().unwrap();
        let number = batch.number();
        assert_eq!(rig.number(&format!("select count(*) from rows where batch = {number}")).await, 1);
        assert_eq!(rig.number(&format!("select count(*) from appends where batch = {number}")).await, 0);
    }
}

/// The raise itself tests that it begins behind the total: rows are never appended over others, nor with a gap.
#[tokio::test]
async fn an_append_that_does_not_begin_behind_the_total_is_an_error() {
    let mut rig = Rig::new().await;
    let batch = rig.batch(1).await;
    let append = staged(&rig, batch, 1).await;
    super::rig::execute(&mut rig.raw, &format!("update batches set total = 2 where batch = {}", batch.number())).await;
    let error = start_end(&rig, batch, append).await.unwrap().unwrap_err();
    assert!(error.message.contains("does not begin behind its batch's total"), "{error}");
}

/// Records share the batch's lock one after the other, without a gap between them: an append gets its turn all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_gets_through_beside_records_without_end() {
    const WORKERS: u64 = 8;
    let rig = Rig::new().await;
    let batch = rig.batch(100_000).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = Vec::new();
    for number in 1..=WORKERS {
        let lease = rig.lease(number).await;
        let grants = rig.grants(lease, 1, 10_000).await;
        let (store, stopped) = (rig.store.for_renewals().await.unwrap(), stopped.clone());
        workers.push(tokio::spawn(async move {
            let grant = &grants[0];
            let mut recorded = 0;
            for row in &grant.rows {
                if *stopped.borrow() {
                    break;
                }
                let one = Grant { rows: vec![row.clone()], ..grant.clone() };
                verdicts(store.call(record(lease, &[one], &success())).await);
                recorded += 1;
            }
            recorded
        }));
    }
    for number in 1..=10 {
        let append = staged(&rig, batch, number).await;
        let appended = start_end(&rig, batch, append).await.unwrap().unwrap();
        assert_eq!(appended, Appended::Done { lines: lines_of(100_000 + 2 * number - 1, 2) });
    }
    stop.send(true).unwrap();
    let mut recorded = 0;
    for worker in workers {
        recorded += worker.await.unwrap();
    }
    assert!(recorded > WORKERS, "they recorded {recorded} rows meanwhile");
}
