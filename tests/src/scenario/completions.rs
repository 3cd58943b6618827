//! Completion calls (S7) of many batches, with the workers that make them killed in the midst of calls.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::{AnyStore, OpenMode};
use fencepost_core::random::Stream;

use super::STUCK;
use crate::place::{Place, StoreKind};
use crate::process::{Process, fencepost, until};

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Completions {
    /// How many batches, of a row each.
    pub batches: usize,
    /// Worker processes, which run the rows and make the calls.
    pub workers: usize,
    /// How many workers are killed, each while it holds a call.
    pub kills: usize,
    /// How long the command of a call takes.
    pub call: Duration,
    /// Chooses how long after a call was claimed its worker is killed.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// How many workers were killed.
    pub kills: usize,
    /// How many calls were made.
    pub calls: usize,
    /// How many ends were told more than once.
    pub repeated: usize,
}

/// Whoever sets a call's record to delivered is counted, for good or ill.
const COUNT_ON_SQLITE: &str = "\
create table deliveries (batch integer, generation integer);
create trigger delivered after update on completions when new.delivered_at is not old.delivered_at
begin insert into deliveries values (new.batch, new.generation); end";

const COUNT_ON_POSTGRES: &str = "\
create table deliveries (batch bigint, generation bigint);
create function note_delivery() returns trigger language plpgsql as
$$ begin insert into deliveries values (new.batch, new.generation); return null; end $$;
create trigger delivered after update on completions for each row
when (new.delivered_at is distinct from old.delivered_at) execute function note_delivery()";

/// A worker that holds a call now, by its process.
const CALLING: &str = "\
select coalesce(max(l.pid), 0) from completions c join leases l on l.lease = c.lease where l.state = 'live'";

const DELIVERED: &str = "select count(*) from completions where delivered_at is not null";

/// Submits, works, calls and kills, and checks that each end was told, and recorded as delivered once.
pub fn run(on: StoreKind, sizes: Completions) -> Outcome {
    let place = Place::new(on);
    let store = place.open(OpenMode::Create);
    let batches: Vec<String> = (0..sizes.batches).map(|_| submit(&place, &store)).collect();
    place.execute(place.dialect(COUNT_ON_SQLITE, COUNT_ON_POSTGRES));
    let began = Instant::now();
    let mut workers: Vec<Process> = (0..sizes.workers).map(|_| start(&place, sizes.call)).collect();
    let mut random = Stream::new(sizes.seed);
    let mut killed = 0;
    let wanted = i64::try_from(sizes.batches).expect("a count");
    until("every call is delivered", STUCK, || {
        if killed < sizes.kills {
            let pid = u32::try_from(place.number(CALLING)).expect("a pid");
            if let Some(worker) = workers.iter_mut().find(|worker| worker.pid() == pid) {
                // Somewhere around the call: before its command, within, after it, or while it is recorded.
                let whole = sizes.call.as_micros() as u64 * 2;
                std::thread::sleep(Duration::from_micros(random.next_u64() % whole.max(1)));
                worker.kill();
                *worker = start(&place, sizes.call);
                killed += 1;
            }
        }
        (place.number(DELIVERED) == wanted).then_some(())
    });
    let took = began.elapsed();
    assert_eq!(killed, sizes.kills, "all was delivered before all kills were done: let calls take longer");
    drop(workers);
    check(&place, &batches, took, killed)
}

fn check(place: &Place, batches: &[String], took: Duration, kills: usize) -> Outcome {
    let wanted = i64::try_from(batches.len()).expect("a count");
    assert_eq!(place.number("select count(*) from completions"), wanted, "one record per end");
    assert_eq!(place.number("select count(*) from completions where lease is not null"), 0, "nobody holds any");
    assert_eq!(place.number("select count(*) from deliveries"), wanted, "each was recorded as delivered once");
    let distinct = "select count(*) from (select distinct batch, generation from deliveries) d";
    assert_eq!(place.number(distinct), wanted, "and none twice");
    let told = std::fs::read_to_string(place.file("told")).expect("the commands write there");
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    for line in told.lines() {
        *calls.entry(line).or_default() += 1;
    }
    for batch in batches {
        assert!(calls.contains_key(format!("{batch}:1").as_str()), "batch {batch} was told to nobody");
    }
    assert_eq!(calls.len(), batches.len(), "and nobody was told of anything else");
    let repeated = calls.values().filter(|count| **count > 1).count();
    Outcome { took, kills, calls: calls.values().sum(), repeated }
}

fn submit(place: &Place, store: &AnyStore) -> String {
    let loading = load::values(store, BatchSpec::new("default"), None, 1..=1);
    place.block_on(loading).expect("it is submitted").batch.to_string()
}

fn start(place: &Place, call: Duration) -> Process {
    let told = place.file("told");
    let script = format!("sleep {:.3}; echo \"$IDEMPOTENCY_KEY\" >> {}", call.as_secs_f64(), told.display());
    let mut command = fencepost();
    command.args(["worker", "--store", place.store(), "--quiet", "--sleep", "0s"]);
    command.arg(format!("--on-done=sh -c '{script}'")).stdin(Stdio::null());
    Process::start(command)
}
