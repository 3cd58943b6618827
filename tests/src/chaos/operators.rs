//! Batches and operators: the real command, on a thread of its own, one order after the other.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::kind::Kind;
use super::options::Drawn;
use super::rows::{Op, Row};
use crate::process::{apart, fencepost};

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Submit a batch.
    Submit {
        /// For whom.
        op: Op,
        /// How many rows.
        rows: u64,
        /// One of them is poison.
        poison: bool,
        /// Decides them.
        pick: u64,
    },
    /// One of the operators' commands.
    Operate {
        /// Which.
        kind: Kind,
        /// Decides the batch, and the rest.
        pick: u64,
        /// Of a hold: for how long.
        for_ms: u64,
    },
}

/// Rows that were appended, or may have been.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The rows.
    pub rows: Vec<Row>,
    /// What the command said of them.
    pub said: Said,
}

/// What a command said that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is done, by this command or before.
    Done,
    /// Nothing was changed, by this command at least: it was refused, or there was nothing to do.
    Not,
    /// The store was away for too long.
    Unknown,
}

/// A batch that was submitted.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// For whom.
    pub op: Op,
    /// Its rows, from line 1 on.
    pub rows: Vec<Row>,
    /// What came behind them.
    pub appends: Vec<Appended>,
    /// So many crashes fail a row.
    pub crashes_max: u32,
    /// What an abort of it said.
    pub aborts: Said,
}

/// What was submitted and done so far.
#[derive(Debug, Default)]
pub struct Register {
    /// The batches, in the order of their submission.
    pub batches: Vec<Batch>,
    /// How often each command was carried out.
    pub done: BTreeMap<Kind, u64>,
    /// How often it was refused: the batch had ended meanwhile, nothing had failed.
    pub refused: BTreeMap<Kind, u64>,
    /// What the command said that it should not.
    pub complaints: Vec<String>,
    /// How often a command was repeated because its end was unknown.
    pub repeated: u64,
}

/// The thread.
#[derive(Debug)]
pub struct Operators {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    register: Arc<Mutex<Register>>,
}

impl Operators {
    /// Starts it.
    pub fn start(store: String, folder: PathBuf, drawn: Drawn) -> Self {
        let (orders, taken) = channel();
        let register = Arc::new(Mutex::new(Register::default()));
        let mut desk = Desk {
            store,
            folder,
            drawn,
            register: register.clone(),
            next_id: 1,
            held: Vec::new(),
            ended_held: Vec::new(),
            keys: 0,
        };
        let thread = std::thread::spawn(move || desk.work(&taken));
        Self { orders: Some(orders), thread: Some(thread), register }
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        self.orders.as_ref().expect("open until the end").send(order).expect("the operators' thread is at work");
    }

    /// Waits until all orders are carried out; all that was done.
    pub fn end(mut self) -> Register {
        drop(self.orders.take());
        let ended = self.thread.take().map(JoinHandle::join);
        let mut register = std::mem::take(&mut *self.register.lock().expect("nobody panics with it"));
        if let Some(Err(_)) = ended {
            register.complaints.push("the operators' thread panicked".to_owned());
        }
        register
    }
}

/// So many batches are tried until one does not refuse a command.
const CANDIDATES: usize = 6;

/// How long a command whose end is unknown is repeated.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that takes longer than this hangs: the end of a load is asked for during a minute, an append waits as long for another one
/// that was cut off.
const HANGS: Duration = Duration::from_secs(180);

/// Crashes that fail a row of a batch with a poison row.
const CRASHES_MAX: u32 = 3;

/// The same of any other batch: no row of it is to fail by its workers' kills.
const CRASHES_MAX_OF_OTHERS: u32 = 1000;

struct Desk {
    store: String,
    folder: PathBuf,
    drawn: Drawn,
    register: Arc<Mutex<Register>>,
    next_id: u64,
    held: Vec<(String, Instant)>,
    /// They ended while they were held: where a retry opens them again, they still are.
    ended_held: Vec<String>,
    keys: u64,
}

