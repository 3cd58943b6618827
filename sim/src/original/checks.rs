//! The checkers of the original: they see facts only, and say by them through which window a run fell.

use std::collections::BTreeMap;
use std::fmt;

use super::facts::{Fact, NotTracked};
use super::redis::RedisOp;
use super::store::Status;
use super::{ProcessAt, RowAt};

/// How a failure came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// By this window of the list.
    Window(u8),
    /// Otherwise.
    Other(&'static str),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(number) => write!(f, "window {number}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// What went wrong. The checks have the names that ours have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// How it came about, by what happened in the run.
    pub cause: Cause,
    /// When.
    pub at_us: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}] at {} us: {}", self.check, self.cause, self.at_us, self.what)
    }
}

pub(super) const CONSERVATION: &str = "1 conservation";
pub(super) const ONE_OUTCOME: &str = "2 one outcome";
pub(super) const OWNERSHIP: &str = "4 ownership";
pub(super) const INNOCENCE: &str = "5 innocence";
pub(super) const PROGRESS: &str = "7 progress";
pub(super) const POISON: &str = "9 poison";

const UNEXPLAINED: Cause = Cause::Other("unexplained");

/// A process, as far as facts tell.
#[derive(Debug, Default)]
struct Seen {
    started_us: u64,
    gone: bool,
    stopping: bool,
    /// `Shutdown` has begun.
    leaving: bool,
    registered: bool,
    deregistered: bool,
    struck_off: bool,
    /// With all of Redis; until it registers again.
    registration_lost: bool,
    absent_since: Option<u64>,
    present_since: Option<u64>,
}

/// What became of a row's entry in its owner's set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    NotYet,
    Never(NotTracked),
    There,
    Removed,
    Expired(Living),
    Lost,
    Deleted,
}

/// Who lived when a set's time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Living {
    Owner,
    Others,
    Nobody,
}

#[derive(Debug)]
struct Claim {
    process: ProcessAt,
    entry: Entry,
    write_failed: bool,
    runs: bool,
    /// A recoverer took the row away, rightly or not: how that came about, and who it was.
    taken: Option<(Cause, ProcessAt)>,
}

#[derive(Debug, Default)]
struct Row {
    claims: Vec<Claim>,
    /// The claim whose write was recorded last.
    writer: Option<usize>,
    kills: u32,
}

pub(super) struct Checks {
    ttl_us: u64,
    kills_max: u32,
    findings: BTreeMap<(&'static str, Cause), Finding>,
    processes: Vec<Seen>,
    rows: Vec<Row>,
    redis_away: bool,
    redis_back_us: Option<u64>,
    redis_lost_us: Option<u64>,
}

impl Checks {
    pub(super) fn new(ttl_us: u64, rows: u64, kills_max: u32) -> Self {
        Self {
            ttl_us,
            kills_max,
            findings: BTreeMap::new(),
            processes: Vec::new(),
            rows: (0..rows).map(|_| Row::default()).collect(),
            redis_away: false,
            redis_back_us: None,
            redis_lost_us: None,
        }
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_values().collect()
    }

    pub(super) fn has(&self, check: &'static str) -> bool {
        self.findings.keys().any(|(found, _)| *found == check)
    }

    fn find(&mut self, at_us: u64, check: &'static str, cause: Cause, what: impl FnOnce() -> String) {
        self.findings.entry((check, cause)).or_insert_with(|| Finding { check, cause, at_us, what: what() });
    }

    /// The last claim of a row by a process.
    fn claim(&mut self, process: ProcessAt, row: RowAt) -> Option<&mut Claim> {
        self.rows[row].claims.iter_mut().rev().find(|claim| claim.process == process)
    }

    fn claims_of(&mut self, process: ProcessAt) -> impl Iterator<Item = &mut Claim> {
        self.rows.iter_mut().flat_map(|row| &mut row.claims).filter(move |claim| claim.process == process)
    }

