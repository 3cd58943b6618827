use fencepost_core::keeper::{KeeperCommand, KeeperInput, LeaseEvent};
use fencepost_core::liveness::LivenessRequest;
use fencepost_core::purge::PurgeBegun;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::leaving::*;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

#[test]
fn s1_what_a_drop_frees_is_unchanged() {
    assert_eq!(s1_grace_ends(at(secs(1)), secs(30)), at(secs(31)));
    assert_eq!(s1_after_drop(&lines(3, 5), 2), (lines(3, 5), 2));
}

#[test]
fn s1_stop_gives_back_at_once_finishes_what_runs_then_drops() {
    let (mut rig, effects) = with_grants(options(2), vec![grant(1, 1..=4), grant(2, 7..=9)]);
    assert_eq!(starts(&effects).len(), 2);
    let effects = rig.tell(WorkerInput::Stop);
    let [(back, LEASE, given)] = &give_backs(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*given, [(BATCH, Token(1), lines(3, 4)), (BATCH, Token(2), lines(7, 9))]);
    assert!(cancels(&effects).is_empty());
    let mut effects = rig.tell(WorkerInput::Store(*back, Ok(StoreReply::GiveBack)));
    effects.extend(rig.tell(WorkerInput::Wake));
    effects.extend(rig.tell(success(run(1, 1))));
    effects.extend(rig.pass(secs(1)));
    assert!(claims(&effects).is_empty() && starts(&effects).is_empty());
    let first = records(&effects)[0].clone();
    effects.extend(recorded(&mut rig, &first));
    let last = rig.tell(success(run(2, 1)));
    assert_eq!(drops(&effects) + drops(&last), 0, "an answer is owed");
    let effects = recorded(&mut rig, &records(&last)[0]);
    assert_eq!((drops(&effects), exits(&effects)), (1, vec![]));
    let effects = rig.tell(WorkerInput::Lease(LeaseEvent::Dropped));
    assert_eq!(effects, [WorkerEffect::Exit(ExitReason::Stopped)]);
    assert_eq!((rig.machine.poll_timeout(), rig.tell(WorkerInput::Wake)), (None, vec![]));
}

#[test]
fn s1_what_still_runs_at_the_end_of_the_grace_is_cancelled_and_freed_by_the_drop() {
    let (mut rig, _) = with_grants(options(2), vec![grant(1, 1..=2)]);
    rig.tell(WorkerInput::Stop);
    assert!(cancels(&rig.pass(ms(29_999))).is_empty());
    let effects = rig.pass(ms(1));
    assert_eq!(cancels(&effects), [run(1, 1), run(2, 1)]);
    let mut effects = rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    assert_eq!(drops(&effects), 0);
    effects.extend(rig.tell(ended(run(2, 1), RunAnswer::Cancelled)));
    assert!(records(&effects).is_empty() && give_backs(&effects).is_empty(), "no attempt used");
    assert_eq!(drops(&effects), 1);
}

#[test]
fn s1_a_handler_that_does_not_end_does_not_keep_the_worker() {
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=1)]);
    rig.tell(WorkerInput::Stop);
    let effects = rig.pass(secs(35));
    assert!(effects.contains(&WorkerEffect::Abandon(run(1, 1))));
    assert_eq!((records(&effects).len(), drops(&effects)), (0, 1));
}

#[test]
fn s1_no_grace_and_no_patience_is_over_at_once() {
    let options = WorkerOptions { grace: ms(0), cancel_grace: ms(0), ..options(1) };
    let (mut rig, _) = with_grants(options, vec![grant(1, 1..=1)]);
    let effects = rig.tell(WorkerInput::Stop);
    assert_eq!(effects[..2], [WorkerEffect::Cancel(run(1, 1)), WorkerEffect::Abandon(run(1, 1))]);
    assert_eq!(drops(&effects), 1);
}

