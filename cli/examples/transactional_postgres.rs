//! As `transactional`, on Postgres: the accounts are in the same database as the store, in whatever schema.
//!
//! `cargo run --release -p fencepost --example transactional_postgres -- postgres://USER@HOST/DATABASE`
//!
//! It works in two schemas of its own, `fencepost_booking` and `booking`, which it removes before and after.

use fencepost::handler::transactional::{TransactionalHandler, transactional};
use fencepost::handler::typed::{Context, RowError};
use fencepost::load;
use fencepost::sqlx::{self, Connection, PgConnection, Postgres};
use fencepost::store::OpenMode;
use fencepost::store::loading::BatchSpec;
use fencepost::store::postgres::{PostgresOptions, PostgresStore};
use fencepost::worker::{RunningWorker, WorkerConfig};
use fencepost_core::worker::RunKey;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Payment {
    account: String,
    cents: i64,
}

/// Books payments.
struct Booking;

impl TransactionalHandler for Booking {
    type Database = Postgres;
    type Input = Payment;
    type Value = Payment;
    type Output = i64;

    /// What takes time: look things up, ask other systems. It may be repeated.
    async fn run(&self, _: Context, payment: Payment) -> Result<Payment, RowError> {
        Ok(payment)
    }

    /// The effect: committed with the row's outcome, or not at all. Its result is the new balance.
    async fn apply(&self, conn: &mut PgConnection, _: RunKey, payment: &Payment) -> Result<i64, RowError> {
        let update = "update booking.accounts set cents = cents + $2 where account = $1 returning cents";
        Ok(sqlx::query_scalar(update).bind(&payment.account).bind(payment.cents).fetch_one(conn).await?)
    }
}

const CLEAR: &str = "set client_min_messages = warning; drop schema if exists fencepost_booking, booking cascade";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(url) = std::env::args().nth(1) else {
        return Err("usage: transactional_postgres postgres://USER@HOST/DATABASE".into());
    };
    let options: PostgresOptions = url.parse()?;
    let mut conn = PgConnection::connect(&url).await?;
    sqlx::raw_sql(CLEAR).execute(&mut conn).await?;
    sqlx::raw_sql(
        "create schema booking; create table booking.accounts (account text primary key, cents bigint not null); \
         insert into booking.accounts values ('a', 0)",
    )
    .execute(&mut conn)
    .await?;

    let store = PostgresStore::open(options.with_schema("fencepost_booking")?, OpenMode::Create).await?;
    let payments = (1..=100).map(|cents| Payment { account: "a".to_owned(), cents });
    load::values(&store, BatchSpec::new("book"), None, payments).await?;

    // Two workers, as two machines would.
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut config = WorkerConfig::new(["book"]);
        config.options.concurrency = 8;
        config.options.until_done = true;
        let (handler, store) = transactional(Booking, store.clone());
        workers.push(RunningWorker::on_store(store, handler, config)?);
    }
    for worker in workers {
        worker.left().await?;
    }

    let cents: i64 = sqlx::query_scalar("select cents from booking.accounts").fetch_one(&mut conn).await?;
    println!("the account has {cents} cents");
    assert_eq!(cents, 5050, "each payment is booked once");
    sqlx::raw_sql(CLEAR).execute(&mut conn).await?;
    Ok(())
}
