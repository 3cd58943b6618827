//! S6 on the embedded store's real file: zombies after a purge, purges that are cut off, and workers beside a large one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use fencepost::purge;
use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded};
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{Appends, Loads, OpenMode, Operates, Purges, Reads, Store, WorkerStore};
use fencepost_core::append::{AppendEnd, Appended, Begun, Staged};
use fencepost_core::purge::{PurgeAges, PurgeBegun};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, Operated, Record, RecordItem, Recover, RenewReply, Retried, RetryRows,
    StoreReply, StoreRequest, TakeLease, Verdict,
};
use fencepost_core::{AppendId, BatchId, LeaseId, LineSet, StoreTime};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

const LEASE: LeaseId = LeaseId::from_random(1);
const OTHER: LeaseId = LeaseId::from_random(2);
/// Later than everything.
const ALL: StoreTime = StoreTime(i64::MAX);
const NO_AGE: PurgeAges = PurgeAges { ended: Duration::ZERO, load: Duration::ZERO, append: Duration::ZERO };

struct Place {
    _directory: tempfile::TempDir,
    store: SqliteStore,
    raw: SqliteConnection,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
        let raw = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        let place = Self { _directory: directory, store, raw };
        place.take(LEASE).await;
        place
    }

    async fn take(&self, lease: LeaseId) {
        let take = TakeLease {
            lease,
            worker: "w".to_owned(),
            stable_name: false,
            ttl: Duration::from_secs(600),
            renew: Duration::from_secs(300),
            process: None,
            operations: vec!["op".to_owned()],
            calls: Default::default(),
        };
        self.store.call(StoreRequest::TakeLease(take)).await.unwrap();
    }

    async fn load(&self, rows: usize, key: Option<&str>) -> (BatchId, Loaded) {
        let batch = self.store.begin_load(BatchSpec { crashes_max: 9, ..BatchSpec::new("op") }).await.unwrap();
        self.store.load_rows(batch, 1, &vec!["1".into(); rows]).await.unwrap();
        let end = LoadEnd { key: key.map(str::to_owned), digest: "d".to_owned(), total: rows as u64 };
        let loaded = self.store.finish_load(batch, end).await.unwrap();
        (batch, loaded)
    }

    async fn claim(&self, lease: LeaseId, number: u64, lines_max: u64) -> Vec<Grant> {
        let operations = vec!["op".to_owned()];
        let claim = Claim { lease, number, operations, lines_max, bytes_max: 1 << 20, idle: true };
        match self.store.call(StoreRequest::Claim(claim)).await.unwrap() {
            StoreReply::Claim(ClaimReply::Granted { grants, .. }) => grants,
            other => panic!("{other:?}"),
        }
    }

    async fn record(&self, lease: LeaseId, grants: &[Grant]) -> Vec<Verdict> {
        let items = grants.iter().flat_map(|grant| {
            grant.rows.iter().map(|row| RecordItem {
                batch: grant.batch,
                line: row.line,
                token: grant.token,
                answer: Answer::Success("1".into()),
                run_time: Duration::ZERO,
            })
        });
        let record = Record { lease, items: items.collect() };
        match self.store.call(StoreRequest::Record(record)).await.unwrap() {
            StoreReply::Record(verdicts) => verdicts,
            other => panic!("{other:?}"),
        }
    }

    /// Every record that names a batch, of whatever table.
    async fn left(&mut self) -> i64 {
        let sql =
            "select (select count(*) from batches) + (select count(*) from rows) + (select count(*) from outcomes)
             + (select count(*) from attempts) + (select count(*) from tallies) + (select count(*) from spans)
             + (select count(*) from appends) + (select count(*) from completions) + (select count(*) from purges)";
        sqlx::query_scalar(sql).fetch_one(&mut self.raw).await.unwrap()
    }

    async fn execute(&mut self, sql: &'static str) {
        sqlx::query(sql).execute(&mut self.raw).await.unwrap();
    }

    async fn purge_whole(&self, batch: BatchId) {
        assert_eq!(self.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
        while !self.store.purge_slice(batch, 100).await.unwrap().done {}
    }
}

