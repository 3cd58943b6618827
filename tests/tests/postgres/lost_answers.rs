//! Answers that are lost after the server has committed: settled, never guessed (C2, O2, L2, S4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded};
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::store::{Loads, OpenMode, Operates, Store, StoreError, WorkerStore};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Grant, Recorded, RenewReply, StoreFailure, StoreReply, StoreRequest, TakeLeaseReply,
    Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, Token};
use fencepost_tests::postgres::{Schema, own};
use fencepost_tests::proxy::{Fate, Proxy};
use sqlx::{AssertSqlSafe, PgConnection};

use super::rig::{STUCK, claim, died, execute, granted, record, success, take, verdicts};

/// A store behind a proxy that loses the answer, or the request, of the next call of one function.
struct Line {
    store: PostgresStore,
    proxy: Proxy,
    armed: Arc<Armed>,
    raw: PgConnection,
    schema: Schema,
}

#[derive(Default)]
struct Armed {
    /// How many calls are still to end so.
    calls: AtomicU64,
    what: std::sync::Mutex<Option<(&'static str, Fate)>>,
}

impl Line {
    async fn new() -> Self {
        let schema = Schema::on(own().url());
        let armed = Arc::new(Armed::default());
        let asked = armed.clone();
        let proxy = Proxy::start(own(), move |statement| match *asked.what.lock().unwrap() {
            Some((function, fate)) if statement.contains(&format!(".{function}(")) => {
                let left = asked.calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if left.is_ok() { fate } else { Fate::Pass }
            }
            _ => Fate::Pass,
        });
        let options: PostgresOptions = schema.url_at(&proxy.url()).parse().unwrap();
        let store = PostgresStore::open(options, OpenMode::Create).await.unwrap();
        let raw = schema.connect().await;
        Self { store, proxy, armed, raw, schema }
    }

    /// The next call of this function ends so.
    fn lose(&self, function: &'static str, fate: Fate) {
        *self.armed.what.lock().unwrap() = Some((function, fate));
        self.armed.calls.store(1, Ordering::SeqCst);
    }

    /// What was armed has happened, and this is what was heard of it.
    fn assert_unknown<T: std::fmt::Debug>(&self, lost: u64, end: Result<T, StoreError>) {
        assert_eq!(self.proxy.lost(), lost, "the proxy was passed by: {end:?}");
        let error = end.unwrap_err();
        assert_eq!(error.failure, StoreFailure::Unknown, "{error}");
    }

    async fn number(&mut self, sql: &'static str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.raw).await.unwrap()
    }

    async fn lease(&self) -> LeaseId {
        let lease = LeaseId::from_random(1);
        let reply = self.store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
        assert_eq!(reply, StoreReply::TakeLease(TakeLeaseReply::Taken));
        lease
    }

