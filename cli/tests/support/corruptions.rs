//! A store in which much has happened, and how it can be corrupted: the same on SQLite and Postgres.

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost::report::verify::{Verification, VerifyReport};
use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::verify::Verifies;
use fencepost::store::{Loads, Operates, Store};
use fencepost_core::store::{
    Answer, Claim, ClaimReply, EndCause, Grant, Record, RecordItem, Recover, RecoverReply, RetryRows, StoreReply,
    StoreRequest, TakeLease, Verdict,
};
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime};

/// Three batches, and the leases that worked on them.
pub struct Scene {
    /// Twelve rows: success, failed, waiting for a retry, recovered and done (by a crash's neighbour), held, given back, never claimed.
    pub open: BatchId,
    /// Six rows: all succeeded, after an operator's retry of two.
    pub ended: BatchId,
    /// Six rows: one done, two that may still run, three never claimed.
    pub aborted: BatchId,
    /// Live; holds lines 7 and 8 of `open`, and 2 and 3 of `aborted`.
    pub first: LeaseId,
    /// Live; holds line 9 of `open`.
    pub second: LeaseId,
    /// Dead; held lines 4 and 5 of `open`.
    pub dead: LeaseId,
}

impl Scene {
    /// Plays it with leases from this number on.
    pub async fn play<S: Store + Loads + Operates>(store: &S, number: u64) -> Self {
        let [first, second, dead] = [0, 1, 2].map(|of| LeaseId::from_random(number * 10 + of));
        // Each batch is alone in its operation, so that claims go where they are meant to.
        let operation = |of: &str| format!("{of}-{number}");
        for lease in [first, second, dead] {
            take(store, lease).await;
        }

        let ended = load(store, &operation("ended"), 6).await;
        let grants = claim(store, first, 1, &operation("ended"), 6).await;
        record(store, first, &grants, |line| if line > 4 { failed() } else { success() }).await;
        store.retry(ended, RetryRows::Failed).await.unwrap();
        let grants = claim(store, first, 2, &operation("ended"), 6).await;
        record(store, first, &grants, |_| success()).await;

        let aborted = load(store, &operation("aborted"), 6).await;
        let grants = claim(store, first, 3, &operation("aborted"), 3).await;
        record(store, first, &part(&grants, 1..=1), |_| success()).await;
        store.abort(aborted).await.unwrap();

        let open = load(store, &operation("open"), 12).await;
        let grants = claim(store, first, 4, &operation("open"), 3).await;
        let retry = || Answer::Retry { error: "again".into(), jitter: u64::MAX, timed_out: false };
        let answer = |line| [success(), failed(), retry()].into_iter().nth(line as usize - 1).unwrap();
        record(store, first, &grants, answer).await;
        let late = claim(store, dead, 1, &operation("open"), 2).await;
        assert_eq!(die(store, dead).await, RecoverReply::Recovered { lines: 2, failed: 0 });
        assert_eq!(record(store, dead, &part(&late, 4..=4), |_| success()).await, [Verdict::Fenced]);
        let grants = claim(store, second, 1, &operation("open"), 2).await;
        assert_eq!(lines_of(&grants), LineSet::range(4, 5));
        record(store, second, &grants, |_| success()).await;
        let grants = claim(store, first, 5, &operation("open"), 3).await;
        record(store, first, &part(&grants, 6..=6), |_| success()).await;
        let grants = claim(store, second, 2, &operation("open"), 2).await;
        let back = (open, grants[0].token, LineSet::single(10));
        store.call(StoreRequest::GiveBack { lease: second, lines: vec![back] }).await.unwrap();
        Self { open, ended, aborted, first, second, dead }
    }

