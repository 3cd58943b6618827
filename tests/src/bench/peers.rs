//! Peers: other queues, each a small program of its own in `tests/peers`, measured on the server that the product is measured on.
//!
//! What such a program reads and prints is in `tests/peers/README.md`. A peer that cannot be had here is told of with the reason;
//! a run with wrong counts is an error, never a figure.

use std::path::{Path, PathBuf};

mod database;
mod install;
mod program;

pub use install::Installed;
pub use program::{PeerRun, Prepared};

/// What installs a peer, and from which files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Cargo,
    Npm,
    Pip,
    Go,
}

/// Another queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its name, as its makers write it.
    pub name: &'static str,
    /// What it and its handlers are written in.
    pub language: &'static str,
    /// The folder of its program in `tests/peers`.
    pub folder: &'static str,
    client: Client,
}

const ALL: [Peer; 6] = [
    Peer { name: "graphile_worker", language: "Rust", folder: "graphile-worker-rust", client: Client::Cargo },
    Peer { name: "awa", language: "Rust", folder: "awa", client: Client::Cargo },
    Peer { name: "Graphile Worker", language: "JavaScript", folder: "graphile-worker-node", client: Client::Npm },
    Peer { name: "pg-boss", language: "JavaScript", folder: "pg-boss", client: Client::Npm },
    Peer { name: "pgqueuer", language: "Python", folder: "pgqueuer", client: Client::Pip },
    Peer { name: "River", language: "Go", folder: "river", client: Client::Go },
];

impl Peer {
    /// Where its program and the pins of its versions are.
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.folder)
    }
}

/// All that there is a program for.
pub fn all() -> Vec<Peer> {
    ALL.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_its_program_and_pinned_versions() {
        for peer in all() {
            for file in peer.client.files() {
                assert!(peer.source().join(file).is_file(), "{}: {file}", peer.name);
            }
            if peer.client == Client::Cargo {
                let package = std::fs::read_to_string(peer.source().join("Cargo.toml")).unwrap();
                assert!(package.contains("\nname = \"peer\"\n"), "{}: its program has another name", peer.name);
            }
        }
    }
}
