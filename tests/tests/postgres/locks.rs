//! The interleavings that broke other forms of these transactions, one by one: a session of the test holds a record so that
//! requests queue in a known order, and is let go when they are seen to wait.

use fencepost::store::Store;
use fencepost_core::BatchId;
use fencepost_core::store::{
    ClaimReply, LookReply, Recorded, RecoverReply, RenewReply, StoreFailure, StoreReply, StoreRequest, Verdict,
};

use super::rig::{Rig, STUCK, claim, died, granted, lock_batch, record, recovered, success, verdicts};

async fn assert_ended_once(rig: &mut Rig, batch: BatchId) {
    let number = batch.number();
    assert_eq!(rig.text(&format!("select status from batches where batch = {number}")).await, "success");
    assert_eq!(rig.number(&format!("select count(*) from completions where batch = {number}")).await, 1);
    rig.assert_tiled().await;
}

/// O4: two workers record the last two rows. In other forms both see the other's span, and the batch stays open.
#[tokio::test]
async fn of_two_that_record_the_last_rows_one_ends_the_batch() {
    let mut rig = Rig::new().await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    for round in 1..=10 {
        let batch = rig.batch(2).await;
        let (first, second) = (rig.grants(one, round, 1).await, rig.grants(two, round, 1).await);
        let holding = rig.holding(&lock_batch(batch)).await;
        let a = rig.start(record(one, &first, &success()));
        let b = rig.start(record(two, &second, &success()));
        rig.until_waiting(2).await;
        holding.commit().await;
        for reply in [a.await.unwrap(), b.await.unwrap()] {
            assert_eq!(verdicts(reply), [Verdict::Recorded(Recorded::Success)]);
        }
        assert_ended_once(&mut rig, batch).await;
    }
}

/// The same without anybody who sets the order.
#[tokio::test]
async fn of_many_that_record_the_last_rows_at_once_one_ends_the_batch() {
    let mut rig = Rig::new().await;
    let mut leases = Vec::new();
    for number in 1..=4 {
        leases.push(rig.lease(number).await);
    }
    for round in 1..=40 {
        let batch = rig.batch(4).await;
        let mut records = Vec::new();
        for lease in &leases {
            records.push(record(*lease, &rig.grants(*lease, round, 1).await, &success()));
        }
        let started: Vec<_> = records.into_iter().map(|request| rig.start(request)).collect();
        for reply in started {
            assert_eq!(verdicts(reply.await.unwrap()), [Verdict::Recorded(Recorded::Success)]);
        }
        assert_ended_once(&mut rig, batch).await;
    }
}

/// O4: a group that leaves lines in its span cannot be the last, and waits for no other at the end of the batch.
#[tokio::test]
async fn groups_that_leave_lines_share_the_batch_at_its_end() {
    let mut rig = Rig::new().await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(4).await;
    let (mut first, second) = (rig.grants(one, 1, 2).await, rig.grants(two, 1, 2).await);
    let holding = rig.holding(&format!("select from batches where batch = {} for key share", batch.number())).await;
    let last_of_first = first[0].rows.split_off(1);
    let reply = tokio::time::timeout(STUCK / 3, rig.start(record(one, &first, &success()))).await;
    assert_eq!(verdicts(reply.expect("it waits for nobody").unwrap()), [Verdict::Recorded(Recorded::Success)]);
    first[0].rows = last_of_first;
    let recording = rig.start(record(one, &first, &success()));
    rig.until_waiting(1).await;
    holding.commit().await;
    verdicts(recording.await.unwrap());
    verdicts(rig.store.call(record(two, &second, &success())).await);
    assert_ended_once(&mut rig, batch).await;
}

/// O4: two groups of one span, each of which would leave lines if the other were not there.
#[tokio::test]
async fn of_two_groups_that_share_the_last_span_one_ends_the_batch() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    for round in 1..=10 {
        let batch = rig.batch(4).await;
        let mut first = rig.grants(lease, round, 4).await;
        let mut second = first.clone();
        second[0].rows = first[0].rows.split_off(2);
        let holding = rig.holding(&format!("select from spans where token = {} for update", first[0].token.0)).await;
        let a = rig.start(record(lease, &first, &success()));
        let b = rig.start(record(lease, &second, &success()));
        rig.until_waiting(2).await;
        holding.commit().await;
        for reply in [a.await.unwrap(), b.await.unwrap()] {
            assert_eq!(verdicts(reply), [Verdict::Recorded(Recorded::Success); 2]);
        }
        assert_ended_once(&mut rig, batch).await;
    }
}

