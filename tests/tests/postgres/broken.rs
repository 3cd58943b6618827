//! Stores broken on purpose, one statement each, in a test's own schema: the checkers name what is wrong with what such a store
//! does under many connections, and find nothing in the same steps on the store as it is.

use std::time::Instant;

use fencepost::store::{Store, StoreError};
use fencepost_core::store::{Answer, StoreReply, StoreRequest};
use fencepost_core::{LeaseId, LineSet};
use fencepost_model::check::Violation;
use fencepost_tests::history::{journal, story};
use tokio::task::JoinHandle;

use super::rig::{Rig, STUCK, claim, died, execute, record, success};

/// A text in a function, and what stands there instead.
struct Break {
    function: &'static str,
    from: &'static str,
    to: &'static str,
}

async fn rig_with(breaks: &[Break]) -> Rig {
    let mut rig = Rig::new().await;
    journal::keep(&mut rig.raw).await;
    for Break { function, from, to } in breaks {
        let whole = rig.text(&format!("select pg_get_functiondef('{function}'::regproc)")).await;
        assert!(whole.contains(from), "{function} has no: {from}");
        execute(&mut rig.raw, &whole.replace(from, to)).await;
    }
    rig
}

/// The checkers that saw something, each with what it saw first.
async fn seen(mut rig: Rig) -> Vec<Violation> {
    story::judge(&mut rig.raw).await
}

/// These steps on a store that is broken so are seen, each checker saying this; on the whole store nobody sees anything.
async fn assert_seen(steps: impl AsyncFn(Rig) -> Vec<Violation>, breaks: &[Break], named: &[(&str, &str)]) {
    assert_eq!(steps(rig_with(&[]).await).await, [], "the store as it is");
    let seen = steps(rig_with(breaks).await).await;
    for (checker, what) in named {
        let is_named = seen.iter().any(|violation| violation.checker == *checker && violation.what.contains(what));
        assert!(is_named, "{checker} does not say {what:?}: {seen:#?}");
    }
}

/// Until this request is over, or so many sessions wait.
async fn until_over_or_waiting(rig: &mut Rig, request: &JoinHandle<Result<StoreReply, StoreError>>, sessions: i64) {
    let waiting = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and wait_event_type = 'Lock'",
        rig.schema.name()
    );
    let until = Instant::now() + STUCK;
    while !request.is_finished() && rig.number(&waiting).await != sessions {
        assert!(Instant::now() < until, "neither over nor waiting");
        tokio::task::yield_now().await;
    }
}

/// A worker that was declared dead answers late, while another has its line.
async fn late_answer(rig: Rig) -> Vec<Violation> {
    rig.batch(1).await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    let old = rig.grants(one, 1, 1).await;
    let drop_it = StoreRequest::GiveBack { lease: one, lines: vec![(old[0].batch, old[0].token, LineSet::single(1))] };
    rig.store.call(drop_it).await.unwrap();
    let new = rig.grants(two, 1, 1).await;
    rig.store.call(record(one, &old, &Answer::Failed("late".into()))).await.unwrap();
    // The store as it is takes this one; a broken one may not.
    drop(rig.store.call(record(two, &new, &success())).await);
    seen(rig).await
}

/// O1: the fence does not ask for the token.
const NO_TOKEN: [Break; 1] = [Break {
    function: "judge",
    from: "left join fence f on f.token = i.token and f.batch = i.batch and f.lines @> i.line",
    to: "left join lateral (select s.token, b.attempts_max, b.generation, false as tried from spans s join batches b using (batch)
         where s.batch = i.batch and s.lines @> i.line) f on true",
}];

#[tokio::test]
async fn a_record_without_a_look_at_the_token_is_seen() {
    let named = [
        ("3 fencing", "newest is"),
        ("4 ownership", "is recorded by"),
        ("1 conservation", "goes to Done from Some(Held"),
    ];
    assert_seen(late_answer, &NO_TOKEN, &named).await;
}