    async fn load(&self, key: Option<&str>) -> (BatchId, Result<Loaded, StoreError>) {
        let batch = self.store.begin_load(BatchSpec::new("op")).await.unwrap();
        self.store.load_rows(batch, 1, &ROWS.map(Into::into)).await.unwrap();
        (batch, self.store.finish_load(batch, end(key)).await)
    }
}

const ROWS: [&str; 3] = ["1", "2", "3"];

fn end(key: Option<&str>) -> LoadEnd {
    LoadEnd { key: key.map(str::to_owned), digest: "d".to_owned(), total: ROWS.len() as u64 }
}

fn settled(reply: Result<StoreReply, StoreError>) -> Vec<Grant> {
    match reply.unwrap() {
        StoreReply::SettleClaim(grants, _) => grants,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_settled_to_what_it_took() {
    let mut line = Line::new().await;
    line.load(None).await.1.unwrap();
    let lease = line.lease().await;
    line.lose("claim", Fate::LoseAnswer);
    let lost = line.store.call(claim(lease, 1, 2)).await;
    line.assert_unknown(1, lost);
    let token = line.number("select token from spans where lease is not null").await;

    // The answer to the settling may be lost as well.
    line.lose("settle_claim", Fate::LoseAnswer);
    let lost = line.store.call(StoreRequest::SettleClaim { lease, number: 1 }).await;
    line.assert_unknown(2, lost);
    let grants = settled(line.store.call(StoreRequest::SettleClaim { lease, number: 1 }).await);
    let lines: Vec<u64> = grants[0].rows.iter().map(|row| row.line).collect();
    assert_eq!((grants.len(), grants[0].token.0, lines), (1, token.unsigned_abs(), vec![1, 2]));
    let again = line.store.call(claim(lease, 1, 2)).await.unwrap();
    assert_eq!(again, StoreReply::Claim(ClaimReply::Closed));
    let recorded = verdicts(line.store.call(record(lease, &grants, &success())).await);
    assert_eq!(recorded, [Verdict::Recorded(Recorded::Success); 2]);
    let rest = granted(line.store.call(claim(lease, 2, 2)).await);
    verdicts(line.store.call(record(lease, &rest, &success())).await);
    assert_eq!(line.number("select count(*) from batches where status = 'success'").await, 1, "nothing is stuck");
    assert_eq!(line.number("select count(*) from spans").await, 0);
}

/// The claim has happened; only the inputs of what it took never came.
#[tokio::test]
async fn a_claim_whose_inputs_never_come_is_settled_to_what_it_took() {
    let mut line = Line::new().await;
    line.load(None).await.1.unwrap();
    let lease = line.lease().await;
    for (number, fate) in [(1, Fate::LoseAnswer), (2, Fate::LoseRequest)] {
        line.lose("claimed_rows", fate);
        let lost = line.store.call(claim(lease, number, 1)).await;
        line.assert_unknown(number, lost);
        let grants = settled(line.store.call(StoreRequest::SettleClaim { lease, number }).await);
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].rows[0].line, number);
    }
    assert_eq!(line.number("select count(*) from spans where lease is not null").await, 2);
}

/// The spans of a claim change hands before their rows are read: it is settled on the spot, to what is still held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_spans_change_hands_before_its_rows_are_read_grants_what_is_still_held() {
    let schema = Schema::on(own().url());
    let direct = PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    let (reads, mut reading) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, gone_on) = std::sync::mpsc::channel::<()>();
    let gone_on = std::sync::Mutex::new(gone_on);
    let first = AtomicU64::new(1);
    // The first reading of a claim waits for what happens meanwhile; its connection alone stands still.
    let proxy = Proxy::start(own(), move |statement| {
        if statement.contains(".claimed_rows(") && first.swap(0, Ordering::SeqCst) == 1 {
            let _ = reads.send(());
            let _ = gone_on.lock().unwrap().recv();
        }
        if statement.contains(".claim(") {
            first.store(1, Ordering::SeqCst);
        }
        Fate::Pass
    });
    let store = PostgresStore::open(schema.url_at(&proxy.url()).parse().unwrap(), OpenMode::Existing).await.unwrap();
    let mut raw = schema.connect().await;
    for (number, (change, held)) in (10u64..).zip([("recovered", 0), ("aborted", 0), ("given back", 2)]) {
        let batch = direct.begin_load(BatchSpec::new("op")).await.unwrap();
        direct.load_rows(batch, 1, &ROWS.map(Into::into)).await.unwrap();
        direct.finish_load(batch, end(None)).await.unwrap();
        // Its lines come as three spans.
        let before = LeaseId::from_random(number * 10);
        direct.call(StoreRequest::TakeLease(take(before))).await.unwrap();
        for claimed in 1..=3 {
            granted(direct.call(claim(before, claimed, 1)).await);
        }
        direct.call(StoreRequest::DropLease { lease: before }).await.unwrap();
        let lease = LeaseId::from_random(number);
        direct.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
        let claiming = tokio::spawn({
            let store = store.clone();
            async move { store.call(claim(lease, 1, 3)).await }
        });
        tokio::time::timeout(STUCK, reading.recv()).await.expect("its rows are read").unwrap();
        match change {
            "recovered" => drop(direct.call(died(lease, 0)).await.unwrap()),
            "aborted" => drop(direct.abort(batch).await.unwrap()),
            _ => {
                let sql = "select token from spans where lease is not null order by first_line limit 1";
                let token: i64 = sqlx::query_scalar(sql).fetch_one(&mut raw).await.unwrap();
                let lines = vec![(batch, Token(token.unsigned_abs()), LineSet::single(1))];
                direct.call(StoreRequest::GiveBack { lease, lines }).await.unwrap();
            }
        }
        go_on.send(()).unwrap();
        let grants = granted(claiming.await.unwrap());
        assert_eq!(grants.len(), held, "{change}");
        let recorded = verdicts(store.call(record(lease, &grants, &success())).await);
        assert_eq!(recorded, vec![Verdict::Recorded(Recorded::Success); held], "{change}");
        assert_eq!(proxy.lost(), 0);
        // Nothing of it is in the way of the next one.
        direct.abort(batch).await.unwrap();
    }
}