#[test]
fn s1_a_grant_that_arrives_after_the_stop_is_given_back_at_once() {
    for settled in [false, true] {
        let (mut rig, effects) = with_grants(options(2), vec![grant(1, 1..=1)]);
        assert_eq!(starts(&effects).len(), 1);
        let claim = claims(&effects)[0].0;
        rig.tell(WorkerInput::Stop);
        let grants = vec![grant(2, 5..=6)];
        let effects = if settled {
            let effects = rig.tell(WorkerInput::Store(claim, Err(StoreFailure::Unknown)));
            let (id, ..) = settlings(&effects)[0];
            rig.tell(WorkerInput::Store(id, Ok(StoreReply::SettleClaim(grants, vec![]))))
        } else {
            rig.tell(WorkerInput::Store(claim, Ok(granted(grants))))
        };
        assert!(starts(&effects).is_empty());
        let given: Vec<_> = give_backs(&effects).into_iter().map(|(_, lease, lines)| (lease, lines)).collect();
        assert_eq!(given, [(LEASE, vec![(BATCH, Token(2), lines(5, 6))])]);
    }
}

#[test]
fn s1_a_stop_without_work_or_lease_leaves_at_once() {
    assert_eq!(drops(&worker(options(1)).tell(WorkerInput::Stop)), 1);
    let (mut rig, _) = at_work(options(1));
    let effects = rig.tell(WorkerInput::Stop);
    assert_eq!((drops(&effects), give_backs(&effects).len()), (1, 0));
    assert_eq!(drops(&rig.tell(WorkerInput::Stop)), 0, "once");
}

#[test]
fn s1_until_done_leaves_once_no_line_is_open() {
    let reply = |open_lines| {
        let (grants, suspect_waits, next_after) = (vec![], false, None);
        Ok(StoreReply::Claim(ClaimReply::Granted { grants, suspect_waits, next_after, open_lines }))
    };
    let until_done = WorkerOptions { until_done: true, ..options(1) };
    let (mut rig, effects) = at_work(until_done);
    assert_eq!(drops(&rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply(true)))), 0);
    let claim = claims(&rig.pass(secs(1)))[0].0;
    assert_eq!(drops(&rig.tell(WorkerInput::Store(claim, reply(false)))), 1);
    assert_eq!(exits(&rig.tell(WorkerInput::Lease(LeaseEvent::Dropped))), [ExitReason::Done]);

    let (mut rig, effects) = at_work(options(1));
    assert_eq!(drops(&rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply(false)))), 0, "unless asked to");
}

#[test]
fn s1_the_drop_is_repeated_until_it_is_known_and_takes_the_heartbeat_with_it() {
    let mut rig = keeping();
    let lease = rig.machine.lease();
    let effects = rig.tell(KeeperInput::Command(KeeperCommand::Drop));
    let [(id, StoreRequest::DropLease { lease: dropped })] = kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(dropped, lease);
    let mut effects = rig.tell(KeeperInput::Store(id, Err(StoreFailure::Unknown)));
    effects.extend(rig.pass(secs(3)));
    let again = kept(&effects);
    assert!(again.len() >= 3 && again.iter().all(|(_, request)| *request == StoreRequest::DropLease { lease }));
    let effects = rig.tell(KeeperInput::Store(again.last().unwrap().0, Ok(StoreReply::DropLease)));
    // P1: the drop may have found the lease declared dead.
    let [(id, StoreRequest::WithdrawCrashes { lease: withdrawn })] = kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((withdrawn, told(&effects)), (lease, Vec::new()));
    let effects = rig.tell(KeeperInput::Store(id, Ok(StoreReply::WithdrawCrashes)));
    assert_eq!((told(&effects), rig.machine.is_gone()), (vec![LeaseEvent::Dropped], true));
    assert_eq!((rig.machine.poll_timeout(), rig.pass(secs(100)).len()), (None, 0));

    let (mut rig, _) = keeper(false, true);
    let lease = rig.machine.lease();
    let effects = rig.tell(KeeperInput::Command(KeeperCommand::Drop));
    assert!(kept(&effects).contains(&(RequestId(2), StoreRequest::DropLease { lease })), "a take may be on its way");
    let leave = LivenessRequest::Leave { lease };
    let is_leave = |effect: &_| matches!(effect, fencepost_core::keeper::KeeperEffect::Liveness(_, r) if *r == leave);
    assert!(effects.iter().any(is_leave));
}

