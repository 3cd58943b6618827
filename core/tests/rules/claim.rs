use fencepost_core::keeper::KeeperCommand;
use fencepost_core::rules::claim::*;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::store::*;
use fencepost_core::worker::*;
use fencepost_core::*;

use crate::rig::*;

#[test]
fn c1_no_live_lease_no_span() {
    assert!(c1_lease_may_take(Some(LeaseState::Live)));
    for state in [None, Some(LeaseState::Dead), Some(LeaseState::TakenOver), Some(LeaseState::Dropped)] {
        assert!(!c1_lease_may_take(state), "{state:?}");
    }
}

#[test]
fn c1_a_claim_that_is_told_of_the_lease_s_end_waits_for_the_keeper() {
    let (mut rig, effects) = at_work(options(1));
    let (id, _) = claims(&effects)[0];
    let reply = Ok(StoreReply::Claim(ClaimReply::LeaseEnded));
    assert_eq!(rig.tell(WorkerInput::Store(id, reply)), [WorkerEffect::Keeper(KeeperCommand::RenewNow)]);
    assert!(claims(&rig.pass(ms(999))).is_empty());
}

#[test]
fn c2_a_number_happens_once_and_never_once_closed() {
    assert!(c2_number_is_open(0, 1));
    assert!(c2_number_is_open(4, 5));
    assert!(!c2_number_is_open(5, 5));
    assert!(!c2_number_is_open(5, 4));
    assert!(!c2_number_is_open(c2_close_number(4, 5), 5));
    assert_eq!(c2_close_number(7, 5), 7, "closing an old number opens none");
}

#[test]
fn c2_claims_are_numbered_upwards() {
    let (mut rig, effects) = at_work(options(1));
    let (id, claim) = claims(&effects)[0].clone();
    assert_eq!(claim.number, 1);
    rig.tell(WorkerInput::Store(id, Ok(granted(vec![]))));
    let (id, claim) = claims(&rig.tell(WorkerInput::Wake))[0].clone();
    assert_eq!(claim.number, 2);
    // That it did not happen is known: nothing to settle.
    let mut effects = rig.tell(WorkerInput::Store(id, Err(StoreFailure::NotDone)));
    effects.extend(rig.pass(secs(1)));
    assert!(settlings(&effects).is_empty());
    assert_eq!(claims(&effects)[0].1.number, 3);
}

#[test]
fn c2_an_unknown_claim_is_settled_before_any_other() {
    for cut_off in [true, false] {
        let (mut rig, effects) = at_work(options(1));
        let (claim, _) = claims(&effects)[0];
        let effects = if cut_off {
            rig.tell(WorkerInput::Store(claim, Err(StoreFailure::Unknown)))
        } else {
            rig.pass(TIMING.request_timeout)
        };
        let [(settling, LEASE, 1)] = settlings(&effects)[..] else { panic!("{effects:?}") };
        // Neither silence nor failure of the settling makes it guess.
        let mut effects = rig.tell(WorkerInput::Wake);
        effects.extend(rig.tell(WorkerInput::Store(settling, Err(StoreFailure::NotDone))));
        effects.extend(rig.pass(secs(3)));
        let again = settlings(&effects);
        assert!(again.len() >= 2 && again.iter().all(|(_, lease, number)| (*lease, *number) == (LEASE, 1)));
        assert!(claims(&effects).is_empty());
        // What it took is run, and nothing else.
        let grants = vec![grant(9, 3..=3)];
        let effects =
            rig.tell(WorkerInput::Store(again.last().unwrap().0, Ok(StoreReply::SettleClaim(grants, vec![]))));
        assert_eq!(starts(&effects), [run(3, 9)]);
        assert_eq!(rig.pass(ms(10)).len(), 0);
        let effects = rig.tell(success(run(3, 9)));
        assert_eq!(claims(&effects)[0].1.number, 2);
    }
}

#[test]
fn c2_a_claim_s_late_reply_is_ignored() {
    let (mut rig, effects) = at_work(options(1));
    let (claim, _) = claims(&effects)[0];
    let (settling, ..) = settlings(&rig.pass(TIMING.request_timeout))[0];
    let late = WorkerInput::Store(claim, Ok(granted(vec![grant(9, 3..=3)])));
    assert_eq!(rig.tell(late.clone()), []);
    let settled = WorkerInput::Store(settling, Ok(StoreReply::SettleClaim(vec![grant(9, 3..=3)], vec![])));
    assert_eq!(starts(&rig.tell(settled.clone())), [run(3, 9)]);
    assert_eq!(rig.tell(late), []);
    assert_eq!(rig.tell(settled), []);
}