/// O4: the last fresh line is claimed while an earlier row is recorded, in either order.
#[tokio::test]
async fn a_claim_of_the_last_fresh_line_beside_a_record() {
    let mut rig = Rig::new().await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    for round in 1..=10 {
        let batch = rig.batch(2).await;
        let first = rig.grants(one, round, 1).await;
        let holding = rig.holding(&lock_batch(batch)).await;
        let (claiming, recording) = if round % 2 == 0 {
            let claiming = rig.start(claim(two, round, 1));
            rig.until_waiting(1).await;
            (claiming, rig.start(record(one, &first, &success())))
        } else {
            let recording = rig.start(record(one, &first, &success()));
            rig.until_waiting(1).await;
            (rig.start(claim(two, round, 1)), recording)
        };
        rig.until_waiting(2).await;
        holding.commit().await;
        let last = granted(claiming.await.unwrap());
        assert_eq!(verdicts(recording.await.unwrap()), [Verdict::Recorded(Recorded::Success)]);
        verdicts(rig.store.call(record(two, &last, &success())).await);
        assert_ended_once(&mut rig, batch).await;
    }
}

/// O4: the record that found fresh lines is still under way when the last line is claimed and recorded: the end waits for it.
#[tokio::test]
async fn the_end_waits_for_records_that_share_the_batch() {
    let mut rig = Rig::new().await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    let batch = rig.batch(2).await;
    let first = rig.grants(one, 1, 1).await;
    let holding = rig.holding(&format!("select from spans where token = {} for update", first[0].token.0)).await;
    let early = rig.start(record(one, &first, &success()));
    rig.until_waiting(1).await;
    // The early record has the batch's shared lock: a claim does not wait for it, the end does.
    let last = rig.grants(two, 1, 1).await;
    let late = rig.start(record(two, &last, &success()));
    rig.until_waiting(2).await;
    holding.commit().await;
    verdicts(early.await.unwrap());
    verdicts(late.await.unwrap());
    assert_ended_once(&mut rig, batch).await;
}

/// R2: recovery waits for a claim of the same lease, and frees what it took. Renewal does not wait.
#[tokio::test]
async fn recovery_waits_for_a_claim_of_its_lease() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(3).await;
    let holding = rig.holding(&lock_batch(batch)).await;
    let claiming = rig.start(claim(lease, 1, 2));
    rig.until_waiting(1).await;
    let renewed = rig.store.call(StoreRequest::Renew { lease, batches: vec![] }).await.unwrap();
    assert_eq!(renewed, StoreReply::Renew(RenewReply::Renewed { closed: vec![] }));
    let recovering = rig.start(died(lease, 1));
    rig.until_waiting(2).await;
    holding.commit().await;
    // It may find itself recovered before it has read its rows: all of them, or none.
    let told: usize = granted(claiming.await.unwrap()).iter().map(|grant| grant.rows.len()).sum();
    assert!(told == 0 || told == 2, "{told} rows were told");
    assert_eq!(recovered(recovering.await.unwrap()), RecoverReply::Recovered { lines: 2, failed: 0 });
    rig.assert_tiled().await;
}

/// R2, the other way round: a claim waits for the recovery of its lease, and finds it dead.
#[tokio::test]
async fn a_claim_waits_for_the_recovery_of_its_lease() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    rig.batch(3).await;
    let held = rig.grants(lease, 1, 1).await;
    let holding = rig.holding(&format!("select from spans where token = {} for update", held[0].token.0)).await;
    let recovering = rig.start(died(lease, 0));
    rig.until_waiting(1).await;
    let claiming = rig.start(claim(lease, 2, 1));
    rig.until_waiting(2).await;
    holding.commit().await;
    assert_eq!(recovered(recovering.await.unwrap()), RecoverReply::Recovered { lines: 1, failed: 0 });
    assert_eq!(claiming.await.unwrap().unwrap(), StoreReply::Claim(ClaimReply::LeaseEnded));
    rig.assert_tiled().await;
}

#[tokio::test]
async fn of_two_judges_one_recovers() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    rig.batch(3).await;
    rig.grants(lease, 1, 2).await;
    let holding = rig.holding(&format!("select from leases where lease = {} for update", lease.number())).await;
    let (a, b) = (rig.start(died(lease, 0)), rig.start(died(lease, 0)));
    rig.until_waiting(2).await;
    holding.commit().await;
    let replies = [recovered(a.await.unwrap()), recovered(b.await.unwrap())];
    assert!(replies.contains(&RecoverReply::Recovered { lines: 2, failed: 0 }), "{replies:?}");
    assert!(replies.contains(&RecoverReply::Spared), "{replies:?}");
    rig.assert_tiled().await;
}