fn closed(batch: BatchId) -> WorkerInput {
    WorkerInput::Lease(LeaseEvent::Held { lease: LEASE, licence_ends: at(secs(1_000_000)), closed: vec![batch] })
}

#[test]
fn s2_only_open_batches_are_worked_on() {
    assert!(!s2_closed(Some(BatchStatus::Open)));
    for status in [BatchStatus::Loading, BatchStatus::Success, BatchStatus::Failed, BatchStatus::Aborted] {
        assert!(s2_closed(Some(status)), "{status:?}");
    }
    assert!(s2_closed(None), "purged");
}

#[test]
fn s2_a_closed_batch_is_let_go_of_and_no_other() {
    let mut other = grant(2, 1..=3);
    other.batch = OTHER;
    let (mut rig, effects) = with_grants(options(2), vec![grant(1, 1..=4), other]);
    let of_other = |line| RunKey { batch: OTHER, line, token: Token(2) };
    assert_eq!(starts(&effects), [of_other(1), run(1, 1)]);
    let effects = rig.tell(closed(BATCH));
    assert_eq!(cancels(&effects), [run(1, 1)]);
    assert!(starts(&effects).is_empty());
    let effects = rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
    assert_eq!(starts(&effects), [of_other(2)]);
    assert!(records(&[effects, rig.pass(secs(1))].concat()).is_empty(), "no attempt, no outcome");
}

/// The news may be old: the batch may have been opened again, and these be lines of its new generation. A batch that is
/// over has no use for lines that are given back; one that is open has.
#[test]
fn s2_lines_let_go_of_are_given_back_in_case_the_batch_is_open_again() {
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=4)]);
    let mut effects = rig.tell(closed(BATCH));
    effects.extend(rig.tell(ended(run(1, 1), RunAnswer::Cancelled)));
    let mut back = LineSet::new();
    while let Some((id, lease, given)) = give_backs(&effects).pop() {
        assert_eq!(lease, LEASE);
        for (batch, token, lines) in given {
            assert_eq!((batch, token), (BATCH, Token(1)));
            back = back.union(&lines);
        }
        effects = rig.tell(WorkerInput::Store(id, Ok(StoreReply::GiveBack)));
    }
    assert_eq!(back, lines(1, 4));
}

/// What the claim is answered may be from before the abort.
#[test]
fn s2_news_of_an_abort_settles_a_claim_under_way() {
    let (mut rig, effects) = at_work(options(2));
    let claim = claims(&effects)[0].0;
    let effects = rig.tell(WorkerInput::BatchesClosed(vec![BATCH]));
    let [(settling, LEASE, 1)] = settlings(&effects)[..] else { panic!("{effects:?}") };
    let effects = rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(1, 1..=4)]))));
    assert!(starts(&effects).is_empty(), "an old reply");
    let effects = rig.tell(WorkerInput::Store(settling, Ok(StoreReply::SettleClaim(vec![grant(2, 7..=8)], vec![]))));
    assert_eq!(starts(&effects).len(), 2, "what the store says now");
}

