//! How a run's faults are drawn.

use super::{Again, Away, Fault, Server, Way, WitnessLoss};
use crate::draw::Draw;
use crate::options::Options;

const PURPOSE_FAULTS: u64 = 4;

/// Draws one fault of a kind.
type Kind = fn(&mut Draw, &Options) -> Fault;

/// All kinds, weighted by how often they stand here.
const KINDS: [Kind; 21] = [
    lose_replies,
    delay,
    duplicate,
    cut_store,
    cut_store,
    pause,
    pause,
    crash,
    crash,
    crash_at,
    twin,
    stop,
    store_away,
    store_restart,
    store_clock,
    worker_clock,
    hold,
    append,
    abort,
    retry,
    purge,
];

/// The same of the second witness, where there is one.
const WITNESS_KINDS: [Kind; 3] = [cut_witness, witness_loss, witness_trouble];

/// Draws a run's faults: some kinds only (a swarm), placed where the work is.
pub fn draw_faults(seed: u64, options: &Options) -> Vec<(u64, Fault)> {
    let mut draw = Draw::new(seed, PURPOSE_FAULTS);
    let of_witness = options.liveness.then_some(WITNESS_KINDS).into_iter().flatten();
    let enabled: Vec<Kind> = KINDS.into_iter().chain(of_witness).filter(|_| draw.chance(500)).collect();
    let count = if enabled.is_empty() { 0 } else { draw.below(11) };
    let horizon = options.expected_us() + draw.pick(&[0, 0, options.ttl_us, options.ttl_us * 3]);
    let near_work = draw.chance(NEAR_WORK_PER_MILLE);
    let one = |draw: &mut Draw| {
        let kind = draw.pick(&enabled);
        let at = if near_work { soon_after_a_submit(draw, options) } else { draw.below(horizon) };
        let fault = kind(draw, options);
        // What is done to ended batches comes when there are some.
        let later = if fault.is_for_ended_batches() { draw.below(horizon * 2) } else { 0 };
        (at + later, fault)
    };
    let mut faults: Vec<(u64, Fault)> = (0..count).map(|_| one(&mut draw)).collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// In so many schedules out of a thousand faults come soon after a batch is there, rather than anywhere in the time that the work
/// might take.
const NEAR_WORK_PER_MILLE: u64 = 500;

/// While the first half of the rows is claimed and run.
fn soon_after_a_submit(draw: &mut Draw, options: &Options) -> u64 {
    let submit_at_us = options.batches[draw.below(options.batches.len() as u64) as usize].submit_at_us;
    let last = options.batches.iter().map(|batch| batch.submit_at_us).max().unwrap_or(0);
    let work = options.expected_us() - last;
    submit_at_us + draw.below((work / 2).max(options.run_us_max))
}

fn worker(draw: &mut Draw, options: &Options) -> u8 {
    draw.below(options.places()) as u8
}

fn batch(draw: &mut Draw, options: &Options) -> u8 {
    draw.below(options.batches.len() as u64) as u8
}

fn count(draw: &mut Draw) -> u8 {
    draw.pick(&[1, 1, 2, 3, 8])
}

fn way(draw: &mut Draw) -> Way {
    draw.pick(&[Way::Both, Way::Requests, Way::Replies])
}

/// Mostly the store: there is more to break.
fn server(draw: &mut Draw, options: &Options) -> Server {
    if options.liveness && draw.chance(200) { Server::SecondWitness } else { Server::Store }
}

/// Outages straddle the ttl on purpose.
pub(crate) fn draw_outage(draw: &mut Draw, ttl_us: u64) -> u64 {
    match draw.below(4) {
        0 => draw.between(1, ttl_us / 4),
        1 => draw.between(ttl_us / 2, ttl_us),
        2 => draw.between(ttl_us - ttl_us / 8, ttl_us * 2),
        _ => draw.between(ttl_us * 2, ttl_us * 5),
    }
}

fn outage(draw: &mut Draw, options: &Options) -> u64 {
    draw_outage(draw, options.ttl_us)
}

fn restart(draw: &mut Draw, options: &Options) -> Option<u64> {
    match draw.below(10) {
        0..3 => None,
        3 => Some(0),
        _ => Some(outage(draw, options)),
    }
}

fn jump(draw: &mut Draw, options: &Options) -> i64 {
    draw_jump(draw, options.ttl_us)
}

/// A step of a clock, either way.
pub(crate) fn draw_jump(draw: &mut Draw, ttl_us: u64) -> i64 {
    // After a large one backoffs take minutes, which with a short ttl is a hundred thousand events of waiting.
    let large = if ttl_us < 5_000_000 { ttl_us * 10 } else { 7_200_000_000 };
    let size = draw.pick(&[ttl_us / 3, ttl_us, ttl_us * 3, large]);
    let by = i64::try_from(draw.between(size / 2, size)).unwrap_or(1);
    if draw.chance(500) { by } else { -by }
}

/// Rates within what the margins cover, and now and then one far beyond.
fn rate(draw: &mut Draw) -> u32 {
    draw.pick(&[900_000, 950_000, 1_000_000, 1_050_000, 1_100_000, 1_100_000, 500_000, 2_000_000])
}

fn lose_replies(draw: &mut Draw, options: &Options) -> Fault {
    Fault::LoseReplies { worker: worker(draw, options), server: server(draw, options), count: count(draw) }
}

fn delay(draw: &mut Draw, options: &Options) -> Fault {
    let (worker, server) = (worker(draw, options), server(draw, options));
    Fault::Delay { worker, server, count: count(draw), by_us: outage(draw, options) }
}

fn duplicate(draw: &mut Draw, options: &Options) -> Fault {
    let (worker, server) = (worker(draw, options), server(draw, options));
    Fault::Duplicate { worker, server, count: count(draw), after_us: outage(draw, options) }
}

fn cut_store(draw: &mut Draw, options: &Options) -> Fault {
    let (worker, way) = (worker(draw, options), way(draw));
    Fault::CutStore { worker, way, loud: draw.chance(400), for_us: outage(draw, options) }
}

fn cut_witness(draw: &mut Draw, options: &Options) -> Fault {
    Fault::CutWitness { worker: worker(draw, options), way: way(draw), for_us: outage(draw, options) }
}

fn pause(draw: &mut Draw, options: &Options) -> Fault {
    Fault::Pause { worker: worker(draw, options), for_us: outage(draw, options) }
}

fn crash(draw: &mut Draw, options: &Options) -> Fault {
    let worker = worker(draw, options);
    let restart_after_us = restart(draw, options);
    Fault::Crash { worker, restart_after_us, reported: options.supervised && draw.chance(700) }
}

fn crash_at(draw: &mut Draw, options: &Options) -> Fault {
    let effects = draw.log_between(1, 64) as u16 - 1;
    Fault::CrashAt { worker: worker(draw, options), effects, restart_after_us: restart(draw, options) }
}

fn twin(draw: &mut Draw, options: &Options) -> Fault {
    Fault::Twin { worker: worker(draw, options) }
}

fn stop(draw: &mut Draw, options: &Options) -> Fault {
    Fault::Stop { worker: worker(draw, options), restart_after_us: restart(draw, options) }
}

fn store_away(draw: &mut Draw, options: &Options) -> Fault {
    Fault::StoreAway { how: draw.pick(&[Away::Refuses, Away::Stalls]), for_us: outage(draw, options) }
}

fn store_restart(draw: &mut Draw, options: &Options) -> Fault {
    Fault::StoreRestart { for_us: outage(draw, options) }
}

fn store_clock(draw: &mut Draw, options: &Options) -> Fault {
    if draw.chance(300) {
        return Fault::StoreClockRate { millionths: draw.pick(&[900_000, 1_000_000, 1_100_000]) };
    }
    Fault::StoreClockJump { by_us: jump(draw, options) }
}

fn worker_clock(draw: &mut Draw, options: &Options) -> Fault {
    Fault::ClockRate { worker: worker(draw, options), millionths: rate(draw) }
}

fn witness_loss(draw: &mut Draw, options: &Options) -> Fault {
    match draw.below(6) {
        0 => Fault::Evict { worker: worker(draw, options) },
        1 => Fault::Failover { behind_us: outage(draw, options) },
        2 => {
            let every_us = draw.pick(&[options.ttl_us / 8, options.ttl_us / 2, options.ttl_us]).max(1);
            Fault::WitnessLoop { times: draw.pick(&[2, 4, 8]), every_us, keeps_data: draw.chance(500) }
        }
        _ => {
            let losses = [WitnessLoss::Flush, WitnessLoss::RestartEmpty, WitnessLoss::RestartWithData];
            Fault::Witness(draw.pick(&losses))
        }
    }
}

fn witness_trouble(draw: &mut Draw, options: &Options) -> Fault {
    if draw.chance(400) {
        return Fault::WitnessClockJump { by_us: jump(draw, options) };
    }
    Fault::WitnessAway { how: draw.pick(&[Away::Refuses, Away::Stalls]), for_us: outage(draw, options) }
}

fn hold(draw: &mut Draw, options: &Options) -> Fault {
    Fault::Hold { batch: batch(draw, options), for_us: outage(draw, options) }
}

fn append(draw: &mut Draw, options: &Options) -> Fault {
    let (batch, rows) = (batch(draw, options), draw.pick(&[1, 2, 10]));
    if draw.chance(200) {
        return Fault::AppendCutOff { batch, rows };
    }
    let for_us = outage(draw, options);
    Fault::Append { batch, rows, for_us: draw.pick(&[1, for_us / 4, for_us]).max(1) }
}

fn abort(draw: &mut Draw, options: &Options) -> Fault {
    Fault::Abort { batch: batch(draw, options) }
}

fn retry(draw: &mut Draw, options: &Options) -> Fault {
    let batch = batch(draw, options);
    let rows = if draw.chance(500) { Again::Failed } else { Again::Line(draw.below(60) as u8) };
    Fault::Retry { batch, rows }
}

fn purge(draw: &mut Draw, options: &Options) -> Fault {
    Fault::Purge { batch: batch(draw, options) }
}
