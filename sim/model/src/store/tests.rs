//! The model by the paragraphs of `docs/store.md`, and random requests under all checkers.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, LookReply, Operated, Record, RecordItem, Recorded, Recover,
    RecoverReply, RenewReply, StoreReply, StoreRequest, TakeLease, TakeLeaseReply, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};

use super::{BatchSpec, Loaded, LogKind, ModelStore, Rows};
use crate::check::{Bounds, Checker, Suite};
use crate::history::OutcomeStatus;

const TTL: Duration = Duration::from_secs(60);

pub(super) fn lease(number: u64) -> LeaseId {
    LeaseId::from_random(number)
}

pub(super) fn batch(number: u64) -> BatchId {
    BatchId::from_random(number)
}

/// A store, its clock, its checkers.
pub(super) struct Rig {
    pub store: ModelStore,
    pub now: StoreTime,
    pub suite: Suite,
    pub step: u64,
    number: u64,
}

impl Rig {
    pub fn new() -> Self {
        let bounds =
            Bounds { recovery_slack: TTL, progress: TTL, abort_notice: TTL, abort_notice_slow: TTL, abort_told: None };
        Self { store: ModelStore::new(), now: StoreTime(1_000_000_000), suite: Suite::new(bounds), step: 0, number: 0 }
    }

    /// With leases 1, 2, ... and batch 1 of so many lines.
    pub fn with(leases: u64, lines: u64) -> Self {
        let mut rig = Self::new();
        (1..=leases).for_each(|number| rig.take(number));
        rig.submit(1, lines);
        rig
    }

    pub fn submit(&mut self, number: u64, lines: u64) {
        self.store.submit(self.now, BatchSpec::new(batch(number), "op"), Rows::Empty(lines));
        self.check();
    }

    pub fn check(&mut self) {
        self.step += 1;
        let events: Vec<_> = self.store.drain_events().collect();
        for event in &events {
            if let Err(violation) = self.suite.on_event(self.step, event) {
                panic!("{violation}, by {event:?} of {events:?}");
            }
        }
        let touched = self.store.take_touched();
        self.suite.on_state(self.step, &self.store.view_of(&touched)).unwrap();
    }

    pub fn ask(&mut self, request: &StoreRequest) -> StoreReply {
        let reply = self.store.apply(self.now, request);
        self.check();
        reply
    }

