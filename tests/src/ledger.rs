//! A ledger that a handler keeps: one line per run, appended to a file, whatever becomes of the run.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Appends runs.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// Opens a ledger to append to.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Notes a run: one write, so that lines of several processes never mix.
    pub fn note(&self, line: u64, token: u64) -> io::Result<()> {
        (&self.file).write_all(format!("{line} {token} {}\n", std::process::id()).as_bytes())
    }
}

/// The runs of each line: tokens and processes.
pub fn read(path: &Path) -> BTreeMap<u64, Vec<(u64, u32)>> {
    let text = std::fs::read_to_string(path).expect("the ledger is there");
    let mut runs: BTreeMap<u64, Vec<(u64, u32)>> = BTreeMap::new();
    for entry in text.lines() {
        let fields: Vec<u64> = entry.split(' ').map(|field| field.parse().expect("a number")).collect();
        let [line, token, pid] = fields[..] else { panic!("{entry:?} is no entry") };
        runs.entry(line).or_default().push((token, u32::try_from(pid).expect("a pid")));
    }
    runs
}

/// How many runs a process has begun so far. Lines that it holds may not have begun yet.
pub fn runs_begun_by(path: &Path, pid: u32) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|entry| entry.rsplit(' ').next() == Some(&pid.to_string())).count()
}

/// How many lines ran more than once, and how many runs that were beyond the first.
pub fn repeats(runs: &BTreeMap<u64, Vec<(u64, u32)>>) -> (usize, usize) {
    let repeated = runs.values().filter(|runs| runs.len() > 1);
    repeated.fold((0, 0), |(lines, extra), runs| (lines + 1, extra + runs.len() - 1))
}

/// L6: no token of a line was run twice.
pub fn assert_no_token_ran_twice(runs: &BTreeMap<u64, Vec<(u64, u32)>>) {
    for (line, runs) in runs {
        let mut tokens: Vec<u64> = runs.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        let count = tokens.len();
        tokens.dedup();
        assert_eq!(tokens.len(), count, "line {line} ran twice under one token: {runs:?}");
    }
}
