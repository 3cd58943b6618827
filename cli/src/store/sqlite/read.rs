//! What people see: batches, counts, workers, rows, results. Each call reads one snapshot and never scans the rows.

use fencepost_core::rules::claim::BatchStatus;
use fencepost_core::rules::lease::LeaseState;
use fencepost_core::store::ProcessIdentity;
use fencepost_core::{BatchId, LeaseId, LineSet, StoreTime, Token};
use sqlx::SqliteConnection;
use std::collections::BTreeMap;
use std::time::Duration;

use super::codec::{
    batch_status, from_millis, int, json, lease_state, lines_from_json, names_from_json, natural, ranges, small,
};
use super::lease::process;
use super::trouble::Trouble;
use super::{SqliteStore, StoreError};

/// What a prefix of a batch's id names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// One batch.
    Found(BatchId),
    /// No batch.
    None,
    /// Several; these are the first of them.
    Ambiguous(Vec<BatchId>),
}

/// A batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchView {
    /// Its id.
    pub batch: BatchId,
    /// The submitter's own name for it.
    pub key: Option<String>,
    /// Of the content.
    pub digest: Option<String>,
    /// Names the handler.
    pub operation: String,
    /// Where it is in its life.
    pub status: BatchStatus,
    /// S3: not claimed for now.
    pub held: bool,
    /// Higher comes first.
    pub priority: i32,
    /// How many rows.
    pub total: u64,
    /// The first line that was never claimed.
    pub cursor: u64,
    /// S5: goes up when it is opened again.
    pub generation: u32,
    /// How many attempts a row has.
    pub attempts_max: u32,
    /// How many crashes a row may cause before it fails.
    pub crashes_max: u32,
    /// How long a run may take.
    pub timeout: Duration,
    /// The input's columns, where it had a header.
    pub header: Option<Vec<String>>,
    /// The input's name.
    pub source: Option<String>,
    /// When its load began.
    pub created_at: StoreTime,
    /// When its load ended (last moved, while it is loading).
    pub loaded_at: Option<StoreTime>,
    /// When it ended.
    pub ended_at: Option<StoreTime>,
}

/// A batch's counts at one moment. The first five add up to its total.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchCounts {
    /// The batch.
    pub batch: BatchView,
    /// The store's clock.
    pub now: StoreTime,
    /// Rows that wait.
    pub queued: u64,
    /// Rows that a worker holds.
    pub inprog: u64,
    /// Rows recorded as success.
    pub success: u64,
    /// Rows recorded as failed.
    pub failed: u64,
    /// Rows without an outcome in an aborted batch.
    pub aborted: u64,
    /// Attempts that were retried.
    pub retried: u64,
    /// Attempts that ran past their time.
    pub timed_out: u64,
    /// Answers that were dropped by the fence.
    pub fenced: u64,
    /// Deaths counted against rows, less those taken back.
    pub crashed: u64,
    /// How often a line came back from a dead worker.
    pub recovered: u64,
    /// When the next row that was given back may be claimed, where rows wait for that.
    pub next_not_before: Option<StoreTime>,
}

/// A lease and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    /// The lease.
    pub lease: LeaseId,
    /// The worker's name.
    pub worker: String,
    /// Whether a person chose the name.
    pub stable_name: bool,
    /// Where the lease is in its life.
    pub state: LeaseState,
    /// How long it lasts without a renewal.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// Until when it lasts.
    pub expires_at: StoreTime,
    /// How often it was renewed.
    pub renewals: u64,
    /// The worker's process.
    pub process: Option<ProcessIdentity>,
    /// The operations that the worker has a handler for.
    pub operations: Vec<String>,
    /// When it was taken.
    pub taken_at: StoreTime,
    /// When it ended.
    pub ended_at: Option<StoreTime>,
    /// The judge that ended it.
    pub ended_by: Option<LeaseId>,
    /// The lines it holds.
    pub holds: Vec<(BatchId, LineSet)>,
}

/// All workers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkersView {
    /// The store's clock.
    pub now: StoreTime,
    /// Live ones first, then those that ended lately, the latest first.
    pub workers: Vec<WorkerView>,
}

