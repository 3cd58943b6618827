//! One run: a network of its own, on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use madsim::net::NetSim;
use madsim::runtime::{Handle, Runtime};

use super::coverage::{NetCoverage, NetMark};
use super::schedule::NetSchedule;
use super::strike::usual_latency;
use super::world::{Shared, World};
use super::{node, redis_server, store_server};
use crate::checks::Violation;
use crate::panic_text;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct NetRun {
    /// Over time and content of everything that reached a server, a handler, or a process from outside, and of what servers replied.
    pub hash: u64,
    /// What was seen.
    pub coverage: NetCoverage,
    /// What went wrong, if anything.
    pub violation: Option<Violation>,
}

/// Runs a schedule. Maps are ordered by the seed, but once per thread: so each run gets one of its own.
pub fn run(schedule: &NetSchedule) -> NetRun {
    on_a_thread(schedule, false)
}

/// Runs a schedule and prints what happens.
pub fn run_traced(schedule: &NetSchedule) -> NetRun {
    on_a_thread(schedule, true)
}

fn on_a_thread(schedule: &NetSchedule, trace: bool) -> NetRun {
    let schedule = Arc::new(schedule.clone());
    let run = move || crate::explore::catch(|| simulate(&schedule, trace));
    // A panic, in any of the simulated programs or in a model, is a violation like any other.
    match std::thread::spawn(run).join() {
        Ok(Ok(run)) => run,
        Ok(Err(panic)) | Err(panic) => {
            let violation = Violation { check: "panic", at_us: 0, what: panic_text(panic.as_ref()) };
            NetRun { hash: 0, coverage: NetCoverage::default(), violation: Some(violation) }
        }
    }
}

fn simulate(schedule: &Arc<NetSchedule>, trace: bool) -> NetRun {
    let mut config = madsim::Config::default();
    config.net.send_latency = usual_latency(schedule.options.latency_us_min, schedule.options.latency_us_max);
    let runtime = Runtime::with_seed_and_config(schedule.seed, config);
    runtime.block_on(play(schedule.clone(), trace))
}

/// Runs outside of all nodes.
async fn play(schedule: Arc<NetSchedule>, trace: bool) -> NetRun {
    let shared = Shared::new(World::new(&schedule, trace));
    begin(&shared);
    let (time, news) = {
        let world = shared.lock();
        (world.time().clone(), world.news.clone())
    };
    loop {
        let next = {
            let mut world = shared.lock();
            if world.is_over() {
                break;
            }
            let next = world.next();
            if world.now() > world.deadline {
                let open = world.what_is_open();
                world.violate("progress", open);
                break;
            }
            next
        };
        match next {
            Ok(action) => shared.lock().perform(action),
            Err(at) => {
                let ahead = at.saturating_add(1).saturating_sub(shared.lock().now()).min(FOR_EVER_US);
                tokio::select! {
                    biased;
                    () = news.notified() => {}
                    () = time.sleep(Duration::from_micros(ahead)) => {}
                }
            }
        }
    }
    end(&shared)
}

/// A run that nothing is planned for looks again so much later.
const FOR_EVER_US: u64 = 1_000_000_000;

/// Makes the nodes.
fn begin(shared: &Shared) {
    let handle = Handle::current();
    let server = |name: &str, address: &str, shared: Shared, redis: bool| {
        let ip = address.split(':').next().and_then(|ip| ip.parse().ok());
        let builder = handle.create_node().name(name);
        let builder = match ip {
            Some(ip) => builder.ip(ip),
            None => builder,
        };
        let serve = move || {
            let shared = shared.clone();
            async move { if redis { redis_server::serve(shared).await } else { store_server::serve(shared).await } }
        };
        builder.init(serve).build().id()
    };
    let store = server("store", store_server::STORE_ADDRESS, shared.clone(), false);
    let redis = server("redis", redis_server::REDIS_ADDRESS, shared.clone(), true);
    let workers = {
        let mut world = shared.lock();
        (world.store.node, world.redis.node) = (Some(store), Some(redis));
        let workers = world.workers();
        world.slots = (0..=workers).map(|_| Default::default()).collect();
        (0..workers).for_each(|slot| world.begin_process(slot));
        workers
    };
    // The last is for twins.
    for slot in 0..=workers {
        let ip = std::net::Ipv4Addr::new(10, 0, 1, slot as u8 + 1);
        let of_slot = shared.clone();
        let work = move || node::work(of_slot.clone(), slot);
        let node = handle.create_node().name(format!("w{slot}")).ip(ip.into()).init(work).build();
        shared.lock().slots[slot].node = Some(node.id());
    }
}

fn end(shared: &Shared) -> NetRun {
    let messages = NetSim::current().stat().msg_count;
    let mut world = shared.lock();
    world.coverage.add(NetMark::Messages, messages);
    let (hash, coverage, violation) = world.finish();
    NetRun { hash, coverage, violation }
}