/// S4: a load that was cut off and whose record somebody holds keeps no other from beginning.
#[tokio::test]
async fn a_cut_off_load_that_cannot_be_removed_fails_no_other() {
    let mut line = Line::new().await;
    let cut_off = line.store.begin_load(BatchSpec::new("op")).await.unwrap();
    line.number(
        "with gone as (update batches set created_at = 0, loaded_at = null returning 1) select count(*) from gone",
    )
    .await;
    let mut holding = line.schema.connect().await;
    execute(&mut holding, "begin; select from batches for update").await;
    let impatient = line.store.clone().with_lock_wait(std::time::Duration::from_millis(200));
    let next = impatient.begin_load(BatchSpec::new("op")).await.unwrap();
    assert_ne!(next, cut_off);
    assert_eq!(line.number("select count(*) from batches where status = 'loading'").await, 2);
    execute(&mut holding, "rollback").await;
    // A later one removes it.
    impatient.begin_load(BatchSpec::new("op")).await.unwrap();
    assert_eq!(line.number("select count(*) from batches where created_at = 0").await, 0);
}

/// T2, where no pooler lets limits through when a session begins: a loader that stands still in the middle of a slice loses its
/// session.
#[tokio::test]
async fn a_loader_that_stands_still_in_a_slice_behind_a_pooler_holds_nothing_for_long() {
    let schema = Schema::on(own().url());
    PostgresStore::open(schema.url().parse().unwrap(), OpenMode::Create).await.unwrap();
    let mut raw = schema.connect().await;
    let proxy = Proxy::start(own(), |statement| if statement.ends_with("commit") { Fate::Hold } else { Fate::Pass });
    let url = format!("{}&pooler=transaction", schema.url_at(&proxy.url()));
    let options: PostgresOptions = url.parse().unwrap();
    let store = PostgresStore::open(options, OpenMode::Existing).await.unwrap();
    let store = store.with_lock_wait(std::time::Duration::from_millis(500));
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    let open = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation \
                where c.relnamespace = current_schema()::regnamespace and l.mode = 'RowExclusiveLock'";
    let slice = store.load_rows(batch, 1, &ROWS.map(Into::into)).await;
    assert_eq!(slice.unwrap_err().failure, StoreFailure::Unknown);
    assert_eq!(proxy.lost(), 1);
    let until = std::time::Instant::now() + STUCK;
    while sqlx::query_scalar::<_, i64>(open).fetch_one(&mut raw).await.unwrap() > 0 {
        assert!(std::time::Instant::now() < until, "the slice still holds its batch");
        tokio::task::yield_now().await;
    }
}