/// A row's status, derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowStatus {
    /// It waits.
    Queued,
    /// A worker holds it.
    InProg,
    /// Recorded.
    Success,
    /// Recorded.
    Failed,
    /// Its batch was aborted before it was recorded.
    Aborted,
}

impl RowStatus {
    /// Its name in SQL, JSON and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProg => "inprog",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A row and what it came to.
#[derive(Debug, Clone, PartialEq)]
pub struct RowView {
    /// Its place in the batch.
    pub line: u64,
    /// Its status.
    pub status: RowStatus,
    /// Its input, as JSON text.
    pub input: Box<str>,
    /// Its outcome.
    pub outcome: Option<OutcomeView>,
}

/// A recorded outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct OutcomeView {
    /// Whether it is a success.
    pub success: bool,
    /// Of a success: JSON text.
    pub result: Option<Box<str>>,
    /// Of a failure.
    pub error: Option<Box<str>>,
    /// Under which token.
    pub token: Token,
    /// By which lease.
    pub lease: LeaseId,
    /// By which worker, where the lease is known.
    pub worker: Option<String>,
    /// Attempts used, this one included.
    pub attempts: u32,
    /// Crashes counted.
    pub crashes: u32,
    /// How long the run took.
    pub run_time: Duration,
    /// When it was recorded.
    pub recorded_at: StoreTime,
}

/// An entry of a row's story.
#[derive(Debug, Clone, PartialEq)]
pub struct StoryEntry {
    /// When.
    pub at: StoreTime,
    /// What: retried, timed_out, crashed, crash_withdrawn, fenced, recovered, given_back, superseded.
    pub kind: String,
    /// In which generation of the batch.
    pub generation: u32,
    /// Under which token the line was held.
    pub token: Token,
    /// By which lease.
    pub lease: LeaseId,
    /// By which worker, where the lease is known.
    pub worker: Option<String>,
    /// The judge that recovered it.
    pub judge: Option<LeaseId>,
    /// The error, the dropped answer, the cause.
    pub detail: Option<String>,
    /// How long the run took.
    pub run_time: Option<Duration>,
}

/// The span that has a row now.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanView {
    /// Its token.
    pub token: Token,
    /// Who holds it; nobody: it is free.
    pub lease: Option<LeaseId>,
    /// The holder's name.
    pub worker: Option<String>,
    /// Not claimed before.
    pub not_before: Option<StoreTime>,
    /// P2: how many deaths its lines were in.
    pub suspicion: u32,
}

/// Everything known of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowStory {
    /// The store's clock.
    pub now: StoreTime,
    /// The row as it is now.
    pub row: RowView,
    /// What happened to it, in the order of time.
    pub entries: Vec<StoryEntry>,
    /// The span that has it; `None` if it was never claimed or is done.
    pub span: Option<SpanView>,
}

/// A page of rows, and from where to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPage {
    /// The rows, in order.
    pub rows: Vec<RowView>,
    /// Ask for lines after this one next; `None`: that was all.
    pub next_after: Option<u64>,
}

/// At most so many candidates of an ambiguous prefix are named.
const CANDIDATES_MAX: usize = 10;

impl SqliteStore {
    /// The batch that this prefix of an id names.
    pub async fn resolve_batch(&self, prefix: &str) -> Result<Resolved, StoreError> {
        let mut read = self.begin_read().await?;
        let resolved = resolve(&mut read, &prefix.to_ascii_lowercase()).await;
        self.end_read(read, resolved).await
    }

    /// One batch.
    pub async fn batch(&self, batch: BatchId) -> Result<Option<BatchView>, StoreError> {
        let mut read = self.begin_read().await?;
        let view = one_batch(&mut read, batch).await;
        self.end_read(read, view).await
    }

    /// The batch under this key.
    pub async fn batch_of_key(&self, key: &str) -> Result<Option<BatchView>, StoreError> {
        let mut read = self.begin_read().await?;
        let view = batch_of_key(&mut read, key).await;
        self.end_read(read, view).await
    }

