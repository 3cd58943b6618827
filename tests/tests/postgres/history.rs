//! Many connections at once, at random: whatever the interleaving, what is recorded tells one story.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::postgres::PostgresStore;
use fencepost::store::{Loads, Operates, Purges, Reads, Store, WorkerStore};
use fencepost_core::purge::PurgeBegun;
use fencepost_core::random::Stream;
use fencepost_core::store::{
    Answer, ClaimReply, EndCause, Grant, Record, RecordItem, Recorded, Recover, RecoverReply, RenewReply, RetryRows,
    StoreReply, StoreRequest, TakeLease, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use fencepost_tests::history::journal;
use fencepost_tests::history::story::{self, AGAIN};

use super::rig::{HELD_BY_THE_DEAD, Hasty, NOT_TILED, Rig, claim, granted, record, take};

/// What one worker was told.
#[derive(Default)]
struct Told {
    granted: Vec<(BatchId, Token, u64, LeaseId)>,
    recorded: Vec<(BatchId, u64, Token, LeaseId, Recorded)>,
    fenced: u64,
    before: u64,
    lost_leases: u64,
}

struct Worker {
    store: PostgresStore,
    random: Stream,
    lease: LeaseId,
    renewals: u64,
    number: u64,
    holds: Vec<(BatchId, Token, u64)>,
    sent: Option<Record>,
    told: Told,
}

/// Leases that a judge may take for dead, with the renewals that it believes in.
type Leases = Arc<std::sync::Mutex<BTreeMap<LeaseId, u64>>>;

impl Worker {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    async fn take(&mut self, leases: &Leases) {
        self.lease = LeaseId::from_random(self.random.next_u64());
        (self.renewals, self.number) = (0, 0);
        self.store.call(StoreRequest::TakeLease(take(self.lease))).await.unwrap();
        leases.lock().unwrap().insert(self.lease, 0);
    }

    async fn work(mut self, leases: Leases, done: Arc<AtomicBool>) -> Told {
        self.take(&leases).await;
        while !done.load(Ordering::Relaxed) {
            match self.below(20) {
                0..8 => self.claim(&leases).await,
                8..16 => self.record().await,
                16 => self.record_again().await,
                17 => self.give_back().await,
                18 => self.renew(&leases).await,
                _ => self.settle().await,
            }
        }
        self.told
    }

    async fn claim(&mut self, leases: &Leases) {
        if self.holds.len() > 30 {
            return;
        }
        self.number += 1;
        let lines = 1 + self.below(9);
        let mut request = claim(self.lease, self.number, lines);
        if let StoreRequest::Claim(claim) = &mut request {
            claim.idle = self.holds.is_empty();
        }
        match self.store.call(request).await.unwrap() {
            StoreReply::Claim(ClaimReply::Granted { grants, .. }) => self.note(&grants),
            StoreReply::Claim(ClaimReply::LeaseEnded) => {
                self.told.lost_leases += 1;
                self.holds.clear();
                self.take(leases).await;
            }
            other => panic!("{other:?}"),
        }
    }

    fn note(&mut self, grants: &[Grant]) {
        for grant in grants {
            for row in &grant.rows {
                self.told.granted.push((grant.batch, grant.token, row.line, self.lease));
                self.holds.push((grant.batch, grant.token, row.line));
            }
        }
    }

    async fn record(&mut self) {
        let count = (1 + self.below(12) as usize).min(self.holds.len());
        let from = self.below((self.holds.len() - count) as u64 + 1) as usize;
        let taken: Vec<_> = self.holds.drain(from..from + count).collect();
        let mut items = Vec::new();
        for (batch, token, line) in taken {
            let jitter = self.random.next_u64();
            let answer = match self.below(12) {
                0 => Answer::Failed("no".into()),
                1 | 2 => Answer::Retry { error: AGAIN.into(), jitter, timed_out: jitter.is_multiple_of(2) },
                _ => Answer::Success("1".into()),
            };
            items.push(RecordItem { batch, line, token, answer, run_time: Duration::ZERO });
        }
        let record = Record { lease: self.lease, items };
        self.send(&record).await;
        self.sent = Some(record);
    }

    async fn record_again(&mut self) {
        if let Some(record) = self.sent.take() {
            self.send(&record).await;
        }
    }

    async fn send(&mut self, record: &Record) {
        let StoreReply::Record(verdicts) = self.store.call(StoreRequest::Record(record.clone())).await.unwrap() else {
            panic!()
        };
        for (item, verdict) in record.items.iter().zip(verdicts) {
            match verdict {
                Verdict::Recorded(what) => {
                    self.told.recorded.push((item.batch, item.line, item.token, record.lease, what))
                }
                Verdict::RecordedBefore => self.told.before += 1,
                Verdict::Fenced => self.told.fenced += 1,
            }
        }
    }

    async fn give_back(&mut self) {
        let Some((batch, token, line)) = self.holds.pop() else { return };
        let lines = vec![(batch, token, LineSet::single(line))];
        self.store.call(StoreRequest::GiveBack { lease: self.lease, lines }).await.unwrap();
    }

    async fn renew(&mut self, leases: &Leases) {
        let reply = self.store.call(StoreRequest::Renew { lease: self.lease, batches: vec![] }).await.unwrap();
        if matches!(reply, StoreReply::Renew(RenewReply::Renewed { .. })) {
            self.renewals += 1;
            leases.lock().unwrap().insert(self.lease, self.renewals);
        }
    }

    /// What the last claim took is known already: the same is told again, as far as it is still held.
    async fn settle(&mut self) {
        let (lease, number) = (self.lease, self.number.max(1));
        let StoreReply::SettleClaim(grants, _) =
            self.store.call(StoreRequest::SettleClaim { lease, number }).await.unwrap()
        else {
            panic!()
        };
        self.number = number;
        for grant in grants {
            let known =
                self.told.granted.iter().any(|(batch, token, ..)| (*batch, *token) == (grant.batch, grant.token));
            assert!(known, "settled what was never granted: {grant:?}");
        }
    }
}

/// Declares leases dead at random, and now and then drops one as its worker would.
async fn judge(store: PostgresStore, leases: Leases, done: Arc<AtomicBool>, failed: Arc<AtomicU64>) {
    let mut random = Stream::new(99);
    while !done.load(Ordering::Relaxed) {
        let known: Vec<(LeaseId, u64)> =
            leases.lock().unwrap().iter().map(|(lease, renewals)| (*lease, *renewals)).collect();
        let Some((lease, renewals)) = known.get((random.next_u64() % known.len().max(1) as u64) as usize).copied()
        else {
            tokio::task::yield_now().await;
            continue;
        };
        match random.next_u64() % 8 {
            0 => drop(store.call(StoreRequest::DropLease { lease }).await.unwrap()),
            1 => drop(store.call(StoreRequest::CutBack { backoff_max: Duration::from_secs(600) }).await.unwrap()),
            2 => drop(store.call(StoreRequest::WithdrawCrashes { lease }).await.unwrap()),
            3 => drop(store.call(StoreRequest::Look).await.unwrap()),
            _ => {
                let seen_at = fencepost_core::StoreTime(0);
                let recover = Recover { lease, renewals, seen_at, cause: EndCause::Died, judge: None };
                if let StoreReply::Recover(RecoverReply::Recovered { failed: rows, .. }) =
                    store.call(StoreRequest::Recover(recover)).await.unwrap()
                {
                    failed.fetch_add(rows, Ordering::Relaxed);
                    leases.lock().unwrap().remove(&lease);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(random.next_u64() % 10)).await;
    }
}

/// Two that submit small batches of another operation, work on them, and purge whatever of that kind has ended; each answers for
/// lines again when their batch is going or gone. How many were gone.
fn purged_beside(rig: &Rig, done: &Arc<AtomicBool>) -> [tokio::task::JoinHandle<u64>; 2] {
    let going = Arc::new(std::sync::Mutex::new(Vec::new()));
    [1, 2].map(|who| {
        let (store, done, going) = (rig.store.clone(), done.clone(), going.clone());
        tokio::spawn(async move {
            let lease = LeaseId::from_random(1000 + who);
            let operations = vec!["fleeting".to_owned()];
            store.call(StoreRequest::TakeLease(TakeLease { operations, ..take(lease) })).await.unwrap();
            let (mut number, mut gone) = (0, 0);
            while !done.load(Ordering::Relaxed) || gone == 0 {
                number += 1;
                gone += fleeting(&store, lease, number, &going).await;
            }
            gone
        })
    })
}

async fn fleeting(store: &PostgresStore, lease: LeaseId, number: u64, going: &std::sync::Mutex<Vec<BatchId>>) -> u64 {
    let batch = store.begin_load(BatchSpec::new("fleeting")).await.unwrap();
    store.load_rows(batch, 1, &["1".into(), "2".into(), "3".into()]).await.unwrap();
    store.finish_load(batch, LoadEnd { key: None, digest: String::new(), total: 3 }).await.unwrap();
    let mut request = claim(lease, number, 3);
    if let StoreRequest::Claim(claim) = &mut request {
        claim.operations = vec!["fleeting".to_owned()];
    }
    let grants = granted(store.call(request).await);
    let answer = Answer::Failed("no".into());
    store.call(record(lease, &grants, &answer)).await.unwrap();
    going.lock().unwrap().extend(grants.iter().map(|grant| grant.batch));
    let known: Vec<BatchId> = going.lock().unwrap().clone();
    let mut gone = 0;
    for batch in known {
        if number.is_multiple_of(2) {
            store.retry(batch, RetryRows::Failed).await.unwrap();
        }
        let begun = store.begin_purge(batch, StoreTime(i64::MAX)).await.unwrap();
        gone += u64::from(begun == PurgeBegun::Now);
        store.call(record(lease, &grants, &answer)).await.unwrap();
        let goes = matches!(begun, PurgeBegun::Now | PurgeBegun::Before | PurgeBegun::NotThere);
        if goes && store.purge_slice(batch, 2).await.unwrap().done {
            going.lock().unwrap().retain(|other| *other != batch);
        }
    }
    gone
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_of_many_connections_is_one_story() {
    const BATCHES: usize = 12;
    let mut rig = Rig::on_clock(Some(Arc::new(Hasty::default()))).await;
    journal::keep(&mut rig.raw).await;
    let mut batches = Vec::new();
    for number in 0..BATCHES {
        let spec =
            BatchSpec { priority: (number % 3) as i32, crashes_max: 1 + (number % 2) as u32, ..BatchSpec::new("op") };
        batches.push(rig.batch_of(spec, 5 + number * 20).await);
    }
    let done = Arc::new(AtomicBool::new(false));
    let leases: Leases = Arc::default();
    let failed_by_judges = Arc::new(AtomicU64::new(0));
    let mut working = Vec::new();
    for seed in 1..=6 {
        let worker = Worker {
            // Connections of its own.
            store: rig.store.for_renewals().await.unwrap(),
            random: Stream::new(seed),
            lease: LeaseId::from_random(0),
            renewals: 0,
            number: 0,
            holds: Vec::new(),
            sent: None,
            told: Told::default(),
        };
        working.push(tokio::spawn(worker.work(leases.clone(), done.clone())));
    }
    let judging: Vec<_> = (0..2)
        .map(|_| tokio::spawn(judge(rig.store.clone(), leases.clone(), done.clone(), failed_by_judges.clone())))
        .collect();

    // S6: small batches end, are purged by two at once, and are answered for afterwards by zombies.
    let purged = purged_beside(&rig, &done);

    // Meanwhile every snapshot is whole.
    let until = std::time::Instant::now() + super::rig::STUCK * 6;
    loop {
        assert_eq!(rig.number(NOT_TILED).await, 0, "lines are lost or in two places");
        assert_eq!(rig.number(HELD_BY_THE_DEAD).await, 0, "a span is held by a lease that is not live");
        if rig.number("select count(*) from batches where status = 'open' and operation = 'op'").await == 0 {
            // More of it, until some row has run alone and died.
            if rig.number("select count(*) from attempts where kind = 'crashed'").await > 0 {
                break;
            }
            batches.push(rig.batch_of(BatchSpec { crashes_max: 1, ..BatchSpec::new("op") }, 100).await);
        }
        assert!(std::time::Instant::now() < until, "the batches never end");
        let stuck =
            working.iter().any(|worker| worker.is_finished()) || judging.iter().any(|judge| judge.is_finished());
        assert!(!stuck, "a worker or judge has failed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    for worker in working {
        told.push(worker.await.unwrap());
    }
    for judge in judging {
        judge.await.unwrap();
    }
    let mut gone = 0;
    for purging in purged {
        gone += purging.await.unwrap();
    }
    println!("{gone} batches were purged");
    assert!(gone > 0, "something is purged");
    // What the transactions did, one after the other, as the checkers see it.
    let transactions = journal::read(&mut rig.raw).await;
    let interleaved = journal::interleaved(&transactions);
    println!("{} transactions, {interleaved} with others in between", transactions.len());
    assert!(interleaved > 0, "transactions that go on at once");
    assert_eq!(story::judge(&mut rig.raw).await, []);
    check(&mut rig, &batches, &told, failed_by_judges.load(Ordering::Relaxed)).await;
}

async fn check(rig: &mut Rig, batches: &[BatchId], told: &[Told], failed_by_judges: u64) {
    let (fenced, before, lost) =
        told.iter().fold((0, 0, 0), |sum, told| (sum.0 + told.fenced, sum.1 + told.before, sum.2 + told.lost_leases));
    println!("fenced {fenced}, recorded before {before}, leases lost {lost}, failed by judges {failed_by_judges}");
    assert!(fenced > 0 && before > 0 && lost > 0, "a history in which something happens");

    // A status tells the rows that are there.
    for batch in batches {
        let number = batch.number();
        let counts = rig.store.status(*batch).await.unwrap().unwrap();
        let rows =
            |status: &str| format!("select count(*) from outcomes where batch = {number} and status = '{status}'");
        assert_eq!(rig.number(&rows("success")).await, counts.success as i64);
        assert_eq!(rig.number(&rows("failed")).await, counts.failed as i64);
        assert_eq!(counts.success + counts.failed, counts.batch.total);
    }

    // A token is granted to one lease, and a line's grants under it are told once.
    let mut owners: BTreeMap<Token, LeaseId> = BTreeMap::new();
    let mut grants: BTreeMap<(BatchId, u64), BTreeSet<Token>> = BTreeMap::new();
    for (batch, token, line, lease) in told.iter().flat_map(|told| &told.granted) {
        assert_eq!(*owners.entry(*token).or_insert(*lease), *lease, "{token} was granted to two");
        assert!(grants.entry((*batch, *line)).or_default().insert(*token), "{batch} line {line} twice under {token}");
    }
    let mut outcomes: Vec<(i64, i64, i64, i64)> =
        sqlx::query_as("select batch, line, token, lease from outcomes").fetch_all(&mut rig.raw).await.unwrap();
    // Of those that come and go nobody was told.
    outcomes.retain(|(batch, ..)| batches.contains(&id(*batch)));
    let logged: Vec<(i64, i64, i64, i64, String)> =
        sqlx::query_as("select batch, first_line, last_line, token, kind from attempts where kind in ('retried', 'timed_out', 'given_back', 'recovered')")
            .fetch_all(&mut rig.raw)
            .await
            .unwrap();
    // How each line's hold under each token ended: by an outcome, or by going back, once.
    let mut ends: BTreeMap<(BatchId, u64, Token), u32> = BTreeMap::new();
    for (batch, first, last, token, _) in &logged {
        for line in *first..=*last {
            *ends.entry((id(*batch), line as u64, Token(*token as u64))).or_default() += 1;
        }
    }
    let newest: Vec<(i64, i64, i64)> =
        sqlx::query_as("select batch, first_line, max(token) from attempts where kind = 'crashed' group by 1, 2")
            .fetch_all(&mut rig.raw)
            .await
            .unwrap();
    let newest = newest.iter().map(|(batch, line, token)| ((id(*batch), *line as u64), Token(*token as u64)));
    let crashed: BTreeMap<(BatchId, u64), Token> = newest.collect();
    let (mut of_judges, none) = (0, BTreeSet::new());
    for (batch, line, token, lease) in &outcomes {
        let (batch, line, token) = (id(*batch), *line as u64, Token(*token as u64));
        let tokens = grants.get(&(batch, line)).unwrap_or(&none);
        if tokens.contains(&token) {
            *ends.entry((batch, line, token)).or_default() += 1;
            assert_eq!(owners[&token].number(), *lease as u64, "{batch} line {line} was recorded by another lease");
        } else {
            // P2: failed by a judge, under a token of its own.
            of_judges += 1;
            // The crash that was one too many ended the hold under its token; it was told to nobody where the claim was
            // recovered before its rows were read.
            let last = crashed[&(batch, line)];
            if tokens.contains(&last) {
                *ends.entry((batch, line, last)).or_default() += 1;
            }
        }
        // Fencing: the newest token that the line ever had.
        assert!(tokens.last().is_none_or(|last| *last <= token), "{batch} line {line}: {token} after {tokens:?}");
    }
    assert_eq!(of_judges, failed_by_judges);
    for ((batch, line), tokens) in &grants {
        for token in tokens {
            let ended = ends.get(&(*batch, *line, *token)).copied().unwrap_or_default();
            assert_eq!(ended, 1, "{batch} line {line} under {token} ended {ended} times");
        }
    }

    // What workers were told is what is there.
    let mut recorded = 0;
    for (batch, line, token, lease, what) in told.iter().flat_map(|told| &told.recorded) {
        let row = (batch.number() as i64, *line as i64, token.0 as i64, lease.number() as i64);
        match what {
            Recorded::Success | Recorded::Failed => {
                assert!(outcomes.contains(&row), "{row:?} was told as recorded");
                recorded += 1;
            }
            Recorded::GivenBack => {
                let kept = logged.iter().any(|(batch, first, _, token, kind)| {
                    (*batch, *first, *token) == (row.0, row.1, row.2)
                        && matches!(kind.as_str(), "retried" | "timed_out")
                });
                assert!(kept, "{row:?} was told as given back");
            }
        }
    }
    assert_eq!(recorded, outcomes.len() as u64 - of_judges, "each outcome was told to one worker, once");
}

fn id(number: i64) -> BatchId {
    BatchId::from_random(number as u64)
}