    /// These statements with the scene's numbers in them.
    fn fill(&self, sql: &str, dialect: Dialect) -> String {
        let span = |lines| match (dialect, lines) {
            (Dialect::Sqlite, "7") => "[[7,7]]",
            (Dialect::Sqlite, "2") => "[[2,2]]",
            (Dialect::Sqlite, "7-8") => "[[7,8]]",
            (Dialect::Postgres, "7") => "{[7,8)}",
            (Dialect::Postgres, "2") => "{[2,3)}",
            (Dialect::Postgres, "7-8") => "{[7,9)}",
            (Dialect::Sqlite, _) => "nonsense",
            (Dialect::Postgres, _) => "{(,)}",
        };
        let numbers = [
            ("$OPEN", self.open.number()),
            ("$ENDED", self.ended.number()),
            ("$ABORTED", self.aborted.number()),
            ("$FIRST", self.first.number()),
            ("$SECOND", self.second.number()),
            ("$DEAD", self.dead.number()),
        ];
        let filled = numbers.iter().fold(sql.to_owned(), |sql, (name, number)| sql.replace(name, &number.to_string()));
        let lines = [("$LINES_7_8", "7-8"), ("$LINES_7", "7"), ("$LINES_2", "2"), ("$NO_LINES", "")];
        lines.iter().fold(filled, |sql, (name, lines)| sql.replace(name, span(lines)))
    }
}

/// Whose SQL.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(dead_code)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// Postgres'.
    Postgres,
}

/// Something that nothing of fencepost ever does to a store.
pub struct Corruption {
    /// The statements, behind the store's back.
    pub sql: &'static str,
    /// The batch that is verified afterwards.
    pub of: Of,
    /// All that is then found, with the lines that are named.
    pub found: &'static [(&'static str, &'static str)],
}

/// One of the scene's batches.
#[derive(Clone, Copy)]
pub enum Of {
    Open,
    Ended,
    Aborted,
}

const fn of(of: Of, sql: &'static str, found: &'static [(&'static str, &'static str)]) -> Corruption {
    Corruption { sql, of, found }
}

use Of::{Aborted, Ended, Open};