#[tokio::test]
async fn an_outcome_that_a_later_one_replaces_is_seen() {
    let replaces = Break {
        function: "record_judged",
        from: "where i.verdict <= 2;",
        to: "where i.verdict <= 2 on conflict (batch, line) do update set token = excluded.token, status = excluded.status;",
    };
    let [no_token] = NO_TOKEN;
    // Of the second answer, only what is judged line by line replaces.
    let never_plain = Break { function: "record_answers", from: "v_plain := not (", to: "v_plain := false and not (" };
    assert_seen(late_answer, &[no_token, replaces, never_plain], &[("2 one outcome", "line 1 was")]).await;
}

/// A recovery begins while a claim of the same lease is under way: the claim has its lease's lock and waits for its batch.
async fn recovery_during_a_claim(mut rig: Rig) -> Vec<Violation> {
    let batch = rig.batch(3).await;
    let one = rig.lease(1).await;
    let holding = rig.holding(&format!("select from batches where batch = {} for no key update", batch.number())).await;
    let claiming = rig.start(claim(one, 1, 2));
    rig.until_waiting(1).await;
    let recovering = rig.start(died(one, 0));
    until_over_or_waiting(&mut rig, &recovering, 2).await;
    holding.commit().await;
    claiming.await.unwrap().unwrap();
    recovering.await.unwrap().unwrap();
    seen(rig).await
}

#[tokio::test]
async fn a_recovery_without_its_lease_s_lock_is_seen() {
    let unlocked = Break {
        function: "recover",
        from: "where l.lease = p_lease and l.state = 'live' and l.renewals = p_renewals\n    for update;",
        to: "where l.lease = p_lease and l.state = 'live' and l.renewals = p_renewals;",
    };
    let named = [("1 conservation", "claims and is not live"), ("4 ownership", "claims and is not live")];
    assert_seen(recovery_during_a_claim, &[unlocked], &named).await;
}

/// The last two rows are recorded at once: both transactions do all they do before either commits, where the locks allow it.
async fn last_two_at_once(mut rig: Rig) -> Vec<Violation> {
    rig.batch(2).await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    let (first, second) = (rig.grants(one, 1, 1).await, rig.grants(two, 1, 1).await);
    let holding = rig.holding(journal::HOLD_COMMITS).await;
    let a = rig.start(record(one, &first, &success()));
    let b = rig.start(record(two, &second, &success()));
    rig.until_waiting(2).await;
    holding.commit().await;
    a.await.unwrap().unwrap();
    b.await.unwrap().unwrap();
    seen(rig).await
}

#[tokio::test]
async fn an_end_that_is_decided_without_the_batch_s_lock_is_seen() {
    let shared = Break {
        function: "lock_for_outcomes",
        from: "perform 1 from batches b where b.batch = v_batch for update;",
        to: "perform 1 from batches b where b.batch = v_batch for key share;",
    };
    assert_seen(last_two_at_once, &[shared], &[("7 progress", "is open and all its rows have ended")]).await;
}

/// Two leases claim fresh lines at once; neither commits before the other has looked, where the locks allow it.
async fn two_claims_at_once(mut rig: Rig) -> Vec<Violation> {
    rig.batch(4).await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    let holding = rig.holding(journal::HOLD_COMMITS).await;
    let a = rig.start(claim(one, 1, 2));
    rig.until_waiting(1).await;
    let b = rig.start(claim(two, 1, 2));
    rig.until_waiting(2).await;
    holding.commit().await;
    a.await.unwrap().unwrap();
    b.await.unwrap().unwrap();
    seen(rig).await
}

#[tokio::test]
async fn a_line_with_two_owners_is_seen() {
    let unlocked = Break {
        function: "take_from_batch",
        from: "where b.batch = p_batch and b.status = 'open' and not b.held\n    for no key update;",
        to: "where b.batch = p_batch and b.status = 'open' and not b.held;",
    };
    let named = [("4 ownership", "line 1 goes to Some"), ("1 conservation", "fresh lines")];
    assert_seen(two_claims_at_once, &[unlocked], &named).await;
}

/// A worker dies with lines in hand, and so does the one that has them next.
async fn two_deaths(rig: Rig) -> Vec<Violation> {
    rig.batch(4).await;
    for lease in [rig.lease(1).await, rig.lease(2).await] {
        rig.grants(lease, 1, 4).await;
        rig.store.call(died(lease, 0)).await.unwrap();
    }
    seen(rig).await
}

