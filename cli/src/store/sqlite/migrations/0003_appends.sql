-- Version 3. S3: an append's rows lie beyond the batch's total until one transaction moves it. No program wrote to the table
-- before.
drop table appends;
create table appends (
    append      integer primary key,                 -- 60 random bits, chosen by whoever appends
    batch       integer not null,
    key         text,
    digest      text,                                -- of the content, once it is done
    first_line  integer not null,
    line_count  integer not null default 0,          -- rows stored so far
    status      text    not null check (status in ('loading', 'removing', 'done')),
    created_at  integer not null,
    moved_at    integer not null,                    -- when rows were last stored
    unique (batch, key)
) strict;
-- One at a time: lines are given out once.
create unique index appends_unfinished on appends (batch) where status <> 'done';

-- S5: attempts and crashes count from the row's last operator's retry on (p1_counts). (In the log, `superseded` has one line per
-- entry; lease 0's tally may be below zero, since it takes off what retries take away: the sum never is.)
drop view row_status;
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
left join spans s on o.line is null and s.batch = r.batch and s.lease is not null and exists (
    select 1 from json_each(s.lines) l
    where r.line between json_extract(l.value, '$[0]') and json_extract(l.value, '$[1]')
)
left join leases w on w.lease = coalesce(o.lease, s.lease);
