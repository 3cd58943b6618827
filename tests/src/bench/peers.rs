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

/// Those of these folders, in the order of [`all`]; none named is all.
pub fn named(folders: &[String]) -> Result<Vec<Peer>, String> {
    let known = |folder: &String| ALL.iter().any(|peer| peer.folder == folder);
    if let Some(unknown) = folders.iter().find(|folder| !known(folder)) {
        let all: Vec<&str> = ALL.iter().map(|peer| peer.folder).collect();
        return Err(format!("there is no peer {unknown}: name some of {}", all.join(", ")));
    }
    let wanted = |peer: &Peer| folders.is_empty() || folders.iter().any(|folder| peer.folder == folder);
    Ok(ALL.into_iter().filter(wanted).collect())
}

/// How peers are measured.
#[derive(Debug, Clone, Copy)]
pub struct Measure<'a> {
    /// The server, as a user who may make databases.
    pub server: &'a str,
    /// Where peers are installed; kept between runs.
    pub folder: &'a Path,
    /// How many jobs a run has.
    pub jobs: u64,
    /// How many runs each peer has.
    pub times: usize,
    /// About how long the JSON of a job's payload is.
    pub payload_bytes: usize,
}

/// What was measured of a peer.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Which.
    pub peer: Peer,
    /// Its runs, or why there are none.
    pub runs: Result<Vec<PeerRun>, String>,
}

impl Measured {
    /// The run in the middle by its time; of an even number the slower of the two.
    pub fn median(&self) -> Option<&PeerRun> {
        let mut runs: Vec<&PeerRun> = self.runs.iter().flatten().collect();
        runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        runs.get(runs.len() / 2).copied()
    }
}

/// Installs these and runs them in turn, so that what slows the machine for a while slows all of them; `say` hears what
/// happens. What fails of one does not keep the others from being measured.
pub fn measure(measure: &Measure<'_>, peers: &[Peer], mut say: impl FnMut(&str)) -> Vec<Measured> {
    let mut all = Vec::new();
    for &peer in peers {
        say(&format!("installing {} ({})", peer.name, peer.language));
        all.push((peer, peer.install(measure.folder), Vec::new()));
    }
    for time in 1..=measure.times {
        for (peer, installed, runs) in &mut all {
            let Ok(ready) = installed else { continue };
            say(&format!("{}: run {time} of {}", peer.name, measure.times));
            match ready.run(measure.server, measure.jobs, measure.payload_bytes) {
                Ok(run) => runs.push(run),
                Err(why) => *installed = Err(why),
            }
        }
    }
    all.into_iter().map(|(peer, installed, runs)| Measured { peer, runs: installed.map(|_| runs) }).collect()
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

    #[test]
    fn peers_are_named_by_their_folders() {
        let folders = |peers: Vec<Peer>| peers.iter().map(|peer| peer.folder).collect::<Vec<_>>();
        assert_eq!(named(&[]).unwrap(), all());
        assert_eq!(folders(named(&["river".into(), "awa".into()]).unwrap()), ["awa", "river"]);
        let why = named(&["awa".into(), "alya".into()]).unwrap_err();
        assert!(why.contains("no peer alya") && why.contains("pg-boss"), "{why}");
    }

    #[test]
    fn the_median_is_the_run_in_the_middle() {
        let run = |seconds| PeerRun { seconds, ..program::right(10) };
        let measured = |runs| Measured { peer: ALL[0], runs };
        assert_eq!(measured(Ok(vec![run(3.0), run(1.0), run(2.0)])).median().unwrap().seconds, 2.0);
        assert_eq!(measured(Ok(vec![run(1.0), run(2.0)])).median().unwrap().seconds, 2.0);
        assert!(measured(Err("none".into())).median().is_none());
    }
}