/// One for each code at least. Each undoes nothing and is applied to a scene of its own.
pub const CORRUPTIONS: &[Corruption] = &[
    // Tiling.
    of(
        Open,
        "delete from outcomes where batch = $OPEN and line = 1",
        &[("row-lost", "{1}"), ("count-differs", "{}")],
    ),
    of(Open, "update batches set cursor = 13 where batch = $OPEN", &[("row-lost", "{11-12}")]),
    of(
        Open,
        "update spans set lines = '$LINES_7', line_count = 1 where batch = $OPEN and first_line in (6, 7)",
        &[("row-lost", "{8}")],
    ),
    of(
        Open,
        "insert into outcomes (batch, line, status, result, token, lease, attempts, crashes, generation, run_us, recorded_at)
         select batch, 7, status, result, token, lease, 1, 0, 1, 0, 0 from outcomes where batch = $OPEN and line = 6",
        &[("outcome-and-open", "{7}"), ("count-differs", "{}")],
    ),
    of(
        Open,
        "insert into spans (token, batch, lines, line_count, first_line, lease, claim_number)
         select token, batch, '$LINES_7_8', 2, 7, lease, 4 from outcomes where batch = $OPEN and line = 1",
        &[("two-spans", "{7-8}")],
    ),
    of(Open, "update batches set cursor = 9 where batch = $OPEN", &[("beyond-cursor", "{9-10}")]),
    of(
        Open,
        "insert into outcomes (batch, line, status, result, token, lease, attempts, crashes, generation, run_us, recorded_at)
         select batch, 99, status, result, token, lease, 1, 0, 1, 0, 0 from outcomes where batch = $OPEN and line = 6",
        &[("outside-batch", "{99}"), ("count-differs", "{}")],
    ),
    of(
        Open,
        "update spans set line_count = 7 where batch = $OPEN and first_line in (6, 7)",
        &[("span-miscounted", "{7-8}")],
    ),
    of(
        Open,
        "update spans set first_line = 8 where batch = $OPEN and first_line in (6, 7)",
        &[("span-miscounted", "{7-8}")],
    ),
    of(
        Open,
        "update spans set lines = '$NO_LINES' where batch = $OPEN and first_line in (6, 7)",
        &[("row-lost", "{7-8}"), ("span-unreadable", "{}")],
    ),
    // Inputs.
    of(Open, "delete from rows where batch = $OPEN and line in (3, 11)", &[("row-missing", "{3, 11}")]),
    of(Open, "update batches set total = 14 where batch = $OPEN", &[("row-missing", "{13-14}")]),
    of(Open, "insert into rows (batch, line, input) values ($OPEN, 20, '1')", &[("row-beyond", "{20}")]),
    of(
        Open,
        "insert into appends (append, batch, key, first_line, line_count, status, created_at, moved_at)
         values ($OPEN, $OPEN, 'k', 11, 5, 'done', 0, 0)",
        &[("append-differs", "{13-15}")],
    ),
    // Who holds what.
    of(
        Open,
        "update leases set state = 'dead', ended_at = 1 where lease = $FIRST",
        &[("held-by-ended-lease", "{7-8}")],
    ),
    of(Open, "delete from leases where lease = $SECOND", &[("held-by-unknown-lease", "{9}")]),
    of(Open, "update lease_claims set number = 4 where lease = $FIRST", &[("claim-unknown", "{7-8}")]),
    of(
        Open,
        "update leases set expires_at = 1 where lease = $FIRST; update leases set taken_at = 1 where lease = $SECOND",
        &[("recovery-overdue", "{7-8}")],
    ),
    // Tokens and the fence.
    of(
        Open,
        "update outcomes set token = 1000000000000 where batch = $OPEN and line = 1",
        &[("token-not-issued", "{1}")],
    ),
    of(
        Open,
        "update outcomes set lease = $FIRST where batch = $OPEN and line = 4",
        &[("token-shared", "{4-5}")],
    ),
    of(
        Open,
        "update outcomes set lease = $FIRST,
            token = (select o.token from outcomes o where o.batch = $OPEN and o.line = 1)
         where batch = $OPEN and line = 5",
        &[("token-not-newest", "{5}")],
    ),
    of(
        Open,
        "update attempts set token = (select max(token) from spans) where batch = $OPEN and kind = 'given_back'",
        &[("token-shared", "{10}"), ("token-not-newest", "{10}")],
    ),
    of(
        Open,
        "update outcomes set lease = $DEAD,
            token = (select a.token from attempts a where a.batch = $OPEN and a.kind = 'fenced')
         where batch = $OPEN and line = 4",
        &[("recorded-after-loss", "{4}"), ("fenced-wrongly", "{4}")],
    ),
    of(
        Open,
        "update attempts set token = 1000000000000 where batch = $OPEN and kind = 'fenced'",
        &[("fenced-wrongly", "{4}")],
    ),
    of(
        Ended,
        "update outcomes set token = (
            select a.token from attempts a where a.batch = $ENDED and a.kind = 'superseded' and a.first_line = 5
         )
         where batch = $ENDED and line = 5",
        &[("recorded-twice", "{5}")],
    ),
    // What outcomes and stories say.
    of(Open, "update outcomes set attempts = 3 where batch = $OPEN and line = 1", &[("attempts-differ", "{1}")]),
    of(Open, "update outcomes set crashes = 2 where batch = $OPEN and line = 1", &[("crashes-differ", "{1}")]),
    of(Open, "update outcomes set result = null where batch = $OPEN and line = 1", &[("outcome-incomplete", "{1}")]),
    of(Open, "update outcomes set generation = 9 where batch = $OPEN and line = 1", &[("generation-unknown", "{1}")]),
    of(
        Open,
        "insert into attempts (batch, generation, first_line, last_line, token, kind, lease, at)
         select batch, 1, 6, 6, token, 'crash_withdrawn', lease, 0 from outcomes where batch = $OPEN and line = 6",
        &[("withdrawn-without-crash", "{6}")],
    ),
    of(
        Open,
        "delete from attempts where batch = $OPEN and kind = 'retried'",
        &[("count-differs", "{}")],
    ),
    of(
        Open,
        "update tallies set success = success + 1 where batch = $OPEN and lease = $FIRST",
        &[("count-differs", "{}")],
    ),
    // The end.
    of(
        Ended,
        "delete from outcomes where batch = $ENDED and line = 3",
        &[("row-lost", "{3}"), ("count-differs", "{}"), ("call-differs", "{}")],
    ),
    of(
        Ended,
        "insert into spans (token, batch, lines, line_count, first_line)
         select max(token) - 1, $ENDED, '$LINES_2', 1, 2 from outcomes where batch = $ENDED",
        &[("outcome-and-open", "{2}"), ("span-in-ended-batch", "{2}")],
    ),
    of(Ended, "update batches set cursor = 3 where batch = $ENDED", &[("cursor-behind", "{}")]),
    of(
        Ended,
        "update batches set status = 'failed' where batch = $ENDED",
        &[("batch-status", "{}"), ("call-differs", "{}")],
    ),
    of(Ended, "update batches set ended_at = null where batch = $ENDED", &[("batch-end-time", "{}")]),
    of(
        Ended,
        "update batches set status = 'open', ended_at = null where batch = $ENDED",
        &[("batch-not-ended", "{}"), ("call-without-end", "{}")],
    ),
    of(
        Ended,
        "insert into purges (batch, line_count, last_line, began_at) values ($ENDED, 6, 6, 0)",
        &[("purge-begun", "{}")],
    ),
    // Completion calls.
    of(Ended, "delete from completions where batch = $ENDED and generation = 1", &[("call-missing", "{}")]),
    of(
        Ended,
        "update completions set generation = 3 where batch = $ENDED and generation = 2",
        &[("call-missing", "{}"), ("call-without-end", "{}")],
    ),
    of(
        Ended,
        "update completions set success = success - 1 where batch = $ENDED and generation = 2",
        &[("call-differs", "{}")],
    ),
    of(
        Ended,
        "update completions set lease = $DEAD, token = 1 where batch = $ENDED and generation = 2",
        &[("call-held-wrongly", "{}")],
    ),
    // An abort.
    of(
        Aborted,
        "insert into outcomes (batch, line, status, result, token, lease, attempts, crashes, generation, run_us, recorded_at)
         select batch, 2, status, result, token, lease, 1, 0, 1, 0, 0 from outcomes where batch = $ABORTED and line = 1",
        &[("count-differs", "{}"), ("call-differs", "{}"), ("stopping-wrong", "{2-3}")],
    ),
    of(
        Aborted,
        "update batches set status = 'open', ended_at = null where batch = $ABORTED",
        &[("row-lost", "{2-3}"), ("call-without-end", "{}"), ("stopping-wrong", "{2-3}")],
    ),
];

