//! The README's blocks are run, so that they cannot rot: consoles in order, in one folder; code against its example.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fencepost_tests::process::program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The blocks of one language, in order.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    let (mut blocks, mut block) = (Vec::new(), None);
    for line in readme.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(name)) if name == language => block = Some(String::new()),
            (None, Some(_)) => block = None,
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(text), None) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(!blocks.is_empty(), "the README has no {language}");
    blocks
}

/// What a person would type, with shorter sleeps; the program is the one built here.
fn script(block: &str) -> String {
    let commands: Vec<String> = block
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|line| line.replace("cargo run --release -p fencepost --", "fencepost"))
        .map(|line| line.replace("--sleep 2s", "--sleep 200ms").replace("sleep 9;", "sleep 1;"))
        .filter(|line| line != "./test")
        .collect();
    commands.join("\n")
}

#[test]
fn consoles_run() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for folder in ["data", "examples"] {
        symlink(root().join(folder), dir.path().join(folder)).expect("a link");
    }
    let fencepost = program("fencepost");
    let path = format!("{}:{}", fencepost.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for block in blocks("console") {
        let script = script(&block);
        let mut shell = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FENCEPOST_")) {
            shell.env_remove(name);
        }
        shell.args(["-e", "-u", "-o", "pipefail", "-c", &script]).current_dir(dir.path()).stdin(Stdio::null());
        shell.env("PATH", &path).env("XDG_STATE_HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path());
        let output = shell.output().expect("a shell");
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{said}\n{told}");
    }
    let results = std::fs::read_to_string(dir.path().join("results.jsonl")).expect("results");
    assert_eq!(results.lines().count(), 1_458, "of the real file");
}

#[test]
fn the_configuration_is_accepted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for block in blocks("toml") {
        std::fs::write(dir.path().join("fencepost.toml"), block).expect("a file");
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
        for line in blocks(language).iter().flat_map(|block| block.lines()) {
            let code = line.split(" // ").next().unwrap_or("").trim();
            assert!(example.contains(code), "{code:?} is not in the example");
        }
    }
}
