//! A folder of its own, in which the program runs without a developer's own settings.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Three rows with a header.
pub const ROWS: &str = "name,n\none,1\ntwo,2\nthree,3\n";
/// Succeeds, except for the row `two`.
pub const FAILS_TWO: [&str; 6] =
    ["--", "sh", "-c", "test $0 != two || { echo no two >&2; exit 65; }; echo $1", "{name}", "{n}"];

pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.file(name), text).expect("it can be written");
        self.file(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments, &[]).output().expect("fencepost starts")
    }

    pub fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencepost"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FENCEPOST_")) {
            command.env_remove(name);
        }
        // Help is wrapped to this.
        command.env_remove("COLUMNS");
        command.env("XDG_CONFIG_HOME", self.file("config")).env("XDG_STATE_HOME", self.file("state"));
        command.envs(environment.iter().copied()).current_dir(self.0.path());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("JSON")
    }
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
