//! The protocol that ours descends from, as far as its round trips go: `docs/original.md` says what it does. Its package cannot be had
//! by Go's ordinary client, so its statements and commands are sent in its order by one worker that does nothing else.
//!
//! For each block of rows: one transaction that locks free rows and marks them. For each row: `SADD` and `EXPIRE` when it is
//! tracked, an update by its id when it is done, `SREM`. After each block the rows that are left are counted, to see whether the batch is over.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::ground::Ground;
use super::sizes;
use crate::postgres::{Schema, own};
use crate::redis::Server;

/// Rows of a block.
const BLOCK: i64 = 20;

const TABLE: &str = "create table batchrows (
    rowid bigint generated always as identity primary key, batch bigint not null, line bigint not null,
    input jsonb not null, status text not null, reqat timestamptz not null default now(), doneat timestamptz,
    res jsonb, doneby text);
create index on batchrows (batch, status)";

const CLAIM: &str = "update batchrows set status = 'inprog' where rowid in (
    select rowid from batchrows where batch = 1 and status = 'queued' order by rowid limit $1 for update skip locked
) returning rowid, input::text";

const DONE: &str =
    "update batchrows set status = 'success', doneat = now(), res = $2::jsonb, doneby = $3 where rowid = $1";

const LEFT: &str = "select count(*) from batchrows where batch = 1 and status in ('queued', 'inprog')";

/// Rows through one worker.
pub fn drain(ground: &Ground, redis: &Server, rows: u64) -> Duration {
    let schema = Schema::on(own().url());
    ground.block_on(async {
        let mut conn = PgConnection::connect(own().url()).await.expect("the server answers");
        let make = format!("create schema \"{0}\"; set search_path to \"{0}\"; {TABLE}", schema.name());
        sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(&mut conn).await.expect("a table");
        let inputs: Vec<String> = (1..=rows).map(|line| sizes::input(line).into()).collect();
        let fill = "insert into batchrows (batch, line, input, status)
                    select 1, line, input::jsonb, 'queued' from unnest($1::text[]) with ordinality i (input, line)";
        sqlx::query(fill).bind(inputs).execute(&mut conn).await.expect("rows");
        sqlx::raw_sql("analyze batchrows").execute(&mut conn).await.expect("statistics");
        let client = redis::Client::open(redis.url()).expect("a URL");
        let mut tracked = client.get_multiplexed_async_connection().await.expect("Redis answers");
        let began = Instant::now();
        loop {
            let block: Vec<(i64, String)> = sqlx::query_as(CLAIM).bind(BLOCK).fetch_all(&mut conn).await.expect("rows");
            for (row, _) in &block {
                command(&mut tracked, &["SADD", "worker:1:rows", &row.to_string()]).await;
                command(&mut tracked, &["EXPIRE", "worker:1:rows", "120"]).await;
            }
            for (row, input) in &block {
                assert!(!input.is_empty(), "a row without an input");
                let done = sqlx::query(DONE).bind(row).bind("null").bind("worker-1").execute(&mut conn).await;
                assert_eq!(done.expect("the outcome is written").rows_affected(), 1);
                command(&mut tracked, &["SREM", "worker:1:rows", &row.to_string()]).await;
            }
            let left: i64 = sqlx::query_scalar(LEFT).fetch_one(&mut conn).await.expect("a count");
            if left == 0 {
                return began.elapsed();
            }
        }
    })
}

async fn command(conn: &mut redis::aio::MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    let _: i64 = command.query_async(conn).await.expect("Redis answers");
}
