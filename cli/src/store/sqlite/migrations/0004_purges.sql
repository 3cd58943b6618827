-- Version 4. S6: a batch that is being purged has left `batches`, so that nobody sees it, claims of it or writes to it. What else it
-- had goes in slices; this record goes with the last one.
create table purges (
    batch      integer primary key,
    line_count integer not null,                     -- how many rows it had
    last_line  integer not null,                     -- with the rows that an append left beyond its total
    gone_to    integer not null default 0,           -- the lines up to this one are gone
    began_at   integer not null
) strict;