/// Whoever had to do with the batch knows nothing of its purge: what it asks comes to nothing, half way through and afterwards.
#[tokio::test]
async fn a_zombie_writes_nothing_to_a_batch_that_is_purged_or_being_purged() {
    let mut place = Place::new().await;
    let (batch, _) = place.load(7, None).await;
    place.take(OTHER).await;
    let held = place.claim(OTHER, 1, 2).await;
    // A crash of a line that ran alone is charged to a lease that lives.
    place.execute("update spans set alone = 1, line_count = 1, lines = '[[1,1]]', suspicion = 1 where lease = 2").await;
    let recover = Recover { lease: OTHER, renewals: 0, seen_at: StoreTime(0), cause: EndCause::Died, judge: None };
    place.store.call(StoreRequest::Recover(recover)).await.unwrap();
    let recorded = place.claim(LEASE, 1, 4).await;
    place.record(LEASE, &recorded).await;
    let recorded = place.claim(LEASE, 2, 4).await;
    assert_eq!(recorded.last().and_then(|grant| grant.rows.last()).map(|row| row.line), Some(6), "{recorded:?}");
    place.record(LEASE, &recorded).await;
    let append = AppendId::from_random(5);
    place.store.begin_append(batch, append, Some("k")).await.unwrap();
    place.store.append_rows(batch, append, 8, &["8".into(), "9".into()]).await.unwrap();
    assert_eq!(place.store.abort(batch).await.unwrap(), Operated::Now);
    let charged = "select count(*) from attempts where kind = 'crashed'";
    let crashes: i64 = sqlx::query_scalar(charged).fetch_one(&mut place.raw).await.unwrap();
    assert_eq!(place.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
    assert_eq!(crashes, 1);
    assert!(!place.store.purge_slice(batch, 1).await.unwrap().done);

    for done in [false, true] {
        if done {
            while !place.store.purge_slice(batch, 1).await.unwrap().done {}
        }
        let before = place.left().await;
        assert_eq!(before == 0, done, "{before} records are left");
        let verdicts = [place.record(OTHER, &held).await, place.record(LEASE, &recorded).await].concat();
        assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == Verdict::Fenced), "{verdicts:?}");
        let lines = vec![(batch, held[0].token, LineSet::range(1, 2))];
        place.store.call(StoreRequest::GiveBack { lease: OTHER, lines }).await.unwrap();
        place.store.call(StoreRequest::WithdrawCrashes { lease: OTHER }).await.unwrap();
        let renewed = place.store.call(StoreRequest::Renew { lease: LEASE, batches: vec![batch] }).await.unwrap();
        assert_eq!(renewed, StoreReply::Renew(RenewReply::Renewed { closed: vec![batch] }));
        let refused = place.store.begin_append(batch, append, Some("k")).await.unwrap();
        assert_eq!(refused, Begun::Refused { status: None });
        let staged = place.store.append_rows(batch, append, 10, &["10".into()]).await.unwrap();
        assert_eq!(staged, Staged::Refused { status: None });
        let end = AppendEnd { digest: String::new(), rows: 2 };
        if done {
            let refused = Appended::Refused { status: None };
            assert_eq!(place.store.finish_append(batch, append, end).await.unwrap(), refused);
        }
        assert_eq!(place.store.retry(batch, RetryRows::Failed).await.unwrap(), Retried::NotThere);
        assert_eq!(place.store.hold(batch).await.unwrap(), Operated::NotThere);
        assert_eq!(place.store.abort(batch).await.unwrap(), Operated::NotThere);
        assert!(place.store.batches().await.unwrap().is_empty() && place.store.batch(batch).await.unwrap().is_none());
        assert!(place.store.rows(batch, None, 0, 9).await.unwrap().rows.is_empty());
        assert!(place.store.results(batch, 0, 9, false).await.unwrap().rows.is_empty());
        assert_eq!(place.left().await, before, "done: {done}");
    }
}