    /// All batches, the newest first; loads under way too.
    pub async fn batches(&self) -> Result<Vec<BatchView>, StoreError> {
        let mut read = self.begin_read().await?;
        let views = all_batches(&mut read).await;
        self.end_read(read, views).await
    }

    /// A batch's counts.
    pub async fn status(&self, batch: BatchId) -> Result<Option<BatchCounts>, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let counts = counts(&mut read, now, batch).await;
        self.end_read(read, counts).await
    }

    /// Workers: the live ones, and those whose leases ended at this time or later.
    pub async fn workers(&self, ended_since: StoreTime) -> Result<WorkersView, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let workers = workers(&mut read, ended_since).await;
        let workers = self.end_read(read, workers).await?;
        Ok(WorkersView { now, workers })
    }

    /// Everything known of one row.
    pub async fn row_story(&self, batch: BatchId, line: u64) -> Result<Option<RowStory>, StoreError> {
        let mut read = self.begin_read().await?;
        let now = self.inner.clock.now();
        let story = story(&mut read, now, batch, line).await;
        self.end_read(read, story).await
    }

    /// Rows in order, a page at a time: those after this line, all or of one status. Empty for a batch that is not there or
    /// still loads.
    pub async fn rows(
        &self,
        batch: BatchId,
        status: Option<RowStatus>,
        after_line: u64,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        let mut read = self.begin_read().await?;
        let page = page(&mut read, batch, status, after_line, limit).await;
        self.end_read(read, page).await
    }

    /// Results in input order, a page at a time; only rows that have an outcome.
    pub async fn results(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
        failed_only: bool,
    ) -> Result<RowPage, StoreError> {
        let mut read = self.begin_read().await?;
        let page = results(&mut read, batch, after_line, limit, failed_only).await;
        self.end_read(read, page).await
    }

    /// Inputs in order, a page at a time.
    pub async fn inputs(
        &self,
        batch: BatchId,
        after_line: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        let mut read = self.begin_read().await?;
        let page = inputs(&mut read, batch, after_line, limit).await;
        self.end_read(read, page).await
    }
}

const IDS_WITH_PREFIX: &str = "\
select batch from batches
where id >= ?1 and id < ?1 || '~'
order by id
limit ?2";

async fn resolve(conn: &mut SqliteConnection, prefix: &str) -> Result<Resolved, Trouble> {
    let limit = i64::try_from(CANDIDATES_MAX).unwrap_or(i64::MAX);
    let found: Vec<i64> = sqlx::query_scalar(IDS_WITH_PREFIX).bind(prefix).bind(limit).fetch_all(conn).await?;
    let found = found.into_iter().map(batch_id).collect::<Result<Vec<_>, _>>()?;
    Ok(match found.as_slice() {
        [] => Resolved::None,
        [one] => Resolved::Found(*one),
        _ => Resolved::Ambiguous(found),
    })
}

fn batch_id(number: i64) -> Result<BatchId, Trouble> {
    natural(number).map(BatchId::from_random)
}

fn lease_id(number: i64) -> Result<LeaseId, Trouble> {
    natural(number).map(LeaseId::from_random)
}

#[derive(sqlx::FromRow)]
struct BatchRecord {
    batch: i64,
    key: Option<String>,
    digest: Option<String>,
    operation: String,
    status: String,
    held: bool,
    priority: i32,
    total: i64,
    cursor: i64,
    generation: i64,
    attempts_max: i64,
    crashes_max: i64,
    timeout_ms: i64,
    header: Option<String>,
    source: Option<String>,
    created_at: i64,
    loaded_at: Option<i64>,
    ended_at: Option<i64>,
}

impl TryFrom<BatchRecord> for BatchView {
    type Error = Trouble;

