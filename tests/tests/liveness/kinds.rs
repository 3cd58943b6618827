//! Each way to reach a Redis, asked everything once.

use std::time::{Duration, Instant};

use fencepost::liveness::RedisLiveness;
use fencepost::liveness::redis::scripts::Answer;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::{BatchId, LeaseId, LineSet};
use fencepost_tests::redis::cluster::Cluster;
use fencepost_tests::redis::sentinel::Sentinels;
use fencepost_tests::redis::{Server, shared};

const PATIENCE: Duration = Duration::from_secs(60);

fn liveness(url: &str) -> RedisLiveness {
    liveness_of(url, "store")
}

fn liveness_of(url: &str, store_id: &str) -> RedisLiveness {
    RedisLiveness::new(url.parse().expect("a URL"), store_id).expect("its files can be read")
}

async fn ask(redis: &RedisLiveness, request: &LivenessRequest) -> LivenessReply {
    let asked = Instant::now();
    loop {
        match redis.ask(request).await {
            Ok(Answer { reply, .. }) => return reply,
            Err(error) => assert!(asked.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn beat(redis: &RedisLiveness) {
    let (lease, ttl) = (LeaseId::from_random(1), Duration::from_secs(60));
    let running = vec![(BatchId::from_random(1), LineSet::range(1, 3))];
    let beat = LivenessRequest::Beat { lease, worker: "w".into(), ttl, running };
    assert_eq!(ask(redis, &beat).await, LivenessReply::Done);
}

fn heartbeats(server: &Server) -> usize {
    server.ask(&["KEYS", "fencepost:*:heartbeat:*"]).lines().filter(|key| !key.is_empty()).count()
}

async fn everything(redis: &RedisLiveness) {
    beat(redis).await;
    let [one, two] = [1, 2].map(LeaseId::from_random);
    let running = vec![(BatchId::from_random(1), LineSet::single(2))];
    let publish = LivenessRequest::Publish { lease: one, running: running.clone() };
    assert_eq!(ask(redis, &publish).await, LivenessReply::Done);
    let check = LivenessRequest::Check { leases: vec![two, one], ttl_max: Duration::from_secs(3_600) };
    assert_eq!(ask(redis, &check).await, LivenessReply::Check { vouches: false, alive: vec![one] });
    let view = redis.view(&[one, two]).await.expect("it answered just now");
    assert!(view.evidence.master && view.evidence.data_age.is_some(), "{view:?}");
    assert_eq!((&view.workers[0].running, view.workers[1].heartbeat), (&running, None));
    assert_eq!(ask(redis, &LivenessRequest::Leave { lease: one }).await, LivenessReply::Done);
    assert_eq!(redis.view(&[one]).await.expect("it answered just now").workers[0].heartbeat, None);
}

/// On the server that was named, if one was: stores with other ids than this one's are none of its business.
#[tokio::test(flavor = "multi_thread")]
async fn one_server_for_several_stores() {
    let stores = [(); 2].map(|()| liveness_of(shared(), &LeaseId::from_random(rand::random()).to_string()));
    let [one, other] = &stores;
    beat(other).await;
    everything(one).await;
    let kept = other.view(&[LeaseId::from_random(1)]).await.expect("it answered just now");
    assert!(kept.workers[0].heartbeat.is_some(), "{kept:?}");
    assert_eq!(ask(other, &LivenessRequest::Leave { lease: LeaseId::from_random(1) }).await, LivenessReply::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_tls_by_the_named_authority_alone() {
    let server = Server::start_tls();
    let unnamed = format!("rediss://localhost:{}", server.port());
    everything(&liveness(&format!("{unnamed}?ca={}", server.authority().display()))).await;
    let beat = LivenessRequest::Leave { lease: LeaseId::from_random(1) };
    let error = liveness(&unnamed).ask(&beat).await.expect_err("nobody knows its authority").to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster() {
    let cluster = Cluster::start();
    let redis = liveness(&cluster.url());
    everything(&redis).await;
    beat(&redis).await;
    assert_eq!(cluster.with_keys(), 1, "a store's keys share a node");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_and_after_a_failover() {
    let mut sentinels = Sentinels::start();
    let redis = liveness(&sentinels.url());
    everything(&redis).await;
    assert_eq!(heartbeats(sentinels.first()), 0);
    sentinels.fail_over();
    beat(&redis).await;
    assert_eq!(heartbeats(sentinels.second()), 1);
    let view = redis.view(&[LeaseId::from_random(1)]).await.expect("it answered just now");
    assert!(view.evidence.master, "{view:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_cannot_vouch_and_takes_no_beat() {
    let sentinels = Sentinels::start();
    let redis = liveness(&sentinels.url());
    beat(&redis).await;
    let replica = liveness(&sentinels.second().url());
    let leave = LivenessRequest::Leave { lease: LeaseId::from_random(1) };
    let error = replica.ask(&leave).await.expect_err("it is read-only").to_string();
    assert!(error.to_lowercase().contains("read"), "{error}");
    // The heartbeat is in it, its data and uptime will do: only its role speaks against it.
    let check = LivenessRequest::Check { leases: vec![LeaseId::from_random(1)], ttl_max: Duration::from_millis(1) };
    let asked = Instant::now();
    let alone = loop {
        let LivenessReply::Check { vouches, alive } = ask(&replica, &check).await else { panic!("a check") };
        let view = replica.view(&[]).await.expect("it answered just now").evidence;
        assert!(!vouches, "{view:?}");
        if view.uptime_s > 2 && view.data_age.is_some() && !alive.is_empty() {
            break view;
        }
        assert!(asked.elapsed() < PATIENCE, "{view:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(!alone.master);
}
