//! Random requests of three leases, in any order, with a clock that steps both ways: all checkers hold after each.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fencepost_core::append::{AppendEnd, Appended, Begun};
use fencepost_core::store::{Answer, ClaimReply, EndCause, Recover, RetryRows, StoreReply, StoreRequest};
use fencepost_core::{AppendId, BatchId, LineSet, Token};
use proptest::prelude::*;

use super::tests::{Rig, batch, lease, retry};
use super::{BatchSpec, Rows};
use crate::check::Checker;

/// One step; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Wait { millis: i64 },
    Submit { lines: u64 },
    Take,
    Renew { by: usize },
    Drop { by: usize },
    Claim { by: usize, lines: u64, idle: bool },
    Settle { by: usize, number: u64 },
    Record { by: usize, which: usize, kind: u8 },
    GiveBack { by: usize, which: usize },
    Recover { of: usize, late: bool, cause: u8 },
    CutBack,
    Withdraw { by: usize },
    Hold { which: u64, held: bool },
    Abort { which: u64 },
    Retry { which: u64, rows: u8 },
    Append { which: u64, append: u64, lines: u64, part: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let by = 0usize..3;
    prop_oneof![
        2 => prop_oneof![4 => 0..20_000i64, 1 => -100_000..100_000i64].prop_map(|millis| Step::Wait { millis }),
        1 => (0u64..5).prop_map(|lines| Step::Submit { lines }),
        4 => Just(Step::Take),
        1 => by.clone().prop_map(|by| Step::Renew { by }),
        1 => by.clone().prop_map(|by| Step::Drop { by }),
        10 => (by.clone(), 1u64..6, any::<bool>()).prop_map(|(by, lines, idle)| Step::Claim { by, lines, idle }),
        1 => (by.clone(), 1u64..40).prop_map(|(by, number)| Step::Settle { by, number }),
        14 => (by.clone(), any::<usize>(), 0u8..8).prop_map(|(by, which, kind)| Step::Record { by, which, kind }),
        2 => (by.clone(), any::<usize>()).prop_map(|(by, which)| Step::GiveBack { by, which }),
        4 => (by.clone(), prop::bool::weighted(0.1), 0u8..3).prop_map(|(of, late, cause)| Step::Recover { of, late, cause }),
        1 => Just(Step::CutBack),
        1 => by.prop_map(|by| Step::Withdraw { by }),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(which, held)| Step::Hold { which, held }),
        1 => any::<u64>().prop_map(|which| Step::Abort { which }),
        2 => (any::<u64>(), any::<u8>()).prop_map(|(which, rows)| Step::Retry { which, rows }),
        3 => (any::<u64>(), 1u64..4, 0u64..3, 0u8..6).prop_map(|(which, append, lines, part)| Step::Append { which, append, lines, part }),
    ]
}

/// What three workers remember; they forget nothing, so that old tokens come back.
struct Run {
    rig: Rig,
    /// Each worker's lease now.
    leases: [u64; 3],
    taken: u64,
    submitted: u64,
    granted: Vec<(u64, BatchId, u64, Token)>,
    /// What ends of appends were answered.
    appended: Vec<Appended>,
}