/// The store keeps what a claim took of an aborted batch until it is told that nobody runs it: a settling may arrive twice.
#[test]
fn s2_what_a_settled_claim_took_of_an_aborted_batch_is_given_back() {
    let (mut rig, effects) = at_work(options(2));
    let claim = claims(&effects)[0].0;
    let effects = rig.tell(WorkerInput::Store(claim, Err(StoreFailure::Unknown)));
    let settling = settlings(&effects)[0].0;
    let stopped = vec![(OTHER, Token(3), lines(4, 6)), (OTHER, Token(5), lines(9, 9))];
    let effects =
        rig.tell(WorkerInput::Store(settling, Ok(StoreReply::SettleClaim(vec![grant(2, 7..=8)], stopped.clone()))));
    assert_eq!(starts(&effects).len(), 2);
    let back: Vec<_> = give_backs(&effects).into_iter().map(|(_, lease, lines)| (lease, lines)).collect();
    assert_eq!(back, [(LEASE, stopped.clone())]);
    // Of a lease that is over nothing is kept.
    let (mut rig, effects) = at_work(options(2));
    let claim = claims(&effects)[0].0;
    let effects = rig.tell(WorkerInput::Store(claim, Err(StoreFailure::Unknown)));
    let settling = settlings(&effects)[0].0;
    rig.tell(WorkerInput::Lease(LeaseEvent::Ended { lease: LEASE }));
    rig.tell(held(LEASE_2, at(secs(1_000))));
    let effects = rig.tell(WorkerInput::Store(settling, Ok(StoreReply::SettleClaim(vec![], stopped))));
    assert_eq!(give_backs(&effects), []);
}

/// The store takes a line that is given back for one that does not run any more.
#[test]
fn s2_the_line_of_a_run_that_does_not_end_is_given_back_once_it_has_ended() {
    for lapses in [false, true] {
        let options = WorkerOptions { cancel_grace: secs(5), ..options(1) };
        let mut rig = worker(options);
        let licence_ends = at(secs(if lapses { 2 } else { 1_000_000 }));
        let claim = claims(&rig.tell(held(LEASE, licence_ends)))[0].0;
        rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(1, 1..=1)]))));
        let mut effects = rig.tell(WorkerInput::BatchesClosed(vec![BATCH]));
        effects.extend(rig.pass(secs(6)));
        assert!(effects.contains(&WorkerEffect::Abandon(run(1, 1))));
        assert!(give_backs(&effects).is_empty(), "it runs: {effects:?}");
        assert_eq!(rig.machine.running(), 0, "its slot is free");
        let effects = rig.tell(ended(run(1, 1), RunAnswer::Cancelled));
        let given: Vec<_> = give_backs(&effects).into_iter().map(|(_, lease, lines)| (lease, lines)).collect();
        assert_eq!(given, [(LEASE, vec![(BATCH, Token(1), lines(1, 1))])]);
    }
}

#[test]
fn s2_a_suspect_alone_that_does_not_end_keeps_its_worker_from_nothing() {
    let (mut rig, _) = with_grants(options(1), vec![Grant { alone: true, suspicion: 2, ..grant(1, 1..=1) }]);
    rig.tell(closed(BATCH));
    let effects = rig.pass(secs(30));
    assert!(effects.contains(&WorkerEffect::Abandon(run(1, 1))));
    assert!(!claims(&effects).is_empty(), "it goes on with other batches: {effects:?}");
}

#[test]
fn s2_what_was_given_back_or_answered_does_not_run() {
    assert_eq!(s2_still_runs(&lines(1, 5), &lines(2, 3)), LineSet::from_ranges([(1, 1), (4, 5)]).unwrap());
    assert!(s2_still_runs(&lines(1, 2), &lines(1, 9)).is_empty());
}

#[test]
fn s2_the_keeper_asks_for_the_batches_that_the_worker_holds_lines_of() {
    let mut rig = keeping();
    rig.tell(KeeperInput::Command(KeeperCommand::Running(vec![(BATCH, lines(1, 1)), (OTHER, LineSet::new())])));
    let effects = rig.pass(secs(4));
    let [(id, StoreRequest::Renew { batches, .. })] = &kept(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*batches, [BATCH, OTHER]);
    let renewed = RenewReply::Renewed { closed: vec![OTHER] };
    let effects = rig.tell(KeeperInput::Store(*id, Ok(StoreReply::Renew(renewed))));
    assert!(matches!(&told(&effects)[..], [LeaseEvent::Held { closed, .. }] if *closed == [OTHER]));
}

