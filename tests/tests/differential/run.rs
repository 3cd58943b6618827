//! One run: random requests that make sense mostly, asked of all stores.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::Clock;
use fencepost_core::random::Stream;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, ProcessIdentity, Record, RecordItem, Recorded, Recover, RecoverReply,
    RenewReply, StoreReply, StoreRequest, TakeLease, TakeLeaseReply, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use fencepost_model::store::{ModelStore, Rows};
use fencepost_model::view::StoppingView;

use self::append::Appending;
use self::calls::Calling;
use super::subjects::Subjects;

mod append;
mod calls;
mod unknown;

#[derive(Clone, Default)]
pub(super) struct StepClock(Arc<AtomicI64>);

impl Clock for StepClock {
    fn now(&self) -> StoreTime {
        StoreTime(self.0.load(Ordering::SeqCst))
    }
}

/// What a worker knows: enough to ask sensible things, and stale ones.
pub(super) struct Worker {
    lease: LeaseId,
    next_number: u64,
    /// Numbers that granted something or were settled: a repeat of them is `Closed` on any store. A claim that found
    /// nothing may have used its number up or not: a store may look before it locks.
    used_numbers: Vec<u64>,
    grants: Vec<Grant>,
}

pub struct Run {
    pub(super) random: Stream,
    pub(super) clock: StepClock,
    pub(super) model: ModelStore,
    pub(super) subjects: Subjects,
    pub(super) workers: Vec<Worker>,
    ended: Vec<LeaseId>,
    pub(super) groups: Vec<Record>,
    pub(super) batches: Vec<BatchId>,
    appends: Vec<Appending>,
    pub(super) purging: Vec<BatchId>,
    pub(super) stopping: Vec<StoppingView>,
    calls: Vec<Calling>,
    pub seen: BTreeSet<&'static str>,
    pub(super) story: Vec<String>,
}

impl Run {
    pub async fn new(seed: u64, directory: &Path) -> Self {
        let clock = StepClock::default();
        clock.0.store(1_000_000_000_000, Ordering::SeqCst);
        let subjects = Subjects::new(&directory.join(format!("{seed}.db")), Arc::new(clock.clone())).await;
        Self {
            random: Stream::new(seed),
            clock,
            model: ModelStore::new(),
            subjects,
            workers: Vec::new(),
            ended: Vec::new(),
            groups: Vec::new(),
            batches: Vec::new(),
            appends: Vec::new(),
            purging: Vec::new(),
            stopping: Vec::new(),
            calls: Vec::new(),
            seen: BTreeSet::new(),
            story: Vec::new(),
        }
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound.max(1)
    }