    pub(super) fn fact(&mut self, now: u64, fact: &Fact) {
        match *fact {
            Fact::Started => self.processes.push(Seen { started_us: now, ..Seen::default() }),
            Fact::Stopping(process) => self.processes[process].stopping = true,
            Fact::Left(process) => self.gone(process),
            Fact::Died { process, by_row } => self.died(now, process, by_row),
            Fact::Absent(process) => {
                self.processes[process].absent_since.get_or_insert(now);
            }
            Fact::Present(process) => {
                self.processes[process].absent_since = None;
                self.processes[process].present_since = Some(now);
            }
            Fact::RedisAway => self.redis_away = true,
            Fact::RedisBack => (self.redis_away, self.redis_back_us) = (false, Some(now)),
            Fact::RedisLost => self.redis_lost(now),
            Fact::Redis { by, ref op } => self.redis(by, op),
            Fact::SetExpired { of, at_us, ref rows } => self.set_expired(of, at_us, rows),
            Fact::Claimed { process, row } => {
                let claim = Claim { process, entry: Entry::NotYet, write_failed: false, runs: false, taken: None };
                self.rows[row].claims.push(claim);
            }
            Fact::NotTracked { process, row, why } => {
                self.on_claim(process, row, |claim| claim.entry = Entry::Never(why));
            }
            Fact::RunStarted { process, row } => self.run_started(now, process, row),
            Fact::RunEnded { process, row } => self.on_claim(process, row, |claim| claim.runs = false),
            Fact::WriteFailed { process, row } => self.on_claim(process, row, |claim| claim.write_failed = true),
            Fact::Written { .. } => self.written(now, fact),
            Fact::Reset { row, of, by, beats } => self.reset(now, row, of, by, beats),
            Fact::Aborted(row) => self.rows[row].writer = None,
            Fact::Stuck { row, registered } => {
                let cause = self.why_stuck(row, registered);
                self.find(now, CONSERVATION, cause, || {
                    format!("row {row} is in progress, and nobody will ever finish it")
                });
            }
            Fact::Open { batch, hangs } => {
                let cause = if hangs { Cause::Window(8) } else { UNEXPLAINED };
                self.find(now, PROGRESS, cause, || format!("batch {batch} is open long after the last fault"));
            }
        }
    }

    fn on_claim(&mut self, process: ProcessAt, row: RowAt, change: impl FnOnce(&mut Claim)) {
        if let Some(claim) = self.claim(process, row) {
            change(claim);
        }
    }

    fn gone(&mut self, process: ProcessAt) {
        self.processes[process].gone = true;
        self.claims_of(process).for_each(|claim| claim.runs = false);
    }

    fn died(&mut self, now: u64, process: ProcessAt, by_row: Option<RowAt>) {
        self.gone(process);
        let Some(row) = by_row else { return };
        self.rows[row].kills += 1;
        let (kills, most) = (self.rows[row].kills, self.kills_max);
        if kills > most {
            let what =
                || format!("row {row} has killed {kills} workers, of which its batch allows {most}, and goes on");
            self.find(now, POISON, Cause::Window(18), what);
        }
    }

    fn redis_lost(&mut self, now: u64) {
        self.redis_lost_us = Some(now);
        self.processes.iter_mut().for_each(|process| process.registration_lost = true);
        for claim in self.rows.iter_mut().flat_map(|row| &mut row.claims) {
            if claim.entry == Entry::There {
                claim.entry = Entry::Lost;
            }
        }
    }

    fn set_expired(&mut self, of: ProcessAt, at_us: u64, rows: &[RowAt]) {
        let lived = |process: &Seen| !process.gone && process.started_us < at_us;
        let living = match () {
            () if !self.processes[of].gone => Living::Owner,
            () if self.processes.iter().any(lived) => Living::Others,
            () => Living::Nobody,
        };
        for row in rows {
            self.on_claim(of, *row, |claim| claim.entry = Entry::Expired(living));
        }
    }

    fn redis(&mut self, by: ProcessAt, op: &RedisOp) {
        match *op {
            RedisOp::Track(row) => self.on_claim(by, row, |claim| claim.entry = Entry::There),
            RedisOp::Untrack(row) => self.on_claim(by, row, |claim| {
                if claim.entry == Entry::There || claim.write_failed {
                    claim.entry = Entry::Removed;
                }
            }),
            RedisOp::DeleteSet(of) => {
                self.claims_of(of)
                    .filter(|claim| claim.entry == Entry::There)
                    .for_each(|claim| claim.entry = Entry::Deleted);
            }
            RedisOp::StrikeOff(of) => self.processes[of].struck_off = true,
            RedisOp::Register => {
                self.processes[by].registered = true;
                self.processes[by].struck_off = false;
                self.processes[by].registration_lost = false;
            }
            RedisOp::EndBeat => self.processes[by].leaving = true,
            RedisOp::Deregister => self.processes[by].deregistered = true,
            _ => {}
        }
    }

    /// 4: two living workers run the same row.
    fn run_started(&mut self, now: u64, process: ProcessAt, row: RowAt) {
        self.on_claim(process, row, |claim| claim.runs = true);
        let absent = |claim: &&Claim| self.processes[claim.process].absent_since.is_some();
        let running: Vec<&Claim> = self.rows[row].claims.iter().filter(|claim| claim.runs).collect();
        if running.len() < 2 || running.iter().any(absent) {
            return;
        }
        let cause = running.iter().find_map(|claim| claim.taken).map_or(UNEXPLAINED, |(cause, _)| cause);
        let owners: Vec<ProcessAt> = running.iter().map(|claim| claim.process).collect();
        self.find(now, OWNERSHIP, cause, || format!("row {row} is run by the living workers {owners:?} at once"));
    }