#[test]
fn c2_a_settling_goes_on_through_a_lapse() {
    let mut rig = worker(options(1));
    let (claim, _) = claims(&rig.tell(held(LEASE, at(secs(7)))))[0];
    let effects = [rig.tell(WorkerInput::Store(claim, Err(StoreFailure::Unknown))), rig.pass(secs(10))].concat();
    let (settling, ..) = *settlings(&effects).last().unwrap();
    assert!(settlings(&effects).len() > 3);
    let effects = rig.tell(WorkerInput::Store(settling, Ok(StoreReply::SettleClaim(vec![grant(9, 3..=3)], vec![]))));
    // S2: what was claimed before the lapse is not started after it; it goes back.
    assert!(starts(&effects).is_empty());
    let back: Vec<_> = give_backs(&effects).into_iter().map(|(_, lease, lines)| (lease, lines)).collect();
    assert_eq!(back, [(LEASE, vec![(BATCH, Token(9), lines(3, 3))])]);
    assert!(starts(&rig.tell(held(LEASE, at(secs(20))))).is_empty());
}

#[test]
fn c2_a_claim_under_way_at_a_lapse_is_settled() {
    let mut rig = worker(options(1));
    let (claim, asked) = claims(&rig.tell(held(LEASE, at(secs(1)))))[0].clone();
    let effects = rig.pass(secs(1));
    assert_eq!(settlings(&effects)[0].2, asked.number);
    let effects = rig.tell(WorkerInput::Store(claim, Ok(granted(vec![grant(1, 1..=1)]))));
    assert_eq!(effects, [], "its own answer is old news");
}

#[test]
fn c3_batches_by_priority_then_by_who_waited_longest() {
    let turn = |id, priority, last_claim| BatchTurn {
        batch: BatchId::from_random(id),
        priority,
        last_claim: Token(last_claim),
    };
    let mut batches = [turn(1, 0, 5), turn(2, 0, 3), turn(3, 7, 9), turn(4, -1, 0), turn(5, 0, 3)];
    c3_batch_order(&mut batches);
    assert_eq!(batches.map(|turn| turn.batch.number()), [3, 2, 5, 1, 4]);
}

#[test]
fn c3_only_open_batches_with_a_handler_are_claimed() {
    let claimable = |status, held, operation| c3_claimable(status, held, operation, ["a", "b"].into_iter());
    assert!(claimable(BatchStatus::Open, false, "b"));
    assert!(!claimable(BatchStatus::Open, true, "b"), "held (S3)");
    assert!(!claimable(BatchStatus::Open, false, "c"), "no handler");
    for status in [BatchStatus::Loading, BatchStatus::Success, BatchStatus::Failed, BatchStatus::Aborted] {
        assert!(!claimable(status, false, "b"), "{status:?}");
        assert_eq!(BatchStatus::from_name(status.name()), Some(status));
    }
    assert_eq!(BatchStatus::from_name("Open"), None);
}

#[test]
fn c3_a_claim_is_bounded_by_the_horizon_and_by_lines() {
    let lines = |mean, free, unstarted| c3_claim_lines(mean, 4, free, secs(1), unstarted, 1_000);
    assert_eq!(lines(None, 4, 0), 4, "before anything is measured: what it can start now");
    assert_eq!(lines(Some(secs(2)), 1, 0), 2, "slow rows by few");
    assert_eq!(lines(Some(secs(20)), 1, 0), 1, "and no row ahead");
    assert_eq!(lines(Some(secs(20)), 0, 0), 0);
    assert_eq!(lines(Some(ms(10)), 4, 0), 400);
    assert_eq!(lines(Some(ms(10)), 4, 150), 250, "less what it holds unstarted");
    assert_eq!(lines(Some(ms(10)), 4, 500), 0);
    assert_eq!(lines(Some(ms(0)), 4, 0), 1_000);
    assert_eq!(c3_lines_ahead(Some(ms(10)), 4, secs(1)), 400);
}

#[test]
fn c3_a_claim_is_bounded_by_bytes_but_for_its_first_row() {
    assert_eq!(c3_rows_within_bytes([4, 4, 4], 12), 3);
    assert_eq!(c3_rows_within_bytes([4, 4, 4], 11), 2);
    assert_eq!(c3_rows_within_bytes([400, 4], 11), 1);
    assert_eq!(c3_rows_within_bytes([], 11), 0);
    assert_eq!(c3_rows_within_bytes([1, u64::MAX, 1], u64::MAX - 1), 1);
}