/// Inputs that do not come a second time either, as on a slow way to the server: others are to have the rows, and the next claim
/// is a smaller one.
#[tokio::test]
async fn what_cannot_be_received_goes_back() {
    let mut line = Line::new().await;
    let inputs: Vec<Box<str>> = vec![format!("\"{}\"", "x".repeat(200_000)).into(); 40];
    let batch = line.store.begin_load(BatchSpec::new("op")).await.unwrap();
    line.store.load_rows(batch, 1, &inputs).await.unwrap();
    line.store.finish_load(batch, LoadEnd { total: inputs.len() as u64, ..end(None) }).await.unwrap();
    let lease = line.lease().await;
    let all = |number| {
        let operations = vec!["op".to_owned()];
        StoreRequest::Claim(Claim { lease, number, operations, lines_max: 40, bytes_max: 8 << 20, idle: true })
    };
    line.lose("claimed_rows", Fate::LoseAnswer);
    line.armed.calls.store(2, Ordering::SeqCst);
    let lost = line.store.call(all(1)).await;
    line.assert_unknown(1, lost);
    let store = line.store.clone();
    let settle = || store.call(StoreRequest::SettleClaim { lease, number: 1 });
    line.assert_unknown(2, settle().await);
    assert_eq!(line.number("select count(*) from spans where lease is not null").await, 0);
    assert_eq!(settled(settle().await), vec![]);
    let mut lines = Vec::new();
    for number in 2..=8 {
        let grants = granted(line.store.call(all(number)).await);
        lines.push(grants.iter().map(|grant| grant.rows.len()).sum::<usize>());
    }
    assert!(lines[0] < 4 && lines.iter().any(|lines| *lines > 8), "a little first, then more: {lines:?}");
    assert_eq!(lines.iter().sum::<usize>(), 40);
}

/// T2: inputs are megabytes. Whoever stands still while they arrive keeps nobody from the batch.
#[tokio::test]
async fn a_worker_that_stands_still_while_it_receives_holds_no_lock() {
    let line = Line::new().await;
    // More than fits into the buffers between the two, which take a few megabytes each.
    let inputs: Vec<Box<str>> = vec![format!("\"{}\"", "x".repeat(200_000)).into(); 160];
    let batch = line.store.begin_load(BatchSpec::new("op")).await.unwrap();
    line.store.load_rows(batch, 1, &inputs).await.unwrap();
    line.store.finish_load(batch, LoadEnd { total: inputs.len() as u64, ..end(None) }).await.unwrap();
    let lease = line.lease().await;
    let operations = vec!["op".to_owned()];
    let all = Claim { lease, number: 1, operations, lines_max: 150, bytes_max: 1 << 30, idle: true };
    for (lost, function) in [(1, "claim"), (2, "claimed_rows")] {
        line.lose(function, Fate::Stall);
        let number = lost;
        let stopped = line.store.clone();
        let claim = Claim { number, ..all.clone() };
        let stopped = tokio::spawn(async move { stopped.call(StoreRequest::Claim(claim)).await });
        let until = std::time::Instant::now() + STUCK;
        while line.proxy.lost() < lost {
            assert!(std::time::Instant::now() < until, "{function} was not called");
            tokio::task::yield_now().await;
        }
        // It waits for a lock at most half as long as the stopped one for its answer.
        let other = LeaseId::from_random(10 + lost);
        line.store.call(StoreRequest::TakeLease(take(other))).await.unwrap();
        assert_eq!(granted(line.store.call(claim_of_one(other)).await).len(), 1, "{function}");
        stopped.abort();
        let _ = stopped.await;
        line.store.call(StoreRequest::DropLease { lease: other }).await.unwrap();
        let freed = line.store.call(StoreRequest::GiveBack { lease, lines: held(&line, lease, number, batch).await });
        freed.await.unwrap();
    }
}

fn claim_of_one(lease: LeaseId) -> StoreRequest {
    claim(lease, 1, 1)
}

/// All that a claim took, as it is given back.
async fn held(line: &Line, lease: LeaseId, number: u64, batch: BatchId) -> Vec<(BatchId, Token, LineSet)> {
    let grants = settled(line.store.call(StoreRequest::SettleClaim { lease, number }).await);
    grants.iter().map(|grant| (batch, grant.token, grant.rows.iter().map(|row| row.line).collect())).collect()
}