/// O2: the repeat of a group whose first try is still under way waits for it, and is told that it was recorded before.
#[tokio::test]
async fn a_repeat_waits_for_the_first_try() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(3).await;
    let held = rig.grants(lease, 1, 2).await;
    let holding = rig.holding(&format!("select from spans where token = {} for update", held[0].token.0)).await;
    let (a, b) = (rig.start(record(lease, &held, &success())), rig.start(record(lease, &held, &success())));
    rig.until_waiting(2).await;
    holding.commit().await;
    let mut replies = [verdicts(a.await.unwrap()), verdicts(b.await.unwrap())];
    replies.sort_by_key(|verdicts| verdicts[0] == Verdict::RecordedBefore);
    assert_eq!(replies[0], [Verdict::Recorded(Recorded::Success); 2]);
    assert_eq!(replies[1], [Verdict::RecordedBefore; 2]);
    assert_eq!(rig.number(&format!("select success from tallies where batch = {}", batch.number())).await, 2);
    rig.assert_tiled().await;
}

/// T3: of two claims of one free span the later one has the larger tokens, and neither takes what the other took.
#[tokio::test]
async fn two_claims_of_one_free_span() {
    let mut rig = Rig::new().await;
    let (lease, one, two) = (rig.lease(1).await, rig.lease(2).await, rig.lease(3).await);
    let batch = rig.batch(4).await;
    rig.grants(lease, 1, 4).await;
    rig.store.call(StoreRequest::DropLease { lease }).await.unwrap();
    let holding = rig.holding(&lock_batch(batch)).await;
    let a = rig.start(claim(one, 1, 2));
    rig.until_waiting(1).await;
    let b = rig.start(claim(two, 1, 2));
    rig.until_waiting(2).await;
    holding.commit().await;
    let (first, second) = (granted(a.await.unwrap()), granted(b.await.unwrap()));
    let mut lines: Vec<u64> = first.iter().chain(&second).flat_map(|grant| &grant.rows).map(|row| row.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3, 4]);
    // Its part of the span was free under a token of its own in between: there are two tokens between the two.
    assert_eq!(first[0].token.0.abs_diff(second[0].token.0), 2);
    rig.assert_tiled().await;
}

/// T1: claims of different batches in the order of priorities, beside records that lock both batches by id, never deadlock.
#[tokio::test]
async fn a_claim_lets_go_of_a_batch_that_has_nothing_left() {
    let mut rig = Rig::new().await;
    let (one, two, three) = (rig.lease(1).await, rig.lease(2).await, rig.lease(3).await);
    for round in 1..=6 {
        let mut batches = [rig.batch(1).await, rig.batch(1).await];
        batches.sort();
        let [low, high] = batches;
        // The higher id comes first in the order of claims; whoever holds it must not ask for the lower one.
        rig.number(&format!(
            "with p as (update batches set priority = 5 where batch = {} returning 1) select count(*) from p",
            high.number()
        ))
        .await;
        let mut holding = rig.holding(&lock_batch(high)).await;
        let a = rig.start(claim(one, round, 1));
        rig.until_waiting(1).await;
        let b = rig.start(claim(two, round, 1));
        rig.until_waiting(2).await;
        // Now the holder asks for the lower one, as a record of both would: it is free.
        holding.and(&lock_batch(low)).await;
        holding.commit().await;
        let (a, b) = (granted(a.await.unwrap()), granted(b.await.unwrap()));
        let mut taken = [a[0].batch, b[0].batch];
        taken.sort();
        assert_eq!(taken, [low, high]);
        for (lease, grants) in [(one, &a), (two, &b)] {
            verdicts(rig.store.call(record(lease, grants, &success())).await);
        }
        assert_eq!(rig.grants(three, round, 1).await, []);
    }
}

/// C2: settling a claim that is under way waits for it, and hands out what it took; the number cannot be used again.
#[tokio::test]
async fn settling_waits_for_the_claim() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(3).await;
    let holding = rig.holding(&lock_batch(batch)).await;
    let claiming = rig.start(claim(lease, 1, 2));
    rig.until_waiting(1).await;
    let settling = rig.start(StoreRequest::SettleClaim { lease, number: 1 });
    rig.until_waiting(2).await;
    holding.commit().await;
    let taken = granted(claiming.await.unwrap());
    assert_eq!(settling.await.unwrap().unwrap(), StoreReply::SettleClaim(taken, Vec::new()));
    let again = rig.store.call(claim(lease, 1, 2)).await.unwrap();
    assert_eq!(again, StoreReply::Claim(ClaimReply::Closed));
}

