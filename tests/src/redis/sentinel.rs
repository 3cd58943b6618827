//! A primary, its replica, and three sentinels that agree on which of them is the primary.

use std::time::Duration;

use super::{Keeps, PATIENCE, Server};
use crate::process::until;

/// What the sentinels call the primary.
pub const NAME: &str = "witness";

/// Two servers and three sentinels.
#[derive(Debug)]
pub struct Sentinels {
    first: Server,
    second: Server,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts them, and waits until all know each other.
    pub fn start() -> Self {
        let first = Server::start(Keeps::Nothing);
        let replica = format!("{}replicaof 127.0.0.1 {}\n", Keeps::Nothing.settings(), first.port());
        let second = Server::start_with(&replica, &[], false);
        until("the replica is in step", PATIENCE, || (second.info("master_link_status") == "up").then_some(()));
        let watch = format!(
            "sentinel monitor {NAME} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {NAME} 500\n\
             sentinel failover-timeout {NAME} 3000\n",
            first.port()
        );
        let sentinels: Vec<Server> = (0..3).map(|_| Server::start_with(&watch, &["--sentinel"], false)).collect();
        let all = Self { first, second, sentinels };
        for sentinel in &all.sentinels {
            until("the sentinels know each other", PATIENCE, || {
                let master = sentinel.ask(&["SENTINEL", "MASTER", NAME]);
                let fields: Vec<&str> = master.lines().map(str::trim).collect();
                let is = |name: &str, value: &str| fields.chunks(2).any(|pair| pair == [name, value]);
                (is("num-other-sentinels", "2") && is("num-slaves", "1")).then_some(())
            });
        }
        all
    }

    /// Its URL, as fencepost takes it: the sentinels, and the primary's name.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        format!("redis://{}?sentinel={NAME}", hosts.join(","))
    }

    /// The primary of the beginning.
    pub fn first(&self) -> &Server {
        &self.first
    }

    /// Its replica.
    pub fn second(&self) -> &Server {
        &self.second
    }

    /// Kills the primary, and waits until its replica has taken over; tells how long that took.
    pub fn fail_over(&mut self) -> Duration {
        let began = std::time::Instant::now();
        self.first.kill();
        until("the replica is the primary", PATIENCE, || {
            (self.second.info_if_any("role").is_ok_and(|role| role == "master")).then_some(())
        });
        let port = self.second.port().to_string();
        for sentinel in &self.sentinels {
            until("the sentinels say so", PATIENCE, || {
                let primary = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
                primary.lines().any(|line| line == port).then_some(())
            });
        }
        began.elapsed()
    }
}
