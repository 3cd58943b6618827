//! The README's blocks are run, so that they cannot rot: consoles in order, in one folder; code against its example.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fencepost_tests::postgres::{Schema, shared};
use fencepost_tests::process::program;
use fencepost_tests::redis::{Keeps, Server};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A block of the README.
struct Block {
    /// The heading above it.
    section: String,
    text: String,
}

/// The blocks of one language, in order.
fn blocks(language: &str) -> Vec<Block> {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    let (mut blocks, mut block, mut section) = (Vec::new(), None, String::new());
    for line in readme.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(name)) => block = Some((name == language, String::new())),
            (Some(_), Some(_)) => {
                let (_, text) = block.take().filter(|(is_it, _)| *is_it).unwrap_or_default();
                blocks.extend((!text.is_empty()).then(|| Block { section: section.clone(), text }));
            }
            (Some((_, text)), None) => *text += &format!("{line}\n"),
            (None, None) if line.starts_with('#') => section = line.trim_start_matches(['#', ' ']).to_owned(),
            (None, None) => {}
        }
    }
    assert!(!blocks.is_empty(), "the README has no {language}");
    blocks
}

/// What a person waits for with `sleep 9`: a row is done, and the next one runs.
fn one_row_is_done(block: &str) -> String {
    let store = if block.contains("--store walk.db") { " --store walk.db" } else { "" };
    let batch = format!("$(fencepost list{store} | awk 'NR == 2 {{ print $1 }}')");
    format!("until fencepost status {batch}{store} | grep -E 'success: +[1-9]' >/dev/null; do sleep 0.05; done;")
}

/// The servers that a test started instead of those that the README names.
struct Servers {
    database: Schema,
    redis: Server,
}

impl Servers {
    /// What a person would type, with shorter sleeps; the program is the one built here.
    fn script(&self, block: &str) -> String {
        let url = self.database.url();
        let replaced = [
            ("cargo run --release -p fencepost --", "fencepost"),
            ("postgres://fencepost:fencepost@localhost/fencepost", &format!("'{url}'")),
            ("postgres://localhost/fencepost", &format!("'{url}'")),
            ("redis://:fencepost@localhost", &self.redis.url()),
            ("docker compose exec postgres psql -U fencepost", &format!("psql {}", shared())),
            ("docker compose exec redis redis-cli", &format!("redis-cli -p {}", self.redis.port())),
            ("fencepost.row_status", &format!("{}.row_status", self.database.name())),
            // The worker that is killed keeps its rows for as long as a person's, since it is to be killed in one.
            ("--sleep 2s --until-done", "--sleep 200ms --until-done"),
            ("sleep 9;", &one_row_is_done(block)),
        ];
        let typed = block.lines().filter_map(|line| line.strip_prefix("$ "));
        // The servers are up, and stay.
        let typed = typed
            .filter(|line| *line != "./test" && !["docker compose up -d", "docker compose down -v"].contains(line));
        let typed = typed.map(|line| replaced.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to)));
        typed.map(|line| line + "\n").collect()
    }
}

#[test]
fn consoles_run() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for folder in ["data", "examples"] {
        symlink(root().join(folder), dir.path().join(folder)).expect("a link");
    }
    let fencepost = program("fencepost");
    let path = format!("{}:{}", fencepost.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let servers = Servers { database: Schema::new(), redis: Server::start(Keeps::Nothing) };
    // The blocks under one heading are typed into one shell.
    let blocks = blocks("console");
    for section in blocks.chunk_by(|a, b| a.section == b.section) {
        let script: String = section.iter().map(|block| servers.script(&block.text)).collect();
        let mut shell = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FENCEPOST_")) {
            shell.env_remove(name);
        }
        shell.args(["-e", "-u", "-o", "pipefail", "-c", &script]).current_dir(dir.path()).stdin(Stdio::null());
        shell.env("PATH", &path).env("XDG_STATE_HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path());
        // The last waits of the walk-throughs, scaled down.
        shell.env("FENCEPOST_TTL", "2s");
        let output = shell.output().expect("a shell");
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{said}\n{told}");
        if section[0].section.starts_with("The walk-through") {
            assert!(told.contains("<-- Recovered row (from "), "{told}");
        }
    }
    let results = std::fs::read_to_string(dir.path().join("results.jsonl")).expect("results");
    assert_eq!(results.lines().count(), 1_458, "of the real file");
}

#[test]
fn the_configuration_is_accepted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for block in blocks("toml") {
        std::fs::write(dir.path().join("fencepost.toml"), block.text).expect("a file");
        let mut command = fencepost_tests::process::fencepost();
        command.current_dir(dir.path()).args(["submit", "--rows", "1"]);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(dir.path().join("rows.db").exists(), "the file's store is used");
    }
}

#[test]
fn code_is_that_of_its_example() {
    for (language, example) in [("python", "examples/stream_simple.py"), ("rust", "cli/examples/library.rs")] {
        let example = std::fs::read_to_string(root().join(example)).expect("an example");
        for line in blocks(language).iter().flat_map(|block| block.text.lines()) {
            let code = line.split(" // ").next().unwrap_or("").trim();
            assert!(example.contains(code), "{code:?} is not in the example");
        }
    }
}
