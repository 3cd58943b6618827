//! The Redis servers of the tests behave as the tests that use them take for granted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fencepost_tests::process::until;
use fencepost_tests::redis::cluster::Cluster;
use fencepost_tests::redis::sentinel::Sentinels;
use fencepost_tests::redis::{Keeps, Server};

#[test]
fn what_a_server_kept_is_there_again_and_nothing_else() {
    for (keeps, stopped, killed) in
        [(Keeps::Nothing, "", ""), (Keeps::Snapshot, "one", "one"), (Keeps::EveryWrite, "one", "two")]
    {
        let mut server = Server::start(keeps);
        server.ask(&["SET", "k", "one"]);
        server.stop();
        server.start_again();
        assert_eq!(server.ask(&["GET", "k"]), stopped, "{keeps:?}");
        server.ask(&["SET", "k", "two"]);
        server.kill();
        server.start_again();
        assert_eq!(server.ask(&["GET", "k"]), killed, "{keeps:?}");
    }
}

#[test]
fn a_server_freezes_lags_refuses_and_evicts() {
    let server = Server::start(Keeps::Nothing);
    server.freeze();
    // Connected, and no answer: it is the kernel that accepts.
    let mut frozen = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    frozen.write_all(b"PING\r\n").unwrap();
    frozen.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut answer = [0; 7];
    assert!(frozen.read_exact(&mut answer).is_err());
    server.thaw();
    frozen.set_read_timeout(None).unwrap();
    frozen.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    let began = Instant::now();
    server.lag(Duration::from_millis(300));
    server.ask(&["PING"]);
    assert!(began.elapsed() >= Duration::from_millis(300));
    server.ask(&["SET", "k", "one"]);
    server.refuse_writes();
    assert!(server.try_ask(&["SET", "k", "two"]).unwrap_err().contains("OOM"));
    assert_eq!(server.ask(&["GET", "k"]), "one");
    server.evict_when_full();
    until("it is evicted", Duration::from_secs(30), || {
        server.crowd();
        server.ask(&["GET", "k"]).is_empty().then_some(())
    });
}

#[test]
fn tls_is_spoken_with_a_certificate_of_its_own_authority() {
    let server = Server::start_tls();
    assert!(server.url().starts_with("rediss://"));
    assert_eq!(server.ask(&["PING"]), "PONG");
}

#[test]
fn sentinels_fail_over_to_the_replica() {
    let mut sentinels = Sentinels::start();
    sentinels.first().ask(&["SET", "k", "one"]);
    until("the replica has it", Duration::from_secs(30), || {
        (sentinels.second().ask(&["GET", "k"]) == "one").then_some(())
    });
    sentinels.fail_over();
    assert_eq!(sentinels.second().ask(&["SET", "k", "two"]), "OK");
}

#[test]
fn a_cluster_is_whole() {
    let cluster = Cluster::start();
    let said: Vec<_> = cluster.nodes().iter().map(|node| node.try_ask(&["SET", "k", "one"])).collect();
    assert_eq!(said.iter().filter(|said| said.is_ok()).count(), 1, "{said:?}");
    assert!(said.iter().any(|said| said.as_ref().is_err_and(|error| error.contains("MOVED"))), "{said:?}");
}
