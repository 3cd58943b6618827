//! Installing a peer by its language's ordinary client.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::database::Database;
use super::program::{PeerRun, Prepared};
use super::{Client, Peer};

/// What clients make in a folder: not part of a peer's program.
const MADE: [&str; 4] = ["node_modules", "target", ".venv", "__pycache__"];

/// Which files a peer's packages were last installed from, by which version of its language.
const INSTALLED_FROM: &str = "installed-from";

/// A peer that is ready to run.
#[derive(Debug, Clone)]
pub struct Installed {
    peer: Peer,
    folder: PathBuf,
}

impl Client {
    /// The files without which it cannot install a peer in the pinned versions, and the program itself.
    pub(super) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Cargo => &["Cargo.toml", "Cargo.lock", "src/main.rs"],
            Self::Npm => &["package.json", "package-lock.json", "peer.mjs"],
            Self::Pip => &["requirements.txt", "peer.py"],
            Self::Go => &["go.mod", "go.sum", "main.go"],
        }
    }

    /// How it installs what is in a folder, step by step.
    fn steps(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Cargo => &[&["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", "target"]],
            Self::Npm => &[&["npm", "ci", "--omit=dev", "--no-audit", "--no-fund"]],
            Self::Pip => &[
                &["python3", "-m", "venv", "--clear", ".venv"],
                &[".venv/bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "-r", "requirements.txt"],
                &[".venv/bin/python", "-m", "pip", "check"],
            ],
            Self::Go => &[&["go", "build", "-o", "target/peer", "."]],
        }
    }

    /// What says which version of the language there is, where packages have to be installed anew for another; a builder sees
    /// to that itself.
    fn language(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Npm => Some(&["node", "--version"]),
            Self::Pip => Some(&["python3", "--version"]),
            Self::Cargo | Self::Go => None,
        }
    }
}

impl Peer {
    /// Copies its program to a folder in this one and installs what it needs there. An error says why it cannot be measured.
    pub fn install(&self, to: &Path) -> Result<Installed, String> {
        let folder = to.join(self.folder);
        let not = |why: String| format!("{} cannot be installed: {why}", self.name);
        let in_folder = |why: io::Error| not(format!("{}: {why}", folder.display()));
        copy(&self.source(), &folder).map_err(in_folder)?;
        // A program of a relative path is looked for where the caller is.
        let folder = folder.canonicalize().map_err(in_folder)?;
        let from = self.installed_from(&folder).map_err(not)?;
        let mark = folder.join(INSTALLED_FROM);
        if from.is_some() && fs::read_to_string(&mark).ok() == from {
            return Ok(Installed { peer: *self, folder });
        }
        for step in self.client.steps() {
            run(&folder, step).map_err(not)?;
        }
        if let Some(from) = from {
            fs::write(&mark, from).map_err(in_folder)?;
        }
        Ok(Installed { peer: *self, folder })
    }

    /// The pins and the language's version, where its client would install all anew each time.
    fn installed_from(&self, folder: &Path) -> Result<Option<String>, String> {
        let Some(command) = self.client.language() else { return Ok(None) };
        let mut from = run(folder, command)?;
        let pins = self.client.files().iter().filter(|file| file.ends_with(".json") || file.ends_with(".txt"));
        for file in pins {
            from += &fs::read_to_string(folder.join(file)).map_err(|why| format!("{file}: {why}"))?;
        }
        Ok(Some(from))
    }
}

impl Installed {
    /// Makes a database on this server and has the program insert the jobs into it.
    pub fn prepare(&self, server: &str, jobs: u64, payload_bytes: usize) -> Result<Prepared, String> {
        Prepared::start(self.peer.name, self.command(), Database::create(server)?, jobs, payload_bytes)
    }

    /// One run from an empty database to the last outcome, of which only the work is timed.
    pub fn run(&self, server: &str, jobs: u64, payload_bytes: usize) -> Result<PeerRun, String> {
        self.prepare(server, jobs, payload_bytes)?.drain()
    }

    /// The program.
    fn command(&self) -> Command {
        let (program, argument) = match self.peer.client {
            Client::Cargo => (self.folder.join("target/release/peer"), None),
            Client::Npm => ("node".into(), Some("peer.mjs")),
            Client::Pip => (self.folder.join(".venv/bin/python"), Some("peer.py")),
            Client::Go => (self.folder.join("target/peer"), None),
        };
        let mut command = Command::new(program);
        command.args(argument).current_dir(&self.folder);
        command
    }
}

/// Copies a peer's program; what a client has made at either place stays there.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if MADE.iter().any(|made| entry.file_name() == *made) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if fs::read(entry.path())? != fs::read(&target).unwrap_or_default() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Runs a step in a folder to its end, and gives what it prints.
fn run(folder: &Path, step: &[&str]) -> Result<String, String> {
    let (name, arguments) = step.split_first().ok_or("a step without a program")?;
    // One of the folder's own has a path.
    let program = if name.contains('/') { folder.join(name) } else { name.into() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    // The project's own flags are not for others, nor is what cargo told this program of its package.
    command.env("CARGO_ENCODED_RUSTFLAGS", "");
    for (name, _) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_package.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let output = command.output().map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => format!("{name} is not installed"),
        _ => format!("{name} does not start: {why}"),
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = text(&output.stderr) + &text(&output.stdout);
    Err(format!("`{}` failed ({}): {}", step.join(" "), output.status, last_lines(&said)))
}

/// The end of what a program said, where it tells why it failed.
pub(super) fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_whose_program_is_missing_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let why = run(dir.path(), &["no-such-client", "install"]).unwrap_err();
        assert_eq!(why, "no-such-client is not installed");
    }

    #[test]
    fn a_step_that_fails_tells_what_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let why = run(dir.path(), &["sh", "-c", "echo no such $0 >&2; exit 3", "package"]).unwrap_err();
        assert!(why.contains("exit status: 3") && why.contains("no such package"), "{why}");
    }

    #[test]
    fn a_copy_follows_the_program_and_leaves_what_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("src")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::create_dir_all(to.join("target")).unwrap();
        fs::write(from.join("src/main.rs"), "new").unwrap();
        fs::write(from.join("target/built"), "there").unwrap();
        fs::write(to.join("target/built"), "here").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("src/main.rs")).unwrap(), "new");
        assert_eq!(fs::read_to_string(to.join("target/built")).unwrap(), "here");
    }
}