/// What a report names.
pub fn named(report: &VerifyReport) -> Vec<(&'static str, String)> {
    report.findings.iter().map(|finding| (finding.code.name(), format!("{:?}", finding.lines))).collect()
}

/// The scene's batch, as the store shows it.
pub async fn verified(store: &impl Verifies, batch: BatchId) -> VerifyReport {
    let mut verification = Verification::default();
    assert!(store.inspect(batch, &mut verification).await.unwrap(), "{batch} is not there");
    verification.finish().unwrap()
}

impl Corruption {
    /// The statements for this scene.
    pub fn statements(&self, scene: &Scene, dialect: Dialect) -> String {
        scene.fill(self.sql, dialect)
    }

    /// The batch that it is about.
    pub fn batch(&self, scene: &Scene) -> BatchId {
        match self.of {
            Open => scene.open,
            Ended => scene.ended,
            Aborted => scene.aborted,
        }
    }

    /// What is wrong with what was found, if anything is.
    pub fn missed(&self, report: &VerifyReport) -> Option<String> {
        let found: Vec<(&str, String)> = named(report);
        let expected: Vec<(&str, String)> =
            self.found.iter().map(|(code, lines)| (*code, (*lines).to_owned())).collect();
        (found != expected).then(|| format!("{}\n  found {found:?}\n  and not {expected:?}", self.sql))
    }
}