    /// 2 and 1: an outcome is overwritten; counts are no longer those of the rows.
    fn written(&mut self, now: u64, fact: &Fact) {
        let Fact::Written { process, row, before, status, fallback, counts_differ } = *fact else { return };
        let writer = self.rows[row].claims.iter().rposition(|claim| claim.process == process);
        let earlier = self.rows[row].writer;
        let claims = &self.rows[row].claims;
        let taken = |claim: Option<usize>| claim.and_then(|at| claims[at].taken);
        let cause = match before {
            _ if fallback && (!before.is_final() || earlier == writer) => Cause::Window(17),
            Status::Aborted => Cause::Window(15),
            _ => taken(writer).or(taken(earlier)).map_or(UNEXPLAINED, |(cause, _)| cause),
        };
        if before.is_final() {
            let what = || format!("row {row}: worker {process} writes {status:?} over {before:?}");
            self.find(now, ONE_OUTCOME, cause, what);
        } else if fallback {
            let what = || {
                format!("row {row}: the outcome of worker {process} could not be written, so it is recorded as failed")
            };
            self.find(now, ONE_OUTCOME, cause, what);
        }
        if counts_differ {
            let what =
                || format!("row {row} of an ended batch is {status:?} now, was {before:?}: counts differ from rows");
            self.find(now, CONSERVATION, cause, what);
        }
        self.rows[row].writer = writer;
    }

    /// 5: a live worker's rows are reset. Whoever stood still, or could not reach Redis, is not innocent.
    fn reset(&mut self, now: u64, row: RowAt, of: ProcessAt, by: ProcessAt, beats: bool) {
        let Some(holder) = self.rows[row].claims.last().map(|claim| claim.process) else { return };
        let seen = &self.processes[holder];
        let recent = |at: Option<u64>| at.is_some_and(|at| at + 2 * self.ttl_us > now);
        let gone = seen.gone || seen.leaving;
        let cause = if gone {
            Cause::Other("a write of a dead owner comes late")
        } else if holder != of {
            // It was reset before, out of the same set.
            let before = self.rows[row].claims.iter().rev().find(|claim| claim.process == of);
            match before.and_then(|claim| claim.taken) {
                Some((_, first)) if first != by => Cause::Window(12),
                _ => Cause::Other("a recoverer does not hear that its reset was done, and repeats it"),
            }
        } else if now < seen.started_us + self.ttl_us && !recent(self.redis_lost_us) {
            Cause::Other("a newcomer is registered before its first heartbeat is there")
        } else if beats {
            Cause::Window(14)
        } else if seen.absent_since.is_some() || recent(seen.present_since) {
            Cause::Window(11)
        } else if self.redis_away || recent(self.redis_back_us) {
            Cause::Window(13)
        } else if recent(self.redis_lost_us) {
            Cause::Other("after a loss of Redis, registered again before the heartbeat")
        } else {
            UNEXPLAINED
        };
        let innocent = !gone && cause != Cause::Window(11);
        if innocent {
            self.find(now, INNOCENCE, cause, || {
                format!("row {row} of the live worker {holder} is reset by worker {by}")
            });
        }
        if let Some(claim) = self.rows[row].claims.last_mut() {
            claim.taken.get_or_insert((cause, by));
        }
    }

    /// 1: by what became of the last claim's entry.
    fn why_stuck(&self, row: RowAt, registered: bool) -> Cause {
        let Some(claim) = self.rows[row].claims.last() else { return UNEXPLAINED };
        let owner = &self.processes[claim.process];
        match claim.entry {
            Entry::NotYet if owner.stopping => Cause::Window(3),
            Entry::NotYet => Cause::Window(2),
            Entry::Never(NotTracked::Cancelled) => Cause::Window(3),
            Entry::Never(NotTracked::Unreachable) => {
                Cause::Other("Redis was not reached when the row was to be tracked")
            }
            Entry::Removed if claim.write_failed => Cause::Window(1),
            // Redis was away as well: it will be seen when its owner is dead.
            Entry::There if claim.write_failed && !owner.gone => Cause::Window(1),
            Entry::Expired(Living::Nobody) => Cause::Window(4),
            Entry::Expired(Living::Others) => Cause::Other("the set ran out before anybody could act on it"),
            Entry::Expired(Living::Owner) => Cause::Other("the set ran out while its owner lived"),
            Entry::Lost => Cause::Window(5),
            Entry::Deleted => Cause::Window(7),
            Entry::There if !registered && owner.deregistered => Cause::Window(6),
            Entry::There if !registered && owner.struck_off => {
                Cause::Other("a recoverer struck its living owner off the registry")
            }
            Entry::There if !registered && owner.registration_lost => Cause::Window(5),
            Entry::There if !registered && !owner.registered => Cause::Other("its owner died before it was registered"),
            Entry::There | Entry::Removed => UNEXPLAINED,
        }
    }
}