#[test]
fn c3_so_many_bytes_are_claimed_as_there_is_room_for() {
    assert_eq!(c3_claim_bytes(0, 4, 10), Some(4));
    assert_eq!(c3_claim_bytes(6, 4, 10), Some(4));
    assert_eq!(c3_claim_bytes(7, 4, 10), Some(3));
    assert_eq!(c3_claim_bytes(8, 4, 10), Some(2));
    assert_eq!(c3_claim_bytes(9, 4, 10), None, "less than half a claim");
    assert_eq!(c3_claim_bytes(11, 4, 10), None);
    assert_eq!(c3_claim_bytes(1, 1, 1), None);
    assert_eq!(c3_claim_bytes(0, 4, 3), Some(4), "else it would claim nothing ever");
    assert_eq!(c3_claim_bytes(1, u64::MAX, u64::MAX), Some(u64::MAX - 1));
}

#[test]
fn c3_a_worker_with_enough_bytes_claims_nothing() {
    let options = WorkerOptions { claim_bytes_max: 4, held_bytes_max: 9, ..options(3) };
    // Five rows of two bytes: three run, two wait.
    let (mut rig, effects) = with_grants(options.clone(), vec![grant(1, 1..=5)]);
    assert_eq!((starts(&effects).len(), claims(&effects), rig.machine.held_bytes()), (3, vec![], 10));
    rig.pass(ms(10));
    // Four rows, eight bytes: those that run count as well.
    let effects = rig.tell(success(run(1, 1)));
    assert_eq!((starts(&effects), claims(&effects)), (vec![run(4, 1)], vec![]));
    assert_eq!(claims(&rig.tell(WorkerInput::BatchOpened)), []);
    let claim = claims(&rig.tell(success(run(2, 1))))[0].1.clone();
    assert_eq!(claim.bytes_max, 3, "six are held");

    // What is given back and what was given up is not held any more.
    let (mut rig, _) = with_grants(options, vec![grant(1, 1..=5)]);
    rig.tell(WorkerInput::BatchesClosed(vec![BATCH]));
    assert_eq!(rig.machine.held_bytes(), 6);
    let effects = rig.pass(secs(5));
    let abandoned = effects.iter().filter(|effect| matches!(effect, WorkerEffect::Abandon(_)));
    assert_eq!((abandoned.count(), rig.machine.held_bytes()), (3, 0));
    assert_eq!(claims(&effects)[0].1.bytes_max, 4);
}

#[test]
fn c3_slow_rows_are_claimed_one_by_one_quick_ones_ahead() {
    let claimed_after = |run_time| {
        let (mut rig, effects) = with_grants(options(1), vec![grant(1, 1..=1)]);
        assert!(claims(&effects).is_empty(), "nothing is known of its rows yet");
        rig.pass(run_time);
        claims(&rig.tell(success(run(1, 1))))[0].1.clone()
    };
    assert_eq!(claimed_after(secs(2)).lines_max, 1);
    assert_eq!(claimed_after(ms(10)).lines_max, 100);
    let claim = claimed_after(ms(10));
    assert_eq!((claim.operations, claim.bytes_max), (options(1).operations, options(1).claim_bytes_max));
}

#[test]
fn c3_the_next_span_is_fetched_when_half_of_this_one_is_left() {
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=1)]);
    rig.pass(ms(100));
    let (id, claim) = claims(&rig.tell(success(run(1, 1))))[0].clone();
    assert_eq!(claim.lines_max, 10);
    let mut effects = rig.tell(WorkerInput::Store(id, Ok(granted(vec![grant(2, 2..=11)]))));
    let mut unstarted = 9;
    while claims(&effects).is_empty() {
        rig.pass(ms(100));
        effects = rig.tell(success(starts(&effects)[0]));
        unstarted -= 1;
        assert!(unstarted > 0, "it ran dry");
    }
    assert_eq!(unstarted, 5);
    assert_eq!(claims(&effects)[0].1.lines_max, 5);
}

