-- fencepost's store on Postgres, version 1. docs/protocol.md section 2 says why it looks like this.
--
-- All of it lives in a schema of its own, which is first in the search path while this runs. The tables and columns are
-- those of the embedded store. Times are microseconds since 1970 by the database's clock; ids are numbers, with their text
-- form beside them where people look. Inputs and results are JSON kept as text, exactly as they came.

-- One record: what this store is.
create table store (
    one                 integer primary key check (one = 1),
    store_id            text    not null,            -- this store's own id: prefixes every Redis key
    schema_version      integer not null,            -- version of these tables and functions
    worker_version_min  integer not null             -- oldest program that may still work on them
);

-- T3. Drawn by statements that hold the lock on what the token is for. A cache above 1 would hand tokens out of order.
create sequence tokens as bigint cache 1;

create table batches (
    batch         bigint  primary key,               -- 40 random bits
    id            text    not null collate "C" unique, -- the same, as people type it
    key           text,                              -- bound when loading ends (S4)
    digest        text,                              -- of the content, bound with the key
    operation     text    not null,                  -- names the handler; what runs is decided by the worker
    status        text    not null check (status in ('loading', 'open', 'success', 'failed', 'aborted')),
    held          boolean not null default false,    -- S3: stops claims, not running rows and not the end
    priority      integer not null default 0,        -- higher first
    total         bigint  not null default 0,        -- lines 1..total are the batch's (loading: are there so far); an append's lie beyond
    input_bytes_max bigint not null default 0,       -- no input of the batch is longer (C3)
    cursor        bigint  not null default 1,        -- the first line that was never claimed
    last_claim    bigint  not null default 0,        -- token of the last claim: fair turns (C3)
    generation    integer not null default 1,        -- S5: goes up when an operator's retry opens the batch again
    attempts_max  bigint  not null,
    crashes_max   bigint  not null,
    timeout_ms    bigint  not null,
    header        text,                              -- JSON array: the input's columns, where it had a header
    source        text,                              -- the input's name, for people
    created_at    bigint  not null,
    loaded_at     bigint,
    ended_at      bigint,
    check (cursor between 1 and total + 1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create unique index batches_key on batches (key) where key is not null;
-- Neither cursor nor last_claim: a claim changes both, and would have to rewrite the index.
create index batches_open on batches (batch) where status = 'open';
create index batches_loading on batches (batch) where status = 'loading';

-- Written once, never updated.
create table rows (
    batch  bigint not null,
    line   bigint not null,                          -- 1-based place in the input
    input  text   not null,                          -- JSON
    primary key (batch, line)
);

-- Only appended. The primary key is the last line of defence for "one outcome".
create table outcomes (
    batch        bigint  not null,
    line         bigint  not null,
    status       text    not null check (status in ('success', 'failed')),
    result       text,                               -- JSON, of a success
    error        text,                               -- of a failure
    token        bigint  not null,
    lease        bigint  not null,
    attempts     integer not null,                   -- attempts used, this one included
    crashes      integer not null,
    generation   integer not null,
    run_us       bigint  not null,                   -- how long the run took, on the worker's clock
    recorded_at  bigint  not null,
    primary key (batch, line)
);
create index outcomes_failed on outcomes (batch, line) where status = 'failed';

-- The only thing that changes hands: a set of lines of one batch, always exactly those still open. A change of hands
-- replaces the record under a new token; a finished span is gone.
create table spans (
    token         bigint         primary key,
    batch         bigint         not null,
    lines         int8multirange not null,
    line_count    bigint         not null,
    first_line    bigint         not null,           -- when it began; lines may have left it since, so that no index moves
    lease         bigint,                            -- null: free
    claim_number  bigint,                            -- C2: which claim of the lease took it
    not_before    bigint,                            -- of a free span: backoff
    suspicion     integer        not null default 0, -- P2: in how many deaths these lines were
    alone         boolean        not null default false, -- P2: granted alone: a death counts as the line's crash
    tried         boolean        not null default false, -- the log may have attempts or crashes of these lines
    from_lease    bigint,                            -- of a span that was given back: by whom
    check (line_count > 0 and not isempty(lines)),
    check ((lease is null) = (claim_number is null)),
    check (not alone or (lease is not null and line_count = 1))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- What a record of outcomes changes, lines and line_count, is in none of these: it rewrites no index.
create index spans_free on spans (batch, first_line) where lease is null;
-- Those that are due come first, so that a claim does not pass by the others.
create index spans_due on spans (batch, (coalesce(not_before, 0))) where lease is null;
create index spans_not_before on spans (not_before) where lease is null and not_before is not null;
create index spans_suspect on spans (batch, first_line) where suspicion > 0;
create index spans_held on spans (lease) where lease is not null;
create index spans_held_of_batch on spans (batch) where lease is not null;
create index spans_alone on spans (lease) where alone;

create table leases (
    lease        bigint  primary key,                -- 60 random bits, chosen by the worker
    id           text    not null unique,            -- the same, as people see it
    worker       text    not null,                   -- a label
    stable_name  boolean not null,                   -- R5: a person chose the name
    ttl_ms       bigint  not null,
    renew_ms     bigint  not null,
    expires_at   bigint  not null,
    renewals     bigint  not null default 0,
    state        text    not null check (state in ('live', 'dead', 'taken_over', 'dropped')),
    machine      text,                               -- R1: boot id and process namespace
    pid          bigint,
    start_ticks  bigint,
    operations   text    not null,                   -- JSON array
    taken_at     bigint  not null,
    ended_at     bigint,
    ended_by     bigint                              -- lease of the judge, where one ended it
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- Nothing that a renewal changes.
create index leases_live on leases (lease) where state = 'live';
create unique index leases_stable_name on leases (worker) where state = 'live' and stable_name;

-- Apart from leases, so that a claim and a renewal never write the same record (C1, C2).
create table lease_claims (
    lease   bigint primary key,
    number  bigint not null                          -- largest claim number that happened or was closed
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Append-only: what is in a row's story besides its outcome. Kinds that count per line (retried, timed_out, crashed,
-- crash_withdrawn, fenced, superseded) have one line each; the others may cover a range.
create table attempts (
    attempt     bigint  generated always as identity primary key,
    batch       bigint  not null,
    generation  integer not null,
    first_line  bigint  not null,
    last_line   bigint  not null,
    token       bigint  not null,                    -- under which the lines were held
    kind        text    not null check (kind in (
                    'retried', 'timed_out', 'crashed', 'crash_withdrawn', 'fenced',
                    'recovered', 'given_back', 'superseded')),
    lease       bigint  not null,                    -- that held them
    judge       bigint,                              -- lease of the judge that recovered them
    detail      text,                                -- the error, the dropped answer, the cause
    run_us      bigint,
    at          bigint  not null,
    check (first_line = last_line or kind in ('recovered', 'given_back'))
);
create unique index attempts_once on attempts (batch, first_line, token, kind);
create index attempts_ranges on attempts (batch, first_line) where last_line > first_line;
create index attempts_crashed on attempts (lease) where kind = 'crashed';
create index attempts_deaths on attempts (batch, kind) where kind in ('crashed', 'crash_withdrawn', 'recovered');

-- Exact counts: written in the outcome's own transaction, each record by its one lease. Lease 0 is a judge without a lease, and
-- operators' retries, which take off what they take away; it may be below zero, the sum never is.
create table tallies (
    batch      bigint not null,
    lease      bigint not null,
    success    bigint not null default 0,
    failed     bigint not null default 0,
    retried    bigint not null default 0,
    timed_out  bigint not null default 0,
    fenced     bigint not null default 0,
    primary key (batch, lease)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- S3: an append's rows lie beyond the batch's total until one transaction moves it.
create table appends (
    append      bigint primary key,                  -- 60 random bits, chosen by whoever appends
    batch       bigint not null,
    key         text,
    digest      text,                                -- of the content, once it is done
    first_line  bigint not null,
    line_count  bigint not null default 0,           -- rows stored so far
    input_bytes_max bigint not null default 0,       -- no input among them is longer
    status      text   not null check (status in ('loading', 'removing', 'done')),
    created_at  bigint not null,
    moved_at    bigint not null,                     -- when rows were last stored
    unique (batch, key)
) with (fillfactor = 50);
-- One at a time: lines are given out once. Nothing that a slice changes.
create unique index appends_unfinished on appends (batch) where status <> 'done';

-- S7: one record per end of a generation; claimed, leased, fenced and retried like a row.
create table completions (
    batch         bigint  not null,
    generation    integer not null,
    status        text    not null,                  -- the batch's final status
    success       bigint  not null,
    failed        bigint  not null,
    aborted       bigint  not null,
    url           text,
    token         bigint,
    lease         bigint,
    not_before    bigint,
    attempts      integer not null default 0,
    error         text,
    delivered_at  bigint,
    ended_at      bigint  not null,
    primary key (batch, generation)
);

-- A row's status is derived, never stored. Attempts and crashes count from the row's last operator's retry on (p1_counts).
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
        where a.batch = r.batch and a.first_line = r.line and a.kind in ('retried', 'timed_out')
          and a.token > coalesce((
              select max(u.token) from attempts u
              where u.batch = r.batch and u.first_line = r.line and u.kind = 'superseded'
          ), 0)
    )) as attempts,
    coalesce(o.crashes, (
        select sum(case a.kind when 'crashed' then 1 else -1 end) from attempts a
        where a.batch = r.batch and a.first_line = r.line and a.kind in ('crashed', 'crash_withdrawn')
          and a.token > coalesce((
              select max(u.token) from attempts u
              where u.batch = r.batch and u.first_line = r.line and u.kind = 'superseded'
          ), 0)
    ), 0) as crashes,
    o.result,
    o.error,
    r.input
from rows r
join batches b on b.batch = r.batch and b.status <> 'loading' and r.line <= b.total
left join outcomes o on o.batch = r.batch and o.line = r.line
left join spans s on o.line is null and s.batch = r.batch and s.lease is not null and s.lines @> r.line
left join leases w on w.lease = coalesce(o.lease, s.lease);
