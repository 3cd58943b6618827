-- fencepost's store, version 1. docs/protocol.md section 2 says why it looks like this.
-- Times are microseconds since 1970 by this machine's clock; ids are numbers, with their text form beside them where
-- people look. Inputs, results and lines are JSON text.

-- One record: what this store is, and the counters that are drawn under the write lock.
create table store (
    one                  integer primary key check (one = 1),
    store_id             text    not null,           -- this store's own id: prefixes every Redis key
    schema_version       integer not null,           -- version of these tables
    worker_version_min   integer not null,           -- oldest program that may still work on them
    last_token           integer not null            -- T3: the last token drawn
) strict;

create table batches (
    batch          integer primary key,              -- 40 random bits
    id             text    not null unique,          -- the same, as people type it
    key            text,                             -- bound when loading ends (S4)
    digest         text,                             -- of the content, bound with the key
    operation      text    not null,                 -- names the handler; what runs is decided by the worker
    status         text    not null check (status in ('loading', 'open', 'success', 'failed', 'aborted')),
    held           integer not null default 0,       -- S3: 1 stops claims, not running rows and not the end
    priority       integer not null default 0,       -- higher first
    total          integer not null default 0,       -- lines 1..total are the batch's (loading: are there so far); staged lines lie beyond
    cursor         integer not null default 1,       -- the first line that was never claimed
    last_claim     integer not null default 0,       -- token of the last claim: fair turns (C3)
    generation     integer not null default 1,       -- S5: goes up when an operator's retry opens the batch again
    attempts_max   integer not null,
    crashes_max    integer not null,
    timeout_ms     integer not null,
    header         text,                             -- JSON array: the input's columns, where it had a header
    source         text,                             -- the input's name, for people
    created_at     integer not null,
    loaded_at      integer,
    ended_at       integer,
    check (cursor between 1 and total + 1)
) strict;
create unique index batches_key on batches (key) where key is not null;
create index batches_open on batches (priority desc, last_claim) where status = 'open';

-- Written once, never updated.
create table rows (
    batch  integer not null,
    line   integer not null,                         -- 1-based place in the input
    input  text    not null,                         -- JSON
    primary key (batch, line)
) strict, without rowid;

-- Only appended. The primary key is the last line of defence for "one outcome".
create table outcomes (
    batch        integer not null,
    line         integer not null,
    status       text    not null check (status in ('success', 'failed')),
    result       text,                               -- JSON, of a success
    error        text,                               -- of a failure
    token        integer not null,
    lease        integer not null,
    attempts     integer not null,                   -- attempts used, this one included
    crashes      integer not null,
    generation   integer not null,
    run_us       integer not null,                   -- how long the run took, on the worker's clock
    recorded_at  integer not null,
    primary key (batch, line)
) strict, without rowid;
create index outcomes_failed on outcomes (batch, line) where status = 'failed';

-- The only thing that changes hands: a set of lines of one batch, always exactly those still open. A change of hands
-- replaces the record under a new token; a finished span is gone.
create table spans (
    token         integer primary key,
    batch         integer not null,
    lines         text    not null,                  -- JSON [[first,last],...]
    line_count    integer not null,
    first_line    integer not null,
    lease         integer,                           -- null: free
    claim_number  integer,                           -- C2: which claim of the lease took it
    not_before    integer,                           -- of a free span: backoff
    suspicion     integer not null default 0,        -- P2: in how many deaths these lines were
    alone         integer not null default 0,        -- P2: granted alone: a death counts as the line's crash
    tried         integer not null default 0,        -- the log may have attempts or crashes of these lines
    from_lease    integer,                           -- of a span that was given back: by whom
    check (line_count > 0),
    check ((lease is null) = (claim_number is null)),
    check (alone = 0 or (lease is not null and line_count = 1))
) strict;
-- The columns behind first_line let a claim pass over spans that are not due without fetching them.
create index spans_free on spans (batch, first_line, not_before, suspicion, line_count) where lease is null;
create index spans_waiting on spans (not_before, batch) where lease is null and not_before is not null;
create index spans_suspect on spans (batch, line_count, first_line) where suspicion > 0;
create index spans_held on spans (lease) where lease is not null;
create index spans_batch on spans (batch);

