-- Version 5. S2: what was held when its batch was aborted, as far as its end was not told since: it may still run. The fence does not ask.
create table stopping (
    token         integer primary key,               -- of the span that held the lines
    batch         integer not null,
    lease         integer not null,
    claim_number  integer not null,
    lines         text    not null,                  -- JSON [[first,last],...]
    line_count    integer not null,
    check (line_count > 0)
) strict;
create index stopping_batch on stopping (batch);
create index stopping_lease on stopping (lease, claim_number);
