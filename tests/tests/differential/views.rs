//! What a store holds, read from its tables: the same statements on both.

use std::collections::BTreeMap;

use fencepost::store::Reads;
use fencepost::store::postgres::PostgresStore;
use fencepost::store::sqlite::SqliteStore;
use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use fencepost_model::history::OutcomeStatus;
use fencepost_model::view::{
    BatchView, CallView, CompletionView, LogCounts, OutcomeView, RowCounts, SpanView, StoppingView, StoreView, Tally,
};
use sqlx::{PgConnection, SqliteConnection};

type StoppingRecord = (i64, i64, i64, i64, String);
type Record = (i64, i64, String, i64, i64, i64);
type CallRecord = (Option<i64>, Option<i64>, Option<i64>, i64, Option<String>, bool);
type SpanRecord = (i64, String, Option<i64>, Option<i64>, Option<i64>, i64, bool, bool, Option<i64>);
type OutcomeRecord = (i64, String, i64, i64, i64, i64, i64);

const LEASES: &str = "select lease, state from leases order by lease";

const COMPLETIONS: &str = "\
select batch, cast(generation as bigint), status, success, failed, aborted from completions
order by batch, generation";

const CALLS: &str = "\
select token, lease, not_before, cast(attempts as bigint), error, delivered_at is not null from completions
order by batch, generation";

const TALLIES: &str = "\
select lease, success, failed, retried, timed_out, fenced from tallies
where batch = $1
order by lease";

const SPANS: &str = "\
select token, cast(lines as text), lease, claim_number, not_before, cast(suspicion as bigint), alone, tried, from_lease
from spans
where batch = $1
order by token";

const STOPPING: &str = "\
select token, batch, lease, claim_number, cast(lines as text) from stopping
where line_count > 0
order by token";

const OUTCOMES: &str = "\
select line, status, token, lease, cast(attempts as bigint), cast(crashes as bigint), cast(generation as bigint)
from outcomes
where batch = $1
order by line";

const LOGGED: &str = "select kind, count(*) from attempts where batch = $1 group by kind";

/// The reading of one kind of database: the statements are the same, the types of the driver are not.
macro_rules! reading {
    ($name:ident, $store:ty, $conn:ty) => {
        pub async fn $name(store: &$store, raw: &mut $conn) -> StoreView {
            let mut batches = Vec::new();
            let batches_there = store.batches().await.unwrap().into_iter();
            for batch in batches_there.filter(|batch| batch.status != BatchStatus::Loading) {
                let batch = batch.batch;
                let number = i64::try_from(batch.number()).unwrap();
                let tallies: Vec<(i64, i64, i64, i64, i64, i64)> =
                    sqlx::query_as(TALLIES).bind(number).fetch_all(&mut *raw).await.unwrap();
                let spans: Vec<SpanRecord> = sqlx::query_as(SPANS).bind(number).fetch_all(&mut *raw).await.unwrap();
                let outcomes: Vec<OutcomeRecord> =
                    sqlx::query_as(OUTCOMES).bind(number).fetch_all(&mut *raw).await.unwrap();
                let logged: Vec<(String, i64)> =
                    sqlx::query_as(LOGGED).bind(number).fetch_all(&mut *raw).await.unwrap();
                let counts = store.status(batch).await.unwrap().unwrap();
                batches.push(BatchView {
                    batch,
                    status: counts.batch.status,
                    held: counts.batch.held,
                    total: counts.batch.total,
                    cursor: counts.batch.cursor,
                    generation: counts.batch.generation,
                    spans: spans.into_iter().map(span).collect(),
                    outcomes: outcomes.into_iter().map(outcome).collect(),
                    tallies: tallies.into_iter().map(tally).collect(),
                    logged: log_counts(logged),
                    counts: RowCounts {
                        queued: counts.queued,
                        inprog: counts.inprog,
                        success: counts.success,
                        failed: counts.failed,
                        aborted: counts.aborted,
                    },
                });
            }
            batches.sort_by_key(|batch| batch.batch);
            let leases: Vec<(i64, String)> = sqlx::query_as(LEASES).fetch_all(&mut *raw).await.unwrap();
            let completions: Vec<Record> = sqlx::query_as(COMPLETIONS).fetch_all(&mut *raw).await.unwrap();
            let calls: Vec<CallRecord> = sqlx::query_as(CALLS).fetch_all(raw).await.unwrap();
            StoreView {
                batches,
                leases: leases.into_iter().map(|(lease, state)| (lease_id(lease), lease_state(&state))).collect(),
                completions: completions.into_iter().zip(calls).map(completion).collect(),
                whole: true,
            }
        }
    };
}