    fn try_from(record: BatchRecord) -> Result<Self, Trouble> {
        Ok(Self {
            batch: batch_id(record.batch)?,
            key: record.key,
            digest: record.digest,
            operation: record.operation,
            status: batch_status(&record.status)?,
            held: record.held,
            priority: record.priority,
            total: natural(record.total)?,
            cursor: natural(record.cursor)?,
            generation: small(record.generation)?,
            attempts_max: small(record.attempts_max)?,
            crashes_max: small(record.crashes_max)?,
            timeout: from_millis(record.timeout_ms)?,
            header: record.header.as_deref().map(names_from_json).transpose()?,
            source: record.source,
            created_at: StoreTime(record.created_at),
            loaded_at: record.loaded_at.map(StoreTime),
            ended_at: record.ended_at.map(StoreTime),
        })
    }
}

const BATCH: &str = "\
select batch, key, digest, operation, status, held, priority, total, cursor, generation, attempts_max, crashes_max,
       timeout_ms, header, source, created_at, loaded_at, ended_at
from batches
where batch = ?1";

async fn one_batch(conn: &mut SqliteConnection, batch: BatchId) -> Result<Option<BatchView>, Trouble> {
    let record: Option<BatchRecord> = sqlx::query_as(BATCH).bind(int(batch.number())).fetch_optional(conn).await?;
    record.map(BatchView::try_from).transpose()
}

const BATCH_OF_KEY: &str = "\
select batch, key, digest, operation, status, held, priority, total, cursor, generation, attempts_max, crashes_max,
       timeout_ms, header, source, created_at, loaded_at, ended_at
from batches
where key = ?1";

async fn batch_of_key(conn: &mut SqliteConnection, key: &str) -> Result<Option<BatchView>, Trouble> {
    let record: Option<BatchRecord> = sqlx::query_as(BATCH_OF_KEY).bind(key).fetch_optional(conn).await?;
    record.map(BatchView::try_from).transpose()
}

const ALL_BATCHES: &str = "\
select batch, key, digest, operation, status, held, priority, total, cursor, generation, attempts_max, crashes_max,
       timeout_ms, header, source, created_at, loaded_at, ended_at
from batches
order by created_at desc, batch";

async fn all_batches(conn: &mut SqliteConnection) -> Result<Vec<BatchView>, Trouble> {
    let records: Vec<BatchRecord> = sqlx::query_as(ALL_BATCHES).fetch_all(conn).await?;
    records.into_iter().map(BatchView::try_from).collect()
}

#[derive(sqlx::FromRow)]
struct CountsRecord {
    success: i64,
    failed: i64,
    retried: i64,
    timed_out: i64,
    fenced: i64,
    inprog: i64,
    crashed: i64,
    withdrawn: i64,
    recovered: i64,
    next_not_before: Option<i64>,
}

const COUNTS: &str = "\
select coalesce(sum(t.success), 0) as success, coalesce(sum(t.failed), 0) as failed,
       coalesce(sum(t.retried), 0) as retried, coalesce(sum(t.timed_out), 0) as timed_out,
       coalesce(sum(t.fenced), 0) as fenced,
       (select coalesce(sum(s.line_count), 0) from spans s indexed by spans_held
        where s.lease is not null and s.batch = ?1) as inprog,
       coalesce(d.crashed, 0) as crashed, coalesce(d.withdrawn, 0) as withdrawn, coalesce(d.recovered, 0) as recovered,
       (select s.not_before from spans s indexed by spans_waiting
        where s.lease is null and s.not_before is not null and s.not_before > ?2 and s.batch = ?1
        order by s.not_before limit 1) as next_not_before
from (
    select sum(a.kind = 'crashed') as crashed, sum(a.kind = 'crash_withdrawn') as withdrawn,
           sum(iif(a.kind = 'recovered', a.last_line - a.first_line + 1, 0)) as recovered
    from attempts a indexed by attempts_deaths
    where a.batch = ?1 and a.kind in ('crashed', 'crash_withdrawn', 'recovered')
) as d
left join tallies t on t.batch = ?1";