impl Desk {
    fn work(&mut self, orders: &Receiver<Order>) {
        loop {
            let next = self.held.iter().map(|(_, until)| *until).min();
            let wait = next.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()));
            match orders.recv_timeout(wait) {
                Ok(Order::Submit { op, rows, poison, pick }) => self.submit(op, rows, poison, pick),
                Ok(Order::Operate { kind, pick, for_ms }) => self.operate(kind, pick, for_ms),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            }
            self.resume(false);
        }
        self.resume(true);
    }

    fn register(&self) -> std::sync::MutexGuard<'_, Register> {
        self.register.lock().expect("nobody panics with it")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = fencepost();
        command.args(arguments).args(["--store", &self.store]).stdin(Stdio::null());
        let output = output_within(&mut command, HANGS);
        let mut log =
            OpenOptions::new().create(true).append(true).open(self.folder.join("operators.log")).expect("a log");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let line = format!("{} {arguments:?}: {} {out} {err}\n", super::fleet::now_us(), output.status);
        log.write_all(line.as_bytes()).expect("a log");
        output
    }

    /// Until its end is known: 7 is a store that is away, or did not say. And whether a try before may have done it.
    fn until_known(&self, arguments: &[&str]) -> (Output, bool) {
        let end = Instant::now() + PATIENCE;
        let mut repeated = false;
        loop {
            let output = self.run(arguments);
            if output.status.code() != Some(7) || Instant::now() > end {
                return (output, repeated);
            }
            repeated = true;
            self.register().repeated += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn rows(&mut self, count: u64, poison: bool, pick: u64, name: &str) -> (Vec<Row>, String) {
        let draw = if poison { Row::draw_with_poison } else { Row::draw };
        let rows = draw(self.next_id, count, &self.drawn, pick);
        self.next_id += count;
        let file = self.folder.join(name);
        let text: String = rows.iter().map(|row| row.input() + "\n").collect();
        std::fs::write(&file, text).expect("an input can be written");
        (rows, file.to_str().expect("UTF-8").to_owned())
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("key-{}", self.keys)
    }

    fn submit(&mut self, op: Op, count: u64, poison: bool, pick: u64) {
        let key = self.key();
        let crashes_max = if poison { CRASHES_MAX } else { CRASHES_MAX_OF_OTHERS };
        let (rows, file) = self.rows(count, poison, pick, &format!("{key}.jsonl"));
        let (output, _) = self.until_known(&[
            "submit",
            &file,
            "--json",
            "--key",
            &key,
            "--op",
            op.name(),
            "--max-attempts=1000",
            &format!("--max-crashes={crashes_max}"),
        ]);
        let _ = std::fs::remove_file(&file);
        let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        match said.as_ref().and_then(|said| said["batch"].as_str()) {
            Some(id) => {
                let batch = Batch { id: id.to_owned(), op, rows, appends: Vec::new(), crashes_max, aborts: Said::Not };
                self.register().batches.push(batch);
            }
            None => self.register().complaints.push(format!("a batch cannot be submitted: {output:?}")),
        }
    }

    /// The newest batches, which are most likely open, from one that was picked on; short ones alone and without poison, if that is asked.
    fn candidates(&self, pick: u64, short: bool) -> Vec<(usize, String)> {
        let register = self.register();
        // Of those with a poison row there are few, and their end is looked for.
        let is_short = |batch: &Batch| batch.rows.len() as u64 <= self.drawn.small_rows_max;
        let is_meant = |batch: &Batch| !short || is_short(batch) && batch.crashes_max != CRASHES_MAX;
        let newest = register.batches.iter().enumerate().rev().filter(|(_, batch)| is_meant(batch)).take(CANDIDATES);
        let mut newest: Vec<(usize, String)> = newest.map(|(at, batch)| (at, batch.id.clone())).collect();
        let by = pick % newest.len().max(1) as u64;
        newest.rotate_left(usize::try_from(by).expect("few"));
        newest
    }

    /// Carries a command out on the first batch that does not refuse it.
    fn operate(&mut self, kind: Kind, pick: u64, for_ms: u64) {
        let (newest, rest) = (pick % CANDIDATES as u64, pick / CANDIDATES as u64);
        // Not the long ones, or there would be little left to break.
        let candidates = self.candidates(newest, kind == Kind::Abort);
        let done = candidates.into_iter().any(|(at, id)| self.operate_on(kind, at, &id, rest, for_ms));
        let mut register = self.register();
        let counts = if done { &mut register.done } else { &mut register.refused };
        *counts.entry(kind).or_default() += 1;
    }

    fn operate_on(&mut self, kind: Kind, at: usize, id: &str, pick: u64, for_ms: u64) -> bool {
        match kind {
            Kind::Hold => {
                let said = self.asked(&["hold", id, "--json"], "new");
                // One that may be held is resumed, too.
                if said != Said::Not {
                    self.held.push((id.to_owned(), Instant::now() + Duration::from_millis(for_ms)));
                }
                said == Said::Done
            }
            Kind::Append => self.append(at, id, pick),
            Kind::Abort => {
                let said = self.asked(&["abort", id, "--yes", "--json"], "new");
                let mut register = self.register();
                let aborts = &mut register.batches[at].aborts;
                if *aborts == Said::Not || said == Said::Done {
                    *aborts = said;
                }
                said == Said::Done
            }
            Kind::RetryFailed => self.changes(&["retry", id, "--yes", "--json"], "rows"),
            Kind::RetryLine => {
                let count = self.register().batches[at].rows.len() as u64;
                let line = (pick % count + 1).to_string();
                self.changes(&["retry", id, "--line", &line, "--yes", "--json"], "rows")
            }
            // Of all batches, whichever was picked.
            Kind::Purge => self.changes(&["purge", "--older-than=15s", "--yes", "--json"], "batches"),
            _ => false,
        }
    }

    fn append(&mut self, at: usize, id: &str, pick: u64) -> bool {
        let key = self.key();
        let (rows, file) = self.rows(1 + pick % 20, false, pick, &format!("{key}.jsonl"));
        let (output, _) = self.until_known(&["append", id, &file, "--json", "--key", &key]);
        let _ = std::fs::remove_file(&file);
        // What a try before has appended, its key tells.
        let said = self.said(&["append", id], &output);
        self.register().batches[at].appends.push(Appended { rows, said });
        said == Said::Done
    }

    /// Whether a command is carried out; one that changes nothing says so in this field of its answer. (Repeated after an unknown
    /// end, each of them does no harm.)
    fn changes(&self, arguments: &[&str], field: &str) -> bool {
        self.asked(arguments, field) == Said::Done
    }

    fn asked(&self, arguments: &[&str], field: &str) -> Said {
        let (output, repeated) = self.until_known(arguments);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        changed(self.said(arguments, &output), &answer[field], repeated)
    }

    fn said(&self, arguments: &[&str], output: &Output) -> Said {
        match output.status.code() {
            Some(0) => Said::Done,
            Some(7) => Said::Unknown,
            // It says why: a batch that is not there, has ended, is aborted.
            Some(2..=5) => Said::Not,
            _ => {
                self.register().complaints.push(format!("{arguments:?}: {output:?}"));
                Said::Unknown
            }
        }
    }

    fn resume(&mut self, all: bool) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(_, until)| all || *until <= now);
        self.held = later;
        for (id, _) in due {
            // It may have been purged meanwhile.
            if !self.changes(&["resume", &id, "--json"], "") {
                self.ended_held.push(id);
            }
        }
        if all {
            for id in std::mem::take(&mut self.ended_held) {
                self.changes(&["resume", &id, "--json"], "");
            }
        }
    }
}