#[test]
fn s2_the_worker_tells_within_half_a_second_what_it_holds() {
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=2)]);
    let told_at = |effects: Vec<(Instant, WorkerEffect)>| {
        let mut told = effects.into_iter().filter_map(|(told_at, effect)| match effect {
            WorkerEffect::Keeper(KeeperCommand::Running(running)) => Some((told_at.since(at(secs(0))), running)),
            _ => None,
        });
        told.next()
    };
    assert_eq!(told_at(rig.pass_timed(secs(5))), Some((ms(500), vec![(BATCH, lines(1, 1))])));
    assert_eq!(told_at(rig.pass_timed(secs(50))), None, "only when it changed");
}

/// The keeper asks which of these batches are closed: it must know of every batch that the worker has lines of.
#[test]
fn s2_the_keeper_learns_of_batches_whose_lines_all_wait() {
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=1)]);
    rig.pass(ms(100));
    let claim = claims(&rig.tell(success(run(1, 1))))[0].0;
    // One line runs for long; a span of another batch waits behind it.
    let effects = rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(2, 2..=2)]))));
    let claim = claims(&effects)[0].0;
    rig.pass(ms(600));
    let effects = rig.tell(WorkerInput::Store(claim, Ok(granted(vec![Grant { batch: OTHER, ..grant(3, 1..=9) }]))));
    assert!(starts(&effects).is_empty());
    let running = vec![(BATCH, lines(2, 2)), (OTHER, LineSet::new())];
    let effects = rig.pass(ms(500));
    assert!(effects.contains(&WorkerEffect::Keeper(KeeperCommand::Running(running))), "{effects:?}");
}

#[test]
fn s3_a_held_batch_is_not_claimed_but_stays_open() {
    use fencepost_core::rules::claim::c3_claimable;
    assert!(!c3_claimable(BatchStatus::Open, true, "a", ["a"].into_iter()));
    assert!(!s2_closed(Some(BatchStatus::Open)), "its running rows go on");
}

#[test]
fn s4_a_key_is_bound_once() {
    assert_eq!(s4_bind_key(None, "x"), KeyBinding::Bind);
    assert_eq!(s4_bind_key(Some("x"), "x"), KeyBinding::Same);
    assert_eq!(s4_bind_key(Some("y"), "x"), KeyBinding::Differs);
}

#[test]
fn s6_only_ended_batches_are_purged() {
    let statuses =
        [BatchStatus::Loading, BatchStatus::Open, BatchStatus::Success, BatchStatus::Failed, BatchStatus::Aborted];
    assert_eq!(statuses.map(s6_may_purge), [false, false, true, true, true]);
}

#[test]
fn s6_what_the_beginning_of_a_purge_comes_to() {
    let ended =
        PurgeCandidate { status: BatchStatus::Success, ended_at: Some(StoreTime(100)), has_spans: false, busy: false };
    let begin = |found: PurgeCandidate| s6_begin_purge(Some(found), false, StoreTime(100));
    assert_eq!(begin(ended), PurgeBegun::Now);
    assert_eq!(begin(PurgeCandidate { status: BatchStatus::Aborted, ..ended }), PurgeBegun::Now);
    for status in [BatchStatus::Open, BatchStatus::Loading] {
        assert_eq!(begin(PurgeCandidate { status, ..ended }), PurgeBegun::NotEnded);
    }
    assert_eq!(begin(PurgeCandidate { has_spans: true, ..ended }), PurgeBegun::NotEnded);
    assert_eq!(begin(PurgeCandidate { ended_at: Some(StoreTime(101)), ..ended }), PurgeBegun::EndedSince);
    assert_eq!(begin(PurgeCandidate { ended_at: None, ..ended }), PurgeBegun::EndedSince);
    assert_eq!(begin(PurgeCandidate { busy: true, ..ended }), PurgeBegun::Busy);
    assert_eq!(s6_begin_purge(None, true, StoreTime(100)), PurgeBegun::Before);
    assert_eq!(s6_begin_purge(None, false, StoreTime(100)), PurgeBegun::NotThere);
}