#[test]
fn c3_a_batch_that_is_opened_gets_its_turn_although_the_worker_has_enough_lines() {
    // It runs ten rows a second and has nine.
    let (mut rig, _) = with_grants(options(1), vec![grant(1, 1..=1)]);
    rig.pass(ms(100));
    let (id, _) = claims(&rig.tell(success(run(1, 1))))[0];
    let effects = rig.tell(WorkerInput::Store(id, Ok(granted(vec![grant(2, 2..=11)]))));
    assert_eq!((starts(&effects), claims(&effects)), (vec![run(2, 2)], vec![]));
    assert_eq!(claims(&rig.tell(WorkerInput::Wake)), []);
    let (id, claim) = claims(&rig.tell(WorkerInput::BatchOpened))[0].clone();
    assert_eq!(claim.lines_max, 5, "what it runs in half a second");
    let mut newcomer = grant(3, 1..=5);
    newcomer.batch = BatchId::from_random(77);
    let of_newcomer = |line| RunKey { batch: newcomer.batch, line, token: Token(3) };
    let effects = rig.tell(WorkerInput::Store(id, Ok(granted(vec![newcomer.clone()]))));
    assert_eq!((starts(&effects), claims(&effects)), (vec![], vec![]), "one claim for one opening");
    // It has fewer rows here, so its own come first, but for every fourth turn.
    let mut running = run(2, 2);
    let mut started = Vec::new();
    for _ in 0..4 {
        rig.pass(ms(100));
        running = starts(&rig.tell(success(running)))[0];
        started.push(running);
    }
    assert_eq!(started, [of_newcomer(1), run(3, 2), of_newcomer(2), of_newcomer(3)]);
    // The second one finds room for less, and a third for nothing: no more than twice of what it would hold.
    let lines = |rig: &mut Rig<Worker>| {
        claims(&rig.tell(WorkerInput::BatchOpened)).first().map(|(id, claim)| (*id, claim.lines_max))
    };
    let (id, second) = lines(&mut rig).unwrap();
    rig.tell(WorkerInput::Store(id, Ok(granted(vec![grant(4, 20..20 + second)]))));
    let (id, third) = lines(&mut rig).unwrap();
    rig.tell(WorkerInput::Store(id, Ok(granted(vec![grant(5, 40..40 + third)]))));
    assert_eq!((second, third, lines(&mut rig)), (5, 5, None));
}

#[test]
fn c3_so_much_is_claimed_of_a_newcomer() {
    assert_eq!(c3_newcomer_lines(1000, 8, 900, 10_000), 500);
    assert_eq!(c3_newcomer_lines(1000, 8, 1_900, 10_000), 100);
    assert_eq!(c3_newcomer_lines(1000, 8, 2_000, 10_000), 0);
    assert_eq!(c3_newcomer_lines(1000, 8, 900, 40), 40);
    assert_eq!(c3_newcomer_lines(0, 8, 3, 10_000), 8, "slow rows");
    assert_eq!(c3_newcomer_lines(0, 8, 12, 10_000), 4);
}

#[test]
fn c3_an_idle_worker_asks_again_at_its_poll_or_when_a_line_comes_due_or_when_woken() {
    let nothing = |next_after| {
        let (mut rig, effects) = at_work(options(1));
        let (grants, suspect_waits, open_lines) = (vec![], false, true);
        let reply = ClaimReply::Granted { grants, suspect_waits, next_after, open_lines };
        assert_eq!(rig.tell(WorkerInput::Store(claims(&effects)[0].0, Ok(StoreReply::Claim(reply)))), []);
        rig
    };
    let asks_after = |next_after| {
        let mut rig = nothing(next_after);
        let (asked_at, _) = rig.pass_timed(secs(2))[0];
        asked_at.since(at(secs(0)))
    };
    assert_eq!(asks_after(None), secs(1));
    assert_eq!(asks_after(Some(ms(300))), ms(300));
    assert_eq!(asks_after(Some(secs(300))), secs(1), "others may come meanwhile");
    assert_eq!(asks_after(Some(ms(0))), ms(10));
    assert_eq!(claims(&nothing(None).tell(WorkerInput::Wake)).len(), 1);
}

#[test]
fn c3_lines_start_in_the_order_of_the_claim_and_say_where_they_come_from() {
    let (mut rig, effects) = at_work(options(3));
    let mut recovered = grant(5, [2, 9]);
    recovered.recovered_from = Some("dead".into());
    recovered.rows[1].attempts = 2;
    let reply = Ok(granted(vec![recovered, grant(6, 20..=21)]));
    let effects = rig.tell(WorkerInput::Store(claims(&effects)[0].0, reply));
    let started: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            WorkerEffect::Start(start) => Some((start.key, start.attempt, start.recovered_from.as_deref())),
            _ => None,
        })
        .collect();
    assert_eq!(started, [(run(2, 5), 1, Some("dead")), (run(9, 5), 3, Some("dead")), (run(20, 6), 1, None)]);
}