async fn counts(conn: &mut SqliteConnection, now: StoreTime, batch: BatchId) -> Result<Option<BatchCounts>, Trouble> {
    let Some(view) = one_batch(conn, batch).await? else { return Ok(None) };
    let record: CountsRecord = sqlx::query_as(COUNTS).bind(int(batch.number())).bind(now.0).fetch_one(conn).await?;
    let (success, failed, inprog) = (natural(record.success)?, natural(record.failed)?, natural(record.inprog)?);
    let loaded = if view.status == BatchStatus::Loading { 0 } else { view.total };
    let rest = loaded
        .checked_sub(success + failed + inprog)
        .ok_or_else(|| Trouble::damaged(format!("batch {batch} has more outcomes than rows")))?;
    let aborted = view.status == BatchStatus::Aborted;
    Ok(Some(BatchCounts {
        now,
        queued: if aborted { 0 } else { rest },
        inprog,
        success,
        failed,
        aborted: if aborted { rest } else { 0 },
        retried: natural(record.retried)?,
        timed_out: natural(record.timed_out)?,
        fenced: natural(record.fenced)?,
        crashed: natural(record.crashed.saturating_sub(record.withdrawn))?,
        recovered: natural(record.recovered)?,
        next_not_before: record.next_not_before.map(StoreTime),
        batch: view,
    }))
}

#[derive(sqlx::FromRow)]
struct WorkerRecord {
    lease: i64,
    worker: String,
    stable_name: bool,
    state: String,
    ttl_ms: i64,
    renew_ms: i64,
    expires_at: i64,
    renewals: i64,
    machine: Option<String>,
    pid: Option<i64>,
    start_ticks: Option<i64>,
    operations: String,
    taken_at: i64,
    ended_at: Option<i64>,
    ended_by: Option<i64>,
}

const WORKERS: &str = "\
select lease, worker, stable_name, state, ttl_ms, renew_ms, expires_at, renewals, machine, pid, start_ticks, operations,
       taken_at, ended_at, ended_by
from leases
where state = 'live' or ended_at >= ?1
order by state <> 'live', ended_at desc, worker, lease";

const HELD_LINES: &str = "\
select lease, batch, lines from spans
where lease is not null
order by lease, batch";

async fn workers(conn: &mut SqliteConnection, ended_since: StoreTime) -> Result<Vec<WorkerView>, Trouble> {
    let records: Vec<WorkerRecord> = sqlx::query_as(WORKERS).bind(ended_since.0).fetch_all(&mut *conn).await?;
    let spans: Vec<(i64, i64, String)> = sqlx::query_as(HELD_LINES).fetch_all(conn).await?;
    let mut held: BTreeMap<i64, BTreeMap<BatchId, LineSet>> = BTreeMap::new();
    for (lease, batch, lines) in spans {
        let set = held.entry(lease).or_default().entry(batch_id(batch)?).or_default();
        *set = set.union(&lines_from_json(&lines)?);
    }
    let view = |record: WorkerRecord| {
        let holds = held.remove(&record.lease).unwrap_or_default();
        worker_view(record, holds.into_iter().collect())
    };
    records.into_iter().map(view).collect()
}

fn worker_view(record: WorkerRecord, holds: Vec<(BatchId, LineSet)>) -> Result<WorkerView, Trouble> {
    Ok(WorkerView {
        lease: lease_id(record.lease)?,
        worker: record.worker,
        stable_name: record.stable_name,
        state: lease_state(&record.state)?,
        ttl: from_millis(record.ttl_ms)?,
        renew: from_millis(record.renew_ms)?,
        expires_at: StoreTime(record.expires_at),
        renewals: natural(record.renewals)?,
        process: process(record.machine, record.pid, record.start_ticks)?,
        operations: names_from_json(&record.operations)?,
        taken_at: StoreTime(record.taken_at),
        ended_at: record.ended_at.map(StoreTime),
        ended_by: record.ended_by.map(lease_id).transpose()?,
        holds,
    })
}

#[derive(sqlx::FromRow)]
struct RowRecord {
    line: i64,
    input: String,
    status: Option<String>,
    result: Option<String>,
    error: Option<String>,
    token: Option<i64>,
    lease: Option<i64>,
    worker: Option<String>,
    attempts: Option<i64>,
    crashes: Option<i64>,
    run_us: Option<i64>,
    recorded_at: Option<i64>,
}

