//! The model, SQLite and Postgres are given the same random requests at the same clock: every reply is equal, tokens too, and
//! so is what they hold afterwards. A run ends only when every kind of reply, verdict and outcome has occurred.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use self::run::Run;

mod operators;
mod purging;
mod run;
mod subjects;
mod views;

/// Every kind that has to occur before the test may end.
const KINDS: &[&str] = &[
    "taken",
    "ended",
    "name held",
    "renewed",
    "renewed, some closed",
    "refused",
    "refused, taken over",
    "dropped",
    "granted fresh",
    "granted given back",
    "granted split",
    "granted several",
    "granted alone",
    "granted suspects",
    "granted recovered",
    "granted tried",
    "nothing",
    "suspect waits",
    "next after",
    "no open lines",
    "closed",
    "lease ended",
    "settled some",
    "settled none",
    "success",
    "failed",
    "given back",
    "exhausted",
    "timed out",
    "recorded before",
    "fenced",
    "gave back",
    "look with not-before",
    "recovered none",
    "recovered lines",
    "recovered, row failed",
    "spared",
    "cut back",
    "withdrew",
    "batch success",
    "batch success, after failed rows were retried",
    "batch failed",
    "batch aborted",
    "batch held",
    "held before",
    "hold of an aborted batch",
    "hold of an ended batch",
    "hold of a loading batch",
    "hold of nothing there",
    "batch resumed",
    "resumed before",
    "resume of an aborted batch",
    "resume of an ended batch",
    "resume of a loading batch",
    "resume of nothing there",
    "aborted before",
    "rows of an aborted batch may still run",
    "some of them do not any more",
    "none of a span runs any more",
    "abort of a success",
    "abort of a failed batch",
    "abort of a loading batch",
    "abort of nothing there",
    "retry of nothing",
    "retry reopened",
    "retry of an open batch",
    "retry of several",
    "retry of failed with",
    "retry of a failed line",
    "retry of a success",
    "retry of a line under another token",
    "retry of an aborted batch",
    "retry of a loading batch",
    "retry of nothing there",
    "recorded before, superseded",
    "granted tried since a retry",
    "append begun",
    "append begun again",
    "append to a held batch",
    "append behind another",
    "append done before",
    "append busy",
    "append refused, no batch",
    "append refused, loading",
    "append refused, success",
    "append refused, failed",
    "append refused, aborted",
    "slice stored",
    "slice repeated",
    "slice with a gap",
    "slice taken over",
    "slice refused",
    "appended",
    "appended nothing",
    "appended, same",
    "appended, differs",
    "append taken over",
    "append refused at its end",
    "append incomplete",
    "append removed",
    "purge of an open batch",
    "purge of a loading batch",
    "purge of nothing there",
    "purge of a batch that ended since",
    "purge of what may still run",
    "purge begun",
    "purge begun before",
    "purge of staged rows",
    "purge slice",
    "purge done",
    "purge done before",
    "purged leases",
    "purge kept leases",
    "purgeable batches",
    "purgeable, begun",
    "purgeable loads",
    "purgeable appends",
    "retry of a batch that is being purged",
    "append to a batch that is being purged",
    "record of a batch that is being purged",
    "call granted",
    "call granted that was held",
    "call granted by URL",
    "call granted by command",
    "call granted again",
    "call granted of a later generation",
    "call granted of an abort",
    "call refused, lease ended",
    "no call, but one waits",
    "no call and none undelivered",
    "no call, some held",
    "call delivered",
    "call to be tried again",
    "call given back",
    "call recorded before",
    "call fenced",
    "take again",
    "take again, ended",
    "renew again",
    "drop again",
    "claim again",
    "settled again",
    "settled again, ended",
    "claim after its settling",
    "record again",
    "record again, ended",
    "give back again",
    "recover again",
];

/// A number from the environment, for longer runs: `FENCEPOST_DIFFERENTIAL_RUNS=500`.
fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn the_model_sqlite_and_postgres_answer_alike() {
    let (runs, steps) = (from_env("FENCEPOST_DIFFERENTIAL_RUNS", 6), from_env("FENCEPOST_DIFFERENTIAL_STEPS", 700));
    let first = from_env("FENCEPOST_DIFFERENTIAL_SEED", 1);
    let directory = tempfile::tempdir().unwrap();
    let mut missing: BTreeSet<&str> = KINDS.iter().copied().collect();
    let mut done = 0;
    while done < runs || !missing.is_empty() {
        assert!(done < runs + 200, "never occurred: {missing:?}");
        // Each on its own store and schema.
        let seen: Vec<_> = std::thread::scope(|scope| {
            let seeds = (0..AT_ONCE).map(|nth| first + done + nth);
            let folder = directory.path();
            let started: Vec<_> = seeds.map(|seed| scope.spawn(move || run(seed, steps, folder))).collect();
            started.into_iter().map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        done += AT_ONCE;
        missing.retain(|kind| !seen.iter().any(|seen| seen.contains(kind)));
        println!("not seen yet: {missing:?}");
    }
    println!("{done} runs of {steps} steps");
}

/// So many runs go on at the same time: they wait for their stores most of the time.
const AT_ONCE: u64 = 4;

/// One run; tells what occurred in it.
fn run(seed: u64, steps: u64, folder: &std::path::Path) -> BTreeSet<&'static str> {
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(seed, folder).await;
        for step in 0..steps {
            run.step().await;
            if step % 20 == 0 {
                run.ask_twice().await;
            }
            if step % 50 == 0 {
                run.compare().await;
            }
            if step % 350 == 349 {
                run.verify().await;
            }
        }
        run.compare().await;
        run.seen.into_iter().collect()
    })
}