    pub fn try_take(&mut self, number: u64, name: Option<&str>) -> TakeLeaseReply {
        let take = TakeLease {
            lease: lease(number),
            worker: name.map_or_else(|| format!("w{number}"), str::to_owned),
            stable_name: name.is_some(),
            ttl: TTL,
            renew: TTL / 2,
            process: None,
            operations: vec!["op".to_owned()],
            calls: Default::default(),
        };
        match self.ask(&StoreRequest::TakeLease(take)) {
            StoreReply::TakeLease(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn take(&mut self, number: u64) {
        assert_eq!(self.try_take(number, None), TakeLeaseReply::Taken);
    }

    pub fn claim_reply(&mut self, by: u64, lines_max: u64, bytes_max: u64, idle: bool) -> ClaimReply {
        self.number += 1;
        let claim = Claim {
            lease: lease(by),
            number: self.number,
            operations: vec!["op".to_owned()],
            lines_max,
            bytes_max,
            idle,
        };
        match self.ask(&StoreRequest::Claim(claim)) {
            StoreReply::Claim(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn grants(&mut self, by: u64, lines_max: u64, idle: bool) -> Vec<Grant> {
        match self.claim_reply(by, lines_max, u64::MAX, idle) {
            ClaimReply::Granted { grants, .. } => grants,
            reply => panic!("{reply:?}"),
        }
    }

    /// Lines and token of each grant.
    pub fn claim(&mut self, by: u64, lines_max: u64) -> Vec<(Vec<u64>, u64)> {
        self.grants(by, lines_max, false).iter().map(short).collect()
    }

    pub fn record(&mut self, by: u64, of: u64, line: u64, token: u64, answer: Answer) -> Verdict {
        let run_time = Duration::ZERO;
        let item = RecordItem { batch: batch(of), line, token: Token(token), answer, run_time };
        match self.ask(&StoreRequest::Record(Record { lease: lease(by), items: vec![item] })) {
            StoreReply::Record(verdicts) => verdicts[0],
            reply => panic!("{reply:?}"),
        }
    }

    pub fn succeed(&mut self, by: u64, line: u64, token: u64) -> Verdict {
        self.record(by, 1, line, token, Answer::Success("1".into()))
    }

    pub fn retry(&mut self, by: u64, line: u64, token: u64) -> Verdict {
        self.record(by, 1, line, token, retry())
    }

    fn recover(&mut self, of: u64, renewals: u64, cause: EndCause) -> RecoverReply {
        let recover = Recover { lease: lease(of), renewals, seen_at: self.now, cause, judge: None };
        match self.ask(&StoreRequest::Recover(recover)) {
            StoreReply::Recover(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn kill(&mut self, of: u64) -> RecoverReply {
        self.recover(of, 0, EndCause::Died)
    }

    fn renew(&mut self, by: u64, asked: &[u64]) -> RenewReply {
        let batches = asked.iter().copied().map(batch).collect();
        match self.ask(&StoreRequest::Renew { lease: lease(by), batches }) {
            StoreReply::Renew(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    fn look(&mut self) -> LookReply {
        match self.ask(&StoreRequest::Look) {
            StoreReply::Look(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn status(&self) -> BatchStatus {
        self.store.status(batch(1)).unwrap()
    }

    /// Leaves batch 1 with its line 1 as a suspect of suspicion 1, and lease 2 live.
    pub fn with_single_suspect() -> Self {
        let mut rig = Self::with(1, 1);
        assert_eq!(rig.claim(1, 1), [(vec![1], 1)]);
        rig.kill(1);
        rig.take(2);
        rig
    }
}

fn short(grant: &Grant) -> (Vec<u64>, u64) {
    (grant.rows.iter().map(|row| row.line).collect(), grant.token.0)
}

pub(super) fn retry() -> Answer {
    Answer::Retry { error: "again".into(), jitter: 500, timed_out: false }
}

pub(super) const DONE: Verdict = Verdict::Recorded(Recorded::Success);
const BACK: Verdict = Verdict::Recorded(Recorded::GivenBack);

#[test]
fn take_is_repeatable_and_stable_names_are_held_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.try_take(1, Some("a")), TakeLeaseReply::Taken);
    assert_eq!(rig.try_take(1, Some("a")), TakeLeaseReply::Taken);
    assert!(matches!(rig.try_take(2, Some("a")), TakeLeaseReply::NameHeld { holder, .. } if holder.lease == lease(1)));
    assert_eq!(rig.try_take(3, None), TakeLeaseReply::Taken);
    assert!(matches!(rig.recover(1, 0, EndCause::TakenOver), RecoverReply::Recovered { lines: 0, failed: 0 }));
    assert_eq!(rig.try_take(1, Some("a")), TakeLeaseReply::Ended);
    assert_eq!(rig.try_take(2, Some("a")), TakeLeaseReply::Taken);
    assert_eq!(rig.renew(1, &[]), RenewReply::Refused { taken_over: true });
    assert_eq!(rig.renew(9, &[]), RenewReply::Refused { taken_over: false });
}

#[test]
fn renew_extends_and_names_closed_batches() {
    let mut rig = Rig::with(1, 1);
    rig.submit(2, 1);
    rig.now = rig.now + TTL * 2;
    rig.store.abort(rig.now, batch(2));
    let closed = vec![batch(7), batch(2)];
    assert_eq!(rig.renew(1, &[7, 1, 2]), RenewReply::Renewed { closed });
    let look = rig.look();
    assert_eq!((look.leases[0].renewals, look.leases[0].expires_at), (1, rig.now + TTL));
    rig.kill(1);
    assert!(rig.look().leases.len() == 1, "seen before its renewal: spared");
    rig.recover(1, 1, EndCause::Lapsed);
    assert_eq!(rig.renew(1, &[]), RenewReply::Refused { taken_over: false });
}

#[test]
fn drop_frees_everything_under_new_tokens() {
    let mut rig = Rig::with(2, 5);
    assert_eq!(rig.claim(1, 2), [(vec![1, 2], 1)]);
    assert_eq!(rig.claim(1, 2), [(vec![3, 4], 2)]);
    for _ in 0..2 {
        assert_eq!(rig.ask(&StoreRequest::DropLease { lease: lease(1) }), StoreReply::DropLease);
    }
    assert_eq!(rig.succeed(1, 1, 1), Verdict::Fenced);
    assert_eq!(rig.claim(2, 9), [(vec![1, 2], 5), (vec![3, 4], 6), (vec![5], 7)]);
    let log = rig.store.log(batch(1));
    assert_eq!(log.iter().filter(|entry| entry.kind == LogKind::GivenBack).count(), 2);
}

#[test]
fn claims_are_numbered_and_need_a_live_lease() {
    let mut rig = Rig::with(2, 3);
    assert_eq!(rig.claim(1, 1), [(vec![1], 1)]);
    rig.number = 0;
    assert_eq!(rig.claim_reply(1, 1, 9, false), ClaimReply::Closed);
    rig.kill(1);
    assert_eq!(rig.claim_reply(1, 1, 9, false), ClaimReply::LeaseEnded);
    assert_eq!(rig.claim_reply(9, 1, 9, false), ClaimReply::LeaseEnded);
}

#[test]
fn claims_take_given_back_lines_first_and_split_them() {
    let mut rig = Rig::with(2, 6);
    rig.claim(1, 4);
    let lines = vec![(batch(1), Token(1), [1, 3, 4].into_iter().collect())];
    rig.ask(&StoreRequest::GiveBack { lease: lease(1), lines });
    assert_eq!(rig.claim(2, 2), [(vec![1, 3], 3)], "2 are the lines given back, 4 the rest of them");
    assert_eq!(rig.claim(2, 9), [(vec![4], 5), (vec![5, 6], 6)]);
    assert_eq!(rig.succeed(1, 2, 1), DONE, "what was not given back is still held");
    assert_eq!(rig.succeed(1, 3, 1), Verdict::Fenced);
}

#[test]
fn claims_go_round_batches_by_priority_and_turn() {
    let mut rig = Rig::with(1, 9);
    rig.submit(2, 9);
    let first = BatchSpec { priority: 1, ..BatchSpec::new(batch(3), "op") };
    rig.store.submit(rig.now, first, Rows::Empty(1));
    let other = BatchSpec { priority: 9, ..BatchSpec::new(batch(4), "other") };
    rig.store.submit(rig.now, other, Rows::Empty(1));
    let mut next = || rig.grants(1, 1, false)[0].batch;
    let turns: Vec<BatchId> = (0..5).map(|_| next()).collect();
    assert_eq!(turns, [batch(3), batch(1), batch(2), batch(1), batch(2)]);
    assert_eq!(rig.store.hold(batch(1)), Operated::Now);
    assert_eq!(rig.grants(1, 1, false)[0].batch, batch(2));
    assert_eq!(rig.store.resume(batch(1)), Operated::Now);
    assert_eq!(rig.grants(1, 1, false)[0].batch, batch(1));
}

#[test]
fn claims_are_bounded_by_bytes() {
    let mut rig = Rig::with(1, 0);
    let inputs: Vec<Box<str>> = ["aaaa", "", "bb", "c"].map(Into::into).to_vec();
    rig.store.submit(rig.now, BatchSpec::new(batch(2), "op"), Rows::Inputs(inputs));
    let mut sizes = vec![];
    for bytes_max in [0, 1, 3] {
        let ClaimReply::Granted { grants, .. } = rig.claim_reply(1, 9, bytes_max, false) else { panic!() };
        sizes.push(grants[0].rows.iter().map(|row| row.input.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec!["aaaa"], vec![""], vec!["bb", "c"]]);
}

#[test]
fn a_claim_tells_what_it_may_wait_for() {
    let mut rig = Rig::with(1, 1);
    rig.claim(1, 1);
    let nothing =
        |next_after, open_lines| ClaimReply::Granted { grants: vec![], suspect_waits: false, next_after, open_lines };
    assert_eq!(rig.claim_reply(1, 1, 9, true), nothing(None, true));
    assert_eq!(rig.retry(1, 1, 1), BACK);
    assert_eq!(rig.claim_reply(1, 1, 9, true), nothing(Some(Duration::from_secs(1)), true));
    rig.now = rig.now + Duration::from_secs(1);
    let grants = rig.grants(1, 1, true);
    assert_eq!((short(&grants[0]), grants[0].rows[0].attempts), ((vec![1], 3), 1));
    assert_eq!(rig.succeed(1, 1, 3), DONE);
    assert_eq!(rig.claim_reply(1, 1, 9, true), nothing(None, false));
}

#[test]
fn settling_closes_the_number_then_reads() {
    let mut rig = Rig::with(1, 5);
    rig.claim(1, 2);
    rig.claim(1, 2);
    rig.succeed(1, 1, 1);
    let mut settle = |number| match rig.ask(&StoreRequest::SettleClaim { lease: lease(1), number }) {
        StoreReply::SettleClaim(grants, _) => grants.iter().map(short).collect::<Vec<_>>(),
        reply => panic!("{reply:?}"),
    };
    assert_eq!(settle(1), [(vec![2], 1)]);
    assert_eq!(settle(3), []);
    assert_eq!(rig.claim_reply(1, 1, 9, false), ClaimReply::Closed, "number 3 was closed");
    assert_eq!(rig.claim(1, 9), [(vec![5], 3)]);
    rig.kill(1);
    assert_eq!(
        rig.ask(&StoreRequest::SettleClaim { lease: lease(1), number: 1 }),
        StoreReply::SettleClaim(vec![], vec![])
    );
}

#[test]
fn the_fence_is_per_line() {
    let mut rig = Rig::with(2, 3);
    rig.claim(1, 3);
    assert_eq!(rig.succeed(1, 1, 1), DONE);
    assert_eq!(rig.succeed(1, 1, 1), Verdict::RecordedBefore);
    assert_eq!(rig.succeed(2, 2, 1), Verdict::Fenced, "another lease");
    assert_eq!(rig.succeed(1, 2, 9), Verdict::Fenced, "another token");
    assert_eq!(rig.record(1, 7, 1, 1, retry()), Verdict::Fenced, "no such batch");
    assert_eq!(rig.retry(1, 2, 1), BACK);
    assert_eq!(rig.retry(1, 2, 1), Verdict::RecordedBefore);
    assert_eq!(rig.succeed(1, 2, 9), Verdict::Fenced);
    let fenced = rig.store.log(batch(1)).iter().filter(|entry| entry.kind == LogKind::Fenced);
    assert_eq!(fenced.count(), 2, "once per line and token");
    assert_eq!(rig.succeed(1, 3, 1), DONE, "a fenced line is no verdict on the rest");
}

#[test]
fn retries_run_out() {
    let mut rig = Rig::with(1, 1);
    for (token, verdict) in [(1, BACK), (3, BACK), (5, Verdict::Recorded(Recorded::Failed))] {
        rig.now = rig.now + Duration::from_secs(2);
        assert_eq!(rig.claim(1, 1), [(vec![1], token)]);
        assert_eq!(rig.retry(1, 1, token), verdict);
    }
    let outcome = rig.store.outcome(batch(1), 1).unwrap();
    assert_eq!((outcome.status, outcome.attempts, outcome.crashes), (OutcomeStatus::Failed, 3, 0));
    assert_eq!(rig.status(), BatchStatus::Failed);
}

#[test]
fn suspects_are_halved_at_each_further_death() {
    let mut rig = Rig::with(1, 5);
    rig.claim(1, 5);
    assert_eq!(rig.kill(1), RecoverReply::Recovered { lines: 5, failed: 0 });
    rig.take(2);
    let grants = rig.grants(2, 9, false);
    assert_eq!((short(&grants[0]), grants[0].suspicion), ((vec![1, 2, 3, 4, 5], 3), 1));
    assert_eq!(grants[0].recovered_from.as_deref(), Some("w1"));
    rig.kill(2);
    rig.take(3);
    assert_eq!(rig.claim(3, 1), [(vec![1, 2], 6)], "never one out of several; 3 stays, a single");
    assert!(rig.claim(3, 1).is_empty(), "one suspect range at a time");
    assert_eq!((rig.succeed(3, 1, 6), rig.succeed(3, 2, 6)), (DONE, DONE));
    assert_eq!(rig.claim(3, 1), [(vec![4, 5], 8)]);
    let reply = rig.claim_reply(3, 1, 9, true);
    assert!(matches!(reply, ClaimReply::Granted { grants, suspect_waits: true, .. } if grants.is_empty()));
    rig.take(4);
    rig.submit(2, 1);
    let other = rig.grants(4, 9, true);
    assert_eq!(other[0].batch, batch(2), "of two, one works on suspects already");
    rig.record(4, 2, 1, other[0].token.0, Answer::Success("".into()));
    assert!(rig.grants(4, 9, true)[0].alone, "nothing else is left to do");
}

#[test]
fn a_worker_holds_one_suspect_range_at_a_time() {
    let mut rig = Rig::with(1, 8);
    rig.claim(1, 8);
    rig.kill(1);
    rig.take(2);
    rig.claim(2, 8);
    rig.kill(2);
    rig.take(3);
    let first = rig.grants(3, 9, false);
    rig.submit(2, 1);
    assert_eq!(first.iter().map(|grant| short(grant).0).collect::<Vec<_>>(), [vec![1, 2, 3, 4]], "of two, one");
    assert_eq!(rig.grants(3, 9, false)[0].batch, batch(2), "and no other while it has that");
    for line in 1..=4 {
        rig.succeed(3, line, first[0].token.0);
    }
    assert_eq!(short(&rig.grants(3, 9, false)[0]).0, [5, 6, 7, 8]);
}

#[test]
fn who_asks_for_no_lines_is_told_whether_a_suspect_waits() {
    let mut rig = Rig::with_single_suspect();
    rig.submit(2, 2);
    let waits =
        |waits| ClaimReply::Granted { grants: vec![], suspect_waits: waits, next_after: None, open_lines: true };
    assert_eq!(rig.claim_reply(2, 0, 9, false), waits(true));
    rig.take(3);
    rig.take(4);
    assert!(rig.grants(3, 9, true)[0].alone);
    assert_eq!(rig.claim_reply(2, 0, 9, false), waits(false));
}

#[test]
fn a_single_suspect_runs_alone() {
    let mut rig = Rig::with_single_suspect();
    rig.submit(2, 2);
    let ClaimReply::Granted { grants, suspect_waits, .. } = rig.claim_reply(2, 1, 9, false) else { panic!() };
    assert!(suspect_waits && grants[0].batch == batch(2));
    assert_eq!(rig.grants(2, 1, true)[0].batch, batch(2), "it holds a span");
    rig.record(2, 2, 1, grants[0].token.0, Answer::Success("".into()));
    rig.record(2, 2, 2, grants[0].token.0 + 1, Answer::Success("".into()));
    rig.submit(3, 1);
    let alone = rig.grants(2, 9, true);
    assert!(alone.len() == 1 && alone[0].alone && alone[0].batch == batch(1));
    let nothing = ClaimReply::Granted { grants: vec![], suspect_waits: false, next_after: None, open_lines: true };
    assert_eq!(rig.claim_reply(2, 9, 9, true), nothing);
    assert_eq!(rig.succeed(2, 1, alone[0].token.0), DONE);
    assert_eq!(rig.grants(2, 9, true)[0].batch, batch(3));
}

#[test]
fn crashes_alone_count_until_the_row_fails() {
    let mut rig = Rig::with_single_suspect();
    for by in 2..=4 {
        assert!(rig.grants(by, 1, true)[0].alone);
        let failed = u64::from(by == 4);
        assert_eq!(rig.kill(by), RecoverReply::Recovered { lines: 1 - failed, failed });
        rig.take(by + 1);
    }
    let outcome = rig.store.outcome(batch(1), 1).unwrap();
    assert_eq!((outcome.status, outcome.attempts, outcome.crashes), (OutcomeStatus::Failed, 0, 3));
    assert_eq!((outcome.lease, rig.status()), (lease(4), BatchStatus::Failed));
    assert_eq!(
        rig.store.view().batches[0].tallies,
        [(lease(0), crate::view::Tally { failed: 1, ..Default::default() })]
    );
}

#[test]
fn crashes_are_taken_back_once_and_only_by_the_dead() {
    let mut rig = Rig::with_single_suspect();
    let withdraw = StoreRequest::WithdrawCrashes { lease: lease(2) };
    rig.grants(2, 1, true);
    rig.kill(2);
    for _ in 0..2 {
        rig.ask(&withdraw);
    }
    let kinds: Vec<LogKind> = rig.store.log(batch(1)).iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [LogKind::Recovered, LogKind::Crashed, LogKind::Recovered, LogKind::CrashWithdrawn]);
    rig.take(3);
    let token = rig.grants(3, 1, true)[0].token.0;
    rig.succeed(3, 1, token);
    assert_eq!(rig.store.outcome(batch(1), 1).unwrap().crashes, 0);
}

#[test]
fn recovery_is_conditional_on_what_was_seen() {
    let mut rig = Rig::with(2, 2);
    rig.claim(1, 1);
    assert_eq!(rig.recover(1, 1, EndCause::Lapsed), RecoverReply::Spared);
    assert_eq!(rig.recover(9, 0, EndCause::Lapsed), RecoverReply::Spared);
    assert_eq!(rig.recover(1, 0, EndCause::TakenOver), RecoverReply::Recovered { lines: 1, failed: 0 });
    assert_eq!(rig.recover(1, 0, EndCause::Died), RecoverReply::Spared);
    assert_eq!(rig.succeed(1, 1, 1), Verdict::Fenced);
}

#[test]
fn what_is_too_far_ahead_is_cut_back() {
    let mut rig = Rig::with(1, 2);
    rig.claim(1, 2);
    rig.retry(1, 1, 1);
    rig.now = StoreTime(rig.now.0 - 3_600_000_000);
    let backoff_max = Duration::from_secs(10);
    rig.ask(&StoreRequest::CutBack { backoff_max });
    let look = rig.look();
    assert_eq!(look.leases[0].expires_at, rig.now + TTL);
    assert_eq!(look.not_before_max, Some(rig.now + backoff_max));
}

#[test]
fn a_batch_ends_with_its_last_row_held_or_not() {
    let mut rig = Rig::with(1, 2);
    rig.claim(1, 1);
    assert_eq!(rig.succeed(1, 1, 1), DONE);
    assert_eq!(rig.status(), BatchStatus::Open, "a fresh line is left");
    rig.claim(1, 1);
    rig.store.hold(batch(1));
    assert_eq!(rig.succeed(1, 2, 2), DONE);
    assert_eq!(rig.status(), BatchStatus::Success);
    assert_eq!(rig.store.completions().len(), 1);
    assert_eq!(rig.succeed(1, 2, 2), Verdict::RecordedBefore);
    assert_eq!(rig.store.resume(batch(1)), Operated::Ended(BatchStatus::Success));
}

#[test]
fn loads_bind_their_key_once_and_empty_ones_end_at_once() {
    let mut rig = Rig::new();
    let now = rig.now;
    let mut load = |number, rows, digest| {
        rig.store.begin_load(now, BatchSpec::new(batch(number), "op"));
        rig.store.load_rows(batch(number), Rows::Empty(rows));
        let loaded = rig.store.finish_load(now, batch(number), Some("k"), digest);
        rig.check();
        loaded
    };
    assert_eq!(load(1, 0, "d"), Loaded::Opened { total: 0, status: BatchStatus::Success });
    assert_eq!(load(2, 0, "d"), Loaded::Same { batch: batch(1) });
    assert_eq!(load(3, 1, "e"), Loaded::Differs { batch: batch(1) });
    assert_eq!(rig.store.finish_load(now, batch(1), Some("k"), "d"), Loaded::Same { batch: batch(1) });
    assert_eq!(rig.store.finish_load(now, batch(2), Some("k"), "d"), Loaded::NotThere);
    assert_eq!(rig.store.completions().len(), 1);
    rig.store.begin_load(now, BatchSpec::new(batch(4), "op"));
    rig.store.begin_load(now + Duration::from_secs(86_400), BatchSpec::new(batch(5), "op"));
    assert_eq!(rig.store.load_rows(batch(4), Rows::Empty(1)), None, "cut off a day ago");
    assert_eq!(rig.store.load_rows(batch(5), Rows::Empty(1)), Some(1));
}

#[test]
fn lines_are_kept_as_sets() {
    let mut rig = Rig::with(1, 5);
    rig.claim(1, 5);
    rig.succeed(1, 3, 1);
    let held = rig.store.view().batches[0].spans[0].lines.clone();
    assert_eq!(held, LineSet::from_ranges([(1, 2), (4, 5)]).unwrap());
}