impl RowRecord {
    fn outcome(self) -> Result<Option<OutcomeView>, Trouble> {
        let (Some(status), Some(token), Some(lease)) = (self.status, self.token, self.lease) else { return Ok(None) };
        Ok(Some(OutcomeView {
            success: status == "success",
            result: self.result.map(String::into_boxed_str),
            error: self.error.map(String::into_boxed_str),
            token: Token(natural(token)?),
            lease: lease_id(lease)?,
            worker: self.worker,
            attempts: small(self.attempts.unwrap_or_default())?,
            crashes: small(self.crashes.unwrap_or_default())?,
            run_time: Duration::from_micros(natural(self.run_us.unwrap_or_default())?),
            recorded_at: StoreTime(self.recorded_at.unwrap_or_default()),
        }))
    }
}

/// What tells the status of rows without an outcome.
struct Derive {
    aborted: bool,
    held: LineSet,
}

impl Derive {
    fn view(&self, mut record: RowRecord) -> Result<RowView, Trouble> {
        let line = natural(record.line)?;
        let input = std::mem::take(&mut record.input).into_boxed_str();
        let outcome = record.outcome()?;
        let status = match &outcome {
            Some(outcome) if outcome.success => RowStatus::Success,
            Some(_) => RowStatus::Failed,
            None if self.aborted => RowStatus::Aborted,
            None if self.held.contains(line) => RowStatus::InProg,
            None => RowStatus::Queued,
        };
        Ok(RowView { line, status, input, outcome })
    }
}

const HELD_OF_BATCH: &str = "\
select lines from spans indexed by spans_held
where lease is not null and batch = ?1";

const FREE_OF_BATCH: &str = "\
select lines from spans indexed by spans_free
where lease is null and batch = ?1 and first_line <= ?2
order by first_line";

async fn derive(conn: &mut SqliteConnection, batch: &BatchView) -> Result<Derive, Trouble> {
    let lines: Vec<String> = sqlx::query_scalar(HELD_OF_BATCH).bind(int(batch.batch.number())).fetch_all(conn).await?;
    Ok(Derive { aborted: batch.status == BatchStatus::Aborted, held: union_of(&lines)? })
}

fn union_of(texts: &[String]) -> Result<LineSet, Trouble> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for text in texts {
        all.extend(ranges(&lines_from_json(text)?));
    }
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match joined.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    LineSet::from_ranges(joined).ok_or_else(|| Trouble::damaged("spans overlap"))
}

const PAGE: &str = "\
select r.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from rows r
left join outcomes o on o.batch = r.batch and o.line = r.line
left join leases w on w.lease = o.lease
where r.batch = ?1 and r.line > ?2 and r.line <= ?4
order by r.line
limit ?3";

const PAGE_WITHOUT_OUTCOME: &str = "\
select r.line, r.input, null as status, null as result, null as error, null as token, null as lease, null as worker,
       null as attempts, null as crashes, null as run_us, null as recorded_at
from rows r
where r.batch = ?1 and r.line > ?2 and r.line <= ?4
  and not exists (select 1 from outcomes o where o.batch = r.batch and o.line = r.line)
order by r.line
limit ?3";

async fn page(
    conn: &mut SqliteConnection,
    batch: BatchId,
    status: Option<RowStatus>,
    after_line: u64,
    limit: u32,
) -> Result<RowPage, Trouble> {
    let view = one_batch(conn, batch).await?.filter(|view| view.status != BatchStatus::Loading);
    let Some(view) = view else { return Ok(RowPage { rows: Vec::new(), next_after: None }) };
    let derive = derive(conn, &view).await?;
    let statement = match status {
        None => PAGE,
        Some(RowStatus::Success) => {
            return results_with(conn, SUCCESS_RESULTS, &derive, batch, after_line, limit).await;
        }
        Some(RowStatus::Failed) => return results_with(conn, FAILED_RESULTS, &derive, batch, after_line, limit).await,
        Some(RowStatus::Aborted) if !derive.aborted => return Ok(RowPage { rows: Vec::new(), next_after: None }),
        Some(RowStatus::Aborted) => PAGE_WITHOUT_OUTCOME,
        Some(RowStatus::InProg) => {
            let lines = derive.held.clone();
            return page_of_lines(conn, &derive, batch, lines, after_line, limit).await;
        }
        Some(RowStatus::Queued) => {
            let lines = queued_lines(conn, &view, after_line, limit).await?;
            return page_of_lines(conn, &derive, batch, lines, after_line, limit).await;
        }
    };
    let records: Vec<RowRecord> = sqlx::query_as(statement)
        .bind(int(batch.number()))
        .bind(int(after_line))
        .bind(limit)
        .bind(int(view.total))
        .fetch_all(conn)
        .await?;
    whole_page(&derive, records, limit)
}