/// Every code is named by some corruption, but those that take away a guard of the table's own.
pub fn assert_all_codes_occur(others: &[&str]) {
    let mut occurs: BTreeMap<&str, usize> = BTreeMap::new();
    for (code, _) in CORRUPTIONS.iter().flat_map(|corruption| corruption.found) {
        *occurs.entry(code).or_default() += 1;
    }
    let missing: Vec<&str> = fencepost::report::verify::code::Code::ALL
        .iter()
        .map(|code| code.name())
        .filter(|name| !occurs.contains_key(name) && !others.contains(name))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

pub fn success() -> Answer {
    Answer::Success("1".into())
}

pub fn failed() -> Answer {
    Answer::Failed("no".into())
}

pub async fn take(store: &impl Store, lease: LeaseId) {
    let take = TakeLease {
        lease,
        worker: format!("worker-{lease}"),
        stable_name: false,
        ttl: Duration::from_secs(600),
        renew: Duration::from_secs(300),
        process: None,
        operations: Vec::new(),
        calls: Default::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.unwrap();
}

/// The lease's process is gone, and somebody sees it.
pub async fn die(store: &impl Store, lease: LeaseId) -> RecoverReply {
    let recover = Recover { lease, renewals: 0, seen_at: StoreTime(0), cause: EndCause::Died, judge: None };
    match store.call(StoreRequest::Recover(recover)).await.unwrap() {
        StoreReply::Recover(reply) => reply,
        other => panic!("{other:?}"),
    }
}

pub async fn load(store: &impl Loads, operation: &str, rows: u64) -> BatchId {
    let batch = store.begin_load(BatchSpec::new(operation)).await.unwrap();
    let inputs: Vec<Box<str>> = (1..=rows).map(|line| line.to_string().into()).collect();
    store.load_rows(batch, 1, &inputs).await.unwrap();
    store.finish_load(batch, LoadEnd { key: None, digest: String::new(), total: rows }).await.unwrap();
    batch
}

pub async fn claim(store: &impl Store, lease: LeaseId, number: u64, operation: &str, lines_max: u64) -> Vec<Grant> {
    let operations = vec![operation.to_owned()];
    let claim = Claim { lease, number, operations, lines_max, bytes_max: 1 << 20, idle: true };
    match store.call(StoreRequest::Claim(claim)).await.unwrap() {
        StoreReply::Claim(ClaimReply::Granted { grants, .. }) => grants,
        other => panic!("{other:?}"),
    }
}

pub async fn record(
    store: &impl Store,
    lease: LeaseId,
    grants: &[Grant],
    answer: impl Fn(u64) -> Answer,
) -> Vec<Verdict> {
    let items = grants.iter().flat_map(|grant| {
        grant.rows.iter().map(|row| RecordItem {
            batch: grant.batch,
            line: row.line,
            token: grant.token,
            answer: answer(row.line),
            run_time: Duration::from_millis(1),
        })
    });
    match store.call(StoreRequest::Record(Record { lease, items: items.collect() })).await.unwrap() {
        StoreReply::Record(verdicts) => verdicts,
        other => panic!("{other:?}"),
    }
}

fn lines_of(grants: &[Grant]) -> LineSet {
    grants.iter().flat_map(|grant| grant.rows.iter().map(|row| row.line)).collect()
}

/// These lines of the grants.
fn part(grants: &[Grant], lines: std::ops::RangeInclusive<u64>) -> Vec<Grant> {
    let mut grants = grants.to_vec();
    grants.iter_mut().for_each(|grant| grant.rows.retain(|row| lines.contains(&row.line)));
    grants
}