#[test]
fn c3_a_full_recording_stops_claims_and_starts() {
    let options = WorkerOptions { group_lines_max: 1, ..options(2) };
    let (mut rig, effects) = with_grants(options.clone(), vec![grant(1, 1..=9)]);
    assert_eq!(starts(&effects).len(), 2);
    // One answer under way, two waiting: full.
    let mut effects = rig.tell(success(run(1, 1)));
    let first = records(&effects)[0].clone();
    effects.extend(rig.tell(success(run(2, 1))));
    effects.extend(rig.tell(success(run(3, 1))));
    assert_eq!(starts(&effects), [run(3, 1), run(4, 1)]);
    assert_eq!(starts(&recorded(&mut rig, &first)), [run(5, 1)]);

    // Full by bytes.
    let options = WorkerOptions { group_bytes_max: 10, ..options };
    let (mut rig, _) = with_grants(WorkerOptions { group_lines_max: 100, ..options }, vec![grant(1, 1..=9)]);
    let answer = |line, bytes: usize| ended(run(line, 1), RunAnswer::Success("x".repeat(bytes).into()));
    assert_eq!(starts(&rig.tell(answer(1, 10))), [run(3, 1)]);
    assert_eq!(starts(&rig.tell(answer(2, 19))), [run(4, 1)]);
    assert_eq!(starts(&rig.tell(answer(3, 1))), []);
}

/// The same request may have arrived before and taken lines.
#[test]
fn c2_a_claim_whose_number_is_closed_is_settled() {
    let (mut rig, effects) = at_work(options(1));
    let (id, _) = claims(&effects)[0];
    let effects = rig.tell(WorkerInput::Store(id, Ok(StoreReply::Claim(ClaimReply::Closed))));
    assert!(claims(&effects).is_empty());
    let [(settling, LEASE, 1)] = settlings(&effects)[..] else { panic!("{effects:?}") };
    // One that failed is asked again after an eighth of the ttl, not at once.
    assert_eq!(rig.tell(WorkerInput::Store(settling, Err(StoreFailure::NotDone))), []);
    assert_eq!(rig.pass(ms(999)), []);
    assert_eq!(settlings(&rig.pass(ms(1))).len(), 1);
}

/// At most a second; of a short ttl an eighth.
#[test]
fn c2_what_failed_is_tried_again_after_an_eighth_of_the_ttl() {
    let short = WorkerOptions { timing: Timing::from_ttl(secs(2)), ..options(1) };
    let (mut rig, effects) = at_work(short);
    let (id, _) = claims(&effects)[0];
    rig.tell(WorkerInput::Store(id, Err(StoreFailure::NotDone)));
    assert_eq!(claims(&rig.pass(ms(249))).len(), 0);
    assert_eq!(claims(&rig.pass(ms(1))).len(), 1);
}

/// Those that have the fewest rows left come first, counted over all of a batch's spans, less those that were started.
#[test]
fn c3_the_batch_with_the_fewest_rows_left_comes_first() {
    let of = |batch: BatchId, token: u64, rows: std::ops::RangeInclusive<u64>| Grant { batch, ..grant(token, rows) };
    let order = |grants: Vec<Grant>| {
        let (mut rig, effects) = with_grants(options(1), grants);
        let mut started = starts(&effects);
        while let Some(key) = started.last().copied() {
            let next = starts(&rig.tell(success(key)));
            if next.is_empty() {
                break;
            }
            started.extend(next);
        }
        started.into_iter().map(|key| (key.batch, key.line)).collect::<Vec<_>>()
    };
    let even = order(vec![of(BATCH, 1, 1..=3), of(OTHER, 2, 1..=3)]);
    // The second turn is that of the batch that waits longest, as every fourth is.
    assert_eq!(even, [(BATCH, 1), (OTHER, 1), (BATCH, 2), (BATCH, 3), (OTHER, 2), (OTHER, 3)]);
    let two_spans = order(vec![of(BATCH, 1, 1..=1), of(BATCH, 2, 2..=2), of(OTHER, 3, 1..=1)]);
    assert_eq!(two_spans[0], (OTHER, 1));
}

/// Under another lease nothing of the old one's licence counts.
#[test]
fn l4_another_lease_brings_a_licence_of_its_own() {
    let mut rig = worker(options(1));
    rig.tell(held(LEASE, at(secs(100))));
    let effects = rig.tell(held(LEASE_2, at(secs(7))));
    assert!(effects.contains(&WorkerEffect::Tell(WorkerEvent::LeaseTaken(LEASE_2))), "{effects:?}");
    let effects = rig.pass(secs(8));
    assert!(effects.contains(&WorkerEffect::Tell(WorkerEvent::Lapsed(LEASE_2))), "{effects:?}");
}