fn whole_page(derive: &Derive, records: Vec<RowRecord>, limit: u32) -> Result<RowPage, Trouble> {
    let rows: Vec<RowView> = records.into_iter().map(|record| derive.view(record)).collect::<Result<_, _>>()?;
    let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next_after = rows.last().filter(|_| full).map(|row| row.line);
    Ok(RowPage { rows, next_after })
}

/// The lines of free spans and the fresh ones, as far as a page after this line needs them.
async fn queued_lines(
    conn: &mut SqliteConnection,
    batch: &BatchView,
    after_line: u64,
    limit: u32,
) -> Result<LineSet, Trouble> {
    if batch.status != BatchStatus::Open {
        return Ok(LineSet::new());
    }
    let from = batch.cursor.max(after_line.saturating_add(1));
    let fresh = LineSet::range(from, batch.total.min(from.saturating_add(u64::from(limit))));
    let lines: Vec<String> = sqlx::query_scalar(FREE_OF_BATCH)
        .bind(int(batch.batch.number()))
        .bind(int(batch.total))
        .fetch_all(conn)
        .await?;
    Ok(union_of(&lines)?.union(&fresh))
}

const PAGE_OF_RANGES: &str = "\
select r.line, r.input, null as status, null as result, null as error, null as token, null as lease, null as worker,
       null as attempts, null as crashes, null as run_us, null as recorded_at
from json_each(?2) as range
cross join rows r on r.batch = ?1 and r.line between range.value ->> 0 and range.value ->> 1";

async fn page_of_lines(
    conn: &mut SqliteConnection,
    derive: &Derive,
    batch: BatchId,
    lines: LineSet,
    after_line: u64,
    limit: u32,
) -> Result<RowPage, Trouble> {
    let lines = lines.intersection(&LineSet::range(after_line.saturating_add(1), u64::MAX));
    let (lines, _) = lines.split_first(u64::from(limit));
    let records: Vec<RowRecord> =
        sqlx::query_as(PAGE_OF_RANGES).bind(int(batch.number())).bind(json(&ranges(&lines))?).fetch_all(conn).await?;
    whole_page(derive, records, limit)
}

const ALL_RESULTS: &str = "\
select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from outcomes o
join rows r on r.batch = o.batch and r.line = o.line
left join leases w on w.lease = o.lease
where o.batch = ?1 and o.line > ?2
order by o.line
limit ?3";

const FAILED_RESULTS: &str = "\
select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from outcomes o indexed by outcomes_failed
join rows r on r.batch = o.batch and r.line = o.line
left join leases w on w.lease = o.lease
where o.batch = ?1 and o.line > ?2 and o.status = 'failed'
order by o.line
limit ?3";

const SUCCESS_RESULTS: &str = "\
select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
from outcomes o
join rows r on r.batch = o.batch and r.line = o.line
left join leases w on w.lease = o.lease
where o.batch = ?1 and o.line > ?2 and o.status = 'success'
order by o.line
limit ?3";

async fn results(
    conn: &mut SqliteConnection,
    batch: BatchId,
    after_line: u64,
    limit: u32,
    failed_only: bool,
) -> Result<RowPage, Trouble> {
    let derive = Derive { aborted: false, held: LineSet::new() };
    let statement = if failed_only { FAILED_RESULTS } else { ALL_RESULTS };
    results_with(conn, statement, &derive, batch, after_line, limit).await
}