/// The same for what may still run of aborted batches.
macro_rules! reading_stopping {
    ($name:ident, $conn:ty) => {
        pub async fn $name(raw: &mut $conn) -> Vec<StoppingView> {
            let records: Vec<StoppingRecord> = sqlx::query_as(STOPPING).fetch_all(raw).await.unwrap();
            records.into_iter().map(stopping).collect()
        }
    };
}

reading_stopping!(stopping_of_sqlite, SqliteConnection);
reading_stopping!(stopping_of_postgres, PgConnection);

fn stopping((token, batch, lease, number, lines): StoppingRecord) -> StoppingView {
    StoppingView {
        token: Token(natural(token)),
        batch: BatchId::from_random(natural(batch)),
        lease: lease_id(lease),
        number: natural(number),
        lines: lines_of(&lines),
    }
}

reading!(of_sqlite, SqliteStore, SqliteConnection);
reading!(of_postgres, PostgresStore, PgConnection);

fn span(record: SpanRecord) -> SpanView {
    let (token, lines, lease, number, not_before, suspicion, alone, tried, from_lease) = record;
    SpanView {
        token: Token(natural(token)),
        lines: lines_of(&lines),
        lease: lease.map(lease_id),
        number: number.map(natural),
        not_before: not_before.map(StoreTime),
        suspicion: u32::try_from(suspicion).unwrap(),
        alone,
        tried,
        from_lease: from_lease.map(lease_id),
    }
}

/// SQLite has JSON, `[[1,4],[6,6]]`; Postgres has a multirange, `{[1,5),[6,7)}`.
fn lines_of(text: &str) -> LineSet {
    let numbers: Vec<u64> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let over = u64::from(text.starts_with('{'));
    let ranges = numbers.chunks(2).map(|range| (range[0], range[1] - over));
    LineSet::from_ranges(ranges).unwrap()
}

fn outcome(record: OutcomeRecord) -> OutcomeView {
    let (line, status, token, lease, attempts, crashes, generation) = record;
    OutcomeView {
        line: natural(line),
        status: if status == "success" { OutcomeStatus::Success } else { OutcomeStatus::Failed },
        token: Token(natural(token)),
        lease: lease_id(lease),
        attempts: u32::try_from(attempts).unwrap(),
        crashes: u32::try_from(crashes).unwrap(),
        generation: u32::try_from(generation).unwrap(),
    }
}

fn tally((lease, success, failed, retried, timed_out, fenced): (i64, i64, i64, i64, i64, i64)) -> (LeaseId, Tally) {
    let tally =
        Tally { success, failed, retried: natural(retried), timed_out: natural(timed_out), fenced: natural(fenced) };
    (lease_id(lease), tally)
}

fn log_counts(kinds: Vec<(String, i64)>) -> LogCounts {
    let kinds: BTreeMap<String, i64> = kinds.into_iter().collect();
    let count = |kind| natural(kinds.get(kind).copied().unwrap_or_default());
    LogCounts {
        retried: count("retried"),
        timed_out: count("timed_out"),
        crashed: count("crashed"),
        crash_withdrawn: count("crash_withdrawn"),
        fenced: count("fenced"),
        superseded: count("superseded"),
    }
}

fn completion((record, call): (Record, CallRecord)) -> CompletionView {
    let (batch, generation, status, success, failed, aborted) = record;
    let (token, lease, not_before, attempts, error, delivered) = call;
    CompletionView {
        batch: BatchId::from_random(natural(batch)),
        generation: u32::try_from(generation).unwrap(),
        status: BatchStatus::from_name(&status).unwrap(),
        counts: RowCounts {
            queued: 0,
            inprog: 0,
            success: natural(success),
            failed: natural(failed),
            aborted: natural(aborted),
        },
        call: CallView {
            token: token.map(|token| Token(natural(token))),
            lease: lease.map(lease_id),
            not_before: not_before.map(StoreTime),
            attempts: u32::try_from(attempts).unwrap(),
            error: error.map(Into::into),
            delivered,
        },
    }
}

fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap()
}

fn lease_id(number: i64) -> LeaseId {
    LeaseId::from_random(natural(number))
}

fn lease_state(name: &str) -> LeaseState {
    match name {
        "live" => LeaseState::Live,
        "dead" => LeaseState::Dead,
        "taken_over" => LeaseState::TakenOver,
        "dropped" => LeaseState::Dropped,
        other => panic!("{other}"),
    }
}
