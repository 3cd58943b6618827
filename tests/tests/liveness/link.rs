//! The connection to a Redis that is absent, frozen, restarted or cut: nobody waits long, troubles are told once, and it is
//! not stormed.

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fencepost::driver::{Liveness, Observer, Report};
use fencepost::liveness::RedisLiveness;
use fencepost_core::LeaseId;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_tests::redis::{Keeps, Server};

const TTL: Duration = Duration::from_secs(4);
/// An eighth of the ttl.
const BOUND: Duration = Duration::from_millis(500);
/// What a busy machine may add to a bound.
const SLACK: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(30);

struct Witness {
    liveness: RedisLiveness,
    told: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn of(url: &str) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = told.clone();
        let observer: Observer = Arc::new(move |report| {
            sink.lock().unwrap().push(match report {
                Report::LivenessTrouble(error) => format!("trouble: {error}"),
                Report::LivenessBack => "back".to_owned(),
                other => panic!("{other:?}"),
            });
        });
        let liveness = RedisLiveness::new(url.parse().expect("a URL"), "store").expect("no file is read");
        Self { liveness: liveness.for_worker(TTL, observer), told }
    }

    /// A beat, which must not take longer than the bound.
    async fn beat(&self) -> Option<LivenessReply> {
        let request =
            LivenessRequest::Beat { lease: LeaseId::from_random(1), worker: "w".into(), ttl: TTL, running: Vec::new() };
        let asked = Instant::now();
        let reply = self.liveness.call(request).await;
        let took = asked.elapsed();
        assert!(took < BOUND + SLACK, "a beat took {took:?}");
        reply
    }

    async fn answers(&self) {
        let asked = Instant::now();
        while self.beat().await.is_none() {
            assert!(asked.elapsed() < PATIENCE, "it does not connect again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What was told since the last time.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_later_is_connected_to() {
    let mut server = Server::start(Keeps::Nothing);
    server.stop();
    let witness = Witness::of(&server.url());
    assert_eq!(witness.beat().await, None);
    let told = witness.told();
    assert!(matches!(&told[..], [one] if one.contains("refused")), "{told:?}");
    server.start_again();
    witness.answers().await;
    assert_eq!(witness.told(), ["back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_beat_waits_for_the_connection_and_the_keeper_has_its_own() {
    let server = Server::start(Keeps::Nothing);
    let connected = |server: &Server| server.info("connected_clients").parse::<usize>().expect("a number");
    let before = connected(&server);
    let witness = Witness::of(&server.url());
    assert_eq!(witness.beat().await, Some(LivenessReply::Done));
    assert_eq!(connected(&server), before + 1);
    let keeper = witness.liveness.for_renewals();
    let leave = LivenessRequest::Leave { lease: LeaseId::from_random(1) };
    assert_eq!(keeper.call(leave).await, Some(LivenessReply::Done));
    assert_eq!(connected(&server), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_holds_nobody_up() {
    let server = Server::start(Keeps::Nothing);
    let witness = Witness::of(&server.url());
    witness.answers().await;
    server.freeze();
    // The first waits for its answer, the others do not even do that.
    assert_eq!(witness.beat().await, None);
    let asked = Instant::now();
    for _ in 0..100 {
        assert_eq!(witness.beat().await, None);
    }
    assert!(asked.elapsed() < BOUND, "a hundred took {:?}", asked.elapsed());
    let told = witness.told();
    assert!(matches!(&told[..], [one] if one.contains("no answer within 500ms")), "{told:?}");
    server.thaw();
    witness.answers().await;
    assert_eq!(witness.told(), ["back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_gone_is_made_anew_by_the_request_that_finds_out() {
    let mut server = Server::start(Keeps::Nothing);
    let witness = Witness::of(&server.url());
    witness.answers().await;
    // All but the one that asks.
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(witness.beat().await, Some(LivenessReply::Done));
    server.kill();
    server.start_again();
    assert_eq!(witness.beat().await, Some(LivenessReply::Done));
    assert_eq!(witness.told(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_is_told_once_and_keeps_its_connection() {
    let server = Server::start(Keeps::Nothing);
    let witness = Witness::of(&server.url());
    witness.answers().await;
    let connections = || server.info("total_connections_received").parse::<usize>().expect("a number");
    let before = connections();
    server.refuse_writes();
    for _ in 0..10 {
        assert_eq!(witness.beat().await, None);
    }
    let told = witness.told();
    assert!(matches!(&told[..], [one] if one.contains("OOM") || one.contains("maxmemory")), "{told:?}");
    // Two are of `redis-cli`.
    assert_eq!(connections(), before + 2);
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(witness.beat().await, Some(LivenessReply::Done));
    assert_eq!(witness.told(), ["back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_not_stormed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            // It hears something and hangs up.
            let _ = connection.and_then(|mut stream| stream.read(&mut [0; 64]));
        }
    });
    let witness = Witness::of(&url);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(witness.beat().await, None);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // 0.1 s, 0.2, 0.4, 0.8, 1.6, each at least by half.
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((3..=7).contains(&attempts), "{attempts} attempts in 3 s");
    assert_eq!(witness.told().len(), 1);
}