#[test]
fn s6_slices_cover_every_line_once_and_count_the_batchs_own() {
    // 7 rows, and 4 that an append left beyond them.
    let (mut gone_to, mut rows, mut slices) = (0, Vec::new(), 0);
    while gone_to < 11 {
        let (after, to) = s6_slice(gone_to, 11, 3);
        assert_eq!(after, gone_to);
        rows.push(s6_rows_of(after, to, 7));
        (gone_to, slices) = (to, slices + 1);
    }
    assert_eq!((rows, slices), (vec![3, 3, 1, 0], 4));
    assert_eq!(s6_slice(0, 0, 3), (0, 0), "an empty batch");
    assert_eq!(s6_slice(4, 9, 0), (4, 5), "a slice is never empty");
}

#[test]
fn s6_a_lease_can_have_to_do_with_batches_that_were_open_while_it_lived() {
    let refers = |created_at, ended_at: Option<i64>| {
        s6_may_refer((StoreTime(10), StoreTime(20)), (StoreTime(created_at), ended_at.map(StoreTime)))
    };
    assert!(refers(5, None) && refers(5, Some(10)) && refers(20, None) && refers(12, Some(15)));
    assert!(!refers(21, None) && !refers(5, Some(9)));
}

const STATUSES: [BatchStatus; 5] =
    [BatchStatus::Loading, BatchStatus::Open, BatchStatus::Success, BatchStatus::Failed, BatchStatus::Aborted];

#[test]
fn s2_s3_only_open_batches_are_aborted_held_and_resumed() {
    use BatchStatus::*;
    use Operated::{Before, Ended, NotThere, Now};
    let aborts = STATUSES.map(|status| s2_abort(Some(status)));
    assert_eq!(aborts, [Operated::Loading, Now, Ended(Success), Ended(Failed), Before]);
    assert_eq!(s2_abort(None), NotThere);
    for hold in [true, false] {
        let holds = STATUSES.map(|status| s3_hold(Some(status), !hold, hold));
        assert_eq!(holds, [Operated::Loading, Now, Ended(Success), Ended(Failed), Ended(Aborted)]);
        assert_eq!(s3_hold(Some(Open), hold, hold), Before);
        assert_eq!(s3_hold(None, hold, hold), NotThere);
    }
}

#[test]
fn s5_a_retry_opens_what_ended_but_not_what_was_aborted() {
    let (goes_on, reopens) = (MayRetry::Yes { reopens: false }, MayRetry::Yes { reopens: true });
    let may = STATUSES.map(|status| s5_may_retry(Some(status)));
    assert_eq!(may, [MayRetry::Loading, goes_on, reopens, reopens, MayRetry::Aborted]);
    assert_eq!(s5_may_retry(None), MayRetry::NotThere);
    assert_eq!([s5_generation(1, true, 3), s5_generation(1, true, 0), s5_generation(1, false, 3)], [2, 1, 1]);
}

/// A store that refuses leases, for a role that may not write, would refuse to drop one, too.
#[test]
fn s1_a_worker_that_never_had_a_lease_leaves_at_once() {
    for (failure, leaves) in [(StoreFailure::NotDone, true), (StoreFailure::Unknown, false)] {
        let (mut rig, effects) = keeper(false, false);
        let effects = rig.tell(KeeperInput::Store(takes(&effects)[0].0, Err(failure)));
        assert!(kept(&effects).is_empty());
        let effects = rig.tell(KeeperInput::Command(KeeperCommand::Drop));
        assert_eq!(told(&effects) == [LeaseEvent::Dropped], leaves, "{effects:?}");
        assert_eq!(kept(&effects).is_empty(), leaves, "what may have been taken is dropped");
    }
}
