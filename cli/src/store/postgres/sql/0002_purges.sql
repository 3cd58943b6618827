-- Version 2. S6: a batch that is being purged has left `batches`, so that nobody sees it, claims of it or writes to it. What else it
-- had goes in slices; this record goes with the last one.
create table purges (
    batch      bigint primary key,
    line_count bigint not null,                      -- how many rows it had
    last_line  bigint not null,                      -- with the rows that an append left beyond its total
    gone_to    bigint not null default 0,            -- the lines up to this one are gone
    began_at   bigint not null
) with (fillfactor = 50);