impl Run {
    fn new() -> Self {
        let mut run =
            Self { rig: Rig::with(3, 5), leases: [1, 2, 3], taken: 3, submitted: 1, granted: vec![], appended: vec![] };
        run.rig.check();
        run
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait { millis } => self.rig.now.0 += millis * 1000,
            Step::Submit { lines } => {
                self.submitted += 1;
                let crashes_max = 1 + u32::try_from(self.submitted % 3).unwrap();
                let spec = BatchSpec { crashes_max, ..BatchSpec::new(batch(self.submitted), "op") };
                self.rig.store.submit(self.rig.now, spec, Rows::Empty(lines));
                self.rig.check();
            }
            Step::Take => {
                let live: Vec<_> = self.rig.store.look(self.rig.now).leases.iter().map(|view| view.lease).collect();
                for place in 0..3 {
                    if !live.contains(&lease(self.leases[place])) {
                        self.taken += 1;
                        self.leases[place] = self.taken;
                        self.rig.take(self.taken);
                    }
                }
            }
            Step::Renew { by } => {
                self.ask(StoreRequest::Renew { lease: lease(self.leases[by]), batches: vec![batch(1)] })
            }
            Step::Drop { by } => self.ask(StoreRequest::DropLease { lease: lease(self.leases[by]) }),
            Step::Claim { by, lines, idle } => self.claim(self.leases[by], lines, idle),
            Step::Settle { by, number } => {
                self.ask(StoreRequest::SettleClaim { lease: lease(self.leases[by]), number })
            }
            Step::Record { by, which, kind } => self.record(self.leases[by], which, kind),
            Step::GiveBack { by, which } => self.give_back(self.leases[by], which),
            Step::Recover { of, late, cause } => {
                let look = self.rig.store.look(self.rig.now);
                let seen = look.leases.iter().find(|view| view.lease == lease(self.leases[of]));
                let renewals = seen.map_or(0, |view| view.renewals) + u64::from(late);
                let cause = [EndCause::Lapsed, EndCause::Died, EndCause::TakenOver][usize::from(cause)];
                let judge = Some(lease(self.leases[(of + 1) % 3]));
                let (lease, seen_at) = (lease(self.leases[of]), self.rig.now);
                self.ask(StoreRequest::Recover(Recover { lease, renewals, seen_at, cause, judge }));
            }
            Step::CutBack => self.ask(StoreRequest::CutBack { backoff_max: Duration::from_secs(5) }),
            Step::Withdraw { by } => self.ask(StoreRequest::WithdrawCrashes { lease: lease(self.leases[by]) }),
            Step::Hold { which, held } => {
                let batch = batch(which % self.submitted + 1);
                if held {
                    self.rig.store.hold(batch)
                } else {
                    self.rig.store.resume(batch)
                };
                self.rig.check();
            }
            Step::Retry { which, rows } => {
                let rows = match rows % 4 {
                    0 => RetryRows::Failed,
                    1 => RetryRows::FailedWith("no".into()),
                    _ => RetryRows::Line { line: u64::from(rows / 4 % 5) + 1, token: None },
                };
                self.rig.store.retry(self.rig.now, batch(which % self.submitted + 1), &rows);
                self.rig.check();
            }
            Step::Abort { which } => {
                self.rig.store.abort(self.rig.now, batch(which % self.submitted + 1));
                self.rig.check();
            }
            Step::Append { which, append, lines, part } => {
                // Mostly to the last batch: it is open more often than others.
                let of = batch(if which % 4 == 0 { which % self.submitted } else { self.submitted - 1 } + 1);
                self.append(of, AppendId::from_random(of.number() * 10 + append), lines, part);
                self.rig.check();
            }
        }
    }

    fn append(&mut self, of: BatchId, append: AppendId, lines: u64, part: u8) {
        let (now, rows) = (self.rig.now, vec![Box::from("1"); usize::try_from(lines).unwrap()]);
        let store = &mut self.rig.store;
        let begun = store.begin_append(now, of, append, part.is_multiple_of(2).then_some("key"));
        let Begun::Loading { first_line } = begun else { return };
        if part > 0 {
            store.append_rows(now, of, append, first_line, &rows).unwrap();
        }
        if part > 1 {
            // Refused, where a part of an earlier try is there.
            self.appended.extend(store.finish_append(of, append, &AppendEnd { digest: "d".to_owned(), rows: lines }));
        }
        if part == 5 {
            store.remove_append(of, append);
        }
    }

    fn ask(&mut self, request: StoreRequest) {
        let _: StoreReply = self.rig.ask(&request);
    }

    fn claim(&mut self, by: u64, lines: u64, idle: bool) {
        if let ClaimReply::Granted { grants, .. } = self.rig.claim_reply(by, lines, u64::MAX, idle) {
            for grant in grants {
                let rows = grant.rows.iter().map(|row| (by, grant.batch, row.line, grant.token));
                self.granted.extend(rows);
            }
        }
    }

    fn record(&mut self, by: u64, which: usize, kind: u8) {
        // Mostly by who holds it, and mostly of late.
        let late = self.granted.len().saturating_sub(8);
        let from = if kind == 7 { 0 } else { late };
        let Some(&(holder, of, line, token)) = self.granted.get(from + which % 8) else { return };
        let by = if kind == 6 { by } else { holder };
        let of = (1..=self.submitted).find(|number| batch(*number) == of).unwrap();
        let answer = match kind {
            0 => Answer::Failed("no".into()),
            1 | 2 => retry(),
            3 => Answer::Retry { error: "slow".into(), jitter: 0, timed_out: true },
            _ => Answer::Success("yes".into()),
        };
        self.rig.record(by, of, line, token.0, answer);
    }

    fn give_back(&mut self, by: u64, which: usize) {
        if self.granted.is_empty() {
            return;
        }
        let (_, of, line, token) = self.granted[which % self.granted.len()];
        let lines = vec![(of, token, LineSet::range(line, line + 1))];
        self.ask(StoreRequest::GiveBack { lease: lease(by), lines });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_checker_holds_after_every_request(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        let view = run.rig.store.view();
        run.rig.suite.at_end(run.rig.step, &view).unwrap();
    }
}

/// What was generated is worth something: every kind of thing happens.
#[test]
fn the_random_requests_reach_everything() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..200 {
        let steps = prop::collection::vec(step(), 120).new_tree(&mut runner).unwrap().current();
        let mut run = Run::new();
        steps.iter().for_each(|step| run.step(step));
        for appended in &run.appended {
            let kind = match appended {
                Appended::Done { lines: Some(_) } => "appended",
                _ => "appended nothing",
            };
            *seen.entry(kind.to_owned()).or_default() += 1;
        }
        for view in run.rig.store.view().batches {
            *seen.entry(format!("{:?}", view.status)).or_insert(0u64) += 1;
            *seen.entry("alone".to_owned()).or_default() += view.spans.iter().filter(|span| span.alone).count() as u64;
            let crashed = |outcome: &&crate::view::OutcomeView| outcome.crashes > 0 && outcome.attempts == 0;
            *seen.entry("crashed out".to_owned()).or_default() += view.outcomes.iter().filter(crashed).count() as u64;
            for entry in run.rig.store.log(view.batch) {
                *seen.entry(format!("{:?}", entry.kind)).or_default() += 1;
            }
        }
    }
    for kind in ["Open", "Success", "Failed", "Aborted", "alone", "crashed out", "appended", "appended nothing"] {
        assert!(seen.get(kind).is_some_and(|count| *count > 0), "{kind}: {seen:?}");
    }
    for kind in ["Retried", "TimedOut", "Crashed", "CrashWithdrawn", "Fenced", "Recovered", "GivenBack", "Superseded"] {
        assert!(seen.get(kind).is_some_and(|count| *count > 0), "{kind}: {seen:?}");
    }
}