/// The key goes with its batch: the same submit is a new batch, even while the old one's rows are going.
#[tokio::test]
async fn a_key_is_free_once_its_batch_is_being_purged() {
    let mut place = Place::new().await;
    let (batch, _) = place.load(3, Some("k")).await;
    place.store.abort(batch).await.unwrap();
    assert_eq!(place.load(3, Some("k")).await.1, Loaded::Same(batch));
    assert_eq!(place.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
    let (new, loaded) = place.load(3, Some("k")).await;
    assert_eq!(loaded, Loaded::New);
    while !place.store.purge_slice(batch, 1).await.unwrap().done {}
    assert_eq!(place.store.batch_of_key("k").await.unwrap().unwrap().batch, new);
    assert_eq!(place.store.inputs(new, 0, 9).await.unwrap().len(), 3);
    place.store.abort(new).await.unwrap();
    place.purge_whole(new).await;
    assert_eq!(place.left().await, 0);
}

/// Whoever purges next goes on where another one stopped, at whatever slice that was.
#[tokio::test]
async fn a_purge_that_was_cut_off_is_ended_by_the_next() {
    let mut place = Place::new().await;
    for slices in 0..4 {
        let (batch, _) = place.load(7, None).await;
        place.store.abort(batch).await.unwrap();
        assert_eq!(place.store.begin_purge(batch, ALL).await.unwrap(), PurgeBegun::Now);
        for _ in 0..slices {
            place.store.purge_slice(batch, 2).await.unwrap();
        }
        let (young, _) = place.load(2, None).await;
        let next = place.store.for_renewals().await.unwrap();
        let found = next.purgeable(NO_AGE).await.unwrap();
        let left = vec![(batch, 7 - 2 * slices)];
        assert_eq!((found.begun.clone(), found.batches.len()), (left, 0));
        let purged = purge::all(&next, &found, &mut |_: &purge::Purged| ()).await.unwrap();
        assert_eq!((purged.batches, purged.rows), (1, 7 - 2 * slices));
        let rows: i64 = sqlx::query_scalar("select count(*) from rows").fetch_one(&mut place.raw).await.unwrap();
        assert_eq!(rows, 2, "the other batch's");
        place.store.abort(young).await.unwrap();
        place.purge_whole(young).await;
        assert_eq!(place.left().await, 0);
    }
}

/// What is not to be purged stays: what is open, what ended later, what a call is under way for.
#[tokio::test]
async fn only_what_ended_before_is_purged_and_nothing_under_way() {
    let mut place = Place::new().await;
    let (batch, _) = place.load(2, None).await;
    let begin = async |place: &Place, before| place.store.begin_purge(batch, before).await.unwrap();
    assert_eq!(begin(&place, ALL).await, PurgeBegun::NotEnded);
    place.store.abort(batch).await.unwrap();
    let ended_at = place.store.batch(batch).await.unwrap().unwrap().ended_at.unwrap();
    assert_eq!(begin(&place, StoreTime(ended_at.0 - 1)).await, PurgeBegun::EndedSince);
    place.execute("update completions set lease = 1, token = 9").await;
    assert_eq!(begin(&place, ALL).await, PurgeBegun::Busy);
    assert_eq!(place.store.begin_purge(BatchId::from_random(9), ALL).await.unwrap(), PurgeBegun::NotThere);
    assert!(place.store.batch(batch).await.unwrap().is_some());
    place.execute("update completions set delivered_at = 1").await;
    assert_eq!(begin(&place, ended_at).await, PurgeBegun::Now);
    assert_eq!(begin(&place, ended_at).await, PurgeBegun::Before);
}

/// Loads and appends that were cut off go as well, and leases that had to do with nothing that is there.
#[tokio::test]
async fn what_was_cut_off_goes_too() {
    let mut place = Place::new().await;
    let load = place.store.begin_load(BatchSpec::new("op")).await.unwrap();
    place.store.load_rows(load, 1, &["1".into()]).await.unwrap();
    let (open, _) = place.load(3, None).await;
    let append = AppendId::from_random(5);
    place.store.begin_append(open, append, None).await.unwrap();
    place.store.append_rows(open, append, 4, &["4".into()]).await.unwrap();
    place.store.call(StoreRequest::DropLease { lease: LEASE }).await.unwrap();
    let found = place.store.purgeable(NO_AGE).await.unwrap();
    assert_eq!((found.loads.clone(), found.appends.clone()), (vec![(load, 1)], vec![(open, append, 1)]));
    let purged = purge::all(&place.store, &found, &mut |_: &purge::Purged| ()).await.unwrap();
    assert_eq!((purged.loads, purged.appends, purged.leases), (1, 1, 0), "the lease lived while the batch was open");
    let rows: i64 = sqlx::query_scalar("select count(*) from rows").fetch_one(&mut place.raw).await.unwrap();
    assert_eq!(rows, 3);
    place.store.abort(open).await.unwrap();
    let found = place.store.purgeable(NO_AGE).await.unwrap();
    let purged = purge::all(&place.store, &found, &mut |_: &purge::Purged| ()).await.unwrap();
    assert_eq!((purged.batches, purged.rows, purged.leases), (1, 3, 1));
    let leases: i64 = sqlx::query_scalar("select count(*) from leases").fetch_one(&mut place.raw).await.unwrap();
    assert_eq!((leases, place.left().await), (0, 0));
}

/// While a large batch goes, another handle claims and records between its slices.
#[tokio::test]
async fn workers_go_on_while_a_large_batch_is_purged() {
    const LARGE: usize = 30_000;
    let place = Place::new().await;
    let (large, _) = place.load(LARGE, None).await;
    place.store.abort(large).await.unwrap();
    let (small, _) = place.load(20, None).await;
    let found = place.store.purgeable(NO_AGE).await.unwrap();
    let purging = place.store.for_renewals().await.unwrap();
    let (slices, seen) = tokio::sync::watch::channel(0u64);
    let purge = tokio::spawn(async move {
        let mut progress = |purged: &purge::Purged| {
            slices.send_replace(purged.rows);
        };
        purge::all(&purging, &found, &mut progress).await.unwrap()
    });
    let (mut number, mut between) = (0, 0);
    while place.store.status(small).await.unwrap().unwrap().success < 20 {
        let before = *seen.borrow();
        number += 1;
        let grants = place.claim(LEASE, number, 1).await;
        place.record(LEASE, &grants).await;
        let after = *seen.borrow();
        between += u64::from(before > 0 && after < LARGE as u64);
    }
    let purged = purge.await.unwrap();
    assert_eq!((purged.batches, purged.rows), (1, LARGE as u64));
    assert!(between > 0, "claims and records fell between slices");
}