async fn results_with(
    conn: &mut SqliteConnection,
    statement: &'static str,
    derive: &Derive,
    batch: BatchId,
    after_line: u64,
    limit: u32,
) -> Result<RowPage, Trouble> {
    let records: Vec<RowRecord> =
        sqlx::query_as(statement).bind(int(batch.number())).bind(int(after_line)).bind(limit).fetch_all(conn).await?;
    whole_page(derive, records, limit)
}

const INPUTS: &str = "\
select line, input from rows
where batch = ?1 and line > ?2
order by line
limit ?3";

async fn inputs(
    conn: &mut SqliteConnection,
    batch: BatchId,
    after_line: u64,
    limit: u32,
) -> Result<Vec<(u64, Box<str>)>, Trouble> {
    let records: Vec<(i64, String)> =
        sqlx::query_as(INPUTS).bind(int(batch.number())).bind(int(after_line)).bind(limit).fetch_all(conn).await?;
    records.into_iter().map(|(line, input)| Ok((natural(line)?, input.into_boxed_str()))).collect()
}

#[derive(sqlx::FromRow)]
struct StoryRecord {
    at: i64,
    kind: String,
    generation: i64,
    token: i64,
    lease: i64,
    worker: Option<String>,
    judge: Option<i64>,
    detail: Option<String>,
    run_us: Option<i64>,
}

const STORY: &str = "\
select a.at, a.kind, a.generation, a.token, a.lease, w.worker, a.judge, a.detail, a.run_us
from (
    select * from attempts where batch = ?1 and first_line = ?2
    union all
    select * from attempts indexed by attempts_ranges
    where batch = ?1 and first_line < ?2 and last_line >= ?2 and last_line > first_line
) as a
left join leases w on w.lease = a.lease
order by a.at, a.attempt";

const SPANS_AROUND: &str = "\
select s.token, s.lines, s.lease, w.worker, s.not_before, s.suspicion
from spans s left join leases w on w.lease = s.lease
where s.batch = ?1 and s.first_line <= ?2";

async fn story(
    conn: &mut SqliteConnection,
    now: StoreTime,
    batch: BatchId,
    line: u64,
) -> Result<Option<RowStory>, Trouble> {
    if line == 0 {
        return Ok(None);
    }
    let page = page(conn, batch, None, line - 1, 1).await?;
    let Some(row) = page.rows.into_iter().next().filter(|row| row.line == line) else { return Ok(None) };
    let (number, at) = (int(batch.number()), int(line));
    let records: Vec<StoryRecord> = sqlx::query_as(STORY).bind(number).bind(at).fetch_all(&mut *conn).await?;
    let entries = records.into_iter().map(story_entry).collect::<Result<_, _>>()?;
    let span = if row.outcome.is_none() { span_of(conn, batch, line).await? } else { None };
    Ok(Some(RowStory { now, row, entries, span }))
}

fn story_entry(record: StoryRecord) -> Result<StoryEntry, Trouble> {
    Ok(StoryEntry {
        at: StoreTime(record.at),
        kind: record.kind,
        generation: small(record.generation)?,
        token: Token(natural(record.token)?),
        lease: lease_id(record.lease)?,
        worker: record.worker,
        judge: record.judge.map(lease_id).transpose()?,
        detail: record.detail,
        run_time: record.run_us.map(natural).transpose()?.map(Duration::from_micros),
    })
}

type SpanAround = (i64, String, Option<i64>, Option<String>, Option<i64>, i64);

async fn span_of(conn: &mut SqliteConnection, batch: BatchId, line: u64) -> Result<Option<SpanView>, Trouble> {
    let records: Vec<SpanAround> =
        sqlx::query_as(SPANS_AROUND).bind(int(batch.number())).bind(int(line)).fetch_all(conn).await?;
    for (token, lines, lease, worker, not_before, suspicion) in records {
        if lines_from_json(&lines)?.contains(line) {
            return Ok(Some(SpanView {
                token: Token(natural(token)?),
                lease: lease.map(lease_id).transpose()?,
                worker,
                not_before: not_before.map(StoreTime),
                suspicion: small(suspicion)?,
            }));
        }
    }
    Ok(None)
}
