//! Opening a store, losing the server, poolers, notifications, and what is said when something is wrong.

use std::time::Duration;

use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded};
use fencepost::store::postgres::{OpenError, PostgresOptions, PostgresStore};
use fencepost::store::{Change, Changes, Loads, OpenMode, Operates, Reads, Store, WorkerStore};
use fencepost_core::store::{
    Answer, ClaimReply, Operated, RecordItem, Recorded, StoreFailure, StoreReply, StoreRequest, Verdict,
};
use fencepost_core::{BatchId, LeaseId, Token};
use fencepost_tests::pooler::Pooler;
use fencepost_tests::postgres::{Durability, Schema, Server, own};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::rig::{Rig, STUCK, claim, died, execute, granted, record, recovered, success, take, verdicts};

async fn open(url: &str, mode: OpenMode) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(url.parse::<PostgresOptions>()?, mode).await
}

async fn refused(url: &str, mode: OpenMode) -> String {
    let error = open(url, mode).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("secret"), "{shown}");
    error.to_string()
}

/// The switch is named where it is missing.
#[tokio::test]
async fn a_pooler_that_was_not_announced_is_told_of() {
    let schema = Schema::on(own().url());
    let pooler = Pooler::start(own());
    let unannounced = pooler.url().split('?').next().unwrap();
    let url = schema.url_at(unannounced);
    let told = open(&url, OpenMode::Create).await.unwrap_err().to_string();
    assert!(told.contains("pooler=transaction"), "{told}");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_address() {
    let server = Server::start(Durability::Loose);
    let port = server.port();
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let says = refused(&format!("postgres://u:secret@127.0.0.1:{nobody}/d"), OpenMode::Create).await;
    assert!(says.contains(&format!("connection refused at 127.0.0.1:{nobody}")), "{says}");

    let says = refused(&format!("postgres://postgres:secret@127.0.0.1:{port}/elsewhere"), OpenMode::Create).await;
    assert!(says.contains("database \"elsewhere\" does not exist"), "{says}");

    let mut conn = PgConnection::connect(server.url()).await.unwrap();
    execute(&mut conn, "create role locked login password 'right'").await;
    let says = refused(&format!("postgres://locked:secret@127.0.0.1:{port}/postgres"), OpenMode::Create).await;
    assert!(says.contains("password authentication failed for user \"locked\""), "{says}");

    let says =
        refused(&format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=require"), OpenMode::Create).await;
    assert!(says.contains("TLS") && says.contains(&port.to_string()), "{says}");

    // It may connect, but not make a schema.
    let says =
        refused(&format!("postgres://locked:right@127.0.0.1:{port}/postgres?schema=mine"), OpenMode::Create).await;
    assert!(says.contains("permission denied for database"), "{says}");

    execute(&mut conn, "create database latin encoding 'LATIN1' template template0").await;
    let says = refused(&format!("postgres://postgres@127.0.0.1:{port}/latin"), OpenMode::Create).await;
    assert!(says.contains("the database's encoding is LATIN1"), "{says}");

    execute(&mut conn, "alter database postgres set default_transaction_read_only = on").await;
    let says = refused(&format!("postgres://postgres@127.0.0.1:{port}/postgres"), OpenMode::Create).await;
    assert!(says.contains("read-only"), "{says}");
}

#[tokio::test]
async fn a_schema_is_made_once_and_by_whoever_may() {
    let schema = Schema::new();
    let says = refused(&schema.url(), OpenMode::Existing).await;
    assert!(says.contains("there is no store in this schema yet"), "{says}");

    // Many at once: one makes it, all get the same.
    let opening: Vec<_> = (0..12)
        .map(|_| {
            let url = schema.url();
            tokio::spawn(async move { open(&url, OpenMode::Create).await.unwrap().store_id().to_owned() })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for one in opening {
        ids.insert(one.await.unwrap());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let again = open(&schema.url(), OpenMode::Existing).await.unwrap();
    assert!(ids.contains(again.store_id()));

    let mut conn = schema.connect().await;
    execute(&mut conn, "update store set schema_version = 9, worker_version_min = 8").await;
    let says = refused(&schema.url(), OpenMode::Create).await;
    assert!(says.contains("is at version 9") && says.contains("update fencepost"), "{says}");
    execute(&mut conn, "update store set worker_version_min = 1").await;
    open(&schema.url(), OpenMode::Existing).await.unwrap();

    let foreign = Schema::new();
    let mut conn = foreign.connect().await;
    execute(&mut conn, &format!("create schema {0}; create table {0}.store (name text)", foreign.name())).await;
    let says = refused(&foreign.url(), OpenMode::Create).await;
    assert!(says.contains("belongs to something else"), "{says}");
}

/// A store of the version before: looking at it is refused, a worker or `migrate` moves it on.
#[tokio::test]
async fn an_older_store_is_brought_up_to_date_by_whoever_may_make_one() {
    let schema = Schema::new();
    let first = open(&schema.url(), OpenMode::Create).await.unwrap();
    let batch = load(&first, 2).await;
    let mut conn = schema.connect().await;
    execute(
        &mut conn,
        "drop table stopping; drop table purges; drop index completions_held; drop index completions_waiting; \
         alter table completions drop column operation; alter table leases drop column calls; \
         alter table batches drop column on_done_url; update store set schema_version = 1, worker_version_min = 1; \
         drop function claimed_rows(bigint, bigint[]); \
         create function claimed_rows(p_lease bigint, p_tokens bigint[], out gives boolean, out another text) \
         language sql as $$ select true, 'shape' $$; \
         create function due_call() returns void language sql as ''; \
         create function of_somebody_else() returns void language sql as ''; create aggregate sum_of_somebody_else (bigint) \
         (sfunc = int8pl, stype = bigint)",
    )
    .await;
    let says = refused(&schema.url(), OpenMode::Existing).await;
    assert!(says.contains("is at version 1, older") && says.contains("fencepost migrate"), "{says}");
    let version = || async { PostgresStore::version(schema.url().parse().unwrap()).await.unwrap() };
    let before = version().await;
    assert_eq!(
        (before.store, before.pending.as_slice()),
        (1, &[(2, "purges"), (3, "stopping"), (4, "calls"), (5, "calls_due")][..])
    );
    assert_eq!(version().await, before, "asking changes nothing");
    open(&schema.url(), OpenMode::Create).await.unwrap();
    assert_eq!((version().await.store, version().await.pending), (before.program, vec![]));
    let left = "select array_agg(proname::text order by proname) from pg_proc
                where proname in ('due_call', 'of_somebody_else', 'sum_of_somebody_else') and pronamespace = current_schema()::regnamespace";
    let left: Vec<String> = sqlx::query_scalar(left).fetch_one(&mut conn).await.unwrap();
    assert_eq!(left, ["of_somebody_else", "sum_of_somebody_else"]);
    assert_eq!(first.abort(batch).await.unwrap(), Operated::Now);
}

#[tokio::test]
async fn the_server_restarts() {
    let server = Server::start(Durability::Durable);
    let schema = Schema::on(server.url());
    let store = open(&schema.url(), OpenMode::Create).await.unwrap();
    let renewals = store.for_renewals().await.unwrap();
    let mut changes = store.changes().await.unwrap();
    let batch = load(&store, 3).await;
    let lease = LeaseId::from_random(1);
    store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
    let grants = granted(store.call(claim(lease, 1, 2)).await);

    server.stop("immediate");
    // Whatever is asked now did not happen, or nobody knows; it is never answered.
    let error = store.call(record(lease, &grants, &success())).await.unwrap_err();
    assert!(error.message.contains("127.0.0.1"), "{error}");
    let error = store.call(record(lease, &grants, &success())).await.unwrap_err();
    assert_eq!(error.failure, StoreFailure::NotDone, "refused connections were never sent anything: {error}");
    server.start_again();

    // All that was acknowledged is there, and the same handles go on.
    assert_eq!(
        verdicts(store.call(record(lease, &grants, &success())).await),
        [Verdict::Recorded(Recorded::Success); 2]
    );
    let mut renewed = renewals.call(StoreRequest::Renew { lease, batches: vec![batch] }).await;
    if renewed.is_err() {
        renewed = renewals.call(StoreRequest::Renew { lease, batches: vec![batch] }).await;
    }
    renewed.unwrap();
    assert_eq!(store.status(batch).await.unwrap().unwrap().success, 2);
    // The news are heard again: a loss of the connection counts as news, then there is a submit.
    let listening = tokio::spawn(async move {
        changes.next().await.unwrap();
        changes.next().await.unwrap();
    });
    while !listening.is_finished() {
        load(&store, 1).await;
    }
    listening.await.unwrap();
}

/// What is told while nobody can listen is made up for, also where who waited for news was cut off in the midst of connecting anew.
#[tokio::test]
async fn what_was_told_to_a_lost_listener_is_heard_later() {
    let server = Server::start(Durability::Durable);
    let schema = Schema::on(server.url());
    let store = open(&schema.url(), OpenMode::Create).await.unwrap();
    let batch = load(&store, 3).await;
    let lease = LeaseId::from_random(1);
    store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
    granted(store.call(claim(lease, 1, 2)).await);
    let mut changes = store.changes().await.unwrap();
    server.stop("immediate");
    let waited = tokio::time::timeout(Duration::from_secs(3), changes.next()).await;
    assert!(waited.is_err(), "there is nobody to tell anything: {waited:?}");
    server.start_again();
    let mut aborted = store.abort(batch).await;
    if aborted.is_err() {
        aborted = store.abort(batch).await;
    }
    aborted.unwrap();
    let news = tokio::time::timeout(STUCK, changes.next()).await.expect("the abort went unheard").unwrap();
    assert!(news.aborted == [batch] && news.free_lines, "{news:?}");
}

/// A pooler may carry the second half of a claim over to a server that failed in between and has forgotten the first.
#[tokio::test]
async fn a_claim_that_the_server_forgot_is_not_handed_out() {
    let server = Server::start(Durability::Durable);
    let schema = Schema::on(server.url());
    let store = open(&schema.url(), OpenMode::Create).await.unwrap();
    load(&store, 3).await;
    let lease = LeaseId::from_random(1);
    store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
    let mut raw = schema.connect().await;
    // So that nobody writes the log meanwhile.
    execute(&mut raw, "alter system set wal_writer_delay = '10s'; ").await;
    execute(&mut raw, "select pg_reload_conf(); checkpoint").await;
    let halves = |number: u64, half: &str| match half {
        "claim" => {
            format!("select tokens[1] from claim({}, {number}, array['op'], 2, 1000, true, null)", lease.number())
        }
        // Null where they are not handed out.
        _ => format!(
            "select case when held then coalesce(cardinality(inputs), 0) end::bigint from claimed_rows({}, array[(select {half})])",
            lease.number()
        ),
    };
    let number = |sql: String| async {
        sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(sql)).fetch_one(&mut schema.connect().await).await.unwrap()
    };
    let token = number(halves(1, "claim")).await.unwrap();
    server.stop("immediate");
    server.start_again();
    let spans = number("select count(*) from spans".to_owned()).await;
    assert_eq!(spans, Some(0), "the claim was on the disk by chance");
    assert_eq!(number(halves(1, &token.to_string())).await, None);
    // While it is there, it is handed out.
    let token = number(halves(1, "claim")).await.unwrap();
    assert_eq!(number(halves(1, &token.to_string())).await, Some(2));
}

/// Whatever a role says of it: what is acknowledged is on the disk.
#[tokio::test]
async fn commits_wait_for_the_disk_whatever_the_database_says() {
    let server = Server::start(Durability::Durable);
    let schema = Schema::on(server.url());
    let mut raw = schema.connect().await;
    execute(&mut raw, "alter database postgres set synchronous_commit = off").await;
    execute(&mut raw, "alter system set wal_writer_delay = '10s'; ").await;
    execute(&mut raw, "select pg_reload_conf()").await;
    let store = open(&schema.url(), OpenMode::Create).await.unwrap();
    let batch = load(&store, 3).await;
    let lease = LeaseId::from_random(1);
    store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
    let grants = granted(store.call(claim(lease, 1, 2)).await);
    verdicts(store.call(record(lease, &grants, &success())).await);
    server.stop("immediate");
    server.start_again();
    let store = open(&schema.url(), OpenMode::Existing).await.unwrap();
    assert_eq!(store.status(batch).await.unwrap().unwrap().success, 2);
}

async fn load(store: &PostgresStore, rows: usize) -> BatchId {
    let batch = store.begin_load(BatchSpec::new("op")).await.unwrap();
    let inputs: Vec<Box<str>> = (1..=rows).map(|line| line.to_string().into()).collect();
    store.load_rows(batch, 1, &inputs).await.unwrap();
    let end = LoadEnd { key: None, digest: String::new(), total: rows as u64 };
    assert_eq!(store.finish_load(batch, end).await.unwrap(), Loaded::New);
    batch
}

/// A session ended by the server while its request waits: nobody knows, and the next request has another connection.
#[tokio::test]
async fn a_session_that_is_ended_leaves_its_request_unknown() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(1).await;
    let holding = rig.holding(&format!("select from batches where batch = {} for update", batch.number())).await;
    let claiming = rig.start(claim(lease, 1, 1));
    rig.until_waiting(1).await;
    let ended = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '{}'",
        rig.schema.name()
    );
    assert!(rig.number(&ended).await >= 1);
    let error = claiming.await.unwrap().unwrap_err();
    assert_eq!(error.failure, StoreFailure::Unknown, "{error}");
    holding.commit().await;
    assert_eq!(
        rig.store.call(StoreRequest::SettleClaim { lease, number: 1 }).await.unwrap(),
        StoreReply::SettleClaim(vec![], vec![])
    );
    assert_eq!(rig.grants(lease, 2, 1).await.len(), 1);
}

/// A request that is given up by its caller takes its connection along: no transaction stays open.
#[tokio::test]
async fn a_dropped_request_leaves_no_transaction_open() {
    let mut rig = Rig::new().await;
    let lease = rig.lease(1).await;
    let batch = rig.batch(1).await;
    let holding = rig.holding(&format!("select from batches where batch = {} for update", batch.number())).await;
    let claiming = rig.start(claim(lease, 1, 1));
    rig.until_waiting(1).await;
    claiming.abort();
    assert!(claiming.await.unwrap_err().is_cancelled());
    holding.commit().await;
    // It may have happened, and it has ended by itself.
    let StoreReply::SettleClaim(taken, _) =
        rig.store.call(StoreRequest::SettleClaim { lease, number: 1 }).await.unwrap()
    else {
        panic!()
    };
    assert!(taken.len() <= 1);
    let open = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and state like 'idle in transaction%'",
        rig.schema.name()
    );
    assert_eq!(rig.number(&open).await, 0);
}

/// A network that swallowed a client says nothing: the server has to ask, and sooner than after two hours.
#[tokio::test]
async fn the_server_gives_up_on_clients_that_are_gone() {
    let mut rig = Rig::new().await;
    let mut raw = rig.schema.connect().await;
    for statement in [
        "create table said (name text, setting text)",
        "create function say() returns trigger language plpgsql as $$ begin
            insert into said select name, setting from pg_settings where name ~ '^tcp_'; return null; end $$",
        "create trigger say after insert on leases execute function say()",
    ] {
        execute(&mut raw, statement).await;
    }
    rig.lease(1).await;
    let limited = "select count(*) from said where setting::integer > 0 and setting::integer <=
        case name when 'tcp_user_timeout' then 30000 when 'tcp_keepalives_count' then 3 else 15 end";
    assert_eq!(rig.number(limited).await, 4);
}

#[tokio::test]
async fn free_lines_are_told_of() {
    let mut rig = Rig::new().await;
    let mut changes = rig.store.changes().await.unwrap();
    let heard = async |changes: &mut fencepost::store::postgres::Changes, what: &str| {
        let told = tokio::time::timeout(STUCK, changes.next()).await;
        told.unwrap_or_else(|_| panic!("{what} went unheard")).unwrap()
    };
    rig.batch(4).await;
    assert_eq!(heard(&mut changes, "a submit").await, Change { free_lines: true, batches: true, ..Change::default() });
    let lease = rig.lease(1).await;
    assert_eq!(heard(&mut changes, "a lease").await, Change { leases: true, ..Change::default() });
    let grants = rig.grants(lease, 1, 3).await;
    let first = |grants: &[fencepost_core::store::Grant]| {
        let mut grants = grants.to_vec();
        grants[0].rows.truncate(1);
        grants
    };
    let retry = Answer::Retry { error: "again".into(), jitter: 0, timed_out: false };
    rig.store.call(record(lease, &first(&grants), &retry)).await.unwrap();
    let told = heard(&mut changes, "a retry").await;
    assert_eq!(told, Change { free_lines: true, ..Change::default() }, "no batch is opened");
    let lines = fencepost_core::LineSet::single(2);
    rig.store
        .call(StoreRequest::GiveBack { lease, lines: vec![(grants[0].batch, grants[0].token, lines)] })
        .await
        .unwrap();
    heard(&mut changes, "a give-back").await;
    recovered(rig.store.call(died(lease, 0)).await);
    heard(&mut changes, "a recovery").await;
    let other = rig.lease(2).await;
    heard(&mut changes, "a lease").await;
    rig.grants(other, 1, 4).await;
    rig.store.call(StoreRequest::DropLease { lease: other }).await.unwrap();
    heard(&mut changes, "a dropped lease").await;
    // S7: an empty batch ends at once.
    rig.batch(0).await;
    while !heard(&mut changes, "an end").await.ended {}
    // Claims and successes tell nobody. What one commit tells may come in several parts.
    let third = rig.lease(3).await;
    while !heard(&mut changes, "a lease").await.leases {}
    let grants = rig.grants(third, 1, 1).await;
    verdicts(rig.store.call(record(third, &grants, &success())).await);
    assert!(tokio::time::timeout(Duration::from_millis(200), changes.next()).await.is_err());
    assert_eq!(rig.number("select count(*) from outcomes").await, 1);
}

/// Text that Postgres' own JSON type would refuse or change stays as it came; U+0000 itself, which no JSON has unescaped, is
/// replaced in an error.
#[tokio::test]
async fn text_stays_as_it_came() {
    let rig = Rig::new().await;
    let batch = rig.store.begin_load(BatchSpec::new("op")).await.unwrap();
    let inputs = [r#"{"a":"\u0000","b":"\ud800"}"#, r#"{"n":1.0000000000000000000001,"n":2}"#, "\"it's \\\\ é 🦀\""];
    let inputs: Vec<Box<str>> = inputs.into_iter().map(Into::into).collect();
    rig.store.load_rows(batch, 1, &inputs).await.unwrap();
    let end = LoadEnd { key: Some("k'ey".to_owned()), digest: "d".to_owned(), total: 3 };
    rig.store.finish_load(batch, end).await.unwrap();
    let lease = rig.lease(1).await;
    let grants = rig.grants(lease, 1, 3).await;
    let got: Vec<&str> = grants[0].rows.iter().map(|row| &*row.input).collect();
    assert_eq!(got, inputs.iter().map(|input| &**input).collect::<Vec<_>>());
    let item = |line: u64, answer| RecordItem { batch, line, token: grants[0].token, answer, run_time: Duration::ZERO };
    let items =
        vec![item(1, Answer::Success(inputs[0].clone())), item(2, Answer::Failed("nul \0 and 'quote' \\n".into()))];
    let reply = rig.store.call(StoreRequest::Record(fencepost_core::store::Record { lease, items })).await;
    assert_eq!(verdicts(reply), [Verdict::Recorded(Recorded::Success), Verdict::Recorded(Recorded::Failed)]);
    let page = rig.store.results(batch, 0, 10, false).await.unwrap();
    assert_eq!(page.rows[0].outcome.as_ref().unwrap().result.as_deref(), Some(&*inputs[0]));
    assert_eq!(page.rows[1].outcome.as_ref().unwrap().error.as_deref(), Some("nul \u{fffd} and 'quote' \\n"));
    assert_eq!(rig.store.batch_of_key("k'ey").await.unwrap().unwrap().batch, batch);
}

/// Everything also works where each transaction may run in another session.
#[tokio::test]
async fn behind_a_transaction_pooler() {
    let server = Server::start(Durability::Loose);
    let pooler = Pooler::start(&server);
    let schema = Schema::on(server.url());
    let store = open(&schema.url_at(pooler.url()), OpenMode::Create).await.unwrap();
    let batch = load(&store, 500).await;
    let working: Vec<_> = (1..=4)
        .map(|worker| {
            let store = store.clone();
            tokio::spawn(async move {
                let lease = LeaseId::from_random(worker);
                store.call(StoreRequest::TakeLease(take(lease))).await.unwrap();
                for number in 1.. {
                    let StoreReply::Claim(ClaimReply::Granted { grants, .. }) =
                        store.call(claim(lease, number, 7)).await.unwrap()
                    else {
                        panic!()
                    };
                    if grants.is_empty() {
                        return;
                    }
                    let text = Answer::Success("\"it's \\\\ \\\"quoted\\\" é\"".into());
                    verdicts(store.call(record(lease, &grants, &text)).await);
                    store.call(StoreRequest::Renew { lease, batches: vec![] }).await.unwrap();
                }
            })
        })
        .collect();
    for worker in working {
        worker.await.unwrap();
    }
    let counts = store.status(batch).await.unwrap().unwrap();
    assert_eq!((counts.success, counts.batch.status.name()), (500, "success"));
    let page = store.results(batch, 499, 1, false).await.unwrap();
    assert_eq!(page.rows[0].outcome.as_ref().unwrap().result.as_deref(), Some("\"it's \\\\ \\\"quoted\\\" é\""));
    let look = store.call(StoreRequest::Look).await.unwrap();
    assert!(matches!(look, StoreReply::Look(look) if look.leases.len() == 4));
    assert_eq!(store.workers(fencepost_core::StoreTime(0)).await.unwrap().workers.len(), 4);
    assert!(store.row_story(batch, 1).await.unwrap().unwrap().row.outcome.unwrap().token > Token(0));
}

/// Several tests of this program run at once on one server: each has its own schema.
#[tokio::test]
async fn schemas_keep_stores_apart() {
    let (one, two) = (Rig::new().await, Rig::new().await);
    assert_ne!(one.store.store_id(), two.store.store_id());
    one.batch(1).await;
    assert!(two.store.batches().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_load_is_bound_to_its_key_once() {
    let rig = Rig::new().await;
    let store = &rig.store;
    let rows: Vec<Box<str>> = vec!["1".into(), "2".into(), "3".into()];
    let begin = async || store.begin_load(BatchSpec::new("op")).await.unwrap();
    let end = |digest: &str| LoadEnd { key: Some("k".to_owned()), digest: digest.to_owned(), total: 3 };

    let first = begin().await;
    store.load_rows(first, 1, &rows[..2]).await.unwrap();
    // A slice may be repeated, overlap, and go on; a gap is refused.
    store.load_rows(first, 1, &rows[..2]).await.unwrap();
    let error = store.load_rows(first, 4, &rows[..1]).await.unwrap_err();
    assert_eq!(error.failure, StoreFailure::NotDone);
    let error = store.finish_load(first, end("d")).await.unwrap_err();
    assert!(error.message.contains("does not have the 3 rows") && error.settled, "{error}");
    store.load_rows(first, 2, &rows[1..]).await.unwrap();
    assert_eq!(store.finish_load(first, end("d")).await.unwrap(), Loaded::New);
    assert_eq!(store.finish_load(first, end("d")).await.unwrap(), Loaded::Same(first));
    assert_eq!(store.finish_load(first, end("e")).await.unwrap(), Loaded::Differs(first));

    let second = begin().await;
    store.load_rows(second, 1, &rows).await.unwrap();
    assert_eq!(store.finish_load(second, end("d")).await.unwrap(), Loaded::Same(first));
    assert_eq!(store.batch(second).await.unwrap(), None);
    assert!(store.inputs(second, 0, 10).await.unwrap().is_empty());

    // Two at once under one new key: one is bound.
    let key = |digest: &str| LoadEnd { key: Some("at once".to_owned()), ..end(digest) };
    let (a, b) = (begin().await, begin().await);
    for batch in [a, b] {
        store.load_rows(batch, 1, &rows).await.unwrap();
    }
    let (x, y) = tokio::join!(store.finish_load(a, key("d")), store.finish_load(b, key("d")));
    let mut ends = [x.unwrap(), y.unwrap()];
    ends.sort_by_key(|end| *end != Loaded::New);
    assert_eq!(ends[0], Loaded::New);
    assert!(ends[1] == Loaded::Same(a) || ends[1] == Loaded::Same(b), "{ends:?}");

    // An empty one ends at once.
    let empty = begin().await;
    let nothing = LoadEnd { key: None, digest: String::new(), total: 0 };
    assert_eq!(store.finish_load(empty, nothing).await.unwrap(), Loaded::New);
    assert_eq!(store.status(empty).await.unwrap().unwrap().batch.status.name(), "success");
}
