-- Version 3. S2: what was held when its batch was aborted, as far as its end was not told since: it may still run. The fence does not ask.
create table stopping (
    token         bigint         primary key,        -- of the span that held the lines
    batch         bigint         not null,
    lease         bigint         not null,
    claim_number  bigint         not null,
    lines         int8multirange not null,
    line_count    bigint         not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- Nothing that a give-back changes.
create index stopping_batch on stopping (batch);
create index stopping_lease on stopping (lease, claim_number);