#[tokio::test]
async fn a_recovery_that_forgets_deaths_or_keeps_suspects_together_is_seen() {
    for (from, to, what) in [
        (
            "lower(part_lines), suspicion + 1, tried",
            "lower(part_lines), suspicion, tried",
            "has suspicion 0 and should have 1",
        ),
        ("case when h.suspicion = 0 then", "case when true then", "suspects stay together"),
    ] {
        assert_seen(two_deaths, &[Break { function: "recover", from, to }], &[("9 poison", what)]).await;
    }
}

/// Lines go back, one by one and by a drop, and are claimed again.
async fn lines_go_back(rig: Rig) -> Vec<Violation> {
    rig.batch(4).await;
    let one = rig.lease(1).await;
    let held = rig.grants(one, 1, 4).await;
    let entry = |lines| vec![(held[0].batch, held[0].token, lines)];
    rig.store.call(StoreRequest::GiveBack { lease: one, lines: entry(LineSet::range(1, 2)) }).await.unwrap();
    rig.store.call(StoreRequest::GiveBack { lease: one, lines: entry(LineSet::range(3, 4)) }).await.unwrap();
    rig.grants(one, 2, 3).await;
    rig.store.call(StoreRequest::DropLease { lease: one }).await.unwrap();
    seen(rig).await
}

#[tokio::test]
async fn a_token_that_is_used_twice_is_seen() {
    let again = Break {
        function: "give_back",
        from: "values (nextval('tokens'), v_span.batch, v_back",
        to: "values (case when v_back = v_span.lines then v_span.token else nextval('tokens') end, v_span.batch, v_back",
    };
    assert_seen(lines_go_back, &[again], &[("4 ownership", "was drawn before")]).await;
}

#[tokio::test]
async fn lines_that_a_drop_loses_are_seen() {
    let lost =
        Break { function: "drop_lease", from: "order by token) in_order", to: "order by token limit 1) in_order" };
    assert_seen(lines_go_back, &[lost], &[("1 conservation", "is nowhere")]).await;
}

/// One row fails and another succeeds, by two leases, the failed one first.
async fn one_fails(rig: Rig) -> Vec<Violation> {
    rig.batch(2).await;
    let (one, two) = (rig.lease(1).await, rig.lease(2).await);
    let (first, second) = (rig.grants(one, 1, 1).await, rig.grants(two, 1, 1).await);
    answer(&rig, one, &first, &Answer::Failed("no".into())).await;
    answer(&rig, two, &second, &success()).await;
    seen(rig).await
}

async fn answer(rig: &Rig, lease: LeaseId, grants: &[fencepost_core::store::Grant], answer: &Answer) {
    rig.store.call(record(lease, grants, answer)).await.unwrap();
}

#[tokio::test]
async fn an_end_with_the_wrong_status_too_early_or_without_its_completion_is_seen() {
    let spans = "and not exists (select from spans s where s.batch = of_batch and s.lease is not null)";
    for (from, to, named) in [
        ("t.batch = of_batch) > 0", "t.batch = of_batch) > 1", ("8 ends once", "ends as Success")),
        ("if found then", "if found and ended_at_us is null then", ("8 ends once", "completion")),
        (spans, "", ("1 conservation", "ends with 1 open lines")),
    ] {
        assert_seen(one_fails, &[Break { function: "end_batch_if_finished", from, to }], &[named]).await;
    }
}

/// A count that is not kept with its outcomes.
#[tokio::test]
async fn a_count_that_is_not_that_of_the_rows_is_seen() {
    let half =
        Break { function: "record_plain", from: "filter (where i.answer = 1)", to: "filter (where i.answer = 9)" };
    assert_seen(one_fails, &[half], &[("1 conservation", "counts")]).await;
}

/// The journal itself: a change that it does not see is found out by the tables.
#[tokio::test]
#[should_panic(expected = "outcomes are not what the journal says")]
async fn a_change_that_no_journal_saw_is_found_out() {
    let mut rig = rig_with(&[]).await;
    rig.batch(1).await;
    let one = rig.lease(1).await;
    answer(&rig, one, &rig.grants(one, 1, 1).await, &success()).await;
    execute(&mut rig.raw, "alter table outcomes disable trigger user; update outcomes set token = token + 1").await;
    seen(rig).await;
}
