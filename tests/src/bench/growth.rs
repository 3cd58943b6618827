//! Part (f): the same rate with many rows in the table, during and after vacuum, and with an old snapshot held open elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fencepost_core::BatchId;
use sqlx::{Connection, PgConnection};

use super::drain::{self, OP, per_second};
use super::figures::Figures;
use super::ground::{Ground, Site};
use super::processes;
use super::sizes::Sizes;
use super::verified;
use crate::place::StoreKind;
use crate::postgres::own;

const PART: &str = "Growth";

/// Measures it on Postgres, with one worker.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    let [small, _, _] = sizes.growth;
    let first = name(small);
    for _ in 0..sizes.repeats.min(3) {
        let site = ground.store(StoreKind::Postgres);
        for rows in sizes.growth {
            // Small batches by several, or their rate would be that of a moment.
            let rate = batches(ground, &site, rows, (300_000 / rows).max(1));
            figures.sample(PART, &name(rows), "rows/s", rate);
            figures.compare(PART, &name(rows), &first);
            tell(&format!("  {}: {rate:.0} rows/s", name(rows)));
        }
        let there: u64 = sizes.growth.iter().sum();
        let again = |figures: &mut Figures, tell: &mut dyn FnMut(&str), what: &str| {
            let rate = batches(ground, &site, small, (300_000 / small).max(1));
            let name = format!("{} rows, {there} in the table, {what}", small);
            figures.sample(PART, &name, "rows/s", rate);
            figures.compare(PART, &name, &first);
            tell(&format!("  {name}: {rate:.0} rows/s"));
        };
        let vacuum = Vacuum::start(&site);
        again(figures, tell, "a vacuum at work");
        vacuum.over();
        again(figures, tell, "after a vacuum");
        let held = ground.block_on(snapshot(&site));
        let rate = batches(ground, &site, sizes.growth[1], 1);
        let held_name = format!("batch of {}, an old snapshot held open", sizes.growth[1]);
        figures.sample(PART, &held_name, "rows/s", rate);
        figures.compare(PART, &held_name, &name(sizes.growth[1]));
        tell(&format!("  {held_name}: {rate:.0} rows/s"));
        drop(held);
    }
}

fn name(rows: u64) -> String {
    format!("batch of {rows}")
}

/// The rate of so many batches of this size, one after the other, by one worker.
fn batches(ground: &Ground, site: &Site, rows: u64, times: u64) -> f64 {
    let workers = processes::start(ground, site, OP, 1, drain::CONCURRENCY, &[]);
    let mut took = Duration::ZERO;
    let mut done: Vec<BatchId> = Vec::new();
    for _ in 0..times {
        let batch = ground.block_on(site.load_and_settle(OP, rows));
        took += drain::released(ground, site, batch, rows);
        done.push(batch);
    }
    for worker in workers {
        worker.leave();
    }
    for batch in done {
        verified::verify(site.url(), batch, rows, None);
    }
    per_second(rows * times, took)
}

/// Vacuums of the largest tables, over and over.
struct Vacuum {
    over: Arc<AtomicBool>,
    at_work: std::thread::JoinHandle<()>,
}

impl Vacuum {
    fn start(site: &Site) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, name) = (Arc::clone(&over), site.schema().expect("on a server").name().to_owned());
        let at_work = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut conn = PgConnection::connect(own().url()).await.expect("the server answers");
                // As autovacuum does it: with its pauses, and no index passed by.
                sqlx::raw_sql("set vacuum_cost_delay = 2").execute(&mut conn).await.expect("a setting");
                while !stop.load(Ordering::SeqCst) {
                    let sql = format!(
                        "vacuum (disable_page_skipping, index_cleanup on, analyze) \"{name}\".rows, \"{name}\".outcomes"
                    );
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.expect("a vacuum");
                }
            });
        });
        Self { over, at_work }
    }

    fn over(self) {
        self.over.store(true, Ordering::SeqCst);
        self.at_work.join().expect("a vacuum");
    }
}

/// A transaction that keeps what it saw, as a dump does.
async fn snapshot(site: &Site) -> PgConnection {
    let mut conn = site.schema().expect("on a server").connect().await;
    sqlx::raw_sql("begin isolation level repeatable read; select count(*) from spans")
        .execute(&mut conn)
        .await
        .expect("a snapshot");
    conn
}
