//! Programs of this workspace, and worker processes that are killed, stopped and replaced.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where programs are taken from as they are, instead of being built.
const PROGRAMS: &str = "FENCEPOST_TESTS_PROGRAMS";

/// A program of this workspace, built if need be. It lies beside the program that runs now, unless `FENCEPOST_TESTS_PROGRAMS`
/// names a folder with all of them.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os(PROGRAMS) {
        return Path::new(&dir).join(name);
    }
    match built() {
        Ok(dir) => dir.join(name),
        Err(why) => panic!("{why}"),
    }
}

/// How all programs of this workspace are built.
const BUILD: &str = "`cargo build --workspace --bins --examples`";

/// Whether these programs are there, or can be built; else what to do.
pub fn programs_are_there(names: &[&str]) -> Result<(), String> {
    let (dir, whence) = match std::env::var_os(PROGRAMS) {
        Some(dir) => (PathBuf::from(dir), format!("{PROGRAMS} names this folder")),
        None => (built()?.clone(), "they are taken from there".to_owned()),
    };
    missing(&dir, names).map_or(Ok(()), |name| {
        let dir = dir.display();
        Err(format!("there is no program {name} in {dir} ({whence}): build all with {BUILD}, or have {PROGRAMS} name the folder where they are"))
    })
}

fn missing<'a>(dir: &Path, names: &[&'a str]) -> Option<&'a str> {
    names.iter().find(|name| !dir.join(name).is_file()).copied()
}

fn built() -> Result<&'static PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build).as_ref().map_err(Clone::clone)
}

/// Builds all programs, and tells where they are. The whole workspace, as `./test` does it: a package by itself would be
/// built with other features of its dependencies, and so would they. Of a program that was taken elsewhere they lie beside it.
fn build() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program's own file is not known: {error}"))?;
    let dir = own.ancestors().find(|dir| dir.join(".cargo-lock").exists() || dir.join("deps").is_dir());
    let Some(dir) = dir else { return Ok(own.parent().unwrap_or(Path::new("/")).to_owned()) };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--bins", "--examples", "--target-dir"]);
    cargo.arg(dir.parent().expect("a profile's folder has a parent"));
    // What cargo said to this test of its package: a dependency's build script that asks for it would see it changed, and run
    // again with all that depends on it, now and once more after the tests.
    for (name, _) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_package.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    let why = match cargo.status() {
        Ok(status) if status.success() => return Ok(dir.to_owned()),
        Ok(status) => format!("cargo ended with {status}"),
        Err(error) => format!("cargo, or the folder that this program was built from, is not there: {error}"),
    };
    Err(format!(
        "the programs of this workspace cannot be built ({why}): build them with {BUILD}, and have {PROGRAMS} name the folder where they are"
    ))
}

/// A program of this workspace that dies with the thread that starts it: workers of tests that are killed do not stay behind.
pub fn mortal(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program(name));
    command
}

/// In a process group of its own: what a terminal sends to this process's group (Ctrl-C) is for this process alone, which ends its
/// children itself.
pub fn apart(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// The `fencepost` program.
pub fn fencepost() -> Command {
    let mut command = mortal("fencepost");
    // A developer's own settings must not reach the tests.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FENCEPOST_") {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

/// Runs `fencepost` to its end.
pub fn run_fencepost<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    apart(fencepost().args(arguments)).stdin(Stdio::null()).output().expect("fencepost starts")
}

/// Runs `fencepost ... --json` to its end and reads what it says.
pub fn fencepost_json<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> serde_json::Value {
    let output = run_fencepost(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Submits a file and gives the batch's id.
pub fn submit(store: &str, arguments: &[&str]) -> String {
    let mut all = vec!["submit", "--json", "--store", store];
    all.extend(arguments);
    fencepost_json(all)["batch"].as_str().expect("an id").to_owned()
}

/// A child process that is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, [`apart`].
    pub fn start(mut command: Command) -> Self {
        Self { child: apart(&mut command).spawn().expect("the program starts") }
    }

    /// The same, and what it says from now on.
    pub fn start_heard(mut command: Command) -> (Self, ChildStdout) {
        command.stdout(Stdio::piped());
        let mut process = Self::start(command);
        let said = process.child.stdout.take().expect("a pipe");
        (process, said)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.unix_pid(), signal).expect("it was not waited for yet");
    }

    /// Its process id, for signals.
    pub fn unix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Kills it as `kill -9` does, and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself a moment ago.
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        until("a process ends", limit, || child.try_wait().expect("a child can be waited for"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process is woken by its death; one that has ended is waited for only.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is what is looked for; other processes give no event to wait for.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} until {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("one"), "").unwrap();
        assert_eq!(missing(dir.path(), &["one"]), None);
        assert_eq!(missing(dir.path(), &["one", "two"]), Some("two"));
    }

    /// The terminal's Ctrl-C goes to a group.
    #[test]
    fn a_process_is_in_a_group_of_its_own() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::start(command);
        assert_eq!(nix::unistd::getpgid(Some(process.unix_pid())).unwrap(), process.unix_pid());
    }
}
