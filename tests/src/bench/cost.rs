//! Part (h), what a row does not show: an idle worker, Redis' share, memory whatever the sizes. The cost of a row stands with its rate.

use std::time::{Duration, Instant};

use fencepost::load;
use fencepost::store::loading::BatchSpec;
use sqlx::{Connection, PgConnection};

use super::drain::{self, OP};
use super::figures::Figures;
use super::ground::Ground;
use super::processes;
use super::sizes::Sizes;
use super::verified;
use crate::place::StoreKind;
use crate::postgres::own;
use crate::process::until;
use crate::scenario::STUCK;
use crate::scenario::redis_cost::{self, Cost};

const PART: &str = "Cost";

/// Measures it.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    // Its own transactions are in the same count.
    ground.block_on(autovacuum("off"));
    for (on, called) in [(StoreKind::Postgres, "Postgres"), (StoreKind::Sqlite, "SQLite")] {
        idle(ground, on, called, sizes, figures, tell);
    }
    ground.block_on(autovacuum("on"));
    for (on, called) in [(StoreKind::Postgres, "Postgres"), (StoreKind::Sqlite, "SQLite")] {
        for (kilobytes, rows) in sizes.heavy {
            let memory = busy_memory_mb(ground, on, kilobytes << 10, rows);
            let name = format!("memory of a busy worker, rows of {kilobytes} KiB, {called}");
            figures.sample(PART, &name, "MB", memory);
            tell(&format!("  {name}: {memory:.1} MB"));
        }
    }
    let cost =
        Cost { rows: sizes.rows, concurrency: drain::CONCURRENCY, ttl: Duration::from_secs(60), times: sizes.repeats };
    let outcome = ground.block_on(redis_cost::run(cost));
    figures.sample(PART, "rate with Redis, of the rate without", "%", outcome.percent_of_the_rate);
    figures.sample(PART, "Redis commands for a thousand rows", "commands", outcome.with.commands_per_1000_rows);
    figures.sample(PART, "Redis requests for a thousand rows", "requests", outcome.with.requests_per_1000_rows);
    tell(&format!("  {outcome:?}"));
}

/// A worker that has nothing to do, a while after it started.
fn idle(
    ground: &Ground,
    on: StoreKind,
    called: &str,
    sizes: &Sizes,
    figures: &mut Figures,
    tell: &mut dyn FnMut(&str),
) {
    let site = ground.store(on);
    let workers = processes::start(ground, &site, OP, 1, drain::CONCURRENCY, &[]);
    let worker = &workers[0];
    // What a start leaves to do is over, and in the server's counts: a session that goes idle tells its last ones ten seconds later.
    std::thread::sleep(Duration::from_secs(12));
    let queries = |ground: &Ground| if on == StoreKind::Postgres { ground.block_on(transactions()) } else { 0 };
    let (cpu, before, began) = (processes::cpu(worker.pid()), queries(ground), Instant::now());
    std::thread::sleep(Duration::from_secs(sizes.idle_seconds));
    let took = began.elapsed().as_secs_f64();
    let share = (processes::cpu(worker.pid()) - cpu).as_secs_f64() / took * 100.0;
    figures.sample(PART, &format!("CPU of an idle worker, {called}"), "% of a core", share);
    let (_, resident) = processes::memory_mb(worker.pid());
    figures.sample(PART, &format!("memory of an idle worker, {called}"), "MB", resident);
    if on == StoreKind::Postgres {
        // The question itself is one of them.
        let asked = (queries(ground) - before - 1) as f64 / took;
        figures.sample(PART, "transactions of an idle worker", "1/s", asked);
        tell(&format!("  {asked:.2} transactions a second"));
    }
    tell(&format!("  idle on {called}: {share:.2} % of a core, {resident:.1} MB"));
    for worker in workers {
        worker.leave();
    }
}

/// The most memory of a worker that may run [`drain::CONCURRENCY`] rows at once and gets large ones.
fn busy_memory_mb(ground: &Ground, on: StoreKind, bytes: usize, rows: u64) -> f64 {
    let site = ground.store(on);
    // Rows that take their time: else only a few would be there at once.
    let mut workers = processes::start(ground, &site, OP, 1, drain::CONCURRENCY, &["--run-ms", "20"]);
    let values = (0..rows).map(|_| "x".repeat(bytes));
    let loaded = ground.block_on(load::values(site.store(), BatchSpec::new(OP), None, values));
    let batch = loaded.expect("the rows are stored").batch;
    until("the batch has ended", STUCK, || ground.block_on(site.counts(batch)).batch.ended_at);
    let worker = workers.pop().expect("one was started");
    let (most, _) = processes::memory_mb(worker.pid());
    verified::verify(site.url(), batch, rows, Some(worker.leave()));
    most
}

async fn autovacuum(switch: &str) {
    let mut conn = PgConnection::connect(own().url()).await.expect("the server answers");
    for sql in [format!("alter system set autovacuum = {switch}"), "select pg_reload_conf()".to_owned()] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.expect("a setting");
    }
}

/// Transactions of this database so far, as sessions have told of them: busy ones every second, idle ones after ten.
async fn transactions() -> i64 {
    let mut conn = PgConnection::connect(own().url()).await.expect("the server answers");
    let sql =
        "select sum(xact_commit + xact_rollback)::bigint from pg_stat_database where datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(&mut conn).await.expect("the server counts")
}
