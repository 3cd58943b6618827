//! Ports for servers of tests.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that no program gets by chance: a client that connects again and again to a server that is down would meet
/// itself one day, if the port were among those given to clients. Ten thousand above it is the bus of a Redis cluster's node.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let from = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(COUNT)).expect("below the count");
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let ports = (0..COUNT).map(|_| FIRST + from.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
    ports.into_iter().find(|&port| free(port) && free(port + 10_000)).expect("a port is free")
}