/// What a command says; it is killed when it has not ended by then, which is no end that a command has by itself.
fn output_within(command: &mut Command, limit: Duration) -> Output {
    let child = apart(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let (ended, end) = channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let output = end.recv_timeout(limit).or_else(|_| {
        // It may end right now; nobody else has its number before it was waited for.
        let _ = kill(pid, Signal::SIGKILL);
        end.recv()
    });
    output.expect("it is waited for").expect("it can be read")
}

/// What a command changed, by what its last try said and this field of its answer: nothing, unless a try before may have done it, so that
/// there was nothing left to do, or that it was refused.
fn changed(said: Said, field: &Value, repeated: bool) -> Said {
    match said {
        Said::Done if *field != 0 && *field != false => Said::Done,
        Said::Done | Said::Not if repeated => Said::Unknown,
        Said::Done => Said::Not,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed() {
        let run = |script: &str, limit| output_within(Command::new("sh").args(["-c", script]), limit);
        let said = run("echo it is done; exit 5", HANGS);
        assert_eq!((said.status.code(), &said.stdout[..]), (Some(5), &b"it is done\n"[..]));
        assert_eq!(run("exec sleep 1000", Duration::from_millis(100)).status.code(), None);
    }

    #[test]
    fn what_a_repeated_command_did_not_change_an_earlier_try_may_have() {
        let (nothing, something) = (Value::from(false), Value::from(true));
        for repeated in [false, true] {
            assert_eq!(changed(Said::Done, &something, repeated), Said::Done);
            assert_eq!(changed(Said::Done, &Value::Null, repeated), Said::Done, "it always changes something");
            assert_eq!(changed(Said::Unknown, &Value::Null, repeated), Said::Unknown);
        }
        for nothing in [&nothing, &Value::from(0)] {
            assert_eq!(changed(Said::Done, nothing, false), Said::Not);
            assert_eq!(changed(Said::Done, nothing, true), Said::Unknown);
        }
        assert_eq!(changed(Said::Not, &Value::Null, false), Said::Not);
        assert_eq!(changed(Said::Not, &Value::Null, true), Said::Unknown);
    }
}