create table leases (
    lease        integer primary key,                -- 60 random bits, chosen by the worker
    id           text    not null unique,            -- the same, as people see it
    worker       text    not null,                   -- a label
    stable_name  integer not null,                   -- R5: 1 if a person chose the name
    ttl_ms       integer not null,
    renew_ms     integer not null,
    expires_at   integer not null,
    renewals     integer not null default 0,
    state        text    not null check (state in ('live', 'dead', 'taken_over', 'dropped')),
    machine      text,                               -- R1: boot id and process namespace
    pid          integer,
    start_ticks  integer,
    operations   text    not null,                   -- JSON array
    taken_at     integer not null,
    ended_at     integer,
    ended_by     integer                             -- lease of the judge, where one ended it
) strict;
create index leases_live on leases (worker) where state = 'live';
create unique index leases_stable_name on leases (worker) where state = 'live' and stable_name = 1;

-- Apart from leases, so that a claim and a renewal never write the same record (C1, C2).
create table lease_claims (
    lease   integer primary key,
    number  integer not null                         -- largest claim number that happened or was closed
) strict;

-- Append-only: what is in a row's story besides its outcome. Kinds that count per line (retried, timed_out, crashed,
-- crash_withdrawn, fenced) have one line each; the others may cover a range.
create table attempts (
    attempt     integer primary key,
    batch       integer not null,
    generation  integer not null,
    first_line  integer not null,
    last_line   integer not null,
    token       integer not null,                    -- under which the lines were held
    kind        text    not null check (kind in (
                    'retried', 'timed_out', 'crashed', 'crash_withdrawn', 'fenced',
                    'recovered', 'given_back', 'superseded')),
    lease       integer not null,                    -- that held them
    judge       integer,                             -- lease of the judge that recovered them
    detail      text,                                -- the error, the dropped answer, the cause
    run_us      integer,
    at          integer not null,
    check (first_line = last_line or kind in ('recovered', 'given_back'))
) strict;
create unique index attempts_once on attempts (batch, first_line, token, kind);
create index attempts_ranges on attempts (batch, first_line) where last_line > first_line;
create index attempts_crashed on attempts (lease) where kind = 'crashed';
create index attempts_deaths on attempts (batch, kind) where kind in ('crashed', 'crash_withdrawn', 'recovered');

-- Exact counts: written in the outcome's own transaction, each record by its one lease.
create table tallies (
    batch      integer not null,
    lease      integer not null,
    success    integer not null default 0,
    failed     integer not null default 0,
    retried    integer not null default 0,
    timed_out  integer not null default 0,
    fenced     integer not null default 0,
    primary key (batch, lease)
) strict, without rowid;

-- S3: an append's rows lie beyond the batch's total until one transaction moves it.
create table appends (
    append      integer primary key,
    batch       integer not null,
    key         text    not null,
    digest      text,
    first_line  integer,
    line_count  integer not null default 0,
    status      text    not null check (status in ('loading', 'done', 'refused')),
    created_at  integer not null,
    unique (batch, key)
) strict;

-- S7: one record per end of a generation; claimed, leased, fenced and retried like a row.
create table completions (
    batch         integer not null,
    generation    integer not null,
    status        text    not null,                  -- the batch's final status
    success       integer not null,
    failed        integer not null,
    aborted       integer not null,
    url           text,
    token         integer,
    lease         integer,
    not_before    integer,
    attempts      integer not null default 0,
    error         text,
    delivered_at  integer,
    ended_at      integer not null,
    primary key (batch, generation)
) strict, without rowid;

-- A row's status is derived, never stored.
create view row_status as
select
    b.id as batch,
    r.line,
    case
        when o.line is not null then o.status
        when b.status = 'aborted' then 'aborted'
        when s.token is not null then 'inprog'
        else 'queued'
    end as status,
    w.worker,
    coalesce(o.token, s.token) as token,
    coalesce(o.attempts, (
        select count(*) from attempts a
        where a.batch = r.batch and a.first_line = r.line and a.generation = b.generation
          and a.kind in ('retried', 'timed_out')
    )) as attempts,
    coalesce(o.crashes, (
        select sum(case a.kind when 'crashed' then 1 else -1 end) from attempts a
        where a.batch = r.batch and a.first_line = r.line and a.generation = b.generation
          and a.kind in ('crashed', 'crash_withdrawn')
    ), 0) as crashes,
    o.result,
    o.error,
    r.input
from rows r
join batches b on b.batch = r.batch and b.status <> 'loading' and r.line <= b.total
left join outcomes o on o.batch = r.batch and o.line = r.line
left join spans s on o.line is null and s.batch = r.batch and s.lease is not null and exists (
    select 1 from json_each(s.lines) l
    where r.line between json_extract(l.value, '$[0]') and json_extract(l.value, '$[1]')
)
left join leases w on w.lease = coalesce(o.lease, s.lease);
