//! A handler whose effects are rows of the same database, exactly once: `run` does the work, `apply` writes.
//!
//! `cargo run --release -p fencepost --example transactional`

use fencepost::handler::transactional::{TransactionalHandler, transactional};
use fencepost::handler::typed::{Context, RowError};
use fencepost::load;
use fencepost::sqlx::{self, Connection, Sqlite, SqliteConnection};
use fencepost::store::OpenMode;
use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::SqliteStore;
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
    type Database = Sqlite;
    type Input = Payment;
    type Value = Payment;
    type Output = ();

    /// What takes time: look things up, ask other systems. It may be repeated.
    async fn run(&self, _: Context, payment: Payment) -> Result<Payment, RowError> {
        Ok(payment)
    }

    /// The effect: committed with the row's outcome, or not at all.
    async fn apply(&self, conn: &mut SqliteConnection, _: RunKey, payment: &Payment) -> Result<(), RowError> {
        sqlx::query("update accounts set cents = cents + ?2 where account = ?1")
            .bind(&payment.account)
            .bind(payment.cents)
            .execute(conn)
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::temp_dir().join(format!("fencepost-transactional-{}", std::process::id()));
    std::fs::create_dir(&place)?;
    let file = place.join("rows.db");
    let store = SqliteStore::open(&file, OpenMode::Create).await?;
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await?;
    sqlx::raw_sql(
        "create table accounts (account text primary key, cents integer); insert into accounts values ('a', 0)",
    )
    .execute(&mut conn)
    .await?;

    let payments = (1..=100).map(|cents| Payment { account: "a".to_owned(), cents });
    load::values(&store, BatchSpec::new("book"), None, payments).await?;

    let mut config = WorkerConfig::new(["book"]);
    config.options.concurrency = 8;
    config.options.until_done = true;
    let (handler, store) = transactional(Booking, store);
    RunningWorker::on_store(store, handler, config)?.left().await?;

    let cents: i64 = sqlx::query_scalar("select cents from accounts").fetch_one(&mut conn).await?;
    println!("the account has {cents} cents");
    assert_eq!(cents, 5050, "each payment is booked once");
    std::fs::remove_dir_all(place)?;
    Ok(())
}
