//! A peer's program while it runs, and what it says at the end.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use super::database::Database;
use super::install::last_lines;

/// How long a peer may take to insert its jobs, and to work them off.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What a run of a peer came to: every job ran once, and the store has none left.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerRun {
    /// How many jobs there were.
    pub jobs: u64,
    /// How long it took to work them off, with all that it records of them in the store.
    pub seconds: f64,
    /// How many ran once.
    pub ran_once: u64,
    /// How many ran more often.
    pub ran_twice_or_more: u64,
    /// How many never ran.
    pub never_ran: u64,
    /// How many the store still had at the end.
    pub left_in_store: u64,
    /// Whether the store keeps an outcome per job.
    pub keeps_outcome: bool,
    /// Its version, and its language's where that is not built in.
    pub version: String,
    /// Its setting, in words.
    pub setting: String,
}

impl PeerRun {
    /// Its rate.
    pub fn rows_per_second(&self) -> f64 {
        // Far below 2^53.
        self.jobs as f64 / self.seconds
    }

    /// Reads the line that a program ends with. Wrong counts are an error.
    fn read(line: &str, jobs: u64) -> Result<Self, String> {
        let said: Value = serde_json::from_str(line).map_err(|why| format!("it ends with {line:?}: {why}"))?;
        let missing = |name: &str| format!("it ends with {line}, which has no fit {name:?}");
        let number = |name: &str| said[name].as_u64().ok_or_else(|| missing(name));
        let text = |name: &str| said[name].as_str().map(str::to_owned).ok_or_else(|| missing(name));
        let run = Self {
            jobs: number("jobs")?,
            seconds: said["seconds"].as_f64().filter(|seconds| *seconds > 0.0).ok_or_else(|| missing("seconds"))?,
            ran_once: number("ran_once")?,
            ran_twice_or_more: number("ran_twice_or_more")?,
            never_ran: number("never_ran")?,
            left_in_store: number("left_in_store")?,
            keeps_outcome: said["keeps_outcome"].as_bool().ok_or_else(|| missing("keeps_outcome"))?,
            version: text("version")?,
            setting: text("setting")?,
        };
        let counts = (run.jobs, run.ran_once, run.ran_twice_or_more, run.never_ran, run.left_in_store);
        if counts == (jobs, jobs, 0, 0, 0) {
            return Ok(run);
        }
        Err(format!(
            "wrong counts: of {} jobs ({jobs} were asked for) {} ran once, {} twice or more, {} never, and {} are left in the store",
            run.jobs, run.ran_once, run.ran_twice_or_more, run.never_ran, run.left_in_store
        ))
    }
}

/// A peer whose jobs are in the store, and which waits for the word to work them off. Dropped, it is killed, and its database
/// is gone.
#[derive(Debug)]
pub struct Prepared {
    name: &'static str,
    jobs: u64,
    child: Child,
    lines: Receiver<String>,
    // Its own file: nobody has to read it for the program to go on.
    said: File,
    // Dropped after the program is gone.
    database: Database,
}

impl Prepared {
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        database: Database,
        jobs: u64,
        payload_bytes: usize,
    ) -> Result<Self, String> {
        let cannot = |why: std::io::Error| format!("{name} does not start: {why}");
        let said = tempfile::tempfile().map_err(cannot)?;
        command.env("BENCH_DATABASE_URL", database.url()).env("BENCH_JOBS", jobs.to_string());
        command.env("BENCH_PAYLOAD_BYTES", payload_bytes.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said.try_clone().map_err(cannot)?);
        let mut child = command.spawn().map_err(cannot)?;
        let stdout = child.stdout.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = stdout.map(|stdout| BufReader::new(stdout).lines());
            for line in lines.into_iter().flatten().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut prepared = Self { name, jobs, child, lines, said, database };
        let ready = prepared.next_line("to insert its jobs")?;
        match serde_json::from_str::<Value>(&ready) {
            Ok(said) if said["ready"] == true => {}
            _ => return Err(format!("{name} says {ready:?} instead of being ready")),
        }
        prepared.database.settle()?;
        Ok(prepared)
    }

    /// Has it work off its jobs.
    pub fn drain(mut self) -> Result<PeerRun, String> {
        let go = self.child.stdin.as_mut().map(|stdin| stdin.write_all(b"go\n"));
        go.unwrap_or(Ok(())).map_err(|why| format!("{} no longer listens: {why}", self.name))?;
        let line = self.next_line("to work off its jobs")?;
        PeerRun::read(&line, self.jobs).map_err(|why| format!("{}: {why}", self.name))
    }

    fn next_line(&mut self, what: &str) -> Result<String, String> {
        let name = self.name;
        self.lines.recv_timeout(PATIENCE).map_err(|why| match why {
            RecvTimeoutError::Timeout => format!("{name} took longer than {} s {what}", PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => {
                let ended = self.child.wait().map_or_else(|why| why.to_string(), |status| status.to_string());
                format!("{name} ended too early ({ended}): {}", last_lines(&self.said()))
            }
        })
    }

    /// What the program has said of its errors.
    fn said(&mut self) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let mut bytes = Vec::new();
        let read = self.said.seek(SeekFrom::Start(0)).and_then(|_| self.said.read_to_end(&mut bytes));
        read.map_or_else(|why| why.to_string(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run with right counts.
#[cfg(test)]
pub(super) fn right(jobs: u64) -> PeerRun {
    PeerRun {
        jobs,
        seconds: 0.5,
        ran_once: jobs,
        ran_twice_or_more: 0,
        never_ran: 0,
        left_in_store: 0,
        keeps_outcome: true,
        version: "1.2.3".into(),
        setting: "the best".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line() -> Value {
        json!({
            "jobs": 10, "seconds": 0.5, "ran_once": 10, "ran_twice_or_more": 0, "never_ran": 0, "left_in_store": 0,
            "keeps_outcome": true, "version": "1.2.3", "setting": "the best",
        })
    }

    #[test]
    fn a_line_with_right_counts_is_a_run() {
        let run = PeerRun::read(&line().to_string(), 10).unwrap();
        assert_eq!(run, right(10));
        assert_eq!(run.rows_per_second(), 20.0);
    }

    #[test]
    fn wrong_counts_are_an_error() {
        for (name, wrong) in
            [("jobs", 9), ("ran_once", 9), ("ran_twice_or_more", 1), ("never_ran", 1), ("left_in_store", 1)]
        {
            let mut line = line();
            line[name] = wrong.into();
            let why = PeerRun::read(&line.to_string(), 10).unwrap_err();
            assert!(why.starts_with("wrong counts"), "{name}: {why}");
        }
        // All of too few jobs.
        assert!(PeerRun::read(&line().to_string(), 11).unwrap_err().starts_with("wrong counts"));
    }

    #[test]
    fn a_line_that_lacks_something_is_an_error() {
        for name in line().as_object().unwrap().keys() {
            let mut line = line();
            line.as_object_mut().unwrap().remove(name);
            let why = PeerRun::read(&line.to_string(), 10).unwrap_err();
            assert!(why.contains(&format!("no fit {name:?}")), "{name}: {why}");
        }
        let mut no_time = line();
        no_time["seconds"] = 0.into();
        assert!(PeerRun::read(&no_time.to_string(), 10).unwrap_err().contains("seconds"));
        assert!(PeerRun::read("Segmentation fault", 10).unwrap_err().contains("Segmentation fault"));
    }
}