/// R2: a late lease whose record somebody else holds is not answered for, since it cannot be renewed either.
#[tokio::test]
async fn a_look_leaves_out_a_late_lease_that_cannot_be_renewed() {
    let mut rig = Rig::new().await;
    let (late, fine) = (rig.lease(1).await, rig.lease(2).await);
    rig.number(&format!(
        "with l as (update leases set expires_at = expires_at - 59000000 where lease = {} returning 1) select count(*) from l",
        late.number()
    ))
    .await;
    let leases = |look: LookReply| look.leases.into_iter().map(|view| view.lease).collect::<Vec<_>>();
    assert_eq!(leases(look(&rig).await), [late, fine]);
    let holding = rig.holding(&format!("select from leases where lease = {} for update", late.number())).await;
    assert_eq!(leases(look(&rig).await), [fine]);
    holding.commit().await;
    assert_eq!(leases(look(&rig).await), [late, fine]);
    // Another judge's look does not count.
    let holding = rig.holding("select look(null)").await;
    assert_eq!(leases(look(&rig).await), [late, fine]);
    holding.commit().await;
    // A lock that keeps renewals out keeps looks out.
    let holding = rig.holding("lock table leases in share mode").await;
    let looking = rig.start(StoreRequest::Look);
    rig.until_waiting(1).await;
    holding.commit().await;
    looking.await.unwrap().unwrap();
}

/// P2: a claim that just misses a lone suspect goes on with what else the batch has.
#[tokio::test]
async fn two_idle_claims_of_one_lone_suspect() {
    let mut rig = Rig::new().await;
    let (dead, one, two) = (rig.lease(1).await, rig.lease(2).await, rig.lease(3).await);
    let batch = rig.batch(5).await;
    rig.grants(dead, 1, 1).await;
    assert!(matches!(recovered(rig.store.call(died(dead, 0)).await), RecoverReply::Recovered { lines: 1, .. }));
    let holding = rig.holding(&lock_batch(batch)).await;
    let a = rig.start(claim(one, 1, 9));
    rig.until_waiting(1).await;
    let b = rig.start(claim(two, 1, 9));
    rig.until_waiting(2).await;
    holding.commit().await;
    let mut lines: Vec<_> = Vec::new();
    for reply in [a.await.unwrap(), b.await.unwrap()] {
        let grants = granted(reply);
        assert_eq!(grants.len(), 1);
        lines.push((grants[0].alone, grants[0].rows.len()));
    }
    lines.sort_unstable();
    assert_eq!(lines, [(false, 4), (true, 1)]);
    rig.assert_tiled().await;
}

async fn look(rig: &Rig) -> LookReply {
    match rig.store.call(StoreRequest::Look).await.unwrap() {
        StoreReply::Look(look) => look,
        other => panic!("{other:?}"),
    }
}

/// Under any other isolation level the functions refuse, rather than leave batches open for ever.
#[tokio::test]
async fn other_isolation_levels_are_refused() {
    let rig = Rig::new().await;
    let mut conn = rig.schema.connect().await;
    super::rig::execute(&mut conn, "begin isolation level repeatable read").await;
    let error = sqlx::query("select look(null)").execute(&mut conn).await.unwrap_err();
    assert!(error.to_string().contains("READ COMMITTED only, not under repeatable read"), "{error}");
}

/// T2: whoever waits for a lock for too long is told so, and nothing was done.
#[tokio::test]
async fn a_lock_is_waited_for_no_longer_than_the_limit() {
    use fencepost::store::WorkerStore;
    let mut rig = Rig::new().await;
    rig.store = rig.store.clone().with_lock_wait(std::time::Duration::from_millis(100));
    let lease = rig.lease(1).await;
    let batch = rig.batch(1).await;
    let holding = rig.holding(&lock_batch(batch)).await;
    let error = rig.store.call(claim(lease, 1, 1)).await.unwrap_err();
    assert_eq!(error.failure, StoreFailure::NotDone, "{error}");
    assert!(error.message.contains("lock") || error.message.contains("took too long"), "{error}");
    holding.commit().await;
    assert_eq!(rig.grants(lease, 1, 1).await.len(), 1);
}