#[tokio::test]
async fn a_claim_that_the_server_never_heard_of_is_settled_to_nothing() {
    let mut line = Line::new().await;
    line.load(None).await.1.unwrap();
    let lease = line.lease().await;
    line.lose("claim", Fate::LoseRequest);
    let lost = line.store.call(claim(lease, 1, 2)).await;
    line.assert_unknown(1, lost);
    assert_eq!(settled(line.store.call(StoreRequest::SettleClaim { lease, number: 1 }).await), []);
    assert_eq!(line.number("select count(*) from spans").await, 0);
    assert_eq!(granted(line.store.call(claim(lease, 2, 3)).await)[0].rows.len(), 3);
}

#[tokio::test]
async fn a_group_whose_answer_is_lost_was_recorded_before() {
    let mut line = Line::new().await;
    line.load(None).await.1.unwrap();
    let lease = line.lease().await;
    let grants = granted(line.store.call(claim(lease, 1, 3)).await);
    let mut groups = grants.clone();
    groups[0].rows.truncate(1);
    let retry = Answer::Retry { error: "again".into(), jitter: 0, timed_out: false };
    for (lost_so_far, answer) in [(1, retry), (2, success())] {
        let request = record(lease, &groups, &answer);
        line.lose("record_answers", Fate::LoseAnswer);
        let lost = line.store.call(request.clone()).await;
        line.assert_unknown(lost_so_far, lost);
        let repeated = verdicts(line.store.call(request).await);
        assert_eq!(repeated, vec![Verdict::RecordedBefore; groups[0].rows.len()], "{answer:?}");
        groups[0].rows = grants[0].rows[1..].to_vec();
    }
    assert_eq!(line.number("select count(*) from attempts").await, 1, "one retry, nothing fenced");
    assert_eq!(line.number("select count(*) from outcomes").await, 2);
    assert_eq!(line.number("select sum(success * 10 + retried)::bigint from tallies").await, 21);
    // A group that never came is recorded by its repeat.
    let lease = LeaseId::from_random(2);
    line.store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
    let (_, loaded) = line.load(None).await;
    loaded.unwrap();
    let grants = granted(line.store.call(claim(lease, 1, 3)).await);
    line.lose("record_answers", Fate::LoseRequest);
    let lost = line.store.call(record(lease, &grants, &success())).await;
    line.assert_unknown(3, lost);
    let repeated = verdicts(line.store.call(record(lease, &grants, &success())).await);
    assert_eq!(repeated, vec![Verdict::Recorded(Recorded::Success); grants[0].rows.len()]);
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_is_sent_again() {
    let mut line = Line::new().await;
    let (batch, loaded) = line.load(None).await;
    loaded.unwrap();
    let lease = line.lease().await;
    let renewals = line.store.for_renewals().await.unwrap();
    let renew = || renewals.call(StoreRequest::Renew { lease, batches: vec![batch] });
    line.lose("renew", Fate::LoseAnswer);
    let lost = renew().await;
    line.assert_unknown(1, lost);
    assert_eq!(renew().await.unwrap(), StoreReply::Renew(RenewReply::Renewed { closed: vec![] }));
    assert_eq!(line.number("select renewals from leases").await, 2, "both count, neither harms");
    // A take and a drop are repeated as they are, too.
    let other = LeaseId::from_random(2);
    line.lose("take_lease", Fate::LoseAnswer);
    let lost = line.store.call(StoreRequest::TakeLease(take(other))).await;
    line.assert_unknown(2, lost);
    let again = line.store.call(StoreRequest::TakeLease(take(other))).await.unwrap();
    assert_eq!(again, StoreReply::TakeLease(TakeLeaseReply::Taken));
    line.lose("drop_lease", Fate::LoseAnswer);
    let lost = line.store.call(StoreRequest::DropLease { lease: other }).await;
    line.assert_unknown(3, lost);
    assert_eq!(line.store.call(StoreRequest::DropLease { lease: other }).await.unwrap(), StoreReply::DropLease);
    assert_eq!(line.number("select count(*) from leases where state = 'dropped'").await, 1);
}

#[tokio::test]
async fn a_give_back_whose_answer_is_lost_happens_once() {
    let mut line = Line::new().await;
    let (batch, loaded) = line.load(None).await;
    loaded.unwrap();
    let lease = line.lease().await;
    let grants = granted(line.store.call(claim(lease, 1, 3)).await);
    let lines = vec![(batch, grants[0].token, fencepost_core::LineSet::single(2))];
    let request = StoreRequest::GiveBack { lease, lines };
    line.lose("give_back", Fate::LoseAnswer);
    let lost = line.store.call(request.clone()).await;
    line.assert_unknown(1, lost);
    assert_eq!(line.store.call(request).await.unwrap(), StoreReply::GiveBack);
    assert_eq!(line.number("select count(*) from attempts where kind = 'given_back'").await, 1);
    assert_eq!(line.number("select count(*) from spans where lease is null").await, 1);
}

#[tokio::test]
async fn a_submit_whose_answer_is_lost_gives_the_same_batch() {
    let mut line = Line::new().await;
    for (lost_so_far, key) in [(1, None), (2, Some("k"))] {
        line.lose("finish_load", Fate::LoseAnswer);
        let (batch, lost) = line.load(key).await;
        line.assert_unknown(lost_so_far, lost);
        assert_eq!(line.store.finish_load(batch, end(key)).await.unwrap(), Loaded::Same(batch));
        if key.is_some() {
            // Another process that repeats all of the submit adds nothing.
            assert_eq!(line.load(key).await.1.unwrap(), Loaded::Same(batch));
        }
    }
    // A slice that is repeated is not there twice.
    let batch = line.store.begin_load(BatchSpec::new("op")).await.unwrap();
    line.lose("advance_load", Fate::LoseAnswer);
    let lost = line.store.load_rows(batch, 1, &ROWS.map(Into::into)).await;
    line.assert_unknown(3, lost);
    line.store.load_rows(batch, 1, &ROWS.map(Into::into)).await.unwrap();
    assert_eq!(line.store.finish_load(batch, end(None)).await.unwrap(), Loaded::New);
    assert_eq!(line.number("select count(*) from batches where status = 'open' and total = 3").await, 3);
    assert_eq!(line.number("select count(*) from rows").await, 9);
}

/// The server does what it was asked, the connection stays open, and nothing ever comes back.
#[tokio::test]
async fn an_answer_that_never_comes_is_not_waited_for_for_ever() {
    let mut line = Line::new().await;
    line.load(None).await.1.unwrap();
    let lease = line.lease().await;
    let hasty = line.store.clone().with_lock_wait(std::time::Duration::from_millis(200));
    line.lose("claim", Fate::Silence);
    let lost = hasty.call(claim(lease, 1, 2)).await;
    assert!(lost.as_ref().is_err_and(|error| error.message.contains("no answer within 250ms")), "{lost:?}");
    line.assert_unknown(1, lost);
    // Settled over another connection.
    assert_eq!(settled(hasty.call(StoreRequest::SettleClaim { lease, number: 1 }).await)[0].rows.len(), 2);
    assert_eq!(line.number("select count(*) from spans where lease is not null").await, 1);
}

/// Nor is one while the store is opened, or while somebody begins to listen.
#[tokio::test]
async fn a_server_that_falls_silent_is_told_of_while_a_store_is_opened() {
    let schema = Schema::on(own().url());
    let options = |url: &str| schema.url_at(url).parse::<PostgresOptions>().unwrap();
    let store = PostgresStore::open(options(own().url()), OpenMode::Create).await.unwrap();
    for what in ["worker_version_min", "LISTEN"] {
        let proxy = Proxy::start(own(), move |sql| if sql.contains(what) { Fate::Silence } else { Fate::Pass });
        let opening = async {
            match PostgresStore::open(options(&proxy.url()), OpenMode::Existing).await {
                Ok(behind) => behind.changes().await.unwrap_err().to_string(),
                Err(error) => error.to_string(),
            }
        };
        let says = tokio::time::timeout(STUCK, opening).await.unwrap();
        assert!(says.contains("no answer from 127.0.0.1:") && says.contains("within 5s"), "{says}");
        assert_eq!(proxy.lost(), 1, "{what}");
    }
    store.changes().await.unwrap();
}