    pub(super) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64);
        from.get(usize::try_from(at).unwrap()).cloned()
    }

    /// Asks all; the replies are the same.
    pub(super) async fn ask(&mut self, request: StoreRequest) -> StoreReply {
        let now = self.clock.now();
        self.story.push(format!("{} {request:?}", now.0));
        let expected = self.model.apply(now, &request);
        for (name, got) in self.subjects.call(&request).await {
            let got = got.unwrap_or_else(|error| panic!("{name}: {error}: {:?}\n{}", error.cause, self.told()));
            assert_eq!(got, expected, "{name} left, model right, after\n{}", self.told());
        }
        expected
    }

    pub(super) fn told(&self) -> String {
        let from = self.story.len().saturating_sub(40);
        self.story[from..].join("\n")
    }

    pub async fn step(&mut self) {
        match self.below(132) {
            0..5 => self.submit().await,
            5..12 => self.take().await,
            12..16 => self.renew().await,
            16..42 => self.claim().await,
            42..45 => self.settle().await,
            45..67 => self.record().await,
            67..72 => self.record_again().await,
            72..76 => self.give_back().await,
            76..79 => self.look().await,
            79..86 => self.recover().await,
            86..88 => self.drop_lease().await,
            88..90 => self.cut_back().await,
            90..92 => self.withdraw().await,
            92..98 => self.operate().await,
            100..112 => self.append().await,
            112..116 => self.purge().await,
            116..132 => self.call().await,
            _ => self.tick(),
        }
    }

    fn tick(&mut self) {
        let by = match self.below(40) {
            0 => 3_600_000_000,
            1 => -700_000_000,
            2..8 => 60_000_000,
            _ => i64::try_from(self.below(2_000_000)).unwrap(),
        };
        self.clock.0.fetch_add(by, Ordering::SeqCst);
    }

    fn pass(&mut self, time: Duration) {
        self.clock.0.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::SeqCst);
    }

    async fn submit(&mut self) {
        if self.batches.iter().filter(|batch| self.model.status(**batch) == Some(BatchStatus::Open)).count() >= 4 {
            return;
        }
        let spec = BatchSpec {
            operation: if self.one_in(4) { "other".to_owned() } else { "op".to_owned() },
            attempts_max: 1 + u32::try_from(self.below(3)).unwrap(),
            crashes_max: 1 + u32::try_from(self.below(2)).unwrap(),
            timeout: Duration::from_secs(1 + self.below(60)),
            priority: i32::try_from(self.below(2)).unwrap(),
            header: None,
            source: None,
            on_done_url: if self.one_in(3) { self.pick(&calls::URLS).map(str::to_owned) } else { None },
        };
        // Small ones end, and open again, more often.
        let bound = if self.one_in(3) { 5 } else { 25 };
        let rows: Vec<Box<str>> =
            (0..self.below(bound)).map(|_| "\"".repeat(1 + self.below(60) as usize).into()).collect();
        let batch = self.subjects.load(&spec, &rows).await;
        let of_model = fencepost_model::store::BatchSpec {
            batch,
            operation: spec.operation,
            priority: spec.priority,
            attempts_max: spec.attempts_max,
            crashes_max: spec.crashes_max,
            timeout: spec.timeout,
            on_done_url: spec.on_done_url,
        };
        self.story.push(format!("submit {of_model:?} {}", rows.len()));
        self.model.submit(self.clock.now(), of_model, Rows::Inputs(rows));
        self.batches.push(batch);
    }

    async fn take(&mut self) {
        let again = self.one_in(5);
        let known: Vec<LeaseId> = self.workers.iter().map(|worker| worker.lease).chain(self.ended.clone()).collect();
        let lease = match self.pick(&known) {
            Some(lease) if again => lease,
            _ => LeaseId::from_random(self.random.next_u64()),
        };
        let stable_name = self.one_in(3);
        let ttl = Duration::from_secs(10 + self.below(50));
        let take = TakeLease {
            lease,
            worker: format!("worker-{}", self.below(3)),
            stable_name,
            ttl,
            renew: ttl / 2,
            process: stable_name.then(|| ProcessIdentity { machine: "m".to_owned(), pid: 3, start_ticks: 4 }),
            operations: vec!["op".to_owned()],
            calls: Default::default(),
        };
        match self.ask(StoreRequest::TakeLease(take)).await {
            StoreReply::TakeLease(TakeLeaseReply::Taken) => {
                self.seen.insert("taken");
                if self.workers.iter().all(|worker| worker.lease != lease) {
                    self.workers.push(Worker { lease, next_number: 1, used_numbers: vec![], grants: vec![] });
                }
            }
            StoreReply::TakeLease(TakeLeaseReply::Ended) => drop(self.seen.insert("ended")),
            StoreReply::TakeLease(TakeLeaseReply::NameHeld { .. }) => drop(self.seen.insert("name held")),
            other => panic!("{other:?}"),
        }
    }

    /// Some lease: mostly one that is believed to be live.
    fn some_lease(&mut self) -> LeaseId {
        let live: Vec<LeaseId> = self.workers.iter().map(|worker| worker.lease).collect();
        let ended = self.ended.clone();
        let from = if self.one_in(8) { self.pick(&ended) } else { self.pick(&live) };
        from.unwrap_or(LeaseId::from_random(1))
    }

    async fn renew(&mut self) {
        let lease = self.some_lease();
        let mut batches = self.batches.clone();
        batches.retain(|_| self.random.next_u64().is_multiple_of(2));
        batches.truncate(5);
        if self.one_in(4) {
            batches.push(BatchId::from_random(7));
        }
        let kind = match self.ask(StoreRequest::Renew { lease, batches }).await {
            StoreReply::Renew(RenewReply::Renewed { closed }) if closed.is_empty() => "renewed",
            StoreReply::Renew(RenewReply::Renewed { .. }) => "renewed, some closed",
            StoreReply::Renew(RenewReply::Refused { taken_over: false }) => "refused",
            StoreReply::Renew(RenewReply::Refused { taken_over: true }) => "refused, taken over",
            other => panic!("{other:?}"),
        };
        self.seen.insert(kind);
    }

    async fn claim(&mut self) {
        let lease = self.some_lease();
        let Some(at) = self.workers.iter().position(|worker| worker.lease == lease) else {
            let claim = Claim { lease, number: 1, operations: vec![], lines_max: 1, bytes_max: 1, idle: true };
            assert_eq!(self.ask(StoreRequest::Claim(claim)).await, StoreReply::Claim(ClaimReply::LeaseEnded));
            self.seen.insert("lease ended");
            return;
        };
        let used = self.workers[at].used_numbers.clone();
        let number = if self.one_in(12) { self.pick(&used) } else { None };
        let number = number.unwrap_or(self.workers[at].next_number);
        self.workers[at].next_number = self.workers[at].next_number.max(number + 1);
        let bytes = [1, 60, 300, 1_000_000];
        let operations = match self.below(6) {
            0 => vec!["nothing".to_owned()],
            1 => vec!["op".to_owned(), "other".to_owned()],
            2 => vec!["other".to_owned()],
            _ => vec!["op".to_owned()],
        };
        let claim = Claim {
            lease,
            number,
            operations,
            // 0: only what waits.
            lines_max: self.below(11),
            bytes_max: self.pick(&bytes).unwrap(),
            idle: !self.one_in(3),
        };
        let drawn_before = self.subjects.last_token().await;
        match self.ask(StoreRequest::Claim(claim)).await {
            StoreReply::Claim(ClaimReply::Granted { grants, suspect_waits, next_after, open_lines }) => {
                self.see_grants(&grants);
                let drawn = self.subjects.last_token().await - drawn_before;
                self.see("granted split", drawn > grants.len() as u64);
                self.see("nothing", grants.is_empty());
                self.see("suspect waits", suspect_waits);
                self.see("next after", next_after.is_some());
                self.see("no open lines", !open_lines);
                if !grants.is_empty() {
                    self.workers[at].used_numbers.push(number);
                }
                self.workers[at].grants.extend(grants);
            }
            StoreReply::Claim(ClaimReply::Closed) => drop(self.seen.insert("closed")),
            StoreReply::Claim(ClaimReply::LeaseEnded) => drop(self.seen.insert("lease ended")),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn see(&mut self, kind: &'static str, seen: bool) {
        if seen {
            self.seen.insert(kind);
        }
    }

    fn see_grants(&mut self, grants: &[Grant]) {
        self.see("granted several", grants.len() > 1);
        for grant in grants {
            let tried = grant.rows.iter().any(|row| row.attempts > 0);
            self.see("granted alone", grant.alone);
            self.see("granted suspects", grant.suspicion > 0 && grant.rows.len() > 1);
            self.see("granted recovered", grant.recovered_from.is_some());
            self.see("granted tried", tried);
            let anew = grant.rows.iter().any(|row| row.attempts > 0 && self.is_superseded(grant.batch, row.line, None));
            self.see("granted tried since a retry", anew);
            let known = self.workers.iter().flat_map(|worker| &worker.grants);
            let mut known = known.filter(|known| known.batch == grant.batch);
            let again = known.any(|known| known.rows.iter().any(|row| row.line == grant.rows[0].line));
            self.see(if again { "granted given back" } else { "granted fresh" }, true);
        }
    }

    async fn settle(&mut self) {
        let lease = self.some_lease();
        let Some(at) = self.workers.iter().position(|worker| worker.lease == lease) else { return };
        let number = 1 + self.below(self.workers[at].next_number);
        self.workers[at].next_number = self.workers[at].next_number.max(number + 1);
        self.workers[at].used_numbers.push(number);
        match self.ask(StoreRequest::SettleClaim { lease, number }).await {
            StoreReply::SettleClaim(grants, _) if grants.is_empty() => drop(self.seen.insert("settled none")),
            StoreReply::SettleClaim(..) => drop(self.seen.insert("settled some")),
            other => panic!("{other:?}"),
        }
    }

    fn some_answer(&mut self) -> Answer {
        let timed_out = self.one_in(3);
        match self.below(10) {
            0..5 => Answer::Success(format!("{{\"n\":{}}}", self.below(100)).into()),
            // Some are too long to be kept whole in a story.
            5 if timed_out => Answer::Failed("é".repeat(3000).into()),
            5 => Answer::Failed("it \"failed\"\n".into()),
            _ => Answer::Retry { error: "again".into(), jitter: self.random.next_u64(), timed_out },
        }
    }

    fn retry_answer(&mut self) -> Answer {
        Answer::Retry { error: "again".into(), jitter: self.random.next_u64(), timed_out: false }
    }

    /// Answers to lines that some worker was granted at some time; sometimes under another's lease or a made-up token.
    async fn record(&mut self) {
        let of = self.below(self.workers.len() as u64) as usize;
        let Some(worker) = self.workers.get(of) else { return };
        let (mut lease, grants) = (worker.lease, worker.grants.clone());
        if self.one_in(15) {
            lease = self.some_lease();
        }
        let mut items = BTreeMap::new();
        let from = grants.len().saturating_sub(4);
        for grant in &grants[from..] {
            for row in &grant.rows {
                if self.one_in(3) {
                    let token = if self.one_in(30) { Token(self.below(50)) } else { grant.token };
                    // Lines that an operator had run again are few: that one is tried again would else be seen in one run of twenty.
                    let retried = self.is_superseded(grant.batch, row.line, None) && self.one_in(2);
                    let answer = if retried { self.retry_answer() } else { self.some_answer() };
                    let run_time = Duration::from_micros(self.below(1000));
                    let item = RecordItem { batch: grant.batch, line: row.line, token, answer, run_time };
                    items.insert((item.batch, item.line), item);
                }
            }
        }
        if self.one_in(30) {
            let nowhere = BatchId::from_random(7);
            let answer = self.some_answer();
            let item = RecordItem { batch: nowhere, line: 1, token: Token(1), answer, run_time: Duration::ZERO };
            items.insert((nowhere, 1), item);
        }
        let group = Record { lease, items: items.into_values().collect() };
        self.groups.push(group.clone());
        self.record_group(group).await;
    }

    async fn record_again(&mut self) {
        let from = self.groups.len().saturating_sub(20);
        let mut recent = self.groups[from..].to_vec();
        if self.one_in(4) {
            // Zombies of what is being purged.
            let of_purging = |group: &&Record| group.items.iter().any(|item| self.purging.contains(&item.batch));
            recent.extend(self.groups.iter().rev().filter(of_purging).take(20).cloned());
        }
        if let Some(group) = self.pick(&recent) {
            self.record_group(group).await;
        }
    }

    pub(super) async fn record_group(&mut self, group: Record) {
        let items = group.items.clone();
        let StoreReply::Record(verdicts) = self.ask(StoreRequest::Record(group)).await else { panic!() };
        for (item, verdict) in items.iter().zip(verdicts) {
            if verdict == Verdict::RecordedBefore && self.is_superseded(item.batch, item.line, Some(item.token)) {
                self.seen.insert("recorded before, superseded");
            }
            let kind = match (&item.answer, verdict) {
                (Answer::Retry { .. }, Verdict::Recorded(Recorded::Failed)) => "exhausted",
                (Answer::Retry { timed_out: true, .. }, Verdict::Recorded(Recorded::GivenBack)) => "timed out",
                (_, Verdict::Recorded(Recorded::Success)) => "success",
                (_, Verdict::Recorded(Recorded::Failed)) => "failed",
                (_, Verdict::Recorded(Recorded::GivenBack)) => "given back",
                (_, Verdict::RecordedBefore) => "recorded before",
                (_, Verdict::Fenced) => "fenced",
            };
            self.seen.insert(kind);
            self.see("record of a batch that is being purged", self.purging.contains(&item.batch));
        }
    }

    async fn give_back(&mut self) {
        let of = self.below(self.workers.len() as u64) as usize;
        let Some(worker) = self.workers.get(of) else { return };
        let (mut lease, grants) = (worker.lease, worker.grants.clone());
        if self.one_in(10) {
            lease = self.some_lease();
        }
        let from = grants.len().saturating_sub(3);
        let mut given = Vec::new();
        for grant in &grants[from..] {
            let kept: BTreeSet<u64> = grant.rows.iter().map(|row| row.line).filter(|_| self.one_in(2)).collect();
            let lines: LineSet = kept.into_iter().collect();
            given.push((grant.batch, grant.token, lines));
        }
        self.ask(StoreRequest::GiveBack { lease, lines: given }).await;
        self.seen.insert("gave back");
    }

    async fn look(&mut self) {
        let StoreReply::Look(look) = self.ask(StoreRequest::Look).await else { panic!() };
        self.see("look with not-before", look.not_before_max.is_some());
    }

    async fn recover(&mut self) {
        let lease = self.some_lease();
        let StoreReply::Look(look) = self.ask(StoreRequest::Look).await else { panic!() };
        let renewals = look.leases.iter().find(|view| view.lease == lease).map_or(0, |view| view.renewals);
        let renewals = if self.one_in(6) { renewals + 1 } else { renewals };
        let cause = self.pick(&[EndCause::Lapsed, EndCause::Died, EndCause::TakenOver]).unwrap();
        // Now and then an act that was held up for long, or a clock that was set back since.
        let off = if self.one_in(6) { [-3_600_000_000, 3_600_000_000][usize::from(self.one_in(2))] } else { 0 };
        let seen_at = StoreTime(look.now.0 + off);
        let judge = if self.one_in(2) { Some(self.some_lease()) } else { None };
        match self.ask(StoreRequest::Recover(Recover { lease, renewals, seen_at, cause, judge })).await {
            StoreReply::Recover(RecoverReply::Recovered { lines, failed }) => {
                self.see("recovered none", lines == 0 && failed == 0);
                self.see("recovered lines", lines > 0);
                self.see("recovered, row failed", failed > 0);
                self.lease_ended(lease);
            }
            StoreReply::Recover(RecoverReply::Spared) => drop(self.seen.insert("spared")),
            other => panic!("{other:?}"),
        }
    }

    /// Its worker may not know: now and then it goes on as if nothing had happened.
    fn lease_ended(&mut self, lease: LeaseId) {
        self.ended.push(lease);
        if !self.one_in(4) {
            self.workers.retain(|worker| worker.lease != lease);
        }
    }

    async fn drop_lease(&mut self) {
        let lease = self.some_lease();
        self.ask(StoreRequest::DropLease { lease }).await;
        self.seen.insert("dropped");
        self.lease_ended(lease);
    }

    async fn cut_back(&mut self) {
        let backoff_max = Duration::from_secs(1 + self.below(600));
        self.ask(StoreRequest::CutBack { backoff_max }).await;
        self.seen.insert("cut back");
    }

    async fn withdraw(&mut self) {
        let ended = self.ended.clone();
        let lease = if self.one_in(4) { Some(self.some_lease()) } else { self.pick(&ended) };
        if let Some(lease) = lease {
            self.ask(StoreRequest::WithdrawCrashes { lease }).await;
            self.seen.insert("withdrew");
        }
    }

    pub async fn verify(&self) {
        for batch in self.model.view().batches {
            self.subjects.verify(batch.batch).await;
        }
    }

    pub async fn compare(&mut self) {
        let mut expected = self.model.view();
        expected.completions.sort_by_key(|completion| (completion.batch, completion.generation));
        for (name, got) in self.subjects.views().await {
            assert_eq!(got, expected, "{name} left, model right, after\n{}", self.told());
        }
        self.compare_stopping().await;
        self.compare_lines().await;
        self.compare_leftovers().await;
        for batch in &expected.batches {
            let failed = batch.tallies.iter().any(|(_, tally)| tally.failed > 0);
            let kind = match batch.status {
                BatchStatus::Success if failed => "batch success, after failed rows were retried",
                BatchStatus::Success => "batch success",
                BatchStatus::Failed => "batch failed",
                BatchStatus::Aborted => "batch aborted",
                BatchStatus::Open | BatchStatus::Loading => continue,
            };
            self.seen.insert(kind);
        }
    }
}
