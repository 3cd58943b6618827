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
